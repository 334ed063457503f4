//! What a client has been told, and what it has to be told next. In: snapshots in order. Out: a whole map first, then
//! differences; nothing where nothing changed for this client.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::record::Names;
use addr::Timestamp;
use addr::{Addr, Prefix};
use serde_json::Value;
use tailnet_proto::tailcfg::map::{Debug, DnsConfig, MapResponse, Node, PeerChange, Resolver, UserProfile};

use super::apps::reminded;
use super::member::Member;
use super::near::OwnWay;
use super::snapshot::Snapshot;
use policy::NodeView;
use policy::language::Connector;

/// The number of the user that tagged nodes are shown under, so that no person's name stands on a machine. Far beyond
/// any user's.
const TAGGED: u64 = 2_147_455_555;

/// The first capability version (release 1.102) that takes peers who come and go on its way for small changes, and
/// does with them all that there is to do.
const PEERS_BY_DIFFERENCE: u32 = 142;

/// What one client knows.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    started: bool,
    own: u64,
    filter: u64,
    dns: u64,
    ssh: u64,
    derp: u64,
    /// By number. Each stream keeps one for every peer, so it is no larger than it must be.
    peers: Vec<(u64, SentPeer)>,
    users: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SentPeer {
    whole: u64,
    patched: u64,
    allowed: u64,
}

impl Sent {
    /// The next message for a node, `None` if it has nothing to hear. `derp`: the relays, with a number that changes
    /// when they do.
    pub fn advance(&mut self, s: &Snapshot, id: u64, derp: (u64, &Value)) -> Option<MapResponse> {
        let member = s.nodes.get(&id)?;
        let view = s.place(id).and_then(|p| s.compiled.for_node(p));
        let mut out = MapResponse::default();
        let own = own_node(s, member, view.as_ref());
        if changed(&mut self.own, &own) {
            out.node = Some(own);
        }
        let filter = view.as_ref().map(|v| s.compiled.filter_rules(v)).unwrap_or_default();
        if changed(&mut self.filter, &filter) {
            out.packet_filters.insert("base".to_string(), filter);
        }
        let own_way = s.own_way(member);
        let dns = dns_of(s, view.as_ref(), &own_way);
        if changed(&mut self.dns, &dns) {
            out.dns_config = Some(dns);
        }
        let ssh = view.as_ref().and_then(|v| ssh_of(s, v));
        if changed(&mut self.ssh, &ssh) {
            out.ssh_policy = Some(ssh.unwrap_or_else(|| serde_json::json!({ "rules": [] })));
        }
        if self.derp != derp.0 || !self.started {
            self.derp = derp.0;
            out.derp_map = Some(derp.1.clone());
        }
        self.peers(s, view.as_ref(), &own_way, &mut out);
        self.profiles(s, member, view.as_ref(), &mut out);
        if !self.started {
            self.started = true;
            out.domain.clone_from(&s.settings.domain);
            out.collect_services = Some(false);
            out.debug = Some(Debug { disable_log_tail: true });
            out.health = Some(Vec::new());
            out.peers = Some(std::mem::take(&mut out.peers_changed));
        }
        if out == MapResponse::default() {
            return None;
        }
        // Official clients take a message of small changes alone another way than one with any other field (netmap,
        // `mapResponseContainsNonPatchFields`). On that way they do not show new users, and release 1.100 neither
        // pings new peers nor routes to them.
        let peers = !(out.peers_changed.is_empty() && out.peers_removed.is_empty());
        if !out.user_profiles.is_empty() || (peers && member.node.version < PEERS_BY_DIFFERENCE) {
            out.health = Some(Vec::new());
        }
        out.control_time = Some(Timestamp(s.at));
        Some(out)
    }

