//! Configuration that is read again: at SIGHUP, at `portcullis reload`, and within a second of a change of a file that it
//! came from. In: what reads, checks and puts into force ([`Reload`]), and the files it read. Out: one reload at a time,
//! and how what is in force stands to what is written ([`Freshness`]).
//!
//! A reload that fails has changed nothing. What is wrong in a file waits for somebody to write it anew; what the machine
//! does not let us read is read again until it can be.

mod look;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::api::{Freshness, Trouble};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, error, info};

pub use self::look::Stamps;
use self::look::Watch;
use crate::run::Run;

/// Reads everything again, checks all of it, and puts it into force; or changes nothing and says why.
pub type Reload = Arc<dyn Fn() -> Reloading + Send + Sync>;

/// One reload under way.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, Failed>> + Send>>;

/// A reload that worked.
#[derive(Debug)]
pub struct Reloaded {
    /// What changed, in words; `None`: nothing did.
    pub changed: Option<String>,
    /// The files it came from, as they were before they were read.
    pub files: Stamps,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum Failed {
    /// The machine's trouble: what is written is not known, and is read again until it is.
    Machine(anyhow::Error),
    /// What is written is wrong: it stays so until somebody writes it anew.
    Text(anyhow::Error),
}

/// What other settings did to a component that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What is different now, in words.
    pub changed: Vec<String>,
    /// Settings that differ and need a restart.
    pub restart: Vec<&'static str>,
}

/// The first pause before a file that could not be read is read again; each one after it is twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest such pause: so long after the machine's trouble has ended, at most, a revocation counts.
const RETRY_MOST: Duration = Duration::from_secs(2);

/// While the trouble lasts it is said again this often.
const REMIND: Duration = Duration::from_secs(300);

/// A file that the machine did not let us read: no descriptors left, an I/O error, no permission, not there. What it
/// says is not known, so it is asked again.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} {}", path.display())]
pub struct Unreadable {
    /// `the list`, `the token file`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The system's word.
    #[source]
    pub why: std::io::Error,
}

/// That what is in force may be out of date, in one sentence, if there is trouble. `now`: seconds since the Unix epoch.
fn stale(fresh: &Freshness, now: u64) -> Option<String> {
    let t = fresh.trouble.as_ref()?;
    let ago = |at: u64| span(now.saturating_sub(at));
    let next = if t.retried { "it is tried again until it works" } else { "it is read again when it changes" };
    Some(format!(
        "the lists in force were read {} ago and may be out of date: for {}: {}; {next}",
        ago(fresh.read_at),
        ago(t.since),
        t.why
    ))
}

/// A length of time as people say it.
fn span(s: u64) -> String {
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3_600),
    }
}

/// What is known of the files; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Fresh(Arc<Mutex<Freshness>>);

impl Fresh {
    /// The files were read just now, and are in force.
    #[must_use]
    pub fn now() -> Fresh {
        let fresh = Fresh::default();
        fresh.read();
        fresh
    }

    /// How what is in force stands to what is written.
    #[must_use]
    pub fn get(&self) -> Freshness {
        let mut fresh = self.0.lock().clone();
        fresh.stale = stale(&fresh, crate::wall());
        fresh
    }

    fn read(&self) {
        *self.0.lock() = Freshness { read_at: crate::wall(), ..Freshness::default() };
    }

    /// The files were looked at and are what was read.
    fn still(&self) {
        let mut fresh = self.0.lock();
        if fresh.trouble.is_none() {
            fresh.read_at = crate::wall();
        }
    }

    /// Remembers why what is in force may be out of date.
    fn note(&self, failed: &Failed) {
        let (Failed::Machine(e) | Failed::Text(e)) = failed;
        let retried = matches!(failed, Failed::Machine(_));
        let mut fresh = self.0.lock();
        let since = fresh.trouble.as_ref().map_or_else(crate::wall, |t| t.since);
        fresh.trouble = Some(Trouble { since, why: format!("{e:#}"), retried });
    }
}

impl Failed {
    /// The error alone.
    #[must_use]
    pub fn into_error(self) -> anyhow::Error {
        let (Failed::Machine(e) | Failed::Text(e)) = self;
        e
    }
}

impl From<anyhow::Error> for Failed {
    /// Tells the two apart by what the system said, not by words.
    fn from(e: anyhow::Error) -> Failed {
        let io = e.chain().find_map(|c| c.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            // Not UTF-8: a text, and a wrong one.
            None | Some(std::io::ErrorKind::InvalidData) => Failed::Text(e),
            Some(_) => Failed::Machine(e),
        }
    }
}

