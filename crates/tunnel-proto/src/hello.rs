//! The first words of a session, as JSON in `Hello`, `Welcome` and `Reject` frames. In: bytes of a peer. Out: values
//! within limits.

use serde::{Deserialize, Serialize};

/// The protocol's version; an edge refuses a client of another one with words that say which.
pub const VERSION: u32 = 1;

/// Most upstreams of one client: bounds what a session can make an edge keep.
pub const UPSTREAMS_MAX: usize = 256;

/// Characters of a client's version that a refusal repeats: a release has ten.
const PROGRAM_SHOWN: usize = 64;

/// What a client publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// The client's program version, for people.
    pub program: String,
    /// The client's host name, for people.
    pub host: String,
    /// What it publishes; the position is the index that `Open` names.
    pub upstreams: Vec<Published>,
    /// One bulk link for each visitor.
    #[serde(default)]
    pub demux: bool,
}

/// One published upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// What visitors ask for.
    pub ask: RouteKey,
    /// What a person calls it: `http://127.0.0.1:3000`.
    pub name: String,
    /// HTTP/2 is spoken on its streams, as for gRPC; otherwise HTTP/1.1.
    #[serde(default, skip_serializing_if = "is_false")]
    pub h2: bool,
    /// The client asks the upstream by ALPN whether it speaks the version that a stream begins with, and ends the stream
    /// if not: either may be spoken.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alpn: bool,
    /// What is changed in heads on their way to it and back.
    #[serde(default, skip_serializing_if = "Rewrite::is_empty")]
    pub rewrite: Rewrite,
}

/// What an edge changes in the heads of requests to an upstream, and of its answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// Sent as `Host`, with a port if there is one; empty: what the visitor asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Set in requests; what the visitor sent under these names goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_set: Vec<SetField>,
    /// Removed from requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_remove: Vec<String>,
    /// Set in answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_set: Vec<SetField>,
    /// Removed from answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_remove: Vec<String>,
}

/// A header field with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetField {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What this program's edges can do beyond the first version, by name: older edges would pass over it in silence.
pub const FEATURES: [&str; 3] = ["h2", "rewrite", "wildcard"];

/// What visitors ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKey {
    /// HTTP requests.
    Http {
        /// Host in lower case without port; `*.example.com` for all below; empty for any.
        host: String,
        /// Path prefix; empty for any.
        path: String,
    },
    /// Connections to this port of the edge.
    Port(u16),
}

/// The edge's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The edge's program version, for people.
    pub program: String,
    /// Bulk links to dial ahead of need.
    pub bulk: u32,
    /// Where the upstreams are reached now, for the client to print: `:2222 → 192.168.0.10:22`.
    pub published: Vec<String>,
    /// What the client's people should know: names that it shares with another client.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the edge can do: [`FEATURES`]; none of them from an edge that is older than the word.
    #[serde(default)]
    pub features: Vec<String>,
}

/// Why an edge refuses a client, for programs. In a `Reject` frame it is the field `code`, in an HTTP answer the header
/// [`REJECT_HEADER`]; both have words for people beside it. Edges that are older than this say neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum RejectCode {
    /// No code that this program knows: an older or a newer edge.
    #[default]
    Unknown,
    /// What came is no request of a client, or its hello is not understood.
    BadRequest,
    /// Another version of the protocol.
    WrongVersion,
    /// The client's address is on no list that lets it in.
    AddressRefused,
    /// The token is wrong or missing.
    TokenRefused,
    /// Too many wrong tokens came from the client's network.
    TooManyGuesses,
    /// The link is of a session that the edge does not have (any more).
    NoSuchSession,
    /// The edge stops.
    ShuttingDown,
    /// A websocket was wanted; something in between took the upgrade out.
    UpgradeRequired,
    /// This edge has no plane for what is to be published.
    NotOffered,
    /// The token, or the edge for all tokens, does not allow what is to be published.
    NotAllowed,
    /// The name or the port belongs to clients of another token.
    Taken,
    /// The edge cannot listen on the port.
    CannotListen,
}

/// The header in which HTTP answers of an edge carry a [`RejectCode`].
pub const REJECT_HEADER: &str = "X-Portcullis-Reject";

impl RejectCode {
    /// All that mean something.
    pub const ALL: [RejectCode; 12] = [
        RejectCode::BadRequest,
        RejectCode::WrongVersion,
        RejectCode::AddressRefused,
        RejectCode::TokenRefused,
        RejectCode::TooManyGuesses,
        RejectCode::NoSuchSession,
        RejectCode::ShuttingDown,
        RejectCode::UpgradeRequired,
        RejectCode::NotOffered,
        RejectCode::NotAllowed,
        RejectCode::Taken,
        RejectCode::CannotListen,
    ];

