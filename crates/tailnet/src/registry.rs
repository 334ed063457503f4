//! The registry itself: what there is, what has changed since it was last saved, and its clock. In: records of the store,
//! and whoever writes. Out: what to save, audit lines, snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::record::{Names, Node, PreAuthKey, User};
use addr::{Addr, Prefix};
use api::AuditEvent;
use tailnet_proto::meshkey::{MachineKey, NodeKey};

use super::member::{Member, Pending};
use super::pool::Pools;
use super::refusal::Refusal;
use policy::{Compiled, Outcome, Policy, Problem};

/// What is configured, and not stored.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where addresses come from.
    pub pools: Pools,
    /// The network's own domain, such as `mesh.internal`.
    pub domain: String,
    /// Seconds after which a person's node has to log in again; `None` for never.
    pub node_expiry: Option<u64>,
    /// Seconds after which a learned address goes that its name does not answer with; `None` for never.
    pub app_expiry: Option<u64>,
    /// Routes of one app at one connector, at most; `None` for [`super::APP_ROUTES`].
    pub app_routes: Option<u32>,
    /// Where an SSH server asks whether a login has to be confirmed.
    pub ssh_check: String,
}

/// A thing that is saved on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// A user.
    User(u64),
    /// A pre-auth key.
    Key(u64),
    /// A node.
    Node(u64),
    /// The policy.
    Policy,
    /// Names.
    Names,
    /// What numbers were given out.
    Counters,
}

/// What a slot holds now; `None`: it is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Saved {
    /// A user.
    User(User),
    /// A pre-auth key.
    Key(PreAuthKey),
    /// A node.
    Node(Arc<Node>),
    /// The policy's text.
    Policy(String),
    /// Names.
    Names(Names),
    /// Numbers given out: users, keys, nodes, IPv4, IPv6.
    Counters([u64; 5]),
}

/// Something that happened and that somebody may ask about later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// What it is.
    pub what: AuditEvent,
    /// What it happened to.
    pub about: String,
    /// By whom, or why.
    pub by: String,
}

/// Names that are shown to somebody who mistyped one.
pub(crate) const NAMES_SHOWN: usize = 20;

/// How long a node that has left counts as being there: longer than a client needs to come back after its network has
/// changed, short enough that another router takes over in time.
pub(crate) const OFFLINE_GRACE: u64 = 4;
/// After a start nodes count as being there until they had time to come back: no route moves because of a restart.
pub(crate) const GRACE_AT_START: u64 = 60;
/// An ephemeral node is forgotten when it has been away this long.
pub(crate) const EPHEMERAL_AWAY: u64 = 300;

/// Audit lines a minute about untrusted peers: a person who sets up a school's laptops does not reach it, a flood does not
/// fill the disk.
const STRANGERS: u32 = 60;
/// The same for what members do by themselves, such as logging in again: a thousand that come back together are seen.
const MEMBERS: u32 = 1_000;

/// Whether a node is connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence {
    /// Its map streams.
    pub(crate) streams: BTreeSet<u64>,
    /// Where it came from last.
    pub(crate) from: Option<Addr>,
    /// When its last stream ended, or when the server started.
    pub(crate) left: u64,
    /// Until when it counts as connected without a stream.
    pub(crate) until: u64,
    /// True if it has not answered when asked.
    pub(crate) silent: bool,
    /// The routes it offered when it last told what it has learned.
    pub(crate) heard: BTreeSet<Prefix>,
}

