//! Nodes as a grant source: a list of the gate takes in the addresses that some nodes' devices come from now, so that their
//! other apps get in with no route through the mesh. In: snapshots of the mesh. Out: proofs to the gate, and the end of a
//! grant once its node is no longer one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use access::ledger::{Event, Outcome, Proof};
use access::{Claim, Evidence, Grant};
use addr::Addr;
use control::Control;
use gate::Gate;
use runtime::run::Run;
use tailnet::Snapshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Teach;

/// A node that stays is a proof again this often, well within the shortest life of a grant that makes sense.
const AGAIN: Duration = Duration::from_secs(60);
/// The shortest life of a grant with which a node that stays does not fall off its list, in seconds.
pub const SHORTEST: u64 = 2 * AGAIN.as_secs();
/// Devices come and go in crowds; nobody waits for the list within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// What a node has brought about on one list.
struct Granted {
    addr: Addr,
    at: Instant,
}

/// Follows the mesh, and which lists take in which nodes, until the run stops.
pub(crate) fn start(run: &Run, control: &Control, gate: &Gate, teach: watch::Receiver<Arc<[Teach]>>) {
    let (mut snapshot, gate, stopping) = (control.state.registry.snapshot.clone(), gate.clone(), run.stopping());
    let mut wanted = teach;
    run.spawn("node grants", async move {
        tokio::pin!(stopping);
        let mut granted: BTreeMap<(String, u64), Granted> = BTreeMap::new();
        let mut unmatched: Vec<(String, String)> = Vec::new();
        loop {
            let (now, teach) = (snapshot.borrow_and_update().clone(), wanted.borrow_and_update().clone());
            let nobody: Vec<(String, String)> = teach.iter().filter_map(|t| nobody(&now, t)).collect();
            for words in nobody.iter().filter(|w| !unmatched.contains(w)) {
                let (list, names) = words;
                warn!(list, names, "[[control.teach]] names what stands for no node now");
            }
            unmatched = nobody;
            let lists: BTreeSet<&str> = teach.iter().map(|t| t.list.as_str()).collect();
            for list in lists {
                take_back(&gate, &now, &teach, list, &mut granted).await;
            }
            for t in teach.iter() {
                follow(&gate, &now, t, &mut granted).await;
            }
            tokio::select! {
                () = &mut stopping => return Ok(()),
                changed = snapshot.changed() => changed?,
                changed = wanted.changed() => changed?,
                () = tokio::time::sleep(AGAIN) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    });
}

/// The list, and the names that stand for nobody.
pub(crate) fn nobody(s: &Snapshot, t: &Teach) -> Option<(String, String)> {
    let names = s.unmatched(&t.nodes);
    (!names.is_empty()).then(|| (t.list.clone(), names.join(", ")))
}

async fn follow(gate: &Gate, s: &Snapshot, t: &Teach, granted: &mut BTreeMap<(String, u64), Granted>) {
    let members = match s.named(&t.nodes) {
        Ok(m) => m,
        // Said already.
        Err(_) => return,
    };
    for m in members.iter().filter_map(|id| s.nodes.get(id)).filter(|m| m.online) {
        let Some(addr) = m.from else { continue };
        let key = (t.list.clone(), m.node.id);
        if granted.get(&key).is_some_and(|k| k.addr == addr && k.at.elapsed() < AGAIN) {
            continue;
        }
        let proof = Proof {
            list: t.list.clone(),
            addr,
            evidence: Evidence::Node,
            principal: Some(s.principal(&m.node)),
            device: Some(m.node.name.clone()),
            ttl: None,
        };
        let done = gate.ledger.submit(Event::Proof(proof)).await;
        if let Ok(done) = done
            && let Outcome::Given(_) = done.outcome
        {
            info!(peer = %addr, list = t.list, node = m.node.name, "granted by node");
        }
        granted.insert(key, Granted { addr, at: Instant::now() });
    }
}

/// Takes back what nodes have brought about that are no longer members, in a run before this one too. What somebody else
/// gave for the same address stays.
async fn take_back(
    gate: &Gate,
    s: &Snapshot,
    teach: &[Teach],
    list: &str,
    granted: &mut BTreeMap<(String, u64), Granted>,
) {
    let mut members: BTreeSet<&str> = BTreeSet::new();
    for t in teach.iter().filter(|t| t.list == list) {
        // Who is meant is not known for now: said elsewhere, and nobody loses anything by it.
        let Ok(ids) = s.named(&t.nodes) else { return };
        members.extend(ids.iter().filter_map(|id| s.nodes.get(id)).map(|m| m.node.name.as_str()));
    }
    let left = |c: &&Claim| c.evidence == Evidence::Node && !c.device.as_deref().is_some_and(|d| members.contains(d));
    let grants: Vec<(Grant, Claim)> = {
        let all = gate.ledger.model.grants.read();
        let each = all.get(list).into_iter().flat_map(BTreeMap::values);
        each.flat_map(|g| g.claims().filter(left).map(|c| (g.clone(), c.clone()))).collect()
    };
    for (g, claim) in grants {
        let device = claim.device.as_deref().unwrap_or_default();
        info!(node = device, list, "node no longer grants");
        let _ = gate.ledger.submit(Event::Withdraw(g.id, claim, "its node is no longer a member".into())).await;
        // Others behind the same address say again that they are there.
        granted.retain(|(of, _), k| of != list || !g.prefix.contains(k.addr));
    }
    let ids: BTreeSet<u64> =
        s.nodes.values().filter(|m| members.contains(m.node.name.as_str())).map(|m| m.node.id).collect();
    granted.retain(|(of, id), _| of != list || ids.contains(id));
}
