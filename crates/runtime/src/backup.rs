//! Copies of what is stored. In: a data directory and a file. Out: a copy of one moment, made while the process runs, or
//! a checked copy put in the store's place while none does.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use store::StoreError;

use crate::hint::Hinted;

/// The stores that a data directory may have: whose they are, their files, and the first word of their keys.
const STORES: [(&str, &str, &str); 2] = [("gate", "gate.db", "gate"), ("control", "control.db", "mesh")];

/// The store in a data directory: the one named (`gate`, `control`), or the only one.
///
/// # Errors
/// There is none, or two and none was named.
pub fn store(data_dir: &Path, named: Option<&str>, must_be_there: bool) -> anyhow::Result<PathBuf> {
    let at = |file: &str| data_dir.join(file);
    if let Some(name) = named {
        let (_, file, _) = STORES
            .iter()
            .find(|(n, ..)| *n == name)
            .with_context(|| format!("there is no store `{name}`; there are gate and control"))?;
        let path = at(file);
        if must_be_there && !path.exists() {
            bail!("there is no {}", path.display());
        }
        return Ok(path);
    }
    let there: Vec<PathBuf> = STORES.iter().map(|(_, file, _)| at(file)).filter(|p| p.exists()).collect();
    match there.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Hinted::error(
            format!("nothing is stored in {}", data_dir.display()),
            if must_be_there {
                "name the data directory with `--data-dir DIR`"
            } else {
                "say whose it is: `--store gate` or `--store control`"
            },
        )),
        _ => Err(Hinted::error(
            format!("{} has two stores, of a gate and of a coordination server", data_dir.display()),
            "say which: `--store gate` or `--store control`",
        )),
    }
}

/// Copies a store into a new file, running or not. With `force` an older copy there is replaced when the new one is whole.
///
/// # Errors
/// It cannot be read or written, or a file is there; that stays.
pub fn backup(store: &Path, to: &Path, force: bool) -> anyhow::Result<()> {
    let failed = || format!("{} was not backed up", store.display());
    let folder = |p: &Path| match p.parent() {
        Some(d) if d.as_os_str().is_empty() => Path::new(".").canonicalize().ok(),
        d => d.and_then(|d| d.canonicalize().ok()),
    };
    let Some(into) = folder(to) else {
        return Err(Hinted::error(
            format!("{}: there is no folder for {}", failed(), to.display()),
            "make it first, where others cannot write",
        ));
    };
    let place = STORES.iter().any(|(_, file, _)| to.file_name().is_some_and(|n| n == *file));
    if place && folder(store).is_some_and(|d| d == into) {
        return Err(Hinted::error(
            format!("{}: {} is where a process has its store", failed(), to.display()),
            "give the copy another name, best on another disk",
        ));
    }
    if !force && to.symlink_metadata().is_ok() {
        return Err(Hinted::error(
            format!("{}: {} is there already", failed(), to.display()),
            "give the copy another name, such as one with the date, or replace it with `--force`",
        ));
    }
    store::copy(store, to, room(store)).map_err(newer).with_context(failed)
}

/// What to do about a file of a newer version, which is left as it is.
fn newer(e: StoreError) -> anyhow::Error {
    match e {
        StoreError::Newer(_) => Hinted::error(e.to_string(), "run the newer version of portcullis that wrote it"),
        e => e.into(),
    }
}

/// The store in whose place a copy belongs: the one named, or else the one of its kind.
///
/// # Errors
/// It is no copy of any.
pub fn place(from: &Path, data_dir: &Path, named: Option<&str>) -> anyhow::Result<PathBuf> {
    let kind = STORES.iter().find(|(_, _, room)| store::check(from, room).is_ok());
    match kind {
        Some((_, file, _)) if named.is_none() => Ok(data_dir.join(file)),
        _ => store(data_dir, named.or(Some("gate")), false),
    }
}

/// Puts a copy in a store's place; returns where the old one is kept.
///
/// # Errors
/// The copy is damaged, of a newer version, of something else or no store; a process uses the store; the disk.
/// Everything is as it was.
pub fn restore(from: &Path, store: &Path) -> anyhow::Result<Option<PathBuf>> {
    let room = room(store);
    store::check(from, room).map_err(newer).with_context(|| format!("{} cannot be put in place", from.display()))?;
    // The file itself, where a link leads to it: its log lies beside it.
    let there = store.canonicalize().ok();
    let store = there.as_deref().unwrap_or(store);
    // Until this ends no process opens it; one that waits for it finds the new one.
    let _held = there.as_deref().map(store::hold).transpose().map_err(|e| match e {
        StoreError::Busy(_) => Hinted::error(
            format!("a process uses {}; nothing was changed", store.display()),
            "stop it first, and start it again afterwards",
        ),
        e => e.into(),
    })?;
    let dir = store.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if there.is_none() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
    }
    // Whole and on the disk before anything moves.
    let new = beside(store, ".restored");
    let _ = std::fs::remove_file(&new);
    store::copy(from, &new, room)?;
    let done = swap(&new, store, there.is_some(), room, &mut || {});
    let _ = std::fs::remove_file(&new);
    done
}

