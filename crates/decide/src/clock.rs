//! Time that never runs backwards and does not believe every jump. In: the wall clock, a monotonic clock, the latest time
//! the store knows. Out: the seconds that deadlines are measured by, and those that may be saved.
//!
//! A wall clock set back gives nobody more time, not even across a restart: time goes on from the highest value that
//! was saved, with the monotonic clock. A wall clock that jumps forward by more than an hour is not followed, and not
//! saved, until that has lasted ten minutes: one wrong reading ends nobody's keys, and gives nobody longer ones.

/// A difference to the monotonic clock up to this is followed at once: drift, and a summer time set by hand.
pub const JUMP: u64 = 3_600;

/// A greater one is believed when it has lasted so long: a wrong answer of a time server is mended by then.
pub const LASTS: u64 = 600;

/// The clock of one process. All values are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The time that deadlines are measured by.
    now: u64,
    /// The latest time that is beyond doubt.
    floor: u64,
    mono: u64,
    /// Since when, by the monotonic clock, the wall clock has been ahead of that by more than [`JUMP`].
    ahead_since: Option<u64>,
}

/// A jump that is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// By how much the wall clock is ahead.
    pub by: u64,
    /// In how many seconds it is believed if it lasts.
    pub believed_in: u64,
}

impl Clock {
    /// A clock that starts at the wall clock or at the highest time ever saved, whichever is later; `saved` is 0 at
    /// the first start. `mono`: seconds of a clock that only runs forwards. How long the machine was off is not known,
    /// so the wall clock counts at once, but more than an hour over the saved time it is not saved before it has lasted.
    #[must_use]
    pub fn new(wall: u64, saved: u64, mono: u64) -> Clock {
        let doubtful = saved > 0 && wall > saved.saturating_add(JUMP);
        let floor = if doubtful { saved } else { wall.max(saved) };
        Clock { now: wall.max(saved), floor, mono, ahead_since: doubtful.then_some(mono) }
    }

    /// The time now, seconds since the Unix epoch.
    pub fn tick(&mut self, wall: u64, mono: u64) -> u64 {
        let passed = mono.saturating_sub(self.mono);
        self.mono = self.mono.max(mono);
        self.now = self.now.saturating_add(passed);
        self.floor = self.floor.saturating_add(passed);
        if wall > self.floor.saturating_add(JUMP) {
            let since = *self.ahead_since.get_or_insert(self.mono);
            if self.mono - since >= LASTS {
                self.floor = wall;
                self.ahead_since = None;
            }
        } else {
            self.floor = self.floor.max(wall);
            self.ahead_since = None;
        }
        self.now = self.now.max(self.floor);
        self.now
    }

    /// What may be saved for the next start.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Seconds by which the wall clock is behind.
    #[must_use]
    pub fn ahead_of(&self, wall: u64) -> u64 {
        self.now.saturating_sub(wall)
    }

    /// The jump of the wall clock that is not believed yet.
    #[must_use]
    pub fn jump(&self, wall: u64) -> Option<Jump> {
        let since = self.ahead_since?;
        let by = wall.checked_sub(self.floor).filter(|by| *by > JUMP)?;
        Some(Jump { by, believed_in: LASTS.saturating_sub(self.mono - since) })
    }

    /// A person says that the wall clock is right now: it is what will be saved. Time in this process does not go back.
    pub fn reset(&mut self, wall: u64) {
        self.floor = wall;
        self.ahead_since = None;
        self.now = self.now.max(wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_gives_no_time_and_does_not_stand_still() {
        let mut c = Clock::new(1_000, 0, 5);
        assert_eq!(c.tick(1_010, 15), 1_010);
        assert_eq!(c.tick(10, 20), 1_015);
        assert_eq!(c.tick(20, 30), 1_025);
        assert_eq!(c.ahead_of(20), 1_005);
        assert_eq!(c.tick(4_000, 31), 4_000);
        assert_eq!(c.floor(), 4_000);
    }

    #[test]
    fn a_restart_with_an_earlier_clock_goes_on_from_the_saved_time() {
        let mut c = Clock::new(10, 1_000, 0);
        assert_eq!(c.tick(11, 1), 1_001);
    }

    #[test]
    fn a_jump_is_followed_and_saved_when_it_has_lasted() {
        const DAYS: u64 = 400 * 86_400;
        let mut c = Clock::new(1_000, 900, 0);
        assert_eq!(c.tick(1_000 + DAYS, 3), 1_003);
        assert_eq!(c.jump(1_000 + DAYS), Some(Jump { by: DAYS - 3, believed_in: LASTS }));
        // Three seconds of a wrong clock.
        assert_eq!(c.tick(1_006, 6), 1_006);
        assert_eq!((c.jump(1_006), c.floor()), (None, 1_006));
        // And one that was set right by it.
        assert_eq!(c.tick(DAYS, 10), 1_010);
        assert_eq!(c.tick(DAYS + LASTS - 1, 9 + LASTS), 1_009 + LASTS);
        assert_eq!(c.tick(DAYS + LASTS, 10 + LASTS), DAYS + LASTS);
        assert_eq!(c.floor(), DAYS + LASTS);
    }

    #[test]
    fn a_start_long_after_the_last_counts_at_once_and_is_saved_when_it_has_lasted() {
        let mut c = Clock::new(90_000, 1_000, 0);
        assert_eq!((c.tick(90_001, 1), c.floor()), (90_001, 1_001));
        // The clock was wrong at boot: nothing of it is left at the next start.
        assert_eq!((c.tick(1_002, 2), c.floor()), (90_002, 1_002));
        let mut c = Clock::new(90_000, 1_000, 0);
        c.tick(90_000 + LASTS, LASTS);
        assert_eq!(c.floor(), 90_000 + LASTS);
    }

    #[test]
    fn a_reset_is_what_the_next_start_knows() {
        let mut c = Clock::new(2_000_000, 2_000_000, 0);
        c.reset(1_000);
        assert_eq!((c.tick(1_001, 1), c.floor()), (2_000_001, 1_001));
        assert_eq!(Clock::new(1_002, c.floor(), 0).tick(1_002, 0), 1_002);
    }
}
