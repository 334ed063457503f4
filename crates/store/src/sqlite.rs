//! The key space in one SQLite file. In: a path. Out: as [`Store`]; what `write` returned survives a crash of the
//! process and of the machine (write-ahead log, `synchronous = FULL`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::{Change, Entry, KEEP, Result, Step, Store, StoreError, holds};

/// A store in a file. One process at a time.
#[derive(Debug)]
pub struct Sqlite {
    db: Mutex<Connection>,
    changed: Condvar,
    path: PathBuf,
}

/// Layout of the tables; a file with a higher number was written by a newer version and is left alone.
const LAYOUT: i64 = 1;

/// Old changes are deleted after this many new ones: often enough to bound the file, rarely enough to cost nothing.
const TIDY_EVERY: u64 = 256;

impl Sqlite {
    /// Opens the file, making it (mode 0600) and its directory (mode 0700) if they are not there.
    ///
    /// # Errors
    /// The directory can not be written, the disk is full, the file is damaged, newer, or in use by another process.
    pub fn open(path: &Path) -> Result<Sqlite> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            make_dir(dir)?;
        }
        make_file(path)?;
        let db = Connection::open(path).map_err(|e| error(path, e))?;
        prepare(&db).map_err(|e| error(path, e))?;
        let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(|e| error(path, e))?;
        if layout > LAYOUT {
            return Err(StoreError::Newer(format!(
                "{} has layout {layout}, this version knows {LAYOUT}: it was written by a newer version",
                path.display()
            )));
        }
        Ok(Sqlite { db: Mutex::new(db), changed: Condvar::new(), path: path.to_path_buf() })
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
        let read = || -> rusqlite::Result<(Vec<Entry>, u64)> {
            let mut q = db.prepare_cached(
                "SELECT key, value, revision, deadline FROM entries WHERE key >= ?1 AND substr(key, 1, ?2) = ?1 ORDER BY key",
            )?;
            let rows = q.query_map(params![prefix, prefix.chars().count() as i64], entry)?;
            Ok((rows.collect::<rusqlite::Result<_>>()?, revision(&db)?))
        };
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

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    // Two seconds: a backup by `sqlite3` may hold it for a moment; longer is another gate on the same file.
    db.busy_timeout(Duration::from_secs(2))?;
    // One process: the lock is taken once and held, and no shared-memory file is needed.
    db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if layout > LAYOUT {
        return Ok(());
    }
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
    if at / TIDY_EVERY == before / TIDY_EVERY || at <= KEEP {
        return Ok(());
    }
    let oldest = (at - KEEP) as i64;
    db.execute("DELETE FROM changes WHERE revision <= ?1", [oldest])?;
    db.execute("UPDATE marks SET value = ?1 WHERE name = 'compacted'", [oldest])?;
    Ok(())
}

fn error(path: &Path, e: rusqlite::Error) -> StoreError {
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

/// SQLite would make it readable for everyone.
fn make_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io(path, &e)),
    }
}

fn io(path: &Path, e: &std::io::Error) -> StoreError {
    let text = format!("{}: {e}", path.display());
    match e.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full(text),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(text),
        _ => StoreError::Other(text),
    }
}
