//! The key space in one SQLite file. In: a path. Out: as [`Store`]; what `write` returned survives a crash of the
//! process and of the machine (write-ahead log, `synchronous = FULL`).
//!
//! One process has it open, by a lock of our own on the file itself, so that two paths to one file are one store. Others
//! may read it and back it up meanwhile: `sqlite3 FILE ".backup COPY"`, or [`Sqlite::backup`].

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::{Change, Entry, MAX_KEPT_CHANGES, Result, Step, Store, StoreError, holds};

/// A store in a file. One process at a time.
#[derive(Debug)]
pub struct Sqlite {
    db: Mutex<Connection>,
    changed: Condvar,
    path: PathBuf,
    warnings: Vec<String>,
    /// Held as long as the store is open; closed after the database, which is why it stands last: where SQLite's own
    /// locks are a process's (`fcntl`), closing any descriptor of the file gives all of them up.
    _lock: File,
}

/// Layout of the tables; a file with a higher number was written by a newer version and is left alone. It counts up when
/// a program that does not know of a change would lose something or let somebody in: fields that may be left out of
/// records are no new layout.
const LAYOUT: i64 = 1;

/// This program, as a file names who wrote it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Old changes are deleted after this many new ones: often enough to bound the file, rarely enough to cost nothing.
const TIDY_EVERY: u64 = 256;

impl Sqlite {
    /// Opens the file, making it (mode 0600) and its directory (mode 0700) if they are not there.
    ///
    /// # Errors
    /// The directory cannot be written, the disk is full, the file is damaged, newer, or in use by another process.
    pub fn open(path: &Path) -> Result<Sqlite> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            make_dir(dir)?;
        }
        let (file, shared) = open_locked(path)?;
        // Read first: nothing of a newer version's file is touched, not its mode and not what lies beside it.
        not_newer(path)?;
        let mut warnings: Vec<String> = private(path).into_iter().collect();
        // The same of a damaged one, or one on a full disk, which are not written to.
        let mut db = Connection::open(path).map_err(|e| error(path, e))?;
        let layout = prepare(&db, shared).map_err(|e| error(path, e))?;
        whole(&db, path)?;
        if layout < LAYOUT {
            make_tables(&mut db).map_err(|e| error(path, e))?;
        }
        // For the words of another version that cannot read it; a full disk keeps nobody from starting.
        let _ = sign(&mut db);
        for beside in ["-wal", "-shm"] {
            warnings.extend(private(&beside_of(path, beside)));
        }
        Ok(Sqlite { db: Mutex::new(db), changed: Condvar::new(), path: path.to_path_buf(), warnings, _lock: file })
    }

    /// What a person should know of the files: others could read or write them.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Copies what is stored into a new file of mode 0600, as of one moment, while others go on writing. An older copy
    /// at `to` is replaced when the new one is whole and on the disk; anything else there is left alone.
    ///
    /// # Errors
    /// There is another file at `to`, it cannot be written, or the disk is full; what was there stays.
    pub fn backup(&self, to: &Path, room: &str) -> Result<()> {
        copy(&self.path, to, room)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store for Sqlite {
    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let db = self.db.lock();
        let found = db
            .prepare_cached("SELECT key, value, revision, deadline FROM entries WHERE key = ?1")
            .and_then(|mut q| q.query_row([key], entry).optional());
        found.map_err(|e| error(&self.path, e))
    }

    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        let db = self.db.lock();
        let read = || -> rusqlite::Result<(Vec<Entry>, u64)> { Ok((list(&db, prefix)?, revision(&db)?)) };
        read().map_err(|e| error(&self.path, e))
    }

    fn write(&self, steps: &[Step]) -> Result<u64> {
        let mut db = self.db.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| error(&self.path, e))?;
        for step in steps {
            let (Step::Put { key, when, .. } | Step::Delete { key, when }) = step;
            let found = stands(&tx, key).map_err(|e| error(&self.path, e))?;
            if !holds(*when, found) {
                return Err(StoreError::Conflict { key: key.clone(), found });
            }
        }
        let mut at = revision(&tx).map_err(|e| error(&self.path, e))?;
        let before = at;
        for step in steps {
            take(&tx, step, &mut at).map_err(|e| error(&self.path, e))?;
        }
        tidy(&tx, before, at).map_err(|e| error(&self.path, e))?;
        tx.commit().map_err(|e| error(&self.path, e))?;
        self.changed.notify_all();
        Ok(at)
    }

    fn changes(&self, prefix: &str, from: u64, limit: usize, wait: Duration) -> Result<Vec<Change>> {
        let until = Instant::now() + wait;
        let mut db = self.db.lock();
        loop {
            let read = || -> rusqlite::Result<(u64, Vec<Change>)> {
                let oldest: u64 = db
                    .query_row("SELECT value FROM marks WHERE name = 'compacted'", [], |r| r.get::<_, i64>(0))?
                    as u64;
                let mut q = db.prepare_cached(
                    "SELECT revision, key, value FROM changes WHERE revision > ?1 AND substr(key, 1, ?3) = ?2
                     ORDER BY revision LIMIT ?4",
                )?;
                let rows = q
                    .query_map(params![from as i64, prefix, prefix.chars().count() as i64, limit as i64], |r| {
                        Ok(Change { revision: r.get::<_, i64>(0)? as u64, key: r.get(1)?, value: r.get(2)? })
                    })?;
                Ok((oldest, rows.collect::<rusqlite::Result<_>>()?))
            };
            let (oldest, found) = read().map_err(|e| error(&self.path, e))?;
            if from < oldest {
                return Err(StoreError::Compacted { oldest });
            }
            if !found.is_empty() || self.changed.wait_until(&mut db, until).timed_out() {
                return Ok(found);
            }
        }
    }

    fn expire(&self, now: u64) -> Result<usize> {
        let mut db = self.db.lock();
        let mut run = || -> rusqlite::Result<usize> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let due: Vec<String> = {
                let mut q = tx.prepare_cached("SELECT key FROM entries WHERE deadline <= ?1 ORDER BY key")?;
                q.query_map([now as i64], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?
            };
            let mut at = revision(&tx)?;
            for key in &due {
                take(&tx, &Step::Delete { key: key.clone(), when: crate::If::Anyway }, &mut at)?;
            }
            tx.commit()?;
            Ok(due.len())
        };
        let count = run().map_err(|e| error(&self.path, e))?;
        self.changed.notify_all();
        Ok(count)
    }
}

