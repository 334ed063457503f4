//! `cargo xtask release`: everything that a release page needs. In: the commit that is checked out, its changelog,
//! flags. Out: a folder to publish as it is.
//!
//! Each step writes its files into the page's folder and knows no other step. What they write depends on the commit
//! alone: every date is [`Page::epoch`], every list is sorted, no path and no name of this machine gets in.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

mod archive;
mod binary;
mod charts;
mod contents;
mod deb;
mod image;
mod licences;
mod notes;
mod rpm;
mod sbom;
mod sign;
mod sums;
mod target;

use target::Target;

const USAGE: &str = "\
usage: cargo xtask release [--target TARGET]… [--bin PATH]… [--out DIR] [--only STEP,…] [--setup]
  --target TARGET  x86_64-unknown-linux-musl or aarch64-unknown-linux-musl; without one, both
  --bin PATH       a program that is built already, instead of building one; its file says for which machine it is
  --out DIR        where the page goes [target/release-page]
  --key FILE       a secret key of minisign, which signs the checksums
  --only STEP,…    some of the steps, and nothing on the page is removed
  --sources DIR    the checkout to release [this one]
  --quick          build with little optimisation: to try the page, not to publish it
  --setup          first installs what the steps need and this machine lacks";

/// A step: its name, what it makes, and how.
type Step = (&'static str, &'static str, fn(&Page) -> Result<()>);

/// In this order: what is made of other files comes behind them.
const STEPS: &[Step] = &[
    ("binary", "the static program with its manual page, completions and licences", binary::make),
    ("deb", "a package for Debian and its relatives, for each machine", deb::make),
    ("rpm", "a package for Fedora and its relatives, for each machine", rpm::make),
    ("charts", "the Helm chart; manifests and compose files", charts::make),
    ("image", "a container image for both machines, as one OCI archive", image::make),
    ("sbom", "the bill of materials, CycloneDX", sbom::make),
    ("notes", "what is new, from CHANGELOG.md", notes::make),
    ("sums", "SHA256SUMS of all of these", sums::make),
    ("sign", "their signature, if there is a key", sign::make),
];

/// What every step is given.
pub(crate) struct Page {
    /// The folder that is published.
    pub(crate) dir: PathBuf,
    /// The top of the sources.
    pub(crate) root: PathBuf,
    /// Of the workspace: `0.1.0`.
    pub(crate) version: &'static str,
    /// The time of the commit in seconds since 1970, or `SOURCE_DATE_EPOCH`: the only date there is.
    pub(crate) epoch: u64,
    /// The commit, twelve digits; empty outside of a repository.
    pub(crate) commit: String,
    /// What signs.
    pub(crate) key: Option<PathBuf>,
    /// One for each machine that is released for.
    pub(crate) programs: Vec<Program>,
}

/// A built `portcullis`.
pub(crate) struct Program {
    /// What it runs on.
    pub(crate) target: Target,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Page {
    /// Puts a file on the page.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("release: {}", path.display());
        Ok(())
    }

    /// The names of what is on the page so far, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let files = std::fs::read_dir(&self.dir).with_context(|| format!("cannot read {}", self.dir.display()))?;
        let mut names: Vec<String> =
            files.map(|f| Ok(f?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    /// An empty folder for what a step needs meanwhile; whoever asks removes it. It lies in the workspace, not where
    /// everybody may write: what is in it is run and signed.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn scratch(&self, step: &str) -> Result<PathBuf> {
        let work = self.root.join("target/release-work");
        let dir = work.join(format!("{step}-{}", std::process::id()));
        let make = || {
            std::fs::create_dir_all(&work)?;
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            // Not one that is there.
            std::fs::DirBuilder::new().mode(0o700).create(&dir)
        };
        make().with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(std::fs::canonicalize(dir)?)
    }

    /// What a program of this page prints, run on this machine: `portcullis man`, `portcullis completions bash`.
    ///
    /// # Errors
    /// None of them runs here, or it ends with an error.
    pub(crate) fn say(&self, args: &[&str]) -> Result<Vec<u8>> {
        let own = self.programs.iter().find(|p| p.target.is_here());
        let (program, mut command) = match (own, self.programs.first()) {
            (Some(p), _) => (p, Command::new(&p.path)),
            (None, Some(p)) => {
                let mut command = tool(p.target.emulator())?;
                command.arg(&p.path);
                (p, command)
            }
            (None, None) => bail!("there is no program on this page"),
        };
        let out = command.args(args).output().with_context(|| format!("cannot run {}", program.path.display()))?;
        let words = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "`portcullis {}` ended with {}: {words}", args.join(" "), out.status);
        Ok(out.stdout)
    }
}

