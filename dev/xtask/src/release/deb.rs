//! The Debian package. In: a page, `deploy/debian`. Out: one `.deb` for each program, by `dpkg-deb`, the same bytes at each
//! run.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::archive::gzip;
use super::contents::{self, Item, Kind, MAINTAINER, Places, document, file};
use super::{Page, Program, tool};

/// The revision of the packaging, for one version of the program.
const REVISION: &str = "1";

/// One package for each program.
///
/// # Errors
/// `dpkg-deb` is not there or fails, or a file is missing.
pub(super) fn make(page: &Page) -> Result<()> {
    page.programs.iter().try_for_each(|program| package(page, program))
}

fn package(page: &Page, program: &Program) -> Result<()> {
    let places = Places { zsh: "usr/share/zsh/vendor-completions/_portcullis", licences: None };
    let mut items = contents::of(page, program, &places)?;
    let read = |name: &str| {
        let path = page.root.join("deploy/debian").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let version = format!("{}-{REVISION}", contents::version(page));
    let doc = "usr/share/doc/portcullis";
    items.push(document(&format!("{doc}/copyright"), read("copyright")?.into_bytes()));
    items.push(document(&format!("{doc}/changelog.Debian.gz"), gzip(changelog(page, &version)?.as_bytes())?));
    items.push(document(&format!("{doc}/changelog.gz"), gzip(&std::fs::read(page.root.join("CHANGELOG.md"))?)?));
    items.push(file("usr/share/lintian/overrides/portcullis", 0o644, read("lintian-overrides")?.into_bytes()));
    for item in &mut items {
        // The group is made when the package is configured, which gives it its files.
        item.group = "root";
    }
    let kib = items.iter().map(|i| i.content.len().div_ceil(1024).max(1)).sum::<usize>();
    let control = read("control")?
        .replace("{version}", &version)
        .replace("{arch}", program.target.deb())
        .replace("{maintainer}", MAINTAINER)
        .replace("{size}", &kib.to_string());
    let mut sums: Vec<&Item> = items.iter().filter(|i| matches!(i.kind, Kind::Plain | Kind::Documentation)).collect();
    sums.sort_by(|a, b| a.path.cmp(&b.path));
    let conffiles = items.iter().filter(|i| i.kind == Kind::Settings).map(|i| format!("/{}\n", i.path));
    let conffiles: String = conffiles.collect();

    let work = page.scratch("deb")?;
    let stage = work.join("stage");
    let mut whole: Vec<Item> = vec![
        file("DEBIAN/control", 0o644, control.into_bytes()),
        file("DEBIAN/conffiles", 0o644, conffiles.into_bytes()),
    ];
    for script in ["postinst", "prerm", "postrm"] {
        whole.push(file(&format!("DEBIAN/{script}"), 0o755, read(script)?.into_bytes()));
    }
    let md5 = md5sums(&sums)?;
    whole.push(file("DEBIAN/md5sums", 0o644, md5.into_bytes()));
    whole.extend(items);
    contents::stage(&whole, &stage)?;
    let name = format!("portcullis_{version}_{}.deb", program.target.deb());
    build(page, &stage, &page.dir.join(&name))?;
    std::fs::remove_dir_all(&work)?;
    println!("release: {}", page.dir.join(name).display());
    Ok(())
}

fn build(page: &Page, stage: &Path, to: &Path) -> Result<()> {
    // One thread: how xz divides its work among several shows in its output.
    let level = format!("-z{}", contents::level(6));
    let mut command = tool("dpkg-deb")?;
    command.args(["--root-owner-group", "--threads-max=1", "-Zxz", &level, "--build"]).arg(stage).arg(to);
    let out = command.env("SOURCE_DATE_EPOCH", page.epoch.to_string()).output().context("cannot run dpkg-deb")?;
    ensure!(out.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// In the form of deb-changelog(5): what changed is in the program's own changelog.
fn changelog(page: &Page, version: &str) -> Result<String> {
    let (what, date) = (contents::version(page), contents::date(page, "-R")?);
    Ok(format!(
        "portcullis ({version}) stable; urgency=medium\n\n  * Version {what}: see changelog.gz.\n\n -- {MAINTAINER}  {date}\n"
    ))
}

/// In the form of deb-md5sums(5): for finding damage, not for trust.
fn md5sums(items: &[&Item]) -> Result<String> {
    let mut out = String::new();
    for item in items {
        let mut command = tool("md5sum")?;
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("cannot run md5sum")?;
        if let Some(mut input) = child.stdin.take() {
            std::io::Write::write_all(&mut input, &item.content)?;
        }
        let said = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&said.stdout);
        let sum = said.split_whitespace().next().context("md5sum says nothing")?;
        out += &format!("{sum}  {}\n", item.path);
    }
    Ok(out)
}
