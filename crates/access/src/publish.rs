//! What an enforcer should hold. In: the ledger. Out: the desired entries of a list, merged, and their text for each
//! kind of enforcer. Only parsed prefixes and numbers are ever written: no name of a person or a service can become
//! an instruction in somebody else's configuration.

use std::fmt::Write as _;

use addr::{Addr, AddrSet, Prefix};

use crate::learned::{LearnedEntries, LearnedEntry};
use crate::ledger::Ledger;

/// The entries a list should have, at a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Counts up at every change of any list.
    pub generation: u64,
    /// The list.
    pub list: String,
    /// Entries that are always there.
    pub statics: Vec<Prefix>,
    /// Learned entries in the order in which they were given, each with its end (seconds since the Unix epoch).
    pub learnt: LearnedEntries,
}

/// All addresses from `first` to `last` of one family, until an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// IPv4.
    pub v4: bool,
    /// The lowest address as a number.
    pub first: u128,
    /// The highest.
    pub last: u128,
    /// Seconds since the Unix epoch; `None`: no end.
    pub end: Option<u64>,
}

/// Which key Traefik reads the list from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraefikKey {
    /// `ipAllowList`: Traefik 2.11 and 3.
    #[default]
    IpAllowList,
    /// `ipWhiteList`: Traefik 2.0 to 2.10; version 3 no longer reads it for TCP.
    IpWhiteList,
}

/// How a Traefik reads its lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraefikStyle {
    /// The key that this version reads.
    pub key: TraefikKey,
    /// Where it takes the visitor's address from; `None`: who connects to it.
    pub strategy: Option<IpStrategy>,
    /// The status of a refusal, for [`TraefikKey::IpAllowList`]; `None`: 403.
    pub reject: Option<u16>,
}

/// Which entry of `X-Forwarded-For` Traefik takes for the visitor, from the right. Where there is none, it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpStrategy {
    /// The entry of this number, 1 being the last.
    Depth(u8),
    /// The first that is none of these.
    Excluded(Vec<Prefix>),
}

/// A Traefik middleware to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Middleware {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it lets in.
    pub entries: Vec<Prefix>,
    /// Also as a TCP middleware of this name.
    pub tcp: bool,
}

/// An address nobody can come from: what a list holds when it would be empty. An empty list is an error to Traefik,
/// which then drops the router, and a looser router may match instead.
pub const NOBODY: &str = "255.255.255.255";

/// The desired entries of a list.
#[must_use]
pub fn desired(ledger: &Ledger, list: &str, generation: u64) -> Desired {
    Desired {
        generation,
        list: list.to_string(),
        statics: ledger.rules(list).map(|r| r.statics.clone()).unwrap_or_default(),
        learnt: ledger.learnt(list),
    }
}

/// The set of all addresses of a list, made from the set of an earlier state of it.
#[must_use]
pub fn follow(set: &AddrSet, before: &Desired, after: &Desired) -> AddrSet {
    if before.statics != after.statics {
        return after.set();
    }
    let changes = before.learnt.changes(&after.learnt);
    let fixed = |p: &Prefix| after.statics.contains(p);
    let gone = changes.iter().filter_map(|c| c.before.map(|b| b.0)).filter(|p| !fixed(p));
    set.changed(gone, changes.iter().filter_map(|c| c.after.map(|a| a.0)))
}

impl Desired {
    /// All its addresses.
    #[must_use]
    pub fn set(&self) -> AddrSet {
        AddrSet::new(self.statics.iter().copied().chain(self.learnt.iter().map(|(p, _)| p)))
    }

    /// Learned entries, then static ones, each once, without those that another one covers. At least one: [`NOBODY`]
    /// stands for nobody.
    #[must_use]
    pub fn entries(&self) -> Vec<Prefix> {
        let all = self.learnt.iter().map(|(p, _)| p).chain(self.statics.iter().copied());
        let kept = uncovered(all.collect());
        if kept.is_empty() { nobody() } else { kept }
    }

    /// Every entry once, in order. At least one: [`NOBODY`] stands for nobody.
    #[must_use]
    pub fn sorted(&self) -> Vec<Prefix> {
        let all: std::collections::BTreeSet<Prefix> =
            self.learnt.iter().map(|(p, _)| p).chain(self.statics.iter().copied()).collect();
        if all.is_empty() { nobody() } else { all.into_iter().collect() }
    }

    /// The fewest prefixes that hold exactly the same addresses, in order: neighbours become one.
    #[must_use]
    pub fn merged(&self) -> Vec<Prefix> {
        merge(self.entries())
    }
}

