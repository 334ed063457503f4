//! Why somebody is no longer let in. In: what ended or was turned away, as it happens or from the audit log of an
//! earlier run. Out: the latest of it for an address and for its neighbours. Bounded: the oldest is forgotten.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::Evidence;
use addr::{Addr, Prefix};

/// What the ledger puts on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// Somebody was let in.
    Given,
    /// A person or a rule ended it.
    Revoked,
    /// Its time was over.
    Expired,
    /// The list was full and somebody with as much or more evidence came.
    Evicted,
    /// A person set its end.
    Extended,
    /// Its device showed up elsewhere: it ends soon.
    Superseded,
    /// One of its reasons is over, others go on.
    Lapsed,
    /// Somebody proved himself and a ban kept him out.
    Refused,
    /// Somebody proved himself and the list was full of stronger evidence.
    Full,
    /// Proofs of somebody no longer count.
    Banned,
    /// They count again.
    Unbanned,
}

/// Something that ended, or somebody who was turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// The list.
    pub list: String,
    /// From where.
    pub prefix: Prefix,
    /// Who it was.
    pub principal: Option<String>,
    /// On what evidence.
    pub evidence: Evidence,
    /// `Revoked`, `Expired`, `Evicted`, `Refused` or `Full`.
    pub what: What,
    /// By whom or why; may be empty.
    pub by: String,
}

/// The latest ends of each list.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// By list; guests apart, because whoever has a link can make any number of ends.
    lists: BTreeMap<(String, bool), Page>,
}

#[derive(Debug, Clone, Default)]
struct Page {
    /// With its place in the order.
    latest: BTreeMap<Prefix, (u64, Ended)>,
    /// Oldest first.
    order: BTreeMap<u64, Prefix>,
    next: u64,
}

/// Ends that are remembered for each list, and as many of its guests: a few hundred bytes each, enough for a week of a large household.
pub const REMEMBERED: usize = 1_000;
/// Neighbours that are worth a word.
const NEIGHBOURS: usize = 3;

impl Memory {
    /// Takes in an end. What is no end is ignored.
    pub fn note(&mut self, e: Ended) {
        if !matches!(e.what, What::Revoked | What::Expired | What::Evicted | What::Refused | What::Full) {
            return;
        }
        let guest = e.evidence == Evidence::Share;
        let page = self.lists.entry((e.list.clone(), guest)).or_default();
        let place = page.next;
        page.next += 1;
        page.order.insert(place, e.prefix);
        if let Some((before, _)) = page.latest.insert(e.prefix, (place, e)) {
            page.order.remove(&before);
        }
        while page.order.len() > REMEMBERED {
            let Some((_, prefix)) = page.order.pop_first() else { return };
            page.latest.remove(&prefix);
        }
    }

    /// What ended for this address on this list, most exact first; if nothing did, the latest of its neighbours: of the
    /// same IPv4 /24 or IPv6 /48.
    #[must_use]
    pub fn around(&self, list: &str, addr: Addr) -> Vec<&Ended> {
        let of = |guest: bool| self.lists.get(&(list.to_string(), guest)).map(|p| &p.latest);
        let pages: Vec<_> = [false, true].into_iter().filter_map(of).collect();
        let holding = (0..=addr.width()).rev().filter_map(|w| Prefix::new(addr, w));
        let mut found: Vec<&Ended> =
            holding.flat_map(|p| pages.iter().filter_map(move |l| l.get(&p))).map(|l| &l.1).collect();
        if found.is_empty()
            && let Some(near) = Prefix::new(addr, if addr.is_v4() { 24 } else { 48 })
        {
            found = pages.iter().flat_map(|l| l.values()).map(|l| &l.1).filter(|e| near.covers(e.prefix)).collect();
            found.sort_by_key(|e| std::cmp::Reverse(e.at));
            found.truncate(NEIGHBOURS);
        }
        found
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lists.values().map(|p| p.latest.len()).sum()
    }

    /// True if nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.values().all(|p| p.latest.is_empty())
    }
}

impl What {
    const WORDS: [(What, &'static str); 11] = [
        (What::Given, "given"),
        (What::Revoked, "revoked"),
        (What::Expired, "expired"),
        (What::Evicted, "evicted"),
        (What::Extended, "extended"),
        (What::Superseded, "superseded"),
        (What::Lapsed, "lapsed"),
        (What::Refused, "refused"),
        (What::Full, "full"),
        (What::Banned, "banned"),
        (What::Unbanned, "unbanned"),
    ];

    /// The word of the audit log.
    #[must_use]
    pub fn word(self) -> &'static str {
        What::WORDS.iter().find(|(w, _)| *w == self).map_or("", |(_, t)| t)
    }
}

