//! The map of the network that a node is told (tailcfg `MapRequest`, `MapResponse`). In: JSON of a client. Out: what it
//! says of itself, and the answers: a whole map first, differences after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use addr::{Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FilterRule;
use super::host::{Hostinfo, is_false, long, or_default, parsed, texts};
use crate::meshkey::{DiscoKey, MachineKey, NodeKey};

/// What a client says and asks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MapRequest {
    /// Capability version.
    pub version: u32,
    /// `zstd` or nothing.
    #[serde(deserialize_with = "or_default")]
    pub compress: String,
    /// True if it wants signs of life.
    #[serde(deserialize_with = "or_default")]
    pub keep_alive: bool,
    /// Its key.
    #[serde(deserialize_with = "or_default")]
    pub node_key: Option<NodeKey>,
    /// Its key for finding paths.
    #[serde(deserialize_with = "or_default")]
    pub disco_key: Option<DiscoKey>,
    /// True if it wants to hear of changes.
    #[serde(deserialize_with = "or_default")]
    pub stream: bool,
    /// Its host. Go takes names in any case; the Rust crate `tailscale` writes some in its own, here and in the host.
    #[serde(alias = "HostInfo", deserialize_with = "or_default")]
    pub hostinfo: Option<Hostinfo>,
    /// Where it can be reached.
    #[serde(deserialize_with = "parsed")]
    pub endpoints: Vec<SocketAddr>,
    /// True if it says nothing new of itself.
    #[serde(deserialize_with = "or_default")]
    pub read_only: bool,
    /// True if it wants no peers.
    #[serde(deserialize_with = "or_default")]
    pub omit_peers: bool,
}

/// A node as others, or it itself, see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// The same as text that never changes its form.
    #[serde(rename = "StableID")]
    pub stable_id: String,
    /// Full name with a dot at its end.
    pub name: String,
    /// Number of its user.
    pub user: u64,
    /// Its key.
    pub key: Option<NodeKey>,
    /// When the key ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Timestamp>,
    /// Its machine's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineKey>,
    /// Its key for finding paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// Its addresses.
    #[serde(serialize_with = "long")]
    pub addresses: Vec<Prefix>,
    /// What goes to it.
    #[serde(rename = "AllowedIPs", serialize_with = "long")]
    pub allowed_ips: Vec<Prefix>,
    /// Where it can be reached.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// Its relay in the old form, `127.3.3.40:REGION`.
    #[serde(rename = "DERP", skip_serializing_if = "String::is_empty")]
    pub derp: String,
    /// Its relay.
    #[serde(rename = "HomeDERP", skip_serializing_if = "is_zero")]
    pub home_derp: u32,
    /// Its host.
    pub hostinfo: Hostinfo,
    /// When it came.
    pub created: Timestamp,
    /// Capability version.
    #[serde(skip_serializing_if = "is_zero")]
    pub cap: u32,
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Routes it is the primary router of.
    #[serde(serialize_with = "long", skip_serializing_if = "Vec::is_empty")]
    pub primary_routes: Vec<Prefix>,
    /// When it was last heard of, if it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// True if it is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// True if it may take part.
    #[serde(skip_serializing_if = "is_false")]
    pub machine_authorized: bool,
    /// Capabilities and attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cap_map: BTreeMap<String, Value>,
    /// True if its key has ended.
    #[serde(skip_serializing_if = "is_false")]
    pub expired: bool,
}

/// A small change of a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerChange {
    /// Which.
    #[serde(rename = "NodeID")]
    pub node_id: u64,
    /// Its relay.
    #[serde(rename = "DERPRegion", skip_serializing_if = "is_zero")]
    pub derp_region: u32,
    /// Where it can be reached.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// Its key for finding paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// True if it is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// When it was last heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// One message of a map; what is absent has not changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MapResponse {
    /// A sign of life and nothing else.
    #[serde(skip_serializing_if = "is_false")]
    pub keep_alive: bool,
    /// Please answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_request: Option<PingRequest>,
    /// The node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// The relays.
    #[serde(rename = "DERPMap", skip_serializing_if = "Option::is_none")]
    pub derp_map: Option<Value>,
    /// All peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Node>>,
    /// New or changed peers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_changed: Vec<Node>,
    /// Peers that are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_removed: Vec<u64>,
    /// Small changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_changed_patch: Vec<PeerChange>,
    /// Names.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// The domain of the network.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// False: it need not list its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect_services: Option<bool>,
    /// Packet filter by name; `base` is the one there is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub packet_filters: BTreeMap<String, Vec<FilterRule>>,
    /// Users of the nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_profiles: Vec<UserProfile>,
    /// Who may log in by SSH.
    #[serde(rename = "SSHPolicy", skip_serializing_if = "Option::is_none")]
    pub ssh_policy: Option<Value>,
    /// What is wrong; an empty list is "nothing".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Vec<String>>,
    /// What time it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_time: Option<Timestamp>,
    /// How the client should behave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Debug>,
}

/// How the client should behave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Debug {
    /// True: no logs to the company that makes the clients.
    pub disable_log_tail: bool,
}

/// Please answer: a request to `url`, or an HTTP request in `payload` to be answered there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PingRequest {
    /// Where to; another one each time.
    #[serde(rename = "URL")]
    pub url: String,
    /// True: over the control connection.
    #[serde(rename = "URLIsNoise", skip_serializing_if = "is_false")]
    pub url_is_noise: bool,
    /// Nothing, or `c2n`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub types: String,
    /// An HTTP request, base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub payload: String,
}

/// A user for people to see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserProfile {
    /// Number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Name to log in with.
    pub login_name: String,
    /// Name to show.
    pub display_name: String,
}

/// Names and who knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Asked for everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<Resolver>,
    /// Asked for a domain and what is below it; none: the node knows them itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, Vec<Resolver>>,
    /// Asked where routes are and nobody is asked for everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_resolvers: Vec<Resolver>,
    /// Search domains; the first is the network's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// True: names of nodes are answered by the node itself.
    #[serde(skip_serializing_if = "is_false")]
    pub proxied: bool,
    /// Single names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_records: Vec<DnsRecord>,
}

/// Who to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resolver {
    /// An address, or the URL of DNS over HTTP at a node.
    pub addr: String,
}

/// A name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsRecord {
    /// Full name.
    pub name: String,
    /// `A` or `AAAA`; nothing: by the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    /// The address.
    pub value: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
