//! What nodes say of themselves, whether they are there, and what administrators do with them. In: map requests,
//! streams that begin and end, commands. Out: changed members.

use std::sync::Arc;

use crate::record::{LearnedRoute, Node};
use addr::{Addr, Prefix};
use api::AuditEvent;
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::{Hostinfo, Service};
use tailnet_proto::tailcfg::map::MapRequest;

use super::member::Member;
use super::names;
use super::refusal::Refusal;
use super::registry::{EPHEMERAL_AWAY, NAMES_SHOWN, OFFLINE_GRACE, Registry, Slot, is_tag};

/// A client that names more places than this is not believed about the rest: official ones name a dozen.
pub(crate) const MAX_ENDPOINTS: usize = 64;
/// Routes of one node, so that nobody fills the maps of all others.
pub(crate) const MAX_ROUTES: usize = 4_096;
/// Characters of a text about a host: the longest host name there is (POSIX, `HOST_NAME_MAX` is 255 at the most).
const MAX_TEXT: usize = 255;
/// Services of a node; clients that are not asked for a list of their ports name three.
const MAX_SERVICES: usize = 64;
/// SSH host keys of a node, and characters of one: RSA with 16,384 bits fits.
const MAX_SSH_KEYS: usize = 16;
const MAX_SSH_KEY: usize = 4_096;
/// Tags that are remembered as asked for.
const MAX_TAGS: usize = 64;

impl Registry {
    /// A node says where and what it is. Returns its number.
    ///
    /// # Errors
    /// No node of this machine has the key.
    pub fn update(&mut self, machine: MachineKey, ask: &MapRequest, now: u64) -> Result<u64, Refusal> {
        let key = ask.node_key.unwrap_or_default();
        let Some(m) = self.of_machine(machine, key) else {
            if !self.by_key.contains_key(&key) {
                return Err(Refusal::UnknownNodeKey);
            }
            self.audit_stranger(now, AuditEvent::KeyOfAnother, key.short(), machine.short());
            return Err(Refusal::NodeKeyOfAnother);
        };
        let (id, node) = (m.node.id, m.node.clone());
        if ask.read_only || node.expired(now) {
            return Ok(id);
        }
        if node.version != ask.version || (ask.disco_key.is_some() && node.disco != ask.disco_key) {
            self.edit(id, |n| {
                n.version = ask.version;
                n.disco = ask.disco_key.or(n.disco);
            });
        }
        // A stream's own words are older than those of the updates beside it (capability version 68).
        if ask.stream {
            return Ok(id);
        }
        let mut endpoints = ask.endpoints.clone();
        endpoints.truncate(MAX_ENDPOINTS);
        if node.endpoints != endpoints {
            self.patch(id, |n| n.endpoints = endpoints);
        }
        if let Some(host) = &ask.hostinfo {
            self.take_host(id, host);
        }
        Ok(id)
    }

    /// Takes in what a node says of its host.
    pub(crate) fn take_host(&mut self, id: u64, host: &Hostinfo) {
        let Some(m) = self.nodes.get(&id) else { return };
        let mut host = bounded(host);
        let old = m.node.clone();
        if host.net_info.is_none() {
            // A client that logs in again says nothing of its network until something changes there; it stays at its
            // relay, and without one nobody who has no direct path would find it.
            host.net_info.clone_from(&old.host.net_info);
        }
        if old.host == host {
            return;
        }
        let routes = old.host.routable_ips != host.routable_ips;
        let visible = old.host.for_peers() != host.for_peers();
        let label = names::label(&host.hostname);
        let renamed = !old.named && names::label(&old.host.hostname) != label;
        if !(routes || visible || renamed) {
            self.patch(id, |n| n.host = host);
            return;
        }
        let name = if renamed { names::unique(&label, |n| self.is_taken(n, id)) } else { old.name.clone() };
        self.edit(id, |n| {
            n.host = host;
            n.name = name;
        });
        self.recompile |= routes || renamed || visible;
        if routes {
            self.offers_changed(id, &old.host.routable_ips);
        }
    }

    /// True if another node has this name, or an administrator gave it to something else.
    pub(crate) fn is_taken(&self, name: &str, id: u64) -> bool {
        let given =
            |full: &str| full.strip_prefix(name).and_then(|r| r.strip_prefix('.')) == Some(&self.settings.domain);
        self.nodes.values().any(|m| m.node.id != id && m.node.name == name)
            || self.names.records.iter().any(|r| given(&r.name))
    }

