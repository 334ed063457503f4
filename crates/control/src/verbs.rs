//! A coordination server's verbs on the admin socket: users, keys, nodes, routes, policy, names, apps. In: JSON of the
//! command line. Out: JSON that it prints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr::{Addr, Prefix};
use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tailnet::record::{JoinKey, Names, Node, User};
use tailnet::{self, Book, Leaves, Refusal, Snapshot};

use super::Control;
use super::desk::Desk;
use super::policy;
use runtime::api::Verbs;
use runtime::owner::{Kind, Saved};
use runtime::{hex, sha256_hex};

/// Where a coordination server listens for commands.
#[must_use]
pub fn control_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Adds the server's verbs to a process's.
#[must_use]
pub fn verbs(verbs: Verbs, control: &Control) -> Verbs {
    let read = |f: fn(&Desk, &Snapshot, &Value) -> anyhow::Result<Value>| {
        let desk = control.desk.clone();
        move |args: Value| {
            let answer = f(&desk, &desk.keeper.now(), &args);
            async move { answer }
        }
    };
    let make = |kind: Kind, f: fn(&mut Book, &Value, &str, u64) -> Result<Value, Refusal>| {
        let desk = control.desk.clone();
        move |args: Value| {
            let desk = desk.clone();
            async move {
                let (done, saved) = desk.keeper.make(kind, move |book, now| f(book, &args, BY, now)).await?;
                let mut answer = done.map_err(|e| anyhow!("{e}"))?;
                if let Saved::NotYet(why) = saved {
                    answer["unsaved"] = why.into();
                }
                Ok(answer)
            }
        }
    };
    let write = |f| make(Kind::Gives, f);
    // In force at once, whatever the disk does.
    let take = |f| make(Kind::Takes, f);
    let (keys, sets, networks) = (control.desk.clone(), control.desk.clone(), control.desk.clone());
    let woken = control.desk.keeper.clone();
    let (time, trouble) = (woken.time.clone(), woken.trouble.clone());
    runtime::clock::verbs(verbs, time, trouble, move || woken.mention(|_, _| {}))
        .on("users-list", read(users_list))
        .on("users-create", write(users_create))
        .on("users-rename", write(users_rename))
        .on("users-role", write(users_role))
        .on("users-delete", take(users_delete))
        .on("keys-list", read(keys_list))
        .on("keys-create", move |args| keys_create(keys.clone(), args))
        .on("keys-revoke", take(keys_revoke))
        .on("nodes-list", read(nodes_list))
        .on("nodes-show", read(nodes_show))
        .on("nodes-approve", write(nodes_approve))
        .on("nodes-refuse", take(nodes_refuse))
        .on("nodes-expire", take(nodes_expire))
        .on("nodes-rename", write(nodes_rename))
        .on("nodes-move", write(nodes_move))
        .on("nodes-tag", write(nodes_tag))
        .on("nodes-delete", take(nodes_delete))
        .on("routes-list", read(routes_list))
        .on("routes-approve", write(routes_approve))
        .on("routes-revoke", take(routes_revoke))
        .on("routes-check", read(routes_check))
        .on("policy-get", write(policy::get))
        .on("policy-topology", move |args| policy::network(networks.clone(), args))
        .on("policy-set", move |args| policy::set(sets.clone(), args))
        .on("dns-get", read(dns_get))
        .on("dns-set", write(dns_set))
        .on("apps-list", read(apps_list))
        .on("apps-show", read(apps_show))
        .on("control-status", read(status))
}

/// Who changes something through the socket, in the audit log.
const BY: &str = "command line";

fn text<'a>(args: &'a Value, key: &str) -> Result<&'a str, Refusal> {
    args.get(key).and_then(Value::as_str).ok_or_else(|| Refusal(format!("`{key}` is missing")))
}

fn list<T: for<'de> Deserialize<'de>>(args: &Value, key: &str) -> Result<Vec<T>, Refusal> {
    match args.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(v) => serde_json::from_value(v.clone()).map_err(|e| Refusal(format!("`{key}`: {e}"))),
    }
}

fn value<T: serde::Serialize>(it: &T) -> Value {
    // Plain records: writing them as JSON does not fail.
    serde_json::to_value(it).unwrap_or_default()
}

