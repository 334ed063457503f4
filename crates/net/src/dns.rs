//! Names to addresses, with how long the answer holds. In: a host name. Out: its A and AAAA records and their time to
//! live, or why there is no answer. The system's name servers are asked, or those that were told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

/// Asks name servers.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

/// One family's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, for so many seconds (the shortest time to live on the way, aliases included).
    Addrs(Vec<IpAddr>, u32),
    /// The name exists and has none of this family, for so many seconds.
    None(u32),
    /// No such name, no answer, or a broken one.
    Failed(String),
}

/// A question is given up after this long; it is put twice.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

impl Resolver {
    /// Asks the name servers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn system() -> anyhow::Result<Resolver> {
        let builder =
            TokioResolver::builder_tokio().context("the system's name servers (/etc/resolv.conf) are not known")?;
        Resolver::of(builder)
    }

    /// Asks these name servers.
    ///
    /// # Errors
    /// None are given.
    pub fn at(servers: &[SocketAddr]) -> anyhow::Result<Resolver> {
        let server = |at: &SocketAddr| {
            let on_port = |mut c: ConnectionConfig| {
                c.port = at.port();
                c
            };
            // A server that was named is believed when it says that there is nothing.
            let ways = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
            NameServerConfig::new(at.ip(), true, ways)
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        Resolver::of(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    }

    fn of(mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>) -> anyhow::Result<Resolver> {
        let options = builder.options_mut();
        // Whoever asks keeps answers himself; a second cache would only make them older.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = LOOKUP_TIMEOUT;
        options.attempts = 2;
        Ok(Resolver(builder.build().context("no name server can be asked")?))
    }

    /// The IPv4 addresses of a full host name.
    pub async fn v4(&self, host: &str) -> Answer {
        self.ask(host, RecordType::A).await
    }

    /// The IPv6 addresses of a full host name.
    pub async fn v6(&self, host: &str) -> Answer {
        self.ask(host, RecordType::AAAA).await
    }

    async fn ask(&self, host: &str, kind: RecordType) -> Answer {
        // With its final dot: no search domain is put behind it.
        let Ok(name) = Name::from_ascii(format!("{}.", host.trim_end_matches('.'))) else {
            return Answer::Failed(format!("`{host}` is no host name"));
        };
        match self.0.lookup(name, kind).await {
            Ok(lookup) => {
                let records = lookup.answers();
                let ttl = records.iter().map(|r| r.ttl).min().unwrap_or(0);
                let addrs: Vec<IpAddr> = records
                    .iter()
                    .filter_map(|r| match &r.data {
                        RData::A(a) => Some(IpAddr::V4(a.0)),
                        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                        _ => None,
                    })
                    .collect();
                if addrs.is_empty() { Answer::None(ttl) } else { Answer::Addrs(addrs, ttl) }
            }
            Err(e) if e.is_nx_domain() => Answer::Failed("there is no such name".to_string()),
            Err(NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none))) => match none.response_code {
                hickory_resolver::proto::op::ResponseCode::NoError => Answer::None(none.negative_ttl.unwrap_or(0)),
                code => Answer::Failed(format!("the name server says {code}")),
            },
            Err(e) => Answer::Failed(e.to_string()),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}
