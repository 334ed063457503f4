//! What is wrong with a running edge and its surroundings. In: its settings, its lists, who is connected, what proxies in
//! front sent. Out: symptoms, each with the line that mends it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use access::Service;
use addr::Addr;
use api::{Finding, Part, Severity};
use net::sockets;
use runtime::doctor::{self as host, Symptom};

use super::super::settings::{EdgeSettings, EdgeTls};
use super::EdgeHandle;

/// What can be wrong with an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody is on a plane's list.
    Nobody {
        /// `control` or `data`.
        plane: &'static str,
        /// Where the list is written.
        source: String,
    },
    /// Visitors can only come from this machine, and no proxy speaks for others.
    Loopback(SocketAddr),
    /// A proxy passes requests on and is not believed.
    UnnamedProxy(Addr),
    /// The control plane is not encrypted, and others than this machine can reach it.
    Plain(SocketAddr),
    /// A given certificate has ended, or soon does.
    Certificate {
        /// Its file.
        file: PathBuf,
        /// Seconds that it still lasts; below zero it has ended.
        left: i64,
    },
    /// A given certificate cannot be read any more.
    NoCertificate(String),
    /// Nobody said what this edge is called.
    NoName,
    /// A name of this edge has no address.
    Unresolved {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// A name of this edge leads to another machine.
    Elsewhere {
        /// The name.
        name: String,
        /// Where it leads.
        to: IpAddr,
    },
    /// Some tokens have a list of their own, and these have none.
    Unguarded(Vec<String>),
    /// Nothing is published.
    NoClient,
}

/// A given certificate is renewed by then, by every tool there is (ACME clients: 30 days before its end).
const RENEWAL: i64 = 14 * 86_400;
/// A client that is there comes back within ten seconds; a person who starts an edge needs longer.
const START: u64 = 60;
/// An edge with fewer visitors at once is one with a small limit of files, not one that was meant to be small.
const FEW_FILES: usize = 8_192;

/// Everything that is wrong.
pub async fn doctor(handle: &EdgeHandle) -> Vec<Finding> {
    let edge = &handle.edge;
    let settings = edge.settings();
    let mut found = lists(handle, &settings);
    let unnamed = *edge.unnamed.lock();
    found.extend(unnamed.filter(|proxy| !settings.trusted_proxies.contains(*proxy)).map(Wrong::UnnamedProxy));
    let fronted = !settings.trusted_proxies.is_empty();
    let control = edge.listening().0;
    if settings.tls == EdgeTls::Off && !control.ip().is_loopback() && !fronted {
        found.push(Wrong::Plain(control));
    }
    match &settings.tls {
        EdgeTls::Own { cert, .. } => found.extend(certificate(cert)),
        EdgeTls::Auto { sans, .. } if sans.is_empty() => found.push(Wrong::NoName),
        EdgeTls::Auto { sans, .. } => found.extend(names(sans).await),
        EdgeTls::Off => {}
    }
    let guarded = |yes: bool| settings.tokens.iter().filter(move |t| t.guarded == yes);
    if guarded(true).next().is_some() && guarded(false).next().is_some() {
        found.push(Wrong::Unguarded(guarded(false).map(|t| t.name.clone()).collect()));
    }
    if edge.table.sessions().is_empty() && runtime::wall().saturating_sub(edge.since.0) > START {
        found.push(Wrong::NoClient);
    }
    let files = host::files((settings.max_visitors + super::FILES_KEPT).min(FEW_FILES));
    found.iter().map(Symptom::finding).chain(files.iter().map(Symptom::finding)).collect()
}

/// Planes that nobody can reach.
fn lists(handle: &EdgeHandle, settings: &EdgeSettings) -> Vec<Wrong> {
    let view = handle.edge.admission.view();
    let guard = |service: &Service| view.guard(service).and_then(|id| view.list(id));
    let mut found = Vec::new();
    for (service, plane) in [(Service::Control, "control"), (Service::Data, "data")] {
        let single = plane == "data"
            && view.guarded().any(|(s, l)| matches!(s, Service::Port(_) | Service::Host(_)) && !l.set.is_empty());
        if let Some(list) = guard(&service).filter(|l| l.set.is_empty() && !single) {
            found.push(Wrong::Nobody { plane, source: list.source.clone() });
        }
    }
    let fronted = !settings.trusted_proxies.is_empty() || settings.lb_proxy_protocol.is_some();
    let at = settings.http.or(settings.tcp.as_ref().map(|t| SocketAddr::new(t.addr, 0)));
    let own = [Addr::new([127, 0, 0, 1].into()), Addr::new(std::net::Ipv6Addr::LOCALHOST.into())];
    let near = guard(&Service::Data).is_some_and(|l| {
        let any_here = l.set.prefixes().iter().any(|p| p.first().is_loopback());
        l.set.is_empty() || any_here || own.iter().any(|a| l.set.contains(*a))
    });
    found.extend(at.filter(|at| at.ip().is_loopback() && !fronted && !near).map(Wrong::Loopback));
    found
}

/// A given certificate.
fn certificate(file: &std::path::Path) -> Option<Wrong> {
    match net::tls::ends_at(file, None) {
        Ok((ends, _)) => {
            let left = i64::try_from(ends).unwrap_or(i64::MAX).saturating_sub_unsigned(runtime::wall());
            (left < RENEWAL).then(|| Wrong::Certificate { file: file.to_path_buf(), left })
        }
        Err(e) => Some(Wrong::NoCertificate(format!("{e:#}"))),
    }
}

