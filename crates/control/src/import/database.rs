//! What a Headscale database says. In: the file, of version 0.23 or later. Out: its rows as the registry takes them, and
//! the tables that have no counterpart. Source: Headscale's `hscontrol/db/schema.sql` and the migrations in `db.go`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
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
    let users = alive(&db, "users")?;
    deleted("users", &users, out);
    out.network.users = users.rows.iter().map(user).collect::<anyhow::Result<_>>()?;
    out.network.keys = db.rows("pre_auth_keys")?.iter().map(key).collect::<anyhow::Result<_>>()?;
    // Tags of keys had a table of their own before 0.24.
    for r in db.rows("pre_auth_key_acl_tags")? {
        let of = r.number("pre_auth_key_id");
        if let (Some(key), Some(tag)) = (out.network.keys.iter_mut().find(|k| Some(k.id) == of), r.text("tag")) {
            key.tags.push(tag.to_string());
        }
    }
    let nodes = alive(&db, "nodes")?;
    deleted("nodes", &nodes, out);
    out.network.nodes = nodes.rows.iter().map(node).collect::<anyhow::Result<_>>()?;
    if !has("approved_routes") {
        routes(&db, out)?;
    }
    out.network.policy = alive(&db, "policies")?.rows.last().and_then(|r| r.text("data")).map(str::to_string);
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
    Ok(())
}

/// Rows of a table, and how many were deleted there.
struct Alive {
    rows: Vec<Row>,
    gone: usize,
}

fn alive(db: &Foreign, table: &'static str) -> anyhow::Result<Alive> {
    let mut out = Alive { rows: Vec::new(), gone: 0 };
    for r in db.rows(table)? {
        match at(&r, "deleted_at").with_context(|| format!("table {table}"))? {
            Some(_) => out.gone += 1,
            None => out.rows.push(r),
        }
    }
    Ok(out)
}

fn deleted(table: &str, found: &Alive, out: &mut Sources) {
    if found.gone > 0 {
        out.not(format!("{} deleted rows of {table}", found.gone), "they were deleted there");
    }
}

/// Go writes a time that was never set as midnight of this day.
const ZERO_TIME: &str = "0001-01-01";

/// A moment; nothing where nothing stands, or Go's zero time.
///
/// # Errors
/// What stands there is no moment: taken for nothing it would mean "never".
fn at(r: &Row, column: &str) -> anyhow::Result<Option<u64>> {
    if !r.has(column) || r.text(column).is_some_and(|t| t.starts_with(ZERO_TIME)) {
        return Ok(None);
    }
    let found = r.text(column).and_then(moment).map(Some);
    found.with_context(|| match r.text(column) {
        Some(text) => format!("row {}: {column} is no moment: `{}`", number(r), text.escape_debug()),
        None => format!("row {}: {column} is no moment", number(r)),
    })
}

/// A row's number, to be named by.
fn number(r: &Row) -> String {
    r.number("id").map_or("without a number".into(), |n| n.to_string())
}

fn id(r: &Row, table: &str) -> anyhow::Result<u64> {
    r.number("id").with_context(|| format!("a row of {table} has no number"))
}

/// A list in a column, as JSON.
///
/// # Errors
/// What stands there is no list: without its tags a node would be its user's.
fn list(r: &Row, column: &str) -> anyhow::Result<Vec<String>> {
    if !r.has(column) {
        return Ok(Vec::new());
    }
    let found = r.text(column).and_then(|t| serde_json::from_str::<Option<Vec<String>>>(t).ok());
    Ok(found.with_context(|| format!("row {}: {column} is no list", number(r)))?.unwrap_or_default())
}

/// A moment by which nothing is decided; nothing where it cannot be read.
fn about(r: &Row, column: &str) -> Option<u64> {
    at(r, column).ok().flatten()
}

fn text(r: &Row, column: &str) -> String {
    r.text(column).unwrap_or_default().to_string()
}

fn user(r: &Row) -> anyhow::Result<ForeignUser> {
    Ok(ForeignUser {
        id: id(r, "users")?,
        name: text(r, "name"),
        email: text(r, "email"),
        identity: text(r, "provider_identifier"),
        created: about(r, "created_at").unwrap_or(0),
    })
}

fn key(r: &Row) -> anyhow::Result<ForeignKey> {
    let in_keys = || "table pre_auth_keys";
    let proof = match (r.text("prefix"), r.text("hash"), r.text("key")) {
        (Some(prefix), Some(hash), _) => {
            Some(Proof::Bcrypt(BcryptHash { prefix: prefix.to_string(), hash: hash.to_string() }))
        }
        (_, _, Some(plain)) => Some(Proof::Sha256(sha256_hex(plain.as_bytes()))),
        _ => None,
    };
    Ok(ForeignKey {
        id: id(r, "pre_auth_keys")?,
        user: r.number("user_id"),
        proof,
        reusable: r.flag("reusable"),
        ephemeral: r.flag("ephemeral"),
        used: r.flag("used"),
        revoked: at(r, "revoked").with_context(in_keys)?.is_some(),
        tags: list(r, "tags").with_context(in_keys)?,
        created: about(r, "created_at").unwrap_or(0),
        expires: at(r, "expiration").with_context(in_keys)?,
    })
}

fn node(r: &Row) -> anyhow::Result<ForeignNode> {
    let in_nodes = || "table nodes";
    let mut tags = list(r, "tags").with_context(in_nodes)?;
    tags.extend(list(r, "forced_tags").with_context(in_nodes)?);
    Ok(ForeignNode {
        id: id(r, "nodes")?,
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
        created: about(r, "created_at").unwrap_or(0),
        seen: about(r, "last_seen"),
        expires: at(r, "expiry").with_context(in_nodes)?,
        approved: list(r, "approved_routes").with_context(in_nodes)?,
    })
}

/// Routes had a table of their own before 0.26.
fn routes(db: &Foreign, out: &mut Sources) -> anyhow::Result<()> {
    let mut of: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for r in alive(db, "routes")?.rows.iter().filter(|r| r.flag("enabled")) {
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
