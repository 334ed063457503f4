//! Which token may publish what, pure. In: what clients ask for, their tokens and the rights of these. Out: yes, or why
//! not in words for the client.
//!
//! A name or a port belongs to the token that published it first, until all its clients have let go of it: nobody takes
//! over visitors of another token, not even those of a path or of a name below a wildcard. Whom the edge's file names a
//! path or a name for has it, whoever came first.

use tunnel_proto::hello::RouteKey;

use super::super::settings::{Rights, Site};

/// Something that is published, and by which token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owned<'a> {
    pub(super) ask: &'a RouteKey,
    pub(super) token: usize,
}

/// Whether a token's rights hold this.
///
/// # Errors
/// What the token may publish.
pub(super) fn may(rights: &Rights, name: &str, ask: &RouteKey) -> Result<(), String> {
    match ask {
        RouteKey::Port(port) => match &rights.ports {
            Some(ports) if !ports.contains(*port) => {
                Err(format!("the token `{name}` may open no port {port}; its ports are {ports}"))
            }
            _ => Ok(()),
        },
        RouteKey::Http { host, path } => match &rights.hosts {
            Some(sites) if !sites.iter().any(|s| s.holds(host, path)) => {
                let words: Vec<String> = sites.iter().map(ToString::to_string).collect();
                let words = if words.is_empty() { "none".to_string() } else { words.join(", ") };
                let asked = if host.is_empty() { "every host" } else { host };
                Err(format!("the token `{name}` may not publish {asked}{path}; its hosts are {words}"))
            }
            _ => Ok(()),
        },
    }
}

/// The first of what is published that belongs to another token, and keeps this one from being published.
pub(super) fn taken<'a>(
    ask: &RouteKey,
    token: usize,
    rights: &Rights,
    published: impl Iterator<Item = Owned<'a>>,
) -> Option<Owned<'a>> {
    published.filter(|other| other.token != token).find(|other| match (ask, other.ask) {
        (RouteKey::Port(mine), RouteKey::Port(theirs)) => mine == theirs,
        (RouteKey::Http { host, path }, RouteKey::Http { host: theirs, path: their_path }) => {
            if (host, path) == (theirs, their_path) {
                return true;
            }
            // Of a client for every host, a single host is left to whoever names it; a path is not.
            let site = Site { host: theirs.clone(), path: their_path.clone() };
            let inside = (!theirs.is_empty() || host.is_empty()) && site.holds(host, path);
            inside
                && !rights.hosts.iter().flatten().any(|s| s.is_narrower_than(theirs, their_path) && s.holds(host, path))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> RouteKey {
        let site: Site = text.parse().unwrap();
        RouteKey::Http { host: site.host, path: site.path }
    }

    fn rights(hosts: &[&str]) -> Rights {
        Rights { hosts: Some(hosts.iter().map(|h| h.parse().unwrap()).collect()), ports: Some("2222".parse().unwrap()) }
    }

    #[test]
    fn rights_hold_what_they_name_and_nothing_beside_it() {
        let r = rights(&["app.example.com", "*.dev.example.com", "www.example.com/blog"]);
        for good in
            ["app.example.com", "app.example.com/x", "a.dev.example.com", "*.dev.example.com", "www.example.com/blog/x"]
        {
            assert!(may(&r, "t", &http(good)).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "example.com",
            "xapp.example.com",
            "dev.example.com",
            "www.example.com",
            "www.example.com/blogs",
            "*.example.com",
        ] {
            assert!(may(&r, "t", &http(bad)).unwrap_err().contains("app.example.com"), "{bad}");
        }
        assert!(may(&r, "t", &RouteKey::Port(2222)).is_ok());
        assert!(may(&r, "t", &RouteKey::Port(2223)).unwrap_err().contains("2222"));
        assert!(may(&Rights::default(), "t", &http("*")).is_ok());
        assert!(may(&rights(&["*"]), "t", &http("x.example")).is_ok());
        assert!(may(&rights(&[]), "t", &http("x.example")).unwrap_err().contains("none"));
    }

    #[test]
    fn a_name_belongs_to_the_first_with_all_below_it() {
        let by = |ask: &RouteKey, theirs: &RouteKey, rights: &Rights| {
            taken(ask, 1, rights, [Owned { ask: theirs, token: 0 }].into_iter()).is_some()
        };
        let any = Rights::default();
        for (mine, theirs, wanted) in [
            ("a.example", "a.example", true),
            ("a.example/login", "a.example", true),
            ("a.example", "a.example/api", false),
            ("a.example/web", "a.example/api", false),
            ("b.example", "a.example", false),
            ("a.example", "*", false),
            ("*", "*", true),
            ("*/login", "*", true),
            ("*", "*/login", false),
            ("x.dev.example", "*.dev.example", true),
            ("*.dev.example", "x.dev.example", false),
        ] {
            assert_eq!(by(&http(mine), &http(theirs), &any), wanted, "{mine} after {theirs}");
        }
        assert!(by(&RouteKey::Port(22), &RouteKey::Port(22), &any));
        assert!(!by(&RouteKey::Port(22), &RouteKey::Port(23), &any));
        // Said in the edge's file: this path is for this token. The same path twice is not.
        let told = rights(&["a.example/login", "x.dev.example"]);
        assert!(!by(&http("a.example/login"), &http("a.example"), &told));
        assert!(!by(&http("x.dev.example"), &http("*.dev.example"), &told));
        assert!(by(&http("a.example/login"), &http("a.example/login"), &told));
        // One's own are shared.
        assert!(
            taken(&http("a.example"), 0, &any, [Owned { ask: &http("a.example"), token: 0 }].into_iter()).is_none()
        );
    }
}
