//! What both packages put on a machine. In: a page, one of its programs. Out: files with their modes and owners, and a
//! folder that holds them for `dpkg-deb` and `rpmbuild`.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::archive::gzip;
use super::{Page, Program, tool};

/// What is special about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Nothing.
    Plain,
    /// A person changes it, and an upgrade asks before it writes over that.
    Settings,
    /// It may be left out (`--nodocs`).
    Documentation,
    /// A folder.
    Folder,
}

/// A file or a folder of a package.
pub(crate) struct Item {
    /// Without the first slash.
    pub(crate) path: String,
    /// Its mode.
    pub(crate) mode: u32,
    /// Its group; its user is root.
    pub(crate) group: &'static str,
    /// What is special about it.
    pub(crate) kind: Kind,
    /// What is in it.
    pub(crate) content: Vec<u8>,
}

/// Where distributions differ.
pub(crate) struct Places {
    /// Completions of zsh.
    pub(crate) zsh: &'static str,
    /// Texts of licences, besides what the package itself says of them.
    pub(crate) licences: Option<&'static str>,
}

/// Everything but what only one of the packages has.
///
/// # Errors
/// A file of the sources cannot be read, or the program does not run.
pub(crate) fn of(page: &Page, program: &Program, places: &Places) -> Result<Vec<Item>> {
    let read = |path: &str| std::fs::read(page.root.join(path)).with_context(|| format!("cannot read {path}"));
    let mut items = vec![file("usr/bin/portcullis", 0o755, std::fs::read(&program.path)?)];
    for unit in ["portcullis.service", "portcullis-client@.service", "portcullis-guard.service"] {
        let path = format!("usr/lib/systemd/system/{unit}");
        items.push(file(&path, 0o644, read(&format!("deploy/systemd/{unit}"))?));
    }
    for (path, source) in [
        ("usr/lib/sysusers.d/portcullis.conf", "deploy/etc/sysusers.conf"),
        ("usr/lib/tmpfiles.d/portcullis.conf", "deploy/etc/tmpfiles.conf"),
        ("usr/share/portcullis/guarded-ports.conf", "deploy/systemd/guarded-ports.conf"),
    ] {
        items.push(file(path, 0o644, read(source)?));
    }
    for (path, shell) in [
        ("usr/share/bash-completion/completions/portcullis", "bash"),
        ("usr/share/fish/vendor_completions.d/portcullis.fish", "fish"),
        (places.zsh, "zsh"),
    ] {
        items.push(file(path, 0o644, page.say(&["completions", shell])?));
    }
    items.push(document("usr/share/man/man1/portcullis.1.gz", gzip(&page.say(&["man"])?)?));
    for example in ["edge.toml", "gate.toml", "control.toml"] {
        let path = format!("usr/share/doc/portcullis/examples/{example}");
        items.push(document(&path, read(&format!("docs/manual/{example}"))?));
    }
    if let Some(dir) = places.licences {
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            items.push(document(&format!("{dir}/{licence}"), read(licence)?));
        }
    }
    items.push(folder("etc/portcullis", 0o750, "portcullis"));
    // The service manager reads what is in it, as root.
    items.push(folder("etc/portcullis/clients", 0o700, "root"));
    items.push(Item {
        path: "etc/portcullis/portcullis.toml".to_string(),
        mode: 0o640,
        group: "portcullis",
        kind: Kind::Settings,
        content: read("deploy/etc/portcullis.toml")?,
    });
    Ok(items)
}

/// Whose packages these are.
pub(crate) const MAINTAINER: &str = "The Portcullis contributors <portcullis@users.noreply.github.com>";

/// Set by tests, which make the release before of the same files, and do not wait for its compression.
const ANOTHER: &str = "PORTCULLIS_PACKAGE_VERSION";

/// The version that a package gets: the program's.
pub(crate) fn version(page: &Page) -> String {
    std::env::var(ANOTHER).unwrap_or_else(|_| page.version.to_string())
}

/// How much a package is compressed: this, or hardly.
pub(crate) fn level(usual: u8) -> u8 {
    if std::env::var_os(ANOTHER).is_some() { 1 } else { usual }
}

/// The date of the page in one of the forms of date(1).
///
/// # Errors
/// `date` is not there.
pub(crate) fn date(page: &Page, form: &str) -> Result<String> {
    let mut command = tool("date")?;
    let out = command.args(["-u", "-d", &format!("@{}", page.epoch), form]).env("LC_ALL", "C").output()?;
    ensure!(out.status.success(), "`date` does not understand {form}");
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// A file that everybody can read.
pub(crate) fn file(path: &str, mode: u32, content: Vec<u8>) -> Item {
    Item { path: path.to_string(), mode, group: "root", kind: Kind::Plain, content }
}

/// A file that nothing depends on.
pub(crate) fn document(path: &str, content: Vec<u8>) -> Item {
    Item { kind: Kind::Documentation, ..file(path, 0o644, content) }
}

/// A folder.
pub(crate) fn folder(path: &str, mode: u32, group: &'static str) -> Item {
    Item { path: path.to_string(), mode, group, kind: Kind::Folder, content: Vec::new() }
}

/// Writes them below a folder, which is emptied first. Owners are whoever runs this: the packers know better.
///
/// # Errors
/// The disk.
pub(crate) fn stage(items: &[Item], dir: &Path) -> Result<()> {
    let lay = || -> std::io::Result<()> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        let mut folders = std::fs::DirBuilder::new();
        folders.recursive(true).mode(0o755).create(dir)?;
        for item in items {
            let path = dir.join(&item.path);
            if let Some(above) = path.parent() {
                folders.create(above)?;
            }
            match item.kind {
                Kind::Folder => folders.create(&path)?,
                _ => std::fs::write(&path, &item.content)?,
            }
        }
        // Folders too, whatever the umask was.
        for item in items {
            for above in Path::new(&item.path).ancestors().skip(1) {
                std::fs::set_permissions(dir.join(above), std::fs::Permissions::from_mode(0o755))?;
            }
        }
        items
            .iter()
            .try_for_each(|i| std::fs::set_permissions(dir.join(&i.path), std::fs::Permissions::from_mode(i.mode)))
    };
    lay().with_context(|| format!("cannot lay out {}", dir.display()))
}
