//! The audit log: one JSON object a line, each with the hash of the line before it. In: audit records. Out: a file
//! that is only ever appended to, and whether a file still is what was written.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use wire::grant::GrantRecord;

use crate::digest::sha256_hex;

/// To what something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum About {
    /// A grant, as it was.
    Grant {
        /// The grant.
        grant: GrantRecord,
    },
    /// A node, a user, a key, the policy.
    Thing {
        /// Its name.
        about: String,
    },
}

/// What a room wants on record.
#[derive(Debug, Clone)]
pub struct Record {
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// What happened.
    pub what: String,
    /// To what.
    pub about: About,
    /// By whom or why.
    pub by: String,
}

/// One line. `hash` is SHA-256, in hex, over the line without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Counts up by one.
    pub seq: u64,
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// What happened.
    pub what: String,
    /// To what; its fields stand among the others.
    #[serde(flatten)]
    pub about: About,
    /// By whom or why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The hash of the line before; 64 zeros before the first.
    pub prev: String,
    /// This line's hash.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// The log, open for appending.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    seq: u64,
    prev: String,
    /// Records that could not be written yet, oldest first.
    waiting: Vec<Record>,
}

/// Records that wait for a disk with room. Past it the oldest are dropped and that is logged: memory is bounded.
const WAITING: usize = 10_000;

/// How much of a log's end is read for what was there lately: some thousand records.
const TAIL: u64 = 2 << 20;

const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Log {
    /// Opens the log, making it if it is not there. A line that a crash cut short is taken off.
    ///
    /// # Errors
    /// The file can not be read or written, or its last line is not ours.
    pub fn open(path: &Path) -> anyhow::Result<Log> {
        let open = || -> anyhow::Result<Log> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            let (line, whole) = last_line(&mut file)?;
            file.set_len(whole)?;
            let (seq, prev) = match line {
                None => (0, FIRST.to_string()),
                Some(text) => {
                    let line: Line = serde_json::from_str(&text).context("its last line is no audit record")?;
                    (line.seq, line.hash)
                }
            };
            Ok(Log { file, path: path.to_path_buf(), seq, prev, waiting: Vec::new() })
        };
        open().with_context(|| format!("the audit log {} can not be opened", path.display()))
    }

    /// Appends records and waits until they are on the disk. What can not be written now is kept for the next call.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn append(&mut self, records: impl IntoIterator<Item = Record>) -> anyhow::Result<()> {
        self.waiting.extend(records);
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (mut seq, mut prev, mut text) = (self.seq, self.prev.clone(), String::new());
        for a in &self.waiting {
            seq += 1;
            let mut line = Line {
                seq,
                at: a.at,
                what: a.what.clone(),
                about: a.about.clone(),
                by: a.by.clone(),
                prev,
                hash: String::new(),
            };
            line.hash = hash(&line)?;
            prev = line.hash.clone();
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
        let end = self.file.metadata()?.len();
        if let Err(e) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // Half a line must not stay: the next one would follow it.
            let _ = self.file.set_len(end);
            if self.waiting.len() > WAITING {
                let over = self.waiting.len() - WAITING;
                self.waiting.drain(..over);
                tracing::error!("{over} audit records were dropped: the disk takes none for too long");
            }
            return Err(e).with_context(|| format!("the audit log {} can not be written", self.path.display()));
        }
        self.waiting.clear();
        (self.seq, self.prev) = (seq, prev);
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Checks a whole log; returns how many lines it has and the last hash. A file cut off at the end of a line can only
/// be told by comparing that hash with one noted elsewhere.
///
/// # Errors
/// The first line that is not what was written, with its number and what is wrong.
pub fn verify(path: &Path) -> anyhow::Result<(u64, String)> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut count, mut prev) = (0u64, FIRST.to_string());
    for (n, text) in BufReader::new(file).lines().enumerate() {
        let n = n + 1;
        let text = text.with_context(|| format!("line {n} can not be read"))?;
        let line: Line = serde_json::from_str(&text).with_context(|| format!("line {n} is no audit record"))?;
        if line.seq != count + 1 {
            bail!("line {n} has number {} where {} is due: lines are missing or were moved", line.seq, count + 1);
        }
        if line.prev != prev {
            bail!("line {n} does not follow the line before it: one of the two was changed");
        }
        let want = hash(&line)?;
        if want != line.hash || serde_json::to_string(&line)? != text {
            bail!("line {n} was changed: its hash does not fit");
        }
        count = line.seq;
        prev = line.hash;
    }
    Ok((count, prev))
}

/// The latest records of a log, oldest first, as far as they can be read. For memory, not for proof: nothing is checked.
#[must_use]
pub fn tail(path: &Path) -> Vec<Line> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    bytes.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect()
}

fn hash(line: &Line) -> anyhow::Result<String> {
    let bare = Line { hash: String::new(), ..line.clone() };
    let text = serde_json::to_string(&bare)?;
    Ok(sha256_hex(text.as_bytes()))
}

/// The last whole line and the length of the file up to its end.
fn last_line(file: &mut File) -> anyhow::Result<(Option<String>, u64)> {
    /// A record is a few hundred bytes; a megabyte holds any.
    const BACK: u64 = 1 << 20;
    let len = file.metadata()?.len();
    let from = len.saturating_sub(BACK);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(BACK).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|b| *b == b'\n') else { return Ok((None, from)) };
    let start = tail[..end].iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
    let text = std::str::from_utf8(&tail[start..end]).context("its last line is no text")?;
    Ok((Some(text.to_string()), from + end as u64 + 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(id: u64) -> Record {
        let text = format!(
            r#"{{"id":{id},"list":"photos","prefix":"203.0.113.7","principal":"CN=\"anna\"","evidence":"mtls","given_at":1,"seen_at":1}}"#
        );
        let about = match id {
            2 => About::Thing { about: "web-1".into() },
            _ => About::Grant { grant: serde_json::from_str(&text).unwrap() },
        };
        Record { at: 1, what: "given".into(), about, by: String::new() }
    }

    #[test]
    fn a_chain_goes_on_after_a_restart_and_every_change_is_found() {
        let path = std::env::temp_dir().join(format!("portcullis-audit-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Log::open(&path).unwrap().append([record(1), record(2)]).unwrap();
        Log::open(&path).unwrap().append([record(3)]).unwrap();
        assert_eq!(verify(&path).unwrap().0, 3);
        let good = std::fs::read_to_string(&path).unwrap();
        // A crash in the middle of a line.
        std::fs::write(&path, format!("{good}{{\"seq\":4,")).unwrap();
        Log::open(&path).unwrap().append([record(4)]).unwrap();
        assert_eq!(verify(&path).unwrap().0, 4);
        for (from, to) in [("203.0.113.7", "203.0.113.8"), ("\"seq\":2", "\"seq\":5"), ("\"id\":1,", "\"id\":1, ")] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert!(verify(&path).is_err(), "{from}");
        }
        let without: String = good.lines().skip(1).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, without).unwrap();
        assert!(verify(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
