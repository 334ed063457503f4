//! The gate's HTTP side. In: mirrored requests, questions of proxies. Out: proofs for the ledger, verdicts for proxies.
//!
//! Each listener serves one thing. A mirror's listener looks at no path, so a client's own path reaches nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use access::Verdict;
use access::certificate::NoProof;
use access::ended::{Ended, What};
use access::ledger::{Event, Outcome, Proof, Rejection};
use access::{Ban, Evidence, Whom};
use addr::{Addr, Authority, percent_decoded};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::{debug, info, warn};

pub use super::answer::RefusalPage;
use super::answer::{header, text};
pub use super::asked::Cert;
use super::asked::{CHECK, LEARN, Peer, Sign, Unknown, Visitor, holder};
use super::observations::{Observation, is_gateway};
use super::share::guest::{self, LinkRequest};
pub use super::share::guests::Guests;
use super::state::GateState;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket; whoever may open it is a trusted proxy.
    Unix(PathBuf),
}

/// What a listener serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// Any request on any path is a proof for this list.
    Mirror {
        /// The list.
        list: String,
        /// Where the proxy writes whose certificate it was; `None`: nowhere, and the client's own headers say nothing.
        cert: Option<Cert>,
    },
    /// Any request on any path is a question: whoever shows a certificate may pass and is learned.
    Learn {
        /// The list.
        list: String,
        /// Where the proxy writes whose certificate it was.
        cert: Cert,
    },
    /// As Gatekeeper: any request is a proof, except that a proxy's question at `/verify_share_request` is answered.
    Gatekeeper {
        /// The list.
        list: String,
    },
    /// Only `/verify_share_request`.
    Share,
    /// `/v1/check/LIST`, `/v1/learn/LIST` for the lists that learn here, `/metrics`, `/healthz`.
    Check {
        /// The lists that learn here, and where the proxy writes whose certificate it was.
        learn: Vec<(String, Cert)>,
        /// Proxies append the visitor's path to the endpoint's, as Envoy does; it means nothing. Otherwise refused.
        below: bool,
    },
}

/// `X-Gate-User` where nobody is known by name: always said, so that a visitor's own header does not reach the site.
const NOBODY: &str = "-";

impl Listen {
    /// Parses `ADDRESS:PORT`, `:PORT` (every address), or `unix:PATH`.
    ///
    /// # Errors
    /// What was wanted.
    pub fn parse(text: &str) -> Result<Listen, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("`unix:` needs a path".into()) } else { Ok(Listen::Unix(path.into())) };
        }
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_string() };
        full.parse().map(Listen::Tcp).map_err(|_| format!("`{text}` is no ADDRESS:PORT and no unix:PATH"))
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(addr) => addr.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serves {
    /// What it is, in words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Serves::Mirror { list, .. } => format!("mirrored requests for `{list}`"),
            Serves::Learn { list, .. } => format!("certificates for `{list}`"),
            Serves::Gatekeeper { list } => format!("mirrored requests for `{list}` and share links"),
            Serves::Share => "share links".to_string(),
            Serves::Check { .. } => "check endpoint".to_string(),
        }
    }
}

pub(super) async fn answer(
    state: &GateState,
    serves: &Serves,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if let Some(response) = state.strangers(serves, peer, &request) {
        return response;
    }
    let (what, response) = match serves {
        Serves::Mirror { list, cert } => ("mirror", mirror(state, list, *cert, peer, request.headers()).await),
        Serves::Learn { list, cert } => ("learn", learn(state, list, *cert, peer, request.headers()).await),
        // A mirrored request carries the client's own path but never this header: Traefik writes it only when it asks.
        Serves::Gatekeeper { list }
            if request.uri().path() != SHARE_PATH || !request.headers().contains_key(FORWARDED_URI) =>
        {
            ("mirror", mirror(state, list, Some(Cert::Traefik), peer, request.headers()).await)
        }
        Serves::Gatekeeper { .. } | Serves::Share => ("share", share(state, peer, &request).await),
        Serves::Check { learn, below } => check_side(state, learn, *below, peer, &request).await,
    };
    state.answers.count(what, response.status());
    response
}

