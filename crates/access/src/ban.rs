//! A ban: no proof of somebody counts, until then. In: what a person said. Out: a value that can be compared, stored and
//! printed.

use std::fmt;

use addr::Prefix;

/// A ban's number; never used twice in one store, nor by a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BanId(pub u64);

/// Whose proofs do not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whom {
    /// Whoever comes from there.
    From(Prefix),
    /// Who is called so, from wherever: a certificate subject.
    Named(String),
}

/// No proof counts for this list, of these, until then. What a person adds by hand and what a followed name says is no
/// proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Its number.
    pub id: BanId,
    /// The list.
    pub list: String,
    /// Whose proofs.
    pub whom: Whom,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
    /// When it ends, seconds since the Unix epoch; `None`: a person ends it.
    pub until: Option<u64>,
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::From(prefix) => prefix.fmt(f),
            Whom::Named(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_is_said_as_it_was_written() {
        assert_eq!(Whom::From("2001:DB8::/32".parse().unwrap()).to_string(), "2001:db8::/32");
        assert_eq!(Whom::From("192.0.2.1/32".parse().unwrap()).to_string(), "192.0.2.1");
        assert_eq!(Whom::Named("CN=mallory,O=x".into()).to_string(), "CN=mallory,O=x");
    }
}
