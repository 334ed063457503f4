//! Flags of an edge: `http server`, `tcp server`, `server`, `serve`. One definition for all four.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use access::visitor::AddressHeader;
use clap::Args;
use tunnel_proto::proxy_line::Version as ProxyVersion;
use tunnel_proto::upstream::PortRanges;

use super::{TokenArgs, values};

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// The edge's TOML file; flags and variables count before it
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Say whether the file is good, and start nothing
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) inlets: super::inlets::InletsArgs,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where to listen")]
pub(crate) struct ListenArgs {
    /// Port of the HTTP plane, for visitors [default: 8000]
    #[arg(long, short = 'p', value_name = "PORT", env = "PORTCULLIS_PORT")]
    pub(crate) port: Option<u16>,
    /// Port of the control plane, for clients [default: 8123; `server`: 8001]
    #[arg(long, short = 'c', value_name = "PORT", env = "PORTCULLIS_CONTROL_PORT")]
    pub(crate) control_port: Option<u16>,
    /// Address of the control plane [default: every address, IPv4 and IPv6]
    #[arg(long, value_name = "ADDRESS", env = "PORTCULLIS_CONTROL_ADDR", value_parser = values::bind_addr)]
    pub(crate) control_addr: Option<IpAddr>,
    /// Address of the data plane, HTTP and TCP [default: every address, IPv4 and IPv6]
    #[arg(long, value_name = "ADDRESS", env = "PORTCULLIS_DATA_ADDR", value_parser = values::bind_addr, alias = "listen-data")]
    pub(crate) data_addr: Option<IpAddr>,
    /// TCP ports that clients may open, such as 2222,8000-8100, `all` or `none` [default: `all` for `tcp server`, otherwise `none`]
    #[arg(long, value_name = "PORTS", env = "PORTCULLIS_ALLOW_PORTS")]
    pub(crate) allow_ports: Option<PortRanges>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Encryption of the control plane")]
pub(crate) struct TlsArgs {
    /// Make a CA and a certificate, and keep them; false for behind a proxy that terminates TLS [default: true; `server`: false]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_AUTO_TLS", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) auto_tls: Option<bool>,
    /// Public name or address of this edge, for its certificate and connect string; repeatable
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_AUTO_TLS_SAN", value_delimiter = ',', aliases = ["auto-tls-name", "common-name"])]
    pub(crate) auto_tls_san: Vec<String>,
    /// Folder of that CA and certificate [default: tls-<control port> in the data directory]
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_AUTO_TLS_PATH")]
    pub(crate) auto_tls_path: Option<PathBuf>,
    /// Own certificate chain in PEM, leaf first; takes the place of --auto-tls
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert in PEM
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Who may come")]
pub(crate) struct ListArgs {
    /// Both planes: addresses, prefixes, ranges, @FILE, dns:NAME, `list:NAME` of a gate in this process, `all`, `none`; repeatable [default: 0.0.0.0/0,::/0]
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_ALLOW_IPS")]
    pub(crate) allow_ips: Vec<String>,
    /// Clients, instead of --allow-ips
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_ALLOW_IPS_CONTROL")]
    pub(crate) allow_ips_control: Vec<String>,
    /// Visitors, instead of --allow-ips
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_ALLOW_IPS_DATA")]
    pub(crate) allow_ips_data: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "In front and behind")]
pub(crate) struct FrontArgs {
    /// Proxies in front whose X-Forwarded-For, Forwarded or PROXY line is believed: addresses, prefixes, @FILE [default: none; with --lb-proxy-protocol, PROXY lines from loopback and private addresses]
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_TRUSTED_PROXIES")]
    pub(crate) trusted_proxies: Vec<String>,
    /// The one header in which those proxies name the visitor: x-forwarded-for or forwarded; the other is removed [default: x-forwarded-for]
    #[arg(long, value_name = "HEADER", env = "PORTCULLIS_TRUSTED_HEADER")]
    pub(crate) trusted_header: Option<AddressHeader>,
    /// Header in which those proxies say who is logged in, such as remote-user; from others, and unless named here, all of its kind are removed; repeatable, comma lists [default: none]
    #[arg(long, value_name = "HEADER", env = "PORTCULLIS_TRUSTED_IDENTITY", value_delimiter = ',')]
    pub(crate) trusted_identity: Vec<String>,
    /// PROXY line sent to TCP upstreams, v1 or v2 [default: none]
    #[arg(long, value_name = "VERSION", env = "PORTCULLIS_PROXY_PROTOCOL", value_parser = proxy_version)]
    pub(crate) proxy_protocol: Option<ProxyLine>,
    /// PROXY line expected from a balancer in front of the data plane, v1 or v2 [default: none]
    #[arg(long, value_name = "VERSION", env = "PORTCULLIS_LB_PROXY_PROTOCOL", value_parser = proxy_version)]
    pub(crate) lb_proxy_protocol: Option<ProxyLine>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits and service")]
pub(crate) struct LimitArgs {
    /// How long listeners and waiting visitors survive the loss of their client, such as 30s [default: 30s]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_GRACE", value_parser = values::duration)]
    pub(crate) grace: Option<Duration>,
    /// Most visitors at once [default: 65536]
    #[arg(long, value_name = "NUMBER", env = "PORTCULLIS_MAX_VISITORS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_visitors: Option<u32>,
    /// Most visitors of one address (IPv6: one /64) at once; proxies and balancers in front are not counted [default: a quarter of --max-visitors]
    #[arg(long, value_name = "NUMBER", env = "PORTCULLIS_MAX_VISITORS_PER_SOURCE", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_visitors_per_source: Option<u32>,
    /// How long a visitor of the HTTP plane may take nothing of an answer before it is ended, such as 60s [default: 60s]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_STALL_TIMEOUT", value_parser = values::duration)]
    pub(crate) stall_timeout: Option<Duration>,
    /// How long connections may go on after a stop, such as 10s [default: 10s]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_DRAIN", value_parser = values::duration)]
    pub(crate) drain: Option<Duration>,
    /// Print a systemd unit for this command instead of running it
    #[arg(long, value_name = "KIND")]
    pub(crate) generate: Option<super::client::Generate>,
    /// Accepted for old scripts; headers are passed on as they are in any case
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) disable_transport_wrapping: Option<bool>,
}

/// `--proxy-protocol ''` means none, as inlets writes its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyLine(pub(crate) Option<ProxyVersion>);

pub(crate) fn proxy_version(text: &str) -> Result<ProxyLine, String> {
    match text {
        "v1" => Ok(ProxyLine(Some(ProxyVersion::V1))),
        "v2" => Ok(ProxyLine(Some(ProxyVersion::V2))),
        "" | "none" => Ok(ProxyLine(None)),
        _ => Err("wanted `v1` or `v2`".to_string()),
    }
}
