//! The network of another coordination server taken over. In: what a Headscale server keeps, as its columns say it. Out:
//! users, keys, nodes, routes, names and policy in the registry under the numbers they had; what has no counterpart here,
//! one by one, with the reason; or what stands against it, and nothing is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use addr::{Addr, Prefix};
use api::AuditEvent;
use tailnet_proto::meshkey::DiscoKey;
use tailnet_proto::tailcfg::host::Hostinfo;

use super::member::Member;
use super::names;
use super::nodes::bounded;
use super::refusal::Refusal;
use super::registry::{KEY, NODE, Registry, Slot, USER, is_tag};
use crate::record::{BcryptHash, Names, Node, PreAuthKey, User};

/// Everything that is taken over.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// People.
    pub users: Vec<ForeignUser>,
    /// Pre-auth keys.
    pub keys: Vec<ForeignKey>,
    /// Nodes.
    pub nodes: Vec<ForeignNode>,
    /// The policy's text.
    pub policy: Option<String>,
    /// Who knows names.
    pub names: Names,
    /// True if tags that a node asked for count as far as the policy gives them: Headscale before 0.28 kept them in no
    /// column of their own.
    pub asked_tags: bool,
}

/// A user there.
#[derive(Debug, Clone, Default)]
pub struct ForeignUser {
    /// Its number.
    pub id: u64,
    /// Short name.
    pub name: String,
    /// Address; empty for none.
    pub email: String,
    /// What an identity provider calls it; empty for none.
    pub identity: String,
    /// When it was made, seconds since the Unix epoch.
    pub created: u64,
}

/// How a key is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// SHA-256 of the whole key, hex.
    Sha256(String),
    /// What follows its first letters, hashed by bcrypt.
    Bcrypt(BcryptHash),
}

/// A pre-auth key there.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// Its number.
    pub id: u64,
    /// Whose nodes.
    pub user: Option<u64>,
    /// How it is proved; nothing if the row does not say.
    pub proof: Option<Proof>,
    /// True if more than one node may use it.
    pub reusable: bool,
    /// True if its nodes are forgotten when they go.
    pub ephemeral: bool,
    /// True if a node has used it.
    pub used: bool,
    /// True if it was taken back.
    pub revoked: bool,
    /// Tags of its nodes.
    pub tags: Vec<String>,
    /// When it was made, seconds since the Unix epoch.
    pub created: u64,
    /// When it ends.
    pub expires: Option<u64>,
}

/// A node there, as its columns say it.
#[derive(Debug, Clone, Default)]
pub struct ForeignNode {
    /// Its number.
    pub id: u64,
    /// `mkey:…`.
    pub machine: String,
    /// `nodekey:…`.
    pub key: String,
    /// `discokey:…`.
    pub disco: String,
    /// Addresses and ports, as a JSON list.
    pub endpoints: String,
    /// What it says of its host, as JSON.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What it calls itself.
    pub hostname: String,
    /// Its name in the network.
    pub given_name: String,
    /// Whose.
    pub user: Option<u64>,
    /// Its tags.
    pub tags: Vec<String>,
    /// The key it came with.
    pub by_key: Option<u64>,
    /// When it joined, seconds since the Unix epoch.
    pub created: u64,
    /// When it was last there.
    pub seen: Option<u64>,
    /// When its key ends.
    pub expires: Option<u64>,
    /// Routes that were approved.
    pub approved: Vec<String>,
}

/// What is not taken over as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCarried {
    /// What.
    pub what: String,
    /// Why, and what happens instead.
    pub why: String,
}

/// What was taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Users, keys, nodes, approved routes.
    pub counts: [usize; 4],
    /// Nodes: name, owner, addresses.
    pub nodes: Vec<(String, String, [Addr; 2])>,
    /// What was not.
    pub not: Vec<NotCarried>,
}

/// Why nothing was taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Something is here already, or twice there. One line each.
    #[error("{} collide: {}", amount(.0.len()), .0.join("; "))]
    Collisions(Vec<String>),
    /// The policy is none that is taken here.
    #[error("the policy: {0}")]
    Policy(Refusal),
    /// There is no address for a node.
    #[error("{0}")]
    Address(Refusal),
}

fn amount(n: usize) -> String {
    if n == 1 { "one thing".into() } else { format!("{n} things") }
}

/// In the place of an address until there is one.
fn none() -> Addr {
    std::net::IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED).into()
}

/// The taking over, one step after the other.
struct Import<'r> {
    registry: &'r mut Registry,
    out: Carried,
    collisions: Vec<String>,
    now: u64,
}