fn users_list(_: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let nodes = |u: &User| s.nodes.values().filter(|m| m.node.user == Some(u.id) && !m.node.is_tagged()).count();
    let all: Vec<Value> = s
        .users
        .values()
        .map(|u| {
            let mut v = value(u);
            v["nodes"] = nodes(u).into();
            v
        })
        .collect();
    Ok(json!({ "users": all }))
}

fn users_create(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let given = args.get("role").and_then(Value::as_str).map(str::to_string);
    // Somebody has to own the network: the first one does, unless told otherwise.
    let role = given.or_else(|| book.users().next().is_none().then(|| "owner".to_string()));
    let user = book.create_user(text(args, "name")?, role.filter(|r| r != "member"), by, now)?;
    Ok(value(&user))
}

fn users_rename(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let old = book.user_named(text(args, "name")?)?.login().to_string();
    let user = book.rename_user(text(args, "name")?, text(args, "new")?, by, now)?;
    let mut v = value(&user);
    v["before"] = old.into();
    v["policy"] = book.policy_text().is_some().into();
    Ok(v)
}

fn users_role(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let role = text(args, "role")?;
    let owner = |book: &Book| book.users().find(|u| u.role.as_deref() == Some("owner")).map(|u| u.login().to_string());
    let before = owner(book);
    let user = book.set_role(text(args, "name")?, Some(role).filter(|r| *r != "member"), by, now)?;
    let mut v = value(&user);
    // Who owned the network and does no more.
    v["owner_before"] = before.filter(|b| role == "owner" && b != user.login()).into();
    Ok(v)
}

fn users_delete(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    Ok(value(&book.delete_user(text(args, "name")?, by, now)?))
}

fn keys_list(desk: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let now = desk.keeper.time.now();
    let all: Vec<Value> = s.keys.values().map(|k| key_json(s, k, now)).collect();
    Ok(json!({ "keys": all }))
}

/// `now`: the time by which the server decides whether a key is still good.
fn key_json(s: &Snapshot, k: &JoinKey, now: u64) -> Value {
    let mut v = value(k);
    if let Some(o) = v.as_object_mut() {
        o.remove("hash");
    }
    v["user"] = k.user.and_then(|u| s.users.get(&u)).map(User::login).into();
    let state = if k.revoked {
        "revoked"
    } else if k.expires.is_some_and(|e| e <= now) {
        "expired"
    } else if k.used > 0 && !k.reusable {
        "used"
    } else {
        "good"
    };
    v["state"] = state.into();
    v
}

async fn keys_create(desk: Arc<Desk>, args: Value) -> anyhow::Result<Value> {
    // 192 bits: nobody guesses it, and nothing that was logged on the way gives it away.
    let secret = format!("pck-{}", hex(&rand::random::<[u8; 24]>()));
    let hash = sha256_hex(secret.as_bytes());
    let made = desk
        .keeper
        .change(move |book, now| {
            let user = args.get("user").and_then(Value::as_str);
            let user = user.map(|u| book.user_named(u).map(|u| u.id)).transpose()?;
            let flag = |key: &str| args.get(key).and_then(Value::as_bool).unwrap_or(false);
            let expires = args.get("expiry").and_then(Value::as_u64).map(|s| now.saturating_add(s));
            let new = JoinKey {
                id: 0,
                user,
                hash,
                reusable: flag("reusable"),
                ephemeral: flag("ephemeral"),
                tags: list(&args, "tags")?,
                created: now,
                expires,
                used: 0,
                revoked: false,
            };
            let made = book.create_key(new, BY, now)?;
            Ok::<_, Refusal>((book.unknown_tags(&made.tags), made))
        })
        .await?
        .map_err(|e| anyhow!("{e}"))?;
    let (unknown, made) = made;
    let mut v = key_json(&desk.keeper.now(), &made, desk.keeper.time.now());
    v["unknown_tags"] = json!(unknown);
    v["key"] = secret.into();
    Ok(v)
}

fn keys_revoke(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let id = args.get("id").and_then(Value::as_u64).ok_or_else(|| Refusal("`id` is missing".into()))?;
    let key = book.revoke_key(id, by, now)?;
    Ok(json!({ "id": key.id, "revoked": key.revoked }))
}

