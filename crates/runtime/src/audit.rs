//! The audit log: one JSON object a line, each with the hash of the line before it. In: audit records. Out: a file
//! that is only ever appended to, and whether a file still is what was written.
//!
//! Records go into the store with the change that they are about (a [`Queue`], in the same transaction) and from there
//! into the file. What a crash kept out of the file is written at the next start from the store, which also knows the
//! last line's hash: a file that was removed, cut or replaced is noticed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ::api::AuditEvent;
use access::record::GrantRecord;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;

/// To what something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum About {
    /// A grant, as it was.
    Grant {
        /// The grant.
        grant: Box<GrantRecord>,
    },
    /// A node, a user, a key, the policy.
    Thing {
        /// Its name.
        about: String,
    },
}

/// What a room wants on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// What happened.
    pub what: AuditEvent,
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
    pub what: AuditEvent,
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

/// What the store knows of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The number of the last line that is known to be in the file; 0 for none.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
    /// What follows it, whether or not it is in the file already.
    pub records: Vec<Record>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { seq: 0, hash: GENESIS.to_string(), records: Vec::new() }
    }
}

/// The log, open for appending.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    seq: u64,
    prev: String,
    /// Records that are saved in the store and not in the file yet, oldest first.
    waiting: Vec<Record>,
}

/// Records that wait for a disk with room. Past it the oldest are dropped and that is logged: memory is bounded, and so
/// is what every change saves with it.
const WAITING: usize = 2_000;

/// A crash cuts one write short, and that is a few records; more without an end of line is something else.
const CUT_SHORT: u64 = 1 << 20;

/// How much of a log's end is read for what was there lately: some thousand records.
const TAIL: u64 = 2 << 20;

const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Log {
    /// Opens the log, making it (mode 0600) if it is not there. A line that a crash cut short is taken off; a tail that
    /// is no record is set aside in a file of its own, and said.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> anyhow::Result<Log> {
        let open = || -> anyhow::Result<Log> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            crate::private(&file, path);
            let (line, whole) = last_record(&mut file)?;
            let len = file.metadata()?.len();
            if whole < len {
                take_off(&mut file, path, whole, len)?;
            }
            let (seq, prev) = line.map_or((0, GENESIS.to_string()), |line| (line.seq, line.hash));
            Ok(Log { file, path: path.to_path_buf(), seq, prev, waiting: Vec::new() })
        };
        open().with_context(|| format!("the audit log {} cannot be opened", path.display()))
    }

    /// Compares the file with what the store knows, and writes what a crash kept out of it. If lines are missing or
    /// others that are known, says so in words; the log goes on behind what is there, with a line about that.
    ///
    /// # Errors
    /// The disk does not take it; it waits.
    pub fn catch_up(&mut self, queue: Queue, at: u64) -> anyhow::Result<Option<String>> {
        let (mut seq, mut prev) = (queue.seq, queue.hash.clone());
        let mut left = queue.records.as_slice();
        // The file may hold any number of the records already: their hashes follow from the line before.
        while (seq, &prev) != (self.seq, &self.prev) {
            let Some((next, rest)) = left.split_first() else { break };
            let line = line(next, seq + 1, prev)?;
            (seq, prev, left) = (line.seq, line.hash, rest);
        }
        if (seq, &prev) == (self.seq, &self.prev) {
            self.append(left.to_vec())?;
            return Ok(None);
        }
        let why = format!(
            "the store knows line {} with the hash {}, and the file ends with line {} and the hash {}",
            queue.seq, queue.hash, self.seq, self.prev
        );
        let what = AuditEvent::LogChanged;
        let about = About::Thing { about: "audit log".to_string() };
        // What the store still has is written again: better twice than not at all.
        self.append([Record { at, what, about, by: why.clone() }].into_iter().chain(queue.records))?;
        Ok(Some(why))
    }

    /// What the store has to know once these records are saved with their changes.
    #[must_use]
    pub fn queue(&self, records: &[Record]) -> Queue {
        let records = self.waiting.iter().chain(records).cloned().collect();
        Queue { seq: self.seq, hash: self.prev.clone(), records }
    }

    /// Appends records that the store has, and waits until they are on the disk. What cannot be written now is kept
    /// for the next call.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn append(&mut self, records: impl IntoIterator<Item = Record>) -> anyhow::Result<()> {
        self.waiting.extend(records);
        let Some(at) = self.waiting.last().map(|r| r.at) else { return Ok(()) };
        if !self.is_there() {
            self.begin_anew(at)?;
        }
        let (mut seq, mut prev, mut text) = (self.seq, self.prev.clone(), String::new());
        for record in &self.waiting {
            let line = line(record, seq + 1, prev)?;
            (seq, prev) = (line.seq, line.hash.clone());
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
                tracing::error!(dropped = over, "audit records dropped: the disk takes none for too long");
            }
            return Err(e).with_context(|| format!("the audit log {} cannot be written", self.path.display()));
        }
        self.waiting.clear();
        (self.seq, self.prev) = (seq, prev);
        Ok(())
    }

    /// True if what is at its path is the file that is written to.
    fn is_there(&self) -> bool {
        let here = self.file.metadata().map(|m| (m.dev(), m.ino()));
        let there = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino()));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }

    /// Goes on in the file that is at its path now: somebody took the log away, and lines that nobody finds are none.
    fn begin_anew(&mut self, at: u64) -> anyhow::Result<()> {
        let mut log = Log::open(&self.path)?;
        let known = Queue { seq: self.seq, hash: self.prev.clone(), records: Vec::new() };
        if log.catch_up(known, at)?.is_some() {
            tracing::error!(
                "the audit log {} was taken away or replaced while it was written; it goes on in the file that is there, and \
                 says so itself. To keep it small, stop the process first",
                self.path.display()
            );
        }
        log.waiting.append(&mut self.waiting);
        *self = log;
        Ok(())
    }

    /// True if records wait for the disk.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A record's line at its place in the chain.
