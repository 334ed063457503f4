//! The folder that is served and nothing else. In: names below it. Out: open regular files and folders. The kernel
//! keeps every step below the root (`openat2`, `RESOLVE_BENEATH`), links included; where it cannot, links are refused.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::path::is_hidden_name;

/// How often a look-up that met a rename is tried again (`openat2` says EAGAIN then).
const RETRIES: usize = 8;

/// Most entries of one folder that are shown.
pub(super) const ENTRIES_MAX: usize = 20_000;

/// The folder that is served.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    /// Without links in it, to see whether an absolute link leads back inside.
    path: PathBuf,
    /// The kernel has `openat2` (Linux 5.6) and no filter forbids it.
    openat2: bool,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    File(File, Facts),
    Folder(OwnedFd),
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) inode: u64,
    /// Seconds and nanoseconds since the epoch.
    pub(super) modified: (i64, u32),
}

/// One line of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) folder: bool,
    pub(super) size: u64,
    /// Seconds since the epoch.
    pub(super) modified: i64,
}

impl Root {
    /// Opens the folder.
    ///
    /// # Errors
    /// It is not there, is no folder, or may not be read.
    pub(super) fn open(path: &Path) -> io::Result<Root> {
        let path = path.canonicalize()?;
        let dir = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let probe =
            rustix::fs::openat2(&dir, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH);
        Ok(Root { dir, path, openat2: probe.is_ok() })
    }

    #[cfg(test)]
    fn without_openat2(mut self) -> Root {
        self.openat2 = false;
        self
    }

    /// Opens what the names lead to, if it is a regular file or a folder. Devices, pipes and sockets are looked at but
    /// never opened.
    ///
    /// # Errors
    /// `NotFound` for what is not there or leaves the root, `PermissionDenied` for what may not be read.
    pub(super) fn find(&self, names: &[Vec<u8>]) -> io::Result<Found> {
        let path = joined(names);
        let looked = rustix::fs::fstat(self.open_below(&path, OFlags::PATH)?)?;
        let kind = FileType::from_raw_mode(looked.st_mode);
        if kind != FileType::RegularFile && kind != FileType::Directory {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Between the look and the open it may have become a pipe: NONBLOCK keeps that from hanging, and it is looked
        // at again.
        let opened = self.open_below(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&opened)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Found::File(File::from(opened), Facts::of(&stat))),
            FileType::Directory => Ok(Found::Folder(opened)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What a folder holds and may be shown: no hidden names, no devices, no links that lead out.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn list(&self, folder: &OwnedFd, names: &[Vec<u8>]) -> io::Result<Vec<Entry>> {
        let mut out = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(b".") || name.contains(&b'\\') {
                continue;
            }
            // Gone since it was read, or unreadable: not shown.
            let Ok(stat) = self.stat(folder, entry.file_name(), names) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::RegularFile && kind != FileType::Directory {
                continue;
            }
            let facts = Facts::of(&stat);
            out.push(Entry {
                name: name.to_vec(),
                folder: kind == FileType::Directory,
                size: facts.size,
                modified: facts.modified.0,
            });
            if out.len() == ENTRIES_MAX {
                break;
            }
        }
        Ok(out)
    }

    /// True if the file or folder that was opened through links has a name that is never served, on its way from the
    /// root: what a link shows must not be what its target's own name hides.
    fn is_hidden(&self, opened: &OwnedFd) -> bool {
        let real = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // Both are asked for now: the root may have been renamed since it was opened.
        let (Ok(root), Ok(target)) = (real(&self.dir), real(opened)) else { return true };
        let Ok(below) = target.strip_prefix(&root) else { return true };
        below.components().any(|c| is_hidden_name(c.as_os_str().as_bytes()))
    }

    /// A link is looked at where it leads to.
    fn stat(&self, folder: &OwnedFd, name: &CStr, names: &[Vec<u8>]) -> io::Result<Stat> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(stat);
        }
        let mut path = joined(names);
        path.push(OsStr::from_bytes(name.to_bytes()));
        Ok(rustix::fs::fstat(self.open_below(&path, OFlags::PATH)?)?)
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if !self.openat2 {
            return self.open_by_steps(path, flags);
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // Nearly every path has no links, and then its names are all there is to know.
        match self.openat2(path, flags, beneath | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {}
            other => return Ok(other?),
        }
        let opened = self.open_through_links(path, flags, beneath)?;
        if self.is_hidden(&opened) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(opened)
    }

    fn open_through_links(&self, path: &Path, flags: OFlags, beneath: ResolveFlags) -> io::Result<OwnedFd> {
        match self.openat2(path, flags, beneath) {
            // An absolute link counts as leaving, also when it leads back inside: see where it goes and open that
            // without following any link, so that nothing can change in between.
            Err(Errno::XDEV) => {
                let real = self.path.join(path).canonicalize()?;
                let inside = real.strip_prefix(&self.path).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
                let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
                Ok(self.openat2(inside, flags, beneath | ResolveFlags::NO_SYMLINKS)?)
            }
            Err(Errno::LOOP) => Err(io::ErrorKind::NotFound.into()),
            other => Ok(other?),
        }
    }

    fn openat2(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let mut tried = 0;
        loop {
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tried < RETRIES => tried += 1,
                other => return other,
            }
        }
    }

    /// Step by step without following links: none works then, and none leads out.
    fn open_by_steps(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut at = self.dir.as_fd().try_clone_to_owned()?;
        let mut steps = path.components().peekable();
        while let Some(step) = steps.next() {
            let how = if steps.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC } else { flags };
            at = match rustix::fs::openat(&at, step.as_os_str(), how | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::LOOP) => return Err(io::ErrorKind::NotFound.into()),
                other => other?,
            };
        }
        Ok(at)
    }
}

