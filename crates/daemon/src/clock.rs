//! The clock that deadlines go by, for a person. In: a question or a reset through an admin socket. Out: what it says
//! beside the machine's clock.

use serde_json::{Value, json};
use tracing::warn;

use crate::owner::Time;
use crate::wall;

/// What the clock says: seconds since the Unix epoch, and how far the machine's clock is from it.
pub(crate) fn shown(time: &Time) -> Value {
    let jump = time.jump().map(|j| json!({ "by": j.by, "believed_in": j.believed_in }));
    json!({ "now": time.now(), "wall": wall(), "behind": time.behind(), "floor": time.floor(), "jump": jump })
}

/// A person says that the machine's clock is right. What is saved by the caller then is what the next start goes on from.
pub(crate) fn reset(time: &Time) {
    let behind = time.behind();
    time.reset();
    warn!(
        "the clock was reset by a person; the machine's clock was {behind} s behind, and the next start goes on from it"
    );
}
