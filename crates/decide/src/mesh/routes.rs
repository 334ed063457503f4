//! Routes for people: what each node offers and what became of it, and who carries an address. In: a snapshot. Out:
//! tables.

use model::{Addr, Prefix};

use super::snapshot::{Member, Snapshot};
use crate::policy::NodeView;

/// What became of an offered route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// Waits for an administrator.
    Pending,
    /// An administrator or the policy approved it.
    Approved,
    /// An administrator took it back.
    Revoked,
    /// Its name has stopped answering with it.
    Gone,
    /// It is of a name that its app leaves out.
    LeftOut,
    /// Its app has as many routes as it may.
    Over,
    /// Approved for when the node offers it.
    Awaited,
}

/// A route of a node.
#[derive(Debug, Clone)]
pub struct RouteView<'s> {
    /// Whose.
    pub member: &'s Member,
    /// Where to.
    pub prefix: Prefix,
    /// What became of it.
    pub state: RouteState,
    /// True if it was approved by the policy and not by a person.
    pub by_policy: bool,
    /// True if the node is the one that carries it now.
    pub primary: bool,
}

/// Who carries an address.
#[derive(Debug, Clone)]
pub struct Carrier<'s> {
    /// By which route.
    pub route: Prefix,
    /// The router.
    pub member: &'s Member,
    /// Who may use it: names of nodes.
    pub users: Vec<&'s str>,
}

impl RouteState {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RouteState::Pending => "pending",
            RouteState::Approved => "approved",
            RouteState::Revoked => "revoked",
            RouteState::Gone => "gone",
            RouteState::LeftOut => "left out",
            RouteState::Over => "over the limit",
            RouteState::Awaited => "approved, not offered",
        }
    }
}

impl Snapshot {
    /// Every route that nodes offer, or that is approved for when they do, by node and prefix.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView<'_>> {
        self.nodes.values().flat_map(|m| self.routes_of(m)).collect()
    }

    /// The same of one node.
    #[must_use]
    pub fn routes_of<'s>(&'s self, m: &'s Member) -> Vec<RouteView<'s>> {
        let place = self.place(m.node.id);
        let approved = place.map(|p| self.compiled.approved(p)).unwrap_or_default();
        let view = |prefix: Prefix| {
            let state = if !m.node.host.routable_ips.contains(&prefix) {
                RouteState::Awaited
            } else if approved.contains(&prefix) || (place.is_none() && m.node.approved.contains(&prefix)) {
                RouteState::Approved
            } else if m.node.revoked.contains(&prefix) {
                RouteState::Revoked
            } else {
                self.of_names(m, prefix).unwrap_or(RouteState::Pending)
            };
            let carries = |p| self.compiled.primary(prefix) == Some(p);
            let primary = place.is_some_and(|p| carries(p) || (prefix.bits() == 0 && approved.contains(&prefix)));
            let by_policy = state == RouteState::Approved && !m.node.approved.contains(&prefix);
            RouteView { member: m, prefix, state, by_policy, primary: primary && state == RouteState::Approved }
        };
        let offered = &m.node.host.routable_ips;
        offered.iter().chain(m.node.approved.iter().filter(|p| !offered.contains(p))).map(|p| view(*p)).collect()
    }

    /// What its names make of a route that is not in use: nothing if none is known, or the policy could approve it.
    fn of_names(&self, m: &Member, prefix: Prefix) -> Option<RouteState> {
        let place = self.place(m.node.id)?;
        let offered = &self.compiled.topology().nodes.get(place)?.routable;
        let about: Vec<_> = m.node.learnt.iter().filter(|l| prefix.is_host() && l.addr == prefix.first()).collect();
        let state = match about.as_slice() {
            [] => return None,
            all if all.iter().any(|l| l.over) => RouteState::Over,
            all if all.iter().any(|l| l.gone) => RouteState::Gone,
            _ => RouteState::LeftOut,
        };
        (!offered.contains(&prefix)).then_some(state)
    }

    /// Who carries an address, the longest route first, exit nodes last, and who may use it. Each node is named once: it
    /// sends by the longest route that it is told of.
    #[must_use]
    pub fn carriers(&self, addr: Addr) -> Vec<Carrier<'_>> {
        let mut routes: Vec<RouteView<'_>> =
            self.routes().into_iter().filter(|r| r.primary && r.prefix.contains(addr)).collect();
        routes.sort_by_key(|r| std::cmp::Reverse(r.prefix.bits()));
        let mut left: Vec<(&Member, NodeView)> =
            self.nodes.values().filter_map(|m| Some((m, self.compiled.for_node(self.place(m.node.id)?)?))).collect();
        let mut out: Vec<Carrier<'_>> = Vec::new();
        for r in routes {
            let Some(peer) = self.place(r.member.node.id) else { continue };
            let told = |v: &NodeView| {
                v.node != peer && v.peers.contains(&peer) && self.compiled.allowed_ips(v.node, peer).contains(&r.prefix)
            };
            // An exit node is used by those who chose it, so it takes nobody from another one.
            let (here, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, v)| told(v));
            let own = |m: &Member| if addr.is_v4() { m.node.ipv4 } else { m.node.ipv6 };
            let may = here.iter().filter(|(m, _)| self.compiled.reaches(own(m), addr));
            let users: Vec<&str> = may.map(|(m, _)| m.node.name.as_str()).collect();
            left = others;
            if r.prefix.bits() == 0 {
                left.extend(here);
            }
            if out.is_empty() || !users.is_empty() {
                out.push(Carrier { route: r.prefix, member: r.member, users });
            }
        }
        out
    }
}
