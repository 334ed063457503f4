//! A coordination server's verbs on the admin socket: users, keys, nodes, routes, policy, names, apps. In: requests of the
//! command line. Out: answers for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use addr::Prefix;
use api::control::{self as wire, RouteState};
use api::{Call, Error, Nothing, Written};
use tailnet::record::{Names, PreAuthKey};
use tailnet::{Leaves, Member, Refusal, Registry, Snapshot};
use tailnet_proto::tailcfg::map::DnsRecord;

use super::Control;
use super::answers::{self, changed, is_exit, node, user};
use super::policy;
use super::registry::BY;
use super::state::ControlState;
use runtime::api::Verbs;
use runtime::owner::{Kind, Saved};
use runtime::{hex, sha256_hex};

/// Adds the server's verbs to a process's.
#[must_use]
pub fn verbs(verbs: Verbs, control: &Control) -> Verbs {
    let state = &control.state;
    let (keys, sets, networks) = (state.clone(), state.clone(), state.clone());
    let woken = state.registry.clone();
    let (time, trouble) = (woken.time.clone(), woken.trouble.clone());
    runtime::clock::verbs(verbs, api::clock::Owner::Control, time, trouble, move || woken.notify(|_, _| {}))
        .handle(read(state, users_list))
        .handle(write(state, users_create))
        .handle(write(state, users_rename))
        .handle(write(state, users_role))
        .handle(take(state, users_delete))
        .handle(read(state, keys_list))
        .handle(move |call| keys_create(keys.clone(), call))
        .handle(take(state, keys_revoke))
        .handle(read(state, nodes_list))
        .handle(read(state, nodes_show))
        .handle(write(state, nodes_approve))
        .handle(take(state, nodes_refuse))
        .handle(take(state, nodes_expire))
        .handle(write(state, nodes_rename))
        .handle(write(state, nodes_move))
        .handle(write(state, nodes_tag))
        .handle(take(state, nodes_delete))
        .handle(read(state, routes_list))
        .handle(write(state, routes_approve))
        .handle(take(state, routes_revoke))
        .handle(read(state, routes_check))
        .handle(write(state, |registry: &mut Registry, wire::PolicyGet {}, _| {
            Ok(wire::PolicyText { policy: registry.policy_text().map(str::to_string) })
        }))
        .handle(move |call| policy::network(networks.clone(), call))
        .handle(move |call| policy::set(sets.clone(), call))
        .handle(read(state, dns_get))
        .handle(write(state, dns_set))
        .handle(read(state, apps_list))
        .handle(read(state, apps_show))
        .handle(read(state, status))
}

/// Why an operation was refused; nothing was changed.
#[derive(Debug)]
struct Refused(Error);

impl Refused {
    /// What was asked for is not written right, or about something that does not exist.
    fn new(why: impl Into<String>) -> Refused {
        Refused(Error::refused(why))
    }
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Refused {
        Refused::new(why.to_string())
    }
}

impl From<Refused> for anyhow::Error {
    fn from(why: Refused) -> anyhow::Error {
        why.0.into()
    }
}

type Done<T> = Result<T, Refused>;

type Answering<A> = Pin<Box<dyn Future<Output = anyhow::Result<A>> + Send>>;

/// A handler that only looks.
fn read<C: Call>(
    state: &Arc<ControlState>,
    f: fn(&ControlState, &Snapshot, C) -> Done<C::Answer>,
) -> impl Fn(C) -> Answering<C::Answer> + Send + Sync + 'static {
    let state = state.clone();
    move |call| {
        let answer = f(&state, &state.registry.now(), call);
        Box::pin(async move { Ok(answer?) })
    }
}

/// A handler of what may let somebody in: it is saved and in force, or it is refused.
fn write<C: Call>(
    state: &Arc<ControlState>,
    f: fn(&mut Registry, C, u64) -> Done<C::Answer>,
) -> impl Fn(C) -> Answering<C::Answer> + Send + Sync + 'static {
    let state = state.clone();
    move |call| {
        let state = state.clone();
        Box::pin(async move { Ok(state.registry.change(move |registry, now| f(registry, call, now)).await??) })
    }
}

