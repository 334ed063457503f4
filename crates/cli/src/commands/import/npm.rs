//! `import npm`. In: the database of Nginx Proxy Manager. Out: its access lists as `[lists]` of a gate, and which host each
//! of them guards there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use access::import::{NginxRule, nginx};
use anyhow::Context;
use store::foreign::{Foreign, Row};

use super::{NewFile, configure, say_done, say_not};
use crate::args::import::NpmImport;
use crate::fail::{Done, Fail};
use crate::say;

/// A list here, and what was not carried of it.
struct List {
    name: String,
    called: String,
    id: u64,
    statics: Vec<String>,
    hosts: Vec<String>,
}

/// What is not as it was, and why.
type Not = Vec<(String, String)>;

pub(super) fn run(a: &NpmImport) -> Done {
    let failed = || format!("{} cannot be read as a database of Nginx Proxy Manager", a.file.display());
    let db = Foreign::open(&a.file).map_err(anyhow::Error::from).with_context(failed)?;
    let rows = |table| db.rows(table).map_err(anyhow::Error::from).with_context(failed);
    let (lists, clients, auths) = (rows("access_list")?, rows("access_list_client")?, rows("access_list_auth")?);
    let hosts = rows("proxy_host")?;
    if db.columns("access_list").map_err(anyhow::Error::from)?.is_empty() {
        return Err(Fail::hinted(
            format!("{} has no access lists of Nginx Proxy Manager", a.file.display()),
            "name its database.sqlite; one in MySQL or PostgreSQL is not read",
        ));
    }
    let mut not: Not = Vec::new();
    let (mut out, mut names) = (Vec::new(), BTreeSet::new());
    for l in lists.iter().filter(|l| !l.flag("is_deleted")) {
        let id = l.number("id").unwrap_or(0);
        let of = |r: &&Row| r.number("access_list_id") == Some(id);
        let called = l.text("name").unwrap_or("without a name").to_string();
        let rules: Vec<&Row> = clients.iter().filter(of).collect();
        let people: Vec<&str> = auths.iter().filter(of).map(|r| r.text("username").unwrap_or("nobody")).collect();
        let statics = entries(&called, &rules, &people, l.flag("satisfy_any"), &mut not)?;
        out.push(List { name: plain(&called, &mut names), called, id, statics, hosts: Vec::new() });
    }
    let guarded = guards(&hosts, &mut out, &mut not);
    for (table, what) in [("stream", "streams"), ("redirection_host", "redirections"), ("dead_host", "404 hosts")] {
        let n = rows(table)?.iter().filter(|r| !r.flag("is_deleted")).count();
        if n > 0 {
            not.push((format!("{n} {what}"), "they have no access list there".into()));
        }
    }
    let config = a.write_config.as_deref().filter(|_| !a.dry_run).map(NewFile::at).transpose()?;
    say::line(format!("{}: {} access lists, which guard {} hosts", a.file.display(), out.len(), guarded.len()));
    for (host, list, upstream) in &guarded {
        say::line(format!("  {}  {list}  {}", say::word(host), say::word(upstream)));
    }
    say_not(not.iter().map(|(what, why)| (what.as_str(), why.as_str())));
    if out.is_empty() {
        say_done(a.dry_run, "there is nothing to write");
        return Ok(());
    }
    configure(&text(&out), config, "a gate that answers /v1/check/LIST: `portcullis serve --config FILE`")?;
    if a.dry_run {
        say_done(true, "");
    }
    Ok(())
}

