//! A visitor's connection over HTTP/1.x: request after request, each judged by address and sent where it belongs.
//! In: a stream that was admitted. Out: answers, until one side has enough.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use access::Refusal;
use addr::{Addr, SourceKey};
use bytes::{Buf, BytesMut};
use net::budget::Charge;
use tokio::time::Sleep;
use tunnel_proto::http1::forwarded::Trust;
use tunnel_proto::http1::head::{Body, HeadScan, Method, Reject, Reply, Request};

use super::exchange::{Ending, REPLY_UNREAD, exchange, reply_to};
use super::page::Page;
use super::pool::{Upstream, was_gone};
use super::pump::Side;
use super::stats::{Counted, HostStats};
use super::{End, HttpPlane, Router, Speaks, Target, Visitor, VisitorIo};
use runtime::admission::ConnectionGuard;

/// How long a head may take from its first byte, and the first head from accept.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long a connection may wait for its next request. Longer than what proxies in front keep idle connections
/// (Traefik and Go 90 s, Caddy 120 s), so that they hang up first and lose no request.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(150);

/// How long opening a stream to the upstream may take.
pub(super) const OPEN_TIME: Duration = Duration::from_secs(30);

/// Heads up to this size, in bytes, are not counted: they fit what a connection holds anyway.
const HEAD_FREE: usize = 4 * 1024;

/// How long a visitor that is told to go may still send, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(2);

/// What HTTP/2 begins with where nothing was negotiated (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What comes next on a connection.
pub(super) enum Next {
    /// A whole head of this length.
    Head(usize),
    /// HTTP/2, with the connection as it is.
    H2,
    /// Nothing.
    End,
}

/// A connection that speaks HTTP/1.x.
pub(super) struct Conn<'p, R, S> {
    pub(super) plane: &'p Arc<HttpPlane<R>>,
    pub(super) side: Side<S>,
    pub(super) peer: SocketAddr,
    pub(super) trust: Arc<Trust>,
    /// What the head of this request takes of the budget for all.
    charge: Charge,
    held: Option<Held>,
    counters: Option<(String, Arc<HostStats>)>,
}

/// The pass of the last request, which the next one to the same host needs not ask for again.
struct Held {
    host: String,
    addr: Addr,
    pass: ConnectionGuard,
}

/// What is left of a connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Next,
    /// Ended in order.
    Close,
    /// Ended in order, but the visitor may still be sending.
    Linger,
    /// Must look broken to the visitor.
    Reset,
}

impl<'p, R: Router, S: VisitorIo> Conn<'p, R, S> {
    pub(super) fn new(plane: &'p Arc<HttpPlane<R>>, stream: S, peer: SocketAddr, trust: Arc<Trust>) -> Self {
        let charge = plane.charge(peer, &trust);
        Conn { plane, side: Side::new(stream), peer, trust, charge, held: None, counters: None }
    }

    /// Serves until the end, or until the connection turns out to be HTTP/2.
    pub(super) async fn run(&mut self) -> End {
        let mut timer = std::pin::pin!(tokio::time::sleep(HEAD_TIME));
        let mut first = true;
        let after = loop {
            let next = self.next(timer.as_mut(), first).await;
            let after = match next {
                Ok(Next::H2) => return End::H2,
                Ok(Next::End) => break After::Close,
                Err(reject) => self.refuse(&reject).await,
                Ok(Next::Head(len)) => self.request(len).await,
            };
            if after != After::Next {
                break after;
            }
            first = false;
        };
        match after {
            After::Reset => self.side.io.reset(),
            After::Linger => self.linger().await,
            After::Close | After::Next => {
                let _ = poll_fn(|cx| self.side.poll_close(cx)).await;
            }
        }
        End::Over
    }

