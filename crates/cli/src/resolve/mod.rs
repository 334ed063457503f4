//! What was meant. In: what was typed, and the configuration file. Out: settings of a room without an open question.

mod client;
pub(crate) mod config;
mod edge;
pub(crate) mod gate_file;
pub(crate) mod proxy;
mod rewrite;
pub(crate) mod token;

use std::path::PathBuf;

pub(crate) use client::{ClientPlan, client, token_for, trust};
pub(crate) use edge::{EdgePlan, Kind, MAX_VISITORS, edge, from_flags, load_config, say_unreachable, say_wide, set_of};

use crate::fail::Fail;

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
