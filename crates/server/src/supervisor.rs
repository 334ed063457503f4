//! The supervisor: starts what a configuration asks for, and puts the next one into force. In: [`Config`]s. Out: running
//! components, linked to each other.
//!
//! A reload checks everything before it changes anything: list files are read and good, what can fail is
//! done first, and a failure leaves the process as it was.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use access::{Service, View};
use control::Control;
use futures_util::FutureExt;
use gate::Gate;
use parking_lot::Mutex;
use runtime::admission::Admission;
use runtime::api::{self, Names};
use runtime::lists::{self, Lists, Loaded};
use runtime::reload::{self, Failed, Fresh, Reloaded, Stamps};
use runtime::run::Run;
use tokio::sync::watch;
use tracing::{info, warn};
use tunnel::edge::{self, EdgeHandle};
use tunnel::settings::EdgeSettings;

use crate::config::{Config, ControlConfig, Note, Teach};
use crate::doctor::Doctor;
use crate::{admin, liveness, node_lists};

/// Reads the configuration again. May block; an error says file, line and column.
pub type Read = Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;

/// The components of a process; clones are the same.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    run: Run,
    lists: Lists,
    edge: Option<EdgeHandle>,
    gate: Option<Gate>,
    control: Option<Control>,
    /// The gate's lists that take in nodes (`[[control.teach]]`).
    teach: watch::Sender<Arc<[Teach]>>,
    /// The names of the admin socket.
    names: Option<Names>,
    /// The configuration in force.
    config: Mutex<Arc<Config>>,
    /// One at a time.
    applying: tokio::sync::Mutex<()>,
}

impl Supervisor {
    /// Starts everything that the configuration asks for. `read`: how to read it again; `None`: nothing in it can change.
    ///
    /// # Errors
    /// A list is bad, an address cannot be had, a store cannot be opened; what runs by then is for [`Run::abandon`].
    pub async fn start(config: Config, run: &Run, read: Option<Read>) -> anyhow::Result<Supervisor> {
        let ready = run.not_ready("components");
        let stamps = Stamps::of(config.watched());
        config.notes.iter().for_each(Note::say);
        let loaded = lists::load(&config.lists, config.gate_lists().as_ref())?;
        let admission = Admission::new();
        // The gate first: the admission may name its lists.
        let gate = config.gate.clone().map(|settings| gate::start(settings, run)).transpose()?;
        let fresh = Fresh::now();
        let lists = lists::start(run, &admission, loaded, gate.as_ref().map(|g| g.ledger.views.clone()), fresh.clone());
        let control = match &config.control {
            Some(control) => Some(start_control(control, run).await?),
            None => None,
        };
        let teach = watch::channel(teach(&config)).0;
        if let Some(gate) = &gate {
            if let Some(control) = &control {
                node_lists::start(run, control, gate, teach.subscribe());
            }
            liveness::start(run, &admission, &lists, gate);
        }
        let edge = match config.tunnel.clone() {
            Some(settings) => Some(start_edge(settings, &admission, run).await?),
            None => None,
        };
        let parts = admin::Components {
            admission: &admission,
            lists: &lists,
            edge: edge.as_ref(),
            gate: gate.as_ref(),
            control: control.as_ref(),
        };
        let doctor = Doctor::new(&config, &parts, teach.subscribe());
        let names = admin::serve(run, &config.data_dir, &parts, doctor)?;
        if edge.is_some() {
            net::memory::forget_startup_code();
        }
        let supervisor = Supervisor(Arc::new(Inner {
            run: run.clone(),
            lists,
            edge,
            gate,
            control,
            teach,
            names,
            config: Mutex::new(Arc::new(config)),
            applying: tokio::sync::Mutex::default(),
        }));
        if let Some(read) = read {
            let live = supervisor.clone();
            let again = move || live.clone().reload(read.clone()).boxed();
            reload::follow(run, "configuration", stamps, fresh, Arc::new(again));
        }
        ready.ready();
        Ok(supervisor)
    }

    /// The edge, if one runs here.
    #[must_use]
    pub fn edge(&self) -> Option<&EdgeHandle> {
        self.0.edge.as_ref()
    }

