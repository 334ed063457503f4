//! Other settings for a running gate. In: the next settings. Out: the same gate under them. Listeners are bound and files
//! looked at before anything changes; what an enforcer that is gone wrote stays as it is, as after a restart without it.

use std::net::SocketAddr;
use std::sync::Arc;

use addr::AddrSet;
use parking_lot::{Mutex, RwLock};
use runtime::reload::Applied;
use runtime::run::Run;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::enforce::{self, Enforcer};
use super::intake::{Guests, Listen, Serves};
use super::listener::{self, Bound};
use super::share::{Share, Shares};
use super::state::{Current, GateState};
use super::{Gate, GateSettings, guards};

/// A listener at work.
#[derive(Debug)]
struct Open {
    at: Listen,
    serves: Arc<RwLock<Arc<Serves>>>,
    close: CancellationToken,
}

/// An enforcer at work, and what it was made from.
#[derive(Debug)]
struct Kept {
    config: enforce::Config,
    handle: enforce::Handle,
}

/// What is at work in a gate and may be replaced.
#[derive(Debug, Default)]
pub(super) struct Parts {
    listeners: Mutex<Vec<Open>>,
    enforcers: Mutex<Vec<Kept>>,
    settings: Mutex<Option<Arc<GateSettings>>>,
}

/// The next settings of a gate, and what they need.
pub struct Prepared {
    settings: GateSettings,
    /// For each listener of the settings: the socket, if it is a new one.
    sockets: Vec<Option<Bound>>,
    /// For each enforcer of the settings: itself, if it is a new one.
    enforcers: Vec<Option<Box<dyn Enforcer>>>,
}

impl Parts {
    /// Remembers what the gate started with.
    pub(super) fn begin(&self, settings: GateSettings, handles: Vec<enforce::Handle>) {
        let each = settings.enforcers.iter().cloned().zip(handles);
        *self.enforcers.lock() = each.map(|(config, handle)| Kept { config, handle }).collect();
        *self.settings.lock() = Some(Arc::new(settings));
    }

    /// Serves at a socket from now on.
    pub(super) fn open(
        &self,
        run: &Run,
        state: &Current,
        at: Listen,
        serves: Serves,
        bound: Bound,
    ) -> Option<SocketAddr> {
        let (name, addr) = (serves.name(), bound.addr());
        let serves = Arc::new(RwLock::new(Arc::new(serves)));
        let close = CancellationToken::new();
        listener::serve(run, state, &serves, bound, close.clone());
        listener::say(&name, &at, addr);
        self.listeners.lock().push(Open { at, serves, close });
        addr
    }
}

impl Gate {
    /// Makes everything ready that the next settings need.
    ///
    /// # Errors
    /// An address cannot be had, or a file is somebody else's; the gate goes on as it was.
    pub fn prepare(&self, next: GateSettings) -> anyhow::Result<Prepared> {
        let mut free: Vec<Listen> = self.parts.listeners.lock().iter().map(|o| o.at.clone()).collect();
        let mut sockets = Vec::new();
        for (at, serves) in &next.listeners {
            sockets.push(match free.iter().position(|f| f == at) {
                Some(i) => {
                    free.remove(i);
                    None
                }
                None => Some(listener::bind(at, next.configured_by.listener(serves))?),
            });
        }
        let mut same: Vec<enforce::Config> = self.parts.enforcers.lock().iter().map(|k| k.config.clone()).collect();
        let mut enforcers = Vec::new();
        for config in &next.enforcers {
            enforcers.push(match same.iter().position(|s| s == config) {
                Some(i) => {
                    same.remove(i);
                    None
                }
                None => {
                    let enforcer = config.build();
                    enforcer.check_file()?;
                    Some(enforcer)
                }
            });
        }
        // Last: closed ports are seen outside, and stay closed if what follows has to be tried again.
        // A table of this gate's own stands: it is made equal when its enforcer is replaced.
        let ours: Vec<String> = self.parts.enforcers.lock().iter().filter_map(|k| k.config.table()).collect();
        let new = next.enforcers.iter().zip(&mut enforcers).filter_map(|(config, e)| Some((config, e.as_mut()?)));
        let new = new.filter(|(config, _)| config.table().is_none_or(|table| !ours.contains(&table)));
        guards::close_to_statics(new, &next.lists)?;
        Ok(Prepared { settings: next, sockets, enforcers })
    }

    /// Puts prepared settings into force; their lists are [`Gate::relist`]'s.
    pub async fn apply(&self, prepared: Prepared) -> Applied {
        let Prepared { settings, sockets, enforcers } = prepared;
        let Some(before) = self.parts.settings.lock().clone() else { return Applied::default() };
        let mut applied = Applied::default();
        if let Err(e) = guards::remember(&settings.data_dir, &guards::of(&settings)) {
            warn!(err = format!("{e:#}"), "what is guarded now is not noted for the next boot");
        }
        let handles = self.replace_enforcers(&settings, enforcers, &mut applied.changed).await;
        let state = self.next_state(&before, &settings, handles);
        applied.changed.extend(different(&before, &settings));
        if before.dns != settings.dns {
            self.names.resolve_by(settings.dns.clone()).await;
            applied.changed.push("name servers".to_string());
        }
        self.current.replace(state);
        self.replace_listeners(&settings, sockets, &mut applied.changed);
        *self.parts.settings.lock() = Some(Arc::new(settings));
        applied
    }

