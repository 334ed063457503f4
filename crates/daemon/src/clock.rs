//! The clocks of a data directory: what deadlines go by, and the way back after the machine's clock was wrong. In: a
//! running room, or the store of one that does not run. Out: JSON for `portcullis clock`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::Verbs;
use crate::control::keeper::Mesh;
use crate::gate::keeper::Grants;
use crate::owner::{self, Reset, State, Time, Trouble};
use crate::{control, gate};

/// Whose clock it is: each has its own, with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A gate.
    Gate,
    /// A coordination server.
    Control,
}

impl Room {
    /// All there are.
    pub const ALL: [Room; 2] = [Room::Gate, Room::Control];

    /// What people call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Room::Gate => "gate",
            Room::Control => "coordination server",
        }
    }

    /// Where a running one is asked.
    #[must_use]
    pub fn socket(self, data_dir: &Path) -> std::path::PathBuf {
        match self {
            Room::Gate => gate::gate_socket(data_dir),
            Room::Control => control::control_socket(data_dir),
        }
    }

    /// Its store's file.
    #[must_use]
    pub fn store(self) -> &'static str {
        match self {
            Room::Gate => "gate.db",
            Room::Control => "control.db",
        }
    }

    /// The clock that one would start with that does not run.
    ///
    /// # Errors
    /// The store can not be opened: it is another user's, or in use.
    pub fn stopped(self, data_dir: &Path) -> anyhow::Result<Value> {
        Ok(shown(&match self {
            Room::Gate => owner::stopped::<Grants>(&gate::open(data_dir)?)?,
            Room::Control => owner::stopped::<Mesh>(&control::open(data_dir)?)?,
        }))
    }

    /// Resets the clock of one that does not run.
    ///
    /// # Errors
    /// As for [`Room::stopped`], and the disk; nothing was changed.
    pub fn reset_stopped(self, data_dir: &Path) -> anyhow::Result<Value> {
        Ok(done(match self {
            Room::Gate => reset::<Grants>(&gate::open(data_dir)?, &data_dir.join("audit.jsonl"))?,
            Room::Control => reset::<Mesh>(&control::open(data_dir)?, &data_dir.join("control-audit.jsonl"))?,
        }))
    }
}

fn reset<S: State>(store: &dyn store::Store, audit: &Path) -> anyhow::Result<Reset> {
    owner::reset_stopped::<S>(store, audit).context("the clock was not reset")
}

/// Adds `clock` and `clock-reset` to a room's verbs. `wake`: brings about a turn of its owner.
#[must_use]
pub fn verbs(verbs: Verbs, time: Arc<Time>, trouble: Trouble, wake: impl Fn() + Send + Sync + 'static) -> Verbs {
    let (show, trouble) = (time.clone(), trouble.clone());
    verbs
        .on("clock", move |_| {
            let answer = shown(&show);
            async move { Ok(answer) }
        })
        .on("clock-reset", move |_| {
            let (told, trouble) = (time.ask_reset(), trouble.clone());
            wake();
            async move {
                let mut answer = done(told.await.context("it is stopping")?);
                if let Some(why) = trouble.lock().get("store") {
                    answer["unsaved"] = why.clone().into();
                }
                Ok(answer)
            }
        })
}

fn shown(time: &Time) -> Value {
    let (now, wall) = (time.now(), time.wall());
    let jump = time.jump().map(|j| json!({ "by": j.by, "believed_in": j.believed_in }));
    json!({ "wall": wall, "time": now, "floor": time.floor(), "jump": jump })
}

fn done(r: Reset) -> Value {
    json!({ "from": r.from, "floor": r.floor, "to": r.to, "words": r.words() })
}
