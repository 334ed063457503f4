//! What people do with grants: add, revoke, ban, extend. In: a request of the command line. Out: one event for the ledger, so
//! that a command is done wholly or not at all, and what came of it, with everything that a person should know.
//!
//! Nothing is ended that was not named: a wider grant around an address, a narrower one within a prefix and what a
//! followed name says are told of and stay.

use access::ledger::{Close, Entry, Event, Outcome};
use access::names::{Follow, HostName};
use access::{Claim, Evidence, Grant, GrantId, Whom};
use addr::{Prefix, parse_list};
use anyhow::Context;
use api::Error;
use api::gate::{
    Add, Added, BanTime, Banned, ChangeGrants, Extend, Extended, Followed, GrantsChanged, OnList, Revoke, Revoked,
    Unban, Unbanned, Unfollowed,
};

use super::Gate;
use super::ledger::{Done, said};

/// More addresses than a provider's pool has: IPv4 as a /16, IPv6 as a /32. Adding that many at once asks for `--yes`.
const WIDE_PREFIX_LEN: (u8, u8) = (16, 32);
/// Names that are shown to somebody who mistyped one.
const NAMES_SHOWN: usize = 10;
/// Characters of a name that a person gives: longer than the subject of any certificate that is in use, short enough for
/// a row of a table.
const PRINCIPAL_LONGEST: usize = 256;

/// Does what was asked for.
///
/// # Errors
/// What is wrong with it; nothing was changed.
pub(super) async fn act(gate: &Gate, call: ChangeGrants) -> anyhow::Result<GrantsChanged> {
    match call {
        ChangeGrants::Add(a) => add(gate, &a).await,
        ChangeGrants::Revoke(r) => revoke(gate, &r).await,
        ChangeGrants::Unban(u) => unban(gate, &u).await,
        ChangeGrants::Extend(e) => extend(gate, &e).await,
    }
}

/// A refusal with advice; nothing was changed.
pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    api::Error::refused(what).hinted(hint).into()
}

/// There is no such list; which there are.
pub(super) fn no_list(gate: &Gate, name: &str) -> anyhow::Error {
    let known: Vec<String> = gate.ledger.published.borrow().lists.keys().cloned().collect();
    refused(format!("there is no list `{name}`"), format!("the lists are {}", known.join(", ")))
}

/// That the list is there, if one was named.
fn exists(gate: &Gate, list: Option<&str>) -> anyhow::Result<()> {
    match list {
        Some(list) if !gate.ledger.published.borrow().lists.contains_key(list) => Err(no_list(gate, list)),
        _ => Ok(()),
    }
}

/// The host name that is meant, if one is.
fn host_name(what: &str) -> anyhow::Result<Option<HostName>> {
    if !what.trim().starts_with("dns:") {
        return Ok(None);
    }
    what.parse().map(Some).map_err(|e: String| Error::refused(e).into())
}

/// A time from now on.
fn end(gate: &Gate, secs: Option<u64>) -> Option<u64> {
    secs.map(|secs| gate.ledger.model.time.now().saturating_add(secs))
}

/// Whether somebody can be called that: it stands in a row of every table.
fn principal(who: &str) -> anyhow::Result<()> {
    let why = match who.chars().count() {
        0 => "nobody is called by an empty name".to_string(),
        n if n > PRINCIPAL_LONGEST => format!("the name has {n} characters, at most {PRINCIPAL_LONGEST} are taken"),
        _ if who.chars().any(char::is_control) => "the name has a control character".to_string(),
        _ => return Ok(()),
    };
    Err(refused(format!("{why}; nothing was changed"), "give `--principal` a short name, such as `anna`".to_string()))
}

