//! The gate's verbs on the admin socket: lists, grants, audit, doctor, explain. In: JSON of the command line. Out: JSON
//! that it prints.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use decide::grant::{Entry, Event};
use decide::names::{Follow, HostName};
use decide::{Ask, admit, explain};
use model::{Addr, Evidence, Grant, GrantId, ListId, Prefix};
use serde_json::{Value, json};
use wire::grant::GrantRecord;

use super::Gate;
use super::keeper::said;
use crate::api::Verbs;
use crate::audit;
use crate::hint::Hinted;

/// Where a gate listens for commands.
#[must_use]
pub fn gate_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("gate.sock")
}

/// Adds the gate's verbs to a process's.
#[must_use]
pub fn verbs(verbs: Verbs, gate: &Gate) -> Verbs {
    let on = |f: fn(&Gate, &Value) -> anyhow::Result<Value>| {
        let gate = gate.clone();
        move |args: Value| {
            let answer = f(&gate, &args);
            async move { answer }
        }
    };
    let (acting, asked) = (gate.clone(), gate.clone());
    verbs
        .on("gate-lists", on(lists))
        .on("gate-show", on(show))
        .on("gate-explain", on(explain_verb))
        .on("gate-audit", on(audit_verb))
        .on("gate-doctor", move |_| {
            let gate = asked.clone();
            async move { Ok(super::doctor::doctor(&gate).await) }
        })
        .on("gate-grant", move |args| {
            let gate = acting.clone();
            async move { act(&gate, &args).await }
        })
}

fn text<'a>(args: &'a Value, key: &str) -> Option<&'a str> {
    args.get(key).and_then(Value::as_str)
}

fn lists(gate: &Gate, _: &Value) -> anyhow::Result<Value> {
    let published = gate.keeper.published.borrow().clone();
    let all: Vec<Value> = published
        .lists
        .values()
        .map(|d| json!({ "name": d.list, "static": d.statics.len(), "learnt": d.learnt.len(), "generation": d.generation, "enforcers": enforcers(gate, &d.list) }))
        .collect();
    Ok(json!({ "generation": published.generation, "lists": all }))
}

fn enforcers(gate: &Gate, list: &str) -> Vec<Value> {
    let now = gate.keeper.published.borrow().generation;
    gate.desk
        .enforcers
        .iter()
        .filter(|e| e.holds(list))
        .map(|e| {
            let p = e.progress.lock();
            json!({ "name": p.name, "generation": p.reached, "current": p.reached >= now, "changes": p.changes,
                    "took_ms": p.took.as_secs_f64() * 1000.0, "error": p.error, "remark": p.remark.as_ref().map(ToString::to_string) })
        })
        .collect()
}

fn show(gate: &Gate, args: &Value) -> anyhow::Result<Value> {
    let name = text(args, "list").context("`list` is missing")?;
    let published = gate.keeper.published.borrow().clone();
    let d = published.lists.get(name).ok_or_else(|| no_list(gate, name))?;
    let mut grants: Vec<Grant> =
        gate.keeper.picture.grants.read().get(name).map(|g| g.values().cloned().collect()).unwrap_or_default();
    grants.sort_by_key(|g| g.id);
    Ok(json!({
        "name": name,
        "generation": d.generation,
        "now": gate.keeper.picture.clock.lock().0,
        "names": followed(gate, name),
        "static": d.statics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "grants": grants.iter().map(shown).collect::<Vec<_>>(),
        "enforcers": enforcers(gate, name),
    }))
}

/// The grants that hold an address on one of these lists, as JSON.
#[must_use]
pub fn behind(gate: &Gate, lists: &[String], addr: Addr) -> Vec<Value> {
    lists.iter().flat_map(|l| gate.keeper.holding(l, addr)).map(|g| shown(&g)).collect()
}

fn shown(g: &Grant) -> Value {
    let mut v = json!(GrantRecord::from(g));
    v["ends_at"] = json!(g.ends_at());
    v
}

/// The host names that a list follows, and how each stands.
fn followed(gate: &Gate, list: &str) -> Vec<Value> {
    let names = gate.names.names.lock();
    let each = names.follows().iter().filter(|f| f.list == list);
    each.map(|f| {
        let k = names.known(&f.host);
        let addrs: Vec<String> = k.into_iter().flat_map(decide::names::Known::addrs).map(|a| a.to_string()).collect();
        json!({ "name": f.host.entry(), "until": f.until, "pinned": f.pinned, "addresses": addrs,
                "good_at": k.and_then(|k| k.good_at), "ask_at": k.map(|k| k.ask_at), "failed": k.and_then(|k| k.failed.clone()) })
    })
    .collect()
}

