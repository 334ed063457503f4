//! Commands to a running coordination server: `users`, `keys`, `nodes`, `routes`, `apps`, `dns`, `policy get`. In:
//! what was typed. Out: the server's answer, as words, a table or JSON.

use std::process::ExitCode;

use addr::Addr;
use api::control::{
    AppsList, AppsShow, DnsGet, DnsSet, KeysCreate, KeysList, KeysRevoke, NewRecord, Node, NodesApprove, NodesDelete,
    NodesExpire, NodesList, NodesMove, NodesRefuse, NodesRename, NodesShow, NodesTag, Reachability, RouteState,
    RoutesApprove, RoutesCheck, RoutesList, RoutesRevoke, Source, Split, User, UsersCreate, UsersDelete, UsersList,
    UsersRename, UsersRole,
};

use crate::args::GlobalArgs;
use crate::args::control::{AppsCommand, DnsCommand, KeysCommand, NodesCommand, RoutesCommand, UsersCommand};
use crate::args::gate::JsonArgs;
use crate::fail::{Exit, Fail};
use crate::say::{when, word, words};
use crate::{admin_client, say};

type Answer = Result<ExitCode, Fail>;

/// A key is for today, unless told otherwise: it lies about in shells and scripts.
const KEY_EXPIRY: u64 = 86_400;

