//! What `/metrics` of an edge shows. In: its counters. Out: Prometheus text. The older names are those of inlets-pro, and
//! of this program before it had one prefix.

use std::sync::atomic::{AtomicU64, Ordering};

use runtime::metrics::Exposition;

use super::Edge;

runtime::declare_metrics! {
    CLIENTS: gauge = "portcullis_tunnel_clients", "Clients connected now.", also "controlplane_connected_gauge";
    SESSIONS: counter = "portcullis_tunnel_sessions_total",
        "Sessions since the start.", also "controlplane_sessions_total";
    CONTROL_CONNECTIONS: counter = "portcullis_tunnel_control_connections_total",
        "Connections to the control plane.", also "controlplane_requests_total";
    CONTROL_REFUSED: counter = "portcullis_tunnel_control_refused_total",
        "Connections to the control plane refused by address.", also "controlplane_refused_total";
    TOKENS_REFUSED: counter = "portcullis_tunnel_tokens_refused_total",
        "Requests with a wrong or no token.", also "controlplane_token_refused_total";
    TCP_CONNECTIONS: counter = "portcullis_tunnel_tcp_connections_total",
        "Visitors of TCP ports.", also "tcp_dataplane_connections_total";
    TCP_REFUSED: counter = "portcullis_tunnel_tcp_refused_total",
        "Visitors of TCP ports refused by address.", also "tcp_dataplane_refused_total";
    ADMITTED: gauge = "portcullis_tunnel_admitted",
        "Connections that a list admitted and that are open now.", also "visitors_inside_gauge";
    STREAMS: gauge = "portcullis_tunnel_streams", "Streams to clients open now.", also "streams_gauge";
}

impl Edge {
    /// The metrics as text.
    pub(super) fn metrics(&self) -> String {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let sessions = self.table.sessions();
        let mut out = Exposition::new();
        out.one(&CLIENTS, sessions.len());
        out.one(&SESSIONS, get(&self.stats.sessions));
        out.one(&CONTROL_CONNECTIONS, get(&self.stats.control_requests));
        out.one(&CONTROL_REFUSED, get(&self.stats.control_refused));
        out.one(&TOKENS_REFUSED, get(&self.stats.tokens_refused));
        out.one(&TCP_CONNECTIONS, get(&self.stats.tcp_visitors));
        out.one(&TCP_REFUSED, get(&self.stats.tcp_refused));
        out.one(&ADMITTED, self.admission.inside());
        out.one(&STREAMS, sessions.iter().map(|s| s.streams() as u64).sum::<u64>());
        if let Some(plane) = self.plane.get() {
            plane.stats().expose(&mut out);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::http::HTTP_METRICS;
    use super::METRICS;

    #[test]
    fn names_types_and_helps_are_as_written_down() {
        let all = [METRICS, HTTP_METRICS].concat();
        assert_eq!(runtime::metrics::catalogue(&all), include_str!("metrics.golden"));
    }
}