fn no_list(gate: &Gate, name: &str) -> anyhow::Error {
    let known: Vec<String> = gate.keeper.published.borrow().lists.keys().cloned().collect();
    Hinted::error(format!("there is no list `{name}`"), format!("the lists are {}", known.join(", ")))
}

/// Why an address is on a list or not, with the grant behind it.
fn explain_verb(gate: &Gate, args: &Value) -> anyhow::Result<Value> {
    let addr: Addr = text(args, "address").context("`address` is missing")?.parse().map_err(|e| anyhow!("{e}"))?;
    let published = gate.keeper.published.borrow().clone();
    let names: Vec<String> = match text(args, "service") {
        Some(name) if published.lists.contains_key(name) => vec![name.to_string()],
        Some(name) => return Err(no_list(gate, name)),
        None => published.lists.keys().cloned().collect(),
    };
    let mut answers = Vec::new();
    for name in names {
        let ask = Ask { addr, list: published.view.id(&name).unwrap_or(ListId(u32::MAX)) };
        let verdict = admit(&published.view, ask);
        let said = explain(&published.view, ask);
        let grants = gate.keeper.holding(&name, addr);
        answers.push(json!({
            "list": name,
            "verdict": if verdict.is_allow() { "allow" } else { "refuse" },
            "text": said,
            "grants": grants.iter().map(shown).collect::<Vec<_>>(),
        }));
    }
    let heard: Vec<String> = gate
        .desk
        .heard
        .recent(std::time::Instant::now())
        .iter()
        .filter(|o| o.concerns(addr))
        .map(|o| format!("{o}; {}", super::doctor::mend(&gate.desk, o).1))
        .collect();
    Ok(
        json!({ "address": addr.to_string(), "generation": published.generation, "now": gate.keeper.picture.clock.lock().0,
               "answers": answers, "heard": heard }),
    )
}

async fn act(gate: &Gate, args: &Value) -> anyhow::Result<Value> {
    let act = text(args, "act").context("`act` is missing")?;
    let now = gate.keeper.picture.clock.lock().0.max(crate::wall());
    let until = args.get("for").and_then(Value::as_u64).map(|secs| now.saturating_add(secs));
    if let Some(name) =
        text(args, if act == "add" { "prefix" } else { "what" }).filter(|t| t.trim().starts_with("dns:"))
    {
        return named(gate, act, name, args, until).await;
    }
    let event = match act {
        "add" => {
            let list = text(args, "list").context("`list` is missing")?;
            if !gate.keeper.published.borrow().lists.contains_key(list) {
                return Err(no_list(gate, list));
            }
            let prefix: Prefix =
                text(args, "prefix").context("`prefix` is missing")?.parse().map_err(|e| anyhow!("{e}"))?;
            Event::Add(Entry {
                list: list.to_string(),
                prefix,
                evidence: Evidence::Manual,
                principal: text(args, "principal").map(str::to_string),
                until,
                pinned: args.get("pinned").and_then(Value::as_bool).unwrap_or(false),
            })
        }
        "revoke" => {
            let ids = found(gate, args)?;
            follows_no_name(gate, &ids)?;
            let mut ended = Vec::new();
            for id in ids {
                said(gate.keeper.tell(Event::Revoke(id, "by hand".to_string())).await)?;
                ended.push(id.to_string());
            }
            return Ok(json!({ "ended": ended }));
        }
        "extend" => {
            let ids = found(gate, args)?;
            follows_no_name(gate, &ids)?;
            for id in &ids {
                said(gate.keeper.tell(Event::Extend(*id, until)).await)?;
            }
            return Ok(json!({ "extended": ids.iter().map(ToString::to_string).collect::<Vec<_>>(), "until": until }));
        }
        other => return Err(anyhow!("there is no `{other}` for grants")),
    };
    let done = said(gate.keeper.tell(event).await)?;
    let id = match done.outcome {
        decide::grant::Outcome::Given(id) | decide::grant::Outcome::Renewed(id) | decide::grant::Outcome::Ended(id) => {
            id.to_string()
        }
        decide::grant::Outcome::Refused(why) => why.to_string(),
    };
    Ok(json!({ "grant": id, "generation": done.generation, "until": until }))
}

