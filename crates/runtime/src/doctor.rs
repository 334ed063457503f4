//! What a doctor finds, for every product alike. In: symptoms, each a value of a product's own kind. Out: findings with a
//! name, a severity and the line that mends them; and the symptoms of the machine that all products share.

use std::fmt;
use std::path::{Path, PathBuf};

use ::api::{Finding, Part, Severity};

use crate::lists::Lists;
use crate::owner::{Time, Trouble};

/// Something wrong as a doctor sees it; its text is what is wrong.
pub trait Symptom: fmt::Display {
    /// What it is about.
    const PART: Part;
    /// Its kind, for people and scripts.
    fn id(&self) -> &'static str;
    /// How much it matters.
    fn severity(&self) -> Severity;
    /// What to do about it.
    fn fix(&self) -> String;

    /// The same as the admin socket tells it.
    fn finding(&self) -> Finding {
        Finding {
            part: Self::PART,
            severity: self.severity(),
            id: self.id().to_string(),
            what: self.to_string(),
            fix: self.fix(),
            accepted: false,
        }
    }
}

/// What can be wrong with a machine and what a process does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Fewer files can be open than are wanted.
    Files {
        /// The limit.
        limit: usize,
        /// What would be needed.
        wanted: usize,
    },
    /// Little room where state lies.
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// Bytes that are left.
        free: u64,
    },
    /// A store or an audit log does not save.
    Unsaved {
        /// Which.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// The clock jumped forward, by so many seconds, less than ten minutes ago.
    ClockAhead(u64),
    /// The clock is so many seconds behind the latest time that was saved.
    ClockBehind(u64),
    /// List files and what is in force may differ.
    Lists {
        /// How.
        stale: String,
        /// True if the machine is at fault, and it is tried again.
        retried: bool,
    },
}

/// With less room than this a store may stop saving soon: the write-ahead log of a busy one has a few MiB.
const ROOM: u64 = 64 << 20;
/// With less than this it does.
const NO_ROOM: u64 = 4 << 20;

/// What is wrong with the place where state lies.
#[must_use]
pub fn disk(dir: &Path) -> Option<Host> {
    let fs = rustix::fs::statvfs(dir).ok()?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    (free < ROOM).then(|| Host::Disk { dir: dir.to_path_buf(), free })
}

/// What is wrong with the limit of open files.
#[must_use]
pub fn files(wanted: usize) -> Option<Host> {
    let limit = net::sockets::files_max();
    (limit < wanted).then_some(Host::Files { limit, wanted })
}

/// What an owner's store and audit log do not save.
#[must_use]
pub fn unsaved(trouble: &Trouble) -> Vec<Host> {
    trouble.lock().iter().map(|(part, why)| Host::Unsaved { part, why: why.clone() }).collect()
}

/// What is wrong with the clock that an owner goes by.
#[must_use]
pub fn clock(time: &Time) -> Vec<Host> {
    /// A clock that is set by steps may go back by some seconds.
    const TOLERANCE: u64 = 60;
    let behind = time.behind();
    let ahead = time.jump().map(|j| Host::ClockAhead(j.by));
    ahead.into_iter().chain((behind > TOLERANCE).then_some(Host::ClockBehind(behind))).collect()
}

/// What is wrong with the files of lists.
#[must_use]
pub fn lists(lists: &Lists) -> Option<Host> {
    let fresh = lists.freshness();
    let retried = fresh.trouble.as_ref().is_some_and(|t| t.retried);
    fresh.stale.map(|stale| Host::Lists { stale, retried })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Files { limit, wanted } => {
                write!(f, "{limit} files may be open, and the visitors it is set to take need {wanted}")
            }
            Host::Disk { dir, free } => write!(f, "{} has {} MiB left", dir.display(), free >> 20),
            Host::Unsaved { part, why } => write!(f, "the {part} does not save: {why}"),
            Host::ClockAhead(by) => write!(
                f,
                "the clock is {} h ahead of the time that deadlines go by, since less than ten minutes",
                by / 3_600
            ),
            Host::ClockBehind(by) => write!(f, "the clock is {by} s behind the latest time that was saved"),
            Host::Lists { stale, .. } => f.write_str(stale),
        }
    }
}

impl Symptom for Host {
    const PART: Part = Part::Process;

    fn id(&self) -> &'static str {
        match self {
            Host::Files { .. } => "open-files",
            Host::Disk { .. } => "disk",
            Host::Unsaved { .. } => "store",
            Host::ClockAhead(_) | Host::ClockBehind(_) => "clock",
            Host::Lists { .. } => "lists",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Host::Files { .. } => Severity::Warning,
            Host::Disk { free, .. } if *free >= NO_ROOM => Severity::Warning,
            _ => Severity::Error,
        }
    }

    fn fix(&self) -> String {
        match self {
            Host::Files { wanted, .. } => {
                return format!("raise the limit (`ulimit -n {wanted}`, or LimitNOFILE={wanted} in the unit), or lower max_visitors");
            }
            Host::Disk { .. } => "make room on that disk; what cannot be saved is refused",
            Host::Unsaved { .. } => "make room on the disk, or make the data directory writable",
            Host::ClockAhead(_) => {
                "is it right? then nothing is to be done: it counts when it has lasted; else set it (timedatectl set-ntp true)"
            }
            Host::ClockBehind(_) => {
                "set the clock (timedatectl set-ntp true); deadlines go on from the saved time meanwhile. If the clock is right and the saved time is not: portcullis clock reset"
            }
            Host::Lists { retried: true, .. } => {
                "give it back, or make it readable for this process; nothing else is needed"
            }
            Host::Lists { retried: false, .. } => {
                "mend what is written; `portcullis reload` says at once whether it is good"
            }
        }
        .to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_an_error_and_one_with_little_a_warning() {
        let disk = |free| Host::Disk { dir: PathBuf::from("/var/lib/portcullis"), free }.finding();
        assert_eq!(disk(60 << 20).severity, Severity::Warning);
        assert_eq!(disk(1 << 20).severity, Severity::Error);
        assert_eq!(disk(60 << 20).what, "/var/lib/portcullis has 60 MiB left");
        assert_eq!(files(0), None);
        let few = files(usize::MAX).unwrap().finding();
        assert_eq!((few.id.as_str(), few.part, few.severity), ("open-files", Part::Process, Severity::Warning));
    }
}
