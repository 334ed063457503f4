//! Signs of life from the tunnel to the gate. In: who is admitted by a list of the gate, and who is still inside. Out:
//! the gate told of them: `idle` counts from there.

use std::sync::Arc;
use std::time::Duration;

use gate::Gate;
use runtime::admission::Admission;
use runtime::lists::Lists;
use runtime::run::Run;

/// A sign of life is saved once a minute at most; looked at twice as often, no minute is missed.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Tells the gate until the run stops.
pub(crate) fn start(run: &Run, admission: &Arc<Admission>, lists: &Lists, gate: &Gate) {
    let (at_admission, to_gate) = (lists.clone(), gate.clone());
    admission.on_pass(move |addr| to_gate.admitted(&at_admission.all_taken_in(), addr));
    let (admission, lists, gate, stopping) = (admission.clone(), lists.clone(), gate.clone(), run.stopping());
    run.spawn("gate's guests inside", async move {
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => return Ok(()),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let taken = lists.all_taken_in();
            for addr in admission.addrs() {
                gate.admitted(&taken, addr);
            }
        }
    });
}
