//! The file server: a folder, read-only, over HTTP/1.1. In: a folder, a list, maybe a password. Out: files, parts of
//! them, and pages of folders.
//!
//! What it does not do: names that begin with a dot are neither shown nor served (but `.well-known`), several ranges
//! in one request are answered with the whole file, and nothing can be changed.

mod answer;
mod body;
mod conditions;
mod page;
mod path;
mod root;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Addr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use self::answer::Site;
use self::root::Root;
use crate::door::{Door, Doors};
use crate::hint::Hinted;
use crate::run::Run;
use wire::secret::TokenHash;

/// What the file server needs to know.
#[derive(Debug, Clone)]
pub struct FilesSettings {
    /// The folder.
    pub webroot: PathBuf,
    /// Show what folders hold that have no `index.html`.
    pub allow_browsing: bool,
    /// The password of HTTP Basic authentication (RFC 7617), with any user name; `None` asks for none.
    pub token: Option<TokenHash>,
    /// Where visitors connect.
    pub listen: SocketAddr,
}

/// A running file server.
#[derive(Debug, Clone, Copy)]
pub struct FilesHandle {
    /// Where it listens, with the port that the system chose if 0 was asked for.
    pub addr: SocketAddr,
}

/// The list that guards the file server.
pub const LIST: &str = "data";

/// How long a request's head may take, and a connection may wait for its next one.
const HEAD_TIME: Duration = Duration::from_secs(60);

/// Most visitors at once; each may hold a quarter of a MiB of a file.
const VISITORS_MAX: usize = 4096;

/// What waits for a slow visitor beside the piece that was read, in bytes; also the longest head.
const BUFFER: usize = 64 * 1024;

/// Opens the folder, binds, and serves until the run stops. Visitors whom the list `data` does not know are hung up on
/// before a byte is read; when the list changes, who is no longer on it is cut.
///
/// # Errors
/// The folder cannot be opened, or the address cannot be bound.
pub async fn start(settings: FilesSettings, doors: Arc<Doors>, run: &Run) -> Result<FilesHandle> {
    let root = Root::open(&settings.webroot).map_err(|e| {
        let what = format!("cannot serve the folder {}: {e}", settings.webroot.display());
        Hinted::error(what, "give a folder that this user may read with --webroot DIR")
    })?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--addr, --port)", settings.listen))?;
    let addr = listener.local_addr()?;
    let site = Arc::new(Site { root, allow_browsing: settings.allow_browsing, token: settings.token });
    run.spawn("file server", accept(listener, site, doors.door(&[LIST]), run.clone()));
    Ok(FilesHandle { addr })
}

async fn accept(listener: TcpListener, site: Arc<Site>, door: Door, run: Run) -> Result<()> {
    let places = Arc::new(Semaphore::new(VISITORS_MAX));
    let mut stopping = std::pin::pin!(run.stopping());
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stopping => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "file server: a visitor could not be accepted");
                    // Out of descriptors: the next accept would fail at once.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "file server: closed, {VISITORS_MAX} visitors are inside");
            continue;
        };
        let (site, door, stopping) = (site.clone(), door.clone(), run.stopping());
        run.visit("file visitor", async move {
            serve(stream, peer, site, &door, stopping).await;
            drop(place);
        });
    }
}

/// Serves one visitor.
async fn serve(stream: TcpStream, peer: SocketAddr, site: Arc<Site>, door: &Door, stopping: impl Future<Output = ()>) {
    let pass = match door.admit(Addr::of(peer)) {
        Ok(pass) => pass,
        Err(_) => {
            tracing::debug!(%peer, "file server: refused at the door");
            return;
        }
    };
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| site.clone().answer(request));
    let mut conn = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut stopping = std::pin::pin!(stopping);
    let mut stopped = false;
    loop {
        tokio::select! {
            biased;
            () = pass.cut() => break,
            end = &mut conn => {
                if let Err(e) = end {
                    tracing::debug!(%peer, error = %e, "file server: connection broken");
                }
                return;
            }
            () = &mut stopping, if !stopped => {
                stopped = true;
                Pin::new(&mut conn).graceful_shutdown();
            }
        }
    }
    tracing::debug!(%peer, "file server: cut, no longer allowed");
    // What was not delivered yet is thrown away.
    let _ = conn.into_parts().io.into_inner().set_zero_linger();
}
