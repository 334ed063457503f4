//! What an edge and a client need to know, resolved: no option is left open for later. In: command line, environment
//! and file, merged by `app`. Out: plain values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use access::visitor::AddressHeader;
use addr::AddrSet;
use net::secret::{Secret, TokenHash};
use tunnel_proto::connect::{EdgeUrl, Fingerprint};
use tunnel_proto::http1::forwarded::IdentityFields;
use tunnel_proto::proxy_line::Version;
use tunnel_proto::upstream::{PortRanges, Upstream};

/// The public side.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// Where clients connect.
    pub control: SocketAddr,
    /// Where HTTP visitors connect; `None` for no HTTP plane.
    pub http: Option<SocketAddr>,
    /// Whether and how clients may open TCP ports.
    pub tcp: Option<TcpPlane>,
    /// What clients must prove they know, and what each gives them; never empty.
    pub tokens: Vec<EdgeToken>,
    /// TLS of the control plane.
    pub tls: EdgeTls,
    /// Proxies whose `X-Forwarded-For`, `Forwarded` or PROXY line is believed.
    pub trusted_proxies: AddrSet,
    /// The one header in which they name the visitor.
    pub trusted_header: AddressHeader,
    /// Fields in which they say who is logged in.
    pub identity_fields: IdentityFields,
    /// How long a visitor may take nothing of its answer before the answer is ended; not zero.
    pub stall: Duration,
    /// PROXY line sent to TCP upstreams.
    pub proxy_protocol: Option<Version>,
    /// PROXY line expected from a balancer in front of the TCP ports and the HTTP port.
    pub lb_proxy_protocol: Option<Version>,
    /// How long listeners and waiting visitors survive the loss of their client. 30 s by default.
    pub grace: Duration,
    /// Most visitors at once, all planes together.
    pub max_visitors: usize,
    /// Most visitors of one source at once; proxies and balancers that are believed are not counted.
    pub max_visitors_per_source: usize,
}

/// A token of an edge.
#[derive(Debug, Clone)]
pub struct EdgeToken {
    /// What people call it.
    pub name: String,
    /// What proves it.
    pub hash: TokenHash,
    /// What its clients may publish.
    pub rights: Rights,
    /// A list `token:NAME` says from where its clients may come.
    pub guarded: bool,
}

/// What clients of a token may publish. `None`: whatever the edge allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Hosts and paths.
    pub hosts: Option<Vec<Site>>,
    /// TCP ports.
    pub ports: Option<PortRanges>,
}

/// A host and what lies below a path of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Lower case, without a port; `*.example.com` for all names below, empty for every host.
    pub host: String,
    /// Starts with `/` and ends with none, or is empty.
    pub path: String,
}

impl EdgeToken {
    /// One that may do everything.
    #[must_use]
    pub fn all(name: &str, hash: TokenHash) -> EdgeToken {
        EdgeToken { name: name.to_string(), hash, rights: Rights::default(), guarded: false }
    }
}

impl Site {
    /// True if everything of this host below this path is part of it.
    #[must_use]
    pub fn holds(&self, host: &str, path: &str) -> bool {
        let by_host = match self.host.strip_prefix('*') {
            Some(below) => host.len() > below.len() && host.ends_with(below),
            None => self.host.is_empty() || self.host == host,
        };
        by_host
            && path
                .strip_prefix(self.path.as_str())
                .is_some_and(|r| self.path.is_empty() || r.is_empty() || r.starts_with('/'))
    }

    /// True if it names a part of this site, and not all of it.
    #[must_use]
    pub fn is_narrower_than(&self, host: &str, path: &str) -> bool {
        let site = Site { host: host.to_string(), path: path.to_string() };
        !self.host.is_empty() && site != *self && site.holds(&self.host, &self.path)
    }
}

impl FromStr for Site {
    type Err = String;

    /// Reads `app.example.com`, `app.example.com/api`, `*.example.com`, or `*` for every host.
    fn from_str(text: &str) -> Result<Site, String> {
        let text = text.trim();
        let (host, path) = text.find('/').map_or((text, ""), |i| (&text[..i], text[i..].trim_end_matches('/')));
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host == "*" {
            return Ok(Site { host: String::new(), path: path.to_string() });
        }
        let name = host.strip_prefix("*.").unwrap_or(&host);
        let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !name.split('.').all(label) || path.bytes().any(|b| !b.is_ascii_graphic() || b"?#".contains(&b)) {
            return Err(format!(
                "`{text}` is not a host; write `app.example.com`, `app.example.com/api`, `*.example.com` or `*`"
            ));
        }
        Ok(Site { host, path: path.to_string() })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.host.is_empty() { "*" } else { &self.host }, self.path)
    }
}

/// TCP ports opened for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpPlane {
    /// Address the ports are bound on.
    pub addr: IpAddr,
    /// Ports that clients may open.
    pub allow_ports: PortRanges,
}

/// Who makes the edge's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// How `https://` upstreams are believed.
    pub upstream_tls: UpstreamTls,
}

/// Why certificates of `https://` upstreams are believed.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// Any certificate is.
    pub insecure: bool,
    /// Besides this system's CAs, those of this PEM file; a certificate that stands in it itself is believed too.
    pub ca_file: Option<PathBuf>,
    /// The name that is asked for and must stand in the certificate, instead of the upstream's host.
    pub server_name: Option<String>,
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
