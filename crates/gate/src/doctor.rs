//! What is wrong with a gate and its surroundings, each with the line that mends it. In: what the gate saw since its
//! start, and the answers of sites that the doctor asks as a stranger would: without a certificate, with forged headers.
//! Out: findings, each with a name by which the configuration can accept it. The stranger teaches nothing: its requests
//! are known by their user agent and only noted.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use addr::{Addr, AddrSet, Prefix};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::Gate;
use super::asked::{Cert, Peer, holder};
use super::enforce::Remark;
use super::fetch::Base;
use super::heard::Observation;
use super::intake::{Desk, LEARN, Serves, named, text};
use super::probe::{self, Answer};

/// How a gate is configured, for the lines that mend something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told {
    /// By environment variables and flags.
    #[default]
    Environment,
    /// By `[gate]` of a file.
    File,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingId {
    /// The store or the audit log does not save.
    Store,
    /// The clock was set back, or jumped forward.
    Clock,
    /// Something in front is not equal to its list.
    Enforcer,
    /// Advice about something in front.
    EnforcerAdvice,
    /// A file is written in place.
    SingleFileMount,
    /// Each change closes Caddy's streams.
    CaddyStreams,
    /// A followed host name has no good answer.
    Name,
    /// What a followed host name answers does not count.
    NameAddress,
    /// A list is full: somebody left for another, or found no place.
    ListFull,
    /// A share's upstream.
    Share,
    /// [`Observation::UntrustedPeer`].
    UntrustedPeer,
    /// [`Observation::NoAddress`].
    NoAddress,
    /// [`Observation::Unreadable`].
    UnreadableAddress,
    /// [`Observation::SecondProxy`].
    SecondProxy,
    /// [`Observation::Gateway`], [`Observation::Loopback`].
    Gateway,
    /// [`Observation::PrivateProof`].
    PrivateProof,
    /// [`Observation::HopBeforeTraefik`].
    TraefikBehindProxy,
    /// [`Observation::PathBelow`].
    PathBelow,
    /// [`Observation::NoList`].
    NoList,
    /// [`Observation::Certificate`].
    CertificateForm,
    /// [`Observation::Crowded`].
    Crowded,
    /// Anybody may be a trusted proxy.
    WideTrust,
    /// A site takes visitors without a certificate for proven.
    SiteWithoutCertificate,
    /// A site passes a visitor's own certificate headers on.
    SiteCertificateHeader,
    /// A site passes a visitor's own address header on.
    SiteAddressHeader,
    /// A site could not be asked.
    SiteUnreachable,
}

/// Every kind and its name.
const IDS: [(FindingId, &str); 26] = [
    (FindingId::Store, "store"),
    (FindingId::Clock, "clock"),
    (FindingId::Enforcer, "enforcer"),
    (FindingId::EnforcerAdvice, "enforcer-advice"),
    (FindingId::SingleFileMount, "single-file-mount"),
    (FindingId::CaddyStreams, "caddy-streams"),
    (FindingId::Name, "name"),
    (FindingId::NameAddress, "name-address"),
    (FindingId::ListFull, "list-full"),
    (FindingId::Share, "share"),
    (FindingId::UntrustedPeer, "untrusted-peer"),
    (FindingId::NoAddress, "no-address"),
    (FindingId::UnreadableAddress, "unreadable-address"),
    (FindingId::SecondProxy, "second-proxy"),
    (FindingId::Gateway, "gateway"),
    (FindingId::PrivateProof, "private-proof"),
    (FindingId::TraefikBehindProxy, "traefik-behind-proxy"),
    (FindingId::PathBelow, "path-below"),
    (FindingId::NoList, "no-list"),
    (FindingId::CertificateForm, "certificate-form"),
    (FindingId::Crowded, "crowded"),
    (FindingId::WideTrust, "wide-trust"),
    (FindingId::SiteWithoutCertificate, "site-without-certificate"),
    (FindingId::SiteCertificateHeader, "site-certificate-header"),
    (FindingId::SiteAddressHeader, "site-address-header"),
    (FindingId::SiteUnreachable, "site-unreachable"),
];

