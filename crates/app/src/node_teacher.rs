//! The teacher `node`: a list of the gate takes in the addresses that some nodes' devices come from now, so that their
//! other apps get in with no route through the mesh. In: pictures of the mesh. Out: proofs to the gate, and the end of a
//! grant once its node is no longer one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::control::Control;
use daemon::gate::Gate;
use daemon::run::Run;
use decide::grant::{Event, Outcome, Proof};
use decide::mesh::Snapshot;
use model::{Addr, Evidence, GrantId};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::control::Teach;

/// A node that stays is a proof again this often, well within the shortest life of a grant that makes sense.
const AGAIN: Duration = Duration::from_secs(60);
/// The shortest life of a grant with which a node that stays does not fall off its list, in seconds.
pub(crate) const SHORTEST: u64 = 2 * AGAIN.as_secs();
/// Devices come and go in crowds; nobody waits for the list within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// What a node has brought about on one list.
struct Taught {
    addr: Addr,
    /// The grants of its addresses, the newest last.
    grants: Vec<GrantId>,
    at: Instant,
}

/// Follows the mesh until the run stops.
pub(crate) fn start(run: &Run, control: &Control, gate: &Gate, teach: Vec<Teach>) {
    if teach.is_empty() {
        return;
    }
    let (mut picture, gate, stopping) = (control.desk.keeper.picture.clone(), gate.clone(), run.stopping());
    run.spawn("node teacher", async move {
        tokio::pin!(stopping);
        let mut taught: BTreeMap<(String, u64), Taught> = BTreeMap::new();
        let mut nobodys: Vec<String> = Vec::new();
        loop {
            let now = picture.borrow_and_update().clone();
            let nobody: Vec<String> = teach.iter().filter_map(|t| nobody(&now, t)).collect();
            for words in nobody.iter().filter(|w| !nobodys.contains(w)) {
                warn!("{words}");
            }
            nobodys = nobody;
            for t in &teach {
                follow(&gate, &now, t, &mut taught).await;
            }
            tokio::select! {
                () = &mut stopping => return Ok(()),
                changed = picture.changed() => changed?,
                () = tokio::time::sleep(AGAIN) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    });
}

/// What has to be said about names that stand for nobody.
fn nobody(s: &Snapshot, t: &Teach) -> Option<String> {
    let names = s.nobodys(&t.nodes);
    let first = || format!("[[control.teach]] of the list `{}`: {} stands for no node now", t.list, names.join(", "));
    (!names.is_empty()).then(first)
}

async fn follow(gate: &Gate, s: &Snapshot, t: &Teach, taught: &mut BTreeMap<(String, u64), Taught>) {
    let members = match s.named(&t.nodes) {
        Ok(m) => m,
        // Said already.
        Err(_) => return,
    };
    let gone: Vec<(String, u64)> =
        taught.keys().filter(|(list, id)| *list == t.list && !members.contains(id)).cloned().collect();
    for key in gone {
        for grant in taught.remove(&key).map(|t| t.grants).unwrap_or_default() {
            info!("node {} is no longer one of those that the list `{}` takes in", key.1, key.0);
            let _ = gate.keeper.tell(Event::Revoke(grant, "its node is no longer a member".into())).await;
        }
    }
    for m in members.iter().filter_map(|id| s.nodes.get(id)).filter(|m| m.online) {
        let Some(addr) = m.from else { continue };
        let key = (t.list.clone(), m.node.id);
        if taught.get(&key).is_some_and(|k| k.addr == addr && k.at.elapsed() < AGAIN) {
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
        let done = gate.keeper.tell(Event::Proof(proof)).await;
        let known = taught.entry(key).or_insert_with(|| Taught { addr, grants: Vec::new(), at: Instant::now() });
        (known.addr, known.at) = (addr, Instant::now());
        if let Ok(done) = done
            && let Outcome::Given(id) | Outcome::Renewed(id) = done.outcome
            && !known.grants.contains(&id)
        {
            info!("{addr} is on `{}` because {} comes from there", t.list, m.node.name);
            known.grants.push(id);
        }
    }
}
