//! Shapes of share links. In: shapes as people write them (`/gallery/{token}`), the path that a guest asked for. Out: the
//! link in it, what an upstream is asked about it, and a link of the same shape that does not exist. Pure.
//!
//! A path that any two programs might read differently (dots, empty parts, encoded separators) is no link, and only the
//! token's own path is asked for: what follows it never reaches an upstream.

use std::fmt;
use std::str::FromStr;

/// A shape of share links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// What stands before the token; `None`: any one part.
    before: Vec<Option<String>>,
    /// The path ends with a slash.
    slash: bool,
    /// Shortest token that is believed.
    least: usize,
    /// Another question about the same token, for upstreams that answer the link itself with a page in any case: path and
    /// query before the token, and after it.
    api: Option<(String, String)>,
}

/// A link that a guest asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The path before the token: `/s/`.
    pub place: String,
    /// The token.
    pub token: String,
    /// What follows the token: nothing or `/`.
    after: &'static str,
    api: Option<(String, String)>,
}

/// Why a path is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLink {
    /// It can be read in two ways.
    Unclear,
    /// It is of no shape.
    Shapeless,
    /// The token is shorter than this, so that it can be guessed.
    Short(usize),
}

/// What services use: Immich (`/share/KEY`, `/s/SLUG`), Nextcloud (`/s/TOKEN`, in a folder, with `index.php`), Seafile,
/// Synology Drive, Photos and File Station, Paperless (`/share/SLUG`). Immich before 1.135 answers 200 to any
/// `/share/…`, and for longer to any `/s/…`, so its API is asked then.
const BUILT_IN: [&str; 13] = [
    "/share/{token}=/api/shared-links/me?key={token}",
    "/s/{token}=/api/shared-links/me?slug={token}",
    "/index.php/s/{token}",
    "/f/{token}/",
    "/d/{token}/",
    "/u/d/{token}/",
    "/d/s/{token}",
    "/sharing/{token}",
    "/mo/sharing/{token}",
    "/{any}/mo/sharing/{token}",
    "/{any}/share/{token}",
    "/{any}/s/{token}",
    "/{any}/index.php/s/{token}",
];
/// A shorter token can be guessed; a person may say otherwise for a shape of his own, but not below [`MIN_TOKEN_LEN`].
const DEFAULT_MIN_TOKEN_LEN: usize = 8;
const MIN_TOKEN_LEN: usize = 4;
/// No service makes longer ones.
const MAX_TOKEN_LEN: usize = 200;
/// Parts of a path, the token included, by the rule for paths of no known shape.
const PARTS: usize = 4;
/// A token of no known shape must be this long, hold a digit, and change between digits, small and capital letters this
/// often: so do random ones, and names of pages do not.
const RANDOM: (usize, usize) = (12, 4);

/// The shapes that are known without being told.
pub(super) fn built_in() -> Vec<Shape> {
    BUILT_IN.iter().filter_map(|s| s.parse().ok()).collect()
}

/// The link in a path that a guest asked for, by the first shape that fits, else by the rule for the rest: the last part
/// looks random.
///
/// # Errors
/// Why there is none.
pub(super) fn find(shapes: &[Shape], uri: &str) -> Result<Link, NoLink> {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = path.strip_prefix('/').ok_or(NoLink::Unclear)?.split('/').collect();
    let slash = parts.last() == Some(&"");
    if slash {
        parts.pop();
    }
    if !parts.iter().all(|p| is_clear(p)) {
        return Err(NoLink::Unclear);
    }
    let mut short = None;
    for shape in shapes {
        match shape.fits(&parts) {
            Some(Ok(link)) => return Ok(link),
            Some(Err(least)) => short = short.or(Some(least)),
            None => {}
        }
    }
    if let Some(least) = short {
        return Err(NoLink::Short(least));
    }
    let Some((token, before)) = parts.split_last() else { return Err(NoLink::Shapeless) };
    if before.len() < PARTS && before.iter().all(|p| is_plain(p)) && looks_random(token) {
        let after = if slash { "/" } else { "" };
        return Ok(Link { place: place(before), token: (*token).to_string(), after, api: None });
    }
    Err(NoLink::Shapeless)
}

/// A path as it may be said: what could be a token is left out.
#[must_use]
pub fn masked(uri: &str) -> String {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let last = parts.iter().rposition(|p| !p.is_empty()).filter(|at| *at > 1);
    let hide = |(at, p): (usize, &&str)| Some(at) == last || (p.len() >= MIN_TOKEN_LEN && !is_word(p));
    let shown: Vec<&str> = parts.iter().enumerate().map(|p| if hide((p.0, p.1)) { "…" } else { p.1 }).collect();
    let text: String = shown.join("/").chars().take(60).collect();
    text.escape_debug().to_string()
}

