//! Real proxies in front of both ports of an edge, as in the field's own recipe: one TLS port to the data plane and one
//! to the control plane. In: the edge's two ports. Out: two TLS ports and the CA that vouches for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{Dir, START, certificates, peers, ports};

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `caddy`.
    Caddy,
    /// `nginx`.
    Nginx,
    /// `haproxy`.
    Haproxy,
    /// `traefik`.
    Traefik,
}

/// All four.
pub const ALL: [Kind; 4] = [Kind::Caddy, Kind::Nginx, Kind::Haproxy, Kind::Traefik];

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    /// TLS, in front of the data plane (9443 in the recipe).
    pub data: SocketAddr,
    /// TLS, in front of the control plane (9444 in the recipe).
    pub control: SocketAddr,
    /// The CA that signed what visitors see, in PEM.
    pub ca: PathBuf,
    kind: Kind,
    config: String,
    dir: Dir,
}

impl Kind {
    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Kind::Caddy => "caddy",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Traefik => "traefik",
        }
    }
}

impl Proxy {
    /// Starts a proxy in front of a data and a control plane; `None` if it is not installed (said in one line).
    #[must_use]
    pub fn start(kind: Kind, data_plane: SocketAddr, control_plane: SocketAddr) -> Option<Proxy> {
        let program = peers::need(kind.program())?;
        let dir = Dir::new(kind.program());
        let (data, control) = (ports::local(ports::free()), ports::local(ports::free()));
        let legs = [(data, data_plane), (control, control_plane)];
        let (command, ca, config) = match kind {
            Kind::Caddy => caddy(&program, &dir, legs),
            Kind::Nginx => nginx(&program, &dir, legs),
            Kind::Haproxy => haproxy(&program, &dir, legs),
            Kind::Traefik => traefik(&program, &dir, legs),
        };
        let process = Process::start(kind.program(), command);
        let mut proxy = Proxy { process, data, control, ca, kind, config, dir };
        proxy.wait();
        Some(proxy)
    }

    /// Starts Caddy or nginx with a configuration that a page prints for the ports 9443 and 9444 in front of an edge on
    /// 9000 and 9001, with the ports and the certificate of this stage in their places; `None` as of [`Proxy::start`].
    ///
    /// # Panics
    /// The page prints something else.
    #[must_use]
    pub fn printed(kind: Kind, text: &str, data_plane: SocketAddr, control_plane: SocketAddr) -> Option<Proxy> {
        let program = peers::need(kind.program())?;
        let dir = Dir::new(kind.program());
        let (data, control) = (ports::local(ports::free()), ports::local(ports::free()));
        let mut text = text.to_string();
        let mut put = |from: &str, to: String| {
            assert!(text.contains(from), "{from:?} in:\n{text}");
            text = text.replace(from, &to);
        };
        put("127.0.0.1:9000", data_plane.to_string());
        put("127.0.0.1:9001", control_plane.to_string());
        let (command, ca, config) = match kind {
            Kind::Caddy => {
                for (known, front) in [(9443, data), (9444, control)] {
                    put(
                        &format!("example.com:{known} {{"),
                        format!("https://localhost:{} {{\n\ttls internal", front.port()),
                    );
                }
                caddy_with(&program, &dir, &text)
            }
            Kind::Nginx => {
                let at = dir.path().display();
                for (known, front) in [(9443, data), (9444, control)] {
                    put(&format!("listen {known} ssl"), format!("listen {front} ssl"));
                }
                put("/etc/ssl/example.com.pem", format!("{at}/cert.pem"));
                put("/etc/ssl/example.com.key", format!("{at}/key.pem"));
                nginx_with(&program, &dir, &text)
            }
            other => panic!("no page prints a configuration of {other:?}"),
        };
        let process = Process::start(kind.program(), command);
        let mut proxy = Proxy { process, data, control, ca, kind, config, dir };
        proxy.wait();
        Some(proxy)
    }

