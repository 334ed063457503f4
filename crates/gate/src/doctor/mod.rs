//! What is wrong with a gate and its surroundings, each with the line that mends it. In: what the gate saw since its
//! start, and the answers of sites that the doctor asks as a stranger would: without a certificate, with forged headers.
//! Out: findings, each with a name by which the configuration can accept it. The stranger teaches nothing: its requests
//! are known by their user agent and only noted.

mod advice;
mod diagnosis;
mod finding;
mod stranger;

use std::time::Instant;

use addr::Prefix;
use runtime::doctor::{self as host, Symptom};

use super::Gate;
use super::state::GateState;

pub use advice::ConfiguredBy;
pub use diagnosis::Diagnosis;
use finding::Finding;
pub use finding::FindingId;

/// What followed names answer and no list takes.
fn uncounted(gate: &Gate, found: &mut Vec<Finding>) {
    let names = gate.names.names.lock();
    let rules = gate.ledger.model.rules.read();
    for f in names.follows() {
        let (Some(known), Some(rules)) = (names.known(&f.host), rules.get(&f.list)) else { continue };
        let fix = format!(
            "which address does the name have outside? ask another name server (DNS_SERVERS, `dns_servers` under [gate]); {} takes in a private one",
            gate.state().diagnosis.configured_by.range()
        );
        found.extend(known.not_counting(rules).into_iter().map(|why| {
            Finding::new(FindingId::NameAddress, format!("{} on `{}`: {why}", f.host.entry(), f.list), fix.clone())
        }));
    }
}

/// Lists that were too small for those who came.
fn full(gate: &Gate, found: &mut Vec<Finding>) {
    let rooms = gate.ledger.model.rooms.read();
    let rules = gate.ledger.model.rules.read();
    for (list, room) in rooms.iter() {
        let Some(rules) = rules.get(list) else { continue };
        let (max, guests) = gate.state().diagnosis.configured_by.limits();
        if room.evicted + room.refused > 0 {
            let what = format!(
                "`{list}` is too small: since the start {} left it because others came and {} proofs found no place; it holds {} of {}",
                room.evicted,
                room.refused,
                room.proven,
                rules.max.map_or_else(String::new, |m| m.to_string()),
            );
            found.push(Finding::new(
                FindingId::ListFull,
                what,
                format!("raise {max}, or end what nobody needs: `portcullis lists show {list}`"),
            ));
        }
        if room.guests_evicted > 0 {
            let what =
                format!("`{list}` has had more guests than it holds: {} left because others came", room.guests_evicted);
            found.push(Finding::new(
                FindingId::ListFull,
                what,
                format!("raise {guests} if they are welcome; they cost nobody else a place"),
            ));
        }
    }
}

/// Everything that is wrong.
pub async fn doctor(gate: &Gate) -> api::Findings {
    let state = &gate.state();
    let mut found: Vec<Finding> = Vec::new();
    own(gate, &mut found);
    names(gate, &mut found);
    uncounted(gate, &mut found);
    full(gate, &mut found);
    let shares = state.shares.checker.probe().await.into_iter().chain(state.shares.checker.trouble());
    found.extend(shares.map(|(what, fix)| Finding::new(FindingId::Share, what, fix)));
    for o in state.diagnosis.observations.recent(Instant::now()) {
        found.push(Finding::new(FindingId::from(&o), o.to_string(), state.mend(&o)));
    }
    wide(state, &mut found);
    for site in &state.diagnosis.probes {
        found.extend(stranger::ask(state, site).await);
    }
    let each = found.into_iter().map(|f| api::Finding {
        part: api::Part::Gate,
        severity: f.id.severity(),
        id: f.id.to_string(),
        what: f.what,
        fix: f.fix,
        accepted: state.diagnosis.accept.contains(&f.id),
    });
    api::Findings { found: each.collect(), accept: Some(state.diagnosis.configured_by.accept().to_string()) }
}

/// The store, the clock, the enforcers.
fn own(gate: &Gate, found: &mut Vec<Finding>) {
    let mut add = |id, what: String, fix: &str| found.push(Finding::new(id, what, fix));
    let model = &gate.ledger.model;
    for unsaved in host::unsaved(&model.trouble) {
        add(FindingId::Store, unsaved.to_string(), &unsaved.fix());
    }
    for clock in host::clock(&model.time) {
        add(FindingId::Clock, clock.to_string(), &clock.fix());
    }
    for e in &gate.state().enforcers {
        let p = e.progress.lock();
        if let Some(why) = &p.error {
            add(
                FindingId::Enforcer,
                format!("{} is not equal to its list: {why}", e.info.name),
                "the last good state stays; mend the cause, it is tried again by itself",
            );
        }
        for remark in &p.remarks {
            add(remark.into(), format!("{}: {remark}", e.info.name), &remark.fix());
        }
    }
}

/// Host names without a good answer.
fn names(gate: &Gate, found: &mut Vec<Finding>) {
    let names = gate.names.names.lock();
    let hosts: std::collections::BTreeSet<_> = names.follows().iter().map(|f| &f.host).collect();
    for host in hosts {
        let Some(known) = names.known(host) else { continue };
        let Some(why) = &known.failed else { continue };
        let stays = if known.addrs().next().is_some() { "the last good one stays" } else { "nobody is let in by it" };
        found.push(Finding::new(
            FindingId::Name,
            format!("{} has no good answer: {why}; {stays}", host.entry()),
            format!("is the name right, and do this machine's name servers know it? ask them: getent ahosts {host}"),
        ));
    }
}

/// True of a prefix in which anybody may have an address: as wide as that are only 10.0.0.0/8 and fc00::/7 of one's own.
/// 0.0.0.0 counts as private, 0.0.0.0/0 does not.
#[must_use]
pub fn holds_strangers(p: Prefix) -> bool {
    p.bits() < 7 || (p.bits() == 7 && !p.first().is_private())
}

/// Proxies that are believed though anybody may be one of them.
fn wide(state: &GateState, found: &mut Vec<Finding>) {
    for p in state.proxies.trusted.prefixes().iter() {
        if holds_strangers(*p) {
            found.push(Finding::new(
                FindingId::WideTrust,
                format!("anybody in {p} may say whose address is let in: it is a trusted proxy"),
                "name the proxies themselves: TRUSTED_PROXIES=ADDRESS, or `trusted_proxies` under [gate]",
            ));
        }
    }
}
