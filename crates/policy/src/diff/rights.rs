//! What may pass from one place to another: protocols with their ports, capabilities of applications, logins. In: what
//! rules give. Out: the union, the difference, words.

use std::collections::{BTreeMap, BTreeSet};

use super::super::who::{Ports, Proto, proto_name};

/// TCP, UDP and both ICMPs: what a rule without a protocol opens.
const USUAL: [u8; 4] = [TCP, UDP, ICMP, ICMP6];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// The login names that are every name but `root`, and those that are the asking user's own.
pub(super) const NOT_ROOT: &str = "autogroup:nonroot";
pub(super) const OWN_NAME: &str = "localpart:";

/// What may pass.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rights {
    /// Ports by protocol, sorted and apart. ICMP has no ports; here it has all of them.
    nets: BTreeMap<u8, Vec<(u16, u16)>>,
    /// Capabilities with their values.
    apps: BTreeSet<String>,
    /// Login names, and whether a check is asked for.
    logins: BTreeMap<String, bool>,
}

impl Rights {
    /// What a destination of a rule opens.
    pub(super) fn of_nets(nets: &[(Proto, Vec<Ports>)]) -> Rights {
        let mut out = Rights::default();
        for (proto, ports) in nets {
            for p in proto.map_or(USUAL.to_vec(), |p| vec![p]) {
                let all = [Ports::ALL];
                let ports: &[Ports] = if p == ICMP || p == ICMP6 { &all } else { ports };
                out.nets.entry(p).or_default().extend(ports.iter().map(|r| (r.first, r.last)));
            }
        }
        out.nets.values_mut().for_each(join);
        out
    }

    pub(super) fn of_app(name: &str, value: &serde_json::Value) -> Rights {
        Rights { apps: [format!("app {name} {value}")].into(), ..Rights::default() }
    }

    pub(super) fn of_logins(names: impl IntoIterator<Item = String>, check: bool) -> Rights {
        Rights { logins: names.into_iter().map(|n| (n, check)).collect(), ..Rights::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty() && self.apps.is_empty() && self.logins.is_empty()
    }

    /// Takes in more. Of two rules for one login, the one with a check decides.
    pub(super) fn add(&mut self, other: &Rights) {
        for (proto, ports) in &other.nets {
            let mine = self.nets.entry(*proto).or_default();
            mine.extend(ports);
            join(mine);
        }
        self.apps.extend(other.apps.iter().cloned());
        for (name, check) in &other.logins {
            *self.logins.entry(name.clone()).or_default() |= check;
        }
    }

    /// What is here and not there.
    pub(super) fn minus(&self, other: &Rights) -> Rights {
        let mut out = Rights { apps: &self.apps - &other.apps, ..Rights::default() };
        for (proto, ports) in &self.nets {
            let mut rest = ports.clone();
            for cut in other.nets.get(proto).into_iter().flatten() {
                rest = rest.into_iter().flat_map(|r| without(r, *cut)).collect();
            }
            if !rest.is_empty() {
                out.nets.insert(*proto, rest);
            }
        }
        let changed = |name: &&String| self.login(name) != other.login(name);
        out.logins = self.logins.keys().filter(changed).map(|n| (n.clone(), self.login(n) == Some(true))).collect();
        // Whoever may log in as anybody but root, may as each of them.
        if let Some(all) = out.logins.get(NOT_ROOT).copied() {
            out.logins.retain(|name, check| matches!(name.as_str(), "root" | NOT_ROOT) || *check != all);
        }
        out
    }

    /// Whether one gets in under a login name, and if so, whether after a check.
    fn login(&self, name: &str) -> Option<bool> {
        let all = (name != "root").then(|| self.logins.get(NOT_ROOT)).flatten();
        match (self.logins.get(name), all) {
            (None, None) => None,
            (a, b) => Some(a.copied().unwrap_or(false) || b.copied().unwrap_or(false)),
        }
    }

    /// Protocols and ports.
    pub(super) fn nets(&self) -> BTreeMap<u8, Vec<Ports>> {
        let ports = |(first, last): &(u16, u16)| Ports { first: *first, last: *last };
        self.nets.iter().map(|(proto, list)| (*proto, list.iter().map(ports).collect())).collect()
    }

    /// The same in words: `tcp+udp+icmp:22`, `app example.com/cap/x [{}]`, `ssh as root after a check`.
    pub(super) fn words(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut rest = self.nets.clone();
        let text = |ports: &Vec<(u16, u16)>| -> String {
            let texts = ports.iter().map(|(first, last)| Ports { first: *first, last: *last }.to_string());
            texts.collect::<Vec<_>>().join(",")
        };
        let icmp = rest.contains_key(&ICMP) && rest.contains_key(&ICMP6);
        if let Some(tcp) = rest.get(&TCP).filter(|tcp| rest.get(&UDP) == Some(tcp)).cloned() {
            out.push(format!("tcp+udp{}:{}", if icmp { "+icmp" } else { "" }, text(&tcp)));
            rest.retain(|p, _| !matches!(*p, TCP | UDP) && (!icmp || !matches!(*p, ICMP | ICMP6)));
        } else if icmp {
            out.push("icmp".to_string());
            rest.retain(|p, _| !matches!(*p, ICMP | ICMP6));
        }
        for (proto, ports) in &rest {
            out.push(match *proto {
                ICMP | ICMP6 => proto_name(*proto),
                p => format!("{}:{}", proto_name(p), text(ports)),
            });
        }
        out.extend(self.apps.iter().cloned());
        out.extend(self.logins.iter().map(|(name, check)| {
            let name = match name.as_str() {
                NOT_ROOT => "any user but root",
                OWN_NAME => "their own name",
                name => name,
            };
            format!("ssh as {name}{}", if *check { " after a check" } else { "" })
        }));
        out
    }
}

/// Joins what overlaps or touches.
fn join(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges.drain(..) {
        match out.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => out.push((first, last)),
        }
    }
    *ranges = out;
}

