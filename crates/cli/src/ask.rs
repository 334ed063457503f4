//! Questions to a running process. In: which room, a verb, its arguments. Out: the answer as JSON, or who does not run
//! and how to start it.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::args::GlobalArgs;
use crate::fail::Fail;
use crate::resolve;

/// Asks the gate of this data directory.
pub(crate) fn gate(global: &GlobalArgs, verb: &str, args: Value) -> Result<Value, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let start = "start one with `portcullis gatekeeper` or `portcullis serve --config FILE`";
    running(&gate::gate_socket(&dir), "gate", &dir, start)?;
    socket(&gate::gate_socket(&dir), verb, args)
}

/// Asks the coordination server of this data directory.
pub(crate) fn control(global: &GlobalArgs, verb: &str, args: Value) -> Result<Value, Fail> {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let path = control::control_socket(&dir);
    running(&path, "coordination server", &dir, "start one with `portcullis control`")?;
    socket(&path, verb, args)
}

/// Asks whoever listens at this socket.
pub(crate) fn socket(path: &Path, verb: &str, args: Value) -> Result<Value, Fail> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let answer = runtime.block_on(runtime::api::ask(path, verb, args))?;
    if let Some(why) = answer["unsaved"].as_str() {
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