const SHARE_PATH: &str = "/verify_share_request";
const FORWARDED_URI: &str = "x-forwarded-uri";
/// A mirrored request: its answer goes nowhere, so it says `OK` unless the proof could not be saved.
async fn mirror(
    state: &GateState,
    list: &str,
    cert: Option<Cert>,
    peer: Peer,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    let Some(visitor) = state.brought(peer, headers) else { return text(StatusCode::OK, "OK") };
    // Nobody shows a certificate without TLS. Traefik makes a site of the gate's own container where that is enabled for
    // it, under a name of one word, and everybody can visit that one.
    if in_the_clear(headers) || for_a_container(headers) {
        state.note(Observation::OpenSite(peer));
        return text(StatusCode::OK, "OK");
    }
    // The request itself is the proof; without a name it is somebody's.
    let named = match cert.map(|c| holder(headers, c)).transpose() {
        Ok(named) => named,
        Err(why) => {
            state.no_proof(peer, why);
            if why != NoProof::Absent && state.hides_its_name(list, visitor, why) {
                return text(StatusCode::OK, "OK");
            }
            None
        }
    };
    let (principal, device) = named.map_or((None, None), |h| (Some(h.subject), h.device));
    let proof = Proof { list: list.to_string(), addr: visitor, evidence: Evidence::Mtls, principal, device, ttl: None };
    match state.ledger.submit(Event::Proof(proof)).await {
        Ok(done) => {
            match done.outcome {
                Outcome::Given(id) => info!(peer = %visitor, list, grant = %id, "granted by proof"),
                Outcome::Rejected(why) => state.not_learnt(visitor, why),
                Outcome::Renewed(_) | Outcome::Ended(_) | Outcome::Settled(_) => {}
            }
            text(StatusCode::OK, "OK")
        }
        Err(e) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not saved: {e}\n")),
    }
}

/// Whether the proxy says that its visitor came without TLS; many proxies say nothing.
fn in_the_clear(headers: &HeaderMap) -> bool {
    let said = headers.get_all("x-forwarded-proto").iter().next_back().and_then(|v| v.to_str().ok());
    let last = said.and_then(|v| v.rsplit(',').next()).unwrap_or_default().trim();
    ["http", "ws"].iter().any(|clear| last.eq_ignore_ascii_case(clear))
}

/// Whether the visitor asked for a host of one word, as Traefik calls a container's site unless it is told otherwise. It
/// says which host that was; what proves something came to a name of several words or to an address. The host is taken
/// in its one form, since proxies take `name.` for `name`; one that has none is no site's.
fn for_a_container(headers: &HeaderMap) -> bool {
    let Some(said) = headers.get_all("x-forwarded-host").iter().next_back() else { return false };
    let last = said.to_str().ok().and_then(|v| v.rsplit(',').next()).map(str::trim);
    if last == Some("") {
        return false;
    }
    let Some(Authority { host, .. }) = last.and_then(Authority::parse) else { return true };
    !host.as_str().contains(['.', ':']) && host.as_str() != "localhost"
}

async fn share(state: &GateState, peer: Peer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != SHARE_PATH {
        return text(StatusCode::NOT_FOUND, "");
    }
    let headers = request.headers();
    let refuse = |why: &str, log: bool| {
        if log {
            state.shares.checker.say(|held_back| info!(%peer, why, held_back, "share link refused"));
        }
        text(StatusCode::FORBIDDEN, "")
    };
    let Some(visitor) = state.brought(peer, headers) else { return refuse("it is not known who asks", false) };
    let Some((protocol, service)) = asked_service(request.uri().query().unwrap_or_default()) else {
        return refuse("the middleware's address needs protocol=… and container_name_port=…, each once", true);
    };
    let Some(uri) = headers.get(FORWARDED_URI).and_then(|v| v.to_str().ok()) else {
        return refuse("the proxy sends no X-Forwarded-Uri", true);
    };
    let asked = LinkRequest { protocol: &protocol, service: &service, uri, visitor, headers };
    text(guest::open(state, &asked).await, "")
}

