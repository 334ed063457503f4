//! One request and its answer over HTTP/1.1. In: a visitor with a request, a stream to the upstream. Out: how it
//! ended. Both directions move at once; nothing is held back and nothing is collected.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::time::Sleep;
use tunnel_proto::hello::Rewrite;
use tunnel_proto::http1::fields::forbidden_in_trailer;
use tunnel_proto::http1::head::{Body, HeadScan, Method, Reply, Request, Response};

use super::pool::Upstream;
use super::pump::{Flow, FlowError, Frame, Side};
use super::stats::HttpStats;
use super::{HttpPlane, Router, VisitorIo};

/// How long an answer may make no progress after the visitor ended its side. A visitor that is gone looks the same
/// as one that only said that its request is over.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// What a visitor may send ahead of its next turn before it is no longer read.
const PIPELINE_MAX: usize = 16 * 1024;

/// Interim answers (1xx) that wait for a visitor to read; a few heads.
const INTERIM_MAX: usize = 64 * 1024;

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Both bodies got across.
    Done {
        status: u16,
        /// The upstream can carry another exchange; for how many seconds, if it said so.
        reuse: bool,
        idle: Option<u64>,
        /// The visitor can send another request.
        keep: bool,
    },
    /// Another protocol was spoken, and both sides have ended it.
    Upgraded,
    /// The upstream broke off before it answered. The visitor has got nothing.
    Gone(io::Error),
    /// The upstream's answer cannot be passed on. The visitor has got nothing.
    BadAnswer(&'static str),
    /// The visitor broke its own framing before the answer began.
    BadRequest(&'static str),
    /// The visitor left.
    Left,
    /// One side broke off in the middle of the answer: it must not look complete.
    Broken { status: u16, why: String },
}

/// Carries one request to the upstream and its answer back.
pub(super) async fn exchange<R: Router, S: VisitorIo>(
    visitor: &mut Side<S>,
    upstream: &mut Upstream,
    request: &Request,
    reply: Reply,
    plane: &HttpPlane<R>,
    change: Option<&Rewrite>,
) -> Ending {
    let stats = &plane.stats;
    upstream.out.extend_from_slice(&request.head);
    let mut upload = Upload::new(request, stats);
    let response = loop {
        let end = match poll_fn(|cx| poll_head(cx, visitor, upstream, &mut upload)).await {
            Ok(end) => end,
            Err(ending) => return ending,
        };
        // An upload that is not over when the answer begins may never be: the connection cannot be used again.
        let reply = Reply { close: reply.close || !upload.is_over() || plane.is_draining(), ..reply };
        let before = visitor.out.len();
        let read = Response::read(upstream.inbuf.get(..end).unwrap_or_default(), reply, change, &mut visitor.out);
        upstream.inbuf.advance(end);
        match read {
            // What follows a body that is not over is still its rest (RFC 9110, section 7.8).
            Ok(r) if r.status == 101 && request.upgrade && !upload.is_over() => {
                visitor.out.truncate(before);
                return Ending::BadAnswer("it changed the protocol before the request was over");
            }
            Ok(r) if r.status == 101 && request.upgrade => return upgrade(visitor, upstream, stats).await,
            Ok(r) if r.status == 101 => {
                visitor.out.truncate(before);
                return Ending::BadAnswer("it changed the protocol without being asked");
            }
            // HTTP/1.0 knows no interim answers.
            Ok(r) if r.status < 200 && request.http10 => visitor.out.truncate(before),
            Ok(r) if r.status < 200 => {}
            Ok(r) => break r,
            Err(why) => {
                visitor.out.truncate(before);
                return Ending::BadAnswer(why);
            }
        }
    };
    let frame = match (response.body, request.http10) {
        (Body::Eof, false) => Frame::Chunk,
        (Body::Chunked, true) => Frame::Bare,
        _ => Frame::Keep,
    };
    let mut download = Flow::new(response.body, frame, |_| true, &stats.bytes_out);
    let moved = poll_fn(|cx| poll_bodies(cx, visitor, upstream, &mut upload, &mut download)).await;
    let status = response.status;
    match moved {
        Ok(()) => Ending::Done {
            status,
            reuse: response.keep_alive && upload.is_over() && upstream.inbuf.is_empty(),
            idle: response.idle,
            keep: !response.close && upload.is_over() && !upload.visitor_ended,
        },
        Err(why) => Ending::Broken { status, why },
    }
}

/// The way of the request's body.
struct Upload<'m> {
    flow: Flow<'m>,
    state: UploadState,
    /// The visitor sends nothing more.
    visitor_ended: bool,
    patience: Patience,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UploadState {
    Moving,
    Over,
    /// The upstream takes no more; its answer may still come.
    Refused,
}

impl<'m> Upload<'m> {
    fn new(request: &Request, stats: &'m HttpStats) -> Upload<'m> {
        let flow = Flow::new(request.body, Frame::Keep, |name| !forbidden_in_trailer(name), &stats.bytes_in);
        Upload { flow, state: UploadState::Moving, visitor_ended: false, patience: Patience::default() }
    }

    fn is_over(&self) -> bool {
        self.state == UploadState::Over
    }

    /// Moves the body on; afterwards sees whether the visitor is still there.
    fn poll<S: VisitorIo>(
        &mut self,
        cx: &mut Context<'_>,
        visitor: &mut Side<S>,
        upstream: &mut Upstream,
    ) -> Result<(), FlowError> {
        if self.state == UploadState::Moving {
            match self.flow.poll(cx, visitor, upstream) {
                Poll::Ready(Ok(())) => self.state = UploadState::Over,
                Poll::Ready(Err(FlowError::Sink(_))) => self.state = UploadState::Refused,
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => return Ok(()),
            }
        }
        while self.is_over() && !self.visitor_ended && visitor.inbuf.len() < PIPELINE_MAX {
            match visitor.poll_fill(cx) {
                Poll::Ready(Ok(0)) => self.visitor_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Err(FlowError::Source(e)),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Gives up on a visitor that ended its side when nothing moves any more.
#[derive(Default)]
struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    seen: u64,
}

impl Patience {
    fn is_over(&mut self, cx: &mut Context<'_>, moved: u64) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
        while timer.as_mut().poll(cx).is_ready() {
            if self.seen == moved {
                return true;
            }
            self.seen = moved;
            timer.as_mut().reset(tokio::time::Instant::now() + HALF_CLOSED);
        }
        false
    }
}

/// Sends the request until the head of an answer is there; returns its length.
fn poll_head<S: VisitorIo>(
    cx: &mut Context<'_>,
    visitor: &mut Side<S>,
    upstream: &mut Upstream,
    upload: &mut Upload<'_>,
) -> Poll<Result<usize, Ending>> {
    match upload.poll(cx, visitor, upstream) {
        Ok(()) => {}
        Err(FlowError::Malformed(why)) => return Poll::Ready(Err(Ending::BadRequest(why))),
        Err(_) => return Poll::Ready(Err(Ending::Left)),
    }
    if upload.visitor_ended && upload.patience.is_over(cx, 0) {
        return Poll::Ready(Err(Ending::Left));
    }
    // Interim answers go out at once.
    match visitor.poll_drain(cx) {
        Poll::Ready(Err(_)) => return Poll::Ready(Err(Ending::Left)),
        // A visitor that does not take them makes the upstream wait: nobody fills our memory with interim answers.
        Poll::Pending if visitor.out.len() >= INTERIM_MAX => return Poll::Pending,
        _ => {}
    }
    let mut scan = HeadScan::default();
    loop {
        match scan.end(&upstream.inbuf, false) {
            Ok(Some(end)) => return Poll::Ready(Ok(end)),
            Ok(None) => {}
            Err(_) => return Poll::Ready(Err(Ending::BadAnswer("the head of its answer is too long"))),
        }
        match ready!(upstream.poll_fill(cx)) {
            Ok(0) if upstream.inbuf.is_empty() => {
                return Poll::Ready(Err(Ending::Gone(io::ErrorKind::UnexpectedEof.into())));
            }
            Ok(0) => return Poll::Ready(Err(Ending::BadAnswer("it hung up in the head of its answer"))),
            Ok(_) => {}
            Err(e) => return Poll::Ready(Err(Ending::Gone(e))),
        }
    }
}

/// Moves both bodies; ready when the answer is through.
fn poll_bodies<S: VisitorIo>(
    cx: &mut Context<'_>,
    visitor: &mut Side<S>,
    upstream: &mut Upstream,
    upload: &mut Upload<'_>,
    download: &mut Flow<'_>,
) -> Poll<Result<(), String>> {
    if let Err(e) = upload.poll(cx, visitor, upstream) {
        return Poll::Ready(Err(format!("the visitor broke off: {}", blame(&e))));
    }
    match download.poll(cx, upstream, visitor) {
        Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
        Poll::Ready(Err(FlowError::Sink(e))) => return Poll::Ready(Err(format!("the visitor broke off: {e}"))),
        Poll::Ready(Err(e)) => return Poll::Ready(Err(format!("the upstream broke off: {}", blame(&e)))),
        Poll::Pending => {}
    }
    if upload.visitor_ended && upload.patience.is_over(cx, download.moved) {
        return Poll::Ready(Err("the visitor left".into()));
    }
    Poll::Pending
}

fn blame(e: &FlowError) -> String {
    match e {
        FlowError::Source(e) | FlowError::Sink(e) => e.to_string(),
        FlowError::Malformed(why) => (*why).to_string(),
    }
}

/// Passes bytes both ways after `101`, until both sides have ended; the end of one is told to the other and the rest
/// goes on.
async fn upgrade<S: VisitorIo>(visitor: &mut Side<S>, upstream: &mut Upstream, stats: &HttpStats) -> Ending {
    let mut there = Way::new(Flow::new(Body::Eof, Frame::Keep, |_| true, &stats.bytes_in));
    let mut back = Way::new(Flow::new(Body::Eof, Frame::Keep, |_| true, &stats.bytes_out));
    let both = poll_fn(|cx| {
        let a = there.poll(cx, visitor, upstream)?;
        let b = back.poll(cx, upstream, visitor)?;
        if a.is_ready() && b.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    match both.await {
        Ok(()) => Ending::Upgraded,
        Err(e) => Ending::Broken { status: 101, why: blame(&e) },
    }
}

/// One direction of an upgraded connection.
struct Way<'m> {
    flow: Flow<'m>,
    state: WayState,
}

enum WayState {
    Moving,
    Closing,
    Closed,
}

impl<'m> Way<'m> {
    fn new(flow: Flow<'m>) -> Way<'m> {
        Way { flow, state: WayState::Moving }
    }

    fn poll<A: super::Io, B: super::Io>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<A>,
        to: &mut Side<B>,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            match self.state {
                WayState::Moving => {
                    ready!(self.flow.poll(cx, from, to))?;
                    self.state = WayState::Closing;
                }
                WayState::Closing => {
                    match ready!(to.poll_close(cx)) {
                        // Hung up already: that is the end as well.
                        Err(e) if e.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(FlowError::Sink(e)));
                        }
                        _ => self.state = WayState::Closed,
                    }
                }
                WayState::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// How a visitor with this request is answered.
pub(super) fn reply_to(request: &Request) -> Reply {
    Reply { method: request.method, http10: request.http10, close: !request.keep_alive }
}

/// How a visitor is answered whose request could not be read.
pub(super) const REPLY_UNREAD: Reply = Reply { method: Method::Other, http10: false, close: true };