/// Checks a file that is to be put in a store's place: a store of this room (the first word of its keys), of a layout
/// that this version knows, and whole. Reads every page.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path, room: &str) -> Result<()> {
    let cannot = |what: &dyn std::fmt::Display| StoreError::Other(format!("{}: {what}", path.display()));
    if !std::fs::metadata(path).map_err(|e| cannot(&e))?.is_file() {
        return Err(cannot(&"it is no file"));
    }
    let db = read_only(path)?;
    let read = |e| error(path, e);
    known_layout(&db, path)?;
    let words: String = db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0)).map_err(read)?;
    if words != "ok" {
        return Err(StoreError::Damaged(format!("{}: {words}", path.display())));
    }
    if !is_store(&db) {
        return Err(StoreError::Damaged(format!("{} is no store of Portcullis", path.display())));
    }
    let prefix = format!("{room}/");
    let q = "SELECT count(*) FROM (SELECT 1 FROM entries WHERE key >= ?1 AND substr(key, 1, ?2) = ?1 LIMIT 1)";
    let some: i64 = db.query_row(q, params![prefix, prefix.chars().count() as i64], |r| r.get(0)).map_err(read)?;
    if some == 0 {
        return Err(StoreError::Other(format!(
            "{} is the store of something else: nothing in it is of {room}",
            path.display()
        )));
    }
    Ok(())
}

/// The bytes at a key of a store that another process may have open.
///
/// # Errors
/// The file cannot be read.
pub fn peek(path: &Path, key: &str) -> Result<Option<Vec<u8>>> {
    let db = read_only(path)?;
    let found = db.query_row("SELECT value FROM entries WHERE key = ?1", [key], |r| r.get(0)).optional();
    found.map_err(|e| error(path, e))
}