/// A handler of what only takes something away: in force at once, whatever the disk does.
fn take<C: Call<Answer = Written<T>>, T: Send + 'static>(
    state: &Arc<ControlState>,
    f: fn(&mut Registry, C, u64) -> Done<T>,
) -> impl Fn(C) -> Answering<Written<T>> + Send + Sync + 'static {
    let state = state.clone();
    move |call| {
        let state = state.clone();
        Box::pin(async move {
            let (done, saved) = state.registry.make(Kind::Takes, move |registry, now| f(registry, call, now)).await?;
            let unsaved = match saved {
                Saved::Yes => None,
                Saved::NotYet(why) => Some(why),
            };
            Ok(Written { done: done?, unsaved })
        })
    }
}

fn users_list(_: &ControlState, s: &Snapshot, _: wire::UsersList) -> Done<wire::Users> {
    let nodes = |id: u64| s.nodes.values().filter(|m| m.node.user == Some(id) && !m.node.is_tagged()).count();
    let users = s.users.values().map(|u| wire::UserNodes { user: user(u), nodes: nodes(u.id) });
    Ok(wire::Users { users: users.collect() })
}

/// A role as records have it: a member has none.
fn role_of(role: String) -> Option<String> {
    Some(role).filter(|r| r != "member")
}

fn users_create(registry: &mut Registry, call: wire::UsersCreate, now: u64) -> Done<wire::User> {
    // Somebody has to own the network: the first one does, unless told otherwise.
    let role = call.role.or_else(|| registry.users().next().is_none().then(|| "owner".to_string()));
    Ok(user(&registry.create_user(&call.name, role.and_then(role_of), BY, now)?))
}

fn users_rename(registry: &mut Registry, call: wire::UsersRename, now: u64) -> Done<wire::UserRenamed> {
    let before = registry.user_named(&call.name)?.login().to_string();
    let user = user(&registry.rename_user(&call.name, &call.new, BY, now)?);
    Ok(wire::UserRenamed { user, before, policy: registry.policy_text().is_some() })
}

fn users_role(registry: &mut Registry, call: wire::UsersRole, now: u64) -> Done<wire::UserRole> {
    let owner = |registry: &Registry| {
        registry.users().find(|u| u.role.as_deref() == Some("owner")).map(|u| u.login().to_string())
    };
    let before = owner(registry);
    let owns = call.role == "owner";
    let user = user(&registry.set_role(&call.name, role_of(call.role).as_deref(), BY, now)?);
    let owner_before = before.filter(|b| owns && b != user.login());
    Ok(wire::UserRole { user, owner_before })
}

fn users_delete(registry: &mut Registry, call: wire::UsersDelete, now: u64) -> Done<wire::User> {
    Ok(user(&registry.delete_user(&call.name, BY, now)?))
}

fn keys_list(state: &ControlState, s: &Snapshot, _: wire::KeysList) -> Done<wire::Keys> {
    let now = state.registry.time.now();
    Ok(wire::Keys { keys: s.keys.values().map(|k| answers::key(s, k, now)).collect() })
}

async fn keys_create(state: Arc<ControlState>, call: wire::KeysCreate) -> anyhow::Result<wire::KeyCreated> {
    // 192 bits: nobody guesses it, and nothing that was logged on the way gives it away.
    let secret = format!("pck-{}", hex(&rand::random::<[u8; 24]>()));
    let hash = sha256_hex(secret.as_bytes());
    let made = state.registry.change(move |registry, now| -> Done<(Vec<String>, PreAuthKey)> {
        let user = call.user.map(|u| registry.user_named(&u).map(|u| u.id)).transpose()?;
        let new = PreAuthKey {
            bcrypt: None,
            id: 0,
            user,
            hash,
            reusable: call.reusable,
            ephemeral: call.ephemeral,
            tags: call.tags,
            created: now,
            expires: call.expiry.map(|s| now.saturating_add(s)),
            used: 0,
            revoked: false,
        };
        let made = registry.create_key(new, BY, now)?;
        Ok((registry.unknown_tags(&made.tags), made))
    });
    let (unknown_tags, made) = made.await??;
    let about = answers::key(&state.registry.now(), &made, state.registry.time.now());
    Ok(wire::KeyCreated { about, unknown_tags, key: secret })
}

