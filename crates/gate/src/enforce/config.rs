//! What a gate is told of its enforcers. In: flags and the configuration's tables. Out: the enforcer of each.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use access::publish::TraefikStyle;
use addr::Port;

use super::caddy::Caddy;
use super::command::Command;
use super::file::TextFile;
use super::haproxy::Haproxy;
use super::nftables::Nftables;
use super::nginx::Nginx;
use super::traefik::Traefik;
use super::webhook::Webhook;
use super::{Enforcer, Info};
use crate::fetch::Base;

/// What stands in front, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// Traefik's file provider.
    Traefik(TraefikConfig),
    /// nginx: a file for `geo … { include FILE; }`.
    Nginx(NginxConfig),
    /// HAProxy: a map, changed through the runtime API.
    Haproxy(HaproxyConfig),
    /// Caddy: the ranges of a `remote_ip` matcher with an `@id`, through the admin API.
    Caddy(CaddyConfig),
    /// nftables: a table of our own in the kernel.
    Nftables(NftablesConfig),
    /// A plain file, one prefix a line: what an edge follows as `--allow-ips @FILE`.
    File(FileConfig),
    /// Any program: the entries on its standard input, one a line.
    Command(CommandConfig),
    /// Any HTTP service: the entries by POST, as JSON.
    Webhook(WebhookConfig),
}

/// How Traefik is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraefikConfig {
    /// The file that Traefik watches.
    pub file: PathBuf,
    /// Each middleware's name and the lists it lets in.
    pub middlewares: Vec<(String, Vec<String>)>,
    /// How this Traefik reads a list.
    pub style: TraefikStyle,
    /// TCP middlewares too.
    pub tcp: bool,
    /// Traefik's API, to see when it has the list; `None`: it must have read the file after two throttles.
    pub api: Option<Base>,
    /// Its `providersThrottleDuration`.
    pub throttle: Duration,
}

/// How nginx is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxConfig {
    /// The list.
    pub list: String,
    /// The file.
    pub file: PathBuf,
    /// Tests the configuration: a program and its arguments.
    pub test: Vec<String>,
    /// Makes nginx read it: a program and its arguments.
    pub reload: Vec<String>,
}

/// How HAProxy is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// The list.
    pub list: String,
    /// The `stats socket` with level admin.
    pub socket: PathBuf,
    /// The map file as HAProxy's configuration names it.
    pub map: PathBuf,
}

/// How Caddy is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaddyConfig {
    /// The list.
    pub list: String,
    /// The admin API with the path of the ranges: `http://127.0.0.1:2019/id/gate/remote_ip/ranges`.
    pub api: Base,
}

/// How ports are guarded in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftablesConfig {
    /// The list.
    pub list: String,
    /// TCP and UDP ports that only the list may reach.
    pub ports: BTreeSet<Port>,
    /// The table's name.
    pub table: String,
}

/// How a plain file is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The list.
    pub list: String,
    /// The file.
    pub file: PathBuf,
}

/// How a program is told of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// The list.
    pub list: String,
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
}

/// How an HTTP service is told of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The list.
    pub list: String,
    /// Where to.
    pub to: Base,
}

impl Config {
    /// The enforcer of this configuration. Nothing is touched yet.
    #[must_use]
    pub fn build(&self) -> Box<dyn Enforcer> {
        match self.clone() {
            Config::Traefik(c) => Box::new(Traefik::new(c)),
            Config::Nginx(c) => Box::new(Nginx::new(c)),
            Config::Haproxy(c) => Box::new(Haproxy::new(c)),
            Config::Caddy(c) => Box::new(Caddy::new(c)),
            Config::Nftables(c) => Box::new(Nftables::new(c)),
            Config::File(c) => Box::new(TextFile::new(c)),
            Config::Command(c) => Box::new(Command::new(c)),
            Config::Webhook(c) => Box::new(Webhook::new(c)),
        }
    }

    /// What the enforcer of this configuration is.
    #[must_use]
    pub fn info(&self) -> Info {
        self.build().info().clone()
    }
}
