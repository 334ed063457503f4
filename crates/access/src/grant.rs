//! A grant: somebody may come from there, until then, because of that. In: what the ledger decided. Out: a value that
//! can be compared, ordered and printed.

use std::fmt;
use std::str::FromStr;

use addr::Prefix;

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
    /// A tunnel of that address.
    Tunnel,
    /// A node of the mesh.
    Node,
    /// A host name that resolves to it.
    Dns,
    /// An earlier gate's file, taken over: what it learned is known, on what proof is not.
    Earlier,
    /// A person with the command line.
    Manual,
    /// Written in the configuration.
    Static,
}

/// How much evidence weighs when there is room for one only. Weaker evidence never takes the place of stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// Whoever has the link.
    Share,
    /// Whatever the name servers say.
    Dns,
    /// An earlier gate's word for it.
    Earlier,
    /// A password, a session.
    Login,
    /// A private key: a certificate, a tunnel, a node.
    Key,
    /// A person's word.
    Manual,
    /// A person's word that no limit removes.
    Pinned,
}

/// One reason for which a prefix is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What proved it.
    pub evidence: Evidence,
    /// Who stands behind it: a certificate subject, a share link's name, a person.
    pub principal: Option<String>,
    /// Which of the principal's devices: a certificate fingerprint.
    pub device: Option<String>,
    /// Latest proof, seconds since the Unix epoch.
    pub proved_at: u64,
    /// Seconds without a sign of life after which it ends; `None`: it does not end by silence.
    pub idle: Option<u64>,
    /// When it ends in any case, seconds since the Unix epoch; `None`: never.
    pub until: Option<u64>,
    /// Break-glass: no limit removes it, only a person does.
    pub pinned: bool,
    /// Where its device showed up later, because of which it ends early.
    pub superseded: Option<Prefix>,
    /// At how many places at a time its device has been seen: one certificate may be on several phones.
    pub places: u8,
}

/// Somebody may come from `prefix` to what `list` guards. A list guards the services of its grant sources and no others, so
/// the list is the scope. Each reason for it has an end of its own; the prefix is let in while one of them lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// The list it is on.
    pub list: String,
    /// From where.
    pub prefix: Prefix,
    /// First proof, seconds since the Unix epoch.
    pub given_at: u64,
    /// Latest proof or sign of life, seconds since the Unix epoch.
    pub seen_at: u64,
    /// The strongest reason.
    pub claim: Claim,
    /// The others, strongest first.
    pub beside: Vec<Claim>,
}

/// A word that is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceError(pub String);

impl Claim {
    /// A reason with nothing but its evidence, proved at `now` (seconds since the Unix epoch), without an end.
    #[must_use]
    pub fn new(evidence: Evidence, now: u64) -> Claim {
        Claim {
            evidence,
            principal: None,
            device: None,
            proved_at: now,
            idle: None,
            until: None,
            pinned: false,
            superseded: None,
            places: 1,
        }
    }

    /// What it weighs.
    #[must_use]
    pub fn strength(&self) -> Strength {
        if self.pinned { Strength::Pinned } else { self.evidence.strength() }
    }