    /// A map stream of a node has begun.
    pub fn connected(&mut self, id: u64, stream: u64, from: Option<Addr>, now: u64) {
        if !self.nodes.contains_key(&id) {
            return;
        }
        let p = self.presence.entry(id).or_default();
        p.streams.insert(stream);
        p.from = from.or(p.from);
        p.silent = false;
        let from = p.from;
        if let Some(m) = self.nodes.get_mut(&id) {
            m.from = from;
        }
        self.seen(id, now);
        self.refresh_presence(now);
    }

    /// A map stream of a node has ended.
    pub fn disconnected(&mut self, id: u64, stream: u64, now: u64) {
        if let Some(p) = self.presence.get_mut(&id)
            && p.streams.remove(&stream)
            && p.streams.is_empty()
        {
            p.left = now;
            p.until = now + OFFLINE_GRACE;
            self.seen(id, now);
        }
    }

    /// A router has answered, or has not, when it was asked whether it lives.
    pub fn answered(&mut self, id: u64, alive: bool, now: u64) {
        if let Some(p) = self.presence.get_mut(&id)
            && p.silent == alive
        {
            p.silent = !alive;
            self.seen(id, now);
            self.refresh_presence(now);
        }
    }

    /// A router has not come back after the server's start, and another one of its routes has: it is not waited for any
    /// longer.
    pub fn absent(&mut self, id: u64, now: u64) {
        if let Some(p) = self.presence.get_mut(&id)
            && p.streams.is_empty()
            && p.until > now
        {
            p.until = now;
            self.refresh_presence(now);
        }
    }

    pub(crate) fn refresh_presence(&mut self, now: u64) {
        let turned: Vec<(u64, bool)> = self
            .nodes
            .values()
            .map(|m| {
                let p = self.presence.get(&m.node.id);
                (m, p.is_some_and(|p| !p.silent && (!p.streams.is_empty() || p.until > now)))
            })
            .filter(|(m, online)| m.online != *online)
            .map(|(m, online)| (m.node.id, online))
            .collect();
        for (id, online) in turned {
            let silent = self.presence.get(&id).is_some_and(|p| p.silent);
            self.patched(id, |m| (m.online, m.silent) = (online, silent));
            // Only routers are elected by it.
            let router = self.nodes.get(&id).is_some_and(|m| !m.node.host.routable_ips.is_empty());
            self.recompile |= router;
        }
    }

    /// When a node is forgotten if it does not come back; `None` for one that is there, also when it does not answer.
    pub(crate) fn forgotten_at(&self, m: &Member) -> Option<u64> {
        let p = self.presence.get(&m.node.id);
        if !m.node.ephemeral || p.is_some_and(|p| !p.streams.is_empty()) {
            return None;
        }
        // A server that was killed did not see who left when; absence is then counted from its start.
        Some(p.map_or(0, |p| p.left).max(m.node.seen) + EPHEMERAL_AWAY)
    }

    pub(crate) fn forget_ephemeral(&mut self, now: u64) {
        let gone: Vec<u64> =
            self.nodes.values().filter(|m| self.forgotten_at(m).is_some_and(|t| t <= now)).map(|m| m.node.id).collect();
        for id in gone {
            if let Some(m) = self.nodes.get(&id) {
                let name = m.node.name.clone();
                self.audit(now, AuditEvent::NodeForgotten, name, "ephemeral and away");
            }
            self.remove(id);
        }
    }

    /// The node of a name, number, address or key.
    ///
    /// # Errors
    /// There is none; says who there is.
    pub fn node_named(&self, text: &str) -> Result<Arc<Node>, Refusal> {
        find(self.nodes.values(), text, &self.settings.domain)
    }

    /// The node of a number, after it was changed.
    pub(crate) fn numbered(&self, id: u64) -> Result<Arc<Node>, Refusal> {
        self.nodes.get(&id).map(|m| m.node.clone()).ok_or(Refusal::NodeGone)
    }

    /// The nodes of a machine.
    #[must_use]
    pub fn nodes_of(&self, machine: MachineKey) -> Vec<Arc<Node>> {
        self.nodes.values().filter(|m| m.node.machine == machine).map(|m| m.node.clone()).collect()
    }

