//! The loop that follows host names. In: what the configuration and people name, the name servers' answers. Out:
//! events for the ledger, so that a list holds a name's addresses. The rule is `access::names`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::ledger::Event;
use access::names::{DnsOutcome, Follow, HostName, Names, Pace};
use addr::Addr;
use net::dns::{Answer, Resolver};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::{If, Step, Store};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::ledger::LedgerHandle;
use runtime::owner::NotMade;
use runtime::run::Run;

/// How names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; none: those of the system.
    pub servers: Vec<SocketAddr>,
    /// How often at least and at most.
    pub pace: Pace,
}

/// How others reach the loop.
#[derive(Debug, Clone)]
pub struct Follower {
    commands: mpsc::Sender<Command>,
    /// What is followed and known.
    pub names: Arc<Mutex<Names>>,
}

type Reply<T> = oneshot::Sender<Result<T, NotFollowed>>;

/// Nobody takes what is asked for any more.
const STOPPING: NotFollowed = NotFollowed::NotMade(NotMade::Stopping);

/// Why a name is followed no more and no less than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFollowed {
    /// As many are followed as may be.
    TooMany,
    /// It could not be saved.
    NotMade(NotMade),
}

impl fmt::Display for NotFollowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFollowed::TooMany => write!(f, "{MAX_NAMES} names are followed; revoke some first"),
            NotFollowed::NotMade(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for NotFollowed {}

fn not_saved(why: String) -> NotFollowed {
    NotFollowed::NotMade(NotMade::NotSaved(why))
}

#[derive(Debug)]
enum Command {
    /// The configuration names these.
    Configured(Vec<Follow>),
    /// Others answer from now on, or at another pace.
    By(Dns),
    /// A person names one; answered when it was asked for once.
    Add(Follow, Reply<()>),
    /// A person takes one back, from one list or all. The answer: from how many.
    Remove(HostName, Option<String>, Reply<usize>),
}

/// A name that a person added, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    list: String,
    host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pinned: bool,
}

const NAMES: &str = "names/";
/// Questions on their way at a time.
const MAX_CONCURRENT_LOOKUPS: usize = 16;
/// Names that people may add, for all lists together: each costs questions for ever.
const MAX_NAMES: usize = 1_000;
/// A busy list is not compared with its names more often than this.
const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// How long whoever adds a name waits for its first answer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

struct Loop {
    ledger: LedgerHandle,
    store: Arc<dyn Store>,
    dns: Dns,
    resolver: Option<Resolver>,
    names: Arc<Mutex<Names>>,
    configured: Vec<Follow>,
    by_hand: Vec<Follow>,
    waiting: Vec<(HostName, Reply<()>)>,
    /// The ledger could not save: the same is tried again.
    behind: bool,
}

impl Follower {
    /// Reads the names that people added and starts the loop.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn start(
        run: &Run,
        ledger: &LedgerHandle,
        store: Arc<dyn Store>,
        dns: Dns,
        configured: Vec<Follow>,
    ) -> anyhow::Result<Follower> {
        let mut by_hand = Vec::new();
        for entry in store.list(NAMES)?.0 {
            let follow = serde_json::from_slice::<Record>(&entry.value)
                .map_err(|e| e.to_string())
                .and_then(|r| Ok(Follow { host: r.host.parse()?, list: r.list, until: r.until, pinned: r.pinned }));
            match follow {
                Ok(f) => by_hand.push(f),
                Err(why) => warn!(key = entry.key, err = why, "cannot read a stored name; it opens nothing"),
            }
        }
        let names = Arc::new(Mutex::new(Names::new(dns.pace)));
        let (commands, queue) = mpsc::channel(64);
        let mut me = Loop {
            ledger: ledger.clone(),
            store,
            dns,
            resolver: None,
            names: names.clone(),
            configured,
            by_hand,
            waiting: Vec::new(),
            behind: false,
        };
        me.follow();
        let stopping = run.stopping();
        run.spawn("gate names", async move {
            tokio::select! {
                () = me.run(queue) => {}
                () = stopping => {}
            }
            Ok(())
        });
        Ok(Follower { commands, names })
    }

    /// The configuration names these from now on.
    pub async fn configured(&self, follows: Vec<Follow>) {
        let _ = self.commands.send(Command::Configured(follows)).await;
    }

    /// Names are looked up by these name servers from now on, at this pace, and all of them at once.
    pub async fn resolve_by(&self, dns: Dns) {
        let _ = self.commands.send(Command::By(dns)).await;
    }

    /// Adds a name; one that was there gets the new end. Waits for its first answer, good or bad.
    ///
    /// # Errors
    /// It could not be saved, or there are too many.
    pub async fn add(&self, follow: Follow) -> Result<(), NotFollowed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Add(follow, reply)).await.map_err(|_| STOPPING)?;
        match tokio::time::timeout(FIRST_ANSWER_TIMEOUT, answer).await {
            Ok(done) => done.map_err(|_| STOPPING)?,
            // It is saved and will be asked for again; how it stands is shown by whoever commands.
            Err(_) => Ok(()),
        }
    }

    /// Takes a name that a person added back. Returns from how many lists.
    ///
    /// # Errors
    /// It could not be saved.
    pub async fn remove(&self, host: HostName, list: Option<String>) -> Result<usize, NotFollowed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Remove(host, list, reply)).await.map_err(|_| STOPPING)?;
        answer.await.map_err(|_| STOPPING)?
    }
}