/// What a person does with a host name: adds it, takes it back, sets its end.
async fn named(gate: &Gate, act: &str, name: &str, args: &Value, until: Option<u64>) -> anyhow::Result<Value> {
    let host: HostName = name.parse().map_err(|e: String| anyhow!(e))?;
    let lists: Vec<String> = match text(args, "list") {
        Some(list) if gate.keeper.published.borrow().lists.contains_key(list) => vec![list.to_string()],
        Some(list) => return Err(no_list(gate, list)),
        None => {
            let names = gate.names.names.lock();
            names.follows().iter().filter(|f| f.host == host).map(|f| f.list.clone()).collect()
        }
    };
    if act == "revoke" {
        let from = gate
            .names
            .remove(host.clone(), text(args, "list").map(str::to_string))
            .await
            .map_err(|e| anyhow!("nothing was changed: {e}"))?;
        if from == 0 {
            let hint = if lists.is_empty() {
                "`portcullis list show NAME` shows what is followed"
            } else {
                "it stands in the configuration: take it out there, then `portcullis reload`"
            };
            return Err(Hinted::error(format!("nobody added {} by hand", host.entry()), hint));
        }
        return Ok(json!({ "ended": [host.entry()] }));
    }
    if lists.is_empty() {
        return Err(Hinted::error(
            format!("{} is on no list", host.entry()),
            "`portcullis grant add dns:NAME --list LIST` adds it",
        ));
    }
    let pinned = args.get("pinned").and_then(Value::as_bool).unwrap_or(false);
    for list in &lists {
        let follow = Follow { list: list.clone(), host: host.clone(), until, pinned };
        gate.names.add(follow).await.map_err(|e| anyhow!("nothing was changed: {e}"))?;
    }
    let known = gate.names.names.lock().known(&host).cloned().unwrap_or_default();
    let addrs: Vec<String> = known.addrs().map(|a| a.to_string()).collect();
    let failed = known.failed.or_else(|| known.good_at.is_none().then(|| "no answer yet".to_string()));
    Ok(json!({ "grant": host.entry(), "extended": [host.entry()], "addresses": addrs, "failed": failed, "until": until,
               "generation": gate.keeper.published.borrow().generation }))
}

/// An address that a name put on the list would be back at once.
fn follows_no_name(gate: &Gate, ids: &[GrantId]) -> anyhow::Result<()> {
    let grants = gate.keeper.picture.grants.read();
    let by_name = grants.values().flat_map(|g| g.values()).find(|g| g.evidence == Evidence::Dns && ids.contains(&g.id));
    let Some(g) = by_name else { return Ok(()) };
    let name = g.principal.as_deref().unwrap_or("dns:…");
    Err(Hinted::error(
        format!("{} is on `{}` because {name} has that address; nothing was changed", g.prefix, g.list),
        format!("`portcullis grant revoke {name}`, or take it out of the configuration"),
    ))
}

/// The grants that a person means: `g17`, or an address or prefix on one list or on all.
fn found(gate: &Gate, args: &Value) -> anyhow::Result<Vec<GrantId>> {
    let what = text(args, "what").context("`what` is missing")?;
    let list = text(args, "list");
    let grants = gate.keeper.picture.grants.read();
    let all = || grants.iter().filter(|(l, _)| list.is_none_or(|w| w == l.as_str())).flat_map(|(_, g)| g.values());
    let ids: Vec<GrantId> = match what.strip_prefix('g').and_then(|n| n.parse().ok()) {
        Some(n) => all().filter(|g| g.id == GrantId(n)).map(|g| g.id).collect(),
        None => {
            let prefix: Prefix = what.parse().map_err(|e| anyhow!("`{what}` is no grant (g17) and no address: {e}"))?;
            // A person who names an address means the grant that lets it in; one who names a prefix, all within it.
            all()
                .filter(|g| prefix.covers(g.prefix) || (prefix.is_host() && g.prefix.contains(prefix.first())))
                .map(|g| g.id)
                .collect()
        }
    };
    if ids.is_empty() {
        return Err(Hinted::error(
            format!("no live grant is meant by `{what}`"),
            "`portcullis list show NAME` shows them; static entries are changed in the configuration",
        ));
    }
    Ok(ids)
}

fn audit_verb(gate: &Gate, args: &Value) -> anyhow::Result<Value> {
    if args.get("verify").and_then(Value::as_bool).unwrap_or(false) {
        let (lines, head) = audit::verify(&gate.audit)?;
        return Ok(json!({ "file": gate.audit.display().to_string(), "lines": lines, "head": head }));
    }
    Ok(json!({ "file": gate.audit.display().to_string() }))
}