async fn add(gate: &Gate, a: &Add) -> anyhow::Result<GrantsChanged> {
    let (what, list) = (a.prefix.as_str(), a.list.as_str());
    exists(gate, Some(list))?;
    a.principal.as_deref().map_or(Ok(()), principal)?;
    let until = end(gate, a.r#for);
    if let Some(host) = host_name(what)? {
        return follow(gate, host, vec![a.list.clone()], until, a.pinned).await;
    }
    let read = parse_list(what).map_err(|e| not_an_address(&e.text, &e.reason))?;
    let prefixes = read.prefixes;
    let Some(first) = prefixes.first().copied() else {
        return Err(Error::refused(format!("`{what}` names no address")).into());
    };
    if let Some(wide) = wide(&prefixes).filter(|_| !a.yes) {
        return Err(refused(
            format!("{wide}; nothing was changed"),
            format!("if that is meant: `portcullis grant add {what} --list {list} --yes`, best with `--for 1h`"),
        ));
    }
    let entry = |prefix: Prefix| Entry {
        list: list.to_string(),
        prefix,
        evidence: Evidence::Manual,
        principal: a.principal.clone(),
        until,
        pinned: a.pinned,
    };
    let bans = bans_within(gate, list, &prefixes, a.principal.as_deref());
    let done = if prefixes.len() == 1 {
        submit(gate, Event::Add(entry(first))).await?
    } else {
        submit(gate, Event::AddAll(prefixes.iter().copied().map(entry).collect())).await?
    };
    let grants: Vec<Grant> = prefixes.iter().filter_map(|p| gate.ledger.grant(list, *p)).collect();
    let mut notes: Vec<String> =
        read.warnings.iter().map(|w| format!("`{}` has host bits and was read as {}", w.text, w.normal)).collect();
    notes.extend(bans.iter().map(|b| format!("the ban of {b} is over: a person let them in")));
    notes.extend(grants.iter().filter_map(|g| lasts_longer(g, until)));
    let id = match (done.outcome, &grants[..]) {
        (Outcome::Given(id) | Outcome::Renewed(id), _) => id.to_string(),
        (_, all) => all.iter().map(|g| g.id.to_string()).collect::<Vec<_>>().join(", "),
    };
    let (generation, unsaved) = (done.generation, done.unsaved);
    Ok(GrantsChanged::Added(Added { grant: id, generation, unsaved, until, notes }))
}

/// A word for entries that hold very many addresses that are not one's own.
fn wide(prefixes: &[Prefix]) -> Option<String> {
    let many = |p: &&Prefix| p.bits() < if p.is_v4() { WIDE_PREFIX_LEN.0 } else { WIDE_PREFIX_LEN.1 };
    let own = |p: &&Prefix| p.bits() >= 7 && p.first().is_private() && p.last().is_private();
    let p = prefixes.iter().filter(many).find(|p| !own(p))?;
    Some(if p.bits() == 0 {
        let family = if p.is_v4() { "IPv4" } else { "IPv6" };
        format!("{p} is everybody with an {family} address")
    } else {
        format!("{p} is more than any one provider's customers")
    })
}

/// What proofs gave beyond the end that a person set; it stays.
fn lasts_longer(g: &Grant, until: Option<u64>) -> Option<String> {
    let until = until?;
    let c =
        g.claims().find(|c| c.evidence != Evidence::Manual && c.ends_at(g.seen_at).is_none_or(|end| end > until))?;
    Some(format!(
        "{} stays in longer than that: {} proved {} there by {}; `portcullis grant extend {} --for … --shorten` ends that too",
        g.prefix,
        c.principal.as_deref().unwrap_or("somebody"),
        if c.principal.is_some() { "itself" } else { "themselves" },
        c.evidence,
        g.id,
    ))
}

fn bans_within(gate: &Gate, list: &str, prefixes: &[Prefix], principal: Option<&str>) -> Vec<Whom> {
    let bans = gate.ledger.model.bans.read();
    let over = |whom: &Whom| match whom {
        Whom::From(p) => prefixes.iter().any(|q| q.covers(*p)),
        Whom::Named(n) => Some(n.as_str()) == principal,
    };
    bans.values().filter(|b| b.list == list && over(&b.whom)).map(|b| b.whom.clone()).collect()
}

/// Which grants are meant beside those that were named.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    /// Those around them.
    wider: bool,
    /// Those within them.
    within: bool,
}

/// What a person means by a word, among the grants there are.
#[derive(Debug, Default)]
struct Meant {
    /// These grants.
    grants: Vec<Grant>,
    /// Only what this principal has a part in.
    principal: Option<String>,
    /// Grants around it, which were not named.
    wider: Vec<Grant>,
    /// Grants within it, which were not named.
    inside: usize,
    /// Whose proofs a ban would refuse, by list.
    whom: Vec<(String, Whom)>,
}

