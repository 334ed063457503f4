//! The tokens of an edge: one of flags and variables, or those of its file, each with its rights.

use std::path::PathBuf;

use net::secret::TokenHash;
use tunnel::settings::{EdgeToken, Rights};
use tunnel_proto::connect::TokenPlace;
use tunnel_proto::upstream::PortRanges;

use super::file::{Read, TokenFile};
use super::{Notes, token};
use crate::args::{Given, TokenArgs};
use crate::fail::Fail;

/// The tokens that an edge takes, and what is known of where they lie.
pub(crate) struct Tokens {
    /// Never empty.
    pub(crate) all: Vec<EdgeToken>,
    /// Where the only one lies here, as a hint for the connect string.
    pub(crate) place: Option<TokenPlace>,
    /// The files that they were read from.
    pub(crate) files: Vec<PathBuf>,
}

/// Reads the tokens of an edge: the one of flags and variables, else those of the file.
///
/// # Errors
/// None is given, one is given twice, or cannot be read.
pub(crate) fn tokens(args: &TokenArgs, file: Option<&Read>, given: &Given, notes: &Notes) -> Result<Tokens, Fail> {
    let file_of = |place: &TokenPlace| match place {
        TokenPlace::File(path) => Some(PathBuf::from(path)),
        TokenPlace::Env(_) => None,
    };
    if let Some(t) = token::find(args, given, notes)? {
        note_short(t.secret.reveal(), "the token", notes);
        let all = vec![EdgeToken::all("token", TokenHash::of(t.secret.reveal()))];
        let files = t.place.as_ref().and_then(file_of).into_iter().collect();
        return Ok(Tokens { all, place: t.place, files });
    }
    let Some(read) = file else { return Err(token::missing()) };
    let f = &read.edge;
    let from = read.path.display().to_string();
    let ways = [f.token_file.is_some(), f.token_files.is_some(), f.token_env.is_some(), f.tokens.is_some()];
    if ways.iter().filter(|w| **w).count() > 1 {
        return Err(Fail::hinted(
            format!("{from}: the token is given twice"),
            "keep one of `token_file`, `token_files`, `token_env` and `[[tokens]]`",
        ));
    }
    let path = |p: &PathBuf| TokenPlace::File(read.at(p).display().to_string());
    let by_name = |p: &PathBuf| (p.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path(p));
    let mut places: Vec<(String, TokenPlace)> = Vec::new();
    places.extend(f.token_file.iter().chain(f.token_files.iter().flatten()).map(by_name));
    places.extend(f.token_env.clone().map(|e| ("token".to_string(), TokenPlace::Env(e))));
    places.extend(f.tokens.iter().flatten().map(|t| (t.name.clone(), path(&t.file))));
    if places.is_empty() {
        return Err(token::missing());
    }
    let mut out: Vec<EdgeToken> = Vec::new();
    for (i, (name, place)) in places.iter().enumerate() {
        let secret = token::at(place, &from, notes)?.secret;
        note_short(secret.reveal(), &format!("the token `{name}`"), notes);
        if let Some(same) = out.iter().find(|o| o.hash.matches(secret.reveal())) {
            return Err(Fail::hinted(
                format!("{from}: the tokens `{}` and `{name}` are the same", same.name),
                "a token of its own for each: `head -c 32 /dev/urandom | base64 > NAME.token`",
            ));
        }
        let told = f.tokens.as_ref().and_then(|t| t.get(i));
        out.push(EdgeToken {
            name: name.clone(),
            hash: TokenHash::of(secret.reveal()),
            rights: told.map_or_else(Rights::default, rights),
            guarded: told.is_some_and(|t| t.allow_ips.is_some()),
        });
    }
    if f.tokens.is_some() {
        names_are_good(&places, &from)?;
    }
    let files = places.iter().filter_map(|(_, place)| file_of(place)).collect();
    let place = if let [(_, one)] = places.as_slice() { Some(one.clone()) } else { None };
    Ok(Tokens { all: out, place, files })
}

/// Of a token for which hosts are named, ports are none unless they are named too, and the other way round.
fn rights(told: &TokenFile) -> Rights {
    match (&told.hosts, &told.ports) {
        (None, None) => Rights::default(),
        (hosts, ports) => Rights {
            hosts: Some(hosts.clone().unwrap_or_default()),
            ports: Some(ports.clone().unwrap_or_else(PortRanges::none)),
        },
    }
}

/// A token's name is part of a list's name and of log lines.
fn names_are_good(tokens: &[(String, TokenPlace)], from: &str) -> Result<(), Fail> {
    for (i, (name, _)) in tokens.iter().enumerate() {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(Fail::hinted(
                format!("{from}: `{name}` is not a name for a token"),
                "letters, digits, `-`, `_` and `.`, up to 64 of them",
            ));
        }
        if tokens.iter().take(i).any(|(other, _)| other == name) {
            return Err(Fail::hinted(format!("{from}: two tokens are called `{name}`"), "give each a name of its own"));
        }
    }
    Ok(())
}

/// 16 characters of `base64` are 96 bits; what people make up is far less at this length.
const SHORT: usize = 16;

fn note_short(token: &str, what: &str, notes: &Notes) {
    if token.len() < SHORT {
        notes.warning(format!(
            "{what} has {} characters and may be guessed; a good one: `head -c 32 /dev/urandom | base64 > token && chmod 600 token`",
            token.len()
        ));
    }
}
