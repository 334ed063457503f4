//! From a URL's path to names below the root, pure. In: the path as it was sent. Out: names that are each one step
//! down, or why not. No name is `..`, hidden, or holds a separator, so a path cannot lead up by what it says; where it
//! leads by links is for `root` to see.

use addr::percent_decoded;

/// A path below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Below {
    /// The names, decoded, from the root down; empty for the root itself.
    pub(super) names: Vec<Vec<u8>>,
    /// The path ended with a slash, as the path of a folder does.
    pub(super) slash: bool,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It cannot be read: 400.
    Malformed(&'static str),
    /// There is nothing that it may name: 404.
    Nothing,
}

impl Below {
    /// Reads the path of a request target, without the query.
    ///
    /// # Errors
    /// [`Refused`]. Names that begin with a dot are refused, but for `.well-known` (RFC 8615).
    pub(super) fn read(path: &str) -> Result<Below, Refused> {
        let rest = path.strip_prefix('/').ok_or(Refused::Malformed("it does not begin with a slash"))?;
        let (inner, slash) = match rest.strip_suffix('/') {
            Some(inner) => (inner, true),
            None => (rest, rest.is_empty()),
        };
        if inner.is_empty() {
            return if path == "/" { Ok(Below { names: Vec::new(), slash: true }) } else { Err(Refused::Nothing) };
        }
        let names = inner.split('/').map(name).collect::<Result<_, _>>()?;
        Ok(Below { names, slash })
    }
}

fn name(part: &str) -> Result<Vec<u8>, Refused> {
    let name = percent_decoded(part).ok_or(Refused::Malformed("it has a percent sign without two digits"))?;
    if name.contains(&0) {
        return Err(Refused::Malformed("it has a NUL"));
    }
    if name.is_empty() || is_hidden_name(&name) || name.contains(&b'/') || name.contains(&b'\\') {
        return Err(Refused::Nothing);
    }
    Ok(name)
}

/// True for a name that is neither shown nor served: one that begins with a dot, but for `.well-known` (RFC 8615).
pub(super) fn is_hidden_name(name: &[u8]) -> bool {
    name.starts_with(b".") && name != b".well-known"
}

/// Percent encoding of a name for a link: everything but unreserved characters.
pub(super) fn encode(name: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len());
    for b in name {
        if b.is_ascii_alphanumeric() || b"-._~".contains(b) {
            out.push(char::from(*b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names() {
        let ok = |path: &str, names: &[&str], slash: bool| {
            let want = Below { names: names.iter().map(|n| n.as_bytes().to_vec()).collect(), slash };
            assert_eq!(Below::read(path), Ok(want), "{path}");
        };
        ok("/", &[], true);
        ok("/a", &["a"], false);
        ok("/a/", &["a"], true);
        ok("/a/b%20c/d+e", &["a", "b c", "d+e"], false);
        ok("/%E2%82%AC", &["€"], false);
        ok("/.well-known/acme", &[".well-known", "acme"], false);
    }

    #[test]
    fn refuses_ways_out() {
        for path in [
            "/..",
            "/../x",
            "/a/../b",
            "/a/..",
            "/.",
            "/./a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/%2e%2e/x",
            "/%2e%2E",
            "/.%2e/x",
            "/a%2fb",
            "/a%2Fb",
            "/..%2f..%2fetc",
            "/a%5cb",
            "/..\\x",
            "/%5c..",
            "/...",
            "/.git/config",
            "/a/.env",
            "/%2egit",
            "/%2f",
        ] {
            assert_eq!(Below::read(path), Err(Refused::Nothing), "{path}");
        }
        for path in ["", "a", "*", "/%", "/%4", "/%zz", "/%00", "/a%00b", "/%+1"] {
            assert!(matches!(Below::read(path), Err(Refused::Malformed(_))), "{path}");
        }
        // Decoded once, not twice.
        assert_eq!(Below::read("/%252e%252e").unwrap().names, [b"%2e%2e".to_vec()]);
    }

    #[test]
    fn encodes_for_links() {
        assert_eq!(encode(b"a b&\"<\xff.txt"), "a%20b%26%22%3C%FF.txt");
    }
}
