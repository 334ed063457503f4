//! Relays: the map of them that clients are told, and the one this server runs itself. In: settings. Out: a `DERPMap`,
//! a TLS configuration, answers to relay clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use addr::Addr;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use net::tls;
use serde_json::{Value, json};
use tailnet_proto::meshkey::NodePrivate;
use tokio_rustls::TlsAcceptor;

use super::ControlSettings;
use super::registry::RegistryHandle;
use super::relay::Relay;
use super::relay_http;
use super::state::ControlState;
use super::stun::Stun;
use runtime::answer;
use runtime::hex;
use runtime::hint::Hinted;
use runtime::run::Run;

/// The number of our own region: 900 to 999 are for everybody's own (tailcfg, `DERPRegion`).
const REGION: u32 = 900;
/// What clients are told about a restart: come back within this time, tried over this time.
const RESTART: Duration = Duration::from_secs(2);

/// How the port speaks TLS.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// The fingerprint that clients must pin, if the certificate is one that nobody else vouches for.
    pub(super) pin: Option<[u8; 32]>,
}

/// The given certificate, else one of its own: official clients take relays only over TLS, and pin it.
pub(super) fn tls(settings: &ControlSettings) -> anyhow::Result<Tls> {
    if let Some((cert, key)) = &settings.tls {
        return Ok(Tls { acceptor: tls::own_certificate(cert, key)?.into(), pin: None });
    }
    let (config, pin) = tls::own_leaf(&settings.data_dir, &settings.server_url.host)?;
    // Behind a proxy that speaks TLS, clients see the proxy's certificate.
    Ok(Tls { acceptor: config.into(), pin: (!settings.server_url.tls).then_some(pin) })
}

/// The relays as clients are told them.
pub(super) fn map(settings: &ControlSettings, pin: Option<[u8; 32]>) -> Value {
    let mut map = settings.derp_map.clone().unwrap_or_else(|| json!({ "Regions": {} }));
    map["omitDefaultRegions"] = true.into();
    if !settings.relay {
        return map;
    }
    let url = &settings.server_url;
    let mut node = json!({
        "Name": "900a", "RegionID": REGION, "HostName": url.host, "DERPPort": url.port,
        "STUNPort": settings.stun.map_or(-1, |a| i64::from(a.port())),
    });
    match url.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => {
            node["IPv4"] = a.to_string().into();
            node["IPv6"] = "none".into();
        }
        Ok(IpAddr::V6(a)) => {
            node["IPv4"] = "none".into();
            node["IPv6"] = a.to_string().into();
        }
        Err(_) => {}
    }
    if let Some(pin) = pin {
        node["CertName"] = format!("sha256-raw:{}", hex(&pin)).into();
    }
    map["Regions"][REGION.to_string()] =
        json!({ "RegionID": REGION, "RegionCode": "own", "RegionName": "Portcullis", "Nodes": [node] });
    map
}

/// Starts the relay, for nodes of the registry and nobody else, and the STUN server.
pub(super) fn start(
    run: &Run,
    settings: &ControlSettings,
    key: NodePrivate,
    registry: &RegistryHandle,
) -> anyhow::Result<Option<Relay>> {
    if let Some(at) = settings.stun {
        let stun = Stun::bind(at).map_err(|e| {
            Hinted::error(
                format!("cannot answer STUN on {at}: {e}"),
                "choose another address with `--stun ADDR:PORT`, or `--stun off`",
            )
        })?;
        let stopping = run.stopping();
        run.spawn("stun", async move {
            tokio::select! {
                () = stun.run() => {}
                () = stopping => {}
            }
            Ok(())
        });
    }
    if !settings.relay {
        return Ok(None);
    }
    let snapshot = registry.snapshot.clone();
    let relay = Relay::new(key, move |key| snapshot.borrow().member(key).is_some_and(|m| !m.expired));
    let (mut snapshot, stopping, ours) = (registry.snapshot.clone(), run.stopping(), relay.clone());
    run.spawn("relay admission", async move {
        tokio::pin!(stopping);
        let mut known = snapshot.borrow_and_update().by_key.clone();
        loop {
            tokio::select! {
                changed = snapshot.changed() => if changed.is_err() { return Ok(()) },
                () = &mut stopping => {
                    // Clients come back by themselves; not all in the same moment.
                    ours.close(RESTART, RESTART);
                    return Ok(());
                }
            }
            let now = snapshot.borrow_and_update().by_key.clone();
            if !Arc::ptr_eq(&now, &known) {
                known = now;
                ours.recheck();
            }
        }
    });
    Ok(Some(relay))
}

/// Answers a relay client, or one that finds out how far away the relay is.
pub(super) fn answer(state: &ControlState, mut request: Request<Incoming>, from: Addr) -> Response<Full<Bytes>> {
    let remote = SocketAddr::new(from.ip(), 0);
    let answered = state.relay.as_ref().and_then(|relay| relay_http::answer(relay, &mut request, remote));
    let Some(answered) = answered else { return answer::text(StatusCode::NOT_FOUND, "no relay runs here\n") };
    if let Some(serve) = answered.serve {
        state.run.connection("relay client", from, serve);
    }
    answered.response
}
