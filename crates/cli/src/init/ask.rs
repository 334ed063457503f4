//! The questions of `init`. In: flags, what was found out, lines that a person types. Out: answers without an open
//! question. A bad answer of a person is asked for again with what was wrong; of a flag or a script it is an error.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use net::secret::Secret;
use tunnel_proto::connect::ConnectString;

use super::facts::Facts;
use super::places;
use crate::args::init::{Front, InitArgs, Purpose};
use crate::args::{PublishArgs, values};
use crate::fail::Fail;
use crate::resolve;

/// What is wanted.
#[derive(Debug)]
pub(super) enum Answers {
    /// An edge, a gate, a coordination server, or several of them.
    Server {
        purposes: BTreeSet<Purpose>,
        name: String,
        /// `none` alone for nobody, never empty.
        allow: Vec<String>,
        proxy: Front,
        guard: Vec<String>,
        store: PathBuf,
    },
    /// A client.
    Client { connect: ConnectString, token: Token, upstream: Vec<String> },
}

/// A client's token.
#[derive(Debug, Clone)]
pub(super) enum Token {
    /// It lies in this file.
    File(PathBuf),
    /// It was typed, and is to be written.
    Typed(Secret),
}

/// Asks what no flag has answered.
pub(super) fn answers(a: &InitArgs, store: Option<PathBuf>, dir: &Path, facts: &Facts) -> Result<Answers, Fail> {
    let mut ask = Questions { yes: a.yes, input: std::io::stdin().lock(), person: std::io::stdin().is_terminal() };
    let purposes = match a.purpose.is_empty() {
        false => together(a.purpose.iter().copied().collect()).map_err(|why| bad("--for", &why))?,
        true => ask.one(
            "--for",
            "What is this machine for? edge (the public side of a tunnel), client (the private side), gate (allow lists), control (a coordination server); several with commas",
            None,
            purposes,
        )?,
    };
    let is = |p: Purpose| purposes.contains(&p);
    if is(Purpose::Client) {
        return client(a, dir, &mut ask);
    }
    let public = is(Purpose::Edge) || is(Purpose::Control);
    let name = match &a.name {
        Some(name) => values::certificate_name(name).map_err(|why| bad("--name", &why))?,
        // A gate alone is reached by its proxy only.
        None if !public => facts.names.first().cloned().unwrap_or_else(|| "localhost".to_string()),
        None => ask.one(
            "--name",
            "Under which name or address do others reach it?",
            facts.names.first().map(String::as_str),
            values::certificate_name,
        )?,
    };
    let allow = match a.allow.is_empty() {
        false => list(&a.allow.join(",")).map_err(|why| bad("--allow", &why))?,
        true if !is(Purpose::Edge) && !is(Purpose::Gate) => vec!["none".to_string()],
        true => {
            // That somebody sits there now is a guess for a person to confirm, not for a script.
            let here = facts.person.filter(|_| !a.yes).map(|p| p.to_string());
            ask.one(
                "--allow",
                "Who may come in? Addresses, prefixes, names (dns:home.example.net), `all`, `none`; with commas",
                Some(here.as_deref().unwrap_or("none")),
                list,
            )?
        }
    };
    let proxy = match a.proxy {
        Some(proxy) => proxy,
        None => {
            let found = facts.proxies.first().copied().unwrap_or(Front::None);
            let all = "Which proxy stands in front? none, nginx, caddy, traefik, haproxy";
            ask.one("--proxy", all, Some(&word(found)), front)?
        }
    };
    if proxy != Front::None && public && name.parse::<std::net::IpAddr>().is_ok() {
        return Err(Fail::usage(
            format!("behind {} clients need a name that its certificate is for, not the address {name}", word(proxy)),
            "give the name with `--name NAME`, or `--proxy none`",
        ));
    }
    let usual = resolve::data_dir(None)?;
    let store = match &store {
        Some(store) => place(&store.display().to_string()).map_err(|why| bad("--store", &why))?,
        None => ask.one("--store", "Where is its state kept?", Some(&usual.display().to_string()), place)?,
    };
    if !a.guard.is_empty() && !is(Purpose::Gate) {
        return Err(Fail::usage("--guard is for a gate", "add it: `--for gate`"));
    }
    Ok(Answers::Server { purposes, name, allow, proxy, guard: a.guard.clone(), store })
}

