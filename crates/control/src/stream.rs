//! A map stream: a client hears of the network as it changes. In: pictures, questions to the node. Out: messages, each
//! with its length before it, a whole map first. Source: Tailscale's `control/controlclient`, `MapResponse`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use addr::Addr;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use tailnet::Sent;
use tailnet_proto::tailcfg::map::MapResponse;
use tokio::sync::mpsc;
use tracing::{debug, error};

use super::state::ControlState;
use runtime::owner::Kind;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a client wants its messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) zstd: bool,
    pub(super) keep_alive: bool,
}

/// A sign of life this often: official clients give up after two minutes without one, proxies after one.
const KEEP_ALIVE: Duration = Duration::from_secs(50);
/// Changes that come together are told together; a person does not notice, and a thousand clients that come back at
/// once cost one message each and not a thousand.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A client that takes nothing for this long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Fast compression: maps are told often and read once.
const LEVEL: i32 = 1;

/// The body of a stream that goes on.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }
}

/// Starts a stream for a node.
pub(super) fn start(state: &Arc<ControlState>, id: u64, from: Addr, how: How) -> Body {
    let (frames, body) = mpsc::channel(1);
    let state = state.clone();
    let run = state.run.clone();
    run.visit("map stream", async move {
        let mut opened = state.open(id);
        let stream = opened.stream;
        // Waited for, so that the first map has the node as online.
        let _ = state
            .registry
            .make(Kind::Keeps, move |registry, now| registry.connected(id, stream, Some(from), now))
            .await;
        follow(&state, id, how, &frames, &mut opened).await;
        state.close(id, stream);
        state.registry.notify(move |registry, now| registry.disconnected(id, stream, now));
    });
    Frames(body).boxed_unsync()
}

/// The whole map, once.
pub(super) fn once(state: &ControlState, id: u64, how: How) -> Option<Bytes> {
    let snapshot = state.registry.now();
    let derp = state.derp(&snapshot);
    let message = Sent::default().advance(&snapshot, id, (derp.0, &derp.1))?;
    frame(&message, how)
}

async fn follow(
    state: &ControlState,
    id: u64,
    how: How,
    frames: &mpsc::Sender<Bytes>,
    opened: &mut super::state::Opened,
) {
    let mut snapshot = state.registry.snapshot.clone();
    let mut sent = Sent::default();
    let mut relays = state.derp.subscribe();
    let mut heard = None;
    let mut known = snapshot.borrow().nodes.get(&id).map(|m| m.node.clone());
    let stopping = state.run.stopping();
    tokio::pin!(stopping);
    let mut quiet = tokio::time::interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    loop {
        let now = snapshot.borrow_and_update().clone();
        let Some(node) = now.nodes.get(&id).map(|m| m.node.clone()) else {
            if let Some(node) = known {
                let bytes = frame(&sent.farewell(&now, &node), how);
                send(frames, bytes).await;
            }
            return;
        };
        // Gone on with another key: this stream is nobody's.
        if known.as_ref().map(|n| n.key) != Some(node.key) {
            return;
        }
        known = Some(node);
        // Untrusted peers that wait for approval make snapshots too; nodes have nothing to hear of them.
        let mut news = || {
            let derp = state.derp(&now);
            // Only its bytes stay while the client takes them.
            sent.advance(&now, id, (derp.0, &derp.1)).map(|message| frame(&message, how))
        };
        let revision = Some((now.revision, relays.borrow_and_update().0));
        let bytes = if std::mem::replace(&mut heard, revision) == revision { None } else { news() };
        drop(now);
        if let Some(bytes) = bytes {
            let taken = tokio::select! {
                taken = send(frames, bytes) => taken,
                () = opened.end.cancelled() => false,
            };
            if !taken {
                debug!(node = id, "map stream stalled, closed");
                return;
            }
            quiet.reset();
        }
        let bytes = tokio::select! {
            changed = snapshot.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(DEBOUNCE).await;
                continue;
            }
            changed = relays.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            Some(ping) = opened.pings.recv() => {
                frame(&MapResponse { ping_request: Some(*ping), ..MapResponse::default() }, how)
            }
            _ = quiet.tick(), if how.keep_alive => {
                frame(&MapResponse { keep_alive: true, ..MapResponse::default() }, how)
            }
            () = frames.closed() => return,
            () = opened.end.cancelled() => return,
            () = &mut stopping => return,
        };
        if !send(frames, bytes).await {
            return;
        }
    }
}

async fn send(frames: &mpsc::Sender<Bytes>, bytes: Option<Bytes>) -> bool {
    let Some(bytes) = bytes else { return false };
    matches!(tokio::time::timeout(WRITE_TIMEOUT, frames.send(bytes)).await, Ok(Ok(())))
}

/// What maps are written and compressed in. Each thread keeps one: maps are large, streams keep little, and small things
/// that stay between large ones that go would hold their memory.
struct Scratch {
    json: Vec<u8>,
    packed: Vec<u8>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

/// A thread keeps no more than this for the next map: one of about a thousand nodes.
const SCRATCH: usize = 1 << 20;

thread_local! {
    static HERE: RefCell<Scratch> = const { RefCell::new(Scratch { json: Vec::new(), packed: Vec::new(), zstd: None }) };
}

/// A message with its length, 32 bits little-endian, before it.
fn frame(message: &MapResponse, how: How) -> Option<Bytes> {
    HERE.with_borrow_mut(|s| {
        let framed = s.frame(message, how).map_err(|e| error!(err = format!("{e:#}"), "cannot write a map")).ok();
        if s.json.capacity() > SCRATCH {
            (s.json, s.packed) = (Vec::new(), Vec::new());
        }
        framed
    })
}

/// Small tables: what repeats in a map repeats soon.
fn compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    use zstd::zstd_safe::CParameter::{HashLog, WindowLog};
    let mut z = zstd::bulk::Compressor::new(LEVEL)?;
    z.set_parameter(WindowLog(16))?;
    z.set_parameter(HashLog(12))?;
    Ok(z)
}

impl Scratch {
    fn frame(&mut self, message: &MapResponse, how: How) -> anyhow::Result<Bytes> {
        self.json.clear();
        serde_json::to_writer(&mut self.json, message)?;
        let body = if how.zstd {
            let zstd = match &mut self.zstd {
                Some(z) => z,
                none => none.insert(compressor()?),
            };
            self.packed.clear();
            self.packed.reserve(zstd::zstd_safe::compress_bound(self.json.len()));
            zstd.compress_to_buffer(&self.json, &mut self.packed)?;
            &self.packed
        } else {
            &self.json
        };
        let mut out = BytesMut::with_capacity(body.len() + 4);
        out.put_u32_le(u32::try_from(body.len())?);
        out.extend_from_slice(body);
        Ok(out.freeze())
    }
}
