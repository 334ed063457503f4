//! What a gate is told of its enforcers. In: flags and the configuration's tables. Out: the enforcer of each.

use super::caddy::{Caddy, CaddyConfig};
use super::command::{Command, CommandConfig};
use super::file::{FileConfig, TextFile};
use super::haproxy::{Haproxy, HaproxyConfig};
use super::nftables::Nftables;
use super::nginx::{Nginx, NginxConfig};
use super::ports::NftablesConfig;
use super::traefik::{Traefik, TraefikConfig};
use super::webhook::{Webhook, WebhookConfig};
use super::{Enforcer, Info};

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

    /// The table in the kernel that it keeps, if it keeps one.
    #[must_use]
    pub fn table(&self) -> Option<String> {
        match self {
            Config::Nftables(c) => Some(c.table.clone()),
            _ => None,
        }
    }

    /// What the enforcer of this configuration is.
    #[must_use]
    pub fn info(&self) -> Info {
        self.build().info().clone()
    }
}
