//! What a coordination server remembers, as JSON in its store and with `--json`. In: bytes of the store. Out: users,
//! keys, nodes, names. Fields that a later version adds are left alone; a missing required one is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use addr::{Addr, Prefix};
use serde::{Deserialize, Serialize};

use tailnet_proto::meshkey::{DiscoKey, MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::{Hostinfo, parsed, texts};
use tailnet_proto::tailcfg::map::DnsRecord;

/// A person, or a company's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Number, counting up from 1.
    pub id: u64,
    /// Short name.
    pub name: String,
    /// Address; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// What it may do in the policy's eyes: `owner`, `admin`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

impl User {
    /// The name that others see: its address, else its short name.
    #[must_use]
    pub fn login(&self) -> &str {
        if self.email.is_empty() { &self.name } else { &self.email }
    }
}

/// A key with which nodes join unasked. The secret itself is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreAuthKey {
    /// Number, counting up from 1.
    pub id: u64,
    /// Whose nodes these will be; `None` with tags alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u64>,
    /// SHA-256 of the secret, hex; empty while only another server's hash of it is known.
    pub hash: String,
    /// Another server's hash of the secret, until somebody has proved it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcrypt: Option<BcryptHash>,
    /// True if more than one node may use it.
    #[serde(default)]
    pub reusable: bool,
    /// True if its nodes are forgotten when they go.
    #[serde(default)]
    pub ephemeral: bool,
    /// Tags of its nodes, with `tag:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// When it ends, seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// How many nodes have used it.
    #[serde(default)]
    pub used: u64,
    /// True if it was taken back.
    #[serde(default)]
    pub revoked: bool,
}

/// How Headscale (0.28 and later) keeps a pre-auth key: `hskey-auth-PREFIX-SECRET`, of which the prefix is kept and the
/// secret hashed by bcrypt. Source: its `hscontrol/db/preauth_keys.go`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BcryptHash {
    /// The twelve characters before the secret.
    pub prefix: String,
    /// `$2a$…`, of the secret alone.
    pub hash: String,
}

/// Rounds of a hash that is computed for whoever brings a key, as a power of two: Headscale takes 10, and each more
/// doubles a twentieth of a second.
const MAX_BCRYPT_COST: u8 = 14;

impl BcryptHash {
    /// True if it is a hash that may be computed: `$2a$10$` and 53 characters, not more costly than is bearable.
    #[must_use]
    pub fn is_bearable(&self) -> bool {
        let mut parts = self.hash.split('$').skip(1);
        let known = parts.next().is_some_and(|v| ["2a", "2b", "2y"].contains(&v));
        let cost: Option<u8> = parts.next().and_then(|c| c.parse().ok());
        known && cost.is_some_and(|c| (4..=MAX_BCRYPT_COST).contains(&c)) && parts.next().is_some_and(|h| h.len() == 53)
    }

    /// Prefix and secret of such a key; nothing if it has another form.
    #[must_use]
    pub fn split(key: &str) -> Option<(&str, &str)> {
        let rest = key.strip_prefix("hskey-auth-")?;
        let (prefix, secret) = (rest.get(..12)?, rest.get(12..)?.strip_prefix('-')?);
        (secret.len() == 64).then_some((prefix, secret))
    }
}

/// A member of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Number, counting up from 1.
    pub id: u64,
    /// Its machine's key, proved in every handshake.
    pub machine: MachineKey,
    /// Its WireGuard key.
    pub key: NodeKey,
    /// Its key for finding paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disco: Option<DiscoKey>,
    /// Who it belongs to, or who brought it if it has tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u64>,
    /// Its tags, with `tag:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Its name here, unlike all others.
    pub name: String,
    /// True if a person gave it that name; else it follows its host's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// Its address.
    #[serde(with = "text")]
    pub ipv4: Addr,
    /// Its other address.
    #[serde(with = "text")]
    pub ipv6: Addr,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// When it was last connected, seconds since the Unix epoch.
    #[serde(default)]
    pub seen: u64,
    /// When its key ends, seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// True if it is forgotten when it goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// The key it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_key: Option<u64>,
    /// Capability version of its client.
    #[serde(default)]
    pub version: u32,
    /// Its host.
    #[serde(default)]
    pub host: Hostinfo,
    /// Where it can be reached.
    #[serde(default, serialize_with = "texts", deserialize_with = "parsed", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// Routes that an administrator approved.
    #[serde(default, serialize_with = "texts", deserialize_with = "parsed", skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<Prefix>,
    /// Routes that an administrator took back; nothing approves them but a person.
    #[serde(default, serialize_with = "texts", deserialize_with = "parsed", skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Prefix>,
    /// What it has learned as an app connector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learnt: Vec<LearnedRoute>,
    /// What its peers know it by (exit nodes are remembered so), if another server chose that; else it follows its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
}

impl Node {
    /// True once its key has ended.
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|e| e <= now)
    }

    /// The relay region it listens at; 0 for none.
    #[must_use]
    pub fn home_derp(&self) -> u32 {
        self.host.net_info.as_ref().map_or(0, |n| n.preferred_derp)
    }

    /// True if it has a tag; then it belongs to its tags and to no user.
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// True if its client learns for apps: what it is told to offer it offers.
    #[must_use]
    pub fn learns(&self) -> bool {
        self.host.app_connector == Some(true)
    }
}

/// An address that a connector has seen behind a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LearnedRoute {
    /// The name asked for.
    pub domain: String,
    /// The address.
    #[serde(with = "text")]
    pub addr: Addr,
    /// When it was first seen, seconds since the Unix epoch.
    pub since: u64,
    /// When the name last answered with it, seconds since the Unix epoch.
    pub seen: u64,
    /// True once the name has stopped answering with it, or the app has too many: no route goes there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// True if that is because the app has too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
    /// True if the server remembers it for the connector, which is told to offer it: the server saw it first, or the
    /// connector has forgotten it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// True while the connector has stopped to offer it without being asked to, and has not begun again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// Who knows names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// Asked for everything else; empty: whoever the node asks without us.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Asked for a domain and what is below it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<String, Vec<String>>,
    /// Domains tried after a name without dots, beside the network's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Names of our own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<DnsRecord>,
}

/// A value as its text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer, T: Display>(it: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(it)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