/// Stretches that do not overlap and hold exactly the addresses of these prefixes, in order; each ends with the latest
/// of the prefixes that hold it. For sets of ranges whose entries must not overlap.
#[must_use]
pub fn stretches(entries: impl IntoIterator<Item = LearnedEntry>) -> Vec<Stretch> {
    let mut sorted: Vec<LearnedEntry> = entries.into_iter().collect();
    // By family, start, then widest first: a parent stands before its children.
    sorted.sort_unstable();
    let mut out: Vec<Stretch> = Vec::new();
    for family in sorted.chunk_by(|a, b| a.0.is_v4() == b.0.is_v4()) {
        let v4 = family.first().is_some_and(|f| f.0.is_v4());
        let mut push = |first: u128, last: u128, end: Option<u64>| match out.last_mut() {
            _ if first > last => {}
            Some(o) if o.v4 == v4 && o.end == end && o.last.checked_add(1) == Some(first) => o.last = last,
            _ => out.push(Stretch { v4, first, last, end }),
        };
        // The prefixes that hold the current address, widest first: last address, and the latest end so far.
        let mut open: Vec<(u128, Option<u64>)> = Vec::new();
        let mut at = 0;
        for (p, end) in family {
            let (first, last) = (p.first().bits(), p.last().bits());
            while let Some(&(close, end)) = open.last().filter(|o| o.0 < first) {
                push(at, close, end);
                at = at.max(close.saturating_add(1));
                open.pop();
            }
            if let (Some(&(_, end)), Some(before)) = (open.last(), first.checked_sub(1)) {
                push(at, before, end);
            }
            at = first;
            let outer = open.last().map(|o| o.1);
            open.push((last, outer.map_or(*end, |o| later(o, *end))));
        }
        while let Some((close, end)) = open.pop() {
            push(at, close, end);
            let Some(next) = close.checked_add(1) else { break };
            at = at.max(next);
        }
    }
    out
}