impl Shape {
    /// The link in these parts; `Err`: of this shape, but the token is shorter than it may be.
    fn fits(&self, parts: &[&str]) -> Option<Result<Link, usize>> {
        let before = parts.get(..self.before.len())?;
        let token = *parts.get(self.before.len())?;
        let same = |(want, is): (&Option<String>, &&str)| want.as_ref().map_or_else(|| is_plain(is), |w| w == is);
        if !self.before.iter().zip(before).all(same) || !is_token(token) {
            return None;
        }
        if token.len() < self.least {
            return Some(Err(self.least));
        }
        let after = if self.slash { "/" } else { "" };
        Some(Ok(Link { place: place(before), token: token.to_string(), after, api: self.api.clone() }))
    }
}

impl Link {
    /// The path that an upstream is asked for: the token's own.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}{}{}", self.place, self.token, self.after)
    }

    /// The other question about the token, if there is one.
    #[must_use]
    pub fn api(&self) -> Option<String> {
        self.api.as_ref().map(|(before, after)| format!("{before}{}{after}", self.token))
    }

    /// A link of the same shape that does not exist.
    #[must_use]
    pub fn canary(&self, random: impl Fn(&mut [u8])) -> Link {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut bytes = vec![0u8; self.token.len()];
        random(&mut bytes);
        let pick = |set: &[u8], r: u8| set.get(usize::from(r) % set.len()).copied().unwrap_or(b'x') as char;
        let each = self.token.bytes().zip(bytes);
        let token =
            each.map(|(t, r)| if t.is_ascii_digit() { pick(b"0123456789", r) } else { pick(LETTERS, r) }).collect();
        Link { token, ..self.clone() }
    }

    /// True if a redirect leads to the page where this link's password is asked for, as Nextcloud's does:
    /// `/s/TOKEN/authenticate/showShare`, with any host and folder before it.
    #[must_use]
    pub fn asks_password(&self, location: &str) -> bool {
        let path = location.split_once("://").map_or(location, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
        let parts: Vec<&str> = path.split(['?', '#']).next().unwrap_or_default().split('/').collect();
        let last = self.place.trim_end_matches('/').rsplit('/').next();
        parts.windows(3).any(|w| matches!(w, [p, t, "authenticate"] if Some(*p) == last && *t == self.token))
    }
}

fn place(before: &[&str]) -> String {
    before.iter().fold("/".to_string(), |place, part| place + part + "/")
}

/// A part of a path that no two programs read differently.
fn is_clear(part: &str) -> bool {
    let lower = part.to_ascii_lowercase();
    let hidden = ["%2e", "%2f", "%5c", "%25", "%00"].iter().any(|h| lower.contains(h));
    !part.is_empty()
        && part != "."
        && part != ".."
        && !hidden
        && !part.contains(['\\', ';'])
        && !part.contains(char::is_control)
}

/// A part of a place: nothing that is encoded.
fn is_plain(part: &str) -> bool {
    part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'~'))
}

fn is_token(part: &str) -> bool {
    (1..=MAX_TOKEN_LEN).contains(&part.len())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_word(part: &str) -> bool {
    part.len() <= 16 && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'.')
}

fn looks_random(part: &str) -> bool {
    let kind = |b: u8| (b.is_ascii_digit(), b.is_ascii_uppercase());
    let letters: Vec<u8> = part.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let changes = letters.windows(2).filter(|w| matches!(w, [a, b] if kind(*a) != kind(*b))).count();
    is_token(part) && part.len() >= RANDOM.0 && letters.iter().any(u8::is_ascii_digit) && changes >= RANDOM.1
}

impl FromStr for Shape {
    type Err = String;

