//! The control plane of an edge. In: connections of clients and of people with the token. Out: sessions, `/status`,
//! `/metrics`. The address is judged before a byte is read; behind a trusted proxy, when the head names it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use addr::Addr;
use anyhow::Result;
use http::StatusCode;
use net::buffers::Lease;
use net::guesses::Wrong;
use net::link::{Closer, Link, LinkRead};
use net::serve::{Listener, Slot};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tunnel_proto::frame::{FrameReader, Kind, Part};
use tunnel_proto::hello::{Hello, Reject, RejectCode, RouteKey, Welcome};
use tunnel_proto::mux::pool;
use tunnel_proto::ws::{Role, WsItem, WsReader};

use super::super::bulk::{BulkLink, whole_message};
use super::super::mux::Carrier;
use super::super::settings::EdgeToken;
use super::super::upgrade::{self, Answer, H_CLIENT, H_LINK, H_SESSION, LinkKind, RequestHead};
use super::sessions::EdgeSession;
use super::{Edge, owners, say};
use runtime::admission::ConnectionGuard;
use runtime::answer::Media;

/// TLS, the request and the hello must be there by then.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A wrong token is answered after this long, whoever else waits: a person does not notice.
const WRONG_TOKEN_PAUSE: Duration = Duration::from_millis(300);

/// What the log says of whoever does not come in.
const REFUSED: &str = "connection refused";

/// Accepts until the run stops or another listener takes its place.
pub(super) async fn accept(edge: Arc<Edge>, listener: Listener, close: CancellationToken) -> Result<()> {
    let mut over = pin!(async {
        close.run_until_cancelled(edge.run.stopping()).await;
    });
    while let Some((socket, peer)) = listener.accept_until(over.as_mut()).await {
        edge.stats.control_requests.fetch_add(1, Ordering::Relaxed);
        // One proxy speaks for many clients: only the limit for all counts for it.
        let (pass, slot) = if edge.trusts(peer) {
            (None, edge.handshakes.take_trusted())
        } else {
            let addr = Addr::of(peer);
            // A proxy of this machine that nobody named speaks for others; it is heard first.
            if !addr.is_loopback() && edge.guesses.blocked(addr, Instant::now()) {
                edge.stats.control_refused.fetch_add(1, Ordering::Relaxed);
                debug!(%peer, why = "too many wrong tokens", "connection refused");
                continue;
            }
            match edge.control_door.admit(addr) {
                Ok(pass) => (Some(pass), edge.handshakes.take(addr.into())),
                Err(why) => {
                    edge.stats.control_refused.fetch_add(1, Ordering::Relaxed);
                    say(&edge.lines.control_refused, "control", peer, REFUSED, why);
                    continue;
                }
            }
        };
        let slot = match slot {
            Ok(slot) => slot,
            Err(why) => {
                say(&edge.lines.control_full, "control", peer, "connection closed", why);
                continue;
            }
        };
        let served = serve(edge.clone(), socket, peer, pass, slot);
        edge.run.connection("control connection", peer, served);
    }
    // Where another listener took its place, nobody has to leave.
    if edge.run.is_stopping() {
        for session in edge.table.sessions() {
            session.go_away();
        }
    }
    Ok(())
}

/// What a connection turned out to be.
enum Became {
    /// Answered and closed, or gone.
    Nothing,
    Carrier(Link, WsReader, FrameReader, Arc<EdgeSession>, Arc<Carrier>, Passes),
    Bulk(BulkLink, Closer, Arc<EdgeSession>),
}

/// What lets a client in: the plane's list, and its token's if that has one.
struct Passes {
    plane: ConnectionGuard,
    token: Option<ConnectionGuard>,
}

impl Passes {
    fn addr(&self) -> Addr {
        self.plane.addr()
    }