/// A range of ports without another.
fn without((first, last): (u16, u16), (cut_first, cut_last): (u16, u16)) -> Vec<(u16, u16)> {
    if cut_last < first || cut_first > last {
        return vec![(first, last)];
    }
    let mut out = Vec::new();
    if cut_first > first {
        out.push((first, cut_first - 1));
    }
    if cut_last < last {
        out.push((cut_last + 1, last));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::who::read_net;
    use super::*;

    fn nets(texts: &[&str]) -> Rights {
        Rights::of_nets(&texts.iter().map(|t| read_net(t).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_left_is_said_in_few_words() {
        assert_eq!(nets(&["22"]).words(), ["tcp+udp+icmp:22"]);
        assert_eq!(nets(&["22", "80"]).minus(&nets(&["22"])).words(), ["tcp+udp:80"], "icmp passed before");
        assert_eq!(nets(&["22"]).minus(&nets(&["tcp:22", "udp:*"])).words(), ["icmp"]);
        assert_eq!(nets(&["*"]).minus(&nets(&["tcp:1-9"])).words().len(), 3);
        assert!(nets(&["tcp:5"]).minus(&nets(&["tcp:1-9"])).is_empty());
    }

    #[test]
    fn logins_of_all_hold_those_of_each() {
        let logins = |names: &[&str], check| Rights::of_logins(names.iter().map(|n| (*n).to_string()), check);
        let (all, one) = (logins(&[NOT_ROOT], false), logins(&["deploy", "root"], false));
        assert_eq!(one.minus(&all).words(), ["ssh as root"]);
        assert_eq!(all.minus(&one).words(), ["ssh as any user but root"]);
        let mut both = all.clone();
        both.add(&logins(&["deploy"], true));
        assert_eq!(both.minus(&all).words(), ["ssh as deploy after a check"], "the stricter one decides");
        assert_eq!(all.minus(&both).words(), Vec::<String>::new());
    }
}
