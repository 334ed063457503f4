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
use std::time::{Duration, Instant};

use access::Service;
use addr::{Addr, SourceKey};
use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use net::budget::Budget;
use net::guesses::Guesses;
use net::log_budget::LogBudget;
use net::serve::{Limits, Listener, Slots};
use net::stall::WriteStall;
use tokio::net::TcpStream;

use self::answer::{Site, Visitor};
use self::root::Root;
use net::secret::TokenHash;
use runtime::admission::{AccessGuard, Admission, ConnectionGuard};
use runtime::hint::Hinted;
use runtime::http1;
use runtime::run::Run;

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

/// What visitors of the file server want to reach.
pub const SERVICE: Service = Service::Data;

/// Visitors at the same time, if the system allows so many files; each has a connection and mostly a file open.
const VISITORS_MAX: usize = 4096;

/// Of the limit of open files, one in so many is a visitor's place: a visitor takes two, and some stay for the list and
/// for the log.
const FILES_EACH: usize = 3;

/// Of all places, one source takes one in so many at most. Behind one address there may be an office of a hundred people
/// with six connections each.
const SHARE: usize = 8;

/// Memory for pages and pieces of files that wait for their visitors, in all and for one source: a page of 20,000 names
/// has 7 MB.
const MEMORY: usize = 128 << 20;
const MEMORY_EACH: usize = 16 << 20;

/// Pages of folders that are made at the same time, in all and for one source; each takes some 10 MB while it is made.
const PAGES: usize = 8;
const MAX_PAGES_PER_SOURCE: usize = 2;

/// An answer of which nothing was read for so long is ended.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// People may think for a minute between two requests; what waits for a slow visitor beside the piece that was read is as
/// much as a head may have.
const HTTP: http1::Limits = http1::Limits { head: Duration::from_secs(60), buffer: 64 * 1024, keep_alive: true };

/// Opens the folder, binds, and serves until the run stops. Visitors whom the list `data` does not know are hung up on
/// before a byte is read; when the list changes, who is no longer on it is cut.
///
/// # Errors
/// The folder cannot be opened, or the address cannot be bound.
pub async fn start(settings: FilesSettings, admission: Arc<Admission>, run: &Run) -> Result<FilesHandle> {
    let root = Root::open(&settings.webroot).map_err(|e| {
        let what = format!("cannot serve the folder {}: {e}", settings.webroot.display());
        Hinted::error(what, "give a folder that this user may read with --webroot DIR")
    })?;
    let listener = Listener::bind("file server", settings.listen)
        .with_context(|| format!("cannot listen on {} (--addr, --port)", settings.listen))?;
    let addr = listener.local_addr()?;
    let site = Arc::new(Site {
        root,
        allow_browsing: settings.allow_browsing,
        token: settings.token,
        guesses: Guesses::default(),
        memory: Budget::new(MEMORY, MEMORY_EACH),
        pages: Slots::new(Limits { total: PAGES, per_source: MAX_PAGES_PER_SOURCE, reserve: 0 }),
    });
    run.spawn("file server", accept(listener, site, admission.guard(SERVICE), run.clone()));
    Ok(FilesHandle { addr })
}

async fn accept(listener: Listener, site: Arc<Site>, guard: AccessGuard, run: Run) -> Result<()> {
    let total = VISITORS_MAX.min(net::sockets::file_limit() / FILES_EACH);
    let slots = Slots::new(Limits { total, per_source: total.div_ceil(SHARE), reserve: 0 });
    let (refused, full) = (LogBudget::of(1), LogBudget::of(1));
    let mut stopping = std::pin::pin!(run.stopping());
    while let Some((stream, peer)) = listener.accept_until(stopping.as_mut()).await {
        let addr = Addr::of(peer);
        let pass = match guard.admit(addr) {
            Ok(pass) => pass,
            Err(why) => {
                if let Some(held_back) = refused.spend(Instant::now()) {
                    tracing::info!(%peer, %why, held_back, "connection refused");
                }
                continue;
            }
        };
        // A local peer may be a proxy or a tunnel client, which brings everybody's requests.
        let source = (!addr.ip().is_loopback()).then(|| SourceKey::of(addr));
        let visitor = Visitor { addr, source };
        if source.is_some() && site.guesses.blocked(addr, Instant::now()) {
            continue;
        }
        let slot = match source.map_or_else(|| slots.take_trusted(), |source| slots.take(source)) {
            Ok(slot) => slot,
            Err(why) => {
                if let Some(held_back) = full.spend(Instant::now()) {
                    tracing::warn!(%peer, held_back, %why, "connection closed");
                }
                continue;
            }
        };
        let (site, stopping) = (site.clone(), run.stopping());
        run.connection("file visitor", peer, async move {
            serve(stream, visitor, site, &pass, stopping).await;
            drop(slot);
        });
    }
    Ok(())
}

/// Serves one visitor.
async fn serve(
    stream: TcpStream,
    visitor: Visitor,
    site: Arc<Site>,
    pass: &ConnectionGuard,
    stopping: impl Future<Output = ()>,
) {
    let peer = visitor.addr;
    net::sockets::tune(&stream);
    let service = service_fn(move |request| site.clone().answer(request, visitor));
    let io = TokioIo::new(WriteStall::new(stream, WRITE_TIMEOUT));
    let mut conn = http1::builder(HTTP).serve_connection(io, service);
    tokio::select! {
        biased;
        () = pass.cut() => {}
        end = http1::drive(Pin::new(&mut conn), stopping) => {
            if let Err(e) = end {
                tracing::debug!(%peer, err = %e, "connection failed");
            }
            return;
        }
    }
    tracing::debug!(%peer, why = "no longer allowed", "connection cut");
    // What was not delivered yet is thrown away.
    net::sockets::reset_on_close(&conn.into_parts().io.into_inner().into_inner());
}
