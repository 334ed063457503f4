//! Children. In: a command. Out: a process of its own group whose output is kept, which is killed with its owner, which
//! can be started again as it was, and whose last lines are shown when a test fails.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Pid;
pub use rustix::process::Signal;

/// Lines of output that are kept: enough to find a cause, bounded for chatty children.
const KEPT: usize = 20_000;

/// How long an ended child's streams are read for what it printed last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    recipe: Recipe,
    child: std::process::Child,
    output: Arc<Output>,
    exit: Option<ExitStatus>,
}

/// How a command was meant, to start it again: [`Command`] cannot be cloned.
#[derive(Debug)]
struct Recipe {
    program: OsString,
    args: Vec<OsString>,
    /// `None` is a variable that the child does not inherit.
    env: Vec<(OsString, Option<OsString>)>,
    cwd: Option<PathBuf>,
}

impl Recipe {
    fn of(command: &Command) -> Recipe {
        Recipe {
            program: command.get_program().to_owned(),
            args: command.get_args().map(OsStr::to_owned).collect(),
            env: command.get_envs().map(|(k, v)| (k.to_owned(), v.map(OsStr::to_owned))).collect(),
            cwd: command.get_current_dir().map(Path::to_path_buf),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    /// Streams that are not read to their end.
    open: AtomicUsize,
}

impl Process {
    /// Starts a command in a process group of its own, with no standard input.
    #[must_use]
    pub fn start(name: &str, mut command: Command) -> Process {
        use std::os::unix::process::CommandExt;
        more_files();
        let recipe = Recipe::of(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        let output = Arc::new(Output::default());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        if let Some(out) = out {
            collect(out, output.clone());
        }
        if let Some(err) = err {
            collect(err, output.clone());
        }
        Process { name: name.to_string(), recipe, child, output, exit: None }
    }

    /// Starts it again as it was started before, after killing what still runs. Its output begins anew.
    pub fn again(&mut self) {
        self.kill();
        *self = Process::start(&self.name.clone(), self.recipe.command());
    }

    /// The process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far, both streams, in the order of arrival.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lines.lock().unwrap().join("\n")
    }

    /// How many lines it printed so far, both streams.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.output.lines.lock().unwrap().len()
    }

    /// The first line so far that contains `what`.
    #[must_use]
    pub fn logged(&self, what: &str) -> Option<String> {
        self.output.lines.lock().unwrap().iter().find(|l| l.contains(what)).cloned()
    }

    /// The first line, printed already or later, for which `pick` gives something.
    ///
    /// # Errors
    /// Everything printed, when `limit` passes or the child ends first.
    pub fn line<T>(&mut self, limit: Duration, pick: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + limit;
        let mut seen = 0;
        loop {
            let ended = self.ended().is_some();
            let mut lines = self.output.lines.lock().unwrap();
            if let Some(found) = lines[seen..].iter().find_map(|l| pick(l)) {
                return Ok(found);
            }
            seen = lines.len();
            if ended || Instant::now() >= end {
                return Err(format!("{} did not print what was awaited; it printed:\n{}", self.name, lines.join("\n")));
            }
            (lines, _) = self.output.more.wait_timeout(lines, Duration::from_millis(50)).unwrap();
            drop(lines);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap();
            // What it printed last is still on its way; a child of its own may hold the stream open.
            let end = Instant::now() + LAST_WORDS;
            while self.exit.is_some() && self.output.open.load(Ordering::Acquire) > 0 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.exit
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Everything printed, when `limit` passes first.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        crate::eventually(limit, || self.ended().ok_or(()))
            .map_err(|()| format!("{} still runs after {limit:?}; it printed:\n{}", self.name, self.output()))
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        // Once it has been waited for, its number may be somebody else's.
        if self.exit.is_some() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Asks it to reload.
    pub fn hangup(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it as a power cut would, with everything it started, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal_group(Signal::KILL);
        self.exit = Some(self.child.wait().unwrap());
    }

    /// Asks it to end, and waits until it has; fails the test if it stays.
    pub fn stop(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            self.terminate();
        }
        self.wait(crate::START).unwrap_or_else(|e| panic!("{e}"))
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Bounds its address space, in bytes.
    pub fn limit_memory(&self, most: u64) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Pid::from_raw(self.pid() as i32), Resource::As, limit).unwrap();
    }

    /// Lets it open no descriptor with this number or above; `None` gives back what it had at most.
    pub fn limit_files(&self, most: Option<u64>) {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: most.or(maximum), maximum };
        prlimit(Pid::from_raw(self.pid() as i32), Resource::Nofile, limit).unwrap();
    }

    /// Resident memory of the process in KiB.
    #[must_use]
    pub fn rss_kib(&self) -> u64 {
        rss_kib(self.pid())
    }

    /// Fails the test with its output if it has ended.
    pub fn must_run(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}; it printed:\n{}", self.name, self.output());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it started may outlive it.
        self.signal_group(Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.output.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let from = lines.len().saturating_sub(60);
            eprintln!("---- the last lines of {}:\n{}\n----", self.name, lines[from..].join("\n"));
        }
    }
}

/// Resident memory of a process in KiB, from `/proc/PID/status`; 0 if it is gone.
#[must_use]
pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// User and system time of a process and its waited-for children, from `/proc/PID/stat` (proc(5), fields 14 to 17).
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces and brackets: fields are counted behind the last bracket, where field 3 begins.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(vec![], |(_, f)| f.split_whitespace().collect());
    let ticks: u64 = fields.get(11..15).map_or(0, |f| f.iter().filter_map(|t| t.parse::<u64>().ok()).sum());
    // USER_HZ is 100 on every Linux platform that this runs on (time(7)).
    Duration::from_millis(ticks * 10)
}

/// Floods need more files than a login shell gives; children inherit what this process has.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

fn collect(stream: impl Read + Send + 'static, output: Arc<Output>) {
    output.open.fetch_add(1, Ordering::AcqRel);
    let read = move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            line.clear();
            let mut lines = output.lines.lock().unwrap();
            if lines.len() < KEPT {
                lines.push(text);
            }
            output.more.notify_all();
        }
        output.open.fetch_sub(1, Ordering::AcqRel);
    };
    std::thread::Builder::new().name("output".to_string()).spawn(read).unwrap();
}
