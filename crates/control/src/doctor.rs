//! What is wrong with a running coordination server and its surroundings. In: what it was told, the network now, and what
//! comes of asking the server by the URL that clients are given. Out: symptoms, each with the line that mends it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use addr::Prefix;
use api::{Finding, Part, Severity};
use http::HeaderMap;
use runtime::doctor::{self as host, Symptom};
use runtime::fetch::{Base, Fetch};
use serde::Deserialize;
use tailnet::{RouteState, Snapshot};
use tailnet_proto::stun;
use tokio::net::UdpSocket;

use super::machine::MIN_CAPABILITY_VERSION;
use super::{Control, ControlSettings, ServerUrl};

/// What can be wrong with a coordination server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Its URL does not answer.
    Unreachable {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// Its URL shows a certificate that this system does not trust.
    Untrusted {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// What answers at its URL is no coordination server.
    NoServer {
        /// The URL.
        url: String,
        /// What it answers.
        status: u16,
    },
    /// Another coordination server answers at its URL.
    OtherServer(String),
    /// Its URL does not lead to its relay.
    NoRelay(String),
    /// Nobody answers STUN where clients ask.
    NoStun(String),
    /// Its own certificate has ended or soon does, or is for another name.
    Certificate {
        /// Its file.
        file: PathBuf,
        /// Seconds that it still lasts; below zero it has ended.
        left: i64,
        /// The URL's host, if it is not for that.
        not_for: Option<String>,
    },
    /// A certificate file cannot be read any more.
    NoCertificate(String),
    /// Clients that lost their connection look at port 443, and nobody listens there.
    No443,
    /// A proxy stands in front, and is not trusted.
    UnnamedProxy,
    /// There is no policy.
    NoPolicy,
    /// So many nodes wait for somebody to let them join.
    Waiting(usize),
    /// Routes wait for somebody to approve them.
    Pending {
        /// The first of them, with their nodes.
        first: Vec<(String, Prefix)>,
        /// How many there are.
        all: usize,
    },
    /// Nodes have to log in again, or soon do.
    Expiring {
        /// The first of them.
        first: Vec<String>,
        /// How many there are.
        all: usize,
        /// True if they have to now.
        ended: bool,
    },
}

/// Whoever is asked by the doctor answers within this time, or counts as away.
const WAIT: Duration = Duration::from_secs(5);
/// STUN is one datagram each way; it is asked twice.
const STUN_WAIT: Duration = Duration::from_millis(1_500);
/// Routes and nodes that are named one by one.
const NAMED: usize = 5;
/// Whoever has to log in within this time hears of it now.
const SOON: u64 = 7 * 86_400;
/// Every ACME client renews a certificate before this is left of it.
const RENEWAL: i64 = 14 * 86_400;

/// Everything that is wrong.
pub async fn doctor(control: &Control) -> Vec<Finding> {
    let settings = &control.settings.lock().clone();
    let now = control.state.registry.now();
    let mut found = reached(control, settings).await;
    found.extend(stun(settings).await);
    found.extend(certificate(settings));
    if settings.server_url.needs_443() && !control.addrs.iter().any(|a| a.port() == 443) {
        found.push(Wrong::No443);
    }
    if settings.server_url.tls && settings.tls.is_none() && settings.trusted.is_empty() {
        found.push(Wrong::UnnamedProxy);
    }
    found.extend(members(&now, control.state.registry.time.now()));
    let state =
        host::unsaved(&control.state.registry.trouble).into_iter().chain(host::clock(&control.state.registry.time));
    found.iter().map(Symptom::finding).chain(state.map(|s| s.finding())).collect()
}

/// Asks for the server's key as clients do.
async fn reached(control: &Control, settings: &ControlSettings) -> Vec<Wrong> {
    #[derive(Deserialize)]
    struct Key {
        #[serde(rename = "publicKey")]
        public: String,
    }
    let base = base(&settings.server_url);
    let url = settings.server_url.to_string();
    let path = format!("/key?v={MIN_CAPABILITY_VERSION}");
    // Two keys in JSON are 200 bytes.
    let answer = match Fetch::get(&path, host_header(&settings.server_url)).start_of_body(4_096).send(&base, WAIT).await
    {
        Ok(answer) => answer,
        Err(e) => {
            let refused = e.chain().find_map(net::tls::seen_in);
            let why = format!("{e:#}");
            return vec![match refused {
                Some((_, why)) => Wrong::Untrusted { url, why },
                None => Wrong::Unreachable { url, why },
            }];
        }
    };
    let key = serde_json::from_slice::<Key>(&answer.body);
    match key {
        Ok(key) if key.public == control.state.machine.public().to_string() => {}
        Ok(_) => return vec![Wrong::OtherServer(url)],
        Err(_) => return vec![Wrong::NoServer { url, status: answer.status }],
    }
    if !settings.relay {
        return Vec::new();
    }
    let relay = Fetch::get("/derp/probe", host_header(&settings.server_url)).send(&base, WAIT).await;
    if relay.is_ok_and(|r| r.status == 200) { Vec::new() } else { vec![Wrong::NoRelay(url)] }
}

fn base(url: &ServerUrl) -> Base {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    Base { https: url.tls, host, port: url.port, path: "/".to_string() }
}

/// A usual port stands in no `Host`: some proxies know a site by the bare name alone.
fn host_header(url: &ServerUrl) -> HeaderMap {
    let base = base(url);
    let usual = url.port == if url.tls { 443 } else { 80 };
    let host = if usual { base.host } else { format!("{}:{}", base.host, base.port) };
    host.parse().map(|v| HeaderMap::from_iter([(http::header::HOST, v)])).unwrap_or_default()
}

/// Asks for this machine's address where clients do.
async fn stun(settings: &ControlSettings) -> Option<Wrong> {
    let port = settings.stun.filter(|_| settings.relay)?.port();
    let (host, place) = (settings.server_url.host.as_str(), format!("{}:{port}", settings.server_url.host));
    let asked = async {
        let to: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.ok()?.collect();
        for to in to {
            let from: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
            let socket = UdpSocket::bind(from).await.ok()?;
            for _ in 0..2 {
                let transaction: stun::Transaction = rand::random();
                socket.send_to(&stun::Request { transaction }.encode(), to).await.ok()?;
                let mut answer = [0; stun::RESPONSE_MAX * 2];
                if let Ok(Ok((n, _))) = tokio::time::timeout(STUN_WAIT, socket.recv_from(&mut answer)).await
                    && let Ok(response) = stun::Response::try_from(answer.get(..n).unwrap_or_default())
                    && response.transaction == transaction
                {
                    return Some(());
                }
            }
        }
        None
    };
    asked.await.is_none().then_some(Wrong::NoStun(place))
}

/// The certificate that it was given.
fn certificate(settings: &ControlSettings) -> Option<Wrong> {
    let (file, _) = settings.tls.as_ref()?;
    let name = &settings.server_url.host;
    match net::tls::ends_at(file, Some(name)) {
        Ok((ends, named)) => {
            let left = i64::try_from(ends).unwrap_or(i64::MAX).saturating_sub_unsigned(runtime::wall());
            let not_for = (!named).then(|| name.clone());
            (left < RENEWAL || not_for.is_some()).then(|| Wrong::Certificate { file: file.clone(), left, not_for })
        }
        Err(e) => Some(Wrong::NoCertificate(format!("{e:#}"))),
    }
}

/// What the network waits for.
fn members(s: &Snapshot, now: u64) -> Vec<Wrong> {
    let mut found = Vec::new();
    if !s.has_policy {
        found.push(Wrong::NoPolicy);
    }
    let waiting = s.pending.values().filter(|p| p.waits()).count();
    if waiting > 0 {
        found.push(Wrong::Waiting(waiting));
    }
    let pending: Vec<(String, Prefix)> = s
        .routes()
        .iter()
        .filter(|r| r.state == RouteState::Pending)
        .map(|r| (r.member.node.name.clone(), r.prefix))
        .collect();
    if !pending.is_empty() {
        found.push(Wrong::Pending { all: pending.len(), first: pending.into_iter().take(NAMED).collect() });
    }
    for ended in [true, false] {
        let soon = |at: u64| if ended { at <= now } else { at > now && at <= now.saturating_add(SOON) };
        let who: Vec<String> =
            s.nodes.values().filter(|m| m.node.expires.is_some_and(soon)).map(|m| m.node.name.clone()).collect();
        if !who.is_empty() {
            found.push(Wrong::Expiring { all: who.len(), first: who.into_iter().take(NAMED).collect(), ended });
        }
    }
    found
}

/// `a, b and 3 more`.
fn some(first: &[String], all: usize) -> String {
    let more = all.saturating_sub(first.len());
    let names = first.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Unreachable { url, why } => write!(f, "{url}, where clients go, does not answer this machine: {why}"),
            Wrong::Untrusted { url, why } => {
                write!(f, "{url} shows a certificate that this system does not trust: {why}")
            }
            Wrong::NoServer { url, status } => {
                write!(f, "{url} is answered by something else: {url}/key has status {status} and no key")
            }
            Wrong::OtherServer(url) => write!(f, "{url} leads to another coordination server: its key is not ours"),
            Wrong::NoRelay(url) => {
                write!(f, "{url}/derp/probe does not answer: nodes that do not reach each other have no relay")
            }
            Wrong::NoStun(place) => {
                write!(f, "{place} does not answer STUN (UDP): nodes learn less about how they can reach each other")
            }
            Wrong::Certificate { file, not_for: Some(name), .. } => {
                write!(f, "the certificate {} is not for {name}, where clients go", file.display())
            }
            Wrong::Certificate { file, left, .. } if *left < 0 => {
                write!(f, "the certificate {} has ended: no client trusts it", file.display())
            }
            Wrong::Certificate { file, left, .. } => {
                write!(f, "the certificate {} ends in {} days", file.display(), left / 86_400)
            }
            Wrong::NoCertificate(why) => write!(f, "the certificate cannot be read any more: {why}"),
            Wrong::No443 => f.write_str(
                "clients that lose their connection to a plain http URL come back through port 443 only, and nobody listens there",
            ),
            Wrong::UnnamedProxy => f.write_str(
                "clients come by https through a proxy that is not trusted: each of them counts as the proxy",
            ),
            Wrong::NoPolicy => f.write_str("there is no policy: every node reaches every other one"),
            Wrong::Waiting(n) => write!(f, "{n} node(s) wait for somebody to let them join"),
            Wrong::Pending { first, all } => {
                let routes: Vec<String> = first.iter().map(|(node, p)| format!("{p} of {node}")).collect();
                write!(f, "{all} route(s) wait to be approved: {}", some(&routes, *all))
            }
            Wrong::Expiring { first, all, ended: true } => {
                write!(f, "{all} node(s) are logged out: {}", some(first, *all))
            }
            Wrong::Expiring { first, all, ended: false } => {
                write!(f, "{all} node(s) have to log in again within a week: {}", some(first, *all))
            }
        }
    }
}