impl Registry {
    /// Takes a network over. `by` is who says so, `from` what it was; both go on record.
    ///
    /// # Errors
    /// Something collides, the policy is refused, or there is no address left. The registry is of no use then: it is
    /// thrown away, and nothing was saved.
    pub fn import(&mut self, network: &Network, from: &str, by: &str, now: u64) -> Result<Carried, ImportError> {
        let mut import = Import { registry: self, out: Carried::default(), collisions: Vec::new(), now };
        network.users.iter().for_each(|u| import.user(u));
        network.keys.iter().for_each(|k| import.key(k));
        if let Some(text) = &network.policy {
            import.policy(text, by)?;
        }
        let mut lacking = Vec::new();
        for n in &network.nodes {
            lacking.extend(import.node(n, network.asked_tags));
        }
        import.names(&network.names, by);
        import.addresses(&lacking)?;
        let Import { out, collisions, registry, .. } = import;
        if !collisions.is_empty() {
            return Err(ImportError::Collisions(collisions));
        }
        // Its tests speak of users and nodes that are only here now. One that fails says that the policy means something
        // else here than it meant there.
        let faults = registry.policy_faults();
        if !faults.is_empty() {
            return Err(ImportError::Policy(Refusal::PolicyTests(faults)));
        }
        registry.saves.insert(Slot::Counters);
        registry.recompile = true;
        registry.changed = true;
        let [users, keys, nodes, routes] = out.counts;
        let about = format!("{from}: {users} users, {keys} keys, {nodes} nodes, {routes} approved routes");
        registry.audit(now, AuditEvent::Imported, about, by);
        Ok(out)
    }

    /// True if nobody and nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.keys.is_empty() && self.nodes.is_empty() && self.policy_text().is_none()
    }

    /// The hash of a key that another server made, by what its letters begin with.
    #[must_use]
    pub fn foreign_key<'k>(keys: impl IntoIterator<Item = &'k PreAuthKey>, secret: &str) -> Option<&'k BcryptHash> {
        let (prefix, _) = BcryptHash::split(secret)?;
        keys.into_iter().filter_map(|k| k.bcrypt.as_ref()).find(|b| b.prefix == prefix)
    }

    /// Somebody has proved a key that another server made: from now on it is one of ours, known by the SHA-256 of the
    /// whole (hex).
    pub fn proved_foreign_key(&mut self, prefix: &str, sha256: &str) {
        let found = self.keys.values_mut().find(|k| k.bcrypt.as_ref().is_some_and(|b| b.prefix == prefix));
        if let Some(key) = found {
            key.bcrypt = None;
            key.hash = sha256.to_string();
            self.saves.insert(Slot::Key(key.id));
            self.changed = true;
        }
    }
}

