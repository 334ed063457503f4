//! Grants and bans as JSON: in the store, on the admin socket and in `--json`. Reading them back checks every field.
//! Fields that a later version adds are ignored, and those that a later version added may be missing.

use crate::{Ban, BanId, Claim, Evidence, Grant, GrantId, Whom};
use addr::Prefix;
use serde::{Deserialize, Serialize};

/// The JSON form of a [`Grant`]: its strongest reason among its own fields, the others under `beside`. The audit log
/// checks its lines by writing them again: fields keep their order, and new ones are optional and come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its number.
    pub id: u64,
    /// The list it is on.
    pub list: String,
    /// From where, as a CIDR or one address.
    pub prefix: String,
    /// Who stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What proved it.
    pub evidence: String,
    /// First proof, seconds since the Unix epoch.
    pub given_at: u64,
    /// Latest proof or sign of life, seconds since the Unix epoch.
    pub seen_at: u64,
    /// Seconds without a sign of life after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// When it ends in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Break-glass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Latest proof; absent: when it was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<u64>,
    /// Where its device showed up later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<String>,
    /// At how many places at a time its device has been seen; absent: at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u8>,
    /// The other reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<ClaimRecord>,
}

/// The JSON form of a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// Who stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What proved it.
    pub evidence: String,
    /// Latest proof, seconds since the Unix epoch; absent: when the grant was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<u64>,
    /// Seconds without a sign of life after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// When it ends in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Break-glass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where its device showed up later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<String>,
    /// At how many places at a time its device has been seen; absent: at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u8>,
}

/// The JSON form of a [`Ban`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRecord {
    /// Its number.
    pub id: u64,
    /// The list.
    pub list: String,
    /// From where, as a CIDR or one address; or `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Who; or `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What version 0.1 called the person behind entries of an earlier gate's file, which it kept as a person's word.
const TAKEN_OVER: &str = "taken over from the earlier file";

impl From<&Claim> for ClaimRecord {
    fn from(c: &Claim) -> ClaimRecord {
        ClaimRecord {
            principal: c.principal.clone(),
            device: c.device.clone(),
            evidence: c.evidence.word().to_string(),
            proved_at: Some(c.proved_at),
            idle: c.idle,
            until: c.until,
            pinned: c.pinned,
            superseded: c.superseded.map(|p| p.to_string()),
            places: (c.places > 1).then_some(c.places),
        }
    }
}

impl From<&Grant> for GrantRecord {
    fn from(g: &Grant) -> GrantRecord {
        let c = ClaimRecord::from(&g.claim);
        GrantRecord {
            id: g.id.0,
            list: g.list.clone(),
            prefix: g.prefix.to_string(),
            principal: c.principal,
            device: c.device,
            evidence: c.evidence,
            given_at: g.given_at,
            seen_at: g.seen_at,
            idle: c.idle,
            until: c.until,
            pinned: c.pinned,
            proved_at: c.proved_at,
            superseded: c.superseded,
            places: c.places,
            beside: g.beside.iter().map(ClaimRecord::from).collect(),
        }
    }
}

impl From<&Ban> for BanRecord {
    fn from(b: &Ban) -> BanRecord {
        let (prefix, name) = match &b.whom {
            Whom::From(p) => (Some(p.to_string()), None),
            Whom::Named(n) => (None, Some(n.clone())),
        };
        BanRecord { id: b.id.0, list: b.list.clone(), prefix, name, since: b.since, until: b.until }
    }
}

impl ClaimRecord {
    fn claim(self, seen_at: u64) -> Result<Claim, String> {
        let mut evidence: Evidence = self.evidence.parse().map_err(|e: crate::EvidenceError| e.to_string())?;
        if evidence == Evidence::Manual && !self.pinned && self.principal.as_deref() == Some(TAKEN_OVER) {
            evidence = Evidence::Earlier;
        }
        Ok(Claim {
            evidence,
            principal: self.principal,
            device: self.device,
            proved_at: self.proved_at.unwrap_or(seen_at),
            idle: self.idle,
            until: self.until,
            pinned: self.pinned,
            superseded: self.superseded.as_deref().map(prefix).transpose()?,
            places: self.places.unwrap_or(1).max(1),
        })
    }
}

impl TryFrom<GrantRecord> for Grant {
    type Error = String;

