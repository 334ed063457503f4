//! `portcullis fileserver`. In: what was typed. Out: a file server until it is told to stop.

use crate::args::{FilesArgs, Given};
use crate::fail::{Done, Fail};

/// Serves a folder.
pub(crate) fn run(_args: &FilesArgs, _given: &Given) -> Done {
    Err(Fail::from(anyhow::anyhow!("this build has no file server")))
}
