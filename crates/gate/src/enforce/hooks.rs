//! Any program and any HTTP service. In: the list. Out: the list on standard input, or by POST, with who came and went.

use std::sync::Arc;

use access::Grant;
use access::publish::{Desired, lines};
use addr::Prefix;
use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Memory, WAIT};
use crate::fetch::{Ask, Base};

/// Changes that are told one by one: more come with a burst, whose list says it all.
const CHANGES: usize = 100;
/// Bytes of changes that a program is told. The system starts none with a variable of 128 KiB (execve(2)), and names in
/// certificates may be long: such a name must not keep the program from hearing who left.
const CHANGES_BYTES: usize = 64 * 1024;

pub(super) async fn command(d: &Arc<Desired>, argv: &[String], memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    let env = [
        ("PORTCULLIS_LIST", d.list.clone()),
        ("PORTCULLIS_GENERATION", d.generation.to_string()),
        ("PORTCULLIS_EMPTY", u8::from(is_empty(d)).to_string()),
        ("PORTCULLIS_CHANGES", fitting(&changes(d, memory))),
    ];
    run(argv, Some(lines(&entries)), &env).await?;
    (memory.sent, memory.told) = (Some(entries), Some(d.clone()));
    Ok(true)
}

pub(super) async fn webhook(d: &Arc<Desired>, to: &Base, memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    // Nobody is an empty array here: a program that reads JSON can tell it from none at all.
    let told: Vec<String> = if is_empty(d) { Vec::new() } else { entries.iter().map(ToString::to_string).collect() };
    let body = json!({
        "list": d.list,
        "generation": d.generation,
        "entries": told,
        "empty": is_empty(d),
        "changes": changes(d, memory),
    });
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let ask = Ask::new(Method::POST, &to.path, headers).body(Bytes::from(body.to_string()));
    let status = ask.send(to, WAIT).await?.status;
    if !(200..300).contains(&status) {
        bail!("it answers {status}");
    }
    (memory.sent, memory.told) = (Some(entries), Some(d.clone()));
    Ok(true)
}

fn is_empty(d: &Desired) -> bool {
    d.statics.is_empty() && d.learnt.is_empty()
}

/// Who came and who went since the list was last told, and why; nothing at the start.
fn changes(d: &Desired, memory: &Memory) -> Vec<Value> {
    let Some(before) = &memory.told else { return Vec::new() };
    let (grants, ended) = (memory.picture.grants.read(), memory.picture.ended.read());
    let came = |p: Prefix| {
        let g = grants.get(&d.list).and_then(|l| l.get(&p));
        json!({ "change": "added", "prefix": p.to_string(), "principal": g.and_then(|g| g.claim.principal.clone()),
                "evidence": g.map(|g| g.claim.evidence.word()), "until": g.and_then(Grant::ends_at) })
    };
    let went = |p: Prefix| {
        let all = ended.around(&d.list, p.first());
        let e = all.into_iter().find(|e| e.prefix == p);
        json!({ "change": "removed", "prefix": p.to_string(), "principal": e.and_then(|e| e.principal.clone()),
                "evidence": e.map(|e| e.evidence.word()), "what": e.map(|e| e.what.word()), "by": e.map(|e| e.by.clone()) })
    };
    let each = before.learnt.changes(&d.learnt).into_iter().filter_map(|c| match (c.before, c.after) {
        (None, Some((p, _))) => Some(came(p)),
        (Some((p, _)), None) => Some(went(p)),
        _ => None,
    });
    each.take(CHANGES).collect()
}

/// The first of these changes, as many as a program can be given, as a JSON array.
fn fitting(changes: &[Value]) -> String {
    let mut out = String::from("[");
    for change in changes.iter().map(Value::to_string) {
        if out.len() + change.len() > CHANGES_BYTES {
            break;
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&change);
    }
    out + "]"
}

/// Runs a program to its end, without a shell.
pub(super) async fn program(argv: &[String], input: Option<String>) -> anyhow::Result<()> {
    run(argv, input, &[]).await
}

async fn run(argv: &[String], input: Option<String>, env: &[(&str, String)]) -> anyhow::Result<()> {
    let [name, args @ ..] = argv else { return Ok(()) };
    let mut child = Command::new(name)
        .args(args)
        .envs(env.iter().map(|(k, v)| (*k, v.as_str())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_names_keep_no_program_from_starting() {
        let change = json!({ "change": "added", "prefix": "192.0.2.1/32", "principal": "CN=".repeat(600) });
        for (many, wanted) in [(0, 0), (2, 2), (CHANGES, CHANGES_BYTES / change.to_string().len())] {
            let text = fitting(&vec![change.clone(); many]);
            let read: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.len(), wanted);
            assert!(text.len() <= CHANGES_BYTES);
            run(&["true".to_string()], None, &[("PORTCULLIS_CHANGES", text)]).await.unwrap();
        }
    }
}
