//! Host names on lists: `dns:home.example.net`. In: which list follows which name, what the name servers answered, the
//! grants there are. Out: when to ask again, and the events that make the grants equal to the answers. Pure.
//!
//! The last good answer of each family stays when a later question fails. It stays for the list's `ttl` at most, if
//! the list has one; an answer that a restart finds in the ledger counts as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::{Claim, Evidence, Grant};
use addr::{Addr, Prefix};

use crate::ledger::{Entry, Event, Rules, SEEN_STEP};

/// A host name in lower case, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// A name that a list follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Follow {
    /// The list.
    pub list: String,
    /// The name.
    pub host: HostName,
    /// When it ends, seconds since the Unix epoch; `None`: never by itself.
    pub until: Option<u64>,
    /// No limit of the list removes its addresses.
    pub pinned: bool,
}

/// What the name servers said of one family of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsOutcome {
    /// These addresses, for so many seconds.
    Addrs(Vec<Addr>, u64),
    /// The name has none of this family; for so many seconds.
    None(u64),
    /// Nothing that counts: no answer, a broken one, no such name.
    Failed(String),
}

/// Between which bounds names are asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Seconds; a shorter time to live counts as this.
    pub least: u64,
    /// Seconds; a longer one counts as this.
    pub most: u64,
}

/// Every name that is followed, and what is known of it.
#[derive(Debug, Clone, Default)]
pub struct Names {
    follows: Vec<Follow>,
    known: BTreeMap<HostName, Known>,
    pace: Pace,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Its IPv4 addresses by the last good answer; `None`: there was none since the start.
    pub v4: Option<Vec<Addr>>,
    /// The same of IPv6.
    pub v6: Option<Vec<Addr>>,
    /// The last good answer, seconds since the Unix epoch.
    pub good_at: Option<u64>,
    /// When it is asked again.
    pub ask_at: u64,
    /// Why the latest question failed.
    pub failed: Option<String>,
    /// Addresses of the latest answers that do not count because there are too many.
    pub left_out: usize,
    /// Failures in a row.
    times: u32,
}

/// Addresses of one family of one name that count: more is no home.
pub const MOST_ADDRS: usize = 16;
/// A failed question is put again after the shortest wait, then after twice as long, up to this many seconds.
const RETRY_MOST: u64 = 300;

impl Default for Pace {
    /// Half a minute, because dynamic names have times to live of a minute and a list is no load test of a name server;
    /// an hour, because a day-long answer would keep a moved home out for a day.
    fn default() -> Pace {
        Pace { least: 30, most: 3_600 }
    }
}

impl Names {
    /// Nothing followed yet.
    #[must_use]
    pub fn new(pace: Pace) -> Names {
        Names { pace, ..Names::default() }
    }

    /// These are followed from now on, and nothing else. What is known of a name stays known.
    pub fn follow(&mut self, mut follows: Vec<Follow>, now: u64) {
        // A name twice on one list is one; the one that lasts is kept.
        follows.sort_by_key(|f| (f.list.clone(), f.host.clone(), !f.pinned, f.until.is_some(), f.until));
        follows.dedup_by(|b, a| a.list == b.list && a.host == b.host);
        let hosts: BTreeSet<&HostName> = follows.iter().map(|f| &f.host).collect();
        self.known.retain(|h, _| hosts.contains(h));
        for host in hosts {
            if !self.known.contains_key(host) {
                self.known.insert(host.clone(), Known { ask_at: now, ..Known::default() });
            }
        }
        self.follows = follows;
    }

    /// Another pace, and perhaps others who answer: every name is due now. What is known stays until there are answers.
    pub fn renew(&mut self, pace: Pace, now: u64) {
        self.pace = pace;
        for known in self.known.values_mut() {
            (known.ask_at, known.times) = (now, 0);
        }
    }

    /// What is followed.
    #[must_use]
    pub fn follows(&self) -> &[Follow] {
        &self.follows
    }

    /// What is known of a name.
    #[must_use]
    pub fn known(&self, host: &HostName) -> Option<&Known> {
        self.known.get(host)
    }

    /// The names to ask for now. They are not due again before an answer or [`RETRY_MOST`] seconds.
    pub fn take_due(&mut self, now: u64) -> Vec<HostName> {
        // Nothing is put off for so long: the clock was set back.
        let never = now.saturating_add(self.pace.most.max(self.pace.least).max(RETRY_MOST));
        let due = self.known.iter_mut().filter(|(_, k)| k.ask_at <= now || k.ask_at > never);
        due.map(|(h, k)| {
            k.ask_at = now.saturating_add(RETRY_MOST);
            h.clone()
        })
        .collect()
    }