async fn check_side(
    state: &GateState,
    learning: &[(String, Cert)],
    below: bool,
    peer: Peer,
    request: &Request<Incoming>,
) -> (&'static str, Response<Full<Bytes>>) {
    // The query is the visitor's own with some proxies, and so is what stands below a list with others: neither is read.
    let path = request.uri().path();
    for (prefix, what) in [(CHECK, "check"), (LEARN, "learn")] {
        let Some((list, more)) = named(path, prefix) else { continue };
        if more && !below {
            if state.proxies.believes(peer) {
                state.note(Observation::PathBelow(peer, prefix));
            }
            return (what, state.refuse("there is nothing below this list's endpoint"));
        }
        if what == "check" {
            let there = state.ledger.published.borrow().view.id(list).is_some();
            if !there && state.proxies.believes(peer) {
                let all: Vec<String> = state.ledger.model.rules.read().keys().cloned().collect();
                state.note(Observation::NoList(peer, CHECK, shown(list), all.join(", ")));
            }
            return (what, check(state, list, peer, request.headers()));
        }
        let Some((_, cert)) = learning.iter().find(|(l, _)| l == list) else {
            if state.proxies.believes(peer) {
                let all: Vec<&str> = learning.iter().map(|(l, _)| l.as_str()).collect();
                state.note(Observation::NoList(peer, LEARN, shown(list), all.join(", ")));
            }
            return (what, state.refuse("this list does not learn here"));
        };
        return (what, learn(state, list, *cert, peer, request.headers()).await);
    }
    match path {
        "/metrics" => ("metrics", runtime::answer::metrics(super::metrics::text(state))),
        "/healthz" => {
            let trouble = state.ledger.model.trouble.lock().clone();
            let status = if trouble.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let said: String = trouble.values().map(|t| format!("{t}\n")).collect();
            ("healthz", text(status, if said.is_empty() { "ok\n" } else { &said }))
        }
        _ => ("other", text(StatusCode::NOT_FOUND, "there is /v1/check/LIST, /v1/learn/LIST, /metrics and /healthz\n")),
    }
}

/// The list that a path names below an endpoint, and whether more follows. The list is the first segment: what a proxy
/// appends of the visitor's path cannot change it.
pub(super) fn named<'a>(path: &'a str, endpoint: &str) -> Option<(&'a str, bool)> {
    let rest = path.strip_prefix(endpoint)?;
    Some(rest.split_once('/').map_or((rest, false), |(list, more)| (list, !more.is_empty())))
}

/// The name of a list that is not there, which may be a visitor's where a proxy is told to append paths to no list's.
fn shown(list: &str) -> String {
    list.chars().take(64).collect()
}

/// Judges the visitor by the list.
fn check(state: &GateState, list: &str, peer: Peer, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match state.proxies.judged(peer, headers) {
        Ok(v) => v,
        Err(why) => {
            state.note(why.into());
            return state.refuse(&why.to_string());
        }
    };
    state.look_at(&visitor);
    let published = state.ledger.published.borrow().clone();
    let view = &published.view;
    let verdict = view.judge_by(view.id(list), visitor.addr);
    // Anybody can write a header of a CDN: it means something where the address is let in.
    if let Some(sign) = &visitor.second
        && (verdict.is_allow() || *sign == Sign::Entries)
    {
        state.note(Observation::SecondProxy(visitor.addr, sign.clone()));
    }
    let Verdict::Allow(_, prefix) = verdict else {
        return state.refuse(&verdict.in_words(view, visitor.addr).to_string());
    };
    match state.ledger.grant(list, prefix) {
        Some(g) => {
            state.touch(list, visitor.addr);
            let who = g.claim.principal.as_deref().unwrap_or(NOBODY);
            let_in(who, &format!("{} {} {}", g.id, g.claim.evidence, g.prefix))
        }
        None => let_in(NOBODY, &format!("static {prefix}")),
    }
}

/// Learns from a proof inside the request path: the client certificate that the proxy checked.
async fn learn(state: &GateState, list: &str, cert: Cert, peer: Peer, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match state.visitor(peer, headers) {
        Ok(v) => v,
        Err(why) => return state.refuse(&why.to_string()),
    };
    let who = match holder(headers, cert) {
        Ok(holder) => holder,
        Err(why) => {
            state.no_proof(peer, why);
            return state.refuse(&why.to_string());
        }
    };
    // The certificate opens this site, unless a person said that it does not count; whether its address is learned beside
    // is another matter.
    let answer = match state.ledger.banned(list, visitor.addr, &who.subject) {
        Some(whom) => state.refuse(&format!("no proof of {whom} counts")),
        None => let_in(&who.subject, "mtls"),
    };
    let subject = who.subject.clone();
    let Some(addr) = state.learnable(&visitor) else { return answer };
    let proof = Proof {
        list: list.to_string(),
        addr,
        evidence: Evidence::Mtls,
        principal: Some(who.subject),
        device: who.device,
        ttl: None,
    };
    match state.ledger.submit(Event::Proof(proof)).await {
        Ok(done) => match done.outcome {
            Outcome::Given(id) => info!(peer = %addr, list, grant = %id, subject, "granted by proof"),
            Outcome::Rejected(why) => state.not_learnt(addr, why),
            Outcome::Renewed(_) | Outcome::Ended(_) | Outcome::Settled(_) => {}
        },
        // A learner never breaks the site it learns from.
        Err(e) => warn!(peer = %addr, list, subject, err = %e, "cannot grant"),
    }
    answer
}

