//! A gate, proxies and upstreams for tests: started on free ports, ended with the test.
#![allow(dead_code, unreachable_pub, reason = "suites share it, and each uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pc-{name}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Proc {
    pub child: Child,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Proc {
    pub fn start(mut command: Command) -> Proc {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, err) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Proc { child, log }
    }

    pub fn logged(&self, what: &str) -> Option<String> {
        self.log.lock().unwrap().iter().find(|l| l.contains(what)).cloned()
    }

    pub fn text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

/// The configuration of an nginx for tests in a folder: `http` is what stands in its `http { }`.
pub fn nginx(program: &Path, dir: &Path, http: &str) -> Proc {
    let d = dir.display();
    std::fs::write(
        dir.join("nginx.conf"),
        format!(
            "daemon off; pid {d}/nginx.pid; error_log stderr crit; worker_processes 1; events {{}}
http {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
{http}
}}"
        ),
    )
    .unwrap();
    let mut c = Command::new(program);
    c.args(["-e", "stderr", "-c"]).arg(dir.join("nginx.conf"));
    Proc::start(c)
}

/// A Caddy for tests in a folder, with this Caddyfile.
pub fn caddy(program: &Path, dir: &Path, file: &str) -> Proc {
    std::fs::write(dir.join("Caddyfile"), file).unwrap();
    let mut c = Command::new(program);
    c.args(["run", "--adapter", "caddyfile", "--config"]).arg(dir.join("Caddyfile"));
    c.env("HOME", dir).env("XDG_CONFIG_HOME", dir).env("XDG_DATA_HOME", dir);
    Proc::start(c)
}

/// A Traefik for tests in a folder: entry point `web`, with these further arguments; the file provider reads `dyn`.
pub fn traefik_at(program: &Path, dir: &Path, port: u16, more: &[&str]) -> Proc {
    let mut t = Command::new(program);
    t.args([
        &format!("--entryPoints.web.address=127.0.0.1:{port}"),
        &format!("--providers.file.directory={}", dir.join("dyn").display()),
        "--providers.providersThrottleDuration=100ms",
        "--log.level=ERROR",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]);
    t.args(more);
    Proc::start(t)
}

impl Drop for Proc {
    /// Asked to end first: a killed nginx leaves its workers behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Gate {
    pub proc: Proc,
    pub addrs: Vec<SocketAddr>,
    pub dir: PathBuf,
}

impl Gate {
    /// The lines of doctor, and how it ended.
    pub fn doctor(&self) -> (i32, String) {
        self.command(&["doctor"])
    }

    /// A gate whose directory is `dir`: state in `dir/state`, the list in `dir/dynamic-whitelist.yml`.
    pub fn start(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> Gate {
        let mut c = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        c.args(["gatekeeper", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.join("state"))
            .args(args)
            .current_dir(dir);
        for k in [
            "MAX_IP_LEN",
            "MAX_ALLOWED_IPS",
            "DEFAULT_SOURCE_RANGE",
            "TRUSTED_PROXIES",
            "SHARE_UPSTREAMS",
            "SHARE_PATHS",
            "SHARE_SCOPE",
            "DOCTOR_ACCEPT",
            "TRAEFIK_THROTTLE",
            "TRAEFIK_API",
        ] {
            c.env_remove(k);
        }
        c.envs(env.iter().copied()).env("NO_COLOR", "1");
        let proc = Proc::start(c);
        let wanted = 1 + args.iter().filter(|a| a.ends_with("-listen")).count();
        let mut addrs = Vec::new();
        wait("the gate listens", || {
            addrs = proc
                .log
                .lock()
                .unwrap()
                .iter()
                .filter_map(|l| l.split("listening on ").nth(1)?.trim().parse().ok())
                .collect();
            addrs.len() >= wanted
        });
        Gate { proc, addrs, dir: dir.to_path_buf() }
    }

    pub fn mirror(&self, xff: &str) -> (u16, String) {
        request(self.addrs[0], "GET", "/", &[("X-Forwarded-For", xff)])
    }

    pub fn file(&self) -> String {
        std::fs::read_to_string(self.dir.join("dynamic-whitelist.yml")).unwrap_or_default()
    }

    pub fn entries(&self) -> Vec<String> {
        self.file()
            .lines()
            .filter_map(|l| Some(l.strip_prefix("        - \"")?.strip_suffix('"')?.to_string()))
            .collect()
    }

    pub fn expect(&self, entries: &[&str]) {
        wait_or(
            || self.entries() == entries,
            || format!("file has {:?}, wanted {entries:?}\n{}", self.entries(), self.proc.text()),
        );
    }

    pub fn command(&self, args: &[&str]) -> (i32, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(args)
            .arg("--data-dir")
            .arg(self.dir.join("state"))
            .output()
            .unwrap();
        (
            out.status.code().unwrap_or(-1),
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)),
        )
    }
}

/// `portcullis serve --config dir/gate.toml`, with state in `dir/state`.
pub struct Serve {
    pub proc: Proc,
    pub dir: PathBuf,
}