/// Something wrong.
#[derive(Debug, Clone)]
struct Finding {
    id: FindingId,
    what: String,
    fix: String,
}

/// A request of the doctor, and what the gate saw of it.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// Its user agent; nobody else has it.
    agent: String,
    /// The address it pretends to come from: one of documentation (RFC 5737), where nobody lives.
    forged: Addr,
    /// Taken for a proof by this teacher, though it showed no certificate.
    believed: Option<String>,
    /// A certificate was believed, though it has none.
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
/// A visitor's query, which proxies pass on to the gate: none of it may mean anything there.
const QUERY: &str = "cert=traefik&certificate=traefik&protocol=http&container_name_port=doctor";
/// Trusted prefixes that a line names; longer ones are told as an addition.
const LINE: usize = 12;

/// What followed names answer and no list takes.
fn uncounted(gate: &Gate, found: &mut Vec<Finding>) {
    let names = gate.names.names.lock();
    let rules = gate.keeper.picture.rules.read();
    for f in names.follows() {
        let (Some(known), Some(rules)) = (names.known(&f.host), rules.get(&f.list)) else { continue };
        let fix = format!(
            "which address does the name have outside? ask another name server (DNS_SERVERS, `dns_servers` under [gate]); {} takes in a private one",
            gate.desk().told.range()
        );
        found.extend(known.not_counting(rules).into_iter().map(|why| {
            Finding::new(FindingId::NameAddress, format!("{} on `{}`: {why}", f.host.entry(), f.list), fix.clone())
        }));
    }
}

/// Lists that were too small for those who came.
fn full(gate: &Gate, found: &mut Vec<Finding>) {
    let rooms = gate.keeper.picture.rooms.read();
    let rules = gate.keeper.picture.rules.read();
    for (list, room) in rooms.iter() {
        let Some(rules) = rules.get(list) else { continue };
        let (max, guests) = gate.desk().told.limits();
        if room.evicted + room.refused > 0 {
            let what = format!(
                "`{list}` is too small: since the start {} left it because others came and {} proofs found no place; it holds {} of {}",
                room.evicted,
                room.refused,
                room.proven,
                rules.max.map_or_else(String::new, |m| m.to_string()),
            );
            found.push(Finding::new(
                FindingId::ListFull,
                what,
                format!("raise {max}, or end what nobody needs: `portcullis list show {list}`"),
            ));
        }
        if room.guests_evicted > 0 {
            let what =
                format!("`{list}` has had more guests than it holds: {} left because others came", room.guests_evicted);
            found.push(Finding::new(
                FindingId::ListFull,
                what,
                format!("raise {guests} if they are welcome; they cost nobody else a place"),
            ));
        }
    }
}

/// Everything that is wrong.
pub(super) async fn doctor(gate: &Gate) -> api::Findings {
    let desk = &gate.desk();
    let mut found: Vec<Finding> = Vec::new();
    own(gate, &mut found);
    names(gate, &mut found);
    uncounted(gate, &mut found);
    full(gate, &mut found);
    let shares = desk.shares.probe().await.into_iter().chain(desk.shares.trouble());
    found.extend(shares.map(|(what, fix)| Finding::new(FindingId::Share, what, fix)));
    for o in desk.heard.recent(Instant::now()) {
        found.push(Finding::new(FindingId::from(&o), o.to_string(), mend(desk, &o)));
    }
    wide(desk, &mut found);
    for site in &desk.probes {
        found.extend(ask(desk, site).await);
    }
    let each = found.into_iter().map(|f| api::Finding {
        id: f.id.to_string(),
        what: f.what,
        fix: f.fix,
        accepted: desk.accept.contains(&f.id),
    });
    api::Findings { found: each.collect(), accept: Some(desk.told.accept().to_string()) }
}