/// Puts a new file in a store's place, which is held. Whenever this ends, by a crash too, the old store with its newest
/// writes is there, or the new one; `between` is called between the steps that a crash could part.
fn swap(
    new: &Path,
    store: &Path,
    there: bool,
    room: &str,
    between: &mut dyn FnMut(),
) -> anyhow::Result<Option<PathBuf>> {
    let dir = store.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whoever restores may be root, and the process that uses it is not.
    let owner = std::fs::metadata(if there { store } else { dir })?;
    let ours = std::fs::metadata(new)?;
    if (owner.uid(), owner.gid()) != (ours.uid(), ours.gid()) {
        std::os::unix::fs::chown(new, Some(owner.uid()), Some(owner.gid()))
            .with_context(|| format!("{} cannot be given to the owner of {}", new.display(), dir.display()))?;
    }
    let kept = free_name(store);
    if !there {
        logs_aside(store, &kept, between)?;
        // A process that was started meanwhile has made one of its own: that stays.
        std::fs::hard_link(new, store).with_context(|| format!("{} cannot be put in place", store.display()))?;
        sync(dir)?;
        return Ok(None);
    }
    between();
    // The log of the old one must not meet the new one, and the old one not lose it before the new one is there.
    let settled = store::settle(store);
    between();
    let copied = settled.and_then(|()| store::copy(store, &kept, room));
    match copied {
        Ok(()) => {}
        Err(StoreError::Busy(why)) => bail!("a process uses it: {why}"),
        // What is put away because it is damaged is kept as it is.
        Err(_) => {
            for part in ["", "-wal"] {
                let (from, to) = (beside(store, part), beside(&kept, part));
                if from.exists() {
                    copy_bytes(&from, &to).with_context(|| format!("{} cannot be kept", from.display()))?;
                }
            }
        }
    }
    between();
    logs_aside(store, &kept, between)?;
    sync(dir)?;
    std::fs::rename(new, store).with_context(|| format!("cannot replace {}", store.display()))?;
    between();
    sync(dir)?;
    Ok(Some(kept))
}

/// Takes away what SQLite keeps beside a store; a log that has something in it goes to what is kept.
fn logs_aside(store: &Path, kept: &Path, between: &mut dyn FnMut()) -> anyhow::Result<()> {
    for log in ["-wal", "-journal", "-shm"] {
        let path = beside(store, log);
        let full = log != "-shm" && std::fs::metadata(&path).is_ok_and(|m| m.len() > 0);
        let gone = if full { std::fs::rename(&path, beside(kept, log)) } else { std::fs::remove_file(&path) };
        match gone {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{} is in the way", path.display()));
            }
            _ => between(),
        }
    }
    Ok(())
}

/// Where the old store is kept: a name that nothing has.
fn free_name(store: &Path) -> PathBuf {
    let first = beside(store, &format!(".before-{}", crate::wall()));
    let more = (2u32..).map(|n| beside(&first, &format!("-{n}")));
    let mut names = std::iter::once(first.clone()).chain(more);
    names.find(|n| n.symlink_metadata().is_err()).unwrap_or(first)
}

fn copy_bytes(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    std::io::copy(&mut File::open(from)?, &mut to)?;
    to.sync_all()
}

fn sync(dir: &Path) -> anyhow::Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).with_context(|| dir.display().to_string())
}

/// The first word of a store's keys.
fn room(store: &Path) -> &'static str {
    let name = store.file_name().unwrap_or_default();
    STORES.iter().find(|(_, file, _)| name == *file).map_or("", |(_, _, room)| room)
}