    /// As it is written: `no-such-session`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RejectCode::Unknown => "unknown",
            RejectCode::BadRequest => "bad-request",
            RejectCode::WrongVersion => "wrong-version",
            RejectCode::AddressRefused => "address-refused",
            RejectCode::TokenRefused => "token-refused",
            RejectCode::TooManyGuesses => "too-many-guesses",
            RejectCode::NoSuchSession => "no-such-session",
            RejectCode::ShuttingDown => "shutting-down",
            RejectCode::UpgradeRequired => "upgrade-required",
            RejectCode::NotOffered => "not-offered",
            RejectCode::NotAllowed => "not-allowed",
            RejectCode::Taken => "taken",
            RejectCode::CannotListen => "cannot-listen",
        }
    }

    /// Reads a header's value.
    #[must_use]
    pub fn of(text: &str) -> RejectCode {
        RejectCode::ALL.into_iter().find(|code| code.as_str() == text.trim()).unwrap_or_default()
    }

    fn is_unknown(&self) -> bool {
        *self == RejectCode::Unknown
    }
}

impl From<String> for RejectCode {
    fn from(text: String) -> RejectCode {
        RejectCode::of(&text)
    }
}

impl Serialize for RejectCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl std::fmt::Display for RejectCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// For programs.
    #[serde(default, skip_serializing_if = "RejectCode::is_unknown")]
    pub code: RejectCode,
    /// For people.
    pub reason: String,
    /// Trying again with the same settings cannot help.
    #[serde(rename = "final")]
    pub is_final: bool,
}

impl Reject {
    /// A refusal for as long as the settings of both sides are what they are.
    #[must_use]
    pub fn for_good(code: RejectCode, reason: impl Into<String>) -> Reject {
        Reject { code, reason: reason.into(), is_final: true }
    }

    /// A refusal that the next attempt may not meet.
    #[must_use]
    pub fn for_now(code: RejectCode, reason: impl Into<String>) -> Reject {
        Reject { code, reason: reason.into(), is_final: false }
    }
}

impl Rewrite {
    /// True if nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Rewrite::default()
    }
}

fn is_false(b: &bool) -> bool {
    !*b
}

impl Hello {
    /// The features of [`FEATURES`] without which an edge would not do what is asked here.
    #[must_use]
    pub fn needs(&self) -> Vec<&'static str> {
        let any = |has: fn(&Published) -> bool| self.upstreams.iter().any(has);
        let wildcard = |u: &Published| matches!(&u.ask, RouteKey::Http { host, .. } if host.starts_with("*."));
        let asked = [any(|u| u.h2), any(|u| !u.rewrite.is_empty()), any(wildcard)];
        FEATURES.into_iter().zip(asked).filter_map(|(name, asked)| asked.then_some(name)).collect()
    }

    /// Reads a hello and holds it to its limits.
    ///
    /// # Errors
    /// What to answer the client.
    pub fn parse(bytes: &[u8]) -> Result<Hello, Reject> {
        let bad = |words: String| Reject::for_good(RejectCode::BadRequest, words);
        let hello: Hello =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("the hello is not understood: {e}")))?;
        if hello.version != VERSION {
            // Nothing else of it was looked at.
            let program: String = hello.program.chars().filter(|c| !c.is_control()).take(PROGRAM_SHOWN).collect();
            return Err(Reject::for_good(
                RejectCode::WrongVersion,
                format!(
                    "client {program} speaks version {} of the protocol, this edge speaks {VERSION}: update the older one",
                    hello.version
                ),
            ));
        }
        if hello.upstreams.is_empty() || hello.upstreams.len() > UPSTREAMS_MAX {
            return Err(bad(format!("{} upstreams, wanted 1 to {UPSTREAMS_MAX}", hello.upstreams.len())));
        }
        let long = |s: &str| s.len() > 512 || s.chars().any(char::is_control);
        let too_long = |u: &Published| {
            long(&u.name) || matches!(&u.ask, RouteKey::Http { host, path } if long(host) || long(path))
        };
        if long(&hello.host) || long(&hello.program) || hello.upstreams.iter().any(too_long) {
            return Err(bad("a name in the hello is longer than 512 bytes or has control characters".to_string()));
        }
        Ok(hello)
    }
}