    /// Ends enforcers that are gone and starts those that are new. Returns all, in the order of the settings.
    async fn replace_enforcers(
        &self,
        settings: &GateSettings,
        enforcers: Vec<Option<Box<dyn Enforcer>>>,
        changed: &mut Vec<String>,
    ) -> Vec<enforce::Handle> {
        let mut old = std::mem::take(&mut *self.parts.enforcers.lock());
        // Those that stay first, so that what is left is gone.
        let mut kept: Vec<Option<Kept>> = Vec::new();
        for (config, new) in settings.enforcers.iter().zip(&enforcers) {
            let at = old.iter().position(|k| new.is_none() && k.config == *config);
            kept.push(at.map(|i| old.remove(i)));
        }
        for gone in old {
            // Two that write one file would undo each other: the old one has ended before the new one starts.
            gone.handle.stop().await;
            changed.push(format!("{} is no longer kept in sync and stays as it is", gone.handle.info.name));
        }
        let published = self.ledger.published.borrow().clone();
        let mut all = Vec::new();
        for ((config, new), kept) in settings.enforcers.iter().zip(enforcers).zip(kept) {
            all.extend(kept.or_else(|| {
                let mut enforcer = new.unwrap_or_else(|| config.build());
                if let Err(e) = enforce::guard(&mut *enforcer, &published, &self.ledger.model) {
                    // It goes on trying, and says so; meanwhile its ports are closed.
                    warn!(enforcer = enforcer.info().name, err = format!("{e:#}"), "enforcer not ready");
                }
                changed.push(format!("{} is kept in sync", enforcer.info().name));
                let (published, model) = (self.ledger.published.clone(), self.ledger.model.clone());
                Some(Kept { config: config.clone(), handle: enforce::start(&self.run, published, model, enforcer) })
            }));
        }
        let handles = all.iter().map(|k| k.handle.clone()).collect();
        *self.parts.enforcers.lock() = all;
        handles
    }

    /// What listeners share from now on; what was noticed so far goes along.
    fn next_state(&self, before: &GateSettings, next: &GateSettings, enforcers: Vec<enforce::Handle>) -> GateState {
        let now = self.current.now();
        let (shares, guests): (Vec<Share>, Vec<Guests>) = next.shares.iter().cloned().unzip();
        let same = before.shares.iter().map(|(s, _)| s).eq(&shares) && before.share_paths == next.share_paths;
        let checker = match same {
            true => now.shares.checker.clone(),
            false => Arc::new(Shares::new(shares, next.share_paths.clone(), next.configured_by)),
        };
        GateState {
            ledger: now.ledger.clone(),
            proxies: next.proxies.clone(),
            refusal: next.refusal.clone(),
            shares: now.shares.under(checker, guests),
            enforcers,
            names: now.names.clone(),
            diagnosis: now.diagnosis.under(next.configured_by, next.accept.clone(), next.probes.clone()),
            signs: now.signs.clone(),
            answers: now.answers.clone(),
        }
    }

    fn replace_listeners(&self, settings: &GateSettings, sockets: Vec<Option<Bound>>, changed: &mut Vec<String>) {
        let mut old = std::mem::take(&mut *self.parts.listeners.lock());
        let mut new = Vec::new();
        for ((at, serves), socket) in settings.listeners.iter().zip(sockets) {
            if let Some(bound) = socket {
                new.push((at.clone(), serves.clone(), bound));
            } else if let Some(i) = old.iter().position(|o| o.at == *at) {
                let open = old.remove(i);
                if **open.serves.read() != *serves {
                    changed.push(format!("{at} serves {}", serves.name()));
                    *open.serves.write() = Arc::new(serves.clone());
                }
                self.parts.listeners.lock().push(open);
            }
        }
        for gone in old {
            info!(listener = gone.serves.read().name(), addr = %gone.at, "closed");
            changed.push(format!("{} closed", gone.at));
            gone.close.cancel();
        }
        for (at, serves, bound) in new {
            changed.push(format!("{} at {at}", serves.name()));
            let _ = self.parts.open(&self.run, &self.current, at, serves, bound);
        }
    }
}

/// What differs besides listeners and enforcers, in words.
fn different(before: &GateSettings, next: &GateSettings) -> Vec<String> {
    let same = |a: &AddrSet, b: &AddrSet| a.prefixes() == b.prefixes();
    let proxies = same(&before.proxies.trusted, &next.proxies.trusted)
        && before.proxies.header == next.proxies.header
        && before.proxies.direct == next.proxies.direct;
    [
        (!proxies).then_some("the gate's trusted proxies"),
        (before.shares != next.shares || before.share_paths != next.share_paths).then_some("shares"),
        (before.refusal != next.refusal).then_some("the refusal page"),
        (before.accept != next.accept || before.probes != next.probes).then_some("what doctor looks at"),
    ]
    .into_iter()
    .flatten()
    .map(str::to_string)
    .collect()
}
