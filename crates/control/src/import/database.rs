//! What a Headscale database says. In: the file, of version 0.23 or later. Out: its rows as the registry takes them, and
//! the tables that have no counterpart. Source: Headscale's `hscontrol/db/schema.sql` and the migrations in `db.go`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{bail, ensure};
use runtime::sha256_hex;
use store::foreign::{Foreign, Row};
use tailnet::import::{ForeignKey, ForeignNode, ForeignUser, Proof};
use tailnet::record::BcryptHash;

use super::{Sources, moment};

pub(super) fn read(path: &Path, out: &mut Sources) -> anyhow::Result<()> {
    let db = Foreign::open(path)?;
    let columns = db.columns("nodes")?;
    let has = |name: &str| columns.iter().any(|c| c == name);
    if columns.is_empty() && !db.columns("machines")?.is_empty() {
        bail!("it is of a Headscale before 0.23; start 0.25 on a copy of it first, which brings it up to date");
    }
    ensure!(has("machine_key") && has("node_key") && has("given_name"), "it has no nodes of a Headscale server");
    ensure!(
        has("ipv4"),
        "it is of a Headscale before 0.23; start 0.25 on a copy of it first, which brings it up to date"
    );
    out.network.asked_tags = has("forced_tags");
    let alive = |r: &&Row| r.text("deleted_at").and_then(moment).is_none();
    let deleted = |table: &'static str, rows: &[Row], out: &mut Sources| {
        let gone = rows.len() - rows.iter().filter(alive).count();
        if gone > 0 {
            out.not(format!("{gone} deleted rows of {table}"), "they were deleted there");
        }
    };
    let users = db.rows("users")?;
    deleted("users", &users, out);
    out.network.users = users.iter().filter(alive).filter_map(user).collect();
    let keys = db.rows("pre_auth_keys")?;
    out.network.keys = keys.iter().filter_map(key).collect();
    // Tags of keys had a table of their own before 0.24.
    for r in db.rows("pre_auth_key_acl_tags")? {
        let of = r.number("pre_auth_key_id");
        if let (Some(key), Some(tag)) = (out.network.keys.iter_mut().find(|k| Some(k.id) == of), r.text("tag")) {
            key.tags.push(tag.to_string());
        }
    }
    let nodes = db.rows("nodes")?;
    deleted("nodes", &nodes, out);
    out.network.nodes = nodes.iter().filter(alive).filter_map(node).collect();
    if !has("approved_routes") {
        routes(&db, out)?;
    }
    let policies = db.rows("policies")?;
    out.network.policy = policies.iter().rfind(alive).and_then(|r| r.text("data")).map(str::to_string);
    let others = [
        (
            "api_keys",
            "API keys",
            "commands go over a socket that only the server's own user can open; there is no HTTP API",
        ),
        ("oauth_clients", "OAuth clients", "there is no HTTP API to use them at"),
        ("oauth_access_tokens", "OAuth tokens", "there is no HTTP API to use them at"),
    ];
    for (table, what, why) in others {
        let n = db.rows(table)?.len();
        if n > 0 {
            out.not(format!("{n} {what}"), why);
        }
    }
    for (table, n, rows) in [
        ("users", out.network.users.len(), users.iter().filter(alive).count()),
        ("pre_auth_keys", out.network.keys.len(), keys.len()),
        ("nodes", out.network.nodes.len(), nodes.iter().filter(alive).count()),
    ] {
        ensure!(n == rows, "a row of {table} has no number");
    }
    Ok(())
}

fn at(r: &Row, column: &str) -> Option<u64> {
    r.text(column).and_then(moment)
}

/// A list in a column, as JSON.
fn list(r: &Row, column: &str) -> Vec<String> {
    let text = r.text(column).unwrap_or("null");
    serde_json::from_str::<Option<Vec<String>>>(text).ok().flatten().unwrap_or_default()
}

fn text(r: &Row, column: &str) -> String {
    r.text(column).unwrap_or_default().to_string()
}

fn user(r: &Row) -> Option<ForeignUser> {
    Some(ForeignUser {
        id: r.number("id")?,
        name: text(r, "name"),
        email: text(r, "email"),
        identity: text(r, "provider_identifier"),
        created: at(r, "created_at").unwrap_or(0),
    })
}

fn key(r: &Row) -> Option<ForeignKey> {
    let proof = match (r.text("prefix"), r.text("hash"), r.text("key")) {
        (Some(prefix), Some(hash), _) => {
            Some(Proof::Bcrypt(BcryptHash { prefix: prefix.to_string(), hash: hash.to_string() }))
        }
        (_, _, Some(plain)) => Some(Proof::Sha256(sha256_hex(plain.as_bytes()))),
        _ => None,
    };
    Some(ForeignKey {
        id: r.number("id")?,
        user: r.number("user_id"),
        proof,
        reusable: r.flag("reusable"),
        ephemeral: r.flag("ephemeral"),
        used: r.flag("used"),
        revoked: at(r, "revoked").is_some(),
        tags: list(r, "tags"),
        created: at(r, "created_at").unwrap_or(0),
        expires: at(r, "expiration"),
    })
}

fn node(r: &Row) -> Option<ForeignNode> {
    let mut tags = list(r, "tags");
    tags.extend(list(r, "forced_tags"));
    Some(ForeignNode {
        id: r.number("id")?,
        machine: text(r, "machine_key"),
        key: text(r, "node_key"),
        disco: text(r, "disco_key"),
        endpoints: text(r, "endpoints"),
        host: text(r, "host_info"),
        addresses: vec![text(r, "ipv4"), text(r, "ipv6")],
        hostname: text(r, "hostname"),
        given_name: text(r, "given_name"),
        user: r.number("user_id"),
        tags,
        by_key: r.number("auth_key_id"),
        created: at(r, "created_at").unwrap_or(0),
        seen: at(r, "last_seen"),
        expires: at(r, "expiry"),
        approved: list(r, "approved_routes"),
    })
}

/// Routes had a table of their own before 0.26.
fn routes(db: &Foreign, out: &mut Sources) -> anyhow::Result<()> {
    let mut of: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for r in db.rows("routes")?.iter().filter(|r| at(r, "deleted_at").is_none() && r.flag("enabled")) {
        if let (Some(node), Some(prefix)) = (r.number("node_id"), r.text("prefix")) {
            of.entry(node).or_default().push(prefix.to_string());
        }
    }
    for n in &mut out.network.nodes {
        n.approved.extend(of.remove(&n.id).unwrap_or_default());
    }
    for (node, routes) in of {
        out.not(format!("routes {} of node {node}", routes.join(" ")), "there is no such node");
    }
    Ok(())
}
