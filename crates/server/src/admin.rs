//! The admin socket of a process. In: its components. Out: the operations of all of them, answered until the run stops.

use std::path::Path;
use std::sync::Arc;

use control::Control;
use gate::Gate;
use runtime::admission::Admission;
use runtime::api::{self, Names, Verbs};
use runtime::lists::Lists;
use runtime::run::Run;
use tracing::warn;
use tunnel::edge::EdgeHandle;

use crate::doctor::Doctor;

/// The components whose operations are served.
pub(crate) struct Components<'a> {
    pub(crate) admission: &'a Arc<Admission>,
    pub(crate) lists: &'a Lists,
    pub(crate) edge: Option<&'a EdgeHandle>,
    pub(crate) gate: Option<&'a Gate>,
    pub(crate) control: Option<&'a Control>,
}

/// Opens the socket. `None`: it could not be, and nobody needs it to go on.
///
/// # Errors
/// The socket cannot be opened: nobody could administer the coordination server.
pub(crate) fn serve(
    run: &Run,
    data_dir: &Path,
    parts: &Components<'_>,
    doctor: Doctor,
) -> anyhow::Result<Option<Names>> {
    let Components { admission, lists, edge, gate, control } = parts;
    let (mut verbs, mut names) = (api::reload_verbs(Verbs::default(), run), Vec::new());
    if let Some(control) = control {
        verbs = control::verbs(verbs, control);
        names.push(api::control_socket(data_dir));
    }
    if let Some(gate) = gate {
        verbs = gate::verbs(verbs, gate);
        names.push(api::gate_socket(data_dir));
    }
    if let Some(edge) = edge {
        let behind = (*gate).cloned().map(|gate| -> api::Behind {
            let lists = (*lists).clone();
            Arc::new(move |list, addr| gate::behind(&gate, &lists.takes_in(list), addr))
        });
        let status = (*edge).clone();
        verbs = verbs.and(api::edge_verbs(run, admission, lists, behind, move || status.status()));
        names.push(api::edge_socket(data_dir, edge.control_addr.port()));
    }
    let (doctor, same) = (doctor.clone(), doctor);
    let verbs = verbs
        .handle(move |::api::Doctor {}| {
            let doctor = doctor.clone();
            async move { Ok(doctor.findings().await) }
        })
        .handle(move |::api::gate::Doctor {}| {
            let doctor = same.clone();
            async move { Ok(doctor.findings().await) }
        });
    match api::serve_process(run, data_dir, &names, verbs) {
        Ok(names) => Ok(Some(names)),
        Err(e) if control.is_some() => Err(e),
        // In a read-only container there is no admin socket, and the rest serves all the same.
        Err(e) => {
            warn!(err = format!("{e:#}"), "no admin socket: this process takes no commands");
            Ok(None)
        }
    }
}
