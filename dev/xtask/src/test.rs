//! `cargo xtask test [--setup [--releases]]`. In: the tree. Out: every check and every suite run, then one line each and
//! a count.

use anyhow::{Result, bail};

use crate::step::{Step, cargo, summary};

/// Runs every check and every suite.
///
/// # Errors
/// If anything failed, or the arguments are wrong.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut setup, mut releases) = (false, false);
    for arg in args {
        match arg.as_str() {
            "--setup" => setup = true,
            "--releases" => releases = true,
            other => bail!("unknown argument `{other}`; usage: cargo xtask test [--setup [--releases]]"),
        }
    }
    if releases && !setup {
        bail!("`--releases` installs what is missing, as `--setup` does; say both");
    }
    if setup {
        crate::setup::suites()?;
    }
    if releases {
        crate::setup::all_releases()?;
    }
    let mut steps = crate::check::steps(&crate::check::USUAL, setup);
    let skips = std::env::temp_dir().join(format!("portcullis-skipped-{}", std::process::id()));
    let _ = std::fs::remove_file(&skips);
    // One failing binary must not hide the others.
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.env(stage::skip::LOG, &skips);
    if setup {
        tests.env(stage::skip::REQUIRE, "1");
    }
    steps.push(Step::command("tests", &mut tests));
    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    let _ = std::fs::remove_file(&skips);
    summary(&steps, &skipped.lines().collect::<Vec<_>>())
}
