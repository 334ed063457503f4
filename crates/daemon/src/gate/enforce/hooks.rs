//! Any program and any HTTP service. In: the list. Out: the list on standard input, or by POST.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use decide::publish::{Desired, lines};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Memory, WAIT};
use crate::gate::fetch::{Ask, Base};

pub(super) async fn command(d: &Desired, argv: &[String], memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    program(argv, Some(lines(&entries))).await?;
    memory.sent = Some(entries);
    Ok(true)
}

pub(super) async fn webhook(d: &Desired, to: &Base, memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    let body = json!({
        "list": d.list,
        "generation": d.generation,
        "entries": entries.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let ask = Ask::new(Method::POST, &to.path, headers).body(Bytes::from(body.to_string()));
    let status = ask.send(to, WAIT).await?.status;
    if !(200..300).contains(&status) {
        bail!("it answers {status}");
    }
    memory.sent = Some(entries);
    Ok(true)
}

/// Runs a program to its end, without a shell.
pub(super) async fn program(argv: &[String], input: Option<String>) -> anyhow::Result<()> {
    let [name, args @ ..] = argv else { return Ok(()) };
    let mut child = Command::new(name)
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{name}` can not be started"))?;
    let mut stdin = child.stdin.take();
    let work = async {
        if let (Some(stdin), Some(text)) = (stdin.as_mut(), input) {
            // A program that does not read its input is judged by its exit code alone.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        drop(stdin.take());
        child.wait_with_output().await
    };
    let out = tokio::time::timeout(WAIT, work).await.map_err(|_| anyhow!("`{name}` takes too long"))??;
    if !out.status.success() {
        let said: String = String::from_utf8_lossy(&out.stderr).chars().take(500).collect();
        bail!("`{}` ended with {}: {}", argv.join(" "), out.status, said.trim());
    }
    Ok(())
}
