//! A disk that fills. In: nothing. Out: a folder with little room, which a test uses up and gives back.

use std::path::Path;
use std::process::Command;

use crate::Dir;

/// A disk of little room, mounted in a folder; unmounted with its owner.
#[derive(Debug)]
pub struct SmallDisk(Dir);

impl SmallDisk {
    /// With so many KiB; `None`, said in one line, where this machine mounts nothing for us.
    #[must_use]
    pub fn new(what: &str, kib: u32) -> Option<SmallDisk> {
        let dir = Dir::new(what);
        if mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], dir.path()) {
            return Some(SmallDisk(dir));
        }
        crate::skip::skip("a small disk cannot be mounted here (needs root)");
        None
    }

    /// From now on nothing is written there.
    pub fn read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], self.path()), "cannot make the disk read-only");
    }

    /// From now on there is room, of so many KiB.
    pub fn enlarge(&self, kib: u32) {
        assert!(mount(&["-o", &format!("remount,rw,size={kib}k")], self.path()), "cannot enlarge the disk");
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.0.at("ballast")).unwrap();
        while ballast.write(&[1; 512]).is_ok_and(|n| n > 0) {}
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.0.at("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).output().is_ok_and(|o| o.status.success())
}
