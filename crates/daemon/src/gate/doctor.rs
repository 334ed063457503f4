//! What is wrong with a gate and its surroundings, each with the line that mends it. In: what the gate saw since its
//! start, and the answers of sites that the doctor asks as a stranger would: without a certificate, with forged headers.
//! Out: sentences. The stranger teaches nothing: its requests are known by their user agent and only noted.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use model::Addr;
use serde_json::{Value, json};

use super::Gate;
use super::fetch::{Base, fetch_unverified};
use super::intake::{Cert, Desk, Serves, principal, text, visitor};

/// A request of the doctor, and what the gate saw of it.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// Its user agent; nobody else has it.
    agent: String,
    /// The address it pretends to come from: one of documentation (RFC 5737), where nobody lives.
    forged: Addr,
    /// Taken for a proof by this teacher, though it showed no certificate.
    believed: Option<String>,
    /// Its own certificate header was believed.
    named: Option<String>,
    /// Its own address header was believed.
    placed: bool,
}

/// How long a mirrored request may take to arrive after the site's answer.
const ARRIVES: Duration = Duration::from_millis(1_500);
/// How long a site may take to answer the doctor.
const ANSWERS: Duration = Duration::from_secs(5);
const AGENT: &str = "portcullis-doctor/";
const FORGED: &str = "192.0.2.113";

/// Everything that is wrong, as `{"found": [{"what", "fix"}]}`.
pub(super) async fn doctor(gate: &Gate) -> Value {
    let mut found: Vec<(String, String)> = Vec::new();
    own(gate, &mut found);
    names(gate, &mut found);
    found.extend(gate.desk.shares.probe().await.into_iter().map(|(what, fix)| (what, fix.to_string())));
    found.extend(gate.desk.shares.trouble().into_iter().map(|(what, fix)| (what, fix.to_string())));
    heard(&gate.desk, &mut found);
    wide(&gate.desk, &mut found);
    for site in &gate.desk.probes {
        found.extend(probe(&gate.desk, site).await);
    }
    json!({ "found": found.into_iter().map(|(what, fix)| json!({ "what": what, "fix": fix })).collect::<Vec<_>>() })
}

/// The store, the clock, the enforcers.
fn own(gate: &Gate, found: &mut Vec<(String, String)>) {
    let mut add = |what: String, fix: &str| found.push((what, fix.to_string()));
    let picture = &gate.keeper.picture;
    for (part, why) in picture.trouble.lock().iter() {
        add(format!("the {part} does not save: {why}"), "make room on the disk, or make the data directory writable");
    }
    let behind = picture.clock.lock().1;
    if behind > 60 {
        add(
            format!("the clock is {behind} s behind the latest time that was saved"),
            "set the clock (timedatectl set-ntp true); deadlines go on from the saved time meanwhile",
        );
    }
    for e in &gate.desk.enforcers {
        let p = e.progress.lock();
        if let Some(why) = &p.error {
            add(
                format!("{} is not equal to its list: {why}", p.name),
                "the last good state stays; mend the cause, it is tried again by itself",
            );
        }
        for (what, fix) in &p.notes {
            add(format!("{}: {what}", p.name), fix);
        }
        if let Some(remark) = &p.remark {
            let fix = if remark.contains("in place") {
                "mount the directory instead of the single file (`./dyn:/app/dyn`, `--file dyn/dynamic-whitelist.yml`), or accept it"
            } else {
                "see the message; or accept it"
            };
            add(format!("{}: {remark}", p.name), fix);
        }
    }
}

/// Host names without a good answer.
fn names(gate: &Gate, found: &mut Vec<(String, String)>) {
    let names = gate.names.names.lock();
    let hosts: std::collections::BTreeSet<_> = names.follows().iter().map(|f| &f.host).collect();
    for host in hosts {
        let Some(known) = names.known(host) else { continue };
        let Some(why) = &known.failed else { continue };
        let stays = if known.addrs().next().is_some() { "the last good one stays" } else { "nobody is let in by it" };
        found.push((
            format!("{} has no good answer: {why}; {stays}", host.entry()),
            format!("is the name right, and do this machine's name servers know it? ask them: getent ahosts {host}"),
        ));
    }
}

/// What recent requests say of the proxies in front.
fn heard(desk: &Desk, found: &mut Vec<(String, String)>) {
    for what in desk.said.lock().keys() {
        let peer = what.split(' ').next().unwrap_or_default();
        if what.ends_with(" gateway") {
            found.push((
                format!("visitors seem to come from {peer}, a gateway that hides who they are: whoever lets it in lets in everybody behind it"),
                "Docker: publish the proxy's ports with `network_mode: host`, or set \"userland-proxy\": false and turn IPv6 on for its network; take its network out of DEFAULT_SOURCE_RANGE until then".to_string(),
            ));
        } else if what.contains("no trusted proxy") {
            found.push((
                format!("{peer} sends requests and is no trusted proxy"),
                format!("if it is yours: TRUSTED_PROXIES={peer}"),
            ));
        } else if what.contains("sends no X-Forwarded-For") {
            found.push((
                format!("{peer} sends no X-Forwarded-For"),
                "let the proxy in front send it; nobody is learnt without it".to_string(),
            ));
        } else if what.contains("came more than once") || what.contains("no address") {
            found.push((
                format!("{peer} sends an X-Forwarded-For that can not be read: {}", what.split_once(' ').map_or("", |(_, w)| w)),
                "let the proxy in front write the header anew instead of passing the visitor's own on (nginx: proxy_set_header X-Forwarded-For $remote_addr)".to_string(),
            ));
        } else if what.contains("private address") && !peer.parse().is_ok_and(is_gateway) {
            found.push((
                format!("{peer} proved itself and is private, so it was not learnt"),
                "put your own network into DEFAULT_SOURCE_RANGE, or set LEARN_PRIVATE=true".to_string(),
            ));
        }
    }
}