fn keys_revoke(registry: &mut Registry, call: wire::KeysRevoke, now: u64) -> Done<wire::KeyRevoked> {
    let key = registry.revoke_key(call.id, BY, now)?;
    Ok(wire::KeyRevoked { id: key.id, revoked: key.revoked })
}

fn nodes_list(state: &ControlState, s: &Snapshot, _: wire::NodesList) -> Done<wire::Nodes> {
    let nodes = s.nodes.keys().filter_map(|id| node(state, s, *id)).collect();
    let waiting = s.pending.values().filter(|p| p.waits()).map(|p| wire::Waiting {
        ticket: p.ticket.clone(),
        hostname: p.host.hostname.clone(),
        os: p.host.os.clone(),
        machine: p.machine.to_string(),
        asks_tags: p.host.request_tags.clone(),
        since: p.since,
        until: p.ends(),
    });
    Ok(wire::Nodes { nodes, waiting: waiting.collect() })
}

fn nodes_show(state: &ControlState, s: &Snapshot, call: wire::NodesShow) -> Done<wire::NodeDetails> {
    let id = s.find(&call.node)?;
    let node = node(state, s, id).ok_or_else(|| Refused::new("the node is gone"))?;
    let view = s.place(id).and_then(|p| s.compiled.for_node(p));
    let map = view.and_then(|view| serde_json::from_value(s.compiled.node_json(&view)).ok());
    Ok(wire::NodeDetails { node, map })
}

fn nodes_approve(registry: &mut Registry, call: wire::NodesApprove, now: u64) -> Done<wire::NodeChanged> {
    // With one user there is no question whose it is.
    let user = match call.user {
        Some(user) => user,
        None => {
            let mut all = registry.users().map(|u| u.login().to_string());
            match (all.next(), all.next()) {
                (Some(only), None) => only,
                _ => return Err(Refused::new("whose node is it? say so with `--user NAME`")),
            }
        }
    };
    Ok(changed(&*registry.approve(&call.node, &user, BY, now)?))
}

fn nodes_refuse(registry: &mut Registry, call: wire::NodesRefuse, now: u64) -> Done<Nothing> {
    registry.refuse(&call.node, BY, now)?;
    Ok(Nothing {})
}

fn nodes_expire(registry: &mut Registry, call: wire::NodesExpire, now: u64) -> Done<wire::NodeChanged> {
    Ok(changed(&*registry.expire(&call.node, BY, now)?))
}

fn nodes_rename(registry: &mut Registry, call: wire::NodesRename, now: u64) -> Done<wire::NodeChanged> {
    Ok(changed(&*registry.rename(&call.node, &call.name, BY, now)?))
}

fn nodes_move(registry: &mut Registry, call: wire::NodesMove, now: u64) -> Done<wire::NodeMoved> {
    let node = registry.move_to(&call.node, &call.user, BY, now)?;
    let user = registry.users().find(|u| Some(u.id) == node.user).map(|u| u.login().to_string());
    Ok(wire::NodeMoved { node: changed(&node), user })
}

fn nodes_tag(registry: &mut Registry, call: wire::NodesTag, now: u64) -> Done<wire::NodeTagged> {
    let node = changed(&*registry.tag(&call.node, &call.tags, BY, now)?);
    Ok(wire::NodeTagged { node, unknown_tags: registry.unknown_tags(&call.tags) })
}

fn nodes_delete(registry: &mut Registry, call: wire::NodesDelete, now: u64) -> Done<wire::NodeChanged> {
    Ok(changed(&*registry.delete(&call.node, BY, now)?))
}

fn routes_list(_: &ControlState, s: &Snapshot, _: wire::RoutesList) -> Done<wire::Routes> {
    let route = |r: &tailnet::RouteView<'_>| wire::Route {
        node: r.member.node.name.clone(),
        id: r.member.node.id,
        route: answers::route(r),
        online: r.member.online,
        leaves_from: r.member.from,
    };
    Ok(wire::Routes { routes: s.routes().iter().map(route).collect() })
}

