//! Who serves what. In: sessions that come and go. Out: an immutable table of routes, replaced whole; whoever finds
//! nothing may wait for the next one while a client is reconnecting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::sync::watch;
use tunnel_proto::hello::RouteKey;

use super::super::settings::Rights;
use super::Edge;
use super::owners::{self, Owned};
use super::sessions::EdgeSession;

/// Sessions and the routes they make.
pub(super) struct Table {
    inner: Mutex<Inner>,
    routes: watch::Sender<Arc<Routes>>,
    grace: Mutex<Duration>,
}

#[derive(Default)]
struct Inner {
    sessions: Vec<Arc<EdgeSession>>,
    /// What a lost client published, and until when visitors wait for it.
    orphans: Vec<Orphan>,
}

/// What a lost client published: its token's until then.
struct Orphan {
    ask: RouteKey,
    token: usize,
    until: Instant,
}

impl Inner {
    /// What is published or kept for who published it.
    fn owned(&self) -> impl Iterator<Item = Owned<'_>> {
        let live = self.sessions.iter().flat_map(|s| s.asks().map(|ask| Owned { ask, token: s.token() }));
        live.chain(self.orphans.iter().map(|o| Owned { ask: &o.ask, token: o.token }))
    }

    /// Whether a token may have this beside what others have.
    fn may_have(&self, ask: &RouteKey, token: usize, rights: &Rights) -> Result<(), String> {
        let Some(other) = owners::taken(ask, token, rights, self.owned()) else { return Ok(()) };
        let name = |ask: &RouteKey| match ask {
            RouteKey::Port(port) => format!("port {port}"),
            RouteKey::Http { host, path } => format!("{}{path}", if host.is_empty() { "every host" } else { host }),
        };
        // The other token's name is not this client's business.
        let belongs = if ask == other.ask { "it".to_string() } else { name(other.ask) };
        Err(format!("{} is not free: {belongs} belongs to clients of another token until they let go of it", name(ask)))
    }
}

/// All routes at one moment.
#[derive(Default)]
pub(super) struct Routes {
    /// By host (`*.example.com`: all below; empty: any), longest path first.
    http: HashMap<String, Vec<HttpRoute>>,
    /// Some host is one for all below.
    wildcards: bool,
    /// By port.
    ports: BTreeMap<u16, Share>,
}

struct HttpRoute {
    path: Arc<str>,
    share: Share,
}

/// Those who share the load of one name or port, in turn.
#[derive(Default)]
struct Share {
    serves: Vec<(Arc<EdgeSession>, u16)>,
    next: AtomicUsize,
}

/// An answer of the table.
pub(super) enum Found {
    /// This session's upstream; for HTTP the path prefix that matched.
    Here(Arc<EdgeSession>, u16, Arc<str>),
    /// Nobody now, but a client is expected back.
    Soon,
    /// Nobody.
    Nobody,
}

impl Table {
    pub(super) fn new(grace: Duration) -> Arc<Table> {
        let (routes, _) = watch::channel(Arc::default());
        Arc::new(Table { inner: Mutex::default(), routes, grace: Mutex::new(grace) })
    }

    /// Whether a token may have this now; [`Table::join`] asks again.
    ///
    /// # Errors
    /// To whom it belongs, for the client.
    pub(super) fn may_have(&self, ask: &RouteKey, token: usize, rights: &Rights) -> Result<(), String> {
        self.inner.lock().may_have(ask, token, rights)
    }

    /// Names and ports that a session would share with others that publish something else there, in words.
    pub(super) fn shared_with(&self, session: &EdgeSession) -> Vec<String> {
        let inner = self.inner.lock();
        let others = || inner.sessions.iter().filter(|s| !s.is_of_same_client(session));
        let mut out = Vec::new();
        for u in &session.hello.upstreams {
            let differs = |s: &&Arc<EdgeSession>| s.hello.upstreams.iter().any(|o| o.ask == u.ask && o.name != u.name);
            if let Some(other) = others().find(differs) {
                let what = match &u.ask {
                    RouteKey::Port(port) => format!("port {port}"),
                    RouteKey::Http { host, path } => {
                        format!("{}{path}", if host.is_empty() { "every host" } else { host })
                    }
                };
                let to = other.hello.upstreams.iter().find(|o| o.ask == u.ask).map_or("", |o| o.name.as_str());
                out.push(format!(
                    "{what} is shared: visitors go in turn to {} here and to {to} at {}",
                    u.name, other.hello.host
                ));
            }
        }
        out
    }

