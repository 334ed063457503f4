//! The requesting side of the admin socket. In: a data directory, a component and an operation. Out: the answer of the
//! process that runs it there, or what was tried.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::api::clock::{self, Owner};
use ::api::{Call, Code, Lists, Request};
use anyhow::{Context, anyhow, bail};

use super::{SOCKET, control_socket, edge_socket, gate_socket};
use crate::hint::Hinted;

/// Longer than any verb needs; a reload of a million entries takes a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer: a topology of 100,000 nodes is 30 MB.
const MAX_ANSWER: u64 = 256 << 20;

/// The part of a process that a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The only edge, or the one of this control port.
    Edge(Option<u16>),
    /// The gate.
    Gate,
    /// The coordination server.
    Control,
}

impl Component {
    /// What people call it, with its article.
    fn name(self) -> &'static str {
        match self {
            Component::Edge(_) => "an edge",
            Component::Gate => "a gate",
            Component::Control => "a coordination server",
        }
    }

    /// An operation that every process with this component has, and that costs nothing.
    fn probe(self) -> Request {
        match self {
            Component::Edge(_) => Lists {}.into(),
            Component::Gate => clock::Show { of: Some(Owner::Gate) }.into(),
            Component::Control => clock::Show { of: Some(Owner::Control) }.into(),
        }
    }

    /// Where it may be reached in a data directory: the socket of the process first, then the names that were there before
    /// it, which a second process in the same directory still has to itself. Each socket once.
    fn candidates(self, data_dir: &Path) -> Vec<PathBuf> {
        let own = match self {
            // Which edge it is only this name tells.
            Component::Edge(Some(port)) => return vec![edge_socket(data_dir, port)],
            Component::Edge(None) => edge_sockets(data_dir).into_iter().map(|(_, path)| path).collect(),
            Component::Gate => vec![gate_socket(data_dir)],
            Component::Control => vec![control_socket(data_dir)],
        };
        std::iter::once(data_dir.join(SOCKET)).chain(own.into_iter().filter(|path| !leads_to_shared(path))).collect()
    }
}

/// What was found of a component in a data directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The sockets of the processes that have it.
    pub sockets: Vec<PathBuf>,
    /// The others that were tried, each with what came of it.
    pub tried: Vec<String>,
    /// Some could not be tried: they are another user's.
    pub forbidden: bool,
}

/// Looks for the processes that have this component and run from this data directory.
#[must_use]
pub fn look(data_dir: &Path, component: Component) -> Found {
    let mut found = Found::default();
    for path in component.candidates(data_dir) {
        let outcome = match UnixStream::connect(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => "not there".to_string(),
            // It was left by a process that was killed.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => "nobody listens".to_string(),
            Err(e) => {
                found.forbidden |= e.kind() == ErrorKind::PermissionDenied;
                e.to_string()
            }
            Ok(stream) => match serves(stream, component) {
                Ok(true) => {
                    found.sockets.push(path);
                    continue;
                }
                Ok(false) => format!("a process without {}", component.name()),
                Err(e) => format!("{e:#}"),
            },
        };
        found.tried.push(format!("{}: {outcome}", path.file_name().unwrap_or_default().display()));
    }
    found
}

/// The socket of the process that has this component and runs from this data directory.
///
/// # Errors
/// None runs, with what was tried; or several and none was named.
pub fn find(data_dir: &Path, component: Component) -> anyhow::Result<PathBuf> {
    let Found { mut sockets, tried, forbidden } = look(data_dir, component);
    match (sockets.pop(), sockets.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            sockets.push(last);
            let of_found =
                |path: &Path| sockets.iter().any(|s| s == path || leads_to_shared(path) && s.ends_with(SOCKET));
            let ports = edge_sockets(data_dir).into_iter().filter(|(_, path)| of_found(path));
            let ports: Vec<String> = ports.map(|(port, _)| port.to_string()).collect();
            Err(Hinted::error(
                format!("{} edges run from {}: control ports {}", sockets.len(), data_dir.display(), ports.join(", ")),
                format!("name one with `--control-port {}`", ports.first().map_or("PORT", String::as_str)),
            ))
        }
        (None, _) => {
            let name = component.name();
            let name = name.split_once(' ').map_or(name, |(_, name)| name);
            let what = format!("no {name} runs from {} ({})", data_dir.display(), tried.join("; "));
            Err(if forbidden {
                Hinted::error(what, "run it as the user who runs it, or as root")
            } else {
                anyhow!(what)
            })
        }
    }
}

/// The sockets that have the name of an edge, by control port.
fn edge_sockets(data_dir: &Path) -> Vec<(u16, PathBuf)> {
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    let mut all: Vec<(u16, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let port = name.to_str()?.strip_prefix("edge-")?.strip_suffix(".sock")?.parse().ok()?;
            Some((port, entry.path()))
        })
        .collect();
    all.sort_unstable();
    all
}

/// True if this is another name of the process's socket.
fn leads_to_shared(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == SOCKET)
}

/// True if the process at the other end has the component. Its names do not tell: those of a process that was killed stay.
fn serves(stream: UnixStream, component: Component) -> anyhow::Result<bool> {
    let line = exchange(stream, &component.probe())?;
    Ok(!serde_json::from_str::<::api::Error>(&line).is_ok_and(|e| e.code == Code::UnknownVerb))
}

/// Sends a request and waits for the answer.
///
/// # Errors
/// Nobody listens, or the process says that it failed, with an [`::api::Error`] in the chain.
pub fn request<C: Call>(socket: &Path, call: C) -> anyhow::Result<C::Answer> {
    let stream = UnixStream::connect(socket).map_err(|e| {
        Hinted::error(
            format!("nothing answers at {}: {e}", socket.display()),
            "is it running, from this data directory and under this user?",
        )
    })?;
    let reply = ::api::read_reply::<C>(&exchange(stream, &call.into())?);
    Ok(reply.context("the running process's answer is not understood; is it another version?")??)
}

/// Sends a line and waits for one.
fn exchange(mut stream: UnixStream, request: &Request) -> anyhow::Result<String> {
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&text).context("the running process does not take the request")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line).context("the running process does not answer")?;
    if line.len() as u64 == MAX_ANSWER {
        bail!("the running process's answer is longer than {} MiB", MAX_ANSWER >> 20);
    }
    if line.is_empty() {
        bail!("the running process closed the admin socket without an answer; it may belong to another user");
    }
    Ok(line)
}
