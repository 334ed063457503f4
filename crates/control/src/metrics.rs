//! Metrics of a coordination server, in Prometheus's text format, on a listener of their own. In: counters. Out: text.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use net::serve::{self, Limits, Listener, Slots};
use tracing::debug;

use super::channel::plain;
use super::desk::Desk;
use super::http;
use runtime::hint::Hinted;
use runtime::run::Run;

/// Collectors at a time.
const PLACES: Limits = Limits { total: 16, per_source: 8, reserve: 0 };
/// A collector asks at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves `/metrics` on an address of its own.
pub(super) fn listen(run: &Run, desk: Arc<Desk>, at: SocketAddr) -> anyhow::Result<()> {
    let listener = Listener::bind("metrics", at).map_err(|e| {
        Hinted::error(format!("cannot serve metrics on {at}: {e}"), "choose another address with `--metrics ADDR:PORT`")
    })?;
    let (ours, stopping, places) = (run.clone(), run.stopping(), Slots::new(PLACES));
    run.spawn("metrics listener", async move {
        tokio::pin!(stopping);
        loop {
            let (socket, peer) = tokio::select! {
                () = &mut stopping => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let place = match places.take(serve::source(peer)) {
                Ok(place) => place,
                Err(why) => {
                    debug!("metrics: {peer} closed: {why}");
                    continue;
                }
            };
            let desk = desk.clone();
            ours.visit("metrics", async move {
                let _place = place;
                let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                    let answer = match request.uri().path() {
                        "/metrics" => http::text(text(&desk)),
                        _ => plain(hyper::StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
                    };
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
                let served = http.serve_connection(TokioIo::new(socket), service);
                if let Ok(Err(e)) = tokio::time::timeout(PATIENCE * 2, served).await {
                    debug!("metrics: {e}");
                }
            });
        }
    });
    Ok(())
}

fn text(desk: &Desk) -> String {
    let s = desk.keeper.now();
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let count = |n: usize| n as u64;
    one("portcullis_mesh_nodes", "gauge", "Nodes.", count(s.nodes.len()));
    one(
        "portcullis_mesh_nodes_online",
        "gauge",
        "Nodes that are connected.",
        count(s.nodes.values().filter(|m| m.online).count()),
    );
    one("portcullis_mesh_map_streams", "gauge", "Open map streams.", count(desk.streams()));
    one(
        "portcullis_mesh_waiting",
        "gauge",
        "Nodes that wait to be approved.",
        count(s.pending.values().filter(|p| p.waits()).count()),
    );
    one("portcullis_mesh_generation", "counter", "Pictures of the network made so far.", s.generation);
    one("portcullis_mesh_policy", "gauge", "1 if a policy is in force.", u64::from(s.has_policy));
    if let Some(relay) = &desk.relay {
        let c = relay.counts();
        one("portcullis_relay_connections", "gauge", "Connections of relay clients.", relay.connections());
        one("portcullis_relay_packets_total", "counter", "Packets taken from relay clients.", c.packets_in);
        one("portcullis_relay_bytes_total", "counter", "Their bytes.", c.bytes_in);
        one(
            "portcullis_relay_dropped_full_total",
            "counter",
            "Packets whose destination did not read fast enough.",
            c.dropped_full,
        );
        one(
            "portcullis_relay_dropped_not_here_total",
            "counter",
            "Packets for nodes that are not connected.",
            c.dropped_not_here,
        );
    }
    let _ = writeln!(
        out,
        "# HELP portcullis_mesh_requests_total Requests by kind and status.\n# TYPE portcullis_mesh_requests_total counter"
    );
    for ((what, status), n) in desk.counts.lock().iter() {
        let _ = writeln!(out, "portcullis_mesh_requests_total{{kind=\"{what}\",status=\"{status}\"}} {n}");
    }
    let _ = writeln!(
        out,
        "# HELP portcullis_mesh_route_failovers_total Times a route went to another router.\n# TYPE portcullis_mesh_route_failovers_total counter"
    );
    for (route, n) in desk.moved.lock().iter() {
        let _ = writeln!(out, "portcullis_mesh_route_failovers_total{{route=\"{}\"}} {n}", route.long());
    }
    let _ = writeln!(
        out,
        "# HELP portcullis_mesh_router_online 1 if a router is there.\n# TYPE portcullis_mesh_router_online gauge"
    );
    for m in s.nodes.values().filter(|m| !m.node.host.routable_ips.is_empty()) {
        // Names of nodes are DNS labels: nothing in them needs quoting.
        let _ = writeln!(out, "portcullis_mesh_router_online{{node=\"{}\"}} {}", m.node.name, u64::from(m.online));
    }
    out
}
