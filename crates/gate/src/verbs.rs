//! The gate's verbs on the admin socket: lists, grants, audit, explain. In: requests of the command line. Out:
//! answers for it.

use access::ended::{Ended, What};
use access::{Ban, Claim, Grant, Whom};
use addr::Addr;
use api::gate::{self as answer, ChangeGrants, Explained, ListAnswer, ListState, ListStates, ListSummary};
use api::{AuditEvent, Verdict};

use super::Gate;
use super::grants::{no_list, refused};
use runtime::api::Verbs;
use runtime::audit;

/// Adds the gate's verbs to a process's.
#[must_use]
pub fn verbs(verbs: Verbs, gate: &Gate) -> Verbs {
    let (listed, shown, explained, audited) = (gate.clone(), gate.clone(), gate.clone(), gate.clone());
    let (acting, woken) = (gate.clone(), gate.ledger.clone());
    let (time, trouble) = (gate.ledger.model.time.clone(), gate.ledger.model.trouble.clone());
    runtime::clock::verbs(verbs, api::clock::Owner::Gate, time, trouble, move || woken.look())
        .handle(move |answer::Lists {}| {
            let answer = lists(&listed);
            async move { Ok(answer) }
        })
        .handle(move |call: answer::Show| {
            let answer = show(&shown, call.list.as_deref());
            async move { answer }
        })
        .handle(move |call: answer::Explain| {
            let answer = explain_verb(&explained, &call);
            async move { answer }
        })
        .handle(move |call: answer::Audit| {
            let answer = audit_verb(&audited, call);
            async move { answer }
        })
        .handle(move |call: ChangeGrants| {
            let gate = acting.clone();
            async move { super::grants::act(&gate, call).await }
        })
}

fn lists(gate: &Gate) -> ListStates {
    let published = gate.ledger.published.borrow().clone();
    let summary = |d: &access::publish::Desired| {
        let room = gate.ledger.model.rooms.read().get(&d.list).copied().unwrap_or_default();
        let rules = gate.ledger.model.rules.read().get(&d.list).cloned().unwrap_or_default();
        ListSummary {
            name: d.list.clone(),
            statics: d.statics.len(),
            learnt: d.learnt.len(),
            generation: d.generation,
            max: rules.max,
            counted: room.proven,
            guests: room.guests,
            max_guests: rules.guests,
            evicted: room.evicted + room.guests_evicted,
            refused: room.refused,
            bans: bans(gate, &d.list).len(),
            enforcers: enforcers(gate, &d.list),
        }
    };
    let lists = published.lists.values().map(|d| summary(d)).collect();
    ListStates { generation: published.generation, lists }
}

fn enforcers(gate: &Gate, list: &str) -> Vec<answer::Enforcer> {
    let now = gate.ledger.published.borrow().generation;
    gate.state()
        .enforcers
        .iter()
        .filter(|e| e.holds(list))
        .map(|e| {
            let p = e.progress.lock();
            answer::Enforcer {
                name: e.info.name.clone(),
                generation: p.reached,
                current: p.reached >= now,
                changes: p.changes,
                took_ms: p.took.as_secs_f64() * 1000.0,
                error: p.error.clone(),
                remark: p.remarks.first().map(ToString::to_string),
            }
        })
        .collect()
}

fn show(gate: &Gate, list: Option<&str>) -> anyhow::Result<ListState> {
    let published = gate.ledger.published.borrow().clone();
    let name = match list {
        Some(name) => name,
        None => match published.lists.keys().collect::<Vec<_>>()[..] {
            [one] => one.as_str(),
            ref all => {
                let names: Vec<&str> = all.iter().map(|n| n.as_str()).collect();
                return Err(refused(
                    format!("there are {} lists: {}", all.len(), names.join(", ")),
                    "say which: `portcullis lists show NAME`",
                ));
            }
        },
    };
    let d = published.lists.get(name).ok_or_else(|| no_list(gate, name))?;
    let mut grants: Vec<Grant> =
        gate.ledger.model.grants.read().get(name).map(|g| g.values().cloned().collect()).unwrap_or_default();
    grants.sort_by_key(|g| g.id);
    Ok(ListState {
        name: name.to_string(),
        generation: d.generation,
        now: gate.ledger.model.time.now(),
        names: followed(gate, name),
        statics: d.statics.to_vec(),
        grants: grants.iter().map(shown).collect(),
        bans: bans(gate, name),
        enforcers: enforcers(gate, name),
    })
}

/// What these lists know of an address: the grants that hold it, what ended for it or around it, the bans it runs into.
#[must_use]
pub fn behind(gate: &Gate, lists: &[String], addr: Addr) -> answer::Behind {
    let grants: Vec<_> = lists.iter().flat_map(|l| gate.ledger.holding(l, addr)).map(|g| shown(&g)).collect();
    let (ended, bans) = why_not(gate, lists, addr);
    let ended = if grants.is_empty() { ended } else { Vec::new() };
    answer::Behind { grants, ended, bans }
}

fn shown(g: &Grant) -> answer::Grant {
    answer::Grant {
        id: g.id.0,
        list: g.list.clone(),
        prefix: g.prefix,
        given_at: g.given_at,
        seen_at: g.seen_at,
        claim: claim(&g.claim, g.ends_at()),
        beside: g.beside.iter().map(|c| claim(c, c.ends_at(g.seen_at))).collect(),
    }
}

fn claim(c: &Claim, ends_at: Option<u64>) -> answer::Claim {
    answer::Claim {
        principal: c.principal.clone(),
        device: c.device.clone(),
        evidence: c.evidence.word().to_string(),
        proved_at: Some(c.proved_at),
        idle: c.idle,
        until: c.until,
        pinned: c.pinned,
        superseded: c.superseded,
        places: (c.places > 1).then_some(c.places),
        ends_at,
    }
}