/// Proxies that are believed though anybody may be one of them.
fn wide(desk: &Desk, found: &mut Vec<(String, String)>) {
    for p in desk.trusted.prefixes().iter() {
        // As wide as that are only 10.0.0.0/8 and fc00::/7 of one's own; 0.0.0.0 counts as private, 0.0.0.0/0 does not.
        if p.bits() < 7 || (p.bits() == 7 && !p.first().is_private()) {
            found.push((
                format!("anybody in {p} may say whose address is let in: it is a trusted proxy"),
                "name the proxies themselves: TRUSTED_PROXIES=ADDRESS, or `trusted_proxies` under [gate]".to_string(),
            ));
        }
    }
}

/// Asks a site as a stranger would, and waits for what the gate hears of it.
async fn probe(desk: &Desk, site: &Base) -> Vec<(String, String)> {
    let Ok(forged) = FORGED.parse::<Addr>() else { return Vec::new() };
    let agent = format!("{AGENT}{:032x}", rand::random::<u128>());
    let stranger = Stranger { agent: agent.clone(), forged, believed: None, named: None, placed: false };
    *desk.stranger.lock() = Some(stranger);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("user-agent", agent.as_str()),
        ("x-forwarded-for", FORGED),
        ("x-real-ip", FORGED),
        ("x-gate-cert-subject", "CN=portcullis-doctor"),
        ("x-gate-cert-fp", "00"),
        ("x-forwarded-tls-client-cert-info", "Subject%3D%22CN%3Dportcullis-doctor%22"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let answer = fetch_unverified(site, Method::GET, &site.path, headers, ANSWERS).await;
    if answer.is_ok() {
        tokio::time::sleep(ARRIVES).await;
    }
    let seen = desk.stranger.lock().take();
    let mut found = Vec::new();
    let Some(seen) = seen else { return found };
    if let Some(teacher) = seen.believed {
        found.push((
            format!("{site} takes visitors without a certificate for proven: its {teacher} believed one"),
            "demand it: Traefik `clientAuthType: RequireAndVerifyClientCert` in the router's TLS options, Caddy `mode require_and_verify`, nginx `ssl_verify_client on`".to_string(),
        ));
    }
    if let Some(teacher) = seen.named {
        found.push((
            format!("{site} passes a visitor's own certificate headers on: its {teacher} believed one"),
            "let the proxy write them itself (nginx: proxy_set_header X-Gate-Cert-Subject $ssl_client_s_dn; Caddy: header_up; Traefik: passTLSClientCert before the forwardAuth)".to_string(),
        ));
    }
    if seen.placed {
        found.push((
            format!("{site} passes a visitor's own X-Forwarded-For on: anybody can be anywhere"),
            "Traefik: no `forwardedHeaders.insecure`, and only the proxies in front of it in `trustedIPs`; nginx: proxy_set_header X-Forwarded-For $remote_addr; Caddy: only real proxies in `trusted_proxies`".to_string(),
        ));
    }
    if let Err(e) = answer
        && !certificate_demanded(&e)
    {
        found.push((
            format!("{site} could not be asked: {e:#}"),
            "is the URL right, as seen from the gate?".to_string(),
        ));
    }
    found
}

/// True if the site ended the connection because there was no certificate: what is wanted of it.
fn certificate_demanded(e: &anyhow::Error) -> bool {
    let text = format!("{e:#}").to_ascii_lowercase();
    [
        "certificaterequired",
        "certificate required",
        "handshakefailure",
        "handshake failure",
        "badcertificate",
        "bad certificate",
    ]
    .iter()
    .any(|w| text.contains(w))
}

/// An address that routers and Docker's networks have themselves.
pub(super) fn is_gateway(addr: Addr) -> bool {
    addr.is_v4() && addr.is_private() && addr.bits() & 0xff == 1 && addr.bits() >> 24 != 127
}

impl Desk {
    /// The answer to a request of the doctor's stranger; `None` for everybody else.
    pub(super) fn strangers(
        &self,
        serves: &Serves,
        peer: Addr,
        request: &Request<Incoming>,
    ) -> Option<Response<Full<Bytes>>> {
        let headers = request.headers();
        let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
        if !agent.starts_with(AGENT) {
            return None;
        }
        let mut stranger = self.stranger.lock();
        let s = stranger.as_mut().filter(|s| s.agent == agent)?;
        // Nobody who is not believed proves or places anything.
        if self.trusted.contains(peer) && headers.contains_key("x-forwarded-for") {
            s.placed |= visitor(self, peer, headers) == Ok(s.forged);
            let name = serves.name();
            let forged = |cert: Cert| principal(headers, cert).0.is_some_and(|p| p.contains("portcullis-doctor"));
            match serves {
                Serves::Mirror { cert, .. } => {
                    s.believed = Some(name.clone());
                    if cert.is_some_and(forged) {
                        s.named = Some(name);
                    }
                }
                Serves::Gatekeeper { .. } => s.believed = Some(name),
                Serves::Learn { cert, .. } if forged(*cert) => s.named = Some(name),
                Serves::Check { learn } if request.uri().path().starts_with("/v1/learn/") => {
                    let list = request.uri().path().trim_start_matches("/v1/learn/");
                    if learn.iter().any(|(l, cert)| l == list && forged(*cert)) {
                        s.named = Some(format!("/v1/learn/{list}"));
                    }
                }
                Serves::Learn { .. } | Serves::Check { .. } | Serves::Share => {}
            }
        }
        Some(text(StatusCode::FORBIDDEN, "the doctor was here\n"))
    }
}
