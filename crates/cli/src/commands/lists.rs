//! `lists` and `lists show NAME`. In: what was typed. Out: the lists in force at an edge and those of a gate, whichever runs,
//! or what is on one of them.

use std::process::ExitCode;

use api::gate::{Enforcer, ListStates};
use api::{ListContents, ListsInForce};
use serde::Serialize;

use crate::admin_client::{self, Running};
use crate::args::gate::{JsonArgs, ListsArgs, ListsCommand};
use crate::args::{AdminArgs, GlobalArgs};
use crate::fail::Fail;
use crate::grants::{say_list, shown};
use crate::say::{self, word};

/// `lists` and `lists show NAME`.
pub(crate) fn run(a: &ListsArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    match &a.what {
        Some(ListsCommand::Show { name, json }) => show(name.as_deref(), json, global)?,
        None => all(&a.admin, global)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer of `lists --json`: of one component where one runs, else the edge's with the gate's beside it.
#[derive(Serialize)]
struct Both {
    #[serde(flatten)]
    edge: ListsInForce,
    gate: ListStates,
}

fn all(a: &AdminArgs, global: &GlobalArgs) -> Result<(), Fail> {
    let (edge, gate) = match a.control_port {
        Some(_) => (true, false),
        None => {
            let running = Running::find(global)?;
            running.either("lists")?;
            (running.edge(), running.gate())
        }
    };
    let json = a.json.unwrap_or(false);
    let edge = edge.then(|| admin_client::edge(global, a.control_port, api::Lists {})).transpose()?;
    let gate = gate.then(|| admin_client::gate(global, api::gate::Lists {})).transpose()?;
    match (edge, gate) {
        (Some(edge), Some(gate)) if json => say::json(&Both { edge, gate })?,
        (Some(edge), None) if json => say::json(&edge)?,
        (None, Some(gate)) if json => say::json(&gate)?,
        (Some(edge), Some(gate)) => {
            say::line("at the edge:");
            say_edge(&edge);
            say::line("");
            say::line("of the gate:");
            say_gate(&gate);
        }
        (edge, gate) => {
            edge.iter().for_each(say_edge);
            gate.iter().for_each(say_gate);
        }
    }
    Ok(())
}

fn say_edge(all: &ListsInForce) {
    say_contents(&all.lists, MAX_FIRST);
    say::stale(&all.files);
    if say::to_person() {
        say::line(format!("generation {}, {} connections inside", all.generation, all.inside));
    }
}

/// Entries of each list that are shown where all lists are: what fits in a line.
const MAX_FIRST: usize = 3;

fn say_contents(lists: &[ListContents], most: usize) {
    let row = |l: &ListContents| {
        let first: Vec<String> = l.first.iter().take(most).map(ToString::to_string).collect();
        let more = if l.entries > first.len() { ", …" } else { "" };
        vec![l.name.clone(), l.entries.to_string(), format!("{}{more}", first.join(", ")), l.source.clone()]
    };
    let rows: Vec<Vec<String>> = lists.iter().map(row).collect();
    say::raw(&say::table(&["LIST", "ENTRIES", "FIRST", "WRITTEN IN"], &rows));
}

fn say_gate(all: &ListStates) {
    let of = |n: usize, max: Option<usize>| max.map_or_else(|| n.to_string(), |max| format!("{n} of {max}"));
    let rows: Vec<Vec<String>> = all
        .lists
        .iter()
        .map(|l| {
            vec![
                word(&l.name),
                l.statics.to_string(),
                l.learnt.to_string(),
                of(l.counted, l.max),
                of(l.guests, l.max_guests),
                l.bans.to_string(),
                enforced(&l.enforcers),
            ]
        })
        .collect();
    say::raw(&say::table(&["LIST", "STATIC", "LEARNED", "PROVEN", "GUESTS", "BANS", "ENFORCERS"], &rows));
}

fn enforced(all: &[Enforcer]) -> String {
    all.iter()
        .map(|e| format!("{}{}", word(&e.name), if e.error.is_some() { " (failing)" } else { "" }))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One list: the gate's of this name, else the edge's.
fn show(name: Option<&str>, json: &JsonArgs, global: &GlobalArgs) -> Result<(), Fail> {
    let running = Running::find(global)?;
    running.either("lists show")?;
    let of_gate = running.gate() && !(running.edge() && only_at_edge(name, global)?);
    if of_gate {
        let answer = shown(name, global)?;
        if !admin_client::printed(json, &answer)? {
            say_list(&answer);
        }
        return Ok(());
    }
    let all = admin_client::edge(global, None, api::Lists {})?;
    let names: Vec<&str> = all.lists.iter().map(|l| l.name.as_str()).collect();
    let list = match (name, all.lists.as_slice()) {
        (None, [one]) => Some(one),
        (None, _) => None,
        (Some(name), lists) => lists.iter().find(|l| l.name == name),
    };
    let Some(list) = list else {
        let what = match name {
            Some(name) => format!("there is no list `{name}`"),
            None => format!("there are {} lists", names.len()),
        };
        return Err(Fail::usage(what, format!("name one of them: {}", names.join(", "))));
    };
    if !admin_client::printed(json, list)? {
        say_contents(std::slice::from_ref(list), list.first.len());
        say::stale(&all.files);
    }
    Ok(())
}

/// True if this name is a list of the edge and none of the gate.
fn only_at_edge(name: Option<&str>, global: &GlobalArgs) -> Result<bool, Fail> {
    let Some(name) = name else { return Ok(false) };
    if admin_client::gate_lists(global)?.iter().any(|l| l == name) {
        return Ok(false);
    }
    Ok(admin_client::edge(global, None, api::Lists {})?.lists.iter().any(|l| l.name == name))
}
