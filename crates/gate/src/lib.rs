//! The gate: lists that learn from proof, forget with time, and are enforced by whatever stands in front. In:
//! settings, mirrored requests, proxies' questions, people's commands. Out: lists kept in Traefik, nginx, HAProxy, …,
//! and verdicts.

mod answer;
pub mod asked;
pub mod doctor;
pub mod enforce;
mod grants;
pub mod guards;
mod import;
pub mod intake;
pub mod ledger;
mod listener;
mod metrics;
pub mod names;
mod observations;
mod probe;
mod reload;
pub mod share;
mod state;
#[cfg(test)]
mod tests;
mod verbs;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::ledger::{Event, Rules};
use access::names::Follow;
use addr::AddrSet;
use store::{Sqlite, Store, StoreError};

use asked::Proxies;
use doctor::{ConfiguredBy, Diagnosis, FindingId};
use enforce::Enforcer;
pub use import::import;
use intake::{Guests, Listen, RefusalPage, Serves};
use ledger::{Ahead, LedgerHandle};
use names::{Dns, Follower};
use reload::Parts;
use runtime::fetch::Base;
use runtime::hint::Hinted;
use runtime::run::Run;
use share::guests::ShareState;
use share::shape::Shape;
use share::{Share, Shares};
use state::Current;
pub use state::GateState;

pub use reload::Prepared;
pub use verbs::{behind, verbs};

/// Everything a gate is told.
#[derive(Debug, Clone)]
pub struct GateSettings {
    /// Where grants and the audit log live.
    pub data_dir: PathBuf,
    /// The lists.
    pub lists: Vec<(String, Rules)>,
    /// Host names that they follow.
    pub follows: Vec<Follow>,
    /// How names are asked for.
    pub dns: Dns,
    /// Addresses of this machine, never learned.
    pub own: AddrSet,
    /// Which proxies are believed.
    pub proxies: Proxies,
    /// What a refused visitor gets at the check and learn endpoints.
    pub refusal: RefusalPage,
    /// How this gate is configured.
    pub configured_by: ConfiguredBy,
    /// Findings that `doctor` does not count.
    pub accept: BTreeSet<FindingId>,
    /// Listeners and what they serve.
    pub listeners: Vec<(Listen, Serves)>,
    /// Named shares, each with where its guests go.
    pub shares: Vec<(Share, Guests)>,
    /// What share links look like, beside those that are known.
    pub share_paths: Vec<Shape>,
    /// Sites that `doctor` asks as a stranger would.
    pub probes: Vec<Base>,
    /// What is kept equal.
    pub enforcers: Vec<enforce::Config>,
    /// Events that take over what an earlier gate left, at the first start only.
    pub take_over: Vec<Event>,
    /// A clock that runs ahead, for the demo.
    pub ahead: Ahead,
}

/// A running gate.
#[derive(Clone)]
pub struct Gate {
    /// The ledger's ledger.
    pub ledger: LedgerHandle,
    /// The follower of host names.
    pub names: Follower,
    current: Current,
    parts: Arc<Parts>,
    run: Run,
    /// The addresses of the TCP listeners, in the order of the settings.
    pub addrs: Vec<SocketAddr>,
    /// Where the audit log is.
    pub audit: PathBuf,
}