/// The registry. One owner writes; what it hands out is never changed.
#[derive(Debug)]
pub struct Registry {
    pub(crate) settings: Settings,
    pub(crate) users: BTreeMap<u64, User>,
    pub(crate) keys: BTreeMap<u64, PreAuthKey>,
    pub(crate) nodes: BTreeMap<u64, Member>,
    pub(crate) by_key: BTreeMap<NodeKey, u64>,
    pub(crate) pending: BTreeMap<String, Arc<Pending>>,
    pub(crate) presence: BTreeMap<u64, Presence>,
    pub(crate) names: Arc<Names>,
    policy_text: Option<String>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) counters: [u64; 5],
    pub(crate) saves: BTreeSet<Slot>,
    pub(crate) audits: Vec<Audit>,
    /// Counts up with every change that a map may show, so that it knows what it has told already.
    pub(crate) revision: u64,
    /// Nodes, users or the policy are no longer what was compiled.
    pub(crate) recompile: bool,
    pub(crate) changed: bool,
    pub(crate) generation: u64,
    pub(crate) compiled: Option<Arc<Compiled>>,
    pub(crate) primaries: BTreeMap<Prefix, String>,
    /// What snapshots share of `by_key`.
    pub(crate) shared_keys: Option<Arc<BTreeMap<NodeKey, u64>>>,
    /// What untrusted peers did in a minute, and what members did again and again.
    strangers: (u64, u32),
    members: (u64, u32),
}

/// The policy when there is none: everything in one's own network is reachable.
pub const OPEN: &str = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#;

/// The policy that lets nobody through: a section of rules without any.
const SHUT: &str = r#"{"grants": []}"#;

/// The role of whom the network belongs to.
const OWNER: &str = "owner";