    /// When something is due: a question, or the end of a follow.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let asks = self.known.values().map(|k| k.ask_at);
        asks.chain(self.follows.iter().filter_map(|f| f.until)).min()
    }

    /// Takes in what the name servers said. Returns true if the answer turned from good to bad or back.
    pub fn answered(&mut self, host: &HostName, v4: DnsOutcome, v6: DnsOutcome, now: u64) -> bool {
        let pace = self.pace;
        let Some(k) = self.known.get_mut(host) else { return false };
        let was = k.failed.is_some();
        let why = match (&v4, &v6) {
            (DnsOutcome::Failed(a), _) | (_, DnsOutcome::Failed(a)) => Some(a.clone()),
            (DnsOutcome::None(_), DnsOutcome::None(_)) => Some("it has no address".to_string()),
            _ => None,
        };
        let mut ttl = pace.most;
        k.left_out = 0;
        // No address at all is as a failure: the last good answer stays.
        let empty = matches!(
            (&v4, &v6),
            (DnsOutcome::None(_) | DnsOutcome::Failed(_), DnsOutcome::None(_) | DnsOutcome::Failed(_))
        );
        for (said, place) in [(v4, &mut k.v4), (v6, &mut k.v6)] {
            match said {
                DnsOutcome::Addrs(mut addrs, t) => {
                    k.left_out += addrs.len().saturating_sub(MOST_ADDRS);
                    addrs.truncate(MOST_ADDRS);
                    *place = Some(addrs);
                    ttl = ttl.min(t);
                }
                DnsOutcome::None(t) if !empty => {
                    *place = Some(Vec::new());
                    ttl = ttl.min(t);
                }
                DnsOutcome::None(_) | DnsOutcome::Failed(_) => {}
            }
        }
        if !empty {
            k.good_at = Some(now);
        }
        k.times = if why.is_some() { k.times.saturating_add(1) } else { 0 };
        let wait = if why.is_some() {
            (pace.least << (k.times - 1).min(10)).min(RETRY_MOST.max(pace.least))
        } else {
            ttl.max(pace.least)
        };
        k.ask_at = now.saturating_add(wait);
        k.failed = why;
        was != k.failed.is_some()
    }

    /// The events that make one list's grants equal to what its names say.
    #[must_use]
    pub fn reconcile<'a>(
        &self,
        list: &str,
        rules: &Rules,
        grants: impl IntoIterator<Item = &'a Grant>,
        now: u64,
    ) -> Vec<Event> {
        let follows: Vec<&Follow> =
            self.follows.iter().filter(|f| f.list == list && f.until.is_none_or(|u| now < u)).collect();
        let mut wanted: BTreeMap<(Prefix, &HostName), &Follow> = BTreeMap::new();
        for f in &follows {
            for addr in self.known.get(&f.host).into_iter().flat_map(Known::addrs) {
                if counts(addr, rules).is_ok() {
                    wanted.insert((rules.learnt(addr), &f.host), f);
                }
            }
        }
        let mut events = Vec::new();
        for g in grants {
            for claim in g.claims().filter(|c| c.evidence == Evidence::Dns) {
                let whose = follows.iter().find(|f| claim.principal.as_deref() == Some(&f.host.entry()));
                let known = whose.and_then(|f| self.known.get(&f.host));
                let by = match whose {
                    None => Some("its name is no longer followed".to_string()),
                    Some(f) => match wanted.get(&(g.prefix, &f.host)) {
                        Some(f) if (f.pinned, f.until) == (claim.pinned, claim.until) => {
                            wanted.remove(&(g.prefix, &f.host));
                            let since = claim.proved_at.max(g.seen_at).saturating_add(SEEN_STEP);
                            if known.and_then(|k| k.good_at).is_some_and(|at| at >= since) {
                                events.push(Event::Seen(list.to_string(), g.prefix.first()));
                            }
                            stale(rules, known, g, claim, now)
                        }
                        // Its end was set anew.
                        Some(_) => None,
                        None if known.is_some_and(|k| k.unasked(g.prefix.is_v4())) => {
                            stale(rules, known, g, claim, now)
                        }
                        None => Some(format!("{} is elsewhere", f.host)),
                    },
                };
                events.extend(by.map(|by| Event::Withdraw(g.id, claim.clone(), by)));
            }
        }
        for ((prefix, host), f) in wanted {
            if rules.statics.iter().any(|s| s.covers(prefix)) || self.is_stale(rules, host, now) {
                continue;
            }
            events.push(Event::Add(Entry {
                list: list.to_string(),
                prefix,
                evidence: Evidence::Dns,
                principal: Some(host.entry()),
                until: f.until,
                pinned: f.pinned,
            }));
        }
        events
    }

    fn is_stale(&self, rules: &Rules, host: &HostName, now: u64) -> bool {
        let good = self.known.get(host).and_then(|k| k.good_at);
        rules.ttl.zip(good).is_some_and(|(ttl, at)| now >= at.saturating_add(ttl))
    }
}

