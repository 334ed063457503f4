//! The control channel: a Noise handshake inside an HTTP upgrade, HTTP/2 inside it. In: an upgraded connection. Out:
//! requests of a machine that has proved its key. Source: Tailscale's `control/controlhttp` and `control/controlbase`.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::Addr;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use runtime::answer;
use tailnet_proto::noise::{Accepted, Initiation, respond};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::{debug, warn};

use super::machine;
use super::noise_stream::NoiseStream;
use super::state::{ControlState, Place};

/// The protocol that clients ask to switch to.
const PROTOCOL: &str = "tailscale-control-protocol";
/// Where the first message of the handshake stands.
const HANDSHAKE: &str = "x-tailscale-handshake";
/// Requests of one client under way: official ones have a map stream, an update, an answer.
const MAX_CONCURRENT_REQUESTS: u32 = 16;
/// A client that does not even finish the handshake is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// A client that sends nothing for this long is asked whether it lives; longer than signs of life on its map stream, so
/// that a phone is not woken for it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(120);
/// Flow control windows: what clients send is small, and each window is memory that a client may fill.
const WINDOW: u32 = 64 * 1024;
/// Longest list of headers.
const HEADERS: u32 = 16 * 1024;
/// What the server says first (`EarlyNoise`): some clients, as the Rust crate `tailscale`, wait for it before they speak.
/// Nobody is asked here to prove a node's key, so it holds no challenge.
const EARLY: &[u8] = b"{}";
/// Bytes of an answer that wait for a client which does not read.
const UNSENT: usize = 256 * 1024;

/// What a channel of a machine without a node may hold, requests of several streams and buffers included, in bytes
/// (75 KiB were seen with all windows full).
const UNTRUSTED_BYTES: usize = 128 * 1024;
/// Its bounds in HTTP/2: it registers, and waits. The connection's window cannot be smaller than that (RFC 9113,
/// section 6.9.2).
const UNTRUSTED_AT_ONCE: u32 = 6;
const UNTRUSTED_WINDOW: u32 = 32 * 1024;
const UNTRUSTED_WINDOWS: u32 = 65_535;
const UNTRUSTED_HEADERS: u32 = 4 * 1024;
/// A machine that has no node after this long, and for which no page waits, has no business here.
const UNTRUSTED_STAY: Duration = Duration::from_secs(60);

/// Answers `POST /ts2021`. `peer` is who the connection comes from, `from` the client behind it.
pub(super) fn upgrade(
    state: &Arc<ControlState>,
    request: Request<Incoming>,
    peer: Addr,
    from: Addr,
) -> Response<Full<Bytes>> {
    let has = |name: HeaderName, word: &str| {
        let all = request.headers().get_all(name);
        let mut words = all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        words.any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    let asks = has(UPGRADE, PROTOCOL) && has(CONNECTION, "upgrade");
    if !asks && request.headers().contains_key(HANDSHAKE) {
        // Only a client of ours says that, so something in between took the rest away.
        if let Some(held_back) = state.no_upgrade.spend(Instant::now()) {
            warn!(
                held_back,
                %peer,
                "a client cannot connect: its request came by {peer} without `Upgrade: {PROTOCOL}` and `Connection: upgrade`; \
                 if that is your proxy, let it pass both on, as for WebSockets (nginx: `proxy_http_version 1.1`, \
                 `proxy_set_header Upgrade $http_upgrade`, `proxy_set_header Connection upgrade`)"
            );
        }
    }
    if request.method() != Method::POST || !asks {
        return answer::text(
            StatusCode::UPGRADE_REQUIRED,
            "this path speaks the control protocol of official clients\n",
        );
    }
    let first = request.headers().get(HANDSHAKE).and_then(|v| v.to_str().ok()).map(str::trim).unwrap_or_default();
    let first = STANDARD.decode(first).or_else(|_| STANDARD_NO_PAD.decode(first));
    let Some(initiation) = first.ok().and_then(|b| Initiation::try_from(b.as_slice()).ok()) else {
        return answer::text(StatusCode::BAD_REQUEST, "the first message of the handshake is missing or damaged\n");
    };
    if u32::from(initiation.version()) < machine::MIN_CAPABILITY_VERSION {
        debug!(%from, version = initiation.version(), "client too old");
        return answer::text(StatusCode::BAD_REQUEST, "this client is too old for this server; update it\n");
    }
    // The connection's own place ends with the upgrade. Who sent this has proved nothing: it may be a replay.
    let place = match state.place(Some(from), UNTRUSTED_BYTES) {
        Ok(place) => place,
        Err(why) => {
            debug!(%from, %why, "channel refused");
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many clients are connected\n");
        }
    };
    let accepted = match respond(&state.machine, &initiation, rand::random()) {
        Ok(a) => a,
        Err(e) => {
            debug!(%from, err = %e, "handshake refused");
            return answer::text(StatusCode::BAD_REQUEST, "the handshake was not made for this server's key\n");
        }
    };
    let (state, run) = (state.clone(), state.run.clone());
    run.connection("control channel", from, async move {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, hyper::upgrade::on(request)).await {
            Ok(Ok(io)) => serve(state, TokioIo::new(io), accepted, from, place).await,
            Ok(Err(e)) => debug!(err = %e, "upgrade failed"),
            Err(_) => debug!("no upgrade in time"),
        }
    });
    let mut switching = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    switching.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    switching.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    switching
}

