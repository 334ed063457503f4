//! Metrics of a coordination server, in Prometheus's text format, on a listener of their own. In: counters. Out: text.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use net::serve::{self, Limits, Listener, Slots};
use tracing::debug;

use super::state::ControlState;
use runtime::answer;
use runtime::hint::Hinted;
use runtime::http1;
use runtime::metrics::Exposition;
use runtime::run::Run;

/// Collectors at a time.
const LIMITS: Limits = Limits { total: 16, per_source: 8, reserve: 0 };
/// A collector asks at once, and once a minute or so.
const HTTP: http1::Limits = http1::Limits { head: Duration::from_secs(5), buffer: 16 * 1024, keep_alive: false };

runtime::declare_metrics! {
    NODES: gauge = "portcullis_mesh_nodes", "Nodes.";
    NODES_ONLINE: gauge = "portcullis_mesh_nodes_online", "Nodes that are connected.";
    MAP_STREAMS: gauge = "portcullis_mesh_map_streams", "Open map streams.";
    WAITING: gauge = "portcullis_mesh_waiting", "Nodes that wait to be approved.";
    GENERATION: gauge = "portcullis_mesh_generation", "Generation of the network's state.";
    POLICY: gauge = "portcullis_mesh_policy", "1 if a policy is in force.";
    RELAY_CONNECTIONS: gauge = "portcullis_relay_connections", "Connections of relay clients.";
    RELAY_PACKETS: counter = "portcullis_relay_packets_total", "Packets taken from relay clients.";
    RELAY_BYTES: counter = "portcullis_relay_bytes_total", "Bytes of these packets.";
    RELAY_DROPPED_FULL: counter = "portcullis_relay_dropped_full_total",
        "Packets whose destination did not read fast enough.";
    RELAY_DROPPED_NOT_HERE: counter = "portcullis_relay_dropped_not_here_total",
        "Packets for nodes that are not connected.";
    REQUESTS: counter = "portcullis_mesh_requests_total", "Requests by kind and status.";
    FAILOVERS: counter = "portcullis_mesh_route_failovers_total", "Times a route went to another router.";
    ROUTER_ONLINE: gauge = "portcullis_mesh_router_online", "1 if a router is connected.";
}

/// Serves `/metrics` on an address of its own.
pub(super) fn listen(run: &Run, state: Arc<ControlState>, at: SocketAddr) -> anyhow::Result<()> {
    let listener = Listener::bind("metrics", at).map_err(|e| {
        Hinted::error(format!("cannot serve metrics on {at}: {e}"), "choose another address with `--metrics ADDR:PORT`")
    })?;
    let (ours, places) = (run.clone(), Slots::new(LIMITS));
    run.spawn("metrics listener", async move {
        let mut stopping = pin!(ours.stopping());
        while let Some((socket, peer)) = listener.accept_until(stopping.as_mut()).await {
            let place = match places.take(serve::source(peer)) {
                Ok(place) => place,
                Err(why) => {
                    debug!(%peer, %why, "connection closed");
                    continue;
                }
            };
            let (state, stopping) = (state.clone(), ours.stopping());
            ours.connection("metrics", peer, async move {
                let _place = place;
                let served = http1::serve(socket, HTTP, stopping, async |request| match request.uri().path() {
                    "/metrics" => answer::metrics(text(&state)),
                    _ => answer::text(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
                });
                if let Ok(Err(e)) = tokio::time::timeout(HTTP.head * 2, served).await {
                    debug!(err = %e, "connection failed");
                }
            });
        }
        Ok(())
    });
    Ok(())
}

fn text(state: &ControlState) -> String {
    let s = state.registry.now();
    let mut out = Exposition::new();
    out.one(&NODES, s.nodes.len());
    out.one(&NODES_ONLINE, s.nodes.values().filter(|m| m.online).count());
    out.one(&MAP_STREAMS, state.streams());
    out.one(&WAITING, s.pending.values().filter(|p| p.waits()).count());
    out.one(&GENERATION, s.generation);
    out.one(&POLICY, s.has_policy);
    if let Some(relay) = &state.relay {
        let c = relay.counts();
        out.one(&RELAY_CONNECTIONS, relay.connections());
        out.one(&RELAY_PACKETS, c.packets_in);
        out.one(&RELAY_BYTES, c.bytes_in);
        out.one(&RELAY_DROPPED_FULL, c.dropped_full);
        out.one(&RELAY_DROPPED_NOT_HERE, c.dropped_not_here);
    }
    out.family(&REQUESTS, |samples| {
        for ((kind, status), n) in state.counts.lock().iter() {
            samples.add(&[("kind", kind), ("status", &status.to_string())], *n);
        }
    });
    out.family(&FAILOVERS, |samples| {
        for (route, n) in state.moved.lock().iter() {
            samples.add(&[("route", &route.long())], *n);
        }
    });
    out.family(&ROUTER_ONLINE, |samples| {
        for m in s.nodes.values().filter(|m| !m.node.host.routable_ips.is_empty()) {
            samples.add(&[("node", &m.node.name)], m.online);
        }
    });
    out.finish()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_types_and_helps_are_as_written_down() {
        assert_eq!(runtime::metrics::catalogue(super::METRICS), include_str!("metrics.golden"));
    }
}
