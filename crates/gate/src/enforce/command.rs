//! Any program. In: the list. Out: the list on its standard input, with who came and went.

use std::process::Stdio;
use std::sync::Arc;

use access::Grant;
use access::publish::{Desired, lines};
use addr::Prefix;
use anyhow::{Context, anyhow, bail};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Enforcer, Info, REQUEST_TIMEOUT, Reconciled, Snapshot};

/// Changes that are told one by one: more come with a burst, whose list says it all.
const MAX_CHANGES: usize = 100;
/// Bytes of changes that a program is told. The system starts none with a variable of 128 KiB (execve(2)), and names in
/// certificates may be long: such a name must not keep the program from hearing who left.
const MAX_CHANGES_BYTES: usize = 64 * 1024;

/// How a program is told of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// The list.
    pub list: String,
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
}

/// A program that is told of a list.
pub(super) struct Command {
    config: CommandConfig,
    info: Info,
    last_sent: LastSent,
}

/// What somebody was told last.
#[derive(Debug, Default)]
pub(super) struct LastSent(Option<(Vec<Prefix>, Arc<Desired>)>);

impl Command {
    pub(super) fn new(config: CommandConfig) -> Command {
        let info = Info {
            name: format!("command {}", config.argv.first().map_or("", String::as_str)),
            lists: vec![config.list.clone()],
            ..Info::default()
        };
        Command { config, info, last_sent: LastSent::default() }
    }

    async fn sync(&mut self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let d = desired.list(&self.config.list)?;
        let entries = d.merged();
        if self.last_sent.is(&entries) {
            return Ok(Reconciled::now(false));
        }
        let env = [
            ("PORTCULLIS_LIST", d.list.clone()),
            ("PORTCULLIS_GENERATION", d.generation.to_string()),
            ("PORTCULLIS_EMPTY", u8::from(is_empty(d)).to_string()),
            ("PORTCULLIS_CHANGES", fitting(&self.last_sent.changes(d, desired))),
        ];
        program(&self.config.argv, Some(lines(&entries)), &env).await?;
        self.last_sent.set(entries, d);
        Ok(Reconciled::now(true))
    }
}

impl Enforcer for Command {
    fn info(&self) -> &Info {
        &self.info
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }
}

impl LastSent {
    /// True if that was these entries.
    pub(super) fn is(&self, entries: &[Prefix]) -> bool {
        self.0.as_ref().is_some_and(|(sent, _)| sent == entries)
    }

    /// It is these entries of this list now.
    pub(super) fn set(&mut self, entries: Vec<Prefix>, list: &Arc<Desired>) {
        self.0 = Some((entries, list.clone()));
    }

    /// Who came and who went since, and why; nothing at the start.
    pub(super) fn changes(&self, d: &Desired, desired: &Snapshot) -> Vec<Value> {
        let Some((_, before)) = &self.0 else { return Vec::new() };
        let came = |p: Prefix| {
            let g = desired.grant(&d.list, p);
            let g = g.as_ref();
            json!({ "change": "added", "prefix": p.to_string(), "principal": g.and_then(|g| g.claim.principal.clone()),
                    "evidence": g.map(|g| g.claim.evidence.word()), "until": g.and_then(Grant::ends_at) })
        };
        let ended = desired.ledger.ended.read();
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
        each.take(MAX_CHANGES).collect()
    }
}

/// True if a list holds nobody.
pub(super) fn is_empty(d: &Desired) -> bool {
    d.statics.is_empty() && d.learnt.is_empty()
}

/// The first of these changes, as many as a program can be given, as a JSON array.
fn fitting(changes: &[Value]) -> String {
    let mut out = String::from("[");
    for change in changes.iter().map(Value::to_string) {
        if out.len() + change.len() > MAX_CHANGES_BYTES {
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
///
/// # Errors
/// It cannot be started, takes too long, or ends with an error.
pub(super) async fn program(argv: &[String], input: Option<String>, env: &[(&str, String)]) -> anyhow::Result<()> {
    let [name, args @ ..] = argv else { return Ok(()) };
    let mut child = tokio::process::Command::new(name)
        .args(args)
        .envs(env.iter().map(|(k, v)| (*k, v.as_str())))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{name}` cannot be started"))?;
    let mut stdin = child.stdin.take();
    let work = async {
        if let (Some(stdin), Some(text)) = (stdin.as_mut(), input) {
            // A program that does not read its input is judged by its exit code alone.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        drop(stdin.take());
        child.wait_with_output().await
    };
    let out = tokio::time::timeout(REQUEST_TIMEOUT, work).await.map_err(|_| anyhow!("`{name}` takes too long"))??;
    if !out.status.success() {
        let said: String = String::from_utf8_lossy(&out.stderr).chars().take(500).collect();
        bail!("`{}` ended with {}: {}", argv.join(" "), out.status, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;

    #[tokio::test]
    async fn long_names_keep_no_program_from_starting() {
        let change = json!({ "change": "added", "prefix": "192.0.2.1/32", "principal": "CN=".repeat(600) });
        for (many, wanted) in [(0, 0), (2, 2), (MAX_CHANGES, MAX_CHANGES_BYTES / change.to_string().len())] {
            let text = fitting(&vec![change.clone(); many]);
            let read: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.len(), wanted);
            assert!(text.len() <= MAX_CHANGES_BYTES);
            program(&["true".to_string()], None, &[("PORTCULLIS_CHANGES", text)]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_program_is_told_once_and_again_after_a_failure() {
        let argv = |text: &str| text.split(' ').map(str::to_string).collect();
        let mut c = Command::new(CommandConfig { list: "home".to_string(), argv: argv("false") });
        let one = snapshot(1, &[("home", &["192.0.2.1"])]);
        assert!(c.sync(&one).await.is_err());
        c.config.argv = argv("true");
        assert!(c.sync(&one).await.unwrap().changed);
        assert!(!c.sync(&one).await.unwrap().changed);
        let two = snapshot(2, &[("home", &["192.0.2.9"])]);
        let changes = c.last_sent.changes(two.list("home").unwrap(), &two);
        let said: Vec<_> =
            changes.iter().map(|c| (c["change"].as_str().unwrap(), c["prefix"].as_str().unwrap())).collect();
        assert_eq!(said.len(), 2, "{changes:?}");
        assert!(said.contains(&("added", "192.0.2.9")) && said.contains(&("removed", "192.0.2.1")));
    }
}