impl Serve {
    /// Starts it with this file and waits until everything in `ready` was logged.
    pub fn start(dir: &Path, config: &str, ready: &[&str]) -> Serve {
        std::fs::write(dir.join("gate.toml"), format!("data_dir = \"state\"\n{config}")).unwrap();
        std::fs::write(dir.join("token"), "serve-token-0123456789abcdef").unwrap();
        let s = Serve { proc: Proc::start(Serve::command(dir)), dir: dir.to_path_buf() };
        for what in ready {
            wait_or(|| s.proc.logged(what).is_some(), || format!("`{what}`: {}", s.proc.text()));
        }
        s
    }

    pub fn command(dir: &Path) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        c.args(["serve", "--config"]).arg(dir.join("gate.toml")).env("NO_COLOR", "1");
        c
    }

    /// The address of a listener, by what the log calls it.
    pub fn at(&self, what: &str) -> SocketAddr {
        let mut found = None;
        wait_or(
            || {
                let line = self.proc.logged(&format!("{what}: listening on "));
                found = line.and_then(|l| l.split("listening on ").nth(1)?.trim().parse().ok());
                found.is_some()
            },
            || format!("{what}: {}", self.proc.text()),
        );
        found.unwrap()
    }

    pub fn command_says(&self, args: &[&str]) -> (i32, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(args)
            .arg("--data-dir")
            .arg(self.dir.join("state"))
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code().unwrap_or(-1), said)
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let (code, said) = self.command_says(args);
        assert_eq!(code, 0, "{args:?}: {said}");
        said
    }

    /// Changes the file; the process is not told.
    pub fn rewrite(&self, config: &str) {
        std::fs::write(self.dir.join("gate.new"), format!("data_dir = \"state\"\n{config}")).unwrap();
        std::fs::rename(self.dir.join("gate.new"), self.dir.join("gate.toml")).unwrap();
    }
}

pub fn wait(what: &str, ok: impl FnMut() -> bool) {
    wait_or(ok, || what.to_string());
}

pub fn wait_or(mut ok: impl FnMut() -> bool, what: impl Fn() -> String) {
    // The machine may be busy; a healthy run needs milliseconds.
    let until = Instant::now() + Duration::from_secs(30);
    while !ok() {
        assert!(Instant::now() < until, "not within 30 s: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One request on a connection of its own: status and body.
pub fn request(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, _, body) = full(at, method, path, headers);
    (status, body)
}

pub fn full(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n");
    for (k, v) in headers {
        text.push_str(&format!("{k}: {v}\r\n"));
    }
    text.push_str("\r\n");
    s.write_all(text.as_bytes()).unwrap();
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out);
    let out = String::from_utf8_lossy(&out).into_owned();
    let (head, body) = out.split_once("\r\n\r\n").unwrap_or((&out, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_string(), body.to_string())
}

/// A small HTTP upstream: the answer is a function of the request's first line and headers.
pub fn upstream(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> SocketAddr {
    upstream_full(move |head| {
        let (status, body) = answer(head);
        (status, if status == 302 { "Location: /login\r\n".to_string() } else { String::new() }, body)
    })
}

/// The same with header lines in the answer.
pub fn upstream_full(answer: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut r = BufReader::new(stream);
                let mut head = String::new();
                loop {
                    let mut line = String::new();
                    if r.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if line == "\r\n" {
                        let (status, extra, body) = answer(&head);
                        let text =
                            format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {}\r\n\r\n{body}", body.len());
                        if r.get_mut().write_all(text.as_bytes()).is_err() {
                            return;
                        }
                        head.clear();
                        continue;
                    }
                    head.push_str(&line);
                }
            });
        }
    });
    at
}

pub fn free_port() -> u16 {
    stage::ports::free()
}

/// A program that a test needs; says so in one line where it is absent.
pub fn peer(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = places.iter().cloned().chain(std::env::split_paths(&path).map(|d| d.join(name)));
    let found = all.chain([PathBuf::from("/usr/sbin").join(name)]).find(|p| p.is_file());
    if found.is_none() {
        assert!(std::env::var("PORTCULLIS_REQUIRE_PEERS").is_err(), "{name} is not installed");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Traefik's binary, from the cache of set-up or the path.
pub fn traefik() -> Option<PathBuf> {
    let cache = std::env::var_os("PORTCULLIS_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/portcullis")))?;
    peer("traefik", &[cache.join("traefik/bin/traefik")])
}

pub fn run_in(dir: &Path, program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A CA (`ca.pem`), a server certificate for both sites and a client certificate.
pub fn certificates(dir: &Path) {
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut ca = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem"];
    ca.extend(ec);
    run_in(dir, "openssl", &ca);
    for (name, extra) in [
        ("site", "subjectAltName=DNS:ha.example.com,DNS:photos.example.com,DNS:cloud.example.com,DNS:localhost"),
        ("phone", "extendedKeyUsage=clientAuth"),
    ] {
        let (key, csr, pem, ext) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        std::fs::write(dir.join(&ext), extra).unwrap();
        let subject = format!("/CN={name}");
        let mut req = vec!["req", "-subj", &subject, "-keyout", &key, "-out", &csr];
        req.extend(ec);
        run_in(dir, "openssl", &req);
        run_in(
            dir,
            "openssl",
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &csr,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-extfile",
                &ext,
                "-out",
                &pem,
            ],
        );
    }
}
