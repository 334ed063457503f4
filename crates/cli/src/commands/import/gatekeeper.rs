//! `import gatekeeper`. In: the file that Gatekeeper keeps for Traefik. Out: its addresses as grants of a list, and what was
//! configured there as settings.

use std::path::Path;

use access::import;
use access::publish::is_plain_name;
use addr::Prefix;
use anyhow::Context;

use super::{NewFile, configure, say_done, say_not};
use crate::args::GlobalArgs;
use crate::args::gate::Span;
use crate::args::import::GatekeeperImport;
use crate::fail::{Done, Fail};
use crate::{resolve, say};

/// As Gatekeeper calls its file and its middleware.
const FILE: &str = "dynamic-whitelist.yml";
const NAME: &str = "dynamic-whitelist";

/// A file of addresses is small; a larger one is something else.
const MAX_FILE: u64 = 4 << 20;

pub(super) fn run(a: &GatekeeperImport, global: &GlobalArgs) -> Done {
    let file = if a.file.is_dir() { a.file.join(FILE) } else { a.file.clone() };
    let list = a.list.clone().unwrap_or_else(|| NAME.to_string());
    if !is_plain_name(&list) {
        return Err(Fail::usage(format!("`{list}` cannot name a list"), "use letters, digits, `-`, `_` and `.`"));
    }
    let middleware = a.middleware.clone().unwrap_or_else(|| NAME.to_string());
    let defaults = defaults(a.default_source_range.as_deref().unwrap_or_default())?;
    let text = read(&file)?;
    let found = import::gatekeeper(&text, &middleware, &defaults);
    if found == import::Learned::default() {
        return Err(Fail::hinted(
            format!("{} has no entries of a middleware `{middleware}`", file.display()),
            "name the file that Traefik reads, and its middleware with `--middleware NAME`",
        ));
    }
    let mut statics: Vec<Prefix> = defaults;
    statics.extend(found.statics.iter().filter(|p| !statics.contains(p)).copied().collect::<Vec<_>>());
    let dir = resolve::data_dir(global.data_dir.clone())?;
    if !a.dry_run {
        resolve::as_owner_of(&dir, &format!("import gatekeeper {} …", a.file.display()))?;
    }
    let config = a.write_config.as_deref().filter(|_| !a.dry_run).map(NewFile::at).transpose()?;
    let ttl = a.ttl.unwrap_or(Span(Some(resolve::gate_shared::TTL))).0;
    if !a.dry_run && !found.learned.is_empty() {
        let on = gate::import(&dir, &list, &found.learned, ttl)?;
        if on == 0 {
            return Err(Fail::hinted(
                "nobody came on the list",
                "`portcullis lists show` says who is on it, and who is banned",
            ));
        }
    }
    let until = ttl.map_or("without an end".to_string(), |t| format!("until {}", say::when(runtime::wall() + t)));
    say::line(format!(
        "{}: {} addresses on the list {list}, {until}, with the evidence `earlier`",
        file.display(),
        found.learned.len()
    ));
    for p in &found.learned {
        say::line(format!("  {p}"));
    }
    say_not(found.not.iter().map(|(what, why)| (what.as_str(), why.as_str())));
    if !statics.is_empty() {
        let all: Vec<String> = statics.iter().map(|p| format!("\"{p}\"")).collect();
        let text = format!("[lists.\"{list}\"]\nstatic = [{}]\n", all.join(", "));
        configure(&text, config, "what was configured there never ends: put this into the gate's file")?;
    }
    say_done(a.dry_run, &format!("{} has them", dir.join("gate.db").display()));
    Ok(())
}

fn read(file: &Path) -> Result<String, Fail> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(MAX_FILE + 1).read_to_string(&mut text));
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    // Cut off anywhere, the last address would be another one.
    if text.len() as u64 > MAX_FILE {
        return Err(Fail::hinted(
            format!("{} has more than {} MiB; nothing was changed", file.display(), MAX_FILE >> 20),
            "name the file that Traefik reads",
        ));
    }
    Ok(text)
}

/// What `DEFAULT_SOURCE_RANGE` said.
fn defaults(text: &str) -> Result<Vec<Prefix>, Fail> {
    let mut out = Vec::new();
    for item in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let (p, _) = Prefix::parse_lenient(item)
            .map_err(|e| Fail::usage(format!("--default-source-range: {e}"), "such as 10.0.0.0/8,192.168.0.0/16"))?;
        out.push(p);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Dir;

    #[test]
    fn a_file_that_is_too_large_is_refused_and_never_cut() {
        let dir = Dir::new("gatekeeper-large");
        let max = usize::try_from(MAX_FILE).unwrap();
        let whole = dir.write("whole.yml", " ".repeat(max));
        assert_eq!(read(&whole).unwrap().len(), max);
        let over = dir.write("over.yml", " ".repeat(max + 1));
        assert!(read(&over).is_err());
    }
}
