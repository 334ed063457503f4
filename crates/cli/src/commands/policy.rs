//! `portcullis policy …`. In: files, or what a running coordination server has. Out: what is wrong with a policy and
//! where, what each node would be told, whether the policy keeps its promises, why something passes, what a change would
//! change. With files it needs no network and no server.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::admin_client;
use crate::args::GlobalArgs;
use crate::args::policy::{Files, PolicyArgs, PolicyCommand};
use crate::fail::{Exit, Fail};
use crate::say::{self, plain};
use addr::Diagnostic;
use anyhow::{Context, Result, anyhow, bail};
use api::control::{PolicyGet, PolicySet, PolicyTopology};
use policy::{Change, Compiled, Diff, Policy, Problem, Question, Topology, Verdict, diff, format};

/// Largest file that is read. The largest policies known are a few hundred KiB; a topology of 100,000 nodes is 30 MB.
const MAX_FILE: u64 = 64 << 20;

/// Problems shown at most; after that their number is.
const MAX_SHOWN: usize = 50;

/// Changes shown at most; after that their number is.
const MAX_CHANGES: usize = 200;

/// A policy and who exists.
struct Network {
    policy: Arc<Policy>,
    topology: Arc<Topology>,
    /// Where the policy comes from, for messages.
    name: String,
}

/// What a command gives: true is success, false a failure that was told already.
type Outcome = Result<bool, Fail>;