fn nodes_list(desk: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let all: Vec<Value> = s.nodes.keys().filter_map(|id| node_json(desk, s, *id)).collect();
    let waiting: Vec<Value> = s
        .pending
        .values()
        .filter(|p| p.waits())
        .map(|p| {
            json!({ "ticket": p.ticket, "hostname": p.host.hostname, "os": p.host.os, "machine": p.machine,
                    "asks_tags": p.host.request_tags, "since": p.since, "until": p.ends() })
        })
        .collect();
    Ok(json!({ "nodes": all, "waiting": waiting }))
}

/// A node for people and scripts.
fn node_json(desk: &Desk, s: &Snapshot, id: u64) -> Option<Value> {
    let m = s.nodes.get(&id)?;
    let n = &m.node;
    let routes: Vec<Value> = s
        .routes_of(m)
        .iter()
        .map(|r| json!({ "prefix": r.prefix.long(), "state": r.state.word(), "by_policy": r.by_policy, "primary": r.primary }))
        .collect();
    Some(json!({
        "id": n.id, "name": n.name, "full_name": s.full_name(n).trim_end_matches('.'),
        "user": n.user.and_then(|u| s.users.get(&u)).map(User::login), "tags": n.tags, "belongs_to": s.principal(n),
        "ipv4": n.ipv4.to_string(), "ipv6": n.ipv6.to_string(), "online": m.online && desk.has_stream(id),
        "expected": m.online, "expired": m.expired,
        "expires": n.expires, "created": n.created, "seen": n.seen, "ephemeral": n.ephemeral,
        "comes_from": m.from.map(|a| a.to_string()), "os": n.host.os, "client": n.host.ipn_version,
        "hostname": n.host.hostname, "version": n.version, "endpoints": n.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "relay": n.home_derp(), "machine": n.machine, "key": n.key, "routes": routes,
    }))
}

fn nodes_show(desk: &Desk, s: &Snapshot, args: &Value) -> anyhow::Result<Value> {
    let name = text(args, "node").map_err(|e| anyhow!("{e}"))?;
    let id = s.find(name).map_err(|e| anyhow!("{e}"))?;
    let mut v = node_json(desk, s, id).context("the node is gone")?;
    if let Some(view) = s.place(id).and_then(|p| s.compiled.for_node(p)) {
        v["map"] = s.compiled.node_json(&view);
    }
    Ok(v)
}

fn told(node: &Node) -> Value {
    json!({ "id": node.id, "name": node.name, "ipv4": node.ipv4.to_string(), "ipv6": node.ipv6.to_string(), "tags": node.tags, "expires": node.expires })
}

fn nodes_approve(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    // With one user there is no question whose it is.
    let user = match args.get("user").and_then(Value::as_str) {
        Some(u) => u.to_string(),
        None => {
            let mut all = book.users().map(|u| u.login().to_string());
            match (all.next(), all.next()) {
                (Some(only), None) => only,
                _ => return Err(Refusal("whose node is it? say so with `--user NAME`".into())),
            }
        }
    };
    let node = book.approve(text(args, "node")?, &user, by, now)?;
    Ok(told(&node))
}

fn nodes_refuse(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    book.refuse(text(args, "node")?, by, now)?;
    Ok(json!({}))
}

fn nodes_expire(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    Ok(told(&*book.expire(text(args, "node")?, by, now)?))
}

fn nodes_rename(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    Ok(told(&*book.rename(text(args, "node")?, text(args, "name")?, by, now)?))
}

fn nodes_move(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let node = book.move_to(text(args, "node")?, text(args, "user")?, by, now)?;
    let mut v = told(&node);
    v["user"] = book.users().find(|u| Some(u.id) == node.user).map(|u| u.login().to_string()).into();
    Ok(v)
}

fn nodes_tag(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let tags: Vec<String> = list(args, "tags")?;
    let mut v = told(&*book.tag(text(args, "node")?, &tags, by, now)?);
    v["unknown_tags"] = json!(book.unknown_tags(&tags));
    Ok(v)
}

fn nodes_delete(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    Ok(told(&*book.delete(text(args, "node")?, by, now)?))
}

fn routes_list(_: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let all: Vec<Value> = s
        .routes()
        .iter()
        .map(|r| {
            json!({ "node": r.member.node.name, "id": r.member.node.id, "prefix": r.prefix.long(),
                    "state": r.state.word(), "by_policy": r.by_policy, "primary": r.primary, "online": r.member.online,
                    "leaves_from": r.member.from.map(|a| a.to_string()) })
        })
        .collect();
    Ok(json!({ "routes": all }))
}

