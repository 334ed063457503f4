//! What README and manual print is what works: each file of theirs starts, each policy is one.

use std::process::Command;

use crate::gate_room::{Dir, Serve, wait_or};

const PAGES: [(&str, &str); 2] = [
    ("README.md", include_str!("../../../../README.md")),
    ("control.md", include_str!("../../../../docs/manual/control.md")),
];

/// The blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    page.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect()
}

#[test]
fn files_of_serve_start() {
    for (page, text) in PAGES {
        let files: Vec<String> = blocks(text, "toml").into_iter().filter(|b| b.contains("[control]")).collect();
        assert_eq!(files.len(), 1, "{page} shows one file with [control]");
        let dir = Dir::new("printed");
        // Free ports in place of those that people know.
        let mut file = files[0].replace("[control]", "[control]\nstun = \"127.0.0.1:0\"");
        for port in ["8080", "7070"] {
            file = file.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
        }
        let s = Serve::start(&dir.0, &file, &["listening on"]);
        // Nobody is in the group yet; that is said, once.
        wait_or(|| s.proc.text().contains("stands for no node now"), || s.proc.text());
        let made = s.ok(&["users", "create", "ada@example.com"]);
        assert!(made.contains("ada@example.com"), "{made}");
        assert!(s.ok(&["list"]).contains("photos"));
    }
}

#[test]
fn policies_are_policies() {
    for (page, text) in PAGES {
        let policies = blocks(text, "jsonc");
        assert!(!policies.is_empty(), "{page} shows a policy");
        for policy in policies {
            let dir = Dir::new("printed-policy");
            let file = dir.at("policy.hujson");
            std::fs::write(&file, policy).unwrap();
            let out =
                Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["policy", "check"]).arg(&file).output().unwrap();
            assert!(out.status.success(), "{page}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}
