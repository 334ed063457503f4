//! Questions to a running process. In: which component and a request. Out: its answer, or who does not run and how to
//! start it.

use std::path::Path;

use anyhow::Context;
use api::{Answer, Call};

use crate::args::GlobalArgs;
use crate::fail::Fail;
use crate::resolve;

/// Asks the gate of this data directory.
pub(crate) fn gate<C: Call>(global: &GlobalArgs, call: C) -> Result<C::Answer, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let start = "start one with `portcullis gatekeeper` or `portcullis serve --config FILE`";
    running(&gate::gate_socket(&dir), "gate", &dir, start)?;
    socket(&gate::gate_socket(&dir), call)
}

/// Asks the coordination server of this data directory.
pub(crate) fn control<C: Call>(global: &GlobalArgs, call: C) -> Result<C::Answer, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let path = control::control_socket(&dir);
    running(&path, "coordination server", &dir, "start one with `portcullis control`")?;
    socket(&path, call)
}

/// Asks whoever listens at this socket.
pub(crate) fn socket<C: Call>(path: &Path, call: C) -> Result<C::Answer, Fail> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let answer = runtime.block_on(runtime::api::ask(path, call))?;
    if let Some(why) = answer.unsaved() {
        // On the other stream: what is printed as JSON stays JSON.
        eprintln!(
            "warning: in force, not saved yet: {why}\nhint: it is saved by itself when that ends; a crash before would undo it"
        );
    }
    Ok(answer)
}

/// A socket that nobody listens at was left by a process that was killed.
fn running(socket: &Path, who: &str, dir: &Path, start: &str) -> Result<(), Fail> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match std::os::unix::net::UnixStream::connect(socket) {
        Err(e) if matches!(e.kind(), ConnectionRefused | NotFound) => Err(Fail::hinted(
            format!("no {who} runs from {}", dir.display()),
            format!("{start}, or name its data directory with `--data-dir DIR`"),
        )),
        // Anything else is told by the question itself.
        _ => Ok(()),
    }
}

/// True if a gate runs from this data directory.
pub(crate) fn gate_runs(global: &GlobalArgs) -> bool {
    resolve::data_dir(global.data_dir.clone())
        .is_ok_and(|d| std::os::unix::net::UnixStream::connect(::gate::gate_socket(&d)).is_ok())
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

/// True if one edge runs from this data directory.
pub(crate) fn edge_runs(global: &GlobalArgs) -> bool {
    resolve::data_dir(global.data_dir.clone()).is_ok_and(|dir| runtime::api::find(&dir, None).is_ok())
}
