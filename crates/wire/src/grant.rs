//! A grant as JSON: in the store, on the admin socket and in `--json`. Reading it back checks every field.

use model::{Evidence, Grant, GrantId, Prefix};
use serde::{Deserialize, Serialize};

/// The JSON form of a [`Grant`]. Fields that a later version adds are ignored; a missing required one is an error.
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
    /// Latest proof, seconds since the Unix epoch.
    pub seen_at: u64,
    /// Seconds without proof after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// When it ends in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Break-glass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

impl From<&Grant> for GrantRecord {
    fn from(g: &Grant) -> GrantRecord {
        GrantRecord {
            id: g.id.0,
            list: g.list.clone(),
            prefix: g.prefix.to_string(),
            principal: g.principal.clone(),
            device: g.device.clone(),
            evidence: g.evidence.word().to_string(),
            given_at: g.given_at,
            seen_at: g.seen_at,
            idle: g.idle,
            until: g.until,
            pinned: g.pinned,
        }
    }
}

impl TryFrom<GrantRecord> for Grant {
    type Error = String;

    fn try_from(r: GrantRecord) -> Result<Grant, String> {
        let prefix: Prefix = r.prefix.parse().map_err(|e: model::PrefixError| e.to_string())?;
        let evidence: Evidence = r.evidence.parse().map_err(|e: model::EvidenceError| e.to_string())?;
        Ok(Grant {
            id: GrantId(r.id),
            list: r.list,
            prefix,
            principal: r.principal,
            device: r.device,
            evidence,
            given_at: r.given_at,
            seen_at: r.seen_at,
            idle: r.idle,
            until: r.until,
            pinned: r.pinned,
        })
    }
}
