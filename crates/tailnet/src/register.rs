//! Who joins. In: a machine that has proved its key, what it asks, the time. Out: a node, a page to visit, or why not.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::record::{Node, PreAuthKey};
use addr::{Addr, SourceKey};
use api::AuditEvent;
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::Hostinfo;
use tailnet_proto::tailcfg::register::RegisterRequest;

use super::member::{Member, Pending};
use super::nodes::bounded;
use super::refusal::Refusal;
use super::registry::{NODE, Registry, Slot, V4, V6, is_tag};
use super::{names, pool};

/// Anybody who reaches the server can ask for a page: of the network that has most of them the oldest makes room.
const PENDING_MAX: usize = 1_000;
/// Of them from one address (IPv6: one /64): a school's laptops behind one address fit, and one untrusted peer does not push
/// out everybody else.
const PENDING_FROM_ONE: usize = 50;
/// Routes that a page remembers; the node tells all of them once it is in.
const PENDING_ROUTES: usize = 256;
/// Tags that a node may ask for.
const ASKED_TAGS: usize = 64;

/// What came of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It is this node and may ask for its map.
    Node(u64),
    /// A person has to approve it under this ticket.
    Waits(String),
    /// Its key has ended; it has to come with a new one.
    Ended,
    /// It has left.
    Left,
    /// It may not, with the reason for the person at the client.
    Refused(String),
}

/// Who a node will belong to.
struct Place {
    user: Option<u64>,
    tags: Vec<String>,
    ephemeral: bool,
    by_key: Option<u64>,
    /// The node that it is again.
    again: Option<u64>,
    /// True if it is that only because its pre-auth key was good for that one, and for no other.
    used_up: bool,
}

impl Registry {
    /// A machine registers a node. `proof` is the SHA-256, in hex, of the pre-auth key it brought; `ticket` names a new
    /// page, should it need one.
    pub fn register(
        &mut self,
        machine: MachineKey,
        ask: &RegisterRequest,
        proof: Option<&str>,
        ticket: &str,
        now: u64,
    ) -> Registered {
        let Some(key) = ask.node_key.filter(|k| !k.is_zero()) else {
            return Registered::Refused("a node key is missing".into());
        };
        let known = self.by_key.get(&key).and_then(|id| self.nodes.get(id)).map(|m| m.node.clone());
        if known.as_ref().is_some_and(|n| n.machine != machine) {
            self.audit_stranger(now, AuditEvent::KeyOfAnother, key.short(), machine.short());
            return Registered::Refused("this node key belongs to another machine".into());
        }
        if ask.logs_out(now) {
            if let Some(node) = known {
                self.leave(&node, now);
            }
            return Registered::Left;
        }
        if let Some(hash) = proof {
            return match self.join(machine, key, ask, hash, now) {
                Ok(id) => Registered::Node(id),
                Err(no) => {
                    self.audit_stranger(now, AuditEvent::JoinRefused, machine.short(), no.to_string());
                    Registered::Refused(no.to_string())
                }
            };
        }
        match known {
            Some(node) if node.expired(now) => Registered::Ended,
            Some(node) => Registered::Node(node.id),
            None => self.wait(machine, key, ask, ticket, now),
        }
    }

    /// A person approves who waits under a ticket.
    ///
    /// # Errors
    /// Nobody waits under it, there is no such user, or it asks for tags that are not the user's to give.
    pub fn approve(&mut self, ticket: &str, user: &str, by: &str, now: u64) -> Result<Arc<Node>, Refusal> {
        let Some(p) = self.pending.get(ticket).filter(|p| p.waits()).cloned() else {
            return Err(Refusal::NobodyWaits(ticket.to_string()));
        };
        let user = self.user_named(user)?.id;
        let tags = self.asked_tags(&p.host.request_tags, Some(user), &[])?;
        let again = self.rotated(p.machine, p.before, Some(user), &tags);
        let place = Place { user: Some(user), tags, ephemeral: p.ephemeral, by_key: None, again, used_up: false };
        let id = self.admit(p.machine, p.key, &p.host, p.version, place, by, now)?;
        if let Some(p) = self.pending.get_mut(ticket) {
            Arc::make_mut(p).node = Some(id);
        }
        self.numbered(id)
    }