fn line(record: &Record, seq: u64, prev: String) -> anyhow::Result<Line> {
    let Record { at, what, about, by } = record.clone();
    let mut line = Line { seq, at, what, about, by, prev, hash: String::new() };
    line.hash = hash(&line)?;
    Ok(line)
}

/// A line that is known to have been written: its number and its hash.
pub type Known = (u64, String);

/// The last line of its log that a room's store knows, read while a process uses the store or not. `None`: it knows of
/// none.
///
/// # Errors
/// The store cannot be read.
pub fn known(store: &Path, room: &str) -> anyhow::Result<Option<Known>> {
    let noted = store::peek(store, &format!("{room}/audit"))?;
    let queue = noted.and_then(|bytes| serde_json::from_slice::<Queue>(&bytes).ok());
    Ok(queue.filter(|q| q.seq > 0).map(|q| (q.seq, q.hash)))
}

/// Checks a whole log; returns how many lines it has and the last hash. A file cut off at the end of a line, or made
/// anew, can only be told by a line that is known from elsewhere, read before the file is.
///
/// # Errors
/// The first line that is not what was written, with its number and what is wrong.
pub fn verify(path: &Path, known: Option<&Known>) -> anyhow::Result<(u64, String)> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut count, mut prev) = (0u64, GENESIS.to_string());
    for (n, text) in BufReader::new(file).lines().enumerate() {
        let n = n + 1;
        let text = text.with_context(|| format!("line {n} cannot be read"))?;
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
        if let Some((_, hash)) = known.filter(|(seq, hash)| *seq == line.seq && *hash != line.hash) {
            bail!("line {n} is not the one that was written: the store knows it with the hash {hash}");
        }
        count = line.seq;
        prev = line.hash;
    }
    if let Some((seq, _)) = known.filter(|(seq, _)| *seq > count) {
        bail!("it ends with line {count}, and the store knows of line {seq}: lines are missing at its end");
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

/// The last record, and the length of the file up to the end of its line. Looks back over whatever follows it.
fn last_record(file: &mut File) -> anyhow::Result<(Option<Line>, u64)> {
    const STEP: u64 = 1 << 20;
    // A longer line is no record of ours: a grant's is a few hundred bytes.
    const LINE: usize = 1 << 20;
    let mut from = file.metadata()?.len();
    // What was read: the beginning of a line that ends behind it, and where that end is.
    let mut tail: Vec<u8> = Vec::new();
    let mut ended = false;
    while from > 0 {
        let back = STEP.min(from);
        from -= back;
        file.seek(SeekFrom::Start(from))?;
        let mut read = Vec::new();
        io::Read::by_ref(file).take(back).read_to_end(&mut read)?;
        let mut at = read.len();
        loop {
            let nl = read[..at].iter().rposition(|b| *b == b'\n');
            let start = nl.map_or(0, |n| n + 1);
            if nl.is_none() && from > 0 {
                // The line began before what was read.
                let mut whole = read[..at].to_vec();
                if tail.len() + whole.len() <= LINE {
                    whole.append(&mut tail);
                    tail = whole;
                } else {
                    (tail, ended) = (Vec::new(), false);
                }
                break;
            }
            let mut text = read[start..at].to_vec();
            let end = from + at as u64 + tail.len() as u64;
            text.append(&mut tail);
            if ended && let Some(line) = record_of(&text) {
                return Ok((Some(line), end + 1));
            }
            let Some(nl) = nl else { break };
            // The line before ends here.
            (at, ended) = (nl, true);
        }
    }
    Ok((None, 0))
}

/// A line that is what was written.
fn record_of(text: &[u8]) -> Option<Line> {
    let line: Line = serde_json::from_slice(text).ok()?;
    (hash(&line).ok()? == line.hash).then_some(line)
}

/// Takes off what follows the last record.
fn take_off(file: &mut File, path: &Path, whole: u64, len: u64) -> anyhow::Result<()> {
    file.seek(SeekFrom::Start(whole))?;
    let mut head = Vec::new();
    io::Read::by_ref(file).take(CUT_SHORT).read_to_end(&mut head)?;
    if len - whole < CUT_SHORT && head.starts_with(b"{") && !head.iter().any(|b| matches!(b, b'\n' | 0)) {
        tracing::info!(path = %path.display(), "audit log: removed half a record that a crash left");
    } else {
        let aside = aside(path);
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.seek(SeekFrom::Start(whole))?;
        io::copy(file, &mut to)?;
        to.sync_all()?;
        tracing::error!(
            "the audit log {} ends with {} bytes that are no records; they are set aside in {}, and the log goes on before them. \
             A disk that was full or a crash of the machine can leave such; keep the file, and look at the disk",
            path.display(),
            len - whole,
            aside.display()
        );
    }
    file.set_len(whole)?;
    file.sync_all()?;
    Ok(())
}

/// A name beside a file that nothing has.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let at = |n: u64| path.with_file_name(format!("{name}.broken-{n}"));
    (crate::wall()..).map(at).find(|p| p.symlink_metadata().is_err()).unwrap_or_else(|| at(0))
}

