//! What README and manual print is what this command line takes: each `portcullis …` in their text, and each variable.
//! The manual's reference of all commands is made here.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory};
use stage::pages;

use super::Cli;

/// Blocks of commands that no other test types.
const ONLY_READ: [&str; 8] = [
    "two-commands",
    "control-service",
    "control-behind-proxy",
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

/// What the program says of an argument: its meaning, and the default that stands at its end in brackets.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|").replace('<', "\\<");
    match help.rsplit_once(" [default: ") {
        Some((text, default)) => (text.into(), default.trim_end_matches(']').into()),
        None => (help, String::new()),
    }
}

/// The rows of a table of arguments.
fn rows(args: &[&Arg]) -> String {
    let row = |a: &&Arg| {
        let values: Vec<String> = a.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
        let value = if a.get_action().takes_values() { values.join(" ") } else { String::new() };
        let name = match (a.get_long(), a.get_short()) {
            (Some(long), short) => {
                let short = short.map(|c| format!("-{c}, ")).unwrap_or_default();
                format!("`{}`", format!("{short}--{long} {value}").trim_end())
            }
            (None, _) => format!("`{}`", if value.is_empty() { a.get_id().as_str().to_uppercase() } else { value }),
        };
        let env = a.get_env().map(|e| format!("`{}`", e.to_string_lossy())).unwrap_or_default();
        let (text, default) = meaning(a);
        format!("| {name} | {env} | {default} | {text} |\n")
    };
    let table: String = args.iter().map(row).collect();
    if table.is_empty() {
        table
    } else {
        format!("\n| flag | variable | default | |\n| --- | --- | --- | --- |\n{table}")
    }
}

fn pages_of(command: &clap::Command, path: &str, seen: &mut Vec<(String, String)>, out: &mut String) {
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        if sub.get_subcommands().any(|c| !c.is_hide_set()) {
            out.push_str(&format!("\n## {path}\n\n{about}.\n"));
        } else {
            let args: Vec<&Arg> = sub.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "json").collect();
            let table = rows(&args);
            out.push_str(&format!("\n## {path}\n\n{about}.\n"));
            match seen.iter().find(|(t, _)| *t == table && table.lines().count() > 6) {
                Some((_, same)) => out.push_str(&format!("\nFlags: those of `{same}`.\n")),
                None => out.push_str(&table),
            }
            seen.push((table, path.clone()));
        }
        pages_of(sub, &path, seen, out);
    }
}

/// `docs/manual/commands.md` says what the program says. `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn the_reference_of_commands_is_true() {
    let cli = Cli::command();
    let everywhere: Vec<&Arg> = cli.get_arguments().filter(|a| a.is_global_set()).collect();
    let mut page = format!(
        "# Commands\n\nEvery command with its flags, their environment variables and defaults, made from the program itself. [Configuration](configuration.md) says how\n\
         flags, variables and file go together, and how lengths of time and lists are written. Commands that show something take `--json` as well; a\n\
         list may be repeated. `--help` behind any command says the same.\n\n## Everywhere\n{}",
        rows(&everywhere)
    );
    pages_of(&cli, "portcullis", &mut Vec::new(), &mut page);
    let file = pages::root().join("docs/manual/commands.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = page.lines().zip(stands.lines()).find(|(a, b)| a != b);
    assert!(page == stands, "docs/manual/commands.md is old, write it with UPDATE_GOLDEN=1: {differs:?}");
}
