//! A grant: somebody may come from there, until then, because of that. In: what the ledger decided. Out: a value that
//! can be compared, ordered and printed.

use std::fmt;
use std::str::FromStr;

use crate::prefix::Prefix;

/// A grant's number; never used twice in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u64);

/// What proved that somebody may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// A TLS handshake with a client certificate, seen by the proxy.
    Mtls,
    /// A live share link.
    Share,
    /// A login.
    Login,
    /// A knock.
    Knock,
    /// A tunnel of that address.
    Tunnel,
    /// A node of the mesh.
    Node,
    /// A host name that resolves to it.
    Dns,
    /// A person with the command line, or an earlier gate's file taken over.
    Manual,
    /// Written in the configuration.
    Static,
}

/// Somebody may come from `prefix` to what `list` guards. A list guards the services of its teacher and no others, so
/// the list is the scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// The list it is on.
    pub list: String,
    /// From where.
    pub prefix: Prefix,
    /// Who stands behind it: a certificate subject, a share link's name, a person.
    pub principal: Option<String>,
    /// Which of the principal's devices: a certificate fingerprint.
    pub device: Option<String>,
    /// What proved it.
    pub evidence: Evidence,
    /// First proof, seconds since the Unix epoch.
    pub given_at: u64,
    /// Latest proof, seconds since the Unix epoch.
    pub seen_at: u64,
    /// Seconds without proof after which it ends; `None`: it does not end by silence.
    pub idle: Option<u64>,
    /// When it ends in any case, seconds since the Unix epoch; `None`: never.
    pub until: Option<u64>,
    /// Break-glass: no limit removes it, only a person does.
    pub pinned: bool,
}

/// A word that is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceError(pub String);

impl Grant {
    /// The first second at which the grant is no longer valid; `None`: it does not end by itself.
    #[must_use]
    pub fn ends_at(&self) -> Option<u64> {
        let silent = self.idle.map(|i| self.seen_at.saturating_add(i));
        match (silent, self.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// True while it is valid at `now` (seconds since the Unix epoch).
    #[must_use]
    pub fn is_live(&self, now: u64) -> bool {
        self.ends_at().is_none_or(|end| now < end)
    }
}

impl Evidence {
    const WORDS: [(Evidence, &'static str); 9] = [
        (Evidence::Mtls, "mtls"),
        (Evidence::Share, "share"),
        (Evidence::Login, "login"),
        (Evidence::Knock, "knock"),
        (Evidence::Tunnel, "tunnel"),
        (Evidence::Node, "node"),
        (Evidence::Dns, "dns"),
        (Evidence::Manual, "manual"),
        (Evidence::Static, "static"),
    ];

    /// The word people read.
    #[must_use]
    pub fn word(self) -> &'static str {
        Evidence::WORDS.iter().find(|(e, _)| *e == self).map_or("", |(_, w)| w)
    }
}

impl FromStr for Evidence {
    type Err = EvidenceError;

    fn from_str(text: &str) -> Result<Evidence, EvidenceError> {
        let found = Evidence::WORDS.iter().find(|(_, w)| *w == text);
        found.map(|(e, _)| *e).ok_or_else(|| EvidenceError(text.to_string()))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no evidence; the words are mtls, share, login, knock, tunnel, node, dns, manual, static",
            self.0
        )
    }
}

impl std::error::Error for EvidenceError {}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}