/// Reloads on request of the run and whenever `files` change, until the run stops. `name` is what the log and the answer
/// to `portcullis reload` call it.
pub fn follow(run: &Run, name: &'static str, files: Stamps, fresh: Fresh, reload: Reload) {
    let live = Arc::new(Live { reload, fresh, loading: tokio::sync::Mutex::default(), failed: Notify::new() });
    let hook = live.clone();
    run.on_reload(name, move || {
        let live = hook.clone();
        async move {
            match live.load().await {
                Ok(done) => Ok(done.changed.unwrap_or_else(|| "nothing changed".to_string())),
                Err(failed) => {
                    if matches!(failed, Failed::Machine(_)) {
                        live.failed.notify_one();
                    }
                    Err(failed.into_error())
                }
            }
        }
        .boxed()
    });
    let stopping = run.stopping();
    run.spawn("file watcher", async move {
        tokio::select! {
            () = stopping => {}
            () = live.follow(files) => {}
        }
        Ok(())
    });
}

struct Live {
    reload: Reload,
    fresh: Fresh,
    /// One reload at a time.
    loading: tokio::sync::Mutex<()>,
    /// Told when a reload on request failed because of the machine.
    failed: Notify,
}

impl Live {
    async fn load(&self) -> Result<Reloaded, Failed> {
        let _one = self.loading.lock().await;
        let done = (self.reload)().await;
        match &done {
            Ok(_) => self.fresh.read(),
            Err(failed) => self.fresh.note(failed),
        }
        done
    }

    /// Loads again whenever a watched file changes, and until that has worked.
    async fn follow(&self, mut files: Stamps) {
        let mut trouble: Option<Retry> = None;
        // Without files none can come but from a changed configuration file, which would be watched.
        while !files.is_empty() {
            self.wait(&files, trouble.as_ref().and_then(|t| t.pause)).await;
            let (before, stuck) = (files.clone(), trouble.as_ref().and_then(|t| t.path.clone()));
            let looked = tokio::task::spawn_blocking(move || {
                let now = before.again();
                // Whatever else is written, it would stop there again: a look at one file instead of reading all.
                let stuck = stuck.filter(|_| !before.may_differ(&now)).map(|path| probe(&path));
                (now, stuck.and_then(Result::err))
            });
            let (now, still_stuck) = match looked.await {
                Ok(looked) => looked,
                Err(e) => {
                    error!(err = %e, "cannot look at watched files");
                    continue;
                }
            };
            let done = match still_stuck {
                Some(e) => {
                    let failed = Failed::Machine(e);
                    self.fresh.note(&failed);
                    Err(failed)
                }
                None => self.load().await,
            };
            match done {
                Ok(done) => {
                    match (trouble.take(), done.changed) {
                        (Some(_), said) => {
                            info!(changed = said, "files can be read again")
                        }
                        (None, Some(said)) => info!(changed = said, "reloaded"),
                        (None, None) => debug!("a watched file changed, and nothing by it"),
                    }
                    files = done.files;
                }
                Err(failed) => {
                    files = now;
                    trouble = Some(Retry::after(trouble, failed));
                }
            }
        }
        std::future::pending().await
    }

    /// Ends when files may hold something else than they did, or after `pause` where reading failed.
    async fn wait(&self, files: &Stamps, pause: Option<Duration>) {
        if let Some(pause) = pause {
            return tokio::time::sleep(pause).await;
        }
        // A new watch every time: a symlink may lead to another directory now.
        let before = files.clone();
        let Ok(mut watch) = tokio::task::spawn_blocking(move || Watch::new(&before)).await else { return };
        loop {
            let before = files.clone();
            match tokio::task::spawn_blocking(move || before.may_differ(&before.again())).await {
                Ok(false) => {}
                Ok(true) | Err(_) => return,
            }
            self.fresh.still();
            tokio::select! {
                () = watch.changed() => {}
                // Somebody's reload met the machine's trouble.
                () = self.failed.notified() => return,
            }
        }
    }
}

/// A load that failed, and when to try again.
struct Retry {
    /// `None`: when something is written.
    pause: Option<Duration>,
    /// The file that could not be read.
    path: Option<PathBuf>,
    /// What was said, and when.
    said: (String, Instant),
}

