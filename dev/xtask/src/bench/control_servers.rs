//! The contestants of `cargo xtask bench control`, each as a process with an empty directory. In: which one. Out: where
//! it listens, a key for nodes, a way to give it a policy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stage::process::Process;
use stage::{Dir, peers, ports};

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// This project's coordination server and relay.
    Portcullis,
    /// The coordination server that people use today.
    Headscale,
    /// The official relay.
    Derper,
}

impl Who {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Portcullis => "portcullis",
            Who::Headscale => "headscale",
            Who::Derper => "derper",
        }
    }
}

/// A running contestant.
pub(crate) struct Server {
    who: Who,
    bin: PathBuf,
    process: Process,
    /// Where it listens. For this project's: plain HTTP and TLS at once.
    pub(crate) addr: SocketAddr,
    dir: Dir,
}

impl Server {
    /// Starts it. `tls` says how a relay of the others shall listen.
    pub(crate) fn start(who: Who, own: &Path, tls: bool) -> Result<Server> {
        let dir = Dir::new("bench-control");
        let addr = ports::local(ports::free());
        let bin = match who {
            Who::Portcullis => own.to_path_buf(),
            other => peers::find(other.name()).with_context(|| format!("{} is not installed", other.name()))?,
        };
        let mut command = Command::new(&bin);
        match who {
            Who::Portcullis => {
                let url = format!("http://{addr}");
                command.args(["control", "--server-url", &url, "--listen", &addr.to_string(), "--stun", "off"]);
                command.arg("--data-dir").arg(dir.path());
            }
            Who::Headscale => {
                command.arg("serve").arg("-c").arg(headscale(&dir, addr));
            }
            Who::Derper => {
                command.args(["-a", &addr.to_string(), "-http-port=-1", "-stun=false"]);
                command.arg("-c").arg(dir.path().join("derper.key")).arg("-certdir").arg(dir.path());
                if tls {
                    command.args(["-certmode", "manual", "-hostname", &addr.ip().to_string()]);
                }
            }
        }
        let process = Process::start(who.name(), command);
        let server = Server { who, bin, process, addr, dir };
        ports::wait(addr, START).map_err(|e| anyhow::anyhow!("{e}; it printed:\n{}", server.process.output()))?;
        Ok(server)
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A key with which any number of nodes may register.
    pub(crate) fn auth_key(&self) -> Result<String> {
        let key = match self.who {
            Who::Portcullis => {
                self.command(&["users", "create", "bench"])?;
                self.command(&["keys", "create", "--user", "bench", "--reusable"])?
            }
            Who::Headscale => {
                self.command(&["users", "create", "bench"])?;
                self.command(&["preauthkeys", "create", "--user", "1", "--reusable"])?
            }
            Who::Derper => bail!("a relay alone has no keys"),
        };
        Ok(key.lines().last().unwrap_or_default().trim().to_string())
    }

    /// Puts a policy in force: everybody may reach this TCP port of everybody.
    pub(crate) fn set_policy(&self, port: u16) -> Result<()> {
        let text = format!(r#"{{"acls":[{{"action":"accept","src":["*"],"dst":["*:{port}"]}}]}}"#);
        let file = self.dir.write("policy.hujson", text);
        let file = file.to_string_lossy();
        match self.who {
            Who::Headscale => self.command(&["policy", "set", "-f", &file])?,
            _ => self.command(&["policy", "set", &file])?,
        };
        Ok(())
    }

    /// One of its own commands against itself.
    fn command(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.bin);
        command.args(args);
        match self.who {
            Who::Headscale => command.arg("-c").arg(self.dir.path().join("config.yaml")),
            _ => command.arg("--data-dir").arg(self.dir.path()),
        };
        let out = command.output()?;
        if !out.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// Its configuration: a database in the directory, one relay that nobody uses, policies kept in the database.
fn headscale(dir: &Dir, addr: SocketAddr) -> PathBuf {
    let at = dir.path().display();
    let (metrics, grpc) = (ports::local(ports::free()), ports::local(ports::free()));
    let relays = dir.write(
        "derp.yaml",
        "regions:\n  900:\n    regionid: 900\n    regioncode: own\n    regionname: Own\n    nodes:\n      \
         - {name: 900a, regionid: 900, hostname: relay.invalid, ipv4: 192.0.2.1, stunport: -1}\n",
    );
    let text = format!(
        "server_url: http://{addr}\nlisten_addr: {addr}\nmetrics_listen_addr: {metrics}\ngrpc_listen_addr: {grpc}\n\
         noise: {{private_key_path: {at}/noise.key}}\nprefixes: {{v4: 100.64.0.0/10, v6: 'fd7a:115c:a1e0::/48'}}\n\
         derp: {{server: {{enabled: false}}, urls: [], paths: ['{}'], auto_update_enabled: false}}\n\
         disable_check_updates: true\ndatabase: {{type: sqlite, sqlite: {{path: {at}/db.sqlite}}}}\n\
         log: {{level: warn}}\npolicy: {{mode: database}}\nunix_socket: {at}/headscale.sock\n\
         dns: {{magic_dns: true, base_domain: mesh.internal, override_local_dns: false, nameservers: {{global: []}}}}\n",
        relays.display()
    );
    dir.write("config.yaml", text)
}
