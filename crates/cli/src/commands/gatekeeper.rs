//! `portcullis gatekeeper`: a gate that takes Gatekeeper's place. In: its environment variables and ours. Out: settings
//! of the gate, which then runs until it is told to stop.

use gate::intake::Listen;
use server::Config;

use crate::args::GlobalArgs;
use crate::args::gate::GatekeeperArgs;
use crate::fail::Done;
use crate::resolve::gatekeeper::plan;
use crate::resolve::{self, Notes};
use crate::systemd::{self, Unit};
use crate::{run, say};

/// Runs the gate until it is told to stop.
pub(crate) async fn run(a: &GatekeeperArgs, global: &GlobalArgs) -> Done {
    let notes = Notes::default();
    let gate = plan(a, global, &notes)?;
    let config = Config {
        data_dir: gate.data_dir.clone(),
        log: resolve::log(global, None),
        drain: runtime::run::DRAIN,
        tunnel: None,
        lists: Vec::new(),
        gate: Some(gate),
        control: None,
        files: Vec::new(),
        notes: notes.into_vec(),
    };
    // Its environment and flags are the same as long as it runs: there is nothing to read again.
    run::server(config, None, |_| ()).await
}

/// Prints a unit that runs the gate of this command line.
pub(crate) fn generate(a: &GatekeeperArgs, global: &GlobalArgs) -> Done {
    let plan = plan(a, global, &Notes::default())?;
    let tcp = |at: &Listen| match at {
        Listen::Tcp(addr) => addr.port(),
        Listen::Unix(_) => 0,
    };
    let low_ports = plan.listeners.iter().map(|(at, _)| tcp(at)).any(|p| p != 0 && p < 1024);
    let implied = a.file.is_none() && plan.enforcers.iter().filter_map(|c| c.info().file).any(|f| f.is_relative());
    let known = <GatekeeperArgs as clap::Args>::augment_args(clap::Command::new("gatekeeper"));
    let reads = known.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    say::raw(&systemd::render(&Unit {
        what: "Portcullis gate",
        low_ports,
        files: FILES,
        folder: if implied { std::env::current_dir().ok() } else { None },
        reads: reads.chain(["MAX_ALLOWED_IPS"]).map(str::to_string).collect(),
        ..systemd::of_enforcers(&plan.enforcers)
    }));
    Ok(())
}

/// Open files of a gate: its places for connections at each listener, and room for its store.
const FILES: u64 = 16_384;