/// The grants that a person means: `g17`, an address, a prefix, a range, or somebody's name.
fn meant(gate: &Gate, what: &str, only: Option<&str>, reach: Reach) -> anyhow::Result<Meant> {
    let model = &gate.ledger.model;
    let (grants, rules) = (model.grants.read(), model.rules.read());
    let lists: Vec<&String> = rules.keys().filter(|l| only.is_none_or(|w| w == l.as_str())).collect();
    let all = || grants.iter().filter(|(l, _)| lists.contains(l)).flat_map(|(_, g)| g.values());
    let mut out = Meant::default();
    if let Some(n) = what.strip_prefix('g').and_then(|n| n.parse().ok()) {
        let Some(g) = all().find(|g| g.id == GrantId(n)) else {
            return Err(refused(
                format!("there is no live grant {what}"),
                format!("`portcullis lists show` shows them; `portcullis audit` what became of {what}"),
            ));
        };
        out.whom = vec![(g.list.clone(), Whom::From(g.prefix))];
        out.grants = vec![g.clone()];
        return Ok(out);
    }
    let asked = match parse_list(what) {
        Ok(read) if !read.prefixes.is_empty() => read.prefixes,
        Ok(_) => return Err(Error::refused(format!("`{what}` names no address")).into()),
        Err(e) => {
            let has = |g: &&Grant| g.claims().any(|c| c.principal.as_deref() == Some(what));
            out.grants = all().filter(has).cloned().collect();
            let banned = model.bans.read().values().any(|b| b.whom == Whom::Named(what.to_string()));
            // A certificate's subject; nothing else with a sign of equality is an address.
            if out.grants.is_empty() && !banned && !what.contains('=') {
                let mut names: Vec<&str> =
                    all().flat_map(Grant::claims).filter_map(|c| c.principal.as_deref()).collect();
                names.sort_unstable();
                names.dedup();
                names.truncate(NAMES_SHOWN);
                return Err(match names.is_empty() || what.parse::<HostName>().is_ok() {
                    true => not_an_address(&e.text, &e.reason),
                    false => refused(
                        format!("`{what}` is no grant (g17), no address ({}) and nobody who is on a list", e.reason),
                        format!("on the lists are {}", names.join(", ")),
                    ),
                });
            }
            out.principal = Some(what.to_string());
            out.whom = lists.iter().map(|l| ((*l).clone(), Whom::Named(what.to_string()))).collect();
            return Ok(out);
        }
    };
    for list in lists {
        let Some(rules) = rules.get(list) else { continue };
        let Some(on) = grants.get(list) else { continue };
        for p in &asked {
            // An address stands for what a proof of it gives: a whole IPv6 /64.
            let learnt = rules.learnt(p.first());
            let (typed, p) = (*p, if learnt.covers(*p) { learnt } else { *p });
            out.whom.push((list.clone(), Whom::From(p)));
            let named = |g: &&Grant| g.prefix == typed || g.prefix == p;
            let within: Vec<&Grant> = on.values().filter(|g| p.covers(g.prefix) && !named(g)).collect();
            let exact: Vec<&Grant> = on.values().filter(named).collect();
            if exact.is_empty() || reach.within {
                out.grants.extend(within.into_iter().cloned());
            } else {
                out.inside += within.len();
            }
            out.grants.extend(exact.into_iter().cloned());
            let around = on.values().filter(|g| g.prefix.covers(p) && !named(g)).cloned();
            if reach.wider { out.grants.extend(around) } else { out.wider.extend(around) }
        }
    }
    Ok(out)
}

fn not_an_address(text: &str, reason: &str) -> anyhow::Error {
    // A host name is what most people mean who write one; its last label is never a number.
    let last = text.rsplit('.').next().unwrap_or_default();
    let spelled = last.starts_with(|c: char| c.is_ascii_alphabetic());
    if let Some(host) = text.parse::<HostName>().ok().filter(|_| spelled) {
        return refused(
            format!("`{text}` is a host name, not an address"),
            format!("write `{}`: the name's addresses are followed", host.entry()),
        );
    }
    Error::refused(format!("`{text}`: {reason}")).into()
}

