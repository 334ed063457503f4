//! Whether routers live. In: routes that several routers carry. Out: routers that do not answer count as away, so that
//! another one takes over. A router whose connection ends is away at once; this finds the ones whose network died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use decide::mesh::{RouteState, Snapshot};
use model::Prefix;
use tracing::info;

use super::desk::Desk;
use crate::run::Run;

/// Routers are asked this often.
const EVERY: Duration = Duration::from_secs(3);
/// One that does not answer in this time is away. Together with the pause before the question a dead router is noticed
/// within nine seconds, and a slow one is not mistaken for dead.
const PATIENCE: Duration = Duration::from_secs(6);

/// Asks routers until the run stops.
pub(super) fn watch(run: &Run, desk: Arc<Desk>) {
    let stopping = run.stopping();
    run.spawn("router health", async move {
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = &mut stopping => return Ok(()),
            }
            let routers = in_pairs(&desk.keeper.now());
            let mut asks = tokio::task::JoinSet::new();
            for id in routers {
                let desk = desk.clone();
                asks.spawn(async move {
                    // Without a stream its end has been noticed already.
                    if !desk.has_stream(id) {
                        return;
                    }
                    let alive = desk.ask(id, None, PATIENCE).await.is_ok();
                    let was = desk.keeper.now().nodes.get(&id).filter(|m| m.online).map(|m| m.node.name.clone());
                    if let Some(name) = was.filter(|_| !alive && desk.has_stream(id)) {
                        info!("{name} does not answer; its routes go through another router");
                    }
                    desk.keeper.mention(move |book, now| book.answered(id, alive, now));
                });
            }
            tokio::select! {
                _ = asks.join_all() => {}
                () = &mut stopping => return Ok(()),
            }
        }
    });
}

/// Routers that could stand in for each other; a single one is used whether it answers or not.
fn in_pairs(s: &Snapshot) -> BTreeSet<u64> {
    let mut by_route: BTreeMap<Prefix, Vec<u64>> = BTreeMap::new();
    for r in s.routes().iter().filter(|r| r.state == RouteState::Approved && r.prefix.bits() > 0) {
        by_route.entry(r.prefix).or_default().push(r.member.node.id);
    }
    by_route.into_values().filter(|all| all.len() > 1).flatten().collect()
}
