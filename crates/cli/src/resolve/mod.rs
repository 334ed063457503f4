//! What was meant. In: what was typed, and the configuration file. Out: settings of a room without an open question.

mod client;
pub(crate) mod control;
mod edge;
pub(crate) mod file;
pub(crate) mod gate_file;
pub(crate) mod gate_shared;
pub(crate) mod gatekeeper;
pub(crate) mod lists;
pub(crate) mod proxy;
mod rewrite;
pub(crate) mod token;
mod tokens;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use server::{Log, Note};

pub(crate) use client::{ClientPlan, client, token_for, trust};
pub(crate) use edge::{Kind, MAX_VISITORS, edge, load_config};

use self::file::EdgeFile;
use crate::args::{GlobalArgs, LogFormat};
use crate::fail::Fail;

/// What a person should know of a configuration that is good all the same.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<Note>>);

impl Notes {
    /// Worth a line.
    pub(crate) fn info(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(Note::Info(text.into()));
    }

    /// Worth a person's time.
    pub(crate) fn warning(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(Note::Warning(text.into()));
    }

    /// Writes all of them to the log, for what is read but once.
    pub(crate) fn log(&self) {
        self.0.take().iter().for_each(Note::say);
    }

    /// All of them.
    pub(crate) fn into_vec(self) -> Vec<Note> {
        self.0.into_inner()
    }
}

/// How the log is written: flag or variable, then file.
pub(crate) fn log(global: &GlobalArgs, file: Option<&EdgeFile>) -> Log {
    let form = global.log_format.or(file.and_then(|f| f.log_format));
    let debug = global.debug.or(file.and_then(|f| f.debug)).unwrap_or(false);
    Log { json: form == Some(LogFormat::Json), debug }
}

/// Root does not write into the data directory of another user. Whose it is decides what lies there, links too, and what
/// root leaves there the process of that user cannot open. `what` is the command, as typed after `portcullis`.
///
/// # Errors
/// This is root, and the directory, or the nearest above it that is there, is another user's.
pub(crate) fn as_owner_of(dir: &Path, what: &str) -> Result<(), Fail> {
    use std::os::unix::fs::MetadataExt;
    let nearest = |d: &Path| d.ancestors().find_map(|d| std::fs::metadata(d).ok().map(|m| m.uid()));
    let owner = std::path::absolute(dir).ok().and_then(|d| nearest(&d));
    match owner.filter(|uid| *uid != 0 && runtime::run::is_root()) {
        None => Ok(()),
        Some(uid) => {
            let who = user_name(uid).unwrap_or_else(|| format!("'#{uid}'"));
            Err(Fail::hinted(
                format!(
                    "{} belongs to the user {who}, and root writes nothing there; nothing was changed",
                    dir.display()
                ),
                format!(
                    "type `sudo -u {who} portcullis {what} --data-dir {}`, and let that user read the files that you name",
                    dir.display()
                ),
            ))
        }
    }
}

/// The name of a user, where the machine's own list has it.
fn user_name(uid: u32) -> Option<String> {
    let all = std::fs::read_to_string("/etc/passwd").ok()?;
    let of = |line: &str| line.split(':').nth(2).and_then(|n| n.parse().ok()) == Some(uid);
    all.lines().find(|l| of(l)).and_then(|l| l.split(':').next()).map(str::to_string)
}

/// Where state lives: as told, or by the conventions of the system.
pub(crate) fn data_dir(told: Option<PathBuf>) -> Result<PathBuf, Fail> {
    if let Some(dir) = told {
        return Ok(dir);
    }
    if runtime::run::is_root() {
        return Ok(PathBuf::from("/var/lib/portcullis"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".local/state")))
        .map(|d| d.join("portcullis"))
        .ok_or_else(|| Fail::hinted("there is no place for state: HOME is not set", "give one with `--data-dir DIR`"))
}