    /// A person refuses who waits under a ticket.
    ///
    /// # Errors
    /// Nobody waits under it.
    pub fn refuse(&mut self, ticket: &str, by: &str, now: u64) -> Result<(), Refusal> {
        let Some(p) = self.pending.get_mut(ticket).filter(|p| p.waits()) else {
            return Err(Refusal::NobodyWaits(ticket.to_string()));
        };
        Arc::make_mut(p).refused = Some(now);
        let p = p.clone();
        self.changed = true;
        self.audit(now, AuditEvent::NodeRefused, p.machine.short(), by);
        Ok(())
    }

    fn join(
        &mut self,
        machine: MachineKey,
        node: NodeKey,
        ask: &RegisterRequest,
        hash: &str,
        now: u64,
    ) -> Result<u64, Refusal> {
        let key = self.keys.values().find(|k| k.hash == hash).cloned();
        let key = key.ok_or(Refusal::UnknownAuthKey)?;
        // A client repeats itself when it is started again with the key it joined with. That brings no second node, and
        // none back whose time was ended.
        let known = self.by_key.get(&node);
        let made = |n: &Node| n.machine == machine && n.by_key == Some(key.id) && !n.expired(now);
        let again = self.nodes.values().find(|m| made(&m.node)).map(|m| m.node.id);
        let again = again.filter(|id| known.is_none_or(|k| k == id));
        usable(&key, again.is_some(), now)?;
        let tags = self.asked_tags(&ask.hostinfo.request_tags, key.user, &key.tags)?;
        let ephemeral = key.ephemeral || ask.ephemeral;
        let only = again.filter(|_| !key.reusable);
        let same = only.or_else(|| self.rotated(machine, ask.old_node_key, key.user, &tags));
        let used_up = only.is_some();
        let place = Place { user: key.user, tags, ephemeral, by_key: Some(key.id), again: same, used_up };
        let id = self.admit(machine, node, &ask.hostinfo, ask.version, place, &format!("key {}", key.id), now)?;
        if again.is_none()
            && let Some(k) = self.keys.get_mut(&key.id)
        {
            k.used += 1;
            self.saves.insert(Slot::Key(key.id));
        }
        // Its page has no purpose any more: approving it would make a node that nobody is.
        self.pending.retain(|_, p| p.machine != machine || p.node.is_some());
        Ok(id)
    }

    /// The node that a machine logs in again with another key, by the key it says it had before: the same one as long as
    /// its user stays, or tags take it over from tags. It may gain or lose tags by that.
    fn rotated(&self, machine: MachineKey, before: Option<NodeKey>, user: Option<u64>, tags: &[String]) -> Option<u64> {
        let n = &self.of_machine(machine, before?)?.node;
        (n.user == user || (n.is_tagged() && !tags.is_empty())).then_some(n.id)
    }

    /// The tags a node gets: those of its key, or those it asks for if the key or the policy lets it.
    fn asked_tags(&self, asked: &[String], user: Option<u64>, of_key: &[String]) -> Result<Vec<String>, Refusal> {
        if asked.is_empty() {
            return Ok(of_key.to_vec());
        }
        if let Some(bad) = asked.iter().find(|t| !is_tag(t)) {
            return Err(Refusal::BadRequestedTag(bad.chars().take(60).collect()));
        }
        if asked.len() > ASKED_TAGS {
            return Err(Refusal::TooManyTags(ASKED_TAGS));
        }
        let mut tags: Vec<String> = asked.to_vec();
        tags.sort_unstable();
        tags.dedup();
        let owned = |t: &String| of_key.contains(t) || user.is_some_and(|u| self.may_tag(u, t));
        match tags.iter().find(|t| !owned(t)) {
            None => Ok(tags),
            Some(bad) => Err(Refusal::TagsNotPermitted { not_given: bad.clone(), asked: tags }),
        }
    }