impl Import<'_> {
    fn not(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.out.not.push(NotCarried { what: what.into(), why: why.into() });
    }

    fn user(&mut self, u: &ForeignUser) {
        let shown = if u.email.is_empty() { u.name.clone() } else { format!("{} ({})", u.name, u.email) };
        // There a name may hold what is no name here; a person at a provider is known by its address.
        let name = if u.email.is_empty() { u.name.as_str() } else { u.email.as_str() };
        let name = if name.is_empty() { format!("user-{}", u.id) } else { name.to_string() };
        if let Some(there) = self.registry.users.get(&u.id) {
            self.collisions.push(format!("user {} is {} there and {} here", u.id, shown, there.login()));
            return;
        }
        match self.registry.free_user(&name, None) {
            Ok((short, email)) => {
                // `ada@` stands for the short name in policies; it may differ from what is before the address's `@`.
                let short = if u.name.is_empty() || u.name.contains('@') { short } else { u.name.clone() };
                let user = User { id: u.id, name: short, email, role: None, created: u.created };
                self.registry.users.insert(u.id, user);
                self.registry.saves.insert(Slot::User(u.id));
                self.registry.counters[USER] = self.registry.counters[USER].max(u.id);
                self.out.counts[0] += 1;
            }
            Err(why) => self.collisions.push(format!("user {} ({shown}): {why}", u.id)),
        }
        if !u.identity.is_empty() {
            self.not(
                format!("user {shown}: identity {}", u.identity),
                "nobody logs in by OpenID Connect here: the name stays, and new nodes of this person join with a key or are approved",
            );
        }
    }

    fn key(&mut self, k: &ForeignKey) {
        let what = format!("pre-auth key {}", k.id);
        let tags: Vec<String> = k.tags.iter().filter(|t| is_tag(t)).cloned().collect();
        if tags.len() < k.tags.len() {
            self.not(format!("{what}: tags {}", k.tags.join(" ")), "those that are no tags here are left out");
        }
        if tags.is_empty() && !k.tags.is_empty() {
            return self.not(what, "none of its tags is possible here, and without them its nodes would be its user's");
        }
        let user = k.user.filter(|u| self.registry.users.contains_key(u));
        let Some(proof) = &k.proof else {
            return self.not(what, "its row holds neither the key nor a hash of it");
        };
        if user.is_none() && tags.is_empty() {
            return self.not(what, "it belongs to no user that is there, and has no tags");
        }
        if matches!(proof, Proof::Bcrypt(b) if !b.is_bearable()) {
            return self.not(what, "its hash is none of bcrypt with at most 14 rounds");
        }
        let (hash, bcrypt) = match proof {
            Proof::Sha256(hash) => (hash.clone(), None),
            Proof::Bcrypt(b) => (String::new(), Some(b.clone())),
        };
        let same = |o: &PreAuthKey| {
            (!hash.is_empty() && o.hash == hash)
                || bcrypt.as_ref().is_some_and(|b| o.bcrypt.as_ref().is_some_and(|o| o.prefix == b.prefix))
        };
        if self.registry.keys.contains_key(&k.id) {
            return self.collisions.push(format!("pre-auth key {} is there and here", k.id));
        }
        if let Some(other) = self.registry.keys.values().find(|o| same(o)) {
            return self.collisions.push(format!("pre-auth keys {} and {} have one secret", other.id, k.id));
        }
        let key = PreAuthKey {
            id: k.id,
            user,
            hash,
            bcrypt,
            reusable: k.reusable,
            ephemeral: k.ephemeral,
            tags,
            created: k.created,
            expires: k.expires,
            used: u64::from(k.used),
            revoked: k.revoked,
        };
        self.registry.keys.insert(k.id, key);
        self.registry.saves.insert(Slot::Key(k.id));
        self.registry.counters[KEY] = self.registry.counters[KEY].max(k.id);
        self.out.counts[1] += 1;
    }

    fn policy(&mut self, text: &str, by: &str) -> Result<(), ImportError> {
        match self.registry.policy_text() {
            Some(here) if here != text => self.collisions.push("there is a policy there and another one here".into()),
            Some(_) => {}
            // Words that only some versions take are refused here, not in force one day and unreadable the next.
            None => {
                policy::Policy::parse(text).map_err(|e| ImportError::Policy(Refusal::Policy(e)))?;
                self.registry.begin_with_policy(text, by, self.now).map_err(ImportError::Policy)?;
            }
        }
        Ok(())
    }

    /// Takes a node over. Returns its number if it lacks an address.
    fn node(&mut self, n: &ForeignNode, asked_tags: bool) -> Option<u64> {
        let called = if n.given_name.is_empty() { &n.hostname } else { &n.given_name };
        let what = format!("node {} ({called})", n.id);
        let (Ok(machine), Ok(key)) = (n.machine.parse(), n.key.parse()) else {
            self.not(what, "its machine key or its node key is none: it has to join anew");
            return None;
        };
        let host = self.host(n, &what);
        let user = n.user.filter(|u| self.registry.users.contains_key(u));
        let Some(tags) = self.tags(n, &host, user, asked_tags, &what) else {
            self.not(
                what,
                "none of its tags is possible here, and without them it would be its user's: it has to join anew",
            );
            return None;
        };
        if user.is_none() && tags.is_empty() {
            self.not(what, "it belongs to no user that is there, and has no tags");
            return None;
        }
        if let Some(here) = self.registry.nodes.get(&n.id) {
            self.collisions.push(format!("{what} has the number of {} here", here.node.name));
            return None;
        }
        if let Some(other) = self.registry.by_key.get(&key) {
            self.collisions.push(format!("{what} has the node key of node {other}"));
            return None;
        }
        let name = self.name(n, &what);
        let (ipv4, ipv6) = self.own_addresses(n, &what);
        let key_of = n.by_key.and_then(|k| self.registry.keys.get(&k));
        let node = Node {
            id: n.id,
            machine,
            key,
            disco: n.disco.parse().ok().filter(|d: &DiscoKey| !d.is_zero()),
            user,
            tags,
            named: name != names::label(&host.hostname),
            name,
            ipv4: ipv4.unwrap_or(none()),
            ipv6: ipv6.unwrap_or(none()),
            created: n.created,
            seen: n.seen.unwrap_or(n.created),
            expires: n.expires,
            ephemeral: key_of.is_some_and(|k| k.ephemeral),
            by_key: key_of.map(|k| k.id),
            version: 0,
            endpoints: self.endpoints(n),
            approved: self.routes(n, &what),
            host,
            revoked: Vec::new(),
            learnt: Vec::new(),
            stable: Some(n.id.to_string()),
        };
        self.out.counts[2] += 1;
        self.out.counts[3] += node.approved.len();
        let registry = &mut *self.registry;
        registry.counters[NODE] = registry.counters[NODE].max(n.id);
        registry.by_key.insert(key, n.id);
        registry.revision += 1;
        registry.nodes.insert(n.id, Member::new(Arc::new(node), registry.revision));
        registry.saves.insert(Slot::Node(n.id));
        (ipv4.is_none() || ipv6.is_none()).then_some(n.id)
    }

    fn host(&mut self, n: &ForeignNode, what: &str) -> Hostinfo {
        let host = match n.host.trim() {
            "" | "null" => Ok(Hostinfo::default()),
            text => serde_json::from_str::<Hostinfo>(text),
        };
        let mut host = host.unwrap_or_else(|_| {
            self.not(format!("{what}: what it says of its host"), "it cannot be read; the node says it again");
            Hostinfo::default()
        });
        if host.hostname.is_empty() {
            host.hostname.clone_from(&n.hostname);
        }
        bounded(&host)
    }

    /// The tags of a node; nothing if it has some there of which none is possible here.
    fn tags(
        &mut self,
        n: &ForeignNode,
        host: &Hostinfo,
        user: Option<u64>,
        asked: bool,
        what: &str,
    ) -> Option<Vec<String>> {
        let (mut tags, mut not) = (BTreeSet::new(), Vec::new());
        for t in &n.tags {
            if is_tag(t) {
                tags.insert(t.clone());
            } else {
                not.push(t.as_str());
            }
        }
        if !not.is_empty() {
            let not = not.join(" ");
            self.not(format!("{what}: {not}"), "that is no tag here");
        }
        for t in host.request_tags.iter().filter(|t| asked && !tags.contains(*t)).collect::<Vec<_>>() {
            if is_tag(t) && user.is_some_and(|u| self.registry.may_tag(u, t)) {
                tags.insert(t.clone());
            } else {
                self.not(
                    format!("{what}: {t}, which it asked for"),
                    "`tagOwners` of the policy does not give it to its user",
                );
            }
        }
        (!tags.is_empty() || n.tags.is_empty()).then(|| tags.into_iter().collect())
    }

    fn name(&mut self, n: &ForeignNode, what: &str) -> String {
        let want = match names::given(&n.given_name) {
            Ok(name) => name.to_string(),
            Err(_) => names::label(if n.given_name.is_empty() { &n.hostname } else { &n.given_name }),
        };
        let name = names::unique(&want, |name| self.registry.is_taken(name, n.id));
        if name != n.given_name && !n.given_name.is_empty() {
            self.not(format!("{what}: its name"), format!("it is called {name} here"));
        }
        name
    }

    fn own_addresses(&mut self, n: &ForeignNode, what: &str) -> (Option<Addr>, Option<Addr>) {
        let (mut v4, mut v6) = (None, None);
        for text in n.addresses.iter().filter(|t| !t.is_empty()) {
            let Ok(addr) = text.parse::<Addr>() else {
                self.not(format!("{what}: {text}"), "that is no address");
                continue;
            };
            let taken = self.registry.nodes.values().find(|m| m.node.ipv4 == addr || m.node.ipv6 == addr);
            if let Some(m) = taken {
                self.collisions.push(format!("{what} has the address {addr} of {}", m.node.name));
            }
            let pools = self.registry.settings.pools;
            if !pools.v4.contains(addr) && !pools.v6.contains(addr) {
                self.not(
                    format!("{what}: {addr} lies outside of {} and {}", pools.v4, pools.v6),
                    "the node keeps it; start the server with prefixes that hold it, or it may be routed elsewhere",
                );
            }
            let place = if addr.is_v4() { &mut v4 } else { &mut v6 };
            *place = Some(addr);
        }
        (v4, v6)
    }

    fn endpoints(&self, n: &ForeignNode) -> Vec<SocketAddr> {
        // They are old when the server starts, and each node tells them again.
        let all: Vec<String> = serde_json::from_str::<Option<_>>(&n.endpoints).ok().flatten().unwrap_or_default();
        all.iter().filter_map(|t| t.parse().ok()).take(super::nodes::MAX_ENDPOINTS).collect()
    }

    fn routes(&mut self, n: &ForeignNode, what: &str) -> Vec<Prefix> {
        let mut out = BTreeSet::new();
        for text in &n.approved {
            match text.parse::<Prefix>() {
                Ok(p) if p.bits() > 0 && self.registry.settings.pools.hold(p) => {
                    self.not(format!("{what}: route {p}"), "it lies in the network itself, where nobody routes");
                }
                Ok(p) => drop(out.insert(p)),
                Err(_) => self.not(format!("{what}: route {text}"), "that is no prefix"),
            }
        }
        out.into_iter().collect()
    }

    fn names(&mut self, names: &Names, by: &str) {
        let mut good = Names::default();
        let server = |t: &String| {
            let addr = t.parse::<Addr>().is_ok_and(|a| !a.ip().is_unspecified());
            addr || t.strip_prefix("https://").is_some_and(|rest| !rest.trim_matches('/').is_empty())
        };
        let mut not = Vec::new();
        let mut servers = |all: &[String]| {
            let (good, bad): (Vec<String>, Vec<String>) = all.iter().cloned().partition(server);
            not.extend(bad);
            good
        };
        good.nameservers = servers(&names.nameservers);
        let split: BTreeMap<&String, Vec<String>> = names.split.iter().map(|(d, s)| (d, servers(s))).collect();
        for bad in not {
            self.not(format!("nameserver {bad}"), "a nameserver is an address or an https URL here");
        }
        for (domain, servers) in split {
            match names::domain_name(domain) {
                Ok(domain) if !servers.is_empty() => drop(good.split.insert(domain, servers)),
                Ok(_) => self.not(format!("split DNS of {domain}"), "it has no nameserver"),
                Err(why) => self.not(format!("split DNS of {domain}"), format!("that {why}")),
            }
        }
        for domain in &names.search {
            match names::domain_name(domain) {
                Ok(domain) => good.search.push(domain),
                Err(why) => self.not(format!("search domain {domain}"), format!("that {why}")),
            }
        }
        for r in &names.records {
            let name = names::domain_name(&r.name).map_err(str::to_string);
            let name = name.and_then(|n| self.registry.free_name(&n).map_err(|e| e.to_string()));
            match (name, r.value.parse::<Addr>()) {
                (Ok(name), Ok(addr)) if ["", "A", "AAAA"].contains(&r.r#type.as_str()) => {
                    let kind = if addr.is_v4() { "A" } else { "AAAA" };
                    let value = addr.to_string();
                    good.records.push(tailnet_proto::tailcfg::map::DnsRecord { name, r#type: kind.into(), value });
                }
                (Err(why), _) => self.not(format!("record {}", r.name), why),
                _ => self.not(format!("record {} {} {}", r.name, r.r#type, r.value), "only A and AAAA are known here"),
            }
        }
        let here = self.registry.names();
        if good == Names::default() || *here == good {
            return;
        }
        if *here != Names::default() {
            self.collisions.push("nameservers, search domains or records are set there and here".into());
            return;
        }
        self.registry.set_names(good, by, self.now);
    }

    /// Gives addresses to nodes that had one family only.
    fn addresses(&mut self, lacking: &[u64]) -> Result<(), ImportError> {
        for id in lacking {
            let Some(m) = self.registry.nodes.get(id) else { continue };
            let node = m.node.clone();
            let (v4, v6) = self.registry.addresses(node.user, &node.tags).map_err(ImportError::Address)?;
            let mut given = Vec::new();
            self.registry.edit(*id, |n| {
                for (own, free) in [(&mut n.ipv4, v4), (&mut n.ipv6, v6)] {
                    if *own == none() {
                        *own = free;
                        given.push(free.to_string());
                    }
                }
            });
            self.not(
                format!("node {id} ({}): one address only", node.name),
                format!("it gets {}", given.join(" and ")),
            );
        }
        for m in self.registry.nodes.values() {
            let owner = m.node.user.and_then(|u| self.registry.users.get(&u)).map(|u| u.login().to_string());
            let owner = if m.node.is_tagged() { m.node.tags.join(" ") } else { owner.unwrap_or_default() };
            self.out.nodes.push((m.node.name.clone(), owner, [m.node.ipv4, m.node.ipv6]));
        }
        Ok(())
    }
}