impl Symptom for Wrong {
    const PART: Part = Part::Control;

    fn id(&self) -> &'static str {
        match self {
            Wrong::Unreachable { .. } | Wrong::NoServer { .. } | Wrong::OtherServer(_) => "server-url",
            Wrong::Untrusted { .. } | Wrong::Certificate { .. } | Wrong::NoCertificate(_) => "certificate",
            Wrong::NoRelay(_) => "relay",
            Wrong::NoStun(_) => "stun",
            Wrong::No443 => "port-443",
            Wrong::UnnamedProxy => "untrusted-peer",
            Wrong::NoPolicy => "policy",
            Wrong::Waiting(_) => "waiting-nodes",
            Wrong::Pending { .. } => "pending-routes",
            Wrong::Expiring { .. } => "expiry",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Wrong::Unreachable { .. }
            | Wrong::Untrusted { .. }
            | Wrong::NoServer { .. }
            | Wrong::OtherServer(_)
            | Wrong::NoRelay(_)
            | Wrong::NoCertificate(_)
            | Wrong::Certificate { not_for: Some(_), .. } => Severity::Error,
            Wrong::Certificate { left, .. } if *left < 0 => Severity::Error,
            _ => Severity::Warning,
        }
    }

    fn fix(&self) -> String {
        match self {
            Wrong::Unreachable { url, .. } => {
                return format!("does it answer from outside (curl {url}/health)? then only this machine's way to its own name fails, and clients do not mind; else look at the name's record, the firewall, the port forwarding and the proxy");
            }
            Wrong::Untrusted { .. } => "clients refuse it too: get a certificate from a public CA for that name",
            Wrong::NoServer { .. } => "the proxy must pass every path of that name to this server, or `server_url` must be another",
            Wrong::OtherServer(_) => "point the name, or the proxy, at this server",
            Wrong::NoRelay(_) => "the proxy must pass /derp on too, with `Upgrade` and `Connection`",
            Wrong::NoStun(_) => "open UDP for that port in firewall and port forwarding; `stun = \"off\"` if it cannot be",
            Wrong::Certificate { not_for: Some(_), .. } => "give the certificate of that name, or write the name that it is for into `server_url`",
            Wrong::Certificate { .. } => "renew it and restart the server",
            Wrong::NoCertificate(_) => "put it back, or make it readable for the server: the next start fails without it",
            Wrong::No443 => "free port 443 for this server, or use an https URL",
            Wrong::UnnamedProxy => "name the proxy: --trusted-proxies 127.0.0.1, `trusted_proxies` under [control]",
            Wrong::NoPolicy => "`portcullis policy set FILE` puts one in force; the manual's page on policies has some to begin with",
            Wrong::Waiting(_) => "`portcullis nodes list` shows them; `portcullis nodes approve NODE`",
            Wrong::Pending { first, .. } => {
                let one = first.first().map(|(node, p)| format!("{node} {p}")).unwrap_or_default();
                return format!("`portcullis routes approve {one}`, or `autoApprovers` in the policy");
            }
            Wrong::Expiring { ended: true, .. } => "log them in again (`tailscale up` there), or `portcullis nodes delete NODE`",
            Wrong::Expiring { .. } => "log them in again before that: `tailscale up --force-reauth` there",
        }
        .to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_name_one_command() {
        let first = vec![("office".to_string(), "198.51.100.7/32".parse().unwrap())];
        let wrong = Wrong::Pending { first, all: 7 }.finding();
        assert_eq!(wrong.what, "7 route(s) wait to be approved: 198.51.100.7 of office and 6 more");
        assert!(wrong.fix.starts_with("`portcullis routes approve office 198.51.100.7"), "{}", wrong.fix);
        assert_eq!(wrong.severity, Severity::Warning);
    }

    #[test]
    fn a_usual_port_is_not_named() {
        for (url, want) in
            [("https://mesh.example.com", "mesh.example.com"), ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080")]
        {
            let head = host_header(&url.parse().unwrap());
            assert_eq!(head.get("host").unwrap(), want);
        }
    }
}
