//! App connectors for people: what each app stands for, who learns for it, what was learnt. In: a snapshot. Out: tables.

use std::collections::BTreeMap;

use model::{Addr, Prefix};
use wire::mesh::Learnt;

use super::snapshot::{Member, Snapshot, covers};

/// An app of the policy.
#[derive(Debug, Clone)]
pub struct App<'s> {
    /// Its name.
    pub name: String,
    /// Its domains, as written.
    pub domains: Vec<String>,
    /// Its pinned routes.
    pub pinned: Vec<Prefix>,
    /// The nodes that learn for it.
    pub connectors: Vec<&'s Member>,
    /// What they have learnt.
    pub learnt: Vec<(&'s Member, &'s Learnt)>,
}

/// Addresses of one node that are remembered at all, routed or not.
const REMEMBERED: usize = 8_000;

impl App<'_> {
    /// True if the app stands for this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.domains.iter().any(|d| covers(d, name))
    }
}

impl Snapshot {
    /// Every app of the policy, by name.
    #[must_use]
    pub fn apps(&self) -> Vec<App<'_>> {
        let mut out: BTreeMap<&str, App<'_>> = BTreeMap::new();
        let connectors = self.compiled.policy().node_attrs.iter().flat_map(|a| &a.connectors);
        for c in connectors {
            let app = out.entry(c.name.as_str()).or_insert_with(|| App {
                name: c.name.clone(),
                domains: Vec::new(),
                pinned: Vec::new(),
                connectors: Vec::new(),
                learnt: Vec::new(),
            });
            app.domains.extend(c.domains.iter().map(|d| d.it.clone()));
            app.pinned.extend(c.routes.iter().map(|r| r.it));
            let learns = |m: &&Member| c.connectors.iter().any(|t| t.it == "*" || m.node.tags.contains(&t.it));
            for m in self.nodes.values().filter(learns) {
                if !app.connectors.iter().any(|o| o.node.id == m.node.id) {
                    app.connectors.push(m);
                }
                let of = |l: &&Learnt| c.domains.iter().any(|d| covers(&d.it, &l.domain));
                app.learnt.extend(m.node.learnt.iter().filter(of).map(|l| (m, l)));
            }
        }
        out.into_values().collect()
    }
}

/// Addresses of one node that learnt, at most: a wildcard over a large service finds thousands, and each is a route in
/// everybody's map.
const MOST: usize = 1_000;
/// A sign of life is written down this often, in seconds, so that a name asked every few seconds is not a write each.
const WRITE: u64 = 60;

/// What is known of a connector's names once it has told what it knows. What it has forgotten is forgotten; beyond
/// `MOST` addresses the ones seen longest ago have no route.
#[must_use]
pub fn told(old: &[Learnt], told: &BTreeMap<String, Vec<Addr>>, now: u64) -> Vec<Learnt> {
    let known: BTreeMap<(&str, Addr), &Learnt> = old.iter().map(|l| ((l.domain.as_str(), l.addr), l)).collect();
    let mut out: Vec<Learnt> = Vec::new();
    for (domain, addrs) in told {
        for addr in addrs {
            out.push(match known.get(&(domain.as_str(), *addr)) {
                Some(l) => (*l).clone(),
                None => Learnt { domain: domain.clone(), addr: *addr, since: now, seen: now, gone: false },
            });
        }
    }
    out.sort();
    out.dedup_by(|a, b| a.domain == b.domain && a.addr == b.addr);
    out.truncate(REMEMBERED);
    let live = out.iter().filter(|l| !l.gone).count();
    if live > MOST {
        let mut order: Vec<usize> = (0..out.len()).filter(|i| !out[*i].gone).collect();
        order.sort_by_key(|i| (out[*i].seen, out[*i].since));
        order.truncate(live - MOST);
        order.into_iter().for_each(|i| out[i].gone = true);
    }
    out
}

/// What is known once a name has answered. An address that it has not answered with for `patience` seconds has no route
/// any more; one that comes back has.
#[must_use]
pub fn answered(old: &[Learnt], domain: &str, answer: &[Addr], now: u64, patience: u64) -> Vec<Learnt> {
    let fresh = |l: &Learnt| {
        if l.domain != domain {
            return l.clone();
        }
        let mut l = l.clone();
        if answer.contains(&l.addr) {
            if l.gone || now >= l.seen + WRITE.min(patience / 2) {
                l.seen = now;
            }
            l.gone = false;
        } else if now >= l.seen.saturating_add(patience) {
            l.gone = true;
        }
        l
    };
    old.iter().map(fresh).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addr(n: u32) -> Addr {
        Addr::new(std::net::Ipv4Addr::from(0xC633_6400 + n).into())
    }

    #[test]
    fn an_address_goes_when_its_name_stops_answering_with_it_and_comes_back() {
        let known = BTreeMap::from([("x.example".to_string(), vec![addr(1), addr(2)])]);
        let at_first = told(&[], &known, 100);
        let later = answered(&at_first, "x.example", &[addr(2)], 130, 60);
        assert!(later.iter().all(|l| !l.gone), "not yet");
        let gone = answered(&later, "x.example", &[addr(2)], 161, 60);
        assert_eq!(gone.iter().map(|l| l.gone).collect::<Vec<_>>(), [true, false]);
        // The connector keeps what it has learnt for ever; that does not bring the route back.
        let still = told(&gone, &known, 170);
        assert_eq!(still, gone);
        let back = answered(&still, "x.example", &[addr(1)], 180, 60);
        assert!(!back[0].gone && back[0].since == 100 && back[0].seen == 180);
        assert!(answered(&gone, "y.example", &[], 999, 60) == gone, "another name says nothing about this one");
    }

    #[test]
    fn a_name_that_finds_thousands_has_so_many_routes_and_no_more() {
        let many = BTreeMap::from([("x.example".to_string(), (0..3_000).map(addr).collect::<Vec<_>>())]);
        let all = told(&[], &many, 100);
        assert_eq!(all.iter().filter(|l| !l.gone).count(), MOST);
        let none = told(&all, &BTreeMap::new(), 200);
        assert!(none.is_empty());
    }
}
