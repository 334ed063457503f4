//! Commands to a running gate: `list`, `grant`, `audit`, `doctor`, and `explain` where no edge runs. In: what was
//! typed. Out: the gate's answer, as words, a table or JSON.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use addr::Prefix;
use addr::Timestamp;
use anyhow::Context;
use serde_json::{Value, json};

use crate::args::gate::{AuditArgs, AuditCommand, GrantCommand, JsonArgs, ListArgs, ListCommand, Since, Span};
use crate::args::{AdminArgs, GlobalArgs};
use crate::fail::Fail;
use crate::{ask, resolve, say};

/// `list` and `list show NAME`.
pub(crate) fn list(a: &ListArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    match &a.what {
        Some(ListCommand::Show { name, json }) => show(name.as_deref(), json, global),
        // Where only an edge runs, its lists are meant.
        None if !runs(global) && runtime::api::find(&resolve::data_dir(global.data_dir.clone())?, None).is_ok() => {
            crate::commands::admin::lists(&AdminArgs { control_port: None, json: a.json.json }, global)
        }
        None => {
            let answer = ask::gate(global, "gate-lists", Value::Null)?;
            if printed(&a.json, &answer)? {
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = each(&answer["lists"])
                .map(|l| {
                    let of = |n: &Value, max: &Value| {
                        if max.is_u64() { format!("{} of {}", word(n), word(max)) } else { word(n) }
                    };
                    vec![
                        word(&l["name"]),
                        word(&l["static"]),
                        word(&l["learnt"]),
                        of(&l["counted"], &l["max"]),
                        of(&l["guests"], &l["max_guests"]),
                        word(&l["bans"]),
                        enforced(&l["enforcers"]),
                    ]
                })
                .collect();
            say::raw(&say::table(&["LIST", "STATIC", "LEARNT", "PROVEN", "GUESTS", "BANS", "ENFORCERS"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `grant …`.
pub(crate) fn grant(c: &GrantCommand, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let secs = |s: &Option<Span>| s.and_then(|s| s.0);
    let (json_args, args) = match c {
        GrantCommand::List { name: Some(name), json } => return show(Some(name), json, global),
        GrantCommand::List { name: None, json } => {
            let all = ask::gate(global, "gate-lists", Value::Null)?;
            for l in each(&all["lists"]) {
                show(Some(&word(&l["name"])), json, global)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        GrantCommand::Add { prefix, list, span, principal, pin, yes, json } => {
            let list = match list {
                Some(l) => l.clone(),
                None => only_list(global)?,
            };
            (
                json,
                json!({ "act": "add", "list": list, "prefix": prefix, "for": secs(span), "principal": principal, "pinned": pin, "yes": yes }),
            )
        }
        GrantCommand::Revoke { what, span, wider, within, list, json } => {
            // A ban is told by the presence of `ban`: seconds, or `true` for one without an end.
            let ban = span.map(|s| s.0.map_or(json!(true), |secs| json!(secs)));
            (json, json!({ "act": "revoke", "what": what, "list": list, "ban": ban, "wider": wider, "within": within }))
        }
        GrantCommand::Unban { what, list, json } => (json, json!({ "act": "unban", "what": what, "list": list })),
        GrantCommand::Extend { what, span, shorten, list, json } => {
            (json, json!({ "act": "extend", "what": what, "for": span.0, "list": list, "shorten": shorten }))
        }
    };
    let answer = ask::gate(global, "gate-grant", args)?;
    if printed(json_args, &answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    match c {
        GrantCommand::Revoke { .. } => {
            let ended: Vec<String> = each(&answer["ended"]).map(word).collect();
            if !ended.is_empty() {
                say::line(format!("ended: {}", ended.join(", ")));
            }
            for b in each(&answer["banned"]) {
                say::line(format!("banned: {} on `{}` until {}", word(&b["whom"]), word(&b["list"]), end(&b["until"])));
            }
        }
        GrantCommand::Unban { .. } => {
            for b in each(&answer["unbanned"]) {
                say::line(format!("no longer banned: {} on `{}`", word(&b["whom"]), word(&b["list"])));
            }
        }
        GrantCommand::Extend { .. } => {
            say::line(format!(
                "{} until {}",
                each(&answer["extended"]).map(word).collect::<Vec<_>>().join(", "),
                end(&answer["until"])
            ));
        }
        GrantCommand::Add { .. } if answer["addresses"].is_array() => {
            let found: Vec<String> = each(&answer["addresses"]).map(word).collect();
            let is = if found.is_empty() { "no address yet".to_string() } else { found.join(", ") };
            let failed =
                if answer["failed"].is_string() { format!(" ({})", word(&answer["failed"])) } else { String::new() };
            say::line(format!("{} is followed until {}: {is}{failed}", word(&answer["grant"]), end(&answer["until"])))
        }
        GrantCommand::Add { .. } | GrantCommand::List { .. } => {
            say::line(format!("{} until {}", word(&answer["grant"]), end(&answer["until"])))
        }
    }
    for note in each(&answer["notes"]) {
        say::line(format!("  {}", word(note)));
    }
    Ok(ExitCode::SUCCESS)
}

/// `audit` and `audit verify`; both read the file, so they work without a running gate too.
pub(crate) fn audit(a: &AuditArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let logs = |told: Option<&PathBuf>| match told {
        Some(file) => Ok(vec![file.clone()]),
        None => audit_logs(&resolve::data_dir(global.data_dir.clone())?),
    };
    if let Some(AuditCommand::Verify { file }) = &a.what {
        for path in logs(file.as_ref())? {
            // Before the log is read: it only grows.
            let known = if file.is_none() { known(&path)? } else { None };
            let open = std::fs::File::open(&path).map(drop);
            open.with_context(|| format!("cannot read {}", path.display()))?;
            let (lines, head) = runtime::audit::verify(&path, known.as_ref())
                .with_context(|| format!("{} is not what was written", path.display()))?;
            let name = path.file_name().unwrap_or_default().display();
            say::line(format!("{name}: {lines} lines, none changed; the last hash is {head}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines: Vec<String> = Vec::new();
    for path in logs(None)?.into_iter().filter(|p| p.exists()) {
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in BufReader::new(file).lines() {
            lines.push(line.with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    // The gate and the coordination server write a log each; people want to know what happened when.
    let at = |l: &String| serde_json::from_str::<Value>(l).ok().and_then(|v| v["at"].as_u64());
    lines.sort_by_cached_key(at);
    let filter = Filter::of(a)?;
    lines.retain(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| filter.takes(&v)));
    if let Some(last) = a.last {
        lines.drain(..lines.len().saturating_sub(last));
    }
    if a.json.json.unwrap_or(false) {
        for l in lines {
            say::line(l);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .map(|l| {
            let g = &l["grant"];
            vec![
                when(&l["at"]),
                word(&l["what"]),
                if g.is_null() { word(&l["about"]) } else { word(&g["prefix"]) },
                word(&g["list"]),
                evidence(g),
                who(g),
                word(&l["by"]),
            ]
        })
        .collect();
    say::raw(&say::table(&["WHEN", "WHAT", "WHAT ABOUT", "LIST", "EVIDENCE", "WHO", "WHY"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// `doctor`: exit 0 if nothing is wrong, 1 otherwise.
pub(crate) fn doctor(json: &JsonArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let answer = match runtime::api::find(&dir, None) {
        // Where only an edge runs, its list files can be wrong.
        Ok(edge) if !runs(global) => ask::socket(&edge, "doctor", Value::Null)?,
        _ => ask::gate(global, "gate-doctor", Value::Null)?,
    };
    let (accepted, found): (Vec<&Value>, Vec<&Value>) = each(&answer["found"]).partition(|f| f["accepted"] == true);
    if !printed(json, &answer)? {
        for f in &found {
            let id = f["id"].as_str().map(|id| format!(" [{id}]")).unwrap_or_default();
            say::line(format!("{}{id}\n  fix: {}", word(&f["what"]), word(&f["fix"])));
        }
        for f in &accepted {
            say::line(format!("accepted: {} [{}]", word(&f["what"]), word(&f["id"])));
        }
        if found.is_empty() {
            say::line(if accepted.is_empty() { "nothing wrong was found" } else { "nothing else wrong was found" });
        } else if let Some(switch) = answer["accept"].as_str() {
            say::line(format!("what is as it should be can be accepted: {switch}NAME"));
        }
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// True if a gate runs from this data directory.
pub(crate) fn runs(global: &GlobalArgs) -> bool {
    resolve::data_dir(global.data_dir.clone())
        .is_ok_and(|d| std::os::unix::net::UnixStream::connect(gate::gate_socket(&d)).is_ok())
}

/// What the gate says of an address.
pub(crate) fn explain(address: &str, service: Option<&str>, json: bool, global: &GlobalArgs) -> Result<bool, Fail> {
    let answer = ask::gate(global, "gate-explain", json!({ "address": address, "service": service }))?;
    if json {
        say::line(serde_json::to_string_pretty(&answer).context("cannot print the answer")?);
    } else {
        for a in each(&answer["answers"]) {
            say::line(word(&a["text"]));
            say_grants(a);
            say_past(a);
        }
        for seen in each(&answer["heard"]) {
            say::line(format!("  seen: {}", word(seen)));
        }
    }
    let mut all = each(&answer["answers"]).peekable();
    Ok(all.peek().is_some() && all.all(|a| a["verdict"] == "allow"))
}

/// The grants behind an answer: who, on what evidence, until when.
pub(crate) fn say_grants(answer: &Value) {
    for g in each(&answer["grants"]) {
        let names = who(g);
        let who = if names.is_empty() { "somebody".to_string() } else { names };
        say::line(format!(
            "  g{} on `{}`: {} given to {who} on {} evidence, since {}, last seen {}, until {}",
            g["id"],
            word(&g["list"]),
            word(&g["prefix"]),
            evidence(g),
            when(&g["given_at"]),
            when(&g["seen_at"]),
            end(&g["ends_at"])
        ));
    }
}

/// What ended for an address, and the bans it runs into: why it is no longer in.
pub(crate) fn say_past(answer: &Value) {
    for b in each(&answer["bans"]) {
        say::line(format!(
            "  no proof of {} counts on `{}` until {}: `portcullis grant unban {}` ends that",
            word(&b["prefix"]),
            word(&b["list"]),
            end(&b["until"]),
            word(&b["prefix"]),
        ));
    }
    for e in each(&answer["ended"]) {
        let who = if e["principal"].is_string() { word(&e["principal"]) } else { "somebody".to_string() };
        let whose = format!("{} ({who}, {})", word(&e["prefix"]), word(&e["evidence"]));
        let what = match e["what"].as_str().unwrap_or_default() {
            "revoked" => format!("{whose} was revoked"),
            "expired" => format!("{whose} expired"),
            "evicted" => format!("{whose} was evicted"),
            "refused" => format!("a proof of {whose} was refused"),
            "full" => format!("a proof of {whose} found no place"),
            other => format!("{whose}: {other}"),
        };
        let by = if word(&e["by"]).is_empty() { String::new() } else { format!(": {}", word(&e["by"])) };
        let near = if e["neighbour"] == true { "nearby, " } else { "" };
        say::line(format!("  {near}{what} at {} on `{}`{by}", when(&e["at"]), word(&e["list"])));
    }
}

/// The kinds of evidence of a grant, strongest first.
fn evidence(g: &Value) -> String {
    let mut all: Vec<String> = std::iter::once(g).chain(each(&g["beside"])).map(|c| word(&c["evidence"])).collect();
    all.dedup();
    all.join(", ")
}

/// Everybody behind a grant.
fn who(g: &Value) -> String {
    let all = std::iter::once(g).chain(each(&g["beside"])).map(|c| word(&c["principal"])).filter(|p| !p.is_empty());
    let mut seen: Vec<String> = Vec::new();
    for name in all {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}

/// Which lines of the audit log are meant.
struct Filter<'a> {
    args: &'a AuditArgs,
    prefix: Option<Prefix>,
    since: u64,
}

impl Filter<'_> {
    fn of(args: &AuditArgs) -> Result<Filter<'_>, Fail> {
        let prefix = args.address.as_deref().map(str::parse).transpose();
        let prefix =
            prefix.map_err(|e| Fail::usage(format!("--address: {e}"), "such as 203.0.113.7 or 203.0.113.0/24"))?;
        let since = match args.since {
            Some(Since::At(at)) => at,
            Some(Since::Ago(secs)) => runtime::wall().saturating_sub(secs),
            None => 0,
        };
        Ok(Filter { args, prefix, since })
    }

    fn takes(&self, line: &Value) -> bool {
        let (g, about) = (&line["grant"], word(&line["about"]));
        // What is about a ban says `WHOM on LIST`.
        let (whom, on) = about.rsplit_once(" on ").unwrap_or((about.as_str(), ""));
        let at = |text: &str| text.parse::<Prefix>().ok();
        let place = if g.is_null() { at(whom) } else { at(&word(&g["prefix"])) };
        let near = |p: Prefix| place.is_some_and(|q| p.covers(q) || q.covers(p));
        let list = |l: &str| if g.is_null() { on == l } else { g["list"] == l };
        let who = |w: &str| if g.is_null() { whom.contains(w) } else { who(g).contains(w) };
        line["at"].as_u64().is_none_or(|t| t >= self.since)
            && self.prefix.is_none_or(near)
            && self.args.list.as_deref().is_none_or(list)
            && self.args.who.as_deref().is_none_or(who)
            && (self.args.what_happened.is_empty()
                || self.args.what_happened.iter().any(|w| line["what"] == w.as_str()))
    }
}

/// The names of the gate's lists.
pub(crate) fn lists(global: &GlobalArgs) -> Result<Vec<String>, Fail> {
    let all = ask::gate(global, "gate-lists", Value::Null)?;
    Ok(each(&all["lists"]).map(|l| word(&l["name"])).collect())
}

fn show(name: Option<&str>, json: &JsonArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let answer = ask::gate(global, "gate-show", json!({ "list": name }))?;
    if printed(json, &answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for g in each(&answer["grants"]) {
        let remark = if g["pinned"] == true {
            "pinned".to_string()
        } else if g["superseded"].is_string() {
            format!("its device came from {}", word(&g["superseded"]))
        } else {
            String::new()
        };
        rows.push(vec![
            format!("g{}", g["id"]),
            word(&g["prefix"]),
            who(g),
            evidence(g),
            when(&g["given_at"]),
            when(&g["seen_at"]),
            end(&g["ends_at"]),
            remark,
        ]);
    }
    for p in each(&answer["static"]) {
        rows.push(vec![
            String::new(),
            word(p),
            String::new(),
            "static".into(),
            String::new(),
            String::new(),
            "never".into(),
            "pinned".into(),
        ]);
    }
    for n in each(&answer["names"]) {
        let found: Vec<String> = each(&n["addresses"]).map(word).collect();
        let is = if found.is_empty() { "no address yet".to_string() } else { found.join(", ") };
        let failed = if n["failed"].is_string() {
            format!("; no good answer now: {}", word(&n["failed"]))
        } else {
            String::new()
        };
        say::line(format!("{} is {is}{failed}; asked again {}", word(&n["name"]), when(&n["ask_at"])));
        for why in each(&n["not_counting"]) {
            say::line(format!("  {}", word(why)));
        }
    }
    for b in each(&answer["bans"]) {
        let whom = if b["name"].is_string() { &b["name"] } else { &b["prefix"] };
        say::line(format!("no proof of {} counts until {}", word(whom), end(&b["until"])));
    }
    say::raw(&say::table(&["GRANT", "FROM", "WHO", "EVIDENCE", "SINCE", "LAST SEEN", "UNTIL", ""], &rows));
    for e in each(&answer["enforcers"]) {
        let state = if e["error"].is_string() {
            word(&e["error"])
        } else if e["current"] == true {
            "has it".to_string()
        } else {
            "is behind".to_string()
        };
        say::line(format!("{}: {state}", word(&e["name"])));
    }
    Ok(ExitCode::SUCCESS)
}

fn only_list(global: &GlobalArgs) -> Result<String, Fail> {
    let names = lists(global)?;
    match names.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Fail::usage(
            format!("there are {} lists: {}", names.len(), names.join(", ")),
            "say which with --list NAME",
        )),
    }
}

pub(crate) fn printed(json: &JsonArgs, answer: &Value) -> Result<bool, Fail> {
    if json.json.unwrap_or(false) {
        say::line(serde_json::to_string_pretty(answer).context("cannot print the answer")?);
        return Ok(true);
    }
    Ok(false)
}

pub(crate) fn each(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// Text for a cell; names come from certificates, so what steers a terminal is taken out.
pub(crate) fn word(v: &Value) -> String {
    let text = match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The audit logs of a data directory.
/// The audit logs of a data directory, each with the store that knows it and the first word of its keys there.
const LOGS: [(&str, &str, &str); 2] =
    [("audit.jsonl", "gate.db", "gate"), ("control-audit.jsonl", "control.db", "mesh")];

fn audit_logs(dir: &Path) -> Result<Vec<PathBuf>, Fail> {
    // A log that was taken away is missed as long as its store is there.
    let there = |(log, store, _): &&(&str, &str, &str)| dir.join(log).exists() || dir.join(store).exists();
    let all: Vec<PathBuf> = LOGS.iter().filter(there).map(|(log, ..)| dir.join(log)).collect();
    if all.is_empty() {
        return Err(Fail::hinted(
            format!("there is no audit log in {}", dir.display()),
            "name the data directory of a gate or coordination server with `--data-dir DIR`",
        ));
    }
    Ok(all)
}

/// The line of a log that the store beside it knows.
fn known(log: &Path) -> Result<Option<runtime::audit::Known>, Fail> {
    let name = log.file_name().unwrap_or_default();
    let Some((_, store, room)) = LOGS.iter().find(|(log, ..)| name == *log) else { return Ok(None) };
    let store = log.with_file_name(store);
    if !store.exists() {
        return Ok(None);
    }
    let known = runtime::audit::known(&store, room);
    Ok(known.with_context(|| format!("{} can not be asked what it knows of the log", store.display()))?)
}

fn enforced(v: &Value) -> String {
    each(v)
        .map(|e| format!("{}{}", word(&e["name"]), if e["error"].is_string() { " (failing)" } else { "" }))
        .collect::<Vec<_>>()
        .join(", ")
}

fn end(v: &Value) -> String {
    if v.is_u64() { when(v) } else { "ended by hand".to_string() }
}

/// Seconds since the epoch as `2026-11-21 14:00:00Z`.
pub(crate) fn when(v: &Value) -> String {
    v.as_u64().map_or_else(String::new, |t| Timestamp(t).to_string().replacen('T', " ", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (t, text) in [
            (0u64, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_269_600, "2026-11-21 14:00:00Z"),
        ] {
            assert_eq!(when(&json!(t)), text);
        }
    }
}
