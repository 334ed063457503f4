//! Where the gate listens. In: addresses and Unix sockets. Out: requests for the intake. Connections have places: trusted
//! proxies and untrusted peers apart, a share for each source, a reserve for proxies that asked something before.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use addr::{Addr, SourceKey};
use anyhow::Context;
use net::serve::{Full, Limits, Listener, LocalListener, Slot, Slots};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::asked::Peer;
use super::doctor::ConfiguredBy;
use super::intake::{Listen, Serves, answer};
use super::observations::Observation;
use super::state::Current;
use runtime::hint::Hinted;
use runtime::http1;
use runtime::run::Run;

/// Connections of trusted proxies: one keeps a few dozen, and each of its visitors has one while it is asked about. Half
/// of them is more than any proxy needs at a time, and one that goes mad leaves the other half. The reserve is for those
/// that asked something before: half requests of a whole trusted network lock out none of them.
const PROXIES: Limits = Limits { total: 4_096, per_source: 2_048, reserve: 1_024 };
/// Connections of peers that are no trusted proxies.
const UNTRUSTED: Limits = Limits { total: 64, per_source: 8, reserve: 0 };
/// A proxy sends its head at once.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// The same while half of the places are taken: who is slow then makes room.
const HEAD_WAIT_BUSY: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
struct Places {
    proxies: Arc<Slots>,
    untrusted: Arc<Slots>,
}

impl Places {
    fn new() -> Arc<Places> {
        Arc::new(Places { proxies: Slots::new(PROXIES), untrusted: Slots::new(UNTRUSTED) })
    }

    fn take(&self, peer: Peer, believed: bool) -> Result<Slot, Full> {
        match peer {
            Peer::Socket => self.proxies.take_trusted(),
            Peer::Tcp(addr) if believed => self.proxies.take(SourceKey::of(addr)),
            Peer::Tcp(addr) => self.untrusted.take(SourceKey::of(addr)),
        }
    }

    fn head_wait(&self) -> Duration {
        if self.proxies.taken() > PROXIES.total / 2 { HEAD_WAIT_BUSY } else { HEAD_WAIT }
    }
}

/// A socket that listens and is not served yet.
pub(super) enum Bound {
    Tcp(Listener, SocketAddr),
    Unix(LocalListener),
}

impl Bound {
    /// Its address, if it has one.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        match self {
            Bound::Tcp(_, addr) => Some(*addr),
            Bound::Unix(_) => None,
        }
    }
}

/// Listens. `place`: the switch that says where.
///
/// # Errors
/// The address cannot be had.
pub(super) fn bind(at: &Listen, place: &str) -> anyhow::Result<Bound> {
    match at {
        Listen::Tcp(addr) => {
            let socket = Listener::bind("gate", *addr).map_err(|e| {
                Hinted::error(
                    format!("cannot listen on {addr}: {e}"),
                    match e.kind() {
                        ErrorKind::AddrNotAvailable => {
                            format!("this machine has no such address (`ip addr` shows those it has); choose one with {place}")
                        }
                        ErrorKind::PermissionDenied => {
                            format!("ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with {place}")
                        }
                        _ => format!("is another process there? choose another with {place}"),
                    },
                )
            })?;
            let local = socket.local_addr()?;
            Ok(Bound::Tcp(socket, local))
        }
        Listen::Unix(path) => Ok(Bound::Unix(LocalListener::new("gate", unix_socket(path)?))),
    }
}

/// Serves a listener until the run stops or it is closed.
pub(super) fn serve(
    run: &Run,
    state: &Current,
    serves: &Arc<RwLock<Arc<Serves>>>,
    bound: Bound,
    close: CancellationToken,
) {
    let served = Served { run: run.clone(), state: state.clone(), serves: serves.clone(), places: Places::new() };
    run.spawn("gate listener", async move {
        let mut over = pin!(async {
            close.run_until_cancelled(served.run.stopping()).await;
        });
        match bound {
            Bound::Tcp(socket, _) => {
                while let Some((stream, from)) = socket.accept_until(over.as_mut()).await {
                    net::sockets::tune(&stream);
                    served.enter(stream, Peer::Tcp(Addr::of(from)));
                }
            }
            Bound::Unix(socket) => {
                while let Some(stream) = socket.accept_until(over.as_mut()).await {
                    // The socket's mode says who may be the proxy.
                    served.enter(stream, Peer::Socket);
                }
            }
        }
        Ok(())
    });
}

/// What a listener serves, and its places.
struct Served {
    run: Run,
    state: Current,
    serves: Arc<RwLock<Arc<Serves>>>,
    places: Arc<Places>,
}

fn unix_socket(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    // A socket that an earlier run left; anything else there is somebody's file.
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

impl Served {
    /// Gives a connection its place, or closes it at once: waiting would keep others waiting.
    fn enter(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let state = self.state.now();
        let believed = state.proxies.believes(peer);
        match self.places.take(peer, believed) {
            Ok(slot) => self.visit(io, Seated { peer, believed, slot }),
            Err(why) => {
                debug!(%peer, %why, "connection closed");
                if let Peer::Tcp(addr) = peer {
                    state.note(Observation::Crowded(addr));
                }
            }
        }
    }

    fn visit(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Seated { peer, believed, slot }: Seated) {
        let (state, serves, places) = (self.state.clone(), self.serves.clone(), self.places.clone());
        let (wait, stopping) = (places.head_wait(), self.run.stopping());
        self.run.connection("gate", peer, async move {
            let _slot = slot;
            let limits = http1::Limits { head: wait, buffer: 64 * 1024, keep_alive: true };
            let served = http1::serve(io, limits, stopping, |request| {
                // Whoever sent a whole request as a proxy keeps its reserve.
                if let (true, Peer::Tcp(addr)) = (believed, peer) {
                    places.proxies.know(SourceKey::of(addr));
                }
                // Each request by what is in force then, also on a connection that has been open for long.
                let (state, serves) = (state.now(), serves.read().clone());
                async move { answer(&state, &serves, peer, request).await }
            });
            if let Err(e) = served.await {
                debug!(err = %e, "connection failed");
            }
        });
    }
}

/// A connection that has its place.
struct Seated {
    peer: Peer,
    /// It speaks for others, as a trusted proxy.
    believed: bool,
    slot: Slot,
}

/// Says where a listener listens.
pub(super) fn say(name: &str, at: &Listen, addr: Option<SocketAddr>) {
    match (addr, at) {
        (Some(addr), _) => info!(listener = name, %addr, "listening"),
        (None, Listen::Unix(path)) => info!(listener = name, path = %path.display(), "listening"),
        (None, Listen::Tcp(_)) => {}
    }
}

impl ConfiguredBy {
    /// The switch that says where a listener listens.
    pub(super) fn listener(self, serves: &Serves) -> &'static str {
        match (self, serves) {
            (ConfiguredBy::File, _) => "another `listen` in the file",
            (ConfiguredBy::Environment, Serves::Check { .. }) => "--check-listen ADDRESS:PORT",
            (ConfiguredBy::Environment, Serves::Share) => "--share-listen ADDRESS:PORT",
            (ConfiguredBy::Environment, _) => "--listen ADDRESS:PORT",
        }
    }
}
