//! What clusters and container engines are given: the chart as Helm packs it, and manifests and compose files in one
//! archive. In: `deploy/`. Out: `portcullis-VERSION.tgz` and `portcullis-VERSION-deploy.tar.gz`.

use std::path::Path;

use anyhow::{Context, Result};

use super::Page;
use super::archive::Archive;

pub(super) fn make(page: &Page) -> Result<()> {
    let mut chart = Archive::new(page.epoch);
    // Values of our own tests are no part of it, as `.helmignore` says to Helm.
    add(&mut chart, &page.root.join("deploy/helm/portcullis"), "portcullis", &["ci"])?;
    page.write(&format!("portcullis-{}.tgz", page.version), chart.tar_gz()?)?;
    let top = format!("portcullis-{}-deploy", page.version);
    let mut files = Archive::new(page.epoch);
    for folder in ["kubernetes", "compose"] {
        add(&mut files, &page.root.join("deploy").join(folder), &format!("{top}/{folder}"), &[])?;
    }
    page.write(&format!("{top}.tar.gz"), files.tar_gz()?)
}

/// The files of a folder with what is below it; folders of these names at its top are left out, and so is an `.env` that
/// somebody filled in.
fn add(archive: &mut Archive, from: &Path, to: &str, without: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let place = format!("{to}/{name}");
        if entry.file_type()?.is_dir() {
            if !without.contains(&name.as_str()) {
                add(archive, &entry.path(), &place, &[])?;
            }
        } else if name != ".env" {
            archive.file(&place, 0o644, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}