    fn wait(&mut self, machine: MachineKey, key: NodeKey, ask: &RegisterRequest, ticket: &str, now: u64) -> Registered {
        let refused = self.pending.values().find(|p| p.machine == machine && p.refused.is_some());
        if let Some(p) = refused {
            let minutes = p.ends().saturating_sub(now).div_ceil(60);
            return Registered::Refused(format!(
                "an administrator has turned this device away; it may ask again in {minutes} minutes"
            ));
        }
        let mine = self.pending.values().find(|p| p.machine == machine && p.key == key && p.node.is_none());
        if let Some(p) = mine {
            return Registered::Waits(p.ticket.clone());
        }
        // One page a machine: its newest attempt is the one a person looks at.
        self.pending.retain(|_, p| p.machine != machine);
        while self.pending.len() >= PENDING_MAX {
            let Some(oldest) = self.makes_room() else { break };
            self.pending.remove(&oldest);
        }
        let p = Pending {
            ticket: ticket.to_string(),
            machine,
            key,
            host: of_stranger(&ask.hostinfo),
            ephemeral: ask.ephemeral,
            version: ask.version,
            from: None,
            since: now,
            before: ask.old_node_key,
            refused: None,
            node: None,
        };
        self.audit_stranger(now, AuditEvent::NodeWaits, ticket.to_string(), machine.short());
        self.pending.insert(ticket.to_string(), Arc::new(p));
        self.changed = true;
        Registered::Waits(ticket.to_string())
    }

    /// The page that makes room for another: whoever holds a /48 has thousands of sources, and pushes out its own.
    fn makes_room(&self) -> Option<String> {
        let network = |p: &Pending| p.from.and_then(|from| SourceKey::levels(from).last());
        let mut pages = BTreeMap::new();
        self.pending.values().for_each(|p| *pages.entry(network(p)).or_insert(0) += 1);
        let ranked = self.pending.values().map(|p| (pages.get(&network(p)), Reverse((p.since, &p.ticket))));
        ranked.max().map(|(_, Reverse((_, ticket)))| ticket.clone())
    }

    /// Where a waiting node asked from. The oldest pages of an address that asked for too many go.
    pub fn waits_from(&mut self, ticket: &str, from: Addr) {
        let Some(p) = self.pending.get_mut(ticket) else { return };
        Arc::make_mut(p).from = Some(from);
        let same = |p: &Pending| p.node.is_none() && p.from.is_some_and(|f| SourceKey::of(f) == SourceKey::of(from));
        let mut theirs: Vec<(u64, String)> =
            self.pending.values().filter(|p| same(p)).map(|p| (p.since, p.ticket.clone())).collect();
        // Tickets are random: of one second's pages any may be the oldest, but not the one just asked for.
        theirs.retain(|(_, t)| t != ticket);
        theirs.sort_unstable();
        let over = (theirs.len() + 1).saturating_sub(PENDING_FROM_ONE);
        for (_, t) in theirs.into_iter().take(over) {
            self.pending.remove(&t);
        }
    }

    /// Makes a node, or lets one that the same machine had at the same place go on with a new key.
    #[expect(clippy::too_many_arguments, reason = "who asks, what for, on whose word and when: no two belong together")]
    fn admit(
        &mut self,
        machine: MachineKey,
        key: NodeKey,
        host: &Hostinfo,
        version: u32,
        place: Place,
        by: &str,
        now: u64,
    ) -> Result<u64, Refusal> {
        let mut expires = if place.tags.is_empty() { self.settings.node_expiry.map(|s| now + s) } else { None };
        // With a key it had before it is that very node; else the one that its machine had at the same place.
        let place_of =
            |n: &Node| n.machine == machine && n.user == place.user && n.is_tagged() != place.tags.is_empty();
        let by_key = self.by_key.get(&key).and_then(|id| self.nodes.get(id));
        if by_key.is_some_and(|m| m.node.machine != machine) {
            return Err(Refusal::NodeKeyOfAnother);
        }
        let again = place.again.and_then(|id| self.nodes.get(&id));
        let old = by_key.or(again).or_else(|| self.nodes.values().find(|m| place_of(&m.node)));
        if let Some(old) = old.map(|m| m.node.clone()) {
            // A key that is used up gives no new time.
            if place.used_up && !old.is_tagged() && place.tags.is_empty() {
                expires = old.expires;
            }
            self.by_key.remove(&old.key);
            self.by_key.insert(key, old.id);
            self.edit(old.id, |n| {
                n.key = key;
                n.user = place.user;
                n.tags = place.tags;
                n.ephemeral = place.ephemeral;
                n.by_key = place.by_key.or(n.by_key);
                n.expires = expires;
                n.version = version;
            });
            self.take_host(old.id, host);
            self.recompile = true;
            self.audit_member(now, AuditEvent::NodeRejoined, old.name.clone(), by);
            return Ok(old.id);
        }
        let (ipv4, ipv6) = self.addresses(place.user, &place.tags)?;
        let id = self.count(NODE);
        let host = bounded(host);
        let name = names::unique(&names::label(&host.hostname), |n| self.is_taken(n, id));
        let node = Node {
            id,
            machine,
            key,
            disco: None,
            user: place.user,
            tags: place.tags,
            name: name.clone(),
            named: false,
            ipv4,
            ipv6,
            created: now,
            seen: now,
            expires,
            ephemeral: place.ephemeral,
            by_key: place.by_key,
            version,
            host,
            endpoints: Vec::new(),
            approved: Vec::new(),
            revoked: Vec::new(),
            learnt: Vec::new(),
            stable: None,
        };
        self.revision += 1;
        self.by_key.insert(key, id);
        self.nodes.insert(id, Member::new(Arc::new(node), self.revision));
        self.saves.insert(Slot::Node(id));
        self.recompile = true;
        self.changed = true;
        self.audit(now, AuditEvent::NodeJoined, name, by);
        Ok(id)
    }