/// Whether an address of a name's answer counts on a list, and why not.
///
/// # Errors
/// The reason, for a person.
pub fn counts(addr: Addr, rules: &Rules) -> Result<(), &'static str> {
    let unspecified = addr.ip().is_unspecified() || addr.ip().is_multicast();
    match addr.ip() {
        _ if unspecified => Err("nobody can come from it"),
        ip if ip.is_loopback() && !rules.learn_private => Err("it is a loopback address: this machine itself"),
        _ if addr.is_private() && !rules.learn_private => {
            Err("it is a private address, which this list does not learn (name servers at home often answer so)")
        }
        _ => Ok(()),
    }
}

/// Why a kept answer is too old to stay.
fn stale(rules: &Rules, known: Option<&Known>, g: &Grant, claim: &Claim, now: u64) -> Option<String> {
    let latest = known.and_then(|k| k.good_at).map_or(g.seen_at, |at| at.max(g.seen_at));
    let ttl = rules.ttl.filter(|_| !claim.pinned)?;
    (now >= latest.saturating_add(ttl)).then(|| format!("no good answer for {ttl} s"))
}

impl Known {
    /// Every address of the last good answers.
    pub fn addrs(&self) -> impl Iterator<Item = Addr> {
        self.v4.iter().chain(&self.v6).flatten().copied()
    }

    /// What of the last good answers does not count on a list, and why: sentences for a person.
    #[must_use]
    pub fn not_counting(&self, rules: &Rules) -> Vec<String> {
        let mut said: Vec<String> = self
            .addrs()
            .filter_map(|a| counts(a, rules).err().map(|why| format!("{a} does not count: {why}")))
            .collect();
        if self.left_out > 0 {
            said.push(format!("{} more addresses do not count: {MOST_ADDRS} of a family do", self.left_out));
        }
        said
    }

    fn unasked(&self, v4: bool) -> bool {
        if v4 { self.v4.is_none() } else { self.v6.is_none() }
    }
}

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands on a list: `dns:home.example.net`.
    #[must_use]
    pub fn entry(&self) -> String {
        format!("dns:{}", self.0)
    }
}

impl FromStr for HostName {
    type Err = String;