/// Every entry whose key starts with `prefix`, by key, of a store that another process may have open; nothing is changed.
///
/// # Errors
/// The file cannot be read, is damaged, or was written by a newer version.
pub fn peek_all(path: &Path, prefix: &str) -> Result<Vec<Entry>> {
    let db = read_only(path)?;
    let read = |e| error(path, e);
    known_layout(&db, path)?;
    list(&db, prefix).map_err(read)
}

/// A store's file that no other process opens until this is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "its lock ends with it")] File);

/// Keeps every other process out of a store that is not in use.
///
/// # Errors
/// [`StoreError::Busy`]: a process has it open. Or it cannot be opened.
pub fn hold(path: &Path) -> Result<Held> {
    let file = File::open(path).map_err(|e| io(path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(Held(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Busy(path.display().to_string())),
        Err(std::fs::TryLockError::Error(e)) => Err(io(path, &e)),
    }
}

/// Copies a store's file, which another process may have open, as [`Sqlite::backup`] does. `room` is the first word of
/// its keys: a copy of another room is not replaced.
///
/// # Errors
/// As for [`Sqlite::backup`].
pub fn copy(from: &Path, to: &Path, room: &str) -> Result<()> {
    if let Ok(there) = std::fs::metadata(to) {
        let other = |why: &str| StoreError::Other(format!("{} {why}; it is left alone", to.display()));
        let from = std::fs::metadata(from).map_err(|e| io(from, &e))?;
        if (from.dev(), from.ino()) == (there.dev(), there.ino()) {
            return Err(other("is the store itself"));
        }
        check(to, room).map_err(|_| other("is there and is no copy of such a store"))?;
        hold(to).map_err(|_| other("is a store that a process uses"))?;
        // It would be taken for the log of the new copy.
        if std::fs::metadata(beside_of(to, "-wal")).is_ok_and(|m| m.len() > 0) {
            return Err(other("has a log beside it, so it is open or was not closed"));
        }
    } else if to.symlink_metadata().is_ok() {
        return Err(StoreError::Other(format!("{} is a link to nothing; it is left alone", to.display())));
    }
    let part = beside_of(to, ".portcullis-part");
    let file = new_part(&part)?;
    let done = copy_whole(from, &part, &file, room).and_then(|()| {
        std::fs::rename(&part, to).map_err(|e| io(to, &e))?;
        let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io(to, &e))
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// The file that a copy is made in. It is made here and by nobody else, so that nobody else can read it at any moment, in a
/// directory of all users too. It is locked: of two copies to one name one is made, and neither takes the other's file away.
fn new_part(part: &Path) -> Result<File> {
    let taken = || StoreError::Other(format!("another copy is being made in {}", part.display()));
    if let Ok(there) = part.symlink_metadata() {
        // What a copy left that was killed is locked by nobody.
        let left = there.is_file().then(|| hold(part));
        if matches!(left, Some(Err(StoreError::Busy(_)))) {
            return Err(taken());
        }
        let _ = std::fs::remove_file(part);
    }
    let file = match File::options().write(true).create_new(true).mode(0o600).open(part) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(taken()),
        file => file.map_err(|e| io(part, &e))?,
    };
    file.try_lock().map_err(|_| taken())?;
    // Taken for what a killed one left, between its making and its lock.
    let (ours, there) = (file.metadata(), part.symlink_metadata());
    let ours = ours.is_ok_and(|a| there.is_ok_and(|b| (a.dev(), a.ino()) == (b.dev(), b.ino())));
    ours.then_some(file).ok_or_else(taken)
}

fn copy_whole(from: &Path, part: &Path, file: &File, room: &str) -> Result<()> {
    let db = read_only(from)?;
    // One read transaction: a picture of one moment, and nobody who writes has to wait.
    let name = std::path::absolute(part).map_err(|e| io(part, &e))?;
    let name = name.to_str().ok_or_else(|| StoreError::Other(format!("{} is no UTF-8 path", part.display())))?;
    db.execute("VACUUM INTO ?1", [name]).map_err(|e| match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(part.display().to_string()),
        _ => StoreError::Other(format!("{} cannot be copied to {}: {e}", from.display(), part.display())),
    })?;
    check(part, room)?;
    file.sync_all().map_err(|e| io(part, &e))
}

/// Brings what the log of a store holds into its file, whose log is gone then. For one that is held.
///
/// # Errors
/// [`StoreError::Damaged`]: that cannot be done any more. [`StoreError::Busy`]: somebody has it open. Or the disk.
pub fn settle(path: &Path) -> Result<()> {
    let run = || -> rusqlite::Result<i64> {
        let db =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        // What an interrupted change left is undone by the first look.
        db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))?;
        let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
        db.close().map_err(|(_, e)| e)?;
        Ok(busy)
    };
    let busy = run().map_err(|e| error(path, e))?;
    if busy != 0 || std::fs::metadata(beside_of(path, "-wal")).is_ok_and(|m| m.len() > 0) {
        return Err(StoreError::Busy(path.display().to_string()));
    }
    Ok(())
}

