//! Grants, bans and the lists that they are on, in words. In: what a gate knows of them. Out: lines for a person, and cells of a table.

use access::record::GrantRecord;
use addr::Addr;
use api::AuditEvent;
use api::gate::{Ban, Behind, Claim, Grant, ListState, Show};

use crate::admin_client;
use crate::args::GlobalArgs;
use crate::fail::Fail;
use crate::say::{self, when, word, words};

/// The grants behind an answer: who, on what evidence, until when.
pub(crate) fn say_grants(behind: &Behind) {
    for g in &behind.grants {
        let names = who(g);
        let who = if names.is_empty() { "somebody".to_string() } else { names };
        say::line(format!(
            "  g{} on `{}`: {} given to {who} on {} evidence, since {}, last seen {}, until {}",
            g.id,
            word(&g.list),
            g.prefix,
            evidence(g),
            when(g.given_at),
            when(g.seen_at),
            end(g.claim.ends_at)
        ));
    }
}

/// What ended for an address, and the bans it runs into: why it is no longer in.
pub(crate) fn say_past(behind: &Behind) {
    for b in &behind.bans {
        let whom = banned(b);
        say::line(format!(
            "  no proof of {whom} counts on `{}` until {}: `portcullis grant unban {whom}` ends that",
            word(&b.list),
            end(b.until),
        ));
    }
    for e in &behind.ended {
        let who = e.principal.as_deref().map_or_else(|| "somebody".to_string(), word);
        let whose = format!("{} ({who}, {})", e.prefix, word(&e.evidence));
        let what = match &e.what {
            AuditEvent::Revoked => format!("{whose} was revoked"),
            AuditEvent::Expired => format!("{whose} expired"),
            AuditEvent::Evicted => format!("{whose} was evicted"),
            AuditEvent::Refused => format!("a proof of {whose} was refused"),
            AuditEvent::Full => format!("a proof of {whose} found no place"),
            other => format!("{whose}: {}", word(other.word())),
        };
        let by = if e.by.is_empty() { String::new() } else { format!(": {}", word(&e.by)) };
        let near = if e.neighbour { "nearby, " } else { "" };
        say::line(format!("  {near}{what} at {} on `{}`{by}", when(e.at), word(&e.list)));
    }
}

/// Whose proofs a ban keeps out.
pub(crate) fn banned(b: &Ban) -> String {
    b.prefix.map_or_else(|| word(b.name.as_deref().unwrap_or_default()), |p| p.to_string())
}

/// All claims of a grant, strongest first.
pub(crate) fn claims(g: &Grant) -> impl Iterator<Item = &Claim> {
    std::iter::once(&g.claim).chain(&g.beside)
}

/// The kinds of evidence of a grant, strongest first.
pub(crate) fn evidence(g: &Grant) -> String {
    kinds(claims(g).map(|c| c.evidence.as_str()))
}

/// Everybody behind a grant.
pub(crate) fn who(g: &Grant) -> String {
    names(claims(g).filter_map(|c| c.principal.as_deref()))
}

/// The same of one on record.
pub(crate) fn recorded_evidence(g: &GrantRecord) -> String {
    kinds(std::iter::once(g.evidence.as_str()).chain(g.beside.iter().map(|c| c.evidence.as_str())))
}

/// The same of one on record.
pub(crate) fn recorded_who(g: &GrantRecord) -> String {
    names(g.principal.as_deref().into_iter().chain(g.beside.iter().filter_map(|c| c.principal.as_deref())))
}

pub(crate) fn kinds<'g>(all: impl Iterator<Item = &'g str>) -> String {
    let mut all: Vec<&str> = all.collect();
    all.dedup();
    words(&all, ", ")
}

pub(crate) fn names<'g>(all: impl Iterator<Item = &'g str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for name in all.filter(|n| !n.is_empty()) {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    words(&seen, ", ")
}

pub(crate) fn end(at: Option<u64>) -> String {
    at.map_or_else(|| "ended by hand".to_string(), when)
}

/// A list of the gate: the one of this name, or the only one.
pub(crate) fn shown(name: Option<&str>, global: &GlobalArgs) -> Result<ListState, Fail> {
    admin_client::gate(global, Show { list: name.map(str::to_string) })
}

/// Who is on a list of a gate, and which enforcers have it.
pub(crate) fn say_list(list: &ListState) {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for g in &list.grants {
        let remark = match &g.claim {
            c if c.pinned => "pinned".to_string(),
            Claim { superseded: Some(place), .. } => format!("its device came from {place}"),
            _ => String::new(),
        };
        rows.push(vec![
            format!("g{}", g.id),
            g.prefix.to_string(),
            who(g),
            evidence(g),
            when(g.given_at),
            when(g.seen_at),
            end(g.claim.ends_at),
            remark,
        ]);
    }
    for p in &list.statics {
        let none = String::new;
        let (from, evidence, until, remark) = (p.to_string(), "static".into(), "never".into(), "pinned".into());
        rows.push(vec![none(), from, none(), evidence, none(), none(), until, remark]);
    }
    for n in &list.names {
        let is = if n.addresses.is_empty() { "no address yet".to_string() } else { addresses_text(&n.addresses) };
        let failed = n.failed.as_ref().map_or_else(String::new, |why| format!("; no good answer now: {}", word(why)));
        let again = n.ask_at.map_or_else(String::new, when);
        say::line(format!("{} is {is}{failed}; looked up again {again}", word(&n.name)));
        for why in &n.not_counting {
            say::line(format!("  {}", word(why)));
        }
    }
    for b in &list.bans {
        say::line(format!("no proof of {} counts until {}", banned(b), end(b.until)));
    }
    say::raw(&say::table(&["GRANT", "FROM", "WHO", "EVIDENCE", "SINCE", "LAST SEEN", "UNTIL", ""], &rows));
    for e in &list.enforcers {
        let state = match &e.error {
            Some(why) => word(why),
            None if e.current => "has it".to_string(),
            None => "is behind".to_string(),
        };
        say::line(format!("{}: {state}", word(&e.name)));
    }
}

/// Addresses with commas between them.
pub(crate) fn addresses_text(all: &[Addr]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
