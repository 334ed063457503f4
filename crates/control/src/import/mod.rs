//! A Headscale server taken over. In: its database, its configuration, its keys, as files that are only read. Out: a data
//! directory of this program's in which its clients are at home, written in one transaction; what has no counterpart; the
//! settings that stood in its configuration.

mod config;
mod database;

use std::path::{Path, PathBuf};

use anyhow::Context;
use runtime::audit::Record;
use runtime::hint::Hinted;
use runtime::owner;
use serde_json::{Map, Value};
use store::{If, Sqlite, Step, Store};
use tailnet::import::{ImportError, NotCarried};
use tailnet::{Registry, Settings};
use tailnet_proto::meshkey::{MachinePrivate, NodePrivate};

use crate::registry::{self, Mesh};

/// Where a Headscale server keeps what is taken over.
#[derive(Debug, Clone, Default)]
pub struct Headscale {
    /// Its SQLite database.
    pub database: PathBuf,
    /// Its `config.yaml`.
    pub config: Option<PathBuf>,
    /// A policy in the place of its own.
    pub policy: Option<PathBuf>,
    /// The server's Noise key, in the place of the one that the configuration names.
    pub noise_key: Option<PathBuf>,
    /// The same of its relay's key.
    pub derp_key: Option<PathBuf>,
}

/// What came of it, or would.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// Users, keys, nodes, approved routes.
    pub counts: [usize; 4],
    /// Nodes: name, owner, addresses.
    pub nodes: Vec<(String, String, String)>,
    /// True if a policy is in force.
    pub policy: bool,
    /// True if clients take this server for the one that they know.
    pub server_key: bool,
    /// What is not as it was, and why.
    pub not: Vec<NotCarried>,
    /// The settings for `[control]`.
    pub settings: Map<String, Value>,
}

/// What is read before anything is decided.
#[derive(Default)]
struct Sources {
    network: tailnet::import::Network,
    noise: Option<MachinePrivate>,
    derp: Option<NodePrivate>,
    settings: Map<String, Value>,
    not: Vec<NotCarried>,
}

impl Sources {
    fn not(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.not.push(NotCarried { what: what.into(), why: why.into() });
    }
}

/// Who says so, in the audit log.
const BY: &str = "command line";

/// Takes a Headscale server over into a data directory. `dry`: only says what would be. `settings` is where addresses
/// come from and what the domain is, as the server will be started.
///
/// # Errors
/// A file cannot be read, something collides, the policy is refused, or the store cannot be written; nothing was changed.
pub fn headscale(from: &Headscale, data_dir: &Path, dry: bool) -> anyhow::Result<Imported> {
    let sources = read(from)?;
    let path = data_dir.join("control.db");
    // Neither looking nor what is refused makes a directory.
    let store = if path.exists() { Some(super::open(data_dir)?) } else { None };
    let now = runtime::wall();
    let mut registry = Registry::new(pools(&sources.settings)?);
    if let Some(store) = &store {
        registry::read(&mut registry, store, now)?;
    }
    let empty = registry.is_empty();
    let name = from.database.display().to_string();
    let carried = registry.import(&sources.network, &format!("Headscale {name}"), BY, now).map_err(|e| refused(&e))?;
    let mut steps = registry::steps(&mut registry);
    let (noise, derp) =
        (sources.noise.as_ref().map(MachinePrivate::reveal), sources.derp.as_ref().map(NodePrivate::reveal));
    for (key, secret) in [("mesh/secret/machine", &noise), ("mesh/secret/relay", &derp)] {
        let Some(secret) = secret else { continue };
        let there = store.as_ref().map(|s| s.get(key)).transpose()?.flatten();
        if there.as_ref().is_some_and(|e| e.value != secret.as_bytes()) && !empty {
            return Err(Hinted::error(
                format!("{key}: this directory has clients that know another key of the server"),
                "import into an empty data directory: `--data-dir DIR`",
            ));
        }
        // A server that nobody has joined has shown its key to nobody.
        steps.push(Step::Put { key: key.into(), value: secret.clone().into_bytes(), deadline: None, when: If::Anyway });
    }
    let records: Vec<Record> = registry.take_audits().into_iter().map(registry::record).collect();
    if !dry {
        let store = store.map_or_else(|| fresh(data_dir), Ok)?;
        owner::write_stopped::<Mesh>(&store, &data_dir.join("control-audit.jsonl"), steps, &records)
            .context("nothing was imported")?;
    }
    let not = sources.not.into_iter().chain(carried.not).collect();
    let nodes = carried.nodes.into_iter().map(|(n, o, [a, b])| (n, o, format!("{a} {b}"))).collect();
    Ok(Imported {
        counts: carried.counts,
        nodes,
        policy: registry.policy_text().is_some(),
        server_key: noise.is_some(),
        not,
        settings: sources.settings,
    })
}

