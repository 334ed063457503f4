//! Archives that are equal byte for byte whoever makes them, and where. In: names and contents. Out: tar (POSIX ustar) and
//! gzip; owner 0, one date, sorted by name, folders before what is in them, no name in the gzip header.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// Files that will be an archive.
pub(crate) struct Archive {
    epoch: u64,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    owner: u64,
    /// None for a folder.
    content: Option<Vec<u8>>,
}

impl Archive {
    /// An empty one; everything in it is dated `epoch`.
    pub(crate) fn new(epoch: u64) -> Archive {
        Archive { epoch, entries: BTreeMap::new() }
    }

    /// A file of user and group 0. The folders above it come by themselves, with mode 0755.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.above(name);
        self.entries.insert(name.to_string(), Entry { mode, owner: 0, content: Some(content.into()) });
    }

    /// A folder of this user and the group of the same number.
    pub(crate) fn folder(&mut self, name: &str, mode: u32, owner: u64) {
        self.above(name);
        self.entries.insert(format!("{name}/"), Entry { mode, owner, content: None });
    }

    fn above(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            let folder = Entry { mode: 0o755, owner: 0, content: None };
            self.entries.entry(format!("{}/", &name[..at])).or_insert(folder);
        }
    }

    /// The archive.
    ///
    /// # Errors
    /// A name is longer than the format takes.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, entry) in &self.entries {
            let mut header = tar::Header::new_ustar();
            let kind = if entry.content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
            let content = entry.content.as_deref().unwrap_or_default();
            header.set_path(name).with_context(|| format!("`{name}` does not fit into a tar archive"))?;
            header.set_entry_type(kind);
            header.set_mode(entry.mode);
            header.set_uid(entry.owner);
            header.set_gid(entry.owner);
            header.set_mtime(self.epoch);
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content)?;
        }
        Ok(tar.into_inner()?)
    }

    /// The archive, compressed.
    ///
    /// # Errors
    /// As [`Archive::tar`].
    pub(crate) fn tar_gz(&self) -> Result<Vec<u8>> {
        gzip(&self.tar()?)
    }
}

/// Compresses as well as gzip does, without a date and a name.
///
/// # Errors
/// None: it is written to memory.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gz = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    gz.write_all(bytes)?;
    Ok(gz.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_insertion_is_not_seen() {
        let of = |names: &[&str]| {
            let mut a = Archive::new(7);
            names.iter().for_each(|n| a.file(n, 0o644, n.as_bytes()));
            a.folder("var/lib/x", 0o700, 65532);
            a.tar_gz().unwrap()
        };
        let gz = of(&["a/b/c", "a/b", "z"]);
        assert_eq!(gz, of(&["z", "a/b", "a/b/c"]));
        assert_eq!(&gz[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gz[..]), &mut plain).unwrap();
        let mut tar = tar::Archive::new(&plain[..]);
        let seen: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                let h = e.header();
                assert_eq!(h.mtime().unwrap(), 7);
                format!("{} {:o} {}", e.path().unwrap().display(), h.mode().unwrap(), h.uid().unwrap())
            })
            .collect();
        let wanted = [
            "a/ 755 0",
            "a/b 644 0",
            "a/b/ 755 0",
            "a/b/c 644 0",
            "var/ 755 0",
            "var/lib/ 755 0",
            "var/lib/x/ 700 65532",
            "z 644 0",
        ];
        assert_eq!(seen, wanted);
    }
}
