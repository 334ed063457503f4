//! Lists live. In: where each list is written (flags, files, configuration), and the lists of a gate that they take in.
//! Out: views published to the admission, when lists are put into force, and at once when the gate's lists or the addresses of
//! names change. Reading is apart from putting into force, so that a reload can check everything before it changes
//! anything; it holds up nothing that the gate takes back.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::names::HostName;
use access::{List, View, ViewBuilder};
use addr::{AddrSet, Prefix, parse_list};
use futures_util::FutureExt;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::hint::Hinted;
use crate::reload::{self, Fresh, Reloaded, Stamps, Unreadable};
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
    /// Wherever this name is: `dns:home.example.net`.
    Name(HostName),
    /// Whoever is on this list of the gate in the same process: `list:family`.
    Named {
        /// The gate's list.
        name: String,
        /// Where that was written.
        from: String,
    },
}

/// The gate's lists, if a gate runs in this process.
pub type Named = Option<watch::Receiver<Arc<View>>>;

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The lists, in the order of their sources, without what they take in from the gate.
    pub lists: Vec<List>,
    /// For each, the gate's lists that it takes in.
    pub named: Vec<Vec<String>>,
    /// For each, the names that it follows.
    pub hosts: Vec<Vec<HostName>>,
    /// The names of those that let nobody in.
    pub empty: Vec<String>,
    /// What is odd about how entries are written, for a person.
    pub warnings: Vec<String>,
}

/// A list file of a million long IPv6 prefixes has 44 MB; more is a mistake such as a log or a disk image.
const MAX_FILE: u64 = 64 << 20;

/// Puts lists that never change but by their files into force, and follows these.
///
/// # Errors
/// A list is bad now; later bad lists are only reported.
pub fn keep(run: &Run, admission: &Arc<Admission>, sources: Vec<ListSource>, named: Named) -> anyhow::Result<Lists> {
    let stamps = Stamps::of(files(&sources));
    let in_gate = |named: &Named| named.as_ref().map(|n| names_in(&n.borrow()));
    let loaded = load(&sources, in_gate(&named).as_ref())?;
    let fresh = Fresh::now();
    let lists = start(run, admission, loaded, named.clone(), fresh.clone());
    let (live, sources) = (lists.clone(), Arc::new(sources));
    let read = move || {
        let files = Stamps::of(files(&sources));
        let loaded = load(&sources, in_gate(&named).as_ref())?;
        anyhow::Ok(Reloaded { changed: live.put(loaded), files })
    };
    let read = Arc::new(read);
    let again = move || {
        let read = read.clone();
        async move {
            let read = tokio::task::spawn_blocking(move || read()).await;
            Ok(read.map_err(anyhow::Error::from)??)
        }
        .boxed()
    };
    reload::follow(run, "lists", stamps, fresh, Arc::new(again));
    Ok(lists)
}

/// The names of a gate's lists.
fn names_in(view: &View) -> BTreeSet<String> {
    view.lists().iter().map(|l| l.name.clone()).collect()
}

