//! Cases of our own as files that a person can read: `golden/NAME/policy.hujson` and, beside it, `expect.txt` with what
//! comes of it on the network of `golden/topology.json`. `UPDATE_GOLDEN=1` writes what came; read it before keeping it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use policy::{Compiled, Policy, Topology, Verdict};

#[test]
fn every_golden_case() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let topology = Topology::read(&std::fs::read_to_string(dir.join("topology.json")).unwrap()).unwrap();
    let topology = Arc::new(topology);
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "the golden cases are missing");
    let mut wrong = Vec::new();
    for case in cases {
        let got = outcome(&std::fs::read_to_string(case.join("policy.hujson")).unwrap(), &topology);
        let expect = case.join("expect.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expect, &got).unwrap();
        }
        let want = std::fs::read_to_string(&expect).unwrap_or_default();
        if got != want {
            wrong.push(format!("--- {}\n{}", case.display(), difference(&want, &got)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Everything that comes of a policy, as lines.
fn outcome(text: &str, topology: &Arc<Topology>) -> String {
    let mut out = String::new();
    let policy = match Policy::parse(text) {
        Ok(p) => p,
        Err(problems) => {
            for p in problems {
                writeln!(out, "refused {p}").unwrap();
                if let Some(hint) = p.hint {
                    writeln!(out, "        hint: {hint}").unwrap();
                }
            }
            return out;
        }
    };
    for (name, ranges) in policy.ip_sets() {
        writeln!(out, "set {name}: {}", ranges.texts().collect::<Vec<_>>().join(" ")).unwrap();
    }
    for (name, set) in policy.list_sets() {
        let entries: Vec<String> = set.prefixes().iter().map(ToString::to_string).collect();
        writeln!(out, "list {name}: {}", entries.join(" ")).unwrap();
    }
    let compiled = Compiled::new(policy.into(), Arc::clone(topology));
    for o in compiled.run_tests() {
        let word = match o.verdict {
            Verdict::Holds => "holds",
            Verdict::Fails(_) => "FAILS",
            Verdict::Unknown(_) => "unknown",
        };
        writeln!(out, "{word} {}", o.asserted).unwrap();
    }
    // What every node has on every network is not what these cases are about.
    let plain = Policy::parse("{}").unwrap();
    let plain = Compiled::new(plain.into(), Arc::clone(topology));
    for view in compiled.for_all() {
        let common = plain.capabilities(view.node);
        let known = |l: &str| {
            common.keys().any(|k| {
                l.trim_start().strip_prefix("cap  ").is_some_and(|c| c == k || c.starts_with(&format!("{k}=")))
            })
        };
        for line in compiled.describe(&view).lines().filter(|l| !known(l)) {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

fn difference(want: &str, got: &str) -> String {
    let mut out = String::new();
    for line in want.lines().filter(|l| !got.lines().any(|g| g == *l)) {
        writeln!(out, "- {line}").unwrap();
    }
    for line in got.lines().filter(|l| !want.lines().any(|w| w == *l)) {
        writeln!(out, "+ {line}").unwrap();
    }
    out
}
