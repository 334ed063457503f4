//! TCP ports of an edge. In: ports that clients publish, visitors. Out: visitors on streams. The address is judged on
//! accept, before a byte is read or written; a listener outlives its client for the grace time and holds visitors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use access::{Refusal, Service};
use addr::Addr;
use net::serve::{Listener, Slot, source};
use net::sockets;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tunnel_proto::frame::ResetCode;
use tunnel_proto::hello::{Reject, RejectCode};
use tunnel_proto::proxy_line;

use super::super::balancer;
use super::super::relay::relay;
use super::super::settings::TcpPlane;
use super::super::stream::Stream;
use super::{Edge, PRIVILEGED, say};
use runtime::admission::{AccessGuard, ConnectionGuard};

/// A port stays bound this long before it is looked at as unused: a session is joined right after its ports are open.
const OPEN_GRACE: Duration = Duration::from_secs(5);

/// Listening ports of all edges of this process, by edge.
#[derive(Default)]
pub(super) struct Ports {
    open: Mutex<BTreeMap<u16, Opened>>,
}

struct Opened {
    close: CancellationToken,
    at: std::time::Instant,
}

/// Listens on a port for a client, if the edge allows it. Already open is fine: clients share the load.
///
/// # Errors
/// What to tell the client.
pub(super) fn open(edge: &Arc<Edge>, port: u16) -> Result<(), Reject> {
    let settings = edge.settings();
    let Some(TcpPlane { addr, allow_ports }) = &settings.tcp else {
        let reason = "this edge opens no TCP ports; it was started as `http server`: use `portcullis http client`";
        return Err(Reject::for_good(RejectCode::NotOffered, reason));
    };
    if !allow_ports.contains(port) {
        let reason =
            format!("port {port} is not among the ports that clients may open here (--allow-ports {allow_ports})");
        return Err(Reject::for_good(RejectCode::NotAllowed, reason));
    }
    let mut open = edge.ports.open.lock();
    if let Some(opened) = open.get_mut(&port) {
        opened.at = std::time::Instant::now();
        return Ok(());
    }
    let at = SocketAddr::new(*addr, port);
    let listener = Listener::bind("tcp port", at).map_err(|e| {
        // Another process may let go of the port; a port that needs privileges never comes.
        let is_final = e.kind() == std::io::ErrorKind::PermissionDenied;
        let hint = if is_final && port < 1024 { format!("; at the edge: {PRIVILEGED}") } else { String::new() };
        let reason = format!("the edge cannot listen on {at}: {e}{hint}");
        Reject { code: RejectCode::CannotListen, reason, is_final }
    })?;
    let close = CancellationToken::new();
    open.insert(port, Opened { close: close.clone(), at: std::time::Instant::now() });
    drop(open);
    info!(plane = "tcp", addr = %at, "listening");
    let guard = edge.admission.guard(Service::Port(port));
    let edge = edge.clone();
    let run = edge.run.clone();
    run.spawn("tcp port", async move {
        accept(&edge, port, listener, &guard, &close).await;
        Ok(())
    });
    Ok(())
}

/// Closes ports that nobody publishes and nobody is expected back for.
pub(super) fn close_unused(edge: &Edge) {
    let wanted = edge.table.ports();
    edge.ports.open.lock().retain(|port, opened| {
        let keep = wanted.contains(port) || opened.at.elapsed() < OPEN_GRACE;
        if !keep {
            info!(plane = "tcp", port, why = "no client publishes it", "port closed");
            opened.close.cancel();
        }
        keep
    });
}

/// Closes ports that other settings take away.
pub(super) fn close_if(edge: &Edge, closed: impl Fn(u16) -> bool) {
    edge.ports.open.lock().retain(|port, opened| {
        let close = closed(*port);
        if close {
            info!(plane = "tcp", port, "closed: the settings changed");
            opened.close.cancel();
        }
        !close
    });
}