/// The answer to a proxy for a visitor that may pass. Both headers are always said, so that a visitor's own never reach
/// the site where the proxy copies them.
fn let_in(who: &str, why: &str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, "");
    header(&mut response, "x-gate-user", who);
    header(&mut response, "x-gate-reason", why);
    response
}

impl GateState {
    /// The visitor that a trusted proxy reports; that it reports none is said.
    fn visitor(&self, peer: Peer, headers: &HeaderMap) -> Result<Visitor, Unknown> {
        self.proxies.visitor(peer, headers).inspect_err(|why| self.note((*why).into()))
    }

    /// The address of a visitor whose proof Traefik brings, if it may be learned.
    fn brought(&self, peer: Peer, headers: &HeaderMap) -> Option<Addr> {
        let visitor = self.visitor(peer, headers).ok()?;
        if let (true, Some(hop)) = (self.traefik_by_peer(), visitor.hop) {
            self.note(Observation::HopBeforeTraefik(hop));
        }
        self.learnable(&visitor)
    }

    /// Its address if that may be learned. If not, that is said.
    fn learnable(&self, visitor: &Visitor) -> Option<Addr> {
        self.look_at(visitor);
        if let Some(sign) = &visitor.second {
            self.note(Observation::SecondProxy(visitor.addr, sign.clone()));
            return None;
        }
        Some(visitor.addr)
    }

    /// Whatever becomes of a visitor: behind some addresses everybody may be.
    fn look_at(&self, visitor: &Visitor) {
        if is_gateway(visitor.addr) {
            self.note(Observation::Gateway(visitor.addr));
        } else if visitor.addr.ip().is_loopback() && visitor.addr.bits() & 0xff_ffff == 1 {
            self.note(Observation::Loopback(visitor.addr));
        }
    }

    /// A proof changed nothing.
    fn not_learnt(&self, addr: Addr, why: Rejection) {
        debug!(peer = %addr, %why, "not granted");
        if why == Rejection::Private && !is_gateway(addr) {
            self.note(Observation::PrivateProof(addr));
        }
    }

    /// True if somebody is banned from this list by name: then whoever shows a certificate whose name cannot be read may
    /// be that one, since a client chooses itself whether it sends its CA's along. `explain` says it.
    fn hides_its_name(&self, list: &str, addr: Addr, why: NoProof) -> bool {
        let model = &self.ledger.model;
        let named = |b: &Ban| b.list == list && matches!(b.whom, Whom::Named(_));
        if !model.bans.read().values().any(named) {
            return false;
        }
        debug!(peer = %addr, list, %why, "not granted: names are banned from the list");
        let Some(prefix) = model.rules.read().get(list).map(|r| r.learnt(addr)) else { return true };
        model.ended.write().note(Ended {
            at: model.time.now(),
            list: list.to_string(),
            prefix,
            principal: None,
            evidence: Evidence::Mtls,
            what: What::Refused,
            by: format!("names are banned here, and {why}"),
        });
        true
    }

    /// A certificate's header that proves nothing; that there is none is no news.
    fn no_proof(&self, peer: Peer, why: NoProof) {
        if why != NoProof::Absent {
            self.note(Observation::Certificate(peer, why));
        }
    }

    fn refuse(&self, why: &str) -> Response<Full<Bytes>> {
        debug!(why, "request refused");
        self.refusal.answer(why)
    }
}

/// The protocol and the service of a share question's address, each once: a second one is a visitor's. They choose among
/// configured upstreams, and their link must be alive there.
fn asked_service(query: &str) -> Option<(String, String)> {
    let (mut protocol, mut service) = (None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let to = match name {
            "protocol" => &mut protocol,
            "container_name_port" => &mut service,
            _ => continue,
        };
        if to.replace(String::from_utf8(percent_decoded(value)?).ok()?).is_some() {
            return None;
        }
    }
    Some((protocol?, service?))
}