    /// The last message for a node that was taken away: its key has ended and it has nobody to talk to. Without it a
    /// client goes on with what it knew until it is started again.
    #[must_use]
    pub fn farewell(&self, s: &Snapshot, node: &crate::record::Node) -> MapResponse {
        let mut node = node.clone();
        node.expires = Some(s.at);
        let mut member = Member::new(node.into(), 0);
        member.expired = true;
        let mut out = MapResponse { node: Some(own_node(s, &member, None)), ..MapResponse::default() };
        out.packet_filters.insert("base".to_string(), Vec::new());
        out.peers_removed = self.peers.iter().map(|(id, _)| *id).collect();
        out.control_time = Some(Timestamp(s.at));
        out
    }

    fn peers(&mut self, s: &Snapshot, view: Option<&NodeView>, own_way: &OwnWay, out: &mut MapResponse) {
        let places = view.map(|v| v.peers.as_slice()).unwrap_or_default();
        let mut now: Vec<(u64, SentPeer)> = Vec::with_capacity(places.len());
        let known = |id: u64| self.peers.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| self.peers[at].1);
        for place in places {
            let Some((m, viewer)) = s.at_place(*place).zip(view.map(|v| v.node)) else { continue };
            let allowed = own_way.without(m.node.id, s.compiled.allowed_ips(viewer, *place));
            let told = SentPeer { whole: m.told, patched: m.patched, allowed: digest(&allowed) };
            now.push((m.node.id, told));
            match known(m.node.id) {
                Some(t) if t == told => {}
                // A patch cannot say that there is no endpoint or no relay any more.
                Some(t) if t.whole == told.whole && t.allowed == told.allowed && patchable(m) => {
                    out.peers_changed_patch.push(patch(m));
                }
                _ => out.peers_changed.push(peer(s, m, *place, allowed)),
            }
        }
        now.sort_unstable_by_key(|(id, _)| *id);
        let stays = |id: &u64| now.binary_search_by_key(id, |(id, _)| *id).is_ok();
        out.peers_removed = self.peers.iter().map(|(id, _)| *id).filter(|id| !stays(id)).collect();
        out.peers_changed.sort_by_key(|n| n.id);
        out.peers_changed_patch.sort_by_key(|n| n.node_id);
        self.peers = now;
    }

    fn profiles(&mut self, s: &Snapshot, own: &Member, view: Option<&NodeView>, out: &mut MapResponse) {
        let peers = view.map(|v| v.peers.as_slice()).unwrap_or_default();
        let members = peers.iter().filter_map(|p| s.at_place(*p)).chain([own]);
        let mut wanted: BTreeMap<u64, UserProfile> = BTreeMap::new();
        for m in members {
            let id = user_of(m);
            wanted.entry(id).or_insert_with(|| profile(s, id));
        }
        // Clients forget a user with the last of its nodes.
        self.users.retain(|id, _| wanted.contains_key(id));
        for (id, p) in wanted {
            let hash = digest(&p.login_name);
            if self.users.insert(id, hash) != Some(hash) {
                out.user_profiles.push(p);
            }
        }
    }
}

fn own_node(s: &Snapshot, m: &Member, view: Option<&NodeView>) -> Node {
    let n = &m.node;
    let mut node = basics(s, m);
    node.machine = Some(n.machine);
    node.hostinfo = n.host.clone();
    node.endpoints.clone_from(&n.endpoints);
    node.online = None;
    node.last_seen = None;
    match view {
        Some(v) => {
            let allowed = s.compiled.own_allowed_ips(v.node);
            node.addresses = addresses(n, &allowed);
            node.primary_routes = s.compiled.primary_routes(v.node).collect();
            node.allowed_ips = allowed;
            node.cap_map = s.compiled.capabilities(v.node);
            remind(s, n, &mut node.cap_map);
        }
        // A key that has ended: the node keeps its addresses and has nobody to talk to.
        None => {
            node.addresses = vec![Prefix::host(n.ipv4), Prefix::host(n.ipv6)];
            node.allowed_ips.clone_from(&node.addresses);
        }
    }
    node
}

/// What a connector is told of its apps (tailcfg, `NodeCapability`).
const APPS: &str = "tailscale.com/app-connectors";

