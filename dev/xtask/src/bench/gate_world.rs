//! What the gate's benchmark runs: gates with long lists, the proxies in front of them, a Flask service beside them, and
//! the questions that are asked. In: the binary, a number of entries. Out: processes, and how long things take.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use stage::Dir;
use stage::netns::Host;
use stage::peers::{cache, find};
use stage::ports::{free, local};
use stage::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::load::Small;

/// The list of every gate here.
pub(crate) const LIST: &str = "dynamic-whitelist";
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A running gate.
pub(crate) struct Gate {
    pub(crate) process: Process,
    pub(crate) dir: Dir,
    pub(crate) mirror: SocketAddr,
    pub(crate) check: SocketAddr,
    /// From the start of the process to the first verdict.
    pub(crate) started: Duration,
}

/// The address of the entry with this number: no two are neighbours, so none merge.
pub(crate) fn entry(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x1400_0000 + 7 * n as u32)
}

/// An address that proves itself during the measurement (RFC 5737).
pub(crate) fn newcomer(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1 + (n % 250) as u8)
}

impl Gate {
    /// A gate with `entries` on its list. On a host if one is given, else here.
    pub(crate) fn start(bin: &Path, entries: usize, args: &[String], host: Option<&Host>) -> Result<Gate> {
        let dir = Dir::new("bench-gate");
        let mut text = format!("http:\n  middlewares:\n    {LIST}:\n      ipAllowList:\n        sourceRange:\n");
        for n in 0..entries {
            text.push_str(&format!("        - \"{}\"\n", entry(n)));
        }
        std::fs::write(dir.path().join("dynamic-whitelist.yml"), text)?;
        let gate = Gate::again(bin, dir, args, host)?;
        if entries > 0 {
            let (status, _) = gate.verdict(entry(entries - 1), host)?;
            if status != 200 {
                bail!("the gate did not take over {entries} entries: {status}\n{}", gate.process.output());
            }
        }
        Ok(gate)
    }

