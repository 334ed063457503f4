//! The listening port of a coordination server: plain HTTP, and TLS where a connection begins with it. In: connections.
//! Out: the server's key, control channels, relays, a page for waiting nodes, metrics.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::Addr;
use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use net::serve::Listener;
use net::sockets;
use tailnet_proto::meshkey::{MachinePrivate, NodePrivate};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::apps::Lookups;
use super::channel;
use super::machine::MIN_CAPABILITY_VERSION;
use super::registry::RegistryHandle;
use super::state::ControlState;
use super::{ControlSettings, page, relays};
use runtime::answer;
use runtime::hint::Hinted;
use runtime::http1;
use runtime::run::Run;

/// What a connection may make the server hold until it has proved something: its task, its request's head, buffers.
const PLAIN_BYTES: usize = 32 * 1024;
/// The same of its TLS, on top: one handshake message and records under way.
const TLS_BYTES: usize = 64 * 1024;
/// How often it is looked whether a crowd has left, and how many bytes make one.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
const TRIM_THRESHOLD: usize = 8 << 20;
/// A client's first byte, its TLS handshake, its request: who takes longer is no client.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The heads of official clients have a few hundred bytes.
const HTTP: http1::Limits = http1::Limits { head: HEAD_TIMEOUT, buffer: 16 * 1024, keep_alive: true };
/// Where official clients go when plain HTTP has failed them.
const HTTPS: u16 = 443;
/// The first byte of a TLS connection (RFC 8446, section 5.1: handshake).
const TLS: u8 = 0x16;

/// A server that listens.
pub(super) struct Listening {
    pub(super) state: Arc<ControlState>,
    pub(super) addrs: Vec<SocketAddr>,
    /// The fingerprint of its certificate that clients must pin, if they must.
    pub(super) pin: Option<[u8; 32]>,
}

/// Binds and serves.
pub(super) fn listen(
    run: &Run,
    settings: &ControlSettings,
    registry: RegistryHandle,
    machine: MachinePrivate,
    relay: NodePrivate,
    lookups: Lookups,
) -> anyhow::Result<Listening> {
    let tls = relays::tls(settings)?;
    let map = relays::map(settings, tls.pin);
    let relay = relays::start(run, settings, relay, &registry)?;
    let state = Arc::new(ControlState::new(registry, settings, machine, run.clone(), (map, relay), lookups));
    let (ours, stopping) = (state.clone(), run.stopping());
    run.spawn("control memory", async move {
        tokio::select! {
            () = give_memory_back(&ours) => {}
            () = stopping => {}
        }
        Ok(())
    });
    let mut addrs = Vec::new();
    let mut serve = |listener: Listener| -> anyhow::Result<()> {
        addrs.push(listener.local_addr().context("a listener without an address")?);
        let (run2, state, acceptor) = (run.clone(), state.clone(), tls.acceptor.clone());
        run.spawn("control listener", async move { accept(run2, listener, state, acceptor).await });
        Ok(())
    };
    for at in &settings.listen {
        let listener = Listener::bind("control", *at).map_err(|e| {
            Hinted::error(format!("cannot listen on {at}: {e}"), "choose another address with `--listen ADDR:PORT`")
        })?;
        serve(listener)?;
    }
    for at in also_443(settings) {
        match Listener::bind("control", at) {
            Ok(listener) => serve(listener)?,
            Err(e) => warn!(
                addr = %at,
                err = %e,
                "cannot listen; clients that lose their connection to {} come back through port 443 only: \
                 free it, or use an https URL",
                settings.server_url
            ),
        }
    }
    Ok(Listening { state, addrs, pin: tls.pin })
}

/// After a crowd has left, its memory goes back to the system.
async fn give_memory_back(state: &ControlState) {
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        if state.crowd_has_left(TRIM_THRESHOLD) {
            // It may take some milliseconds.
            let _ = tokio::task::spawn_blocking(net::memory::give_back).await;
        }
    }
}

