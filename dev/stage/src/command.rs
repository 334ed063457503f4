//! The built binary as a person or a script runs it. In: arguments. Out: exit code and words; commands to a server that
//! runs, by its data directory.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::process::Process;

/// How the variables begin that `portcullis` reads: what the developer's shell has of these is not the test's.
const READ: [&str; 13] = [
    "CHECK_DIRECT",
    "DEFAULT_SOURCE_RANGE",
    "DNS_",
    "DOCTOR_ACCEPT",
    "GRANT_",
    "LEARN_PRIVATE",
    "MAX_",
    "PORTCULLIS_",
    "PROBE_URLS",
    "REFUSE_",
    "SHARE_",
    "TRAEFIK_",
    "TRUSTED_",
];

/// The built `portcullis`: what cargo tells a test, else the one beside the program that runs.
///
/// # Panics
/// There is none: only tests and benchmarks of the package `portcullis` have one built for them.
#[must_use]
pub fn binary() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let told = std::env::var_os("CARGO_BIN_EXE_portcullis").map(PathBuf::from);
        let own = std::env::current_exe().unwrap();
        // Tests are in `deps/` below it.
        let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("portcullis"));
        let found = told.into_iter().chain(beside).find(|p| p.is_file());
        found.unwrap_or_else(|| panic!("no `portcullis` beside {}", own.display())).display().to_string()
    })
}

/// `portcullis ARGS…` without colors, standard input or any setting of the shell that runs the tests.
#[must_use]
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    plain(&mut command);
    command
}

/// Takes out of a command's environment what is not the test's; what the test sets afterwards stays.
pub fn plain(command: &mut Command) {
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let proxy = name.to_ascii_lowercase().ends_with("_proxy");
        if proxy || name == "TOKEN" || READ.iter().any(|begin| name.starts_with(begin)) {
            command.env_remove(name.as_ref());
        }
    }
}

/// How a command ended and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Runs a command to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Outcome {
        let done = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: done.status.code().unwrap_or(-1), out: text(&done.stdout), err: text(&done.stderr) }
    }

    /// Standard output, then standard error.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs `portcullis ARGS…`.
#[track_caller]
pub fn run(args: &[&str]) -> Outcome {
    Outcome::of(&mut command(args))
}

/// Runs `portcullis ARGS… --data-dir DATA`: a command to the server that keeps its state there, or to none.
#[track_caller]
pub fn run_at(data: &Path, args: &[&str]) -> Outcome {
    Outcome::of(command(args).arg("--data-dir").arg(data))
}

/// Whether a server with this data directory takes commands: it opens its socket there last.
#[must_use]
pub fn answers(data: &Path) -> bool {
    let accepts = |p: &Path| p.extension().is_some_and(|e| e == "sock") && UnixStream::connect(p).is_ok();
    std::fs::read_dir(data).is_ok_and(|mut files| files.any(|f| f.is_ok_and(|f| accepts(&f.path()))))
}

/// A server on a stage, which takes its administrator's commands.
pub trait Server {
    /// Its data directory.
    fn data(&self) -> &Path;

    /// Its process.
    fn process(&self) -> &Process;

    /// The same, to end it.
    fn process_mut(&mut self) -> &mut Process;

    /// Starts it again as it was, after killing what still runs, and waits until it is up.
    fn again(&mut self);

    /// A command to it: exit code, and everything that was printed.
    #[track_caller]
    fn command(&self, args: &[&str]) -> (i32, String) {
        let outcome = run_at(self.data(), args);
        (outcome.code, outcome.all())
    }

    /// The same; everything that was printed, as an error if it failed.
    ///
    /// # Errors
    /// It failed.
    #[track_caller]
    fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let (code, said) = self.command(args);
        if code == 0 { Ok(said) } else { Err(format!("{args:?}: exit status: {code}\n{said}")) }
    }

    /// The same, which must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("{e}\nthe server printed:\n{}", self.process().output()))
    }

    /// The same with `--json`, read.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let outcome = run_at(self.data(), &[args, &["--json"]].concat());
        assert_eq!(outcome.code, 0, "{args:?}: {}\nthe server printed:\n{}", outcome.all(), self.process().output());
        serde_json::from_str(&outcome.out).unwrap_or_else(|e| panic!("{args:?} gave no JSON: {e}\n{}", outcome.all()))
    }
}
