//! How many lines a minute strangers may cause in the log. In: something worth a line. Out: whether to write it, and how
//! many were held back since the last one.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines for each minute: enough to see what happens, too few to fill a disk.
const LINES: u32 = 20;

/// A budget for one kind of line.
#[derive(Debug, Default)]
pub(super) struct LogBudget(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    written: u32,
    held_back: u64,
}

impl LogBudget {
    /// The number of lines held back before this one, or nothing if this one is to be held back too.
    pub(super) fn spend(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(60)) {
            (state.since, state.written) = (Some(now), 0);
        }
        if state.written == LINES {
            state.held_back += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_held_back_and_counted() {
        let budget = LogBudget::default();
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| budget.spend(start).is_some()).count(), LINES as usize);
        assert_eq!(budget.spend(start + Duration::from_secs(59)), None);
        assert_eq!(budget.spend(start + Duration::from_secs(60)), Some(81));
        assert_eq!(budget.spend(start + Duration::from_secs(60)), Some(0));
    }
}
