//! The first words of a session, as JSON in `Hello`, `Welcome` and `Reject` frames. In: bytes of a peer. Out: values
//! within limits.

use serde::{Deserialize, Serialize};

/// The protocol's version; an edge refuses a client of another one with words that say which.
pub const VERSION: u32 = 1;

/// Most upstreams of one client: bounds what a session can make an edge keep.
pub const UPSTREAMS_MAX: usize = 256;

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
    pub ask: AskFor,
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
pub enum AskFor {
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

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// For people.
    pub reason: String,
    /// Trying again with the same settings cannot help.
    #[serde(rename = "final")]
    pub is_final: bool,
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
        let wildcard = |u: &Published| matches!(&u.ask, AskFor::Http { host, .. } if host.starts_with("*."));
        let asked = [any(|u| u.h2), any(|u| !u.rewrite.is_empty()), any(wildcard)];
        FEATURES.into_iter().zip(asked).filter_map(|(name, asked)| asked.then_some(name)).collect()
    }

    /// Reads a hello and holds it to its limits.
    ///
    /// # Errors
    /// Words for the client.
    pub fn parse(bytes: &[u8]) -> Result<Hello, String> {
        let hello: Hello = serde_json::from_slice(bytes).map_err(|e| format!("the hello is not understood: {e}"))?;
        if hello.version != VERSION {
            return Err(format!(
                "client {} speaks version {} of the protocol, this edge speaks {VERSION}: update the older one",
                hello.program, hello.version
            ));
        }
        if hello.upstreams.is_empty() || hello.upstreams.len() > UPSTREAMS_MAX {
            return Err(format!("{} upstreams, wanted 1 to {UPSTREAMS_MAX}", hello.upstreams.len()));
        }
        let long = |s: &str| s.len() > 512 || s.chars().any(char::is_control);
        let bad =
            |u: &Published| long(&u.name) || matches!(&u.ask, AskFor::Http { host, path } if long(host) || long(path));
        if long(&hello.host) || long(&hello.program) || hello.upstreams.iter().any(bad) {
            return Err("a name in the hello is longer than 512 bytes or has control characters".to_string());
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
