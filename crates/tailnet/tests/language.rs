//! What the policy language takes and what it refuses, with which words; and what its tests say of people who are not
//! here yet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::sync::Arc;

use policy::{Compiled, Policy, Question, Topology, Verdict};
use tailnet::{Registry, Saved, Settings};

/// The problems of a document, each with its hint.
fn problems(text: &str) -> Vec<String> {
    match Policy::parse(text) {
        Ok(_) => Vec::new(),
        Err(p) => p.into_iter().map(|p| format!("{}; {}", p.message, p.hint.unwrap_or_default())).collect(),
    }
}

#[track_caller]
fn refused(text: &str, word: &str) {
    let got = problems(text);
    assert!(got.iter().any(|p| p.contains(word)), "`{word}` in {got:?} of {text}");
}

#[track_caller]
fn taken(text: &str) {
    assert_eq!(problems(text), Vec::<String>::new(), "{text}");
}

const NODES: &str = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}, {"id": 2, "name": "ben", "email": "ben@example.com"}],
    "nodes": {"boat": {"user": "ada", "ipv4": "100.64.0.1", "posture": {"node:os": "linux"}}, "db1": {"tags": ["tag:db"], "ipv4": "100.64.0.2"}}}"#;

fn compiled(text: &str) -> Compiled {
    Compiled::new(Arc::new(Policy::parse(text).unwrap()), Arc::new(Topology::read(NODES).unwrap()))
}

#[test]
fn icmp_is_tested_at_port_0() {
    let with = |test: &str, ip: &str| {
        format!(
            r#"{{"tagOwners": {{"tag:db": []}}, "grants": [{{"src": ["ada@example.com"], "dst": ["tag:db"], "ip": ["{ip}"]}}], "tests": [{test}]}}"#
        )
    };
    let test = r#"{"src": "ada@example.com", "accept": ["tag:db:0"], "proto": "icmp"}"#;
    let holds = |ip: &str| compiled(&with(test, ip)).run_tests()[0].holds();
    assert!(holds("icmp:*") && holds("*") && holds("22"), "what opens a port without a protocol opens ICMP");
    assert!(!holds("tcp:22"));
    refused(&with(&test.replace(":0", ":22"), "*"), "icmp has no ports; write `tag:db:0`");
    refused(&with(&test.replace("icmp", "tcp"), "*"), "a port is above 0");
    refused(&with(&test.replace("icmp", "gre"), "*"), "a test speaks tcp, udp, sctp or icmp");
}

