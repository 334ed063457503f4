//! `portcullis demo`: everything once, on this machine, with real traffic.

use crate::fail::{Done, Fail};

/// Shows the tour; stays up afterwards unless `once`.
pub(crate) async fn run(once: bool) -> Done {
    let _ = once;
    Err(Fail::from(anyhow::anyhow!("this build has no demo")))
}
