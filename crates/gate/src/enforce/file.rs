//! A plain file, one prefix a line. In: the list. Out: the file.

use std::path::PathBuf;

use access::ours::Format;
use access::publish::lines;
use futures_util::future::{BoxFuture, FutureExt};
use net::replace::How;

use super::{Enforcer, Info, OWN_FILE, Reconciled, Snapshot, check_ours, write};

/// How a plain file is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The list.
    pub list: String,
    /// The file.
    pub file: PathBuf,
}

/// A file that an edge or a program of one's own reads.
pub(super) struct TextFile {
    config: FileConfig,
    info: Info,
}

impl TextFile {
    pub(super) fn new(config: FileConfig) -> TextFile {
        let info = Info {
            name: format!("file {}", config.file.display()),
            lists: vec![config.list.clone()],
            file: Some(config.file.clone()),
            by_peer: false,
        };
        TextFile { config, info }
    }

    async fn sync(&self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let list = desired.list(&self.config.list)?.clone();
        let how = write(&self.config.file, move || lines(&list.merged())).await?;
        Ok(Reconciled::now(how != How::Same))
    }
}

impl Enforcer for TextFile {
    fn info(&self) -> &Info {
        &self.info
    }

    fn check_file(&self) -> anyhow::Result<()> {
        check_ours(&self.config.file, Format::Lines, OWN_FILE)
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use access::publish::Desired;

    use super::super::InForce;
    use super::super::testing::snapshot;
    use super::*;

    /// A folder of this test's own, and a file in it.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let dir = std::env::temp_dir().join(format!("portcullis-file-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            Place(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("list")
        }

        fn enforcer(&self) -> TextFile {
            TextFile::new(FileConfig { list: "home".into(), file: self.file() })
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read(file: &Path) -> String {
        std::fs::read_to_string(file).unwrap()
    }

    #[tokio::test]
    async fn the_file_is_the_list_and_is_written_when_it_changes() {
        let place = Place::new("changes");
        let mut e = place.enforcer();
        assert_eq!((e.info().lists.as_slice(), e.info().file.clone()), (&["home".to_string()][..], Some(place.file())));
        assert_eq!(e.info().name, format!("file {}", place.file().display()));
        let one = snapshot(1, &[("home", &["192.0.2.7", "10.0.0.0/25", "10.0.0.128/25"]), ("other", &["203.0.113.1"])]);
        let done = e.reconcile(&one, false).await.unwrap();
        assert_eq!((done.changed, done.in_force), (true, InForce::Now));
        assert_eq!(read(&place.file()), "10.0.0.0/24\n192.0.2.7\n", "halves are one prefix, in order");
        let written = std::fs::metadata(place.file()).unwrap();
        assert_eq!(written.permissions().mode() & 0o777, 0o644, "another user's program reads it");
        assert!(!e.reconcile(&one, true).await.unwrap().changed);
        assert_eq!(std::fs::metadata(place.file()).unwrap().ino(), written.ino(), "the same again is not written");
        // Whoever reads it never meets half a list: a new file takes the old one's place, with its mode.
        std::fs::set_permissions(place.file(), PermissionsExt::from_mode(0o640)).unwrap();
        assert!(e.reconcile(&snapshot(2, &[("home", &["192.0.2.9"])]), false).await.unwrap().changed);
        let now = std::fs::metadata(place.file()).unwrap();
        assert!(now.ino() != written.ino() && now.permissions().mode() & 0o777 == 0o640);
        assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 1, "nothing is left beside it");
    }

    /// What others change is undone, also if nothing was published since.
    #[tokio::test]
    async fn what_others_write_is_written_over() {
        let place = Place::new("others");
        let mut e = place.enforcer();
        let list = snapshot(1, &[("home", &["192.0.2.7"])]);
        e.reconcile(&list, false).await.unwrap();
        for change in ["0.0.0.0/0\n", "", "192.0.2.7\n198.51.100.1\n"] {
            std::fs::write(place.file(), change).unwrap();
            assert!(e.reconcile(&list, false).await.unwrap().changed, "{change:?}");
            assert_eq!(read(&place.file()), "192.0.2.7\n");
        }
        std::fs::remove_file(place.file()).unwrap();
        assert!(e.reconcile(&list, false).await.unwrap().changed);
        // A link is followed: the file that it leads to is the one that others read.
        let behind = place.0.join("behind");
        std::fs::rename(place.file(), &behind).unwrap();
        std::os::unix::fs::symlink(&behind, place.file()).unwrap();
        e.reconcile(&snapshot(2, &[("home", &["192.0.2.8"])]), false).await.unwrap();
        assert!(place.file().is_symlink() && read(&behind) == "192.0.2.8\n");
    }

    /// A list of nobody is a file with one entry that nobody matches, never an empty one, which some read as everybody.
    #[tokio::test]
    async fn nobody_is_an_entry() {
        let place = Place::new("nobody");
        place.enforcer().reconcile(&snapshot(1, &[("home", &[])]), false).await.unwrap();
        assert_eq!(read(&place.file()), "255.255.255.255\n");
        assert_eq!(addr::parse_list(&read(&place.file())).unwrap().prefixes, Desired::default().entries());
    }

    #[tokio::test]
    async fn what_fails_leaves_the_last_good_state() {
        let place = Place::new("fails");
        let mut e = place.enforcer();
        e.reconcile(&snapshot(1, &[("home", &["192.0.2.7"])]), false).await.unwrap();
        let gone = e.reconcile(&snapshot(2, &[("other", &["192.0.2.9"])]), false).await.unwrap_err();
        assert_eq!(gone.to_string(), "there is no list `home`");
        assert_eq!(read(&place.file()), "192.0.2.7\n");
        // A folder in the file's place is named, and nothing in it is touched.
        std::fs::remove_file(place.file()).unwrap();
        std::fs::create_dir(place.file()).unwrap();
        let refused = e.reconcile(&snapshot(3, &[("home", &["192.0.2.9"])]), false).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("{} cannot be written", place.file().display()));
        assert!(e.check_file().unwrap_err().to_string().ends_with("is a folder, and a file is to be written there"));
    }

    #[test]
    fn only_ones_own_file_is_taken() {
        let place = Place::new("own");
        let e = place.enforcer();
        e.check_file().unwrap();
        for own in ["", "\n", "192.0.2.1\n2001:db8::/32\n", "# a note\n\n10.0.0.0/8\n"] {
            std::fs::write(place.file(), own).unwrap();
            e.check_file().unwrap_or_else(|e| panic!("{own:?}: {e:#}"));
        }
        for (foreign, line) in
            [("[Unit]\n", "line 1"), ("192.0.2.1\nallow all;\n", "line 2"), ("127.0.0.1 localhost\n", "line 1")]
        {
            std::fs::write(place.file(), foreign).unwrap();
            let refused = e.check_file().unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("{} is not the gate's to write: it holds `{line}`", place.file().display())
            );
            assert_eq!(read(&place.file()), foreign);
        }
    }
}
