//! The built binary among strangers who mean harm. In: garbage, floods, lies, peers that break the protocol. Out: proof
//! that the edge stays up with bounded memory, keeps serving the others and lets nobody in.

mod flood;
mod frames;
mod headers;
mod requests;
mod strangers;
mod tokens;

use std::net::SocketAddr;

use stage::edge::{Client, Edge, Mode, wait_site};
use stage::http;
use stage::upstream::Upstream;

/// Memory that an attack may cost an edge, in KiB: far below what unbounded growth would take, far above noise.
/// 103 MiB were seen once where the same attack mostly costs a few: what a connection may hold, and holes between.
const MEMORY: u64 = 128 * 1024;

/// An HTTP edge without TLS, its client and a site behind it.
struct Site {
    client: Client,
    edge: Edge,
    _upstream: Upstream,
    before: u64,
}

impl Site {
    fn start(upstream: Upstream, args: &[&str]) -> Site {
        let mut edge = Edge::start(Mode::Http, false, args);
        let client = edge.client(&["--upstream", &format!("http://{}", upstream.addr())]);
        let site = Site { client, edge, _upstream: upstream, before: 0 };
        site.serves();
        let before = site.edge.process.rss_kib();
        Site { before, ..site }
    }

    fn http(&self) -> SocketAddr {
        self.edge.http
    }

    /// Others are served.
    fn serves(&self) {
        wait_site(self.edge.http, "site.test")
            .unwrap_or_else(|e| panic!("others are not served: {e}\nclient:\n{}", self.client.process.output()));
    }

    /// The edge and the client still run, still serve and did not grow without bound.
    fn unharmed(&mut self) {
        self.edge.process.must_run();
        self.client.process.must_run();
        self.serves();
        let grown = self.edge.process.rss_kib().saturating_sub(self.before);
        assert!(grown < MEMORY, "the edge grew by {grown} KiB");
        assert_eq!(
            http::get(self.edge.http, "site.test", "/bytes/100000/5", &[]).unwrap().body,
            stage::pattern(100_000, 5)
        );
    }
}