    /// Parses `/gallery/{token}`, `/f/{token}/`, `/{any}/s/{token}`, `/s/{token:4}` (tokens of four characters and more),
    /// and `/s/{token}=/api/shared-links/me?slug={token}` (what is asked if the link itself is answered in any case).
    fn from_str(text: &str) -> Result<Shape, String> {
        let wrong = |why: &str| format!("`{text}`: {why}");
        let (path, api) = text.split_once('=').map_or((text, None), |(p, a)| (p, Some(a)));
        let rest = path.strip_prefix('/').ok_or_else(|| wrong("a shape starts with `/`"))?;
        let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |r| (r, true));
        let mut parts: Vec<&str> = rest.split('/').collect();
        let token = parts.pop().unwrap_or_default();
        let inside = token.strip_prefix("{token").and_then(|t| t.strip_suffix('}'));
        let least = match inside.ok_or_else(|| wrong("its last part must be `{token}`"))? {
            "" => DEFAULT_MIN_TOKEN_LEN,
            n => {
                let n: usize = n.strip_prefix(':').and_then(|n| n.parse().ok()).unwrap_or(0);
                if !(MIN_TOKEN_LEN..=MAX_TOKEN_LEN).contains(&n) {
                    return Err(wrong("`{token:N}` is a token of at least N characters, 4 to 200"));
                }
                n
            }
        };
        let mut before = Vec::new();
        for part in parts {
            match part {
                "{any}" => before.push(None),
                _ if is_plain(part) && is_clear(part) => before.push(Some(part.to_string())),
                _ => {
                    return Err(wrong("parts before the token are letters, digits, `-`, `_`, `.` and `~`, or `{any}`"));
                }
            }
        }
        let api = api.map(|a| {
            let plain =
                a.starts_with('/') && a.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'%'));
            match a.split_once("{token}") {
                Some((before, after)) if plain && !after.contains('{') => Ok((before.to_string(), after.to_string())),
                _ => Err(wrong("what is asked instead is a path with one `{token}`, such as /api/link?id={token}")),
            }
        });
        Ok(Shape { before, slash, least, api: api.transpose()? })
    }
}

