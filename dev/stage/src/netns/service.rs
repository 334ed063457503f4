//! A service on a host that says whom it sees. In: TCP connections and UDP packets. Out: the source address of each, to
//! the visitor and to the test.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Host;

/// A running service; ends with its owner.
#[derive(Debug)]
pub struct Service {
    host: Host,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Vec<IpAddr>>,
}

impl Service {
    /// Answers TCP and UDP at `addr` (all addresses of the host: `[::]:PORT`).
    pub fn start(host: &Host, addr: SocketAddr) -> Service {
        let shared = Arc::new(Shared::default());
        let inner = shared.clone();
        host.within(|| {
            let tcp = TcpListener::bind(addr).unwrap_or_else(|e| panic!("{} cannot bind {addr}: {e}", host.name()));
            let udp = UdpSocket::bind(addr).unwrap_or_else(|e| panic!("{} cannot bind {addr}: {e}", host.name()));
            let other = inner.clone();
            std::thread::Builder::new().name("service".to_string()).spawn(move || accept(&tcp, &inner)).unwrap();
            std::thread::Builder::new().name("service".to_string()).spawn(move || echo(&udp, &other)).unwrap();
        });
        Service { host: host.clone(), addr, shared }
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it answers.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The sources of all connections so far, in order; IPv4 as IPv4.
    #[must_use]
    pub fn seen(&self) -> Vec<IpAddr> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let any = self.addr.ip().is_unspecified();
        let at = SocketAddr::new(if any { [127, 0, 0, 1].into() } else { self.addr.ip() }, self.addr.port());
        let _ = self.host.connect(at, Duration::from_millis(200));
        let wake = || UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"end", at));
        let _ = self.host.within(wake);
    }
}

/// What a visitor of a [`Service`] learned: the source address that the service saw.
///
/// # Errors
/// Why there was no answer within `limit`.
pub fn visit(from: &Host, to: SocketAddr, limit: Duration) -> Result<IpAddr, String> {
    let mut stream = from.connect(to, limit).map_err(|e| e.to_string())?;
    answer(&mut stream)
}

/// The same over a connection that stands.
///
/// # Errors
/// As the connection, or if something else answers.
pub fn answer(stream: &mut (impl Read + Write)) -> Result<IpAddr, String> {
    stream.write_all(b"whom do you see?\n").map_err(|e| e.to_string())?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 64 && stream.read(&mut byte).map_err(|e| e.to_string())? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).parse().map_err(|_| format!("answered {:?}", String::from_utf8_lossy(&line)))
}

/// The same by one UDP packet.
///
/// # Errors
/// Why there was no answer within `limit`.
pub fn visit_udp(from: &Host, to: SocketAddr, limit: Duration) -> Result<IpAddr, String> {
    from.within(|| {
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let ask = || {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(limit))?;
            socket.send_to(b"whom do you see?", to)?;
            let mut buf = [0; 64];
            socket.recv(&mut buf).map(|n| String::from_utf8_lossy(&buf[..n]).trim().to_string())
        };
        let text = ask().map_err(|e: std::io::Error| e.to_string())?;
        text.parse().map_err(|_| format!("answered {text:?}"))
    })
}

fn accept(listener: &TcpListener, shared: &Shared) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        let Ok(peer) = stream.peer_addr() else { continue };
        let peer = peer.ip().to_canonical();
        shared.seen.lock().unwrap().push(peer);
        let serve = move || {
            let mut buf = [0; 512];
            // One line for each thing said, so that a test can see whether an open connection still lives.
            while stream.read(&mut buf).is_ok_and(|n| n > 0) && stream.write_all(format!("{peer}\n").as_bytes()).is_ok()
            {
            }
        };
        let _ = std::thread::Builder::new().name("service".to_string()).stack_size(128 * 1024).spawn(serve);
    }
}

fn echo(socket: &UdpSocket, shared: &Shared) {
    let mut buf = [0; 512];
    while let Ok((_, peer)) = socket.recv_from(&mut buf) {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let seen = peer.ip().to_canonical();
        shared.seen.lock().unwrap().push(seen);
        let _ = socket.send_to(format!("{seen}\n").as_bytes(), peer);
    }
}
