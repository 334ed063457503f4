//! The gate's verbs on the admin socket: lists, grants, audit, doctor, explain. In: JSON of the command line. Out: JSON
//! that it prints.

use std::path::{Path, PathBuf};

use access::ended::Ended;
use access::record::{BanRecord, GrantRecord};
use access::{Ask, admit, explain};
use access::{Ban, Grant, ListId, Whom};
use addr::Addr;
use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::Gate;
use runtime::api::Verbs;
use runtime::audit;
use runtime::hint::Hinted;

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
    let (acting, asked, woken) = (gate.clone(), gate.clone(), gate.keeper.clone());
    let (time, trouble) = (gate.keeper.picture.time.clone(), gate.keeper.picture.trouble.clone());
    runtime::clock::verbs(verbs, time, trouble, move || woken.look())
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
            async move { super::grants::act(&gate, &args).await }
        })
}

pub(super) fn text<'a>(args: &'a Value, key: &str) -> Option<&'a str> {
    args.get(key).and_then(Value::as_str)
}

fn lists(gate: &Gate, _: &Value) -> anyhow::Result<Value> {
    let published = gate.keeper.published.borrow().clone();
    let all: Vec<Value> = published
        .lists
        .values()
        .map(|d| {
            let room = gate.keeper.picture.rooms.read().get(&d.list).copied().unwrap_or_default();
            let rules = gate.keeper.picture.rules.read().get(&d.list).cloned().unwrap_or_default();
            json!({ "name": d.list, "static": d.statics.len(), "learnt": d.learnt.len(), "generation": d.generation,
                    "max": rules.max, "counted": room.proven, "guests": room.guests, "max_guests": rules.guests,
                    "evicted": room.evicted + room.guests_evicted, "refused": room.refused,
                    "bans": bans(gate, &d.list).len(), "enforcers": enforcers(gate, &d.list) })
        })
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
    let published = gate.keeper.published.borrow().clone();
    let name = match text(args, "list") {
        Some(name) => name,
        None => match published.lists.keys().collect::<Vec<_>>()[..] {
            [one] => one.as_str(),
            ref all => {
                let names: Vec<&str> = all.iter().map(|n| n.as_str()).collect();
                return Err(Hinted::error(
                    format!("there are {} lists: {}", all.len(), names.join(", ")),
                    "say which: `portcullis list show NAME`",
                ));
            }
        },
    };
    let d = published.lists.get(name).ok_or_else(|| no_list(gate, name))?;
    let mut grants: Vec<Grant> =
        gate.keeper.picture.grants.read().get(name).map(|g| g.values().cloned().collect()).unwrap_or_default();
    grants.sort_by_key(|g| g.id);
    Ok(json!({
        "name": name,
        "generation": d.generation,
        "now": gate.keeper.picture.time.now(),
        "names": followed(gate, name),
        "static": d.statics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "grants": grants.iter().map(shown).collect::<Vec<_>>(),
        "bans": bans(gate, name),
        "enforcers": enforcers(gate, name),
    }))
}

/// What these lists know of an address: the grants that hold it, what ended for it or around it, the bans it runs into.
#[must_use]
pub fn behind(gate: &Gate, lists: &[String], addr: Addr) -> Value {
    let grants: Vec<Value> = lists.iter().flat_map(|l| gate.keeper.holding(l, addr)).map(|g| shown(&g)).collect();
    let (ended, bans) = why_not(gate, lists, addr);
    let ended = if grants.is_empty() { ended } else { Vec::new() };
    json!({ "grants": grants, "ended": ended, "bans": bans })
}

fn shown(g: &Grant) -> Value {
    let mut v = json!(GrantRecord::from(g));
    v["ends_at"] = json!(g.ends_at());
    for (claim, record) in g.beside.iter().zip(v["beside"].as_array_mut().into_iter().flatten()) {
        record["ends_at"] = json!(claim.ends_at(g.seen_at));
    }
    v
}

/// Whose proofs do not count on a list, as JSON.
fn bans(gate: &Gate, list: &str) -> Vec<Value> {
    gate.keeper.picture.bans.read().values().filter(|b| b.list == list).map(|b| json!(BanRecord::from(b))).collect()
}

/// Why an address is not, or no longer, on one of these lists: what ended for it or around it, and the bans it runs into.
fn why_not(gate: &Gate, lists: &[String], addr: Addr) -> (Vec<Value>, Vec<Value>) {
    let memory = gate.keeper.picture.ended.read();
    let ended = lists.iter().flat_map(|l| memory.around(l, addr)).map(|e| past(e, addr)).collect();
    let holds = |b: &&Ban| lists.contains(&b.list) && matches!(&b.whom, Whom::From(p) if p.contains(addr));
    let bans = gate.keeper.picture.bans.read();
    (ended, bans.values().filter(holds).map(|b| json!(BanRecord::from(b))).collect())
}

fn past(e: &Ended, addr: Addr) -> Value {
    json!({ "at": e.at, "list": e.list, "prefix": e.prefix.to_string(), "principal": e.principal,
            "evidence": e.evidence.word(), "what": e.what.word(), "by": e.by, "neighbour": !e.prefix.contains(addr) })
}

/// The host names that a list follows, and how each stands.
fn followed(gate: &Gate, list: &str) -> Vec<Value> {
    let names = gate.names.names.lock();
    let each = names.follows().iter().filter(|f| f.list == list);
    each.map(|f| {
        let k = names.known(&f.host);
        let addrs: Vec<String> = k.into_iter().flat_map(access::names::Known::addrs).map(|a| a.to_string()).collect();
        let rules = gate.keeper.picture.rules.read().get(list).cloned().unwrap_or_default();
        let not: Vec<String> = k.map(|k| k.not_counting(&rules)).unwrap_or_default();
        json!({ "name": f.host.entry(), "until": f.until, "pinned": f.pinned, "addresses": addrs, "not_counting": not,
                "good_at": k.and_then(|k| k.good_at), "ask_at": k.map(|k| k.ask_at), "failed": k.and_then(|k| k.failed.clone()) })
    })
    .collect()
}

pub(super) fn no_list(gate: &Gate, name: &str) -> anyhow::Error {
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
        let (ended, bans) = why_not(gate, std::slice::from_ref(&name), addr);
        let ended = if verdict.is_allow() { Vec::new() } else { ended };
        answers.push(json!({
            "list": name,
            "ended": ended,
            "bans": bans,
            "verdict": if verdict.is_allow() { "allow" } else { "refuse" },
            "text": said,
            "grants": grants.iter().map(shown).collect::<Vec<_>>(),
        }));
    }
    let mut heard: Vec<String> = gate
        .desk
        .heard
        .recent(std::time::Instant::now())
        .iter()
        .filter(|o| o.concerns(addr))
        .map(|o| format!("{o}; {}", super::doctor::mend(&gate.desk, o)))
        .collect();
    let refused = gate.desk.shares.refusals.of(addr, std::time::Instant::now());
    heard.extend(refused.iter().map(|r| gate.desk.shares.in_words(r)));
    Ok(json!({ "address": addr.to_string(), "generation": published.generation, "now": gate.keeper.picture.time.now(),
               "answers": answers, "heard": heard }))
}

fn audit_verb(gate: &Gate, args: &Value) -> anyhow::Result<Value> {
    if args.get("verify").and_then(Value::as_bool).unwrap_or(false) {
        let (lines, head) = audit::verify(&gate.audit, None)?;
        return Ok(json!({ "file": gate.audit.display().to_string(), "lines": lines, "head": head }));
    }
    Ok(json!({ "file": gate.audit.display().to_string() }))
}