    fn try_from(r: GrantRecord) -> Result<Grant, String> {
        let claim = ClaimRecord {
            principal: r.principal,
            device: r.device,
            evidence: r.evidence,
            proved_at: r.proved_at,
            idle: r.idle,
            until: r.until,
            pinned: r.pinned,
            superseded: r.superseded,
            places: r.places,
        }
        .claim(r.seen_at)?;
        let beside: Vec<Claim> = r.beside.into_iter().map(|c| c.claim(r.seen_at)).collect::<Result<_, _>>()?;
        let bare = Grant {
            id: GrantId(r.id),
            list: r.list,
            prefix: prefix(&r.prefix)?,
            given_at: r.given_at,
            seen_at: r.seen_at,
            claim: claim.clone(),
            beside: Vec::new(),
        };
        Ok(bare.with_claims(std::iter::once(claim).chain(beside).collect()).unwrap_or(bare))
    }
}

impl TryFrom<BanRecord> for Ban {
    type Error = String;

    fn try_from(r: BanRecord) -> Result<Ban, String> {
        let whom = match (r.prefix, r.name) {
            (Some(p), None) => Whom::From(prefix(&p)?),
            (None, Some(n)) => Whom::Named(n),
            _ => return Err("a ban is of a `prefix` or of a `name`".to_string()),
        };
        Ok(Ban { id: BanId(r.id), list: r.list, whom, since: r.since, until: r.until })
    }
}

fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|e: addr::PrefixError| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strength;

    fn read(text: &str) -> Grant {
        serde_json::from_str::<GrantRecord>(text).unwrap().try_into().unwrap()
    }

    /// As version 0.1 wrote them.
    #[test]
    fn records_of_the_version_before_open() {
        let g = read(
            r#"{"id":7,"list":"family","prefix":"203.0.113.7","principal":"CN=anna","device":"ab:cd","evidence":"mtls","given_at":100,"seen_at":200,"idle":50,"until":900}"#,
        );
        assert_eq!((g.id, g.prefix.to_string().as_str(), g.given_at, g.seen_at), (GrantId(7), "203.0.113.7", 100, 200));
        assert_eq!((g.claim.evidence, g.claim.principal.as_deref()), (Evidence::Mtls, Some("CN=anna")));
        assert_eq!((g.claim.proved_at, g.claim.places, g.ends_at()), (200, 1, Some(250)));
        let g = read(
            r#"{"id":8,"list":"family","prefix":"2001:db8::/64","evidence":"manual","given_at":1,"seen_at":1,"pinned":true}"#,
        );
        assert_eq!((g.strength(), g.ends_at()), (Strength::Pinned, None));
        // What an earlier gate had learned outranks no proof.
        let g = read(
            r#"{"id":9,"list":"family","prefix":"203.0.113.9","principal":"taken over from the earlier file","evidence":"manual","given_at":1,"seen_at":1,"until":99}"#,
        );
        assert_eq!(g.claim.evidence, Evidence::Earlier);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut one = Claim::new(Evidence::Share, 5);
        one.until = Some(40);
        let mut two = Claim::new(Evidence::Mtls, 7);
        (two.principal, two.superseded, two.places) =
            (Some("CN=anna".into()), Some("198.51.100.0/24".parse().unwrap()), 3);
        let g = Grant {
            id: GrantId(3),
            list: "family".into(),
            prefix: "203.0.113.7".parse().unwrap(),
            given_at: 5,
            seen_at: 9,
            claim: two,
            beside: vec![one],
        };
        let text = serde_json::to_string(&GrantRecord::from(&g)).unwrap();
        assert_eq!(read(&text), g);
        for whom in [Whom::From("203.0.113.0/24".parse().unwrap()), Whom::Named("CN=anna".into())] {
            let b = Ban { id: BanId(4), list: "family".into(), whom, since: 3, until: Some(9) };
            let text = serde_json::to_string(&BanRecord::from(&b)).unwrap();
            assert_eq!(Ban::try_from(serde_json::from_str::<BanRecord>(&text).unwrap()).unwrap(), b);
        }
        assert!(Ban::try_from(serde_json::from_str::<BanRecord>(r#"{"id":1,"list":"x","since":1}"#).unwrap()).is_err());
    }
}
