//! Flags of a client: `http client`, `tcp client`, `client`, and of `status`, which connects the same way.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tunnel_proto::connect::{ConnectString, EdgeUrl, Fingerprint};
use tunnel_proto::upstream::PortRanges;

use super::TokenArgs;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    #[command(flatten)]
    pub(crate) publish: PublishArgs,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) inlets: super::inlets::InletsArgs,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which edge")]
pub(crate) struct TrustArgs {
    /// The edge's control plane: wss://HOST[:PORT][/PATH], or ws:// with --insecure
    #[arg(long, short = 'r', value_name = "URL", env = "PORTCULLIS_URL", alias = "remote")]
    pub(crate) url: Option<EdgeUrl>,
    /// The connect string that the edge printed; URL and fingerprint in one
    #[arg(long, value_name = "STRING", env = "PORTCULLIS_CONNECT")]
    pub(crate) connect: Option<ConnectString>,
    /// Fingerprint of the edge's CA: sha256: and 64 hex digits
    #[arg(long, value_name = "FINGERPRINT", env = "PORTCULLIS_CA_FINGERPRINT")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
    /// CA certificates in PEM, believed besides those of this system
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The edge made its certificate itself; false for behind a proxy with a real one [default: true]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_AUTO_TLS", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) auto_tls: Option<bool>,
    /// Allow ws://, which sends the token and all traffic in the clear [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_INSECURE", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) insecure: Option<bool>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What to publish")]
pub(crate) struct PublishArgs {
    /// Where requests go: http://127.0.0.1:3000, app.example.com=http://127.0.0.1:4000, app.example.com/api=http://…, 2222=192.168.0.10:22, unix:/run/app.sock, or a host with --ports; repeatable, comma lists
    #[arg(long, short = 'u', value_name = "UPSTREAM", env = "PORTCULLIS_UPSTREAM")]
    pub(crate) upstream: Vec<String>,
    /// Ports to open at the edge, the same as at the upstream: 2222,5432,8000-8010; repeatable
    #[arg(long, short = 'p', value_name = "PORTS", env = "PORTCULLIS_PORTS", alias = "port")]
    pub(crate) ports: Vec<PortRanges>,
    /// Forward only to the given upstreams; always on here, accepted for old scripts [default: true]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_STRICT_FORWARDING", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) strict_forwarding: Option<bool>,
    /// Host to send to HTTP upstreams instead of the visitor's, or `rewrite` for the upstream's own; for one of them only: app.example.com=HOST; repeatable. X-Forwarded-Host keeps the visitor's
    #[arg(long, value_name = "[UPSTREAM=]HOST", env = "PORTCULLIS_HOST_HEADER")]
    pub(crate) host_header: Vec<String>,
    /// Header to set in requests to HTTP upstreams, 'Name: value', for one of them only 'app.example.com=Name: value'; repeatable
    #[arg(long, value_name = "[UPSTREAM=]NAME: VALUE")]
    pub(crate) request_header_add: Vec<String>,
    /// Header to remove from requests to HTTP upstreams; repeatable
    #[arg(long, value_name = "[UPSTREAM=]NAME")]
    pub(crate) request_header_remove: Vec<String>,
    /// Header to set in answers of HTTP upstreams, as --request-header-add; repeatable
    #[arg(long, value_name = "[UPSTREAM=]NAME: VALUE")]
    pub(crate) response_header_add: Vec<String>,
    /// Header to remove from answers of HTTP upstreams; repeatable
    #[arg(long, value_name = "[UPSTREAM=]NAME")]
    pub(crate) response_header_remove: Vec<String>,
    /// Accept any certificate of https:// upstreams [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_UPSTREAM_INSECURE", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) upstream_insecure: Option<bool>,
    /// CA certificates in PEM for https:// upstreams, believed besides those of this system; a self-signed certificate too
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_UPSTREAM_CA")]
    pub(crate) upstream_ca: Option<PathBuf>,
    /// Name that certificates of https:// upstreams must have, and that is asked for (SNI) [default: the upstream's host]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_UPSTREAM_SERVER_NAME")]
    pub(crate) upstream_server_name: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Link and service")]
pub(crate) struct LinkArgs {
    /// Parallel multiplexed connections to the edge, 1 to 16 [default: 2]
    #[arg(long, value_name = "NUMBER", env = "PORTCULLIS_CARRIERS", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) carriers: Option<u8>,
    /// One connection to the edge for each visitor, nothing multiplexed [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_DEMUX", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) demux: Option<bool>,
    /// Stable name of this client: a new session of the same name takes over at once [default: random]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_ID")]
    pub(crate) id: Option<String>,
    /// How long connections may go on after a stop, such as 10s [default: 10s]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_DRAIN", value_parser = super::values::duration)]
    pub(crate) drain: Option<std::time::Duration>,
    /// Print a systemd unit for this command instead of running it
    #[arg(long, value_name = "KIND")]
    pub(crate) generate: Option<Generate>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    /// Print JSON [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", env = "PORTCULLIS_JSON", hide_possible_values = true)]
    pub(crate) json: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generate {
    /// A hardened unit, on standard output
    Systemd,
    /// As inlets writes it; not here
    #[value(name = "k8s_yaml", alias = "k8s-yaml", hide = true)]
    K8s,
}
