//! What `/metrics` of a gate shows. In: what its ledger and its enforcers know. Out: Prometheus text.

use std::collections::BTreeSet;

use runtime::metrics::Exposition;

use super::state::GateState;

runtime::declare_metrics! {
    GRANTS: gauge = "portcullis_gate_grants", "Live grants by list.";
    EVICTED: counter = "portcullis_gate_evicted_total", "Entries that left because a list was full.";
    FULL: counter = "portcullis_gate_full_total", "Proofs in vain because a list was full of stronger evidence.";
    BANS: gauge = "portcullis_gate_bans", "Bans in force by list.";
    EVENTS: counter = "portcullis_gate_events_total", "Events by outcome.";
    ANSWERS: counter = "portcullis_gate_answers_total", "HTTP answers by endpoint and status.";
    GENERATION: gauge = "portcullis_gate_generation", "Generation of the published lists.";
    ENFORCER_GENERATION: gauge = "portcullis_gate_enforcer_generation", "Generation that an enforcer has.";
    ENFORCER_FAILING: gauge = "portcullis_gate_enforcer_failing", "1 while an enforcer is not equal to its list.";
    NAME_FAILING: gauge = "portcullis_gate_name_failing", "1 while a followed host name has no good answer.";
    TROUBLE: gauge = "portcullis_gate_trouble", "1 while the store or the audit log does not save.";
}

/// The metrics as text.
pub(super) fn text(state: &GateState) -> String {
    let model = &state.ledger.model;
    let mut out = Exposition::new();
    out.family(&GRANTS, |samples| {
        for (list, grants) in model.grants.read().iter() {
            samples.add(&[("list", list)], grants.len());
        }
    });
    out.family(&EVICTED, |samples| {
        for (list, room) in model.rooms.read().iter() {
            samples.add(&[("list", list), ("of", "proven")], room.evicted);
            samples.add(&[("list", list), ("of", "guests")], room.guests_evicted);
        }
    });
    out.family(&FULL, |samples| {
        for (list, room) in model.rooms.read().iter() {
            samples.add(&[("list", list)], room.refused);
        }
    });
    out.family(&BANS, |samples| {
        for list in state.ledger.published.borrow().lists.keys() {
            let bans = model.bans.read().values().filter(|b| b.list == *list).count();
            samples.add(&[("list", list)], bans);
        }
    });
    out.family(&EVENTS, |samples| {
        for (outcome, count) in model.counts.lock().iter() {
            samples.add(&[("outcome", outcome)], *count);
        }
    });
    out.family(&ANSWERS, |samples| {
        for ((endpoint, status), count) in &state.answers.counts() {
            samples.add(&[("endpoint", endpoint), ("status", &status.to_string())], *count);
        }
    });
    out.one(&GENERATION, state.ledger.published.borrow().generation);
    out.family(&ENFORCER_GENERATION, |samples| {
        for e in &state.enforcers {
            let p = e.progress.lock();
            samples.add(&[("enforcer", &e.info.name)], p.reached);
        }
    });
    out.family(&ENFORCER_FAILING, |samples| {
        for e in &state.enforcers {
            let p = e.progress.lock();
            samples.add(&[("enforcer", &e.info.name)], p.error.is_some());
        }
    });
    out.family(&NAME_FAILING, |samples| {
        let names = state.names.lock();
        let hosts: BTreeSet<_> = names.follows().iter().map(|f| &f.host).collect();
        for host in hosts {
            let failing = names.known(host).is_some_and(|k| k.failed.is_some());
            samples.add(&[("name", &host.to_string())], failing);
        }
    });
    out.family(&TROUBLE, |samples| {
        let trouble = model.trouble.lock();
        for part in ["store", "audit"] {
            samples.add(&[("part", part)], trouble.contains_key(part));
        }
    });
    out.finish()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_types_and_helps_are_as_written_down() {
        assert_eq!(runtime::metrics::catalogue(super::METRICS), include_str!("metrics.golden"));
    }
}