impl Finding {
    fn new(id: FindingId, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { id, what: what.into(), fix: fix.into() }
    }
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(IDS.iter().find(|(id, _)| id == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for FindingId {
    type Err = String;

    fn from_str(text: &str) -> Result<FindingId, String> {
        let found = IDS.iter().find(|(_, name)| *name == text).map(|(id, _)| *id);
        let all = || IDS.map(|(_, name)| name).join(", ");
        found.ok_or_else(|| format!("`{text}` is no finding of doctor; there are {}", all()))
    }
}

impl Told {
    /// The whole line that trusts these and one more.
    fn trusting(self, now: &AddrSet, more: Addr) -> String {
        let prefixes = now.prefixes();
        let list: Vec<String> = prefixes.iter().chain([&Prefix::host(more)]).map(ToString::to_string).collect();
        match (self, list.len() > LINE) {
            (Told::Environment, true) => format!("add {more} to TRUSTED_PROXIES"),
            (Told::Environment, false) => format!("TRUSTED_PROXIES={}", list.join(",")),
            (Told::File, true) => format!("add \"{more}\" to trusted_proxies under [gate]"),
            (Told::File, false) => format!("trusted_proxies = [\"{}\"] under [gate]", list.join("\", \"")),
        }
    }

    /// The switches for the most learnt entries and the most guests.
    fn limits(self) -> (&'static str, &'static str) {
        match self {
            Told::Environment => ("MAX_IP_LEN", "MAX_GUESTS"),
            Told::File => ("`max` of the list", "`guests` of the list"),
        }
    }

    /// The switch that always lets addresses in.
    fn range(self) -> &'static str {
        match self {
            Told::Environment => "DEFAULT_SOURCE_RANGE",
            Told::File => "`static` of the list",
        }
    }

    fn excluding(self, hop: Addr) -> String {
        match self {
            Told::Environment => format!("TRAEFIK_EXCLUDED_IPS={hop}"),
            Told::File => format!("excluded_ips = [\"{hop}\"] under [[gate.traefik]]"),
        }
    }

    fn below(self) -> &'static str {
        match self {
            Told::Environment => "--paths-below",
            Told::File => "paths_below = true under [gate]",
        }
    }

    fn certificate(self) -> &'static str {
        match self {
            Told::Environment => "--certificate gate|traefik|traefik-chain",
            Told::File => "`certificate` of the teacher, \"gate\", \"traefik\" or \"traefik-chain\"",
        }
    }

    /// The switch that accepts findings.
    fn accept(self) -> &'static str {
        match self {
            Told::Environment => "DOCTOR_ACCEPT=",
            Told::File => "accept = [\"…\"] under [gate], with ",
        }
    }
}

impl From<&Observation> for FindingId {
    fn from(what: &Observation) -> FindingId {
        match what {
            Observation::UntrustedPeer(_) => FindingId::UntrustedPeer,
            Observation::NoAddress(..) => FindingId::NoAddress,
            Observation::Unreadable(..) => FindingId::UnreadableAddress,
            Observation::SecondProxy(..) => FindingId::SecondProxy,
            Observation::Gateway(_) | Observation::Loopback(_) => FindingId::Gateway,
            Observation::PrivateProof(_) => FindingId::PrivateProof,
            Observation::HopBeforeTraefik(_) => FindingId::TraefikBehindProxy,
            Observation::PathBelow(..) => FindingId::PathBelow,
            Observation::NoList(..) => FindingId::NoList,
            Observation::Certificate(..) => FindingId::CertificateForm,
            Observation::Crowded(_) => FindingId::Crowded,
        }
    }
}

impl From<&Remark> for FindingId {
    fn from(what: &Remark) -> FindingId {
        match what {
            Remark::InPlace { .. } => FindingId::SingleFileMount,
            Remark::ClosesStreams => FindingId::CaddyStreams,
            Remark::LongList { .. } => FindingId::EnforcerAdvice,
        }
    }
}

