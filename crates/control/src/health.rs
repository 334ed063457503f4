//! Whether routers live. In: routes that several routers carry. Out: routers that do not answer count as away, so that
//! another one takes over, and each such move is said and counted. A router whose connection ends is away at once; this
//! finds the ones whose network died, and those that did not come back after a restart of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use addr::Prefix;
use tailnet::{Moved, RouteState, Snapshot};
use tracing::warn;

use super::state::ControlState;
use runtime::run::Run;

/// Routers are asked this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// One that does not answer in this time is away. Together with the pause before the question a dead router is noticed
/// within nine seconds, and a slow one is not mistaken for dead.
const PROBE_TIMEOUT: Duration = Duration::from_secs(6);
/// After a start of the server a router has this long to come back before another one of its routes, that has, takes
/// over. Official clients come back within seconds.
const RESTART_GRACE: Duration = Duration::from_secs(10);
/// For so long after a start somebody may be missing; then the registry itself counts who has not come back as away.
const MISSING: u32 = 60;
/// Routes that are counted by themselves: the addresses of apps are routes too.
const COUNTED: usize = 1_024;
/// Routes that one line names.
const NAMED: usize = 8;

/// Asks routers until the run stops.
pub(super) fn watch(run: &Run, state: Arc<ControlState>) {
    let (stopping, ours) = (run.stopping(), state.clone());
    run.spawn("router moves", async move {
        tokio::select! {
            () = follow_moves(&ours) => {}
            () = stopping => {}
        }
        Ok(())
    });
    let (stopping, ours) = (run.stopping(), state.clone());
    run.spawn("router return", async move {
        tokio::select! {
            () = wait_for_return(&ours) => {}
            () = stopping => {}
        }
        Ok(())
    });
    let stopping = run.stopping();
    run.spawn("router health", async move {
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = &mut stopping => return Ok(()),
            }
            let routers = in_pairs(&state.registry.now());
            let mut asks = tokio::task::JoinSet::new();
            for id in routers.into_iter().flatten().collect::<BTreeSet<u64>>() {
                let state = state.clone();
                asks.spawn(async move {
                    // Without a stream its end has been noticed already.
                    if !state.has_stream(id) {
                        return;
                    }
                    let alive = state.ask(id, None, PROBE_TIMEOUT).await.is_ok();
                    state.registry.notify(move |registry, now| registry.answered(id, alive, now));
                });
            }
            tokio::select! {
                _ = asks.join_all() => {}
                () = &mut stopping => return Ok(()),
            }
        }
    });
}

/// After a start: who could stand in for a router that has not come back does, once it is there itself.
async fn wait_for_return(state: &ControlState) {
    tokio::time::sleep(RESTART_GRACE).await;
    for _ in 0..MISSING {
        let now = state.registry.now();
        for routers in in_pairs(&now) {
            let (here, missing): (Vec<u64>, Vec<u64>) = routers.into_iter().partition(|id| state.has_stream(*id));
            let online = |id: &u64| now.nodes.get(id).is_some_and(|m| m.online);
            if here.iter().any(online) {
                for id in missing.into_iter().filter(online) {
                    state.registry.notify(move |registry, now| registry.absent(id, now));
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Says and counts each route that another router carries now.
async fn follow_moves(state: &ControlState) {
    let mut snapshot = state.registry.snapshot.clone();
    let mut before = snapshot.borrow_and_update().clone();
    while snapshot.changed().await.is_ok() {
        let now = snapshot.borrow_and_update().clone();
        let moves = now.moves(&before);
        for ((from, why, to), routes) in alike(&moves) {
            warn!(from, to, why, routes = named(&routes), "routes moved to another router");
            let mut counts = state.moved.lock();
            for route in routes {
                if counts.len() < COUNTED || counts.contains_key(&route) {
                    *counts.entry(route).or_default() += 1;
                }
            }
        }
        before = now;
    }
}

/// Routes by how they went: from whom, why, to whom.
fn alike<'m>(moves: &[Moved<'m>]) -> BTreeMap<(&'m str, &'m str, &'m str), Vec<Prefix>> {
    let mut alike: BTreeMap<_, Vec<Prefix>> = BTreeMap::new();
    for m in moves {
        alike.entry((m.from, m.why, m.to)).or_default().push(m.route);
    }
    alike
}

/// The first of some routes, and how many there are besides.
fn named(routes: &[Prefix]) -> String {
    let mut names: Vec<String> = routes.iter().take(NAMED).map(|p| p.long()).collect();
    if routes.len() > NAMED {
        names.push(format!("and {} more", routes.len() - NAMED));
    }
    names.join(", ")
}

/// Routers that could stand in for each other, by route; a single one is used whether it answers or not.
fn in_pairs(s: &Snapshot) -> Vec<Vec<u64>> {
    let mut by_route: BTreeMap<Prefix, Vec<u64>> = BTreeMap::new();
    for r in s.routes().iter().filter(|r| r.state == RouteState::Approved && r.prefix.bits() > 0) {
        by_route.entry(r.prefix).or_default().push(r.member.node.id);
    }
    by_route.into_values().filter(|all| all.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_move_alike_are_one_line() {
        let all: Vec<Prefix> = (0..10).map(|n| format!("198.51.100.{n}/32").parse().unwrap()).collect();
        let moved = |route: &Prefix| Moved { route: *route, from: "office", to: "office2", why: "does not answer" };
        let mut moves: Vec<Moved<'_>> = all.iter().map(moved).collect();
        moves.push(Moved { why: "has gone", ..moved(&all[0]) });
        let lines = alike(&moves);
        assert_eq!(lines.len(), 2);
        let silent = &lines[&("office", "does not answer", "office2")];
        assert_eq!(silent.len(), 10, "each is counted");
        assert!(named(silent).ends_with("198.51.100.7/32, and 2 more"), "{}", named(silent));
        assert_eq!(named(&lines[&("office", "has gone", "office2")]), "198.51.100.0/32");
    }
}