/// Places of the counters.
pub(crate) const USER: usize = 0;
pub(crate) const KEY: usize = 1;
pub(crate) const NODE: usize = 2;
pub(crate) const V4: usize = 3;
pub(crate) const V6: usize = 4;

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(settings: Settings) -> Registry {
        Registry {
            settings,
            users: BTreeMap::new(),
            keys: BTreeMap::new(),
            nodes: BTreeMap::new(),
            by_key: BTreeMap::new(),
            pending: BTreeMap::new(),
            presence: BTreeMap::new(),
            names: Arc::default(),
            policy_text: None,
            policy: Arc::new(open()),
            counters: [0; 5],
            saves: BTreeSet::new(),
            audits: Vec::new(),
            revision: 0,
            recompile: true,
            changed: true,
            generation: 0,
            compiled: None,
            primaries: BTreeMap::new(),
            shared_keys: None,
            strangers: (0, 0),
            members: (0, 0),
        }
    }

    /// Takes in what was saved, at a start.
    ///
    /// # Errors
    /// A saved policy that this version cannot read, or a node twice. What earlier versions took, is kept in force.
    pub fn load(&mut self, saved: Saved, now: u64) -> Result<(), Refusal> {
        match saved {
            Saved::User(u) => drop(self.users.insert(u.id, u)),
            Saved::Key(k) => drop(self.keys.insert(k.id, k)),
            Saved::Node(n) => {
                if let Some(other) = self.by_key.insert(n.key, n.id) {
                    return Err(Refusal::SameNodeKey(other, n.id));
                }
                let until = now + GRACE_AT_START;
                self.presence.insert(n.id, Presence { left: now, until, ..Presence::default() });
                self.revision += 1;
                self.nodes.insert(n.id, Member::new(n, self.revision));
            }
            Saved::Policy(text) => {
                self.policy = Arc::new(parse_in_force(&text)?.0);
                self.policy_text = Some(text);
            }
            Saved::Names(n) => self.names = Arc::new(n),
            Saved::Counters(c) => self.counters = c,
        }
        self.recompile = true;
        self.changed = true;
        Ok(())
    }

    /// What a slot holds.
    #[must_use]
    pub fn saved(&self, slot: Slot) -> Option<Saved> {
        match slot {
            Slot::User(id) => self.users.get(&id).cloned().map(Saved::User),
            Slot::Key(id) => self.keys.get(&id).cloned().map(Saved::Key),
            Slot::Node(id) => self.nodes.get(&id).map(|m| Saved::Node(m.node.clone())),
            Slot::Policy => self.policy_text.clone().map(Saved::Policy),
            Slot::Names => Some(Saved::Names((*self.names).clone())),
            Slot::Counters => Some(Saved::Counters(self.counters)),
        }
    }

    /// What has to be saved since it was last asked.
    pub fn take_saves(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.saves)
    }

    /// What happened since it was last asked.
    pub fn take_audits(&mut self) -> Vec<Audit> {
        std::mem::take(&mut self.audits)
    }

    /// Makes a thing what was saved of it (`None`: nothing), without a word on record: a change that could not be saved.
    /// Numbers that were given out stay so.
    ///
    /// # Errors
    /// A saved policy that this version does not accept; the thing stays as it is.
    pub fn put_back(&mut self, slot: Slot, saved: Option<Saved>, now: u64) -> Result<(), Refusal> {
        match (slot, saved) {
            (Slot::Counters, _) => {
                self.saves.insert(Slot::Counters);
                return Ok(());
            }
            (Slot::Node(id), Some(Saved::Node(n))) => {
                self.by_key.retain(|_, of| *of != id);
                self.by_key.insert(n.key, id);
                if self.nodes.contains_key(&id) {
                    self.touch(id, |m| m.node = n);
                } else {
                    self.load(Saved::Node(n), now)?;
                }
            }
            (Slot::Node(id), _) => {
                self.by_key.retain(|_, of| *of != id);
                self.nodes.remove(&id);
                self.presence.remove(&id);
                self.revision += 1;
                // Who waited for it waits again.
                for p in self.pending.values_mut().filter(|p| p.node == Some(id)) {
                    Arc::make_mut(p).node = None;
                }
            }
            (Slot::User(id), None) => drop(self.users.remove(&id)),
            (Slot::Key(id), None) => drop(self.keys.remove(&id)),
            (Slot::Policy, None) => {
                self.policy = Arc::new(open());
                self.policy_text = None;
            }
            (Slot::Names, saved) => {
                self.names = match saved {
                    Some(Saved::Names(n)) => Arc::new(n),
                    _ => Arc::default(),
                };
                self.revision += 1;
            }
            (_, Some(saved)) => self.load(saved, now)?,
        }
        self.shared_keys = None;
        self.recompile = true;
        self.changed = true;
        Ok(())
    }

    /// A policy that lets nobody through, until the next start: the one before was neither kept nor can it be read.
    pub fn shut_policy(&mut self) {
        match parse(SHUT) {
            Ok(shut) => self.policy = Arc::new(shut),
            Err(e) => debug_assert!(false, "{e}"),
        }
        self.policy_text = Some(SHUT.to_string());
        self.recompile = true;
        self.changed = true;
    }

    /// The policy's text; `None` if there is none and everything of one's own is reachable.
    #[must_use]
    pub fn policy_text(&self) -> Option<&str> {
        self.policy_text.as_deref()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Puts a policy in force; `None` takes it away.
    ///
    /// # Errors
    /// It is no policy, or one of its own tests fails; the old one stays. Tests of somebody who is not here yet do not
    /// fail: a policy comes before its nodes.
    pub fn set_policy(&mut self, text: Option<&str>, by: &str, now: u64) -> Result<(), Refusal> {
        let policy = Arc::new(text.map_or_else(|| Ok(open()), parse)?);
        let failed = self.failing_tests(&policy);
        if !failed.is_empty() {
            return Err(Refusal::PolicyTests(failed));
        }
        self.put_in_force(policy, text, by, now);
        Ok(())
    }

    /// Puts a policy in force at a start, where refusing it would leave everybody without a server. In: its text. Out:
    /// what is wrong with it all the same: tests that fail, words that only earlier versions took.
    ///
    /// # Errors
    /// It is no policy.
    pub fn begin_with_policy(&mut self, text: &str, by: &str, now: u64) -> Result<Vec<String>, Refusal> {
        let policy = Arc::new(parse_in_force(text)?.0);
        self.put_in_force(policy, Some(text), by, now);
        Ok(self.policy_faults())
    }

    fn put_in_force(&mut self, policy: Arc<Policy>, text: Option<&str>, by: &str, now: u64) {
        self.policy = policy;
        self.policy_text = text.map(str::to_string);
        self.audit(now, AuditEvent::PolicySet, format!("{} bytes", text.map_or(0, str::len)), by);
        self.saves.insert(Slot::Policy);
        self.recompile = true;
        self.changed = true;
    }

    /// What is wrong with the policy in force: it would not be taken today.
    #[must_use]
    pub fn policy_faults(&self) -> Vec<String> {
        let Some(text) = &self.policy_text else { return Vec::new() };
        let tolerated = parse_in_force(text).map(|(_, problems)| problems).unwrap_or_default();
        let mut out: Vec<String> = tolerated.iter().map(ToString::to_string).collect();
        out.extend(self.failing_tests(&self.policy));
        out
    }

    /// The tests of a policy that fail in this network, one line each.
    fn failing_tests(&self, policy: &Arc<Policy>) -> Vec<String> {
        let compiled = Compiled::new(policy.clone(), Arc::new(self.topology_under(policy)));
        let outcomes = compiled.run_tests();
        let line = |o: &Outcome| o.failure(false).map(|why| format!("{} {}: {}: {why}", o.section, o.pos, o.asserted));
        outcomes.iter().filter_map(line).collect()
    }

    /// Names and who knows them.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Changes names.
    pub fn set_names(&mut self, names: Names, by: &str, now: u64) {
        if *self.names != names {
            self.names = Arc::new(names);
            self.revision += 1;
            self.saves.insert(Slot::Names);
            self.changed = true;
            let text = |list: &[String]| if list.is_empty() { "none".to_string() } else { list.join(" ") };
            let names = &self.names;
            let split: Vec<String> = names.split.iter().map(|(d, s)| format!("{d} {}", s.join(" "))).collect();
            let records: Vec<String> = names.records.iter().map(|r| format!("{} {}", r.name, r.value)).collect();
            let about = format!(
                "nameservers {}; search {}; split {}; names {}",
                text(&names.nameservers),
                text(&names.search),
                text(&split),
                text(&records)
            );
            self.audit(now, AuditEvent::NamesSet, about, by);
        }
    }

    /// A name for a record of one's own.
    ///
    /// # Errors
    /// It has no domain, so nobody would ask for it as such, or a node has it.
    pub fn free_name(&self, name: &str) -> Result<String, Refusal> {
        let domain = &self.settings.domain;
        if !name.contains('.') {
            return Err(Refusal::NotFullName { name: name.to_string(), domain: domain.clone() });
        }
        let node = name.strip_suffix(domain.as_str()).and_then(|n| n.strip_suffix('.'));
        match node.filter(|n| self.nodes.values().any(|m| m.node.name == *n)) {
            Some(n) => Err(Refusal::NameOfNode { name: name.to_string(), node: n.to_string() }),
            None => Ok(name.to_string()),
        }
    }

    /// Adds a user.
    ///
    /// # Errors
    /// The name is taken, or none.
    pub fn create_user(&mut self, name: &str, role: Option<String>, by: &str, now: u64) -> Result<User, Refusal> {
        let (short, email) = self.free_user(name, None)?;
        let id = self.count(USER);
        let user = User { id, name: short, email, role, created: now };
        self.users.insert(id, user.clone());
        self.saves.insert(Slot::User(id));
        self.recompile = true;
        self.changed = true;
        self.audit(now, AuditEvent::UserCreated, user.login().to_string(), by);
        Ok(user)
    }

    /// The short name and the address that a name means, if no user but `own` has them.
    pub(crate) fn free_user(&self, name: &str, own: Option<u64>) -> Result<(String, String), Refusal> {
        let good = |c: char| c.is_alphanumeric() || "-_.@+".contains(c);
        let parts = name.strip_suffix('@').unwrap_or(name).matches('@').count();
        if name.is_empty() || name.len() > 128 || !name.chars().all(good) || name.starts_with('@') || parts > 1 {
            return Err(Refusal::BadUserName(name.to_string()));
        }
        let (short, email) = match name.trim_end_matches('@').split_once('@') {
            Some((short, _)) => (short, name),
            None => (name.trim_end_matches('@'), ""),
        };
        let clash = |u: &&User| u.login().eq_ignore_ascii_case(name) || (email.is_empty() && u.name == short);
        match self.users.values().filter(|u| Some(u.id) != own).find(clash) {
            Some(u) => Err(Refusal::UserExists(u.login().to_string())),
            None => Ok((short.to_string(), email.to_string())),
        }
    }

    /// Gives a user another name. Rules of the policy go by names: they hold for whoever has the name that they say.
    ///
    /// # Errors
    /// There is no such user, or the new name is taken, or none.
    pub fn rename_user(&mut self, name: &str, new: &str, by: &str, now: u64) -> Result<User, Refusal> {
        let old = self.user_named(name)?.clone();
        let (name, email) = self.free_user(new, Some(old.id))?;
        let user = User { name, email, ..old.clone() };
        self.put_user(user.clone());
        self.audit(now, AuditEvent::UserRenamed, format!("{} to {}", old.login(), user.login()), by);
        Ok(user)
    }

    /// Gives a user a role; `None` for that of a member. A network has one owner: a new one takes the old one's place,
    /// who becomes an admin.
    ///
    /// # Errors
    /// There is no such user, or the network would be nobody's.
    pub fn set_role(&mut self, name: &str, role: Option<&str>, by: &str, now: u64) -> Result<User, Refusal> {
        let old = self.user_named(name)?.clone();
        let owns = |u: &User| u.role.as_deref() == Some(OWNER);
        if owns(&old) && role != Some(OWNER) && self.users.values().filter(|u| owns(u)).count() == 1 {
            return Err(Refusal::OnlyOwner(old.login().to_string()));
        }
        if role == Some(OWNER) {
            let before: Vec<User> = self.users.values().filter(|u| owns(u) && u.id != old.id).cloned().collect();
            for u in before {
                self.audit(now, AuditEvent::UserRole, format!("{}: admin", u.login()), by);
                self.put_user(User { role: Some("admin".into()), ..u });
            }
        }
        let user = User { role: role.map(str::to_string), ..old };
        self.put_user(user.clone());
        self.audit(now, AuditEvent::UserRole, format!("{}: {}", user.login(), role.unwrap_or("member")), by);
        Ok(user)
    }

    fn put_user(&mut self, user: User) {
        self.saves.insert(Slot::User(user.id));
        self.users.insert(user.id, user);
        self.recompile = true;
        self.changed = true;
    }

    /// Takes a user away, if it has no node and no key.
    ///
    /// # Errors
    /// It is not there, or has nodes.
    pub fn delete_user(&mut self, name: &str, by: &str, now: u64) -> Result<User, Refusal> {
        let id = self.user_named(name)?.id;
        // A node with tags is its tags', whoever brought it.
        let of_tags: Vec<u64> =
            self.nodes.values().filter(|m| m.node.user == Some(id) && m.node.is_tagged()).map(|m| m.node.id).collect();
        let own = |m: &&Member| m.node.user == Some(id) && !m.node.is_tagged();
        let nodes: Vec<String> = self.nodes.values().filter(own).map(|m| m.node.name.clone()).collect();
        if !nodes.is_empty() {
            return Err(Refusal::UserHasNodes { user: name.to_string(), nodes });
        }
        of_tags.into_iter().for_each(|n| self.edit(n, |n| n.user = None));
        let keys: Vec<u64> = self.keys.values().filter(|k| k.user == Some(id)).map(|k| k.id).collect();
        for k in keys {
            self.keys.remove(&k);
            self.saves.insert(Slot::Key(k));
        }
        let Some(user) = self.users.remove(&id) else { return Err(self.no_user(name)) };
        self.saves.insert(Slot::User(id));
        self.recompile = true;
        self.changed = true;
        self.audit(now, AuditEvent::UserDeleted, user.login().to_string(), by);
        Ok(user)
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// The user of a name or address.
    ///
    /// # Errors
    /// There is none; says who there is.
    pub fn user_named(&self, name: &str) -> Result<&User, Refusal> {
        let short = name.strip_suffix('@').unwrap_or(name);
        let whole = |u: &&User| u.email.eq_ignore_ascii_case(name) || u.id.to_string() == name;
        let found: Vec<&User> = self.users.values().filter(|u| u.name == short).collect();
        let found = match self.users.values().find(whole) {
            Some(u) => vec![u],
            None => found,
        };
        if let [_, _, ..] = found.as_slice() {
            let all = found.iter().map(|u| u.login().to_string()).collect();
            return Err(Refusal::AmbiguousUser { name: name.to_string(), all });
        }
        found.first().copied().ok_or_else(|| self.no_user(name))
    }

    fn no_user(&self, name: &str) -> Refusal {
        let there = self.users.values().take(NAMES_SHOWN).map(|u| u.login().to_string()).collect();
        Refusal::NoUser { name: name.to_string(), there }
    }

    /// Gives out a pre-auth key, of whose secret only the hash is known here.
    ///
    /// # Errors
    /// The user is not there, a tag is none, or there is neither user nor tag.
    pub fn create_key(&mut self, new: PreAuthKey, by: &str, now: u64) -> Result<PreAuthKey, Refusal> {
        if let Some(bad) = new.tags.iter().find(|t| !is_tag(t)) {
            return Err(Refusal::NoTag(bad.clone()));
        }
        if new.user.is_none() && new.tags.is_empty() {
            return Err(Refusal::KeyOfNobody);
        }
        let id = self.count(KEY);
        let key = PreAuthKey { id, created: now, ..new };
        self.keys.insert(id, key.clone());
        self.saves.insert(Slot::Key(id));
        self.changed = true;
        let whose = key.user.and_then(|u| self.users.get(&u)).map(|u| u.login().to_string());
        let kind = [(key.reusable, "reusable"), (key.ephemeral, "ephemeral")];
        let kind = kind.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_string());
        let about: Vec<String> = whose.into_iter().chain(key.tags.iter().cloned()).chain(kind).collect();
        self.audit(now, AuditEvent::KeyCreated, format!("key {id}: {}", about.join(" ")), by);
        Ok(key)
    }

    /// Those of these tags that the policy in force does not know; without a policy there is nothing to know.
    #[must_use]
    pub fn unknown_tags(&self, tags: &[String]) -> Vec<String> {
        let unknown = |t: &&String| self.policy_text.is_some() && !self.policy.tag_owners.contains_key(t.as_str());
        tags.iter().filter(unknown).cloned().collect()
    }

    /// Takes a pre-auth key back.
    ///
    /// # Errors
    /// It is not there.
    pub fn revoke_key(&mut self, id: u64, by: &str, now: u64) -> Result<PreAuthKey, Refusal> {
        let key = self.keys.get_mut(&id).ok_or(Refusal::NoKey(id))?;
        if key.revoked {
            return Ok(key.clone());
        }
        key.revoked = true;
        let key = key.clone();
        self.saves.insert(Slot::Key(id));
        self.changed = true;
        self.audit(now, AuditEvent::KeyRevoked, format!("key {id}"), by);
        Ok(key)
    }

    /// All pre-auth keys.
    pub fn keys(&self) -> impl Iterator<Item = &PreAuthKey> {
        self.keys.values()
    }

    /// When [`Registry::tick`] has something to do next, seconds since the Unix epoch.
    #[must_use]
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let pending = self.pending.values().map(|p| p.ends());
        let expiry = self.nodes.values().filter_map(|m| m.node.expires);
        let away = self.presence.values().filter(|p| p.streams.is_empty()).map(|p| p.until);
        let gone = self.nodes.values().filter_map(|m| self.forgotten_at(m));
        // What is past was dealt with when it came.
        pending.chain(expiry).chain(away).chain(gone).filter(|t| *t > now).min()
    }

    /// Other limits for nodes that log in and addresses that are learned from now on: [`Settings::node_expiry`],
    /// [`Settings::app_expiry`], [`Settings::app_routes`].
    pub fn limit(&mut self, node_expiry: Option<u64>, app_expiry: Option<u64>, app_routes: Option<u32>) {
        (self.settings.node_expiry, self.settings.app_expiry) = (node_expiry, app_expiry);
        self.settings.app_routes = app_routes;
    }

    /// The clock says `now`, and may have said a later time before: what began later begins now, and lasts as long as it
    /// was given for. One wrong reading of the clock gives nobody more.
    pub fn set_back(&mut self, now: u64) {
        for k in self.keys.values_mut().filter(|k| k.created > now) {
            k.expires = k.expires.map(|e| e.saturating_sub(k.created - now));
            k.created = now;
            self.saves.insert(Slot::Key(k.id));
        }
        let latest = self.settings.node_expiry.map(|s| now.saturating_add(s));
        let late = |n: &Node| n.created.max(n.seen) > now;
        let nodes: Vec<u64> = self.nodes.values().filter(|m| late(&m.node)).map(|m| m.node.id).collect();
        for id in nodes {
            self.edit(id, |n| {
                let ended = n.expires.is_some_and(|e| e <= n.created);
                (n.created, n.seen) = (n.created.min(now), n.seen.min(now));
                n.expires = n.expires.map(|e| if ended { n.created } else { e.min(latest.unwrap_or(e)) });
                n.learnt.iter_mut().for_each(|l| (l.since, l.seen) = (l.since.min(now), l.seen.min(now)));
            });
        }
        for p in self.presence.values_mut() {
            (p.left, p.until) = (p.left.min(now), p.until.min(now + GRACE_AT_START));
        }
        for p in self.pending.values_mut().filter(|p| p.since.max(p.refused.unwrap_or(0)) > now) {
            let p = Arc::make_mut(p);
            (p.since, p.refused) = (p.since.min(now), p.refused.map(|t| t.min(now)));
        }
        self.changed = true;
        self.tick(now);
    }

    /// Does what time brings: keys end, nodes are away, pages are forgotten.
    pub fn tick(&mut self, now: u64) {
        self.pending.retain(|_, p| p.ends() > now);
        // The next picture shows whose key has ended.
        self.changed |= self.nodes.values().any(|m| m.expired != m.node.expired(now));
        self.refresh_presence(now);
        self.forget_ephemeral(now);
    }

    /// True if a snapshot of now would be another one.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed || self.recompile
    }

    /// Changes a node's member and marks it as told anew.
    pub(crate) fn touch(&mut self, id: u64, change: impl FnOnce(&mut Member)) {
        if let Some(m) = self.nodes.get_mut(&id) {
            change(m);
            self.revision += 1;
            m.told = self.revision;
            self.changed = true;
        }
    }

    /// Changes a node's record, which is then saved.
    pub(crate) fn edit(&mut self, id: u64, change: impl FnOnce(&mut Node)) {
        self.touch(id, |m| change(Arc::make_mut(&mut m.node)));
        self.saves.insert(Slot::Node(id));
    }

    pub(crate) fn count(&mut self, what: usize) -> u64 {
        self.counters[what] += 1;
        self.saves.insert(Slot::Counters);
        self.counters[what]
    }

    /// The same for what untrusted peers can bring about as often as they like: so much of it goes on record, no more.
    pub(crate) fn audit_stranger(
        &mut self,
        at: u64,
        what: AuditEvent,
        about: impl Into<String>,
        by: impl Into<String>,
    ) {
        if spent(&mut self.strangers, at) <= STRANGERS {
            self.audit(at, what, about, by);
        }
    }

    /// The same for what a member can bring about as often as it likes.
    pub(crate) fn audit_member(&mut self, at: u64, what: AuditEvent, about: impl Into<String>, by: impl Into<String>) {
        if spent(&mut self.members, at) <= MEMBERS {
            self.audit(at, what, about, by);
        }
    }

    pub(crate) fn audit(&mut self, at: u64, what: AuditEvent, about: impl Into<String>, by: impl Into<String>) {
        self.audits.push(Audit { at, what, about: about.into(), by: by.into() });
    }

    /// The node that a machine speaks for with this key.
    pub(crate) fn of_machine(&self, machine: MachineKey, key: NodeKey) -> Option<&Member> {
        let m = self.nodes.get(self.by_key.get(&key)?)?;
        (m.node.machine == machine).then_some(m)
    }
}

/// How many of a minute's this is.
fn spent((minute, count): &mut (u64, u32), at: u64) -> u32 {
    if *minute != at / 60 {
        (*minute, *count) = (at / 60, 0);
    }
    *count = count.saturating_add(1);
    *count
}

/// True if the text has the form of a tag.
pub(crate) fn is_tag(text: &str) -> bool {
    text.strip_prefix("tag:").is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= 50
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

fn parse(text: &str) -> Result<Policy, Refusal> {
    Policy::parse(text).map_err(Refusal::Policy)
}

/// The same of a policy that is in force already.
fn parse_in_force(text: &str) -> Result<(Policy, Vec<Problem>), Refusal> {
    Policy::parse_in_force(text).map_err(Refusal::Policy)
}

fn open() -> Policy {
    Policy::parse(OPEN).unwrap_or_default()
}