fn prefixes(texts: &[String]) -> Done<Vec<Prefix>> {
    if texts.is_empty() {
        return Err(Refused::new("which routes? write prefixes such as 198.51.100.7/32"));
    }
    let mut out = Vec::new();
    for t in texts {
        // An exit node is both families or none.
        if t == "exit" {
            out.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
            continue;
        }
        let (prefix, cleared) = Prefix::parse_lenient(t).map_err(|e| Refused::new(e.to_string()))?;
        if cleared {
            let want = prefix.long();
            return Err(Refused::new(format!("`{}` names one address of {want}; write {want}", t.escape_debug())));
        }
        out.push(prefix);
    }
    Ok(out)
}

fn routes_approve(registry: &mut Registry, call: wire::RoutesApprove, now: u64) -> Done<wire::RoutesApproved> {
    let (node, not_offered) = registry.approve_routes(&call.node, &prefixes(&call.routes)?, BY, now)?;
    Ok(wire::RoutesApproved { node: node.name.clone(), not_offered })
}

fn routes_revoke(registry: &mut Registry, call: wire::RoutesRevoke, now: u64) -> Done<wire::RoutesRevoked> {
    let node = registry.revoke_routes(&call.node, &prefixes(&call.routes)?, BY, now)?;
    Ok(wire::RoutesRevoked { node: node.name.clone() })
}

fn routes_check(_: &ControlState, s: &Snapshot, call: wire::RoutesCheck) -> Done<wire::Reachability> {
    let addr = call.address;
    let found = s.carriers(addr);
    let from = |m: &Member| match m.leaves_from(addr) {
        Leaves::From(a) | Leaves::Private(a) => Some(a),
        Leaves::Unknown => None,
    };
    let carriers: Vec<wire::Carrier> = found
        .iter()
        .map(|c| wire::Carrier {
            route: c.route,
            node: c.member.node.name.clone(),
            online: c.member.online,
            exit: is_exit(c.route),
            leaves_from: from(c.member),
            users: c.users.iter().map(|u| (*u).to_string()).collect(),
        })
        .collect();
    let leaves_from = s.sources(addr, &found).into_iter().map(|o| wire::Source {
        address: from(o.member),
        private: matches!(o.member.leaves_from(addr), Leaves::Private(_)),
        node: o.member.node.name.clone(),
        carries: o.carries,
        online: o.member.online,
        app: o.app,
    });
    let nobody = found.iter().all(|c| c.users.is_empty()).then(|| s.nobody(addr, &found).to_string());
    let holder = s.nodes.values().find(|m| m.node.ipv4 == addr || m.node.ipv6 == addr);
    Ok(wire::Reachability {
        address: addr,
        node: holder.map(|m| m.node.name.clone()),
        leaves_from: leaves_from.collect(),
        nobody,
        not_approved: not_approved(s, &call, &carriers),
        carriers,
    })
}

/// Routes that lead to the address and are not in force, the nearest first.
fn not_approved(s: &Snapshot, call: &wire::RoutesCheck, carriers: &[wire::Carrier]) -> Vec<wire::Unapproved> {
    let mut waiting = s.routes();
    let approved = |r: &tailnet::RouteView<'_>| r.state == tailnet::RouteState::Approved;
    waiting.retain(|r| (!approved(r) || r.member.expired) && r.prefix.contains(call.address));
    // An exit node is no answer to the question how one address is reached, as long as there is another.
    let nearer = waiting.iter().any(|r| !is_exit(r.prefix)) || carriers.iter().any(|c| !c.exit);
    waiting.retain(|r| !is_exit(r.prefix) || !nearer);
    waiting.sort_by_key(|r| std::cmp::Reverse(r.prefix.bits()));
    let one = |r: &tailnet::RouteView<'_>| wire::Unapproved {
        route: r.prefix,
        node: r.member.node.name.clone(),
        state: if approved(r) { RouteState::LoggedOut } else { answers::state(r.state) },
    };
    waiting.iter().map(one).collect()
}

fn dns_get(_: &ControlState, s: &Snapshot, _: wire::DnsGet) -> Done<wire::Dns> {
    let names = &*s.names;
    Ok(wire::Dns {
        domain: s.settings.domain.clone(),
        nameservers: names.nameservers.clone(),
        search: names.search.clone(),
        split: names.split.clone(),
        records: names.records.iter().map(answers::record).collect(),
    })
}

