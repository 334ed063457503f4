//! Copies of what is stored. In: a data directory and a file. Out: a copy of one moment, made while the process runs, or
//! a checked copy put in the store's place while none does.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::hint::Hinted;

/// The stores that a data directory may have, and whose they are.
const STORES: [(&str, &str); 2] = [("gate", "gate.db"), ("control", "control.db")];

/// The store in a data directory: the one named (`gate`, `control`), or the only one.
///
/// # Errors
/// There is none, or two and none was named.
pub fn store(data_dir: &Path, named: Option<&str>, must_be_there: bool) -> anyhow::Result<PathBuf> {
    let at = |file: &str| data_dir.join(file);
    if let Some(name) = named {
        let (_, file) = STORES
            .iter()
            .find(|(n, _)| *n == name)
            .with_context(|| format!("there is no store `{name}`; there are gate and control"))?;
        let path = at(file);
        if must_be_there && !path.exists() {
            bail!("there is no {}", path.display());
        }
        return Ok(path);
    }
    let there: Vec<PathBuf> = STORES.iter().map(|(_, file)| at(file)).filter(|p| p.exists()).collect();
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

/// Copies a store into a new file, running or not. An older copy there is replaced when the new one is whole.
///
/// # Errors
/// It can not be read or written, or another file is there; that stays.
pub fn backup(store: &Path, to: &Path) -> anyhow::Result<()> {
    store::copy(store, to).with_context(|| format!("{} was not backed up", store.display()))
}

/// Puts a copy in a store's place; returns where the old one is kept.
///
/// # Errors
/// The copy is damaged, of a newer version or no store; a process uses the store; the disk. Everything is as it was.
pub fn restore(from: &Path, store: &Path) -> anyhow::Result<Option<PathBuf>> {
    store::check(from).with_context(|| format!("{} can not be put in place", from.display()))?;
    let there = store.exists();
    if there && store::in_use(store).with_context(|| store.display().to_string())? {
        return Err(Hinted::error(
            format!("a process uses {}; nothing was changed", store.display()),
            "stop it first, and start it again afterwards",
        ));
    }
    if let Some(dir) = store.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let name = |what: &str| {
        let mut n = store.as_os_str().to_os_string();
        n.push(what);
        PathBuf::from(n)
    };
    // Whole and on the disk before anything moves.
    let new = name(".restored");
    let _ = std::fs::remove_file(&new);
    store::copy(from, &new)?;
    let kept = there.then(|| name(&format!(".before-{}", crate::wall())));
    if let Some(kept) = &kept {
        // With what its log holds: the log of the old one must not meet the new one.
        store::copy(store, kept)?;
    }
    for beside in ["-wal", "-shm"] {
        match std::fs::remove_file(name(beside)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{} is in the way", name(beside).display()));
            }
            _ => {}
        }
    }
    std::fs::rename(&new, store).with_context(|| format!("cannot replace {}", store.display()))?;
    Ok(kept)
}