async fn revoke(gate: &Gate, r: &Revoke) -> anyhow::Result<GrantsChanged> {
    let what = r.what.as_str();
    exists(gate, r.list.as_deref())?;
    if let Some(host) = host_name(what)? {
        return unfollow(gate, host, r).await;
    }
    let m = meant(gate, what, r.list.as_deref(), Reach { wider: r.wider, within: r.within })?;
    // `--for ever` is a ban without an end; no `--for` is none.
    let ban = r.ban.map(|b| match b {
        BanTime::Seconds(secs) => end(gate, Some(secs)),
        BanTime::Forever => None,
    });
    let ours = |c: &Claim| m.principal.is_none() || c.principal == m.principal;
    let by_name = |g: &&Grant| g.claims().filter(|c| ours(c)).any(|c| c.evidence == Evidence::Dns);
    let endable = |g: &&Grant| g.claims().filter(|c| ours(c)).any(|c| c.evidence != Evidence::Dns);
    let ids: Vec<GrantId> = m.grants.iter().filter(endable).map(|g| g.id).collect();
    let named: Vec<&Grant> = m.grants.iter().filter(by_name).collect();
    if ids.is_empty() && ban.is_none() {
        return Err(nothing_to_end(what, &m, &named));
    }
    let bans: Vec<(String, Whom, Option<u64>)> = match ban {
        Some(until) => m.whom.iter().map(|(l, w)| (l.clone(), w.clone(), until)).collect(),
        None => Vec::new(),
    };
    let event = Event::Close(Close {
        ids: ids.clone(),
        principal: m.principal.clone(),
        bans: bans.clone(),
        by: "by hand".to_string(),
    });
    let done = submit(gate, event).await?;
    let ended: Vec<&Grant> = m.grants.iter().filter(|g| ids.contains(&g.id)).collect();
    let mut notes: Vec<String> = Vec::new();
    notes.extend(named.iter().flat_map(|g| names_of(g).map(move |n| {
        format!("{} stays on `{}` because {n} has that address: `portcullis grant revoke {n}`, or take it out of the configuration", g.prefix, g.list)
    })));
    for g in &ended {
        let others: Vec<String> = g.claims().filter(|c| !ours(c)).map(claim_words).collect();
        if !others.is_empty() {
            notes.push(format!("{} stays on `{}`: {} is there too", g.prefix, g.list, others.join(", ")));
        }
    }
    notes.extend(m.wider.iter().map(|g| {
        format!("{} ({}) around it still lets it in on `{}`: `portcullis grant revoke {}` ends that for all of it, and so does `--wider`", g.id, g.prefix, g.list, g.prefix)
    }));
    if m.inside > 0 {
        notes.push(format!("{} narrower grants within it stay; `--within` ends them too", m.inside));
    }
    notes.extend(still_static(gate, &m));
    let back = ended.iter().find(|g| {
        g.claims()
            .filter(|c| ours(c))
            .any(|c| !matches!(c.evidence, Evidence::Manual | Evidence::Earlier | Evidence::Dns))
    });
    match (ban, back) {
        (Some(until), _) => {
            let whom: std::collections::BTreeSet<String> = bans.iter().map(|(_, w, _)| w.to_string()).collect();
            let whom: Vec<String> = whom.into_iter().collect();
            notes.push(format!(
                "no proof of {} counts {}; `portcullis grant unban {what}` or `portcullis grant add` ends that",
                whom.join(", "),
                if until.is_some() { "until the time above" } else { "any more" },
            ));
        }
        (None, Some(_)) => notes.push(
            "the next proof lets them in again, for a phone that reports home within minutes; `--for 1h` or `--for ever` keeps proofs out"
                .to_string(),
        ),
        (None, None) => {}
    }
    let banned = bans.into_iter().map(|(list, whom, until)| Banned { list, whom: whom.to_string(), until }).collect();
    Ok(GrantsChanged::Revoked(Revoked {
        ended: ended.iter().map(|g| g.id.to_string()).collect(),
        banned,
        generation: done.generation,
        unsaved: done.unsaved,
        notes,
    }))
}

fn claim_words(c: &Claim) -> String {
    format!("{} ({})", c.principal.as_deref().unwrap_or("somebody"), c.evidence)
}

/// The names that put a grant on its list.
fn names_of(g: &Grant) -> impl Iterator<Item = &str> {
    g.claims().filter(|c| c.evidence == Evidence::Dns).filter_map(|c| c.principal.as_deref())
}

