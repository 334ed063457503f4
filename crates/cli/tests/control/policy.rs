//! `portcullis policy …` as a person or a script uses it: the built binary, files, exit codes, words.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use stage::Dir;
use stage::command::{Outcome, command};

const TOPOLOGY: &str = r#"{"users":[{"id":1,"name":"odin","email":"odin@example.com"},{"id":2,"name":"thor","email":"thor@example.org"}],
"nodes":{"laptop":{"hostname":"laptop","user":"odin","tags":[],"ipv4":"100.64.0.1","ipv6":"fd7a:115c:a1e0::1","routable_ips":[],"approved_routes":[]},
"phone":{"hostname":"phone","user":"thor","tags":[],"ipv4":"100.64.0.2","ipv6":"fd7a:115c:a1e0::2","routable_ips":[],"approved_routes":[]},
"web":{"hostname":"web","tags":["tag:web"],"ipv4":"100.64.0.3","ipv6":"fd7a:115c:a1e0::3","routable_ips":["192.0.2.0/24"],"approved_routes":["192.0.2.0/24"]}}}"#;

const POLICY: &str = r#"{
	// Who may use the web server.
	"tagOwners": { "tag:web": ["odin@example.com"] },
	"ipsets": { "ipset:net": ["add 192.0.2.0/24", "remove 192.0.2.7"] },
	"acls": [
		{ "action": "accept", "src": ["odin@example.com"], "dst": ["tag:web:443", "ipset:net:80"] }, // odin only
	],
	"tests": [{ "src": "odin@example.com", "accept": ["tag:web:443"], "deny": ["tag:web:22"] }],
}
"#;

struct Files(Dir);

impl Files {
    fn new(name: &str) -> Files {
        let files = Files(Dir::new(name));
        files.write("policy.hujson", POLICY);
        files.write("topology.json", TOPOLOGY);
        files
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        self.0.write(name, text)
    }

    /// `portcullis policy` here.
    fn policy(&self, args: &[&str]) -> Command {
        let mut c = command(&[&["policy"], args].concat());
        c.current_dir(self.0.path());
        c
    }

    /// Runs it: exit code, standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let done = Outcome::of(&mut self.policy(args));
        (done.code, done.out, done.err)
    }

    /// The same with `--policy` and `--topology`.
    fn with(&self, args: &[&str]) -> (i32, String, String) {
        let (command, rest) = args.split_first().unwrap();
        let mut all = vec![*command, "--policy", "policy.hujson", "--topology", "topology.json"];
        all.extend(rest);
        self.run(&all)
    }
}

#[test]
fn a_good_policy_is_silent() {
    let f = Files::new("good");
    assert_eq!(f.run(&["check", "policy.hujson"]), (0, String::new(), String::new()));
    assert_eq!(f.run(&["check", "policy.hujson", "--topology", "topology.json"]), (0, String::new(), String::new()));
}

