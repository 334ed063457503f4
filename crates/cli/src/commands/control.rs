//! `portcullis control`. In: flags, environment, a file. Out: a coordination server that runs until it is told to stop.

use control::Control;
use server::{Config, ControlConfig};

use crate::args::GlobalArgs;
use crate::args::control::ControlArgs;
use crate::fail::{Done, Fail};
use crate::resolve::control::{plan, section};
use crate::resolve::{self, Notes};
use crate::systemd::{self, Unit};
use crate::{run, say};

/// `--generate=systemd`: the unit for this command line, if the command is one that would run.
pub(crate) fn unit(a: &ControlArgs, global: &GlobalArgs) -> Done {
    /// As many connections as the server has places, and what it needs besides.
    const FILES: u64 = 65_536;
    let settings = plan(a, section(a)?, resolve::data_dir(global.data_dir.clone())?, &Notes::default())?;
    let low = |port: u16| port != 0 && port < 1024;
    let low_ports = settings.listen.iter().chain(&settings.stun).any(|at| low(at.port()))
        || settings.metrics.is_some_and(|at| low(at.port()))
        || settings.server_url.needs_443();
    let what = "Portcullis coordination server";
    let unit = Unit { what, low_ports, files: FILES, suffix: "-control", copies_tls: true, ..Unit::default() };
    say::raw(&systemd::render(&unit));
    Ok(())
}

/// Runs the server until it is told to stop.
pub(crate) async fn run(a: ControlArgs, global: GlobalArgs) -> Done {
    let first = config(&a, &global)?;
    let again = move || config(&a, &global).map_err(Fail::into_error);
    run::server(first, Some(std::sync::Arc::new(again)), |supervisor| {
        if let Some(control) = supervisor.control() {
            say_how_to_join(control);
        }
    })
    .await
}

/// What flags, environment and the file mean for a whole process.
fn config(a: &ControlArgs, global: &GlobalArgs) -> Result<Config, Fail> {
    let file = section(a)?;
    if !file.teach.is_empty() {
        return Err(Fail::usage(
            "`[[control.teach]]` needs the gate whose lists it names, and `control` runs none",
            "run both with `portcullis serve --config FILE`",
        ));
    }
    let (notes, data_dir) = (Notes::default(), resolve::data_dir(global.data_dir.clone())?);
    let derp_map = a.derp_map.clone().or_else(|| file.derp_map.clone());
    let settings = plan(a, file, data_dir.clone(), &notes)?;
    let files = a.config.iter().cloned().chain(derp_map).collect();
    Ok(Config {
        data_dir,
        log: resolve::log(global, None),
        drain: runtime::run::DRAIN,
        tunnel: None,
        lists: Vec::new(),
        gate: None,
        control: Some(ControlConfig { settings, teach: Vec::new() }),
        files,
        notes: notes.into_vec(),
    })
}

/// What the person at the terminal types next.
pub(crate) fn say_how_to_join(control: &Control) {
    say::aside(format_args!("join with:  tailscale up --login-server {}", control.state.url));
    if control.state.registry.now().users.is_empty() {
        say::aside("first:      portcullis users create NAME");
        say::aside("            portcullis keys create --user NAME      (for tailscale up --authkey KEY)");
    }
}
