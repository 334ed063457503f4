//! The coordination server of the mesh. In: connections of official clients, an administrator's commands. Out: what
//! each node may know and reach; relayed packets.
//!
//! ```text
//! listener -> http (key, ts2021, derp, pages) -> channel (Noise, HTTP/2) -> machine (register, map) -> registry (registry)
//!                                                                            stream <- pictures <-/
//! ```

mod answers;
mod apps;
mod channel;
mod doctor;
mod health;
mod http;
pub mod import;
mod machine;
mod metrics;
pub mod noise_stream;
mod outbox;
mod page;
mod policy;
pub mod registry;
pub mod relay;
pub mod relay_http;
mod relays;
mod reload;
mod state;
mod stream;
pub mod stun;
mod verbs;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr::AddrSet;
use anyhow::Context;
use parking_lot::Mutex;
use serde_json::Value;
use store::{If, Sqlite, Store, StoreError};
use tailnet::Settings;
use tailnet_proto::meshkey::{MachinePrivate, NodePrivate};
use tracing::warn;

use apps::Lookups;
pub use doctor::{Wrong, doctor};
use http::Listening;
use registry::RegistryHandle;
pub use reload::Prepared;
use runtime::hint::Hinted;
use runtime::run::Run;
pub use state::ControlState;
pub use verbs::verbs;

/// Everything a coordination server is told.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Where the registry and the audit log live.
    pub data_dir: PathBuf,
    /// How clients reach it: `http://HOST:PORT` or `https://HOST`, without a path.
    pub server_url: ServerUrl,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Certificate chain and key, if it speaks TLS with a certificate of its own.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where it answers STUN.
    pub stun: Option<SocketAddr>,
    /// Relays beside or instead of its own, as a `DERPMap`.
    pub derp_map: Option<Value>,
    /// False: it relays nothing itself.
    pub relay: bool,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted: AddrSet,
    /// Addresses, domain, expiry.
    pub registry: Settings,
    /// Who is asked for the names of apps; none: the system's nameservers.
    pub app_resolvers: Vec<SocketAddr>,
    /// Where metrics are, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The policy in force from the start, in place of the stored one.
    pub policy: Option<PathBuf>,
}

/// The URL that clients are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// True for `https`.
    pub tls: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A running coordination server.
#[derive(Debug, Clone)]
pub struct Control {
    /// What its parts share.
    pub state: Arc<ControlState>,
    /// Where it listens.
    pub addrs: Vec<SocketAddr>,
    /// The audit log.
    pub audit: PathBuf,
    /// The fingerprint of its certificate that clients must pin, if they must.
    pin: Option<[u8; 32]>,
    /// What is in force.
    settings: Arc<Mutex<ControlSettings>>,
}

/// Opens the store and starts everything.
///
/// # Errors
/// The data directory cannot be used, an address cannot be had, or the policy is refused; nothing was left running
/// that matters.
pub async fn start(settings: ControlSettings, run: &Run) -> anyhow::Result<Control> {
    let not_ready = run.not_ready("control");
    let store: Arc<dyn Store> = Arc::new(open(&settings.data_dir)?);
    let machine: MachinePrivate = secret(&*store, "mesh/secret/machine", |r| MachinePrivate::from_random(r).reveal())?
        .parse()
        .context("the stored key of this server is damaged")?;
    let relay: NodePrivate = secret(&*store, "mesh/secret/relay", |r| NodePrivate::from_random(r).reveal())?
        .parse()
        .context("the stored key of the relay is damaged")?;
    let audit = settings.data_dir.join("control-audit.jsonl");
    let ssh_check = format!("https://{}/machine/ssh/check", settings.server_url.host);
    let registry = RegistryHandle::start(run, Settings { ssh_check, ..settings.registry.clone() }, store, &audit)?;
    policy::begin(&registry, settings.policy.as_deref()).await?;
    if let Some(file) = settings.policy.clone() {
        let ours = registry.clone();
        run.on_reload("policy", move || {
            let (registry, file) = (ours.clone(), file.clone());
            Box::pin(async move { policy::follow(&registry, &file).await })
        });
    }
    let lookups = Lookups::of(&settings)?;
    let Listening { state, addrs, pin } = http::listen(run, &settings, registry, machine, relay, lookups)?;
    health::watch(run, state.clone());
    apps::watch(run, state.clone());
    if let Some(at) = settings.metrics {
        metrics::listen(run, state.clone(), at)?;
    }
    not_ready.ready();
    Ok(Control { state, addrs, audit, pin, settings: Arc::new(Mutex::new(settings)) })
}