    /// The next free addresses, IPv4 from the pool that the policy names for such a node, if it names one.
    pub(crate) fn addresses(
        &mut self,
        user: Option<u64>,
        tags: &[String],
    ) -> Result<(addr::Addr, addr::Addr), Refusal> {
        let pools = self.settings.pools;
        let taken = |a| self.nodes.values().any(|m| m.node.ipv4 == a || m.node.ipv6 == a);
        let named = self.named_pools(user, tags);
        let v4 = match named.iter().find_map(|p| pool::next(*p, 0, taken)) {
            Some((addr, _)) => addr,
            None if named.is_empty() => {
                let (addr, next) = pool::next(pools.v4, self.counters[V4], taken).ok_or(Refusal::PoolFull(pools.v4))?;
                self.counters[V4] = next;
                addr
            }
            None => return Err(Refusal::NamedPoolFull),
        };
        let taken = |a| self.nodes.values().any(|m| m.node.ipv6 == a);
        let (v6, next) = pool::next(pools.v6, self.counters[V6], taken).ok_or(Refusal::PoolFull(pools.v6))?;
        self.counters[V6] = next;
        self.saves.insert(Slot::Counters);
        Ok((v4, v6))
    }

    fn named_pools(&self, user: Option<u64>, tags: &[String]) -> Vec<addr::Prefix> {
        let Some(compiled) = &self.compiled else { return Vec::new() };
        let place = user.and_then(|u| self.users.keys().position(|id| *id == u));
        let node = policy::Node { user: place, tags: tags.to_vec(), ..policy::Node::default() };
        compiled.ip_pool(&node).into_iter().filter(|p| p.is_v4()).collect()
    }

    fn leave(&mut self, node: &Node, now: u64) {
        if node.expired(now) && !node.ephemeral {
            return;
        }
        self.audit_member(now, AuditEvent::NodeLeft, node.name.clone(), "logout");
        if node.ephemeral {
            self.remove(node.id);
        } else {
            // Whatever the clock will say.
            self.edit(node.id, |n| n.expires = Some(n.created.min(now)));
            self.recompile = true;
        }
    }
}

/// What a page and its approval need of a host: anybody can ask for a page.
fn of_stranger(host: &Hostinfo) -> Hostinfo {
    let mut host = bounded(host);
    host.services = Vec::new();
    host.ssh_host_keys = Vec::new();
    host.routable_ips.truncate(PENDING_ROUTES);
    host.routable_ips.shrink_to_fit();
    host
}

fn usable(key: &PreAuthKey, again: bool, now: u64) -> Result<(), Refusal> {
    if key.revoked {
        return Err(Refusal::AuthKeyRevoked);
    }
    if key.expires.is_some_and(|e| e <= now) {
        return Err(Refusal::AuthKeyExpired);
    }
    if key.used > 0 && !key.reusable && !again {
        return Err(Refusal::AuthKeyUsed);
    }
    Ok(())
}
