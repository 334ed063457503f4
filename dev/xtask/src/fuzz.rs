//! `cargo xtask fuzz [TARGET…] [--seconds N]`. In: the targets of `fuzz/`. Out: a table of what each did, and the inputs
//! that broke one; exit 0 only if none did. The compiler is the stable one: what `cargo fuzz` asks a nightly for, the
//! coverage that libFuzzer follows, are options of LLVM that every compiler takes. Nothing is written into the tree but
//! `fuzz/Cargo.lock`, which git does not know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stage::peers::cache;

use crate::check::root;
use crate::step::cargo;

const USAGE: &str = "usage: cargo xtask fuzz [TARGET…] [--seconds N]";

/// Coverage counters and traced comparisons for libFuzzer, and the checks that a release build leaves out.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// How long a target runs if nothing is said.
const USUAL: Duration = Duration::from_secs(60);

/// Targets that run beside each other.
const BESIDE: usize = 2;

/// Bounds of one input: 8 KiB are several frames of every protocol; no reader needs ten seconds for that, nor memory
/// beyond what the fuzzer itself holds.
const BOUNDS: [&str; 3] = ["-max_len=8192", "-timeout=10", "-rss_limit_mb=1500"];

/// What one target did.
struct Done {
    target: String,
    executions: u64,
    found: usize,
    /// Inputs that broke it.
    broken: Vec<PathBuf>,
    /// The fuzzer ended well.
    ok: bool,
    log: PathBuf,
}

/// Builds the targets and runs each.
///
/// # Errors
/// A target is unknown, cannot be built, or was broken.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let all = targets()?;
    let (chosen, time) = options(args, &all)?;
    let programs = build(&chosen)?;
    let (waiting, done) = (Mutex::new(chosen), Mutex::new(vec![]));
    std::thread::scope(|s| {
        for _ in 0..BESIDE {
            s.spawn(|| {
                while let Some(target) = next(&waiting) {
                    println!("fuzz: {target} for {} s", time.as_secs());
                    let did = drive(&programs, &target, time);
                    locked(&done).push((target, did));
                }
            });
        }
    });
    table(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next(waiting: &Mutex<Vec<String>>) -> Option<String> {
    locked(waiting).pop()
}

fn targets() -> Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<String> =
        files.flatten().filter_map(|f| Some(f.path().file_stem()?.to_str()?.to_string())).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

fn options(args: &[String], all: &[String]) -> Result<(Vec<String>, Duration)> {
    let (mut chosen, mut time) = (vec![], USUAL);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let seconds = args.next().and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0);
            time = Duration::from_secs(seconds.with_context(|| format!("`--seconds` takes a number; {USAGE}"))?);
        } else if all.contains(arg) {
            chosen.push(arg.clone());
        } else {
            bail!("there is no target `{arg}`; there are {}; {USAGE}", all.join(", "));
        }
    }
    Ok((if chosen.is_empty() { all.to_vec() } else { chosen }, time))
}

/// Builds these targets and returns the directory that holds them.
fn build(chosen: &[String]) -> Result<PathBuf> {
    let (fuzz, target) = (root().join("fuzz"), cache().join("fuzz-target"));
    // The same versions as the program's own.
    std::fs::copy(root().join("Cargo.lock"), fuzz.join("Cargo.lock"))?;
    let triple = triple()?;
    // With a target named, build scripts and macros are built without these flags.
    let mut command = cargo(&["build", "--release", "--target", &triple]);
    command.args(chosen.iter().flat_map(|name| ["--bin", name]));
    command.current_dir(fuzz).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", RUSTFLAGS);
    if !command.status().context("cannot run cargo")?.success() {
        bail!("the targets cannot be built");
    }
    Ok(target.join(triple).join("release"))
}

/// What this machine is called by the compiler.
fn triple() -> Result<String> {
    let out = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into())).arg("-vV").output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_string).context("`rustc -vV` names no host")
}

/// Runs one target from the committed corpus and from what earlier runs found.
fn drive(programs: &Path, target: &str, time: Duration) -> Result<Done> {
    let place = cache().join("fuzz").join(target);
    let (corpus, broken, log) = (place.join("corpus"), place.join("broken"), place.join("log"));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&broken)?;
    let (knew, was_broken) = (files(&corpus).len(), files(&broken));
    let said = std::fs::File::create(&log)?;
    let mut command = Command::new(programs.join(target));
    command.args(BOUNDS).arg("-print_final_stats=1").arg(format!("-max_total_time={}", time.as_secs()));
    command.arg(format!("-artifact_prefix={}/", broken.display()));
    command.arg(&corpus).arg(root().join("fuzz/corpus").join(target));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).status()?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    Ok(Done {
        target: target.to_string(),
        executions: executions(&text),
        found: files(&corpus).len().saturating_sub(knew),
        broken: files(&broken).difference(&was_broken).cloned().collect(),
        ok: status.success(),
        log,
    })
}

/// `stat::number_of_executed_units: 123` of libFuzzer's closing lines.
fn executions(log: &str) -> u64 {
    let figure = log.lines().rev().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    figure.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|f| f.path()).collect()
}

fn table(mut done: Vec<(String, Result<Done>)>) -> Result<()> {
    done.sort_by(|a, b| a.0.cmp(&b.0));
    println!("\n{:<16} {:>12} {:>12} {:>8}", "target", "executions", "new entries", "crashes");
    let mut bad = 0;
    for (target, did) in &done {
        match did {
            Ok(d) => {
                let crashes = d.broken.len().max(usize::from(!d.ok));
                bad += usize::from(crashes > 0);
                println!("{:<16} {:>12} {:>12} {crashes:>8}", d.target, d.executions, d.found);
            }
            Err(e) => {
                bad += 1;
                println!("{target:<16} cannot run: {e:#}");
            }
        }
    }
    for d in done.iter().filter_map(|(_, did)| did.as_ref().ok()).filter(|d| !d.ok) {
        println!("\n{}: {}", d.target, d.log.display());
        d.broken.iter().for_each(|input| println!("  {}", input.display()));
    }
    if bad > 0 {
        bail!("{bad} of {} targets broke", done.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_read() {
        let all: Vec<String> = ["derp", "mux"].map(String::from).into();
        let read = |words: &[&str]| options(&words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>(), &all);
        assert_eq!(read(&[]).unwrap(), (all.clone(), USUAL));
        assert_eq!(read(&["mux", "--seconds", "5"]).unwrap(), (vec!["mux".to_string()], Duration::from_secs(5)));
        for bad in [&["tcp"][..], &["--seconds"], &["--seconds", "0"], &["--seconds", "x"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(executions("x\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec: 4\n"), 1234);
    }
}
