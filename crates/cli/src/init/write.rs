//! Files of a set-up on the disk. In: texts and modes. Out: whole files or none; what was there is not lost.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::facts;
use crate::fail::Fail;

/// A file that is to be written.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Planned {
    pub(super) path: PathBuf,
    /// In octal, as `chmod` takes it.
    pub(super) mode: String,
    /// What is in it; secrets are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    #[serde(skip)]
    bytes: Vec<u8>,
    #[serde(skip)]
    group: Option<u32>,
}

impl Planned {
    /// A file without a secret in it. Only root and the service read it where the service has a group of its own; else
    /// everybody may, since a service whose user is made at its start belongs to no group.
    pub(super) fn config(path: PathBuf, text: String) -> Planned {
        let group = facts::group("portcullis").filter(|_| runtime::run::is_root());
        let mode = if group.is_some() || !runtime::run::is_root() { 0o640 } else { 0o644 };
        Planned::new(path, text, mode, group)
    }

    /// A unit.
    pub(super) fn unit(path: PathBuf, text: String) -> Planned {
        Planned::new(path, text, 0o644, None)
    }

    /// A file for its owner alone.
    pub(super) fn private(path: PathBuf, text: String) -> Planned {
        Planned::new(path, text, 0o600, None)
    }

    /// A secret: never shown.
    pub(super) fn secret(path: PathBuf, text: &str) -> Planned {
        Planned { text: None, ..Planned::new(path, format!("{text}\n"), 0o600, None) }
    }

    fn new(path: PathBuf, text: String, mode: u32, group: Option<u32>) -> Planned {
        Planned { path, mode: format!("{mode:04o}"), bytes: text.clone().into_bytes(), text: Some(text), group }
    }

    fn bits(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).unwrap_or(0o600)
    }

    /// Writes it: a reader sees the old file or the new one, never a part.
    pub(super) fn write(&self) -> Result<(), Fail> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let temp = dir.join(format!(".{}.{}", self.path.file_name().unwrap_or_default().display(), std::process::id()));
        let made = self.write_to(&temp).and_then(|()| fs::rename(&temp, &self.path));
        if made.is_err() {
            let _ = fs::remove_file(&temp);
        }
        Ok(made.with_context(|| format!("cannot write {}", self.path.display()))?)
    }

    fn write_to(&self, temp: &Path) -> std::io::Result<()> {
        // Made anew: a link that somebody put there leads nowhere. Its mode is never wider than it ends up.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.bits()).open(temp)?;
        if let Some(group) = self.group {
            std::os::unix::fs::fchown(&file, None, Some(group))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.bits()))?;
        file.write_all(&self.bytes)?;
        file.sync_all()
    }
}

/// Keeps what is there, or refuses to go on: nothing that somebody wrote is replaced unasked.
pub(super) fn make_room(path: &Path, force: bool) -> Result<Option<PathBuf>, Fail> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(anyhow::Error::from(e).context(format!("cannot read {}", path.display())).into()),
    };
    if !says_nothing(&text) && !force {
        return Err(Fail::hinted(
            format!("{} is there already", path.display()),
            "edit it, or let --force replace it; the old one is then kept beside it as FILE.old",
        ));
    }
    Ok(Some(PathBuf::from(format!("{}.old", path.display()))))
}

/// What a package brings is an explanation; as long as nobody wrote anything into it, it configures nothing.
pub(crate) fn says_nothing(text: &str) -> bool {
    text.lines().map(str::trim).all(|l| l.is_empty() || l.starts_with('#'))
}

/// Keeps a file under another name.
pub(super) fn keep(path: &Path, as_file: &Path) -> Result<(), Fail> {
    let _ = fs::remove_file(as_file);
    Ok(fs::hard_link(path, as_file).with_context(|| format!("cannot keep {}", path.display()))?)
}

/// True if this is root and somebody else can change what lies at this path, or what is on the way to it: a service's
/// folder is its user's. Root makes nothing there, since a link would lead it anywhere.
pub(super) fn is_anothers(path: &Path) -> bool {
    if !runtime::run::is_root() {
        return false;
    }
    let mut path = path.to_path_buf();
    // As many links as the kernel follows (path_resolution(7)); each may lie in a folder of somebody else.
    for _ in 0..40 {
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        let mut link = None;
        for at in way {
            let Ok(m) = fs::symlink_metadata(at) else { break };
            if changed_by_others(&m) {
                return true;
            }
            if m.is_symlink() {
                link = Some(at);
                break;
            }
        }
        let Some(link) = link else { return false };
        let (Ok(target), Ok(rest)) = (fs::read_link(link), path.strip_prefix(link)) else { return true };
        path = link.parent().unwrap_or(link).join(target).join(rest);
    }
    true
}

/// In a folder that is sticky, as /tmp is, nobody changes what is another's (chmod(1)).
fn changed_by_others(m: &fs::Metadata) -> bool {
    let by_group = m.gid() != 0 && m.mode() & 0o020 != 0;
    let by_mode = m.is_dir() && m.mode() & 0o1000 == 0 && (by_group || m.mode() & 0o002 != 0);
    m.uid() != 0 || by_mode
}
