//! HTTP/2 with prior knowledge, as gRPC and some proxies speak it. In: a connection that began with HTTP/2's preface.
//! Out: its requests, each judged by address; they go on as HTTP/2 to upstreams that were declared to speak it (gRPC),
//! to all others as HTTP/1.1. hyper does the protocol, here are the rules.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use addr::{Addr, Authority, SourceKey};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use net::budget::Charge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_proto::hello::{Rewrite, SetField};
use tunnel_proto::http1::fields::{Kind, forbidden_in_trailer, kind};
use tunnel_proto::http1::forwarded::{Came, Claims, Trust};
use tunnel_proto::http1::head::{FIELDS_MAX, HEAD_MAX, Method, Reject};
use tunnel_proto::http1::rewrite::is_changed;

use super::page::Page;
use super::pool::{Idle, Pool};
use super::serve::{KEEP_ALIVE, find, misunderstood, open, too_much};
use super::{HttpPlane, Router, Speaks, Target, Visitor, VisitorIo};
use runtime::admission::ConnectionGuard;
use runtime::answer;

mod fields;
mod rewound;

use fields::{authority_of, changed, join_cookies, one_length, strip_hop, to_h1, to_h2};
pub(super) use rewound::Rewound;

/// Streams that a visitor may have open at once, each with a connection to an upstream: the least that RFC 9113,
/// section 6.5.2, recommends. nginx allows 128.
const STREAMS_MAX: u32 = 100;

/// Header lists in all open streams of one visitor's connection, in bytes as RFC 9113, section 6.5.2, counts them. HPACK
/// makes 64 KiB of a few bytes, so that what is held must be counted and not what came.
const HEADERS_MAX: usize = 256 * 1024;

/// The same for a trusted proxy, which may send the requests of many visitors on one connection.
const HEADERS_OF_PROXY_MAX: usize = 4 * 1024 * 1024;

/// What a visitor may send ahead on one stream and on all, in bytes: 20 MB/s at 50 ms, and 2 MiB of memory at worst.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What may wait for one slow stream, in bytes.
const SEND_MAX: usize = 64 * 1024;

/// How often a quiet visitor is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(45);
const PING_TIME: Duration = Duration::from_secs(20);

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Idle upstream connections for visitors that speak HTTP/2.
pub(super) struct Pools {
    h1: Arc<Pool<H1>>,
    h2: Arc<Pool<H2>>,
}

/// A connection to an HTTP/1.1 upstream.
struct H1(http1::SendRequest<AnyBody>);

/// A connection to an HTTP/2 upstream; its clones share it.
#[derive(Clone)]
struct H2(http2::SendRequest<AnyBody>);

impl Idle for H1 {
    fn is_alive(&mut self) -> bool {
        self.0.is_ready()
    }
}

impl Idle for H2 {
    fn is_alive(&mut self) -> bool {
        !self.0.is_closed()
    }
}

impl Pools {
    pub(super) fn new() -> Pools {
        Pools { h1: Pool::new(), h2: Pool::new() }
    }

    pub(super) fn forget(&self, session: u64) {
        self.h1.forget(session);
        self.h2.forget(session);
    }
}

/// One visitor's connection.
struct Link<R> {
    plane: Arc<HttpPlane<R>>,
    peer: SocketAddr,
    trust: Arc<Trust>,
    /// Header lists of open streams, in bytes.
    headers: AtomicUsize,
    /// Answers of which something is there that the visitor makes no room for, and pieces that it took so far.
    owed: AtomicUsize,
    taken: AtomicU64,
    /// Requests so far, and those that are over.
    begun: AtomicU64,
    over: AtomicU64,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// By one side, in order or not.
    Ended,
    /// The visitor took nothing of any answer for too long.
    Stalled,
}

