//! Who is measured: each pair of tunnel ends, started the way its own manual says. In: an upstream. Out: the address
//! that visitors use and the processes of both ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stage::peers::find;
use stage::process::Process;
use stage::{Dir, ports};

/// A contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// No tunnel: the limit of the machine and of the load.
    Direct,
    RatholePlain,
    RatholeTls,
    RatholeNoise,
    Bore,
    Frp,
    Chisel,
    /// `tcp server --auto-tls=false`.
    Plain,
    /// `tcp server`, as it comes.
    Encrypted,
    /// `http server`, as it comes.
    Http,
    /// The three of the binary before a change (`--before`).
    PlainBefore,
    EncryptedBefore,
    HttpBefore,
}

/// Every contestant, in the order of the table.
pub(crate) const ALL: [Who; 13] = [
    Who::Direct,
    Who::RatholePlain,
    Who::RatholeTls,
    Who::RatholeNoise,
    Who::Bore,
    Who::Frp,
    Who::Chisel,
    Who::Plain,
    Who::PlainBefore,
    Who::Encrypted,
    Who::EncryptedBefore,
    Who::Http,
    Who::HttpBefore,
];

/// Ours beside what it was before.
pub(crate) const BEFORE: [(Who, Who); 3] =
    [(Who::Plain, Who::PlainBefore), (Who::Encrypted, Who::EncryptedBefore), (Who::Http, Who::HttpBefore)];

/// A started pair.
pub(crate) struct Pair {
    /// Where visitors connect.
    pub(crate) visit: SocketAddr,
    /// The public end.
    pub(crate) edge: Vec<Process>,
    /// The private end.
    pub(crate) client: Vec<Process>,
    _dir: Dir,
}

/// Where the ends of a pair run: on this machine's loopback, or each in a namespace.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Prefix of the edge's command line, such as `ip netns exec NAME`.
    pub(crate) edge: Vec<String>,
    /// Prefix of the client's command line.
    pub(crate) client: Vec<String>,
    /// Address that the edge listens on, seen by the client and by visitors.
    pub(crate) at: std::net::IpAddr,
    /// Address that visitors use, if not the same.
    pub(crate) visit: std::net::IpAddr,
}

impl Place {
    pub(crate) fn loopback() -> Place {
        let at = std::net::IpAddr::from([127, 0, 0, 1]);
        Place { edge: vec![], client: vec![], at, visit: at }
    }
}