/// Nothing was extended, since nothing is meant.
fn nothing_to_extend(what: &str, m: &Meant) -> anyhow::Error {
    if let Some(g) = m.grants.first() {
        let name = names_of(g).next().unwrap_or("dns:…");
        return refused(
            format!("{} is on `{}` because {name} has that address; nothing was changed", g.prefix, g.list),
            format!("it stays as long as the name has it; `portcullis grant add {}` lets it in by itself", g.prefix),
        );
    }
    if let Some(g) = m.wider.first() {
        return refused(
            format!("{what} is let in by a wider grant, {} ({}) on `{}`; nothing was changed", g.id, g.prefix, g.list),
            format!("`portcullis grant extend {} --for …` is for all of it", g.prefix),
        );
    }
    refused(
        format!("no live grant is meant by `{what}`"),
        "`portcullis lists show` shows them; `portcullis grant add` lets somebody in who is on no list",
    )
}

fn nothing_to_end(what: &str, m: &Meant, named: &[&Grant]) -> anyhow::Error {
    if let Some(g) = named.first() {
        let name = names_of(g).next().unwrap_or("dns:…");
        return refused(
            format!("{} is on `{}` because {name} has that address; nothing was changed", g.prefix, g.list),
            format!("`portcullis grant revoke {name}`, or take it out of the configuration"),
        );
    }
    if let Some(g) = m.wider.first() {
        return refused(
            format!("{what} is let in by a wider grant, {} ({}) on `{}`; nothing was changed", g.id, g.prefix, g.list),
            format!(
                "`portcullis grant revoke {}` ends it for all of these addresses, and so does `--wider`; `--for ever` alone keeps proofs of {what} out",
                g.prefix
            ),
        );
    }
    refused(
        format!("no live grant is meant by `{what}`"),
        "`portcullis lists show NAME` shows them; static entries are changed in the configuration; with `--for ever` no proof of it counts from now on",
    )
}

/// Where the configuration still lets in what was revoked.
fn still_static(gate: &Gate, m: &Meant) -> Vec<String> {
    let published = gate.ledger.published.borrow().clone();
    let mut out: Vec<String> = Vec::new();
    for (list, whom) in &m.whom {
        let (Whom::From(p), Some(d)) = (whom, published.lists.get(list)) else { continue };
        let holds = d.statics.iter().find(|s| s.covers(*p) || p.covers(**s));
        out.extend(holds.map(|s| format!("{s} of the configuration is on `{list}` still: take it out there")));
    }
    out.dedup();
    out
}

async fn unban(gate: &Gate, u: &Unban) -> anyhow::Result<GrantsChanged> {
    let (what, only) = (u.what.as_str(), u.list.as_deref());
    exists(gate, only)?;
    if let Some(host) = host_name(what)? {
        let why = format!("{} is not banned: a host name proves nothing", host.entry());
        return Err(Error::refused(why).into());
    }
    let asked: Vec<Prefix> = parse_list(what).map(|l| l.prefixes).unwrap_or_default();
    let (bans, all): (Vec<(String, Whom)>, Vec<String>) = {
        let bans = gate.ledger.model.bans.read();
        let is = |whom: &Whom| match whom {
            Whom::From(p) => asked.iter().any(|a| p.covers(*a) || a.covers(*p)),
            Whom::Named(n) => n == what,
        };
        let meant = bans.values().filter(|b| only.is_none_or(|l| l == b.list) && is(&b.whom));
        let meant = meant.map(|b| (b.list.clone(), b.whom.clone())).collect();
        (meant, bans.values().map(|b| format!("{} on `{}`", b.whom, b.list)).collect())
    };
    if bans.is_empty() {
        let there =
            if all.is_empty() { "nobody is banned".to_string() } else { format!("banned are {}", all.join(", ")) };
        return Err(refused(format!("`{what}` is not banned"), there));
    }
    let unbanned = bans.iter().map(|(list, whom)| OnList { list: list.clone(), whom: whom.to_string() }).collect();
    let done = submit(gate, Event::Unban(bans)).await?;
    Ok(GrantsChanged::Unbanned(Unbanned { unbanned, generation: done.generation, unsaved: done.unsaved }))
}

