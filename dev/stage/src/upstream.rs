//! Private services. In: connections. Out: answers that show what arrived, byte for byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::http;

/// A service with a thread for each connection; ends with its owner.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
    total: AtomicUsize,
}

impl Upstream {
    /// Any service on a free port of 127.0.0.1.
    pub fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Upstream {
        Upstream::serve_at(SocketAddr::from(([127, 0, 0, 1], 0)), handle)
    }

    /// Any service at `addr`.
    pub fn serve_at(addr: SocketAddr, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (inner, handle) = (shared.clone(), Arc::new(handle));
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if inner.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (inner, handle) = (inner.clone(), handle.clone());
                inner.open.fetch_add(1, Ordering::Relaxed);
                inner.total.fetch_add(1, Ordering::Relaxed);
                let serve = move || {
                    let _ = stream.set_nodelay(true);
                    handle(stream);
                    inner.open.fetch_sub(1, Ordering::Relaxed);
                };
                // Small stacks: some tests hold thousands of connections.
                let _ = std::thread::Builder::new().name("upstream".to_string()).stack_size(128 * 1024).spawn(serve);
            }
        };
        std::thread::Builder::new().name("upstream".to_string()).spawn(accept).unwrap();
        Upstream { addr, shared }
    }

    /// Sends back what it gets; ends its side when the visitor has ended theirs.
    #[must_use]
    pub fn echo() -> Upstream {
        Upstream::serve(echo)
    }

    /// Reads to the end, then answers `LENGTH SHA-256\n` and closes: works only where half-close is kept.
    #[must_use]
    pub fn digest() -> Upstream {
        Upstream::serve(|mut s| {
            if let Ok(all) = crate::read_all(&mut s, usize::MAX) {
                let _ = writeln!(s, "{} {}", all.len(), crate::sha256(&all));
            }
        })
    }

    /// Speaks first: a banner, then an echo.
    #[must_use]
    pub fn banner(text: &'static str) -> Upstream {
        Upstream::serve(move |mut s| {
            let _ = s.write_all(text.as_bytes());
            if let Ok(mut reader) = s.try_clone() {
                let _ = io::copy(&mut reader, &mut s);
            }
        })
    }

    /// A site; see [`site`] for its paths.
    #[must_use]
    pub fn site(name: &'static str) -> Upstream {
        Upstream::serve(move |s| {
            let _ = site(name, s);
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections ever accepted.
    #[must_use]
    pub fn total(&self) -> usize {
        self.shared.total.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

/// Sends back what comes, then ends its side.
pub fn echo(mut s: TcpStream) {
    if let Ok(mut reader) = s.try_clone() {
        let _ = io::copy(&mut reader, &mut s);
    }
    let _ = s.shutdown(Shutdown::Write);
}

/// A service on a free port for as long as the test run lasts: the answer's status and body are a function of the
/// request's head. A 302 leads to `/login`.
pub fn answering(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> SocketAddr {
    answering_with(move |head| {
        let (status, body) = answer(head);
        (status, if status == 302 { "Location: /login\r\n".to_string() } else { String::new() }, body)
    })
}

/// The same with the answer's fields, each with its line end, between status and body.
pub fn answering_with(answer: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static) -> SocketAddr {
    let upstream = Upstream::serve(move |mut s| {
        while let Ok(Some(head)) = http::read_head(&mut s) {
            if http::read_request_body(&mut s, &head).is_err() {
                return;
            }
            let (status, fields, body) = answer(&head);
            let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
            if s.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
        }
    });
    let addr = upstream.addr();
    std::mem::forget(upstream);
    addr
}

/// Serves one connection of a site, request after request:
///
/// | path | answer |
/// | --- | --- |
/// | `/head` | the request's head as it arrived |
/// | `/bytes/N/SEED` | `N` bytes of [`crate::pattern`] |
/// | `/digest` | `LENGTH SHA-256` of the request's body |
/// | `/events/N` | `N` events, one each 100 ms, chunked |
/// | `/die/N` | promises `2 N` bytes, sends `N` and closes |
/// | any, with `Upgrade` | 101, then an echo |
/// | anything else | `hello from NAME` |
///
/// # Errors
/// As the stream.
pub fn site(name: &str, mut s: TcpStream) -> io::Result<()> {
    loop {
        let Some(head) = http::read_head(&mut s)? else { return Ok(()) };
        let path = head.split_whitespace().nth(1).unwrap_or("/").to_string();
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<usize>().ok()).unwrap_or(0);
        if http::header(&head, "upgrade").is_some() {
            return upgrade(s, &head);
        }
        if http::header(&head, "expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            s.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = http::read_request_body(&mut s, &head)?;
        match words[0] {
            "head" => answer(&mut s, head.as_bytes())?,
            "bytes" => answer(&mut s, &crate::pattern(number(1), number(2) as u64))?,
            "digest" => answer(&mut s, format!("{} {}", body.len(), crate::sha256(&body)).as_bytes())?,
            "events" => {
                s.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                )?;
                for i in 0..number(1) {
                    let event = format!("data: {i}\n\n");
                    write!(s, "{:x}\r\n{event}\r\n", event.len())?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                s.write_all(b"0\r\n\r\n")?;
            }
            "die" => {
                write!(s, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * number(1))?;
                s.write_all(&crate::pattern(number(1), 1))?;
                return Ok(());
            }
            _ => answer(&mut s, format!("hello from {name}\n").as_bytes())?,
        }
        if http::header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

fn answer(s: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
    s.write_all(head.as_bytes())?;
    s.write_all(body)
}

fn upgrade(mut s: TcpStream, head: &str) -> io::Result<()> {
    let key = http::header(head, "sec-websocket-key").unwrap_or_default();
    let accept = http::websocket_accept(&key);
    write!(
        s,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    let mut buf = vec![0; 16 * 1024];
    loop {
        match s.read(&mut buf)? {
            0 => return Ok(()),
            n => s.write_all(&buf[..n])?,
        }
    }
}