/// Opens the store, starts the ledger, the enforcers and the listeners.
///
/// # Errors
/// The data directory cannot be used, or an address cannot be had; nothing was left running that matters.
pub fn start(settings: GateSettings, run: &Run) -> anyhow::Result<Gate> {
    let first = settings.clone();
    let not_ready = run.not_ready("gate");
    let mut enforcers: Vec<Box<dyn Enforcer>> = settings.enforcers.iter().map(enforce::Config::build).collect();
    guards::close_to_statics(settings.enforcers.iter().zip(&mut enforcers), &settings.lists)?;
    enforcers.iter().try_for_each(|e| e.check_file())?;
    let store: Arc<dyn Store> = Arc::new(open(&settings.data_dir)?);
    guards::remember(&settings.data_dir, &guards::of(&settings))?;
    let audit = settings.data_dir.join("audit.jsonl");
    let ledger = LedgerHandle::start(
        run,
        settings.lists,
        settings.own,
        store.clone(),
        &audit,
        settings.take_over,
        settings.ahead,
    )?;
    let names = Follower::start(run, &ledger, store, settings.dns, settings.follows)?;
    let published = ledger.published.borrow().clone();
    enforcers.iter_mut().try_for_each(|e| enforce::guard(&mut **e, &published, &ledger.model))?;
    let start = |e| enforce::start(run, ledger.published.clone(), ledger.model.clone(), e);
    let enforcers: Vec<enforce::Handle> = enforcers.into_iter().map(start).collect();
    let (shares, guests): (Vec<Share>, Vec<Guests>) = settings.shares.into_iter().unzip();
    let parts = Arc::new(Parts::default());
    parts.begin(first, enforcers.clone());
    let checker = Shares::new(shares, settings.share_paths, settings.configured_by);
    let current = Current::new(GateState {
        ledger: ledger.clone(),
        proxies: settings.proxies,
        refusal: settings.refusal,
        shares: ShareState::new(checker, guests, run.stop_token()),
        enforcers,
        names: names.names.clone(),
        diagnosis: Diagnosis::new(settings.configured_by, settings.accept, settings.probes),
        signs: Arc::default(),
        answers: Arc::default(),
    });
    let mut addrs = Vec::new();
    for (at, serves) in settings.listeners {
        let bound = listener::bind(&at, settings.configured_by.listener(&serves))?;
        addrs.extend(parts.open(run, &current, at, serves, bound));
    }
    not_ready.ready();
    Ok(Gate { ledger, names, current, parts, run: run.clone(), addrs, audit })
}

impl Gate {
    /// What listeners share now.
    #[must_use]
    pub fn state(&self) -> Arc<GateState> {
        self.current.now()
    }

    /// Makes these the lists, and these the names that the configuration has them follow. Returns what changed.
    ///
    /// # Errors
    /// The store fails; everything is as it was.
    pub async fn relist(&self, lists: Vec<(String, Rules)>, follows: Vec<Follow>) -> anyhow::Result<String> {
        let said =
            self.ledger.relist(lists).await.map_err(|e| anyhow::anyhow!("the gate's lists are not saved: {e}"))?;
        self.names.configured(follows).await;
        Ok(said)
    }

    /// An address was admitted somewhere by these lists: a sign of life for whoever is on them.
    pub fn admitted(&self, lists: &[String], addr: addr::Addr) {
        let published = self.ledger.published.borrow().clone();
        for name in lists {
            let on = published.view.id(name).and_then(|id| published.view.list(id));
            if on.is_some_and(|l| l.set.contains(addr)) {
                self.state().touch(name, addr);
            }
        }
    }
}

/// The public addresses of this machine: nobody else comes from them, and a proxy's own requests are no visitor's.
#[must_use]
pub fn own_addresses() -> AddrSet {
    AddrSet::new(net::sockets::own_addresses().into_iter().map(|ip| addr::Prefix::host(addr::Addr::new(ip))))
}

/// Opens the gate's store in a data directory.
///
/// # Errors
/// It cannot be used; says why and what to do.
pub fn open(data_dir: &Path) -> anyhow::Result<Sqlite> {
    let path = data_dir.join("gate.db");
    let store = Sqlite::open(&path).map_err(|e| {
        let hint = match &e {
            StoreError::Busy(_) => {
                "another gate runs from this directory: stop it, or give this one its own `--data-dir DIR`"
            }
            StoreError::Full(_) => "make room on the disk; nothing stored is lost",
            StoreError::ReadOnly(_) => "choose a directory that this user can write with `--data-dir DIR`",
            StoreError::Newer(_) => "run the newer version of portcullis that wrote it",
            StoreError::Damaged(_) => "move the file away to begin anew, or put a backup in its place",
            _ => "see the message above",
        };
        Hinted::error(format!("the gate's store cannot be opened: {e}"), hint)
    })?;
    store.warnings().iter().for_each(|w| tracing::warn!(why = %w, "store open to others"));
    Ok(store)
}

/// Reads what an earlier gate left in a Traefik file below these middlewares.
///
/// # Errors
/// The file is there but cannot be read, or is a folder.
pub fn read_earlier(file: &Path, middlewares: &[String]) -> anyhow::Result<Vec<addr::Prefix>> {
    Ok(enforce::read_if_there(file)?.map_or_else(Vec::new, |text| access::ours::traefik_entries(&text, middlewares)))
}