type Noise = NoiseStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Ends the handshake. Its first record proves a machine's key: whoever replays somebody's first message ends here.
async fn greet(mut io: TokioIo<hyper::upgrade::Upgraded>, accepted: Accepted) -> Option<(Noise, [u8; PREFACE])> {
    let machine = accepted.peer;
    let sent = async {
        io.write_all(&accepted.response).await?;
        io.flush().await
    };
    if !matches!(tokio::time::timeout(HANDSHAKE_TIMEOUT, sent).await, Ok(Ok(()))) {
        return None;
    }
    let mut io = NoiseStream::new(io, accepted.session, Vec::new());
    if !matches!(tokio::time::timeout(HANDSHAKE_TIMEOUT, io.send_early_payload(EARLY)).await, Ok(Ok(()))) {
        return None;
    }
    let mut preface = [0; PREFACE];
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, io.read_exact(&mut preface)).await {
        Ok(Ok(_)) => return Some((io, preface)),
        Ok(Err(e)) => debug!(machine = %machine.short(), err = %e, "handshake failed"),
        Err(_) => debug!(machine = %machine.short(), "no preface in time"),
    }
    None
}

async fn serve(
    state: Arc<ControlState>,
    io: TokioIo<hyper::upgrade::Upgraded>,
    accepted: Accepted,
    from: Addr,
    mut place: Place,
) {
    let machine = accepted.peer;
    // Boxed, like the connection below: a channel lasts for weeks and holds no more than it needs then.
    let Some((io, preface)) = Box::pin(greet(io, accepted)).await else { return };
    let entered = state.enter(machine);
    let (read, write) = tokio::io::split(io);
    let io = tokio::io::join(Cursor::new(preface).chain(read), write);
    let ending = state.run.stopping();
    let known = state.registry.now().knows(&machine);
    if known {
        place.proved();
    }
    let asker = Arc::new(machine::ChannelPeer::new(machine, from, place));
    let service = {
        let (state, asker) = (state.clone(), asker.clone());
        service_fn(move |request| {
            let (state, asker) = (state.clone(), asker.clone());
            // Boxed: a map stream's request stays for as long as the stream, and needs no room for how it was answered.
            Box::pin(async move { Ok::<_, Infallible>(machine::answer(&state, &asker, request).await) })
        })
    };
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let (streams, window, windows, headers) = if known {
        (MAX_CONCURRENT_REQUESTS, WINDOW, WINDOW * 2, HEADERS)
    } else {
        (UNTRUSTED_AT_ONCE, UNTRUSTED_WINDOW, UNTRUSTED_WINDOWS, UNTRUSTED_HEADERS)
    };
    http.timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .initial_stream_window_size(window)
        .initial_connection_window_size(windows)
        .max_header_list_size(headers)
        .max_send_buf_size(UNSENT)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(HANDSHAKE_TIMEOUT * 3);
    let mut connection = Box::pin(http.serve_connection(TokioIo::new(io), service));
    drop(http);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = entered.cut.cancelled() => return debug!(machine = %machine.short(), why = "newer channels", "channel closed"),
        () = without_business(&state, &asker), if !known => {
            return debug!(machine = %machine.short(), why = "no node, and asks for none", "channel closed");
        }
        () = ending => {
            // Map streams end by themselves now; nothing else takes long.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = done {
        debug!(machine = %machine.short(), err = %e, "channel failed");
    }
}

/// Ends when a machine neither has a node nor waits for one.
async fn without_business(state: &ControlState, asker: &machine::ChannelPeer) {
    loop {
        tokio::time::sleep(UNTRUSTED_STAY).await;
        if asker.is_known() {
            return std::future::pending().await;
        }
        let now = state.registry.now();
        if !now.pending.values().any(|p| p.machine == asker.machine()) && !now.knows(&asker.machine()) {
            return;
        }
    }
}