impl fmt::Display for NoLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoLink::Unclear => f.write_str("the path can be read in two ways"),
            NoLink::Shapeless => f.write_str("the path is of no known shape"),
            NoLink::Short(least) => {
                write!(f, "the token is shorter than {least} characters, so it can be guessed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMMICH: &str = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";

    fn asked(uri: &str) -> Result<String, NoLink> {
        find(&built_in(), uri).map(|l| l.path())
    }

    #[test]
    fn links_of_services_have_a_shape_and_only_the_token_is_asked_for() {
        assert_eq!(built_in().len(), BUILT_IN.len());
        let immich = format!("/share/{IMMICH}");
        for (uri, path) in [
            (immich.as_str(), immich.as_str()),
            (&format!("{immich}?x=1"), &immich),
            (&format!("{immich}/photos/4b7c"), &immich),
            ("/s/aBcDeFgHiJkLmNo", "/s/aBcDeFgHiJkLmNo"),
            ("/s/summer-in-rome", "/s/summer-in-rome"),
            ("/index.php/s/aBcDeFgHiJkLmNo/download?path=%2F", "/index.php/s/aBcDeFgHiJkLmNo"),
            ("/nextcloud/s/aBcDeFgHiJkLmNo", "/nextcloud/s/aBcDeFgHiJkLmNo"),
            ("/nextcloud/index.php/s/aBcDeFgHiJkLmNo/", "/nextcloud/index.php/s/aBcDeFgHiJkLmNo"),
            ("/f/12bb311a30d24e0aa1cd", "/f/12bb311a30d24e0aa1cd/"),
            ("/d/12bb311a30d24e0aa1cd/?p=%2Fa", "/d/12bb311a30d24e0aa1cd/"),
            ("/u/d/12bb311a30d24e0aa1cd/", "/u/d/12bb311a30d24e0aa1cd/"),
            ("/d/s/wQ3hXk9bT2pL7vZr/abcDEF123", "/d/s/wQ3hXk9bT2pL7vZr"),
            ("/sharing/aB3dE5gH7", "/sharing/aB3dE5gH7"),
            ("/photo/mo/sharing/aB3dE5gH7", "/photo/mo/sharing/aB3dE5gH7"),
            // Of no known shape, but random.
            ("/gallery/k3J9xQ2mP7aL4z", "/gallery/k3J9xQ2mP7aL4z"),
            (
                "/public/album/7f9c1b2e-4d3a-4b8c-9e6f-0a1b2c3d4e5f/",
                "/public/album/7f9c1b2e-4d3a-4b8c-9e6f-0a1b2c3d4e5f/",
            ),
            ("/p/12bb311a30d24e0aa1cd", "/p/12bb311a30d24e0aa1cd"),
        ] {
            assert_eq!(asked(uri).as_deref(), Ok(path), "{uri}");
        }
    }

    #[test]
    fn other_paths_have_none() {
        for bad in [
            "",
            "/",
            "/share/",
            "/login",
            "/gallery/PrivacyPolicy",
            "/gallery/AboutUsAndOurTeam",
            "/release-notes-2024-12",
            "/gallery/summer-holidays-in-rome",
            "/admin/users",
            "/a/b/c/d/k3J9xQ2mP7aL4z",
            "/static/app.k3J9xQ2mP7aL4z.js",
            "/s/aaaaaaa,aaaaaaaa",
        ] {
            assert!(matches!(asked(bad), Err(NoLink::Shapeless | NoLink::Unclear)), "{bad}: {:?}", asked(bad));
        }
        for bad in [
            "/share/../api/users",
            "http://evil/share/aaaaaaaaaaaa",
            "/share/%41aaaaaaaaaa%2f",
            "//share/aaaaaaaaaaaa",
            "/share//aaaaaaaaaaaa",
            "/share/./aaaaaaaaaaaa",
            &format!("/share/{IMMICH}/../../api"),
            &format!("/share/{IMMICH}/%2e%2E/x"),
            &format!("/share/{IMMICH}/a%5c..%5cb"),
            &format!("/share/{IMMICH}/a%252f"),
            &format!("/share/{IMMICH};a=b"),
            &format!("/share/{IMMICH}/x\\y"),
        ] {
            assert_eq!(asked(bad), Err(NoLink::Unclear), "{bad}");
        }
        assert_eq!(asked("/s/paris"), Err(NoLink::Short(8)));
    }

    #[test]
    fn people_add_shapes() {
        let shapes: Vec<Shape> =
            ["/s/{token:4}=/api/l?s={token}&x=1", "/a/{any}/{token}"].iter().map(|s| s.parse().unwrap()).collect();
        let link = find(&shapes, "/s/paris").unwrap();
        assert_eq!((link.path().as_str(), link.api().as_deref()), ("/s/paris", Some("/api/l?s=paris&x=1")));
        assert_eq!(find(&shapes, "/a/b/somewhere").unwrap().path(), "/a/b/somewhere");
        for bad in [
            "gallery/{token}",
            "/gallery",
            "/gallery/x{token}",
            "/{token}/x",
            "/gallery/{token:3}",
            "/gallery/{token:many}",
            "/gallery//{token}",
            "/../{token}",
            "/a%2f/{token}",
            "/s/{token}=http://elsewhere/{token}",
            "/s/{token}=/api",
            "/s/{token}=/api/{token}/{token}",
            "/s/{token}=/api/{token} x",
        ] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_canary_is_of_the_same_shape_and_another_each_time() {
        let link = find(&built_in(), "/f/12bb311a30d24e0aa1cd").unwrap();
        let (a, b) = (link.canary(|r| r.fill(3)), link.canary(|r| r.fill(4)));
        assert!(a.token != b.token && a.token != link.token && a.token.len() == link.token.len());
        assert_eq!(find(&built_in(), &a.path()).unwrap(), a);
    }

    #[test]
    fn a_redirect_to_the_same_links_password_page_and_no_other() {
        let link = find(&built_in(), "/nextcloud/s/aBcDeFgHiJkLmNo").unwrap();
        for yes in [
            "/nextcloud/index.php/s/aBcDeFgHiJkLmNo/authenticate/showShare",
            "https://cloud.example.com/s/aBcDeFgHiJkLmNo/authenticate/showShare?x=1",
            "/s/aBcDeFgHiJkLmNo/authenticate",
        ] {
            assert!(link.asks_password(yes), "{yes}");
        }
        for no in [
            "/login?redirect_url=/s/aBcDeFgHiJkLmNo/authenticate/showShare",
            "/s/bBcDeFgHiJkLmNo/authenticate/showShare",
            "/aBcDeFgHiJkLmNo/authenticate/showShare",
            "https://aBcDeFgHiJkLmNo/authenticate",
            "https://s/aBcDeFgHiJkLmNo",
            "",
        ] {
            assert!(!link.asks_password(no), "{no}");
        }
    }

    #[test]
    fn what_is_said_of_a_path_holds_no_token() {
        assert_eq!(masked("/gallery/k3J9xQ2mP7aL4z?key=secret"), "/gallery/…");
        assert_eq!(masked("/s/PARIS/x"), "/s/…/…");
        assert_eq!((masked("/s/paris"), masked("/login")), ("/s/…".to_string(), "/login".to_string()));
        assert_eq!(masked("/a\n\u{1b}[2J/b"), "/…/…");
        assert!(masked(&"/a".repeat(500)).len() <= 60);
    }
}
