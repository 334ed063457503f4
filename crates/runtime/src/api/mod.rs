//! The admin socket: how commands reach a running process. In: one line of JSON, `{"verb": …, "args": {…}}`, on a Unix
//! socket that only its owner and root may use. Out: one line, `{"ok": …}` or `{"error": …, "hint": …}`.
//!
//! Components add handlers to a [`Verbs`] table before [`serve`], each of the type of its operation; nothing here knows
//! what an operation does.

mod ask;
mod edge;

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ::api::clock::Owner;
use ::api::{Call, Code, Error, Request};
use anyhow::{Context, anyhow, bail};
use net::serve::LocalListener;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::debug;

pub use ask::{Component, Found, find, look, request};
pub use edge::{Behind, edge_verbs, reload_verbs};

use crate::hint::{self, Hinted};
use crate::run::Run;

/// What a handler gives back: the answer's line.
type Reply = Pin<Box<dyn Future<Output = anyhow::Result<Vec<u8>>> + Send>>;

type Handler = Arc<dyn Fn(Request) -> Reply + Send + Sync>;

/// The operations of a process, each with what does it.
#[derive(Clone, Default)]
pub struct Verbs {
    /// By name, and by whose it is where several components have one.
    table: BTreeMap<(&'static str, Option<Owner>), Handler>,
}

impl Verbs {
    /// Adds an operation. Two of one name: the later counts.
    #[must_use]
    pub fn handle<C, F>(self, handler: impl Fn(C) -> F + Send + Sync + 'static) -> Verbs
    where
        C: Call,
        F: Future<Output = anyhow::Result<C::Answer>> + Send + 'static,
    {
        self.handle_of(None, handler)
    }

    /// Adds an operation that other components of the process may have too.
    #[must_use]
    pub fn handle_of<C, F>(mut self, owner: Option<Owner>, handler: impl Fn(C) -> F + Send + Sync + 'static) -> Verbs
    where
        C: Call,
        F: Future<Output = anyhow::Result<C::Answer>> + Send + 'static,
    {
        let handler = move |request| -> Reply {
            let Some(call) = C::of(request) else {
                return Box::pin(async {
                    Err(Error::new(Code::UnknownVerb, "another operation was asked for").into())
                });
            };
            let answer = handler(call);
            Box::pin(async move { Ok(::api::write_reply(&Ok(answer.await?))?) })
        };
        self.table.insert((C::VERB, owner), Arc::new(handler));
        self
    }
}

impl Verbs {
    /// Adds another component's operations.
    #[must_use]
    pub fn and(mut self, other: Verbs) -> Verbs {
        self.table.extend(other.table);
        self
    }

    fn find(&self, request: &Request) -> Option<&Handler> {
        let exact = self.table.get(&(request.verb(), request.owner()));
        // Who does not say whose gets the only one, or the first.
        exact.or_else(|| {
            let (key, first) = self.table.range((request.verb(), None)..).next()?;
            (key.0 == request.verb() && request.owner().is_none()).then_some(first)
        })
    }
}

/// The socket of a process in its data directory.
pub const SOCKET: &str = "portcullis.sock";

/// The name of an edge's socket before a process had one for all, by its control port.
#[must_use]
pub fn edge_socket(data_dir: &Path, control_port: u16) -> PathBuf {
    data_dir.join(format!("edge-{control_port}.sock"))
}

/// The name of a gate's socket before a process had one for all.
#[must_use]
pub fn gate_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("gate.sock")
}

/// The name of a coordination server's socket before a process had one for all.
#[must_use]
pub fn control_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Longest request: a policy text fits later, a flood does not.
const MAX_REQUEST: u64 = 4 << 20;
/// A request is written by a program at once; who takes longer is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands at a time.
const MAX_CONCURRENT_REQUESTS: usize = 16;

/// Listens on a Unix socket at this path, mode 0600, in a folder that is made with mode 0700 if it is not there. A
/// socket that nobody listens on any more is replaced.
///
/// # Errors
/// Somebody listens there already, or the system refuses.
pub fn serve(run: &Run, path: &Path, verbs: Verbs) -> anyhow::Result<()> {
    serve_as(run, path, Names::default(), verbs)
}

/// Other names of a socket; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<parking_lot::Mutex<(PathBuf, Vec<PathBuf>)>>);

impl Names {
    /// Gives the socket another name.
    ///
    /// # Errors
    /// Somebody else listens there, or the system refuses.
    pub fn add(&self, name: PathBuf) -> anyhow::Result<()> {
        let mut names = self.0.lock();
        let (socket, all) = &mut *names;
        if name == *socket || all.contains(&name) {
            return Ok(());
        }
        let ours = std::fs::read_link(&name).is_ok_and(|to| Some(to.as_os_str()) == socket.file_name());
        if !ours && std::os::unix::net::UnixStream::connect(&name).is_ok() {
            bail!("another process listens at {}", name.display());
        }
        let temp = temp_beside(&name);
        let _ = std::fs::remove_file(&temp);
        std::os::unix::fs::symlink(socket.file_name().unwrap_or_default(), &temp)?;
        std::fs::rename(&temp, &name)?;
        all.push(name);
        Ok(())
    }

