//! Load for tunnels: an upstream that knows four games, and visitors that play them. In: an address, how many, how
//! long. Out: bytes, counts and times. One thread for each side, so that the tunnel under test gets the rest.
//!
//! The first byte of a connection names the game: `E` echo one byte, `D` download until closed, `U` upload until
//! closed, `G` HTTP requests (the `G` of `GET`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What bulk is written and read in: large enough that the load costs less than the tunnel.
const CHUNK: usize = 256 * 1024;

/// Before a window is measured: slow start and the growth of buffers are over.
const WARM: Duration = Duration::from_millis(250);

/// A request as small as any real one.
const REQUEST: &[u8] = b"GET /r HTTP/1.1\r\nHost: bench.test\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";

/// The upstream, on a thread of its own until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    /// Bytes that arrived in uploads.
    received: Arc<AtomicU64>,
}

/// Counts and times of many small things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Small {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

/// Which way bulk goes, seen from the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Down,
    Up,
}

impl Upstream {
    pub(crate) fn start(addr: SocketAddr) -> Result<Upstream> {
        let listener = std::net::TcpListener::bind(addr).with_context(|| format!("cannot bind {addr}"))?;
        listener.set_nonblocking(true)?;
        let up = Upstream { addr: listener.local_addr()?, received: Arc::default() };
        let received = up.received.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(play(stream, received.clone()));
                    }
                }
            });
        };
        std::thread::Builder::new().name("upstream".to_string()).spawn(serve)?;
        Ok(up)
    }
}

/// The upstream's side of one connection.
async fn play(mut stream: TcpStream, received: Arc<AtomicU64>) {
    let mut first = [0; 1];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let _ = match first[0] {
        b'E' => echo(stream).await,
        b'D' => {
            let chunk = vec![0x5a; CHUNK];
            loop {
                if stream.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        }
        b'U' => {
            let mut chunk = vec![0; CHUNK];
            loop {
                match stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => received.fetch_add(n as u64, Ordering::Relaxed),
                };
            }
        }
        _ => answer(stream).await,
    };
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"E").await?;
    // Small: thousands of these wait at once.
    let mut more = [0; 16];
    loop {
        match stream.read(&mut more).await? {
            0 => return Ok(()),
            n => stream.write_all(&more[..n]).await?,
        }
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buf = vec![0; 4096];
    buf[0] = b'G';
    let mut len = 1;
    loop {
        while let Some(end) = find(&buf[..len], b"\r\n\r\n") {
            stream.write_all(RESPONSE).await?;
            buf.copy_within(end + 4..len, 0);
            len -= end + 4;
        }
        if len == buf.len() {
            return Ok(());
        }
        match stream.read(&mut buf[len..]).await? {
            0 => return Ok(()),
            n => len += n,
        }
    }
}

/// Runs visitors on this thread.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// Bulk through `streams` connections. `cpu` is asked at both ends of the measured window; gives bytes, the window and
/// the difference in CPU seconds.
pub(crate) async fn bulk(
    to: SocketAddr,
    up: &Upstream,
    way: Way,
    streams: usize,
    window: Duration,
    cpu: impl Fn() -> Duration,
) -> Result<(u64, Duration, Duration)> {
    let received = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::<Result<()>>::new();
    for _ in 0..streams {
        let mut stream = connect(to).await?;
        let received = received.clone();
        tasks.spawn(async move {
            let mut chunk = vec![0; CHUNK];
            match way {
                Way::Down => {
                    stream.write_all(b"D").await?;
                    loop {
                        match stream.read(&mut chunk).await? {
                            0 => bail!("a download was closed by the tunnel"),
                            n => received.fetch_add(n as u64, Ordering::Relaxed),
                        };
                    }
                }
                Way::Up => {
                    stream.write_all(b"U").await?;
                    loop {
                        stream.write_all(&chunk).await?;
                    }
                }
            }
        });
    }
    let counter = if way == Way::Down { &received } else { &up.received };
    tokio::time::sleep(WARM).await;
    let (bytes, used, start) = (counter.load(Ordering::Relaxed), cpu(), Instant::now());
    tokio::time::sleep(window).await;
    let (bytes, used, took) = (counter.load(Ordering::Relaxed) - bytes, cpu().saturating_sub(used), start.elapsed());
    if let Some(Ok(Err(e))) = tasks.try_join_next() {
        return Err(e);
    }
    if bytes == 0 {
        bail!("no byte came through");
    }
    Ok((bytes, took, used))
}

