//! Memory that lasts: a revisioned key space. In: keys, bytes, the revision that the writer believes in. Out: what is
//! stored, and every change since a revision. Told what to keep; decides nothing.
//!
//! Five verbs: [`Store::get`], [`Store::list`], [`Store::put_if`], [`Store::delete_if`], [`Store::watch_from`], and
//! [`Store::write`], which does several puts and deletes as one. What `write` returned is on the disk. An entry may
//! carry a deadline; it also stands in the value and is enforced by whoever reads it, [`Store::expire`] only tidies up.

pub mod foreign;
mod memory;
mod sqlite;

use std::fmt;
use std::time::Duration;

pub use memory::Memory;
pub use sqlite::{Held, Sqlite, check, copy, hold, peek, peek_all, settle};

/// One stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key: words with `/` between them.
    pub key: String,
    /// Its bytes.
    pub value: Vec<u8>,
    /// The revision of its latest change.
    pub revision: u64,
    /// When [`Store::expire`] may delete it, seconds since the Unix epoch.
    pub deadline: Option<u64>,
}

/// What a writer believes about a key before it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// Nothing: write anyway.
    Anyway,
    /// The key is not there.
    Absent,
    /// The key's latest change was this revision.
    Revision(u64),
}

/// One step of a [`Store::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The bytes.
        value: Vec<u8>,
        /// When it may be tidied away, seconds since the Unix epoch.
        deadline: Option<u64>,
        /// What must hold.
        when: If,
    },
    /// Deletes a key. Deleting what is not there is done already.
    Delete {
        /// The key.
        key: String,
        /// What must hold.
        when: If,
    },
}

/// A change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its revision; each change has its own.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The new bytes, or `None` if it was deleted.
    pub value: Option<Vec<u8>>,
}

/// Why the store did not do it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The belief did not hold.
    #[error("`{key}` was changed by someone else (it is at revision {found:?})")]
    Conflict {
        /// The key.
        key: String,
        /// Its revision, `None` if it is not there.
        found: Option<u64>,
    },
    /// Changes after this revision are no longer kept; read everything and watch from there.
    #[error("changes up to revision {oldest} are no longer kept")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: u64,
    },
    /// The disk is full.
    #[error("the disk is full: {0}")]
    Full(String),
    /// The directory or the file cannot be written.
    #[error("cannot be written: {0}")]
    ReadOnly(String),
    /// Another process has it open.
    #[error("another process uses it: {0}")]
    Busy(String),
    /// A newer version wrote it. Which, and which this is.
    #[error("it was written by a newer version: {0}")]
    Newer(String),
    /// The file is damaged or not ours.
    #[error("the file is damaged or was written by another program: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The key space. Every backend passes the same suite (`tests/suite.rs`). Calls block; call it from a thread of its own.
pub trait Store: Send + Sync + fmt::Debug {
    /// The entry of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Every entry whose key starts with `prefix`, by key, and the revision of this picture.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)>;

    /// Does all steps or none. Returns the revision of the last one.
    ///
    /// # Errors
    /// A belief did not hold, or the store cannot be written; nothing was changed.
    fn write(&self, steps: &[Step]) -> Result<u64>;

    /// Changes of keys that start with `prefix`, after `revision`, at most `limit`; waits for the first one up to
    /// `wait`. Empty: none came.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], or the store cannot be read.
    fn changes(&self, prefix: &str, revision: u64, limit: usize, wait: Duration) -> Result<Vec<Change>>;

    /// Deletes entries whose deadline is `now` (seconds since the Unix epoch) or earlier; returns how many.
    ///
    /// # Errors
    /// The store cannot be written.
    fn expire(&self, now: u64) -> Result<usize>;

    /// Sets a key if the belief holds; returns its new revision.
    ///
    /// # Errors
    /// As for [`Store::write`].
    fn put_if(&self, key: &str, value: &[u8], deadline: Option<u64>, when: If) -> Result<u64> {
        self.write(&[Step::Put { key: key.to_string(), value: value.to_vec(), deadline, when }])
    }

    /// Deletes a key if the belief holds.
    ///
    /// # Errors
    /// As for [`Store::write`].
    fn delete_if(&self, key: &str, when: If) -> Result<u64> {
        self.write(&[Step::Delete { key: key.to_string(), when }])
    }

    /// A watcher of keys that start with `prefix`, from the first change after `revision` on: with the revision of a
    /// [`Store::list`], no change is missed and none comes twice.
    fn watch_from(&self, prefix: &str, revision: u64) -> Watch<'_>
    where
        Self: Sized,
    {
        Watch { store: self, prefix: prefix.to_string(), revision }
    }
}

/// A place in the stream of changes.
#[derive(Debug)]
pub struct Watch<'a> {
    store: &'a dyn Store,
    prefix: String,
    revision: u64,
}

/// A watcher takes so many changes at once.
const BATCH: usize = 1_000;

/// So many changes are kept for watchers that were away; one of a few hundred bytes is about three megabytes in all.
pub(crate) const MAX_KEPT_CHANGES: u64 = 10_000;

impl Watch<'_> {
    /// The next changes; empty if none came within `wait`.
    ///
    /// # Errors
    /// As for [`Store::changes`].
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let changes = self.store.changes(&self.prefix, self.revision, BATCH, wait)?;
        if let Some(last) = changes.last() {
            self.revision = last.revision;
        }
        Ok(changes)
    }

    /// The revision up to which changes were taken.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

pub(crate) fn holds(when: If, found: Option<u64>) -> bool {
    match when {
        If::Anyway => true,
        If::Absent => found.is_none(),
        If::Revision(r) => found == Some(r),
    }
}