fn prefixes(args: &Value) -> Result<Vec<Prefix>, Refusal> {
    let texts: Vec<String> = list(args, "routes")?;
    if texts.is_empty() {
        return Err(Refusal("which routes? write prefixes such as 198.51.100.7/32".into()));
    }
    let mut out = Vec::new();
    for t in texts {
        // An exit node is both families or none.
        if t == "exit" {
            out.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
            continue;
        }
        let (prefix, cleared) = Prefix::parse_lenient(&t).map_err(|e| Refusal(format!("{e}")))?;
        if cleared {
            let want = prefix.long();
            return Err(Refusal(format!("`{}` names one address of {want}; write {want}", t.escape_debug())));
        }
        out.push(prefix);
    }
    Ok(out)
}

fn routes_approve(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let (node, missing) = book.approve_routes(text(args, "node")?, &prefixes(args)?, by, now)?;
    let missing: Vec<String> = missing.iter().map(|p| p.long()).collect();
    Ok(json!({ "node": node.name, "not_offered": missing }))
}

fn routes_revoke(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let node = book.revoke_routes(text(args, "node")?, &prefixes(args)?, by, now)?;
    Ok(json!({ "node": node.name }))
}

fn routes_check(_: &Desk, s: &Snapshot, args: &Value) -> anyhow::Result<Value> {
    let addr: Addr = text(args, "address").map_err(|e| anyhow!("{e}"))?.parse()?;
    let node = s.nodes.values().find(|m| m.node.ipv4 == addr || m.node.ipv6 == addr).map(|m| m.node.name.clone());
    let found = s.carriers(addr);
    let from = |m: &tailnet::Member| match m.leaves_from(addr) {
        Leaves::From(a) | Leaves::Private(a) => Some(a.to_string()),
        Leaves::Unknown => None,
    };
    let private = |m: &tailnet::Member| matches!(m.leaves_from(addr), Leaves::Private(_));
    let carriers: Vec<Value> = found
        .iter()
        .map(|c| {
            json!({ "route": c.route.long(), "node": c.member.node.name, "online": c.member.online,
                    "exit": c.route.bits() == 0, "leaves_from": from(c.member), "users": c.users })
        })
        .collect();
    let sources: Vec<Value> = s
        .sources(addr, &found)
        .iter()
        .map(|o| {
            json!({ "address": from(o.member), "private": private(o.member), "node": o.member.node.name,
                    "carries": o.carries, "online": o.member.online, "app": o.app })
        })
        .collect();
    let nobody = found.iter().all(|c| c.users.is_empty()).then(|| s.nobody(addr, &found));
    let mut waiting: Vec<_> = s.routes();
    waiting.retain(|r| (r.state != tailnet::RouteState::Approved || r.member.expired) && r.prefix.contains(addr));
    // An exit node is no answer to the question how one address is reached, as long as there is another.
    let nearer = waiting.iter().any(|r| r.prefix.bits() > 0) || carriers.iter().any(|c| c["exit"] == false);
    waiting.retain(|r| r.prefix.bits() > 0 || !nearer);
    waiting.sort_by_key(|r| std::cmp::Reverse(r.prefix.bits()));
    let waiting: Vec<Value> = waiting
        .iter()
        .map(|r| {
            let approved = r.state == tailnet::RouteState::Approved;
            let state = if approved { "approved, but its node is logged out" } else { r.state.word() };
            json!({ "route": r.prefix.long(), "node": r.member.node.name, "state": state })
        })
        .collect();
    Ok(json!({ "address": addr.to_string(), "node": node, "carriers": carriers, "leaves_from": sources,
               "nobody": nobody, "not_approved": waiting }))
}

fn dns_get(_: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let mut v = value(&*s.names);
    v["domain"] = s.settings.domain.clone().into();
    for key in ["nameservers", "search", "records"] {
        if v.get(key).is_none() {
            v[key] = json!([]);
        }
    }
    if v.get("split").is_none() {
        v["split"] = json!({});
    }
    Ok(v)
}

