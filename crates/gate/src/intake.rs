//! The gate's HTTP side. In: mirrored requests, questions of proxies. Out: proofs for the keeper, verdicts for proxies.
//!
//! Each listener serves one thing. A mirror's listener looks at no path, so a client's own path reaches nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::Verdict;
use access::certificate::NoProof;
use access::ended::{Ended, What};
use access::ledger::{Event, Outcome, Proof, Refusal};
use access::{Ban, Evidence, Whom};
use addr::{Addr, percent_decoded};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use net::serve::Slots;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use super::asked::Cert;
use super::asked::{Peer, Proxies, Sign, Unknown, Visitor, holder};
use super::doctor::{FindingId, Stranger, Told};
use super::enforce;
use super::fetch::Base;
use super::heard::{Heard, Observation, is_gateway};
use super::keeper::Keeper;
use super::share::Shares;
use super::share::guest::{self, Asked};

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
    /// Any request on any path is a question: whoever shows a certificate may pass and is learnt.
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

/// Where the guests of a share go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guests {
    /// The list they enter.
    pub list: String,
    /// Seconds they stay.
    pub ttl: u64,
}

/// What all listeners share.
#[derive(Debug)]
pub struct Desk {
    /// The keeper.
    pub keeper: Keeper,
    /// Which proxies are believed.
    pub proxies: Proxies,
    /// What a refused visitor gets.
    pub refusal: RefusalPage,
    /// How this gate was configured, for the lines that mend something.
    pub told: Told,
    /// Findings that `doctor` does not count.
    pub accept: std::collections::BTreeSet<FindingId>,
    /// A Traefik in front judges who connects to it, whatever proxies say.
    pub traefik_by_peer: bool,
    /// Share links.
    pub shares: Arc<Shares>,
    /// For each share, where its guests go, in the order of the shares.
    pub guests: Vec<Guests>,
    /// Enforcers that a share waits for.
    pub enforcers: Vec<enforce::Handle>,
    /// Answers to new guests that wait for enforcers.
    pub waiting: Arc<Slots>,
    /// The process stops: nothing is waited for any more.
    pub stopping: CancellationToken,
    /// Sites that `doctor` asks as a stranger would.
    pub probes: Vec<Base>,
    /// The stranger of a doctor at work, and what became of it.
    pub stranger: Arc<Mutex<Option<Stranger>>>,
    /// Host names that lists follow.
    pub names: Arc<Mutex<access::names::Names>>,
    /// Signs of life said lately, so that a busy client costs one event a minute.
    pub touched: Arc<Mutex<std::collections::HashMap<(String, Addr), Instant>>>,
    /// What requests said of the surroundings.
    pub heard: Arc<Heard>,
    /// Answers by status, for metrics.
    pub answers: Arc<Mutex<std::collections::BTreeMap<(&'static str, u16), u64>>>,
}

/// `X-Gate-User` where nobody is known by name: always said, so that a visitor's own header does not reach the site.
const NOBODY: &str = "-";

/// What the check and learn endpoints answer where nobody is let in. Proxies hand it to the visitor, so it says nothing
/// of lists unless it is told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalPage {
    /// The status, 400 to 499; with a redirect 302.
    pub status: StatusCode,
    /// The body; HTML if it starts with `<`.
    pub body: String,
    /// Where a visitor is sent instead.
    pub redirect: Option<HeaderValue>,
    /// Say the reason in `X-Gate-Reason`.
    pub reason: bool,
}

impl Default for RefusalPage {
    fn default() -> RefusalPage {
        RefusalPage { status: StatusCode::FORBIDDEN, body: "refused\n".to_string(), redirect: None, reason: false }
    }
}

