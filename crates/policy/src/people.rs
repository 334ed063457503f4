//! Names of people and machines. In: a policy's name and the users. Out: which nodes it stands for, as a question that
//! each node can be asked, so that one changed node costs no look at the others.

use std::collections::BTreeMap;

use super::language::Policy;
use super::topology::{Node, Topology};
use super::who::{Role, Who};

/// Users by their names, and what they may do. Built once, so that a name costs no walk over all users.
pub(crate) struct People {
    by_email: BTreeMap<String, Vec<usize>>,
    by_name: BTreeMap<String, Vec<usize>>,
    by_domain: BTreeMap<String, Vec<usize>>,
    roles: Vec<Option<Role>>,
    /// False if no user has a role.
    known: bool,
    owner: Option<usize>,
}

/// The nodes that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Members {
    /// Devices of users.
    Untagged,
    /// Nodes with any tag.
    Tagged,
    /// Nodes with this tag.
    Tag(String),
    /// Devices of these users, in order.
    Users(Vec<usize>),
}

impl People {
    pub(crate) fn new(topology: &Topology) -> People {
        let mut p = People {
            by_email: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_domain: BTreeMap::new(),
            roles: topology.users.iter().map(|u| u.role).collect(),
            known: topology.users.iter().any(|u| u.role.is_some()),
            owner: topology.owner(),
        };
        for (i, u) in topology.users.iter().enumerate() {
            if !u.email.is_empty() {
                p.by_email.entry(u.email.to_ascii_lowercase()).or_default().push(i);
            }
            if !u.name.is_empty() {
                p.by_name.entry(u.name.clone()).or_default().push(i);
            }
            if let Some((_, domain)) = u.email.rsplit_once('@') {
                p.by_domain.entry(domain.to_ascii_lowercase()).or_default().push(i);
            }
        }
        p
    }

    /// The users that a policy means by this text: an address, a short name, or a short name and `@`.
    pub(crate) fn named(&self, text: &str) -> Vec<usize> {
        let short = text.strip_suffix('@').unwrap_or(text);
        let mut out = self.by_email.get(&text.to_ascii_lowercase()).cloned().unwrap_or_default();
        out.extend(self.by_name.get(short).into_iter().flatten());
        out
    }

    /// True if the user has the role. Where no user has any, the first one owns the network and all administer it: a
    /// file without roles says nothing about them, and the answers that such files were captured with are these.
    pub(crate) fn has_role(&self, user: usize, role: Role) -> bool {
        let Some(has) = self.roles.get(user) else { return false };
        if self.known {
            return *has == Some(role) || (role == Role::Admin && *has == Some(Role::Owner));
        }
        match role {
            Role::Owner => self.owner == Some(user),
            Role::Admin => true,
            _ => false,
        }
    }

    /// True if the user administers the network's tags, by a role that is written down.
    pub(crate) fn gives_any_tag(&self, user: usize) -> bool {
        self.known && (self.has_role(user, Role::Admin) || self.has_role(user, Role::NetworkAdmin))
    }

    /// The users a name stands for, in order; none for names that are no users.
    pub(crate) fn users(&self, policy: &Policy, who: &Who) -> Vec<usize> {
        let all = 0..self.roles.len();
        let mut out: Vec<usize> = match who {
            Who::User(text) => self.named(text),
            Who::Group(name) => {
                let members = policy.groups.get(name).map(|g| g.it.as_slice()).unwrap_or_default();
                members.iter().flat_map(|m| self.named(&m.it)).collect()
            }
            Who::Domain(domain) => self.by_domain.get(&domain.to_ascii_lowercase()).cloned().unwrap_or_default(),
            Who::Role(role) => all.filter(|u| self.has_role(*u, *role)).collect(),
            Who::Member => all.collect(),
            _ => Vec::new(),
        };
        out.sort_unstable();
        out.dedup();
        out
    }
}

impl Members {
    /// The nodes of a name of people or machines; `None` for names of addresses.
    pub(crate) fn of(policy: &Policy, people: &People, who: &Who) -> Option<Members> {
        Some(match who {
            Who::Member => Members::Untagged,
            Who::Tagged => Members::Tagged,
            Who::Tag(t) => Members::Tag(t.clone()),
            // Nobody shares devices with a network of one's own.
            Who::Shared => Members::Users(Vec::new()),
            Who::User(_) | Who::Domain(_) | Who::Role(_) | Who::Group(_) => Members::Users(people.users(policy, who)),
            _ => return None,
        })
    }

    /// True if the node is one of them.
    pub(crate) fn has(&self, node: &Node) -> bool {
        match self {
            Members::Untagged => !node.is_tagged(),
            Members::Tagged => node.is_tagged(),
            Members::Tag(t) => node.has_tag(t),
            Members::Users(list) => node.owner().is_some_and(|u| list.binary_search(&u).is_ok()),
        }
    }
}
