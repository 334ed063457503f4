//! Links that opened nothing, for the log, `explain` and `doctor`. In: who asked for what, and why it was refused. Out:
//! the latest refusal of each source, as long as it may matter to somebody. Tokens are never kept.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use access::ledger;
use addr::{Addr, SourceKey};
use parking_lot::Mutex;

use super::shape::NoLink;

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// The upstream is not in the configuration.
    Unnamed,
    /// The path is no share link.
    Link(NoLink),
    /// The upstream does not know the link: it answered this.
    Dead(u16),
    /// The upstream says yes to links that do not exist.
    Canary,
    /// Too many questions from this source, or from all together.
    Budget,
    /// The upstream did not answer.
    Silent,
    /// The upstream is out of order or slows the gate down: it answered this.
    Busy(u16),
}

/// A link that opened nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// From where it was asked for.
    pub addr: Addr,
    /// Which share, by its name or as the middleware's address has it.
    pub share: String,
    /// The path, without what may be a token.
    pub path: String,
    /// Why.
    pub why: Why,
    /// How often this source was refused since it was first.
    pub times: u32,
    /// When it was refused last.
    pub at: Instant,
}

/// Why a link let nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was refused.
    No(No),
    /// It is alive, but the list does not take the address.
    NotLearnt(ledger::Rejection),
}

/// The refusals of late.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<SourceKey, Refusal>>);

/// Sources that are remembered; the one that was refused longest ago leaves.
const MAX_SOURCES: usize = 512;
/// Nobody asks about an older one.
const RETENTION: Duration = Duration::from_secs(24 * 3_600);

impl Refusals {
    pub(super) fn note(&self, addr: Addr, share: &str, path: String, why: Why, now: Instant) {
        let mut all = self.0.lock();
        let key = SourceKey::of(addr);
        if !all.contains_key(&key) && all.len() >= MAX_SOURCES {
            let oldest = all.iter().min_by_key(|(_, r)| r.at).map(|(k, _)| *k);
            oldest.map(|k| all.remove(&k));
        }
        let times = all.get(&key).map_or(0, |r| r.times).saturating_add(1);
        // Of the middleware's address, which an untrusted peer may have written: shown as data and not at any length.
        let share = share.chars().take(80).collect::<String>().escape_debug().to_string();
        all.insert(key, Refusal { addr, share, path, why, times, at: now });
    }

    /// The latest refusal of the source that this address belongs to.
    #[must_use]
    pub fn of(&self, addr: Addr, now: Instant) -> Option<Refusal> {
        self.0.lock().get(&SourceKey::of(addr)).filter(|r| now.duration_since(r.at) < RETENTION).cloned()
    }

    /// The refusals of all sources, latest first.
    #[must_use]
    pub fn all(&self, now: Instant) -> Vec<Refusal> {
        let mut all: Vec<Refusal> =
            self.0.lock().values().filter(|r| now.duration_since(r.at) < RETENTION).cloned().collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.at));
        all
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::No(no) => write!(f, "the share link {} of {} is refused: {no}", self.path, self.share),
            Why::NotLearnt(why) => {
                write!(f, "the share link {} of {} is alive, but its guest is not let in: {why}", self.path, self.share)
            }
        }
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            No::Unnamed => f.write_str("the upstream is not named"),
            No::Link(why) => why.fmt(f),
            No::Dead(status) => write!(f, "the upstream does not know it (it answered {status})"),
            No::Canary => f.write_str("the upstream accepts links that do not exist as well"),
            No::Budget => f.write_str("too many links were asked for within a minute"),
            No::Silent => f.write_str("the upstream does not answer"),
            No::Busy(429) => f.write_str("the upstream slows down who asks for links (it answered 429)"),
            No::Busy(status) => write!(f, "the upstream is out of order (it answered {status})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_each_source_is_kept_and_no_more_than_so_many() {
        let (all, now) = (Refusals::default(), Instant::now());
        let at = |n: usize| now + Duration::from_secs(n as u64);
        for n in 0..2 * MAX_SOURCES {
            let addr = format!("10.0.{}.{}", n / 250, n % 250).parse().unwrap();
            all.note(addr, "immich\n", "/share/…".to_string(), Why::No(No::Dead(404)), at(n));
        }
        let last = at(2 * MAX_SOURCES);
        assert_eq!(all.all(last).len(), MAX_SOURCES);
        assert!(all.of("10.0.0.1".parse().unwrap(), last).is_none());
        let addr = "2001:db8::1".parse().unwrap();
        all.note(addr, "immich", "/share/…".to_string(), Why::No(No::Dead(404)), last);
        all.note("2001:db8::2".parse().unwrap(), "immich", "/s/…".to_string(), Why::No(No::Canary), last);
        let one = all.of(addr, last).unwrap();
        assert_eq!((one.times, one.why, all.all(last)[0].share.as_str()), (2, Why::No(No::Canary), "immich"));
        assert!(one.to_string().starts_with("the share link /s/… of immich is refused: "));
        assert!(all.all(last).iter().all(|r| !r.share.contains('\n')));
        assert!(all.of(addr, last + RETENTION).is_none());
    }
}