/// Publishes the lists, and publishes them again when what they take in from the gate changes, or where their names are.
/// `fresh`: what is known of the files that they came from.
pub fn start(run: &Run, admission: &Arc<Admission>, loaded: Loaded, named: Named, fresh: Fresh) -> Lists {
    let live = Arc::new(Live {
        admission: admission.clone(),
        named,
        kept: parking_lot::Mutex::default(),
        fresh,
        names: names::Followed::default(),
        taken: parking_lot::RwLock::new((BTreeMap::new(), Arc::new([]))),
    });
    let lists = Lists(live.clone());
    if let Some(said) = lists.put(loaded).filter(|_| !admission.view().lists().is_empty()) {
        info!(lists = said, "lists in force");
    }
    if let Some(mut named) = live.named.clone() {
        let (live, stopping) = (live.clone(), run.stopping());
        run.spawn("gate's lists at the admission", async move {
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
    let (followed, stopping) = (live, run.stopping());
    run.spawn("names on lists", async move {
        let live = followed.clone();
        tokio::select! {
            () = stopping => {}
            () = followed.names.keep(Arc::new(move || live.again())) => {}
        }
        Ok(())
    });
    lists
}

/// The lists at the admission of this process.
#[derive(Clone)]
pub struct Lists(Arc<Live>);

impl Lists {
    /// The gate's lists that a list takes in.
    #[must_use]
    pub fn takes_in(&self, list: &str) -> Vec<String> {
        self.0.taken.read().0.get(list).cloned().unwrap_or_default()
    }

    /// Every list of the gate that some list here takes in.
    #[must_use]
    pub fn all_taken_in(&self) -> Arc<[String]> {
        self.0.taken.read().1.clone()
    }

    /// How what is in force stands to what is written.
    #[must_use]
    pub fn freshness(&self) -> ::api::Freshness {
        self.0.fresh.get()
    }

    /// Puts what was read into force; says what changed.
    #[must_use = "what changed has to be said"]
    pub fn put(&self, loaded: Loaded) -> Option<String> {
        let live = &self.0;
        let mut kept = live.kept.lock();
        for w in loaded.warnings.iter().filter(|w| !kept.warnings.contains(w)) {
            warn!(entry = w, "list entry is not what it seems");
        }
        for name in loaded.empty.iter().filter(|n| !kept.empty.contains(n)) {
            warn!(list = name, "list is empty: it lets nobody in");
        }
        let taken: BTreeMap<String, Vec<String>> =
            loaded.lists.iter().map(|l| l.name.clone()).zip(loaded.named.iter().cloned()).collect();
        let all: BTreeSet<String> = taken.values().flatten().cloned().collect();
        *live.taken.write() = (taken, all.into_iter().collect());
        *kept = loaded;
        live.names.follow(&kept.hosts.iter().flatten().cloned().collect());
        live.publish(&kept)
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
        if piece.trim().starts_with("dns:") {
            files.push(ListPart::Name(piece.parse().map_err(|e| anyhow::anyhow!("{from}: {e}"))?));
            text.extend(piece.chars().map(|_| ' '));
            continue;
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
        parse_list(&text).map_err(|e| BadEntry::new(from, &e))?;
        out.push(ListPart::Text { text, from: from.to_string() });
    }
    out.extend(files);
    Ok(out)
}

/// The files that lists are read from.
#[must_use]
pub fn files(lists: &[ListSource]) -> Vec<PathBuf> {
    let of = |part: &ListPart| if let ListPart::File(path) = part { Some(path.clone()) } else { None };
    lists.iter().flat_map(|l| &l.parts).filter_map(of).collect()
}

/// Reads every list. `gate`: the names of the gate's lists; `None`: no gate runs in this process.
///
/// # Errors
/// The first list that is bad, with file, line and column; or [`Unreadable`], the first file that cannot be read now.
pub fn load(lists: &[ListSource], gate: Option<&BTreeSet<String>>) -> anyhow::Result<Loaded> {
    let mut out = Loaded::default();
    for source in lists {
        let mut prefixes: Vec<Prefix> = Vec::new();
        let mut from: Vec<String> = Vec::new();
        let mut named: Vec<String> = Vec::new();
        let mut hosts: Vec<HostName> = Vec::new();
        for part in &source.parts {
            from.push(read_part(part, &mut prefixes, &mut hosts, &mut out.warnings)?);
            if let ListPart::Named { name, from } = part {
                known(name, from, gate)?;
                if !named.contains(name) {
                    named.push(name.clone());
                }
            }
        }
        from.dedup();
        let list = List { name: source.name.clone(), set: AddrSet::new(prefixes), source: from.join(", ") };
        if list.set.is_empty() && named.is_empty() && hosts.is_empty() {
            out.empty.push(list.name.clone());
        }
        out.lists.push(list);
        out.named.push(named);
        out.hosts.push(hosts);
    }
    let names = out.hosts.iter().flatten().collect::<BTreeSet<_>>().len();
    anyhow::ensure!(
        names <= names::MAX_NAMES,
        "the lists hold {names} names; at most {} are followed",
        names::MAX_NAMES
    );
    // One flag may make two lists; what is odd about it is said once.
    let mut said = BTreeSet::new();
    out.warnings.retain(|w| said.insert(w.clone()));
    Ok(out)
}

struct Live {
    admission: Arc<Admission>,
    named: Named,
    /// What was last read and good. Held while publishing: what is read and a change of the gate must not be published
    /// in the wrong order.
    kept: parking_lot::Mutex<Loaded>,
    /// How that stands to the files.
    fresh: Fresh,
    /// The names that lists hold, and where they are.
    names: names::Followed,
    /// For each list, the gate's lists that it takes in; read at every visit, so never locked for long.
    taken: parking_lot::RwLock<Taken>,
}

/// For each list at the admission, what it takes in; and all of that together.
type Taken = (BTreeMap<String, Vec<String>>, Arc<[String]>);

impl Live {
    /// Publishes again what was last good, with the gate's lists as they are now.
    fn again(&self) {
        let kept = self.kept.lock();
        if let Some(said) = self.publish(&kept) {
            tracing::debug!(lists = said, "the gate's lists changed");
        }
    }

    /// Publishes if something changed; says what.
    fn publish(&self, kept: &Loaded) -> Option<String> {
        let gate = self.named.as_ref().map(|n| n.borrow().clone());
        let named = kept.lists.iter().zip(&kept.named).map(|(list, named)| with_named(list, named, gate.as_deref()));
        let lists: Vec<List> = named.zip(&kept.hosts).map(|(list, hosts)| self.with_hosts(list, hosts)).collect();
        let old = self.admission.view();
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
        let cut = self.admission.publish(next.build(generation));
        let mut said = format!("generation {generation}: {}", words.join("; "));
        if cut > 0 {
            said.push_str(&format!("; {cut} connections cut"));
        }
        Some(said)
    }

    /// A list with where its names are now.
    fn with_hosts(&self, list: List, hosts: &[HostName]) -> List {
        if hosts.is_empty() {
            return list;
        }
        let there = hosts.iter().flat_map(|h| self.names.prefixes(h));
        let set = AddrSet::new(list.set.prefixes().iter().copied().chain(there));
        List { set, ..list }
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

/// A list of the gate that is taken in must be there: a misspelt name would let nobody in.
fn known(name: &str, from: &str, gate: Option<&BTreeSet<String>>) -> anyhow::Result<()> {
    let Some(gate) = gate else {
        return Err(Hinted::error(
            format!("{from}: `list:{name}` names a list of a gate, and none runs in this process"),
            format!(
                "`portcullis serve --config FILE` with `[gate]` and `[lists.{name}]` in the file has one; the list of a gate elsewhere comes as @FILE (its `--list-file`)"
            ),
        ));
    };
    if gate.contains(name) {
        return Ok(());
    }
    let all: Vec<&str> = gate.iter().map(String::as_str).collect();
    let there = if all.is_empty() { "there are none".to_string() } else { format!("there are {}", all.join(", ")) };
    Err(Hinted::error(
        format!("{from}: there is no list `{name}`; {there}"),
        format!("write `[lists.{name}]` into the configuration file, or another name"),
    ))
}

/// Adds the entries of a part and says where they stand.
fn read_part(
    part: &ListPart,
    prefixes: &mut Vec<Prefix>,
    hosts: &mut Vec<HostName>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<String> {
    match part {
        ListPart::Default => {
            prefixes.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
            Ok("default 0.0.0.0/0,::/0".to_string())
        }
        ListPart::Text { text, from } => {
            let list = parse_list(text).map_err(|e| BadEntry::new(from, &e))?;
            for w in &list.warnings {
                warnings.push(format!("{from}: `{}` has host bits, read as `{}`", w.text, w.normal));
            }
            prefixes.extend(list.prefixes);
            Ok(from.clone())
        }
        ListPart::Named { name, .. } => Ok(format!("list:{name}")),
        ListPart::Name(host) => {
            hosts.push(host.clone());
            Ok(host.entry())
        }
        ListPart::File(path) => {
            let text = read_file(path)?;
            let text = without_names(&text, hosts).map_err(|e| anyhow::anyhow!("{}, {e}", path.display()))?;
            let list = parse_list(&text).map_err(|e| anyhow::anyhow!("{}, {e}", path.display()))?;
            for w in &list.warnings {
                warnings.push(format!("{}, {w}", path.display()));
            }
            prefixes.extend(list.prefixes);
            Ok(path.display().to_string())
        }
    }
}

/// Takes the lines that are a name, `dns:home.example.net`, out of a file's text; the others stay on their lines.
fn without_names(text: &str, hosts: &mut Vec<HostName>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.starts_with("dns:") {
            hosts.push(entry.parse().map_err(|e| format!("line {}: {e}", n + 1))?);
            out.push('\n');
        } else {
            out.push_str(line);
        }
    }
    Ok(out)
}

/// What a file of it is called.
const WHAT: &str = "the list";

fn read_file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let done = reload::open(WHAT, path)?.take(MAX_FILE + 1).read_to_end(&mut bytes);
    done.map_err(|why| Unreadable { what: WHAT, path: path.to_path_buf(), why })?;
    let at = path.display();
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE,
        "cannot read the list {at}: it has more than {} MiB",
        MAX_FILE >> 20
    );
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        anyhow::anyhow!("cannot read the list {at}: line {} is not UTF-8 text", good.lines().count().max(1))
    })
}

/// An entry of a list that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEntry {
    /// The flag, variable or file, and the column.
    pub place: String,
    /// What stands there.
    pub text: String,
    reason: String,
    /// It is a host name, which a list follows if it is written as `dns:NAME`.
    pub name: Option<String>,
}

impl BadEntry {
    fn new(from: &str, e: &addr::ListError) -> BadEntry {
        let name = e.text.strip_prefix("dns:").unwrap_or(&e.text);
        let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let is_name = name.split('.').all(label) && name.bytes().any(|b| b.is_ascii_alphabetic());
        BadEntry {
            place: format!("{from}, column {}", e.column),
            text: e.text.clone(),
            reason: e.reason.to_string(),
            name: is_name.then(|| name.to_string()),
        }
    }
}

impl std::fmt::Display for BadEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: `{}`: {}", self.place, self.text, self.reason)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "; a name is followed as `dns:{name}`"))
    }
}

