//! The dedicated connections of a session, as the edge sees them. In: connections that the client dialled, that came back
//! or were lost, the time. Out: an idle one for a stream, or the wish for another.

use std::time::{Duration, Instant};

/// Dedicated connections a client dials ahead of need.
pub const WARM: u32 = 2;

/// Dedicated connections of one session, busy and idle: each costs both ends a socket and TLS state. Further bulk
/// streams stay where they are.
pub const MAX: u32 = 64;

/// Idle connections kept when a burst is over.
const IDLE_KEEP: usize = 8;

/// One that was asked for and has not come by then will not come: a dial takes 15 s at the most.
const COMES_WITHIN: Duration = Duration::from_secs(20);

/// Connections asked for at the same time.
const ASKED_MAX: u32 = 8;

/// The pool; `L` is a connection.
#[derive(Debug)]
pub struct Pool<L> {
    idle: Vec<L>,
    /// Connections that live or were asked for.
    known: u32,
    /// Connections asked for that have not come.
    asked: u32,
    /// When the last one was asked for.
    asked_at: Instant,
    /// The session is over: none is wanted.
    is_over: bool,
}

impl<L> Pool<L> {
    /// The pool of a new session, whose client dials [`WARM`] of them by itself.
    #[must_use]
    pub fn new(now: Instant) -> Pool<L> {
        Pool { idle: Vec::new(), known: WARM, asked: WARM, asked_at: now, is_over: false }
    }

    /// A connection that the client dialled. Given back if there are too many, or the session is over.
    pub fn arrived(&mut self, link: L) -> Option<L> {
        if self.is_over {
            return Some(link);
        }
        if self.asked > 0 {
            self.asked -= 1;
        } else if self.known < MAX {
            // Dialled again after one was lost.
            self.known += 1;
        } else {
            return Some(link);
        }
        self.idle.push(link);
        None
    }

    /// An idle connection, for one who will [give it back](Pool::give_back) or say that it is [lost](Pool::lost).
    pub fn take(&mut self) -> Option<L> {
        self.idle.pop()
    }

    /// A taken connection that may serve another stream. Given back if the session is over.
    pub fn give_back(&mut self, link: L) -> Option<L> {
        if self.is_over {
            return Some(link);
        }
        self.idle.push(link);
        None
    }

    /// A taken connection that does not come back.
    pub fn lost(&mut self) {
        self.known = self.known.saturating_sub(1);
    }

    /// A stream found none idle. True if the client is to be asked for one more.
    #[must_use]
    pub fn asks(&mut self, now: Instant) -> bool {
        if self.asked >= ASKED_MAX || self.known >= MAX || self.is_over {
            return false;
        }
        self.known += 1;
        self.asked += 1;
        self.asked_at = now;
        true
    }

    /// Drops idle connections that are dead or that nobody needs any more, and forgets those that did not come. Call it
    /// every half minute.
    pub fn handle_timeout(&mut self, now: Instant, is_alive: impl FnMut(&mut L) -> bool) {
        let before = self.idle.len();
        self.idle.retain_mut(is_alive);
        self.idle.truncate(IDLE_KEEP);
        let dropped = (before - self.idle.len()) as u32;
        self.known = self.known.saturating_sub(dropped);
        if self.asked > 0 && now.saturating_duration_since(self.asked_at) > COMES_WITHIN {
            self.known = self.known.saturating_sub(self.asked);
            self.asked = 0;
        }
    }

    /// The session is over: idle connections go, none comes any more.
    pub fn end(&mut self) {
        self.is_over = true;
        self.idle.clear();
    }

    /// Idle connections now.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Connections that live or were asked for, and of these the ones that have not come.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        (self.known, self.asked)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant has no other beginning")]
mod tests {
    use super::super::a_moment;
    use super::*;

    #[test]
    fn what_was_asked_for_comes_and_goes_round() {
        let now = a_moment();
        let mut pool = Pool::new(now);
        assert_eq!((pool.arrived(1), pool.arrived(2), pool.counts()), (None, None, (WARM, 0)));
        assert!(pool.take().is_some() && pool.take().is_some() && pool.take().is_none());
        assert!(pool.asks(now));
        assert_eq!(pool.counts(), (WARM + 1, 1));
        assert_eq!(pool.arrived(3), None);
        assert_eq!(pool.give_back(1), None);
        pool.lost();
        assert_eq!((pool.idle(), pool.counts()), (2, (WARM, 0)));
    }

    #[test]
    fn no_more_than_the_limit_and_eight_at_a_time() {
        let now = a_moment();
        let mut pool = Pool::new(now);
        for _ in WARM..ASKED_MAX {
            assert!(pool.asks(now));
        }
        assert!(!pool.asks(now), "eight are on their way");
        for i in 0..MAX {
            assert_eq!(pool.arrived(i), None);
        }
        assert_eq!(pool.arrived(MAX), Some(MAX), "one too many");
        assert!(!pool.asks(now));
        pool.lost();
        assert!(pool.asks(now));
    }

    #[test]
    fn what_does_not_come_is_forgotten_and_a_late_one_still_counts() {
        let now = a_moment();
        let mut pool = Pool::new(now);
        pool.handle_timeout(now + COMES_WITHIN, |_| true);
        assert_eq!(pool.counts(), (WARM, WARM), "it may still come");
        pool.handle_timeout(now + COMES_WITHIN + Duration::from_millis(1), |_| true);
        assert_eq!(pool.counts(), (0, 0));
        assert_eq!(pool.arrived(1), None);
        assert_eq!(pool.counts(), (1, 0));
    }

    #[test]
    fn the_dead_and_the_superfluous_are_swept() {
        let now = a_moment();
        let mut pool = Pool::new(now);
        for i in 0..20 {
            assert_eq!(pool.arrived(i), None);
        }
        pool.handle_timeout(now, |i| *i % 2 == 1);
        assert_eq!((pool.idle(), pool.counts()), (IDLE_KEEP, (IDLE_KEEP as u32, 0)));
    }

    #[test]
    fn after_the_end_nothing_is_kept() {
        let now = a_moment();
        let mut pool = Pool::new(now);
        assert_eq!(pool.arrived(1), None);
        let taken = pool.take();
        pool.end();
        assert_eq!(pool.give_back(taken.unwrap_or(9)), Some(1));
        assert_eq!(pool.arrived(2), Some(2));
        assert!(!pool.asks(now) && pool.take().is_none());
    }
}