/// Names of the edge that lead nowhere, or elsewhere. Where this machine has no public address of its own, a name may well
/// lead to the router in front of it.
async fn names(sans: &[String]) -> Vec<Wrong> {
    let own: Vec<IpAddr> = sockets::own_addresses();
    let public = own.iter().any(|a| !Addr::new(*a).is_private());
    let mut found = Vec::new();
    for name in sans.iter().filter(|s| !s.contains('*') && s.parse::<IpAddr>().is_err()) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Err(e) => found.push(Wrong::Unresolved { name: name.clone(), why: e.to_string() }),
            Ok(all) => {
                let all: Vec<IpAddr> = all.map(|a| a.ip()).collect();
                let ours = all.iter().any(|a| own.contains(a) || a.is_loopback());
                let to = all.first().filter(|_| public && !ours);
                found.extend(to.map(|to| Wrong::Elsewhere { name: name.clone(), to: *to }));
            }
        }
    }
    found
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Nobody { plane: "control", source } => {
                write!(f, "no client can connect: nobody is on the list of the control plane ({source})")
            }
            Wrong::Nobody { source, .. } => write!(f, "no visitor is let in: nobody is on their list ({source})"),
            Wrong::Loopback(at) => write!(
                f,
                "no visitor can come: {} is reached from this machine only, and their list holds no address of it",
                at.ip()
            ),
            Wrong::UnnamedProxy(proxy) => {
                write!(
                    f,
                    "a proxy at {proxy} passes requests on and is not trusted: everybody behind it is judged as {proxy}"
                )
            }
            Wrong::Plain(at) => {
                write!(f, "clients connect to {at} without encryption: on the way their token can be read")
            }
            Wrong::Certificate { file, left } if *left < 0 => {
                write!(f, "the certificate {} has ended: no client trusts it", file.display())
            }
            Wrong::Certificate { file, left } => {
                write!(f, "the certificate {} ends in {} days", file.display(), left / 86_400)
            }
            Wrong::NoCertificate(why) => write!(f, "the certificate cannot be read any more: {why}"),
            Wrong::NoName => f.write_str("this edge does not know what it is called: its connect string is a guess"),
            Wrong::Unresolved { name, why } => {
                write!(f, "{name}, a name of this edge, has no address as this machine sees it: {why}")
            }
            Wrong::Elsewhere { name, to } => {
                write!(f, "{name}, a name of this edge, leads to {to}, which is no address of this machine")
            }
            Wrong::Unguarded(tokens) => write!(
                f,
                "other tokens may be used from their own lists only; these from everywhere: {}",
                tokens.join(", ")
            ),
            Wrong::NoClient => f.write_str("no client is connected: nothing is published"),
        }
    }
}

impl Symptom for Wrong {
    const PART: Part = Part::Edge;

    fn id(&self) -> &'static str {
        match self {
            Wrong::Nobody { .. } => "nobody",
            Wrong::Loopback(_) => "loopback",
            Wrong::UnnamedProxy(_) => "untrusted-peer",
            Wrong::Plain(_) => "plain",
            Wrong::Certificate { .. } | Wrong::NoCertificate(_) => "certificate",
            Wrong::NoName => "no-name",
            Wrong::Unresolved { .. } | Wrong::Elsewhere { .. } => "name",
            Wrong::Unguarded(_) => "token-list",
            Wrong::NoClient => "no-client",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Wrong::Nobody { plane: "control", .. } | Wrong::UnnamedProxy(_) | Wrong::NoCertificate(_) => {
                Severity::Error
            }
            Wrong::Certificate { left, .. } if *left < 0 => Severity::Error,
            _ => Severity::Warning,
        }
    }

    fn fix(&self) -> String {
        match self {
            Wrong::Nobody { .. } => "name who may come: --allow-ips, `allow_ips` in the file; `none` there is meant so",
            Wrong::Loopback(_) => "--data-addr 0.0.0.0, or --trusted-proxies with the proxy in front",
            Wrong::UnnamedProxy(proxy) => {
                return format!("if it is a proxy of yours, add it: --trusted-proxies {proxy}, `trusted_proxies` in the file");
            }
            Wrong::Plain(_) => {
                "leave --auto-tls=false out, or put a proxy with TLS in front: --control-addr 127.0.0.1 --trusted-proxies 127.0.0.1"
            }
            Wrong::Certificate { .. } => "renew it; the edge reads it again by itself",
            Wrong::NoCertificate(_) => "put it back, or make it readable for the edge; until then it goes on with the old one",
            Wrong::NoName => "say its name or address with --auto-tls-san, `auto_tls_san` in the file",
            Wrong::Unresolved { name, .. } => {
                return format!("make the name known (an A or AAAA record), or ask with another resolver: getent ahosts {name}");
            }
            Wrong::Elsewhere { .. } => "set the name's record to this machine, unless something there passes the ports on",
            Wrong::Unguarded(_) => "give them `allow_ips` under [[tokens]] too, [\"all\"] if that is meant",
            Wrong::NoClient => {
                "start one with the connect string that the edge printed; there, `portcullis doctor --connect …` says what is in its way"
            }
        }
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_clients_out_is_an_error_and_what_may_be_meant_a_warning() {
        let nobody = |plane| Wrong::Nobody { plane, source: "edge.toml:3".to_string() }.finding();
        assert_eq!(nobody("control").severity, Severity::Error);
        assert_eq!(nobody("data").severity, Severity::Warning);
        let cert = |left| Wrong::Certificate { file: "/etc/c.pem".into(), left }.finding();
        assert_eq!(cert(-1).severity, Severity::Error);
        assert_eq!(
            (cert(3 * 86_400).severity, cert(3 * 86_400).what.as_str()),
            (Severity::Warning, "the certificate /etc/c.pem ends in 3 days")
        );
    }
}