impl RefusalPage {
    /// A page from what a person wrote.
    ///
    /// # Errors
    /// What was wanted.
    pub fn new(
        status: Option<u16>,
        body: Option<String>,
        to: Option<&str>,
        reason: bool,
    ) -> Result<RefusalPage, String> {
        let plain = RefusalPage { reason, ..RefusalPage::default() };
        let redirect = match to {
            None => None,
            Some(to) => {
                let absolute = to.starts_with("https://") || to.starts_with("http://");
                let value = HeaderValue::from_str(to).ok().filter(|_| absolute && to.is_ascii() && !to.contains(' '));
                Some(
                    value.ok_or_else(|| {
                        format!("`{to}` is no place to send a visitor to: it needs https:// or http://")
                    })?,
                )
            }
        };
        if redirect.is_some() && status.is_some() {
            return Err("a redirect is answered with 302: leave the status out".to_string());
        }
        let status = match status {
            None if redirect.is_some() => StatusCode::FOUND,
            None => plain.status,
            Some(n) => StatusCode::from_u16(n)
                .ok()
                .filter(StatusCode::is_client_error)
                .ok_or_else(|| format!("{n} is no status for a refusal: it needs 400 to 499"))?,
        };
        Ok(RefusalPage { status, body: body.unwrap_or(plain.body), redirect, reason })
    }

    fn answer(&self, why: &str) -> Response<Full<Bytes>> {
        let mut response = text(self.status, &self.body);
        if self.body.trim_start().starts_with('<') {
            header(&mut response, "content-type", "text/html; charset=utf-8");
        }
        if let Some(to) = &self.redirect {
            response.headers_mut().insert(header::LOCATION, to.clone());
        }
        if self.reason {
            header(&mut response, "x-gate-reason", why);
        }
        response
    }
}

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
    desk: &Desk,
    serves: &Serves,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if let Some(response) = desk.strangers(serves, peer, &request) {
        return response;
    }
    let (what, response) = match serves {
        Serves::Mirror { list, cert } => ("mirror", mirror(desk, list, *cert, peer, request.headers()).await),
        Serves::Learn { list, cert } => ("learn", learn(desk, list, *cert, peer, request.headers()).await),
        // A mirrored request carries the client's own path but never this header: Traefik writes it only when it asks.
        Serves::Gatekeeper { list }
            if request.uri().path() != SHARE_PATH || !request.headers().contains_key(FORWARDED_URI) =>
        {
            ("mirror", mirror(desk, list, Some(Cert::Traefik), peer, request.headers()).await)
        }
        Serves::Gatekeeper { .. } | Serves::Share => ("share", share(desk, peer, &request).await),
        Serves::Check { learn, below } => check_side(desk, learn, *below, peer, &request).await,
    };
    *desk.answers.lock().entry((what, response.status().as_u16())).or_default() += 1;
    response
}

const SHARE_PATH: &str = "/verify_share_request";
const FORWARDED_URI: &str = "x-forwarded-uri";
/// Where proxies ask about a list.
pub(super) const CHECK: &str = "/v1/check/";
/// Where proxies show certificates for a list.
pub(super) const LEARN: &str = "/v1/learn/";

/// A mirrored request: its answer goes nowhere, so it says `OK` unless the proof could not be saved.
async fn mirror(desk: &Desk, list: &str, cert: Option<Cert>, peer: Peer, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Some(visitor) = desk.brought(peer, headers) else { return text(StatusCode::OK, "OK") };
    // The request itself is the proof; without a name it is somebody's.
    let named = match cert.map(|c| holder(headers, c)).transpose() {
        Ok(named) => named,
        Err(why) => {
            desk.no_proof(peer, why);
            if why != NoProof::Absent && desk.hides_its_name(list, visitor, why) {
                return text(StatusCode::OK, "OK");
            }
            None
        }
    };
    let (principal, device) = named.map_or((None, None), |h| (Some(h.subject), h.device));
    let proof = Proof { list: list.to_string(), addr: visitor, evidence: Evidence::Mtls, principal, device, ttl: None };
    match desk.keeper.tell(Event::Proof(proof)).await {
        Ok(done) => {
            match done.outcome {
                Outcome::Given(id) => info!("{visitor} proved itself and is on `{list}` ({id})"),
                Outcome::Refused(why) => desk.not_learnt(visitor, why),
                Outcome::Renewed(_) | Outcome::Ended(_) | Outcome::Settled(_) => {}
            }
            text(StatusCode::OK, "OK")
        }
        Err(e) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not saved: {e}\n")),
    }
}

