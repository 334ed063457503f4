//! One suite for every backend.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::time::Duration;

use stage::Dir;
use stage::disk::SmallDisk;
use store::{If, Memory, Sqlite, Step, Store, StoreError};

const NOW: Duration = Duration::ZERO;

fn each(test: impl Fn(&dyn Store)) {
    test(&Memory::new());
    let dir = Dir::new("store");
    test(&Sqlite::open(&dir.at("s.db")).unwrap());
}

#[test]
fn what_was_put_is_there_and_ordered_by_key() {
    each(|s| {
        assert_eq!(s.get("grants/1").unwrap(), None);
        let r1 = s.put_if("grants/2", b"two", None, If::Absent).unwrap();
        let r2 = s.put_if("grants/1", b"one", Some(9), If::Anyway).unwrap();
        s.put_if("grantsX", b"no", None, If::Anyway).unwrap();
        assert!(r2 > r1);
        let (found, at) = s.list("grants/").unwrap();
        assert_eq!(found.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["grants/1", "grants/2"]);
        assert_eq!((found[0].value.as_slice(), found[0].revision, found[0].deadline), (&b"one"[..], r2, Some(9)));
        assert_eq!(at, r2 + 1);
    });
}

#[test]
fn a_wrong_belief_changes_nothing() {
    each(|s| {
        let r = s.put_if("policy", b"a", None, If::Absent).unwrap();
        assert!(
            matches!(s.put_if("policy", b"b", None, If::Absent), Err(StoreError::Conflict { found: Some(f), .. }) if f == r)
        );
        assert!(matches!(s.delete_if("policy", If::Revision(r + 1)), Err(StoreError::Conflict { .. })));
        let steps = [
            Step::Put { key: "other".into(), value: b"x".to_vec(), deadline: None, when: If::Anyway },
            Step::Delete { key: "policy".into(), when: If::Revision(r + 1) },
        ];
        assert!(s.write(&steps).is_err());
        assert_eq!(s.get("other").unwrap(), None);
        let r2 = s.put_if("policy", b"b", None, If::Revision(r)).unwrap();
        s.delete_if("policy", If::Revision(r2)).unwrap();
        assert_eq!(s.get("policy").unwrap(), None);
        assert_eq!(s.delete_if("policy", If::Anyway).unwrap(), s.list("").unwrap().1);
    });
}

#[test]
fn a_watch_from_a_picture_misses_nothing_and_repeats_nothing() {
    each(|s| {
        s.put_if("a/1", b"1", None, If::Anyway).unwrap();
        let (_, at) = s.list("a/").unwrap();
        s.put_if("a/2", b"2", None, If::Anyway).unwrap();
        s.put_if("b/1", b"-", None, If::Anyway).unwrap();
        s.delete_if("a/1", If::Anyway).unwrap();
        let changes = s.changes("a/", at, 10, NOW).unwrap();
        let seen: Vec<_> = changes.iter().map(|c| (c.key.as_str(), c.value.as_deref())).collect();
        assert_eq!(seen, [("a/2", Some(&b"2"[..])), ("a/1", None)]);
        assert_eq!(s.changes("a/", changes[1].revision, 10, NOW).unwrap(), []);
        assert_eq!(s.changes("a/", at, 1, NOW).unwrap().len(), 1);
    });
}

#[test]
fn a_watcher_is_woken_by_a_write() {
    let s = std::sync::Arc::new(Memory::new());
    let dir = Dir::new("store");
    let q = std::sync::Arc::new(Sqlite::open(&dir.at("s.db")).unwrap());
    for s in [s as std::sync::Arc<dyn Store>, q as std::sync::Arc<dyn Store>] {
        let w = s.clone();
        let t = std::thread::spawn(move || w.changes("k", 0, 9, Duration::from_secs(20)).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        s.put_if("k", b"v", None, If::Anyway).unwrap();
        assert_eq!(t.join().unwrap().len(), 1);
    }
}

#[test]
fn deadlines_are_tidied_and_watchers_hear_of_it() {
    each(|s| {
        s.put_if("x/1", b"", Some(100), If::Anyway).unwrap();
        s.put_if("x/2", b"", Some(101), If::Anyway).unwrap();
        s.put_if("x/3", b"", None, If::Anyway).unwrap();
        let (_, at) = s.list("").unwrap();
        assert_eq!(s.expire(100).unwrap(), 1);
        assert_eq!(s.changes("", at, 9, NOW).unwrap()[0].key, "x/1");
        assert_eq!(s.list("x/").unwrap().0.len(), 2);
    });
}

#[test]
fn who_was_away_too_long_is_told() {
    each(|s| {
        for n in 0..11_000u32 / 500 {
            let steps: Vec<Step> = (0..500)
                .map(|i| Step::Put {
                    key: format!("k{}", i % 7),
                    value: n.to_le_bytes().to_vec(),
                    deadline: None,
                    when: If::Anyway,
                })
                .collect();
            s.write(&steps).unwrap();
        }
        let Err(StoreError::Compacted { oldest }) = s.changes("", 1, 9, NOW) else { panic!("not told") };
        assert!(!s.changes("", oldest, 9, NOW).unwrap().is_empty());
    });
}

#[test]
fn sqlite_keeps_everything_across_a_restart_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("store");
    let path = dir.at("new/s.db");
    let r = Sqlite::open(&path).unwrap().put_if("k", b"v", None, If::Anyway).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let s = Sqlite::open(&path).unwrap();
    assert_eq!(s.get("k").unwrap().unwrap().value, b"v");
    assert!(s.put_if("k", b"w", None, If::Anyway).unwrap() > r);
    assert_eq!(s.changes("", r, 9, NOW).unwrap().len(), 1);
}