/// A store that was not there a moment ago.
fn fresh(data_dir: &Path) -> anyhow::Result<Sqlite> {
    let store = super::open(data_dir)?;
    if !store.list("")?.0.is_empty() {
        return Err(Hinted::error(
            format!("{} was made meanwhile; nothing was imported", store.path().display()),
            "stop whatever runs from this directory, and try again",
        ));
    }
    Ok(store)
}

fn refused(e: &ImportError) -> anyhow::Error {
    let hint = match e {
        ImportError::Collisions(_) => {
            "import into an empty data directory (`--data-dir DIR`), or mend it in a copy of the database; nothing was changed"
        }
        ImportError::Policy(_) => {
            "mend a copy and give it with `--policy FILE`; `portcullis policy check FILE` shows every problem"
        }
        ImportError::Address(_) => "give the server larger prefixes in its config.yaml",
    };
    Hinted::error(format!("nothing was imported: {e}"), hint)
}

/// Where addresses of nodes that lack one come from, and the network's domain.
fn pools(settings: &Map<String, Value>) -> anyhow::Result<Settings> {
    let mut out = Settings::default();
    let text = |key: &str| settings.get(key).and_then(Value::as_str);
    if let Some(v4) = text("ipv4") {
        out.pools.v4 = v4.parse().with_context(|| format!("prefixes.v4: {v4}"))?;
    }
    if let Some(v6) = text("ipv6") {
        out.pools.v6 = v6.parse().with_context(|| format!("prefixes.v6: {v6}"))?;
    }
    out.domain = text("domain").unwrap_or("mesh.internal").to_string();
    Ok(out)
}

fn read(from: &Headscale) -> anyhow::Result<Sources> {
    let mut out = Sources::default();
    let mut named = config::Named::default();
    if let Some(path) = &from.config {
        // What it names is found from anywhere.
        named = config::read(&std::path::absolute(path)?, &mut out)?;
    }
    database::read(&from.database, &mut out)
        .with_context(|| format!("{} cannot be read as a database of Headscale", from.database.display()))?;
    // What is named by hand goes before the configuration, and a file before the database where the server says so.
    let policy = from.policy.clone().or(named.policy_file.filter(|_| !named.policy_in_database));
    if let Some(path) = policy {
        out.network.policy = Some(text_of(&path, "policy")?);
    } else if from.config.is_some() && !named.policy_in_database && out.network.policy.take().is_some() {
        out.not(
            "the policy in the database",
            "the configuration says `policy.mode: file` and names none, so it was not in force",
        );
    }
    match from.noise_key.clone().or(named.noise_key) {
        Some(path) => out.noise = Some(key(&path, "Noise key")?),
        None => out.not(
            "the server's Noise key",
            "neither `--config` nor `--noise-key` names it: this server gets a key of its own, and clients that run have to be restarted once to learn it",
        ),
    }
    match from.derp_key.clone().or(named.derp_key) {
        Some(path) => out.derp = Some(key(&path, "relay's key")?),
        None => out.not(
            "the relay's key",
            "there was no relay of its own; this server's has a new one, which clients learn by themselves",
        ),
    }
    Ok(out)
}

fn key<K: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    path: &Path,
    what: &str,
) -> anyhow::Result<K> {
    let text = text_of(path, what)?;
    text.trim().parse().with_context(|| format!("{}: the {what} is none", path.display()))
}

/// A file that a person wrote or a server keeps; none of them is large.
fn text_of(path: &Path, what: &str) -> anyhow::Result<String> {
    use std::io::Read;
    const MAX: u64 = 16 << 20;
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX {
            return Err(std::io::Error::other(format!("it has more than {} MiB", MAX >> 20)));
        }
        Ok(text)
    };
    read().map_err(|e| {
        Hinted::error(
            format!("the {what} {} cannot be read: {e}", path.display()),
            "run it where the server's files are, as a user who can read them; paths may be given by flags",
        )
    })
}

/// A moment as Headscale's database has it (Go's `time.Time` as text), in seconds since the Unix epoch: at least 1, since
/// the first second of 1970 is over too. None if it is no moment.
fn moment(text: &str) -> Option<u64> {
    // `2026-07-21 08:07:06.123456789+02:00`, also with a T, a Z, a blank before the zone, or Go's own ending.
    let text = text.split(" m=").next().unwrap_or_default();
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.trim_start_matches(['T', ' ']);
    let (clock, zone) = rest.split_at_checked(8)?;
    let zone = zone.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).trim_start();
    let zone = zone.split(' ').next().unwrap_or_default();
    let zone = match zone {
        "" | "Z" | "UTC" => "Z".to_string(),
        z if z.len() == 5 => format!("{}:{}", z.get(..3)?, z.get(3..)?),
        z => z.to_string(),
    };
    let at: addr::Timestamp = format!("{date}T{clock}{zone}").parse().ok()?;
    Some(at.0.max(1))
}

#[cfg(test)]
mod tests;
