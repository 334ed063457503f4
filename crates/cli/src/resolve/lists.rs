//! Lists of addresses, wherever they are written. In: flags, variables, values of the file. Out: sources of lists, and sets
//! that say whom to believe; every error names flag and column or file and line.

use access::Service;
use addr::AddrSet;
use runtime::hint::Hinted;
use runtime::lists::{self, ListPart, ListSource};

use super::Notes;
use super::file::{ListValue, Read};
use crate::args::{Given, ListArgs};
use crate::fail::Fail;

/// A set of addresses that says whom to believe: `--trusted-proxies`. Nothing given is nobody.
///
/// # Errors
/// A bad entry, with flag and column or file and line.
pub(crate) fn set_of(
    name: &str,
    flags: &[String],
    file: Option<(&ListValue, &Read)>,
    place: &str,
    notes: &Notes,
) -> Result<AddrSet, Fail> {
    let parts = if flags.is_empty() {
        match file {
            None => return Ok(AddrSet::default()),
            Some((value, read)) => from_file(value, read).map_err(|e| no_name(&e).unwrap_or_else(|| e.into()))?,
        }
    } else {
        from_flags(flags, place).map_err(|e| no_name(&e).unwrap_or_else(|| Fail::misused(e)))?
    };
    if let Some(ListPart::Named { name: list, from }) = parts.iter().find(|p| matches!(p, ListPart::Named { .. })) {
        return Err(Fail::usage(
            format!("{from}: `list:{list}` cannot say whom to believe"),
            "name the proxies themselves",
        ));
    }
    let mut loaded = lists::load(&[ListSource { name: name.to_string(), parts }], None)?;
    if let Some(host) = loaded.hosts.iter().flatten().next() {
        return Err(believed_by_name(place, &host.entry()));
    }
    // `none` is this set's default: that it is empty deserves no word.
    for w in &loaded.warnings {
        notes.warning(w.clone());
    }
    Ok(loaded.lists.pop().map(|l| l.set).unwrap_or_default())
}

/// The failure of a host name where whom to believe is said, `dns:` or not.
fn no_name(e: &anyhow::Error) -> Option<Fail> {
    let bad = e.downcast_ref::<lists::BadEntry>().filter(|bad| bad.name.is_some())?;
    Some(believed_by_name(&bad.place, &bad.text))
}

fn believed_by_name(place: &str, name: &str) -> Fail {
    Fail::usage(
        format!("{place}: `{name}` cannot say whom to believe: whoever answers for the name would choose"),
        "name the proxies by their addresses, or by their network, such as 172.20.0.0/16",
    )
}

/// Says if untrusted peers are among the proxies that are believed.
pub(crate) fn say_wide(trusted: &AddrSet, switch: &str, notes: &Notes) {
    if let Some(wide) = trusted.prefixes().iter().find(|p| gate::doctor::holds_strangers(**p)) {
        notes.warning(format!(
            "{switch} holds {wide}: whoever comes from there may claim any address, and lists keep nobody out; name the proxies themselves"
        ));
    }
}