    /// Takes a name back.
    pub fn take(&self, name: &Path) {
        let mut names = self.0.lock();
        let before = names.1.len();
        names.1.retain(|n| n != name);
        if names.1.len() != before {
            let _ = std::fs::remove_file(name);
        }
    }

    /// Takes them away, with the socket.
    fn remove(&self) {
        let names = self.0.lock();
        for name in &names.1 {
            // Another process may have taken the name meanwhile.
            if std::fs::read_link(name).is_ok_and(|to| Some(to.as_os_str()) == names.0.file_name()) {
                let _ = std::fs::remove_file(name);
            }
        }
        let _ = std::fs::remove_file(&names.0);
    }
}

/// Serves the operations of a whole process in its data directory, at [`SOCKET`] and under the `names` that commands of
/// earlier versions know. Where another process of the same directory has the socket, at these names alone.
///
/// # Errors
/// Somebody listens there already, or the system refuses.
pub fn serve_process(run: &Run, data_dir: &Path, names: &[PathBuf], verbs: Verbs) -> anyhow::Result<Names> {
    let first = data_dir.join(SOCKET);
    let taken = std::os::unix::net::UnixStream::connect(&first).is_ok();
    let (socket, links) = match names.split_first() {
        Some((own, others)) if taken => (own.clone(), others),
        _ => (first, names),
    };
    let shared = Names::default();
    serve_as(run, &socket, shared.clone(), verbs)?;
    links.iter().try_for_each(|name| shared.add(name.clone()))?;
    Ok(shared)
}

fn serve_as(run: &Run, path: &Path, names: Names, verbs: Verbs) -> anyhow::Result<()> {
    let listener = bind(path).with_context(|| format!("cannot open the admin socket {}", path.display()))?;
    let listener = LocalListener::new("admin socket", listener);
    names.0.lock().0 = path.to_path_buf();
    let visits = run.clone();
    let room = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
    run.spawn("admin socket", async move {
        let mut stopping = pin!(visits.stopping());
        loop {
            // Commands wait for their turn before they are taken: nobody is turned away.
            let permit = tokio::select! {
                () = &mut stopping => break,
                permit = room.clone().acquire_owned() => permit?,
            };
            let Some(stream) = listener.accept_until(stopping.as_mut()).await else { break };
            let verbs = verbs.clone();
            visits.visit("admin command", async move {
                let _permit = permit;
                if let Err(e) = answer(stream, &verbs).await {
                    debug!(err = format!("{e:#}"), "admin command failed");
                }
            });
        }
        // At the start of the drain: a process that takes our place may open its own meanwhile.
        names.remove();
        Ok(())
    });
    Ok(())
}

async fn answer(stream: UnixStream, verbs: &Verbs) -> anyhow::Result<()> {
    let peer = stream.peer_cred()?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        bail!("user {} may not use it", peer.uid());
    }
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_until(b'\n', &mut line)).await.context("no request in time")??;
    let mut text = match run_verb(&line, verbs).await {
        Ok(text) => text,
        Err(e) => ::api::write_reply::<::api::Nothing>(&Err(told(&e)))?,
    };
    text.push(b'\n');
    tokio::time::timeout(REQUEST_TIMEOUT, write.write_all(&text)).await.context("nobody reads the answer")??;
    Ok(())
}