    /// Ends a node's key at once, whatever the clock will say: it has to log in again.
    ///
    /// # Errors
    /// There is no such node.
    pub fn expire(&mut self, node: &str, by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        self.edit(node.id, |n| n.expires = Some(n.created.min(now)));
        self.recompile = true;
        self.audit(now, AuditEvent::NodeExpired, node.name.clone(), by);
        self.numbered(node.id)
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// There is no such node, the name is none, or is taken.
    pub fn rename(&mut self, node: &str, name: &str, by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        let name = names::given(name).map_err(Refusal::BadNodeName)?.to_string();
        if let Some(other) = self.nodes.values().find(|m| m.node.name == name && m.node.id != node.id) {
            return Err(Refusal::NodeNameTaken { node: other.node.id, name });
        }
        if self.is_taken(&name, node.id) || name == "localhost" {
            return Err(Refusal::NameInUse(name));
        }
        self.edit(node.id, |n| {
            n.name = name.clone();
            n.named = true;
        });
        self.recompile = true;
        self.audit(now, AuditEvent::NodeRenamed, format!("{} to {name}", node.name), by);
        self.numbered(node.id)
    }

    /// Gives a node these tags in place of those it has. Without any it is its user's again.
    ///
    /// # Errors
    /// There is no such node, a text is no tag, or it would belong to nobody.
    pub fn tag(&mut self, node: &str, tags: &[String], by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        if let Some(bad) = tags.iter().find(|t| !is_tag(t)) {
            return Err(Refusal::NoTag(bad.clone()));
        }
        if tags.is_empty() && node.user.is_none() {
            return Err(Refusal::BelongsToNobody(node.name.clone()));
        }
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        tags.dedup();
        let about = format!("{}: {}", node.name, if tags.is_empty() { "none".into() } else { tags.join(" ") });
        self.edit(node.id, |n| {
            // A machine's key does not end because of the person who set it up.
            n.expires = if tags.is_empty() { n.expires } else { None };
            n.tags = tags;
        });
        self.recompile = true;
        self.audit(now, AuditEvent::NodeTagged, about, by);
        self.numbered(node.id)
    }

    /// Gives a node to another user. Its tags stay: what has one belongs to it, whoever brought it.
    ///
    /// # Errors
    /// There is no such node or user.
    pub fn move_to(&mut self, node: &str, user: &str, by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        let user = self.user_named(user)?;
        let (id, login) = (user.id, user.login().to_string());
        if node.user != Some(id) {
            self.edit(node.id, |n| n.user = Some(id));
            self.recompile = true;
            self.audit(now, AuditEvent::NodeMoved, format!("{} to {login}", node.name), by);
        }
        self.numbered(node.id)
    }

    /// Takes a node away.
    ///
    /// # Errors
    /// There is no such node.
    pub fn delete(&mut self, node: &str, by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        self.remove(node.id);
        self.audit(now, AuditEvent::NodeDeleted, node.name.clone(), by);
        Ok(node)
    }

    /// What a connector has learned, in place of what was known.
    pub(crate) fn learnt(&mut self, id: u64, learnt: Vec<LearnedRoute>) {
        if self.nodes.get(&id).is_some_and(|m| m.node.learnt != learnt) {
            self.edit(id, |n| n.learnt = learnt);
            self.recompile = true;
        }
    }

    /// Approves routes of a node. Returns those that it does not offer.
    ///
    /// # Errors
    /// There is no such node.
    pub fn approve_routes(
        &mut self,
        node: &str,
        routes: &[Prefix],
        by: &str,
        now: u64,
    ) -> Result<(Arc<Node>, Vec<Prefix>), Refusal> {
        let node = self.node_named(node)?;
        if let Some(own) = routes.iter().find(|p| self.settings.pools.hold(**p)) {
            return Err(Refusal::RouteInNetwork(*own));
        }
        self.edit(node.id, |n| {
            n.revoked.retain(|p| !routes.contains(p));
            n.approved.extend(routes.iter().filter(|p| !node.approved.contains(p)));
            n.approved.sort_unstable();
            n.approved.dedup();
        });
        self.recompile = true;
        self.audit(now, AuditEvent::RoutesApproved, format!("{}: {}", node.name, words(routes)), by);
        let missing = routes.iter().filter(|p| !node.host.routable_ips.contains(p)).copied().collect();
        Ok((self.numbered(node.id)?, missing))
    }

    /// Takes routes of a node back; only a person can approve them again.
    ///
    /// # Errors
    /// There is no such node, or it has no such route.
    pub fn revoke_routes(&mut self, node: &str, routes: &[Prefix], by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let node = self.node_named(node)?;
        let there = |p: &&Prefix| node.approved.contains(p) || node.host.routable_ips.contains(p);
        if let Some(none) = routes.iter().find(|p| !there(p)) {
            let offers = words(&node.host.routable_ips);
            return Err(Refusal::NoRoute { node: node.name.clone(), route: *none, offers });
        }
        self.edit(node.id, |n| {
            n.approved.retain(|p| !routes.contains(p));
            n.revoked.extend(routes.iter().filter(|p| !node.revoked.contains(p)));
            n.revoked.sort_unstable();
            n.revoked.dedup();
        });
        self.recompile = true;
        self.audit(now, AuditEvent::RoutesRevoked, format!("{}: {}", node.name, words(routes)), by);
        self.numbered(node.id)
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if let Some(m) = self.nodes.remove(&id) {
            self.by_key.remove(&m.node.key);
            self.presence.remove(&id);
            self.saves.insert(Slot::Node(id));
            self.recompile = true;
            self.changed = true;
        }
    }

    fn seen(&mut self, id: u64, now: u64) {
        self.patch(id, |n| n.seen = now);
    }

    /// Changes of a node that its peers can be told in a few bytes.
    fn patch(&mut self, id: u64, change: impl FnOnce(&mut Node)) {
        self.patched(id, |m| change(Arc::make_mut(&mut m.node)));
        self.saves.insert(Slot::Node(id));
    }

    fn patched(&mut self, id: u64, change: impl FnOnce(&mut Member)) {
        if let Some(m) = self.nodes.get_mut(&id) {
            change(m);
            self.revision += 1;
            m.patched = self.revision;
            self.changed = true;
        }
    }
}

/// What is believed of a host's words: as much as an honest one says, in characters that can be shown.
pub(crate) fn bounded(host: &Hostinfo) -> Hostinfo {
    let text = |t: &String| t.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect::<String>();
    let service = |s: &Service| Service { proto: text(&s.proto), port: s.port, description: text(&s.description) };
    let mut routable_ips = host.routable_ips.clone();
    routable_ips.sort_unstable();
    routable_ips.dedup();
    routable_ips.truncate(MAX_ROUTES);
    let keys = host.ssh_host_keys.iter().filter(|k| k.len() <= MAX_SSH_KEY && !k.contains(char::is_control));
    Hostinfo {
        ipn_version: text(&host.ipn_version),
        os: text(&host.os),
        os_version: text(&host.os_version),
        device_model: text(&host.device_model),
        hostname: text(&host.hostname),
        shields_up: host.shields_up,
        routable_ips,
        request_tags: host.request_tags.iter().take(MAX_TAGS).map(text).collect(),
        services: host.services.iter().take(MAX_SERVICES).map(service).collect(),
        net_info: host.net_info.clone(),
        ssh_host_keys: keys.take(MAX_SSH_KEYS).cloned().collect(),
        app_connector: host.app_connector,
        userspace: host.userspace,
        peer_relay: host.peer_relay,
    }
}

/// The node that a person means.
pub(crate) fn find<'m>(
    nodes: impl Iterator<Item = &'m Member> + Clone,
    text: &str,
    domain: &str,
) -> Result<Arc<Node>, Refusal> {
    let addr: Option<Addr> = text.parse().ok();
    let key: Option<NodeKey> = text.parse().ok();
    // Names of nodes are small, and DNS does not care.
    let (id, lower) = (text.parse::<u64>().ok(), text.to_ascii_lowercase());
    let short = lower.trim_end_matches('.');
    let same = |n: &Node| {
        let full = || short.strip_prefix(&n.name).and_then(|r| r.strip_prefix('.')) == Some(domain);
        n.name == short || full() || Some(n.key) == key || addr.is_some_and(|a| n.ipv4 == a || n.ipv6 == a)
    };
    // A number first: it never means a node that calls itself so.
    let found = nodes.clone().find(|m| Some(m.node.id) == id).or_else(|| nodes.clone().find(|m| same(&m.node)));
    found.map(|m| m.node.clone()).ok_or_else(|| {
        let there = nodes.take(NAMES_SHOWN).map(|m| m.node.name.clone()).collect();
        Refusal::NoNode { name: text.to_string(), there }
    })
}

fn words(routes: &[Prefix]) -> String {
    if routes.is_empty() {
        "nothing".into()
    } else {
        routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
