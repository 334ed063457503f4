//! Grants and bans in words. In: what a gate knows of them. Out: lines for a person, and cells of a table.

use access::record::GrantRecord;
use api::AuditEvent;
use api::gate::{Ban, Behind, Claim, Grant};

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
