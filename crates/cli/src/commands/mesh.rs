//! Commands to a running coordination server: `users`, `keys`, `nodes`, `routes`, `apps`, `dns`, `policy get`. In:
//! what was typed. Out: the server's answer, as words, a table or JSON.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::args::control::{AppsCommand, DnsCommand, KeysCommand, NodesCommand, RoutesCommand, UsersCommand};
use crate::args::gate::JsonArgs;
use crate::commands::gate::printed;
use crate::fail::{Exit, Fail};
use crate::{ask, say};

type Answer = Result<ExitCode, Fail>;

/// A key is for today, unless told otherwise: it lies about in shells and scripts.
const KEY_EXPIRY: u64 = 86_400;

/// `users`.
pub(crate) fn users(c: &UsersCommand, global: &GlobalArgs) -> Answer {
    match c {
        UsersCommand::Create { name, role, json } => {
            role.as_deref().map_or(Ok(()), is_role)?;
            let user = ask::control(global, "users-create", json!({ "name": name, "role": role }))?;
            told(json, &user, || format!("user {} is there", login(&user)))
        }
        UsersCommand::Rename { name, new, json } => {
            let user = ask::control(global, "users-rename", json!({ "name": name, "new": new }))?;
            if user["policy"] == true && !json.json.unwrap_or(false) {
                eprintln!(
                    "note: a rule of the policy that says {} does not mean {} any more",
                    word(&user["before"]),
                    login(&user)
                );
            }
            told(json, &user, || format!("{} is {} now", word(&user["before"]), login(&user)))
        }
        UsersCommand::Role { name, role, json } => {
            is_role(role)?;
            let user = ask::control(global, "users-role", json!({ "name": name, "role": role }))?;
            told(json, &user, || match &user["owner_before"] {
                Value::String(before) => format!("{} owns the network now, {before} is an admin of it", login(&user)),
                _ => format!("{} has the role {role}", login(&user)),
            })
        }
        UsersCommand::Delete { name, json } => {
            let user = ask::control(global, "users-delete", json!({ "name": name }))?;
            told(json, &user, || format!("user {} is gone", login(&user)))
        }
        UsersCommand::List(json) => {
            let all = ask::control(global, "users-list", Value::Null)?;
            if printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let row =
                |u: &Value| vec![word(&u["id"]), login(u), word(&u["role"]), word(&u["nodes"]), when(&u["created"])];
            let rows: Vec<Vec<String>> = each(&all["users"]).map(row).collect();
            say::raw(&say::table(&["ID", "USER", "ROLE", "NODES", "SINCE"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn is_role(role: &str) -> Result<(), Fail> {
    if role == "member" || policy::Role::named(role).is_some() {
        return Ok(());
    }
    Err(Fail::usage(
        format!("`{role}` is no role"),
        "owner, admin, network-admin, it-admin, billing-admin, auditor or member",
    ))
}

fn login(u: &Value) -> String {
    let email = word(&u["email"]);
    if email.is_empty() { word(&u["name"]) } else { email }
}

/// `keys`.
pub(crate) fn keys(c: &KeysCommand, global: &GlobalArgs) -> Answer {
    match c {
        KeysCommand::Create { user, reusable, ephemeral, tags, expiry, json } => {
            let expiry = expiry.map_or(Some(KEY_EXPIRY), |s| s.0);
            let args =
                json!({ "user": user, "reusable": reusable, "ephemeral": ephemeral, "tags": tags, "expiry": expiry });
            let key = ask::control(global, "keys-create", args)?;
            unknown_tags(&key);
            told(json, &key, || word(&key["key"]))
        }
        KeysCommand::Revoke { id, json } => {
            let key = ask::control(global, "keys-revoke", json!({ "id": id }))?;
            told(json, &key, || format!("key {id} is good for nothing any more"))
        }
        KeysCommand::List(json) => {
            let all = ask::control(global, "keys-list", Value::Null)?;
            if printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let yes = |v: &Value, text: &str| if v == &Value::Bool(true) { text.to_string() } else { String::new() };
            let rows: Vec<Vec<String>> = each(&all["keys"])
                .map(|k| {
                    let tags: Vec<String> = each(&k["tags"]).map(word).collect();
                    let until = if k["expires"].is_u64() { when(&k["expires"]) } else { "never ends".into() };
                    vec![
                        word(&k["id"]),
                        word(&k["user"]),
                        tags.join(" "),
                        yes(&k["reusable"], "reusable"),
                        yes(&k["ephemeral"], "ephemeral"),
                        word(&k["used"]),
                        word(&k["state"]),
                        until,
                    ]
                })
                .collect();
            say::raw(&say::table(&["ID", "USER", "TAGS", "", "", "USED", "STATE", "UNTIL"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `nodes`.
pub(crate) fn nodes(c: &NodesCommand, global: &GlobalArgs) -> Answer {
    match c {
        NodesCommand::List(json) => nodes_list(json, global),
        NodesCommand::Show { node, json } => node_show(node, json, global),
        NodesCommand::Approve { node, user, json } => {
            let n = ask::control(global, "nodes-approve", json!({ "node": node, "user": user }))?;
            told(json, &n, || format!("{} has joined as {}", word(&n["name"]), word(&n["ipv4"])))
        }
        NodesCommand::Refuse { node, json } => {
            let n = ask::control(global, "nodes-refuse", json!({ "node": node }))?;
            told(json, &n, || format!("{node} was turned away"))
        }
        NodesCommand::Expire { node, json } => {
            let n = ask::control(global, "nodes-expire", json!({ "node": node }))?;
            told(json, &n, || format!("{} has to log in again", word(&n["name"])))
        }
        NodesCommand::Rename { node, name, json } => {
            let n = ask::control(global, "nodes-rename", json!({ "node": node, "name": name }))?;
            told(json, &n, || format!("node {} is called {} now", word(&n["id"]), word(&n["name"])))
        }
        NodesCommand::Move { node, user, json } => {
            let n = ask::control(global, "nodes-move", json!({ "node": node, "user": user }))?;
            let tags: Vec<String> = each(&n["tags"]).map(word).collect();
            told(json, &n, || match tags.is_empty() {
                true => format!("{} belongs to {} now", word(&n["name"]), word(&n["user"])),
                false => format!(
                    "{} belongs to its tags ({}); {} counts as who brought it",
                    word(&n["name"]),
                    tags.join(" "),
                    word(&n["user"])
                ),
            })
        }
        NodesCommand::Tag { node, tags, json } => {
            let n = ask::control(global, "nodes-tag", json!({ "node": node, "tags": tags }))?;
            unknown_tags(&n);
            let tags: Vec<String> = each(&n["tags"]).map(word).collect();
            let has = if tags.is_empty() { "no tag".to_string() } else { tags.join(" ") };
            told(json, &n, || format!("{} has {has}", word(&n["name"])))
        }
        NodesCommand::Delete { node, json } => {
            let n = ask::control(global, "nodes-delete", json!({ "node": node }))?;
            told(json, &n, || format!("{} is gone", word(&n["name"])))
        }
    }
}

fn nodes_list(json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let all = ask::control(global, "nodes-list", Value::Null)?;
    if printed(json, &all)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = each(&all["nodes"])
        .map(|n| {
            let state = match (n["expired"] == true, n["online"] == true, n["expected"] == true) {
                (true, ..) => "logged out".to_string(),
                (_, true, _) => "online".to_string(),
                // It was there before the server was started, or a moment ago.
                (_, _, true) => "not back yet".to_string(),
                _ => format!("away since {}", when(&n["seen"])),
            };
            vec![
                word(&n["id"]),
                word(&n["name"]),
                word(&n["ipv4"]),
                word(&n["belongs_to"]),
                state,
                word(&n["comes_from"]),
                word(&n["os"]),
            ]
        })
        .collect();
    say::raw(&say::table(&["ID", "NODE", "ADDRESS", "BELONGS TO", "STATE", "COMES FROM", "OS"], &rows));
    for w in each(&all["waiting"]) {
        let machine: String = word(&w["machine"]).chars().take("mkey:".len() + 5).collect();
        // A tag is more than a name: who approves sees what the device will be.
        let tags: Vec<String> = each(&w["asks_tags"]).map(word).collect();
        let tags = if tags.is_empty() { String::new() } else { format!(", asks for {}", tags.join(" ")) };
        say::line(format!(
            "{} ({machine}) waits{tags}: portcullis nodes approve {} --user NAME",
            word(&w["hostname"]),
            word(&w["ticket"])
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn node_show(node: &str, json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let n = ask::control(global, "nodes-show", json!({ "node": node }))?;
    if printed(json, &n)? {
        return Ok(ExitCode::SUCCESS);
    }
    let list = |v: &Value| each(v).map(word).collect::<Vec<_>>().join(" ");
    let stays =
        if n["expires"].is_u64() { format!("until {}", when(&n["expires"])) } else { "until it is logged out".into() };
    for (name, text) in [
        ("node", format!("{} ({})", word(&n["name"]), word(&n["full_name"]))),
        ("addresses", format!("{} {}", word(&n["ipv4"]), word(&n["ipv6"]))),
        ("belongs to", word(&n["belongs_to"])),
        ("brought by", word(&n["user"])),
        ("online", word(&n["online"])),
        ("comes from", word(&n["comes_from"])),
        ("reached at", list(&n["endpoints"])),
        ("joined", when(&n["created"])),
        ("logged in", stays),
        ("ephemeral", word(&n["ephemeral"])),
        ("client", format!("{} on {}", word(&n["client"]), word(&n["os"]))),
        ("machine", word(&n["machine"])),
        ("key", word(&n["key"])),
        ("sees", list(&n["map"]["peers"])),
    ] {
        say::line(format!("{name:<11} {text}"));
    }
    for r in each(&n["routes"]) {
        say::line(format!("{:<11} {} {}", "route", word(&r["prefix"]), word(&r["state"])));
    }
    Ok(ExitCode::SUCCESS)
}

/// `routes`.
pub(crate) fn routes(c: &RoutesCommand, global: &GlobalArgs) -> Answer {
    match c {
        RoutesCommand::List(json) => {
            let all = ask::control(global, "routes-list", Value::Null)?;
            if printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = each(&all["routes"])
                .map(|r| {
                    let by = if r["by_policy"] == true { "by the policy" } else { "" };
                    let carries = match (r["primary"] == true, r["online"] == true) {
                        (true, true) => "carries it",
                        (true, false) => "should carry it, is away",
                        (false, _) => "",
                    };
                    vec![
                        word(&r["node"]),
                        word(&r["prefix"]),
                        word(&r["state"]),
                        by.into(),
                        carries.into(),
                        word(&r["leaves_from"]),
                    ]
                })
                .collect();
            say::raw(&say::table(&["NODE", "ROUTE", "STATE", "", "", "LEAVES FROM"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        RoutesCommand::Approve { node, routes, json } => {
            let done = ask::control(global, "routes-approve", json!({ "node": node, "routes": routes }))?;
            let missing: Vec<String> = each(&done["not_offered"]).map(word).collect();
            if !missing.is_empty() && !json.json.unwrap_or(false) {
                say::line(format!(
                    "{} does not offer {} now; it is approved for when it does",
                    word(&done["node"]),
                    missing.join(" ")
                ));
            }
            told(json, &done, || format!("approved at {}: {}", word(&done["node"]), routes.join(" ")))
        }
        RoutesCommand::Revoke { node, routes, json } => {
            let done = ask::control(global, "routes-revoke", json!({ "node": node, "routes": routes }))?;
            told(json, &done, || format!("taken back at {}: {}", word(&done["node"]), routes.join(" ")))
        }
        RoutesCommand::Check { address, json } => check(address, json, global),
    }
}

/// `routes check`: exit 3 where nobody may pass.
fn check(address: &str, json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let found = ask::control(global, "routes-check", json!({ "address": address }))?;
    let nobody = found["nobody"].is_string() && !found["node"].is_string();
    let code = Exit::of(!nobody);
    if printed(json, &found)? {
        return Ok(code);
    }
    if found["node"].is_string() {
        say::line(format!("{} is the node {} itself", word(&found["address"]), word(&found["node"])));
        return Ok(ExitCode::SUCCESS);
    }
    for c in each(&found["carriers"]) {
        let users: Vec<String> = each(&c["users"]).map(word).collect();
        let whom = if users.is_empty() { "nobody".to_string() } else { users.join(", ") };
        let whom = if c["exit"] == true { format!("{whom}, if it is their exit node") } else { whom };
        let away = if c["online"] == true { "" } else { ", which is away" };
        say::line(format!(
            "{} goes through {}{away} by {}",
            word(&found["address"]),
            word(&c["node"]),
            word(&c["route"])
        ));
        say::line(format!("  for:         {whom}"));
    }
    leaves_from(&found["leaves_from"]);
    for p in each(&found["not_approved"]) {
        let (route, node, state) = (word(&p["route"]), word(&p["node"]), word(&p["state"]));
        let hint = if matches!(state.as_str(), "pending" | "revoked") {
            let route = if route.ends_with("/0") { "exit" } else { &route };
            format!(": portcullis routes approve {node} {route}")
        } else {
            String::new()
        };
        say::line(format!("{route} at {node} is {state}{hint}"));
    }
    if nobody {
        let carried = each(&found["carriers"]).next().is_some();
        let nobody = if carried { "nobody may reach" } else { "nobody carries" };
        say::line(format!("{nobody} {}: {}", word(&found["address"]), word(&found["nobody"])));
    }
    Ok(code)
}

/// Every address that traffic may come from: all of them have to be let in at the other end.
fn leaves_from(sources: &Value) {
    let all: Vec<&Value> = each(sources).collect();
    let one = all.len() == 1;
    if !one && !all.is_empty() {
        say::line(format!("  leaves from one of {} addresses; give all of them to the partner:", all.len()));
    }
    for s in all {
        let (node, address) = (word(&s["node"]), word(&s["address"]));
        let part = match &s["app"] {
            Value::String(app) => format!("connector of {app}"),
            _ => "has the route too".to_string(),
        };
        let what = match (s["carries"] == true, s["online"] == true) {
            (true, true) => format!("{node} carries it now"),
            (true, false) => format!("{node} should carry it, and is away"),
            (false, true) => format!("{node} takes over if need be: {part}"),
            (false, false) => format!("{node} is away: {part}"),
        };
        let address = match (s["address"].is_string(), s["private"] == true) {
            (false, _) => "not known yet".to_string(),
            (true, true) => format!("{address}, a private one: the partner sees another"),
            (true, false) => address,
        };
        if one {
            let hint = if s["address"].is_string() {
                "  (its control connection comes from there; give it to the partner)"
            } else {
                ""
            };
            say::line(format!("  leaves from: {address}{hint}"));
        } else {
            say::line(format!("    {address:<15}  {what}"));
        }
    }
}

/// `apps`.
pub(crate) fn apps(c: &AppsCommand, global: &GlobalArgs) -> Answer {
    match c {
        AppsCommand::List(json) => {
            let all = ask::control(global, "apps-list", Value::Null)?;
            if printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let list = |v: &Value| each(v).map(word).collect::<Vec<_>>().join(" ");
            let rows: Vec<Vec<String>> = each(&all["apps"])
                .map(|a| {
                    vec![
                        word(&a["name"]),
                        list(&a["domains"]),
                        list(&a["pinned"]),
                        list(&a["connectors"]),
                        word(&a["addresses"]),
                    ]
                })
                .collect();
            say::raw(&say::table(&["APP", "DOMAINS", "PINNED", "CONNECTORS", "ADDRESSES"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        AppsCommand::Show { name, json } => {
            let app = ask::control(global, "apps-show", json!({ "name": name }))?;
            if printed(json, &app)? {
                return Ok(ExitCode::SUCCESS);
            }
            let by = each(&app["connectors"]).map(word).collect::<Vec<_>>().join(" ");
            let pinned = each(&app["pinned"]).map(|p| {
                let none = String::new;
                vec!["(pinned)".into(), word(p), none(), none(), "always".into(), by.clone()]
            });
            let rows: Vec<Vec<String>> = each(&app["learnt"])
                .map(|l| {
                    let until = match (l["gone"] == true, l["until"].is_u64()) {
                        _ if l["over"] == true => "over the limit of routes".into(),
                        (true, _) => format!("gone {}", when(&l["until"])),
                        (false, true) => when(&l["until"]),
                        (false, false) => "for ever".into(),
                    };
                    vec![
                        word(&l["domain"]),
                        word(&l["address"]),
                        when(&l["since"]),
                        when(&l["seen"]),
                        until,
                        word(&l["connector"]),
                    ]
                })
                .chain(pinned)
                .collect();
            say::raw(&say::table(&["DOMAIN", "ADDRESS", "SINCE", "LAST SEEN", "UNTIL", "CONNECTOR"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `dns`.
pub(crate) fn dns(c: &DnsCommand, global: &GlobalArgs) -> Answer {
    let (json, change) = match c {
        DnsCommand::Show(json) => {
            let names = ask::control(global, "dns-get", Value::Null)?;
            if printed(json, &names)? {
                return Ok(ExitCode::SUCCESS);
            }
            let list = |v: &Value| each(v).map(word).collect::<Vec<_>>().join(" ");
            say::line(format!("domain       {}", word(&names["domain"])));
            let servers = list(&names["nameservers"]);
            say::line(format!("nameservers  {}", if servers.is_empty() { "each node's own".into() } else { servers }));
            say::line(format!("search       {}", list(&names["search"])));
            for (domain, servers) in names["split"].as_object().into_iter().flatten() {
                say::line(format!("split        {domain} -> {}", list(servers)));
            }
            for r in each(&names["records"]) {
                say::line(format!("name         {} {}", word(&r["Name"]), word(&r["Value"])));
            }
            return Ok(ExitCode::SUCCESS);
        }
        DnsCommand::Nameservers { servers, json } => (json, json!({ "nameservers": servers })),
        DnsCommand::Search { domains, json } => (json, json!({ "search": domains })),
        DnsCommand::Split { domain, servers, json } => {
            (json, json!({ "split": { "domain": domain, "servers": servers } }))
        }
        DnsCommand::Add { name, address, json } => (json, json!({ "record": { "name": name, "value": address } })),
        DnsCommand::Remove { name, json } => (json, json!({ "remove_record": name })),
    };
    let cleared = change.get("nameservers").and_then(Value::as_array).is_some_and(Vec::is_empty);
    let done = ask::control(global, "dns-set", change)?;
    told(json, &done, || {
        if cleared { "every node asks its own nameservers again".to_string() } else { "every node is told".to_string() }
    })
}

/// `policy get`.
pub(crate) fn policy_get(json: bool, global: &GlobalArgs) -> Answer {
    let got = ask::control(global, "policy-get", Value::Null)?;
    if json {
        say::line(serde_json::to_string_pretty(&got).context("cannot print the answer")?);
        return Ok(ExitCode::SUCCESS);
    }
    match &got["policy"] {
        Value::String(text) => say::raw(text),
        _ => {
            return Err(Fail::hinted(
                "there is no policy: every node reaches every other one",
                "`portcullis policy set FILE` puts one in force",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error which tags give nothing yet.
fn unknown_tags(answer: &Value) {
    let tags: Vec<String> = each(&answer["unknown_tags"]).map(word).collect();
    if !tags.is_empty() {
        eprintln!("note: the policy in force names {} nowhere under tagOwners", tags.join(", "));
    }
}

fn told(json: &JsonArgs, answer: &Value, words: impl FnOnce() -> String) -> Answer {
    if !printed(json, answer)? {
        say::line(words());
    }
    Ok(ExitCode::SUCCESS)
}

fn each(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn word(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => say::word(s),
        other => say::word(&other.to_string()),
    }
}

fn when(v: &Value) -> String {
    v.as_u64().map_or_else(String::new, say::when)
}