    /// Makes it read its configuration again, as its operator would, after a change that forces real work.
    pub fn reload(&mut self) {
        let program = peers::find(self.kind.program()).unwrap_or_default();
        match self.kind {
            Kind::Caddy => {
                // Caddy skips a reload to the same configuration.
                let changed = self.config.replacen("{\n", "{\n\tgrace_period 1s\n", 1);
                let file = self.dir.write("Caddyfile", changed);
                let admin = admin_of(&self.config);
                let out = Command::new(program)
                    .args(["reload", "--adapter", "caddyfile", "--address", &admin, "--config"])
                    .arg(file)
                    .output();
                let out = out.unwrap_or_else(|e| panic!("caddy reload: {e}"));
                assert!(out.status.success(), "caddy reload: {}", String::from_utf8_lossy(&out.stderr));
            }
            Kind::Nginx => self.process.hangup(),
            // In master-worker mode USR2 starts new workers and lets the old finish (haproxy(1)).
            Kind::Haproxy => self.process.signal(rustix::process::Signal::USR2),
            // The file provider sees the change by itself.
            Kind::Traefik => {
                self.dir.write(
                    "dynamic/routes.yml",
                    self.config.replace(
                        "passHostHeader: true",
                        "passHostHeader: true\n        responseForwarding: {flushInterval: 50ms}",
                    ),
                );
            }
        }
    }

    /// Kills it, with every connection through it, and starts it again on the same ports after a while.
    pub fn restart(&mut self, after: Duration) {
        self.process.kill();
        std::thread::sleep(after);
        self.process.again();
        self.wait();
    }

    /// Waits until both ports speak TLS.
    fn wait(&mut self) {
        let process = &mut self.process;
        for addr in [self.data, self.control] {
            let up = crate::eventually(START, || {
                process.must_run();
                crate::tls::connect(addr, "localhost").map(drop)
            });
            if let Err(e) = up {
                panic!("{} does not speak TLS at {addr}: {e}; it printed:\n{}", self.kind.program(), process.output());
            }
        }
    }
}

/// Two sites with `tls internal`, as in the recipe's Caddyfile.
fn caddy(program: &Path, dir: &Dir, legs: [(SocketAddr, SocketAddr); 2]) -> (Command, PathBuf, String) {
    let mut sites = String::new();
    for (front, back) in legs {
        sites.push_str(&format!(
            "https://127.0.0.1:{0}, https://localhost:{0} {{\n\ttls internal\n\treverse_proxy {back}\n}}\n",
            front.port()
        ));
    }
    caddy_with(program, dir, &sites)
}

fn caddy_with(program: &Path, dir: &Dir, sites: &str) -> (Command, PathBuf, String) {
    let admin = ports::local(ports::free());
    let config = format!("{{\n\tadmin {admin}\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{sites}");
    let command = caddy_by(Command::new(program), dir.path(), &config);
    (command, dir.at("caddy/pki/authorities/local/root.crt"), config)
}

/// Caddy in a folder with this Caddyfile; `command` lacks its arguments.
#[must_use]
pub fn caddy_by(mut command: Command, dir: &Path, caddyfile: &str) -> Command {
    let file = dir.join("Caddyfile");
    std::fs::write(&file, caddyfile).unwrap();
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir).env("HOME", dir);
    command
}

/// nginx in a folder with `http` inside its `http { }`; `command` lacks its arguments.
#[must_use]
pub fn nginx_by(mut command: Command, dir: &Path, http: &str) -> Command {
    let (at, file) = (dir.display(), dir.join("nginx.conf"));
    let config = format!(
        "daemon off; master_process on; user root; worker_processes 1; pid {at}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
{http}}}\n"
    );
    std::fs::write(&file, config).unwrap();
    command.args(["-e", "stderr", "-p"]).arg(dir).arg("-c").arg(file);
    command
}