/// What to do about an observation. No line opens a door to more than it names, and every line that lets somebody in says
/// first what must be true.
pub(super) fn mend(desk: &Desk, what: &Observation) -> String {
    let told = desk.told;
    let trusting = |a: &Addr| told.trusting(&desk.proxies.trusted, *a);
    match what {
        Observation::UntrustedPeer(a) if a.is_private() => format!("if it is a proxy of yours: {}", trusting(a)),
        Observation::UntrustedPeer(a) => format!(
            "if it is not a proxy of yours, strangers reach this port: listen on an address that only your proxies reach; if it is: {}",
            trusting(a)
        ),
        Observation::NoAddress(_, header) => {
            format!("let the proxy write it (nginx: proxy_set_header {} $remote_addr)", header.name())
        }
        Observation::Unreadable(..) => "let the proxy in front write the header anew instead of passing the visitor's own on (nginx: proxy_set_header X-Forwarded-For $remote_addr)".to_string(),
        Observation::SecondProxy(a, _) if desk.proxies.trusted.contains(*a) => format!(
            "let it write its visitors' addresses into {0}, and the proxy behind it keep them (Traefik: forwardedHeaders.trustedIPs: [\"{a}\"]); keep it out of {1}",
            desk.proxies.header.name(),
            told.range()
        ),
        Observation::SecondProxy(a, _) => format!(
            "if it is a proxy of yours or of your provider, name it, and let the proxy behind it trust it too (Traefik: forwardedHeaders.trustedIPs): {}; if it is not, its visitor wrote the header: let your proxy write it anew",
            trusting(a)
        ),
        Observation::Gateway(_) => format!(
            "Docker: publish the proxy's ports with `network_mode: host`, or set \"userland-proxy\": false and turn IPv6 on for its network; take its network out of {} until then",
            told.range()
        ),
        Observation::Loopback(_) => format!(
            "let the tunnel pass the visitor's address on and the proxy trust it for that; keep loopback out of {}",
            told.range()
        ),
        Observation::PrivateProof(a) => private(desk, *a),
        Observation::HopBeforeTraefik(a) => {
            format!("{}, or ask the check endpoint with trustForwardHeader: true", told.excluding(*a))
        }
        Observation::PathBelow(..) => format!("if it is Envoy or does the same: {}", told.below()),
        Observation::NoList(_, endpoint, _, there) if there.is_empty() => {
            format!("no list learns at {endpoint}: `[[gate.learn]]` with its name makes one do so")
        }
        Observation::NoList(_, endpoint, _, there) => format!("ask for one of these: {endpoint}{}", there.replace(", ", &format!(", {endpoint}"))),
        Observation::Certificate(..) => {
            format!("let the proxy write it as the manual shows; which header counts: {}", told.certificate())
        }
        Observation::Crowded(_) => {
            "if it is a proxy of yours, let it keep connections open instead of making new ones".to_string()
        }
    }
}

/// A private address without a sign of others behind it: a device, or a proxy that hides them.
fn private(desk: &Desk, addr: Addr) -> String {
    let range = desk.told.range();
    let docker = addr.is_v4() && addr.bits() >> 20 == (172 << 24 | 16 << 16) >> 20;
    if docker {
        return format!(
            "this is an address of containers: if a proxy or a tunnel has it, everybody comes from there, so keep it out of {range} and let it pass visitors' addresses on; only if it is one device of yours add {addr} there"
        );
    }
    format!(
        "only if one device of yours has this address, and no proxy, tunnel or router through which others come: add {addr} to {range}"
    )
}

