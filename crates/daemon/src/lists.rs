//! Lists live. In: where each list is written (flags, files, configuration), and the lists of a gate that they take in.
//! Out: views published to the doors, at the start, on reload, within a second of a change of a file, and at once when
//! the gate's lists change. A bad list changes nothing, and holds up nothing that the gate takes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::FutureExt;
use model::{AddrSet, List, Prefix, View, ViewBuilder, parse_list};
use notify::Watcher;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::door::Doors;
use crate::hint::Hinted;
use crate::run::Run;

/// One named list and everything it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSource {
    /// `control`, `data`, `port:2222`, `host:app.example.com`.
    pub name: String,
    /// Joined; no part at all is an empty list, which lets nobody in.
    pub parts: Vec<ListPart>,
}

/// Where entries of a list are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListPart {
    /// Nobody wrote a list: everybody, said as `0.0.0.0/0,::/0`.
    Default,
    /// In a flag, a variable or the configuration file.
    Text {
        /// As written.
        text: String,
        /// `--allow-ips`, `edge.toml:12`.
        from: String,
    },
    /// In a file of its own.
    File(PathBuf),
    /// Whoever is on this list of the gate in the same process: `list:family`.
    Named {
        /// The gate's list.
        name: String,
        /// Where that was written.
        from: String,
    },
}

/// Everything that makes the next view.
#[derive(Clone, Default)]
pub struct Sources {
    /// The lists, in the order they are shown.
    pub lists: Vec<ListSource>,
    /// Files besides those of the lists whose change means a reload: the configuration file.
    pub also_watch: Vec<PathBuf>,
    /// What must be in force before the lists are: the gate's own lists of the same file.
    pub first: Option<First>,
}

/// Puts into force what was read beside the lists, once all of it is known to be good. May block; says what changed.
pub type First = Arc<dyn Fn() -> anyhow::Result<String> + Send + Sync>;

/// The gate's lists, if a gate runs in this process.
pub type Named = Option<watch::Receiver<Arc<View>>>;

/// Finds the sources anew at every reload, so that a changed configuration file counts.
pub type Find = Arc<dyn Fn() -> anyhow::Result<Sources> + Send + Sync>;

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The lists, in the order of their sources, without what they take in from the gate.
    pub lists: Vec<List>,
    /// For each, the gate's lists that it takes in.
    pub named: Vec<Vec<String>>,
    /// Sentences for a person: host bits, empty lists.
    pub warnings: Vec<String>,
}

/// A list file of a million long IPv6 prefixes has 44 MB; more is a mistake such as a log or a disk image.
const MAX_FILE: u64 = 64 << 20;

/// Quiet time after a change before files are read: a writer that truncates and then writes is not seen half way.
const SETTLE: Duration = Duration::from_millis(100);

/// Changes without a pause are looked at this often, so that a cut stays within a second of its cause.
const SETTLE_AT_MOST: Duration = Duration::from_millis(400);

/// How often files are looked at where the system gives no notice of changes (no inotify, or none left).
const POLL: Duration = Duration::from_millis(500);

/// Publishes the lists, keeps them equal to their files, and answers reloads.
///
/// # Errors
/// A list is bad now; later bad lists are only reported.
pub fn start(run: &Run, doors: &Arc<Doors>, find: Find, named: Named) -> anyhow::Result<Lists> {
    let live = Arc::new(Live {
        doors: doors.clone(),
        find,
        named,
        kept: parking_lot::Mutex::default(),
        taken: parking_lot::RwLock::new((BTreeMap::new(), Arc::new([]))),
    });
    // What a gate needs was in force before it could name its lists.
    let first = live.load(false)?;
    if !live.doors.view().lists().is_empty() {
        info!("lists: {}", first.said);
    }

    let hook = live.clone();
    run.on_reload("lists", move || {
        let live = hook.clone();
        async move { tokio::task::spawn_blocking(move || live.load(true)).await?.map(|r| r.said) }.boxed()
    });
    if let Some(mut named) = live.named.clone() {
        let (live, stopping) = (live.clone(), run.stopping());
        run.spawn("gate's lists at the doors", async move {
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    () = &mut stopping => return Ok(()),
                    changed = named.changed() => if changed.is_err() { return Ok(()) },
                }
                named.mark_unchanged();
                let live = live.clone();
                // A list of a hundred thousand is put together off the runtime's threads.
                tokio::task::spawn_blocking(move || live.again()).await?;
            }
        });
    }
    let lists = Lists(live.clone());
    let stopping = run.stopping();
    run.spawn("list watcher", async move {
        tokio::select! {
            () = stopping => {}
            () = live.follow(first.files) => {}
        }
        Ok(())
    });
    Ok(lists)
}

