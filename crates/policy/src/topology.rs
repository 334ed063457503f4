//! Who exists: users and nodes. In: JSON of a topology file, or the values themselves from a coordination server. Out:
//! a [`Topology`] whose nodes are in the order of their names, so that every result is the same on every run.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::{Addr, Prefix};
use serde_json::json;

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
    /// Routers that answer for a route now, by name, where that is known.
    pub primaries: BTreeMap<Prefix, String>,
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
    /// What it has learned as an app connector: name of the app to prefixes.
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
                    for route in prefixes(&mut r, given(&m.item, "primary_routes")) {
                        out.primaries.insert(route, m.key.clone());
                    }
                }
            }
            None => r.fault_hint(root.at, "a topology has `nodes`, an object of `\"NAME\": {…}`", FORM),
        }
        out.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        if r.problems.is_empty() { Ok(out) } else { Err(r.problems) }
    }

    /// The same as a file says it: what [`Topology::read`] reads.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let long = |list: &[Prefix]| list.iter().map(|p| p.long()).collect::<Vec<_>>();
        let users: Vec<serde_json::Value> = self
            .users
            .iter()
            .map(|u| {
                let role = u.role.map_or("member", Role::name);
                json!({ "id": u.id, "name": u.name, "email": u.email, "role": role })
            })
            .collect();
        let mut nodes = serde_json::Map::new();
        for n in &self.nodes {
            let user =
                n.user.and_then(|u| self.users.get(u)).map(|u| if u.email.is_empty() { &u.name } else { &u.email });
            let primary: Vec<Prefix> =
                self.primaries.iter().filter(|(_, name)| **name == n.name).map(|(route, _)| *route).collect();
            let mut it = json!({
                "user": user, "tags": n.tags, "ipv4": n.ipv4.map(|a| a.to_string()), "ipv6": n.ipv6.map(|a| a.to_string()),
                "routable_ips": long(&n.routable), "approved_routes": long(&n.approved), "id": n.id, "online": n.online,
            });
            let posture: serde_json::Map<String, serde_json::Value> = n
                .posture
                .iter()
                .map(|(k, v)| {
                    let v = match v {
                        Value::Text(t) => json!(t),
                        Value::Number(f) => json!(f),
                        Value::Bool(b) => json!(b),
                    };
                    (k.clone(), v)
                })
                .collect();
            let learned: BTreeMap<&String, Vec<String>> = n.learned.iter().map(|(app, l)| (app, long(l))).collect();
            for (key, value, empty) in [
                ("posture", json!(posture), posture.is_empty()),
                ("learned", json!(learned), learned.is_empty()),
                ("primary_routes", json!(long(&primary)), primary.is_empty()),
            ] {
                if !empty {
                    it[key] = value;
                }
            }
            nodes.insert(n.name.clone(), it);
        }
        json!({ "users": users, "nodes": nodes })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com", "role": "owner"}, {"id": 2, "name": "ben"}],
            "nodes": {"a": {"user": "ada", "ipv4": "100.64.0.1", "posture": {"node:os": "macos", "custom:n": 3, "custom:b": true}},
            "b": {"user": "ben", "tags": [], "ipv6": "fd7a::2", "online": false},
            "c": {"tags": ["tag:x"], "ipv4": "100.64.0.3", "id": 7, "routable_ips": ["10.0.0.0/8", "0.0.0.0/0"], "approved_routes": ["10.0.0.0/8"],
                  "primary_routes": ["10.0.0.0/8"], "learned": {"crm": ["203.0.113.9/32"]}}}}"#;
        let read = Topology::read(text).unwrap();
        assert_eq!(read.primaries.values().collect::<Vec<_>>(), ["c"]);
        let again = Topology::read(&read.to_json().to_string()).unwrap();
        assert_eq!((&again.users, &again.nodes, &again.primaries), (&read.users, &read.nodes, &read.primaries));
    }
}