/// `users`.
pub(crate) fn users(c: &UsersCommand, global: &GlobalArgs) -> Answer {
    match c {
        UsersCommand::Create { name, role, json } => {
            role.as_deref().map_or(Ok(()), is_role)?;
            let user = admin_client::control(global, UsersCreate { name: name.clone(), role: role.clone() })?;
            told(json, &user, || format!("created user {}", login(&user)))
        }
        UsersCommand::Rename { name, new, json } => {
            let done = admin_client::control(global, UsersRename { name: name.clone(), new: new.clone() })?;
            let (before, login) = (word(&done.before), login(&done.user));
            if done.policy && !json.json.unwrap_or(false) {
                eprintln!("note: a rule of the policy that says {before} does not mean {login} any more");
            }
            told(json, &done, || format!("renamed user {before} to {login}"))
        }
        UsersCommand::Role { name, role, json } => {
            is_role(role)?;
            let done = admin_client::control(global, UsersRole { name: name.clone(), role: role.clone() })?;
            told(json, &done, || match &done.owner_before {
                Some(before) => {
                    format!("{} owns the network now, {} is an admin of it", login(&done.user), word(before))
                }
                None => format!("{} has the role {role}", login(&done.user)),
            })
        }
        UsersCommand::Delete { name, json } => {
            let user = admin_client::control(global, UsersDelete { name: name.clone() })?;
            told(json, &user, || format!("deleted user {}", login(&user.done)))
        }
        UsersCommand::List(json) => {
            let all = admin_client::control(global, UsersList {})?;
            if admin_client::printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = all
                .users
                .iter()
                .map(|u| {
                    let role = word(u.user.role.as_deref().unwrap_or_default());
                    vec![u.user.id.to_string(), login(&u.user), role, u.nodes.to_string(), when(u.user.created)]
                })
                .collect();
            say::raw(&say::table(&["ID", "USER", "ROLE", "NODES", "SINCE"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn is_role(role: &str) -> Result<(), Fail> {
    if role == "member" || policy::Role::named(role).is_some() {
        return Ok(());
    }
    Err(Fail::usage(
        format!("`{role}` is no role"),
        "owner, admin, network-admin, it-admin, billing-admin, auditor or member",
    ))
}

fn login(u: &User) -> String {
    word(u.login())
}

fn maybe(text: Option<&str>) -> String {
    word(text.unwrap_or_default())
}

fn address(addr: Option<Addr>) -> String {
    addr.map_or_else(String::new, |a| a.to_string())
}

/// `keys`.
pub(crate) fn keys(c: &KeysCommand, global: &GlobalArgs) -> Answer {
    match c {
        KeysCommand::Create { user, reusable, ephemeral, tags, expiry, json } => {
            let key = admin_client::control(
                global,
                KeysCreate {
                    user: user.clone(),
                    reusable: *reusable,
                    ephemeral: *ephemeral,
                    tags: tags.clone(),
                    expiry: expiry.map_or(Some(KEY_EXPIRY), |s| s.0),
                },
            )?;
            say_unknown(&key.unknown_tags);
            told(json, &key, || word(&key.key))
        }
        KeysCommand::Revoke { id, json } => {
            let key = admin_client::control(global, KeysRevoke { id: *id })?;
            told(json, &key, || format!("revoked key {id}"))
        }
        KeysCommand::List(json) => {
            let all = admin_client::control(global, KeysList {})?;
            if admin_client::printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let yes = |is: bool, text: &str| if is { text.to_string() } else { String::new() };
            let rows: Vec<Vec<String>> = all
                .keys
                .iter()
                .map(|k| {
                    vec![
                        k.id.to_string(),
                        maybe(k.user.as_deref()),
                        words(&k.tags, " "),
                        yes(k.reusable, "reusable"),
                        yes(k.ephemeral, "ephemeral"),
                        k.used.to_string(),
                        k.state.to_string(),
                        k.expires.map_or_else(|| "never ends".to_string(), when),
                    ]
                })
                .collect();
            say::raw(&say::table(&["ID", "USER", "TAGS", "", "", "USED", "STATE", "UNTIL"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `nodes`.
pub(crate) fn nodes(c: &NodesCommand, global: &GlobalArgs) -> Answer {
    match c {
        NodesCommand::List(json) => nodes_list(json, global),
        NodesCommand::Show { node, json } => node_show(node, json, global),
        NodesCommand::Approve { node, user, json } => {
            let n = admin_client::control(global, NodesApprove { node: node.clone(), user: user.clone() })?;
            told(json, &n, || format!("approved node {}, which is {} now", word(&n.name), n.ipv4))
        }
        NodesCommand::Refuse { node, json } => {
            let n = admin_client::control(global, NodesRefuse { node: node.clone() })?;
            told(json, &n, || format!("refused {node}"))
        }
        NodesCommand::Expire { node, json } => {
            let n = admin_client::control(global, NodesExpire { node: node.clone() })?;
            told(json, &n, || format!("expired node {}: it has to log in again", word(&n.done.name)))
        }
        NodesCommand::Rename { node, name, json } => {
            let n = admin_client::control(global, NodesRename { node: node.clone(), name: name.clone() })?;
            told(json, &n, || format!("renamed node {} to {}", n.id, word(&n.name)))
        }
        NodesCommand::Move { node, user, json } => {
            let n = admin_client::control(global, NodesMove { node: node.clone(), user: user.clone() })?;
            let (name, user) = (word(&n.node.name), maybe(n.user.as_deref()));
            told(json, &n, || match n.node.tags.is_empty() {
                true => format!("moved {name} to {user}"),
                false => format!(
                    "{name} belongs to its tags ({}); {user} counts as who brought it",
                    words(&n.node.tags, " ")
                ),
            })
        }
        NodesCommand::Tag { node, tags, json } => {
            let n = admin_client::control(global, NodesTag { node: node.clone(), tags: tags.clone() })?;
            say_unknown(&n.unknown_tags);
            let tags = &n.node.tags;
            let has = if tags.is_empty() { "no tag".to_string() } else { words(tags, " ") };
            told(json, &n, || format!("{} has {has}", word(&n.node.name)))
        }
        NodesCommand::Delete { node, json } => {
            let n = admin_client::control(global, NodesDelete { node: node.clone() })?;
            told(json, &n, || format!("deleted node {}", word(&n.done.name)))
        }
    }
}

fn state(n: &Node) -> String {
    match (n.expired, n.online, n.expected) {
        (true, ..) => "logged out".to_string(),
        (_, true, _) => "online".to_string(),
        // It was there before the server was started, or a moment ago.
        (_, _, true) => "not back yet".to_string(),
        _ => format!("away since {}", when(n.seen)),
    }
}

fn nodes_list(json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let all = admin_client::control(global, NodesList {})?;
    if admin_client::printed(json, &all)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = all
        .nodes
        .iter()
        .map(|n| {
            vec![
                n.id.to_string(),
                word(&n.name),
                n.ipv4.to_string(),
                word(&n.belongs_to),
                state(n),
                address(n.comes_from),
                word(&n.os),
            ]
        })
        .collect();
    say::raw(&say::table(&["ID", "NODE", "ADDRESS", "BELONGS TO", "STATE", "COMES FROM", "OS"], &rows));
    for w in &all.waiting {
        let machine: String = word(&w.machine).chars().take("mkey:".len() + 5).collect();
        // A tag is more than a name: who approves sees what the device will be.
        let tags = match w.asks_tags.is_empty() {
            true => String::new(),
            false => format!(", asks for {}", words(&w.asks_tags, " ")),
        };
        say::line(format!(
            "{} ({machine}) waits{tags}: portcullis nodes approve {} --user NAME",
            word(&w.hostname),
            word(&w.ticket)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn node_show(node: &str, json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let details = admin_client::control(global, NodesShow { node: node.to_string() })?;
    if admin_client::printed(json, &details)? {
        return Ok(ExitCode::SUCCESS);
    }
    let n = &details.node;
    let endpoints: Vec<String> = n.endpoints.iter().map(ToString::to_string).collect();
    for (name, text) in [
        ("node", format!("{} ({})", word(&n.name), word(&n.full_name))),
        ("addresses", format!("{} {}", n.ipv4, n.ipv6)),
        ("belongs to", word(&n.belongs_to)),
        ("brought by", maybe(n.user.as_deref())),
        ("online", n.online.to_string()),
        ("comes from", address(n.comes_from)),
        ("reached at", endpoints.join(" ")),
        ("joined", when(n.created)),
        ("logged in", n.expires.map_or_else(|| "until it is logged out".into(), |at| format!("until {}", when(at)))),
        ("ephemeral", n.ephemeral.to_string()),
        ("client", format!("{} on {}", word(&n.client), word(&n.os))),
        ("machine", word(&n.machine)),
        ("key", word(&n.key)),
        ("sees", details.map.as_ref().map_or_else(String::new, |m| words(&m.peers, " "))),
    ] {
        say::line(format!("{name:<11} {text}"));
    }
    for r in &n.routes {
        say::line(format!("{:<11} {} {}", "route", r.prefix.long(), r.state));
    }
    Ok(ExitCode::SUCCESS)
}

/// `routes`.
pub(crate) fn routes(c: &RoutesCommand, global: &GlobalArgs) -> Answer {
    match c {
        RoutesCommand::List(json) => {
            let all = admin_client::control(global, RoutesList {})?;
            if admin_client::printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = all
                .routes
                .iter()
                .map(|r| {
                    let by = if r.route.by_policy { "by the policy" } else { "" };
                    let carries = match (r.route.primary, r.online) {
                        (true, true) => "carries it",
                        (true, false) => "should carry it, is away",
                        (false, _) => "",
                    };
                    vec![
                        word(&r.node),
                        r.route.prefix.long(),
                        r.route.state.to_string(),
                        by.into(),
                        carries.into(),
                        address(r.leaves_from),
                    ]
                })
                .collect();
            say::raw(&say::table(&["NODE", "ROUTE", "STATE", "", "", "LEAVES FROM"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        RoutesCommand::Approve { node, routes, json } => {
            let done = admin_client::control(global, RoutesApprove { node: node.clone(), routes: routes.clone() })?;
            if !done.not_offered.is_empty() && !json.json.unwrap_or(false) {
                let missing: Vec<String> = done.not_offered.iter().map(|p| p.long()).collect();
                say::line(format!(
                    "{} does not offer {} now; it is approved for when it does",
                    word(&done.node),
                    missing.join(" ")
                ));
            }
            told(json, &done, || format!("approved on {}: {}", word(&done.node), routes.join(" ")))
        }
        RoutesCommand::Revoke { node, routes, json } => {
            let revoked = admin_client::control(global, RoutesRevoke { node: node.clone(), routes: routes.clone() })?;
            told(json, &revoked, || format!("revoked on {}: {}", word(&revoked.done.node), routes.join(" ")))
        }
        RoutesCommand::Check { address, json } => check(address, json, global),
    }
}

/// `routes check`: exit 3 where nobody may pass.
fn check(address: &str, json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let address = address.parse().map_err(|e: addr::AddrError| anyhow::anyhow!("{e}"))?;
    let found = admin_client::control(global, RoutesCheck { address })?;
    let code = Exit::of(found.nobody.is_none() || found.node.is_some());
    if !admin_client::printed(json, &found)? {
        say_way(&found);
    }
    Ok(code)
}

fn say_way(found: &Reachability) {
    let address = found.address;
    if let Some(node) = &found.node {
        say::line(format!("{address} is the node {} itself", word(node)));
        return;
    }
    for c in &found.carriers {
        let whom = if c.users.is_empty() { "nobody".to_string() } else { words(&c.users, ", ") };
        let whom = if c.exit { format!("{whom}, if it is their exit node") } else { whom };
        let away = if c.online { "" } else { ", which is away" };
        say::line(format!("{address} goes through {}{away} by {}", word(&c.node), c.route.long()));
        say::line(format!("  for:         {whom}"));
    }
    leaves_from(&found.leaves_from);
    for p in &found.not_approved {
        let (route, node) = (p.route.long(), word(&p.node));
        let hint = if matches!(p.state, RouteState::Pending | RouteState::Revoked) {
            let route = if p.route.bits() == 0 { "exit" } else { &route };
            format!(": portcullis routes approve {node} {route}")
        } else {
            String::new()
        };
        say::line(format!("{route} at {node} is {}{hint}", p.state));
    }
    if let Some(why) = &found.nobody {
        let nobody = if found.carriers.is_empty() { "no router for" } else { "nobody may reach" };
        say::line(format!("{nobody} {address}: {}", word(why)));
    }
}

/// Every address that traffic may come from: all of them have to be let in at the other end.
fn leaves_from(sources: &[Source]) {
    let one = sources.len() == 1;
    if sources.len() > 1 {
        say::line(format!("  leaves from one of {} addresses; give all of them to the partner:", sources.len()));
    }
    for s in sources {
        let node = word(&s.node);
        let part = match &s.app {
            Some(app) => format!("connector of {}", word(app)),
            None => "has the route too".to_string(),
        };
        let what = match (s.carries, s.online) {
            (true, true) => format!("{node} carries it now"),
            (true, false) => format!("{node} should carry it, and is away"),
            (false, true) => format!("{node} takes over if need be: {part}"),
            (false, false) => format!("{node} is away: {part}"),
        };
        let address = match (s.address, s.private) {
            (None, _) => "not known yet".to_string(),
            (Some(a), true) => format!("{a}, a private one: the partner sees another"),
            (Some(a), false) => a.to_string(),
        };
        if one {
            let hint = match s.address {
                Some(_) => "  (its control connection comes from there; give it to the partner)",
                None => "",
            };
            say::line(format!("  leaves from: {address}{hint}"));
        } else {
            say::line(format!("    {address:<15}  {what}"));
        }
    }
}

/// `apps`.
pub(crate) fn apps(c: &AppsCommand, global: &GlobalArgs) -> Answer {
    match c {
        AppsCommand::List(json) => {
            let all = admin_client::control(global, AppsList {})?;
            if admin_client::printed(json, &all)? {
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = all
                .apps
                .iter()
                .map(|a| {
                    let pinned: Vec<String> = a.pinned.iter().map(|p| p.long()).collect();
                    vec![
                        word(&a.name),
                        words(&a.domains, " "),
                        pinned.join(" "),
                        words(&a.connectors, " "),
                        a.addresses.to_string(),
                    ]
                })
                .collect();
            say::raw(&say::table(&["APP", "DOMAINS", "PINNED", "CONNECTORS", "ADDRESSES"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        AppsCommand::Show { name, json } => {
            let app = admin_client::control(global, AppsShow { name: name.clone() })?;
            if admin_client::printed(json, &app)? {
                return Ok(ExitCode::SUCCESS);
            }
            let by = words(&app.connectors, " ");
            let pinned = app.pinned.iter().map(|p| {
                let none = String::new;
                vec!["(pinned)".into(), p.long(), none(), none(), "always".into(), by.clone()]
            });
            let learned = app.learnt.iter().map(|l| {
                let until = match (l.gone, l.until) {
                    _ if l.over => "over the limit of routes".into(),
                    (true, at) => format!("gone {}", at.map_or_else(String::new, when)),
                    (false, Some(at)) => when(at),
                    (false, None) => "for ever".into(),
                };
                let (domain, connector) = (word(&l.domain), word(&l.connector));
                vec![domain, l.address.to_string(), when(l.since), when(l.seen), until, connector]
            });
            let rows: Vec<Vec<String>> = learned.chain(pinned).collect();
            say::raw(&say::table(&["DOMAIN", "ADDRESS", "SINCE", "LAST SEEN", "UNTIL", "CONNECTOR"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `dns`.
pub(crate) fn dns(c: &DnsCommand, global: &GlobalArgs) -> Answer {
    let nothing = DnsSet::default();
    let (json, change) = match c {
        DnsCommand::Show(json) => return dns_show(json, global),
        DnsCommand::Nameservers { servers, json } => (json, DnsSet { nameservers: Some(servers.clone()), ..nothing }),
        DnsCommand::Search { domains, json } => (json, DnsSet { search: Some(domains.clone()), ..nothing }),
        DnsCommand::Split { domain, servers, json } => {
            let split = Split { domain: domain.clone(), servers: servers.clone() };
            (json, DnsSet { split: Some(split), ..nothing })
        }
        DnsCommand::Add { name, address, json } => {
            let record = NewRecord { name: name.clone(), value: address.clone() };
            (json, DnsSet { record: Some(record), ..nothing })
        }
        DnsCommand::Remove { name, json } => (json, DnsSet { remove_record: Some(name.clone()), ..nothing }),
    };
    let cleared = change.nameservers.as_ref().is_some_and(Vec::is_empty);
    let done = admin_client::control(global, change)?;
    told(json, &done, || {
        if cleared { "every node asks its own nameservers again".to_string() } else { "every node is told".to_string() }
    })
}

fn dns_show(json: &JsonArgs, global: &GlobalArgs) -> Answer {
    let names = admin_client::control(global, DnsGet {})?;
    if admin_client::printed(json, &names)? {
        return Ok(ExitCode::SUCCESS);
    }
    say::line(format!("domain       {}", word(&names.domain)));
    let servers = words(&names.nameservers, " ");
    say::line(format!("nameservers  {}", if servers.is_empty() { "each node's own".into() } else { servers }));
    say::line(format!("search       {}", words(&names.search, " ")));
    for (domain, servers) in &names.split {
        say::line(format!("split        {} -> {}", word(domain), words(servers, " ")));
    }
    for r in &names.records {
        say::line(format!("name         {} {}", word(&r.name), word(&r.value)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error which tags give nothing yet.
fn say_unknown(tags: &[String]) {
    if !tags.is_empty() {
        eprintln!("note: the policy in force names {} nowhere under tagOwners", words(tags, ", "));
    }
}

fn told(json: &JsonArgs, answer: &impl api::Answer, words: impl FnOnce() -> String) -> Answer {
    if !admin_client::printed(json, answer)? {
        say::line(words());
    }
    Ok(ExitCode::SUCCESS)
}