fn client(a: &InitArgs, dir: &Path, ask: &mut Questions<impl BufRead>) -> Result<Answers, Fail> {
    let connect = match &a.connect {
        Some(text) => text.parse().map_err(|e| bad("--connect", &format!("{e}")))?,
        None => ask.one("--connect", "The connect string that the edge printed?", None, |t| {
            t.parse::<ConnectString>().map_err(|e| e.to_string())
        })?,
    };
    let usual = dir.join(places::TOKEN);
    let token = match &a.token_file {
        Some(file) => token_file(file).map_err(|why| bad("--token-file", &why))?,
        None => {
            let there = usual.exists().then(|| usual.display().to_string());
            ask.one("--token-file", "The edge's token, or the file that it lies in?", there.as_deref(), token)?
        }
    };
    let upstream = match a.upstream.is_empty() {
        false => upstreams(&a.upstream.join(",")).map_err(|why| bad("--upstream", &why))?,
        true => ask.one(
            "--upstream",
            "What is published? http://127.0.0.1:3000, app.example.com=http://127.0.0.1:4000, 2222=127.0.0.1:22; with commas",
            None,
            upstreams,
        )?,
    };
    Ok(Answers::Client { connect, token, upstream })
}

fn bad(flag: &str, why: &str) -> Fail {
    Fail::usage(format!("{flag}: {why}"), "`portcullis init --help` shows what it takes")
}

/// As a flag names it.
pub(super) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
}

struct Questions<R> {
    yes: bool,
    input: R,
    person: bool,
}

/// Longest answer that is read: a list of a thousand addresses fits.
const MAX_ANSWER: u64 = 65_536;

impl<R: BufRead> Questions<R> {
    /// Asks until the answer is good.
    fn one<T>(
        &mut self,
        flag: &str,
        question: &str,
        usual: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Fail> {
        if self.yes {
            let Some(usual) = usual else {
                return Err(Fail::usage(format!("{flag} is missing, and has no default"), format!("give {flag}")));
            };
            return read(usual).map_err(|why| bad(flag, &why));
        }
        loop {
            let default = usual.map_or_else(String::new, |u| format!(" [{u}]"));
            // On the other stream: with --json standard output is JSON.
            eprint!("{question}{default} ");
            let _ = std::io::stderr().flush();
            let mut line = String::new();
            let mut limited = std::io::Read::take(&mut self.input, MAX_ANSWER);
            let ended = limited.read_line(&mut line).map_or(true, |n| n == 0);
            if !self.person {
                eprintln!();
            }
            if ended {
                return Err(Fail::usage(
                    format!("no answer: {question}"),
                    format!("give {flag}, or --yes for the defaults"),
                ));
            }
            let typed = line.trim();
            let answer = if typed.is_empty() { usual.unwrap_or_default() } else { typed };
            match read(answer) {
                Ok(answer) => return Ok(answer),
                Err(why) if self.person => eprintln!("  {why}"),
                Err(why) => return Err(bad(flag, &why)),
            }
        }
    }
}

fn purposes(text: &str) -> Result<BTreeSet<Purpose>, String> {
    let words = text.split([',', ' ']).filter(|w| !w.is_empty());
    let all =
        words.map(|w| Purpose::from_str(w, true).map_err(|_| format!("`{w}` is none of edge, client, gate, control")));
    together(all.collect::<Result<_, String>>()?)
}

fn together(all: BTreeSet<Purpose>) -> Result<BTreeSet<Purpose>, String> {
    if all.is_empty() {
        return Err("say one of edge, client, gate, control".to_string());
    }
    if all.contains(&Purpose::Client) && all.len() > 1 {
        return Err("a client is a service of its own: run `portcullis init --for client` after this".to_string());
    }
    Ok(all)
}

fn front(text: &str) -> Result<Front, String> {
    Front::from_str(text, true).map_err(|_| format!("`{text}` is none of none, nginx, caddy, traefik, haproxy"))
}

/// The entries of a list; nobody is `none`, and never nothing.
fn list(text: &str) -> Result<Vec<String>, String> {
    let entries: Vec<String> = text.split(',').map(str::trim).filter(|e| !e.is_empty()).map(absolute).collect();
    if entries.is_empty() {
        return Err("nobody is named: write `none` if that is meant, `all` for everybody".to_string());
    }
    let parts = resolve::lists::from_flags(&entries, "this list").map_err(|e| format!("{e:#}"))?;
    let source = runtime::lists::ListSource { name: "allow".to_string(), parts };
    match runtime::lists::load(&[source], None) {
        Ok(_) => Ok(entries),
        Err(e) => Err(format!("{e:#}")),
    }
}

/// A file is named as seen from here, and read from elsewhere later.
fn absolute(entry: &str) -> String {
    let here = |path: &str| std::path::absolute(path).map(|p| format!("@{}", p.display())).ok();
    entry.strip_prefix('@').and_then(here).unwrap_or_else(|| entry.to_string())
}

fn place(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path {
        p if !p.is_absolute() => Err(format!("`{text}` is no path from the root, such as /var/lib/portcullis")),
        p if p.exists() && !p.is_dir() => Err(format!("{text} is no folder")),
        p => Ok(p),
    }
}

fn token_file(path: &Path) -> Result<Token, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if text.trim().is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    std::path::absolute(path).map(Token::File).map_err(|e| e.to_string())
}