async fn accept(edge: &Arc<Edge>, port: u16, listener: Listener, guard: &AccessGuard, close: &CancellationToken) {
    let mut over = pin!(async {
        close.run_until_cancelled(edge.run.stopping()).await;
    });
    while let Some((socket, peer)) = listener.accept_until(over.as_mut()).await {
        // Behind a balancer its PROXY line names the visitor; whoever else connects is judged as itself.
        let (pass, slot) = if edge.balances(peer) {
            (None, edge.visitors.take_trusted())
        } else {
            match guard.admit(Addr::of(peer)) {
                Ok(pass) => (Some(pass), edge.visitors.take(source(peer))),
                Err(why) => {
                    refused(edge, port, peer, &why);
                    continue;
                }
            }
        };
        let slot = match slot {
            Ok(slot) => slot,
            Err(why) => {
                say(&edge.lines.visitors_full, format_args!("port {port}"), peer, "connection closed", why);
                continue;
            }
        };
        edge.stats.tcp_visitors.fetch_add(1, Ordering::Relaxed);
        let visit = Visit { edge: edge.clone(), port, peer, guard: guard.clone(), slot };
        edge.run.connection("tcp visitor", peer, visit.serve(socket, pass));
    }
}

fn refused(edge: &Edge, port: u16, peer: SocketAddr, why: &Refusal) {
    edge.stats.tcp_refused.fetch_add(1, Ordering::Relaxed);
    say(&edge.lines.visitor_refused, format_args!("port {port}"), peer, "connection refused", why);
}

struct Visit {
    edge: Arc<Edge>,
    port: u16,
    /// The visitor, or its balancer until the PROXY line is read.
    peer: SocketAddr,
    guard: AccessGuard,
    /// Its place, counted for whoever it is.
    slot: Slot,
}

impl Visit {
    async fn serve(mut self, socket: TcpStream, pass: Option<ConnectionGuard>) {
        sockets::tune(&socket);
        let pass = match pass {
            Some(pass) => pass,
            // Boxed: its buffer would stay part of every visitor.
            None => match Box::pin(self.behind_balancer(&socket)).await {
                Some(pass) => pass,
                None => return,
            },
        };
        let mut stream = tokio::select! {
            found = Box::pin(self.find()) => match found {
                Some(stream) => stream,
                None => return,
            },
            () = pass.cut() => return,
        };
        let socket = Arc::new(socket);
        let moved = tokio::select! {
            moved = self.carry(&socket, &mut stream) => moved,
            () = pass.cut() => {
                stream.reset(ResetCode::Cut, "the visitor's address is no longer allowed");
                sockets::reset_on_close(&socket);
                info!(port = self.port, peer = %self.peer, why = pass.why(), "connection cut");
                return;
            }
        };
        if let Err(e) = moved {
            debug!(port = self.port, err = %e, "connection failed");
        }
    }

    /// A stream to a client that publishes the port; waits for one that is reconnecting.
    async fn find(&self) -> Option<Stream> {
        // A session may die between being found and being used.
        for _ in 0..3 {
            let (session, upstream, _) = self.edge.table.find(|routes| routes.port(self.port)).await?;
            if let Some(stream) = session.open(upstream, self.peer) {
                return Some(stream);
            }
            tokio::task::yield_now().await;
        }
        debug!(port = self.port, why = "no client has room for another stream", "connection closed");
        None
    }

    async fn carry(&self, socket: &Arc<TcpStream>, stream: &mut Stream) -> std::io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        let version = self.edge.settings.borrow().proxy_protocol;
        if let Some(version) = version {
            let to = socket.local_addr()?;
            stream.write_all(&proxy_line::encode(version, self.peer, to)).await?;
        }
        relay(socket, stream).await
    }

    /// Reads the balancer's PROXY line and judges the visitor that it names.
    async fn behind_balancer(&mut self, socket: &TcpStream) -> Option<ConnectionGuard> {
        let version = self.edge.settings().lb_proxy_protocol?;
        match balancer::take_line(socket, version).await {
            Ok(source) => self.peer = source.unwrap_or(self.peer),
            Err(e) => {
                let plane = format_args!("port {}", self.port);
                say(&self.edge.lines.bad_proxy_line, plane, self.peer, "connection of a balancer closed", e);
                return None;
            }
        }
        let pass = self
            .guard
            .admit(Addr::of(self.peer))
            .map_err(|why| refused(&self.edge, self.port, self.peer, &why))
            .ok()?;
        if let Err(why) = self.slot.moved_to(source(self.peer)) {
            let plane = format_args!("port {}", self.port);
            say(&self.edge.lines.visitors_full, plane, self.peer, "connection closed", why);
            return None;
        }
        Some(pass)
    }
}
