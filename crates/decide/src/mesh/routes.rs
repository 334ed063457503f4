//! Routes for people: what each node offers and what became of it, and who carries an address. In: a snapshot. Out:
//! tables.

use model::{Addr, Prefix};

use super::snapshot::{Member, Snapshot};

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
        }
    }
}

impl Snapshot {
    /// Every route that nodes offer, by node and prefix.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView<'_>> {
        let mut out = Vec::new();
        for m in self.nodes.values() {
            let place = self.place(m.node.id);
            let approved = place.map(|p| self.compiled.approved(p)).unwrap_or_default();
            for prefix in &m.node.host.routable_ips {
                let state = if approved.contains(prefix) {
                    RouteState::Approved
                } else if m.node.revoked.contains(prefix) {
                    RouteState::Revoked
                } else if let Some(state) = self.of_names(m, *prefix) {
                    state
                } else {
                    RouteState::Pending
                };
                let primary = place.is_some_and(|p| {
                    self.compiled.primary(*prefix) == Some(p) || (prefix.bits() == 0 && approved.contains(prefix))
                });
                let by_policy = state == RouteState::Approved && !m.node.approved.contains(prefix);
                out.push(RouteView { member: m, prefix: *prefix, state, by_policy, primary });
            }
        }
        out
    }

    /// What its names make of a route that is not in use: nothing if none is known, or the policy could approve it.
    fn of_names(&self, m: &Member, prefix: Prefix) -> Option<RouteState> {
        let place = self.place(m.node.id)?;
        let offered = &self.compiled.topology().nodes.get(place)?.routable;
        let mut about = m.node.learnt.iter().filter(|l| prefix.is_host() && l.addr == prefix.first()).peekable();
        about.peek()?;
        let gone = about.any(|l| l.gone);
        (!offered.contains(&prefix)).then_some(if gone { RouteState::Gone } else { RouteState::LeftOut })
    }

    /// Who carries an address: the longest approved route first; exit nodes last.
    #[must_use]
    pub fn carriers(&self, addr: Addr) -> Vec<Carrier<'_>> {
        let mut routes: Vec<RouteView<'_>> =
            self.routes().into_iter().filter(|r| r.primary && r.prefix.contains(addr)).collect();
        routes.sort_by_key(|r| std::cmp::Reverse(r.prefix.bits()));
        routes
            .into_iter()
            .map(|r| {
                let peer = self.place(r.member.node.id);
                let uses = |m: &&Member| {
                    let Some((viewer, peer)) = self.place(m.node.id).zip(peer) else { return false };
                    let sees = || self.compiled.for_node(viewer).is_some_and(|v| v.peers.contains(&peer));
                    viewer != peer && sees() && self.compiled.allowed_ips(viewer, peer).contains(&r.prefix)
                };
                let users = self.nodes.values().filter(uses).map(|m| m.node.name.as_str()).collect();
                Carrier { route: r.prefix, member: r.member, users }
            })
            .collect()
    }
}
