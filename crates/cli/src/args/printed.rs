//! What README and manual print is what this command line takes: each `portcullis …` in their text, and each variable.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory};
use stage::pages;

use super::Cli;

/// Blocks of commands that no other test types.
const ONLY_READ: [&str; 10] = [
    "two-commands",
    "policy-questions",
    "control-service",
    "control-behind-proxy",
    "connector-commands",
    "clock-reset",
    "nft-units",
    "gate-commands",
    "policy-commands",
    "edge-unit",
];

/// The words of a line as a shell splits them, up to where its output goes.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    let end = words.iter().position(|w| [">", "|", "&&", "||", ";"].contains(&w.as_str()));
    words.truncate(end.unwrap_or(words.len()));
    words
}

/// The command in a printed line, with something in the place of each word that stands for something.
fn command(line: &str) -> Option<Vec<String>> {
    let words = split(line.trim().split("   ").next()?);
    let at = words.iter().position(|w| w == "portcullis")?;
    let filled = |w: &String| {
        // Optional parts.
        let w = w.replace("[:PORT]", ":443").replace(['[', ']'], "");
        match w.as_str() {
            "TIME" => "1h".into(),
            "ADDRESS" => "198.51.100.7".into(),
            "SHELL" => "bash".into(),
            _ => w.replace("sha256:…", &format!("sha256:{}", "0".repeat(64))).replace("ws://…", "ws://203.0.113.9:1"),
        }
    };
    Some(words[at..].iter().map(filled).collect())
}

/// Every printed command, with its place.
fn printed() -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for block in pages::blocks() {
        // Lines that go on are one. Columns of `tcp-ports` name the machine first.
        let whole = block.text.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
        for line in whole.lines() {
            let line = line.trim_start_matches("$ ");
            let bare =
                ["edge ", "private ", "visitor "].iter().find_map(|w| line.strip_prefix(w)).unwrap_or(line).trim();
            // Alternatives are for reading.
            if bare.starts_with("portcullis ") && !bare.contains(" | ") || bare.starts_with("sudo portcullis ") {
                for part in bare.split("; ") {
                    all.extend(command(part).map(|c| (block.place.clone(), c)));
                }
            }
        }
    }
    for (path, text) in pages::all() {
        let prose: String = text.split("\n```").step_by(2).collect();
        for code in prose.split('`').skip(1).step_by(2) {
            if code.starts_with("portcullis ") && !code.contains(['…', '|']) {
                all.extend(command(&code.replace('\n', " ")).map(|c| (path.clone(), c)));
            }
        }
    }
    all
}

#[test]
fn every_printed_command_is_one() {
    for name in ONLY_READ {
        let lines = pages::commands(name);
        assert!(lines.iter().any(|l| l.contains("portcullis ") || l.contains("cargo ")), "{name}: {lines:?}");
    }
    let all = printed();
    assert!(all.len() > 80, "only {} commands", all.len());
    for (place, words) in all {
        if let Err(e) = Cli::command().try_get_matches_from(&words) {
            use clap::error::ErrorKind as Kind;
            // A group of commands may be named by its first word.
            let alone = matches!(e.kind(), Kind::DisplayHelpOnMissingArgumentOrSubcommand | Kind::MissingSubcommand);
            assert!(
                alone || e.kind() == Kind::DisplayVersion || e.kind() == Kind::DisplayHelp,
                "{place}: {words:?}\n{e}"
            );
        }
    }
}

#[test]
fn printed_flags_of_headers_are_taken() {
    for line in pages::commands("changed-headers") {
        let line =
            format!("portcullis http client --url wss://edge.example.com --token x --upstream 127.0.0.1:1 {line}");
        let e = Cli::command().try_get_matches_from(split(&line)).map(drop);
        assert!(e.is_ok(), "{line}: {e:?}");
    }
}

/// Every argument of every command.
fn arguments(command: &clap::Command, into: &mut Vec<Arg>) {
    into.extend(command.get_arguments().cloned());
    for sub in command.get_subcommands() {
        arguments(sub, into);
    }
}

#[test]
fn every_printed_variable_is_one() {
    let mut all = Vec::new();
    arguments(&Cli::command(), &mut all);
    let known: BTreeSet<String> =
        all.iter().filter_map(|a| a.get_env()).map(|e| e.to_string_lossy().into_owned()).collect();
    // What `--exec` hands to its program.
    let handed = ["PORTCULLIS_LIST", "PORTCULLIS_GENERATION", "PORTCULLIS_EMPTY", "PORTCULLIS_CHANGES"];
    for (path, text) in pages::all() {
        for word in text.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit()) {
            if word.starts_with("PORTCULLIS_") && word != "PORTCULLIS_" {
                assert!(known.contains(word) || handed.contains(&word), "{path}: `{word}` means nothing");
            }
        }
    }
}