    /// Reads a host name of at least two labels (RFC 1123 section 2.1, underscores allowed), with or without `dns:`.
    fn from_str(text: &str) -> Result<HostName, String> {
        let t = text.trim();
        let t = t.strip_prefix("dns:").unwrap_or(t).trim_end_matches('.').to_ascii_lowercase();
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if t.parse::<Addr>().is_ok() {
            return Err(format!("`{t}` is an address; write it without `dns:`"));
        }
        if t.len() > 253 || !t.contains('.') || !t.split('.').all(label) {
            return Err(format!("`{t}` is no full host name such as home.example.net"));
        }
        Ok(HostName(t))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use addr::AddrSet;

    const LIST: &str = "family";

    struct World {
        names: Names,
        ledger: Ledger,
        now: u64,
    }

    fn world(rules: Rules, hosts: &[&str]) -> World {
        let ledger = Ledger::new([(LIST.to_string(), rules)], AddrSet::default());
        let mut names = Names::new(Pace::default());
        let follow = |h: &&str| Follow { list: LIST.into(), host: h.parse().unwrap(), until: None, pinned: false };
        names.follow(hosts.iter().map(follow).collect(), 1_000);
        World { names, ledger, now: 1_000 }
    }

    impl World {
        fn said(&mut self, host: &str, v4: DnsOutcome, v6: DnsOutcome) {
            self.names.answered(&host.parse().unwrap(), v4, v6, self.now);
            self.settle();
        }

        fn settle(&mut self) {
            let rules = self.ledger.rules(LIST).unwrap().clone();
            for e in self.names.reconcile(LIST, &rules, self.ledger.grants(LIST), self.now) {
                self.ledger.handle(e, self.now);
            }
            // A second look changes nothing more.
            let more = self.names.reconcile(LIST, &rules, self.ledger.grants(LIST), self.now);
            assert!(more.iter().all(|e| matches!(e, Event::Seen(..))), "{more:?}");
        }

        fn on_list(&self) -> Vec<String> {
            self.ledger.grants(LIST).map(|g| format!("{} {}", g.prefix, crate::ledger::evidence(g))).collect()
        }
    }

    fn v4(addrs: &[&str]) -> DnsOutcome {
        DnsOutcome::Addrs(addrs.iter().map(|a| a.parse().unwrap()).collect(), 60)
    }

    #[test]
    fn an_address_comes_moves_and_goes() {
        let mut w = world(Rules::default(), &["home.example.net"]);
        w.said("home.example.net", v4(&["198.51.100.1"]), DnsOutcome::Addrs(vec!["2001:db8::9".parse().unwrap()], 60));
        assert_eq!(w.on_list(), ["198.51.100.1 dns", "2001:db8::/64 dns"]);
        w.now += 60;
        w.said("home.example.net", v4(&["198.51.100.2"]), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["198.51.100.2 dns"]);
        w.names.follow(Vec::new(), w.now);
        w.settle();
        assert!(w.on_list().is_empty());
    }

    #[test]
    fn the_last_good_answer_stays_for_the_ttl_of_the_list_and_over_a_restart() {
        let mut w = world(Rules { ttl: Some(1_000), ..Rules::default() }, &["home.example.net"]);
        w.said("home.example.net", v4(&["198.51.100.1"]), DnsOutcome::None(60));
        for _ in 0..3 {
            w.now += 300;
            w.said("home.example.net", DnsOutcome::Failed("no answer".into()), DnsOutcome::Failed("no answer".into()));
            assert_eq!(w.on_list(), ["198.51.100.1 dns"]);
        }
        // No such name any more is a failure too; so is a name without an address.
        w.said("home.example.net", DnsOutcome::None(60), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["198.51.100.1 dns"]);
        // A restart: nothing is known, the ledger has the grant.
        let mut fresh = world(Rules { ttl: Some(1_000), ..Rules::default() }, &["home.example.net"]);
        std::mem::swap(&mut w.names, &mut fresh.names);
        w.settle();
        assert_eq!(w.on_list(), ["198.51.100.1 dns"]);
        w.now += 100;
        w.settle();
        assert!(w.on_list().is_empty(), "{:?}", w.on_list());
    }

    #[test]
    fn private_addresses_only_when_asked_for_and_nothing_is_taken_from_others() {
        let mut w = world(Rules::default(), &["home.example.net", "work.example.net"]);
        w.said("home.example.net", v4(&["10.0.0.1", "127.0.0.1", "198.51.100.1"]), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["198.51.100.1 dns"]);
        // Two names with one address: it stays until both are elsewhere.
        w.said("work.example.net", v4(&["198.51.100.1"]), DnsOutcome::None(60));
        w.now += 60;
        w.said("home.example.net", v4(&["198.51.100.3"]), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["198.51.100.1 dns", "198.51.100.3 dns"]);
        // A person's entry for the same address is not touched, nor is it ended with the name.
        let by_hand = Entry {
            list: LIST.into(),
            prefix: "198.51.100.3".parse().unwrap(),
            evidence: Evidence::Manual,
            principal: None,
            until: None,
            pinned: true,
        };
        w.ledger.handle(Event::Add(by_hand), w.now);
        w.now += 60;
        w.said("home.example.net", v4(&["198.51.100.4"]), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["198.51.100.1 dns", "198.51.100.3 manual", "198.51.100.4 dns"]);
        let mut w = world(Rules { learn_private: true, ..Rules::default() }, &["home.example.net"]);
        w.said("home.example.net", v4(&["10.0.0.1"]), DnsOutcome::None(60));
        assert_eq!(w.on_list(), ["10.0.0.1 dns"]);
    }

    #[test]
    fn asked_again_within_bounds() {
        let mut w = world(Rules::default(), &["a.example.net", "b.example.net", "c.example.net"]);
        assert_eq!(w.names.take_due(1_000).len(), 3);
        assert!(w.names.take_due(1_000).is_empty());
        let addr = vec!["198.51.100.1".parse().unwrap()];
        w.said("a.example.net", DnsOutcome::Addrs(addr.clone(), 1), DnsOutcome::None(86_400));
        w.said("b.example.net", DnsOutcome::Addrs(addr, 86_400), DnsOutcome::None(86_400));
        let at = |w: &World, h: &str| w.names.known(&h.parse().unwrap()).unwrap().ask_at;
        assert_eq!((at(&w, "a.example.net"), at(&w, "b.example.net")), (1_030, 4_600));
        let mut last = 0;
        for _ in 0..20 {
            w.said("c.example.net", DnsOutcome::Failed("x".into()), DnsOutcome::None(60));
            let next = at(&w, "c.example.net") - w.now;
            assert!(next >= last && (30..=300).contains(&next), "{next}");
            last = next;
        }
        assert_eq!(last, 300);
    }

    #[test]
    fn names() {
        for (text, name) in [("dns:Home.Example.net.", "home.example.net"), ("a_b.example", "a_b.example")] {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), name);
        }
        for bad in ["dns:", "home", "a..b", "-a.b", "192.0.2.1", "dns:2001:db8::1", "a b.c", "*.example.net", "x.y:53"]
        {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}
