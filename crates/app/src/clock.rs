//! `clock show` and `clock reset`. In: a data directory whose gate or coordination server runs. Out: the time that
//! deadlines go by, or the machine's clock as what the next start goes on from.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use crate::args::{ClockCommand, GlobalArgs};
use crate::fail::{Done, Fail};
use crate::gate::when;
use crate::{ask, meant, say};

/// Who keeps a clock here: name, socket, first word of the verbs.
fn clocks(global: &GlobalArgs) -> Result<Vec<(&'static str, PathBuf, &'static str)>, Fail> {
    let dir = meant::data_dir(global.data_dir.clone())?;
    let all = [
        ("gate", daemon::gate::gate_socket(&dir), "gate"),
        ("coordination server", daemon::control::control_socket(&dir), "control"),
    ];
    let running: Vec<_> =
        all.into_iter().filter(|(_, at, _)| std::os::unix::net::UnixStream::connect(at).is_ok()).collect();
    if running.is_empty() {
        return Err(Fail::hinted(
            format!("neither a gate nor a coordination server runs from {}", dir.display()),
            "start it first, or name its data directory with `--data-dir DIR`",
        ));
    }
    Ok(running)
}

pub(crate) fn run(c: &ClockCommand, global: &GlobalArgs) -> Done {
    let all = clocks(global)?;
    match c {
        ClockCommand::Show { json } => {
            let mut told = serde_json::Map::new();
            for (who, at, room) in all {
                let v = ask::socket(&at, &format!("{room}-clock"), Value::Null)?;
                if json.unwrap_or(false) {
                    told.insert(room.to_string(), v);
                } else {
                    in_words(who, &v);
                }
            }
            if json.unwrap_or(false) {
                say::line(serde_json::to_string_pretty(&told).context("cannot print the answer")?);
            }
        }
        ClockCommand::Reset => {
            for (who, at, room) in all {
                let v = ask::socket(&at, &format!("{room}-clock-reset"), json!({}))?;
                say::line(format!("the {who} goes on from {} at its next start; restart it now", when(&v["floor"])));
            }
        }
    }
    Ok(())
}

fn in_words(who: &str, v: &Value) {
    say::line(format!(
        "{who}: deadlines go by {}; the clock of this machine says {}",
        when(&v["now"]),
        when(&v["wall"])
    ));
    if let Some(by) = v["jump"]["by"].as_u64() {
        let left = v["jump"]["believed_in"].as_u64().unwrap_or_default();
        say::line(format!(
            "  it jumped ahead by {} h, and counts in {} min if that lasts",
            by / 3_600,
            left.div_ceil(60)
        ));
    }
    if let Some(behind) = v["behind"].as_u64().filter(|s| *s > 60) {
        say::line(format!(
            "  it is {behind} s behind the latest time that was saved; if that was a wrong clock: `portcullis clock reset`"
        ));
    }
}