/// The lists at the doors of this process.
#[derive(Clone)]
pub struct Lists(Arc<Live>);

impl Lists {
    /// The gate's lists that a list takes in.
    #[must_use]
    pub fn takes_in(&self, list: &str) -> Vec<String> {
        self.0.taken.read().0.get(list).cloned().unwrap_or_default()
    }

    /// Every list of the gate that some door takes in.
    #[must_use]
    pub fn all_taken_in(&self) -> Arc<[String]> {
        self.0.taken.read().1.clone()
    }
}

/// Parses one value of `--allow-ips` and its like: entries and `@file`s, parted by commas.
///
/// # Errors
/// A text that is no list, with its column; an empty value. Files are only named here, [`load`] reads them.
pub fn parts(value: &str, from: &str, dir: Option<&Path>) -> anyhow::Result<Vec<ListPart>> {
    // Commas alone are as empty as nothing.
    if value.replace(',', " ").trim().is_empty() {
        anyhow::bail!("{from} is empty; write `none` to let nobody in, or `all`");
    }
    let mut files = Vec::new();
    // Files are blanked out rather than cut out, so that the columns of errors stay true.
    let mut text = String::with_capacity(value.len());
    for (n, piece) in value.split(',').enumerate() {
        if n > 0 {
            text.push(',');
        }
        match (piece.trim().strip_prefix('@'), piece.trim().strip_prefix("list:").map(str::trim)) {
            (Some(""), _) => anyhow::bail!("{from}: `@` needs the path of a file"),
            (Some(path), _) => {
                files.push(ListPart::File(dir.map_or_else(|| PathBuf::from(path), |d| d.join(path))));
                text.extend(piece.chars().map(|_| ' '));
            }
            (None, Some("")) => anyhow::bail!("{from}: `list:` needs the name of a list"),
            (None, Some(name)) => {
                files.push(ListPart::Named { name: name.to_string(), from: from.to_string() });
                text.extend(piece.chars().map(|_| ' '));
            }
            (None, None) => text.push_str(piece),
        }
    }
    let mut out = Vec::new();
    if !text.replace(',', " ").trim().is_empty() {
        parse_list(&text).map_err(|e| anyhow::anyhow!("{}", in_text(from, &e)))?;
        out.push(ListPart::Text { text, from: from.to_string() });
    }
    out.extend(files);
    Ok(out)
}

/// Reads every list.
///
/// # Errors
/// The first list that is bad or file that cannot be read, with file, line and column.
pub fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    let mut out = Loaded::default();
    for source in &sources.lists {
        let mut prefixes: Vec<Prefix> = Vec::new();
        let mut from: Vec<String> = Vec::new();
        let mut named: Vec<String> = Vec::new();
        for part in &source.parts {
            from.push(read_part(part, &mut prefixes, &mut out.warnings)?);
            if let ListPart::Named { name, .. } = part
                && !named.contains(name)
            {
                named.push(name.clone());
            }
        }
        from.dedup();
        let list = List { name: source.name.clone(), set: AddrSet::new(prefixes), source: from.join(", ") };
        if list.set.is_empty() && named.is_empty() {
            out.warnings.push(format!("list `{}` is empty: it lets nobody in", list.name));
        }
        out.lists.push(list);
        out.named.push(named);
    }
    // One flag may make two lists; what is odd about it is said once.
    let mut said = BTreeSet::new();
    out.warnings.retain(|w| said.insert(w.clone()));
    Ok(out)
}

struct Live {
    doors: Arc<Doors>,
    find: Find,
    named: Named,
    /// What was last read and good. Held while publishing: a reload by signal, one by watch and a change of the gate
    /// must not publish in the wrong order.
    kept: parking_lot::Mutex<Loaded>,
    /// For each list, the gate's lists that it takes in; read at every visit, so never locked for long.
    taken: parking_lot::RwLock<Taken>,
}

/// For each list at the doors, what it takes in; and all of that together.
type Taken = (BTreeMap<String, Vec<String>>, Arc<[String]>);