impl Who {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Direct => "no tunnel",
            Who::RatholePlain => "rathole",
            Who::RatholeTls => "rathole-tls",
            Who::RatholeNoise => "rathole-noise",
            Who::Bore => "bore (plain)",
            Who::Frp => "frp (TLS, its default)",
            Who::Chisel => "chisel (SSH)",
            Who::Plain => "portcullis plain",
            Who::Encrypted => "portcullis encrypted",
            Who::Http => "portcullis http, encrypted",
            Who::PlainBefore => "portcullis plain, before",
            Who::EncryptedBefore => "portcullis encrypted, before",
            Who::HttpBefore => "portcullis http, encrypted, before",
        }
    }

    /// True if it carries HTTP only.
    pub(crate) fn only_http(self) -> bool {
        self.now() == Who::Http
    }

    /// Itself, or what it is now if it is a contestant of the binary before.
    fn now(self) -> Who {
        BEFORE.iter().find(|(_, before)| *before == self).map_or(self, |(now, _)| *now)
    }

    /// True for a contestant of the binary before.
    pub(crate) fn is_before(self) -> bool {
        self.now() != self
    }

    /// Starts both ends and waits until a visitor gets an answer.
    pub(crate) fn start(self, upstream: SocketAddr, place: &Place, portcullis: Option<&Path>) -> Result<Pair> {
        let (control, data) = (ports::free(), ports::free());
        let at = place.at;
        let (c, d) = (SocketAddr::new(at, control).to_string(), SocketAddr::new(at, data).to_string());
        let dir = Dir::new("bench");
        let edge = |program: &Path, args: &[&str]| child("edge", &place.edge, program, args);
        let client = |program: &Path, args: &[&str]| child("client", &place.client, program, args);
        let (up_port, token) = (upstream.port().to_string(), stage::edge::TOKEN);
        let (edges, clients, data) = match self {
            Who::Direct => (vec![], vec![], upstream.port()),
            Who::RatholePlain | Who::RatholeTls | Who::RatholeNoise => {
                let rathole = need("rathole")?;
                let (server, local) = self.rathole_transport(&rathole, &dir)?;
                let s = dir.write("server.toml", format!("[server]\nbind_addr = \"{c}\"\ndefault_token = \"{token}\"\n{server}[server.services.b]\nbind_addr = \"{d}\"\n"));
                let l = dir.write("client.toml", format!("[client]\nremote_addr = \"{c}\"\ndefault_token = \"{token}\"\n{local}[client.services.b]\nlocal_addr = \"{upstream}\"\n"));
                let e = edge(&rathole, &["--server", text(&s)]);
                (vec![e], vec![client(&rathole, &["--client", text(&l)])], data)
            }
            Who::Bore => {
                let bore = need("bore")?;
                // bore's control port is fixed (7835), so its bench needs that port.
                let e = edge(&bore, &["server", "--bind-addr", &at.to_string(), "--secret", token]);
                std::thread::sleep(Duration::from_millis(300));
                let port = data.to_string();
                let args = [
                    "local",
                    &up_port,
                    "--local-host",
                    &upstream.ip().to_string(),
                    "--to",
                    &at.to_string(),
                    "--port",
                    &port,
                    "--secret",
                    token,
                ];
                (vec![e], vec![client(&bore, &args)], data)
            }
            Who::Frp => {
                let (frps, frpc) = (need("frps")?, need("frpc")?);
                let auth = format!("auth.method = \"token\"\nauth.token = \"{token}\"\nlog.level = \"warn\"\n");
                let s = dir.write(
                    "frps.toml",
                    format!("bindAddr = \"{at}\"\nbindPort = {control}\nproxyBindAddr = \"{at}\"\n{auth}"),
                );
                let proxy = format!(
                    "[[proxies]]\nname = \"b\"\ntype = \"tcp\"\nlocalIP = \"{}\"\nlocalPort = {up_port}\nremotePort = {data}\n",
                    upstream.ip()
                );
                let l = dir.write("frpc.toml", format!("serverAddr = \"{at}\"\nserverPort = {control}\n{auth}{proxy}"));
                let e = edge(&frps, &["-c", text(&s)]);
                std::thread::sleep(Duration::from_millis(300));
                (vec![e], vec![client(&frpc, &["-c", text(&l)])], data)
            }
            Who::Chisel => {
                let chisel = need("chisel")?;
                let auth = format!("bench:{token}");
                let e = edge(
                    &chisel,
                    &[
                        "server",
                        "--host",
                        &at.to_string(),
                        "--port",
                        &control.to_string(),
                        "--reverse",
                        "--auth",
                        &auth,
                    ],
                );
                let remote = format!("R:{d}:{upstream}");
                (vec![e], vec![client(&chisel, &["client", "--auth", &auth, &format!("http://{c}"), &remote])], data)
            }
            _ => {
                let bin = portcullis.context("the binary was not built")?;
                let (e, l) = self.now().portcullis(bin, &dir, place, upstream, (control, data))?;
                (vec![e], vec![l], data)
            }
        };
        let visit = if self == Who::Direct { upstream } else { SocketAddr::new(place.visit, data) };
        let mut pair = Pair { visit, edge: edges, client: clients, _dir: dir };
        // Inside namespaces the caller's own visitor finds out.
        if place.edge.is_empty() {
            pair.ready(self)?;
        }
        Ok(pair)
    }

    fn portcullis(
        self,
        bin: &Path,
        dir: &Dir,
        place: &Place,
        upstream: SocketAddr,
        (control, data): (u16, u16),
    ) -> Result<(Process, Process)> {
        let mode = if self == Who::Http { "http" } else { "tcp" };
        let (token, at) = (dir.write("token", stage::edge::TOKEN), place.at.to_string());
        let tls_dir = dir.path().join("tls");
        let (control, data) = (control.to_string(), data.to_string());
        let mut args = vec![
            mode,
            "server",
            "--control-addr",
            &at,
            "--data-addr",
            &at,
            "--control-port",
            &control,
            "--token-file",
            text(&token),
        ];
        if self == Who::Http {
            args.extend(["--port", &data]);
        }
        if self == Who::Plain {
            args.push("--auto-tls=false");
        } else {
            args.extend(["--auto-tls-san", &at, "--auto-tls-path", text(&tls_dir)]);
        }
        let mut edge = child("edge", &place.edge, bin, &args);
        let pin = if self == Who::Plain {
            // Ready when its port is; there is no line to wait for that is promised.
            std::thread::sleep(Duration::from_millis(500));
            String::new()
        } else {
            edge.line(stage::START, |l| l.find("sha256:").and_then(|i| l.get(i..i + 71)).map(str::to_string))
                .map_err(anyhow::Error::msg)?
        };
        let url = format!(
            "{}://{}",
            if self == Who::Plain { "ws" } else { "wss" },
            SocketAddr::new(place.at, control.parse()?)
        );
        let target = if self == Who::Http { format!("http://{upstream}") } else { format!("{data}={upstream}") };
        let mut args = vec![mode, "client", "--url", &url, "--token-file", text(&token), "--upstream", &target];
        if self == Who::Plain {
            args.push("--insecure");
        } else {
            args.extend(["--ca-fingerprint", &pin]);
        }
        Ok((edge, child("client", &place.client, bin, &args)))
    }

    /// The transport sections of rathole's two files.
    fn rathole_transport(self, rathole: &Path, dir: &Dir) -> Result<(String, String)> {
        match self {
            Who::RatholeTls => {
                let cert = stage::certificates::self_signed(dir.path());
                let pfx = dir.path().join("identity.pfx");
                let mut command = Command::new("openssl");
                command.args(["pkcs12", "-export", "-passout", "pass:bench", "-inkey"]).arg(dir.path().join("key.pem"));
                let out = command.arg("-in").arg(&cert).arg("-out").arg(&pfx).output()?;
                if !out.status.success() {
                    bail!("openssl pkcs12: {}", String::from_utf8_lossy(&out.stderr));
                }
                let server = format!(
                    "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{}\"\npkcs12_password = \"bench\"\n",
                    pfx.display()
                );
                let client = format!(
                    "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{}\"\nhostname = \"localhost\"\n",
                    cert.display()
                );
                Ok((server, client))
            }
            Who::RatholeNoise => {
                let out = Command::new(rathole).arg("--genkey").output()?;
                let text = String::from_utf8_lossy(&out.stdout);
                let keys: Vec<&str> =
                    text.lines().filter(|l| !l.is_empty() && !l.contains(':') && !l.contains(' ')).collect();
                let [private, public] = keys[..] else { bail!("rathole --genkey printed: {text}") };
                let server = format!(
                    "[server.transport]\ntype = \"noise\"\n[server.transport.noise]\nlocal_private_key = \"{private}\"\n"
                );
                let client = format!(
                    "[client.transport]\ntype = \"noise\"\n[client.transport.noise]\nremote_public_key = \"{public}\"\n"
                );
                Ok((server, client))
            }
            _ => Ok((String::new(), String::new())),
        }
    }
}

