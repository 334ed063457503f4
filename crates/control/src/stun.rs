//! The STUN server of the mesh. In: datagrams of official clients. Out: the address each came from. One buffer, one
//! socket, no state; an answer is hardly longer than its question, so it is of no use against others.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tailnet_proto::stun::{REQUEST_MAX, RESPONSE_MAX, Request, Response};
use tokio::net::UdpSocket;
use tracing::warn;

use net::log_budget::LogBudget;

/// Pause after an error of the socket itself, so that a broken one does not keep a processor busy.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A bound STUN server.
#[derive(Debug)]
pub struct Stun {
    socket: UdpSocket,
    counts: Counters,
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions answered.
    pub answered: u64,
    /// Datagrams that were none, or of others than official clients.
    pub ignored: u64,
    /// Answers that could not be sent.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    ignored: AtomicU64,
    failed: AtomicU64,
}

impl Stun {
    /// Binds; `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(address: SocketAddr) -> io::Result<Stun> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(Stun { socket: UdpSocket::from_std(socket.into())?, counts: Counters::default() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            answered: get(&self.counts.answered),
            ignored: get(&self.counts.ignored),
            failed: get(&self.counts.failed),
        }
    }

    /// Answers until it is dropped.
    pub async fn run(&self) {
        // One byte more than the longest question: what fills it is none.
        let mut question = [0; REQUEST_MAX + 1];
        let mut answer = [0; RESPONSE_MAX];
        let log = LogBudget::default();
        loop {
            let (len, from) = match self.socket.recv_from(&mut question).await {
                Ok(came) => came,
                Err(e) => {
                    // Also what the network says about answers to addresses that are gone.
                    if e.kind() != io::ErrorKind::ConnectionRefused {
                        if let Some(held_back) = log.spend(Instant::now()) {
                            warn!(held_back, "stun: {e}");
                        }
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(Request { transaction }) = Request::try_from(&question[..len]) else {
                self.counts.ignored.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let len = Response { transaction, mapped: from }.encode(&mut answer);
            // An answer that does not go out at once is not worth waiting for: they ask again.
            let sent = self.socket.try_send_to(&answer[..len], from);
            let count = if sent.is_ok() { &self.counts.answered } else { &self.counts.failed };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn ask(server: SocketAddr, from: &str) -> Response {
        let socket = UdpSocket::bind(from).await.unwrap();
        socket.connect(server).await.unwrap();
        // Garbage first: it gets no answer and breaks nothing.
        socket.send(b"garbage").await.unwrap();
        socket.send(&[0; 2000]).await.unwrap();
        let request = Request { transaction: *b"one question" };
        socket.send(&request.encode()).await.unwrap();
        let mut answer = [0; 100];
        let len = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer)).await.unwrap().unwrap();
        let response = Response::try_from(&answer[..len]).unwrap();
        assert_eq!(response.transaction, request.transaction);
        assert_eq!(response.mapped, socket.local_addr().unwrap());
        response
    }

    #[tokio::test]
    async fn official_questions_are_answered_with_the_address_they_came_from() {
        let v4 = Arc::new(Stun::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let server = v4.clone();
        let running = tokio::spawn(async move { server.run().await });
        ask(v4.address().unwrap(), "127.0.0.1:0").await;
        assert_eq!(v4.counts(), Counts { answered: 1, ignored: 2, failed: 0 });
        running.abort();
        let Ok(both) = Stun::bind("[::]:0".parse().unwrap()) else {
            println!("skipped: no IPv6 here");
            return;
        };
        let port = both.address().unwrap().port();
        let running = tokio::spawn(async move { both.run().await });
        assert!(ask(SocketAddr::from(([127, 0, 0, 1], port)), "127.0.0.1:0").await.mapped.is_ipv4());
        assert!(ask(format!("[::1]:{port}").parse().unwrap(), "[::1]:0").await.mapped.is_ipv6());
        running.abort();
    }
}
