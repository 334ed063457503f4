//! Lists of other programs taken over. In: Gatekeeper's file, or the rules of an nginx access list in their order. Out:
//! the same set of addresses as entries here, and each line that is not one, with the reason.

use addr::Prefix;

use crate::ours::traefik_items;
use crate::publish::NOBODY;

/// What stands in Gatekeeper's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// Addresses that it learned, the oldest first.
    pub learned: Vec<Prefix>,
    /// Entries that were configured there and never end.
    pub statics: Vec<Prefix>,
    /// What is neither, and why.
    pub not: Vec<(String, String)>,
}

/// Reads the entries of one middleware. `defaults` is what `DEFAULT_SOURCE_RANGE` says: Gatekeeper writes it behind what
/// it has learned, and learns nothing inside it. It learns single addresses only, so that a range was configured.
#[must_use]
pub fn gatekeeper(text: &str, middleware: &str, defaults: &[Prefix]) -> Learned {
    let mut out = Learned::default();
    for item in traefik_items(text, &[middleware.to_string()]) {
        let Ok(p) = item.parse::<Prefix>() else {
            // It writes an empty entry where the variable is empty.
            let shown = if item.is_empty() { "an empty entry".to_string() } else { item.clone() };
            out.not.push((shown, "it is no address".into()));
            continue;
        };
        if p.to_string() == NOBODY {
            continue;
        }
        if defaults.iter().any(|d| d.covers(p)) || !p.is_host() {
            if !out.statics.contains(&p) {
                out.statics.push(p);
            }
        } else if p.first().is_private() {
            out.not.push((
                item,
                "private addresses are not learned here; write it into `static` if it should stay".into(),
            ));
        } else if !out.learned.contains(&p) {
            out.learned.push(p);
        }
    }
    out
}

/// A rule of `ngx_http_access_module`: the first that an address matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxRule {
    /// True for `allow`, false for `deny`.
    pub allow: bool,
    /// An address, a prefix, or `all`.
    pub address: String,
}

/// What rules let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NginxAllowed {
    /// Everybody that they let in, and nobody else.
    pub prefixes: Vec<Prefix>,
    /// What had to be rewritten for that: the rule, and what became of it.
    pub rewritten: Vec<(String, String)>,
}

/// Prefixes that one list may become: cutting one address out of everything takes 160.
const MAX_PARTS: usize = 4_096;

/// The set that rules let in which end with `deny all`. A list here only says who may come in: an address that is denied
/// before a wider `allow` is cut out of it.
///
/// # Errors
/// A rule is no address, or the cuts become too many.
pub fn nginx(rules: &[NginxRule]) -> Result<NginxAllowed, String> {
    let mut out = NginxAllowed::default();
    let mut denied: Vec<Prefix> = Vec::new();
    for (n, rule) in rules.iter().enumerate() {
        let all = named(&rule.address)?;
        if !rule.allow {
            let allowed_before = all.iter().all(|d| out.prefixes.iter().any(|p| p.covers(*d)));
            let later =
                rules[n + 1..].iter().filter(|r| r.allow).map(|r| named(&r.address)).collect::<Result<Vec<_>, _>>()?;
            let cuts = later.iter().flatten().any(|a| all.iter().any(|d| overlap(*a, *d)));
            let why = match (allowed_before, cuts) {
                (true, _) => "without effect, what stands before it allows that",
                (_, true) => "cut out of what is allowed behind it",
                _ => "nobody is let in who is not allowed, so it is left out",
            };
            out.rewritten.push((format!("deny {}", rule.address), why.to_string()));
            denied.extend(all);
            continue;
        }
        let mut parts = Vec::new();
        for p in &all {
            cut(*p, &denied, &mut parts)?;
        }
        let allow = format!("allow {}", rule.address);
        if parts.is_empty() {
            out.rewritten.push((allow, "without effect, it is denied before".into()));
        } else if parts != all {
            out.rewritten.push((allow, format!("{} prefixes, without what is denied before it", parts.len())));
        }
        out.prefixes.extend(parts.into_iter().filter(|p| !out.prefixes.contains(p)).collect::<Vec<_>>());
        if out.prefixes.len() > MAX_PARTS {
            return Err(too_many());
        }
    }
    Ok(out)
}

fn too_many() -> String {
    format!("its rules become more than {MAX_PARTS} prefixes")
}

fn named(address: &str) -> Result<Vec<Prefix>, String> {
    if address == "all" {
        return Ok(vec![Prefix::ALL_V4, Prefix::ALL_V6]);
    }
    // nginx cuts host bits off as well.
    let read = Prefix::parse_lenient(address).map(|(p, _)| vec![p]);
    read.map_err(|_| format!("`{}` is no address and no prefix", address.escape_debug()))
}