/// Runs the command; what is wrong goes to standard error.
pub(crate) fn run(args: &PolicyArgs, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let done = match &args.command {
        PolicyCommand::Check { file, topology, running, strict } => {
            check(file, topology.as_deref(), *running, *strict, global)
        }
        PolicyCommand::Compile { files, node, json } => compile(files, node.as_deref(), *json, global),
        PolicyCommand::Test { files, strict } => test(files, *strict, global),
        PolicyCommand::Explain { files, src, dst, proto } => {
            return explain(files, src, dst, proto.as_deref(), global);
        }
        PolicyCommand::Diff { files, against } => changes(files, against.as_deref(), global),
        PolicyCommand::Topology => print_topology(global),
        PolicyCommand::Fmt { file, check } => lay_out(file, *check).map_err(Fail::from),
        PolicyCommand::Get { json } => return get(*json, global),
        PolicyCommand::Set { file, dry_run, strict, json } => return set(file, *dry_run, *strict, *json, global),
    };
    done.map(|good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(file: &Path, topology: Option<&Path>, running: bool, strict: bool, global: &GlobalArgs) -> Outcome {
    let text = read(file)?;
    let name = file.display().to_string();
    let Some(policy) = parsed(&name, &text) else { return Ok(false) };
    let topology = match (topology, running) {
        (Some(path), _) => load_topology(path)?,
        (None, true) => Some(network_under(Some(&text), global)?.1),
        (None, false) => {
            notes(&name, &policy.notes());
            return Ok(true);
        }
    };
    let Some(topology) = topology else { return Ok(false) };
    let compiled = Compiled::new(policy, topology);
    notes(&name, &compiled.notes());
    Ok(keeps_promises(&name, &compiled, strict))
}

/// What is allowed and probably not meant.
fn notes(name: &str, notes: &[Problem]) {
    for n in notes.iter().take(MAX_SHOWN) {
        eprintln!("note: {}", plain(&format!("{name}:{n}")));
    }
    if notes.len() > MAX_SHOWN {
        eprintln!("note: and {} more", notes.len() - MAX_SHOWN);
    }
}

fn compile(files: &Files, node: Option<&str>, json: bool, global: &GlobalArgs) -> Outcome {
    let Some(Network { policy, topology, name }) = load(files, global)? else { return Ok(false) };
    let compiled = Compiled::new(policy, Arc::clone(&topology));
    if !keeps_promises(&name, &compiled, false) {
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
            .or_else(quiet_pipe)
            .context("cannot write the answer")?;
        return Ok(written(out.write_all(b"\n").and_then(|()| out.flush()))?);
    }
    let text: String = match only {
        Some(n) => compiled.for_node(n).iter().map(|v| compiled.describe(v)).collect(),
        None => compiled.for_all().map(|v| compiled.describe(&v)).collect(),
    };
    let text: String = text.lines().flat_map(|l| [plain(l), "\n".into()]).collect();
    Ok(written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?)
}

fn no_node(name: &str, topology: &Topology) -> anyhow::Error {
    let names: Vec<&str> = topology.nodes.iter().map(|n| n.name.as_str()).take(10).collect();
    let more = if topology.nodes.len() > 10 { ", …" } else { "" };
    let hint = format!("its nodes are {}{more}", names.join(", "));
    Diagnostic::new(format!("there is no node `{name}` in the topology"), hint).into()
}

fn test(files: &Files, strict: bool, global: &GlobalArgs) -> Outcome {
    let Some(Network { policy, topology, .. }) = load(files, global)? else { return Ok(false) };
    let outcomes = Compiled::new(policy, topology).run_tests();
    let mut text = String::new();
    for o in &outcomes {
        let place = format!("{} {}", o.section, o.index + 1);
        let line = match &o.verdict {
            Verdict::Holds => format!("ok    {place}: {}", o.asserted),
            Verdict::Fails(why) => format!("FAIL  {place} (line {}): {}: {why}", o.pos.line, o.asserted),
            Verdict::Unknown(why) => format!("?     {place} (line {}): {}: {why}", o.pos.line, o.asserted),
        };
        text += &plain(&line);
        text.push('\n');
    }
    let count = |f: &dyn Fn(&Verdict) -> bool| outcomes.iter().filter(|o| f(&o.verdict)).count();
    let unknown = count(&|v| matches!(v, Verdict::Unknown(_)));
    match (outcomes.len(), count(&|v| *v == Verdict::Holds)) {
        (0, _) => text += "the policy has no tests\n",
        (n, holds) if unknown == 0 => text += &format!("{holds} of {n} hold\n"),
        (n, holds) => {
            text += &format!("{holds} of {n} hold, {unknown} speak of somebody who is not here yet\n");
        }
    }
    say(&text)?;
    Ok(outcomes.iter().all(|o| o.failure(strict).is_none()))
}

fn explain(files: &Files, src: &str, dst: &str, proto: Option<&str>, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let Some(Network { policy, topology, .. }) = load(files, global)? else { return Ok(ExitCode::FAILURE) };
    let question = Question::read(src, dst, proto).map_err(|e| anyhow!(e))?;
    let answer = Compiled::new(policy, topology).explain(&question).map_err(|e| {
        Fail::hinted(e, "SRC and DST are nodes of the network, or names and addresses as policies write them")
    })?;
    let mut text = answer.lines.iter().map(|l| plain(l)).collect::<Vec<_>>().join("\n");
    text.push('\n');
    say(&text)?;
    Ok(Exit::of(answer.allowed))
}

fn changes(files: &Files, against: Option<&Path>, global: &GlobalArgs) -> Outcome {
    if files.policy.is_none() {
        let hint = "name the new policy with `--policy NEW`";
        return Err(Fail::usage("there is nothing to compare with the policy in force", hint));
    }
    let (old, new) = match (&files.topology, against) {
        (Some(_), None) => {
            let hint = "name the old policy with `--against OLD`, or leave `--topology` out to ask the running server";
            return Err(Fail::usage("with `--topology` no server is asked for the policy that holds now", hint));
        }
        (_, None) => (load(&Files { policy: None, topology: None }, global)?, load(files, global)?),
        (topology, Some(old)) => {
            let old = Files { policy: Some(old.to_path_buf()), topology: topology.clone() };
            let new = load(files, global)?;
            (if new.is_some() { load(&old, global)? } else { None }, new)
        }
    };
    let (Some(old), Some(new)) = (old, new) else { return Ok(false) };
    let compiled = Compiled::new(new.policy, new.topology);
    let old = Compiled::new(old.policy, old.topology);
    if old.topology().nodes.len() != compiled.topology().nodes.len() {
        return Err(Fail::hinted("a node came or went while the server was asked", "ask again"));
    }
    let Diff { changes, more, partial } = diff(&old, &compiled);
    let lines: Vec<Line> = changes.iter().map(Line::from).collect();
    say(&in_words(&lines, more, partial))?;
    // A change that breaks the policy's own promises would not be saved.
    Ok(keeps_promises(&new.name, &compiled, false))
}

/// A change as it is shown.
struct Line {
    gained: bool,
    who: Vec<String>,
    at: Vec<String>,
    what: Vec<String>,
}

impl From<&Change> for Line {
    fn from(c: &Change) -> Line {
        Line { gained: c.gained, who: c.who.clone(), at: c.at.clone(), what: c.what.clone() }
    }
}

impl From<api::control::Change> for Line {
    fn from(c: api::control::Change) -> Line {
        Line { gained: c.gained, who: c.who, at: c.at, what: c.what }
    }
}

/// Longer words are cut: the values of some attributes fill a screen.
const WORD: usize = 80;

/// Changes as a person reads them, with their number.
fn in_words(lines: &[Line], more: usize, partial: bool) -> String {
    let cut = |w: &String| match w.chars().count() > WORD {
        true => w.chars().take(WORD).chain(['…']).collect(),
        false => w.clone(),
    };
    let mut text = String::new();
    for l in lines.iter().take(MAX_CHANGES) {
        let (sign, who, what) = (if l.gained { '+' } else { '-' }, l.who.join(", "), l.what.iter().map(cut));
        let what = what.collect::<Vec<_>>().join("; ");
        let line = match l.at.is_empty() {
            true => format!("{sign} {who}: {what}"),
            false => format!("{sign} {who} -> {}: {what}", l.at.join(", ")),
        };
        text += &plain(&line);
        text.push('\n');
    }
    let more = more + lines.len().saturating_sub(MAX_CHANGES);
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    if partial {
        text += "the rest was not compared: too much would change\n";
    }
    if lines.is_empty() && !partial {
        return text + "nobody gains and nobody loses anything\n";
    }
    let gains = lines.iter().filter(|l| l.gained).count();
    text + &format!("{gains} gained, {} lost\n", lines.len() - gains)
}

/// `policy set`: shows who gains and who loses what.
fn set(file: &Path, dry_run: bool, strict: bool, json: bool, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let text = read(file)?;
    let done = admin_client::control(global, PolicySet { policy: text, dry_run, strict })?;
    if json {
        crate::say::json(&done)?;
        return Ok(ExitCode::SUCCESS);
    }
    for note in &done.notes {
        eprintln!("note: {}", plain(&format!("{}:{note}", file.display())));
    }
    for unknown in &done.unknown {
        eprintln!("note: nobody can say yet: {}", plain(unknown));
    }
    let lines: Vec<Line> = done.changes.into_iter().map(Line::from).collect();
    let mut words = in_words(&lines, done.more, done.partial);
    words += &match (dry_run, done.until_start_from) {
        (true, _) => "nothing was changed\n".to_string(),
        (false, None) => "in force\n".to_string(),
        (false, Some(file)) => format!("in force until the server starts again or reloads, which reads {file}\n"),
    };
    say(&words)?;
    Ok(ExitCode::SUCCESS)
}

fn print_topology(global: &GlobalArgs) -> Outcome {
    let answer = admin_client::control(global, PolicyTopology::default())?;
    let text = serde_json::to_string_pretty(&answer.topology).context("cannot print the answer")?;
    Ok(say(&(text + "\n"))?)
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

/// What the flags name; what they leave out, the running server is asked for.
fn load(files: &Files, global: &GlobalArgs) -> Result<Option<Network>, Fail> {
    let stdin = |p: &Option<PathBuf>| p.as_deref() == Some(Path::new("-"));
    if stdin(&files.policy) && stdin(&files.topology) {
        return Err(Fail::hinted("only one file can be standard input, and `-` stands for both", "name one of them"));
    }
    let Some(file) = &files.policy else {
        let (text, topology) = network_under(None, global)?;
        let name = "the policy in force".to_string();
        // It is in force, whatever this version thinks of it.
        let (policy, _) = Policy::parse_in_force(&text).map_err(|p| in_force_unread(&p))?;
        return Ok(Some(Network { policy: Arc::new(policy), topology, name }));
    };
    let (name, text) = (file.display().to_string(), read(file)?);
    let Some(policy) = parsed(&name, &text) else { return Ok(None) };
    let topology = match &files.topology {
        Some(path) => load_topology(path)?,
        None => Some(network_under(Some(&text), global)?.1),
    };
    Ok(topology.map(|topology| Network { policy, topology, name }))
}

fn in_force_unread(problems: &[Problem]) -> Fail {
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    Fail::hinted(
        format!("the policy in force cannot be read: {first}"),
        "use the `portcullis` of the version that the server runs",
    )
}

/// The policy in force at the running server, and who exists there, under another policy if one is given.
fn network_under(policy: Option<&str>, global: &GlobalArgs) -> Result<(String, Arc<Topology>), Fail> {
    let answer = admin_client::control(global, PolicyTopology { policy: policy.map(str::to_string) })
        .map_err(|f| f.or_hint("name files with `--policy FILE --topology FILE` to need no server"))?;
    let topology = Topology::read(&answer.topology.to_string()).map_err(|p| in_force_unread(&p))?;
    Ok((answer.policy, Arc::new(topology)))
}

/// The policy, or `None` after its problems were shown.
fn parsed(name: &str, text: &str) -> Option<Arc<Policy>> {
    Policy::parse(text).map(Arc::new).map_err(|problems| refuse(Path::new(name), &problems)).ok()
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
        writeln!(text, "error: {}", plain(&format!("{}:{p}", file.display())))?;
        if let Some(hint) = &p.hint {
            writeln!(text, "hint: {}", plain(hint))?;
        }
    }
    if problems.len() > MAX_SHOWN {
        writeln!(text, "error: and {} more", problems.len() - MAX_SHOWN)?;
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    Ok(false)
}

/// True if no test of the policy fails; those that do are shown, and those of which nobody can say.
fn keeps_promises(name: &str, compiled: &Compiled, strict: bool) -> bool {
    let (mut failed, mut unknown) = (0, 0);
    for o in compiled.run_tests() {
        let line = |why: &str| format!("{name}:{}: {} {}", o.pos, o.section, o.index + 1) + &format!(" {why}");
        match (o.failure(strict), &o.verdict) {
            (Some(why), _) => {
                failed += 1;
                if failed <= MAX_SHOWN {
                    eprintln!("error: {}", plain(&line(&format!("fails: {}: {why}", o.asserted))));
                }
            }
            (None, Verdict::Unknown(why)) => {
                unknown += 1;
                if unknown <= MAX_SHOWN {
                    eprintln!("note: {}", plain(&line(&format!("cannot be said yet: {}: {why}", o.asserted))));
                }
            }
            _ => {}
        }
    }
    if failed > 0 {
        eprintln!(
            "hint: the policy's own tests must hold before it is used; `portcullis policy test` shows all of them"
        );
    }
    failed == 0
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
        Diagnostic::new(format!("{name}:{line}:{column}: {what}"), "save the file as UTF-8").into()
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

/// `policy get`.
fn get(json: bool, global: &GlobalArgs) -> Result<ExitCode, Fail> {
    let got = admin_client::control(global, PolicyGet {})?;
    if json {
        say::json(&got)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(text) = &got.policy else {
        return Err(Fail::hinted(
            "there is no policy: every node reaches every other one",
            "`portcullis policy set FILE` puts one in force",
        ));
    };
    say::raw(text);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines_and_no_more_than_a_person_reads() {
        let line = |gained: bool, who: &str, at: &[&str], what: &str| Line {
            gained,
            who: vec![who.to_string()],
            at: at.iter().map(|a| (*a).to_string()).collect(),
            what: vec![what.to_string()],
        };
        let lines = [line(false, "a", &["b", "10.0.0.0/8 behind r"], "tcp:22"), line(true, "a", &[], &"x".repeat(300))];
        let want = format!("- a -> b, 10.0.0.0/8 behind r: tcp:22\n+ a: {}…\n1 gained, 1 lost\n", "x".repeat(WORD));
        assert_eq!(in_words(&lines, 0, false), want);
        let many: Vec<Line> = (0..MAX_CHANGES + 5).map(|n| line(true, &n.to_string(), &["b"], "tcp:22")).collect();
        let text = in_words(&many, 7, true);
        assert_eq!(text.lines().count(), MAX_CHANGES + 3);
        assert!(text.contains("\nand 12 more\nthe rest was not compared"), "{text}");
        assert_eq!(in_words(&[], 0, false), "nobody gains and nobody loses anything\n");
    }
}
