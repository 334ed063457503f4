//! A coordination server's arguments and file become its settings. Precedence: flag, variable, file, default.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use addr::{AddrSet, Prefix};
use anyhow::Context;
use control::{ControlSettings, ServerUrl};
use tailnet::{Pools, Settings};

use super::file::control::{ControlFile, Section};
use super::{Notes, lists};
use crate::args::control::ControlArgs;
use crate::args::gate::{Span, span};
use crate::fail::Fail;

/// The domain of nodes' names: `.internal` is kept for networks of one's own (ICANN, 2024).
const DOMAIN: &str = "mesh.internal";

/// An address that its name has not answered with for a day is not its any more; shorter, and the turns of large
/// services would come and go.
const APP_EXPIRY: u64 = 86_400;

/// `[control]` of the file that the command names.
///
/// # Errors
/// It cannot be read, or is no valid configuration: with line and column.
pub(crate) fn section(a: &ControlArgs) -> Result<Section, Fail> {
    a.config.as_deref().map_or_else(|| Ok(Section::default()), read_config)
}

/// What flags, environment and a file mean together.
///
/// # Errors
/// Contradictions and bad values, with the flag or key they stand in.
pub(crate) fn plan(a: &ControlArgs, file: Section, data_dir: PathBuf, notes: &Notes) -> Result<ControlSettings, Fail> {
    let url = a.server_url.clone().or(file.server_url).ok_or_else(|| {
        Fail::usage(
            "how clients reach this server is missing",
            "give `--server-url http://ADDRESS:8080`, or the https URL of the proxy in front",
        )
    })?;
    let server_url: ServerUrl =
        url.parse().map_err(|e| Fail::usage(format!("--server-url: {e}"), "such as http://203.0.113.9:8080"))?;
    let listen = if a.listen.is_empty() { file.listen.unwrap_or_default() } else { a.listen.clone() };
    let stun = a.stun.clone().or(file.stun).unwrap_or_else(|| "0.0.0.0:3478".into());
    let stun = match stun.as_str() {
        "off" | "none" => None,
        text => Some(text.parse().map_err(|_| {
            Fail::usage(format!("--stun: `{text}` is no address and port"), "such as 0.0.0.0:3478, or `off`")
        })?),
    };
    let tls = match (a.tls_cert.clone().or(file.tls_cert), a.tls_key.clone().or(file.tls_key)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(Fail::usage("a certificate and its key belong together", "give both --tls-cert and --tls-key"));
        }
    };
    let derp_map = a.derp_map.clone().or(file.derp_map).map(|p| derp_map(&p)).transpose()?;
    let policy = a.policy.clone().or(file.policy);
    let trusted =
        if a.trusted_proxies.is_empty() { file.trusted_proxies.unwrap_or_default() } else { a.trusted_proxies.clone() };
    let trusted = if trusted.is_empty() {
        AddrSet::default()
    } else {
        lists::set_of("TRUSTED_PROXIES", &trusted, None, "--trusted-proxies", notes)?
    };
    let domain = a.domain.clone().or(file.domain).unwrap_or_else(|| DOMAIN.to_string());
    let domain = tailnet::domain_name(&domain)
        .map_err(|why| Fail::usage(format!("--domain: `{}` {why}", domain.escape_debug()), "such as mesh.internal"))?;
    if server_url.host.ends_with(&format!(".{domain}")) || server_url.host == domain {
        return Err(Fail::usage(
            format!(
                "the server's own name {} lies in the network's domain {domain}: nodes could not find the server",
                server_url.host
            ),
            "choose another `--domain`",
        ));
    }
    let default = Pools::default();
    let pools = Pools {
        v4: pool("--ipv4", a.ipv4.clone().or(file.ipv4), default.v4)?,
        v6: pool("--ipv6", a.ipv6.clone().or(file.ipv6), default.v6)?,
    };
    let time = |flag: Option<Span>, text: Option<String>, key: &str, default: Option<u64>| match (flag, text) {
        (Some(s), _) => Ok(s.0),
        (None, Some(text)) => {
            span(&text).map(|s| s.0).map_err(|e| Fail::usage(format!("{key}: {e}"), "such as \"180d\", or \"never\""))
        }
        (None, None) => Ok(default),
    };
    let node_expiry = time(a.node_expiry, file.node_expiry, "node_expiry", None)?;
    let app_expiry = time(a.app_expiry, file.app_expiry, "app_expiry", Some(APP_EXPIRY))?;
    let asked = if a.app_resolver.is_empty() { file.app_resolvers.unwrap_or_default() } else { a.app_resolver.clone() };
    let app_resolvers = asked.iter().map(|t| nameserver(t)).collect::<Result<Vec<SocketAddr>, Fail>>()?;
    Ok(ControlSettings {
        data_dir,
        server_url,
        listen: if listen.is_empty() { vec![SocketAddr::from(([0, 0, 0, 0], 8080))] } else { listen },
        tls,
        stun,
        derp_map,
        relay: a.relay.or(file.relay).unwrap_or(true),
        trusted,
        registry: Settings {
            pools,
            domain,
            node_expiry,
            app_expiry,
            app_routes: a.app_routes.or(file.app_routes),
            ..Settings::default()
        },
        app_resolvers,
        metrics: a.metrics.or(file.metrics),
        policy,
    })
}

