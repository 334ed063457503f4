//! Runs a whole process. In: its configuration, and how it is read again. Out: components until it is told to stop.

use runtime::run::Run;
use server::{Config, Read, Supervisor};

use crate::fail::Done;

/// Runs what the configuration asks for. `greet`: what the person at the terminal is told once all of it runs.
pub(crate) async fn server(config: Config, read: Option<Read>, greet: impl FnOnce(&Supervisor)) -> Done {
    let run = Run::new(config.drain);
    run.follow_signals()?;
    match Supervisor::start(config, &run, read).await {
        Ok(supervisor) => {
            greet(&supervisor);
            Ok(run.finish().await?)
        }
        Err(e) => {
            run.abandon().await;
            Err(e.into())
        }
    }
}
