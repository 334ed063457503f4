//! The registry's records as the admin socket shows them.

use addr::Prefix;
use api::control::{Key, KeyState, Node, NodeChanged, NodeRoute, Record, RouteState, User};
use tailnet::record::{self, PreAuthKey};
use tailnet::{RouteView, Snapshot};
use tailnet_proto::tailcfg::map::DnsRecord;

use super::state::ControlState;

pub(super) fn user(u: &record::User) -> User {
    User { id: u.id, name: u.name.clone(), email: u.email.clone(), role: u.role.clone(), created: u.created }
}

/// `now`: the time by which the server decides whether a key is still good.
pub(super) fn key(s: &Snapshot, k: &PreAuthKey, now: u64) -> Key {
    let state = if k.revoked {
        KeyState::Revoked
    } else if k.expires.is_some_and(|e| e <= now) {
        KeyState::Expired
    } else if k.used > 0 && !k.reusable {
        KeyState::Used
    } else {
        KeyState::Good
    };
    Key {
        id: k.id,
        user: k.user.and_then(|u| s.users.get(&u)).map(|u| u.login().to_string()),
        reusable: k.reusable,
        ephemeral: k.ephemeral,
        tags: k.tags.clone(),
        created: k.created,
        expires: k.expires,
        used: k.used,
        revoked: k.revoked,
        state,
    }
}

pub(super) fn node(state: &ControlState, s: &Snapshot, id: u64) -> Option<Node> {
    let m = s.nodes.get(&id)?;
    let n = &m.node;
    Some(Node {
        id: n.id,
        name: n.name.clone(),
        full_name: s.full_name(n).trim_end_matches('.').to_string(),
        user: n.user.and_then(|u| s.users.get(&u)).map(|u| u.login().to_string()),
        tags: n.tags.clone(),
        belongs_to: s.principal(n),
        ipv4: n.ipv4,
        ipv6: n.ipv6,
        online: m.online && state.has_stream(id),
        expected: m.online,
        expired: m.expired,
        expires: n.expires,
        created: n.created,
        seen: n.seen,
        ephemeral: n.ephemeral,
        comes_from: m.from,
        os: n.host.os.clone(),
        client: n.host.ipn_version.clone(),
        hostname: n.host.hostname.clone(),
        version: n.version,
        endpoints: n.endpoints.clone(),
        relay: n.home_derp(),
        machine: n.machine.to_string(),
        key: n.key.to_string(),
        routes: s.routes_of(m).iter().map(route).collect(),
    })
}

pub(super) fn changed(n: &record::Node) -> NodeChanged {
    let (name, tags) = (n.name.clone(), n.tags.clone());
    NodeChanged { id: n.id, name, ipv4: n.ipv4, ipv6: n.ipv6, tags, expires: n.expires }
}

pub(super) fn route(r: &RouteView<'_>) -> NodeRoute {
    NodeRoute { prefix: r.prefix, state: state(r.state), by_policy: r.by_policy, primary: r.primary }
}

pub(super) fn state(s: tailnet::RouteState) -> RouteState {
    match s {
        tailnet::RouteState::Pending => RouteState::Pending,
        tailnet::RouteState::Approved => RouteState::Approved,
        tailnet::RouteState::Revoked => RouteState::Revoked,
        tailnet::RouteState::Gone => RouteState::Gone,
        tailnet::RouteState::LeftOut => RouteState::LeftOut,
        tailnet::RouteState::Over => RouteState::Over,
        tailnet::RouteState::Awaited => RouteState::Awaited,
    }
}

pub(super) fn record(r: &DnsRecord) -> Record {
    Record { name: r.name.clone(), r#type: r.r#type.clone(), value: r.value.clone() }
}

/// True if a route is one of the two that make an exit node.
pub(super) fn is_exit(route: Prefix) -> bool {
    route.bits() == 0
}
