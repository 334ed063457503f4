//! The test's world: a plane on loopback whose router connects straight to upstreams made here, and raw visitors.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use access::{List, ViewBuilder};
use addr::AddrSet;
use bytes::Bytes;
use http::Response;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::admission::Admission;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tunnel::http::{HttpPlane, HttpSettings, Io, Router, Speaks, Target, Visitor, serve_connection};
use tunnel_proto::hello::Rewrite;
use tunnel_proto::http1::forwarded::Trust;

/// Nothing in these tests takes longer, unless it hangs.
pub const SOON: Duration = Duration::from_secs(10);

/// Routes by exact host, then path prefix, then the catch-all `*`.
#[derive(Default)]
pub struct Fixed {
    pub routes: BTreeMap<(String, String), SocketAddr>,
    pub opened: AtomicUsize,
    /// What is said of every upstream.
    pub speaks: Speaks,
    pub rewrite: Option<Arc<Rewrite>>,
}

/// Trusted proxies, and everything else as it is by default.
pub fn settings(proxies: AddrSet) -> HttpSettings {
    HttpSettings { trust: Trust::proxies(proxies), stall: Duration::from_secs(60) }
}

impl Router for Fixed {
    fn route<'a>(&'a self, host: &'a str, path: &'a str) -> Pin<Box<dyn Future<Output = Option<Target>> + Send + 'a>> {
        Box::pin(async move {
            if host == "waiting.test" {
                // As while its client is reconnecting.
                std::future::pending::<()>().await;
            }
            let found = |h: &str| {
                let mut best: Option<(u32, &str, SocketAddr)> = None;
                for (i, ((host, prefix), addr)) in self.routes.iter().enumerate() {
                    let longer = best.as_ref().is_none_or(|b| prefix.len() > b.1.len());
                    if host == h && path.starts_with(prefix.as_str()) && longer {
                        best = Some((i as u32, prefix, *addr));
                    }
                }
                best
            };
            let (upstream, prefix, addr) = found(host).or_else(|| found("*"))?;
            Some(Target {
                session: 1,
                upstream,
                name: format!("http://{addr} at test").into(),
                prefix: prefix.into(),
                speaks: self.speaks,
                rewrite: self.rewrite.clone(),
            })
        })
    }

    fn open<'a>(
        &'a self,
        target: &'a Target,
        _visitor: Visitor,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>> {
        Box::pin(async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let addr = *self.routes.values().nth(target.upstream as usize).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(TcpStream::connect(addr).await?) as Box<dyn Io>)
        })
    }
}

/// A running plane.
pub struct World {
    pub addr: SocketAddr,
    pub admission: Arc<Admission>,
    pub router: Arc<Fixed>,
    pub plane: Arc<HttpPlane<Fixed>>,
}

impl World {
    /// Routes as `("app.test", "/prefix", addr)`; everybody on loopback is allowed; nobody is a trusted proxy.
    pub async fn new(routes: &[(&str, &str, SocketAddr)]) -> World {
        World::with(routes, &[("data", "127.0.0.0/8")], "").await
    }

    pub async fn with(routes: &[(&str, &str, SocketAddr)], lists: &[(&str, &str)], trusted: &str) -> World {
        World::made(routes, lists, settings(set(trusted)), |_| {}).await
    }

    /// With upstreams and settings of its own.
    pub async fn made(
        routes: &[(&str, &str, SocketAddr)],
        lists: &[(&str, &str)],
        settings: HttpSettings,
        change: impl FnOnce(&mut Fixed),
    ) -> World {
        let routes = routes.iter().map(|(h, p, a)| ((h.to_string(), p.to_string()), *a)).collect();
        let mut router = Fixed { routes, ..Fixed::default() };
        change(&mut router);
        let router = Arc::new(router);
        let admission = Admission::new();
        let plane = HttpPlane::new(router.clone(), admission.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = plane.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let plane = serving.clone();
                tokio::spawn(async move { serve_connection(&plane, stream, peer).await });
            }
        });
        let world = World { addr, admission, router, plane };
        world.publish(lists);
        world
    }

    pub fn publish(&self, lists: &[(&str, &str)]) -> usize {
        let mut view = ViewBuilder::default();
        for (name, text) in lists {
            view.add(List { name: name.to_string(), set: set(text), source: "test".into() });
        }
        self.admission.publish(view.build(self.admission.view().generation + 1))
    }

    pub fn opened(&self) -> usize {
        self.router.opened.load(Ordering::SeqCst)
    }

    pub async fn visit(&self) -> Raw {
        self.visit_from(Ipv4Addr::LOCALHOST).await
    }

    pub async fn visit_from(&self, from: Ipv4Addr) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(from), 0).into()).unwrap();
        Raw { stream: socket.connect(self.addr).await.unwrap(), read: Vec::new() }
    }

    /// One request on a connection of its own; everything that comes back until the end.
    pub async fn ask(&self, request: &str) -> String {
        let mut raw = self.visit().await;
        raw.send(request).await;
        raw.rest().await
    }
}