async fn extend(gate: &Gate, e: &Extend) -> anyhow::Result<GrantsChanged> {
    let (what, shorten) = (e.what.as_str(), e.shorten);
    exists(gate, e.list.as_deref())?;
    let until = end(gate, e.r#for);
    if let Some(host) = host_name(what)? {
        let lists = e.list.clone().map_or_else(|| following(gate, &host), |list| vec![list]);
        return follow(gate, host, lists, until, false).await;
    }
    let m = meant(gate, what, e.list.as_deref(), Reach::default())?;
    let by_hand = |g: &&Grant| g.claims().any(|c| c.evidence != Evidence::Dns);
    let ids: Vec<GrantId> = m.grants.iter().filter(by_hand).map(|g| g.id).collect();
    if ids.is_empty() {
        return Err(nothing_to_extend(what, &m));
    }
    let done = submit(gate, Event::Extend { ids: ids.clone(), until, shorten }).await?;
    let now: Vec<Grant> = m.grants.iter().filter_map(|g| gate.ledger.grant(&g.list, g.prefix)).collect();
    let mut notes: Vec<String> = now.iter().filter_map(|g| lasts_longer(g, until)).collect();
    if shorten && until.is_some() {
        notes.push(
            "the next proof gives its full time again; `portcullis grant revoke … --for ever` keeps proofs out"
                .to_string(),
        );
    }
    Ok(GrantsChanged::Extended(Extended {
        extended: ids.iter().map(ToString::to_string).collect(),
        until,
        generation: done.generation,
        unsaved: done.unsaved,
        notes,
    }))
}

async fn submit(gate: &Gate, event: Event) -> anyhow::Result<Done> {
    said(gate.ledger.submit(event).await)
}

/// The lists that follow a host name.
fn following(gate: &Gate, host: &HostName) -> Vec<String> {
    let names = gate.names.names.lock();
    names.follows().iter().filter(|f| f.host == *host).map(|f| f.list.clone()).collect()
}

/// Takes back a host name that a person added.
async fn unfollow(gate: &Gate, host: HostName, r: &Revoke) -> anyhow::Result<GrantsChanged> {
    if r.ban.is_some() {
        return Err(refused(
            "a host name proves nothing, so no proof of it can be kept out",
            format!("`portcullis grant revoke {}` alone ends it", host.entry()),
        ));
    }
    let ended = gate.names.remove(host.clone(), r.list.clone()).await;
    if ended.context("nothing was changed")? == 0 {
        let hint = if r.list.is_none() && following(gate, &host).is_empty() {
            "`portcullis lists show NAME` shows what is followed"
        } else {
            "it stands in the configuration: take it out there, then `portcullis reload`"
        };
        return Err(refused(format!("nobody added {} by hand", host.entry()), hint));
    }
    Ok(GrantsChanged::Unfollowed(Unfollowed { ended: vec![host.entry()] }))
}

/// Follows a host name on these lists, or sets its end there.
async fn follow(
    gate: &Gate,
    host: HostName,
    lists: Vec<String>,
    until: Option<u64>,
    pinned: bool,
) -> anyhow::Result<GrantsChanged> {
    if lists.is_empty() {
        return Err(refused(
            format!("{} is on no list", host.entry()),
            "`portcullis grant add dns:NAME --list LIST` adds it",
        ));
    }
    for list in &lists {
        let follow = Follow { list: list.clone(), host: host.clone(), until, pinned };
        gate.names.add(follow).await.context("nothing was changed")?;
    }
    let known = gate.names.names.lock().known(&host).cloned().unwrap_or_default();
    let addresses = known.addrs().collect();
    let mut notes: Vec<String> = Vec::new();
    for list in &lists {
        let rules = gate.ledger.model.rules.read().get(list).cloned().unwrap_or_default();
        notes.extend(known.not_counting(&rules).into_iter().map(|n| format!("on `{list}`: {n}")));
    }
    let failed = known.failed.or_else(|| known.good_at.is_none().then(|| "no answer yet".to_string()));
    let (grant, generation) = (host.entry(), gate.ledger.published.borrow().generation);
    let extended = vec![grant.clone()];
    Ok(GrantsChanged::Followed(Followed { grant, extended, addresses, failed, until, notes, generation }))
}