/// Where clients look for the server after they have lost it, beside where it was told to listen.
fn also_443(settings: &ControlSettings) -> Vec<SocketAddr> {
    let listens = |port: u16| settings.listen.iter().any(|at| at.port() == port);
    // A port of its own choosing is a test's: nobody comes back to it.
    if !settings.server_url.needs_443() || listens(HTTPS) || !listens(settings.server_url.port) {
        return Vec::new();
    }
    let mut all: Vec<SocketAddr> = settings.listen.iter().map(|at| SocketAddr::new(at.ip(), HTTPS)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

async fn accept(run: Run, listener: Listener, state: Arc<ControlState>, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    let mut stopping = pin!(run.stopping());
    while let Some((socket, peer)) = listener.accept_until(stopping.as_mut()).await {
        let from = Addr::of(peer);
        // Proxies bring everybody's connections.
        let stranger = (!state.trusted.read().contains(from)).then_some(from);
        let mut place = match state.place(stranger, PLAIN_BYTES) {
            Ok(place) => place,
            Err(why) => {
                debug!(%peer, %why, "connection closed");
                continue;
            }
        };
        let (state, acceptor) = (state.clone(), acceptor.clone());
        run.connection("control connection", peer, async move {
            sockets::tune(&socket);
            match tokio::time::timeout(HEAD_TIMEOUT, first(&socket)).await {
                Ok(Some(TLS)) if place.grow(TLS_BYTES).is_err() => {
                    debug!(why = "no memory is left for its TLS", "connection closed")
                }
                Ok(Some(TLS)) => match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(socket)).await {
                    Ok(Ok(io)) => serve(&state, io, from).await,
                    Ok(Err(e)) => debug!(err = %e, "TLS handshake failed"),
                    Err(_) => debug!("no TLS handshake in time"),
                },
                Ok(Some(_)) => serve(&state, socket, from).await,
                Ok(None) | Err(_) => debug!("nothing was sent"),
            }
            drop(place);
        });
    }
    Ok(())
}

/// The first byte, left where it is.
async fn first(socket: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    matches!(socket.peek(&mut byte).await, Ok(1)).then_some(byte[0])
}

async fn serve(state: &Arc<ControlState>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Addr) {
    if let Err(e) = http1::serve(io, HTTP, state.run.stopping(), |request| respond(state, peer, request)).await {
        debug!(err = %e, "connection failed");
    }
}

async fn respond(state: &Arc<ControlState>, peer: Addr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(from) = visitor(state, peer, request.headers()) else {
        return answer::text(StatusCode::BAD_REQUEST, "the proxy's headers about the client contradict each other\n");
    };
    let path = request.uri().path().to_string();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let (what, response) = match path.as_str() {
        "/ts2021" => ("channel", channel::upgrade(state, request, peer, from)),
        "/derp" | "/derp/probe" | "/derp/latency-check" | "/generate_204" => {
            ("relay", relays::answer(state, request, from))
        }
        "/key" if get => ("key", key(state, request.uri().query())),
        "/health" | "/healthz" if get => ("health", answer::json(&b"{\"status\":\"pass\"}\n"[..])),
        "/bootstrap-dns" if get => ("bootstrap-dns", answer::json(&b"{}\n"[..])),
        "/" if get => ("page", page_of(StatusCode::OK, page::front(&state.url.to_string()))),
        p if get && p.starts_with("/register/") => {
            let (status, text) = page::waiting(&state.registry.now(), &p["/register/".len()..]);
            ("page", page_of(status, text))
        }
        _ => ("unknown", answer::text(StatusCode::NOT_FOUND, "there is nothing here\n")),
    };
    state.count(what, response.status().as_u16());
    response
}

/// The client's address, behind proxies that are trusted; `None` if their headers cannot be believed.
fn visitor(state: &ControlState, peer: Addr, headers: &HeaderMap) -> Option<Addr> {
    let all = |name: &str| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    match access::visitor::trace(peer, &all("x-forwarded-for"), &all("forwarded"), &state.trusted.read()) {
        Ok(traced) => Some(traced.addr),
        Err(e) => {
            if let Some(held_back) = state.unbelieved.spend(Instant::now()) {
                info!(%peer, held_back, err = %e, "request of a proxy refused");
            }
            None
        }
    }
}

/// The server's public key, for clients that know capability versions.
fn key(state: &ControlState, query: Option<&str>) -> Response<Full<Bytes>> {
    let known = query.unwrap_or_default().split('&').find_map(|p| p.strip_prefix("v="));
    match known.map(str::parse::<u32>) {
        Some(Ok(v)) if v >= MIN_CAPABILITY_VERSION => {}
        Some(Ok(_)) => {
            return answer::text(StatusCode::BAD_REQUEST, "this client is too old for this server; update it\n");
        }
        _ => return answer::text(StatusCode::BAD_REQUEST, "the capability version is missing: /key?v=NUMBER\n"),
    }
    let public = state.machine.public();
    let none = tailnet_proto::meshkey::MachineKey::default();
    answer::json(format!("{{\"legacyPublicKey\":\"{none}\",\"publicKey\":\"{public}\"}}\n"))
}

/// A page, which no other site shows in a frame of its own.
fn page_of(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut out = answer::html(status, body);
    out.headers_mut().append(CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'"));
    out
}