/// Traefik with these arguments and the files of `dir/dyn`, which it follows; `command` lacks its arguments.
#[must_use]
pub fn traefik_by(mut command: Command, dir: &Path, args: &[&str]) -> Command {
    std::fs::create_dir_all(dir.join("dyn")).unwrap();
    command.args(args).arg(format!("--providers.file.directory={}/dyn", dir.display()));
    command.args(["--providers.file.watch=true", "--log.level=ERROR", "--global.checkNewVersion=false"]);
    command.arg("--global.sendAnonymousUsage=false");
    command
}

fn admin_of(config: &str) -> String {
    config.lines().find_map(|l| l.trim().strip_prefix("admin ")).unwrap_or_default().to_string()
}

fn nginx(program: &Path, dir: &Dir, legs: [(SocketAddr, SocketAddr); 2]) -> (Command, PathBuf, String) {
    let at = dir.path().display();
    let mut servers = "map $http_upgrade $connection_upgrade { default upgrade; '' close; }\n".to_string();
    for (front, back) in legs {
        servers.push_str(&format!(
            "server {{ listen {front} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
  client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;
  location / {{ proxy_pass http://{back}; proxy_http_version 1.1; proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https; }} }}\n"
        ));
    }
    nginx_with(program, dir, &servers)
}

fn nginx_with(program: &Path, dir: &Dir, servers: &str) -> (Command, PathBuf, String) {
    let certificate = certificates::self_signed(dir.path());
    (nginx_by(Command::new(program), dir.path(), servers), certificate, String::new())
}

fn haproxy(program: &Path, dir: &Dir, legs: [(SocketAddr, SocketAddr); 2]) -> (Command, PathBuf, String) {
    let certificate = certificates::self_signed(dir.path());
    let at = dir.path().display();
    // No `timeout tunnel`: what is silent for a minute is cut, as in many a configuration.
    let mut config = "global\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n".to_string();
    for (i, (front, back)) in legs.into_iter().enumerate() {
        config.push_str(&format!("frontend f{i}\n  bind {front} ssl crt {at}/both.pem alpn http/1.1\n  default_backend b{i}\nbackend b{i}\n  server s {back}\n"));
    }
    let file = dir.write("haproxy.cfg", &config);
    let mut command = Command::new(program);
    command.args(["-W", "-f"]).arg(file);
    (command, certificate, config)
}

fn traefik(program: &Path, dir: &Dir, legs: [(SocketAddr, SocketAddr); 2]) -> (Command, PathBuf, String) {
    let certificate = certificates::self_signed(dir.path());
    let at = dir.path().display();
    let (mut points, mut routers, mut services) = (String::new(), String::new(), String::new());
    for (i, (front, back)) in legs.into_iter().enumerate() {
        // Traefik ends request bodies after 60 s unless told otherwise; a recipe for big uploads says 0.
        points.push_str(&format!(
            "  p{i}:\n    address: \"{front}\"\n    transport: {{respondingTimeouts: {{readTimeout: 0}}}}\n"
        ));
        routers.push_str(&format!(
            "    r{i}: {{entryPoints: [p{i}], rule: \"PathPrefix(`/`)\", service: s{i}, tls: {{}}}}\n"
        ));
        services.push_str(&format!("    s{i}:\n      loadBalancer:\n        passHostHeader: true\n        servers: [{{url: \"http://{back}\"}}]\n"));
    }
    let config = format!(
        "http:\n  routers:\n{routers}  services:\n{services}tls:\n  stores:\n    default:\n      defaultCertificate: {{certFile: {at}/cert.pem, keyFile: {at}/key.pem}}\n"
    );
    std::fs::create_dir_all(dir.path().join("dynamic")).unwrap();
    dir.write("dynamic/routes.yml", &config);
    let fixed = format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}\nlog: {{level: INFO}}\nentryPoints:\n{points}providers:\n  providersThrottleDuration: 10ms\n  file: {{directory: {at}/dynamic, watch: true}}\n"
    );
    let file = dir.write("traefik.yml", fixed);
    let mut command = Command::new(program);
    command.arg(format!("--configFile={}", file.display())).current_dir(dir.path());
    (command, certificate, config)
}