#[cfg(test)]
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
        Record { at: 1, what: AuditEvent::Given, about, by: String::new() }
    }

    #[test]
    fn a_chain_goes_on_after_a_restart_and_every_change_is_found() {
        let path = std::env::temp_dir().join(format!("portcullis-audit-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Log::open(&path).unwrap().append([record(1), record(2)]).unwrap();
        Log::open(&path).unwrap().append([record(3)]).unwrap();
        assert_eq!(verify(&path, None).unwrap().0, 3);
        let good = std::fs::read_to_string(&path).unwrap();
        // A crash in the middle of a line.
        std::fs::write(&path, format!("{good}{{\"seq\":4,")).unwrap();
        Log::open(&path).unwrap().append([record(4)]).unwrap();
        assert_eq!(verify(&path, None).unwrap().0, 4);
        for (from, to) in [("203.0.113.7", "203.0.113.8"), ("\"seq\":2", "\"seq\":5"), ("\"id\":1,", "\"id\":1, ")] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert!(verify(&path, None).is_err(), "{from}");
        }
        // Cut off at the end of a line, and made anew: only who knows a line can tell.
        std::fs::write(&path, &good).unwrap();
        let head = verify(&path, None).unwrap();
        assert_eq!(verify(&path, Some(&head)).unwrap(), head);
        let cut = good.lines().next().map(|l| format!("{l}\n")).unwrap();
        std::fs::write(&path, cut).unwrap();
        assert!(verify(&path, None).is_ok());
        assert!(verify(&path, Some(&head)).unwrap_err().to_string().contains("missing at its end"));
        std::fs::remove_file(&path).unwrap();
        Log::open(&path).unwrap().append([record(3), record(2), record(1), record(1)]).unwrap();
        assert!(verify(&path, Some(&head)).unwrap_err().to_string().contains("not the one that was written"));
        let without: String = good.lines().skip(1).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, without).unwrap();
        assert!(verify(&path, None).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    fn file(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("portcullis-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn asides(path: &Path) -> Vec<PathBuf> {
        let name = format!("{}.broken-", path.file_name().unwrap().to_string_lossy());
        let all = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().map(|e| e.path());
        all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(&name)).collect()
    }

    #[test]
    fn what_a_crash_kept_out_of_the_file_is_written_from_the_store() {
        let path = file("queue");
        let mut log = Log::open(&path).unwrap();
        log.append([record(1)]).unwrap();
        let queue = log.queue(&[record(2), record(3), record(4)]);
        let before = std::fs::read(&path).unwrap();
        // The crash came when so many of the three were in the file, whole or not.
        log.append([record(2), record(3), record(4)]).unwrap();
        let after = std::fs::read(&path).unwrap();
        for cut in before.len()..=after.len() {
            std::fs::write(&path, &after[..cut]).unwrap();
            let mut log = Log::open(&path).unwrap();
            assert_eq!(log.catch_up(queue.clone(), 9).unwrap(), None, "{cut}");
            assert_eq!(std::fs::read(&path).unwrap(), after, "{cut}");
            assert_eq!(log.queue(&[]).seq, 4);
        }
        assert_eq!(asides(&path), Vec::<PathBuf>::new(), "half a record is no broken tail");
        // Removed, cut before what is known, or another log: noticed, and the chain stays good.
        let known = log.queue(&[]);
        let other = file("other");
        Log::open(&other).unwrap().append([record(3), record(4), record(3), record(4)]).unwrap();
        for with in [Vec::new(), before, std::fs::read(&other).unwrap()] {
            std::fs::write(&path, &with).unwrap();
            let mut log = Log::open(&path).unwrap();
            let why = log.catch_up(known.clone(), 9).unwrap().unwrap();
            assert!(why.contains("knows line 4"), "{why}");
            verify(&path, None).unwrap();
            assert!(std::fs::read_to_string(&path).unwrap().contains("log-changed"));
            assert_eq!(Log::open(&path).unwrap().catch_up(log.queue(&[]), 9).unwrap(), None);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&other).unwrap();
    }

    #[test]
    fn a_log_that_is_taken_away_while_it_is_written_goes_on_at_its_path_and_says_so() {
        let (path, moved) = (file("taken"), file("taken-moved"));
        let mut log = Log::open(&path).unwrap();
        log.append([record(1), record(2)]).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        log.append([record(3)]).unwrap();
        assert_eq!(verify(&moved, None).unwrap().0, 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(verify(&path, None).unwrap().0, 2, "{text}");
        assert!(text.lines().next().unwrap().contains("log-changed") && text.contains("\"id\":3"), "{text}");
        // Put back as it was, with another inode: nothing is missing.
        std::fs::copy(&path, &moved).unwrap();
        std::fs::rename(&moved, &path).unwrap();
        log.append([record(4)]).unwrap();
        assert_eq!(verify(&path, None).unwrap().0, 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap().matches("log-changed").count(), 1);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_broken_tail_is_set_aside_however_long_and_the_chain_goes_on() {
        let path = file("tail");
        Log::open(&path).unwrap().append([record(1), record(2)]).unwrap();
        let good = std::fs::read(&path).unwrap();
        let nul = vec![0u8; (3 << 20) + 17];
        let lines = "no record\n".repeat(200_000).into_bytes();
        let long = [vec![b'x'; 2 << 20], b"\n".to_vec()].concat();
        let tails: [&[u8]; 6] = [&nul, b"garbage\n", &lines, b"\n\n", &long, b"{\"seq\":3}\n"];
        for (n, tail) in tails.iter().enumerate() {
            std::fs::write(&path, [&good, *tail].concat()).unwrap();
            Log::open(&path).unwrap().append([record(3)]).unwrap();
            assert_eq!(verify(&path, None).unwrap().0, 3, "tail {n}");
            let aside = asides(&path);
            assert_eq!(aside.len(), 1, "tail {n}");
            assert_eq!(std::fs::read(&aside[0]).unwrap(), *tail, "tail {n}");
            std::fs::remove_file(&aside[0]).unwrap();
        }
        // Nothing of ours in it at all.
        std::fs::write(&path, &nul).unwrap();
        Log::open(&path).unwrap().append([record(1)]).unwrap();
        assert_eq!(verify(&path, None).unwrap().0, 1);
        asides(&path).iter().for_each(|p| std::fs::remove_file(p).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
