//! Whose a file is. In: what stands in a file that is to be written, and what the gate writes into it. Out: whether all
//! of it is the gate's own, or the first thing that is somebody else's; and the entries of Traefik's middlewares that an
//! earlier gate left.

use addr::Prefix;

use crate::publish::NOBODY;

/// The beginning of each file that has room for a comment.
pub const MARKER: &str = "# Written by portcullis";

/// The keys of a middleware that a gate writes, in lower case.
const MIDDLEWARES: [&str; 2] = ["ipallowlist", "ipwhitelist"];

/// The formats of files, each with what tells its lines from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format<'a> {
    /// Traefik's dynamic configuration with these middlewares.
    Traefik(&'a [String]),
    /// `CIDR 1;` for nginx's `geo`.
    Geo,
    /// `CIDR 1` for HAProxy's `map_ip`.
    Map,
    /// One prefix a line.
    Lines,
}

/// The first thing in a file that a gate does not write there, in words such as `http.routers` or `line 3`. `None`: the
/// file is the gate's, an earlier gate's, or empty.
#[must_use]
pub fn foreign(text: &str, format: Format<'_>) -> Option<String> {
    if text.trim_start_matches('\u{feff}').starts_with(MARKER) {
        return None;
    }
    let line = |n: usize| format!("line {}", n + 1);
    let prefix = |t: &str| t.parse::<Prefix>().is_ok();
    let lines = || text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    match format {
        Format::Traefik(middlewares) => {
            let of_others = |step: &Step| match step {
                Step::Key(path) => !is_ours(path, middlewares),
                Step::Item(path, _) => path.len() <= ITEMS_FROM || !is_ours(path, middlewares),
                Step::Unread => true,
            };
            steps(text).into_iter().find(|(_, step)| of_others(step)).map(|(n, step)| match step {
                Step::Key(path) => path.join("."),
                Step::Item(..) | Step::Unread => line(n),
            })
        }
        Format::Geo => lines()
            .find(|(_, l)| {
                let entry = l.trim().strip_suffix(';').and_then(|l| l.trim_end().strip_suffix(['1', '0']));
                !l.trim().starts_with('#') && !entry.is_some_and(|e| prefix(e.trim_end()))
            })
            .map(|(n, _)| line(n)),
        Format::Map => lines()
            .find(|(_, l)| {
                let key = l.split_whitespace().next().unwrap_or_default();
                !l.trim().starts_with('#') && !prefix(key)
            })
            .map(|(n, _)| line(n)),
        Format::Lines => lines().find(|(_, l)| !l.trim().starts_with('#') && !prefix(l.trim())).map(|(n, _)| line(n)),
    }
}

/// The entries of these middlewares in a file of Traefik's, in order, each once. Other middlewares' are left alone.
#[must_use]
pub fn traefik_entries(text: &str, middlewares: &[String]) -> Vec<Prefix> {
    let mut out: Vec<Prefix> = Vec::new();
    for value in traefik_items(text, middlewares) {
        let entry = value.parse().ok().filter(|p: &Prefix| p.to_string() != NOBODY);
        out.extend(entry.filter(|p| !out.contains(p)));
    }
    out
}

/// The same as they are written, whatever they are.
pub(crate) fn traefik_items(text: &str, middlewares: &[String]) -> Vec<String> {
    let item = |(_, step)| match step {
        Step::Item(path, value) => {
            let range = path.last().is_some_and(|k: &String| k.eq_ignore_ascii_case("sourceRange"));
            (range && path.len() == ITEMS_FROM + 1 && is_ours(&path, middlewares)).then_some(value)
        }
        _ => None,
    };
    steps(text).into_iter().filter_map(item).collect()
}

/// Lists stand below `http.middlewares.NAME.ipAllowList`.
const ITEMS_FROM: usize = 4;

fn is_ours(path: &[String], middlewares: &[String]) -> bool {
    let one_of =
        |i: usize, words: &[&str]| path.get(i).is_none_or(|k| words.contains(&k.to_ascii_lowercase().as_str()));
    one_of(0, &["http", "tcp"])
        && one_of(1, &["middlewares"])
        && path.get(2).is_none_or(|name| middlewares.contains(name))
        && one_of(3, &MIDDLEWARES)
}

/// What a line of a YAML file says, as far as gates write them: mappings and lists of plain or quoted words, lists also
/// as `[a, b]`. Everything else is not read, and so is not ours.
#[derive(Debug, PartialEq)]
enum Step {
    /// A key, with all keys above it.
    Key(Vec<String>),
    /// An item of a list below these keys.
    Item(Vec<String>, String),
    Unread,
}

