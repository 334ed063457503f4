//! Where plans become rooms. In: a plan of `meant`. Out: a running edge or client until the process is told to stop.

use crate::fail::{Done, Fail};
use crate::meant::{ClientPlan, EdgePlan};

/// Runs an edge until it is told to stop.
pub(crate) async fn edge(plan: EdgePlan) -> Done {
    let run = daemon::run::Run::new(plan.drain);
    run.follow_signals()?;
    let doors = daemon::door::Doors::new();
    daemon::lists::start(&run, &doors, plan.find)?;
    let port = plan.settings.control.port();
    let socket = daemon::api::edge_socket(&plan.data_dir, port);
    daemon::api::serve(&run, &socket, daemon::api::edge_verbs(&run, &doors, || serde_json::Value::Null))?;
    Err(Fail::from(anyhow::anyhow!("this build has no tunnel room")))
}

/// Runs a client until it is told to stop or its token is refused.
pub(crate) async fn client(plan: ClientPlan) -> Done {
    let _ = plan.settings;
    Err(Fail::from(anyhow::anyhow!("this build has no tunnel room")))
}
