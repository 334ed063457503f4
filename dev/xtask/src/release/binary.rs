//! The program as a file. In: the sources and a target, or a program that is there. Out: a static program, and a
//! `.tar.gz` of it with its manual page, completions and licences.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::target::Target;
use super::{Page, Program};

/// Shells that completions are made for.
const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// A program that is built already.
///
/// # Errors
/// It is no program for a machine that is released for.
pub(super) fn given(path: &Path) -> Result<Program> {
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let target = Target::of_elf(&content).with_context(|| format!("{} cannot be released", path.display()))?;
    Ok(Program { target, path: std::fs::canonicalize(path)? })
}

/// Builds it.
///
/// # Errors
/// The compiler's words.
pub(super) fn build(_root: &Path, target: Target, _epoch: u64) -> Result<Program> {
    bail!("a build for {} is not made here yet: give one with `--bin PATH`", target.triple())
}

/// One archive for each program.
///
/// # Errors
/// A file is missing.
pub(super) fn make(page: &Page) -> Result<()> {
    let man = page.say(&["man"])?;
    for program in &page.programs {
        let name = format!("portcullis-{}-linux-{}", page.version, program.target.machine());
        let mut archive = Archive::new(page.epoch);
        archive.file(&format!("{name}/portcullis"), 0o755, std::fs::read(&program.path)?);
        archive.file(&format!("{name}/portcullis.1"), 0o644, man.clone());
        for shell in SHELLS {
            let script = page.say(&["completions", shell])?;
            archive.file(&format!("{name}/completions/portcullis.{shell}"), 0o644, script);
        }
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            archive.file(&format!("{name}/{licence}"), 0o644, std::fs::read(page.root.join(licence))?);
        }
        page.write(&format!("{name}.tar.gz"), archive.tar_gz()?)?;
    }
    Ok(())
}
