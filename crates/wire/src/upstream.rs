//! What a client publishes. In: `http://127.0.0.1:3000`, `app.example.com=http://…`, `2222=host:22`. Out: typed parts.

use std::fmt;

/// One published service: what visitors ask for, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What visitors ask for.
    pub ask: UpstreamAsk,
    /// Where it goes.
    pub to: UpstreamTo,
}

/// What visitors ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAsk {
    /// HTTP requests for this host (lower case, without port; `None`: any) below this path prefix (starts with `/`,
    /// ends with none; empty: any).
    Http {
        /// Host, or any.
        host: Option<String>,
        /// Path prefix, or empty.
        path: String,
    },
    /// Connections to this port of the edge.
    Port(u16),
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTo {
    /// TLS to the upstream (`https://`).
    pub tls: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Ports and ranges of ports: `2222,5432,8000-8100`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRanges(Vec<(u16, u16)>);

impl PortRanges {
    /// Every port from 1.
    #[must_use]
    pub fn all() -> PortRanges {
        PortRanges(vec![(1, u16::MAX)])
    }

    /// True if the port lies in one of the ranges.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(a, b)| (*a..=*b).contains(&port))
    }
}

impl fmt::Display for UpstreamTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}