/// Serves the connection until it ends. `reset` makes the drop of this future an abort.
pub(super) async fn serve<R: Router, S: VisitorIo>(
    plane: &Arc<HttpPlane<R>>,
    stream: Rewound<S>,
    peer: SocketAddr,
    trust: Arc<Trust>,
) -> Over {
    let link = Arc::new(Link {
        plane: plane.clone(),
        peer,
        trust,
        headers: AtomicUsize::new(0),
        owed: AtomicUsize::new(0),
        taken: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        over: AtomicU64::new(0),
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_MAX)
        .max_header_list_size(HEAD_MAX as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIME);
    let service = {
        let link = link.clone();
        hyper::service::service_fn(move |request| {
            let link = link.clone();
            async move { link.request(request).await }
        })
    };
    let mut conn = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut tick = tokio::time::interval(KEEP_ALIVE / 2);
    let mut stall = tokio::time::interval(plane.stall());
    let mut moved = None;
    let mut draining = std::pin::pin!(plane.draining());
    let (mut drained, mut seen) = (false, None);
    loop {
        tokio::select! {
            end = &mut conn => {
                if let Err(e) = end {
                    tracing::debug!(%peer, error = %e, "HTTP/2 connection ended");
                }
                return Over::Ended;
            }
            _ = stall.tick() => {
                // A trusted proxy's connection carries others' requests too; it has time limits of its own.
                let judged = !link.trust.proxies.contains(Addr::of(peer));
                let now = (judged && link.owed.load(Ordering::Relaxed) > 0).then(|| link.taken.load(Ordering::Relaxed));
                if now.is_some() && now == moved {
                    tracing::debug!(%peer, "ended: the visitor takes nothing");
                    return Over::Stalled;
                }
                moved = now;
            }
            () = &mut draining, if !drained => {
                drained = true;
                conn.as_mut().graceful_shutdown();
            }
            _ = tick.tick() => {
                let (begun, over) = (link.begun.load(Ordering::Relaxed), link.over.load(Ordering::Relaxed));
                if begun == over && seen == Some(begun) {
                    conn.as_mut().graceful_shutdown();
                }
                seen = Some(begun);
            }
        }
    }
}

/// A request was cut: hyper resets its stream.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the visitor is no longer allowed")
    }
}

impl std::error::Error for Cut {}

/// What is known of a request once it was read.
struct RequestInfo {
    method: Method,
    authority: Authority,
    visitor: Visitor,
}

