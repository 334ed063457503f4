//! Whether files changed. In: paths. Out: what they lead to, told apart by inode, size and times; and a wait that ends
//! at the system's notice of a change, or after two seconds, because not every file system gives notice.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::Watcher;
use tokio::sync::mpsc;
use tracing::debug;

/// Quiet time after a change before files are read: a writer that truncates and then writes is not seen half way.
const SETTLE: Duration = Duration::from_millis(100);

/// Changes without a pause are looked at this often, so that a cut stays within a second of its cause.
const SETTLE_AT_MOST: Duration = Duration::from_millis(400);

/// How often files are looked at beside the system's notices. None come for a symlink that is swapped in the middle
/// of a path, a target that comes back, a mount, a write through a hard link in another folder, NFS, SMB and 9p.
const LOOK: Duration = Duration::from_secs(2);

/// The same where the system gives no notice at all (no inotify, or none left).
const LOOK_ALONE: Duration = Duration::from_millis(500);

/// A file that changed this shortly before it was looked at may change again without another time: the coarsest
/// times of file systems in use are two seconds (FAT).
const COARSEST: Duration = Duration::from_secs(3);

/// Where a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    len: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Set by the system at every change, so that a writer that keeps size and time is seen.
    changed: (i64, i64),
}

/// Files and what tells their states apart.
#[derive(Debug, Clone)]
pub struct Stamps {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    /// Some file was so young that another write may have left it the same times.
    young: bool,
}

impl Stamps {
    /// Looks at files. Blocks, on a network's file system perhaps for long.
    pub fn of(mut paths: Vec<PathBuf>) -> Stamps {
        paths.sort();
        paths.dedup();
        // The path is walked by the system, so that whatever is swapped on the way leads elsewhere.
        let stamps: Vec<Option<Stamp>> = paths.iter().map(|p| fs::metadata(p).ok().map(|m| stamp(&m))).collect();
        let edge = SystemTime::now().checked_sub(COARSEST).and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let edge = edge.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        let young = stamps.iter().flatten().any(|s| s.modified.0 >= edge || s.changed.0 >= edge);
        Stamps { paths, stamps, young }
    }

    /// The same files as they are now.
    pub(super) fn again(&self) -> Stamps {
        Stamps::of(self.paths.clone())
    }

    /// True if the files may hold something else `now` than when these stamps were taken. Files that were young then
    /// are read once more when they no longer are: another write may have left them the same times.
    pub(super) fn may_differ(&self, now: &Stamps) -> bool {
        self.paths != now.paths || self.stamps != now.stamps || (self.young && !now.young)
    }

    /// True if there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn stamp(m: &fs::Metadata) -> Stamp {
    Stamp {
        dev: m.dev(),
        ino: m.ino(),
        len: m.len(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    }
}

/// Notice of changes in the directories of some files.
pub(super) struct Watch {
    events: mpsc::Receiver<()>,
    /// Kept alive; `None`: looking only.
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Asks for notice. Blocks: reads symlinks.
    pub(super) fn new(files: &Stamps) -> Watch {
        // One pending notice is enough: what changed is found by looking.
        let (notify, events) = mpsc::channel(1);
        let watcher = Watch::start(&files.paths, notify);
        let watcher = watcher
            .map_err(|e| debug!(err = %e, every = ?LOOK_ALONE, "no notifications of changed files, polling"))
            .ok();
        Watch { events, watcher }
    }

    fn start(files: &[PathBuf], notify: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading must not wake us.
            let reading = event.as_ref().is_ok_and(|e| {
                matches!(e.kind, notify::EventKind::Access(a) if a != notify::event::AccessKind::Close(notify::event::AccessMode::Write))
            });
            if !reading {
                let _ = notify.try_send(());
            }
        })?;
        // Directories, not files: an atomic rename replaces the file, and a watch on the old one would see nothing
        // more. Both the named directory and the real one, because the path may be a symlink.
        let mut dirs: Vec<PathBuf> = Vec::new();
        for file in files {
            dirs.push(dir_of(file));
            if let Ok(real) = fs::canonicalize(file) {
                dirs.push(dir_of(&real));
            }
        }
        dirs.sort();
        dirs.dedup();
        for dir in &dirs {
            watcher.watch(dir, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }

    /// Ends when something may have changed and is quiet again, or after two seconds.
    pub(super) async fn changed(&mut self) {
        if self.watcher.is_none() {
            return tokio::time::sleep(LOOK_ALONE).await;
        }
        match tokio::time::timeout(LOOK, self.events.recv()).await {
            Ok(Some(())) => {}
            // The notices ended: look as if there had never been any.
            Ok(None) => return tokio::time::sleep(LOOK_ALONE).await,
            Err(_) => return,
        }
        let latest = tokio::time::Instant::now() + SETTLE_AT_MOST;
        loop {
            let quiet = (tokio::time::Instant::now() + SETTLE).min(latest);
            match tokio::time::timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if tokio::time::Instant::now() < latest => {}
                _ => return,
            }
        }
    }
}

fn dir_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