    /// Ends when one of the lists no longer holds the client, and says which.
    async fn cut(&self) -> String {
        let token = async {
            match &self.token {
                Some(pass) => pass.cut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.plane.cut() => self.plane.why(),
            () = token => self.token.as_ref().map_or_else(String::new, ConnectionGuard::why),
        }
    }
}

async fn serve(edge: Arc<Edge>, socket: TcpStream, peer: SocketAddr, pass: Option<ConnectionGuard>, place: Slot) {
    net::sockets::tune_link(&socket);
    let became = match tokio::time::timeout(HANDSHAKE, begin(&edge, socket, peer, pass, place)).await {
        Err(_) => {
            debug!("no handshake in time");
            return;
        }
        Ok(Err(e)) => {
            debug!(err = format!("{e:#}"), "connection failed");
            return;
        }
        Ok(Ok(became)) => became,
    };
    match became {
        Became::Nothing => {}
        Became::Bulk(link, closer, session) => {
            if !session.pool.arrived(link, closer) {
                debug!(client = session.hello.host, "link not needed");
            }
        }
        Became::Carrier(link, ws, frames, session, carrier, pass) => {
            let forget = async {
                session.leaving.cancelled().await;
                info!(client = session.hello.host, peer = %session.addr, "client draining");
                if let Some(plane) = edge.plane.get() {
                    plane.forget(session.id);
                }
                std::future::pending::<()>().await;
            };
            let why = tokio::select! {
                why = carrier.run(link, ws, frames) => why,
                () = forget => "goodbye".to_string(),
                () = drained(&edge, &session) => "the edge stops and nothing is under way".to_string(),
                why = pass.cut() => {
                    info!(client = session.hello.host, peer = %session.addr, why, "client cut");
                    session.end("the client's address is no longer allowed");
                    "its address is no longer allowed".to_string()
                }
            };
            super::super::mux::log_gone("a carrier", &why);
            if session.detach(&carrier) || !session.is_alive() {
                left(&edge, &session, &why);
            }
        }
    }
}

/// Ends when the run stops and the session carries nothing any more.
async fn drained(edge: &Edge, session: &EdgeSession) {
    /// Often enough that nobody waits for a stop, seldom enough to cost nothing.
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    edge.run.stopping().await;
    while session.streams() > 0 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn left(edge: &Arc<Edge>, session: &Arc<EdgeSession>, why: &str) {
    edge.table.leave(session);
    if let Some(plane) = edge.plane.get() {
        plane.forget(session.id);
    }
    info!(client = session.hello.host, peer = %session.addr, why, "client disconnected");
}

/// TLS, the request and who sent it; then what it asked for.
async fn begin(
    edge: &Arc<Edge>,
    socket: TcpStream,
    peer: SocketAddr,
    pass: Option<ConnectionGuard>,
    mut place: Slot,
) -> Result<Became> {
    let mut link = match edge.tls() {
        None => Link::plain(socket),
        Some(tls) => Link::accept(socket, tls).await?,
    };
    let head = match upgrade::read_request(&mut link.read).await {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(Became::Nothing),
        Err(e) => {
            let words = "400: not a request this port understands\n";
            Answer::reject(StatusCode::BAD_REQUEST, RejectCode::BadRequest, words).send(&mut link).await;
            return Err(e);
        }
    };
    let answer = match (admit(edge, &head, peer, pass, &mut place).await, head.method.as_str(), head.websocket_key()) {
        (Ok((token, pass)), "GET", Some(key)) => return attach(edge, link, &head, key, token, pass).await,
        (Ok(_), ..) => page(edge, &head),
        (Err(refusal), ..) => refusal,
    };
    answer.send(&mut link).await;
    Ok(Became::Nothing)
}

/// Judges the address, then the token, then the address by the token's own list. Returns the token's number.
///
/// # Errors
/// What to answer.
async fn admit(
    edge: &Edge,
    head: &RequestHead,
    peer: SocketAddr,
    pass: Option<ConnectionGuard>,
    place: &mut Slot,
) -> Result<(usize, Passes), Answer> {
    let plane = match pass {
        Some(pass) => pass,
        None => judge_behind_proxy(edge, head, peer)?,
    };
    let addr = plane.addr();
    // Judged as itself it is the source of everything that comes through it: its visitors' guesses would close it for all.
    let unnamed = addr.is_loopback() && !edge.trusts(peer) && is_forwarded(head);
    if unnamed {
        edge.say_unnamed_proxy(addr);
    } else if edge.guesses.blocked(addr, Instant::now()) {
        edge.stats.control_refused.fetch_add(1, Ordering::Relaxed);
        let words = "429: too many wrong tokens; try again in a minute\n";
        return Err(Answer::reject(StatusCode::TOO_MANY_REQUESTS, RejectCode::TooManyGuesses, words));
    }
    let tokens = edge.tokens();
    let Some(known) = tokens.proved(head.bearer().unwrap_or_default()) else {
        wrong_token(edge, addr, head.bearer().is_some(), unnamed);
        // In its place: whoever guesses has no more than its share of them.
        tokio::time::sleep(WRONG_TOKEN_PAUSE).await;
        let words = "401: the token is wrong or missing (Authorization: Bearer TOKEN)\n";
        let answer = Answer::reject(StatusCode::UNAUTHORIZED, RejectCode::TokenRefused, words);
        return Err(answer.with("WWW-Authenticate", "Bearer"));
    };
    edge.guesses.right(addr);
    edge.handshakes.know(addr.into());
    // Who knows a token no longer counts as an untrusted peer of its address.
    place.trusted();
    let token = known.guard.as_ref().map(|guard| guard.admit(addr)).transpose();
    let token = token.map_err(|why| refused(edge, addr, StatusCode::FORBIDDEN, RejectCode::AddressRefused, &why))?;
    Ok((known.id, Passes { plane, token }))
}

/// What whoever knows a token gets besides a link.
fn page(edge: &Edge, head: &RequestHead) -> Answer {
    match (head.method.as_str(), head.path()) {
        ("GET", path) if path.ends_with("/status") => {
            Answer::ok(Media::Json, serde_json::to_string(&edge.status()).unwrap_or_default() + "\n")
        }
        ("GET", path) if path.ends_with("/metrics") => Answer::ok(Media::Metrics, edge.metrics()),
        ("GET", _) => {
            let words = "426: this is the control plane of a Portcullis edge; clients connect here by websocket. A proxy in between must pass `Upgrade` and `Connection`.\n";
            let answer = Answer::reject(StatusCode::UPGRADE_REQUIRED, RejectCode::UpgradeRequired, words);
            answer.with("Upgrade", "websocket")
        }
        (method, _) => {
            // An answer to HEAD has no body (RFC 9110, section 9.3.2).
            let words = if method == "HEAD" { "" } else { "405: only GET\n" };
            let answer = Answer::reject(StatusCode::METHOD_NOT_ALLOWED, RejectCode::BadRequest, words);
            answer.with("Allow", "GET")
        }
    }
}

/// Counts and logs who is not let in, and says it.
fn refused(edge: &Edge, peer: impl Display, status: StatusCode, code: RejectCode, why: impl Display) -> Answer {
    edge.stats.control_refused.fetch_add(1, Ordering::Relaxed);
    say(&edge.lines.control_refused, "control", peer, REFUSED, &why);
    Answer::reject(status, code, format!("{}: {why}\n", status.as_u16()))
}

/// Admits whom a trusted proxy speaks for.
///
/// # Errors
/// What to answer.
fn judge_behind_proxy(edge: &Edge, head: &RequestHead, peer: SocketAddr) -> Result<ConnectionGuard, Answer> {
    let xff: Vec<&[u8]> = head.values("x-forwarded-for").collect();
    let forwarded: Vec<&[u8]> = head.values("forwarded").collect();
    let settings = edge.settings();
    let (header, proxies) = (settings.trusted_header, &settings.trusted_proxies);
    let traced = tunnel_proto::http1::forwarded::visitor(header, Addr::of(peer), &xff, &forwarded, proxies);
    let traced = traced.map_err(|e| {
        let why = format_args!("the proxy {peer} names no visitor: {e}");
        refused(edge, peer, StatusCode::BAD_REQUEST, RejectCode::BadRequest, why)
    })?;
    let admitted = edge.control_door.admit(traced.addr);
    admitted.map_err(|why| refused(edge, peer, StatusCode::FORBIDDEN, RejectCode::AddressRefused, &why))
}

/// True if the request came through a proxy that says so.
fn is_forwarded(head: &RequestHead) -> bool {
    ["x-forwarded-for", "forwarded"].iter().any(|name| head.values(name).next().is_some())
}

/// Counts a wrong token; what is worth a line gets one. No token is no guess: a page that a browser was led to, or a
/// monitor, closes the plane for no client behind the same address.
fn wrong_token(edge: &Edge, addr: Addr, given: bool, unnamed_proxy: bool) {
    edge.stats.tokens_refused.fetch_add(1, Ordering::Relaxed);
    let what = if given { "wrong token" } else { "no token" };
    if unnamed_proxy || !given {
        return say(&edge.lines.wrong_token, "control", addr, REFUSED, what);
    }
    match edge.guesses.wrong(addr, Instant::now()) {
        Wrong::LastOne => {
            let what = "wrong token, the last that is looked at: its network is closed for up to a minute";
            say(&edge.lines.wrong_token, "control", addr, REFUSED, what);
        }
        Wrong::Counted => say(&edge.lines.wrong_token, "control", addr, REFUSED, what),
        Wrong::Beyond => debug!(plane = "control", peer = %addr, why = what, "{REFUSED}"),
    }
}

async fn attach(
    edge: &Arc<Edge>,
    mut link: Link,
    head: &RequestHead,
    key: &str,
    token: usize,
    pass: Passes,
) -> Result<Became> {
    let kind = head.header(H_LINK).and_then(LinkKind::parse);
    let name_ok = |n: &&str| (1..=64).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_graphic());
    let (session, client) = (head.header(H_SESSION).filter(name_ok), head.header(H_CLIENT).filter(name_ok));
    let (Some(kind), Some(session), Some(client)) = (kind, session, client) else {
        let words = "400: not a Portcullis client (its headers are missing)\n";
        Answer::reject(StatusCode::BAD_REQUEST, RejectCode::BadRequest, words).send(&mut link).await;
        return Ok(Became::Nothing);
    };
    if edge.run.is_stopping() {
        let words = "503: this edge is going away\n";
        Answer::reject(StatusCode::SERVICE_UNAVAILABLE, RejectCode::ShuttingDown, words).send(&mut link).await;
        return Ok(Became::Nothing);
    }
    let known = edge.table.by_key(session).filter(|s| s.is_of_token(token));
    if kind != LinkKind::Carrier(0) && known.is_none() {
        let words = "404: no such session\n";
        Answer::reject(StatusCode::NOT_FOUND, RejectCode::NoSuchSession, words).send(&mut link).await;
        return Ok(Became::Nothing);
    }
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        upgrade::accept_key(key)
    );
    link.write.write_all(head.as_bytes()).await?;
    match (kind, known) {
        (LinkKind::Bulk, Some(session)) => {
            let closer = link.closer();
            Ok(Became::Bulk(BulkLink::new(link, Role::Server), closer, session))
        }
        (LinkKind::Carrier(no), Some(session)) => {
            let carrier = Carrier::new(no, Role::Server, session.clone());
            if !session.attach(&carrier) {
                return Ok(Became::Nothing);
            }
            Ok(Became::Carrier(link, WsReader::default(), FrameReader::default(), session, carrier, pass))
        }
        (_, None) => first_carrier(edge, link, session, client, token, pass).await,
    }
}

