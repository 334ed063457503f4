//! How many questions guests may cause. In: who asks, when. Out: whether an upstream may be asked. Pure.
//!
//! Counted by source: an IPv4 address, or an IPv6 /64 and the /56 and /48 around it. What all may ask together is shared
//! so that a source's first questions have a part of their own: who asks on and on leaves it to those who come new.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use addr::{Addr, SourceKey};

/// Questions in a minute.
#[derive(Debug, Default)]
pub(super) struct Spend {
    since: Option<Instant>,
    all: u32,
    each: HashMap<SourceKey, u32>,
}

/// For this long questions are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Questions of one source: Immich's keys have 67 characters and Nextcloud's 15, so guessing is hopeless at any rate; the
/// limits protect the upstream and its own throttling.
const MAX_PER_SOURCE: u32 = 20;
/// Questions of all: ten a second, which a service on a small machine answers.
const MAX_TOTAL: u32 = 600;
/// Of these, what only the first questions of a source may take.
const RESERVED_FOR_FIRST: u32 = 300;
/// So many questions of a source are its first: a link, and one that was mistyped.
const FIRST_ATTEMPTS: u32 = 2;

impl Spend {
    /// True if this source may ask one question more.
    pub(super) fn ask(&mut self, guest: Addr, now: Instant) -> bool {
        if self.since.is_none_or(|s| now.duration_since(s) >= WINDOW) {
            *self = Spend { since: Some(now), ..Spend::default() };
        }
        let count = |key: SourceKey| self.each.get(&key).copied().unwrap_or(0);
        // A site holds many households: twice as much for each wider network.
        let mut limit = MAX_PER_SOURCE;
        for key in SourceKey::levels(guest) {
            if count(key) >= limit {
                return false;
            }
            limit *= 2;
        }
        let first = SourceKey::levels(guest).all(|key| count(key) < FIRST_ATTEMPTS);
        if self.all >= if first { MAX_TOTAL } else { MAX_TOTAL - RESERVED_FOR_FIRST } {
            return false;
        }
        self.all += 1;
        // Bounded by what all may ask: no more keys than questions and levels.
        for key in SourceKey::levels(guest) {
            *self.each.entry(key).or_default() += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(s: &mut Spend, now: Instant, addrs: impl Iterator<Item = String>) -> usize {
        addrs.filter(|a| s.ask(a.parse().unwrap(), now)).count()
    }

    #[test]
    fn a_network_of_addresses_is_one_source() {
        let (mut s, now) = (Spend::default(), Instant::now());
        assert_eq!(asked(&mut s, now, (0..320).map(|n| format!("2001:db8:1:1::{n:x}"))), MAX_PER_SOURCE as usize);
        // Other /64s of its /56, other /56s of its /48: twice as much each.
        assert_eq!(
            asked(&mut s, now, (2..320).map(|n| format!("2001:db8:1:{:x}::1", n % 0xff))),
            MAX_PER_SOURCE as usize
        );
        assert_eq!(
            asked(&mut s, now, (1..320).map(|n| format!("2001:db8:1:{:x}::1", n << 8 & 0xff00))),
            2 * MAX_PER_SOURCE as usize
        );
        // Nobody else is the poorer, and a minute later they may ask again.
        assert!(s.ask("2001:db8:2::1".parse().unwrap(), now));
        assert!(s.ask("2001:db8:1:1::1".parse().unwrap(), now + WINDOW));
    }

    #[test]
    fn who_asks_on_and_on_leaves_a_part_to_those_who_come_new() {
        let (mut s, now) = (Spend::default(), Instant::now());
        let crowd = (0..20 * 64).map(|n| format!("192.0.2.{}", n % 64));
        let had = asked(&mut s, now, crowd);
        assert!(
            (RESERVED_FOR_FIRST as usize..=(MAX_TOTAL - RESERVED_FOR_FIRST + 64 * FIRST_ATTEMPTS) as usize)
                .contains(&had),
            "{had}"
        );
        assert!(s.ask("198.51.100.1".parse().unwrap(), now) && s.ask("2001:db8::1".parse().unwrap(), now));
        // In all there is an end.
        assert!(asked(&mut s, now, (0..5_000).map(|n| format!("10.1.{}.{}", n / 250, n % 250))) < MAX_TOTAL as usize);
        assert!(!s.ask("203.0.113.1".parse().unwrap(), now));
    }
}