    /// The first second at which it no longer holds, if nobody was seen after `seen_at`; `None`: it does not end by
    /// itself.
    #[must_use]
    pub fn ends_at(&self, seen_at: u64) -> Option<u64> {
        let silent = self.idle.map(|i| seen_at.saturating_add(i));
        match (silent, self.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// True for the same person with the same device on the same kind of evidence.
    #[must_use]
    pub fn is_same(&self, other: &Claim) -> bool {
        (self.evidence, &self.principal, &self.device) == (other.evidence, &other.principal, &other.device)
    }
}

impl Grant {
    /// Every reason, strongest first.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        std::iter::once(&self.claim).chain(&self.beside)
    }

    /// The same prefix with these reasons; `None` if there are none.
    #[must_use]
    pub fn with_claims(&self, mut claims: Vec<Claim>) -> Option<Grant> {
        // The one that people read first: the strongest, then one with a name; else they keep their order.
        claims.sort_by_key(|c| std::cmp::Reverse((c.strength(), c.principal.is_some())));
        let mut claims = claims.into_iter();
        let claim = claims.next()?;
        Some(Grant { list: self.list.clone(), claim, beside: claims.collect(), ..*self })
    }

    /// What its strongest reason weighs.
    #[must_use]
    pub fn strength(&self) -> Strength {
        self.claim.strength()
    }

    /// The first second at which no reason holds any more; `None`: it does not end by itself.
    #[must_use]
    pub fn ends_at(&self) -> Option<u64> {
        self.claims().map(|c| c.ends_at(self.seen_at)).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    /// The first second at which one of its reasons ends.
    #[must_use]
    pub fn changes_at(&self) -> Option<u64> {
        self.claims().filter_map(|c| c.ends_at(self.seen_at)).min()
    }
}

impl Evidence {
    const WORDS: [(Evidence, &'static str); 9] = [
        (Evidence::Mtls, "mtls"),
        (Evidence::Share, "share"),
        (Evidence::Login, "login"),
        (Evidence::Tunnel, "tunnel"),
        (Evidence::Node, "node"),
        (Evidence::Dns, "dns"),
        (Evidence::Earlier, "earlier"),
        (Evidence::Manual, "manual"),
        (Evidence::Static, "static"),
    ];

    /// What it weighs.
    #[must_use]
    pub fn strength(self) -> Strength {
        match self {
            Evidence::Share => Strength::Share,
            Evidence::Dns => Strength::Dns,
            Evidence::Earlier => Strength::Earlier,
            Evidence::Login => Strength::Login,
            Evidence::Mtls | Evidence::Tunnel | Evidence::Node => Strength::Key,
            Evidence::Manual => Strength::Manual,
            Evidence::Static => Strength::Pinned,
        }
    }

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
        write!(f, "`{}` is no evidence; the words are {}", self.0, Evidence::WORDS.map(|(_, word)| word).join(", "))
    }
}

impl std::error::Error for EvidenceError {}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim() -> impl Strategy<Value = Claim> {
        let evidence = prop::sample::select(Evidence::WORDS.map(|(e, _)| e).to_vec());
        let secs = || prop::option::of(0u64..1_000);
        let who = prop::option::of(prop::sample::select(vec!["anna".to_string(), "bert".to_string()]));
        (evidence, who, secs(), secs(), any::<bool>()).prop_map(|(evidence, principal, idle, until, pinned)| Claim {
            principal,
            idle,
            until,
            pinned,
            ..Claim::new(evidence, 0)
        })
    }

    fn grant(claims: Vec<Claim>, seen_at: u64) -> Option<Grant> {
        let prefix = "192.0.2.1".parse().unwrap();
        let claim = Claim::new(Evidence::Share, 0);
        let bare = Grant { id: GrantId(1), list: "l".into(), prefix, given_at: 0, seen_at, claim, beside: Vec::new() };
        bare.with_claims(claims)
    }

    proptest! {
        /// A grant lasts as long as its longest reason, and has something to do when the shortest ends.
        #[test]
        fn a_grant_lasts_as_long_as_one_of_its_reasons(claims in prop::collection::vec(claim(), 1..6), seen in 0u64..1_000, at in 0u64..3_000) {
            let holds = |c: &Claim| c.idle.is_none_or(|i| at < seen + i) && c.until.is_none_or(|u| at < u);
            let g = grant(claims.clone(), seen).unwrap();
            prop_assert_eq!(g.ends_at().is_none_or(|end| at < end), claims.iter().any(holds));
            prop_assert_eq!(g.changes_at().is_none_or(|end| at < end), claims.iter().all(holds));
        }

        /// The first reason is the strongest, and nothing is lost or made up by sorting.
        #[test]
        fn the_strongest_reason_stands_first(claims in prop::collection::vec(claim(), 0..6)) {
            prop_assert_eq!(grant(claims.clone(), 0).is_none(), claims.is_empty());
            let Some(g) = grant(claims.clone(), 0) else { return Ok(()) };
            let sorted: Vec<Claim> = g.claims().cloned().collect();
            prop_assert!(sorted.windows(2).all(|w| w[0].strength() >= w[1].strength()));
            prop_assert_eq!(Some(g.strength()), claims.iter().map(Claim::strength).max());
            let named = |c: &&Claim| c.strength() == g.strength() && c.principal.is_some();
            prop_assert_eq!(sorted[0].principal.is_some(), claims.iter().any(|c| named(&c)));
            let count = |all: &[Claim], c: &Claim| all.iter().filter(|o| *o == c).count();
            prop_assert!(sorted.len() == claims.len() && claims.iter().all(|c| count(&claims, c) == count(&sorted, c)));
        }
    }

    #[test]
    fn words_of_evidence_are_read_back() {
        for (evidence, word) in Evidence::WORDS {
            assert_eq!((evidence.to_string().as_str(), word.parse()), (word, Ok(evidence)));
        }
        for bad in ["", "MTLS", "mtls ", "knock", "certificate"] {
            assert_eq!(bad.parse::<Evidence>(), Err(EvidenceError(bad.to_string())));
        }
        // Whoever is told what there is can write any of it.
        let said = EvidenceError("x".into()).to_string();
        let (_, words) = said.rsplit_once("the words are ").unwrap();
        assert_eq!(words.split(", ").collect::<Vec<_>>(), Evidence::WORDS.map(|(_, word)| word));
    }

    #[test]
    fn a_key_weighs_more_than_a_password_and_a_person_more_than_both() {
        use Evidence::{Dns, Earlier, Login, Manual, Mtls, Node, Share, Static, Tunnel};
        let order = [Share, Dns, Earlier, Login, Mtls, Manual, Static].map(Evidence::strength);
        assert!(order.windows(2).all(|w| w[0] < w[1]), "{order:?}");
        assert!([Mtls, Tunnel, Node].iter().all(|e| e.strength() == Strength::Key));
        let pinned = Claim { pinned: true, ..Claim::new(Share, 0) };
        assert_eq!(pinned.strength(), Strength::Pinned);
    }

    #[test]
    fn the_same_reason_is_the_same_person_device_and_kind() {
        let anna =
            Claim { principal: Some("anna".into()), device: Some("phone".into()), ..Claim::new(Evidence::Mtls, 1) };
        assert!(anna.is_same(&Claim { proved_at: 9, until: Some(1), pinned: true, ..anna.clone() }));
        for other in [
            Claim { evidence: Evidence::Login, ..anna.clone() },
            Claim { principal: Some("bert".into()), ..anna.clone() },
            Claim { device: None, ..anna.clone() },
        ] {
            assert!(!anna.is_same(&other), "{other:?}");
        }
        assert_eq!(GrantId(17).to_string(), "g17");
    }

    #[test]
    fn an_end_beyond_all_time_is_no_overflow() {
        let c = Claim { idle: Some(u64::MAX), until: None, ..Claim::new(Evidence::Mtls, 5) };
        assert_eq!(c.ends_at(1_000), Some(u64::MAX));
    }
}
