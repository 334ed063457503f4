//! `portcullis control`. In: flags, environment, a file. Out: a coordination server that runs until it is told to stop.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use addr::{AddrSet, Prefix};
use anyhow::Context;
use control::{self, Control, ControlSettings, ServerUrl};
use runtime::run::Run;
use serde::Deserialize;
use tailnet::{Pools, Settings};
use tracing::{info, warn};

use crate::args::GlobalArgs;
use crate::args::control::ControlArgs;
use crate::args::gate::{Span, span};
use crate::fail::{Done, Fail};
use crate::systemd::{self, Unit};
use crate::{resolve, say};

/// The domain of nodes' names: `.internal` is kept for networks of one's own (ICANN, 2024).
const DOMAIN: &str = "mesh.internal";

/// An address that its name has not answered with for a day is not its any more; shorter, and the turns of large
/// services would come and go.
const APP_EXPIRY: u64 = 86_400;

/// The file of `--config`: the same settings as the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ControlFile {
    control: Section,
}

/// `[control]` of a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Section {
    server_url: Option<String>,
    listen: Option<Vec<SocketAddr>>,
    stun: Option<String>,
    relay: Option<bool>,
    derp_map: Option<PathBuf>,
    policy: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    domain: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    node_expiry: Option<String>,
    trusted_proxies: Option<Vec<String>>,
    app_expiry: Option<String>,
    app_routes: Option<u32>,
    app_resolvers: Option<Vec<String>>,
    metrics: Option<SocketAddr>,
    /// Lists of the gate that nodes' public addresses enter; in `serve`.
    pub(crate) teach: Vec<Teach>,
}

impl Section {
    /// The same with its paths as seen from a folder.
    pub(crate) fn beside(mut self, dir: &Path) -> Section {
        let paths = [&mut self.derp_map, &mut self.policy, &mut self.tls_cert, &mut self.tls_key];
        for path in paths.into_iter().flatten() {
            *path = dir.join(&*path);
        }
        self
    }
}

/// A list, and the nodes whose public addresses it takes in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Teach {
    /// The list.
    pub(crate) list: String,
    /// Whose nodes: `group:family`, `ada@example.com`, `tag:phone`, `autogroup:member`, names of nodes.
    pub(crate) nodes: Vec<String>,
}

/// `--generate=systemd`: the unit for this command line, if the command is one that would run.
pub(crate) fn unit(a: &ControlArgs, global: &GlobalArgs) -> Done {
    /// As many connections as the server has places, and what it needs besides.
    const FILES: u64 = 65_536;
    let settings = plan(a, section(a)?, resolve::data_dir(global.data_dir.clone())?)?;
    let low = |port: u16| port != 0 && port < 1024;
    let low_ports = settings.listen.iter().chain(&settings.stun).any(|at| low(at.port()))
        || settings.metrics.is_some_and(|at| low(at.port()))
        || settings.server_url.needs_443();
    let what = "Portcullis coordination server";
    let unit = Unit { what, low_ports, files: FILES, suffix: "-control", copies_tls: true, ..Unit::default() };
    say::raw(&systemd::render(&unit));
    Ok(())
}

/// `[control]` of the file that the command names.
fn section(a: &ControlArgs) -> Result<Section, Fail> {
    a.config.as_deref().map_or_else(|| Ok(Section::default()), read_config)
}

/// Runs the server until it is told to stop.
pub(crate) async fn run(a: &ControlArgs, global: &GlobalArgs) -> Done {
    let file = section(a)?;
    if !file.teach.is_empty() {
        return Err(Fail::usage(
            "`[[control.teach]]` needs the gate whose lists it names, and `control` runs none",
            "run both with `portcullis serve --config FILE`",
        ));
    }
    let settings = plan(a, file, resolve::data_dir(global.data_dir.clone())?)?;
    let run = Run::new(runtime::run::DRAIN);
    run.follow_signals()?;
    serve(settings, &run).await?;
    Ok(run.finish().await?)
}

/// Starts a server, says where it is, and opens its admin socket.
pub(crate) async fn serve(settings: ControlSettings, run: &Run) -> Result<Control, Fail> {
    let (url, dir) = (settings.server_url.to_string(), settings.data_dir.clone());
    let listens_plain = !settings.server_url.tls;
    let listens = |port| settings.listen.iter().any(|at| at.port() == port || at.port() == 0);
    let elsewhere = settings.trusted.is_empty() && !listens(settings.server_url.port);
    let no_tls_in_front = settings.server_url.tls && settings.tls.is_none() && settings.trusted.is_empty();
    let control = control::start(settings, run).await?;
    for addr in &control.addrs {
        info!("listening on {addr}");
    }
    if no_tls_in_front {
        warn!(
            "clients go to {url}, and this server has no certificate for it and trusts no proxy; give `--tls-cert` and \
             `--tls-key`, or `--trusted-proxies` with the proxy's address"
        );
    }
    if elsewhere {
        warn!(
            "clients go to {url}, and this server listens on another port and trusts no proxy that could stand between; \
             give `--listen` with that port, or `--trusted-proxies`"
        );
    }
    if listens_plain {
        info!("clients reach this server by plain HTTP; what they say inside is encrypted all the same");
    }
    let socket = control::control_socket(&dir);
    runtime::api::serve(run, &socket, control::verbs(runtime::api::Verbs::default(), &control))?;
    let now = control.desk.keeper.now();
    if !now.has_policy {
        warn!("there is no policy: every node reaches every other one; `portcullis policy set FILE` puts one in force");
    }
    say::aside(format!("join with:  tailscale up --login-server {url}"));
    if now.users.is_empty() {
        say::aside("first:      portcullis users create NAME");
        say::aside("            portcullis keys create --user NAME      (for tailscale up --authkey KEY)");
    }
    Ok(control)
}

/// What flags, environment and a file mean together.
pub(crate) fn plan(a: &ControlArgs, file: Section, data_dir: PathBuf) -> Result<ControlSettings, Fail> {
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
        resolve::set_of("TRUSTED_PROXIES", &trusted, None, "--trusted-proxies")?
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
        book: Settings {
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
            format!("{}: {}", path.display(), crate::resolve::config::in_words(&e)),
            "docs/manual/control.toml explains every key",
        )
    })?;
    Ok(file.control.beside(path.parent().unwrap_or(Path::new(""))))
}

fn derp_map(path: &Path) -> Result<serde_json::Value, Fail> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("the relay map {} can not be read", path.display()))?;
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
