//! The asking side of the admin socket. In: a data directory and an operation. Out: the answer of the process that runs there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::api::{Call, Request};
use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::hint::Hinted;

/// Longer than any verb needs; a reload of a million entries takes a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer: a topology of 100,000 nodes is 30 MB.
const MAX_ANSWER: u64 = 256 << 20;

/// The socket of the edge that runs from this data directory, the only one or the one of this control port.
///
/// # Errors
/// None runs, or several and none was named.
pub fn find(data_dir: &Path, control_port: Option<u16>) -> anyhow::Result<PathBuf> {
    if let Some(port) = control_port {
        return Ok(super::edge_socket(data_dir, port));
    }
    let ports = edges(data_dir);
    match ports.as_slice() {
        [one] => Ok(super::edge_socket(data_dir, *one)),
        [] => Err(Hinted::error(
            format!("no edge runs from {}", data_dir.display()),
            "start one, or name its data directory with `--data-dir DIR`; an edge of another user needs that user or root",
        )),
        many => {
            let list: Vec<String> = many.iter().map(ToString::to_string).collect();
            Err(Hinted::error(
                format!("{} edges run from {}: control ports {}", many.len(), data_dir.display(), list.join(", ")),
                format!("say which with `--control-port {}`", list[0]),
            ))
        }
    }
}

/// The control ports of the edges that run from this data directory, in order.
#[must_use]
pub fn edges(data_dir: &Path) -> Vec<u16> {
    let mut ports: Vec<u16> = Vec::new();
    if let Ok(entries) = std::fs::read_dir(data_dir) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let port = name.to_str().and_then(|n| n.strip_prefix("edge-")?.strip_suffix(".sock")?.parse().ok());
            // A socket of a process that was killed is no running edge.
            if let Some(port) = port
                && std::os::unix::net::UnixStream::connect(entry.path()).is_ok()
            {
                ports.push(port);
            }
        }
    }
    ports.sort_unstable();
    ports
}

/// Asks and waits for the answer.
///
/// # Errors
/// Nobody listens, or the process says that it failed, with an [`::api::Error`] in the chain.
pub async fn ask<C: Call>(socket: &Path, call: C) -> anyhow::Result<C::Answer> {
    let line = exchange(socket, serde_json::to_vec::<Request>(&call.into())?).await?;
    let reply = ::api::read_reply::<C>(&line);
    Ok(reply.context("the running process's answer is not understood; is it another version?")??)
}

/// Sends a line and waits for one.
async fn exchange(socket: &Path, mut text: Vec<u8>) -> anyhow::Result<String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| {
        Hinted::error(
            format!("nothing answers at {}: {e}", socket.display()),
            "is it running, from this data directory and under this user?",
        )
    })?;
    let (read, mut write) = stream.into_split();
    text.push(b'\n');
    write.write_all(&text).await.context("the running process does not take the request")?;
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_ANSWER));
    tokio::time::timeout(ANSWER_TIMEOUT, read.read_line(&mut line))
        .await
        .context("the running process does not answer")?
        .context("the running process does not answer")?;
    if line.len() as u64 == MAX_ANSWER {
        bail!("the running process's answer is longer than {} MiB", MAX_ANSWER >> 20);
    }
    if line.is_empty() {
        bail!("the running process closed the admin socket without an answer; it may belong to another user");
    }
    Ok(line)
}