/// The lists at the admission of an edge, by flags, variables and file.
///
/// # Errors
/// A bad entry, or a list of the gate that the file does not have, with flag and column or file and line.
pub(crate) fn at_admission(args: &ListArgs, given: &Given, file: Option<&Read>) -> anyhow::Result<Vec<ListSource>> {
    file.map(check_named).transpose()?;
    let f = file.map(|r| &r.edge);
    // A plane's own list, wherever it stands, before the list for both.
    let plane = |flags: &[String], id: &str, value: Option<&ListValue>| -> anyhow::Result<Option<Vec<ListPart>>> {
        if !flags.is_empty() {
            return from_flags(flags, &given.place(id)).map(Some);
        }
        value.zip(file).map(|(v, r)| from_file(v, r)).transpose()
    };
    let both = plane(&args.allow_ips, "allow_ips", f.and_then(|f| f.allow_ips.as_ref()))?
        .unwrap_or_else(|| vec![ListPart::Default]);
    let control = plane(&args.allow_ips_control, "allow_ips_control", f.and_then(|f| f.allow_ips_control.as_ref()))?;
    let data = plane(&args.allow_ips_data, "allow_ips_data", f.and_then(|f| f.allow_ips_data.as_ref()))?;
    let mut lists = vec![
        ListSource { name: Service::Control.list(), parts: control.unwrap_or_else(|| both.clone()) },
        ListSource { name: Service::Data.list(), parts: data.unwrap_or(both) },
    ];
    if let Some(read) = file {
        for token in read.edge.tokens.iter().flatten() {
            if let Some(list) = &token.allow_ips {
                lists.push(ListSource {
                    name: Service::Token(token.name.clone()).list(),
                    parts: from_file(list, read)?,
                });
            }
        }
        for (port, guard) in &read.edge.port_lists {
            lists.push(ListSource {
                name: Service::Port(port.parse()?).list(),
                parts: from_file(&guard.allow_ips, read)?,
            });
        }
        for (host, guard) in &read.edge.host_lists {
            // The form in which requests are judged; that it is one was seen when the file was read.
            let host = addr::Host::parse(host).map_or_else(|| host.clone(), |h| h.to_string());
            lists.push(ListSource { name: Service::Host(host).list(), parts: from_file(&guard.allow_ips, read)? });
        }
    }
    Ok(lists)
}

/// The parts of a list flag that may be repeated.
///
/// # Errors
/// The first bad entry, with flag and column.
pub(crate) fn from_flags(values: &[String], place: &str) -> anyhow::Result<Vec<ListPart>> {
    let mut out = Vec::new();
    for value in values {
        out.extend(lists::parts(value, place, None)?);
    }
    none_stands_alone(&out, place)?;
    Ok(out)
}

pub(crate) fn from_file(value: &ListValue, read: &Read) -> anyhow::Result<Vec<ListPart>> {
    let mut out = Vec::new();
    for (text, place) in read.entries(value)? {
        out.extend(lists::parts(text, &place, Some(&read.dir()))?);
    }
    none_stands_alone(&out, &read.path.display().to_string())?;
    Ok(out)
}

/// `none` beside other values would look like a lock and be none.
fn none_stands_alone(parts: &[ListPart], place: &str) -> anyhow::Result<()> {
    let is_none = |p: &ListPart| matches!(p, ListPart::Text { text, .. } if text.trim().eq_ignore_ascii_case("none"));
    anyhow::ensure!(
        parts.len() < 2 || !parts.iter().any(is_none),
        "{place}: `none` means nobody and stands alone; remove it or the other entries"
    );
    Ok(())
}

/// Every `list:NAME` at the admission names a list that the file has.
///
/// # Errors
/// The first that does not, with its line.
fn check_named(read: &Read) -> anyhow::Result<()> {
    let e = &read.edge;
    let guards = e.port_lists.values().chain(e.host_lists.values()).map(|g| &g.allow_ips);
    let all = [&e.allow_ips, &e.allow_ips_control, &e.allow_ips_data].into_iter().flatten().chain(guards);
    let there = &e.lists;
    for value in all {
        for (text, place) in read.entries(value)? {
            for name in text.split(',').filter_map(|p| p.trim().strip_prefix("list:")).map(str::trim) {
                if !there.contains_key(name) {
                    let all: Vec<&str> = there.keys().map(String::as_str).collect();
                    let those =
                        if all.is_empty() { "there are none".into() } else { format!("there are {}", all.join(", ")) };
                    return Err(Hinted::error(
                        format!("{place}: there is no list `{name}`; {those}"),
                        format!("write `[lists.{name}]` into the file, or another name"),
                    ));
                }
            }
        }
    }
    Ok(())
}
