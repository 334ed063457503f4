//! Commands to a running edge. In: what was typed. Out: the edge's answer, as words, a table or JSON.

use std::process::ExitCode;

use addr::Addr;
use api::{Call, Explain, Freshness, Lists, Reload};

use crate::args::{AdminArgs, ExplainArgs, GlobalArgs};
use crate::fail::{Exit, Fail};
use crate::grants::{say_grants, say_past};
use crate::{resolve, say};

/// `explain`: exit 3 unless every answer is `allow`, so that scripts can ask.
pub(crate) fn explain(args: &ExplainArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let json = args.admin.json.unwrap_or(false);
    let by_gate = |service: Option<&str>| explain_by_gate(args.address, service, json, global);
    if args.admin.control_port.is_none() && crate::ask::gate_runs(global) {
        // Where only a gate runs, its lists are meant; beside an edge they are when they are named.
        let edge_runs = runtime::api::find(&resolve::data_dir(global.data_dir.clone())?, None).is_ok();
        let named = match args.service.as_deref() {
            Some(name) => crate::ask::gate_lists(global)?.iter().any(|l| l == name),
            None => false,
        };
        if !edge_runs || named {
            return Ok(Exit::of(by_gate(args.service.as_deref())?));
        }
    }
    let dir = resolve::data_dir(global.data_dir.clone())?;
    if args.admin.control_port.is_none() && runtime::api::edges(&dir).is_empty() && !crate::ask::gate_runs(global) {
        return Err(Fail::hinted(
            format!("neither an edge nor a gate runs from {}", dir.display()),
            "name its data directory with `--data-dir DIR`; in a container: `docker exec NAME portcullis explain …`",
        ));
    }
    let call = Explain { address: args.address, service: args.service.clone() };
    let answer = ask(&args.admin, global, call)?;
    if json {
        say::json(&answer)?;
    } else {
        for a in &answer.answers {
            if let Some(guard) = &a.guard {
                say::line(guard);
            }
            say::line(&a.text);
            say_grants(&a.behind);
            say_past(&a.behind);
        }
        say_stale(&answer.files);
    }
    Ok(Exit::of(!answer.answers.is_empty() && answer.answers.iter().all(|a| a.verdict.is_allow())))
}

/// What the gate says of an address; true if it is let in everywhere.
fn explain_by_gate(address: Addr, service: Option<&str>, json: bool, global: &GlobalArgs) -> Result<bool, Fail> {
    let answer = crate::ask::gate(global, api::gate::Explain { address, service: service.map(str::to_string) })?;
    if json {
        say::json(&answer)?;
    } else {
        for a in &answer.answers {
            say::line(say::word(&a.text));
            say_grants(&a.behind);
            say_past(&a.behind);
        }
        for seen in &answer.heard {
            say::line(format!("  seen: {}", say::word(seen)));
        }
    }
    Ok(!answer.answers.is_empty() && answer.answers.iter().all(|a| a.verdict.is_allow()))
}

/// `lists`.
pub(crate) fn lists(args: &AdminArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let answer = ask(args, global, Lists {})?;
    if args.json.unwrap_or(false) {
        say::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = answer
        .lists
        .iter()
        .map(|l| {
            let first: Vec<String> = l.first.iter().take(3).map(ToString::to_string).collect();
            let more = if l.entries > first.len() { ", …" } else { "" };
            vec![l.name.clone(), l.entries.to_string(), format!("{}{more}", first.join(", ")), l.source.clone()]
        })
        .collect();
    say::raw(&say::table(&["LIST", "ENTRIES", "FIRST", "WRITTEN IN"], &rows));
    say_stale(&answer.files);
    if say::to_person() {
        say::line(format!("generation {}, {} connections inside", answer.generation, answer.inside));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that what was judged by may not be what the files say.
fn say_stale(files: &Freshness) {
    if let Some(stale) = &files.stale {
        say::line(stale);
    }
}

/// `reload`.
pub(crate) fn reload(args: &AdminArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    // A gate that runs alone is reached by its own socket.
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let answer =
        if args.control_port.is_none() && runtime::api::find(&dir, None).is_err() && crate::ask::gate_runs(global) {
            crate::ask::gate(global, Reload {})?
        } else {
            ask(args, global, Reload {})?
        };
    if args.json.unwrap_or(false) {
        say::line(serde_json::to_string(&answer).unwrap_or_default());
    } else {
        for line in &answer.reloaded {
            say::line(line);
        }
        if answer.reloaded.is_empty() {
            say::line("nothing here is read again; restart it to change its settings");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ask<C: Call>(args: &AdminArgs, global: &GlobalArgs, call: C) -> Result<C::Answer, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let socket = runtime::api::find(&dir, args.control_port)?;
    crate::ask::socket(&socket, call)
}