/// The entries of a list: everybody whom its rules let in. Each row of `people` asks for a password there, also one that
/// names nobody.
fn entries(called: &str, rules: &[&Row], people: &[&str], any: bool, not: &mut Not) -> Result<Vec<String>, Fail> {
    let what = |more: &str| format!("access list {called}{more}");
    if !people.is_empty() {
        let why = match (rules.is_empty(), any) {
            (true, _) => "only addresses count here: nobody is on this list until somebody is put on it",
            (_, true) => "only addresses count here: who came in by a password from anywhere does not any more",
            (_, false) => {
                "only addresses count here, and an address alone is enough: keep asking for the password in the service or the proxy"
            }
        };
        let names = if people.len() > 8 { format!("{} and more", people[..8].join(", ")) } else { people.join(", ") };
        not.push((what(&format!(": passwords of {names}")), why.into()));
    }
    if rules.is_empty() && people.is_empty() {
        // Its template wrote `deny all` always until 2.15, and only behind rules since; the file does not say which it is.
        let why = "it has no rule: before 2.15 that lets nobody in there, since 2.15 everybody; here nobody is on it until you write who into `static`";
        not.push((what(""), why.into()));
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for r in rules {
        // A row without one of them is no rule there.
        let (Some(word), Some(address)) = (r.text("directive"), r.text("address")) else { continue };
        let allow = match word {
            "allow" => true,
            "deny" => false,
            other => {
                return Err(Fail::hinted(
                    format!("{}: `{}` is neither `allow` nor `deny`", what(""), other.escape_debug()),
                    "mend it there; nothing was written",
                ));
            }
        };
        all.push(NginxRule { allow, address: address.to_string() });
    }
    let allowed = nginx(&all)
        .map_err(|why| Fail::hinted(format!("{}: {why}", what("")), "mend it there; nothing was written"))?;
    not.extend(allowed.rewritten.into_iter().map(|(rule, why)| (what(&format!(": {rule}")), why)));
    Ok(allowed.prefixes.iter().map(ToString::to_string).collect())
}

/// Which host each list guards: host, list, where it is forwarded to.
fn guards(hosts: &[Row], lists: &mut [List], not: &mut Not) -> Vec<(String, String, String)> {
    let mut guarded = Vec::new();
    let mut open = 0;
    for h in hosts.iter().filter(|h| !h.flag("is_deleted")) {
        let names: Vec<String> = h.text("domain_names").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let shown =
            if names.is_empty() { format!("proxy host {}", h.number("id").unwrap_or(0)) } else { names.join(", ") };
        let of = h.number("access_list_id").unwrap_or(0);
        let upstream = format!(
            "{}://{}:{}",
            h.text("forward_scheme").unwrap_or("http"),
            h.text("forward_host").or(h.text("forward_ip")).unwrap_or("-"),
            h.number("forward_port").unwrap_or(0)
        );
        let own = h.text("advanced_config").unwrap_or_default();
        if own.lines().any(|l| ["allow ", "deny ", "satisfy ", "auth_"].iter().any(|w| l.trim_start().starts_with(w))) {
            not.push((
                format!("{shown}: its advanced configuration"),
                "it has rules of its own, which are not read".into(),
            ));
        }
        if of == 0 {
            open += 1;
            continue;
        }
        let Some(list) = lists.iter_mut().find(|l| l.id == of) else {
            not.push((shown, format!("its access list {of} is gone")));
            continue;
        };
        for name in names {
            guarded.push((name.clone(), list.name.clone(), upstream.clone()));
            list.hosts.push(name);
        }
    }
    if open > 0 {
        not.push((format!("{open} proxy hosts"), "they have no access list".into()));
    }
    guarded
}

/// A name for a list: small letters, digits and hyphens, unlike all others.
fn plain(called: &str, names: &mut BTreeSet<String>) -> String {
    let mut name = String::new();
    for c in called.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    let name = name.trim_end_matches('-').chars().take(60).collect::<String>();
    let name = if name.is_empty() { "list".to_string() } else { name };
    let more = (2u32..).map(|n| format!("{name}-{n}"));
    let free = std::iter::once(name.clone()).chain(more).find(|n| !names.contains(n)).unwrap_or(name);
    names.insert(free.clone());
    free
}

/// The configuration file of a gate with these lists.
fn text(lists: &[List]) -> String {
    let mut out = String::from(
        "# Lists of Nginx Proxy Manager. Its hosts ask this gate: auth_request at /v1/check/LIST.\nhttp = false\n",
    );
    let by_name: BTreeMap<&str, &List> = lists.iter().map(|l| (l.name.as_str(), l)).collect();
    for (name, l) in by_name {
        // A name in a comment ends with its line.
        let hosts = if l.hosts.is_empty() { "no host".to_string() } else { say::words(&l.hosts, ", ") };
        // An absence would be taken for a mistake: nobody is a word.
        let none = ["none".to_string()];
        let all = if l.statics.is_empty() { &none[..] } else { &l.statics };
        let all: Vec<String> = all.iter().map(|e| format!("\"{e}\"")).collect();
        let _ = write!(
            out,
            "\n# {} (access list {}) guards {hosts}\n[lists.{name}]\nstatic = [{}]\n",
            say::word(&l.called),
            l.id,
            all.join(", ")
        );
    }
    out + "\n[gate]\nlisten = \"127.0.0.1:7070\"\n"
}