fn ban(b: &Ban) -> answer::Ban {
    let (prefix, name) = match &b.whom {
        Whom::From(p) => (Some(*p), None),
        Whom::Named(n) => (None, Some(n.clone())),
    };
    answer::Ban { id: b.id.0, list: b.list.clone(), prefix, name, since: b.since, until: b.until }
}

/// Whose proofs do not count on a list.
fn bans(gate: &Gate, list: &str) -> Vec<answer::Ban> {
    gate.ledger.model.bans.read().values().filter(|b| b.list == list).map(ban).collect()
}

/// Why an address is not, or no longer, on one of these lists: what ended for it or around it, and the bans it runs into.
fn why_not(gate: &Gate, lists: &[String], addr: Addr) -> (Vec<answer::Ended>, Vec<answer::Ban>) {
    let memory = gate.ledger.model.ended.read();
    let ended = lists.iter().flat_map(|l| memory.around(l, addr)).map(|e| past(e, addr)).collect();
    let holds = |b: &&Ban| lists.contains(&b.list) && matches!(&b.whom, Whom::From(p) if p.contains(addr));
    let bans = gate.ledger.model.bans.read();
    (ended, bans.values().filter(holds).map(ban).collect())
}

fn past(e: &Ended, addr: Addr) -> answer::Ended {
    answer::Ended {
        at: e.at,
        list: e.list.clone(),
        prefix: e.prefix,
        principal: e.principal.clone(),
        evidence: e.evidence.word().to_string(),
        what: event(e.what),
        by: e.by.clone(),
        neighbour: !e.prefix.contains(addr),
    }
}

/// What the ledger puts on record, as audit logs tell it.
pub(super) fn event(what: What) -> AuditEvent {
    match what {
        What::Given => AuditEvent::Given,
        What::Revoked => AuditEvent::Revoked,
        What::Expired => AuditEvent::Expired,
        What::Evicted => AuditEvent::Evicted,
        What::Extended => AuditEvent::Extended,
        What::Superseded => AuditEvent::Superseded,
        What::Lapsed => AuditEvent::Lapsed,
        What::Refused => AuditEvent::Refused,
        What::Full => AuditEvent::Full,
        What::Banned => AuditEvent::Banned,
        What::Unbanned => AuditEvent::Unbanned,
    }
}

/// The host names that a list follows, and how each stands.
fn followed(gate: &Gate, list: &str) -> Vec<answer::FollowedName> {
    let names = gate.names.names.lock();
    let each = names.follows().iter().filter(|f| f.list == list);
    each.map(|f| {
        let k = names.known(&f.host);
        let rules = gate.ledger.model.rules.read().get(list).cloned().unwrap_or_default();
        answer::FollowedName {
            name: f.host.entry(),
            until: f.until,
            pinned: f.pinned,
            addresses: k.into_iter().flat_map(access::names::Known::addrs).collect(),
            not_counting: k.map(|k| k.not_counting(&rules)).unwrap_or_default(),
            good_at: k.and_then(|k| k.good_at),
            ask_at: k.map(|k| k.ask_at),
            failed: k.and_then(|k| k.failed.clone()),
        }
    })
    .collect()
}

/// Why an address is on a list or not, with the grant behind it.
fn explain_verb(gate: &Gate, call: &answer::Explain) -> anyhow::Result<Explained> {
    let addr = call.address;
    let published = gate.ledger.published.borrow().clone();
    let names: Vec<String> = match &call.service {
        Some(name) if published.lists.contains_key(name) => vec![name.clone()],
        Some(name) => return Err(no_list(gate, name)),
        None => published.lists.keys().cloned().collect(),
    };
    let mut answers = Vec::new();
    for list in names {
        let view = &published.view;
        let verdict = view.judge_by(view.id(&list), addr);
        let allowed = verdict.is_allow();
        let grants = gate.ledger.holding(&list, addr).iter().map(shown).collect();
        let (ended, bans) = why_not(gate, std::slice::from_ref(&list), addr);
        let ended = if allowed { Vec::new() } else { ended };
        answers.push(ListAnswer {
            list,
            verdict: if allowed { Verdict::Allow } else { Verdict::Refuse },
            text: verdict.in_words(view, addr).to_string(),
            behind: answer::Behind { grants, ended, bans },
        });
    }
    let now = std::time::Instant::now();
    let observations = gate.state().diagnosis.observations.recent(now).into_iter().filter(|o| o.concerns(addr));
    let mut heard: Vec<String> = observations.map(|o| format!("{o}; {}", gate.state().mend(&o))).collect();
    let refused = gate.state().shares.checker.refusals.of(addr, now);
    heard.extend(refused.iter().map(|r| gate.state().shares.checker.in_words(r)));
    let (generation, now) = (published.generation, gate.ledger.model.time.now());
    Ok(Explained { address: addr, generation, now, answers, heard })
}

fn audit_verb(gate: &Gate, call: answer::Audit) -> anyhow::Result<answer::AuditLog> {
    let file = gate.audit.display().to_string();
    if !call.verify {
        return Ok(answer::AuditLog { file, lines: None, head: None });
    }
    let (lines, head) = audit::verify(&gate.audit, None)?;
    Ok(answer::AuditLog { file, lines: Some(lines), head: Some(head) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on record is remembered at the next start by the word that was written.
    #[test]
    fn events_of_the_ledger_have_one_word() {
        for event in AuditEvent::ALL {
            if let Ok(what) = event.word().parse::<What>() {
                assert_eq!((&super::event(what), what.word()), (event, event.word()));
            }
        }
    }
}