impl Loop {
    async fn run(&mut self, mut queue: mpsc::Receiver<Command>) {
        let mut published = self.ledger.published.clone();
        let mut under_way: JoinSet<(HostName, DnsOutcome, DnsOutcome)> = JoinSet::new();
        let mut waiting_line: Vec<HostName> = Vec::new();
        let mut compared = Instant::now();
        loop {
            let now = self.now();
            self.expire(now);
            waiting_line.extend(self.names.lock().take_due(now));
            while under_way.len() < MAX_CONCURRENT_LOOKUPS
                && let Some(host) = waiting_line.pop()
            {
                self.ask_for(host, &mut under_way);
            }
            self.settle(now).await;
            compared = compared.max(Instant::now());
            let due = self.names.lock().poll_timeout().map_or(3_600, |at| at.saturating_sub(self.now()));
            let due = if self.behind { Duration::from_secs(2) } else { Duration::from_secs(due.clamp(1, 3_600)) };
            tokio::select! {
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    if let Ok((host, v4, v6)) = done {
                        self.answered(&host, v4, v6).await;
                    }
                }
                command = queue.recv() => match command {
                    Some(command) => self.take(command).await,
                    None => return,
                },
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(MIN_INTERVAL.saturating_sub(compared.elapsed())).await;
                }
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    fn now(&self) -> u64 {
        self.ledger.model.time.now()
    }

    fn follow(&self) {
        let all = self.configured.iter().chain(&self.by_hand).cloned().collect();
        self.names.lock().follow(all, self.now());
    }

    /// Names that people added for a time, and whose time is over.
    fn expire(&mut self, now: u64) {
        let over: Vec<Follow> = self.by_hand.iter().filter(|f| f.until.is_some_and(|u| u <= now)).cloned().collect();
        if over.is_empty() {
            return;
        }
        let steps: Vec<Step> = over.iter().map(|f| Step::Delete { key: key(f), when: If::Anyway }).collect();
        // Not deleted is not in force either: it is dropped again at the next start.
        if let Err(e) = self.store.write(&steps) {
            warn!(err = %e, "cannot delete names that ended; they open nothing");
        }
        self.by_hand.retain(|f| !over.contains(f));
        self.follow();
    }

    fn ask_for(&mut self, host: HostName, under_way: &mut JoinSet<(HostName, DnsOutcome, DnsOutcome)>) {
        if self.resolver.is_none() {
            let made = if self.dns.servers.is_empty() { Resolver::system() } else { Resolver::at(&self.dns.servers) };
            match made {
                Ok(r) => self.resolver = Some(r),
                Err(e) => {
                    let why = format!("{e:#}");
                    under_way.spawn(async move { (host, DnsOutcome::Failed(why.clone()), DnsOutcome::Failed(why)) });
                    return;
                }
            }
        }
        let Some(resolver) = self.resolver.clone() else { return };
        under_way.spawn(async move {
            let (v4, v6) = tokio::join!(resolver.v4(host.as_str()), resolver.v6(host.as_str()));
            (host, said(v4), said(v6))
        });
    }

    async fn answered(&mut self, host: &HostName, v4: DnsOutcome, v6: DnsOutcome) {
        let now = self.now();
        let (turned, known) = {
            let mut names = self.names.lock();
            let turned = names.answered(host, v4, v6, now);
            (turned, names.known(host).cloned().unwrap_or_default())
        };
        match &known.failed {
            Some(why) if turned && known.addrs().next().is_some() => {
                warn!(name = %host, why, "name lookup failed, keeping its last addresses");
            }
            Some(why) if turned => warn!(name = %host, why, "name lookup failed"),
            None if turned => info!(name = %host, "name lookup works again"),
            _ => {}
        }
        self.settle(now).await;
        let (mine, others) = std::mem::take(&mut self.waiting).into_iter().partition(|(h, _)| h == host);
        self.waiting = others;
        for (_, reply) in mine {
            let _ = reply.send(Ok(()));
        }
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::By(dns) => {
                let now = self.now();
                self.names.lock().renew(dns.pace, now);
                (self.dns, self.resolver) = (dns, None);
            }
            Command::Configured(follows) => {
                self.configured = follows;
                self.follow();
            }
            Command::Add(follow, reply) => {
                let there = |f: &Follow| f.list == follow.list && f.host == follow.host;
                if !self.by_hand.iter().any(there) && self.by_hand.len() >= MAX_NAMES {
                    let _ = reply.send(Err(NotFollowed::TooMany));
                    return;
                }
                let record = Record {
                    list: follow.list.clone(),
                    host: follow.host.to_string(),
                    until: follow.until,
                    pinned: follow.pinned,
                };
                let saved = serde_json::to_vec(&record).map_err(|e| e.to_string()).and_then(|value| {
                    let step = Step::Put { key: key(&follow), value, deadline: follow.until, when: If::Anyway };
                    self.store.write(&[step]).map(|_| ()).map_err(|e| e.to_string())
                });
                if let Err(e) = saved {
                    let _ = reply.send(Err(not_saved(e)));
                    return;
                }
                self.by_hand.retain(|f| !there(f));
                let host = follow.host.clone();
                self.by_hand.push(follow);
                self.follow();
                if self.names.lock().known(&host).is_some_and(|k| k.good_at.is_some()) {
                    self.settle(self.now()).await;
                    let _ = reply.send(Ok(()));
                } else {
                    self.waiting.push((host, reply));
                }
            }
            Command::Remove(host, list, reply) => {
                let (gone, kept): (Vec<Follow>, Vec<Follow>) = std::mem::take(&mut self.by_hand)
                    .into_iter()
                    .partition(|f| f.host == host && list.as_ref().is_none_or(|l| *l == f.list));
                let steps: Vec<Step> = gone.iter().map(|f| Step::Delete { key: key(f), when: If::Anyway }).collect();
                self.by_hand = kept;
                let saved = if steps.is_empty() { Ok(()) } else { self.store.write(&steps).map(|_| ()) };
                if let Err(e) = saved {
                    self.by_hand.extend(gone);
                    let _ = reply.send(Err(not_saved(e.to_string())));
                    return;
                }
                self.follow();
                self.settle(self.now()).await;
                let _ = reply.send(Ok(gone.len()));
            }
        }
    }

