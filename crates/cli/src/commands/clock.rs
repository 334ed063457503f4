//! `clock show` and `clock reset`. In: what was typed. Out: the time that a gate and a coordination server go by, running
//! or stopped, or that time set to the machine's clock.

use std::path::{Path, PathBuf};

use ::control::registry::Mesh;
use ::gate::ledger::LedgerState;
use api::Written;
use api::clock::{Clock, Owner, Reset, Show, WasReset};
use runtime::api::{Component, look};
use runtime::clock;
use runtime::owner::length;
use serde::Serialize;

use crate::args::{ClockCommand, GlobalArgs};
use crate::fail::{Done, Fail};
use crate::say::when;
use crate::{admin_client, resolve, say};

/// A second or two pass between two looks.
const CLOCK_TOLERANCE: u64 = 5;

pub(crate) fn run(c: &ClockCommand, global: &GlobalArgs) -> Done {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let found = found(&dir)?;
    // A process that runs does it itself; the store of one that does not is opened here.
    if found.iter().any(|(_, socket)| socket.is_none()) {
        let what = if matches!(c, ClockCommand::Show(_)) { "clock show" } else { "clock reset --yes" };
        resolve::as_owner_of(&dir, what)?;
    }
    match c {
        ClockCommand::Show(json) => show(&dir, &found, json.json == Some(true)),
        ClockCommand::Reset { yes, json } => reset(&dir, &found, *yes, json.json == Some(true)),
    }
}

/// A component of the data directory, and the socket of the process that runs it.
type Place = (Part, Option<PathBuf>);

/// What a data directory holds.
fn found(dir: &Path) -> Result<Vec<Place>, Fail> {
    let not_permitted = |what: &str| Fail::hinted(what, "run it as the user whose it is");
    let mut found = Vec::new();
    for part in Part::ALL {
        let (running, store) = (look(dir, part.component()), dir.join(part.store()));
        match running.sockets.into_iter().next() {
            Some(socket) => found.push((part, Some(socket))),
            None if running.forbidden => {
                return Err(not_permitted(&format!("{}: {}", dir.display(), running.tried.join("; "))));
            }
            None => {
                let stored = store.try_exists().map_err(|e| not_permitted(&format!("{}: {e}", store.display())))?;
                found.extend(stored.then_some((part, None)));
            }
        }
    }
    if found.is_empty() {
        return Err(Fail::hinted(
            format!(
                "neither a gate nor a coordination server runs from {}, and none has stored anything there",
                dir.display()
            ),
            "name its data directory with `--data-dir DIR`; in a container: `docker exec NAME portcullis clock show`",
        ));
    }
    Ok(found)
}

fn clock(dir: &Path, (part, socket): &Place) -> Result<Clock, Fail> {
    match socket {
        Some(socket) => admin_client::at(socket, Show { of: Some(part.owner()) }),
        None => Ok(part.stopped(dir)?),
    }
}

/// What is said of one component, in the answer for all.
#[derive(Serialize)]
struct Of<T> {
    of: &'static str,
    runs: bool,
    #[serde(flatten)]
    what: T,
}

/// The answer of `clock show --json`.
#[derive(Serialize)]
struct Clocks {
    clocks: Vec<Of<Clock>>,
}

/// The answer of `clock reset --json`.
#[derive(Serialize)]
struct Resets {
    reset: Vec<Of<Written<WasReset>>>,
}

fn show(dir: &Path, found: &[Place], json: bool) -> Done {
    let mut clocks = Vec::new();
    for one in found {
        let (part, runs) = (one.0, one.1.is_some());
        let what = clock(dir, one)?;
        if json {
            clocks.push(Of { of: part.word(), runs, what });
        } else {
            say_clock(part, runs, &what);
        }
    }
    if json {
        say::json(&Clocks { clocks })?;
    }
    Ok(())
}

