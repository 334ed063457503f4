//! What is typed to take over what other programs keep: `import headscale`, `import gatekeeper`, `import npm`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::gate::{Span, span};

/// Take over what another program keeps; its files are only read.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ImportCommand {
    /// Take a Headscale server over: users, nodes, keys, routes, names, policy, and the server's own keys, so that clients stay logged in
    Headscale(HeadscaleImport),
    /// Put what Gatekeeper has learned on a list of a gate that does not run
    Gatekeeper(GatekeeperImport),
    /// Make lists of the access lists of Nginx Proxy Manager
    Npm(NpmImport),
}

/// `import gatekeeper`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GatekeeperImport {
    /// The file that Gatekeeper keeps for Traefik, or the folder of its dynamic-whitelist.yml
    #[arg(value_name = "FILE|DIR")]
    pub(crate) file: PathBuf,
    /// The list that they come on [default: dynamic-whitelist]
    #[arg(long, value_name = "NAME")]
    pub(crate) list: Option<String>,
    /// The middleware in that file [default: dynamic-whitelist]
    #[arg(long, value_name = "NAME")]
    pub(crate) middleware: Option<String>,
    /// What DEFAULT_SOURCE_RANGE says there: that was configured, and not learned [default: none]
    #[arg(long, value_name = "LIST")]
    pub(crate) default_source_range: Option<String>,
    /// How long they stay without a proof: 7d, `never` [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) ttl: Option<Span>,
    /// Write what was configured there to this file, which must not be there yet [default: print it]
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config: Option<PathBuf>,
    /// Say what would be taken over and what would not; change nothing [default: false]
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `import npm`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NpmImport {
    /// Its database.sqlite
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Write the lists to this file, which must not be there yet [default: print them]
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config: Option<PathBuf>,
    /// Say what would be written and what is not as it was; write nothing [default: false]
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `import headscale`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HeadscaleImport {
    /// Its SQLite database, of version 0.23 or later; stop the server first
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its config.yaml: names, prefixes, where its keys and its policy are [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The policy, in the place of the one that the configuration or the database has [default: that one]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// The server's Noise key [default: the one that the configuration names]
    #[arg(long, value_name = "FILE")]
    pub(crate) noise_key: Option<PathBuf>,
    /// The key of its relay [default: the one that the configuration names]
    #[arg(long, value_name = "FILE")]
    pub(crate) derp_key: Option<PathBuf>,
    /// Write the settings of the configuration to this file, which must not be there yet [default: print them]
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config: Option<PathBuf>,
    /// Say what would be taken over and what would not; change nothing [default: false]
    #[arg(long)]
    pub(crate) dry_run: bool,
}