impl Facts {
    fn of(stat: &Stat) -> Facts {
        Facts {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            inode: stat.st_ino,
            modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        }
    }

    /// The time of the last change, in whole seconds as HTTP tells it.
    pub(super) fn modified_at(&self) -> SystemTime {
        match u64::try_from(self.modified.0) {
            Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
            Err(_) => UNIX_EPOCH,
        }
    }

    /// Changes whenever the file does, as far as its file system tells.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}.{:x}\"", self.inode, self.size, self.modified.0, self.modified.1)
    }
}

fn joined(names: &[Vec<u8>]) -> PathBuf {
    if names.is_empty() {
        return PathBuf::from(".");
    }
    names.iter().map(|n| std::ffi::OsString::from_vec(n.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A root with a file, a folder with one, and a secret beside it.
    struct Place(stage::Dir);

    impl Place {
        fn new(name: &str) -> Place {
            let dir = stage::Dir::new(name);
            std::fs::create_dir_all(dir.at("root/sub")).unwrap();
            dir.write("root/a.txt", "a");
            dir.write("root/sub/b.txt", "b");
            dir.write("secret", "s");
            Place(dir)
        }
    }

    fn names(path: &str) -> Vec<Vec<u8>> {
        path.split('/').filter(|p| !p.is_empty()).map(|p| p.as_bytes().to_vec()).collect()
    }

    fn found(root: &Root, path: &str) -> bool {
        root.find(&names(path)).is_ok()
    }

    #[test]
    fn stays_below_with_links_and_without_openat2() {
        let place = Place::new("below");
        let at = place.0.at("root");
        symlink("sub/b.txt", at.join("inside")).unwrap();
        symlink(at.join("sub"), at.join("inside-absolute")).unwrap();
        symlink("../secret", at.join("outside")).unwrap();
        symlink(place.0.at("secret"), at.join("outside-absolute")).unwrap();
        symlink("/", at.join("all")).unwrap();
        symlink("..", at.join("up")).unwrap();
        symlink("loop", at.join("loop")).unwrap();
        symlink("/proc/self/root", at.join("magic")).unwrap();
        let root = Root::open(&at).unwrap();
        for path in ["", "a.txt", "sub", "sub/b.txt", "inside", "inside-absolute", "inside-absolute/b.txt"] {
            assert!(found(&root, path), "{path}");
        }
        // Out and in again by a link of the owner's: what is opened in the end lies inside.
        assert!(found(&root, "up/root/a.txt"));
        for path in [
            "nothing",
            "a.txt/x",
            "outside",
            "outside-absolute",
            "all",
            "all/etc/passwd",
            "up",
            "up/secret",
            "loop",
            "magic",
        ] {
            assert!(!found(&root, path), "{path}");
        }
        // Even names that the URL parser would never let through.
        assert!(!found(&root, "../secret") && !found(&root, "sub/../../secret"));
        let root = root.without_openat2();
        for path in ["", "a.txt", "sub", "sub/b.txt"] {
            assert!(found(&root, path), "{path} by steps");
        }
        for path in
            ["nothing", "a.txt/x", "inside", "inside-absolute/b.txt", "outside", "all/etc/passwd", "up/secret", "loop"]
        {
            assert!(!found(&root, path), "{path} by steps");
        }
    }

    #[test]
    fn a_link_shows_nothing_that_is_hidden() {
        let place = Place::new("hidden");
        let at = place.0.at("root");
        std::fs::create_dir_all(at.join(".git/objects")).unwrap();
        std::fs::create_dir_all(at.join(".well-known")).unwrap();
        std::fs::write(at.join(".git/config"), "secret").unwrap();
        std::fs::write(at.join(".env"), "secret").unwrap();
        std::fs::write(at.join(".well-known/security.txt"), "open").unwrap();
        for (target, link) in [
            (".env", "env"),
            (".git", "git"),
            (".git/config", "config"),
            ("git", "git-again"),
            (".well-known/security.txt", "open"),
        ] {
            symlink(target, at.join(link)).unwrap();
        }
        symlink(at.join(".env"), at.join("env-absolute")).unwrap();
        let root = Root::open(&at).unwrap();
        for path in ["env", "git", "git/config", "git/objects", "config", "git-again/config", "env-absolute"] {
            assert!(!found(&root, path), "{path}");
        }
        assert!(found(&root, "open"));
        let Found::Folder(dir) = root.find(&[]).unwrap() else { panic!("no folder") };
        let shown: Vec<_> = root.list(&dir, &[]).unwrap().into_iter().map(|e| e.name).collect();
        assert!(!shown.iter().any(|n| n.starts_with(b"env") || n.starts_with(b"git") || n == b"config"), "{shown:?}");
        // The folder is renamed while it is served: links go on working, hidden names stay hidden.
        std::fs::rename(&at, place.0.at("moved")).unwrap();
        assert!(found(&root, "open") && !found(&root, "env"));
    }

    #[test]
    fn lists_what_may_be_reached() {
        let place = Place::new("list");
        let at = place.0.at("root");
        symlink("sub", at.join("link")).unwrap();
        symlink("../secret", at.join("outside")).unwrap();
        std::fs::write(at.join(".hidden"), "").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let root = Root::open(&at).unwrap();
        let Found::Folder(dir) = root.find(&[]).unwrap() else { panic!("no folder") };
        let mut list: Vec<_> =
            root.list(&dir, &[]).unwrap().into_iter().map(|e| (String::from_utf8(e.name).unwrap(), e.folder)).collect();
        list.sort();
        assert_eq!(list, [("a.txt".to_string(), false), ("link".to_string(), true), ("sub".to_string(), true)]);
        assert!(!found(&root, "pipe"), "a pipe is not opened");
    }
}