impl Live {
    /// Reads, publishes if something changed, and says so. Blocking: reads files.
    fn load(&self, first: bool) -> anyhow::Result<Read> {
        let mut kept = self.kept.lock();
        let sources = (self.find)()?;
        // Before reading: a change while we read is seen as a change after it.
        let files = Stamped::of(watched(&sources));
        let loaded = load(&sources)?;
        let mut words = Vec::new();
        if first && let Some(apply) = &sources.first {
            words.push(apply()?);
        }
        let view = self.named.as_ref().map(|n| n.borrow().clone());
        for part in sources.lists.iter().flat_map(|l| &l.parts) {
            known(part, view.as_deref())?;
        }
        for w in &loaded.warnings {
            warn!("{w}");
        }
        let taken: BTreeMap<String, Vec<String>> =
            loaded.lists.iter().map(|l| l.name.clone()).zip(loaded.named.iter().cloned()).collect();
        let all: BTreeSet<String> = taken.values().flatten().cloned().collect();
        *self.taken.write() = (taken, all.into_iter().collect());
        *kept = loaded;
        words.extend(self.publish(&kept));
        let said = if words.is_empty() { "nothing changed".to_string() } else { words.join("; ") };
        Ok(Read { said, files })
    }

    /// Publishes again what was last good, with the gate's lists as they are now.
    fn again(&self) {
        let kept = self.kept.lock();
        if let Some(said) = self.publish(&kept) {
            tracing::debug!("the gate's lists changed: {said}");
        }
    }

    /// Publishes if something changed; says what.
    fn publish(&self, kept: &Loaded) -> Option<String> {
        let gate = self.named.as_ref().map(|n| n.borrow().clone());
        let lists: Vec<List> =
            kept.lists.iter().zip(&kept.named).map(|(list, named)| with_named(list, named, gate.as_deref())).collect();
        let old = self.doors.view();
        let same = old.generation > 0
            && old.lists().len() == lists.len()
            && old
                .lists()
                .iter()
                .zip(&lists)
                .all(|(a, b)| a.name == b.name && a.source == b.source && a.set.prefixes() == b.set.prefixes());
        if same {
            return None;
        }
        let generation = old.generation + 1;
        let words: Vec<String> = lists.iter().map(summary).collect();
        let mut next = ViewBuilder::default();
        for list in lists {
            next.add(list);
        }
        let cut = self.doors.publish(next.build(generation));
        let mut said = format!("generation {generation}: {}", words.join("; "));
        if cut > 0 {
            said.push_str(&format!("; {cut} connections cut"));
        }
        Some(said)
    }

    /// Loads again whenever a watched file changes.
    async fn follow(self: Arc<Live>, mut files: Stamped) {
        loop {
            if files.paths.is_empty() {
                // Other files could only come from a changed configuration file, which would be watched.
                return std::future::pending().await;
            }
            // A new watch after every change: a symlink may lead to another directory now.
            let mut watch = Watch::new(&files.paths);
            let now = loop {
                let now = Stamped::of(files.paths.clone());
                if now != files {
                    break now;
                }
                watch.changed().await;
            };
            files = now;
            let live = self.clone();
            match tokio::task::spawn_blocking(move || live.load(true)).await {
                Ok(Ok(read)) => {
                    info!("a list file changed: {}", read.said);
                    files = read.files;
                }
                Ok(Err(e)) => error!("a list file changed and is not used, everything stays as it was: {e:#}"),
                Err(e) => error!("reading the lists: {e}"),
            }
        }
    }
}

/// One load.
struct Read {
    /// What changed, in words.
    said: String,
    /// The files it came from, as they were.
    files: Stamped,
}

/// Files and what tells their states apart.
#[derive(PartialEq, Eq)]
struct Stamped {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<(SystemTime, u64, u64)>>,
}

impl Stamped {
    fn of(paths: Vec<PathBuf>) -> Stamped {
        use std::os::unix::fs::MetadataExt;
        let stamp = |f: &PathBuf| fs::metadata(f).ok().and_then(|m| Some((m.modified().ok()?, m.len(), m.ino())));
        let stamps = paths.iter().map(stamp).collect();
        Stamped { paths, stamps }
    }
}

/// Notice of changes in the directories of some files.
struct Watch {
    events: mpsc::Receiver<()>,
    /// Kept alive; `None`: polling.
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    fn new(files: &[PathBuf]) -> Watch {
        // One pending notice is enough: what changed is found by looking.
        let (tell, events) = mpsc::channel(1);
        let watcher = Watch::start(files, tell);
        let watcher = watcher
            .map_err(|e| warn!("the system does not tell of file changes ({e}); looking every {POLL:?} instead"))
            .ok();
        Watch { events, watcher }
    }