/// Any of these messages as a payload.
#[must_use]
pub fn bytes(message: &impl Serialize) -> Vec<u8> {
    // These types hold strings and numbers only: there is nothing in them that JSON cannot say.
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_the_same_in_a_frame_and_in_a_header() {
        for code in RejectCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<RejectCode>(&format!("\"{code}\"")).unwrap(), code);
            assert_eq!(RejectCode::of(code.as_str()), code);
        }
        assert_eq!(RejectCode::of("of-a-newer-edge"), RejectCode::Unknown);
    }

    #[test]
    fn older_and_newer_peers_are_understood() {
        let old: Reject = serde_json::from_str(r#"{"reason":"no","final":true}"#).unwrap();
        assert_eq!(old, Reject::for_good(RejectCode::Unknown, "no"));
        let newer: Reject = serde_json::from_str(r#"{"code":"of-a-newer-edge","reason":"no","final":false}"#).unwrap();
        assert_eq!(newer, Reject::for_now(RejectCode::Unknown, "no"));
        // What an older client reads: the two fields that it knows, and one that it passes over.
        let now = serde_json::to_string(&Reject::for_now(RejectCode::Taken, "a is not free")).unwrap();
        assert_eq!(now, r#"{"code":"taken","reason":"a is not free","final":false}"#);
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"reason":"no","final":true}"#);
    }

    #[test]
    fn a_hello_is_refused_with_a_code() {
        let code = |text: &str| Hello::parse(text.as_bytes()).unwrap_err().code;
        assert_eq!(code("{}"), RejectCode::BadRequest);
        let hello = r#"{"version":2,"program":"9","host":"h","upstreams":[]}"#;
        assert_eq!(code(hello), RejectCode::WrongVersion);
        assert_eq!(code(&hello.replace(":2", ":1")), RejectCode::BadRequest);
    }

    fn published(host: &str) -> Published {
        let ask = RouteKey::Http { host: host.into(), path: String::new() };
        Published { ask, name: "http://127.0.0.1:3000".into(), h2: false, alpn: false, rewrite: Rewrite::default() }
    }

    fn hello(upstreams: Vec<Published>) -> Hello {
        Hello { version: VERSION, program: "0.1.0".into(), host: "laptop".into(), upstreams, demux: false }
    }

    #[test]
    fn a_hello_has_limits() {
        let read = |h: &Hello| Hello::parse(&bytes(h));
        let most = hello(vec![published("a.example"); UPSTREAMS_MAX]);
        assert_eq!(read(&most).unwrap(), most);
        for n in [0, UPSTREAMS_MAX + 1] {
            let no = read(&hello(vec![published("a.example"); n])).unwrap_err();
            assert_eq!((no.reason, no.is_final), (format!("{n} upstreams, wanted 1 to {UPSTREAMS_MAX}"), true));
        }
        let long = "a".repeat(512);
        assert!(read(&hello(vec![published(&long)])).is_ok());
        let port = Published { ask: RouteKey::Port(22), name: "a\u{7}".into(), ..published("") };
        for bad in [
            Hello { host: format!("{long}a"), ..hello(vec![published("")]) },
            Hello { host: "a\nb".into(), ..hello(vec![published("")]) },
            Hello { program: "\u{1b}[2J".into(), ..hello(vec![published("")]) },
            hello(vec![published(&format!("{long}a"))]),
            hello(vec![Published { ask: RouteKey::Http { host: String::new(), path: "/\r".into() }, ..published("") }]),
            hello(vec![published("ok"), port]),
        ] {
            let no = read(&bad).unwrap_err();
            assert_eq!(no.code, RejectCode::BadRequest, "{bad:?}");
            assert_eq!(no.reason, "a name in the hello is longer than 512 bytes or has control characters");
        }
    }

    /// What a client says of itself stands in the edge's log and in its answer.
    #[test]
    fn a_refusal_repeats_little_of_what_was_not_checked() {
        let loud = Hello { version: 9, program: format!("1\n{}", "x".repeat(10_000)), ..hello(Vec::new()) };
        let no = Hello::parse(&bytes(&loud)).unwrap_err();
        assert_eq!(no.code, RejectCode::WrongVersion);
        assert!(
            no.reason.len() < 200 && !no.reason.contains('\n') && no.reason.starts_with("client 1xxx"),
            "{}",
            no.reason
        );
    }

    #[test]
    fn what_a_hello_asks_beyond_the_first_version_is_named() {
        assert_eq!(hello(vec![published("a.example"), published("")]).needs(), Vec::<&str>::new());
        let h2 = Published { h2: true, ..published("") };
        let rewrite = Rewrite { response_remove: vec!["Server".into()], ..Rewrite::default() };
        let all = hello(vec![published("*.example.com"), Published { rewrite, ..published("") }, h2]);
        assert_eq!(all.needs(), FEATURES);
        // One that asks for nothing new is written as the first version wrote it.
        let first = String::from_utf8(bytes(&hello(vec![published("a")]))).unwrap();
        assert!(!first.contains("h2") && !first.contains("alpn") && !first.contains("rewrite"), "{first}");
    }
}