impl FromStr for What {
    type Err = ();

    fn from_str(text: &str) -> Result<What, ()> {
        What::WORDS.iter().find(|(_, t)| *t == text).map(|(w, _)| *w).ok_or(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at: u64, prefix: &str, what: What) -> Ended {
        Ended {
            at,
            list: "family".into(),
            prefix: prefix.parse().unwrap(),
            principal: None,
            evidence: Evidence::Mtls,
            what,
            by: String::new(),
        }
    }

    fn found(m: &Memory, addr: &str) -> Vec<(String, u64)> {
        m.around("family", addr.parse().unwrap()).iter().map(|e| (e.prefix.to_string(), e.at)).collect()
    }

    #[test]
    fn the_exact_prefix_first_then_neighbours() {
        let mut m = Memory::default();
        m.note(ended(1, "203.0.113.0/28", What::Revoked));
        m.note(ended(2, "203.0.113.7", What::Evicted));
        m.note(ended(3, "203.0.113.7", What::Given));
        m.note(ended(4, "2001:db8:1:100::/64", What::Expired));
        assert_eq!(found(&m, "203.0.113.7"), [("203.0.113.7".into(), 2), ("203.0.113.0/28".into(), 1)]);
        assert_eq!(found(&m, "203.0.113.9"), [("203.0.113.0/28".into(), 1)]);
        assert_eq!(found(&m, "203.0.113.99")[0], ("203.0.113.7".into(), 2));
        // A household's prefix moves within what its provider gave it.
        assert_eq!(found(&m, "2001:db8:1:1ff::9"), [("2001:db8:1:100::/64".into(), 4)]);
        assert!(found(&m, "2001:db8:2::1").is_empty() && found(&m, "198.51.100.1").is_empty());
        assert!(m.around("photos", "203.0.113.7".parse().unwrap()).is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut m = Memory::default();
        for n in 0..REMEMBERED as u64 * 3 {
            m.note(ended(n, &format!("10.{}.{}.{}", n % 3, (n / 256) % 256, n % 256), What::Expired));
        }
        assert!(m.len() <= REMEMBERED);
        m.note(ended(9, "192.0.2.1", What::Expired));
        for n in 0..REMEMBERED as u64 {
            m.note(ended(10_000 + n, "192.0.2.2", What::Expired));
        }
        assert_eq!(found(&m, "192.0.2.1"), [("192.0.2.1".into(), 9)], "one that comes and goes pushes nobody out");
        for n in 0..REMEMBERED * 2 {
            let p = format!("2001:db8:{:x}::/64", n);
            m.note(Ended { evidence: Evidence::Share, ..ended(20_000, &p, What::Evicted) });
        }
        assert_eq!(found(&m, "192.0.2.1"), [("192.0.2.1".into(), 9)], "nor do guests");
    }

    #[test]
    fn so_many_are_remembered_and_the_next_takes_the_place_of_the_oldest() {
        let mut m = Memory::default();
        assert!(m.is_empty());
        let at = |n: usize| format!("10.0.{}.{}", n / 256, n % 256);
        (0..REMEMBERED).for_each(|n| m.note(ended(n as u64, &at(n), What::Expired)));
        assert_eq!(found(&m, &at(0)), [(at(0), 0)]);
        m.note(ended(5_000, &at(REMEMBERED), What::Expired));
        assert_eq!((m.len(), m.is_empty()), (REMEMBERED, false));
        assert!(found(&m, &at(0)).iter().all(|(prefix, _)| *prefix != at(0)), "the first is gone");
        assert_eq!(found(&m, &at(1)), [(at(1), 1)]);
        // Guests have places of their own, on each list.
        m.note(Ended { evidence: Evidence::Share, ..ended(6_000, "192.0.2.1", What::Full) });
        m.note(Ended { list: "photos".into(), ..ended(6_001, "192.0.2.1", What::Refused) });
        assert_eq!(m.len(), REMEMBERED + 2);
    }

    #[test]
    fn of_neighbours_the_latest_three() {
        let mut m = Memory::default();
        for (n, at) in [5, 1, 9, 7].into_iter().enumerate() {
            m.note(ended(at, &format!("203.0.113.{n}"), What::Expired));
        }
        let at: Vec<u64> = found(&m, "203.0.113.99").iter().map(|f| f.1).collect();
        assert_eq!(at, [9, 7, 5]);
    }

    #[test]
    fn words_of_the_audit_log_are_read_back() {
        for (what, word) in What::WORDS {
            assert_eq!((what.to_string().as_str(), word.parse()), (word, Ok(what)));
        }
        assert_eq!("Given".parse::<What>(), Err(()));
    }
}
