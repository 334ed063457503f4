//! Requests to a running process. In: which component and a request. Out: its answer, or who does not run, what was tried,
//! and how to start it.

use std::path::{Path, PathBuf};

use api::{Answer, Call};
use runtime::api::{Component, Found, look};
use runtime::hint;

use crate::args::GlobalArgs;
use crate::fail::Fail;
use crate::resolve;

/// The answer of the gate of this data directory.
pub(crate) fn gate<C: Call>(global: &GlobalArgs, call: C) -> Result<C::Answer, Fail> {
    let start = "start one with `portcullis gatekeeper` or `portcullis serve --config FILE`";
    request(global, Component::Gate, start, call)
}

/// The answer of the coordination server of this data directory.
pub(crate) fn control<C: Call>(global: &GlobalArgs, call: C) -> Result<C::Answer, Fail> {
    request(global, Component::Control, "start one with `portcullis control`", call)
}

/// The answer of an edge of this data directory, the only one or the one of this control port.
pub(crate) fn edge<C: Call>(global: &GlobalArgs, control_port: Option<u16>, call: C) -> Result<C::Answer, Fail> {
    request(global, Component::Edge(control_port), "start one; an edge of another user needs that user or root", call)
}

fn request<C: Call>(global: &GlobalArgs, component: Component, start: &str, call: C) -> Result<C::Answer, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let socket = runtime::api::find(&dir, component).map_err(|e| match hint::of(&e) {
        Some(_) => Fail::from(e),
        None => Fail::from(e).or_hint(format!("{start}, or name its data directory with `--data-dir DIR`")),
    })?;
    at(&socket, call)
}

/// The answer of the process at this socket.
pub(crate) fn at<C: Call>(socket: &Path, call: C) -> Result<C::Answer, Fail> {
    let answer = runtime::api::request(socket, call)?;
    if let Some(why) = answer.unsaved() {
        // On the other stream: what is printed as JSON stays JSON.
        eprintln!(
            "warning: in force, not saved yet: {why}\nhint: it is saved by itself when that ends; a crash before would undo it"
        );
    }
    Ok(answer)
}

/// What there is of an edge and of a gate in this data directory.
pub(crate) struct Running {
    dir: PathBuf,
    edge: Found,
    gate: Found,
}

impl Running {
    pub(crate) fn find(global: &GlobalArgs) -> Result<Running, Fail> {
        let dir = resolve::data_dir(global.data_dir.clone())?;
        let (edge, gate) = (look(&dir, Component::Edge(None)), look(&dir, Component::Gate));
        Ok(Running { dir, edge, gate })
    }

    /// True if an edge runs, or several.
    pub(crate) fn edge(&self) -> bool {
        !self.edge.sockets.is_empty()
    }

    /// True if a gate runs.
    pub(crate) fn gate(&self) -> bool {
        !self.gate.sockets.is_empty()
    }

    /// Fails if neither of them runs. `command`: the one that wanted to know.
    pub(crate) fn either(&self, command: &str) -> Result<(), Fail> {
        if self.edge() || self.gate() {
            return Ok(());
        }
        let mut tried = self.edge.tried.clone();
        tried.extend(self.gate.tried.iter().filter(|t| !self.edge.tried.contains(t)).cloned());
        let what = format!("neither an edge nor a gate runs from {} ({})", self.dir.display(), tried.join("; "));
        let hint = if self.edge.forbidden || self.gate.forbidden {
            "run it as the user who runs them, or as root".to_string()
        } else {
            format!(
                "name its data directory with `--data-dir DIR`; in a container: `docker exec NAME portcullis {command}`"
            )
        };
        Err(Fail::hinted(what, hint))
    }
}

/// The names of the gate's lists.
pub(crate) fn gate_lists(global: &GlobalArgs) -> Result<Vec<String>, Fail> {
    Ok(gate(global, api::gate::Lists {})?.lists.into_iter().map(|l| l.name).collect())
}

/// Prints an answer as JSON, if that is wanted; true if it was.
pub(crate) fn printed(json: &crate::args::gate::JsonArgs, answer: &impl serde::Serialize) -> Result<bool, Fail> {
    let wanted = json.json.unwrap_or(false);
    if wanted {
        crate::say::json(answer)?;
    }
    Ok(wanted)
}
