//! A file replaced whole. In: a path and its new bytes. Out: a file that no reader ever sees empty or half, and how
//! that was done.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How a file got its new bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It had them already.
    Same,
    /// A new file took its place at one moment.
    Renamed,
    /// Written over, because the file cannot be replaced; the text says why.
    InPlace(String),
}

/// Gives the file these bytes. A new file gets mode 0644, since another user's proxy reads it; an existing one keeps
/// its mode.
///
/// A file that is itself a mount (a single file bound into a container) cannot be renamed over: it is written in
/// place, in one write that is filled up with line ends to the old length and then cut, so that a reader meets a
/// whole document at every moment.
///
/// # Errors
/// The file can be written neither way; it is as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<How> {
    let before = match fs::read(path) {
        Ok(b) if b == bytes => return Ok(How::Same),
        Ok(b) => Some(b),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    // A link is followed, not replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let why = match rename_over(&target, bytes) {
        Ok(()) => return Ok(How::Renamed),
        Err(e) => e,
    };
    // Only what says that the place, not the disk, forbids a new file.
    let place = matches!(
        why.kind(),
        ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    );
    let Some(before) = before.filter(|_| place) else { return Err(why) };
    in_place(&target, bytes, before.len())?;
    Ok(How::InPlace(why.to_string()))
}

fn rename_over(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = beside(path);
    let kept = fs::metadata(path).ok();
    let mode = kept.as_ref().map_or(0o644, |m| m.permissions().mode() & 0o777);
    let write = || -> io::Result<()> {
        // Made anew: a link that somebody put there before leads nowhere.
        let _ = fs::remove_file(&temp);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temp)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some(old) = &kept {
            // Only root may give files away; then the owner stays who it was.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temp);
    })
}

fn in_place(path: &Path, bytes: &[u8], old_len: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(old_len), b'\n');
    file.write_all_at(&whole, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// A hidden name that no proxy that watches the folder takes for its own kind of file.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.portcullis-new"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_same_changed_and_no_litter() {
        let dir = stage::Dir::new("replace");
        let path = dir.at("a.yml");
        assert_eq!(replace(&path, b"one\n").unwrap(), How::Renamed);
        assert_eq!(replace(&path, b"one\n").unwrap(), How::Same);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(replace(&path, b"two\n").unwrap(), How::Renamed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        in_place(&path, b"3\n", 4).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_mounted_file_is_written_in_place() {
        let dir = stage::Dir::new("replace-mount");
        fs::create_dir(dir.at("host")).unwrap();
        let (host, here) = (dir.write("host/list.yml", "a long document\n"), dir.write("list.yml", ""));
        let mount = std::process::Command::new("mount").arg("--bind").args([&host, &here]).output();
        if !mount.is_ok_and(|o| o.status.success()) {
            return stage::skip::skip("a file cannot be bind-mounted here (needs root)");
        }
        let how = replace(&here, b"short\n").unwrap();
        let seen = fs::read(&host).unwrap();
        std::process::Command::new("umount").arg(&here).status().unwrap();
        assert!(matches!(how, How::InPlace(_)), "{how:?}");
        assert_eq!(seen, b"short\n");
    }
}