fn steps(text: &str) -> Vec<(usize, Step)> {
    let mut out = Vec::new();
    // The keys above, each with its indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    for (n, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let body = without_comment(line);
        let bare = body.trim();
        if bare.is_empty() || bare == "---" {
            continue;
        }
        let indent = body.len() - body.trim_start_matches(' ').len();
        if let Some(item) = bare.strip_prefix('-').filter(|i| i.starts_with(' ')) {
            // A list may stand as far left as its key.
            above.retain(|(at, _)| *at <= indent);
            out.push((n, word(item).map_or(Step::Unread, |w| Step::Item(keys(&above), w))));
            continue;
        }
        above.retain(|(at, _)| *at < indent);
        let Some((key, value)) = bare.split_once(':').filter(|(_, v)| v.is_empty() || v.starts_with(' ')) else {
            out.push((n, Step::Unread));
            continue;
        };
        let Some(key) = word(key) else {
            out.push((n, Step::Unread));
            continue;
        };
        above.push((indent, key));
        out.push((n, Step::Key(keys(&above))));
        let value = value.trim();
        if let Some(items) = value.strip_prefix('[') {
            let Some(items) = items.strip_suffix(']') else {
                out.push((n, Step::Unread));
                continue;
            };
            for item in items.split(',').filter(|i| !i.trim().is_empty()) {
                out.push((n, word(item).map_or(Step::Unread, |w| Step::Item(keys(&above), w))));
            }
        } else if !matches!(value, "" | "{}") && word(value).is_none() {
            out.push((n, Step::Unread));
        }
    }
    out
}

fn keys(above: &[(usize, String)]) -> Vec<String> {
    above.iter().map(|(_, key)| key.clone()).collect()
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.split(" #").next().unwrap_or_default().trim_end()
}

