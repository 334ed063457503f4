//! The gate's HTTP side. In: mirrored requests, questions of proxies. Out: proofs for the keeper, verdicts for proxies.
//!
//! Each listener serves one thing. A mirror's listener looks at no path, so a client's own path reaches nothing else.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use decide::grant::{Event, Outcome, Proof};
use decide::visitor::trace;
use decide::{Ask, Why, admit, explain};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{Addr, AddrSet, Evidence};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::doctor::Stranger;
use super::enforce::Enforcer;
use super::fetch::Base;
use super::keeper::Keeper;
use super::share::Shares;
use crate::hint::Hinted;
use crate::run::Run;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket; whoever may open it is a trusted proxy.
    Unix(PathBuf),
}

/// What a listener serves.
#[derive(Debug, Clone)]
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
        /// The lists that learn here, and where the proxy writes whose certificate it was unless it says so itself.
        learn: Vec<(String, Cert)>,
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
    /// Whose `X-Forwarded-For` is believed.
    pub trusted: AddrSet,
    /// Share links.
    pub shares: Shares,
    /// For each share, where its guests go, in the order of the shares.
    pub guests: Vec<Guests>,
    /// Enforcers that a share waits for.
    pub enforcers: Vec<Enforcer>,
    /// Sites that `doctor` asks as a stranger would.
    pub probes: Vec<Base>,
    /// The stranger of a doctor at work, and what became of it.
    pub stranger: Mutex<Option<Stranger>>,
    /// Host names that lists follow.
    pub names: Arc<Mutex<decide::names::Names>>,
    /// Signs of life said lately, so that a busy client costs one event a minute.
    pub touched: Mutex<std::collections::HashMap<(String, Addr), Instant>>,
    /// Refusals said lately.
    pub said: Mutex<std::collections::HashMap<String, Instant>>,
    /// Answers by status, for metrics.
    pub answers: Mutex<std::collections::BTreeMap<(&'static str, u16), u64>>,
}

/// The longest a guest's first request waits for the enforcer; then it goes on and the guest may have to load again.
const SHARE_WAIT: Duration = Duration::from_secs(3);
/// Connections of one listener at a time; proxies keep a few dozen.
const AT_ONCE: usize = 4_096;
/// The same of peers that are no trusted proxies: what they hold open keeps no proxy out.
const STRANGERS_AT_ONCE: usize = 64;
/// `X-Gate-User` where nobody is known by name: always said, so that a visitor's own header does not reach the site.
const NOBODY: &str = "-";
/// A proxy sends its head at once.
const HEAD_WAIT: Duration = Duration::from_secs(10);

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

