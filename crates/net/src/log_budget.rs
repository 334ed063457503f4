//! How many lines untrusted peers may cause in the log. In: something worth a line. Out: whether to write it, and how many were
//! held back since the last one that was written.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines for each [`WINDOW`]: enough to see what happens, too few to fill a disk (20 lines of 200 bytes are 6 MB a day).
const LINES: u32 = 20;

/// The time for which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// A budget for one kind of line.
///
/// ```
/// # use net::log_budget::LogBudget;
/// # use std::time::Instant;
/// let refusals = LogBudget::default();
/// if let Some(held_back) = refusals.spend(Instant::now()) {
///     println!("refused; {held_back} lines alike were held back");
/// }
/// ```
#[derive(Debug)]
pub struct LogBudget {
    lines: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    written: u32,
    held_back: u64,
}

impl Default for LogBudget {
    fn default() -> LogBudget {
        LogBudget::of(LINES)
    }
}

impl LogBudget {
    /// So many lines a minute; 1 for a summary.
    #[must_use]
    pub const fn of(lines: u32) -> LogBudget {
        LogBudget { lines, state: Mutex::new(State { since: None, written: 0, held_back: 0 }) }
    }

    /// The number of lines held back before this one, or nothing if this one is to be held back too.
    pub fn spend(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (state.since, state.written) = (Some(now), 0);
        }
        if state.written >= self.lines {
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
        assert_eq!(budget.spend(start + WINDOW), Some(81));
        assert_eq!(budget.spend(start + WINDOW), Some(0));
    }

    #[test]
    fn a_summary_is_one_line_a_minute() {
        let budget = LogBudget::of(1);
        let start = Instant::now();
        assert_eq!(budget.spend(start), Some(0));
        assert_eq!((0..500).filter(|_| budget.spend(start).is_some()).count(), 0);
        assert_eq!(budget.spend(start + WINDOW), Some(500));
    }
}
