//! What the HTTP plane counts. In: finished requests. Out: Prometheus text. The number of series is bounded: hosts
//! beyond a limit are counted together, and visitors cannot make up methods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use runtime::metrics::Exposition;
use tunnel_proto::http1::head::Method;

/// Hosts counted by name. A catch-all answers for any name, so untrusted peers choose them.
const HOSTS_MAX: usize = 256;

/// Pairs of method and status counted for one host; an upstream may answer with any number.
const ROWS_MAX: usize = 128;

/// Upper bounds of the duration buckets in seconds: from a request on loopback to a long download.
const BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

runtime::declare_metrics! {
    REQUESTS: counter = "portcullis_http_requests_total",
        "Requests answered, by host, method and status.", also "http_dataplane_requests_total";
    DURATION: seconds = "portcullis_http_request_duration_seconds",
        "From the request's head to the end of the answer.", also "http_dataplane_request_duration_seconds";
    CONNECTIONS: gauge = "portcullis_http_connections",
        "Connections of visitors that are open.", also "http_dataplane_connections_gauge";
    IN_FLIGHT: gauge = "portcullis_http_requests_in_flight",
        "Requests under way.", also "http_dataplane_in_flight_gauge";
    REFUSED: counter = "portcullis_http_refused_total",
        "Visitors refused by their address.", also "http_dataplane_refused_total";
    CUT: counter = "portcullis_http_cut_total",
        "Visitors cut when their address was no longer allowed.", also "http_dataplane_cut_total";
    RECEIVED: counter = "portcullis_http_received_bytes_total",
        "Bytes of bodies from visitors to upstreams.", also "http_dataplane_received_bytes_total";
    SENT: counter = "portcullis_http_sent_bytes_total",
        "Bytes of bodies from upstreams to visitors.", also "http_dataplane_sent_bytes_total";
}

/// Counters of the HTTP plane.
#[derive(Debug, Default)]
pub struct HttpStats {
    /// Connections of visitors that are open.
    pub connections: AtomicU64,
    /// Requests under way, upgraded ones included.
    pub in_flight: AtomicU64,
    /// Visitors refused by their address, at accept or by a page.
    pub refused: AtomicU64,
    /// Visitors cut because their address is no longer allowed.
    pub cut: AtomicU64,
    /// Bytes of bodies from visitors to upstreams.
    pub bytes_in: AtomicU64,
    /// Bytes of bodies from upstreams to visitors.
    pub bytes_out: AtomicU64,
    hosts: Mutex<BTreeMap<Arc<str>, Arc<HostStats>>>,
}

/// Counters of one host.
#[derive(Debug, Default)]
pub(super) struct HostStats {
    requests: Mutex<Vec<(Method, u16, u64)>>,
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
}

impl HttpStats {
    /// The counters of a host; hosts beyond the limit share one.
    pub(super) fn host(&self, host: &str) -> Arc<HostStats> {
        let mut hosts = self.hosts.lock();
        if let Some(found) = hosts.get(host) {
            return found.clone();
        }
        let name = if hosts.len() < HOSTS_MAX { host } else { "other" };
        hosts.entry(name.into()).or_default().clone()
    }

    /// Appends everything, also under the names that inlets-pro uses.
    pub fn expose(&self, out: &mut Exposition) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let hosts = self.hosts.lock().clone();
        out.family(&REQUESTS, |samples| {
            for (host, stats) in &hosts {
                for (method, code, n) in stats.requests.lock().iter() {
                    let (method, code) = (method.label(), code.to_string());
                    samples.add(&[("code", &code), ("host", host), ("method", method)], *n);
                }
            }
        });
        out.family(&DURATION, |samples| {
            for (host, stats) in &hosts {
                let mut sum = 0;
                let buckets: Vec<(f64, u64)> = (BUCKETS.iter().zip(&stats.buckets))
                    .map(|(bound, n)| {
                        sum += get(n);
                        (*bound, sum)
                    })
                    .collect();
                let count: u64 = stats.requests.lock().iter().map(|r| r.2).sum();
                let seconds = get(&stats.micros) as f64 / 1e6;
                samples.histogram(&[("host", host)], &buckets, seconds, count.max(sum));
            }
        });
        out.one(&CONNECTIONS, get(&self.connections));
        out.one(&IN_FLIGHT, get(&self.in_flight));
        out.one(&REFUSED, get(&self.refused));
        out.one(&CUT, get(&self.cut));
        out.one(&RECEIVED, get(&self.bytes_in));
        out.one(&SENT, get(&self.bytes_out));
    }
}

impl HostStats {
    /// Notes a request that is over.
    pub(super) fn note(&self, method: Method, status: u16, took: Duration) {
        let mut rows = self.requests.lock();
        if let Some(row) = rows.iter_mut().find(|r| r.0 == method && r.1 == status) {
            row.2 += 1;
        } else if rows.len() < ROWS_MAX {
            rows.push((method, status, 1));
        }
        drop(rows);
        let seconds = took.as_secs_f64();
        if let Some(i) = BUCKETS.iter().position(|b| seconds <= *b)
            && let Some(bucket) = self.buckets.get(i)
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Counts as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(super) fn new(n: &'a AtomicU64) -> Counted<'a> {
        n.fetch_add(1, Ordering::Relaxed);
        Counted(n)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
