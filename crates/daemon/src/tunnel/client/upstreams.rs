//! What a client publishes. In: streams of visitors. Out: connections to the upstreams that were named; an edge can
//! name nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use net::sockets;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::debug;
use wire::frame::ResetCode;
use wire::upstream::UpstreamTo;

use super::super::relay::relay;
use super::super::settings::ClientSettings;
use super::super::stream::Stream;

/// The upstreams, by the number that the hello gave them.
pub(super) struct Upstreams {
    list: Vec<Arc<UpstreamTo>>,
    tls: Option<Arc<ClientConfig>>,
    dials: Semaphore,
}

/// Dials at the same time. A burst of visitors fits; an edge that opens streams without end is told to wait.
const DIALS_MAX: usize = 1024;

impl Upstreams {
    pub(super) fn new(settings: &ClientSettings) -> Result<Upstreams> {
        let list: Vec<_> = settings.upstreams.iter().map(|u| Arc::new(u.to.clone())).collect();
        let tls = match (list.iter().any(|u| u.tls), settings.upstream_insecure) {
            (false, _) => None,
            (true, true) => Some(net::tls::unverified()?),
            (true, false) => Some(net::tls::system_roots(None)?),
        };
        Ok(Upstreams { list, tls, dials: Semaphore::new(DIALS_MAX) })
    }

    pub(super) fn get(&self, number: u16) -> Option<Arc<UpstreamTo>> {
        self.list.get(usize::from(number)).cloned()
    }

    /// Joins a stream to an upstream; a failure is told to the edge in words.
    pub(super) async fn serve(&self, to: Arc<UpstreamTo>, visitor: SocketAddr, mut stream: Stream) {
        let Ok(place) = self.dials.try_acquire() else {
            stream.reset(ResetCode::Busy, "this client is dialling as many upstream connections as it may");
            return;
        };
        // What happens once is boxed: it would stay part of every visitor.
        let socket = match Box::pin(net::dial::tcp(&to.host, to.port)).await {
            Ok(socket) => socket,
            Err(e) => {
                debug!("visitor {visitor}: cannot reach {to}: {e}");
                stream.reset(ResetCode::Unreachable, &e.to_string());
                return;
            }
        };
        sockets::tune(&socket);
        let moved = if to.tls {
            Box::pin(self.with_tls(&to, socket, &mut stream, place)).await
        } else {
            drop(place);
            relay(&Arc::new(socket), &mut stream).await
        };
        if let Err(e) = moved {
            debug!("visitor {visitor} of {to}: {e}");
        }
    }

    async fn with_tls(
        &self,
        to: &UpstreamTo,
        socket: TcpStream,
        stream: &mut Stream,
        place: SemaphorePermit<'_>,
    ) -> io::Result<()> {
        let (Some(tls), Ok(name)) = (&self.tls, ServerName::try_from(to.host.clone())) else {
            return Err(io::Error::other("no TLS name"));
        };
        let connect = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, socket);
        let connected = tokio::time::timeout(net::dial::DIAL_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s")));
        drop(place);
        let mut upstream = match connected {
            Ok(upstream) => upstream,
            Err(e) => {
                stream.reset(ResetCode::Unreachable, &format!("TLS with {to}: {e}"));
                return Err(e);
            }
        };
        let copied = tokio::io::copy_bidirectional(stream, &mut upstream).await;
        if copied.is_err() {
            stream.reset(ResetCode::Broken, "");
        }
        copied?;
        stream.shutdown().await
    }
}