/// A connection that changes nothing, for a store that may be in use. One of a newer version is refused before SQLite lays
/// anything beside it.
fn read_only(path: &Path) -> Result<Connection> {
    not_newer(path)?;
    unwritten(path)
}

/// A connection that changes nothing, for any file that may be in use.
pub(crate) fn unwritten(path: &Path) -> Result<Connection> {
    let open = |name: &Path, more: OpenFlags| {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let db = Connection::open_with_flags(name, flags).map_err(|e| error(path, e))?;
        db.busy_timeout(BUSY_TIMEOUT).map_err(|e| error(path, e))?;
        db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0)).map_err(|e| error(path, e))?;
        Ok(db)
    };
    match open(path, OpenFlags::empty()) {
        // In a folder that cannot be written SQLite has no place for its log's index. Without a log nobody writes.
        Err(StoreError::ReadOnly(_)) if !beside_of(path, "-wal").exists() => {
            open(&unchanging(path)?, OpenFlags::SQLITE_OPEN_URI)
        }
        opened => opened,
    }
}

/// The name by which SQLite reads a file as one that nobody changes (SQLite, "URI filenames").
fn unchanging(path: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for &b in std::path::absolute(path).map_err(|e| io(path, &e))?.as_os_str().as_bytes() {
        match b {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(b as char),
            _ => uri.push_str(&format!("%{b:02X}")),
        }
    }
    Ok(PathBuf::from(uri + "?immutable=1"))
}

fn is_store(db: &Connection) -> bool {
    let q = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('entries', 'changes', 'marks')";
    db.query_row(q, [], |r| r.get::<_, i64>(0)).is_ok_and(|n| n == 3)
}

/// The layout of a store, unless a newer version made it: then both versions are named.
fn known_layout(db: &Connection, path: &Path) -> Result<i64> {
    let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(|e| error(path, e))?;
    if layout <= LAYOUT {
        return Ok(layout);
    }
    let by = db.query_row("SELECT version FROM program", [], |r| r.get::<_, String>(0));
    let by = by.ok().filter(|v| v.len() <= 64).unwrap_or_else(|| "of a later version".into());
    Err(StoreError::Newer(format!(
        "{} has layout {layout} and is of portcullis {by}; this is portcullis {VERSION}, which knows up to layout {LAYOUT}",
        path.display()
    )))
}

/// Refuses a newer version's file without a change to it, its log and its index. What cannot be read here is told by
/// whoever opens it.
fn not_newer(path: &Path) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() == 0) {
        return Ok(());
    }
    // Without a log nothing beside the file is looked at, so that nothing is made there.
    let logged = std::fs::metadata(beside_of(path, "-wal")).is_ok_and(|m| m.len() > 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = match logged {
        true => unwritten(path),
        false => Connection::open_with_flags(unchanging(path)?, flags).map_err(|e| error(path, e)),
    };
    match db.and_then(|db| known_layout(&db, path)) {
        Err(e @ StoreError::Newer(_)) => Err(e),
        _ => Ok(()),
    }
}