/// Adds to a connector's apps the addresses that it shall offer though it has not learned them, or has forgotten them:
/// official clients offer an app's `routes` as they are.
fn remind(s: &Snapshot, n: &crate::record::Node, caps: &mut BTreeMap<String, Value>) {
    let connectors: Vec<&Connector> = s.compiled.policy().connectors().collect();
    let mut all = reminded(n, &connectors);
    for app in caps.get_mut(APPS).and_then(Value::as_array_mut).into_iter().flatten() {
        let name = app.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(more) = all.remove(name).filter(|more| !more.is_empty()) else { continue };
        let Some(app) = app.as_object_mut() else { continue };
        let routes = app.entry("routes").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(routes) = routes.as_array_mut() {
            let more = more.iter().map(|p| Value::from(p.long()));
            let more: Vec<Value> = more.filter(|p| !routes.contains(p)).collect();
            routes.extend(more);
        }
    }
}

fn peer(s: &Snapshot, m: &Member, place: usize, allowed: Vec<Prefix>) -> Node {
    let mut node = basics(s, m);
    node.hostinfo = m.node.host.for_peers();
    node.addresses = addresses(&m.node, &allowed);
    node.primary_routes = s.compiled.primary_routes(place).filter(|p| allowed.contains(p)).collect();
    node.allowed_ips = allowed;
    node
}

/// What oneself and others are told alike.
fn basics(s: &Snapshot, m: &Member) -> Node {
    let n = &m.node;
    let derp = n.home_derp();
    Node {
        id: n.id,
        stable_id: n.stable.clone().unwrap_or_else(|| stable(n.id)),
        name: s.full_name(n),
        user: user_of(m),
        key: Some(n.key),
        key_expiry: n.expires.map(Timestamp),
        disco_key: n.disco,
        endpoints: n.endpoints.clone(),
        derp: if derp == 0 { String::new() } else { format!("127.3.3.40:{derp}") },
        home_derp: derp,
        created: Timestamp(n.created),
        cap: n.version,
        tags: n.tags.clone(),
        last_seen: (!m.online).then_some(Timestamp(n.seen)),
        online: Some(m.online),
        machine_authorized: true,
        expired: m.expired,
        ..Node::default()
    }
}

fn patchable(m: &Member) -> bool {
    !m.node.endpoints.is_empty() && m.node.home_derp() != 0
}

fn patch(m: &Member) -> PeerChange {
    PeerChange {
        node_id: m.node.id,
        derp_region: m.node.home_derp(),
        endpoints: m.node.endpoints.clone(),
        disco_key: m.node.disco,
        online: Some(m.online),
        last_seen: (!m.online).then_some(Timestamp(m.node.seen)),
    }
}

/// The form of the number that clients use as a name: it never changes for a node.
fn stable(id: u64) -> String {
    format!("n{id}CNTRL")
}

fn addresses(n: &crate::record::Node, allowed: &[Prefix]) -> Vec<Prefix> {
    [n.ipv4, n.ipv6].map(Prefix::host).into_iter().filter(|a| allowed.contains(a)).collect()
}

fn user_of(m: &Member) -> u64 {
    if m.node.is_tagged() { TAGGED } else { m.node.user.unwrap_or(TAGGED) }
}

impl Snapshot {
    /// Who a node belongs to, as people see it.
    #[must_use]
    pub fn profile_of(&self, node: u64) -> UserProfile {
        profile(self, self.nodes.get(&node).map_or(TAGGED, user_of))
    }
}

fn profile(s: &Snapshot, id: u64) -> UserProfile {
    match s.users.get(&id) {
        Some(u) => UserProfile { id, login_name: u.login().to_string(), display_name: u.name.clone() },
        None => UserProfile { id, login_name: "tagged-devices".into(), display_name: "Tagged devices".into() },
    }
}

fn ssh_of(s: &Snapshot, view: &NodeView) -> Option<Value> {
    let policy = s.compiled.ssh_policy(view.node, &s.settings.ssh_check);
    // The form of the wire is plain data: writing it as JSON does not fail.
    (!policy.rules.is_empty()).then(|| serde_json::to_value(&policy).unwrap_or_default())
}