fn say_clock(part: Part, runs: bool, c: &Clock) {
    let wall = c.wall;
    let off = |t: u64| match (t.abs_diff(wall) > CLOCK_TOLERANCE, t > wall) {
        (false, _) => String::new(),
        (_, true) => format!(", {} ahead of the clock", length(t - wall)),
        (_, false) => format!(", {} behind the clock", length(wall - t)),
    };
    let line = |what: &str, t: u64| say::line(format!("  {what:<20} {}{}", when(t), off(t)));
    say::line(format!("{}{}", part.word(), if runs { "" } else { " (does not run)" }));
    line("the machine's clock", wall);
    line("deadlines go by", c.time);
    line("a restart goes on from", c.floor);
    if let Some(jump) = c.jump {
        say::line(format!(
            "  the clock jumped forward by {}; that is believed in {} if it lasts{}",
            length(jump.by),
            length(jump.believed_in),
            if runs { "" } else { " after a start" }
        ));
    }
    if c.time > wall + CLOCK_TOLERANCE {
        say::line("  if the machine's clock is right: `portcullis clock reset`");
    }
}

fn reset(dir: &Path, found: &[Place], yes: bool, json: bool) -> Done {
    if !yes {
        let mut wall = 0;
        for one in found {
            let c = clock(dir, one)?;
            say_clock(one.0, one.1.is_some(), &c);
            wall = c.wall;
        }
        return Err(Fail::hinted(
            "nothing was changed",
            format!(
                "is it {} now (UTC)? then `portcullis clock reset --yes`; else set the machine's clock first",
                when(wall)
            ),
        ));
    }
    let mut reset = Vec::new();
    for (part, socket) in found {
        let what = match socket {
            Some(socket) => admin_client::at(socket, Reset { of: Some(part.owner()) })?,
            None => Written { done: part.reset_stopped(dir)?, unsaved: None },
        };
        if !json {
            let words = &what.done.words;
            say::line(format!("{}: deadlines go by the machine's clock again, {words}", part.word()));
        }
        reset.push(Of { of: part.word(), runs: socket.is_some(), what });
    }
    if json {
        say::json(&Resets { reset })?;
    }
    Ok(())
}

/// Whose clock it is: each has its own, with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A gate.
    Gate,
    /// A coordination server.
    Control,
}

impl Part {
    /// As a request names it.
    fn owner(self) -> Owner {
        match self {
            Part::Gate => Owner::Gate,
            Part::Control => Owner::Control,
        }
    }

    /// All there are.
    const ALL: [Part; 2] = [Part::Gate, Part::Control];

    /// What people call it.
    fn word(self) -> &'static str {
        match self {
            Part::Gate => "gate",
            Part::Control => "coordination server",
        }
    }

    /// As commands find it.
    fn component(self) -> Component {
        match self {
            Part::Gate => Component::Gate,
            Part::Control => Component::Control,
        }
    }

    /// Its store's file.
    fn store(self) -> &'static str {
        match self {
            Part::Gate => "gate.db",
            Part::Control => "control.db",
        }
    }

    /// The clock that one would start with that does not run.
    ///
    /// # Errors
    /// The store cannot be opened: it is another user's, or in use.
    fn stopped(self, data_dir: &Path) -> anyhow::Result<Clock> {
        match self {
            Part::Gate => clock::stopped::<LedgerState>(&::gate::open(data_dir)?),
            Part::Control => clock::stopped::<Mesh>(&::control::open(data_dir)?),
        }
    }

    /// Resets the clock of one that does not run.
    ///
    /// # Errors
    /// As for [`Part::stopped`], and the disk; nothing was changed.
    fn reset_stopped(self, data_dir: &Path) -> anyhow::Result<WasReset> {
        match self {
            Part::Gate => clock::reset_stopped::<LedgerState>(&::gate::open(data_dir)?, &data_dir.join("audit.jsonl")),
            Part::Control => {
                clock::reset_stopped::<Mesh>(&::control::open(data_dir)?, &data_dir.join("control-audit.jsonl"))
            }
        }
    }
}