#[test]
fn capabilities_of_applications_are_granted_and_those_of_servers_are_not() {
    let with = |cap: &str| {
        format!(r#"{{"grants": [{{"src": ["*"], "dst": ["*"], "app": {{"{cap}": [{{"admin": true}}]}}}}]}}"#)
    };
    for cap in ["golink", "tailsql", "kubernetes", "drive", "a-new-one"] {
        taken(&with(&format!("tailscale.com/cap/{cap}")));
    }
    for cap in ["cap/funnel", "cap/relay-target", "cap/is-admin", "cap/ssh", "cap/ingress", "cap/", "other"] {
        refused(&with(&format!("tailscale.com/{cap}")), "only a server gives");
    }
}

/// Each of these is refused; where it is in force already, it stays in force and is named.
#[test]
fn what_can_not_be_meant_is_refused_and_a_policy_in_force_is_kept() {
    let ssh = r#"{"tagOwners": {"tag:l": [], "tag:p": []}, "ssh": [{"action": "check", "src": ["SRC"], "dst": ["tag:p"], "users": ["root"]}]}"#;
    let test = r#"{"tagOwners": {"tag:p": []}, "tests": [{"src": "SRC", "KEY": ["DST:22"]}]}"#;
    let app = r#"{"tagOwners": {"tag:c": [], "tag:d": []}, "nodeAttrs": [{"target": ["TARGET"], "app": {"tailscale.com/app-connectors": [{"name": "crm", CONN "domains": ["crm.example"]}]}}]}"#;
    let conn = r#""connectors": ["tag:c"],"#;
    let cases = [
        (ssh.replace("SRC", "tag:l"), "`tag:l` cannot pass a check"),
        (ssh.replace("SRC", "autogroup:tagged"), "cannot pass a check"),
        (test.replace("SRC", "*").replace("KEY", "accept").replace("DST", "tag:p"), "`*` in a test"),
        (test.replace("SRC", "tag:p").replace("KEY", "deny").replace("DST", "*"), "`*` in a test"),
        (app.replace("TARGET", "*").replace("CONN", ""), "the app connector `crm` has no `connectors`"),
        (app.replace("TARGET", "tag:d").replace("CONN", conn), "`target` leaves them out"),
        (app.replace("TARGET", "ada@example.com").replace("CONN", conn), "`target` leaves them out"),
        (
            r#"{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:members"], "ip": ["*"]}]}"#.to_string(),
            "`autogroup:members` beside `autogroup:member`",
        ),
        (
            r#"{"acls": [{"action": "accept", "src": ["autogroup:members"], "dst": ["autogroup:member:22"]}]}"#
                .to_string(),
            "`autogroup:members` beside `autogroup:member`",
        ),
    ];
    for (text, word) in cases {
        refused(&text, word);
        let (_, tolerated) = Policy::parse_in_force(&text).unwrap_or_else(|p| panic!("{p:?} in {text}"));
        assert!(tolerated.len() == 1 && tolerated[0].message.contains(word), "{tolerated:?}");
    }
    taken(&ssh.replace("SRC", "autogroup:member"));
    taken(&app.replace("TARGET", "*").replace("CONN", conn));
    taken(&app.replace("TARGET", "tag:c").replace("CONN", conn));
    taken(r#"{"grants": [{"src": ["autogroup:members"], "dst": ["autogroup:members"], "ip": ["*"]}]}"#);
    // What nobody can read is no policy, in force or not.
    assert!(Policy::parse_in_force(r#"{"grants": [{"src": ["tag:none"], "dst": ["*"], "ip": ["*"]}]}"#).is_err());
}

#[test]
fn hints_say_what_was_probably_meant() {
    refused(r#"{"acls": [{"action": "accept", "src": ["ada"], "dst": ["*:22"]}]}"#, "a user is written `ada@`");
    refused(
        r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:internet"]}]}"#,
        "has no ports; write `autogroup:internet:*`",
    );
    refused(r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["tag:web"]}]}"#, "has no ports; write `tag:web:*`");
    let tagged = r#"{"tagOwners": {"tag:x": []}, "#;
    refused(
        &format!(
            r#"{tagged}"ssh": [{{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:x:22"], "users": ["root"]}}]}}"#
        ),
        "ports are not written here: write `tag:x`",
    );
    refused(
        &format!(r#"{tagged}"grants": [{{"src": ["*"], "dst": ["tag:x:22"], "ip": ["*"]}}]}}"#),
        "ports are not written here: write `tag:x`",
    );
    refused(
        r#"{"grants": [{"src": ["*"], "dst": ["ada@example.com:22"], "ip": ["*"]}]}"#,
        "ports are not written here",
    );
    refused(
        r#"{"grants": [{"src": ["group:security-team@example.com"], "dst": ["*"], "ip": ["*"]}]}"#,
        "groups of an identity provider are not known here",
    );
}

#[test]
fn tests_of_somebody_who_is_not_here_are_unknown() {
    let c = compiled(
        r#"{"tagOwners": {"tag:srv": ["ada@example.com"], "tag:db": []},
            "acls": [{"action": "accept", "src": ["ada@example.com", "ben@example.com"], "dst": ["tag:srv:22", "tag:db:5432"]}],
            "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:srv"], "users": ["root"]}],
            "tests": [
                {"src": "ada@example.com", "accept": ["tag:srv:22", "tag:db:5432"], "deny": ["tag:srv:23", "tag:db:22"]},
                {"src": "ben@example.com", "accept": ["tag:db:22"], "deny": ["tag:db:5432"]},
                {"src": "ada@example.com", "accept": ["tag:db:23"]}],
            "sshTests": [{"src": "ada@example.com", "dst": ["tag:srv"], "accept": ["root"], "deny": ["other"]}]}"#,
    );
    let got: Vec<(bool, bool, bool)> =
        c.run_tests().iter().map(|o| (o.holds(), o.failure(false).is_some(), o.failure(true).is_some())).collect();
    let (holds, fails, unknown) = ((true, false, false), (false, true, true), (false, false, true));
    // `deny` of nobody holds; ben has no device, so that what he reaches is not known.
    let want = [unknown, holds, holds, holds, unknown, holds, fails, unknown, holds];
    assert_eq!(got, want);
    let Verdict::Unknown(why) = &c.run_tests()[0].verdict else { panic!("it is unknown") };
    assert_eq!(why, "`tag:srv` has no address here yet");
}

