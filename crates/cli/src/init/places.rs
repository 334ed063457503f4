//! Where files of a set-up lie. In: the user and the environment. Out: paths.

use std::path::{Path, PathBuf};

use crate::fail::Fail;

/// The variables of a client, in the folder of the configuration.
pub(crate) const CLIENT_ENV: &str = "client.env";
/// The configuration of everything else: what `serve` reads when it is told nothing.
pub(super) const CONFIG: &str = "edge.toml";
/// The token of an edge, or of the edge that a client connects to.
pub(super) const TOKEN: &str = "token";
/// Where an administrator's units lie (systemd.unit(5)).
pub(super) const UNITS: &str = "/etc/systemd/system";

/// The folder of the configuration.
///
/// # Errors
/// There is no home.
pub(crate) fn config_dir() -> Result<PathBuf, Fail> {
    if runtime::run::is_root() {
        return Ok(PathBuf::from("/etc/portcullis"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".config")))
        .map(|d| d.join("portcullis"))
        .ok_or_else(|| {
            Fail::hinted("there is no place for the configuration: HOME is not set", "give one with `--dir DIR`")
        })
}

/// True if this is a system that systemd started (sd_booted(3)).
pub(super) fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