impl std::error::Error for BadEntry {}

fn summary(list: &List) -> String {
    match &*list.set.prefixes() {
        [] => format!("`{}` lets nobody in", list.name),
        [a, b] if [*a, *b] == [Prefix::ALL_V4, Prefix::ALL_V6] => format!("`{}` lets everybody in", list.name),
        [one] => format!("`{}` holds {one}", list.name),
        many => format!("`{}` has {} entries", list.name, many.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;
    use addr::Addr;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("portcullis-lists-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn from_file(path: &Path) -> Vec<ListSource> {
        vec![ListSource { name: "data".into(), parts: vec![ListPart::File(path.to_path_buf())] }]
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
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
    fn names_stand_on_lines_of_their_own_in_files() {
        let mut hosts = Vec::new();
        let text = "10.0.0.1\n dns:Home.example.net # me\n# dns:no.example\n10.0.0.2";
        assert_eq!(without_names(text, &mut hosts).unwrap(), "10.0.0.1\n\n# dns:no.example\n10.0.0.2");
        assert_eq!(hosts.iter().map(HostName::entry).collect::<Vec<_>>(), ["dns:home.example.net"]);
        assert!(without_names("\ndns:home\n", &mut hosts).unwrap_err().starts_with("line 2: "));
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let dir = dir("bad");
        let file = dir.join("office");
        fs::write(&file, "10.0.0.1\n10.0.0.0/40\n").unwrap();
        let e = load(&from_file(&file), None).unwrap_err();
        assert!(e.to_string().contains("office, line 2, column 1: `10.0.0.0/40`"), "{e}");
        fs::write(&file, b"10.0.0.1\n\xff\xfe").unwrap();
        let e = load(&from_file(&file), None).unwrap_err();
        assert!(format!("{e:#}").contains("not UTF-8"), "{e:#}");
        assert!(load(&from_file(&dir), None).is_err(), "a directory is no list");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_cuts_within_a_second_and_a_bad_one_changes_nothing() {
        let dir = dir("live");
        let file = dir.join("office");
        fs::write(&file, "127.0.0.0/8\n").unwrap();
        let (run, admission) = (Run::new(Duration::from_millis(50)), Admission::new());
        let guard = admission.guard(access::Service::Data);
        assert!(guard.admit(addr("127.0.0.1")).is_err(), "before the first view nobody passes");
        keep(&run, &admission, from_file(&file), None).unwrap();
        let (stays, goes) = (guard.admit(addr("127.0.0.1")).unwrap(), guard.admit(addr("127.0.0.2")).unwrap());

        // Replaced whole, as editors and configuration tools do.
        fs::write(dir.join("office.new"), "127.0.0.1 # only me\n").unwrap();
        fs::rename(dir.join("office.new"), &file).unwrap();
        let before = Instant::now();
        tokio::time::timeout(Duration::from_secs(5), goes.cut()).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        assert!(!stays.is_cut());
        assert_eq!(admission.view().generation, 2);

        // Bad: nothing changes. Then good again, written in place.
        fs::write(&file, "127.0.0.1\noffice\n").unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(admission.view().generation, 2);
        assert!(run.reload().await[0].1.as_ref().unwrap_err().to_string().contains("line 2, column 1"));
        assert!(!stays.is_cut());
        fs::write(&file, "127.0.0.1\n127.0.0.3\n").unwrap();
        until("the good list is back", || admission.view().generation == 3).await;
        assert!(guard.admit(addr("127.0.0.3")).is_ok());
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
        let (run, admission) = (Run::new(Duration::from_millis(50)), Admission::new());
        keep(&run, &admission, from_file(&dir.join("office")), None).unwrap();
        assert!(admission.guard(access::Service::Data).admit(addr("127.0.0.1")).is_ok());
        std::os::unix::fs::symlink("v2", dir.join("next")).unwrap();
        fs::rename(dir.join("next"), dir.join("..data")).unwrap();
        until("the other file counts", || admission.guard(access::Service::Data).admit(addr("127.0.0.2")).is_ok())
            .await;
        assert!(admission.guard(access::Service::Data).admit(addr("127.0.0.1")).is_err());
        run.stop();
        run.finish().await.unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    /// A room with one list file, and who it lets in.
    struct Room {
        dir: PathBuf,
        run: Run,
        admission: Arc<Admission>,
        lists: Lists,
    }

    impl Room {
        /// `path` below the folder; what it leads to is made by `make`.
        fn new(name: &str, path: &str, make: impl FnOnce(&Path)) -> Room {
            let dir = dir(name);
            make(&dir);
            let (run, admission) = (Run::new(Duration::from_millis(50)), Admission::new());
            let lists = keep(&run, &admission, from_file(&dir.join(path)), None).unwrap();
            Room { dir, run, admission, lists }
        }

        fn lets_in(&self, who: &str) -> bool {
            self.admission.guard(access::Service::Data).admit(addr(who)).is_ok()
        }

        async fn becomes(&self, who: &str) {
            until(who, || self.lets_in(who) && !self.lets_in("127.0.0.1")).await;
        }

        async fn end(self) {
            self.run.stop();
            self.run.finish().await.unwrap();
            fs::remove_dir_all(self.dir).unwrap();
        }
    }

    fn symlink(to: impl AsRef<Path>, at: impl AsRef<Path>) {
        std::os::unix::fs::symlink(to, at).unwrap();
    }

    #[tokio::test]
    async fn a_symlink_swapped_in_the_middle_of_the_path_counts() {
        let room = Room::new("middle", "rel/current/office", |dir| {
            for (v, text) in [("1", "127.0.0.1"), ("2", "127.0.0.2")] {
                fs::create_dir_all(dir.join("rel").join(v)).unwrap();
                fs::write(dir.join("rel").join(v).join("office"), text).unwrap();
            }
            symlink("1", dir.join("rel/current"));
        });
        assert!(room.lets_in("127.0.0.1"));
        symlink("2", room.dir.join("rel/tmp"));
        fs::rename(room.dir.join("rel/tmp"), room.dir.join("rel/current")).unwrap();
        room.becomes("127.0.0.2").await;
        room.end().await;
    }

    #[tokio::test]
    async fn a_target_that_goes_and_comes_back_counts_and_meanwhile_that_is_said() {
        let room = Room::new("back", "etc/office", |dir| {
            fs::create_dir_all(dir.join("etc")).unwrap();
            fs::create_dir_all(dir.join("srv")).unwrap();
            fs::write(dir.join("srv/office"), "127.0.0.1\n").unwrap();
            symlink("../srv/office", dir.join("etc/office"));
        });
        assert_eq!(room.lists.freshness().trouble, None);
        fs::remove_file(room.dir.join("srv/office")).unwrap();
        until("the trouble is known", || room.lists.freshness().trouble.is_some()).await;
        let fresh = room.lists.freshness();
        assert!(room.lets_in("127.0.0.1"), "what was read stays in force");
        let trouble = fresh.trouble.clone().unwrap();
        assert!(trouble.retried && trouble.why.contains("office: No such file"), "{trouble:?}");
        let words = fresh.stale.unwrap();
        assert!(words.starts_with("the lists in force were read ") && words.contains(" ago and may be"), "{words}");
        fs::write(room.dir.join("srv/office"), "127.0.0.2\n").unwrap();
        room.becomes("127.0.0.2").await;
        assert_eq!(room.lists.freshness().trouble, None);
        room.end().await;
    }

    #[tokio::test]
    async fn a_write_through_another_name_that_keeps_size_and_time_counts() {
        let room = Room::new("hard", "a/office", |dir| {
            fs::create_dir_all(dir.join("a")).unwrap();
            fs::create_dir_all(dir.join("b")).unwrap();
            fs::write(dir.join("a/office"), "127.0.0.1\n").unwrap();
            fs::hard_link(dir.join("a/office"), dir.join("b/other")).unwrap();
        });
        assert!(room.lets_in("127.0.0.1"));
        // Past the time in which files count as young and are read once more anyway.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let other = room.dir.join("b/other");
        let then = fs::metadata(&other).unwrap().modified().unwrap();
        fs::write(&other, "127.0.0.2\n").unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(then).unwrap();
        room.becomes("127.0.0.2").await;
        room.end().await;
    }
}