/// Notes which program has written the file last.
fn sign(db: &mut Connection) -> rusqlite::Result<()> {
    let known = db.query_row("SELECT version FROM program", [], |r| r.get::<_, String>(0));
    if known.is_ok_and(|v| v == VERSION) {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch("CREATE TABLE IF NOT EXISTS program (version TEXT NOT NULL); DELETE FROM program;")?;
    tx.execute("INSERT INTO program VALUES (?1)", [VERSION])?;
    tx.commit()
}

/// Reads every page: a file that lost a part of itself would start with fewer entries, and nobody would be told.
/// 50 ms for 33 MB, which are 100,000 grants.
fn whole(db: &Connection, path: &Path) -> Result<()> {
    let words: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(|e| error(path, e))?;
    if words == "ok" { Ok(()) } else { Err(StoreError::Damaged(format!("{}: {words}", path.display()))) }
}

/// Opens the file and takes its lock. Another file may have been put in its place while the lock was waited for: then
/// that one is the store.
fn open_locked(path: &Path) -> Result<(File, bool)> {
    loop {
        let file = make_file(path)?;
        let shared = locked(&file, path)?;
        let (ours, there) = (file.metadata().map_err(|e| io(path, &e))?, std::fs::metadata(path));
        if !shared || there.is_ok_and(|t| (t.dev(), t.ino()) == (ours.dev(), ours.ino())) {
            return Ok((file, shared));
        }
    }
}

/// Takes the lock of the one process that may use the file. False: a file system of a network, where such a lock and
/// SQLite's own are one kind; there SQLite holds its lock as long as it has the file open.
fn locked(file: &File, path: &Path) -> Result<bool> {
    // statfs(2): NFS, SMB, SMB2, 9P; FUSE may be any of them.
    const NETWORK: [u64; 5] = [0x6969, 0x517b, 0xfe53_4d42, 0x0102_1997, 0x6573_5546];
    let kind = rustix::fs::fstatfs(file).map(|s| s.f_type as u64 & 0xffff_ffff).unwrap_or(0);
    if NETWORK.contains(&kind) || kind == 0xff53_4d42 {
        return Ok(false);
    }
    // A process that was killed is gone with its locks; one that is being replaced may need a moment.
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Busy(path.display().to_string())),
            Err(std::fs::TryLockError::Error(e)) => return Err(io(path, &e)),
        }
    }
}

/// A backup by another program may hold it for a moment; longer is another process on the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of a connection; returns the layout of the file, 0 for a new one.
fn prepare(db: &Connection, shared: bool) -> rusqlite::Result<i64> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if !shared {
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE;")?;
    }
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    // A reader that never ends would let the log grow for ever; this is as much as a hundred thousand grants need.
    db.execute_batch("PRAGMA journal_size_limit = 16777216;")?;
    Ok(layout)
}

fn make_tables(db: &mut Connection) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, deadline INTEGER) WITHOUT ROWID;
         CREATE INDEX IF NOT EXISTS by_deadline ON entries (deadline) WHERE deadline IS NOT NULL;
         CREATE TABLE IF NOT EXISTS changes (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);
         CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
         INSERT OR IGNORE INTO marks VALUES ('revision', 0), ('compacted', 0);
         PRAGMA user_version = {LAYOUT};
         COMMIT;"
    ))
}

fn list(db: &Connection, prefix: &str) -> rusqlite::Result<Vec<Entry>> {
    let mut q = db.prepare_cached(
        "SELECT key, value, revision, deadline FROM entries WHERE key >= ?1 AND substr(key, 1, ?2) = ?1 ORDER BY key",
    )?;
    q.query_map(params![prefix, prefix.chars().count() as i64], entry)?.collect()
}

fn entry(r: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: r.get(0)?,
        value: r.get(1)?,
        revision: r.get::<_, i64>(2)? as u64,
        deadline: r.get::<_, Option<i64>>(3)?.map(|d| d as u64),
    })
}

fn revision(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT value FROM marks WHERE name = 'revision'")?
        .query_row([], |r| r.get::<_, i64>(0))
        .map(|r| r as u64)
}

