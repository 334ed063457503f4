//! What can be said of a process by its file alone. In: the configuration file. Out: findings: what keeps it from starting.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;

use api::{Finding, Part, Severity};
use runtime::doctor::Symptom;
use server::Config;
use tunnel::settings::EdgeTls;

use crate::args::{EdgeArgs, Given, GlobalArgs};
use crate::fail::Fail;
use crate::resolve::file::Read;
use crate::resolve::{self, Kind};

/// What keeps a process from starting, or from starting again.
#[derive(Debug)]
enum Wrong {
    /// It does not run.
    Stopped(String),
    /// The configuration is not good.
    Configuration {
        /// Why.
        why: String,
        /// What to do.
        fix: String,
    },
    /// Somebody else listens where it wants to.
    Taken(&'static str, SocketAddr),
    /// It may not listen where it wants to.
    Privileged(&'static str, SocketAddr),
    /// This machine has no such address.
    NotHere(&'static str, SocketAddr),
}

/// What the file says and what would come of it. `stopped`: nothing runs.
pub(super) fn file(read: &Read, global: &GlobalArgs, given: &Given, stopped: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    if stopped {
        found.push(Wrong::Stopped(read.path.display().to_string()));
    }
    let checked = resolve::edge(Kind::Serve, &EdgeArgs::default(), global, Some(read), given).and_then(|plan| {
        runtime::lists::load(&plan.config.lists, plan.config.gate_lists().as_ref())?;
        Ok(plan.config)
    });
    let mut machine = None;
    match checked {
        Err(e) => found.push(configuration(&e)),
        Ok(config) => {
            if stopped {
                found.extend(listening(&config));
                machine = runtime::doctor::disk(&config.data_dir);
            }
            if let Some(EdgeTls::Own { cert, key }) = config.tunnel.as_ref().map(|t| &t.tls)
                && let Err(e) = net::tls::own_certificate(cert, key)
            {
                found.push(configuration(&e.into()));
            }
        }
    }
    found.iter().map(Symptom::finding).chain(machine.iter().map(Symptom::finding)).collect()
}

/// The file cannot be read at all.
pub(super) fn unreadable(why: &Fail) -> Finding {
    configuration(why).finding()
}

fn configuration(why: &Fail) -> Wrong {
    let fix = why.hint().unwrap_or_else(|| "mend what is written; what runs goes on as it was until then".to_string());
    Wrong::Configuration { why: why.in_one_line(), fix }
}

/// Addresses that it cannot have.
fn listening(config: &Config) -> Vec<Wrong> {
    let mut places: Vec<(&'static str, SocketAddr)> = Vec::new();
    if let Some(tunnel) = &config.tunnel {
        places.push(("the edge's clients", tunnel.control));
        places.extend(tunnel.http.map(|at| ("the edge's visitors", at)));
    }
    for (listen, _) in config.gate.iter().flat_map(|g| &g.listeners) {
        if let gate::intake::Listen::Tcp(at) = listen {
            places.push(("the gate", *at));
        }
    }
    if let Some(control) = &config.control {
        places.extend(control.settings.listen.iter().map(|at| ("the coordination server", *at)));
        places.extend(control.settings.metrics.map(|at| ("its metrics", at)));
    }
    let tcp = places.into_iter().filter_map(|(what, at)| wrong(what, at, std::net::TcpListener::bind(at).err()?));
    let stun = config.control.as_ref().and_then(|c| c.settings.stun);
    let udp = stun.and_then(|at| wrong("STUN (UDP)", at, std::net::UdpSocket::bind(at).err()?));
    let mut seen = BTreeSet::new();
    tcp.chain(udp).filter(|w| seen.insert(w.to_string())).collect()
}

fn wrong(what: &'static str, at: SocketAddr, e: std::io::Error) -> Option<Wrong> {
    match e.kind() {
        ErrorKind::AddrInUse => Some(Wrong::Taken(what, at)),
        ErrorKind::PermissionDenied => Some(Wrong::Privileged(what, at)),
        ErrorKind::AddrNotAvailable => Some(Wrong::NotHere(what, at)),
        _ => None,
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Stopped(file) => write!(f, "nothing runs from {file}; what follows is from the file alone"),
            Wrong::Configuration { why, .. } => f.write_str(why),
            Wrong::Taken(what, at) => write!(f, "{at} for {what} is taken by another process"),
            Wrong::Privileged(what, at) => write!(f, "{at} for {what} is not for this user to listen on"),
            Wrong::NotHere(what, at) => write!(f, "{at} for {what} is no address of this machine"),
        }
    }
}

impl Symptom for Wrong {
    const PART: Part = Part::Process;

    fn id(&self) -> &'static str {
        match self {
            Wrong::Stopped(_) => "stopped",
            Wrong::Configuration { .. } => "configuration",
            Wrong::Taken(..) | Wrong::Privileged(..) | Wrong::NotHere(..) => "listen",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            // Services have the privilege from their unit.
            Wrong::Privileged(..) => Severity::Warning,
            _ => Severity::Error,
        }
    }

    fn fix(&self) -> String {
        match self {
            Wrong::Stopped(file) => {
                format!(
                    "start it: `systemctl start portcullis` where it is a service, or `portcullis serve --config {file}`"
                )
            }
            Wrong::Configuration { fix, .. } => fix.clone(),
            Wrong::Taken(_, at) => {
                format!(
                    "stop that process (`ss -lntup 'sport = :{}'` names it), or choose another port in the file",
                    at.port()
                )
            }
            Wrong::Privileged(..) => {
                "its unit gives it the right; by hand: as root, or a port from 1024 on".to_string()
            }
            Wrong::NotHere(..) => "write an address that `ip address` shows, or 0.0.0.0".to_string(),
        }
    }
}