pub fn set(text: &str) -> AddrSet {
    AddrSet::new(addr::parse_list(text).unwrap().prefixes)
}

/// A visitor who writes bytes.
pub struct Raw {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads until the text was seen; returns everything up to its end.
    pub async fn until(&mut self, text: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = self.read.windows(text.len()).position(|w| w == text.as_bytes()) {
                    let rest = self.read.split_off(at + text.len());
                    return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                }
                let mut buf = [0; 4096];
                let n = self.stream.read(&mut buf).await.unwrap();
                assert!(n > 0, "ended before {text:?}; got {:?}", String::from_utf8_lossy(&self.read));
                self.read.extend_from_slice(&buf[..n]);
            }
        };
        match tokio::time::timeout(SOON, read).await {
            Ok(text) => text,
            Err(_) => panic!("{text:?} did not come; got {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub async fn exact(&mut self, n: usize) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.read);
        assert!(out.len() <= n, "too much came");
        let start = out.len();
        out.resize(n, 0);
        tokio::time::timeout(SOON, self.stream.read_exact(&mut out[start..])).await.unwrap().unwrap();
        out
    }

    /// A whole response with a `Content-Length`: head and body.
    pub async fn response(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = field(&head, "content-length").map_or(0, |v| v.parse().unwrap());
        let mut body = std::mem::take(&mut self.read);
        while body.len() < length {
            let mut buf = [0; 4096];
            let n = tokio::time::timeout(SOON, self.stream.read(&mut buf)).await.unwrap().unwrap();
            assert!(n > 0, "the body is cut short");
            body.extend_from_slice(&buf[..n]);
        }
        self.read = body.split_off(length);
        (head, String::from_utf8(body).unwrap())
    }

    /// Some bytes: those that were read ahead, or the next; 0 at the end.
    pub async fn some(&mut self, buf: &mut [u8]) -> usize {
        if self.read.is_empty() {
            return self.stream.read(buf).await.unwrap();
        }
        let n = buf.len().min(self.read.len());
        buf[..n].copy_from_slice(&self.read[..n]);
        self.read.drain(..n);
        n
    }

    /// Everything until the end in order.
    pub async fn rest(&mut self) -> String {
        match self.ending().await {
            Ending::Closed(text) => text,
            Ending::Reset(text) => panic!("reset after {text:?}"),
        }
    }

    /// Everything until the end, and which end it was.
    pub async fn ending(&mut self) -> Ending {
        let mut out = std::mem::take(&mut self.read);
        let end = tokio::time::timeout(SOON, self.stream.read_to_end(&mut out)).await.expect("no end came");
        let text = String::from_utf8_lossy(&out).into_owned();
        if end.is_ok() { Ending::Closed(text) } else { Ending::Reset(text) }
    }
}

#[derive(Debug)]
pub enum Ending {
    Closed(String),
    Reset(String),
}

/// The value of a field in a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// An upstream: `serve` gets each connection.
pub async fn upstream<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Raw) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(Raw { stream, read: Vec::new() }));
        }
    });
    addr
}

/// An upstream that answers every request on a connection with the head it got, as the body.
pub async fn mirror() -> SocketAddr {
    upstream(|mut raw| async move {
        loop {
            let head = match tokio::time::timeout(SOON, raw.try_head()).await {
                Ok(Some(head)) => head,
                _ => return,
            };
            let length = field(&head, "content-length").map_or(0, |v| v.parse().unwrap());
            let body = String::from_utf8(raw.take(length).await).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}{body}", head.len() + body.len());
            raw.send(answer).await;
        }
    })
    .await
}

impl Raw {
    pub async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.read.split_off(at + 4);
                return Some(String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap());
            }
            let mut buf = [0; 4096];
            match self.stream.read(&mut buf).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.read.extend_from_slice(&buf[..n]),
            }
        }
    }

    pub async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            let mut buf = [0; 4096];
            let got = tokio::time::timeout(SOON, self.stream.read(&mut buf)).await.unwrap().unwrap();
            assert!(got > 0, "ended early");
            self.read.extend_from_slice(&buf[..got]);
        }
        let rest = self.read.split_off(n);
        std::mem::replace(&mut self.read, rest)
    }
}

/// A visitor that speaks HTTP/2.
pub type Sender = http2::SendRequest<BoxBody<Bytes, Infallible>>;

/// Connects from 127.0.0.`from` and speaks HTTP/2.
pub async fn visit_h2(world: &World, from: u8) -> Sender {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, from)), 0).into()).unwrap();
    let stream = socket.connect(world.addr).await.unwrap();
    let (sender, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(conn);
    sender
}

pub fn empty() -> BoxBody<Bytes, Infallible> {
    Full::default().boxed()
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