    /// Adds a session; one of the same client that it replaces is returned, to be ended by the caller.
    ///
    /// # Errors
    /// Something of it belongs to another token.
    pub(super) fn join(&self, session: Arc<EdgeSession>, rights: &Rights) -> Result<Option<Arc<EdgeSession>>, String> {
        let mut inner = self.inner.lock();
        session.asks().try_for_each(|ask| inner.may_have(ask, session.token(), rights))?;
        let old = inner.sessions.iter().position(|s| s.is_of_same_client(&session)).map(|i| inner.sessions.remove(i));
        inner.orphans.retain(|o| !session.asks().any(|a| *a == o.ask));
        if let Some(old) = &old {
            // What the new session no longer publishes is gone at once: its client said so.
            debug_assert!(old.id != session.id);
        }
        inner.sessions.push(session);
        self.publish(&inner);
        Ok(old)
    }

    /// Removes a session that was lost; what nobody else publishes is kept open for a while.
    pub(super) fn leave(&self, session: &EdgeSession) {
        let mut inner = self.inner.lock();
        let before = inner.sessions.len();
        inner.sessions.retain(|s| s.id != session.id);
        if inner.sessions.len() == before {
            return; // It was replaced.
        }
        let until = Instant::now() + *self.grace.lock();
        for ask in session.asks() {
            if !inner.sessions.iter().any(|s| s.asks().any(|a| a == ask)) {
                inner.orphans.push(Orphan { ask: ask.clone(), token: session.token(), until });
            }
        }
        self.publish(&inner);
    }

    /// Removes a session whose client is not expected back.
    pub(super) fn remove(&self, session: &EdgeSession) {
        let mut inner = self.inner.lock();
        inner.sessions.retain(|s| s.id != session.id);
        self.publish(&inner);
    }

    /// Waits no longer for clients that would not be let in.
    pub(super) fn forget(&self, gone: impl Fn(usize, &RouteKey) -> bool) {
        let mut inner = self.inner.lock();
        let before = inner.orphans.len();
        inner.orphans.retain(|o| !gone(o.token, &o.ask));
        if inner.orphans.len() != before {
            self.publish(&inner);
        }
    }

    /// Waits so long for lost clients, from the next one on.
    pub(super) fn wait(&self, grace: Duration) {
        *self.grace.lock() = grace;
    }

    /// Forgets clients that did not come back in time. Returns when to ask again.
    fn expire(&self) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let before = inner.orphans.len();
        inner.orphans.retain(|o| o.until > now);
        if inner.orphans.len() != before {
            self.publish(&inner);
        }
        inner.orphans.iter().map(|o| o.until).min()
    }

    /// Sessions now.
    pub(super) fn sessions(&self) -> Vec<Arc<EdgeSession>> {
        self.inner.lock().sessions.clone()
    }

    /// A session by the name its client gave it.
    pub(super) fn by_key(&self, key: &str) -> Option<Arc<EdgeSession>> {
        self.inner.lock().sessions.iter().find(|s| s.key == key).cloned()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Routes>> {
        self.routes.subscribe()
    }

    /// Ports that must listen now.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.routes.borrow().ports.keys().copied().collect()
    }

    /// Asks until somebody serves it or nobody is expected back.
    pub(super) async fn find(&self, ask: impl Fn(&Routes) -> Found) -> Option<(Arc<EdgeSession>, u16, Arc<str>)> {
        let mut routes = None;
        loop {
            let found = match &mut routes {
                None => ask(&self.routes.borrow()),
                Some(routes) => {
                    let routes: &mut watch::Receiver<Arc<Routes>> = routes;
                    ask(&routes.borrow_and_update())
                }
            };
            match found {
                Found::Here(session, upstream, path) => return Some((session, upstream, path)),
                Found::Nobody => return None,
                Found::Soon => {}
            }
            match &mut routes {
                // Subscribed before the second look: no change in between is missed.
                None => routes = Some(self.routes.subscribe()),
                Some(routes) => routes.changed().await.ok()?,
            }
        }
    }

    fn publish(&self, inner: &Inner) {
        let mut routes = Routes::default();
        for session in &inner.sessions {
            for (i, ask) in session.asks().enumerate() {
                routes.share(ask).serves.push((session.clone(), i as u16));
            }
        }
        for orphan in &inner.orphans {
            routes.share(&orphan.ask);
        }
        for list in routes.http.values_mut() {
            list.sort_by_key(|r| std::cmp::Reverse(r.path.len()));
        }
        self.routes.send_replace(Arc::new(routes));
    }
}