impl<R: Router> Link<R> {
    async fn request(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<AnyBody>, Cut> {
        let started = Instant::now();
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.plane.stats.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut ticket = Ticket {
            link: self.clone(),
            method: Method::of(request.method().as_str()),
            host: String::new(),
            status: 0,
            started,
            held: None,
        };
        match self.hold(&request) {
            Ok(held) => ticket.held = Some(held),
            Err(reject) => {
                let text = format!("The request is refused: {}.", reject.reason);
                return Ok(answer_page(&Page::new(reject.status, text), ticket));
            }
        }
        let asked = match self.read(&mut request) {
            Ok(asked) => asked,
            Err(reject) => {
                let text = format!("The request is refused: {}.", reject.reason);
                return Ok(answer_page(&Page::new(reject.status, text), ticket));
            }
        };
        // What a trusted proxy brings counts for the visitor.
        let source = SourceKey::of(asked.visitor.addr);
        if ticket.held.as_mut().is_some_and(|held| held.charge.moved_to(source).is_err()) {
            let reject = too_much();
            let text = format!("The request is refused: {}.", reject.reason);
            return Ok(answer_page(&Page::new(reject.status, text), ticket));
        }
        ticket.host = asked.authority.host.to_string();
        let pass = match self.plane.admit(asked.authority.host.as_str(), asked.visitor.addr) {
            Ok(pass) => Arc::new(pass),
            Err(refusal) => {
                self.plane.note_refusal(&refusal);
                let text = format!("The address {} is not allowed to reach this site.", refusal.addr);
                return Ok(answer_page(&Page::new(403, text), ticket));
            }
        };
        let (parts, body) = request.into_parts();
        let body = Guarded::new(body, pass.clone(), Counter::In(self.plane.clone()), None).boxed_unsync();
        let forward = Box::pin(self.forward(&asked, Request::from_parts(parts, body)));
        let answer = tokio::select! {
            biased;
            () = pass.cut() => {
                self.plane.stats.cut.fetch_add(1, Ordering::Relaxed);
                return Err(Cut);
            }
            answer = forward => answer,
        };
        Ok(match answer {
            Ok((response, keep)) => {
                ticket.status = response.status().as_u16();
                let (mut parts, body) = response.into_parts();
                strip_hop(&mut parts.headers);
                one_length(&mut parts.headers);
                let out = Counter::Out(self.plane.clone());
                let body = {
                    let mut body = Guarded::new(body, pass, out, Some(self.clone()));
                    (body.keep, body.ticket) = (keep, Some(ticket));
                    body
                };
                Response::from_parts(parts, body.boxed_unsync())
            }
            Err(page) => answer_page(&page, ticket),
        })
    }

    /// Takes what the head of a request holds out of what this connection, its source and all may hold.
    fn hold(self: &Arc<Self>, request: &Request<Incoming>) -> Result<Held<R>, Reject> {
        // As RFC 9113, section 6.5.2, counts it, without the pseudo fields but the path.
        let path = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
        let size = request.headers().iter().map(|(n, v)| n.as_str().len() + v.len() + 32).sum::<usize>() + path;
        let bound = if self.trust.proxies.contains(Addr::of(self.peer)) { HEADERS_OF_PROXY_MAX } else { HEADERS_MAX };
        let before = self.headers.fetch_add(size, Ordering::Relaxed);
        let mut held = Held { link: self.clone(), size, charge: self.plane.charge(self.peer, &self.trust) };
        if before + size > bound {
            return Err(Reject { status: 431, reason: "the open requests of this connection say too much".into() });
        }
        // Twice: as it came, and as it goes on.
        held.charge.grow(2 * size).map_err(|_| too_much())?;
        Ok(held)
    }

    /// Reads a request and makes its fields those for the upstream; [`to_h1`] or [`to_h2`] does the rest.
    fn read(&self, request: &mut Request<Incoming>) -> Result<RequestInfo, Reject> {
        if request.method() == http::Method::CONNECT {
            return Err(Reject { status: 405, reason: "CONNECT is not served: this is no forward proxy".into() });
        }
        let authority = authority_of(request)?;
        if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(Reject::bad("there are two Content-Length fields"));
        }
        let came_fields: Vec<(&'static str, Vec<u8>)>;
        let (addr, trusted);
        {
            let all = |name: &str| request.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let claims = Claims {
                x_forwarded_for: all("x-forwarded-for"),
                forwarded: all("forwarded"),
                x_forwarded_proto: all("x-forwarded-proto"),
                x_forwarded_host: all("x-forwarded-host"),
            };
            let came = Came::read(Addr::of(self.peer), &claims, &self.trust, "http", Some(&authority))?;
            if came.unheard {
                self.plane.not_heard(self.peer, &self.trust);
            }
            let mut fields = Vec::with_capacity(5);
            came.write_fields(|name, value| fields.push((name, value.to_vec())));
            (addr, trusted, came_fields) = (came.addr(), came.trusted, fields);
        }
        let te = request.headers().get_all(header::TE).iter().any(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
        let headers = request.headers_mut();
        strip_hop(headers);
        let goes = |name: &str| match kind(name) {
            Kind::ContentLength => true,
            kind => self.trust.passes(name, kind, trusted),
        };
        let stays: Vec<HeaderName> = headers.keys().filter(|n| !goes(n.as_str())).cloned().collect();
        stays.iter().for_each(|name| drop(headers.remove(name)));
        for (name, value) in came_fields {
            let value = HeaderValue::from_bytes(&value).map_err(|_| Reject::bad("the host is no host"))?;
            headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| Reject::bad("bad name"))?, value);
        }
        if te {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        join_cookies(headers);
        // With the Host field, and one for the framing.
        if headers.len() + 2 > FIELDS_MAX {
            return Err(Reject::too_many_fields());
        }
        let method = Method::of(request.method().as_str());
        Ok(RequestInfo { method, authority, visitor: Visitor { addr, peer: self.peer } })
    }

    /// Sends the request where it belongs. With the answer comes the connection to keep when it is through.
    async fn forward(
        &self,
        asked: &RequestInfo,
        mut request: Request<AnyBody>,
    ) -> Result<(Response<Incoming>, Option<(Target, H1)>), Page> {
        let path = request.uri().path().to_string();
        let host = asked.authority.host.as_str();
        let target = find(&self.plane, host, &path).await?;
        let rewrite = target.rewrite.as_deref();
        tracing::debug!(visitor = %asked.visitor.addr, method = asked.method.label(), host, path, "request over HTTP/2");
        let malformed =
            |reject: Reject| Page::new(reject.status, format!("The request is refused: {}.", reject.reason));
        // Which of the two is the visitor's choice only where no upstream gets what it did not agree to.
        let grpc = |v: &HeaderValue| v.as_bytes().starts_with(b"application/grpc");
        let h2 = match target.speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Either => request.headers().get(header::CONTENT_TYPE).is_some_and(grpc),
        };
        if h2 {
            to_h2(&mut request, &asked.authority, rewrite).map_err(malformed)?;
        } else {
            to_h1(&mut request, &asked.authority, rewrite).map_err(malformed)?;
        }
        if let Some(change) = rewrite {
            changed(request.headers_mut(), &change.request_set, &change.request_remove);
            if request.headers().len() > FIELDS_MAX {
                return Err(malformed(Reject::too_many_fields()));
            }
        }
        let sent = if h2 {
            self.forward_h2(&target, asked, request).await
        } else {
            self.forward_h1(&target, asked, request).await
        };
        sent.map(|(mut response, keep)| {
            if let Some(change) = rewrite {
                changed(response.headers_mut(), &change.response_set, &change.response_remove);
            }
            (response, keep)
        })
    }