    /// Makes the grants equal to what the names say.
    async fn settle(&mut self, now: u64) {
        let published = self.ledger.published.borrow().clone();
        let events: Vec<Event> = {
            let (names, grants) = (self.names.lock(), self.ledger.model.grants.read());
            let rules = self.ledger.model.rules.read();
            let lists: BTreeSet<&str> = published.lists.keys().map(String::as_str).collect();
            let each = lists.into_iter().filter_map(|l| Some((l, rules.get(l)?)));
            each.flat_map(|(list, rules)| {
                names.reconcile(list, rules, grants.get(list).into_iter().flat_map(|g| g.values()), now)
            })
            .collect()
        };
        self.behind = false;
        for event in events {
            if let Err(e) = self.ledger.submit(event).await {
                // DnsOutcome by the ledger, which knows that it does not save.
                tracing::debug!(err = %e, "cannot grant to a name yet");
                self.behind = true;
                return;
            }
        }
    }
}

fn key(f: &Follow) -> String {
    format!("{NAMES}{}/{}", f.list, f.host)
}

fn said(answer: Answer) -> DnsOutcome {
    match answer {
        Answer::Addrs(addrs, ttl) => DnsOutcome::Addrs(addrs.into_iter().map(Addr::new).collect(), u64::from(ttl)),
        Answer::None(ttl) => DnsOutcome::None(u64::from(ttl)),
        Answer::Failed(why) => DnsOutcome::Failed(why),
    }
}
