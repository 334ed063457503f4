//! Wrong secrets, counted for each source. In: addresses that gave a wrong token or password. Out: whether an address may
//! try again now. A wider IPv6 network that one party may hold has a budget of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use addr::{Addr, SourceKey};
use parking_lot::Mutex;

/// Wrong secrets that one source may give in each [`WINDOW`]: a person who mistypes notices nothing, and a secret of ten
/// random letters and digits outlives everybody.
const WRONG_MAX: u32 = 10;

/// What a /56 or a /48 may give, as a multiple of one source's: a building of honest clients after a change of the token
/// gets through, a party with 65,536 networks gains little.
const WIDE_FACTOR: [u32; 2] = [4, 16];

/// The time for which wrong secrets are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Sources counted at the same time. When there are more, those whose time is over go first, then the one that has given
/// the fewest: whoever fills the table does not free those that are blocked.
const SOURCES_MAX: usize = 16_384;

/// What came of a wrong secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Counted; the source may try again.
    Counted,
    /// The last one that the source may give for now: worth one line in the log.
    LastOne,
    /// The source was blocked already: it was under way when the block began.
    Beyond,
}

/// Wrong secrets by source.
#[derive(Debug, Default)]
pub struct Guesses {
    sources: Mutex<HashMap<SourceKey, Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    wrong: u32,
}

impl Guesses {
    /// True if nothing of this address is looked at for now: close its connections unread.
    #[must_use]
    pub fn blocked(&self, addr: Addr, now: Instant) -> bool {
        let sources = self.sources.lock();
        SourceKey::levels(addr).any(|key| sources.get(&key).is_some_and(|c| c.fresh(now) && c.wrong >= most(key)))
    }

    /// Counts a wrong secret.
    pub fn wrong(&self, addr: Addr, now: Instant) -> Wrong {
        let mut sources = self.sources.lock();
        let mut out = Wrong::Counted;
        for key in SourceKey::levels(addr) {
            if !sources.contains_key(&key) && sources.len() >= SOURCES_MAX {
                make_room(&mut sources, now);
            }
            let count = sources.entry(key).or_insert(Count { since: now, wrong: 0 });
            if !count.fresh(now) {
                *count = Count { since: now, wrong: 0 };
            }
            count.wrong = count.wrong.saturating_add(1);
            match count.wrong.cmp(&most(key)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal if out == Wrong::Counted => out = Wrong::LastOne,
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => out = Wrong::Beyond,
            }
        }
        out
    }

    /// The source gave the right secret: what it mistyped before is forgotten. The wider networks keep their counts.
    pub fn right(&self, addr: Addr) {
        self.sources.lock().remove(&SourceKey::of(addr));
    }
}

impl Count {
    fn fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < WINDOW
    }
}

fn most(key: SourceKey) -> u32 {
    match key.extra_bits() {
        0 => WRONG_MAX,
        8 => WRONG_MAX * WIDE_FACTOR[0],
        _ => WRONG_MAX * WIDE_FACTOR[1],
    }
}

fn make_room(sources: &mut HashMap<SourceKey, Count>, now: Instant) {
    sources.retain(|_, c| c.fresh(now));
    if sources.len() >= SOURCES_MAX
        && let Some(least) = sources.iter().min_by_key(|(_, c)| (c.wrong, c.since)).map(|(key, _)| *key)
    {
        sources.remove(&least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_a_minute_and_then_nothing() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let a = addr("192.0.2.1");
        for n in 1..=WRONG_MAX {
            assert!(!guesses.blocked(a, start));
            let last = n == WRONG_MAX;
            assert_eq!(guesses.wrong(a, start), if last { Wrong::LastOne } else { Wrong::Counted });
        }
        assert!(guesses.blocked(a, start + Duration::from_secs(59)));
        assert_eq!(guesses.wrong(a, start), Wrong::Beyond);
        assert!(!guesses.blocked(addr("192.0.2.2"), start));
        assert!(!guesses.blocked(a, start + WINDOW));
    }

    #[test]
    fn other_addresses_of_a_network_do_not_help() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..WRONG_MAX {
            guesses.wrong(addr(&format!("2001:db8:0:1::{n}")), now);
        }
        assert!(guesses.blocked(addr("2001:db8:0:1::ffff"), now), "one /64 is one source");
        assert!(!guesses.blocked(addr("2001:db8:0:2::1"), now));
        for net in 2..6 {
            for _ in 0..WRONG_MAX {
                guesses.wrong(addr(&format!("2001:db8:0:{net}::1")), now);
            }
        }
        assert!(guesses.blocked(addr("2001:db8:0:99::1"), now), "the /56 has a budget of its own");
        assert!(!guesses.blocked(addr("2001:db8:0:199::1"), now));
    }

    #[test]
    fn the_right_secret_clears_its_source() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..9 {
            guesses.wrong(addr("192.0.2.1"), now);
        }
        guesses.right(addr("192.0.2.1"));
        assert_eq!(guesses.wrong(addr("192.0.2.1"), now), Wrong::Counted);
    }

    #[test]
    fn a_full_table_frees_nobody_who_is_blocked() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..WRONG_MAX {
            guesses.wrong(addr("192.0.2.1"), now);
        }
        for n in 0..SOURCES_MAX as u32 + 10 {
            guesses.wrong(Addr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into()), now);
        }
        assert!(guesses.blocked(addr("192.0.2.1"), now));
        assert!(guesses.sources.lock().len() <= SOURCES_MAX);
    }
}
