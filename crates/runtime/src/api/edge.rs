//! What every process answers, and every edge: `reload`, `explain`, `lists`, `status`. In: admission and the
//! run. Out: answers for the command line.

use std::sync::Arc;

use ::api::{
    EdgeStatus, Explain, Explained, ListAnswer, ListContents, Lists as AskLists, ListsInForce, Reload, Reloaded,
    Status, gate,
};
use access::{ListId, Service, Verdict, View};
use addr::Addr;
use anyhow::anyhow;

use super::Verbs;
use crate::admission::Admission;
use crate::hint::{self, Hinted};
use crate::lists::Lists;
use crate::run::Run;

/// Who stands behind an address on a list at the admission: the grants of the gate. Nobody where there is no gate.
pub type Behind = Arc<dyn Fn(&str, Addr) -> gate::Behind + Send + Sync>;

/// The verbs every edge has; `status` is what the edge says of itself.
#[must_use]
pub fn edge_verbs(
    run: &Run,
    admission: &Arc<Admission>,
    lists: &Lists,
    behind: Option<Behind>,
    status: impl Fn() -> EdgeStatus + Send + Sync + 'static,
) -> Verbs {
    let (for_explain, for_lists) = (admission.clone(), admission.clone());
    let (explained, listed) = (lists.clone(), lists.clone());
    reload_verbs(Verbs::default(), run)
        .handle(move |call: Explain| {
            let answer = explain_verb(&for_explain.view(), behind.as_ref(), &call, &explained);
            async move { answer }
        })
        .handle(move |AskLists {}| {
            let answer = lists_verb(&for_lists, &listed);
            async move { Ok(answer) }
        })
        .handle(move |Status {}| {
            let answer = status();
            async move { Ok(answer) }
        })
}

/// Adds the verb of every process that can read something again.
#[must_use]
pub fn reload_verbs(verbs: Verbs, run: &Run) -> Verbs {
    let run = run.clone();
    verbs.handle(move |Reload {}| {
        let run = run.clone();
        async move { reload_verb(&run).await }
    })
}

fn explain_verb(view: &View, behind: Option<&Behind>, call: &Explain, lists: &Lists) -> anyhow::Result<Explained> {
    let addr = call.address;
    let answers = match &call.service {
        Some(name) => {
            let service: Service = name.parse().map_err(|e: String| anyhow!(e))?;
            vec![ListAnswer {
                service: Some(service.to_string()),
                guard: Some(view.explain_guard(&service)),
                ..judged(view, behind, view.guard(&service), addr)
            }]
        }
        None => {
            // A token's list is for its clients alone, and asked for by name.
            let of_token = |l: &access::List| matches!(Service::of_list(&l.name), Some(Service::Token(_)));
            let each = view.lists().iter().filter(|l| !of_token(l));
            each.map(|l| judged(view, behind, view.id(&l.name), addr)).collect()
        }
    };
    Ok(Explained { address: addr, generation: view.generation, answers, files: lists.freshness() })
}

fn judged(view: &View, behind: Option<&Behind>, list: Option<ListId>, addr: Addr) -> ListAnswer {
    let verdict = view.judge_by(list, addr);
    let list = list.and_then(|id| view.list(id));
    let entry = match verdict {
        Verdict::Allow(_, prefix) => Some(prefix),
        Verdict::Refuse(_) => None,
    };
    let mut known = list.zip(behind).map(|(l, behind)| behind(&l.name, addr)).unwrap_or_default();
    if verdict.is_allow() {
        known.ended.clear();
    }
    ListAnswer {
        list: list.map(|l| l.name.clone()),
        source: list.map(|l| l.source.clone()),
        verdict: if verdict.is_allow() { ::api::Verdict::Allow } else { ::api::Verdict::Refuse },
        entry,
        behind: known,
        text: verdict.in_words(view, addr).to_string(),
        service: None,
        guard: None,
    }
}

fn lists_verb(admission: &Admission, files: &Lists) -> ListsInForce {
    let view = admission.view();
    let contents = |l: &access::List| ListContents {
        name: l.name.clone(),
        source: l.source.clone(),
        entries: l.set.len(),
        first: l.set.prefixes().iter().take(MAX_SHOWN).copied().collect(),
    };
    ListsInForce {
        generation: view.generation,
        inside: admission.inside(),
        lists: view.lists().iter().map(contents).collect(),
        files: files.freshness(),
    }
}

/// Entries of each list that are shown; the files hold them all.
const MAX_SHOWN: usize = 20;

async fn reload_verb(run: &Run) -> anyhow::Result<Reloaded> {
    let mut said = Vec::new();
    let mut failed = Vec::new();
    let mut hint = None;
    for (name, result) in run.reload().await {
        match result {
            Ok(text) => said.push(format!("{name}: {text}")),
            Err(e) => {
                hint = hint.or_else(|| hint::of(&e).map(str::to_string));
                failed.push(format!("{name}: {e:#}"));
            }
        }
    }
    if failed.is_empty() {
        return Ok(Reloaded { reloaded: said });
    }
    let what = format!("{}; what failed stays as it was", failed.join("; "));
    Err(hint.map_or_else(|| anyhow!("{what}"), |hint| Hinted::error(what.clone(), hint)))
}