async fn run_verb(line: &[u8], verbs: &Verbs) -> anyhow::Result<Vec<u8>> {
    let request = Request::read(line)?;
    let handler = verbs.find(&request).ok_or_else(|| {
        let mut known: Vec<&str> = verbs.table.keys().map(|(verb, _)| *verb).collect();
        known.dedup();
        let what = format!("there is no verb `{}` here; there are {}", request.verb(), known.join(", "));
        Error::new(Code::UnknownVerb, what)
    })?;
    handler(request).await
}

/// A failure as it goes over the wire: all of its links, its advice, and what kind it is if somebody said.
fn told(e: &anyhow::Error) -> Error {
    let code = e.chain().find_map(|c| c.downcast_ref::<Error>()).map_or(Code::Failed, |e| e.code);
    Error { what: format!("{e:#}"), hint: hint::of(e).map(str::to_string), code }
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let dir = path.parent().ok_or_else(|| anyhow!("it has no folder"))?;
    if !dir.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| {
            Hinted::error(
                format!("cannot make the folder {}: {e}", dir.display()),
                "choose another with `--data-dir DIR`",
            )
        })?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Hinted::error(
            "another process listens there",
            "stop it, or give this one another `--control-port` or `--data-dir`",
        ));
    }
    // Bound beside and moved into place: nobody meets a socket with the wrong mode, and a stale one is replaced whole.
    let temp = temp_beside(path);
    let _ = std::fs::remove_file(&temp);
    let listener = UnixListener::bind(&temp).map_err(|e| {
        Hinted::error(
            e.to_string(),
            format!(
                "is {} writable, and its path shorter than 100 characters? choose another with `--data-dir DIR`",
                dir.display()
            ),
        )
    })?;
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temp, path)?;
    Ok(listener)
}

fn temp_beside(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use ::api::{Explain, Reload, Reloaded};

    use super::*;

    async fn asked(verbs: &Verbs, line: &str) -> serde_json::Value {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut read, mut write) = near.into_split();
        let ask = async {
            write.write_all(line.as_bytes()).await.unwrap();
            write.write_all(b"\n").await.unwrap();
            let mut text = String::new();
            read.read_to_string(&mut text).await.unwrap();
            text
        };
        let (text, done) = tokio::join!(ask, answer(far, verbs));
        done.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn verbs() -> Verbs {
        Verbs::default().handle(|Reload {}| async { Ok(Reloaded { reloaded: vec!["lists: one".to_string()] }) }).handle(
            |call: Explain| async move {
                Err(Error::refused(format!("{} is nobody's", call.address)).hinted("ask for another"))
                    .context("not explained")
            },
        )
    }

    #[tokio::test]
    async fn an_operation_is_answered_and_what_is_none_has_a_code() {
        let verbs = verbs();
        let done = asked(&verbs, r#"{"verb":"reload"}"#).await;
        assert_eq!(done, serde_json::json!({ "ok": { "reloaded": ["lists: one"] } }));
        let refused = asked(&verbs, r#"{"verb":"explain","args":{"address":"203.0.113.7"}}"#).await;
        let what = "not explained: 203.0.113.7 is nobody's";
        assert_eq!(refused, serde_json::json!({ "error": what, "hint": "ask for another", "code": "refused" }));
        for (line, code, names) in [
            ("reload", "bad-request", "one line of JSON"),
            (r#"{"verb":"reload","args":{"now":true}}"#, "bad-request", "`now`"),
            (r#"{"verb":"explain","args":{}}"#, "bad-request", "`address`"),
            (r#"{"verb":"reloaf"}"#, "unknown-verb", "reloaf"),
            // There is such an operation, and not here.
            (r#"{"verb":"users-list"}"#, "unknown-verb", "explain, reload"),
        ] {
            let error = asked(&verbs, line).await;
            assert_eq!(error["code"], code, "{line}: {error}");
            assert!(error["error"].as_str().unwrap().contains(names), "{line}: {error}");
        }
    }
}
