//! `explain` and `reload`. In: what was typed. Out: the answer of the edge or gate that runs, as words or JSON.

use std::process::ExitCode;

use addr::Addr;
use api::{Explain, Reload};

use crate::admin_client::{self, Running};
use crate::args::{AdminArgs, ExplainArgs, GlobalArgs};
use crate::fail::{Exit, Fail};
use crate::grants::{say_grants, say_past};
use crate::say;

/// `explain`: exit 3 unless every answer is `allow`, so that scripts can ask.
pub(crate) fn explain(args: &ExplainArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let json = args.admin.json.unwrap_or(false);
    if args.admin.control_port.is_none() {
        let running = Running::find(global)?;
        running.either("explain …")?;
        // Where only a gate runs, its lists are meant; beside an edge they are when they are named.
        let named = match args.service.as_deref() {
            Some(name) if running.gate() => admin_client::gate_lists(global)?.iter().any(|l| l == name),
            _ => false,
        };
        if !running.edge() || named {
            return Ok(Exit::of(explain_by_gate(args.address, args.service.as_deref(), json, global)?));
        }
    }
    let call = Explain { address: args.address, service: args.service.clone() };
    let answer = admin_client::edge(global, args.admin.control_port, call)?;
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
        say::stale(&answer.files);
    }
    Ok(Exit::of(!answer.answers.is_empty() && answer.answers.iter().all(|a| a.verdict.is_allow())))
}

/// What the gate says of an address; true if it is let in everywhere.
fn explain_by_gate(address: Addr, service: Option<&str>, json: bool, global: &GlobalArgs) -> Result<bool, Fail> {
    let answer = admin_client::gate(global, api::gate::Explain { address, service: service.map(str::to_string) })?;
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

/// `reload`.
pub(crate) fn reload(args: &AdminArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let port = args.control_port;
    let gate_alone = port.is_none() && {
        let running = Running::find(global)?;
        running.gate() && !running.edge()
    };
    let answer =
        if gate_alone { admin_client::gate(global, Reload {})? } else { admin_client::edge(global, port, Reload {})? };
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