fn token(text: &str) -> Result<Token, String> {
    if text.starts_with(['/', '.', '~']) {
        return token_file(Path::new(text));
    }
    if text.is_empty() {
        return Err("the edge takes no client without its token".to_string());
    }
    Ok(Token::Typed(Secret::new(text)))
}

fn upstreams(text: &str) -> Result<Vec<String>, String> {
    let all: Vec<String> = text.split(',').map(str::trim).filter(|e| !e.is_empty()).map(ToString::to_string).collect();
    if all.is_empty() {
        return Err("nothing is named".to_string());
    }
    let plane = crate::doctor::plane(&PublishArgs { upstream: all.clone(), ..PublishArgs::default() });
    tunnel_proto::upstream::parse_upstreams(&all, None, plane).map_err(|e| e.to_string())?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<T>(
        person: bool,
        lines: &str,
        usual: Option<&str>,
        read: fn(&str) -> Result<T, String>,
    ) -> Result<T, Fail> {
        Questions { yes: false, input: lines.as_bytes(), person }.one("--x", "What?", usual, read)
    }

    #[test]
    fn a_bad_answer_is_asked_for_again_and_of_a_script_it_is_an_error() {
        assert_eq!(asked(true, "nonsense\n\nall\n", None, list).unwrap(), ["all"]);
        assert!(asked(false, "nonsense\nall\n", None, list).is_err());
        assert_eq!(asked(false, "\n", Some("none"), list).unwrap(), ["none"]);
        assert!(asked(false, "", Some("none"), list).is_err(), "the end of the input is no answer");
    }

    #[test]
    fn no_list_is_empty_and_no_client_has_company() {
        for empty in ["", " ", ",", " , "] {
            assert!(list(empty).is_err());
        }
        assert_eq!(list("198.51.100.7, dns:home.example.net").unwrap().len(), 2);
        assert!(list("198.51.100.300").is_err());
        assert!(purposes("edge, gate").is_ok() && purposes("client,edge").is_err() && purposes("").is_err());
        assert!(place("state").is_err() && place("/var/lib/x").is_ok());
        assert!(upstreams("http://127.0.0.1:3000").is_ok() && upstreams("2222=127.0.0.1:22").is_ok());
        assert!(upstreams("ftp://x").is_err());
    }
}