/// A word, without its quotes. `None` for what YAML reads as something else: mappings, anchors, tags, templates.
fn word(text: &str) -> Option<String> {
    let t = text.trim();
    let quoted = |q: char| t.strip_prefix(q).and_then(|r| r.strip_suffix(q));
    if let Some(inner) = quoted('"').or_else(|| quoted('\'')) {
        return (!inner.contains(['"', '\'', '\\'])).then(|| inner.to_string());
    }
    let plain = t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/'));
    (plain && !t.is_empty()).then(|| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{
        IpStrategy, Middleware, TraefikKey, TraefikStyle, haproxy_map, lines, merge, nginx_geo, traefik_yaml,
    };
    use addr::Addr;
    use proptest::prelude::*;

    fn names(text: &[&str]) -> Vec<String> {
        text.iter().map(|t| (*t).to_string()).collect()
    }

    fn traefik(text: &str) -> Option<String> {
        foreign(text, Format::Traefik(&names(&["dynamic-whitelist"])))
    }

    /// As Python's yaml module writes it.
    const GATEKEEPER: &str = "http:\n  middlewares:\n    dynamic-whitelist:\n      ipWhiteList:\n        sourceRange:\n        - 203.0.113.7\n        - 2001:db8::1\n        - 10.0.0.0/8\n";

    #[test]
    fn a_gates_own_files_are_known() {
        assert_eq!(traefik(""), None);
        assert_eq!(traefik("# only a note\n\n"), None);
        assert_eq!(traefik(GATEKEEPER), None);
        assert_eq!(traefik("# Written by portcullis; anything\nhttp:\n  routers: {}\n"), None);
        let flow = "http:\n  middlewares:\n    dynamic-whitelist:\n      ipAllowList:\n        sourceRange: [203.0.113.9/32, \"::1\"]\n";
        assert_eq!(traefik(flow), None);
    }

    #[test]
    fn what_others_wrote_is_named() {
        let with = |more: &str| format!("{GATEKEEPER}{more}");
        for (text, found) in [
            (with("  routers:\n    ha:\n      rule: Host(`ha.example.com`)\n"), "http.routers"),
            (
                with("    my-own:\n      ipAllowList:\n        sourceRange:\n          - 10.0.0.0/8\n"),
                "http.middlewares.my-own",
            ),
            (with("tls:\n  options: {}\n"), "tls"),
            (
                "http:\n  middlewares:\n    dynamic-whitelist:\n      headers:\n        a: b\n".to_string(),
                "http.middlewares.dynamic-whitelist.headers",
            ),
            ("{http: {routers: {}}}\n".to_string(), "line 1"),
            ("just words\n".to_string(), "line 1"),
            ("- a\n".to_string(), "line 1"),
            ("http: &anchor\n".to_string(), "line 1"),
        ] {
            assert_eq!(traefik(&text).as_deref(), Some(found), "{text}");
        }
    }

    #[test]
    fn only_own_entries_are_taken_over() {
        let all: Vec<String> =
            traefik_entries(GATEKEEPER, &names(&["dynamic-whitelist"])).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["203.0.113.7", "2001:db8::1", "10.0.0.0/8"]);
        let two =
            format!("{GATEKEEPER}    my-own:\n      ipAllowList:\n        sourceRange:\n          - 192.0.2.0/24\n");
        assert_eq!(traefik_entries(&two, &names(&["my-own"])), ["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(traefik_entries(&two, &names(&["other"])), []);
        let flow = "http:\n  middlewares:\n    a:\n      ipAllowList:\n        sourceRange: [203.0.113.9/32, '198.51.100.0/24'] # two\n        ipStrategy:\n          excludedIPs:\n            - 10.9.9.9\n";
        let read = traefik_entries(flow, &names(&["a"]));
        assert_eq!(read, ["203.0.113.9".parse().unwrap(), "198.51.100.0/24".parse().unwrap()]);
        let nobody = GATEKEEPER.replace("203.0.113.7", NOBODY);
        assert_eq!(traefik_entries(&nobody, &names(&["dynamic-whitelist"])).len(), 2);
    }

    #[test]
    fn lists_of_others_are_known_too() {
        assert_eq!(foreign("192.0.2.1 1;\n10.0.0.0/8 1;\n", Format::Geo), None);
        assert_eq!(foreign("# note\nserver {\n", Format::Geo).as_deref(), Some("line 2"));
        assert_eq!(foreign("192.0.2.1 1\n", Format::Map), None);
        assert_eq!(foreign("192.0.2.1 1\nexample.com backend\n", Format::Map).as_deref(), Some("line 2"));
        assert_eq!(foreign("192.0.2.1\n# note\n10.0.0.0/8\n", Format::Lines), None);
        assert_eq!(foreign("#!/bin/sh\nrm -r x\n", Format::Lines).as_deref(), Some("line 2"));
    }

    fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
        let v4 =
            (any::<u32>(), 0u8..=32).prop_map(|(a, w)| Prefix::new(Addr::new(std::net::Ipv4Addr::from(a).into()), w));
        let v6 =
            (any::<u128>(), 0u8..=128).prop_map(|(a, w)| Prefix::new(Addr::new(std::net::Ipv6Addr::from(a).into()), w));
        prop::collection::vec(prop_oneof![v4, v6].prop_map(Option::unwrap), 0..12)
    }

    proptest! {
        /// Whatever a gate writes it takes for its own at the next start, also where a person removed the first line, and
        /// reads the same entries from it.
        #[test]
        fn what_a_gate_writes_is_its_own(entries in prefixes(), tcp in any::<bool>(), old in any::<bool>(), status in prop::option::of(400u16..600), excluded in prefixes()) {
            let bare = |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect::<String>();
            let merged = merge(entries.clone());
            for (text, format) in
                [(nginx_geo(&merged), Format::Geo), (haproxy_map(&merged), Format::Map), (lines(&merged), Format::Lines)]
            {
                prop_assert_eq!(foreign(&text, format), None, "{}", text);
                prop_assert_eq!(foreign(&bare(&text), format), None, "{}", text);
            }
            let list = Middleware { name: "dynamic-whitelist".into(), entries, tcp };
            let key = if old { TraefikKey::IpWhiteList } else { TraefikKey::IpAllowList };
            let style = TraefikStyle { key, strategy: Some(IpStrategy::Excluded(excluded)), reject: status };
            let text = traefik_yaml(std::slice::from_ref(&list), &style);
            prop_assert_eq!(traefik(&text), None);
            let mut want: Vec<Prefix> = Vec::new();
            for p in list.entries.iter().filter(|p| p.to_string() != NOBODY) {
                if !want.contains(p) { want.push(*p) }
            }
            prop_assert_eq!(traefik_entries(&bare(&text), &names(&["dynamic-whitelist"])), want);
        }

        /// Any text is read without a panic, and what is somebody else's is named by a line that is there.
        #[test]
        fn any_text_is_read(text in "[ a-z0-9:./#\\-\\[\\]{}\"';\n&*]{0,200}") {
            for format in [Format::Geo, Format::Map, Format::Lines, Format::Traefik(&names(&["a", "b"]))] {
                if let Some(line) = foreign(&text, format).and_then(|w| w.strip_prefix("line ").map(str::to_string)) {
                    prop_assert!((1..=text.lines().count()).contains(&line.parse().unwrap()));
                }
            }
            prop_assert!(traefik_entries(&text, &names(&["a"])).len() <= text.len());
        }
    }
}