    /// Waits for the next head.
    async fn next(&mut self, mut timer: std::pin::Pin<&mut Sleep>, first: bool) -> Result<Next, Reject> {
        let mut scan = HeadScan::default();
        let (side, charge) = (&mut self.side, &mut self.charge);
        // An idle connection holds no buffer.
        side.out = BytesMut::new();
        charge.shrink(charge.bytes());
        let mut begun = first || !side.inbuf.is_empty();
        let wait = if begun { HEAD_TIME } else { KEEP_ALIVE };
        timer.as_mut().reset(tokio::time::Instant::now() + wait);
        let mut draining = std::pin::pin!(self.plane.draining());
        poll_fn(|cx| {
            loop {
                // An empty line before a request is an old mistake of visitors (RFC 9112, section 2.2).
                while side.inbuf.starts_with(b"\r\n") {
                    side.inbuf.advance(2);
                    scan = HeadScan::default();
                }
                if first
                    && side.inbuf.len() >= 4
                    && H2_PREFACE.starts_with(side.inbuf.get(..H2_PREFACE.len()).unwrap_or(&side.inbuf))
                {
                    if side.inbuf.len() >= H2_PREFACE.len() {
                        return Poll::Ready(Ok(Next::H2));
                    }
                } else if let Some(len) = scan.end(&side.inbuf, true)? {
                    return Poll::Ready(Ok(Next::Head(len)));
                }
                let filled = side.poll_fill(cx);
                if filled.is_pending() && timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(if begun && !first || !side.inbuf.is_empty() {
                        Err(Reject { status: 408, reason: "the head of the request took too long".into() })
                    } else {
                        Ok(Next::End)
                    });
                }
                // Whoever has begun a request when the drain begins still gets an answer.
                if filled.is_pending() && side.inbuf.is_empty() && draining.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Next::End));
                }
                match ready!(filled) {
                    Ok(0) | Err(_) => return Poll::Ready(Ok(Next::End)),
                    Ok(_) if !begun => {
                        begun = true;
                        // Most heads are whole with the first read; only others need their time limit moved up.
                        if !side.inbuf.ends_with(b"\r\n\r\n") {
                            timer.as_mut().reset(tokio::time::Instant::now() + HEAD_TIME);
                        }
                    }
                    Ok(_) => {}
                }
                // Twice: as it came, and as it goes on.
                let held = 2 * side.inbuf.len();
                if side.inbuf.len() > HEAD_FREE && held > charge.bytes() {
                    charge.grow(held - charge.bytes()).map_err(|_| too_much())?;
                }
            }
        })
        .await
    }

    /// Reads and answers one request.
    async fn request(&mut self, len: usize) -> After {
        let started = Instant::now();
        let head = self.side.inbuf.get(..len).unwrap_or_default();
        let mut request = match Request::read(head, self.peer, &self.trust, "http") {
            Ok(request) => request,
            Err(reject) => return self.refuse(&reject).await,
        };
        self.side.inbuf.advance(len);
        let plane = self.plane;
        // For as long as it is served, what a trusted proxy brings counts for the visitor: one of them does not use up
        // what all who come through the proxy have.
        let empty = self.charge.sibling();
        let mut held = std::mem::replace(&mut self.charge, empty);
        if held.moved_to(SourceKey::of(request.visitor)).is_err() {
            return self.refuse(&too_much()).await;
        }
        if request.unheard {
            plane.not_heard(self.peer, &self.trust);
        }
        let _in_flight = Counted::new(&plane.stats.in_flight);
        let reply = reply_to(&request);
        let pass = match self.pass(&request) {
            Ok(pass) => pass,
            Err(refusal) => {
                plane.note_refusal(&refusal);
                let page = Page::new(403, format!("The address {} is not allowed to reach this site.", refusal.addr));
                self.count(&request, 403, started);
                return self.page(&page, &request, reply).await;
            }
        };
        let answered = {
            let cut = std::pin::pin!(pass.cut());
            let answer = std::pin::pin!(self.answer(&mut request, reply));
            tokio::select! {
                biased;
                () = cut => None,
                after = answer => Some(after),
            }
        };
        let Some((after, status)) = answered else {
            plane.stats.cut.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(visitor = %request.visitor, host = request.host, why = "no longer allowed", "connection cut");
            return After::Reset;
        };
        self.count(&request, status, started);
        tracing::debug!(
            visitor = %request.visitor,
            method = request.method.label(),
            host = request.host,
            path = request.path(),
            status,
            micros = started.elapsed().as_micros() as u64,
            "request"
        );
        self.held = Some(Held { host: request.host, addr: request.visitor, pass });
        after
    }

    /// Lets the visitor in to the host, or says why not.
    fn pass(&mut self, request: &Request) -> Result<ConnectionGuard, Refusal> {
        match self.held.take() {
            Some(held) if held.addr == request.visitor && held.host == request.host && !held.pass.is_cut() => {
                Ok(held.pass)
            }
            _ => self.plane.admit(&request.host, request.visitor),
        }
    }

    fn count(&mut self, request: &Request, status: u16, started: Instant) {
        let host = match &self.counters {
            Some((name, counters)) if *name == request.host => counters,
            _ => &self.counters.insert((request.host.clone(), self.plane.stats.host(&request.host))).1,
        };
        host.note(request.method, status, started.elapsed());
    }

    /// Sends the request where it belongs, and its answer back; a page where there is none.
    async fn answer(&mut self, request: &mut Request, reply: Reply) -> (After, u16) {
        let plane = self.plane;
        let visitor = Visitor { addr: request.visitor, peer: self.peer };
        let target = match find(plane, &request.host, request.path()).await {
            Ok(target) => target,
            Err(page) => return (self.page(&page, request, reply).await, page.status),
        };
        if target.speaks == Speaks::Http2 {
            plane.fault(&target, request.visitor, "it speaks HTTP/2 only, and the visitor HTTP/1.1");
            let page = Page::new(502, "The service behind this site answers HTTP/2 only.");
            return (self.page(&page, request, reply).await, page.status);
        }
        if let Some(Err(reject)) = target.rewrite.as_deref().map(|change| request.rewrite(change)) {
            let page = Page::new(reject.status, format!("The request is refused: {}.", reject.reason));
            return (self.page(&page, request, reply).await, page.status);
        }
        let mut pooled = plane.h1.take(&target);
        loop {
            let reused = pooled.is_some();
            let mut upstream = match pooled.take() {
                Some(upstream) => upstream,
                None => match open(plane, &target, visitor).await {
                    Ok(upstream) => upstream,
                    Err(page) => return (self.page(&page, request, reply).await, page.status),
                },
            };
            let change = target.rewrite.as_deref();
            let ending = Box::pin(exchange(&mut self.side, &mut upstream, request, reply, plane, change)).await;
            let page = match ending {
                Ending::Done { status, reuse, idle, keep } => {
                    if reuse {
                        plane.h1.put(&target, upstream, idle);
                    }
                    let complete = reuse || request.body == Body::None;
                    return (
                        if keep {
                            After::Next
                        } else if complete {
                            After::Close
                        } else {
                            After::Linger
                        },
                        status,
                    );
                }
                Ending::Upgraded => return (After::Close, 101),
                // The upstream hung up while it was idle and has seen nothing of this request.
                Ending::Gone(e) if reused && request.method.is_safe() && request.body == Body::None && was_gone(&e) => {
                    continue;
                }
                Ending::Gone(e) => gone(plane, &target, request.visitor, &e),
                Ending::BadAnswer(why) => misunderstood(plane, &target, request.visitor, why),
                Ending::BadRequest(why) => Page::new(400, format!("The request is refused: {why}.")),
                Ending::Left => return (After::Reset, 499),
                Ending::Broken { status, why } => {
                    tracing::debug!(upstream = %target.name, visitor = %request.visitor, why, "broken off");
                    return (After::Reset, status);
                }
            };
            let reply = Reply { close: reply.close || page.status == 400, ..reply };
            return (self.page(&page, request, reply).await, page.status);
        }
    }

    /// Answers with a page of ours.
    async fn page(&mut self, page: &Page, request: &Request, reply: Reply) -> After {
        // The rest of a request body stands before the next request: easier to part than to read it all.
        let close = reply.close || request.body != Body::None || self.plane.is_draining();
        page.write(Reply { close, ..reply }, &mut self.side.out);
        match poll_fn(|cx| self.side.poll_drain(cx)).await {
            Err(_) => After::Reset,
            Ok(()) if close => After::Linger,
            Ok(()) => After::Next,
        }
    }

    /// Answers a request that cannot be read; what follows it cannot be told apart, so the connection ends.
    async fn refuse(&mut self, reject: &Reject) -> After {
        tracing::debug!(peer = %self.peer, status = reject.status, reason = reject.reason, "request refused");
        self.plane.stats.host("").note(Method::Other, reject.status, Duration::ZERO);
        let page = Page::new(reject.status, format!("The request is refused: {}.", reject.reason));
        page.write(REPLY_UNREAD, &mut self.side.out);
        match poll_fn(|cx| self.side.poll_drain(cx)).await {
            Ok(()) => After::Linger,
            Err(_) => After::Reset,
        }
    }

    /// Ends our side and reads what still comes, for a moment: hanging up on unread bytes would take the answer away
    /// (RFC 9112, section 9.6).
    async fn linger(&mut self) {
        let gone = poll_fn(|cx| {
            ready!(self.side.poll_close(cx))?;
            loop {
                self.side.inbuf.clear();
                if ready!(self.side.poll_fill(cx))? == 0 {
                    return Poll::Ready(io::Result::Ok(()));
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, gone).await;
    }
}

/// Opens a stream to the target, or says why not.
pub(super) async fn open<R: Router>(plane: &HttpPlane<R>, target: &Target, visitor: Visitor) -> Result<Upstream, Page> {
    match tokio::time::timeout(OPEN_TIME, plane.router.open(target, visitor)).await {
        Ok(Ok(stream)) => Ok(Side::new(stream)),
        Ok(Err(e)) => Err(gone(plane, target, visitor.addr, &e)),
        Err(_) => Err(gone(plane, target, visitor.addr, &io::ErrorKind::TimedOut.into())),
    }
}

/// Finds the target. Who would wait for a client that is reconnecting is told at once when we are stopping.
pub(super) async fn find<R: Router>(plane: &HttpPlane<R>, host: &str, path: &str) -> Result<Target, Page> {
    let found = tokio::select! {
        biased;
        found = plane.router.route(host, path) => found,
        () = plane.draining() => None,
    };
    found.ok_or_else(|| no_client(host))
}

/// Says that a target cannot be had: why, to who runs this; that, to the visitor. Streams may be opened before the
/// upstream was reached, so that what kept it from being reached is only seen when reading.
pub(super) fn gone<R: Router>(plane: &HttpPlane<R>, target: &Target, visitor: Addr, e: &io::Error) -> Page {
    let why = match e.kind() {
        io::ErrorKind::UnexpectedEof => "it hung up without an answer".to_string(),
        _ => e.to_string(),
    };
    // What a client could not reach is said by its session, for every plane.
    if e.kind() != io::ErrorKind::ConnectionRefused {
        plane.fault(target, visitor, why.split(" (os error").next().unwrap_or_default());
    }
    if e.kind() == io::ErrorKind::TimedOut {
        return Page::new(504, "The service behind this site did not answer in time.");
    }
    Page::new(502, "The service behind this site cannot be reached.")
}

/// The same for one whose answer cannot be passed on.
pub(super) fn misunderstood<R: Router>(plane: &HttpPlane<R>, target: &Target, visitor: Addr, why: &str) -> Page {
    plane.fault(target, visitor, why);
    Page::new(502, "The answer of the service behind this site cannot be understood.")
}

/// Heads of all visitors, or of this source, take as much memory as they may.
pub(super) fn too_much() -> Reject {
    Reject { status: 503, reason: "too many large requests are being served; try again".into() }
}

fn no_client(host: &str) -> Page {
    let what = if host.is_empty() { "requests without a host name".to_string() } else { format!("`{host}`") };
    Page::new(503, format!("No client serves {what} at the moment."))
}
