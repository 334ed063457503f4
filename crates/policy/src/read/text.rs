//! Words inside a document: durations, targets of sets, forms of names, and what was probably meant. In: text. Out: values, or why
//! not.

use crate::hujson::clip;
use crate::who::{self, Who};

use super::*;

pub(super) fn grant_source(text: &str) -> Result<String, String> {
    match GRANT_SOURCES.contains(&text) {
        true => Ok(text.to_string()),
        false => Err(format!("`{}` is no grant source; there are {}", clip(text), GRANT_SOURCES.join(", "))),
    }
}

/// What may stand in a set or a list: addresses, ranges, hosts, other sets, the internet.
pub(super) fn set_target(text: &str) -> Result<Who, String> {
    let who = match text.strip_prefix("host:") {
        Some(host) if !host.is_empty() => Who::Host(host.to_string()),
        _ => who::read_who(text)?,
    };
    match who {
        Who::Prefix(..) | Who::Range(_) | Who::Host(_) | Who::IpSet(_) | Who::Internet => Ok(who),
        other => Err(format!(
            "`{other}` cannot be in a set: a set holds addresses, prefixes, ranges, `host:NAME`, `ipset:NAME` and `autogroup:internet`"
        )),
    }
}

/// Seconds of `20h`, `30m`, `1h30m`, `always` (0).
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is no length of time; write `20h`, `30m`, `90s` or `always`", clip(text));
    match text {
        "always" | "0" => return Ok(0),
        "" => return Err(wrong()),
        _ => {}
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let n: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') if !rest[digits..].starts_with("ms") => 60,
            Some('s') => 1,
            Some('d') => 86400,
            _ => return Err(wrong()),
        };
        total = n.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    Ok(total)
}

/// Whether a name has the form of its section. A tag begins with a letter, as the hosted service demands.
pub(super) fn name_form(prefix: &str, rest: Option<&str>) -> Result<(), String> {
    let Some(rest) = rest else { return Err(format!("must begin with `{prefix}`")) };
    if rest.is_empty() {
        return Err(if prefix.is_empty() { "is empty".to_string() } else { format!("has nothing after `{prefix}`") });
    }
    if prefix == "tag:" && !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("must go on with a letter after `tag:`".to_string());
    }
    if rest.chars().any(|c| c.is_whitespace() || c.is_control() || c == ',') {
        return Err("may not hold spaces or commas".to_string());
    }
    Ok(())
}

/// What connectors are told of their apps: official ones know nothing of names that are left out.
pub(super) fn for_nodes(mut apps: serde_json::Value) -> serde_json::Value {
    for app in apps.as_array_mut().into_iter().flatten() {
        if let Some(domains) = app.get_mut("domains").and_then(serde_json::Value::as_array_mut) {
            domains.retain(|d| !d.as_str().is_some_and(|d| d.trim_start().starts_with('!')));
        }
    }
    apps
}

/// The known name that differs least, if it looks like a typo.
pub(crate) fn nearest<'n>(text: &str, known: &[&'n str]) -> Option<&'n str> {
    // Two slips are a slip; three are another word.
    known
        .iter()
        .map(|k| (distance(&text.to_lowercase(), &k.to_lowercase()), *k))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, k)| k)
}

/// Edit distance, for words; long texts are not compared.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
