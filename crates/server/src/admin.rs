//! The admin sockets of a process. In: its components. Out: the verbs of each, answered until the run stops.

use std::path::Path;
use std::sync::Arc;

use control::Control;
use gate::Gate;
use runtime::api;
use runtime::door::Doors;
use runtime::lists::Lists;
use runtime::run::Run;
use tracing::warn;
use tunnel::edge::EdgeHandle;

/// The verbs of a gate: `list`, `grant`, `doctor`, … from the command line.
pub(crate) fn gate(run: &Run, gate: &Gate, lists: &Lists, data_dir: &Path) {
    let lists = lists.clone();
    let verbs = gate::verbs(api::reload_verbs(api::Verbs::default(), run), gate, move || api::stale(&lists));
    if let Err(e) = api::serve(run, &gate::gate_socket(data_dir), verbs) {
        warn!("no `list`, `grant` and `doctor` from the command line: {e:#}");
    }
}

/// The verbs of a coordination server.
///
/// # Errors
/// The socket cannot be opened: nobody could administer it.
pub(crate) fn control(run: &Run, control: &Control, data_dir: &Path) -> anyhow::Result<()> {
    let verbs = control::verbs(api::reload_verbs(api::Verbs::default(), run), control);
    api::serve(run, &control::control_socket(data_dir), verbs)
}

/// The verbs of an edge.
pub(crate) fn edge(
    run: &Run,
    edge: &EdgeHandle,
    doors: &Arc<Doors>,
    lists: &Lists,
    gate: Option<&Gate>,
    data_dir: &Path,
) {
    let socket = api::edge_socket(data_dir, edge.control_addr.port());
    let behind = gate.cloned().map(|gate| -> api::Behind {
        let lists = lists.clone();
        Arc::new(move |list, addr| gate::behind(&gate, &lists.takes_in(list), addr))
    });
    let status = edge.clone();
    // In a read-only container there is no admin socket, and the edge serves all the same.
    if let Err(e) = api::serve(run, &socket, api::edge_verbs(run, doors, lists, behind, move || status.status())) {
        warn!("no `explain` and `reload` from the command line: {e:#}");
    }
}
