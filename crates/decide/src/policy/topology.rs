//! Who exists: users and nodes. In: JSON of a topology file, or the values themselves from a coordination server. Out:
//! a [`Topology`] whose nodes are in the order of their names, so that every result is the same on every run.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Addr, Prefix};

use super::hujson::{Item, Json, parse};
use super::posture::Value;
use super::problem::Problem;
use super::read::Reader;
use super::who::Role;

/// What a topology looks like.
const FORM: &str = r#"the topology says who exists: {"users": […], "nodes": {"NAME": {"user": …, "ipv4": …}}}"#;

/// Users and nodes.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Users.
    pub users: Arc<Vec<User>>,
    /// Nodes, in the order of their names.
    pub nodes: Vec<Arc<Node>>,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Number; the lowest is the owner if no user has a role.
    pub id: u64,
    /// Short name.
    pub name: String,
    /// Address, or empty.
    pub email: String,
    /// What the user may do in the administration; `None` where it is not written.
    pub role: Option<Role>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// The name by which results speak of it.
    pub name: String,
    /// Place of its user in [`Topology::users`]; `None` for tagged nodes.
    pub user: Option<usize>,
    /// Tags, with `tag:`.
    pub tags: Vec<String>,
    /// Its IPv4 address.
    pub ipv4: Option<Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Addr>,
    /// Routes it advertises.
    pub routable: Vec<Prefix>,
    /// Routes an administrator has approved; only those that it also advertises count.
    pub approved: Vec<Prefix>,
    /// Number in the order of registration, for the election of primary routers; `None` where it is not known.
    pub id: Option<u64>,
    /// False for a node that is known to be away; it is no candidate for primary router.
    pub online: bool,
    /// Posture attributes.
    pub posture: BTreeMap<String, Value>,
    /// What it has learnt as an app connector: name of the app to prefixes.
    pub learned: BTreeMap<String, Vec<Prefix>>,
}

/// The route of everything, which makes an exit node.
pub(crate) fn is_exit(prefix: Prefix) -> bool {
    prefix.bits() == 0
}

impl Node {
    /// Its addresses, IPv4 first.
    pub fn addrs(&self) -> impl Iterator<Item = Addr> + '_ {
        self.ipv4.into_iter().chain(self.ipv6)
    }

    /// True if it has a tag; then it belongs to its tags and to no user.
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// True if it has this tag, written with `tag:`.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }

    /// The user it belongs to, if no tag has taken that place.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        if self.is_tagged() { None } else { self.user }
    }
}

impl Topology {
    /// Reads a topology file: `{"users": [...], "nodes": {"NAME": {...}}}`. Keys that are not known are left alone,
    /// so that files with more in them can be used.
    ///
    /// # Errors
    /// Everything in it that has the wrong form, with its place.
    pub fn read(text: &str) -> Result<Topology, Vec<Problem>> {
        let (root, problems) = parse(text);
        let Some(root) = root else { return Err(problems) };
        let mut r = Reader::new(text);
        r.problems = problems;
        let mut out = Topology::default();
        match field(&root, "users") {
            Some(users) => {
                out.users = Arc::new(r.items(users, "users").iter().filter_map(|u| user(&mut r, u)).collect());
            }
            None => r.fault_hint(root.at, "a topology has `users`, a list of `{\"id\", \"name\", \"email\"}`", FORM),
        }
        match field(&root, "nodes") {
            Some(nodes) => {
                for m in r.object(nodes).unwrap_or_default() {
                    let new = node(&mut r, &m.key, &m.item, &out.users).map(Arc::new);
                    out.nodes.extend(new);
                }
            }
            None => r.fault_hint(root.at, "a topology has `nodes`, an object of `\"NAME\": {…}`", FORM),
        }
        out.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        if r.problems.is_empty() { Ok(out) } else { Err(r.problems) }
    }

    /// The place of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.binary_search_by(|n| n.name.as_str().cmp(name)).ok()
    }

    /// The user that owns the network.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        let by_role = self.users.iter().position(|u| u.role == Some(Role::Owner));
        by_role.or_else(|| self.users.iter().enumerate().min_by_key(|(_, u)| u.id).map(|(i, _)| i))
    }
}

fn field<'i>(item: &'i Item, key: &str) -> Option<&'i Item> {
    let Json::Object(o) = &item.value else { return None };
    o.iter().find(|m| m.key == key).map(|m| &m.item)
}

/// A field that is there and not `null`.
fn given<'i>(item: &'i Item, key: &str) -> Option<&'i Item> {
    field(item, key).filter(|i| i.value != Json::Null)
}

fn user(r: &mut Reader<'_>, item: &Item) -> Option<User> {
    r.object(item)?;
    let text = |r: &mut Reader<'_>, key| given(item, key).and_then(|i| r.text(i)).unwrap_or_default().to_string();
    Some(User {
        id: given(item, "id").and_then(|i| r.number(i, u64::MAX)).unwrap_or_default(),
        name: text(r, "name"),
        email: text(r, "email"),
        role: given(item, "role").and_then(|i| r.via(i, role)).flatten(),
    })
}

fn role(name: &str) -> Result<Option<Role>, String> {
    match (name, Role::named(name)) {
        ("member", _) => Ok(None),
        (_, Some(role)) => Ok(Some(role)),
        _ => Err(format!(
            "`{name}` is no role; owner, admin, network-admin, it-admin, billing-admin, auditor and member are"
        )),
    }
}

fn node(r: &mut Reader<'_>, name: &str, item: &Item, users: &[User]) -> Option<Node> {
    r.object(item)?;
    let mut n = Node { name: name.to_string(), online: true, ..Node::default() };
    if let Some(i) = given(item, "tags") {
        n.tags = r.items(i, "tags").iter().filter_map(|t| r.text(t).map(str::to_string)).collect();
    }
    if let Some((i, text)) = given(item, "user").and_then(|i| r.text(i).map(|t| (i, t))) {
        n.user = users.iter().position(|u| u.name == text || u.email == text);
        if n.user.is_none() && !text.is_empty() {
            r.fault(i.at, format!("node `{name}`: there is no user `{text}`"));
        }
    }
    let addr = |r: &mut Reader<'_>, key| {
        let i = given(item, key)?;
        r.via(i, |t| if t.is_empty() { Ok(None) } else { t.parse::<Addr>().map(Some).map_err(|e| e.to_string()) })?
    };
    n.ipv4 = addr(r, "ipv4");
    n.ipv6 = addr(r, "ipv6");
    n.routable = prefixes(r, given(item, "routable_ips"));
    n.approved = prefixes(r, given(item, "approved_routes"));
    n.id = given(item, "id").and_then(|i| r.number(i, u64::MAX));
    n.online = given(item, "online").is_none_or(|i| i.value == Json::Bool(true));
    if let Some(i) = given(item, "posture") {
        n.posture = r.attributes(i);
    }
    if let Some(i) = given(item, "learned") {
        for m in r.object(i).unwrap_or_default() {
            let learned = prefixes(r, Some(&m.item));
            n.learned.insert(m.key.clone(), learned);
        }
    }
    Some(n)
}

fn prefixes(r: &mut Reader<'_>, item: Option<&Item>) -> Vec<Prefix> {
    let Some(item) = item else { return Vec::new() };
    r.items(item, "prefixes").iter().filter_map(|i| r.prefix(i)).collect()
}
