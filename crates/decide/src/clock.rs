//! Time that never runs backwards. In: the wall clock, a monotonic clock, the latest time the store knows. Out: the
//! seconds that deadlines are measured by.
//!
//! A wall clock set back gives nobody more time, not even across a restart: time goes on from the highest value seen,
//! with the monotonic clock. A wall clock set forward ends grants early, which closes doors and opens none.

/// The clock of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    high: u64,
    mono: u64,
}

impl Clock {
    /// A clock that starts at the wall clock or at the highest time ever saved, whichever is later. `mono`: seconds of
    /// a clock that only runs forwards.
    #[must_use]
    pub fn new(wall: u64, saved: u64, mono: u64) -> Clock {
        Clock { high: wall.max(saved), mono }
    }

    /// The time now, seconds since the Unix epoch.
    pub fn tick(&mut self, wall: u64, mono: u64) -> u64 {
        self.high = wall.max(self.high.saturating_add(mono.saturating_sub(self.mono)));
        self.mono = self.mono.max(mono);
        self.high
    }

    /// Seconds by which the wall clock is behind.
    #[must_use]
    pub fn ahead_of(&self, wall: u64) -> u64 {
        self.high.saturating_sub(wall)
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
        assert_eq!(c.tick(5_000, 31), 5_000);
    }

    #[test]
    fn a_restart_with_an_earlier_clock_goes_on_from_the_saved_time() {
        let mut c = Clock::new(10, 1_000, 0);
        assert_eq!(c.tick(11, 1), 1_001);
    }
}
