//! `clock show` and `clock reset`. In: what was typed. Out: the time that a gate and a coordination server go by, running
//! or stopped, or that time set to the machine's clock.

use std::io::ErrorKind;
use std::path::Path;

use ::control::registry::Mesh;
use ::gate::ledger::LedgerState;
use api::Written;
use api::clock::{Clock, Owner, Reset, Show, WasReset};
use runtime::clock;
use runtime::owner::length;
use serde::Serialize;

use crate::args::{ClockCommand, GlobalArgs};
use crate::fail::{Done, Fail};
use crate::say::when;
use crate::{ask, resolve, say};

/// A second or two pass between two looks.
const CLOCK_TOLERANCE: u64 = 5;

pub(crate) fn run(c: &ClockCommand, global: &GlobalArgs) -> Done {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let found = found(&dir)?;
    match c {
        ClockCommand::Show(json) => show(&dir, &found, json.json == Some(true)),
        ClockCommand::Reset { yes, json } => reset(&dir, &found, *yes, json.json == Some(true)),
    }
}

/// The rooms of a data directory, and whether they run.
fn found(dir: &Path) -> Result<Vec<(Room, bool)>, Fail> {
    let not_permitted = |what: &Path, e: &std::io::Error| {
        Fail::hinted(format!("{}: {e}", what.display()), "run it as the user whose it is, or as root")
    };
    let mut found = Vec::new();
    for room in Room::ALL {
        let (socket, store) = (room.socket(dir), dir.join(room.store()));
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => found.push((room, true)),
            // A socket that nobody listens at was left by a process that was killed.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                if store.try_exists().map_err(|e| not_permitted(&store, &e))? {
                    found.push((room, false));
                }
            }
            Err(e) => return Err(not_permitted(&socket, &e)),
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

fn clock(dir: &Path, room: Room, runs: bool) -> Result<Clock, Fail> {
    if runs { ask::socket(&room.socket(dir), Show { of: Some(room.owner()) }) } else { Ok(room.stopped(dir)?) }
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

fn show(dir: &Path, found: &[(Room, bool)], json: bool) -> Done {
    let mut clocks = Vec::new();
    for (room, runs) in found {
        let what = clock(dir, *room, *runs)?;
        if json {
            clocks.push(Of { of: room.word(), runs: *runs, what });
        } else {
            say_clock(*room, *runs, &what);
        }
    }
    if json {
        say::json(&Clocks { clocks })?;
    }
    Ok(())
}

fn say_clock(room: Room, runs: bool, c: &Clock) {
    let wall = c.wall;
    let off = |t: u64| match (t.abs_diff(wall) > CLOCK_TOLERANCE, t > wall) {
        (false, _) => String::new(),
        (_, true) => format!(", {} ahead of the clock", length(t - wall)),
        (_, false) => format!(", {} behind the clock", length(wall - t)),
    };
    let line = |what: &str, t: u64| say::line(format!("  {what:<20} {}{}", when(t), off(t)));
    say::line(format!("{}{}", room.word(), if runs { "" } else { " (does not run)" }));
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

fn reset(dir: &Path, found: &[(Room, bool)], yes: bool, json: bool) -> Done {
    if !yes {
        let mut wall = 0;
        for (room, runs) in found {
            let c = clock(dir, *room, *runs)?;
            say_clock(*room, *runs, &c);
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
    for (room, runs) in found {
        let what = if *runs {
            ask::socket(&room.socket(dir), Reset { of: Some(room.owner()) })?
        } else {
            Written { done: room.reset_stopped(dir)?, unsaved: None }
        };
        if !json {
            let words = &what.done.words;
            say::line(format!("{}: deadlines go by the machine's clock again, {words}", room.word()));
        }
        reset.push(Of { of: room.word(), runs: *runs, what });
    }
    if json {
        say::json(&Resets { reset })?;
    }
    Ok(())
}

/// Whose clock it is: each has its own, with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A gate.
    Gate,
    /// A coordination server.
    Control,
}

impl Room {
    /// As a request names it.
    fn owner(self) -> Owner {
        match self {
            Room::Gate => Owner::Gate,
            Room::Control => Owner::Control,
        }
    }

    /// All there are.
    pub(crate) const ALL: [Room; 2] = [Room::Gate, Room::Control];

    /// What people call it.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Room::Gate => "gate",
            Room::Control => "coordination server",
        }
    }

    /// Where a running one is asked.
    #[must_use]
    pub(crate) fn socket(self, data_dir: &Path) -> std::path::PathBuf {
        match self {
            Room::Gate => ::gate::gate_socket(data_dir),
            Room::Control => ::control::control_socket(data_dir),
        }
    }

    /// Its store's file.
    #[must_use]
    pub(crate) fn store(self) -> &'static str {
        match self {
            Room::Gate => "gate.db",
            Room::Control => "control.db",
        }
    }

    /// The clock that one would start with that does not run.
    ///
    /// # Errors
    /// The store cannot be opened: it is another user's, or in use.
    pub(crate) fn stopped(self, data_dir: &Path) -> anyhow::Result<Clock> {
        match self {
            Room::Gate => clock::stopped::<LedgerState>(&::gate::open(data_dir)?),
            Room::Control => clock::stopped::<Mesh>(&::control::open(data_dir)?),
        }
    }

    /// Resets the clock of one that does not run.
    ///
    /// # Errors
    /// As for [`Room::stopped`], and the disk; nothing was changed.
    pub(crate) fn reset_stopped(self, data_dir: &Path) -> anyhow::Result<WasReset> {
        match self {
            Room::Gate => clock::reset_stopped::<LedgerState>(&::gate::open(data_dir)?, &data_dir.join("audit.jsonl")),
            Room::Control => {
                clock::reset_stopped::<Mesh>(&::control::open(data_dir)?, &data_dir.join("control-audit.jsonl"))
            }
        }
    }
}