/// Names as one node should look them up.
fn dns_of(s: &Snapshot, view: Option<&NodeView>, own_way: &OwnWay) -> DnsConfig {
    let resolver = |addr: &String| Resolver { addr: addr.clone() };
    // A node whose key has ended knows its own domain, and nothing of what lies in it.
    let Some(view) = view else {
        return DnsConfig { domains: own_domain(s), proxied: true, ..DnsConfig::default() };
    };
    let names: &Names = &s.names;
    let mut out = DnsConfig {
        resolvers: names.nameservers.iter().map(resolver).collect(),
        proxied: true,
        extra_records: names.records.clone(),
        ..DnsConfig::default()
    };
    out.domains = own_domain(s);
    out.domains.extend(names.search.iter().cloned());
    out.routes = names.split.iter().map(|(d, r)| (d.clone(), r.iter().map(resolver).collect())).collect();
    for (domain, places) in s.compiled.split_dns(view) {
        // A name that an app leaves out is asked of those who would be asked without the app. If nobody is named here,
        // the connector answers; no route comes of it.
        let left_out = || as_usual(names, domain).iter().map(resolver).collect();
        let far = |m: &&Member| !own_way.connectors.contains(&m.node.id);
        let learners = || places.iter().filter_map(|p| peer_api(s.at_place(*p).filter(far)?)).collect();
        let at: Vec<Resolver> = if places.is_empty() { left_out() } else { learners() };
        if !at.is_empty() {
            out.routes.insert(domain.to_string(), at);
        }
    }
    // Systems that ask the client for some domains alone (macOS, Windows, systemd-resolved) ask it for a name of our own
    // only if the name is such a domain. An empty list says that the client knows it; what lies below it is asked of
    // those who would be asked for it anyway.
    let own = own_domain(s);
    for record in &names.records {
        let name = record.name.trim_end_matches('.').to_ascii_lowercase();
        let below = |d: &str| name == d || name.strip_suffix(d).is_some_and(|head| head.ends_with('.'));
        if !own.iter().any(|d| below(d)) && !out.routes.keys().any(|d| below(d)) {
            let at = as_usual(names, &name).iter().map(resolver).collect();
            out.routes.insert(name, at);
        }
    }
    out
}

/// Who answers for a name without any app: the nearest domain's nameservers, else those for everything.
fn as_usual<'n>(names: &'n Names, name: &str) -> &'n [String] {
    let mut at = name.trim_end_matches('.');
    loop {
        if let Some(servers) = names.split.get(&at.to_ascii_lowercase()) {
            return servers;
        }
        match at.split_once('.') {
            Some((_, parent)) => at = parent,
            None => return &names.nameservers,
        }
    }
}

fn own_domain(s: &Snapshot) -> Vec<String> {
    Some(&s.settings.domain).filter(|d| !d.is_empty()).into_iter().cloned().collect()
}

/// Where a connector answers names: DNS over HTTP at its PeerAPI.
fn peer_api(m: &Member) -> Option<Resolver> {
    let url = |a: Addr, port: u16| {
        let host = if a.is_v4() { a.to_string() } else { format!("[{a}]") };
        Resolver { addr: format!("http://{host}:{port}/dns-query") }
    };
    let n = &m.node;
    let v4 = n.host.peer_api(true).map(|p| url(n.ipv4, p));
    v4.or_else(|| n.host.peer_api(false).map(|p| url(n.ipv6, p)))
}

/// Remembers a value by its digest; true if it is another one than before.
fn changed<T: serde::Serialize>(before: &mut u64, now: &T) -> bool {
    let mut h = Digest(DefaultHasher::new());
    // These values are plain data: writing them as JSON does not fail, and if it did they would count as new.
    let hash = serde_json::to_writer(&mut h, now).map_or(0, |()| h.0.finish()).max(1);
    std::mem::replace(before, hash) != hash
}

/// Takes in what is written.
struct Digest(DefaultHasher);

impl std::io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn digest<T: Hash>(value: &T) -> u64 {
    let mut h = DefaultHasher::new();
    value.hash(&mut h);
    h.finish()
}
