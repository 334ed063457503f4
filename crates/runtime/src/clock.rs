//! The clock that deadlines go by, and the way back after the machine's clock was wrong. In: the owner of a state, or the store of
//! one that does not run. Out: JSON for `portcullis clock`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::Verbs;
use crate::owner::{self, Reset, State, Time, Trouble};

/// The clock that an owner would start with that does not run.
///
/// # Errors
/// The store cannot be read.
pub fn stopped<S: State>(store: &dyn store::Store) -> anyhow::Result<Value> {
    Ok(shown(&owner::stopped::<S>(store)?))
}

/// Resets the clock of an owner that does not run; the audit log beside it says so.
///
/// # Errors
/// The store or the log cannot be written; nothing was changed.
pub fn reset_stopped<S: State>(store: &dyn store::Store, audit: &Path) -> anyhow::Result<Value> {
    Ok(done(owner::reset_stopped::<S>(store, audit).context("the clock was not reset")?))
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
