//! The HTTP plane's way to the sessions: finds targets, opens streams, accepts visitors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use anyhow::Result;
use net::serve::{Listener, source};
use net::sockets;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::super::balancer;
use super::super::http::{HttpPlane, Io, Router, Speaks, Target, Visitor, serve_as_peer, serve_connection};
use super::{Edge, say};

/// Sessions as the HTTP plane sees them.
pub(super) struct Web {
    edge: Arc<Edge>,
}

impl Web {
    pub(super) fn new(edge: Arc<Edge>) -> Web {
        Web { edge }
    }
}

impl Router for Web {
    fn route<'a>(&'a self, host: &'a str, path: &'a str) -> Pin<Box<dyn Future<Output = Option<Target>> + Send + 'a>> {
        Box::pin(async move {
            let (session, upstream, prefix) = self.edge.table.find(|routes| routes.http(host, path)).await?;
            let name = session.name(upstream).into();
            let published = session.upstream(upstream)?;
            let speaks = match (published.h2, published.alpn) {
                (true, _) => Speaks::Http2,
                (false, true) => Speaks::Either,
                (false, false) => Speaks::Http1,
            };
            let change = &published.rewrite;
            let rewrite = (!change.is_empty()).then(|| Arc::new(change.clone()));
            Some(Target { session: session.id, upstream: u32::from(upstream), name, prefix, speaks, rewrite })
        })
    }

    fn open<'a>(
        &'a self,
        target: &'a Target,
        visitor: Visitor,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>> {
        Box::pin(async move {
            let gone = || io::Error::new(io::ErrorKind::ConnectionReset, "its client has just left");
            let session = self.edge.table.sessions().into_iter().find(|s| s.id == target.session).ok_or_else(gone)?;
            let upstream = u16::try_from(target.upstream).map_err(io::Error::other)?;
            let from = SocketAddr::new(visitor.addr.ip(), visitor.peer.port());
            let stream = session.open(upstream, from).ok_or_else(gone)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Accepts visitors until the run stops or another listener takes its place.
pub(super) async fn accept(
    edge: Arc<Edge>,
    plane: Arc<HttpPlane<Web>>,
    listener: Listener,
    close: CancellationToken,
) -> Result<()> {
    let mut over = pin!(async {
        close.run_until_cancelled(edge.run.stopping()).await;
    });
    while let Some((socket, peer)) = listener.accept_until(over.as_mut()).await {
        // Who speaks for many is counted as one of all only.
        let slot = if edge.balances(peer) || edge.trusts(peer) {
            edge.visitors.take_trusted()
        } else {
            edge.visitors.take(source(peer))
        };
        let mut slot = match slot {
            Ok(slot) => slot,
            Err(why) => {
                say(&edge.lines.visitors_full, "http", peer, "connection closed", why);
                continue;
            }
        };
        let (edge, plane) = (edge.clone(), plane.clone());
        let run = edge.run.clone();
        run.connection("http visitor", peer, async move {
            sockets::tune(&socket);
            match behind_balancer(&edge, &socket, peer).await {
                Some(Came::Straight(visitor)) => {
                    if visitor != peer
                        && !edge.trusts(visitor)
                        && let Err(why) = slot.moved_to(source(visitor))
                    {
                        say(&edge.lines.visitors_full, "http", visitor, "connection closed", why);
                        return;
                    }
                    serve_connection(&plane, socket, visitor).await;
                }
                Some(Came::OfBalancer) => serve_as_peer(&plane, socket, peer).await,
                None => {}
            }
            drop(slot);
        });
    }
    if edge.run.is_stopping() {
        plane.drain();
    }
    Ok(())
}

/// How a connection came.
enum Came {
    /// From this visitor, or this proxy that speaks for visitors.
    Straight(SocketAddr),
    /// From a balancer that named nobody. It passes on what untrusted peers send: no header of theirs is believed.
    OfBalancer,
}

/// The visitor, once the PROXY line of a trusted balancer is taken off the connection.
async fn behind_balancer(edge: &Edge, socket: &TcpStream, peer: SocketAddr) -> Option<Came> {
    let Some(version) = edge.settings().lb_proxy_protocol.filter(|_| edge.balances(peer)) else {
        return Some(Came::Straight(peer));
    };
    match balancer::take_line(socket, version).await {
        Ok(Some(source)) => Some(Came::Straight(source)),
        Ok(None) => Some(Came::OfBalancer),
        Err(e) => {
            say(&edge.lines.bad_proxy_line, "http", peer, "connection of a balancer closed", e);
            None
        }
    }
}
