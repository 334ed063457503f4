//! What is typed for `init`: each of its questions has a flag.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// The public side of a tunnel
    Edge,
    /// The private side of a tunnel, alone
    Client,
    /// Allow lists that learn
    Gate,
    /// The coordination server of a mesh
    Control,
}

/// What stands in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Front {
    /// Nothing
    None,
    /// nginx
    Nginx,
    /// Caddy
    Caddy,
    /// Traefik
    Traefik,
    /// HAProxy
    Haproxy,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// What this machine is for: edge, gate, control, also several with commas, or client alone
    #[arg(long = "for", value_name = "WHAT", value_delimiter = ',')]
    pub(crate) purpose: Vec<Purpose>,
    /// Public name or address of this machine [default: its public address]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Who may come in: addresses, prefixes, @FILE, dns:NAME, `all`, `none`; repeatable, comma lists [default: none]
    #[arg(long, value_name = "LIST")]
    pub(crate) allow: Vec<String>,
    /// Which proxy stands in front [default: the one that runs here]
    #[arg(long, value_name = "PROXY")]
    pub(crate) proxy: Option<Front>,
    /// Where state is kept [default: /var/lib/portcullis for root]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// A gate's list guards these ports of the machine by nftables, such as 25565,27015-27030/udp
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) guard: Vec<String>,
    /// Of a client: the connect string that its edge printed
    #[arg(long, value_name = "STRING")]
    pub(crate) connect: Option<String>,
    /// Of a client: the file with the edge's token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Of a client: what it publishes, as --upstream of `http client` or `tcp client`; repeatable, comma lists
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) upstream: Vec<String>,
    /// Ask nothing: what no flag says is its default
    #[arg(long)]
    pub(crate) yes: bool,
    /// Write nothing, show what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace files that are there; the old ones are kept beside them as FILE.old
    #[arg(long)]
    pub(crate) force: bool,
    /// Folder of the configuration [default: /etc/portcullis for root, otherwise $XDG_CONFIG_HOME/portcullis or ~/.config/portcullis]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Folder of the systemd unit, or `none` [default: /etc/systemd/system for root where systemd runs, otherwise none]
    #[arg(long, value_name = "DIR")]
    pub(crate) unit: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: super::gate::JsonArgs,
}