impl Retry {
    fn after(before: Option<Retry>, failed: Failed) -> Retry {
        let machine = matches!(failed, Failed::Machine(_));
        let e = failed.into_error();
        let path = e.chain().find_map(|c| c.downcast_ref::<Unreadable>()).map(|u| u.path.clone());
        let (pause, old) = before.map_or((None, None), |b| (b.pause, Some(b.said)));
        let pause = machine.then(|| pause.map_or(RETRY_FIRST, |p| (p * 2).min(RETRY_MOST)));
        let words = format!("{e:#}");
        let said = match old {
            Some((then, at)) if then == words && at.elapsed() < if machine { REMIND } else { RETRY_MOST * 2 } => {
                (then, at)
            }
            _ => {
                if machine {
                    error!(
                        err = words,
                        "cannot read the files; what is in force stays, and they are tried again until they can be read"
                    );
                } else {
                    error!(err = words, "reload refused; everything stays as it was");
                }
                (words, Instant::now())
            }
        };
        Retry { pause, path, said }
    }
}

/// Opens a file that may be read again and again, and no more.
///
/// # Errors
/// [`Unreadable`] where that fails; a pipe, a folder or a device is none that could be read again.
pub fn open(what: &'static str, path: &Path) -> anyhow::Result<fs::File> {
    let unreadable = |why| Unreadable { what, path: path.to_path_buf(), why };
    // Opening a pipe would wait for a writer for ever.
    let meta = fs::metadata(path).map_err(unreadable)?;
    anyhow::ensure!(meta.is_file(), "cannot read {what} {}: it is not a regular file", path.display());
    Ok(fs::File::open(path).map_err(unreadable)?)
}

/// Whether a file that could not be read can be: a bad disk opens and does not read.
fn probe(path: &Path) -> anyhow::Result<()> {
    use std::io::Read;
    // Something else there by now is for the load to judge.
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Ok(());
    }
    let what = "the file";
    let done = open(what, path)?.read(&mut [0]);
    done.map_err(|why| Unreadable { what, path: path.to_path_buf(), why })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_trouble_is_told_from_a_bad_file_by_what_the_system_said() {
        let of = |e: anyhow::Error| matches!(Failed::from(e), Failed::Machine(_));
        for kind in [24, 23, 5, 12, 13, 2, 40, 116] {
            let why = std::io::Error::from_raw_os_error(kind);
            assert!(of(Unreadable { what: "the list", path: "office".into(), why }.into()), "{kind}");
            let why = anyhow::Error::new(std::io::Error::from_raw_os_error(kind));
            assert!(of(why.context("cannot read the configuration edge.toml")), "{kind}");
        }
        assert!(!of(anyhow::anyhow!("office, line 2, column 1: `x`: No such file or directory")));
        assert!(!of(std::io::Error::from(std::io::ErrorKind::InvalidData).into()));
    }

    #[tokio::test]
    async fn what_the_machine_refuses_is_tried_again_and_what_is_wrong_waits_for_a_writer() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = std::env::temp_dir().join(format!("portcullis-reload-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("edge.toml");
        fs::write(&file, "good").unwrap();
        let (run, fresh, tried) = (Run::new(Duration::from_millis(50)), Fresh::now(), Arc::new(AtomicU32::new(0)));
        let (path, count) = (file.clone(), tried.clone());
        let reload = move || {
            let (path, count) = (path.clone(), count.clone());
            async move {
                let files = Stamps::of(vec![path.clone()]);
                let tries = count.fetch_add(1, Ordering::SeqCst);
                match fs::read_to_string(&path).map_err(|e| Failed::Machine(e.into()))?.as_str() {
                    "wrong" => Err(Failed::Text(anyhow::anyhow!("line 1"))),
                    "full" if tries < 2 => Err(Failed::Machine(anyhow::anyhow!("the disk is full"))),
                    text => Ok(Reloaded { changed: Some(text.to_string()), files }),
                }
            }
            .boxed()
        };
        follow(&run, "configuration", Stamps::of(vec![file.clone()]), fresh.clone(), Arc::new(reload));
        let until = async |what: &str, is: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !is() {
                assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        fs::write(&file, "full").unwrap();
        until("the third try works", &|| tried.load(Ordering::SeqCst) > 2 && fresh.get().trouble.is_none()).await;
        fs::write(&file, "wrong").unwrap();
        until("that it is wrong is known", &|| fresh.get().trouble.is_some_and(|t| !t.retried)).await;
        assert!(run.reload().await[0].1.is_err());
        fs::write(&file, "good").unwrap();
        until("the good file counts", &|| fresh.get().trouble.is_none()).await;
        run.stop();
        run.finish().await.unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
