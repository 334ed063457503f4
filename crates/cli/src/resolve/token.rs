//! The shared secret. In: the ways it can be given. Out: exactly one token, never empty.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use net::secret::Secret;
use parking_lot::Mutex;
use tunnel_proto::connect::TokenPlace;

use super::Notes;
use crate::args::{Given, TokenArgs};
use crate::fail::Fail;

/// A token and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) secret: Secret,
    /// For the connect string that the edge prints; `None` if it was written in an argument.
    pub(crate) place: Option<TokenPlace>,
}

/// Ways to give a token, after flags have taken precedence over variables.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Value(String),
    File(PathBuf),
    Env(String),
}

/// What came through pipes, which can be read but once in a process.
static PIPES: Mutex<BTreeMap<PathBuf, Secret>> = Mutex::new(BTreeMap::new());

/// A token file is one line; more is another file.
const MAX_TOKEN: usize = 4096;

/// The one token that was given, or `None` if none was.
///
/// # Errors
/// Several ways at once (exit 2), or a token that cannot be read or is empty (exit 1).
pub(crate) fn find(args: &TokenArgs, given: &Given, notes: &Notes) -> Result<Option<Token>, Fail> {
    if args.print_token.unwrap_or(false) {
        notes.warning("--print-token is accepted for old scripts; the token is never printed");
    }
    if args.token_from.is_some() {
        notes.warning("--token-from is the old name of --token-file");
    }
    let mut ways: Vec<(&str, Way)> = Vec::new();
    ways.extend(args.token.clone().map(|t| ("token", Way::Value(t))));
    ways.extend(args.token_file.clone().map(|t| ("token_file", Way::File(t))));
    ways.extend(args.token_from.clone().map(|t| ("token_from", Way::File(t))));
    ways.extend(args.token_env.clone().map(|t| ("token_env", Way::Env(t))));
    // A flag counts before a variable, also when they are different ways.
    if ways.iter().any(|(id, _)| given.typed(id)) {
        ways.retain(|(id, _)| given.typed(id));
    }
    match ways.as_slice() {
        [] => Ok(None),
        [(id, way)] => read(way, &given.place(id), notes).map(Some),
        many => {
            let names: Vec<String> = many.iter().map(|(id, _)| given.place(id)).collect();
            Err(Fail::usage(format!("the token is given twice: {}", names.join(" and ")), "keep one of them"))
        }
    }
}

/// The token at a place that a connect string or a configuration file names.
pub(crate) fn at(place: &TokenPlace, from: &str, notes: &Notes) -> Result<Token, Fail> {
    let way = match place {
        TokenPlace::File(path) => Way::File(PathBuf::from(path)),
        TokenPlace::Env(name) => Way::Env(name.clone()),
    };
    read(&way, from, notes)
}

/// The failure of a command that needs a token and got none.
pub(crate) fn missing() -> Fail {
    Fail::usage(
        "no token given",
        "write one with `head -c 32 /dev/urandom | base64 > token.txt && chmod 600 token.txt` and give `--token-file token.txt`",
    )
}

fn read(way: &Way, from: &str, notes: &Notes) -> Result<Token, Fail> {
    let (text, place) = match way {
        Way::Value(text) => (text.clone(), None),
        Way::File(path) => (read_file(path, from, notes)?, Some(TokenPlace::File(path.display().to_string()))),
        Way::Env(name) => {
            let text = std::env::var(name).map_err(|_| {
                Fail::hinted(
                    format!("{from} names the variable `{name}`, which is not set or not text"),
                    format!("set it: `export {name}=…`"),
                )
            })?;
            (text, Some(TokenPlace::Env(name.clone())))
        }
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(Fail::hinted(
            format!("the token of {from} is empty"),
            "an empty token would let everybody in; give a long random one",
        ));
    }
    // It travels in a header line.
    if token.len() > MAX_TOKEN || token.chars().any(|c| c.is_control() || !c.is_ascii()) {
        return Err(Fail::hinted(
            format!("the token of {from} is not one line of up to {MAX_TOKEN} ASCII characters"),
            "is it the right file?",
        ));
    }
    Ok(Token { secret: Secret::new(token), place })
}

fn read_file(path: &Path, from: &str, notes: &Notes) -> Result<String, Fail> {
    let open = || -> anyhow::Result<String> {
        let meta = fs::metadata(path)?;
        if meta.permissions().mode() & 0o004 != 0 {
            notes.warning(format!(
                "every user of this machine can read the token in {}; `chmod 600` it",
                path.display()
            ));
        }
        anyhow::ensure!(!meta.is_dir(), "it is a folder");
        anyhow::ensure!(meta.len() <= 2 * MAX_TOKEN as u64, "it is too large for a token");
        if meta.is_file() {
            return Ok(fs::read_to_string(path)?);
        }
        // `--token-file <(pass edge)`: a pipe says it once, and a reload asks again.
        let mut known = PIPES.lock();
        if let Some(token) = known.get(path) {
            return Ok(token.reveal().to_string());
        }
        let text = fs::read_to_string(path)?;
        known.insert(path.to_path_buf(), Secret::new(&text));
        Ok(text)
    };
    open().with_context(|| format!("cannot read the token file {} ({from})", path.display())).map_err(Fail::from)
}