/// Opens the server's store in a data directory.
///
/// # Errors
/// It cannot be used; says why and what to do.
pub fn open(data_dir: &Path) -> anyhow::Result<Sqlite> {
    let store = Sqlite::open(&data_dir.join("control.db")).map_err(|e| {
        let hint = match &e {
            StoreError::Busy(_) => {
                "another coordination server runs from this directory: stop it, or give this one its own `--data-dir DIR`"
            }
            StoreError::Full(_) => "make room on the disk; nothing stored is lost",
            StoreError::ReadOnly(_) => "choose a directory that this user can write with `--data-dir DIR`",
            StoreError::Newer(_) => "run the newer version of portcullis that wrote it",
            StoreError::Damaged(_) => "put a backup in its place; a new file would forget every node",
            _ => "see the message above",
        };
        Hinted::error(format!("the coordination server's store cannot be opened: {e}"), hint)
    })?;
    store.warnings().iter().for_each(|w| warn!(why = %w, "store open to others"));
    Ok(store)
}

/// A secret of the server, made at the first start.
fn secret(store: &dyn Store, key: &str, make: impl FnOnce([u8; 32]) -> String) -> anyhow::Result<String> {
    if let Some(e) = store.get(key)? {
        return String::from_utf8(e.value).context("a stored key is no text");
    }
    let text = make(rand::random());
    store.put_if(key, text.as_bytes(), None, If::Absent)?;
    Ok(text)
}

impl ServerUrl {
    /// True if official clients turn to port 443 of the host, and to nothing else, when they have lost their connection
    /// and come back within two minutes: plain HTTP at a name or a public address. Source: Tailscale's
    /// `control/ts2021/client.go` (`isPrivateHost`) and `control/controlhttp/client.go` (`forceNoise443`).
    #[must_use]
    pub fn needs_443(&self) -> bool {
        let near = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => a.is_private() || a.is_loopback(),
            Ok(IpAddr::V6(a)) => a.is_unique_local() || a.is_loopback(),
            Err(_) => self.host == "localhost",
        };
        !self.tls && !near
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { write!(f, "{scheme}://{host}") } else { write!(f, "{scheme}://{host}:{}", self.port) }
    }
}

impl std::str::FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerUrl, String> {
        let wanted = || {
            format!(
                "`{}` is no URL of a server, such as http://203.0.113.9:8080 or https://mesh.example.com",
                text.escape_debug()
            )
        };
        let uri: hyper::Uri = text.trim().parse().map_err(|_| wanted())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wanted()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{text} has a path; clients only take scheme, host and port"));
        }
        let host = uri.host().map(|h| h.trim_matches(['[', ']']).to_string()).filter(|h| !h.is_empty());
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err(wanted());
        }
        Ok(ServerUrl {
            tls,
            host: host.ok_or_else(wanted)?,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_public_servers_need_port_443() {
        for (text, want) in [
            ("http://203.0.113.9:8080", true),
            ("http://mesh.example.com", true),
            ("https://203.0.113.9:8443", false),
            ("http://192.168.1.9:8080", false),
            ("http://[fd00::9]:8080", false),
            ("http://localhost:8080", false),
            ("http://127.0.0.1:8080", false),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().needs_443(), want, "{text}");
        }
    }

    #[test]
    fn urls_of_servers() {
        for (text, want) in [
            ("http://203.0.113.9:8080", "http://203.0.113.9:8080"),
            ("https://mesh.example.com/", "https://mesh.example.com"),
            ("http://[2001:db8::1]:80", "http://[2001:db8::1]"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), want);
        }
        for bad in ["", "mesh.example.com", "ftp://x", "http://x/y", "http://u@x", "http://"] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }
}
