//! A client's arguments become its settings.

use std::time::Duration;

use tracing::{info, warn};
use tunnel::settings::{ClientSettings, Trust, UpstreamTls};
use tunnel_proto::connect::EdgeUrl;
use tunnel_proto::upstream::{Plane, PortRanges, parse_upstreams};

use super::token::{self, Token};
use super::{Notes, proxy, rewrite};
use crate::args::{ClientArgs, Given, PublishArgs, TokenArgs, TrustArgs};
use crate::fail::Fail;

/// Everything a client needs.
pub(crate) struct ClientPlan {
    pub(crate) settings: ClientSettings,
    pub(crate) drain: Duration,
}

/// Two: one lost packet then holds up half of the small streams only.
const CARRIERS: u8 = 2;

/// Resolves everything.
///
/// # Errors
/// Contradictions and bad values, with the flag or variable they stand in.
pub(crate) fn client(plane: Plane, args: &ClientArgs, given: &Given) -> Result<ClientPlan, Fail> {
    args.inlets.judge(given)?;
    let (url, trust) = trust(&args.trust, given)?;
    let token = token_for(&args.token, &args.trust, given)?;
    let ports = ports(&args.publish.ports)?;
    if args.publish.upstream.is_empty() {
        let example =
            if plane == Plane::Http { "--upstream http://127.0.0.1:3000" } else { "--upstream 127.0.0.1 --ports 2222" };
        return Err(Fail::usage("nothing to publish", format!("say what: `{example}`")));
    }
    let mut upstreams =
        parse_upstreams(&args.publish.upstream, ports.as_ref(), plane).map_err(|e| Fail::misused(e.into()))?;
    rewrite::apply(&args.publish, &mut upstreams)?;
    if args.publish.strict_forwarding == Some(false) {
        warn!("--strict-forwarding=false is accepted for old scripts; only the given upstreams are ever reached");
    }
    let settings = ClientSettings {
        proxy: proxy::choose(&url, |name| std::env::var(name).ok())?,
        url,
        token: token.secret,
        trust,
        upstreams,
        carriers: args.link.carriers.unwrap_or(CARRIERS),
        demux: args.link.demux.unwrap_or(false),
        id: args.link.id.clone(),
        upstream_tls: upstream_tls(&args.publish)?,
    };
    Ok(ClientPlan { settings, drain: args.link.drain.unwrap_or(runtime::run::DRAIN) })
}

fn upstream_tls(args: &PublishArgs) -> Result<UpstreamTls, Fail> {
    let insecure = args.upstream_insecure.unwrap_or(false);
    if insecure && args.upstream_ca.is_some() {
        return Err(Fail::usage(
            "--upstream-insecure believes every certificate, and --upstream-ca says which to believe",
            "keep one of them",
        ));
    }
    if let Some(name) = &args.upstream_server_name
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        return Err(Fail::usage(
            format!("`{name}` is neither a DNS name nor an address"),
            "give the name that stands in the upstream's certificate to --upstream-server-name",
        ));
    }
    Ok(UpstreamTls { insecure, ca_file: args.upstream_ca.clone(), server_name: args.upstream_server_name.clone() })
}

/// Which edge, and why it is believed.
///
/// # Errors
/// No edge or two of them, fingerprints that differ, `ws://` without `--insecure`.
pub(crate) fn trust(args: &TrustArgs, given: &Given) -> Result<(EdgeUrl, Trust), Fail> {
    // A flag counts before the other way's variable.
    let only_url = given.typed("url") && !given.typed("connect");
    let only_connect = given.typed("connect") && !given.typed("url");
    let connect = args.connect.as_ref().filter(|_| !only_url);
    let url = match (&args.url, connect) {
        (Some(url), None) => url.clone(),
        (None, Some(c)) => c.url.clone(),
        (Some(_), Some(c)) if only_connect => c.url.clone(),
        (Some(url), Some(c)) if *url == c.url => url.clone(),
        (Some(url), Some(c)) => {
            return Err(Fail::usage(
                format!(
                    "{} and {} name different edges: {url} and {}",
                    given.place("url"),
                    given.place("connect"),
                    c.url
                ),
                "keep one of them",
            ));
        }
        (None, None) => {
            return Err(Fail::usage(
                "no edge given",
                "take the connect string that the edge printed: `--connect wss://…#sha256:…`",
            ));
        }
    };
    if !url.tls {
        if args.insecure != Some(true) {
            return Err(Fail::hinted(
                format!("{url} is not encrypted: the token and all traffic would be readable on the way"),
                "use wss://, or add --insecure if the way is safe (loopback, a VPN, a test)",
            ));
        }
        return Ok((url, Trust::Plain));
    }
    if args.insecure == Some(true) {
        info!(%url, "--insecure allows ws:// only; this URL is encrypted and its certificate is checked");
    }
    let pin = match (args.ca_fingerprint, connect.and_then(|c| c.pin)) {
        (Some(a), Some(b)) if a != b => {
            return Err(Fail::usage(
                "--ca-fingerprint and the connect string name different fingerprints",
                "keep the one that the edge printed",
            ));
        }
        (a, b) => a.or(b),
    };
    match (pin, &args.ca_file) {
        (Some(_), Some(_)) => {
            Err(Fail::usage("a fingerprint and --ca-file are two ways to trust an edge", "keep one of them"))
        }
        (Some(pin), None) => Ok((url, Trust::Pin(pin))),
        (None, ca_file) => Ok((url, Trust::System { ca_file: ca_file.clone() })),
    }
}

/// The token: as told, or where the connect string says.
pub(crate) fn token_for(args: &TokenArgs, trust: &TrustArgs, given: &Given) -> Result<Token, Fail> {
    let notes = Notes::default();
    let found = token::find(args, given, &notes);
    notes.log();
    if let Some(token) = found? {
        return Ok(token);
    }
    match trust.connect.as_ref().and_then(|c| c.token.as_ref()) {
        Some(place) => {
            let notes = Notes::default();
            let token = token::at(place, "the connect string", &notes);
            notes.log();
            token
        }
        None => Err(token::missing()),
    }
}

fn ports(given: &[PortRanges]) -> Result<Option<PortRanges>, Fail> {
    if given.is_empty() {
        return Ok(None);
    }
    let joined: Vec<String> = given.iter().filter(|p| p.count() > 0).map(ToString::to_string).collect();
    joined.join(",").parse().map(Some).map_err(|e: tunnel_proto::upstream::UpstreamError| Fail::misused(e.into()))
}