/// Makes the page.
///
/// # Errors
/// Wrong arguments, a tool that is missing, and whatever a step says.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|a| a == "--help") {
        println!("{USAGE}\n\nsteps:\n{}", known());
        return Ok(());
    }
    let asked = Asked::of(args)?;
    if asked.setup {
        crate::setup::release()?;
    }
    let root = asked.sources.clone().map_or_else(|| Ok(crate::check::root()), std::fs::canonicalize)?;
    let steps: Vec<&Step> = STEPS.iter().filter(|(name, ..)| asked.wants(name)).collect();
    let dir = asked.folder(&root)?;
    let epoch = epoch(&root)?;
    let programs = match asked.bins.is_empty() {
        true => binary::build(&root, &asked.targets, asked.profile(), epoch)?,
        false => asked.bins.iter().map(|path| binary::given(path)).collect::<Result<_>>()?,
    };
    let commit = git(&root, &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let page = Page { dir, root, version: env!("CARGO_PKG_VERSION"), epoch, commit, key: asked.key, programs };
    for (name, _, make) in steps {
        make(&page).with_context(|| format!("the step `{name}` failed"))?;
    }
    Ok(())
}

/// The arguments.
#[derive(Default)]
struct Asked {
    targets: Vec<Target>,
    bins: Vec<PathBuf>,
    out: Option<PathBuf>,
    key: Option<PathBuf>,
    only: Option<Vec<String>>,
    sources: Option<PathBuf>,
    quick: bool,
    setup: bool,
}

impl Asked {
    fn of(args: &[String]) -> Result<Asked> {
        let (mut asked, mut args) = (Asked::default(), args.iter());
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` needs a value\n{USAGE}"));
            match arg.as_str() {
                "--target" => asked.targets.push(value()?.parse()?),
                "--bin" => asked.bins.push(value()?.into()),
                "--out" => asked.out = Some(value()?.into()),
                "--key" => asked.key = Some(value()?.into()),
                "--only" => asked.only = Some(value()?.split(',').map(ToString::to_string).collect()),
                "--sources" => asked.sources = Some(value()?.into()),
                "--quick" => asked.quick = true,
                "--setup" => asked.setup = true,
                other => bail!("unknown argument `{other}`\n{USAGE}\n\nsteps:\n{}", known()),
            }
        }
        for name in asked.only.iter().flatten() {
            ensure!(STEPS.iter().any(|(n, ..)| n == name), "there is no step `{name}`; there are\n{}", known());
        }
        ensure!(
            asked.bins.is_empty() || asked.targets.is_empty(),
            "`--bin` says what it runs on: leave `--target` out"
        );
        if asked.targets.is_empty() {
            asked.targets = Target::ALL.to_vec();
        }
        Ok(asked)
    }

    /// Of cargo: a section `[profile.…]` of the workspace.
    fn profile(&self) -> &'static str {
        if self.quick { "quick" } else { "release" }
    }

    fn wants(&self, step: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|o| o == step))
    }

    /// The page's folder. A whole page begins empty, or a file of an earlier one would be published with it.
    fn folder(&self, root: &Path) -> Result<PathBuf> {
        let own = root.join("target/release-page");
        let dir = self.out.clone().unwrap_or_else(|| own.clone());
        if self.only.is_none() {
            if self.out.is_none() && dir.exists() {
                std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
            }
            let empty = std::fs::read_dir(&dir).map_or(true, |mut files| files.next().is_none());
            ensure!(empty, "{} is not empty: name another folder, or remove it", dir.display());
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(std::fs::canonicalize(dir)?)
    }
}

fn known() -> String {
    STEPS.iter().map(|(name, what, _)| format!("  {name:<8} {what}")).collect::<Vec<_>>().join("\n")
}

/// When the commit was made (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn epoch(root: &Path) -> Result<u64> {
    if let Some(told) = std::env::var_os("SOURCE_DATE_EPOCH") {
        let seconds = told.to_str().and_then(|t| t.parse().ok());
        return seconds.with_context(|| format!("SOURCE_DATE_EPOCH is {told:?}, and should be seconds since 1970"));
    }
    let said = git(root, &["log", "-1", "--format=%ct"])?;
    said.parse().context("git names no time of the last commit; set SOURCE_DATE_EPOCH")
}

/// What git prints, in one line.
fn git(root: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("git").args(args).current_dir(root).output().context("cannot run git")?;
    ensure!(out.status.success(), "`git {}`: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// A program that a step needs.
///
/// # Errors
/// It is not installed; the error says how to install it.
pub(crate) fn tool(name: &str) -> Result<Command> {
    let path = stage::peers::find(name);
    path.map(Command::new)
        .with_context(|| format!("`{name}` is not installed; `cargo xtask release --setup` installs what is missing"))
}
