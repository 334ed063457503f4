//! `portcullis doctor`. In: which processes run from the data directory, the configuration file, a client's flags. Out:
//! what is wrong, each with the line that mends it; exit 1 if something is an error, 0 if there are warnings only.

mod client;
mod stopped;

pub(crate) use client::plane;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api::{Finding, Findings, Severity};
use runtime::api::{Component, Found, look};

use crate::args::{DoctorArgs, Given, GlobalArgs};
use crate::fail::{Exit, Fail};
use crate::say::word;
use crate::{admin_client, init, resolve, say};

/// Runs the command.
pub(crate) fn run(a: &DoctorArgs, global: &GlobalArgs, given: &Given) -> Result<ExitCode, Fail> {
    let asks_client = a.trust.connect.is_some() || a.trust.url.is_some();
    let (mut all, mut looked) = (Findings::default(), false);
    if asks_client {
        all.found.extend(client::of_flags(a, given)?);
        looked = true;
    }
    // Who names an edge to connect to means the client, unless something else is named too.
    if !asks_client || a.config.is_some() || global.data_dir.is_some() {
        looked |= processes(a, global, given, &mut all)?;
    }
    if let Some(file) = client::default_file().filter(|_| !asks_client) {
        all.found.extend(client::of_file(&file)?);
        looked = true;
    }
    if !looked {
        let dir = resolve::data_dir(global.data_dir.clone())?;
        return Err(Fail::hinted(
            format!("nothing of Portcullis runs from {}", dir.display()),
            "start something (`portcullis init` sets it up), name its data directory with `--data-dir DIR` or its file with `--config FILE`; a client is asked about with the flags that it is started with: `--connect …`",
        ));
    }
    all.found.sort_by_key(|f| f.severity);
    print(a, &all)?;
    Ok(if all.failed() { Exit::Failure.into() } else { ExitCode::SUCCESS })
}

/// Asks everything that runs, and looks at the file. False: there is neither.
fn processes(a: &DoctorArgs, global: &GlobalArgs, given: &Given, all: &mut Findings) -> Result<bool, Fail> {
    // Whoever names a data directory means what runs there, not what this machine's service has for a file.
    let file = match (&a.config, &global.data_dir) {
        (None, Some(_)) => Ok(None),
        (told, _) => resolve::load_config(told.as_deref()),
    };
    let says = |read: &resolve::file::Read| {
        let text = std::fs::read_to_string(&read.path).unwrap_or_default();
        a.config.is_some() || !init::write::says_nothing(&text)
    };
    let file = file.map(|read| read.filter(says));
    let file = file.map_err(|e| e.or_hint("mend the file: nothing starts from it"));
    let data_dir =
        file.as_ref().ok().and_then(Option::as_ref).and_then(|r| Some(r.dir().join(r.edge.data_dir.as_ref()?)));
    let dirs = match global.data_dir.clone().or(data_dir) {
        Some(dir) => vec![dir],
        None => default_dirs()?,
    };
    let sockets = dirs.iter().map(|d| sockets(d)).collect::<Result<Vec<_>, Fail>>()?.concat();
    for socket in &sockets {
        let answer = match admin_client::at(socket, api::Doctor {}) {
            // A gate of an earlier version knows its own doctor only.
            Err(e) if e.code() == Some(api::Code::UnknownVerb) => admin_client::at(socket, api::gate::Doctor {}),
            other => other,
        }?;
        all.found.extend(answer.found);
        all.accept = all.accept.take().or(answer.accept);
    }
    let there = match file {
        Ok(None) => false,
        Ok(Some(file)) => {
            all.found.extend(stopped::file(&file, global, given, sockets.is_empty()));
            true
        }
        Err(e) => {
            all.found.push(stopped::unreadable(&e));
            true
        }
    };
    Ok(there || !sockets.is_empty())
}

/// Where services of this machine keep their state: units have a folder each.
fn default_dirs() -> Result<Vec<PathBuf>, Fail> {
    let first = resolve::data_dir(None)?;
    let mut dirs = vec![first.clone()];
    let of_units = first.parent().filter(|_| runtime::run::is_root()).and_then(|p| std::fs::read_dir(p).ok());
    for entry in of_units.into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("portcullis-") {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// The sockets of a data directory at which a component listens, each process once.
fn sockets(dir: &Path) -> Result<Vec<PathBuf>, Fail> {
    let mut found = BTreeSet::new();
    for component in [Component::Edge(None), Component::Gate, Component::Control] {
        let Found { sockets, tried, forbidden } = look(dir, component);
        if forbidden {
            return Err(Fail::hinted(
                format!("what runs from {} cannot be asked: {}", dir.display(), tried.join("; ")),
                "run it as the user whose process it is, or as root",
            ));
        }
        found.extend(sockets.into_iter().map(|path| path.canonicalize().unwrap_or(path)));
    }
    Ok(found.into_iter().collect())
}

fn print(a: &DoctorArgs, answer: &Findings) -> Result<(), Fail> {
    if admin_client::printed(&a.json, answer)? {
        return Ok(());
    }
    // One part alone needs no name.
    let parts: BTreeSet<_> = answer.found.iter().map(|f| f.part).collect();
    for f in answer.open() {
        say::line(format!("{}{} [{}]\n  fix: {}", head(f, parts.len() > 1), word(&f.what), word(&f.id), word(&f.fix)));
    }
    for f in answer.accepted() {
        say::line(format!("accepted: {} [{}]", word(&f.what), word(&f.id)));
    }
    let none = answer.open().next().is_none();
    if none {
        let nothing = answer.accepted().next().is_none();
        say::line(if nothing { "nothing wrong was found" } else { "nothing else wrong was found" });
    } else if let Some(switch) = &answer.accept {
        say::line(format!("what is as it should be at the gate can be accepted: {switch}NAME"));
    }
    Ok(())
}

/// `warning: edge: `, as far as it says something.
fn head(f: &Finding, named: bool) -> String {
    let severity = if f.severity == Severity::Warning { "warning: " } else { "" };
    let part = if named { format!("{}: ", f.part.word()) } else { String::new() };
    format!("{severity}{part}")
}