#[test]
fn a_file_of_a_later_version_is_left_alone_and_named() {
    use std::os::unix::fs::FileExt;
    let dir = Dir::new("store");
    let path = dir.at("s.db");
    drop(Sqlite::open(&path).unwrap());
    // The user version stands in bytes 60 to 63 of the header (SQLite's file format, section 1.3).
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&9_999u32.to_be_bytes(), 60).unwrap();
    let said = Sqlite::open(&path).unwrap_err();
    assert!(matches!(said, StoreError::Newer(_)) && said.to_string().contains("by a newer version"), "{said}");
}

#[test]
fn a_damaged_file_and_a_second_process_are_named() {
    let dir = Dir::new("store");
    let path = dir.at("s.db");
    std::fs::write(&path, [7u8; 4096]).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(StoreError::Damaged(_))));
    let path = dir.at("t.db");
    let s = Sqlite::open(&path).unwrap();
    s.put_if("k", b"v", None, If::Anyway).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(StoreError::Busy(_))));
}

/// The child of the next test: writes until it is killed and says each number once it is stored.
#[test]
fn child_that_is_killed() {
    use std::io::Write;
    let Ok(path) = std::env::var("PORTCULLIS_TEST_KILLED_STORE") else { return };
    let s = Sqlite::open(std::path::Path::new(&path)).unwrap();
    for n in 0u64.. {
        s.put_if(&format!("grants/{n:08}"), &n.to_le_bytes(), None, If::Absent).unwrap();
        if n >= 10 {
            s.delete_if(&format!("grants/{:08}", n - 10), If::Anyway).unwrap();
        }
        writeln!(std::io::stdout(), "stored {n}").unwrap();
    }
}

