//! Registration of a node, as the control protocol writes it (tailcfg `RegisterRequest`, `RegisterResponse`). In: JSON
//! of a client that has proved its machine key. Out: the fields a server acts on, and the answer.

use serde::{Deserialize, Serialize};

use addr::Timestamp;

use super::host::{Hostinfo, or_default};
use crate::meshkey::NodeKey;

/// What a client asks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterRequest {
    /// Capability version.
    pub version: u32,
    /// The key it will use.
    #[serde(deserialize_with = "or_default")]
    pub node_key: Option<NodeKey>,
    /// The key it used before.
    #[serde(deserialize_with = "or_default")]
    pub old_node_key: Option<NodeKey>,
    /// A key given out by an administrator.
    #[serde(deserialize_with = "or_default")]
    pub auth: Option<RegisterAuth>,
    /// In the past: it logs out.
    #[serde(deserialize_with = "or_default")]
    pub expiry: Option<Timestamp>,
    /// The page it was sent to before; it waits until that is done.
    #[serde(deserialize_with = "or_default")]
    pub followup: String,
    /// Its host.
    #[serde(deserialize_with = "or_default")]
    pub hostinfo: Hostinfo,
    /// True if it should be forgotten when it goes.
    #[serde(deserialize_with = "or_default")]
    pub ephemeral: bool,
}

/// Proof that comes along.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterAuth {
    /// The secret of a key.
    #[serde(deserialize_with = "or_default")]
    pub auth_key: String,
}

impl std::fmt::Debug for RegisterAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegisterAuth(…)")
    }
}

impl RegisterRequest {
    /// The key it brings, if it is not empty.
    #[must_use]
    pub fn auth_key(&self) -> Option<&str> {
        self.auth.as_ref().map(|a| a.auth_key.trim()).filter(|k| !k.is_empty())
    }

    /// True if it asks to be logged out: a time that is set and has passed.
    #[must_use]
    pub fn logs_out(&self, now: u64) -> bool {
        self.expiry.is_some_and(|e| e.0 > 0 && e.0 < now)
    }
}

/// What a server answers.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterResponse {
    /// Who it belongs to.
    pub user: User,
    /// The same as a login.
    pub login: Login,
    /// True if the key it sent cannot be used any more.
    pub node_key_expired: bool,
    /// True if it may ask for its map.
    pub machine_authorized: bool,
    /// Where a person has to go first.
    #[serde(rename = "AuthURL")]
    pub auth_url: String,
    /// Why not; shown to the person. Said even when it is empty: not every client takes it for empty when it is missing.
    pub error: String,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Name to show.
    #[serde(rename = "DisplayName")]
    pub display_name: String,
}

/// A user's login.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Who vouches for it.
    #[serde(rename = "Provider")]
    pub provider: String,
    /// Name to log in with.
    #[serde(rename = "LoginName")]
    pub login_name: String,
    /// Name to show.
    #[serde(rename = "DisplayName")]
    pub display_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_logs_out_by_a_time_long_ago_and_not_by_none() {
        let read = |text: &str| serde_json::from_str::<RegisterRequest>(text).unwrap();
        assert!(read(r#"{"Expiry":"1970-01-01T00:02:03Z"}"#).logs_out(1_790_000_000));
        assert!(!read(r#"{"Expiry":"0001-01-01T00:00:00Z"}"#).logs_out(1_790_000_000));
        assert!(!read(r#"{"Expiry":null,"Auth":null,"Hostinfo":null}"#).logs_out(1_790_000_000));
        assert_eq!(read(r#"{"Auth":{"AuthKey":" k "}}"#).auth_key(), Some("k"));
        assert_eq!(format!("{:?}", read(r#"{"Auth":{"AuthKey":"secret"}}"#).auth.unwrap()), "RegisterAuth(…)");
    }

    #[test]
    fn names_of_another_client_and_fields_it_wants() {
        // As the Rust crate `tailscale` 0.6 writes them, and what its login needs to find.
        let map = r#"{"HostInfo":{"Os":"linux","IpnVersion":"0.6.1","NetInfo":{"PreferredDerp":900}}}"#;
        let host = serde_json::from_str::<crate::tailcfg::map::MapRequest>(map).unwrap().hostinfo.unwrap();
        assert_eq!((host.os.as_str(), host.ipn_version.as_str()), ("linux", "0.6.1"));
        assert_eq!(host.net_info.unwrap().preferred_derp, 900);
        let answer = serde_json::to_value(RegisterResponse::default()).unwrap();
        for field in ["User", "Login", "NodeKeyExpired", "MachineAuthorized", "AuthURL", "Error"] {
            assert!(answer.get(field).is_some(), "{field}");
        }
    }
}