    /// The coordination server, if one runs here.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.0.control.as_ref()
    }

    async fn reload(self, read: Read) -> Result<Reloaded, Failed> {
        let _one = self.0.applying.lock().await;
        let this = self.clone();
        let (next, restart, loaded, files) = tokio::task::spawn_blocking(move || {
            let (next, restart) = this.without_restart(read()?);
            // Before reading: a change while we read is seen as a change after it.
            let files = Stamps::of(next.watched());
            let loaded = lists::load(&next.lists, next.gate_lists().as_ref())?;
            anyhow::Ok((next, restart, loaded, files))
        })
        .await
        .map_err(anyhow::Error::from)??;
        let changed = self.put(next, restart, loaded).await?;
        Ok(Reloaded { changed, files })
    }

    /// Puts a configuration into force that [`without_restart`](Self::without_restart) gave; says what changed.
    ///
    /// # Errors
    /// Something of it cannot be had; everything is as it was.
    async fn put(
        &self,
        next: Config,
        mut restart: Vec<&'static str>,
        loaded: Loaded,
    ) -> Result<Option<String>, Failed> {
        let old = self.0.config.lock().clone();
        // What can fail comes first, and changes nothing that others see.
        let edge = match (&self.0.edge, &next.tunnel) {
            (Some(edge), Some(settings)) => Some((edge, edge.prepare(settings.clone())?)),
            _ => None,
        };
        let gate = match (&self.0.gate, &next.gate, &old.gate) {
            (Some(gate), Some(next), Some(old)) => Some((gate, next, old, gate.prepare(next.clone())?)),
            _ => None,
        };
        let control = match (&self.0.control, &next.control) {
            (Some(control), Some(next)) => Some((control, control.prepare(next.settings.clone())?)),
            _ => None,
        };
        let mut said: Vec<String> = Vec::new();
        if let Some((control, prepared)) = control {
            let applied = control.apply(prepared).await.map_err(Failed::Machine)?;
            said.extend(applied.changed);
            restart.extend(applied.restart);
        }
        if let Some((gate, next, old, prepared)) = gate {
            // Before what holds them: an enforcer that is new finds its list.
            said.extend(relist(gate, next, old).await?);
            let applied = gate.apply(prepared).await;
            said.extend(applied.changed);
            restart.extend(applied.restart);
        }
        for note in next.notes.iter().filter(|n| !old.notes.contains(n)) {
            note.say();
        }
        // Lists before tokens: one that is new is judged by its own list from the first connection on.
        let lists = self.0.lists.clone();
        let changed = tokio::task::spawn_blocking(move || lists.put(loaded)).await.map_err(anyhow::Error::from)?;
        said.extend(changed.map(|c| format!("lists: {c}")));
        if let Some((edge, prepared)) = edge {
            let port = edge.control_port();
            let applied = edge.apply(prepared);
            self.name_socket(&next, port, edge.control_port());
            said.extend(applied.changed);
            restart.extend(applied.restart);
        }
        let teach = teach(&next);
        if self.0.teach.send_if_modified(|now| {
            *now != teach && {
                *now = teach;
                true
            }
        }) {
            said.push("lists that take in nodes".to_string());
        }
        if old.drain != next.drain {
            self.0.run.set_drain(next.drain);
            said.push(format!("drain {:?}", next.drain));
        }
        *self.0.config.lock() = Arc::new(next);
        if !restart.is_empty() {
            said.push(format!("restart for: {}", restart.join(", ")));
        }
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }

    /// Commands find an edge by its control port.
    fn name_socket(&self, next: &Config, before: u16, now: u16) {
        let Some(names) = self.0.names.as_ref().filter(|_| before != now) else { return };
        let name = |port| api::edge_socket(&next.data_dir, port);
        match names.add(name(now)) {
            Ok(()) => names.take(&name(before)),
            Err(e) => warn!(control_port = now, err = format!("{e:#}"), "cannot name the admin socket"),
        }
    }

    /// What of a configuration counts while this process runs, and what of it waits for a restart. A component that runs
    /// and is no longer wanted stays as it is until then, and so do the lists at its doors.
    fn without_restart(&self, next: Config) -> (Config, Vec<&'static str>) {
        let old = self.0.config.lock().clone();
        let there = |what: &'static str, runs: bool, wanted: bool| (runs != wanted).then_some(what);
        let waits = [
            (old.data_dir != next.data_dir).then_some("data_dir"),
            (old.log.json != next.log.json).then_some("log_format"),
            (old.log.debug != next.log.debug).then_some("debug"),
            there("the tunnel", self.0.edge.is_some(), next.tunnel.is_some()),
            there("[gate]", self.0.gate.is_some(), next.gate.is_some()),
            there("[control]", self.0.control.is_some(), next.control.is_some()),
        ];
        let doors_stay = self.0.edge.is_some() && next.tunnel.is_none();
        let lists = if doors_stay { old.lists.clone() } else { next.lists };
        let gate = self.0.gate.as_ref().and_then(|_| next.gate.or_else(|| old.gate.clone()));
        let now = Config { data_dir: old.data_dir.clone(), log: old.log, lists, gate, ..next };
        (now, waits.into_iter().flatten().collect())
    }
}

