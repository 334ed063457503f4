//! What every process answers (`reload`), and an edge: `explain`, `lists`, `doctor`, `status`.

use addr::{Addr, Prefix};
use serde::{Deserialize, Serialize};

use crate::gate::Behind;
use crate::text;
use crate::verdict::Verdict;

/// Reads what can be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {}

/// What was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One line each: `what: what came of it`.
    pub reloaded: Vec<String>,
}

/// Asks whether an address is let in, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Whose.
    #[serde(with = "text")]
    pub address: Addr,
    /// At which service; at every list without one.
    #[serde(default)]
    pub service: Option<String>,
}

/// Whether an address is let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Whose.
    #[serde(with = "text")]
    pub address: Addr,
    /// Of the lists that were asked.
    pub generation: u64,
    /// What each list says.
    pub answers: Vec<ListAnswer>,
    /// How the lists in force stand to their files.
    pub files: Freshness,
}

/// What one list says of an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListAnswer {
    /// The list; `None` where there is none for the service.
    pub list: Option<String>,
    /// Where it is written.
    pub source: Option<String>,
    /// Yes or no.
    pub verdict: Verdict,
    /// The entry that holds the address.
    #[serde(with = "text::opt")]
    pub entry: Option<Prefix>,
    /// Who stands behind it, or why nobody does any more.
    #[serde(flatten)]
    pub behind: Behind,
    /// The verdict in words.
    pub text: String,
    /// The service that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which list guards it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
}

/// How the lists in force stand to their files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// When they were last known to be what the files say.
    pub read_at: u64,
    /// Why they may no longer be.
    pub trouble: Option<Trouble>,
    /// That in words.
    pub stale: Option<String>,
}

/// Why files and what is in force may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when.
    pub since: u64,
    /// What failed.
    pub why: String,
    /// True if it is a failure of the machine, tried again until it works; false if what is written is wrong.
    pub retried: bool,
}

/// Asks for the lists in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lists {}

/// The lists in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListsInForce {
    /// Counts up with every change.
    pub generation: u64,
    /// Connections that are inside now.
    pub inside: usize,
    /// Each list.
    pub lists: Vec<ListContents>,
    /// How they stand to their files.
    pub files: Freshness,
}

/// A list and the first of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListContents {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub source: String,
    /// How many entries it has.
    pub entries: usize,
    /// The first of them.
    #[serde(with = "text::list")]
    pub first: Vec<Prefix>,
}

/// Asks what is wrong with everything that runs in a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {}

/// What is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Each thing.
    pub found: Vec<Finding>,
    /// The switch that accepts findings, up to their names; absent where none can be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
}

impl Findings {
    /// Those that nobody accepted.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|f| !f.accepted)
    }

    /// True if something that nobody accepted is an error.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.open().any(|f| f.severity == Severity::Error)
    }

    /// Those that somebody accepted.
    pub fn accepted(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|f| f.accepted)
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not do what it was set up for, or lets in more than it should.
    #[default]
    Error,
    /// It works, and may not be what is wanted, or may soon stop working.
    Warning,
}

/// The part of a process that a finding is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All of it: the machine, the lists, the configuration.
    #[default]
    Process,
    /// The edge.
    Edge,
    /// A tunnel's client.
    Client,
    /// The gate.
    Gate,
    /// The coordination server.
    Control,
}

impl Part {
    /// As it stands in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Part::Process => "process",
            Part::Edge => "edge",
            Part::Client => "client",
            Part::Gate => "gate",
            Part::Control => "control",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    #[serde(default)]
    pub part: Part,
    /// How much it matters.
    #[serde(default)]
    pub severity: Severity,
    /// Its kind; it is accepted by this name.
    pub id: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// True if the configuration says that it is as it should be.
    #[serde(default)]
    pub accepted: bool,
}

/// Asks an edge who is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {}

/// Who is connected to an edge; `GET /status` of its control port says the same. The names are those of inlets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// The edge itself.
    pub info: EdgeInfo,
    /// Its clients.
    pub clients: Vec<ClientStatus>,
    /// Of the lists in force.
    #[serde(default)]
    pub list_generation: u64,
    /// Visitors that are being served.
    #[serde(default)]
    pub visitors: usize,
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeInfo {
    /// Its version.
    pub version: String,
    /// The commit it was built from; empty if nobody said.
    #[serde(default)]
    pub sha: String,
    /// `http`, `tcp` or `http,tcp`.
    pub mode: String,
    /// When it was started, as RFC 3339 writes it.
    pub start_time: String,
    /// Its machine.
    pub hostname: String,
}

/// A client of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientStatus {
    /// Its number or name.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Where it comes from: address and port, or address alone.
    pub remote_addr: String,
    /// Since when, as RFC 3339 writes it.
    pub since: String,
    /// What it publishes, as `PUBLIC=UPSTREAM`.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// Its machine.
    #[serde(default)]
    pub hostname: String,
    /// Its program and version.
    #[serde(default)]
    pub version: String,
    /// Its multiplexed connections.
    #[serde(default)]
    pub carriers: usize,
    /// Its dedicated connections that wait for work.
    #[serde(default)]
    pub bulk_idle: usize,
    /// Visitors that it serves now.
    #[serde(default)]
    pub streams: usize,
}
