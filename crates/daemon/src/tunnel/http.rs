//! The HTTP plane of the edge. In: connections that passed a door. Out: requests on streams to the right client.
//! It knows nothing of sessions: a [`Router`] finds the target and opens the stream.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use model::Addr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to an upstream, whatever carries it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a request goes: equal targets share a pool of idle upstream connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The session that serves it, unique in this process.
    pub session: u64,
    /// Which of the session's upstreams.
    pub upstream: u32,
    /// What a person calls it: `http://127.0.0.1:3000 at laptop-1`.
    pub name: Arc<str>,
    /// The path prefix that matched, for the log; empty for none. Not stripped.
    pub prefix: Arc<str>,
}

/// Who the request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The visitor's address, as judged at the door.
    pub addr: Addr,
    /// The socket's peer: the visitor or the proxy in front.
    pub peer: SocketAddr,
}

/// Finds targets and opens streams; the sessions of the edge, or a fixed upstream in tests.
pub trait Router: Send + Sync + 'static {
    /// The target for a host (lower case, without port) and a path; waits a while for a client that is reconnecting.
    fn route<'a>(&'a self, host: &'a str, path: &'a str) -> Pin<Box<dyn Future<Output = Option<Target>> + Send + 'a>>;

    /// Opens a stream to the target's upstream. `ConnectionRefused` and friends carry the client's words.
    fn open<'a>(
        &'a self,
        target: &'a Target,
        visitor: Visitor,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;
}