/// The first carrier of a session: the hello decides whether there is one.
async fn first_carrier(
    edge: &Arc<Edge>,
    mut link: Link,
    key: &str,
    client: &str,
    token: usize,
    pass: Passes,
) -> Result<Became> {
    let (mut ws, mut frames) = (WsReader::default(), FrameReader::default());
    let hello = read_hello(&mut link.read, &mut ws, &mut frames).await?;
    let checked = |hello: Hello| {
        let checked = hello.upstreams.iter().try_for_each(|u| tunnel_proto::http1::rewrite::check(&u.rewrite));
        checked.map(|()| hello).map_err(|reason| Reject::for_good(RejectCode::BadRequest, reason))
    };
    let hello = match Hello::parse(&hello).and_then(checked) {
        Ok(hello) => hello,
        Err(reject) => return refuse(link, &reject).await,
    };
    if let Err(reject) = may_publish(edge, &hello, token) {
        warn!(client = hello.host, peer = %pass.addr(), code = %reject.code, why = reject.reason, "client refused");
        return refuse(link, &reject).await;
    }
    let session = EdgeSession::new(key.to_string(), client.to_string(), token, hello, pass.addr());
    let carrier = Carrier::new(0, Role::Server, session.clone());
    // Sessions that share a name or a port take turns; that may not be what was meant.
    let shared = edge.table.shared_with(&session);
    for words in &shared {
        warn!(client = session.hello.host, peer = %session.addr, "{words}");
    }
    let welcome = Welcome {
        program: env!("CARGO_PKG_VERSION").to_string(),
        bulk: pool::WARM,
        published: session.hello.upstreams.iter().map(|u| reached_at(edge, &u.ask, &u.name)).collect(),
        warnings: shared,
        features: tunnel_proto::hello::FEATURES.map(str::to_string).to_vec(),
    };
    session.attach(&carrier);
    // Before the welcome: whoever is told that it is published may send visitors at once. What is opened for them waits
    // in the carrier, and follows the welcome.
    let joined = match edge.table.join(session.clone(), &edge.tokens().rights(token)) {
        Ok(joined) => joined,
        Err(reason) => {
            // Another token's client came in between.
            warn!(client = session.hello.host, peer = %session.addr, code = %RejectCode::Taken, why = reason, "client refused");
            session.end(&reason);
            return refuse(link, &Reject::for_now(RejectCode::Taken, reason)).await;
        }
    };
    let member = Member { edge, session: &session, welcomed: false };
    let tokens = edge.tokens();
    // Settings that came in between looked for sessions of tokens that are gone before this one was there.
    let Some(known) = tokens.get(token) else {
        let reason = "its token is no longer one of this edge's".to_string();
        return refuse(link, &Reject::for_now(RejectCode::TokenRefused, reason)).await;
    };
    if let Some(old) = joined {
        info!(
            client = session.hello.host,
            peer = %session.addr,
            "client reconnected, its old session is replaced; if this goes on and on, two clients have the same --id"
        );
        old.end("replaced by a new session of the same client");
        if let Some(plane) = edge.plane.get() {
            plane.forget(old.id);
        }
    } else {
        session.log_joined(&known.token.name);
    }
    // A message of its own.
    let message = whole_message(Role::Server, Kind::Welcome, &tunnel_proto::hello::bytes(&welcome));
    link.write.write_all(&message).await?;
    member.welcomed();
    edge.stats.sessions.fetch_add(1, Ordering::Relaxed);
    Ok(Became::Carrier(link, ws, frames, session, carrier, pass))
}

