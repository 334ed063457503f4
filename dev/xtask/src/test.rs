//! `cargo xtask test [--setup [--releases]]`. In: the tree. Out: every suite run, then one line each and a count.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one step came to.
struct Step {
    name: &'static str,
    passed: u64,
    failed: u64,
    ignored: u64,
    ok: bool,
    took: Duration,
}

/// Runs every suite.
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
    let skips = std::env::temp_dir().join(format!("portcullis-skipped-{}", std::process::id()));
    let _ = std::fs::remove_file(&skips);
    let steps = [
        check(),
        cargo("clippy", &["clippy", "--quiet", "--workspace", "--all-targets"], setup, &skips),
        // One failing binary must not hide the others.
        cargo("tests", &["test", "--workspace", "--no-fail-fast"], setup, &skips),
    ];
    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    let _ = std::fs::remove_file(&skips);
    summary(&steps, &skipped.lines().collect::<Vec<_>>())
}

fn check() -> Step {
    println!("==== check");
    let start = Instant::now();
    let done = crate::check::run(&[]);
    if let Err(e) = &done {
        println!("error: {e:#}");
    }
    Step {
        name: "check",
        passed: done.is_ok().into(),
        failed: done.is_err().into(),
        ignored: 0,
        ok: done.is_ok(),
        took: start.elapsed(),
    }
}

/// One run of cargo; its output passes through while the closing lines of its test binaries are counted.
fn cargo(name: &'static str, args: &[&str], setup: bool, skips: &PathBuf) -> Step {
    println!("==== {name}: cargo {}", args.join(" "));
    let start = Instant::now();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(args).env(stage::skip::LOG, skips).stdin(Stdio::null()).stdout(Stdio::piped());
    if setup {
        command.env(stage::skip::REQUIRE, "1");
    }
    let mut step = Step { name, passed: 0, failed: 0, ignored: 0, ok: false, took: Duration::ZERO };
    match command.spawn() {
        Ok(mut child) => {
            if let Some(out) = child.stdout.take() {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    println!("{line}");
                    count(&line, &mut step);
                }
            }
            step.ok = child.wait().is_ok_and(|s| s.success());
        }
        Err(e) => println!("error: cannot run cargo: {e}"),
    }
    // A step without test binaries of its own counts as one; so does a step that failed outside its tests.
    match (step.ok, step.passed + step.failed) {
        (true, 0) => step.passed = 1,
        (false, _) if step.failed == 0 => step.failed = 1,
        _ => {}
    }
    step.took = start.elapsed();
    step
}

/// Adds the figures of `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn count(line: &str, step: &mut Step) {
    let Some(figures) = line.strip_prefix("test result: ") else { return };
    let mut words = figures.split([' ', ';']).filter(|w| !w.is_empty()).peekable();
    while let Some(word) = words.next() {
        if let (Ok(n), Some(what)) = (word.parse::<u64>(), words.peek()) {
            match *what {
                "passed" => step.passed += n,
                "failed" => step.failed += n,
                "ignored" => step.ignored += n,
                _ => {}
            }
        }
    }
}

fn summary(steps: &[Step], skipped: &[&str]) -> Result<()> {
    println!("\n==== summary");
    for why in skipped {
        println!("skipped: {why}");
    }
    for s in steps {
        let word = if s.ok { "ok" } else { "FAILED" };
        println!(
            "{:<8} {word:<7} {:>5} passed {:>3} failed {:>3} ignored  {:>4} s",
            s.name,
            s.passed,
            s.failed,
            s.ignored,
            s.took.as_secs()
        );
    }
    let sum = |f: fn(&Step) -> u64| steps.iter().map(f).sum::<u64>();
    let (failed, ignored) = (sum(|s| s.failed), sum(|s| s.ignored));
    // A skipped test returns early, so the harness counted it as passed.
    let passed = sum(|s| s.passed).saturating_sub(skipped.len() as u64);
    println!("\n{passed} passed, {failed} failed, {} skipped", skipped.len() as u64 + ignored);
    if failed > 0 || steps.iter().any(|s| !s.ok) {
        bail!("not everything passed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let mut s = Step { name: "x", passed: 0, failed: 0, ignored: 0, ok: true, took: Duration::ZERO };
        count("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s", &mut s);
        count(
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            &mut s,
        );
        count("9 passed by a line that is no result", &mut s);
        assert_eq!((s.passed, s.failed, s.ignored), (14, 5, 1));
    }
}
