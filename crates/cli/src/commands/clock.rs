//! `clock show` and `clock reset`. In: what was typed. Out: the time that a gate and a coordination server go by, running
//! or stopped, or that time set to the machine's clock.

use std::io::ErrorKind;
use std::path::Path;

use ::control::keeper::Mesh;
use ::gate::keeper::Grants;
use anyhow::Context;
use runtime::clock;
use runtime::owner::length;
use serde_json::{Value, json};

use crate::args::{ClockCommand, GlobalArgs};
use crate::commands::gate::when;
use crate::fail::{Done, Fail};
use crate::{ask, resolve, say};

/// A second or two pass between two looks.
const SAME: u64 = 5;

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

fn clock(dir: &Path, room: Room, runs: bool) -> Result<Value, Fail> {
    if runs { ask::socket(&room.socket(dir), "clock", Value::Null) } else { Ok(room.stopped(dir)?) }
}

fn number(v: &Value) -> u64 {
    v.as_u64().unwrap_or(0)
}

fn show(dir: &Path, found: &[(Room, bool)], json: bool) -> Done {
    let mut all = Vec::new();
    for (room, runs) in found {
        let c = clock(dir, *room, *runs)?;
        if json {
            let mut c = c;
            (c["of"], c["runs"]) = (room.word().into(), (*runs).into());
            all.push(c);
        } else {
            say_clock(*room, *runs, &c);
        }
    }
    if json {
        say::line(serde_json::to_string_pretty(&json!({ "clocks": all })).context("cannot print the answer")?);
    }
    Ok(())
}

fn say_clock(room: Room, runs: bool, c: &Value) {
    let wall = number(&c["wall"]);
    let off = |t: u64| match (t.abs_diff(wall) > SAME, t > wall) {
        (false, _) => String::new(),
        (_, true) => format!(", {} ahead of the clock", length(t - wall)),
        (_, false) => format!(", {} behind the clock", length(wall - t)),
    };
    let line = |what: &str, t: &Value| say::line(format!("  {what:<20} {}{}", when(t), off(number(t))));
    say::line(format!("{}{}", room.word(), if runs { "" } else { " (does not run)" }));
    line("the machine's clock", &c["wall"]);
    line("deadlines go by", &c["time"]);
    line("a restart goes on from", &c["floor"]);
    if c["jump"].is_object() {
        let (by, left) = (length(number(&c["jump"]["by"])), length(number(&c["jump"]["believed_in"])));
        say::line(format!(
            "  the clock jumped forward by {by}; that is believed in {left} if it lasts{}",
            if runs { "" } else { " after a start" }
        ));
    }
    if number(&c["time"]) > wall + SAME {
        say::line("  if the machine's clock is right: `portcullis clock reset`");
    }
}

fn reset(dir: &Path, found: &[(Room, bool)], yes: bool, json: bool) -> Done {
    if !yes {
        let mut wall = Value::Null;
        for (room, runs) in found {
            let c = clock(dir, *room, *runs)?;
            say_clock(*room, *runs, &c);
            wall = c["wall"].clone();
        }
        return Err(Fail::hinted(
            "nothing was changed",
            format!(
                "is it {} now (UTC)? then `portcullis clock reset --yes`; else set the machine's clock first",
                when(&wall)
            ),
        ));
    }
    let mut all = Vec::new();
    for (room, runs) in found {
        let mut done =
            if *runs { ask::socket(&room.socket(dir), "clock-reset", Value::Null)? } else { room.reset_stopped(dir)? };
        if !json {
            let words = done["words"].as_str().unwrap_or_default();
            say::line(format!("{}: deadlines go by the machine's clock again, {words}", room.word()));
        }
        (done["of"], done["runs"]) = (room.word().into(), (*runs).into());
        all.push(done);
    }
    if json {
        say::line(serde_json::to_string_pretty(&json!({ "reset": all })).context("cannot print the answer")?);
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
    pub(crate) fn stopped(self, data_dir: &Path) -> anyhow::Result<Value> {
        match self {
            Room::Gate => clock::stopped::<Grants>(&::gate::open(data_dir)?),
            Room::Control => clock::stopped::<Mesh>(&::control::open(data_dir)?),
        }
    }

    /// Resets the clock of one that does not run.
    ///
    /// # Errors
    /// As for [`Room::stopped`], and the disk; nothing was changed.
    pub(crate) fn reset_stopped(self, data_dir: &Path) -> anyhow::Result<Value> {
        match self {
            Room::Gate => clock::reset_stopped::<Grants>(&::gate::open(data_dir)?, &data_dir.join("audit.jsonl")),
            Room::Control => {
                clock::reset_stopped::<Mesh>(&::control::open(data_dir)?, &data_dir.join("control-audit.jsonl"))
            }
        }
    }
}
