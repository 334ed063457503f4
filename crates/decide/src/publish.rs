//! What an enforcer should hold. In: the ledger. Out: the desired entries of a list, merged, and their text for each
//! kind of enforcer. Only parsed prefixes and numbers are ever written: no name of a person or a service can become
//! an instruction in somebody else's configuration.

use std::fmt::Write as _;

use model::{Addr, Grant, Prefix};

use crate::grant::Ledger;

/// The entries a list should have, at a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Counts up at every change of any list.
    pub generation: u64,
    /// The list.
    pub list: String,
    /// Entries that are always there.
    pub statics: Vec<Prefix>,
    /// Learnt entries in the order in which they were given, each with its end (seconds since the Unix epoch).
    pub learnt: Vec<(Prefix, Option<u64>)>,
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
        learnt: ledger.grants(list).map(entry).collect(),
    }
}

impl Desired {
    /// Learnt entries, then static ones, each once, without those that another one covers. At least one: [`NOBODY`]
    /// stands for nobody.
    #[must_use]
    pub fn entries(&self) -> Vec<Prefix> {
        let all = self.learnt.iter().map(|(p, _)| *p).chain(self.statics.iter().copied());
        let kept = uncovered(all.collect());
        if kept.is_empty() { nobody() } else { kept }
    }

    /// The fewest prefixes that hold exactly the same addresses, in order: neighbours become one.
    #[must_use]
    pub fn merged(&self) -> Vec<Prefix> {
        merge(self.entries())
    }
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
pub fn traefik_yaml(middlewares: &[Middleware], key: TraefikKey) -> String {
    let key = match key {
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
        }
    };
    section("http", &|_| true);
    section("tcp", &|m| m.tcp);
    out
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

/// A table of our own for `nft -f`, as one transaction that replaces the one before. `learnt`: entries with the seconds
/// they have left; the kernel takes them out when these are over, even if nobody else does. Only the listed may reach
/// these TCP and UDP ports of this machine, container ports that are published on it included (the hook stands before
/// their destination is rewritten). No packet is let through for belonging to a known flow, so an address that
/// leaves the list is cut, not only refused.
#[must_use]
pub fn nft_table(statics: &[Prefix], learnt: &[(Prefix, Option<u64>)], ports: &[u16]) -> String {
    let mut out = String::from("table inet portcullis\ndelete table inet portcullis\ntable inet portcullis {\n");
    let kept = uncovered(learnt.iter().map(|(p, _)| *p).collect());
    let left: std::collections::BTreeMap<Prefix, Option<u64>> = learnt.iter().copied().collect();
    let mut set = |name: &str, family: &str, flags: &str, elements: Vec<String>| {
        let _ = write!(out, "  set {name} {{\n    type {family}\n    flags {flags}\n");
        if flags == "interval" {
            out.push_str("    auto-merge\n");
        }
        if !elements.is_empty() {
            let _ = writeln!(out, "    elements = {{ {} }}", elements.join(", "));
        }
        out.push_str("  }\n");
    };
    let timed = |v4: bool, host: bool| -> Vec<String> {
        let those = kept.iter().filter(|p| p.is_v4() == v4 && (p.is_host() && v4) == host);
        those
            .map(|p| match left.get(p).copied().flatten() {
                Some(secs) => format!("{p} timeout {}s", secs.max(1)),
                None => p.to_string(),
            })
            .collect()
    };
    let fixed = |v4: bool| statics.iter().filter(|p| p.is_v4() == v4).map(ToString::to_string).collect();
    set("host4", "ipv4_addr", "timeout", timed(true, true));
    set("net4", "ipv4_addr", "interval,timeout", timed(true, false));
    set("net6", "ipv6_addr", "interval,timeout", timed(false, false));
    set("static4", "ipv4_addr", "interval", fixed(true));
    set("static6", "ipv6_addr", "interval", fixed(false));
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(", ");
    let _ = write!(
        out,
        "  chain before {{\n    type filter hook prerouting priority mangle; policy accept;\n    iif \"lo\" return\n    fib daddr type != local return\n    tcp dport {{ {ports} }} jump guard\n    udp dport {{ {ports} }} jump guard\n  }}\n  chain guard {{\n    ip saddr @host4 return\n    ip saddr @net4 return\n    ip saddr @static4 return\n    ip6 saddr @net6 return\n    ip6 saddr @static6 return\n    counter drop\n  }}\n}}\n"
    );
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

/// The addresses of an earlier gate's file: every item of a `sourceRange` list that is a prefix, in order.
#[must_use]
pub fn read_traefik_yaml(text: &str) -> Vec<Prefix> {
    let mut out = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let body = line.split(" #").next().unwrap_or_default().trim();
        if let Some(rest) = body.strip_prefix("sourceRange:").or_else(|| body.strip_prefix("sourcerange:")) {
            inside = true;
            let rest = rest.trim().trim_start_matches('[').trim_end_matches(']');
            out.extend(rest.split(',').filter_map(item));
        } else if let (true, Some(rest)) = (inside, body.strip_prefix('-')) {
            out.extend(item(rest));
        } else if !body.is_empty() && !body.starts_with('#') {
            inside = false;
        }
    }
    out
}

fn item(text: &str) -> Option<Prefix> {
    text.trim().trim_matches(['"', '\'']).parse().ok().filter(|p: &Prefix| p.to_string() != NOBODY)
}

fn entry(g: &Grant) -> (Prefix, Option<u64>) {
    (g.prefix, g.ends_at())
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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

    #[test]
    fn a_list_of_nobody_is_never_an_empty_list() {
        let d = Desired::default();
        let yaml =
            traefik_yaml(&[Middleware { name: "x".into(), entries: Vec::new(), tcp: true }], TraefikKey::default());
        assert_eq!(d.entries(), ps(&[NOBODY]));
        assert!(yaml.contains(
            "tcp:\n  middlewares:\n    x:\n      ipAllowList:\n        sourceRange:\n        - \"255.255.255.255\"\n"
        ));
    }

    #[test]
    fn the_file_of_gatekeeper_is_read() {
        let text = "http:\n  middlewares:\n    dynamic-whitelist:\n      IPAllowList:\n        sourceRange:\n        - 203.0.113.7\n        - 2001:DB8::1\n        - ''\n        - 10.0.0.0/8\n";
        assert_eq!(read_traefik_yaml(text), ps(&["203.0.113.7", "2001:db8::1", "10.0.0.0/8"]));
        assert_eq!(
            read_traefik_yaml("a:\n  sourceRange: [\"192.0.2.1\", '192.0.2.0/24']\nb:\n - 192.0.2.9"),
            ps(&["192.0.2.1", "192.0.2.0/24"])
        );
    }

    #[test]
    fn names_that_could_be_templates_are_refused() {
        assert!(is_plain_name("dynamic-whitelist-immich_server.1"));
        for bad in ["", "{{x}}", "a b", "a:", "-a", "a\n"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