fn read_config(path: &Path) -> Result<Section, Fail> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: ControlFile = toml::from_str(&text).map_err(|e| {
        Fail::hinted(
            format!("{}: {}", path.display(), super::file::in_words(&e)),
            "docs/manual/control.toml explains every key",
        )
    })?;
    Ok(file.control.beside(path.parent().unwrap_or(Path::new(""))))
}

fn derp_map(path: &Path) -> Result<serde_json::Value, Fail> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("the relay map {} cannot be read", path.display()))?;
    let map: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("the relay map {} is no JSON", path.display()))?;
    if !map.get("Regions").is_some_and(serde_json::Value::is_object) {
        return Err(Fail::hinted(
            format!("the relay map {} has no `Regions`", path.display()),
            "write it as {\"Regions\": {\"901\": {\"RegionID\": 901, \"RegionCode\": \"x\", \"Nodes\": [...]}}}",
        ));
    }
    Ok(map)
}

/// An address, with port 53 if none is said.
fn nameserver(text: &str) -> Result<SocketAddr, Fail> {
    let plain = || text.parse::<IpAddr>().ok().map(|a| SocketAddr::new(a, 53));
    text.parse().ok().or_else(plain).ok_or_else(|| {
        Fail::usage(format!("--app-resolver: `{text}` is no nameserver"), "such as 9.9.9.9 or 10.0.0.53:5353")
    })
}

fn pool(flag: &str, text: Option<String>, default: Prefix) -> Result<Prefix, Fail> {
    let Some(text) = text else { return Ok(default) };
    let prefix: Prefix = text.parse().map_err(|e| Fail::usage(format!("{flag}: {e}"), format!("such as {default}")))?;
    // Official clients treat addresses outside of these as somebody else's.
    if !default.covers(prefix) || prefix.bits() > default.first().width() - 2 {
        return Err(Fail::usage(
            format!("{flag}: {prefix} is not a part of {default} with room for nodes"),
            "official clients know their own addresses by that range",
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::file::control::ControlFile;

    const MANUAL: &str = include_str!("../../../../docs/manual/control.toml");

    #[test]
    fn the_manual_is_a_valid_file_and_knows_every_key() {
        let live = |l: &str| {
            let bare = l.strip_prefix("# ").filter(|b| b.starts_with("[[") || b.contains(" = "));
            bare.unwrap_or(l).to_string() + "\n"
        };
        for text in [MANUAL.to_string(), MANUAL.lines().map(live).collect()] {
            let file: ControlFile = toml::from_str(&text).unwrap();
            assert!(file.control.server_url.is_some());
        }
        for (at, wanted) in [("[control]\nno_such_key = 1", 17), ("[[control.teach]]\nno_such_key = 1", 2)] {
            let error = toml::from_str::<ControlFile>(at).unwrap_err().to_string();
            let keys: Vec<&str> = error.split("expected").nth(1).unwrap().split('`').skip(1).step_by(2).collect();
            assert!(keys.len() >= wanted, "{error}");
            for key in keys {
                let explained = |l: &str| {
                    let l = l.trim_start_matches("# ");
                    l.starts_with(&format!("{key} = ")) || l == format!("[[control.{key}]]")
                };
                assert!(MANUAL.lines().any(explained), "docs/manual/control.toml does not explain `{key}`");
            }
        }
    }
}