/// The later of two ends.
#[must_use]
pub fn later(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// The fewest prefixes that hold exactly these addresses, in order.
#[must_use]
pub fn merge(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable();
    let mut out: Vec<Prefix> = Vec::with_capacity(prefixes.len());
    for p in prefixes {
        if out.last().is_some_and(|l| l.covers(p)) {
            continue;
        }
        out.push(p);
        // Two halves of one prefix become it, and that may be a half again.
        while let [.., a, b] = out[..] {
            let Some(parent) = a.bits().checked_sub(1).and_then(|len| Prefix::new(a.first(), len)) else { break };
            if a.bits() != b.bits() || a.is_v4() != b.is_v4() || !parent.covers(b) || a.first() == b.first() {
                break;
            }
            out.truncate(out.len() - 2);
            out.push(parent);
        }
    }
    out
}

/// A Traefik file with these middlewares (dynamic configuration, YAML). Never with an empty list.
#[must_use]
pub fn traefik_yaml(middlewares: &[Middleware], style: &TraefikStyle) -> String {
    let key = match style.key {
        TraefikKey::IpAllowList => "ipAllowList",
        TraefikKey::IpWhiteList => "ipWhiteList",
    };
    let mut out = String::from("# Written by portcullis; changes made by hand are overwritten.\n");
    let mut section = |proto: &str, which: &dyn Fn(&&Middleware) -> bool| {
        let chosen: Vec<&Middleware> = middlewares.iter().filter(which).collect();
        if chosen.is_empty() {
            return;
        }
        let _ = write!(out, "{proto}:\n  middlewares:\n");
        for m in chosen {
            let _ = write!(out, "    {}:\n      {key}:\n        sourceRange:\n", m.name);
            let entries = if m.entries.is_empty() { nobody() } else { m.entries.clone() };
            for p in entries {
                // Quoted: `::1` and the like are mappings to a YAML reader otherwise.
                let _ = writeln!(out, "        - \"{p}\"");
            }
            // TCP middlewares know neither: there is no header to read and no status to answer.
            if proto == "http" {
                out.push_str(&style.text());
            }
        }
    };
    section("http", &|_| true);
    section("tcp", &|m| m.tcp);
    out
}

impl TraefikStyle {
    /// The keys beside `sourceRange`.
    fn text(&self) -> String {
        let mut out = String::new();
        match &self.strategy {
            None => {}
            Some(IpStrategy::Depth(n)) => {
                let _ = write!(out, "        ipStrategy:\n          depth: {n}\n");
            }
            Some(IpStrategy::Excluded(all)) => {
                out.push_str("        ipStrategy:\n          excludedIPs:\n");
                for p in all {
                    let _ = writeln!(out, "          - \"{p}\"");
                }
            }
        }
        if let (TraefikKey::IpAllowList, Some(status)) = (self.key, self.reject) {
            let _ = writeln!(out, "        rejectStatusCode: {status}");
        }
        out
    }
}

/// Lines for an nginx `geo` block: `CIDR 1;`.
#[must_use]
pub fn nginx_geo(entries: &[Prefix]) -> String {
    let mut out = String::from("# Written by portcullis; changes made by hand are overwritten.\n");
    for p in entries {
        let _ = writeln!(out, "{p} 1;");
    }
    out
}

/// Lines for an HAProxy map used with `map_ip`: `CIDR 1`.
#[must_use]
pub fn haproxy_map(entries: &[Prefix]) -> String {
    let mut out = String::new();
    for p in entries {
        let _ = writeln!(out, "{p} 1");
    }
    out
}

/// One prefix a line.
#[must_use]
pub fn lines(entries: &[Prefix]) -> String {
    let mut out = String::new();
    for p in entries {
        let _ = writeln!(out, "{p}");
    }
    out
}

/// True for a name that can stand in a Traefik file as it is: no template, no YAML of its own.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

fn nobody() -> Vec<Prefix> {
    NOBODY.parse::<Addr>().map(Prefix::host).into_iter().collect()
}

/// The prefixes in their order, without doubles and without those that another covers.
fn uncovered(all: Vec<Prefix>) -> Vec<Prefix> {
    let mut sorted = all.clone();
    sorted.sort_unstable();
    let mut kept: Vec<Prefix> = Vec::with_capacity(sorted.len());
    for p in sorted {
        if !kept.last().is_some_and(|l| l.covers(p)) {
            kept.push(p);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    all.into_iter().filter(|p| kept.binary_search(p).is_ok() && seen.insert(*p)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::GrantId;
    use proptest::prelude::*;

    fn ps(text: &[&str]) -> Vec<Prefix> {
        text.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn halves_merge_and_covered_ones_go() {
        let merged = merge(ps(&["10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "10.0.0.7", "2001:db8::/64"]));
        assert_eq!(merged, ps(&["10.0.0.0/23", "2001:db8::/64"]));
    }

    proptest! {
        #[test]
        fn merged_prefixes_hold_exactly_the_same_addresses(raw in prop::collection::vec((0u8..=31, 24u8..=32), 0..40)) {
            let prefixes: Vec<Prefix> = raw
                .iter()
                .map(|(a, len)| Prefix::new(Addr::new(std::net::IpAddr::from([192, 0, 2, *a])), *len).unwrap())
                .collect();
            let merged = merge(prefixes.clone());
            for last in 0..=255u8 {
                let a = Addr::new(std::net::IpAddr::from([192, 0, 2, last]));
                let before = prefixes.iter().any(|p| p.contains(a));
                prop_assert_eq!(merged.iter().filter(|p| p.contains(a)).count(), usize::from(before));
            }
        }
    }

    proptest! {
        #[test]
        fn stretches_hold_the_same_addresses_until_the_same_ends(raw in prop::collection::vec((any::<u8>(), 24u8..=32, 0u64..4), 0..30)) {
            let entries: Vec<(Prefix, Option<u64>)> = raw
                .iter()
                .map(|(a, len, end)| (Prefix::new(Addr::new([192, 0, 2, *a].into()), *len).unwrap(), (*end > 0).then_some(*end)))
                .collect();
            let got = stretches(entries.clone());
            prop_assert!(got.windows(2).all(|w| w[0].last < w[1].first), "{got:?}");
            for last in 0..=255u8 {
                let a = Addr::new([192, 0, 2, last].into());
                // `None` counts as later than any number.
                let want = entries.iter().filter(|(p, _)| p.contains(a)).map(|(_, e)| e.unwrap_or(u64::MAX)).max();
                let have = got.iter().find(|s| (s.first..=s.last).contains(&a.bits())).map(|s| s.end.unwrap_or(u64::MAX));
                prop_assert_eq!(have, want, "{} in {:?}", a, got);
            }
        }

        #[test]
        fn differences_lead_from_one_copy_to_the_other(
            a in prop::collection::btree_map(0u64..2_000, (any::<u8>(), 0u64..3), 0..60),
            b in prop::collection::btree_map(0u64..2_000, (any::<u8>(), 0u64..3), 0..60),
        ) {
            let build = |from: &LearnedEntries, m: &BTreeMap<u64, (u8, u64)>| {
                let mut l = from.clone();
                (0..2_000).for_each(|id| match m.get(&id) {
                    Some((n, end)) => l.put(GrantId(id), Prefix::host(Addr::new([10, *n % 2, (id >> 8) as u8, id as u8].into())), Some(*end)),
                    None => l.remove(GrantId(id)),
                });
                l
            };
            let first = build(&LearnedEntries::default(), &a);
            let second = build(&first, &b);
            prop_assert_eq!((first.len(), second.len()), (a.len(), b.len()));
            let ids = a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>();
            let shown = |m: &BTreeMap<u64, (u8, u64)>, id: &u64| m.get(id).map(|(n, end)| (n % 2, *end));
            let want = ids.iter().filter(|id| shown(&a, id) != shown(&b, id)).count();
            let changes = first.changes(&second);
            prop_assert_eq!(changes.len(), want);
            prop_assert!(changes.iter().all(|c| c.before != c.after));
            prop_assert!(second.changes(&second).is_empty());
            prop_assert_eq!(second.iter().count(), b.len());
            let of = |l: &LearnedEntries| Desired { learnt: l.clone(), statics: ps(&["192.0.2.5"]), ..Desired::default() };
            let followed = follow(&of(&first).set(), &of(&first), &of(&second));
            let anew = of(&second).set();
            prop_assert_eq!(followed.prefixes(), anew.prefixes());
        }
    }

    #[test]
    fn what_is_desired_is_what_the_ledger_holds_of_that_list() {
        use crate::Evidence;
        use crate::ledger::{Event, Ledger, Outcome, Proof, Rules};
        let rules = Rules { statics: ps(&["198.51.100.0/24"]), ttl: Some(60), ..Rules::default() };
        let mut ledger =
            Ledger::new([("home".to_string(), rules), ("other".to_string(), Rules::default())], AddrSet::default());
        let proof = Proof {
            list: "home".to_string(),
            addr: "192.0.2.1".parse().unwrap(),
            evidence: Evidence::Mtls,
            principal: None,
            device: None,
            ttl: None,
        };
        assert!(matches!(ledger.handle(Event::Proof(proof), 1_000), Outcome::Given(_)));
        let home = desired(&ledger, "home", 7);
        assert_eq!((home.generation, home.list.as_str(), home.statics.clone()), (7, "home", ps(&["198.51.100.0/24"])));
        assert_eq!(home.learnt.iter().collect::<Vec<_>>(), [("192.0.2.1".parse().unwrap(), Some(1_060))]);
        let other = desired(&ledger, "other", 7);
        assert!(other.statics.is_empty() && other.learnt.is_empty());
        assert_eq!(other.entries(), ps(&[NOBODY]), "nobody is an entry, never an absence");
    }

    #[test]
    fn the_widest_prefixes_have_no_address_past_them() {
        let all =
            stretches([(Prefix::ALL_V4, None), (Prefix::ALL_V6, Some(5)), ("10.0.0.0/8".parse().unwrap(), Some(9))]);
        let got: Vec<_> = all.iter().map(|s| (s.v4, s.first, s.last, s.end)).collect();
        assert_eq!(got, [(true, 0, u128::from(u32::MAX), None), (false, 0, u128::MAX, Some(5))]);
    }

    #[test]
    fn a_list_of_nobody_is_never_an_empty_list() {
        let d = Desired::default();
        let yaml =
            traefik_yaml(&[Middleware { name: "x".into(), entries: Vec::new(), tcp: true }], &TraefikStyle::default());
        assert_eq!(d.entries(), ps(&[NOBODY]));
        assert!(yaml.contains(
            "tcp:\n  middlewares:\n    x:\n      ipAllowList:\n        sourceRange:\n        - \"255.255.255.255\"\n"
        ));
    }

    #[test]
    fn traefik_is_told_which_address_counts_and_what_is_not_an_entry_is_not_read_as_one() {
        let strategy = Some(IpStrategy::Excluded(ps(&["173.245.48.0/20"])));
        let style = TraefikStyle { strategy, reject: Some(404), ..TraefikStyle::default() };
        let list = |tcp| [Middleware { name: "x".into(), entries: ps(&["203.0.113.7"]), tcp }];
        let yaml = traefik_yaml(&list(true), &style);
        let (http, tcp) = yaml.split_once("tcp:\n").unwrap();
        assert!(http.ends_with(
            "        - \"203.0.113.7\"\n        ipStrategy:\n          excludedIPs:\n          - \"173.245.48.0/20\"\n        rejectStatusCode: 404\n"
        ));
        assert!(!tcp.contains("ipStrategy") && !tcp.contains("reject"), "{tcp}");
        let written = traefik_yaml(&list(false), &style);
        assert_eq!(crate::ours::traefik_entries(&written, &["x".to_string()]), ps(&["203.0.113.7"]));
        let depth = TraefikStyle { strategy: Some(IpStrategy::Depth(2)), ..TraefikStyle::default() };
        assert!(traefik_yaml(&list(false), &depth).ends_with("        ipStrategy:\n          depth: 2\n"));
    }

    #[test]
    fn names_that_could_be_templates_are_refused() {
        assert!(is_plain_name("dynamic-whitelist-immich_server.1"));
        for bad in ["", "{{x}}", "a b", "a:", "-a", "a\n"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