/// A path with something behind its last word.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(what);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Dir;
    use store::{If, Sqlite, Store};

    fn put(path: &Path, key: &str, value: &str) {
        Sqlite::open(path).unwrap().put_if(key, value.as_bytes(), None, If::Anyway).unwrap();
    }

    fn get(path: &Path, key: &str) -> String {
        String::from_utf8(Sqlite::open(path).unwrap().get(key).unwrap().unwrap().value).unwrap()
    }

    #[test]
    fn a_damaged_store_is_put_away_as_it_is_and_another_rooms_copy_is_refused() {
        let dir = Dir::new("restore");
        let (store, copy, gate) = (dir.at("control.db"), dir.at("copy.db"), dir.at("gate.db"));
        put(&store, "mesh/users/1", "ada");
        put(&gate, "gate/clock", "1");
        backup(&store, &copy, false).unwrap();
        assert!(backup(&store, &copy, false).is_err(), "a file that is there was replaced");
        backup(&store, &copy, true).unwrap();
        let why = restore(&gate, &store).unwrap_err();
        assert!(format!("{why:#}").contains("something else"), "{why:#}");
        assert!(backup(&store, &gate, true).is_err());
        let mut bytes = std::fs::read(&store).unwrap();
        bytes[4096..].fill(7);
        std::fs::write(&store, &bytes).unwrap();
        assert!(Sqlite::open(&store).is_err());
        let kept = restore(&copy, &store).unwrap().unwrap();
        assert_eq!(std::fs::read(kept).unwrap(), bytes);
        assert_eq!(get(&store, "mesh/users/1"), "ada");
        // Nothing but the store and what was kept of it stays behind.
        assert!(!dir.at("control.db.restored").exists());
    }

    #[test]
    fn a_copy_goes_to_where_a_link_leads_and_to_whom_it_belongs() {
        let dir = Dir::new("restore-link");
        std::fs::create_dir(dir.at("disk")).unwrap();
        let (link, real, copy) = (dir.at("control.db"), dir.at("disk/real.db"), dir.at("copy.db"));
        put(&real, "mesh/users/1", "ada");
        std::os::unix::fs::symlink("disk/real.db", &link).unwrap();
        backup(&link, &copy, false).unwrap();
        put(&real, "mesh/users/1", "ben");
        if crate::run::is_root() {
            std::os::unix::fs::chown(&real, Some(4242), Some(4243)).unwrap();
        }
        let owner = std::fs::metadata(&real).map(|m| (m.uid(), m.gid())).unwrap();
        restore(&copy, &link).unwrap().unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(get(&real, "mesh/users/1"), "ada");
        assert_eq!(std::fs::metadata(&real).map(|m| (m.uid(), m.gid())).unwrap(), owner);
    }

    /// What a kill at this moment leaves: the files of a folder, in another.
    fn picture(of: &Path, to: &Path) {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir(to).unwrap();
        for e in std::fs::read_dir(of).unwrap().flatten() {
            if e.path().is_file() {
                std::fs::copy(e.path(), to.join(e.file_name())).unwrap();
            }
        }
    }

    #[test]
    fn a_kill_between_any_two_steps_leaves_the_newest_write_of_the_old_store_or_the_new_one() {
        let dir = Dir::new("restore-killed");
        let (live, data, seen) = (dir.at("live"), dir.at("data"), dir.at("seen"));
        std::fs::create_dir(&live).unwrap();
        let s = Sqlite::open(&live.join("gate.db")).unwrap();
        s.put_if("gate/k", b"copied", None, If::Anyway).unwrap();
        let (new, store) = (dir.at("new.db"), data.join("gate.db"));
        s.backup(&new, "gate").unwrap();
        s.put_if("gate/k", b"newest", None, If::Anyway).unwrap();
        // As a killed process leaves it: the newest write is in the log alone.
        picture(&live, &data);
        drop(s);
        assert!(std::fs::metadata(beside(&store, "-wal")).unwrap().len() > 0);
        let mut found = Vec::new();
        let kept = swap(&new, &store, true, "gate", &mut || {
            picture(&data, &seen);
            found.push(get(&seen.join("gate.db"), "gate/k"));
        });
        let kept = kept.unwrap().unwrap();
        let (last, before) = found.split_last().unwrap();
        assert_eq!(last, "copied");
        assert!(before.len() >= 6 && before.iter().all(|v| v == "newest"), "{found:?}");
        assert_eq!((get(&store, "gate/k"), get(&kept, "gate/k")), ("copied".to_string(), "newest".to_string()));
        let left: Vec<_> = std::fs::read_dir(&data).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "nothing else is left: {left:?}");
    }

    #[test]
    fn a_log_without_its_store_never_meets_the_copy() {
        let dir = Dir::new("restore-log");
        let (store, copy) = (dir.at("gate.db"), dir.at("copy.db"));
        put(&store, "gate/k", "copied");
        backup(&store, &copy, false).unwrap();
        std::fs::remove_file(&store).unwrap();
        std::fs::write(beside(&store, "-wal"), "a log").unwrap();
        assert_eq!(restore(&copy, &store).unwrap(), None);
        assert!(!beside(&store, "-wal").exists());
        assert_eq!(get(&store, "gate/k"), "copied");
        // Two within a second: nothing that was kept is overwritten.
        let kept = [(); 2].map(|()| restore(&copy, &store).unwrap().unwrap());
        assert_ne!(kept[0], kept[1]);
        // A copy never takes the place of a store, there or not.
        for to in ["gate.db", "control.db"] {
            assert!(backup(&store, &dir.at(to), true).is_err(), "{to}");
        }
        assert!(!dir.at("control.db").exists());
    }
}
