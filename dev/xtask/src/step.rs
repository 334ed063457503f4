//! Steps of a run. In: commands of cargo and checks of our own. Out: their output as it comes, one line each at the end,
//! and a count.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one step came to.
pub(crate) struct Step {
    name: &'static str,
    passed: u64,
    failed: u64,
    ignored: u64,
    ok: bool,
    took: Duration,
}

impl Step {
    fn new(name: &'static str) -> Step {
        Step { name, passed: 0, failed: 0, ignored: 0, ok: false, took: Duration::ZERO }
    }

    /// A check of our own.
    pub(crate) fn check(name: &'static str, check: impl FnOnce() -> Result<()>) -> Step {
        println!("==== {name}");
        let start = Instant::now();
        let done = check();
        if let Err(e) = &done {
            println!("error: {e:#}");
        }
        let (passed, failed) = (done.is_ok().into(), done.is_err().into());
        Step { passed, failed, ok: done.is_ok(), took: start.elapsed(), ..Step::new(name) }
    }

    /// What cannot run here, or a failure where everything is required.
    pub(crate) fn skipped(name: &'static str, why: &str, required: bool) -> Step {
        println!("==== {name}\n{}: {why}", if required { "error" } else { "skipped" });
        Step { failed: required.into(), ignored: (!required).into(), ok: !required, ..Step::new(name) }
    }

    /// A command; its output passes through while the closing lines of test binaries are counted.
    pub(crate) fn command(name: &'static str, command: &mut Command) -> Step {
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        println!("==== {name}: {} {}", command.get_program().to_string_lossy(), words.join(" "));
        let start = Instant::now();
        let mut step = Step::new(name);
        match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
            Ok(mut child) => {
                if let Some(out) = child.stdout.take() {
                    for line in BufReader::new(out).lines().map_while(Result::ok) {
                        println!("{line}");
                        step.count(&line);
                    }
                }
                step.ok = child.wait().is_ok_and(|s| s.success());
            }
            Err(e) => println!("error: it cannot be run: {e}"),
        }
        // A step without test binaries counts as one; so does a step that failed outside its tests.
        match (step.ok, step.passed + step.failed) {
            (true, 0) => step.passed = 1,
            (false, _) if step.failed == 0 => step.failed = 1,
            _ => {}
        }
        step.took = start.elapsed();
        step
    }

    /// Adds the figures of `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn count(&mut self, line: &str) {
        let Some(figures) = line.strip_prefix("test result: ") else { return };
        let mut words = figures.split([' ', ';']).filter(|w| !w.is_empty()).peekable();
        while let Some(word) = words.next() {
            if let (Ok(n), Some(what)) = (word.parse::<u64>(), words.peek()) {
                match *what {
                    "passed" => self.passed += n,
                    "failed" => self.failed += n,
                    "ignored" => self.ignored += n,
                    _ => {}
                }
            }
        }
    }
}

/// The cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(args);
    command
}

/// Prints one line for each skipped test and for each step, and the count.
///
/// # Errors
/// Something failed.
pub(crate) fn summary(steps: &[Step], skipped: &[&str]) -> Result<()> {
    println!("\n==== summary");
    for why in skipped {
        println!("skipped: {why}");
    }
    for s in steps {
        let word = if s.ok { "ok" } else { "FAILED" };
        println!(
            "{:<10} {word:<7} {:>5} passed {:>3} failed {:>3} skipped  {:>4} s",
            s.name,
            s.passed,
            s.failed,
            s.ignored,
            s.took.as_secs()
        );
    }
    let sum = |f: fn(&Step) -> u64| steps.iter().map(f).sum::<u64>();
    let (failed, ignored) = (sum(|s| s.failed), sum(|s| s.ignored));
    // A test that found its peer missing returns early, so the harness counted it as passed.
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
        let mut s = Step::new("x");
        s.count("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        s.count("test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        s.count("9 passed by a line that is no result");
        assert_eq!((s.passed, s.failed, s.ignored), (14, 5, 1));
    }
}