/// The store, the clock, the enforcers.
fn own(gate: &Gate, found: &mut Vec<Finding>) {
    let mut add = |id, what: String, fix: &str| found.push(Finding::new(id, what, fix));
    let picture = &gate.keeper.picture;
    for (part, why) in picture.trouble.lock().iter() {
        add(
            FindingId::Store,
            format!("the {part} does not save: {why}"),
            "make room on the disk, or make the data directory writable",
        );
    }
    if let Some(jump) = picture.time.jump() {
        add(
            FindingId::Clock,
            format!(
                "the clock is {} h ahead of the time that deadlines go by, since less than ten minutes",
                jump.by / 3_600
            ),
            "is it right? then nothing is to be done: it counts when it has lasted; else set it (timedatectl set-ntp true)",
        );
    }
    let behind = picture.time.behind();
    if behind > 60 {
        add(
            FindingId::Clock,
            format!("the clock is {behind} s behind the latest time that was saved"),
            "set the clock (timedatectl set-ntp true); deadlines go on from the saved time meanwhile. If the clock is right and the saved time is not: portcullis clock reset",
        );
    }
    for e in &gate.desk().enforcers {
        let p = e.progress.lock();
        if let Some(why) = &p.error {
            add(
                FindingId::Enforcer,
                format!("{} is not equal to its list: {why}", e.info.name),
                "the last good state stays; mend the cause, it is tried again by itself",
            );
        }
        for remark in &p.remarks {
            add(remark.into(), format!("{}: {remark}", e.info.name), &remark.fix());
        }
    }
}

/// Host names without a good answer.
fn names(gate: &Gate, found: &mut Vec<Finding>) {
    let names = gate.names.names.lock();
    let hosts: std::collections::BTreeSet<_> = names.follows().iter().map(|f| &f.host).collect();
    for host in hosts {
        let Some(known) = names.known(host) else { continue };
        let Some(why) = &known.failed else { continue };
        let stays = if known.addrs().next().is_some() { "the last good one stays" } else { "nobody is let in by it" };
        found.push(Finding::new(
            FindingId::Name,
            format!("{} has no good answer: {why}; {stays}", host.entry()),
            format!("is the name right, and do this machine's name servers know it? ask them: getent ahosts {host}"),
        ));
    }
}

/// True of a prefix in which anybody may have an address: as wide as that are only 10.0.0.0/8 and fc00::/7 of one's own.
/// 0.0.0.0 counts as private, 0.0.0.0/0 does not.
#[must_use]
pub fn holds_strangers(p: Prefix) -> bool {
    p.bits() < 7 || (p.bits() == 7 && !p.first().is_private())
}

/// Proxies that are believed though anybody may be one of them.
fn wide(desk: &Desk, found: &mut Vec<Finding>) {
    for p in desk.proxies.trusted.prefixes().iter() {
        if holds_strangers(*p) {
            found.push(Finding::new(
                FindingId::WideTrust,
                format!("anybody in {p} may say whose address is let in: it is a trusted proxy"),
                "name the proxies themselves: TRUSTED_PROXIES=ADDRESS, or `trusted_proxies` under [gate]",
            ));
        }
    }
}

