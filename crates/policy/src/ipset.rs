//! IP sets: named sets built step by step from addresses, hosts, the internet and other sets. In: the steps of a
//! policy. Out: the addresses of each set, or the circles that make it impossible.
//!
//! Steps run in order (public documentation, "IP sets"): `remove` takes out what stands there so far, and a later
//! `add` may bring it back.

use std::collections::BTreeMap;
use std::str::FromStr;

use addr::Prefix;

use super::language::Policy;
use super::ranges::Ranges;
use super::who::{Who, target_range};

/// What a set came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its addresses.
    pub ranges: Ranges,
    /// True if it was built from `autogroup:internet`, so that it stands for the internet at exit nodes.
    pub internet: bool,
}

/// The public internet: all addresses that are routed there, without private, link-local and mesh ranges
/// (RFC 1918, RFC 3927, RFC 6598; for IPv6 the global unicast range, RFC 4291 section 2.4).
#[must_use]
pub fn internet() -> Ranges {
    let mut all = prefixes(&["0.0.0.0/0", "2000::/3"]);
    all.remove(&prefixes(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"]));
    all
}

/// The addresses of nodes: what `*` means before approved routes. ChromeOS keeps 100.115.92.0/23 for itself.
#[must_use]
pub(crate) fn mesh() -> Ranges {
    let mut all = prefixes(&["100.64.0.0/10", "fd7a:115c:a1e0::/48"]);
    all.remove(&prefixes(&["100.115.92.0/23"]));
    all
}

/// Every set of the policy. Names that do not exist count as nothing; the check has refused them before.
#[must_use]
pub fn resolve(policy: &Policy) -> BTreeMap<String, Resolved> {
    let mut done: BTreeMap<String, Resolved> = BTreeMap::new();
    let (order, _) = order(policy);
    for name in order {
        let mut set = Resolved::default();
        for step in policy.ipsets.get(name).map(|s| s.it.as_slice()).unwrap_or_default() {
            let part = target(policy, &done, &step.it.who);
            if step.it.add {
                set.ranges.add(&part.ranges);
                set.internet |= part.internet;
            } else {
                set.ranges.remove(&part.ranges);
            }
        }
        set.internet &= !set.ranges.is_empty();
        done.insert(name.to_string(), set);
    }
    done
}

/// What one target of a set, a list or a service holds.
#[must_use]
pub(crate) fn target(policy: &Policy, sets: &BTreeMap<String, Resolved>, who: &Who) -> Resolved {
    match who {
        Who::Internet => Resolved { ranges: internet(), internet: true },
        Who::IpSet(name) => sets.get(name).cloned().unwrap_or_default(),
        Who::Host(name) => {
            Resolved { ranges: policy.hosts.get(name).map(|h| h.it).into_iter().collect(), internet: false }
        }
        _ => Resolved { ranges: Ranges::of(target_range(who)), internet: false },
    }
}

/// The circles among the sets; each begins and ends with the same name.
#[must_use]
pub fn circles(policy: &Policy) -> Vec<Vec<String>> {
    order(policy).1
}

/// The sets in an order in which each comes after those it uses, and the circles met on the way. Without recursion, so
/// that a long chain cannot exhaust the stack.
fn order(policy: &Policy) -> (Vec<&str>, Vec<Vec<String>>) {
    let uses = |name: &str| -> Vec<&str> {
        let steps = policy.ipsets.get(name).map(|s| s.it.as_slice()).unwrap_or_default();
        steps.iter().filter_map(|s| if let Who::IpSet(n) = &s.it.who { Some(n.as_str()) } else { None }).collect()
    };
    let (mut out, mut circles) = (Vec::new(), Vec::new());
    // Absent: not seen; false: on the path; true: finished.
    let mut state: BTreeMap<&str, bool> = BTreeMap::new();
    for start in policy.ipsets.keys() {
        if state.contains_key(start.as_str()) {
            continue;
        }
        state.insert(start, false);
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start, uses(start))];
        while let Some((name, rest)) = path.last_mut() {
            let Some(next) = rest.pop() else {
                state.insert(name, true);
                out.push(*name);
                path.pop();
                continue;
            };
            match state.get(next) {
                Some(true) => {}
                Some(false) => {
                    let from = path.iter().position(|(n, _)| *n == next).unwrap_or(0);
                    circles
                        .push(path[from..].iter().map(|(n, _)| (*n).to_string()).chain([next.to_string()]).collect());
                }
                None => {
                    state.insert(next, false);
                    path.push((next, uses(next)));
                }
            }
        }
    }
    (out, circles)
}

fn prefixes(texts: &[&str]) -> Ranges {
    texts.iter().filter_map(|t| Prefix::from_str(t).ok()).collect()
}
