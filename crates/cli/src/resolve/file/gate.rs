//! `[gate]` and `[lists.NAME]` of the configuration file, as written. `docs/manual/gate.toml` explains every key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gate::enforce::OnFailure;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::ListValue;
use crate::args::gate::{CertArg, EvictArg, HeaderArg, KeyArg, Span, span};

/// A list that learns and forgets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListFile {
    #[serde(rename = "static")]
    pub(crate) statics: Option<ListValue>,
    pub(crate) max: Option<usize>,
    pub(crate) ttl: Option<Length>,
    pub(crate) idle: Option<Length>,
    pub(crate) evict: Option<EvictArg>,
    pub(crate) guests: Option<usize>,
    pub(crate) ipv4_prefix: Option<u8>,
    pub(crate) ipv6_prefix: Option<u8>,
    pub(crate) learn_private: Option<bool>,
    pub(crate) devices: Option<usize>,
    pub(crate) grace: Option<Length>,
}

/// The gate: its grant sources and its enforcers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GateFile {
    pub(crate) listen: Option<Spanned<String>>,
    pub(crate) share_listen: Option<Spanned<String>>,
    pub(crate) trusted_proxies: Option<ListValue>,
    pub(crate) trusted_header: Option<HeaderArg>,
    pub(crate) direct: bool,
    pub(crate) paths_below: bool,
    pub(crate) refuse: Option<Spanned<RefuseFile>>,
    pub(crate) accept: Vec<Spanned<String>>,
    pub(crate) policy: Option<PathBuf>,
    pub(crate) probes: Vec<Spanned<String>>,
    pub(crate) dns_servers: Vec<Spanned<String>>,
    pub(crate) dns_least: Option<Length>,
    pub(crate) mirror: Vec<GrantSource>,
    pub(crate) learn: Vec<GrantSource>,
    pub(crate) share_paths: Vec<Spanned<String>>,
    pub(crate) shares: BTreeMap<String, ShareFile>,
    pub(crate) traefik: Vec<TraefikFile>,
    pub(crate) nginx: Vec<NginxFile>,
    pub(crate) haproxy: Vec<HaproxyFile>,
    pub(crate) caddy: Vec<CaddyFile>,
    pub(crate) nftables: Vec<NftablesFile>,
    pub(crate) file: Vec<PlainFile>,
    pub(crate) command: Vec<CommandFile>,
    pub(crate) webhook: Vec<WebhookFile>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantSource {
    pub(crate) list: Spanned<String>,
    pub(crate) listen: Option<Spanned<String>>,
    pub(crate) certificate: Option<CertArg>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefuseFile {
    pub(crate) status: Option<u16>,
    pub(crate) body: Option<String>,
    pub(crate) redirect: Option<String>,
    #[serde(default)]
    pub(crate) reason: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareFile {
    pub(crate) upstream: Spanned<String>,
    pub(crate) list: Spanned<String>,
    pub(crate) ttl: Option<Length>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraefikFile {
    pub(crate) file: PathBuf,
    pub(crate) middlewares: BTreeMap<Spanned<String>, Vec<Spanned<String>>>,
    pub(crate) key: Option<KeyArg>,
    #[serde(default)]
    pub(crate) tcp: bool,
    pub(crate) depth: Option<Spanned<u8>>,
    pub(crate) excluded_ips: Option<ListValue>,
    pub(crate) reject_status: Option<Spanned<u16>>,
    pub(crate) throttle: Option<Spanned<String>>,
    pub(crate) api: Option<Spanned<String>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NginxFile {
    pub(crate) list: Spanned<String>,
    pub(crate) file: PathBuf,
    pub(crate) test: Option<Vec<String>>,
    pub(crate) reload: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HaproxyFile {
    pub(crate) list: Spanned<String>,
    pub(crate) socket: PathBuf,
    pub(crate) map: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaddyFile {
    pub(crate) list: Spanned<String>,
    pub(crate) api: Spanned<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NftablesFile {
    pub(crate) list: Spanned<String>,
    pub(crate) ports: Vec<PortsValue>,
    pub(crate) table: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) on_failure: OnFailure,
}

/// `25565` or `"27015-27030/udp"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum PortsValue {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for PortsValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortsValue::Number(n) => n.fmt(f),
            PortsValue::Text(text) => text.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlainFile {
    pub(crate) list: Spanned<String>,
    pub(crate) file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandFile {
    pub(crate) list: Spanned<String>,
    pub(crate) run: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookFile {
    pub(crate) list: Spanned<String>,
    pub(crate) url: Spanned<String>,
}

/// `"12h"`, `"7d"`, `"never"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length(pub(crate) Span);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Length, D::Error> {
        let text = String::deserialize(from)?;
        span(&text).map(Length).map_err(|why| de::Error::custom(format!("`{text}`: {why}")))
    }
}
