//! Routes for people: what each node offers and what became of it, and who carries an address. In: a snapshot. Out:
//! tables.

use addr::{Addr, Prefix};

use super::member::Member;
use super::near::OwnWay;
use super::snapshot::{Snapshot, lost};
use policy::NodeView;

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

/// Somebody whose address traffic may come from.
#[derive(Debug, Clone)]
pub struct Source<'s> {
    /// The router or connector.
    pub member: &'s Member,
    /// True if it carries the address now, for everybody or for some.
    pub carries: bool,
    /// The app that it is a connector of.
    pub app: Option<String>,
}

/// Where a node's traffic to the internet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// From this address.
    From(Addr),
    /// It reaches this server from a private address, so that others see another one.
    Private(Addr),
    /// Not known: it has not been here since the server was started, or only by the other family.
    Unknown,
}

/// A route that has moved to another router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved<'s> {
    /// The route.
    pub route: Prefix,
    /// Who carried it.
    pub from: &'s str,
    /// Who carries it now.
    pub to: &'s str,
    /// What became of the first, in words.
    pub why: &'static str,
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
        let connectors: Vec<_> = self.compiled.policy().connectors().collect();
        let lost = lost(&m.node, &connectors);
        let view = |prefix: Prefix| {
            let state = if !m.node.host.routable_ips.contains(&prefix) && !lost.contains(&prefix) {
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
        let others = |p: &&Prefix| !offered.contains(p) && !lost.contains(p);
        offered.iter().chain(&lost).chain(m.node.approved.iter().filter(others)).map(|p| view(*p)).collect()
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
    /// sends by the longest route that it is told of. Beside the router that carries a route for everybody there may be
    /// others that carry it for some (`via`).
    #[must_use]
    pub fn carriers(&self, addr: Addr) -> Vec<Carrier<'_>> {
        let carry = |r: &RouteView<'_>| r.state == RouteState::Approved && r.prefix.contains(addr);
        let mut routes: Vec<RouteView<'_>> = self.routes().into_iter().filter(carry).collect();
        routes.sort_by_key(|r| (std::cmp::Reverse(r.prefix.bits()), !r.primary));
        let view = |m: &Member| {
            let view = self.compiled.for_node(self.place(m.node.id)?)?;
            Some((view, self.own_way(m)))
        };
        let mut left: Vec<(&Member, (NodeView, OwnWay))> =
            self.nodes.values().filter_map(|m| Some((m, view(m)?))).collect();
        let mut out: Vec<Carrier<'_>> = Vec::new();
        for r in routes {
            let id = r.member.node.id;
            let Some(peer) = self.place(id) else { continue };
            let told = |(v, own): &(NodeView, OwnWay)| {
                v.node != peer
                    && v.peers.contains(&peer)
                    && own.without(id, self.compiled.allowed_ips(v.node, peer)).contains(&r.prefix)
            };
            // An exit node is used by those who chose it, so it takes nobody from another one.
            let (here, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, v)| told(v));
            let may = here.iter().filter(|(m, _)| self.compiled.reaches(own(m, addr), addr));
            let users: Vec<&str> = may.map(|(m, _)| m.node.name.as_str()).collect();
            left = others;
            if r.prefix.bits() == 0 {
                left.extend(here);
            }
            if (out.is_empty() && r.primary) || !users.is_empty() {
                out.push(Carrier { route: r.prefix, member: r.member, users });
            }
        }
        out
    }

    /// Every node whose address traffic to an address may come from: the approved routers of the routes it goes by, and
    /// the connectors of the apps that stand for it. Those who carry it now come first.
    #[must_use]
    pub fn sources<'s>(&'s self, addr: Addr, carriers: &[Carrier<'s>]) -> Vec<Source<'s>> {
        // An exit node is no answer to the question how one address is reached, as long as there is another.
        let nearer = carriers.iter().any(|c| c.route.bits() > 0);
        let used = |p: Prefix| carriers.iter().any(|c| c.route == p) && (p.bits() > 0 || !nearer);
        let carries = |m: &Member, p: Prefix| carriers.iter().any(|c| c.route == p && c.member.node.id == m.node.id);
        let mut out: Vec<Source<'_>> = Vec::new();
        for r in self.routes().into_iter().filter(|r| r.state == RouteState::Approved && used(r.prefix)) {
            match out.iter_mut().find(|s| s.member.node.id == r.member.node.id) {
                Some(s) => s.carries |= carries(r.member, r.prefix),
                None => out.push(Source { member: r.member, carries: carries(r.member, r.prefix), app: None }),
            }
        }
        for app in self.apps() {
            let pinned = app.pinned.iter().any(|p| p.contains(addr));
            if !pinned && !app.learnt.iter().any(|(_, l)| l.addr == addr && !l.gone) {
                continue;
            }
            for m in &app.connectors {
                match out.iter_mut().find(|s| s.member.node.id == m.node.id) {
                    Some(s) => s.app = Some(app.name.clone()),
                    None => out.push(Source { member: m, carries: false, app: Some(app.name.clone()) }),
                }
            }
        }
        out.sort_by_key(|s| !s.carries);
        out
    }

    /// Why nobody may use the way to an address, in words.
    #[must_use]
    pub fn nobody(&self, addr: Addr, carriers: &[Carrier<'_>]) -> &'static str {
        if carriers.is_empty() {
            return "no approved route leads there";
        }
        let carries = |m: &Member| carriers.iter().any(|c| c.member.node.id == m.node.id);
        let mut others = self.nodes.values().filter(|m| self.place(m.node.id).is_some() && !carries(m)).peekable();
        if others.peek().is_none() {
            return "no other node has joined, or all others are logged out";
        }
        if others.any(|m| self.compiled.reaches(own(m, addr), addr)) {
            return "a rule lets somebody reach it, but not through this router (`via`), or from the connector's own address";
        }
        "no rule of the policy lets a node that is here reach it"
    }

    /// The routes that another router carries than in the picture before, and why.
    #[must_use]
    pub fn moves<'s>(&'s self, before: &'s Snapshot) -> Vec<Moved<'s>> {
        if std::sync::Arc::ptr_eq(&self.compiled, &before.compiled) {
            return Vec::new();
        }
        let moved = |route: Prefix| {
            let (from, to) = (before.carrier(route)?, self.carrier(route)?);
            let now = self.nodes.get(&from.node.id);
            let why = match now {
                _ if from.node.id == to.node.id => return None,
                None => "was deleted",
                Some(m) if m.expired => "is logged out",
                Some(m) if !self.offers(m, route) => "has the route no more",
                Some(m) if m.silent => "does not answer",
                Some(m) if !m.online => "has gone",
                Some(_) => "gave way",
            };
            Some(Moved { route, from: &from.node.name, to: &to.node.name, why })
        };
        before.compiled.primaries().into_keys().filter_map(moved).collect()
    }

    fn carrier(&self, route: Prefix) -> Option<&Member> {
        self.at_place(self.compiled.primary(route)?)
    }

    fn offers(&self, m: &Member, route: Prefix) -> bool {
        self.place(m.node.id).is_some_and(|p| self.compiled.approved(p).contains(&route))
    }
}

impl Member {
    /// The address that its traffic to `to` leaves from, as far as this server can see.
    #[must_use]
    pub fn leaves_from(&self, to: Addr) -> Leaves {
        match self.from {
            Some(a) if a.is_v4() == to.is_v4() && a.is_private() => Leaves::Private(a),
            Some(a) if a.is_v4() == to.is_v4() => Leaves::From(a),
            // Its connection here is of the other family; its STUN answers are among its endpoints.
            _ => {
                let said = self.node.endpoints.iter().map(|e| Addr::of(*e));
                said.filter(|a| a.is_v4() == to.is_v4() && !a.is_private())
                    .map(Leaves::From)
                    .next()
                    .unwrap_or(Leaves::Unknown)
            }
        }
    }
}

/// A node's own address of the family of another one.
fn own(m: &Member, like: Addr) -> Addr {
    if like.is_v4() { m.node.ipv4 } else { m.node.ipv6 }
}
