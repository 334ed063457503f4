//! The client: the private side. In: settings. Out: a session with the edge that is kept up by itself, and streams of
//! visitors joined to the upstreams that were named, and to nothing else.

mod dial;
mod doctor;
mod session;
mod upstreams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::random;
use tracing::{info, warn};

pub use self::doctor::{Wrong, doctor};

use self::dial::{DialError, Dialler};
use self::upstreams::Upstreams;
use super::settings::ClientSettings;
use runtime::hint;
use runtime::run::Run;

/// First pause before dialling again.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest pause: a person who restarts an edge should not wait longer for the tunnel than for the coffee.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A session that lived this long was a good one: the next pause starts short again.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Starts a client. It dials until the run stops; what cannot get better by trying again (a wrong token, a
/// certificate that is not trusted, a refusal by the edge) fails the run.
///
/// # Errors
/// The settings cannot be used: a CA file that cannot be read.
pub async fn start(settings: ClientSettings, run: &Run) -> Result<()> {
    let upstreams = Arc::new(Upstreams::new(&settings)?);
    let dialler = Arc::new(Dialler::new(settings)?);
    let ready = run.not_ready("session with the edge");
    let owner = run.clone();
    run.spawn("client", async move { keep(&dialler, &upstreams, &owner, ready).await });
    Ok(())
}

/// Asks an edge's control plane for `/status` or `/metrics`; the settings need no upstreams.
///
/// # Errors
/// The edge cannot be reached, is not trusted, or refuses the token.
pub async fn get(settings: ClientSettings, path: &str) -> Result<Vec<u8>> {
    match Dialler::new(settings)?.get(path).await {
        Ok(body) => Ok(body),
        Err(DialError::Final(e) | DialError::Again(e)) => Err(e),
    }
}

async fn keep(
    dialler: &Arc<Dialler>,
    upstreams: &Arc<Upstreams>,
    run: &Run,
    ready: runtime::run::NotReady,
) -> Result<()> {
    let stopping = run.stopping();
    tokio::pin!(stopping);
    let mut retry = Backoff::default();
    let mut ready = Some(ready);
    let mut said = String::new();
    while !run.is_stopping() {
        let started = Instant::now();
        // It ends by itself when the run stops, once nothing is under way.
        let ended = session::run(dialler, upstreams, run, &mut ready).await;
        if run.is_stopping() {
            return Ok(());
        }
        if started.elapsed() > GOOD_AFTER {
            retry = Backoff::default();
        }
        let pause = retry.next();
        match ended {
            Err(DialError::Final(e)) => return Err(e),
            Err(DialError::Again(e)) => {
                let words = format!("{e:#}");
                // Advice is given once, not every ten seconds.
                let hint = hint::of(&e).filter(|_| said != words);
                let hint = hint.map_or(String::new(), |h| format!("; {h}"));
                warn!(edge = %dialler.settings.url, retry_in = format!("{pause:.1?}"), "{words}{hint}");
                said = words;
            }
            Ok(why) => info!(why, retry_in = format!("{pause:.1?}"), "session ended"),
        }
        tokio::select! {
            () = &mut stopping => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

/// Pauses that double, with jitter so that a hundred clients do not come back at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let full = RETRY_FIRST.saturating_mul(1 << self.tries.min(10)).min(RETRY_MAX);
        self.tries += 1;
        let half = full / 2;
        half + half.mul_f64(random::<f64>())
    }
}
