//! The configuration of a whole process: parsed, checked, no option left open. In: nothing. Out: plain values that the
//! command line makes of flags, environment and file, and that the supervisor puts into force.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use control::ControlSettings;
use gate::GateSettings;
use runtime::lists::ListSource;
use serde::Deserialize;
use tunnel::settings::EdgeSettings;

/// Everything a process is told.
#[derive(Debug)]
pub struct Config {
    /// Where state lives.
    pub data_dir: PathBuf,
    /// How the log is written; read at the start.
    pub log: Log,
    /// How long what is under way may last once the process stops.
    pub drain: Duration,
    /// The edge; `None`: no tunnel.
    pub tunnel: Option<EdgeSettings>,
    /// The lists at the edge's admission, in the order they are shown.
    pub lists: Vec<ListSource>,
    /// The gate; `None`: none runs here.
    pub gate: Option<GateSettings>,
    /// The coordination server; `None`: none runs here.
    pub control: Option<ControlConfig>,
    /// The files that this was read from, besides those of `lists`: a change of one means another configuration.
    pub files: Vec<PathBuf>,
    /// What a person should know of it.
    pub notes: Vec<Note>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Log {
    /// JSON objects, instead of lines for people.
    pub json: bool,
    /// Every connection too.
    pub debug: bool,
}

/// A coordination server, and the lists of the gate beside it that take in its nodes: a grant source.
#[derive(Debug)]
pub struct ControlConfig {
    /// The server.
    pub settings: ControlSettings,
    /// Lists of the gate that nodes' public addresses enter.
    pub teach: Vec<Teach>,
}

/// A list, and the nodes whose public addresses it takes in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teach {
    /// The list.
    pub list: String,
    /// Whose nodes: `group:family`, `ada@example.com`, `tag:phone`, `autogroup:member`, names of nodes.
    pub nodes: Vec<String>,
}

/// Something odd about a configuration that is good all the same. It is said once, and again only after it was gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Worth a line.
    Info(String),
    /// Worth a person's time.
    Warning(String),
}

impl Config {
    /// The names of the gate's lists; `None`: no gate runs here.
    #[must_use]
    pub fn gate_lists(&self) -> Option<BTreeSet<String>> {
        self.gate.as_ref().map(|g| g.lists.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Every file that this came from.
    #[must_use]
    pub fn watched(&self) -> Vec<PathBuf> {
        self.files.iter().cloned().chain(runtime::lists::files(&self.lists)).collect()
    }
}

impl Note {
    /// Writes it to the log.
    pub fn say(&self) {
        match self {
            Note::Info(text) => tracing::info!(note = %text, "configuration"),
            Note::Warning(text) => tracing::warn!(note = %text, "configuration"),
        }
    }
}