/// Which lists take in which nodes.
fn teach(config: &Config) -> Arc<[Teach]> {
    config.control.iter().flat_map(|c| c.teach.iter().cloned()).collect()
}

/// Makes the gate's lists those of the next configuration.
async fn relist(gate: &Gate, next: &gate::GateSettings, old: &gate::GateSettings) -> Result<Option<String>, Failed> {
    if next.lists == old.lists && next.follows == old.follows {
        return Ok(None);
    }
    // What was read is good; that the gate cannot save it is the machine's trouble.
    let said = gate.relist(next.lists.clone(), next.follows.clone()).await.map_err(Failed::Machine)?;
    Ok(Some(format!("gate: {said}")))
}

async fn start_edge(settings: EdgeSettings, admission: &Arc<Admission>, run: &Run) -> anyhow::Result<EdgeHandle> {
    // A proxy or a balancer in front names its visitors.
    let fronted = !settings.trusted_proxies.is_empty() || settings.lb_proxy_protocol.is_some();
    if let Some(at) = settings.http.map(|h| h.ip()).or(settings.tcp.as_ref().map(|t| t.addr)).filter(|_| !fronted) {
        let instead = "--data-addr 0.0.0.0, or --trusted-proxies with the proxy in front";
        say_unreachable(&admission.view(), &Service::Data, at, instead);
    }
    edge::start(settings, admission.clone(), run).await
}

/// Starts a coordination server, opens its admin socket, and says what looks wrong with where it is.
async fn start_control(config: &ControlConfig, run: &Run) -> anyhow::Result<Control> {
    let settings = config.settings.clone();
    let url = settings.server_url.to_string();
    let listens_plain = !settings.server_url.tls;
    let listens = |port| settings.listen.iter().any(|at| at.port() == port || at.port() == 0);
    let elsewhere = settings.trusted.is_empty() && !listens(settings.server_url.port);
    let no_tls_in_front = settings.server_url.tls && settings.tls.is_none() && settings.trusted.is_empty();
    let control = control::start(settings, run).await?;
    for addr in &control.addrs {
        info!(listener = "control", %addr, "listening");
    }
    if no_tls_in_front {
        warn!(
            "clients go to {url}, and this server has no certificate for it and trusts no proxy; give `--tls-cert` and \
             `--tls-key`, or `--trusted-proxies` with the proxy's address"
        );
    }
    if elsewhere {
        warn!(
            "clients go to {url}, and this server listens on another port and trusts no proxy that could stand between; \
             give `--listen` with that port, or `--trusted-proxies`"
        );
    }
    if listens_plain {
        info!("clients reach this server by plain HTTP; what they say inside is encrypted all the same");
    }
    if !control.state.registry.now().has_policy {
        warn!("there is no policy: every node reaches every other one; `portcullis policy set FILE` puts one in force");
    }
    Ok(control)
}

/// Says that nobody on a list can come, where only this machine can connect and the list holds no address of it.
pub fn say_unreachable(view: &View, service: &Service, listen: IpAddr, instead: &str) {
    let Some(list) = view.guard(service).and_then(|id| view.list(id)) else { return };
    // RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3.
    let own = [[127, 0, 0, 0].into(), Ipv6Addr::LOCALHOST.into()].map(addr::Addr::new);
    let own = [addr::Prefix::new(own[0], 8), addr::Prefix::new(own[1], 128)];
    let reaches = list.set.prefixes().iter().any(|p| own.iter().flatten().any(|o| p.covers(*o) || o.covers(*p)));
    if listen.is_loopback() && !list.set.is_empty() && !reaches {
        warn!(
            addr = %listen,
            list = list.name,
            source = list.source,
            "nobody can come in: the address is reached from this machine only, and the list holds none of it; to be reached from elsewhere: {instead}"
        );
    }
}
