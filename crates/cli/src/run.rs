//! Runs a whole process. In: its configuration, and how it is read again. Out: components until it is told to stop.

use runtime::run::Run;
use server::{Config, Read, Supervisor};

use crate::args::GlobalArgs;
use crate::fail::Done;
use crate::resolve;

/// Runs what the configuration asks for. `greet`: what the person at the terminal is told once all of it runs.
pub(crate) async fn server(config: Config, read: Option<Read>, greet: impl FnOnce(&Supervisor)) -> Done {
    let run = Run::new(config.drain);
    run.follow_signals()?;
    let guards = config.gate.iter().flat_map(gate::guards::of).collect::<Vec<_>>();
    let done = match Supervisor::start(config, &run, read).await {
        Ok(supervisor) => {
            greet(&supervisor);
            run.finish().await
        }
        Err(e) => {
            run.abandon().await;
            Err(e)
        }
    };
    if done.is_err() {
        gate::guards::give_up(&guards);
    }
    Ok(done?)
}

/// A gate that should run does not, since its file has a mistake: ports that are to be open then are opened, by what was
/// in force last.
pub(crate) fn give_up(global: &GlobalArgs) {
    let last = resolve::data_dir(global.data_dir.clone()).ok().map(|dir| gate::guards::remembered(&dir));
    if let Some(Ok(last)) = last {
        gate::guards::give_up(&last);
    }
}
