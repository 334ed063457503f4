//! What a node says about its host, and how the control protocol writes times and absent values. In: JSON of official
//! clients (tailcfg `Hostinfo`). Out: the fields that a server acts on; the rest is left alone.

use std::fmt;
use std::str::FromStr;

use addr::Prefix;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The host of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Hostinfo {
    /// Version of the client.
    #[serde(
        rename = "IPNVersion",
        alias = "IpnVersion",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipn_version: String,
    /// Operating system.
    #[serde(rename = "OS", alias = "Os", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// Its version.
    #[serde(
        rename = "OSVersion",
        alias = "OsVersion",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Model of a phone.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub device_model: String,
    /// Name of the host.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// True if it lets nobody in.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub shields_up: bool,
    /// Prefixes it can route.
    #[serde(rename = "RoutableIPs", alias = "RoutableIps", deserialize_with = "prefixes", serialize_with = "long")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routable_ips: Vec<Prefix>,
    /// Tags it asks for, with `tag:`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub request_tags: Vec<String>,
    /// Ports of its own services, the PeerAPI among them.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Its place in the network.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub net_info: Option<NetInfo>,
    /// SSH host keys.
    #[serde(
        rename = "sshHostKeys",
        alias = "SshHostKeys",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ssh_host_keys: Vec<String>,
    /// True if it learns routes from names.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub app_connector: Option<bool>,
    /// True if it runs without a TUN device.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub userspace: Option<bool>,
    /// True if it may relay for others.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub peer_relay: bool,
}

/// A service of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// `tcp`, `udp`, `peerapi4`, `peerapi6`, `peerapi-dns-proxy`.
    pub proto: String,
    /// The port.
    pub port: u16,
    /// Words about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What a node found out about its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetInfo {
    /// The relay region it listens at; 0 for none.
    #[serde(rename = "PreferredDERP", alias = "PreferredDerp")]
    pub preferred_derp: u32,
    /// True if its address and port differ with whom it talks to.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// True if UDP works.
    #[serde(
        rename = "WorkingUDP",
        alias = "WorkingUdp",
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub working_udp: Option<bool>,
    /// True if IPv6 works.
    #[serde(
        rename = "WorkingIPv6",
        alias = "WorkingIpv6",
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub working_ipv6: Option<bool>,
}

impl Hostinfo {
    /// What others are told of it: enough to use its services, nothing of what it may be recognised by elsewhere.
    #[must_use]
    pub fn for_peers(&self) -> Hostinfo {
        Hostinfo {
            os: self.os.clone(),
            hostname: self.hostname.clone(),
            services: self.services.clone(),
            ssh_host_keys: self.ssh_host_keys.clone(),
            app_connector: self.app_connector,
            peer_relay: self.peer_relay,
            shields_up: self.shields_up,
            ..Hostinfo::default()
        }
    }

    /// The port of its PeerAPI for IPv4 or IPv6.
    #[must_use]
    pub fn peer_api(&self, v4: bool) -> Option<u16> {
        let name = if v4 { "peerapi4" } else { "peerapi6" };
        self.services.iter().find(|s| s.proto == name).map(|s| s.port).filter(|p| *p != 0)
    }
}

/// Go writes absent lists, maps and objects as `null`.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Values as their texts.
pub fn texts<S: Serializer, T: fmt::Display>(all: &[T], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(all.iter().map(ToString::to_string))
}

/// Values from their texts; `null` is none. One that is no value is an error.
pub fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(d: D) -> Result<Vec<T>, D::Error> {
    let all = Option::<Vec<String>>::deserialize(d)?.unwrap_or_default();
    all.iter().map(|t| t.parse().map_err(serde::de::Error::custom)).collect()
}

/// Prefixes with their length, single addresses too: official clients read no others.
pub(crate) fn long<S: Serializer>(all: &[Prefix], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(all.iter().map(|p| p.long()))
}

/// Prefixes as a client writes them; host bits are forgiven, other nonsense is not.
fn prefixes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Prefix>, D::Error> {
    let all = Option::<Vec<String>>::deserialize(d)?.unwrap_or_default();
    all.iter().map(|t| Prefix::parse_lenient(t).map(|(p, _)| p).map_err(serde::de::Error::custom)).collect()
}

pub(crate) fn is_false(b: &bool) -> bool {
    !b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_same() {
        let h: Hostinfo = serde_json::from_str(
            r#"{"OS":"linux","RoutableIPs":null,"Services":[{"Proto":"peerapi4","Port":4711}],"AppConnector":null,"New":[1]}"#,
        )
        .unwrap();
        assert_eq!((h.peer_api(true), h.peer_api(false)), (Some(4711), None));
        assert!(serde_json::from_str::<Hostinfo>(r#"{"RoutableIPs":["10.0.0.0/99"]}"#).is_err());
    }

    #[test]
    fn routes_are_told_with_their_length() {
        // Official clients refuse a whole map over `198.51.100.7`.
        let text = r#"{"RoutableIPs":["198.51.100.7/32","10.0.0.0/8"]}"#;
        let h: Hostinfo = serde_json::from_str(text).unwrap();
        let told = serde_json::to_value(&h).unwrap();
        assert_eq!(told["RoutableIPs"], serde_json::json!(["198.51.100.7/32", "10.0.0.0/8"]));
    }
}