#[test]
fn kill_9_loses_no_acknowledged_put_and_no_delete() {
    use std::io::BufRead;
    let dir = Dir::new("store");
    for round in 0..8u64 {
        let path = dir.at(format!("{round}.db"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env("PORTCULLIS_TEST_KILLED_STORE", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut last = None;
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some(n) = line.split("stored ").nth(1) {
                last = Some(n.parse::<u64>().unwrap());
                if last >= Some(20 + round * 7) {
                    child.kill().unwrap();
                    break;
                }
            }
        }
        // What it still said before it died counts too.
        for line in lines.map_while(Result::ok) {
            last = line.split("stored ").nth(1).and_then(|n| n.parse().ok()).or(last);
        }
        child.wait().unwrap();
        let last = last.unwrap();
        let keys: Vec<String> =
            Sqlite::open(&path).unwrap().list("grants/").unwrap().0.into_iter().map(|e| e.key).collect();
        for n in 0..=last {
            let there = keys.contains(&format!("grants/{n:08}"));
            // Number `last - 9` may be gone already: its delete belongs to the write that was under way.
            assert_eq!(there || n + 9 == last, n + 10 > last, "round {round}: {n} of {last}");
        }
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_are_reported_and_lose_nothing() {
    let Some(disk) = SmallDisk::new("store", 512) else { return };
    let path = disk.path().join("s.db");
    let s = Sqlite::open(&path).unwrap();
    let mut stored = 0u32;
    let full = loop {
        match s.put_if(&format!("k/{stored:05}"), &[1; 4000], None, If::Absent) {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, StoreError::Full(_)), "{full}");
    assert!(stored > 10);
    assert_eq!(s.list("k/").unwrap().0.len() as u32, stored);
    drop(s);
    disk.read_only();
    let opened = Sqlite::open(&path);
    let refused = match opened {
        Err(e) => e,
        Ok(s) => s.put_if("x", b"", None, If::Anyway).unwrap_err(),
    };
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused}");
    disk.enlarge(8 * 1024);
    let s = Sqlite::open(&path).unwrap();
    assert_eq!(s.list("k/").unwrap().0.len() as u32, stored);
    s.put_if("x", b"", None, If::Anyway).unwrap();
}

/// Mode of a file, without its kind.
fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn sqlite_is_private_whatever_made_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("store");
    std::fs::create_dir(dir.at("elsewhere")).unwrap();
    // A link whose target is not there yet.
    std::os::unix::fs::symlink("elsewhere/real.db", dir.at("link.db")).unwrap();
    let s = Sqlite::open(&dir.at("link.db")).unwrap();
    s.put_if("k", b"v", None, If::Anyway).unwrap();
    assert_eq!(mode(&dir.at("elsewhere/real.db")), 0o600);
    assert_eq!(s.warnings(), Vec::<String>::new().as_slice());
    drop(s);
    // A backup that `sqlite3` wrote, put in place.
    std::fs::set_permissions(dir.at("elsewhere/real.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let s = Sqlite::open(&dir.at("link.db")).unwrap();
    assert_eq!(mode(&dir.at("elsewhere/real.db")), 0o600);
    assert!(s.warnings()[0].contains("mode 644"), "{:?}", s.warnings());
}

#[test]
fn one_process_by_whatever_path_and_others_may_read() {
    let dir = Dir::new("store");
    let path = dir.at("s.db");
    let s = Sqlite::open(&path).unwrap();
    s.put_if("k", b"v", None, If::Anyway).unwrap();
    std::os::unix::fs::symlink("s.db", dir.at("other.db")).unwrap();
    std::fs::hard_link(&path, dir.at("third.db")).unwrap();
    for other in ["s.db", "other.db", "third.db"] {
        assert!(matches!(Sqlite::open(&dir.at(other)), Err(StoreError::Busy(_))), "{other}");
    }
    assert!(matches!(store::hold(&path), Err(StoreError::Busy(_))));
    let sqlite3 = |what: &str| std::process::Command::new("sqlite3").arg(&path).arg(what).output();
    if let Ok(out) = sqlite3("select count(*) from entries") {
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "1", "{}", String::from_utf8_lossy(&out.stderr));
        let copy = dir.at("copy.db");
        let out = sqlite3(&format!(".backup {}", copy.display())).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(sqlite3(".dump").unwrap().status.success());
        assert_eq!(Sqlite::open(&copy).unwrap().get("k").unwrap().unwrap().value, b"v");
    }
    s.put_if("k", b"w", None, If::Anyway).unwrap();
    drop(s);
    let held = store::hold(&path).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(StoreError::Busy(_))));
    drop(held);
    Sqlite::open(&path).unwrap();
}

/// What a process has locked by `fcntl` on a file: lines of /proc/locks with its inode.
fn posix_locks(path: &std::path::Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", std::fs::metadata(path).unwrap().ino());
    let ours = |l: &&str| l.contains("POSIX") && l.contains(&inode);
    std::fs::read_to_string("/proc/locks").unwrap().lines().filter(ours).count()
}

#[test]
fn looking_at_the_files_gives_up_none_of_the_locks_on_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("store");
    let path = dir.at("s.db");
    drop(Sqlite::open(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let s = Sqlite::open(&path).unwrap();
    s.put_if("k", b"v", None, If::Anyway).unwrap();
    // Without it the next reader takes itself for the only one and cuts the shared memory short.
    assert!(posix_locks(&dir.at("s.db-shm")) > 0);
}

#[test]
fn who_waited_for_a_file_that_was_replaced_gets_the_new_one() {
    let dir = Dir::new("store");
    let (path, new) = (dir.at("s.db"), dir.at("new.db"));
    for (at, value) in [(&path, b"old"), (&new, b"new")] {
        Sqlite::open(at).unwrap().put_if("k", value, None, If::Anyway).unwrap();
    }
    let held = store::hold(&path).unwrap();
    let waiting = {
        let path = path.clone();
        std::thread::spawn(move || Sqlite::open(&path).unwrap())
    };
    std::thread::sleep(Duration::from_millis(300));
    std::fs::rename(&new, &path).unwrap();
    drop(held);
    let s = waiting.join().unwrap();
    assert_eq!(s.get("k").unwrap().unwrap().value, b"new");
    assert!(matches!(Sqlite::open(&path), Err(StoreError::Busy(_))), "it holds the file that is there");
}

#[test]
fn a_copy_is_of_one_moment_private_checked_and_replaces_only_copies() {
    let dir = Dir::new("store");
    let s = Sqlite::open(&dir.at("s.db")).unwrap();
    s.put_if("k/1", b"1", None, If::Anyway).unwrap();
    let copy = dir.at("copy.db");
    s.backup(&copy, "k").unwrap();
    assert_eq!(mode(&copy), 0o600);
    s.put_if("k/1", b"2", None, If::Anyway).unwrap();
    s.backup(&copy, "k").unwrap();
    store::check(&copy, "k").unwrap();
    assert_eq!(Sqlite::open(&copy).unwrap().get("k/1").unwrap().unwrap().value, b"2");
    let other = dir.at("letter.txt");
    std::fs::write(&other, "dear reader").unwrap();
    assert!(s.backup(&other, "k").unwrap_err().to_string().contains("left alone"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "dear reader");
    assert!(store::check(&other, "k").is_err());
    std::fs::write(dir.at("empty"), "").unwrap();
    assert!(store::check(&dir.at("empty"), "k").is_err(), "an empty file is no copy");
    // The store itself, by any name, one in use, and one of something else.
    std::fs::hard_link(dir.at("s.db"), dir.at("link.db")).unwrap();
    let used = Sqlite::open(&dir.at("used.db")).unwrap();
    used.put_if("k/1", b"1", None, If::Anyway).unwrap();
    Sqlite::open(&dir.at("mesh.db")).unwrap().put_if("mesh/1", b"1", None, If::Anyway).unwrap();
    for name in ["s.db", "link.db", "used.db", "mesh.db"] {
        let before = std::fs::metadata(dir.at(name)).unwrap();
        assert!(s.backup(&dir.at(name), "k").unwrap_err().to_string().contains("left alone"), "{name}");
        let after = std::fs::metadata(dir.at(name)).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
    }
    assert!(store::check(&dir.at("mesh.db"), "k").unwrap_err().to_string().contains("something else"));
}

#[test]
fn copies_to_one_name_at_once_do_not_take_each_others_files_away() {
    let dir = Dir::new("store");
    let s = Sqlite::open(&dir.at("s.db")).unwrap();
    s.put_if("k/1", b"1", None, If::Anyway).unwrap();
    let (copy, part) = (dir.at("copy.db"), dir.at("copy.db.portcullis-part"));
    let other = std::fs::File::create(&part).unwrap();
    other.lock().unwrap();
    let e = s.backup(&copy, "k").unwrap_err();
    assert!(e.to_string().contains("another copy"), "{e}");
    assert!(part.exists() && !copy.exists());
    // What a copy left that was killed is in nobody's way.
    drop(other);
    s.backup(&copy, "k").unwrap();
    for _ in 0..8 {
        let done = std::thread::scope(|threads| {
            let all: Vec<_> = (0..4).map(|_| threads.spawn(|| store::copy(&dir.at("s.db"), &copy, "k"))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(done.iter().any(Result::is_ok), "{done:?}");
        store::check(&copy, "k").unwrap();
        assert!(!part.exists());
    }
}

#[test]
fn a_file_that_lost_a_part_of_itself_is_not_opened_and_a_newer_one_is_named() {
    let dir = Dir::new("store");
    let path = dir.at("s.db");
    let s = Sqlite::open(&path).unwrap();
    let steps: Vec<Step> = (0..2_000)
        .map(|n| Step::Put { key: format!("k/{n:06}"), value: vec![7; 200], deadline: None, when: If::Anyway })
        .collect();
    s.write(&steps).unwrap();
    drop(s);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    let pages = bad.len() / 4096;
    // The head of a page in the middle: an unchecked start would find fewer entries.
    bad[pages / 2 * 4096..pages / 2 * 4096 + 8].fill(0);
    std::fs::write(&path, &bad).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(StoreError::Damaged(_))));
    let mut newer = good;
    // user_version, bytes 60 to 63 of the head (SQLite's file format, section 1.3).
    newer[60..64].copy_from_slice(&99u32.to_be_bytes());
    std::fs::write(&path, &newer).unwrap();
    let e = Sqlite::open(&path).unwrap_err();
    assert!(matches!(e, StoreError::Newer(_)), "{e}");
    assert!(e.to_string().contains("layout 99") && e.to_string().contains("up to layout 1"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), newer, "it is left alone");
}