fn overlap(a: Prefix, b: Prefix) -> bool {
    a.covers(b) || b.covers(a)
}

/// What remains of a prefix without others.
fn cut(p: Prefix, without: &[Prefix], out: &mut Vec<Prefix>) -> Result<(), String> {
    let near: Vec<Prefix> = without.iter().copied().filter(|w| overlap(p, *w)).collect();
    if near.iter().any(|w| w.covers(p)) {
        return Ok(());
    }
    if near.is_empty() {
        out.push(p);
        return if out.len() > MAX_PARTS { Err(too_many()) } else { Ok(()) };
    }
    let first = p.first();
    let half = 1u128 << (u32::from(first.width()) - u32::from(p.bits()) - 1);
    for bits in [first.bits(), first.bits() | half] {
        // Half of a prefix is one: something lies inside of it.
        if let Some(part) = Prefix::new(first.with_bits(bits), p.bits() + 1) {
            cut(part, &near, out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Addr, AddrSet};
    use proptest::prelude::*;

    fn rules(text: &str) -> Vec<NginxRule> {
        let rule = |t: &str| {
            let (word, address) = t.trim().split_once(' ').unwrap();
            NginxRule { allow: word == "allow", address: address.into() }
        };
        text.split(';').filter(|t| !t.trim().is_empty()).map(rule).collect()
    }

    #[test]
    fn gatekeepers_file_with_what_it_writes_itself() {
        let text = "http:\n  middlewares:\n    dynamic-whitelist:\n      IPAllowList:\n        sourceRange:\n        - 203.0.113.7\n        - 2001:db8::1\n        - 10.1.2.3\n        - 192.168.7.7\n        - 203.0.113.7\n        - 10.0.0.0/8\n        - 198.51.100.0/24\n        - ''\n    other:\n      IPAllowList:\n        sourceRange: [198.51.100.9]\n";
        let got = gatekeeper(text, "dynamic-whitelist", &["10.0.0.0/8".parse().unwrap()]);
        let texts = |all: &[Prefix]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&got.learned), ["203.0.113.7", "2001:db8::1"]);
        assert_eq!(texts(&got.statics), ["10.1.2.3", "10.0.0.0/8", "198.51.100.0/24"]);
        assert_eq!(got.not.iter().map(|(w, _)| w.as_str()).collect::<Vec<_>>(), ["192.168.7.7", "an empty entry"]);
        assert_eq!(gatekeeper("routers: {}", "dynamic-whitelist", &[]), Learned::default());
    }

    #[test]
    fn a_deny_counts_for_what_is_allowed_behind_it_only() {
        let got =
            nginx(&rules("deny 192.0.2.128/25; allow 192.0.2.0/24; deny 203.0.113.7; allow 198.51.100.7")).unwrap();
        assert_eq!(got.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.0/25", "198.51.100.7"]);
        assert_eq!(got.rewritten.len(), 3, "{:?}", got.rewritten);
        let got = nginx(&rules("allow all; deny 203.0.113.7")).unwrap();
        assert_eq!(got.prefixes, [Prefix::ALL_V4, Prefix::ALL_V6]);
        assert!(got.rewritten[0].1.contains("without effect"), "{:?}", got.rewritten);
        let got = nginx(&rules("deny 203.0.113.7; allow all")).unwrap();
        assert_eq!(got.prefixes.len(), 33);
        let got = nginx(&rules("deny all; allow 203.0.113.7")).unwrap();
        assert!(got.prefixes.is_empty() && got.rewritten.len() == 2, "{:?}", got.rewritten);
        assert!(nginx(&rules("allow example.com")).is_err() && nginx(&[]).unwrap().prefixes.is_empty());
    }

    proptest! {
        /// Against nginx's own way: the first rule that matches decides, and nobody else comes in.
        #[test]
        fn an_address_is_in_the_list_if_nginx_lets_it_in(
            all in prop::collection::vec((any::<bool>(), any::<u8>(), 24..=32u8), 0..8), last in any::<u8>(),
        ) {
            let rule = |(allow, host, bits): (bool, u8, u8)| NginxRule { allow, address: format!("192.0.2.{host}/{bits}") };
            let rules: Vec<NginxRule> = all.into_iter().map(rule).collect();
            let visitor: Addr = format!("192.0.2.{last}").parse().unwrap();
            let matches = |r: &&NginxRule| Prefix::parse_lenient(&r.address).unwrap().0.contains(visitor);
            let wanted = rules.iter().find(matches).is_some_and(|r| r.allow);
            let got = AddrSet::new(nginx(&rules).unwrap().prefixes);
            prop_assert_eq!(got.contains(visitor), wanted);
        }
    }
}