    async fn forward_h1(
        &self,
        target: &Target,
        asked: &RequestInfo,
        mut request: Request<AnyBody>,
    ) -> Result<(Response<Incoming>, Option<(Target, H1)>), Page> {
        loop {
            let pooled = self.plane.h2.h1.take(target);
            let reused = pooled.is_some();
            let mut sender = match pooled {
                Some(sender) => sender,
                None => self.connect_h1(target, asked.visitor).await?,
            };
            match sender.0.try_send_request(request).await {
                Ok(response) => return Ok((response, Some((target.clone(), sender)))),
                Err(mut e) => match e.take_message() {
                    // Nothing of it was sent: the connection had ended while it was idle.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(failed(&self.plane, target, asked.visitor, &e.into_error())),
                },
            }
        }
    }

    async fn forward_h2(
        &self,
        target: &Target,
        asked: &RequestInfo,
        mut request: Request<AnyBody>,
    ) -> Result<(Response<Incoming>, Option<(Target, H1)>), Page> {
        loop {
            let pooled = self.plane.h2.h2.take(target);
            let reused = pooled.is_some();
            let mut sender = match pooled {
                Some(sender) => sender,
                None => self.connect_h2(target, asked.visitor).await?,
            };
            self.plane.h2.h2.put(target, sender.clone(), None);
            match sender.0.try_send_request(request).await {
                Ok(response) => return Ok((response, None)),
                Err(mut e) => match e.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(failed(&self.plane, target, asked.visitor, &e.into_error())),
                },
            }
        }
    }

    async fn connect_h1(&self, target: &Target, visitor: Visitor) -> Result<H1, Page> {
        let upstream = open(&self.plane, target, visitor).await?;
        let made = http1::Builder::new().handshake(TokioIo::new(upstream.io)).await;
        let (sender, conn) = made.map_err(|e| failed(&self.plane, target, visitor, &e))?;
        // Ends with the stream, or when the sender is dropped.
        tokio::spawn(conn);
        Ok(H1(sender))
    }

    async fn connect_h2(&self, target: &Target, visitor: Visitor) -> Result<H2, Page> {
        let upstream = open(&self.plane, target, visitor).await?;
        let made = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(2 * CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX as u32)
            .handshake(TokioIo::new(upstream.io))
            .await;
        let (sender, conn) = made.map_err(|e| failed(&self.plane, target, visitor, &e))?;
        // Ends with the stream, or when the last sender and the last answer are dropped.
        tokio::spawn(conn);
        Ok(H2(sender))
    }
}

fn failed<R: Router>(plane: &HttpPlane<R>, target: &Target, visitor: Visitor, e: &hyper::Error) -> Page {
    use std::error::Error as _;
    let cause = e.source().map_or_else(|| e.to_string(), ToString::to_string);
    let hint =
        if target.speaks != Speaks::Http1 { "" } else { "; if it speaks HTTP/2, as gRPC does, publish it as `h2c://`" };
    misunderstood(plane, target, visitor.addr, &format!("it gave no answer in HTTP ({cause}){hint}"))
}

