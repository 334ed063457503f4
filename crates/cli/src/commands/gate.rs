//! Commands to a running gate: `grant`, `audit`. In: what was typed. Out: the gate's answer, as words, a table
//! or JSON.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use addr::Prefix;
use anyhow::Context;
use api::gate::{
    Add, Added, BanTime, ChangeGrants, Extend, Extended, Followed, GrantsChanged, Revoke, Revoked, Unban, Unbanned,
    Unfollowed,
};
use runtime::audit::{About, Line};

use crate::admin_client;
use crate::args::GlobalArgs;
use crate::args::gate::{AuditArgs, AuditCommand, GrantCommand, JsonArgs, Since, Span};
use crate::fail::Fail;
use crate::grants::{addresses_text, end, recorded_evidence, recorded_who, say_list, shown};
use crate::say::{when, word, words};
use crate::{resolve, say};

/// `grant …`.
pub(crate) fn grant(c: &GrantCommand, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let (json, call) = match c {
        GrantCommand::List { name: Some(name), json } => {
            show(name, json, global)?;
            return Ok(ExitCode::SUCCESS);
        }
        GrantCommand::List { name: None, json } => {
            for name in admin_client::gate_lists(global)? {
                show(&name, json, global)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        GrantCommand::Add { prefix, list, span, principal, pin, yes, json } => {
            let list = match list {
                Some(l) => l.clone(),
                None => only_list(global)?,
            };
            let add = Add {
                list,
                prefix: prefix.clone(),
                r#for: span.and_then(|s| s.0),
                principal: principal.clone(),
                pinned: *pin,
                yes: *yes,
            };
            (json, ChangeGrants::Add(add))
        }
        GrantCommand::Revoke { what, span, wider, within, list, json } => {
            let ban = span.map(|Span(secs)| secs.map_or(BanTime::Forever, BanTime::Seconds));
            let revoke = Revoke { what: what.clone(), list: list.clone(), ban, wider: *wider, within: *within };
            (json, ChangeGrants::Revoke(revoke))
        }
        GrantCommand::Unban { what, list, json } => {
            (json, ChangeGrants::Unban(Unban { what: what.clone(), list: list.clone() }))
        }
        GrantCommand::Extend { what, span, shorten, list, json } => {
            let extend = Extend { what: what.clone(), r#for: span.0, list: list.clone(), shorten: *shorten };
            (json, ChangeGrants::Extend(extend))
        }
    };
    let follows = matches!(call, ChangeGrants::Add(_));
    let answer = admin_client::gate(global, call)?;
    if admin_client::printed(json, &answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let notes = match answer {
        GrantsChanged::Revoked(Revoked { ended, banned, notes, .. }) => {
            if !ended.is_empty() {
                say::line(format!("ended: {}", words(&ended, ", ")));
            }
            for b in banned {
                say::line(format!("banned: {} on `{}` until {}", word(&b.whom), word(&b.list), end(b.until)));
            }
            notes
        }
        GrantsChanged::Unfollowed(Unfollowed { ended }) => {
            say::line(format!("ended: {}", words(&ended, ", ")));
            Vec::new()
        }
        GrantsChanged::Unbanned(Unbanned { unbanned, .. }) => {
            for b in unbanned {
                say::line(format!("no longer banned: {} on `{}`", word(&b.whom), word(&b.list)));
            }
            Vec::new()
        }
        GrantsChanged::Followed(Followed { grant, addresses, failed, until, notes, .. }) if follows => {
            let is = if addresses.is_empty() { "no address yet".to_string() } else { addresses_text(&addresses) };
            let failed = failed.map_or_else(String::new, |why| format!(" ({})", word(&why)));
            say::line(format!("{} is followed until {}: {is}{failed}", word(&grant), end(until)));
            notes
        }
        GrantsChanged::Followed(Followed { extended, until, notes, .. })
        | GrantsChanged::Extended(Extended { extended, until, notes, .. }) => {
            say::line(format!("{} until {}", words(&extended, ", "), end(until)));
            notes
        }
        GrantsChanged::Added(Added { grant, until, notes, .. }) => {
            say::line(format!("{} until {}", word(&grant), end(until)));
            notes
        }
    };
    for note in notes {
        say::line(format!("  {}", word(&note)));
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
    let filter = Filter::of(a)?;
    let mut lines: Vec<(String, Line)> = Vec::new();
    for path in logs(None)?.into_iter().filter(|p| p.exists()) {
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for text in BufReader::new(file).lines() {
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            // What is no record is for `audit verify` to tell.
            let line = serde_json::from_str::<Line>(&text).ok().filter(|l| filter.takes(l));
            lines.extend(line.map(|line| (text, line)));
        }
    }
    // The gate and the coordination server write a log each; people want to know what happened when.
    lines.sort_by_key(|(_, line)| line.at);
    if let Some(last) = a.last {
        lines.drain(..lines.len().saturating_sub(last));
    }
    if a.json.json.unwrap_or(false) {
        for (text, _) in lines {
            say::line(text);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|(_, l)| {
            let (about, list, evidence, who) = match &l.about {
                About::Thing { about } => (about.as_str(), "", String::new(), String::new()),
                About::Grant { grant: g } => {
                    (g.prefix.as_str(), g.list.as_str(), recorded_evidence(g), recorded_who(g))
                }
            };
            vec![when(l.at), word(l.what.word()), word(about), word(list), evidence, who, word(&l.by)]
        })
        .collect();
    say::raw(&say::table(&["WHEN", "WHAT", "WHAT ABOUT", "LIST", "EVIDENCE", "WHO", "WHY"], &rows));
    Ok(ExitCode::SUCCESS)
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

    fn takes(&self, line: &Line) -> bool {
        let (place, on, who) = match &line.about {
            About::Grant { grant } => (grant.prefix.as_str(), grant.list.as_str(), recorded_who(grant)),
            About::Thing { about } => {
                // What is about a ban says `WHOM on LIST`.
                let (whom, on) = about.rsplit_once(" on ").unwrap_or((about.as_str(), ""));
                (whom, on, word(whom))
            }
        };
        let near = |p: Prefix| place.parse::<Prefix>().is_ok_and(|q| p.covers(q) || q.covers(p));
        line.at >= self.since
            && self.prefix.is_none_or(near)
            && self.args.list.as_deref().is_none_or(|l| on == l)
            && self.args.who.as_deref().is_none_or(|w| who.contains(w))
            && (self.args.what_happened.is_empty() || self.args.what_happened.iter().any(|w| w == line.what.word()))
    }
}

fn show(list: &str, json: &JsonArgs, global: &GlobalArgs) -> Result<(), Fail> {
    let answer = shown(Some(list), global)?;
    if !admin_client::printed(json, &answer)? {
        say_list(&answer);
    }
    Ok(())
}

fn only_list(global: &GlobalArgs) -> Result<String, Fail> {
    let names = admin_client::gate_lists(global)?;
    match names.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Fail::usage(
            format!("there are {} lists: {}", names.len(), names.join(", ")),
            "say which with --list NAME",
        )),
    }
}

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
    Ok(known.with_context(|| format!("{} cannot be asked what it knows of the log", store.display()))?)
}