#[test]
fn mistakes_have_line_column_and_hint() {
    let f = Files::new("mistakes");
    f.write("bad.hujson", "{\n  \"tagOwners\": { \"tag:web\": [] },\n  \"acls\": [\n    { \"action\": \"accept\", \"src\": [\"tag:wbe\"], \"dst\": [\"*:99999\"] },\n  ],\n  \"gruops\": {},\n}\n");
    let (code, out, err) = f.run(&["check", "bad.hujson"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("error: bad.hujson:4:35: tag not found: `tag:wbe`\nhint: did you mean `tag:web`?"), "{err}");
    assert!(
        err.contains("error: bad.hujson:4:55: ")
            && err.contains("error: bad.hujson:6:3: the policy has no key `gruops`\nhint: did you mean `groups`?"),
        "{err}"
    );
    f.write("syntax.hujson", "{\n  \"acls\": [\n    { \"action\" \"accept\" }\n");
    let (code, _, err) = f.run(&["check", "syntax.hujson"]);
    assert!(
        code == 1 && err.starts_with("error: syntax.hujson:3:16: `:` was expected, `\"accept\"` came\nhint: "),
        "{err}"
    );
}

#[test]
fn bad_files_are_said_in_words() {
    let f = Files::new("files");
    f.write("latin.hujson", b"{\n\"hosts\": {\"caf\xe9\": \"10.0.0.1\"}}");
    f.write("empty.hujson", "");
    f.write("deep.hujson", "[".repeat(300_000));
    f.write("list.hujson", "[]");
    for (args, code, part) in [
        (vec!["check", "none.hujson"], 1, "error: cannot read none.hujson\n  because: No such file"),
        (vec!["check", "."], 1, "error: cannot read ."),
        (vec!["check", "latin.hujson"], 1, "error: latin.hujson:2:15: byte 16 is not UTF-8\nhint: "),
        (vec!["check", "empty.hujson"], 1, "error: empty.hujson:1:1: the document is empty"),
        (vec!["check", "deep.hujson"], 1, "nested deeper than"),
        (vec!["check", "list.hujson"], 1, "error: list.hujson:1:1: an object `{…}` was expected, a list came"),
        (vec!["check"], 2, "Usage"),
        (vec!["compile", "--topology", "topology.json"], 2, "--policy"),
        (vec!["compile", "--data-dir", "."], 1, "error: no coordination server runs from"),
        (vec!["compile", "--policy", "policy.hujson", "--data-dir", "."], 1, "hint: start one with"),
        (vec!["diff", "--policy", "policy.hujson", "--topology", "topology.json"], 2, "hint: name the old policy"),
        (
            vec!["check", "policy.hujson", "--topology", "list.hujson"],
            1,
            "error: list.hujson:1:1: a topology has `users`",
        ),
    ] {
        let (got, out, err) = f.run(&args);
        assert!(got == code && err.contains(part) && out.is_empty(), "{args:?}: {got} {out}{err}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn compile_prints_what_each_node_is_told() {
    let f = Files::new("compile");
    let (code, out, err) = f.with(&["compile", "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    let web = &all["nodes"]["web"];
    assert_eq!(web["packet_filter_rules"][0]["SrcIPs"], serde_json::json!(["100.64.0.1", "fd7a:115c:a1e0::1"]));
    assert_eq!(
        web["packet_filter_rules"][0]["DstPorts"][0],
        serde_json::json!({"IP": "100.64.0.3", "Ports": {"First": 443, "Last": 443}})
    );
    assert_eq!(web["peers"], serde_json::json!(["laptop"]));
    assert_eq!(web["self_allowed_ips"], serde_json::json!(["100.64.0.3/32", "fd7a:115c:a1e0::3/128", "192.0.2.0/24"]));
    assert_eq!(all["nodes"]["laptop"]["packet_filter_rules"], serde_json::Value::Null);
    assert_eq!(all["nodes"]["laptop"]["peer_allowed_ips"]["web"], web["self_allowed_ips"]);
    assert_eq!(all["nodes"]["phone"]["peers"], serde_json::json!([]));
    let (_, one, _) = f.with(&["compile", "--json", "--node", "web"]);
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["nodes"].as_object().unwrap().len(), 1);
    assert_eq!(one["nodes"]["web"], *web);
    let (code, _, err) = f.with(&["compile", "--node", "wbe"]);
    assert!(
        code == 1 && err.contains("there is no node `wbe`") && err.contains("hint: its nodes are laptop, phone, web"),
        "{err}"
    );
    let (code, text, _) = f.with(&["compile", "--node", "web"]);
    assert!(code == 0 && text.contains("in   100.64.0.1 fd7a:115c:a1e0::1 -> 100.64.0.3 443"), "{text}");
}

#[test]
fn a_policy_that_breaks_its_promise_is_refused() {
    let f = Files::new("promise");
    let broken = POLICY.replace("tag:web:443\", \"ipset", "tag:web:22\", \"ipset");
    f.write("policy.hujson", &broken);
    assert_eq!(f.run(&["check", "policy.hujson"]).0, 0, "without a topology nothing can be tested");
    for args in [
        vec!["check", "policy.hujson", "--topology", "topology.json"],
        vec!["compile", "--policy", "policy.hujson", "--topology", "topology.json", "--json"],
    ] {
        let (code, out, err) = f.run(&args);
        assert!(code == 1 && out.is_empty(), "{args:?} {out}");
        assert!(
            err.contains("error: policy.hujson:8:")
                && err.contains("tests 1 fails: odin@example.com -> tag:web:443 accept: it is refused"),
            "{err}"
        );
    }
    let (code, out, _) = f.with(&["test"]);
    assert!(
        code == 1
            && out.contains(
                "FAIL  tests 1 (line 8): odin@example.com -> tag:web:22 deny: it is let through by acls 1 (line 6)"
            )
            && out.ends_with("0 of 2 hold\n"),
        "{out}"
    );
    f.write("policy.hujson", POLICY);
    assert_eq!(
        f.with(&["test"]).1,
        "ok    tests 1: odin@example.com -> tag:web:443 accept\nok    tests 1: odin@example.com -> tag:web:22 deny\n2 of 2 hold\n"
    );
}

#[test]
fn explain_names_the_rule_or_the_nearest() {
    let f = Files::new("explain");
    let (code, out, _) = f.with(&["explain", "laptop", "web:443", "--proto", "tcp"]);
    assert!(
        code == 0
            && out
                .contains("laptop (100.64.0.1) -> web (100.64.0.3) port 443 tcp: allowed, by rule 1 of acls (line 6)"),
        "{out}"
    );
    let (code, out, _) = f.with(&["explain", "laptop", "web:22"]);
    assert!(
        code == 3
            && out.contains(
                "refused, no rule lets it through; rule 1 of acls (line 6) came nearest, but there it opens 443"
            ),
        "{out}"
    );
    let (_, out, _) = f.with(&["explain", "phone", "192.0.2.9:80"]);
    assert!(out.contains("refused") && out.contains("its sources are odin@example.com"), "{out}");
    let (_, out, _) = f.with(&["explain", "odin@example.com", "192.0.2.7:80"]);
    assert!(out.contains("refused"), "what the set removes is out: {out}");
    let (code, _, err) = f.with(&["explain", "nobody", "web:22"]);
    assert!(code == 1 && err.contains("error: `nobody` is no node") && err.contains("hint: "), "{err}");
    assert_eq!(f.with(&["explain", "laptop", "web", "--proto", "tpc"]).0, 1);
}

#[test]
fn diff_says_who_gains_and_who_loses() {
    let f = Files::new("diff");
    f.write("old.hujson", POLICY);
    let (code, out, _) = f.with(&["diff", "--against", "old.hujson"]);
    assert_eq!((code, out.as_str()), (0, "nobody gains and nobody loses anything\n"));
    let new = POLICY
        .replace(
            "\"src\": [\"odin@example.com\"], \"dst\"",
            "\"src\": [\"odin@example.com\", \"thor@example.org\"], \"dst\"",
        )
        .replace("ipset:net:80", "ipset:net:8080");
    f.write("policy.hujson", new);
    let (code, out, err) = f.with(&["diff", "--against", "old.hujson"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "- laptop -> ipset:net behind web: tcp+udp:80\n\
         + laptop -> ipset:net behind web: tcp+udp:8080\n\
         + phone -> ipset:net behind web: tcp+udp+icmp:8080\n\
         + phone -> web: tcp+udp+icmp:443\n\
         3 gained, 1 lost\n"
    );
}

#[test]
fn fmt_keeps_comments_and_is_done_once() {
    let f = Files::new("fmt");
    assert_eq!(f.run(&["fmt", "policy.hujson", "--check"]), (0, String::new(), String::new()));
    f.write("odd.hujson", "// head\n{\"hosts\":{\"a\":\"10.0.0.1\",/* why */\"b\":\"10.0.0.2\"} // tail\n}");
    let (code, _, err) = f.run(&["fmt", "odd.hujson", "--check"]);
    assert!(code == 1 && err.contains("error: odd.hujson has another layout\nhint: "), "{err}");
    assert_eq!(f.run(&["fmt", "odd.hujson"]), (0, String::new(), String::new()));
    let text = std::fs::read_to_string(f.0.at("odd.hujson")).unwrap();
    assert!(text.contains("// head\n") && text.contains("/* why */") && text.contains("// tail"), "{text}");
    assert_eq!(f.run(&["fmt", "odd.hujson", "--check"]).0, 0);
    f.write("bad.hujson", "{");
    assert_eq!(f.run(&["fmt", "bad.hujson"]).0, 1);
    assert_eq!(std::fs::read_to_string(f.0.at("bad.hujson")).unwrap(), "{", "what cannot be read is not touched");
    let left: Vec<_> = std::fs::read_dir(f.0.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn standard_input_and_early_readers() {
    let f = Files::new("pipes");
    let mut child = f.policy(&["fmt", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"acls\":[]}").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), &b"{ \"acls\": [] }\n"[..]));
    let mut child = f
        .policy(&["compile", "--policy", "policy.hujson", "--topology", "topology.json", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
}

#[test]
fn every_syntax_error_is_told_in_one_run() {
    let f = Files::new("syntax");
    f.write("bad.hujson", "{\n  \"groups\": { \"group:a\": [\"x@example.com\" \"y@example.com\"] },\n  \"acls\" [],\n  hosts: {},\n  \"tests\": nil,\n}\n");
    let (code, out, err) = f.run(&["check", "bad.hujson"]);
    assert_eq!((code, out.as_str()), (1, ""));
    for place in ["bad.hujson:2:43:", "bad.hujson:3:10:", "bad.hujson:4:3:", "bad.hujson:5:12:"] {
        assert!(err.contains(place), "{place} in {err}");
    }
    assert_eq!(err.matches("error: ").count(), 4, "{err}");
    // A key that stands twice does not hide what else is wrong.
    f.write("twice.hujson", "{ \"acls\": [], \"acls\": [], \"grnts\": [] }");
    let (_, _, err) = f.run(&["check", "twice.hujson"]);
    assert!(
        err.contains("twice.hujson:1:15: the key `acls` stands twice") && err.contains("did you mean `grants`?"),
        "{err}"
    );
}

#[test]
fn other_encodings_are_named() {
    let f = Files::new("encodings");
    let utf16: Vec<u8> = [0xfeffu16].into_iter().chain("{}".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    f.write("utf16.hujson", utf16);
    f.write("latin.hujson", b"{\n// \xc3\xa9 caf\xe9\n}");
    let (code, _, err) = f.run(&["check", "utf16.hujson"]);
    assert!(
        code == 1
            && err.contains("utf16.hujson:1:1: the file is UTF-16")
            && err.contains("hint: save the file as UTF-8"),
        "{err}"
    );
    let (code, _, err) = f.run(&["check", "latin.hujson"]);
    assert!(code == 1 && err.contains("latin.hujson:2:9: byte 11 is not UTF-8"), "{err}");
}

#[test]
fn a_policy_on_one_long_line_is_read_in_its_own_time() {
    let f = Files::new("long-line");
    let rule = "{\"action\":\"accept\",\"src\":[\"10.0.0.0/8\"],\"dst\":[\"10.1.0.0/16:22\"]},";
    f.write("long.hujson", format!("{{\"acls\":[{}]}}", rule.repeat(30_000)));
    let begun = std::time::Instant::now();
    assert_eq!(f.run(&["check", "long.hujson"]), (0, String::new(), String::new()));
    // Two megabytes; when the place of each value was counted from the start of the line, this took minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn names_of_a_policy_under_review_show_no_other_answer() {
    let f = Files::new("shown");
    f.write("old.hujson", r#"{"acls":[]}"#);
    // Up one line, gone; a line of its own; what follows, turned round.
    let name = r"a\u001b[1A\u001b[2K\n+ nobody gains and nobody loses anything \u202e";
    let policy = format!(
        r#"{{"hosts":{{"{name}":"192.0.2.0/25"}},"acls":[{{"action":"accept","src":["*"],"dst":["{name}:*"]}}],
            "tests":[{{"src":"odin@example.com","deny":["{name}:22"]}}]}}"#
    );
    f.write("policy.hujson", policy);
    for args in [&["diff", "--against", "old.hujson"][..], &["test"], &["explain", "laptop", "192.0.2.1:22"]] {
        let (_, out, err) = f.with(args);
        let hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(hidden) && !err.contains(hidden), "{args:?}: {out:?} {err:?}");
        assert!(!out.lines().chain(err.lines()).any(|l| l.starts_with("+ nobody")), "{args:?}: {out:?} {err:?}");
    }
}