/// A session in the table whose client may not have heard of it: dropped before that, it leaves.
struct Member<'a> {
    edge: &'a Arc<Edge>,
    session: &'a Arc<EdgeSession>,
    welcomed: bool,
}

impl Member<'_> {
    fn welcomed(mut self) {
        self.welcomed = true;
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if !self.welcomed {
            self.session.end("it was not welcomed");
            left(self.edge, self.session, "it did not take its welcome");
        }
    }
}

async fn refuse(mut link: Link, reject: &Reject) -> Result<Became> {
    let bytes = whole_message(Role::Server, Kind::Reject, &tunnel_proto::hello::bytes(reject));
    link.write.write_all(&bytes).await?;
    link.write.close().await;
    Ok(Became::Nothing)
}

/// Reads frames until the hello is whole; nothing else may come before it.
async fn read_hello(link: &mut LinkRead, ws: &mut WsReader, frames: &mut FrameReader) -> Result<Vec<u8>> {
    let mut plain = Lease::new();
    loop {
        if link.fill(&mut plain).await? == 0 {
            anyhow::bail!("the client left before its hello");
        }
        let mut input = plain.filled_mut();
        while let Some(item) = ws.next(&mut input)? {
            let WsItem::Payload(mut payload) = item else {
                anyhow::bail!("a websocket control frame before the hello")
            };
            match frames.next(&mut payload)? {
                None => {}
                Some(Part::Control(Kind::Hello, _, hello)) if payload.is_empty() && input.is_empty() => {
                    return Ok(hello);
                }
                Some(part) => anyhow::bail!("{part:?} where a hello belongs"),
            }
        }
        plain.clear();
    }
}

