//! `[control]` of a file, as written. `docs/manual/control.md` explains its keys.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use server::Teach;

/// The file of `--config`: the same settings as the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ControlFile {
    pub(crate) control: Section,
}

/// `[control]` of a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Section {
    pub(crate) server_url: Option<String>,
    pub(crate) listen: Option<Vec<SocketAddr>>,
    pub(crate) stun: Option<String>,
    pub(crate) relay: Option<bool>,
    pub(crate) derp_map: Option<PathBuf>,
    pub(crate) policy: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) domain: Option<String>,
    pub(crate) ipv4: Option<String>,
    pub(crate) ipv6: Option<String>,
    pub(crate) node_expiry: Option<String>,
    pub(crate) trusted_proxies: Option<Vec<String>>,
    pub(crate) app_expiry: Option<String>,
    pub(crate) app_routes: Option<u32>,
    pub(crate) app_resolvers: Option<Vec<String>>,
    pub(crate) metrics: Option<SocketAddr>,
    /// Lists of the gate that nodes' public addresses enter; in `serve`.
    pub(crate) teach: Vec<Teach>,
}

impl Section {
    /// The same with its paths as seen from a folder.
    pub(crate) fn beside(mut self, dir: &Path) -> Section {
        let paths = [&mut self.derp_map, &mut self.policy, &mut self.tls_cert, &mut self.tls_key];
        for path in paths.into_iter().flatten() {
            *path = super::located(dir, path);
        }
        self
    }
}