fn dns_set(book: &mut Book, args: &Value, by: &str, now: u64) -> Result<Value, Refusal> {
    let mut names: Names = book.names().clone();
    if args.get("nameservers").is_some() {
        names.nameservers = list(args, "nameservers")?;
    }
    if args.get("search").is_some() {
        let texts: Vec<String> = list(args, "search")?;
        names.search = texts.iter().map(|t| domain(t)).collect::<Result<_, _>>()?;
    }
    if let Some(split) = args.get("split") {
        let domain = domain(text(split, "domain")?)?;
        let servers: Vec<String> = list(split, "servers")?;
        if servers.is_empty() {
            names.split.remove(&domain);
        } else {
            names.split.insert(domain, servers);
        }
    }
    if let Some(add) = args.get("record") {
        let name = book.free_name(&domain(text(add, "name")?)?)?;
        let addr: Addr = text(add, "value")?.parse().map_err(|e| Refusal(format!("{e}")))?;
        let kind = if addr.is_v4() { "A" } else { "AAAA" };
        let record = tailnet_proto::tailcfg::map::DnsRecord { name, r#type: kind.into(), value: addr.to_string() };
        if !names.records.contains(&record) {
            names.records.push(record);
        }
    }
    if let Some(name) = args.get("remove_record").and_then(Value::as_str) {
        let name = domain(name)?;
        let before = names.records.len();
        names.records.retain(|r| r.name != name);
        if names.records.len() == before {
            return Err(Refusal(format!("there is no record `{name}`")));
        }
    }
    for server in names.nameservers.iter().chain(names.split.values().flatten()) {
        let url = |t: &str| t.strip_prefix("https://").is_some_and(|rest| !rest.trim_matches('/').is_empty());
        let addr = |t: &str| t.parse::<Addr>().is_ok_and(|a| !a.ip().is_unspecified());
        if !addr(server) && !url(server) {
            return Err(Refusal(format!(
                "`{}` is no nameserver; write an address such as 9.9.9.9",
                server.escape_debug()
            )));
        }
    }
    book.set_names(names, by, now);
    Ok(json!({}))
}

fn domain(text: &str) -> Result<String, Refusal> {
    tailnet::domain_name(text).map_err(|why| Refusal(format!("`{}` {why}", text.escape_debug())))
}

fn apps_list(_: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    let all: Vec<Value> = s
        .apps()
        .iter()
        .map(|a| {
            let nodes: Vec<&str> = a.connectors.iter().map(|m| m.node.name.as_str()).collect();
            json!({ "name": a.name, "domains": a.domains, "pinned": a.pinned.iter().map(|p| p.long()).collect::<Vec<_>>(),
                    "connectors": nodes, "addresses": a.learnt.iter().filter(|(_, l)| !l.gone).count() })
        })
        .collect();
    Ok(json!({ "apps": all }))
}

fn apps_show(_: &Desk, s: &Snapshot, args: &Value) -> anyhow::Result<Value> {
    let name = text(args, "name").map_err(|e| anyhow!("{e}"))?;
    let apps = s.apps();
    let Some(app) = apps.iter().find(|a| a.name == name) else {
        let all: Vec<&str> = apps.iter().map(|a| a.name.as_str()).collect();
        let there =
            if all.is_empty() { "the policy names none".into() } else { format!("there are {}", all.join(", ")) };
        bail!("there is no app `{}`; {there}", name.escape_debug());
    };
    let learnt: Vec<Value> = app
        .learnt
        .iter()
        .map(|(m, l)| {
            let until = s.settings.app_expiry.map(|e| l.seen.saturating_add(e));
            json!({ "domain": l.domain, "address": l.addr.to_string(), "since": l.since, "seen": l.seen, "gone": l.gone, "over": l.over,
                    "until": if l.gone { Some(l.seen) } else { until }, "connector": m.node.name })
        })
        .collect();
    let pinned: Vec<String> = app.pinned.iter().map(|p| p.long()).collect();
    let connectors: Vec<&str> = app.connectors.iter().map(|m| m.node.name.as_str()).collect();
    Ok(
        json!({ "name": app.name, "domains": app.domains, "pinned": pinned, "connectors": connectors, "learnt": learnt }),
    )
}

fn status(desk: &Desk, s: &Snapshot, _: &Value) -> anyhow::Result<Value> {
    Ok(json!({
        "url": desk.url.to_string(), "nodes": s.nodes.len(), "online": s.nodes.values().filter(|m| m.online).count(),
        "streams": desk.streams(), "users": s.users.len(), "policy": s.has_policy, "generation": s.generation,
        "waiting": s.pending.values().filter(|p| p.waits()).count(),
    }))
}