/// Asks a site as a stranger would, and waits for what the gate hears of it.
async fn ask(desk: &Desk, site: &Base) -> Vec<Finding> {
    let Ok(forged) = FORGED.parse::<Addr>() else { return Vec::new() };
    let agent = format!("{AGENT}{:032x}", rand::random::<u128>());
    let stranger = Stranger { agent: agent.clone(), forged, believed: None, named: None, placed: false };
    *desk.stranger.lock() = Some(stranger);
    let forwarded = format!("for={FORGED}");
    let headers = [
        ("User-Agent", agent.as_str()),
        ("X-Forwarded-For", FORGED),
        ("Forwarded", forwarded.as_str()),
        ("X-Real-IP", FORGED),
        ("X-Gate-Cert-Subject", "CN=portcullis-doctor"),
        ("X-Gate-Cert-Fp", "00"),
        ("X-Forwarded-Tls-Client-Cert-Info", "Subject%3D%22CN%3Dportcullis-doctor%22%3BSerialNumber%3D%220%22"),
    ];
    let path = format!("{}{}{QUERY}", site.path, if site.path.contains('?') { '&' } else { '?' });
    let answer = probe::ask(site, &path, &headers, ANSWERS).await;
    if matches!(answer, Answer::Answered) {
        tokio::time::sleep(ARRIVES).await;
    }
    let seen = desk.stranger.lock().take();
    let mut found = Vec::new();
    let Some(seen) = seen else { return found };
    if let Some(teacher) = seen.believed {
        found.push(Finding::new(
            FindingId::SiteWithoutCertificate,
            format!("{site} takes visitors without a certificate for proven: its {teacher} believed one"),
            "demand it: Traefik `clientAuthType: RequireAndVerifyClientCert` in the router's TLS options, Caddy `mode require_and_verify`, nginx `ssl_verify_client on`",
        ));
    }
    if let Some(teacher) = seen.named {
        found.push(Finding::new(
            FindingId::SiteCertificateHeader,
            format!("{site} passes a visitor's own certificate headers on: its {teacher} believed one"),
            "let the proxy write them itself (nginx: proxy_set_header X-Gate-Cert-Subject $ssl_client_s_dn; Caddy: header_up; Traefik: passTLSClientCert before the forwardAuth)",
        ));
    }
    if seen.placed {
        found.push(Finding::new(
            FindingId::SiteAddressHeader,
            format!("{site} passes a visitor's own {} on: anybody can be anywhere", desk.proxies.header.name()),
            "Traefik: no `forwardedHeaders.insecure`, and only the proxies in front of it in `trustedIPs`; nginx: proxy_set_header X-Forwarded-For $remote_addr; Caddy: only real proxies in `trusted_proxies`",
        ));
    }
    if let Answer::Nothing(e) = answer {
        found.push(Finding::new(
            FindingId::SiteUnreachable,
            format!("{site} could not be asked: {e:#}"),
            "is the URL right, as seen from the gate?",
        ));
    }
    found
}

impl Desk {
    /// The answer to a request of the doctor's stranger; `None` for everybody else.
    pub(super) fn strangers(
        &self,
        serves: &Serves,
        peer: Peer,
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
        if let Ok(visitor) = self.proxies.visitor(peer, headers) {
            s.placed |= visitor.addr == s.forged;
            let name = serves.name();
            // The stranger has no certificate: whoever it is taken for is a mistake.
            let taken = |cert: Cert| holder(headers, cert).is_ok();
            match serves {
                Serves::Mirror { cert, .. } => {
                    s.believed = Some(name.clone());
                    if cert.is_some_and(taken) {
                        s.named = Some(name);
                    }
                }
                Serves::Gatekeeper { .. } => s.believed = Some(name),
                Serves::Learn { cert, .. } if taken(*cert) => s.named = Some(name),
                Serves::Check { learn, .. } => {
                    let list = named(request.uri().path(), LEARN).map(|(list, _)| list);
                    if learn.iter().any(|(l, cert)| list == Some(l.as_str()) && taken(*cert)) {
                        s.named = Some(format!("{LEARN}{}", list.unwrap_or_default()));
                    }
                }
                Serves::Learn { .. } | Serves::Share => {}
            }
        }
        Some(text(StatusCode::FORBIDDEN, "the doctor was here\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for (id, name) in IDS {
            assert_eq!((name.parse(), id.to_string().as_str()), (Ok(id), name));
        }
        assert!("nonsense".parse::<FindingId>().unwrap_err().contains("single-file-mount"));
    }

    #[test]
    fn the_line_that_trusts_one_more_keeps_the_others() {
        let now = AddrSet::new(["172.16.0.0/12".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        let more = "173.245.48.5".parse().unwrap();
        let line = Told::Environment.trusting(&now, more);
        assert!(
            line.starts_with("TRUSTED_PROXIES=") && line.contains("172.16.0.0/12") && line.contains("173.245.48.5")
        );
        assert!(Told::File.trusting(&now, more).contains("trusted_proxies = ["));
    }
}