impl Pair {
    /// CPU time of both ends so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.edge.iter().chain(&self.client).map(|p| stage::process::cpu(p.pid())).sum()
    }

    /// Resident memory of the two ends in KiB.
    pub(crate) fn rss(&self) -> (u64, u64) {
        let sum = |side: &[Process]| side.iter().map(Process::rss_kib).sum();
        (sum(&self.edge), sum(&self.client))
    }

    /// What both ends printed.
    pub(crate) fn output(&self) -> String {
        self.edge.iter().chain(&self.client).map(Process::output).collect::<Vec<_>>().join("\n--\n")
    }

    fn ready(&mut self, who: Who) -> Result<()> {
        let visit = self.visit;
        let up = stage::eventually(Duration::from_secs(15), || {
            for p in self.edge.iter_mut().chain(&mut self.client) {
                if let Some(status) = p.ended() {
                    return Err(format!("ended with {status}"));
                }
            }
            if who.only_http() { stage::edge::wait_site(visit, "bench.test") } else { echo(visit) }
        });
        up.map_err(|e| anyhow::anyhow!("{e}; it printed:\n{}", self.output()))
    }
}

/// One byte to the upstream's echo and back.
fn echo(visit: SocketAddr) -> Result<(), String> {
    use std::io::{Read, Write};
    let mut s = std::net::TcpStream::connect(visit).map_err(|e| e.to_string())?;
    s.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    s.write_all(b"E").map_err(|e| e.to_string())?;
    s.read_exact(&mut [0]).map_err(|e| e.to_string())
}

fn need(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not installed"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn child(name: &str, prefix: &[String], program: &Path, args: &[&str]) -> Process {
    let mut command = match prefix.split_first() {
        Some((first, rest)) => {
            let mut c = Command::new(first);
            c.args(rest).arg(program);
            c
        }
        None => Command::new(program),
    };
    command.args(args);
    if program.file_stem().is_none_or(|n| n != "portcullis") {
        // rathole and bore write a line for each connection otherwise.
        command.env("RUST_LOG", "warn");
    }
    Process::start(name, command)
}
