//! `portcullis policy …`. In: files. Out: what is wrong with a policy and where, what each node would be told, whether
//! the policy keeps its promises, why something passes, what a change would change. Needs no network and no server.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::args::GlobalArgs;
use crate::fail::Fail;
use crate::mesh;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use decide::policy::{Change, Compiled, Policy, Problem, Question, Topology, diff, format};

/// Largest file that is read. The largest policies known are a few hundred KiB; a topology of 100,000 nodes is 30 MB.
const MAX_FILE: u64 = 64 << 20;

/// Problems shown at most; after that their number is.
const MAX_SHOWN: usize = 50;

/// Arguments of `portcullis policy`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum PolicyCommand {
    /// Say what is wrong with a policy, with line and column; silent when it is good.
    Check {
        /// The policy, HuJSON; `-` reads standard input.
        file: PathBuf,
        /// Users and nodes as JSON; with it the policy's own tests run too.
        #[arg(long, value_name = "FILE", env = "PORTCULLIS_TOPOLOGY")]
        topology: Option<PathBuf>,
    },
    /// Print what each node is told: packet filter, peers, routes, capabilities.
    Compile {
        #[command(flatten)]
        files: Files,
        /// Only this node.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the policy's tests and sshTests, one line each.
    Test {
        #[command(flatten)]
        files: Files,
    },
    /// Say which rule lets something through, or which came nearest.
    Explain {
        #[command(flatten)]
        files: Files,
        /// Who asks: a node, a user, a tag, a host or an address.
        #[arg(value_name = "SRC")]
        src: String,
        /// Where to: the same, or a prefix, with a port or without.
        #[arg(value_name = "DST[:PORT]")]
        dst: String,
        /// Protocol, by name or number [default: tcp, udp and icmp].
        #[arg(long, value_name = "PROTO")]
        proto: Option<String>,
    },
    /// Say who would gain and who would lose what.
    Diff {
        #[command(flatten)]
        files: Files,
        /// The policy that holds now.
        #[arg(long, value_name = "OLD")]
        against: PathBuf,
    },
    /// Print the policy that a running coordination server has in force.
    Get {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put a policy in force at a running coordination server, after its own tests; shows who gains and who loses what.
    Set {
        /// The policy, HuJSON; `-` reads standard input.
        file: PathBuf,
        /// Change nothing, only show.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lay a policy out; comments stay.
    Fmt {
        /// The policy, changed in place; `-` reads standard input and writes standard output.
        file: PathBuf,
        /// Change nothing; exit 1 if the layout is another.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Clone, Args)]
struct Files {
    /// The policy, HuJSON; `-` reads standard input.
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_POLICY")]
    policy: PathBuf,
    /// Users and nodes as JSON.
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TOPOLOGY")]
    topology: PathBuf,
}

/// Runs the command; what is wrong goes to standard error.
pub(crate) fn run(args: &PolicyArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let done = match &args.command {
        PolicyCommand::Check { file, topology } => check(file, topology.as_deref()),
        PolicyCommand::Compile { files, node, json } => compile(files, node.as_deref(), *json),
        PolicyCommand::Test { files } => test(files),
        PolicyCommand::Explain { files, src, dst, proto } => explain(files, src, dst, proto.as_deref()),
        PolicyCommand::Diff { files, against } => changes(files, against),
        PolicyCommand::Fmt { file, check } => lay_out(file, *check),
        PolicyCommand::Get { json } => return mesh::policy_get(*json, global),
        PolicyCommand::Set { file, dry_run, json } => return mesh::policy_set(file, *dry_run, *json, global),
    };
    Ok(match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    })
}

fn check(file: &Path, topology: Option<&Path>) -> Result<bool> {
    let Some(policy) = load_policy(file)? else { return Ok(false) };
    let Some(path) = topology else { return Ok(true) };
    let Some(topology) = load_topology(path)? else { return Ok(false) };
    Ok(keeps_promises(file, &Compiled::new(policy, topology)))
}

fn compile(files: &Files, node: Option<&str>, json: bool) -> Result<bool> {
    let Some((policy, topology)) = load(files)? else { return Ok(false) };
    let compiled = Compiled::new(policy, Arc::clone(&topology));
    if !keeps_promises(&files.policy, &compiled) {
        return Ok(false);
    }
    let only = match node {
        None => None,
        Some(name) => Some(topology.node(name).ok_or_else(|| no_node(name, &topology))?),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer_pretty(&mut out, &compiled.to_json(only))
            .map_err(std::io::Error::from)
            .or_else(quiet_pipe)?;
        return written(out.write_all(b"\n").and_then(|()| out.flush()));
    }
    let text: String = match only {
        Some(n) => compiled.for_node(n).iter().map(|v| compiled.describe(v)).collect(),
        None => compiled.for_all().map(|v| compiled.describe(&v)).collect(),
    };
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn no_node(name: &str, topology: &Topology) -> anyhow::Error {
    let names: Vec<&str> = topology.nodes.iter().map(|n| n.name.as_str()).take(10).collect();
    anyhow!(
        "there is no node `{name}` in the topology\nhint: its nodes are {}{}",
        names.join(", "),
        if topology.nodes.len() > 10 { ", …" } else { "" }
    )
}

fn test(files: &Files) -> Result<bool> {
    let Some((policy, topology)) = load(files)? else { return Ok(false) };
    let outcomes = Compiled::new(policy, topology).run_tests();
    let mut text = String::new();
    for o in &outcomes {
        let place = format!("{} {}", o.section, o.index + 1);
        match &o.failure {
            None => writeln!(text, "ok    {place}: {}", o.asserted)?,
            Some(why) => writeln!(text, "FAIL  {place} (line {}): {}: {why}", o.pos.line, o.asserted)?,
        }
    }
    let failed = outcomes.iter().filter(|o| !o.holds()).count();
    match outcomes.len() {
        0 => writeln!(text, "the policy has no tests")?,
        n => writeln!(text, "{} of {n} hold", n - failed)?,
    }
    say(&text)?;
    Ok(failed == 0)
}

fn explain(files: &Files, src: &str, dst: &str, proto: Option<&str>) -> Result<bool> {
    let Some((policy, topology)) = load(files)? else { return Ok(false) };
    let question = Question::read(src, dst, proto).map_err(|e| anyhow!(e))?;
    let answer = Compiled::new(policy, topology).explain(&question).map_err(|e| {
        anyhow!("{e}\nhint: SRC and DST are nodes of the topology, or names and addresses as policies write them")
    })?;
    let mut text = answer.lines.join("\n");
    text.push('\n');
    say(&text)
}

fn changes(files: &Files, against: &Path) -> Result<bool> {
    let Some((policy, topology)) = load(files)? else { return Ok(false) };
    let Some(old) = load_policy(against)? else { return Ok(false) };
    let new = Compiled::new(policy, Arc::clone(&topology));
    let changes = diff(&Compiled::new(old, Arc::clone(&topology)), &new);
    let everybody = topology.nodes.len();
    let mut text = String::new();
    for c in &changes {
        text += &in_words(c, everybody);
    }
    if changes.is_empty() {
        text += "nobody gains and nobody loses anything\n";
    } else {
        let gains = changes.iter().filter(|c| c.gained).count();
        writeln!(text, "{gains} gained, {} lost", changes.len() - gains)?;
    }
    say(&text)?;
    // A change that breaks the policy's own promises would not be saved.
    Ok(keeps_promises(&files.policy, &new))
}

fn in_words(c: &Change, everybody: usize) -> String {
    let sign = if c.gained { '+' } else { '-' };
    let who = match c.who.as_slice() {
        [one] if *one == c.at => return format!("{sign} {one}: {}\n", c.what.join("; ")),
        many if many.len() + 1 >= everybody && everybody > 3 => format!("every node ({})", many.len()),
        many => many.join(", "),
    };
    format!("{sign} {who} -> {}: {}\n", c.at, c.what.join("; "))
}

fn lay_out(file: &Path, check: bool) -> Result<bool> {
    let text = read(file)?;
    let laid_out = match format(&text) {
        Ok(t) => t,
        Err(p) => return refuse(file, &p),
    };
    if check {
        if laid_out != text {
            eprintln!(
                "error: {} has another layout\nhint: `portcullis policy fmt {}` changes it",
                file.display(),
                file.display()
            );
        }
        return Ok(laid_out == text);
    }
    if file == Path::new("-") {
        return say(&laid_out);
    }
    if laid_out != text {
        replace(file, &laid_out).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}

/// Writes beside the file and renames, so that there is never half a policy.
fn replace(file: &Path, text: &str) -> Result<()> {
    // A link stays a link: what it points to is replaced.
    let file = std::fs::canonicalize(file)?;
    let name = file.file_name().context("the path has no file name")?.to_string_lossy().into_owned();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let done = (|| -> Result<()> {
        let mut new = std::fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        new.set_permissions(std::fs::metadata(&file)?.permissions())?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&beside, &file)?;
        Ok(())
    })();
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done
}

fn load(files: &Files) -> Result<Option<(Arc<Policy>, Arc<Topology>)>> {
    if files.policy == Path::new("-") && files.topology == Path::new("-") {
        bail!("only one file can be standard input, and `-` stands for both\nhint: name one of them");
    }
    let policy = load_policy(&files.policy)?;
    let topology = load_topology(&files.topology)?;
    Ok(policy.zip(topology))
}

/// The policy, or `None` after its problems were shown.
fn load_policy(file: &Path) -> Result<Option<Arc<Policy>>> {
    match Policy::parse(&read(file)?) {
        Ok(p) => Ok(Some(Arc::new(p))),
        Err(problems) => refuse(file, &problems).map(|_| None),
    }
}

fn load_topology(file: &Path) -> Result<Option<Arc<Topology>>> {
    match Topology::read(&read(file)?) {
        Ok(t) => Ok(Some(Arc::new(t))),
        Err(problems) => refuse(file, &problems).map(|_| None),
    }
}

fn refuse(file: &Path, problems: &[Problem]) -> Result<bool> {
    let mut text = String::new();
    for p in problems.iter().take(MAX_SHOWN) {
        writeln!(text, "error: {}:{p}", file.display())?;
        if let Some(hint) = &p.hint {
            writeln!(text, "hint: {hint}")?;
        }
    }
    if problems.len() > MAX_SHOWN {
        writeln!(text, "error: and {} more", problems.len() - MAX_SHOWN)?;
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    Ok(false)
}

/// True if every test of the policy holds; those that do not are shown.
fn keeps_promises(file: &Path, compiled: &Compiled) -> bool {
    let failed: Vec<_> = compiled.run_tests().into_iter().filter(|o| !o.holds()).collect();
    for o in failed.iter().take(MAX_SHOWN) {
        let why = o.failure.as_deref().unwrap_or_default();
        eprintln!("error: {}:{}: {} {} fails: {}: {why}", file.display(), o.pos, o.section, o.index + 1, o.asserted);
    }
    if !failed.is_empty() {
        eprintln!(
            "hint: the policy's own tests must hold before it is used; `portcullis policy test` shows all of them"
        );
    }
    failed.is_empty()
}

/// Reads a whole file, `-` being standard input.
fn read(file: &Path) -> Result<String> {
    let name = file.display();
    let mut bytes = Vec::new();
    let limited = |r: &mut dyn Read, bytes: &mut Vec<u8>| r.take(MAX_FILE + 1).read_to_end(bytes);
    if file == Path::new("-") {
        limited(&mut std::io::stdin().lock(), &mut bytes).context("cannot read standard input")?;
    } else {
        let mut f = std::fs::File::open(file).with_context(|| format!("cannot read {name}"))?;
        limited(&mut f, &mut bytes).with_context(|| format!("cannot read {name}"))?;
    }
    if bytes.len() as u64 > MAX_FILE {
        bail!("{name} is larger than {} MiB; that is no policy and no topology", MAX_FILE >> 20);
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let good = String::from_utf8_lossy(e.as_bytes().get(..at).unwrap_or_default());
        let (line, column) =
            (good.matches('\n').count() + 1, good.chars().rev().take_while(|c| *c != '\n').count() + 1);
        let what = match e.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file is UTF-16, UTF-8 was expected".to_string(),
            bytes if bytes.iter().take(1024).any(|b| *b == 0) => "the file is no text".to_string(),
            _ => format!("byte {at} is not UTF-8"),
        };
        anyhow!("{name}:{line}:{column}: {what}\nhint: save the file as UTF-8")
    })
}

fn say(text: &str) -> Result<bool> {
    written(std::io::stdout().write_all(text.as_bytes()))
}

/// A reader that went away early is no failure.
fn written(done: std::io::Result<()>) -> Result<bool> {
    done.or_else(quiet_pipe).map(|()| true).context("cannot write the answer")
}

fn quiet_pipe(e: std::io::Error) -> std::io::Result<()> {
    if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) }
}
