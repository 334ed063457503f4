//! Commands to a running edge. In: what was typed. Out: the edge's answer, as words, a table or JSON.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use crate::args::{AdminArgs, ExplainArgs, GlobalArgs};
use crate::fail::Fail;
use crate::{resolve, say};

/// `explain`: exit 0 if every answer is `allow`, 1 if one is `refuse`, so that scripts can ask.
pub(crate) fn explain(args: &ExplainArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let json = args.admin.json.unwrap_or(false);
    let by_gate =
        |service: Option<&str>| crate::commands::gate::explain(&args.address.to_string(), service, json, global);
    let code = |allowed: bool| if allowed { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) };
    if args.admin.control_port.is_none() && crate::commands::gate::runs(global) {
        // Where only a gate runs, its lists are meant; beside an edge they are when they are named.
        let edge_runs = runtime::api::find(&resolve::data_dir(global.data_dir.clone())?, None).is_ok();
        let named = match args.service.as_deref() {
            Some(name) => crate::commands::gate::lists(global)?.iter().any(|l| l == name),
            None => false,
        };
        if !edge_runs || named {
            return Ok(code(by_gate(args.service.as_deref())?));
        }
    }
    let dir = resolve::data_dir(global.data_dir.clone())?;
    if args.admin.control_port.is_none() && runtime::api::edges(&dir).is_empty() && !crate::commands::gate::runs(global)
    {
        return Err(Fail::hinted(
            format!("neither an edge nor a gate runs from {}", dir.display()),
            "name its data directory with `--data-dir DIR`; in a container: `docker exec NAME portcullis explain …`",
        ));
    }
    let answer =
        ask(&args.admin, global, "explain", json!({ "address": args.address.to_string(), "service": args.service }))?;
    let answers = answer["answers"].as_array().cloned().unwrap_or_default();
    if json {
        say::line(serde_json::to_string_pretty(&answer).context("cannot print the answer")?);
    } else {
        for a in &answers {
            if let Some(guard) = a["guard"].as_str() {
                say::line(guard);
            }
            say::line(a["text"].as_str().unwrap_or("?"));
            crate::commands::gate::say_grants(a);
            crate::commands::gate::say_past(a);
        }
        say_stale(&answer);
    }
    let allowed = !answers.is_empty() && answers.iter().all(|a| a["verdict"] == "allow");
    Ok(code(allowed))
}

/// Exit code of `explain` for a refused address: neither success (0), failure to find out (1) nor wrong usage (2).
const REFUSED: u8 = 3;

/// `lists`.
pub(crate) fn lists(args: &AdminArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let answer = ask(args, global, "lists", Value::Null)?;
    if args.json.unwrap_or(false) {
        say::line(serde_json::to_string_pretty(&answer).context("cannot print the answer")?);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let rows: Vec<Vec<String>> = answer["lists"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|l| {
            let first: Vec<String> = l["first"].as_array().into_iter().flatten().take(3).map(text).collect();
            let total = l["entries"].as_u64().unwrap_or(0);
            let more = if total > first.len() as u64 { ", …" } else { "" };
            vec![text(&l["name"]), total.to_string(), format!("{}{more}", first.join(", ")), text(&l["source"])]
        })
        .collect();
    say::raw(&say::table(&["LIST", "ENTRIES", "FIRST", "WRITTEN IN"], &rows));
    say_stale(&answer);
    if say::to_person() {
        say::line(format!("generation {}, {} connections inside", answer["generation"], answer["inside"]));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that what was judged by may not be what the files say.
fn say_stale(answer: &Value) {
    if let Some(stale) = answer["files"]["stale"].as_str() {
        say::line(stale);
    }
}

/// `reload`.
pub(crate) fn reload(args: &AdminArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    // A gate that runs alone is reached by its own socket.
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let answer = if args.control_port.is_none()
        && runtime::api::find(&dir, None).is_err()
        && crate::commands::gate::runs(global)
    {
        crate::ask::gate(global, "reload", Value::Null)?
    } else {
        ask(args, global, "reload", Value::Null)?
    };
    if args.json.unwrap_or(false) {
        say::line(&answer);
    } else {
        let said: Vec<&str> = answer["reloaded"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for line in &said {
            say::line(line);
        }
        if said.is_empty() {
            say::line("nothing here is read again; restart it to change its settings");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(args: &AdminArgs, global: &GlobalArgs, verb: &str, what: Value) -> Result<Value, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let socket = runtime::api::find(&dir, args.control_port)?;
    crate::ask::socket(&socket, verb, what)
}