    /// A gate in a directory that another one left.
    pub(crate) fn again(bin: &Path, dir: Dir, args: &[String], host: Option<&Host>) -> Result<Gate> {
        let (mirror, check) = (local(free()), local(free()));
        let mut c = host.map_or_else(|| Command::new(bin), |h| h.command(bin));
        c.args(["gatekeeper", "--listen", &mirror.to_string(), "--check-listen", &check.to_string(), "--data-dir"])
            .arg(dir.path().join("state"))
            .args(args)
            .current_dir(dir.path())
            .env("DEFAULT_SOURCE_RANGE", "127.0.0.1/32")
            .env("NO_COLOR", "1");
        if !args.iter().any(|a| a == "--max") {
            c.args(["--max", "1000000"]);
        }
        let began = Instant::now();
        let mut gate = Gate { process: Process::start("gate", c), dir, mirror, check, started: Duration::ZERO };
        loop {
            if gate.verdict(Ipv4Addr::LOCALHOST, host).is_ok_and(|(status, _)| status == 200) {
                break;
            }
            if gate.process.ended().is_some() || began.elapsed() > LIMIT {
                bail!("the gate does not start:\n{}", gate.process.output());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        gate.started = began.elapsed();
        Ok(gate)
    }

    fn verdict(&self, addr: Ipv4Addr, host: Option<&Host>) -> Result<(u16, Duration)> {
        let mut s = connect(self.check, host)?;
        ask(&mut s, &question(addr))
    }

    /// From a proof to the moment at which `seen` says so. The proof's own answer is read afterwards.
    pub(crate) fn event(
        &self,
        addr: Ipv4Addr,
        host: Option<&Host>,
        mut seen: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let mut s = connect(self.mirror, host)?;
        let began = Instant::now();
        s.write_all(&proof(addr))?;
        while !seen()? {
            if began.elapsed() > LIMIT {
                bail!("{addr} is not enforced within {LIMIT:?}:\n{}", self.process.output());
            }
        }
        let took = began.elapsed();
        let (status, _) = answer(&mut s)?;
        if status != 200 {
            bail!("a proof is answered {status}");
        }
        Ok(took)
    }

    /// Takes an address off the list again.
    pub(crate) fn revoke(&self, bin: &Path, addr: Ipv4Addr) -> Result<()> {
        let mut c = Command::new(bin);
        let out =
            c.args(["grant", "revoke", &addr.to_string(), "--data-dir"]).arg(self.dir.path().join("state")).output()?;
        if !out.status.success() {
            bail!("a revocation failed: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(())
    }
}

/// Asks the check endpoint on one connection until it says yes.
pub(crate) fn by_check(gate: &Gate, addr: Ipv4Addr) -> Result<impl FnMut() -> Result<bool> + use<>> {
    let mut s = connect(gate.check, None)?;
    let question = question(addr);
    Ok(move || Ok(ask(&mut s, &question)?.0 == 200))
}

/// Asks the running HAProxy for the map's entry.
pub(crate) fn by_haproxy(socket: PathBuf, map: &Path, addr: Ipv4Addr) -> impl FnMut() -> Result<bool> + use<> {
    let question = format!("get map {} {addr}\n", map.display());
    move || {
        let mut s = UnixStream::connect(&socket)?;
        s.write_all(question.as_bytes())?;
        let mut said = String::new();
        s.read_to_string(&mut said)?;
        Ok(said.contains("found=yes"))
    }
}

/// Sends packets from the address until one comes through.
pub(crate) fn by_packet(
    visitor: &Host,
    target: &UdpSocket,
    at: SocketAddr,
    addr: Ipv4Addr,
) -> Result<impl FnMut() -> Result<bool>> {
    let from = visitor.within(|| UdpSocket::bind((addr, 0)))?;
    from.connect(at)?;
    let mut buf = [0; 64];
    while target.recv_from(&mut buf).is_ok() {}
    Ok(move || {
        // A packet on its way is taken at once by the kernel; only what came from this address counts.
        from.send(b"x")?;
        Ok(target.recv_from(&mut buf).is_ok_and(|(_, who)| who.ip() == addr))
    })
}

/// Reads the file whenever it is another one.
pub(crate) fn by_file(file: PathBuf, addr: Ipv4Addr) -> impl FnMut() -> Result<bool> + use<> {
    use std::os::unix::fs::MetadataExt;
    let mut last = 0;
    let text = format!("\"{addr}\"");
    move || {
        let now = std::fs::metadata(&file)?.ino();
        if std::mem::replace(&mut last, now) == now {
            std::thread::sleep(Duration::from_micros(50));
            return Ok(false);
        }
        Ok(std::fs::read_to_string(&file)?.contains(&text))
    }
}

/// HAProxy with the map of a gate that is not started yet.
pub(crate) fn haproxy(dir: &Dir) -> Result<(Process, PathBuf, PathBuf)> {
    let (sock, map) = (dir.path().join("h.sock"), dir.write("list.map", ""));
    let at = local(free());
    let conf = dir.write("h.cfg", format!("global\n stats socket {} level admin\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind {at}\n http-request deny deny_status 403 unless {{ src,map_ip({}) -m found }}\n http-request return status 200\n", sock.display(), map.display()));
    let mut c = Command::new(find("haproxy").context("haproxy is not installed")?);
    c.arg("-f").arg(conf).arg("-db");
    let p = Process::start("haproxy", c);
    stage::ports::wait(at, LIMIT).map_err(|e| anyhow!(e))?;
    Ok((p, sock, map))
}

/// A proxy that serves the upstream at `/open`, and behind the check at `/checked`.
pub(crate) fn proxy(name: &str, dir: &Dir, check: SocketAddr, upstream: SocketAddr) -> Result<(Process, SocketAddr)> {
    let at = local(free());
    let program = find(name).with_context(|| format!("{name} is not installed"))?;
    let d = dir.path().display();
    let mut c = Command::new(program);
    match name {
        "nginx" => {
            let conf = dir.write("nginx.conf", format!("daemon off; pid {d}/nginx.pid; error_log stderr warn; worker_processes 2; events {{ worker_connections 2048; }}
http {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  upstream app {{ server {upstream}; keepalive 128; }} upstream gate {{ server {check}; keepalive 128; }} keepalive_requests 100000000;
  proxy_http_version 1.1; proxy_set_header Connection \"\";
  server {{ listen {at};
    location = /_gate {{ internal; proxy_pass http://gate/v1/check/{LIST}; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; proxy_set_header Connection \"\"; proxy_set_header X-Forwarded-For $remote_addr; }}
    location /checked {{ auth_request /_gate; proxy_pass http://app; }}
    location /open {{ proxy_pass http://app; }} }} }}"));
            c.arg("-c").arg(conf);
        }
        "caddy" => {
            // By the port alone: a site with an address answers visitors of other names with an empty 200.
            let port = at.port();
            let conf = dir.write("Caddyfile", format!("{{\n admin off\n auto_https off\n}}\nhttp://:{port} {{\n bind 127.0.0.1\n handle /checked {{\n  forward_auth {check} {{\n   uri /v1/check/{LIST}\n  }}\n  reverse_proxy {upstream}\n }}\n handle /open {{\n  reverse_proxy {upstream}\n }}\n}}\n"));
            c.args(["run", "--adapter", "caddyfile", "--config"]).arg(conf);
            c.env("HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path()).env("XDG_DATA_HOME", dir.path());
        }
        _ => {
            let rules = dir.write("t.yml", format!("http:\n  routers:\n    open: {{ rule: \"Path(`/open`)\", service: app }}\n    checked: {{ rule: \"Path(`/checked`)\", service: app, middlewares: [gate] }}\n  middlewares:\n    gate: {{ forwardAuth: {{ address: \"http://{check}/v1/check/{LIST}\" }} }}\n  services:\n    app: {{ loadBalancer: {{ servers: [ {{ url: \"http://{upstream}\" }} ] }} }}\n"));
            c.args([
                format!("--entrypoints.web.address={at}"),
                format!("--providers.file.filename={}", rules.display()),
                "--log.level=ERROR".to_string(),
            ]);
        }
    }
    c.current_dir(dir.path());
    let p = Process::start(name, c);
    stage::ports::wait(at, LIMIT).map_err(|e| anyhow!("{e}\n{}", p.output()))?;
    let open = Instant::now();
    // What comes is the upstream's own answer, not something that the proxy made up.
    for path in ["/open", "/checked"] {
        while !TcpStream::connect(at)
            .map_err(anyhow::Error::from)
            .and_then(|mut s| ask(&mut s, &get(path)))
            .is_ok_and(|(status, _)| status == 200)
        {
            if open.elapsed() > LIMIT {
                bail!("{name} does not serve {path}:\n{}", p.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok((p, at))
}

/// The Flask service with one worker.
pub(crate) fn flask(dir: &Dir, most: usize) -> Result<(Process, SocketAddr)> {
    let python = cache().join("flask/bin/python");
    if !python.is_file() {
        bail!("Flask is not installed (`cargo xtask bench gate --setup` installs it)");
    }
    let at = local(free());
    dir.write("flask_gate.py", include_str!("flask_gate.py"));
    let mut c = Command::new(python);
    c.args(["-m", "gunicorn", "--workers", "1", "--bind", &at.to_string(), "flask_gate:app"])
        .current_dir(dir.path())
        .env("FILE", dir.path().join("flask.yml"))
        .env("MAX_IPS", most.to_string());
    let p = Process::start("flask", c);
    stage::ports::wait(at, LIMIT).map_err(|e| anyhow!("{e}\n{}", p.output()))?;
    Ok((p, at))
}

/// A proof as a proxy mirrors it, on a connection of its own.
pub(crate) fn proof(addr: Ipv4Addr) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: home.test\r\nX-Forwarded-For: {addr}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// What a proxy asks of an address.
pub(crate) fn question(addr: Ipv4Addr) -> Vec<u8> {
    format!("GET /v1/check/{LIST} HTTP/1.1\r\nHost: gate\r\nX-Forwarded-For: {addr}\r\n\r\n").into_bytes()
}

/// A visitor's request.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n").into_bytes()
}

fn connect(to: SocketAddr, host: Option<&Host>) -> Result<TcpStream> {
    let s = match host {
        Some(h) => h.connect(to, LIMIT)?,
        None => TcpStream::connect(to)?,
    };
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(LIMIT))?;
    Ok(s)
}

fn ask(s: &mut TcpStream, request: &[u8]) -> Result<(u16, Duration)> {
    let began = Instant::now();
    s.write_all(request)?;
    let (status, _) = answer(s)?;
    Ok((status, began.elapsed()))
}

fn answer(s: &mut TcpStream) -> Result<(u16, usize)> {
    let mut buf = vec![0; 16 * 1024];
    let mut len = 0;
    loop {
        if let Some(done) = whole(&buf[..len]) {
            return Ok(done);
        }
        match s.read(&mut buf[len..])? {
            0 => bail!("closed before the answer was whole"),
            n => len += n,
        }
    }
}

/// The status of a whole answer, and its length.
fn whole(bytes: &[u8]) -> Option<(u16, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = field.unwrap_or(0);
    (bytes.len() >= end + length).then_some((status, end + length))
}

/// Requests on connections kept alive, one at a time on each; `pace`: so many a second in all, else as many as go.
pub(crate) async fn requests(
    to: SocketAddr,
    request: Vec<u8>,
    connections: usize,
    window: Duration,
    pace: Option<f64>,
) -> Result<Small> {
    let mut tasks = tokio::task::JoinSet::new();
    let start = tokio::time::Instant::now() + Duration::from_millis(50);
    for n in 0..connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut s = tokio::net::TcpStream::connect(to).await?;
            s.set_nodelay(true)?;
            let mut times = Vec::with_capacity(8_192);
            let mut buf = vec![0; 16 * 1024];
            let every = pace.map(|p| Duration::from_secs_f64(connections as f64 / p));
            let mut next = start + every.unwrap_or_default().mul_f64(n as f64 / connections as f64);
            while next < start + window {
                tokio::time::sleep_until(next).await;
                // Asked on time or not, the wait counts from when it should have been.
                let began = Instant::now();
                s.write_all(&request).await?;
                let mut len = 0;
                let status = loop {
                    if let Some((status, _)) = whole(&buf[..len]) {
                        break status;
                    }
                    match s.read(&mut buf[len..]).await? {
                        0 => bail!("a kept-alive connection was closed"),
                        n => len += n,
                    }
                };
                if status != 200 {
                    bail!("answered {status}");
                }
                times.push(began.elapsed().as_nanos() as u64);
                next = every.map_or_else(tokio::time::Instant::now, |e| (next + e).max(tokio::time::Instant::now()));
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable();
    if times.is_empty() {
        bail!("nothing came through");
    }
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] as f64 / 1e6;
    let done = times.len() as u64;
    Ok(Small { per_second: done as f64 / window.as_secs_f64(), p50_ms: at(0.5), p99_ms: at(0.99), done, failed: 0 })
}

/// Proofs of so many addresses, some at a time, each on a connection of its own. How long until all are answered.
pub(crate) async fn proofs(to: SocketAddr, count: usize, at_once: usize) -> Result<Duration> {
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let next = next.clone();
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                let mut s = tokio::net::TcpStream::connect(to).await?;
                s.set_nodelay(true)?;
                s.write_all(&proof(entry(1_000_000 + n))).await?;
                let mut all = Vec::new();
                s.read_to_end(&mut all).await?;
                if !all.starts_with(b"HTTP/1.1 200") {
                    bail!("a proof is answered {}", String::from_utf8_lossy(&all).chars().take(60).collect::<String>());
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}
