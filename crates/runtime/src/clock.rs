//! The clock that deadlines go by, and the way back after the machine's clock was wrong. In: the owner of a state, or the store of
//! one that does not run. Out: what `portcullis clock` shows.

use std::path::Path;
use std::sync::Arc;

use ::api::Written;
use ::api::clock::{Clock, Jump, Owner, Reset as AskReset, Show, WasReset};
use anyhow::Context;

use crate::api::Verbs;
use crate::owner::{self, Reset, State, Time, Trouble};

/// The clock that an owner would start with that does not run.
///
/// # Errors
/// The store cannot be read.
pub fn stopped<S: State>(store: &dyn store::Store) -> anyhow::Result<Clock> {
    Ok(shown(&owner::stopped::<S>(store)?))
}

/// Resets the clock of an owner that does not run; the audit log beside it says so.
///
/// # Errors
/// The store or the log cannot be written; nothing was changed.
pub fn reset_stopped<S: State>(store: &dyn store::Store, audit: &Path) -> anyhow::Result<WasReset> {
    Ok(done(owner::reset_stopped::<S>(store, audit).context("the clock was not reset")?))
}

/// Adds `clock` and `clock-reset` to a room's verbs. `wake`: brings about a turn of its owner.
#[must_use]
pub fn verbs(
    verbs: Verbs,
    owner: Owner,
    time: Arc<Time>,
    trouble: Trouble,
    wake: impl Fn() + Send + Sync + 'static,
) -> Verbs {
    let (show, trouble) = (time.clone(), trouble.clone());
    verbs
        .handle_of(Some(owner), move |Show { .. }| {
            let answer = shown(&show);
            async move { Ok(answer) }
        })
        .handle_of(Some(owner), move |AskReset { .. }| {
            let (told, trouble) = (time.ask_reset(), trouble.clone());
            wake();
            async move {
                let done = done(told.await.context("it is stopping")?);
                Ok(Written { done, unsaved: trouble.lock().get("store").cloned() })
            }
        })
}

fn shown(time: &Time) -> Clock {
    let jump = time.jump().map(|j| Jump { by: j.by, believed_in: j.believed_in });
    Clock { wall: time.wall(), time: time.now(), floor: time.floor(), jump }
}

fn done(r: Reset) -> WasReset {
    WasReset { from: r.from, floor: r.floor, to: r.to, words: r.words() }
}