fn dns_set(registry: &mut Registry, call: wire::DnsSet, now: u64) -> Done<Nothing> {
    let mut names: Names = registry.names().clone();
    if let Some(servers) = call.nameservers {
        names.nameservers = servers;
    }
    if let Some(search) = call.search {
        names.search = search.iter().map(|t| domain(t)).collect::<Result<_, _>>()?;
    }
    if let Some(wire::Split { domain: of, servers }) = call.split {
        let of = domain(&of)?;
        if servers.is_empty() {
            names.split.remove(&of);
        } else {
            names.split.insert(of, servers);
        }
    }
    if let Some(add) = call.record {
        let name = registry.free_name(&domain(&add.name)?)?;
        let addr: addr::Addr = add.value.parse().map_err(|e: addr::AddrError| Refused::new(e.to_string()))?;
        let kind = if addr.is_v4() { "A" } else { "AAAA" };
        let record = DnsRecord { name, r#type: kind.into(), value: addr.to_string() };
        if !names.records.contains(&record) {
            names.records.push(record);
        }
    }
    if let Some(name) = call.remove_record {
        let name = domain(&name)?;
        let before = names.records.len();
        names.records.retain(|r| r.name != name);
        if names.records.len() == before {
            return Err(Refused::new(format!("there is no record `{name}`")));
        }
    }
    for server in names.nameservers.iter().chain(names.split.values().flatten()) {
        let url = |t: &str| t.strip_prefix("https://").is_some_and(|rest| !rest.trim_matches('/').is_empty());
        let addr = |t: &str| t.parse::<addr::Addr>().is_ok_and(|a| !a.ip().is_unspecified());
        if !addr(server) && !url(server) {
            return Err(Refused::new(format!(
                "`{}` is no nameserver; write an address such as 9.9.9.9",
                server.escape_debug()
            )));
        }
    }
    registry.set_names(names, BY, now);
    Ok(Nothing {})
}

fn domain(text: &str) -> Done<String> {
    tailnet::domain_name(text).map_err(|why| Refused::new(format!("`{}` {why}", text.escape_debug())))
}

fn apps_list(_: &ControlState, s: &Snapshot, _: wire::AppsList) -> Done<wire::Apps> {
    let app = |a: &tailnet::App<'_>| wire::App {
        name: a.name.clone(),
        domains: a.domains.clone(),
        pinned: a.pinned.clone(),
        connectors: a.connectors.iter().map(|m| m.node.name.clone()).collect(),
        addresses: a.learnt.iter().filter(|(_, l)| !l.gone).count(),
    };
    Ok(wire::Apps { apps: s.apps().iter().map(app).collect() })
}

fn apps_show(_: &ControlState, s: &Snapshot, call: wire::AppsShow) -> Done<wire::AppDetails> {
    let apps = s.apps();
    let Some(app) = apps.iter().find(|a| a.name == call.name) else {
        let all: Vec<&str> = apps.iter().map(|a| a.name.as_str()).collect();
        let there =
            if all.is_empty() { "the policy names none".into() } else { format!("there are {}", all.join(", ")) };
        return Err(Refused::new(format!("there is no app `{}`; {there}", call.name.escape_debug())));
    };
    let learnt = app.learnt.iter().map(|(m, l)| {
        let until = s.settings.app_expiry.map(|e| l.seen.saturating_add(e));
        wire::LearnedAddress {
            domain: l.domain.clone(),
            address: l.addr,
            since: l.since,
            seen: l.seen,
            gone: l.gone,
            over: l.over,
            until: if l.gone { Some(l.seen) } else { until },
            connector: m.node.name.clone(),
        }
    });
    Ok(wire::AppDetails {
        name: app.name.clone(),
        domains: app.domains.clone(),
        pinned: app.pinned.clone(),
        connectors: app.connectors.iter().map(|m| m.node.name.clone()).collect(),
        learnt: learnt.collect(),
    })
}

fn status(state: &ControlState, s: &Snapshot, _: wire::Status) -> Done<wire::ServerStatus> {
    Ok(wire::ServerStatus {
        url: state.url.to_string(),
        nodes: s.nodes.len(),
        online: s.nodes.values().filter(|m| m.online).count(),
        streams: state.streams(),
        users: s.users.len(),
        policy: s.has_policy,
        generation: s.generation,
        waiting: s.pending.values().filter(|p| p.waits()).count(),
    })
}