/// Requests on `connections` kept alive, one at a time on each.
pub(crate) async fn requests(to: SocketAddr, connections: usize, window: Duration) -> Result<Small> {
    let end = Instant::now() + window;
    let mut tasks = tokio::task::JoinSet::new();
    let start = Instant::now();
    for _ in 0..connections {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(8192);
            let mut stream = connect(to).await?;
            let mut buf = vec![0; 4096];
            while Instant::now() < end {
                let begin = Instant::now();
                stream.write_all(REQUEST).await?;
                let mut len = 0;
                loop {
                    match stream.read(&mut buf[len..]).await? {
                        0 => bail!("a kept-alive connection was closed"),
                        n => len += n,
                    }
                    if let Some(head) = find(&buf[..len], b"\r\n\r\n")
                        && len >= head + 4 + 3
                    {
                        break;
                    }
                }
                if !buf.starts_with(b"HTTP/1.1 200") {
                    bail!("not 200: {}", String::from_utf8_lossy(&buf[..len.min(80)]));
                }
                times.push(begin.elapsed().as_nanos() as u64);
            }
            Ok(times)
        });
    }
    collect(tasks, start).await
}

/// Connect, one byte there and back, close; `flight` at a time.
pub(crate) async fn connections(to: SocketAddr, flight: usize, window: Duration) -> Result<Small> {
    let (start, end) = (Instant::now(), Instant::now() + window);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..flight {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(8192);
            let mut failed = 0;
            while Instant::now() < end {
                let begin = Instant::now();
                match once(to).await {
                    Ok(()) => times.push(begin.elapsed().as_nanos() as u64),
                    Err(e) => {
                        failed += 1;
                        if failed > 50 {
                            return Err(e);
                        }
                    }
                }
            }
            // A failure is worth no time: it is shown by itself.
            times.extend(std::iter::repeat_n(u64::MAX, failed));
            Ok(times)
        });
    }
    collect(tasks, start).await
}

/// Opens `n` connections that stay open and idle after one byte there and back.
pub(crate) async fn hold(to: SocketAddr, n: usize) -> Result<Vec<TcpStream>> {
    // As many at once as the connection row has.
    let slots = Arc::new(Semaphore::new(32));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..n {
        let slots = slots.clone();
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await?;
            let mut stream = connect(to).await?;
            stream.write_all(b"E").await?;
            let mut back = [0];
            tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut back))
                .await
                .context("no answer in 20 s")??;
            anyhow::Ok(stream)
        });
    }
    let mut held = Vec::with_capacity(n);
    while let Some(done) = tasks.join_next().await {
        held.push(done??);
    }
    Ok(held)
}

async fn once(to: SocketAddr) -> Result<()> {
    let mut stream = connect(to).await?;
    stream.write_all(b"E").await?;
    let mut back = [0];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut back)).await.context("no answer in 5 s")??;
    Ok(())
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn collect(mut tasks: tokio::task::JoinSet<Result<Vec<u64>>>, start: Instant) -> Result<Small> {
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let took = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let good = times.partition_point(|t| *t != u64::MAX);
    let failed = times.len() - good;
    times.truncate(good);
    if times.is_empty() {
        bail!("nothing came through");
    }
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] as f64 / 1e6;
    Ok(Small {
        per_second: good as f64 / took,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        done: good as u64,
        failed: failed as u64,
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