    fn start(files: &[PathBuf], tell: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading must not wake us.
            let reading = event.as_ref().is_ok_and(|e| {
                matches!(e.kind, notify::EventKind::Access(a) if a != notify::event::AccessKind::Close(notify::event::AccessMode::Write))
            });
            if !reading {
                let _ = tell.try_send(());
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

    /// Ends some time after something may have changed, once it is quiet.
    async fn changed(&mut self) {
        if self.watcher.is_none() {
            return tokio::time::sleep(POLL).await;
        }
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
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

fn watched(sources: &Sources) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = sources.also_watch.clone();
    for part in sources.lists.iter().flat_map(|l| &l.parts) {
        if let ListPart::File(path) = part {
            files.push(path.clone());
        }
    }
    files.sort();
    files.dedup();
    files
}

fn dir_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A list with what it takes in from the gate. A list that the gate no longer has lets nobody in.
fn with_named(list: &List, named: &[String], gate: Option<&View>) -> List {
    if named.is_empty() {
        return list.clone();
    }
    let taken =
        named.iter().filter_map(|n| gate.and_then(|v| v.list(v.id(n)?))).flat_map(|l| l.set.prefixes().into_owned());
    let set = AddrSet::new(list.set.prefixes().iter().copied().chain(taken));
    List { set, ..list.clone() }
}

/// A list of the gate that is taken in must be there: a name with a slip of the pen would let nobody in.
fn known(part: &ListPart, gate: Option<&View>) -> anyhow::Result<()> {
    let ListPart::Named { name, from } = part else { return Ok(()) };
    let Some(view) = gate else {
        return Err(Hinted::error(
            format!("{from}: `list:{name}` names a list of a gate, and none runs in this process"),
            format!(
                "`portcullis serve --config FILE` with `[gate]` and `[lists.{name}]` in the file has one; the list of a gate elsewhere comes as @FILE (its `--list-file`)"
            ),
        ));
    };
    if view.id(name).is_some() {
        return Ok(());
    }
    let all: Vec<&str> = view.lists().iter().map(|l| l.name.as_str()).collect();
    let there = if all.is_empty() { "there are none".to_string() } else { format!("there are {}", all.join(", ")) };
    Err(Hinted::error(
        format!("{from}: there is no list `{name}`; {there}"),
        format!("write `[lists.{name}]` into the configuration file, or another name"),
    ))
}

/// Adds the entries of a part and says where they stand.
fn read_part(part: &ListPart, prefixes: &mut Vec<Prefix>, warnings: &mut Vec<String>) -> anyhow::Result<String> {
    match part {
        ListPart::Default => {
            prefixes.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
            Ok("default 0.0.0.0/0,::/0".to_string())
        }
        ListPart::Text { text, from } => {
            let list = parse_list(text).map_err(|e| anyhow::anyhow!("{}", in_text(from, &e)))?;
            for w in &list.warnings {
                warnings.push(format!("{from}: `{}` has host bits, read as `{}`", w.text, w.normal));
            }
            prefixes.extend(list.prefixes);
            Ok(from.clone())
        }
        ListPart::Named { name, .. } => Ok(format!("list:{name}")),
        ListPart::File(path) => {
            let text = read_file(path).with_context(|| format!("cannot read the list {}", path.display()))?;
            let list = parse_list(&text).map_err(|e| anyhow::anyhow!("{}, {e}", path.display()))?;
            for w in &list.warnings {
                warnings.push(format!("{}, {w}", path.display()));
            }
            prefixes.extend(list.prefixes);
            Ok(path.display().to_string())
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let meta = fs::metadata(path)?;
    // Opening a pipe would wait for a writer for ever.
    anyhow::ensure!(meta.is_file(), "it is not a regular file");
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "it has more than {} MiB", MAX_FILE >> 20);
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        anyhow::anyhow!("line {} is not UTF-8 text", good.lines().count().max(1))
    })
}

fn in_text(from: &str, e: &model::ListError) -> String {
    format!("{from}, column {}: `{}`: {}", e.column, e.text, e.reason)
}

fn summary(list: &List) -> String {
    match &*list.set.prefixes() {
        [] => format!("`{}` lets nobody in", list.name),
        [a, b] if [*a, *b] == [Prefix::ALL_V4, Prefix::ALL_V6] => format!("`{}` lets everybody in", list.name),
        [one] => format!("`{}` holds {one}", list.name),
        many => format!("`{}` has {} entries", list.name, many.len()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use model::Addr;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("portcullis-lists-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn from_file(path: &Path) -> Find {
        let lists = vec![ListSource { name: "data".into(), parts: vec![ListPart::File(path.to_path_buf())] }];
        let sources = Sources { lists, ..Sources::default() };
        Arc::new(move || Ok(sources.clone()))
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !is() {
            assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn values_hold_entries_and_files() {
        let p = parts("10.0.0.1,@office.txt, 10.0.0.2", "--allow-ips", Some(Path::new("/etc"))).unwrap();
        assert_eq!(p.len(), 2);
        assert_eq!(p[1], ListPart::File("/etc/office.txt".into()));
        let e = parts("10.0.0.1,@office.txt, 10.0.0.999", "--allow-ips", None).unwrap_err();
        assert!(e.to_string().starts_with("--allow-ips, column 23: `10.0.0.999`"), "{e}");
        assert!(parts(" ", "--allow-ips", None).unwrap_err().to_string().contains("`none`"));
        assert!(parts("@", "--allow-ips", None).is_err());
        assert_eq!(parts("none", "--allow-ips", None).unwrap().len(), 1);
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let dir = dir("bad");
        let file = dir.join("office");
        fs::write(&file, "10.0.0.1\n10.0.0.0/40\n").unwrap();
        let e = load(&from_file(&file)().unwrap()).unwrap_err();
        assert!(e.to_string().contains("office, line 2, column 1: `10.0.0.0/40`"), "{e}");
        fs::write(&file, b"10.0.0.1\n\xff\xfe").unwrap();
        let e = load(&from_file(&file)().unwrap()).unwrap_err();
        assert!(format!("{e:#}").contains("not UTF-8"), "{e:#}");
        assert!(load(&from_file(&dir)().unwrap()).is_err(), "a directory is no list");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_cuts_within_a_second_and_a_bad_one_changes_nothing() {
        let dir = dir("live");
        let file = dir.join("office");
        fs::write(&file, "127.0.0.0/8\n").unwrap();
        let (run, doors) = (Run::new(Duration::from_millis(50)), Doors::new());
        let door = doors.door(&["data"]);
        assert!(door.admit(addr("127.0.0.1")).is_err(), "before the first view nobody passes");
        start(&run, &doors, from_file(&file), None).unwrap();
        let (stays, goes) = (door.admit(addr("127.0.0.1")).unwrap(), door.admit(addr("127.0.0.2")).unwrap());

        // Replaced whole, as editors and configuration tools do.
        fs::write(dir.join("office.new"), "127.0.0.1 # only me\n").unwrap();
        fs::rename(dir.join("office.new"), &file).unwrap();
        let before = std::time::Instant::now();
        tokio::time::timeout(Duration::from_secs(5), goes.cut()).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        assert!(!stays.is_cut());
        assert_eq!(doors.view().generation, 2);

        // Bad: nothing changes. Then good again, written in place.
        fs::write(&file, "127.0.0.1\noffice\n").unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(doors.view().generation, 2);
        assert!(run.reload().await[0].1.as_ref().unwrap_err().to_string().contains("line 2, column 1"));
        assert!(!stays.is_cut());
        fs::write(&file, "127.0.0.1\n127.0.0.3\n").unwrap();
        until("the good list is back", || doors.view().generation == 3).await;
        assert!(door.admit(addr("127.0.0.3")).is_ok());
        assert!(!stays.is_cut());

        // Removed: the last good list stays.
        fs::remove_file(&file).unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(!stays.is_cut());
        run.stop();
        run.finish().await.unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_symlink_that_is_swapped_counts_as_a_change() {
        let dir = dir("link");
        for (v, text) in [("v1", "127.0.0.1"), ("v2", "127.0.0.2")] {
            fs::create_dir(dir.join(v)).unwrap();
            fs::write(dir.join(v).join("office"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", dir.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/office", dir.join("office")).unwrap();
        let (run, doors) = (Run::new(Duration::from_millis(50)), Doors::new());
        start(&run, &doors, from_file(&dir.join("office")), None).unwrap();
        assert!(doors.door(&["data"]).admit(addr("127.0.0.1")).is_ok());
        std::os::unix::fs::symlink("v2", dir.join("next")).unwrap();
        fs::rename(dir.join("next"), dir.join("..data")).unwrap();
        until("the other file counts", || doors.door(&["data"]).admit(addr("127.0.0.2")).is_ok()).await;
        assert!(doors.door(&["data"]).admit(addr("127.0.0.1")).is_err());
        run.stop();
        run.finish().await.unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