impl Routes {
    /// Who serves this port.
    pub(super) fn port(&self, port: u16) -> Found {
        self.ports.get(&port).map_or(Found::Nobody, |share| share.pick("".into()))
    }

    /// Who serves this host (lower case, no port) and path: the host's own routes first, longest path first, then
    /// those of any host.
    pub(super) fn http(&self, host: &str, path: &str) -> Found {
        let found = |key: &str| self.http.get(key)?.iter().find(|route| below(path, &route.path));
        let route = found(host).or_else(|| self.wildcard(host, found)).or_else(|| found(""));
        route.map_or(Found::Nobody, |route| route.share.pick(route.path.clone()))
    }

    /// The route of the longest `*.example.com` that the host lies below. An address lies below nothing.
    fn wildcard<'r>(&self, host: &str, found: impl Fn(&str) -> Option<&'r HttpRoute>) -> Option<&'r HttpRoute> {
        if !self.wildcards || host.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        host.match_indices('.').find_map(|(dot, _)| found(&format!("*{}", host.get(dot..).unwrap_or_default())))
    }

    fn share(&mut self, ask: &RouteKey) -> &mut Share {
        match ask {
            RouteKey::Port(port) => self.ports.entry(*port).or_default(),
            RouteKey::Http { host, path } => {
                self.wildcards |= host.starts_with("*.");
                let list = self.http.entry(host.clone()).or_default();
                let at = list.iter().position(|r| *r.path == **path).unwrap_or_else(|| {
                    list.push(HttpRoute { path: path.as_str().into(), share: Share::default() });
                    list.len() - 1
                });
                &mut list[at].share
            }
        }
    }
}

impl Share {
    fn pick(&self, path: Arc<str>) -> Found {
        if self.serves.is_empty() {
            return Found::Soon;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // A session whose carriers are all gone is about to leave the table; the next one in turn serves.
        for i in 0..self.serves.len() {
            let (session, upstream) = &self.serves[(turn + i) % self.serves.len()];
            if session.takes_visitors() {
                return Found::Here(session.clone(), *upstream, path);
            }
        }
        Found::Soon
    }
}

/// True if `path` is `prefix` or lies below it: `/api` holds `/api` and `/api/x`, not `/apix`.
fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with(['/', '?']))
}

/// Forgets lost clients in time, opens and closes ports as routes come and go, sweeps bulk links.
pub(super) async fn keep(edge: Arc<Edge>) -> Result<()> {
    /// Idle bulk links, and what a crowd has left behind, are looked at this often.
    const SWEEP: Duration = Duration::from_secs(10);
    let mut routes = edge.table.watch();
    let stopping = edge.run.stopping();
    tokio::pin!(stopping);
    loop {
        let next = edge.table.expire();
        super::ports::close_unused(&edge);
        for session in edge.table.sessions() {
            session.pool.sweep();
        }
        if let Some(plane) = edge.plane.get() {
            plane.tidy().await;
        }
        let wait = next.map_or(SWEEP, |t| t.saturating_duration_since(Instant::now()).min(SWEEP));
        tokio::select! {
            () = &mut stopping => return Ok(()),
            _ = routes.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