/// Starts a listener. Returns the address it has.
///
/// # Errors
/// The address can not be had.
pub fn listen(run: &Run, desk: &Arc<Desk>, at: &Listen, serves: Serves) -> anyhow::Result<Option<SocketAddr>> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let strangers = Arc::new(Semaphore::new(STRANGERS_AT_ONCE));
    let serves = Arc::new(serves);
    match at {
        Listen::Tcp(addr) => {
            let socket = std::net::TcpListener::bind(addr).map_err(|e| {
                Hinted::error(
                    format!("cannot listen on {addr}: {e}"),
                    "is another process there? choose another with --listen ADDRESS:PORT",
                )
            })?;
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from_std(socket)?;
            let local = socket.local_addr()?;
            let (run2, desk, stopping) = (run.clone(), desk.clone(), run.stopping());
            run.spawn("gate listener", async move {
                tokio::pin!(stopping);
                loop {
                    let accepted = tokio::select! {
                        () = &mut stopping => return Ok(()),
                        accepted = socket.accept() => accepted,
                    };
                    match accepted {
                        Ok((stream, peer)) => {
                            let _ = stream.set_nodelay(true);
                            let peer = Addr::of(peer);
                            let permit = if desk.trusted.contains(peer) {
                                room.clone().acquire_owned().await?
                            } else if let Ok(permit) = strangers.clone().try_acquire_owned() {
                                permit
                            } else {
                                // Closed at once: waiting would keep the proxies waiting.
                                desk.once(&format!("{peer} full"), || {
                                    warn!("{peer} is turned away: too many connections")
                                });
                                continue;
                            };
                            visit(&run2, &desk, &serves, stream, peer, permit);
                        }
                        Err(e) => {
                            warn!("a gate listener: {e}");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
            Ok(Some(local))
        }
        Listen::Unix(path) => {
            use std::os::unix::fs::FileTypeExt;
            // A socket that an earlier run left; anything else there is somebody's file.
            if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
            {
                let _ = std::fs::remove_file(path);
            }
            let socket = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
            let (run2, desk, stopping) = (run.clone(), desk.clone(), run.stopping());
            run.spawn("gate listener", async move {
                tokio::pin!(stopping);
                loop {
                    let permit = room.clone().acquire_owned().await?;
                    tokio::select! {
                        () = &mut stopping => return Ok(()),
                        accepted = socket.accept() => match accepted {
                            // The socket's mode says who may be the proxy.
                            Ok((stream, _)) => visit(&run2, &desk, &serves, stream, Addr::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), permit),
                            Err(e) => {
                                warn!("a gate listener: {e}");
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                        },
                    }
                }
            });
            Ok(None)
        }
    }
}

fn visit(
    run: &Run,
    desk: &Arc<Desk>,
    serves: &Arc<Serves>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Addr,
    permit: tokio::sync::OwnedSemaphorePermit,
) {
    let (desk, serves, stopping) = (desk.clone(), serves.clone(), run.stopping());
    run.visit("gate request", async move {
        let _permit = permit;
        let service = service_fn(move |request| {
            let (desk, serves) = (desk.clone(), serves.clone());
            async move { Ok::<_, Infallible>(answer(&desk, &serves, peer, request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(64 * 1024);
        let conn = http.serve_connection(TokioIo::new(io), service);
        tokio::pin!(conn, stopping);
        let mut open = true;
        loop {
            tokio::select! {
                end = &mut conn => {
                    if let Err(e) = end {
                        debug!("a request of {peer}: {e}");
                    }
                    return;
                }
                () = &mut stopping, if open => {
                    open = false;
                    conn.as_mut().graceful_shutdown();
                }
            }
        }
    });
}

async fn answer(desk: &Desk, serves: &Serves, peer: Addr, request: Request<Incoming>) -> Response<Full<Bytes>> {
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
        Serves::Check { learn } => check_side(desk, learn, peer, &request).await,
    };
    *desk.answers.lock().entry((what, response.status().as_u16())).or_default() += 1;
    response
}

const SHARE_PATH: &str = "/verify_share_request";
const FORWARDED_URI: &str = "x-forwarded-uri";

/// A mirrored request: its answer goes nowhere, so it says `OK` unless the proof could not be saved.
async fn mirror(desk: &Desk, list: &str, cert: Option<Cert>, peer: Addr, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match proven(desk, peer, headers) {
        Ok(v) => v,
        Err(why) => {
            desk.once(&format!("{peer} {why}"), || info!("nothing is learnt from {peer}: {why}"));
            return text(StatusCode::OK, "OK");
        }
    };
    let (principal, device) = cert.map_or((None, None), |c| principal(headers, c));
    let proof = Proof { list: list.to_string(), addr: visitor, evidence: Evidence::Mtls, principal, device, ttl: None };
    match desk.keeper.tell(Event::Proof(proof)).await {
        Ok(done) => {
            match done.outcome {
                Outcome::Given(id) => info!("{visitor} proved itself and is on `{list}` ({id})"),
                Outcome::Refused(why) => {
                    desk.once(&format!("{visitor} {why}"), || info!("{visitor} is not learnt: {why}"));
                }
                Outcome::Renewed(_) | Outcome::Ended(_) => {}
            }
            text(StatusCode::OK, "OK")
        }
        Err(e) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not saved: {e}\n")),
    }
}

async fn share(desk: &Desk, peer: Addr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != SHARE_PATH {
        return text(StatusCode::NOT_FOUND, "");
    }
    let headers = request.headers();
    let refuse = |why: &str, log: bool| {
        if log {
            info!("a share link is refused: {why}");
        }
        text(StatusCode::FORBIDDEN, "")
    };
    let visitor = match proven(desk, peer, headers) {
        Ok(v) => v,
        Err(why) => return refuse(&why, true),
    };
    let query = request.uri().query().unwrap_or_default();
    let (Some(protocol), Some(service)) = (parameter(query, "protocol"), parameter(query, "container_name_port"))
    else {
        return refuse("the middleware's address needs protocol=… and container_name_port=…", true);
    };
    let Some(uri) = headers.get(FORWARDED_URI).and_then(|v| v.to_str().ok()) else {
        return refuse("the proxy sends no X-Forwarded-Uri", true);
    };
    let alive = desk.shares.check(&protocol, &service, uri, headers.get("x-forwarded-host"), visitor).await;
    let share = match alive {
        Ok(share) => share,
        Err(why) => {
            debug!("{visitor} asked for a link of {service}: {why}");
            return refuse(&why.to_string(), false);
        }
    };
    let at = desk.shares.all().iter().position(|s| s.name == share.name);
    let Some(Guests { list, ttl }) = at.and_then(|i| desk.guests.get(i)) else {
        return refuse("the share has no list", true);
    };
    let proof = Proof {
        list: list.clone(),
        addr: visitor,
        evidence: Evidence::Share,
        principal: Some(format!("guest of {}", share.name)),
        device: None,
        ttl: Some(*ttl),
    };
    match desk.keeper.tell(Event::Proof(proof)).await {
        Ok(done) => {
            if let Outcome::Given(id) = done.outcome {
                info!("{visitor} opened a live link of {} and is on `{list}` ({id})", share.name);
            }
            // As soon as the enforcers have it: known guests do not wait at all.
            for e in desk.enforcers.iter().filter(|e| e.holds(list)) {
                if !e.has(done.generation, SHARE_WAIT).await {
                    warn!(
                        "{} does not have the guest {visitor} yet; the link opens, other parts may need another try",
                        e.progress.lock().name
                    );
                }
            }
            text(StatusCode::OK, "")
        }
        Err(e) => {
            warn!("{visitor} opened a live link but could not be put on `{list}`: {e}");
            text(StatusCode::SERVICE_UNAVAILABLE, "")
        }
    }
}

async fn check_side(
    desk: &Desk,
    learning: &[(String, Cert)],
    peer: Addr,
    request: &Request<Incoming>,
) -> (&'static str, Response<Full<Bytes>>) {
    let path = request.uri().path();
    if let Some(list) = path.strip_prefix("/v1/check/") {
        return ("check", check(desk, list.trim_end_matches('/'), peer, request.headers()));
    }
    if let Some(list) = path.strip_prefix("/v1/learn/") {
        let list = list.trim_end_matches('/');
        let Some((_, cert)) = learning.iter().find(|(l, _)| l == list) else {
            return ("learn", with_reason(StatusCode::FORBIDDEN, "this list does not learn here"));
        };
        let cert = match parameter(request.uri().query().unwrap_or_default(), "cert").as_deref() {
            None => *cert,
            Some("traefik") => Cert::Traefik,
            Some("gate") => Cert::Gate,
            Some(_) => {
                return (
                    "learn",
                    with_reason(
                        StatusCode::BAD_REQUEST,
                        "cert= is `gate` (X-Gate-Cert-Subject, X-Gate-Cert-Fp) or `traefik` (X-Forwarded-Tls-Client-Cert-Info)",
                    ),
                );
            }
        };
        return ("learn", learn(desk, list, cert, peer, request.headers()).await);
    }
    match path {
        "/metrics" => ("metrics", text(StatusCode::OK, &super::metrics(desk))),
        "/healthz" => {
            let trouble = desk.keeper.picture.trouble.lock().clone();
            let status = if trouble.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let said: String = trouble.values().map(|t| format!("{t}\n")).collect();
            ("healthz", text(status, if said.is_empty() { "ok\n" } else { &said }))
        }
        _ => ("other", text(StatusCode::NOT_FOUND, "there is /v1/check/LIST, /v1/learn/LIST, /metrics and /healthz\n")),
    }
}

/// Judges the visitor by `admit`.
fn check(desk: &Desk, list: &str, peer: Addr, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match visitor(desk, peer, headers) {
        Ok(v) => v,
        Err(why) => return with_reason(StatusCode::FORBIDDEN, &why),
    };
    let published = desk.keeper.published.borrow().clone();
    let id = published.view.id(list).unwrap_or(model::ListId(u32::MAX));
    let ask = Ask { addr: visitor, list: id };
    let verdict = admit(&published.view, ask);
    let Why::Entry(_, prefix) = verdict.why() else {
        return with_reason(StatusCode::FORBIDDEN, &explain(&published.view, ask));
    };
    let mut response = text(StatusCode::OK, "");
    match desk.keeper.grant(list, prefix) {
        Some(g) => {
            header(&mut response, "x-gate-user", g.principal.as_deref().unwrap_or(NOBODY));
            header(&mut response, "x-gate-reason", &format!("{} {} {}", g.id, g.evidence, g.prefix));
            desk.touch(list, visitor);
        }
        None => {
            header(&mut response, "x-gate-user", NOBODY);
            header(&mut response, "x-gate-reason", &format!("static {prefix}"));
        }
    }
    response
}

/// Learns from a proof inside the request path: the client certificate that the proxy checked.
async fn learn(desk: &Desk, list: &str, cert: Cert, peer: Addr, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let visitor = match proven(desk, peer, headers) {
        Ok(v) => v,
        Err(why) => return with_reason(StatusCode::FORBIDDEN, &why),
    };
    let (Some(who), device) = principal(headers, cert) else {
        return with_reason(StatusCode::FORBIDDEN, "the proxy reports no client certificate");
    };
    let proof = Proof {
        list: list.to_string(),
        addr: visitor,
        evidence: Evidence::Mtls,
        principal: Some(who.clone()),
        device,
        ttl: None,
    };
    match desk.keeper.tell(Event::Proof(proof)).await {
        // The certificate opens this site; whether its address was learnt beside is another matter.
        Ok(done) => {
            if let Outcome::Given(id) = done.outcome {
                info!("{who} proved itself from {visitor} and is on `{list}` ({id})");
            }
            let mut response = text(StatusCode::OK, "");
            header(&mut response, "x-gate-user", &who);
            response
        }
        // A learner never breaks the site it learns from.
        Err(e) => {
            warn!("{who} proved itself from {visitor} but was not learnt: {e}");
            let mut response = text(StatusCode::OK, "");
            header(&mut response, "x-gate-user", &who);
            response
        }
    }
}

impl Desk {
    /// A sign of life of an address that was admitted by this list; said to the keeper once a minute.
    pub fn touch(&self, list: &str, addr: Addr) {
        let mut touched = self.touched.lock();
        let key = (list.to_string(), addr);
        let idle = self.keeper.picture.rules.read().get(list).and_then(|r| r.idle);
        let step = Duration::from_secs(decide::grant::seen_step(idle));
        if touched.get(&key).is_some_and(|t| t.elapsed() < step) {
            return;
        }
        if touched.len() > 100_000 {
            touched.clear();
        }
        touched.insert(key, Instant::now());
        self.keeper.mention(Event::Seen(list.to_string(), addr));
    }

    /// Says something at most once in ten minutes.
    pub(super) fn once(&self, what: &str, say: impl FnOnce()) {
        let mut said = self.said.lock();
        said.retain(|_, t| t.elapsed() < Duration::from_secs(600));
        if said.len() < 1_000 && said.insert(what.to_string(), Instant::now()).is_none() {
            say();
        }
    }
}

/// The visitor, whoever the peer is.
pub(super) fn visitor(desk: &Desk, peer: Addr, headers: &HeaderMap) -> Result<Addr, String> {
    // Only this header: Traefik passes a client's own `Forwarded` on untouched.
    let values: Vec<&[u8]> = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
    let found = trace(peer, &values, &[], &desk.trusted).map(|t| t.addr).map_err(|e| e.to_string())?;
    if super::doctor::is_gateway(found) && !values.is_empty() {
        // Whatever becomes of it: behind such an address everybody may be.
        desk.once(&format!("{found} gateway"), || {});
    }
    Ok(found)
}

/// The visitor that a trusted proxy reports; nobody proves anything without one.
fn proven(desk: &Desk, peer: Addr, headers: &HeaderMap) -> Result<Addr, String> {
    if !desk.trusted.contains(peer) {
        return Err(format!("it is no trusted proxy; if it is one, add it: TRUSTED_PROXIES={peer}"));
    }
    if !headers.contains_key("x-forwarded-for") {
        return Err("it sends no X-Forwarded-For".to_string());
    }
    visitor(desk, peer, headers)
}

/// Which headers carry the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cert {
    /// `X-Gate-Cert-Subject` and `X-Gate-Cert-Fp`, set by the proxy's configuration.
    Gate,
    /// `X-Forwarded-Tls-Client-Cert-Info`, set by Traefik's passTLSClientCert, which takes a client's own away.
    Traefik,
}

pub(super) fn principal(headers: &HeaderMap, cert: Cert) -> (Option<String>, Option<String>) {
    let get = |name: &str| {
        let mut all = headers.get_all(name).iter();
        let one = all.next().and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty() && v.len() <= 500);
        if all.next().is_some() { None } else { one.map(str::to_string) }
    };
    match cert {
        Cert::Gate => (get("x-gate-cert-subject"), get("x-gate-cert-fp")),
        Cert::Traefik => {
            let info = get("x-forwarded-tls-client-cert-info").and_then(|v| decoded(&v));
            // `Subject="CN=anna";SerialNumber="17"`
            let part = |name: &str| {
                let info = info.as_deref()?;
                let rest = info.split_once(&format!("{name}=\""))?.1;
                Some(rest.split_once('"')?.0.to_string())
            };
            (part("Subject"), part("SerialNumber"))
        }
    }
}

/// A parameter of a query, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))?;
    decoded(value)
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = |b: Option<u8>| (b? as char).to_digit(16);
        out.push((hex(bytes.next())? * 16 + hex(bytes.next())?) as u8);
    }
    String::from_utf8(out).ok()
}

pub(super) fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    header(&mut response, "content-type", "text/plain; charset=utf-8");
    header(&mut response, "cache-control", "no-store");
    response
}

fn with_reason(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = text(status, &format!("{why}\n"));
    header(&mut response, "x-gate-reason", why);
    response
}

fn header(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    // A certificate's subject may hold anything; a header may not.
    let clean: String = value.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&clean) {
        response.headers_mut().insert(name, value);
    }
}
