//! The verbs of a running edge: `explain`, `lists`, `reload`, `status`. In: the doors and the run. Out: JSON that the
//! command line prints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::{Ask, Service, Verdict, admit, explain};
use access::{ListId, View};
use addr::Addr;
use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::Verbs;
use crate::door::Doors;
use crate::hint::Hinted;
use crate::lists::Lists;
use crate::run::Run;

/// Where the edge with this control port listens for commands.
#[must_use]
pub fn edge_socket(data_dir: &Path, control_port: u16) -> PathBuf {
    data_dir.join(format!("edge-{control_port}.sock"))
}

/// Who stands behind an address on a list at the doors: the grants of the gate, as JSON. Nobody where there is no gate.
pub type Behind = Arc<dyn Fn(&str, Addr) -> Value + Send + Sync>;

/// The verbs every edge has; `status` is what the edge says of itself.
#[must_use]
pub fn edge_verbs(
    run: &Run,
    doors: &Arc<Doors>,
    lists: &Lists,
    behind: Option<Behind>,
    status: impl Fn() -> Value + Send + Sync + 'static,
) -> Verbs {
    let (for_explain, for_lists) = (doors.clone(), doors.clone());
    let (explained, listed, doctored) = (lists.clone(), lists.clone(), lists.clone());
    reload_verbs(Verbs::default(), run)
        .on("explain", move |args| {
            let answer = explain_verb(&for_explain.view(), behind.as_ref(), &args);
            let fresh = freshness(&explained);
            async move { answer.map(|a| with(a, &fresh)) }
        })
        .on("lists", move |_| {
            let answer = with(lists_verb(&for_lists), &freshness(&listed));
            async move { Ok(answer) }
        })
        .on("doctor", move |_| {
            let answer = json!({ "found": stale(&doctored) });
            async move { Ok(answer) }
        })
        .on("status", move |_| {
            let answer = status();
            async move { Ok(answer) }
        })
}

/// Adds the verb of every process that can read something again.
#[must_use]
pub fn reload_verbs(verbs: Verbs, run: &Run) -> Verbs {
    let run = run.clone();
    verbs.on("reload", move |_| {
        let run = run.clone();
        async move { reload_verb(&run).await }
    })
}

/// How the lists in force stand to their files: `read_at`, `trouble`, and `stale`, a sentence where there is trouble.
fn freshness(lists: &Lists) -> Value {
    let fresh = lists.freshness();
    let mut v = serde_json::to_value(&fresh).unwrap_or_default();
    v["stale"] = fresh.words(crate::wall()).into();
    v
}

fn with(mut answer: Value, fresh: &Value) -> Value {
    answer["files"] = fresh.clone();
    answer
}

/// What a doctor says of list files that do not count: `[{"id", "what", "fix"}]`.
#[must_use]
pub fn stale(lists: &Lists) -> Vec<Value> {
    let fresh = lists.freshness();
    let fix = match &fresh.trouble {
        Some(t) if t.retried => "give it back, or make it readable for this process; nothing else is needed",
        _ => "mend what is written; `portcullis reload` says at once whether it is good",
    };
    fresh.words(crate::wall()).map(|what| json!({ "id": "lists", "what": what, "fix": fix })).into_iter().collect()
}

fn explain_verb(view: &View, behind: Option<&Behind>, args: &Value) -> anyhow::Result<Value> {
    let text = |key: &str| args.get(key).and_then(Value::as_str);
    let addr: Addr = text("address").context("`address` is missing")?.parse().map_err(|e| anyhow!("{e}"))?;
    let mut answers = Vec::new();
    match text("service") {
        Some(name) => {
            let service: Service = name.parse().map_err(|e: String| anyhow!(e))?;
            let guard = service.guard(view);
            let list = guard.list.unwrap_or(ListId(u32::MAX));
            let mut answer = judged(view, behind, Ask { addr, list });
            answer["service"] = json!(service.to_string());
            answer["guard"] = json!(guard.explain(view, &service));
            answers.push(answer);
        }
        None => {
            // A token's list is for its clients alone, and asked for by name.
            let each = (0..view.lists().len()).filter(|i| !view.lists()[*i].name.starts_with("token:"));
            answers.extend(each.map(|i| judged(view, behind, Ask { addr, list: ListId(i as u32) })));
        }
    }
    Ok(json!({ "address": addr.to_string(), "generation": view.generation, "answers": answers }))
}

fn judged(view: &View, behind: Option<&Behind>, ask: Ask) -> Value {
    let verdict = admit(view, ask);
    let list = view.list(ask.list);
    let entry = match verdict.why() {
        access::Why::Entry(_, prefix) => Some(prefix.to_string()),
        access::Why::NotListed(_) | access::Why::EmptyList(_) | access::Why::NoList(_) => None,
    };
    let mut known = list.zip(behind).map(|(l, behind)| behind(&l.name, ask.addr)).unwrap_or_default();
    json!({
        "list": list.map(|l| l.name.clone()),
        "source": list.map(|l| l.source.clone()),
        "verdict": match verdict { Verdict::Allow(_) => "allow", Verdict::Refuse(_) => "refuse" },
        "entry": entry,
        "grants": known.get_mut("grants").map_or_else(|| json!([]), Value::take),
        "ended": known.get_mut("ended").filter(|_| !verdict.is_allow()).map_or_else(|| json!([]), Value::take),
        "bans": known.get_mut("bans").map_or_else(|| json!([]), Value::take),
        "text": explain(view, ask),
    })
}

fn lists_verb(doors: &Doors) -> Value {
    let view = doors.view();
    let lists: Vec<Value> = view
        .lists()
        .iter()
        .map(|l| {
            let first: Vec<String> = l.set.prefixes().iter().take(SHOWN).map(ToString::to_string).collect();
            json!({ "name": l.name, "source": l.source, "entries": l.set.len(), "first": first })
        })
        .collect();
    json!({ "generation": view.generation, "inside": doors.inside(), "lists": lists })
}

/// Entries of each list that are shown; the files hold them all.
const SHOWN: usize = 20;

async fn reload_verb(run: &Run) -> anyhow::Result<Value> {
    let mut said = Vec::new();
    let mut failed = Vec::new();
    let mut hint = None;
    for (name, result) in run.reload().await {
        match result {
            Ok(text) => said.push(format!("{name}: {text}")),
            Err(e) => {
                hint = hint.or_else(|| e.chain().find_map(|c| c.downcast_ref::<Hinted>()).map(|h| h.hint.clone()));
                failed.push(format!("{name}: {e:#}"));
            }
        }
    }
    if failed.is_empty() {
        return Ok(json!({ "reloaded": said }));
    }
    let what = format!("{}; what failed stays as it was", failed.join("; "));
    Err(hint.map_or_else(|| anyhow!("{what}"), |hint| Hinted::error(what.clone(), hint)))
}