fn answer_page<R: Router>(page: &Page, mut ticket: Ticket<R>) -> Response<AnyBody> {
    ticket.status = page.status;
    let body = if ticket.method == Method::Head { String::new() } else { page.html() };
    let status = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Full::new(Bytes::from(body)).map_err(|e: Infallible| match e {}).boxed_unsync();
    answer::with(status, answer::Media::Html, body)
}

/// Counts a request when it is over, however it ends.
struct Ticket<R: Router> {
    link: Arc<Link<R>>,
    method: Method,
    host: String,
    status: u16,
    started: Instant,
    held: Option<Held<R>>,
}

/// What the head of a request holds, until the request is over.
struct Held<R> {
    link: Arc<Link<R>>,
    size: usize,
    charge: Charge,
}

impl<R> Drop for Held<R> {
    fn drop(&mut self) {
        self.link.headers.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl<R: Router> Drop for Ticket<R> {
    fn drop(&mut self) {
        self.link.over.fetch_add(1, Ordering::Relaxed);
        let stats = &self.link.plane.stats;
        stats.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.status != 0 {
            stats.host(&self.host).note(self.method, self.status, self.started.elapsed());
        }
    }
}

/// Which way a body goes, for the statistics.
enum Counter<R: Router> {
    In(Arc<HttpPlane<R>>),
    Out(Arc<HttpPlane<R>>),
}

impl<R: Router> Counter<R> {
    fn add(&self, n: usize) {
        let counter = match self {
            Counter::In(plane) => &plane.stats.bytes_in,
            Counter::Out(plane) => &plane.stats.bytes_out,
        };
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn plane(&self) -> &Arc<HttpPlane<R>> {
        match self {
            Counter::In(plane) | Counter::Out(plane) => plane,
        }
    }
}

/// A body that breaks when its visitor is no longer allowed.
struct Guarded<R: Router> {
    body: Incoming,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    counter: Counter<R>,
    /// The connection that is free for another request once this answer is through.
    keep: Option<(Target, H1)>,
    ticket: Option<Ticket<R>>,
    /// Of an answer: what tells whether the visitor makes room for it.
    owed: Option<Owed<R>>,
}

/// An answer of which something may be there that the visitor did not ask for yet: hyper asks a body for its next piece
/// once there is room in the stream's window.
struct Owed<R> {
    link: Arc<Link<R>>,
    now: bool,
}

impl<R> Owed<R> {
    fn new(link: Arc<Link<R>>) -> Owed<R> {
        link.owed.fetch_add(1, Ordering::Relaxed);
        Owed { link, now: true }
    }

    fn set(&mut self, now: bool) {
        self.link.taken.fetch_add(1, Ordering::Relaxed);
        match (std::mem::replace(&mut self.now, now), now) {
            (false, true) => drop(self.link.owed.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.link.owed.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl<R> Drop for Owed<R> {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl<R: Router> Guarded<R> {
    fn new(
        body: Incoming,
        pass: Arc<ConnectionGuard>,
        counter: Counter<R>,
        answer_on: Option<Arc<Link<R>>>,
    ) -> Guarded<R> {
        let cut = Box::pin(async move { pass.cut().await });
        Guarded { body, cut, counter, keep: None, ticket: None, owed: answer_on.map(Owed::new) }
    }
}

/// Trailers say nothing about who asks or how the message is framed, as in HTTP/1.1.
fn without_claims(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let claims: Vec<_> = trailers.keys().filter(|n| forbidden_in_trailer(n.as_str())).cloned().collect();
            claims.iter().for_each(|name| drop(trailers.remove(name)));
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl<R: Router> Body for Guarded<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.cut.as_mut().poll(cx).is_ready() {
            if this.ticket.is_some() {
                this.counter.plane().stats.cut.fetch_add(1, Ordering::Relaxed);
            }
            return Poll::Ready(Some(Err(Box::new(Cut))));
        }
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(owed) = &mut this.owed {
            owed.set(matches!(frame, Poll::Ready(Some(_))));
        }
        let frame = std::task::ready!(frame);
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.counter.add(data.len());
        }
        if (frame.is_none() || this.body.is_end_stream())
            && let Some((target, sender)) = this.keep.take()
        {
            this.counter.plane().h2.h1.put(&target, sender, None);
        }
        Poll::Ready(frame.map(|f| f.map(without_claims).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
