//! The RPM package. In: a page, `deploy/rpm`. Out: one `.rpm` for each program, by `rpmbuild`, the same bytes at each run.

use anyhow::{Context, Result, ensure};

use super::contents::{self, Item, Kind, MAINTAINER, Places, document, folder};
use super::{Page, Program, tool};

/// One package for each program.
///
/// # Errors
/// `rpmbuild` is not there or fails, or a file is missing.
pub(super) fn make(page: &Page) -> Result<()> {
    page.programs.iter().try_for_each(|program| package(page, program))
}

fn package(page: &Page, program: &Program) -> Result<()> {
    let places =
        Places { zsh: "usr/share/zsh/site-functions/_portcullis", licences: Some("usr/share/licenses/portcullis") };
    let mut items = contents::of(page, program, &places)?;
    let changes = std::fs::read(page.root.join("CHANGELOG.md"))?;
    items.push(document("usr/share/doc/portcullis/CHANGELOG.md", changes));
    // What no package claims stays when the files in it are gone. Some are other packages' too.
    for dir in [
        "doc/portcullis",
        "doc/portcullis/examples",
        "licenses",
        "licenses/portcullis",
        "portcullis",
        "fish",
        "fish/vendor_completions.d",
        "zsh/site-functions",
    ] {
        items.push(folder(&format!("usr/share/{dir}"), 0o755, "root"));
    }
    let version = contents::version(page);
    let work = page.scratch("rpm")?;
    let stage = work.join("stage");
    contents::stage(&items, &stage)?;
    let spec = std::fs::read_to_string(page.root.join("deploy/rpm/portcullis.spec"))?
        .replace("{version}", &version)
        .replace("{level}", &contents::level(19).to_string())
        .replace("{maintainer}", MAINTAINER)
        .replace("{date}", &contents::date(page, "+%a %b %d %Y")?)
        .replace("{stage}", &stage.display().to_string())
        .replace("{files}", &items.iter().map(line).collect::<String>());
    std::fs::write(work.join("portcullis.spec"), spec)?;
    let machine = program.target.machine();
    let mut command = tool("rpmbuild")?;
    command.args(["-bb", "--quiet", "--target", machine, "--define"]);
    command.arg(format!("_topdir {}", work.display())).arg("--define").arg(format!("_rpmdir {}", work.display()));
    command.arg(work.join("portcullis.spec")).env("SOURCE_DATE_EPOCH", page.epoch.to_string()).env("LC_ALL", "C");
    let out = command.output().context("cannot run rpmbuild")?;
    ensure!(out.status.success(), "rpmbuild: {}", String::from_utf8_lossy(&out.stderr));
    let name = format!("portcullis-{version}-1.{machine}.rpm");
    page.write(&name, std::fs::read(work.join(machine).join(&name))?)?;
    Ok(std::fs::remove_dir_all(&work)?)
}

/// A line of `%files`.
fn line(item: &Item) -> String {
    let what = match item.kind {
        Kind::Plain => "",
        Kind::Settings => "%config(noreplace) ",
        Kind::Documentation if item.path.starts_with("usr/share/licenses/") => "%license ",
        Kind::Documentation => "%doc ",
        Kind::Folder => "%dir ",
    };
    format!("{what}%attr({:04o}, root, {}) /{}\n", item.mode, item.group, item.path)
}