#[test]
fn a_posture_is_named_where_it_is_the_reason() {
    let with = |attrs: &str| {
        compiled(&format!(
            r#"{{"tagOwners": {{"tag:db": []}}, "postures": {{"posture:mac": ["node:os == 'macos'"]}},
            "grants": [{{"src": ["ada@example.com"], "dst": ["tag:db"], "ip": ["22"], "srcPosture": ["posture:mac"]}}],
            "tests": [{{"src": "ada@example.com", {attrs} "accept": ["tag:db:22"]}}]}}"#
        ))
    };
    let why = |attrs: &str| with(attrs).run_tests()[0].failure(false).map(str::to_string);
    let own = why("").unwrap();
    assert!(own.ends_with("grants 1 (line 2) would, but boat does not satisfy posture:mac"), "{own}");
    let given = why(r#""srcPostureAttrs": {"node:os": "windows"},"#).unwrap();
    assert!(given.ends_with("`srcPostureAttrs` of this test does not satisfy posture:mac"), "{given}");
    assert_eq!(why(r#""srcPostureAttrs": {"node:os": "macos"},"#), None);
}

#[test]
fn explain_says_which_protocols_pass() {
    let ask = |ip: &str, dst: &str, proto: Option<&str>| {
        let text = format!(
            r#"{{"tagOwners": {{"tag:db": []}}, "grants": [{{"src": ["ada@example.com"], "dst": ["tag:db"], "ip": [{ip}]}}]}}"#
        );
        let answer = compiled(&text).explain(&Question::read("boat", dst, proto).unwrap()).unwrap();
        (answer.allowed, answer.passes, answer.lines[0].split_once(": ").unwrap().1.to_string())
    };
    let rule = "by rule 1 of grants (line 1)";
    assert_eq!(ask(r#""*""#, "db1:22", None), (true, vec![6, 17, 1], format!("allowed, {rule}")));
    assert_eq!(
        ask(r#""icmp:*""#, "db1:22", None),
        (
            false,
            vec![1],
            "refused, no rule lets it through; rule 1 of grants (line 1) came nearest, but there it opens icmp:*; only icmp gets through"
                .to_string()
        )
    );
    assert_eq!(
        ask(r#""icmp:*""#, "db1", None),
        (true, vec![1], format!("allowed for icmp, {rule}; tcp and udp are refused"))
    );
    assert_eq!(
        ask(r#""tcp:22", "sctp:22""#, "db1:22", None),
        (true, vec![6, 132], format!("allowed for tcp and sctp, {rule}; udp and icmp are refused"))
    );
    assert_eq!(ask(r#""tcp:22""#, "db1:22", Some("tcp")), (true, vec![6], format!("allowed, {rule}")));
    let (allowed, passes, words) = ask(r#""icmp:*""#, "db1:22", Some("tcp"));
    assert!(!allowed && passes.is_empty() && words.starts_with("refused, "), "{words}");
    let (allowed, _, words) = ask(r#""tcp:80""#, "db1:22", None);
    assert!(!allowed && words.ends_with("there it opens tcp:80"), "{words}");
}

/// A server of this version starts with what one of an earlier version has stored, and with a file whose tests fail.
#[test]
fn a_stored_policy_stays_in_force_whatever_is_refused_today() {
    let text = r#"{"tagOwners": {"tag:p": []}, "grants": [{"src": ["*"], "dst": ["tag:p"], "ip": ["22"]}], "tests": [{"src": "*", "accept": ["tag:p:22"]}]}"#;
    refused(text, "`*` in a test");
    let new = || Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() });
    let mut registry = new();
    registry.load(Saved::Policy(text.to_string()), 1).unwrap();
    assert_eq!(registry.policy_text(), Some(text));
    assert!(registry.policy_faults()[0].contains("`*` in a test"), "{:?}", registry.policy_faults());
    let mut registry = new();
    assert!(registry.set_policy(Some(text), "test", 1).is_err(), "where a person sets it, it is refused");
    assert!(registry.begin_with_policy(text, "file", 1).unwrap()[0].contains("`*` in a test"));
    let fails = r#"{"grants": [], "tests": [{"src": "100.64.0.1", "accept": ["100.64.0.2:22"]}]}"#;
    assert!(registry.set_policy(Some(fails), "test", 1).is_err() && registry.policy_text() == Some(text));
    assert!(registry.begin_with_policy(fails, "file", 1).unwrap()[0].contains("it is refused"));
    assert!(registry.begin_with_policy("{", "file", 1).is_err(), "what nobody can read is no policy");
}
