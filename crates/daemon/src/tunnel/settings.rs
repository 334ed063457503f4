//! What an edge and a client need to know, resolved: no option is left open for later. In: command line, environment
//! and file, merged by `app`. Out: plain values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use model::AddrSet;
use wire::connect::{EdgeUrl, Fingerprint};
use wire::proxy_line::Version;
use wire::secret::{Secret, TokenHash};
use wire::upstream::{PortRanges, Upstream};

/// The public side.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// Where clients connect.
    pub control: SocketAddr,
    /// Where HTTP visitors connect; `None` for no HTTP plane.
    pub http: Option<SocketAddr>,
    /// Whether and how clients may open TCP ports.
    pub tcp: Option<TcpPlane>,
    /// What clients must prove they know; never empty.
    pub tokens: Vec<TokenHash>,
    /// TLS of the control plane.
    pub tls: EdgeTls,
    /// Proxies whose `X-Forwarded-For`, `Forwarded` or PROXY line is believed.
    pub trusted_proxies: AddrSet,
    /// PROXY line sent to TCP upstreams.
    pub proxy_protocol: Option<Version>,
    /// PROXY line expected from a balancer in front of the TCP ports and the HTTP port.
    pub lb_proxy_protocol: Option<Version>,
    /// How long listeners and waiting visitors survive the loss of their client. 30 s by default.
    pub grace: Duration,
    /// Most visitors at once, all planes together.
    pub max_visitors: usize,
}

/// TCP ports opened for clients.
#[derive(Debug, Clone)]
pub struct TcpPlane {
    /// Address the ports are bound on.
    pub addr: IpAddr,
    /// Ports that clients may open.
    pub allow_ports: PortRanges,
}

/// Who makes the edge's certificate.
#[derive(Debug, Clone)]
pub enum EdgeTls {
    /// None: plain websocket, for behind a proxy that terminates TLS.
    Off,
    /// The edge's own CA, made at the first start and kept in `dir`.
    Auto {
        /// Names and addresses in the certificate.
        sans: Vec<String>,
        /// Where CA, certificate and keys are kept, mode 0700.
        dir: PathBuf,
    },
    /// A certificate chain and key in PEM, read again on reload.
    Own {
        /// Chain, leaf first.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
}

/// The private side.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The edge's control plane.
    pub url: EdgeUrl,
    /// What proves us.
    pub token: Secret,
    /// Why the edge is believed.
    pub trust: Trust,
    /// What is published. Never empty. For a TCP client every entry has a port.
    pub upstreams: Vec<Upstream>,
    /// Parallel multiplexed connections, 1 to 16.
    pub carriers: u8,
    /// One connection for each visitor instead of multiplexing.
    pub demux: bool,
    /// `http://[user:password@]host:port` of a CONNECT proxy, already chosen by `HTTPS_PROXY` and `NO_PROXY`.
    pub proxy: Option<HttpProxy>,
    /// A stable name for this client: a new session with the same id takes over at once. Random by default.
    pub id: Option<String>,
    /// Accept any certificate of `https://` upstreams.
    pub upstream_insecure: bool,
}

/// Why the edge's certificate is believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// `ws://`: nothing is encrypted.
    Plain,
    /// The certificates this system trusts, and those of a PEM file.
    System {
        /// Extra roots.
        ca_file: Option<PathBuf>,
    },
    /// A certificate of the chain has this fingerprint; names are not compared, since the pin names one edge.
    Pin(Fingerprint),
}

/// A CONNECT proxy (RFC 9110, 9.3.6).
#[derive(Debug, Clone)]
pub struct HttpProxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `user:password` for Basic.
    pub credentials: Option<Secret>,
}
