//! Time that never runs backwards and does not believe every jump. In: the wall clock, a monotonic clock, the latest time
//! the store knows. Out: the seconds that deadlines are measured by, and those that may be saved.
//!
//! A wall clock set back gives nobody more time, not even across a restart: time goes on from the highest value that
//! was saved, with the monotonic clock. A wall clock that jumps forward by more than an hour is not followed, and not
//! saved, until that has lasted ten minutes: one wrong reading ends nobody's keys, and gives nobody longer ones.

/// A difference to the monotonic clock up to this is followed at once: drift, and a summer time set by hand.
pub const MAX_CLOCK_STEP: u64 = 3_600;

/// A greater one is believed when it has lasted so long: a wrong answer of a time server is mended by then.
pub const STEP_ACCEPTED_AFTER: u64 = 600;

/// The clock of one process. All values are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The time that deadlines are measured by.
    now: u64,
    /// The latest time that is beyond doubt.
    floor: u64,
    mono: u64,
    /// Since when, by the monotonic clock, the wall clock has been ahead of that by more than [`MAX_CLOCK_STEP`].
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
        let doubtful = saved > 0 && wall > saved.saturating_add(MAX_CLOCK_STEP);
        let floor = if doubtful { saved } else { wall.max(saved) };
        Clock { now: wall.max(saved), floor, mono, ahead_since: doubtful.then_some(mono) }
    }

    /// The time now, seconds since the Unix epoch.
    pub fn tick(&mut self, wall: u64, mono: u64) -> u64 {
        let passed = mono.saturating_sub(self.mono);
        self.mono = self.mono.max(mono);
        self.now = self.now.saturating_add(passed);
        self.floor = self.floor.saturating_add(passed);
        if wall > self.floor.saturating_add(MAX_CLOCK_STEP) {
            let since = *self.ahead_since.get_or_insert(self.mono);
            if self.mono - since >= STEP_ACCEPTED_AFTER {
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
        let by = wall.checked_sub(self.floor).filter(|by| *by > MAX_CLOCK_STEP)?;
        Some(Jump { by, believed_in: STEP_ACCEPTED_AFTER.saturating_sub(self.mono - since) })
    }

    /// A person says that the wall clock is right: time goes on from it, and so does the next start. The one way back.
    pub fn reset(&mut self, wall: u64) {
        (self.now, self.floor, self.ahead_since) = (wall, wall, None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(c.jump(1_000 + DAYS), Some(Jump { by: DAYS - 3, believed_in: STEP_ACCEPTED_AFTER }));
        // Three seconds of a wrong clock.
        assert_eq!(c.tick(1_006, 6), 1_006);
        assert_eq!((c.jump(1_006), c.floor()), (None, 1_006));
        // And one that was set right by it.
        assert_eq!(c.tick(DAYS, 10), 1_010);
        assert_eq!(c.tick(DAYS + STEP_ACCEPTED_AFTER - 1, 9 + STEP_ACCEPTED_AFTER), 1_009 + STEP_ACCEPTED_AFTER);
        assert_eq!(c.tick(DAYS + STEP_ACCEPTED_AFTER, 10 + STEP_ACCEPTED_AFTER), DAYS + STEP_ACCEPTED_AFTER);
        assert_eq!(c.floor(), DAYS + STEP_ACCEPTED_AFTER);
    }

    #[test]
    fn a_start_long_after_the_last_counts_at_once_and_is_saved_when_it_has_lasted() {
        let mut c = Clock::new(90_000, 1_000, 0);
        assert_eq!((c.tick(90_001, 1), c.floor()), (90_001, 1_001));
        // The clock was wrong at boot: nothing of it is left at the next start.
        assert_eq!((c.tick(1_002, 2), c.floor()), (90_002, 1_002));
        let mut c = Clock::new(90_000, 1_000, 0);
        c.tick(90_000 + STEP_ACCEPTED_AFTER, STEP_ACCEPTED_AFTER);
        assert_eq!(c.floor(), 90_000 + STEP_ACCEPTED_AFTER);
    }

    #[test]
    fn a_reset_is_what_counts_and_what_the_next_start_knows() {
        let mut c = Clock::new(2_000_000, 2_000_000, 0);
        c.reset(1_000);
        assert_eq!((c.tick(1_001, 1), c.floor()), (1_001, 1_001));
        assert_eq!(Clock::new(1_002, c.floor(), 0).tick(1_002, 0), 1_002);
    }

    /// What a machine does to its clock: so many seconds pass, and the wall clock is this much off meanwhile.
    fn hands() -> impl Strategy<Value = Vec<(u64, i64)>> {
        let off = prop_oneof![Just(0), -10_000i64..10_000, -2_000_000i64..2_000_000];
        proptest::collection::vec((0..400u64, off), 1..60)
    }

    const START: u64 = 1_800_000_000;

    fn at(mono: u64, off: i64) -> u64 {
        (START + mono).saturating_add_signed(off)
    }

    proptest! {
        /// The reference: what was shown when, without a state machine.
        #[test]
        fn time_runs_forwards_and_a_jump_counts_when_it_has_lasted(saved_off in -2_000_000i64..2_000_000, hands in hands()) {
            let mut c = Clock::new(START, at(0, saved_off), 0);
            let (mut mono, mut before, mut floor) = (0, c.now, c.floor);
            // Since when every look has found the wall clock more than an hour over the floor.
            let mut ahead: Option<u64> = (START > floor + MAX_CLOCK_STEP).then_some(0);
            for (passed, off) in hands {
                mono += passed;
                let wall = at(mono, off);
                let now = c.tick(wall, mono);
                prop_assert!(now >= before + passed, "time ran backwards or stood still");
                let doubtful = wall > floor + passed + MAX_CLOCK_STEP;
                ahead = doubtful.then(|| ahead.unwrap_or(mono));
                let lasted = ahead.is_some_and(|since| mono - since >= STEP_ACCEPTED_AFTER);
                if doubtful && !lasted {
                    prop_assert_eq!((now, c.floor()), (before + passed, floor + passed), "a jump was followed at once");
                    prop_assert!(c.jump(wall).is_some());
                } else {
                    prop_assert_eq!(c.floor(), wall.max(floor + passed));
                    prop_assert_eq!(c.jump(wall), None);
                    ahead = None;
                }
                (before, floor) = (now, c.floor());
            }
        }

        #[test]
        fn a_reset_goes_to_the_wall_clock_whatever_was_before(hands in hands(), off in -2_000_000i64..2_000_000) {
            let mut c = Clock::new(START, 0, 0);
            let mut mono = 0;
            for (passed, off) in hands {
                mono += passed;
                c.tick(at(mono, off), mono);
            }
            let wall = at(mono, off);
            c.reset(wall);
            prop_assert_eq!((c.floor(), c.jump(wall), c.ahead_of(wall)), (wall, None, 0));
            prop_assert_eq!(c.tick(wall + 1, mono + 1), wall + 1);
            prop_assert_eq!(Clock::new(wall + 1, c.floor(), 0).tick(wall + 2, 1), wall + 2);
        }
    }
}