/// Whether this edge may do what the client asks; ports are opened here.
fn may_publish(edge: &Arc<Edge>, hello: &Hello, token: usize) -> Result<(), Reject> {
    let (tokens, settings) = (edge.tokens(), edge.settings());
    let gone = || Reject::for_now(RejectCode::TokenRefused, "its token is no longer one of this edge's");
    let EdgeToken { name, rights, .. } = &tokens.get(token).ok_or_else(gone)?.token;
    for upstream in &hello.upstreams {
        // The file of the edge says so: trying again does not help.
        owners::may(rights, name, &upstream.ask).map_err(|reason| Reject::for_good(RejectCode::NotAllowed, reason))?;
        // Its owner may let go of it.
        edge.table
            .may_have(&upstream.ask, token, rights)
            .map_err(|reason| Reject::for_now(RejectCode::Taken, reason))?;
        match &upstream.ask {
            RouteKey::Http { .. } if settings.http.is_none() => {
                return Err(Reject::for_good(
                    RejectCode::NotOffered,
                    "this edge has no HTTP plane; it was started as `tcp server`: use `portcullis tcp client --ports …`",
                ));
            }
            RouteKey::Http { .. } => {}
            RouteKey::Port(port) => super::ports::open(edge, *port)?,
        }
    }
    Ok(())
}

fn reached_at(edge: &Edge, ask: &RouteKey, name: &str) -> String {
    match ask {
        RouteKey::Port(port) => {
            let addr =
                edge.settings().tcp.as_ref().map_or_else(String::new, |t| SocketAddr::new(t.addr, *port).to_string());
            format!("tcp {addr} -> {name}")
        }
        RouteKey::Http { host, path } => {
            let port = edge.listening().1.map_or(0, |a| a.port());
            let host = if host.is_empty() { "any host" } else { host };
            format!("http {host}{path} (port {port}) -> {name}")
        }
    }
}