async fn share(desk: &Desk, peer: Peer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != SHARE_PATH {
        return text(StatusCode::NOT_FOUND, "");
    }
    let headers = request.headers();
    let refuse = |why: &str, log: bool| {
        if log {
            desk.shares.say(|more| info!("a share link is refused: {why}{more}"));
        }
        text(StatusCode::FORBIDDEN, "")
    };
    let Some(visitor) = desk.brought(peer, headers) else { return refuse("it is not known who asks", false) };
    let Some((protocol, service)) = asked_service(request.uri().query().unwrap_or_default()) else {
        return refuse("the middleware's address needs protocol=… and container_name_port=…, each once", true);
    };
    let Some(uri) = headers.get(FORWARDED_URI).and_then(|v| v.to_str().ok()) else {
        return refuse("the proxy sends no X-Forwarded-Uri", true);
    };
    let asked = Asked { protocol: &protocol, service: &service, uri, visitor, headers };
    text(guest::open(desk, &asked).await, "")
}

async fn check_side(
    desk: &Desk,
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
            if desk.proxies.believes(peer) {
                desk.note(Observation::PathBelow(peer, prefix));
            }
            return (what, desk.refuse("there is nothing below this list's endpoint"));
        }
        if what == "check" {
            let there = desk.keeper.published.borrow().view.id(list).is_some();
            if !there && desk.proxies.believes(peer) {
                let all: Vec<String> = desk.keeper.picture.rules.read().keys().cloned().collect();
                desk.note(Observation::NoList(peer, CHECK, shown(list), all.join(", ")));
            }
            return (what, check(desk, list, peer, request.headers()));
        }
        let Some((_, cert)) = learning.iter().find(|(l, _)| l == list) else {
            if desk.proxies.believes(peer) {
                let all: Vec<&str> = learning.iter().map(|(l, _)| l.as_str()).collect();
                desk.note(Observation::NoList(peer, LEARN, shown(list), all.join(", ")));
            }
            return (what, desk.refuse("this list does not learn here"));
        };
        return (what, learn(desk, list, *cert, peer, request.headers()).await);
    }
    match path {
        "/metrics" => ("metrics", runtime::answer::metrics(super::metrics::text(desk))),
        "/healthz" => {
            let trouble = desk.keeper.picture.trouble.lock().clone();
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
fn check(desk: &Desk, list: &str, peer: Peer, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match desk.proxies.judged(peer, headers) {
        Ok(v) => v,
        Err(why) => {
            desk.note(why.into());
            return desk.refuse(&why.to_string());
        }
    };
    desk.look_at(&visitor);
    let published = desk.keeper.published.borrow().clone();
    let view = &published.view;
    let verdict = view.judge_by(view.id(list), visitor.addr);
    // Anybody can write a header of a CDN: it means something where the address is let in.
    if let Some(sign) = &visitor.second
        && (verdict.is_allow() || *sign == Sign::Entries)
    {
        desk.note(Observation::SecondProxy(visitor.addr, sign.clone()));
    }
    let Verdict::Allow(_, prefix) = verdict else {
        return desk.refuse(&verdict.in_words(view, visitor.addr).to_string());
    };
    match desk.keeper.grant(list, prefix) {
        Some(g) => {
            desk.touch(list, visitor.addr);
            let who = g.claim.principal.as_deref().unwrap_or(NOBODY);
            let_in(who, &format!("{} {} {}", g.id, g.claim.evidence, g.prefix))
        }
        None => let_in(NOBODY, &format!("static {prefix}")),
    }
}

/// Learns from a proof inside the request path: the client certificate that the proxy checked.
async fn learn(desk: &Desk, list: &str, cert: Cert, peer: Peer, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match desk.visitor(peer, headers) {
        Ok(v) => v,
        Err(why) => return desk.refuse(&why.to_string()),
    };
    let who = match holder(headers, cert) {
        Ok(holder) => holder,
        Err(why) => {
            desk.no_proof(peer, why);
            return desk.refuse(&why.to_string());
        }
    };
    // The certificate opens this site, unless a person said that it does not count; whether its address is learnt beside
    // is another matter.
    let answer = match desk.keeper.banned(list, visitor.addr, &who.subject) {
        Some(whom) => desk.refuse(&format!("no proof of {whom} counts")),
        None => let_in(&who.subject, "mtls"),
    };
    let subject = who.subject.clone();
    let Some(addr) = desk.learnable(&visitor) else { return answer };
    let proof = Proof {
        list: list.to_string(),
        addr,
        evidence: Evidence::Mtls,
        principal: Some(who.subject),
        device: who.device,
        ttl: None,
    };
    match desk.keeper.tell(Event::Proof(proof)).await {
        Ok(done) => match done.outcome {
            Outcome::Given(id) => info!("{subject} proved itself from {addr} and is on `{list}` ({id})"),
            Outcome::Refused(why) => desk.not_learnt(addr, why),
            Outcome::Renewed(_) | Outcome::Ended(_) | Outcome::Settled(_) => {}
        },
        // A learner never breaks the site it learns from.
        Err(e) => warn!("{subject} proved itself from {addr} but was not learnt: {e}"),
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

impl Desk {
    /// A sign of life of an address that was admitted by this list; said to the keeper once a minute.
    pub fn touch(&self, list: &str, addr: Addr) {
        let mut touched = self.touched.lock();
        let key = (list.to_string(), addr);
        let idle = self.keeper.picture.rules.read().get(list).and_then(|r| r.idle);
        let step = Duration::from_secs(access::ledger::seen_step(idle));
        if touched.get(&key).is_some_and(|t| t.elapsed() < step) {
            return;
        }
        if touched.len() > 100_000 {
            touched.clear();
        }
        touched.insert(key, Instant::now());
        self.keeper.mention(Event::Seen(list.to_string(), addr));
    }

    /// Keeps an observation, and says it if it is new.
    pub(super) fn note(&self, what: Observation) {
        self.heard.note(what, Instant::now(), |what, held_back| {
            let fix = super::doctor::mend(self, what);
            if held_back > 0 {
                info!("{what}; {fix} ({held_back} lines alike were held back)");
            } else {
                info!("{what}; {fix}");
            }
        });
    }

    /// The visitor that a trusted proxy reports; that it reports none is said.
    fn visitor(&self, peer: Peer, headers: &HeaderMap) -> Result<Visitor, Unknown> {
        self.proxies.visitor(peer, headers).inspect_err(|why| self.note((*why).into()))
    }

    /// The address of a visitor whose proof Traefik brings, if it may be learnt.
    fn brought(&self, peer: Peer, headers: &HeaderMap) -> Option<Addr> {
        let visitor = self.visitor(peer, headers).ok()?;
        if let (true, Some(hop)) = (self.traefik_by_peer, visitor.hop) {
            self.note(Observation::HopBeforeTraefik(hop));
        }
        self.learnable(&visitor)
    }

    /// Its address if that may be learnt. If not, that is said.
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
    fn not_learnt(&self, addr: Addr, why: Refusal) {
        debug!("{addr} is not learnt: {why}");
        if why == Refusal::Private && !is_gateway(addr) {
            self.note(Observation::PrivateProof(addr));
        }
    }

    /// True if somebody is banned from this list by name: then whoever shows a certificate whose name can not be read may
    /// be that one, since a client chooses itself whether it sends its CA's along. `explain` says it.
    fn hides_its_name(&self, list: &str, addr: Addr, why: NoProof) -> bool {
        let picture = &self.keeper.picture;
        let named = |b: &Ban| b.list == list && matches!(b.whom, Whom::Named(_));
        if !picture.bans.read().values().any(named) {
            return false;
        }
        debug!("{addr} is not learnt: names are banned from `{list}`, and {why}");
        let Some(prefix) = picture.rules.read().get(list).map(|r| r.learnt(addr)) else { return true };
        picture.ended.write().note(Ended {
            at: picture.time.now(),
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
        debug!("refused: {why}");
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

pub(super) fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    runtime::answer::text(status, Bytes::copy_from_slice(body.as_bytes()))
}

fn header(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    // A certificate's subject may hold anything; a header may not. What is no ASCII goes on as it came, in UTF-8: two
    // names never become one.
    let clean: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if let Ok(value) = HeaderValue::from_bytes(clean.as_bytes()) {
        response.headers_mut().insert(name, value);
    }
}