fn stands(db: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    let mut q = db.prepare_cached("SELECT revision FROM entries WHERE key = ?1")?;
    q.query_row([key], |r| r.get::<_, i64>(0)).optional().map(|r| r.map(|r| r as u64))
}

fn take(db: &Connection, step: &Step, at: &mut u64) -> rusqlite::Result<()> {
    match step {
        Step::Put { key, value, deadline, .. } => {
            *at += 1;
            db.prepare_cached(
                "INSERT INTO entries VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, deadline = ?4",
            )?
            .execute(params![key, value, *at as i64, deadline.map(|d| d as i64)])?;
            note(db, key, Some(value), *at)
        }
        Step::Delete { key, .. } => {
            if db.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])? == 0 {
                return Ok(());
            }
            *at += 1;
            note(db, key, None, *at)
        }
    }
}

fn note(db: &Connection, key: &str, value: Option<&[u8]>, at: u64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3)")?.execute(params![at as i64, key, value])?;
    db.prepare_cached("UPDATE marks SET value = ?1 WHERE name = 'revision'")?.execute([at as i64])?;
    Ok(())
}

fn tidy(db: &Connection, before: u64, at: u64) -> rusqlite::Result<()> {
    if at / TIDY_EVERY == before / TIDY_EVERY || at <= MAX_KEPT_CHANGES {
        return Ok(());
    }
    let oldest = (at - MAX_KEPT_CHANGES) as i64;
    db.execute("DELETE FROM changes WHERE revision <= ?1", [oldest])?;
    db.execute("UPDATE marks SET value = ?1 WHERE name = 'compacted'", [oldest])?;
    Ok(())
}

pub(crate) fn error(path: &Path, e: rusqlite::Error) -> StoreError {
    let text = format!("{}: {e}", path.display());
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => StoreError::ReadOnly(text),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            StoreError::Busy(text)
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(text),
        // SQLite calls a full disk an I/O error where it meets it while growing its log: ask the disk itself.
        Some(ErrorCode::SystemIoFailure) => match probe(path) {
            Err(e @ (StoreError::Full(_) | StoreError::ReadOnly(_))) => e,
            _ => StoreError::Other(text),
        },
        _ => StoreError::Other(text),
    }
}

/// Writes a page beside the file, and takes it away again.
fn probe(path: &Path) -> Result<()> {
    let beside = path.with_extension("probe");
    // As much as one growth of the log: a few free bytes are not room.
    let wrote = std::fs::write(&beside, [0u8; 64 * 1024]).map_err(|e| io(path, &e));
    let _ = std::fs::remove_file(&beside);
    wrote
}

fn make_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(dir, &e))
}

/// Opens a file, making it for its owner alone: SQLite would make it readable for everyone. Through a link too, whose
/// target may not be there yet.
fn make_file(path: &Path) -> Result<File> {
    let open =
        |write: bool| File::options().read(true).write(write).create(write).truncate(false).mode(0o600).open(path);
    match open(true) {
        Ok(file) => Ok(file),
        // SQLite says better what it can do with a file that can only be read.
        Err(e)
            if e.kind() == std::io::ErrorKind::PermissionDenied
                || e.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
        {
            open(false).map_err(|_| io(path, &e))
        }
        Err(e) => Err(io(path, &e)),
    }
}

/// Takes everybody else's rights to a file away; says what they were, or that they stay. By its path: a descriptor of
/// our own would take SQLite's locks with it when it is closed, and the next reader would begin the shared memory anew
/// under a process that uses it.
fn private(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return None;
    }
    let at = path.display();
    Some(match std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        Ok(()) => format!(
            "{at} could be used by others (mode {mode:03o}); it is 600 now. Who read it before may have its keys"
        ),
        Err(e) => format!(
            "{at} can be used by others (mode {mode:03o}), and that cannot be changed: {e}; `chmod 600` it as its owner"
        ),
    })
}

/// A path with something behind its last word.
fn beside_of(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(what);
    PathBuf::from(name)
}

fn io(path: &Path, e: &std::io::Error) -> StoreError {
    let text = format!("{}: {e}", path.display());
    match e.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full(text),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(text),
        _ => StoreError::Other(text),
    }
}
