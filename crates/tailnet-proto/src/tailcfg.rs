//! The JSON of the control protocol: hosts, registration, maps below; packet filters here. In: bytes of a peer. Out:
//! values that a server acts on, and rules whose texts `decide` turns into sets. Field names and forms are those of the protocol's `FilterRule`, `NetPortRange` and
//! `CapGrant` (tailcfg, the public client source).

pub mod host;
pub mod map;
pub mod register;
pub mod ssh;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One rule: whoever is among `src_ips` may do what `dst_ports` or `cap_grant` says. The two exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Sources: an address, a prefix, `first-last`, or `*`.
    #[serde(rename = "SrcIPs", default)]
    pub src_ips: Vec<String>,
    /// Destinations with their ports.
    #[serde(rename = "DstPorts", default, skip_serializing_if = "Vec::is_empty")]
    pub dst_ports: Vec<NetPortRange>,
    /// Protocol numbers; none means TCP, UDP and both ICMPs.
    #[serde(rename = "IPProto", default, skip_serializing_if = "Vec::is_empty")]
    pub ip_proto: Vec<u8>,
    /// Capabilities of the application layer.
    #[serde(rename = "CapGrant", default, skip_serializing_if = "Vec::is_empty")]
    pub cap_grant: Vec<CapGrant>,
}

/// A destination and its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPortRange {
    /// An address, a prefix, `first-last`, or `*`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// The ports.
    #[serde(rename = "Ports")]
    pub ports: PortRange,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Capabilities that sources have on destinations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CapGrant {
    /// Where they hold.
    #[serde(rename = "Dsts", default)]
    pub dsts: Vec<String>,
    /// Name to values; `null` where there is nothing more to say.
    #[serde(rename = "CapMap", default)]
    pub cap_map: BTreeMap<String, serde_json::Value>,
}
