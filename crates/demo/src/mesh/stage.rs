//! Hosts that are network namespaces on one wire, and what runs on them. In: names and addresses. Out: processes and
//! questions; all of it ends and is removed with the stage.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{call, said};
use crate::Folder;

/// Everything the demo made.
pub(super) struct Stage {
    folder: Folder,
    tag: String,
    hosts: Vec<Host>,
    children: Vec<Child>,
}

/// One host; clones are the same.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) addr: Ipv4Addr,
    namespace: String,
    seen: Arc<Mutex<Vec<IpAddr>>>,
}

/// What the demo needs and does not find, in words.
pub(super) fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_string());
    }
    let programs = ["ip", "nft", "tailscale", "tailscaled"];
    missing.extend(programs.iter().filter(|p| find(p).is_none()).map(|p| format!("`{p}`")));
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun".to_string());
    }
    missing
}

/// A program on the path, where servers usually are, or where `cargo xtask test --setup` puts peers.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/portcullis/peers/bin")));
    dirs.into_iter().map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("`{name}` is gone"))
}

impl Stage {
    /// A wire with nobody on it.
    pub(super) fn new() -> Result<Stage> {
        let folder = Folder::new()?;
        let tag = format!("portcullis-demo-{}", std::process::id());
        let stage = Stage { folder, tag, hosts: Vec::new(), children: Vec::new() };
        call("ip", &["netns", "add", &stage.wire()])?;
        call("ip", &["-n", &stage.wire(), "link", "add", "wire", "type", "bridge"])?;
        call("ip", &["-n", &stage.wire(), "link", "set", "wire", "up"])?;
        std::fs::write(stage.folder.0.join("resolv.conf"), "")?;
        Ok(stage)
    }

    /// A host on the wire.
    pub(super) fn host(&mut self, name: &str, addr: Ipv4Addr) -> Result<Host> {
        let namespace = format!("{}-{name}", self.tag);
        call("ip", &["netns", "add", &namespace])?;
        let host = Host { name: name.to_string(), addr, namespace, seen: Arc::default() };
        self.hosts.push(host.clone());
        let end = format!("h{}", self.hosts.len());
        host.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", &end, "netns", &self.wire()])?;
        call("ip", &["-n", &self.wire(), "link", "set", &end, "master", "wire", "up"])?;
        host.ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
        host.ip(&["link", "set", "eth0", "up"])?;
        host.ip(&["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// Starts `portcullis control` and waits until it answers.
    pub(super) async fn control(&mut self, host: &Host, limit: Duration) -> Result<()> {
        let own = std::env::current_exe().context("where is this program?")?;
        let url = format!("http://{}:8080", host.addr);
        let mut command = self.on(host, &own);
        command.args(["control", "--server-url", &url, "--listen", "0.0.0.0:8080", "--stun", "0.0.0.0:3478"]);
        command.arg("--data-dir").arg(self.data());
        self.launch(command, "control")?;
        let begun = Instant::now();
        while host.visit_only(SocketAddr::from((host.addr, 8080))).is_err() {
            if begun.elapsed() > limit || self.ended() {
                bail!("control does not answer; it said:\n{}", self.log("control"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// An administrator's command.
    pub(super) fn admin(&self, args: &[&str]) -> Result<String> {
        let own = std::env::current_exe().context("where is this program?")?;
        let out = Command::new(own).args(args).arg("--data-dir").arg(self.data()).output()?;
        said(&out, &format!("portcullis {}", args.join(" ")))
    }

    /// Puts a policy in force.
    pub(super) fn policy(&self, text: &str) -> Result<()> {
        let file = self.folder.0.join("policy.hujson");
        std::fs::write(&file, text)?;
        self.admin(&["policy", "set", &file.to_string_lossy()]).map(drop)
    }

    /// Starts the official client on a host and joins with a key.
    pub(super) async fn join(
        &mut self,
        host: &Host,
        control: &Host,
        key: &str,
        flag: &str,
        limit: Duration,
    ) -> Result<()> {
        let dir = self.folder.0.join(&host.name);
        std::fs::create_dir_all(&dir)?;
        let socket = dir.join("sock");
        let mut daemon = self.on(host, &program("tailscaled")?);
        daemon.arg("--statedir").arg(&dir).arg("--socket").arg(&socket);
        daemon.args(["--port", "0", "--tun", "tailscale0", "--no-logs-no-support"]);
        daemon.env("TS_DEBUG_FIREWALL_MODE", "nftables").env("TS_PANIC_IF_HIT_MAIN_CONTROL", "true");
        self.launch(daemon, &host.name)?;
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if begun.elapsed() > limit || self.ended() {
                bail!("tailscaled does not start; it said:\n{}", self.log(&host.name));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut up = tokio::process::Command::new(program("tailscale")?);
        up.arg("--socket").arg(&socket).args(["up", "--accept-dns=false", flag]);
        up.arg(format!("--login-server=http://{}:8080", control.addr)).arg(format!("--hostname={}", host.name));
        // The key in a file: a process list is for everybody.
        let file = dir.join("key");
        std::fs::write(&file, key)?;
        up.arg(format!("--auth-key=file:{}", file.display())).arg(format!("--timeout={}s", limit.as_secs()));
        let out = up.kill_on_drop(true).output().await.context("cannot run tailscale")?;
        said(&out, "tailscale up").with_context(|| format!("tailscaled said:\n{}", self.log(&host.name)))?;
        Ok(())
    }

    fn wire(&self) -> String {
        format!("{}-wire", self.tag)
    }

    fn data(&self) -> PathBuf {
        self.folder.0.join("data")
    }

    /// A command on a host, with a resolver file that is not this machine's.
    fn on(&self, host: &Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
        command.args(["netns", "exec", &host.namespace, "sh", "-c", script, "sh"]);
        command.arg(self.folder.0.join("resolv.conf")).arg(program);
        command
    }

    fn launch(&mut self, mut command: Command, name: &str) -> Result<()> {
        let log = File::create(self.folder.0.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.children.push(command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder.0.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    /// True if something that should run has ended.
    fn ended(&mut self) -> bool {
        self.children.iter_mut().any(|c| c.try_wait().is_ok_and(|s| s.is_some()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in &self.hosts {
            let _ = call("ip", &["netns", "del", &host.namespace]);
        }
        let _ = call("ip", &["netns", "del", &self.wire()]);
    }
}

impl Host {
    fn ip(&self, args: &[&str]) -> Result<()> {
        call("ip", &[&["-n", &self.namespace], args].concat()).map(drop)
    }

    /// Drops every source but one, and answers to what it asked itself.
    pub(super) fn only_from(&self, source: Ipv4Addr) -> Result<()> {
        let rules = format!(
            "table ip trust {{ chain input {{ type filter hook input priority filter; policy drop; iif lo accept; \
             ct state {{ established, related }} accept; ip saddr {source} accept; }}; }}"
        );
        call("ip", &["netns", "exec", &self.namespace, "nft", &rules]).map(drop)
    }

    /// Passes on what is not for itself, as a router must.
    pub(super) fn forward(&self) -> Result<()> {
        self.within(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        Ok(())
    }

    /// Answers connections with the address that it sees; ends with the process.
    pub(super) fn serve(&self, port: u16) -> Result<()> {
        let seen = self.seen.clone();
        let listener = self.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        let serve = move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else { continue };
                if let Ok(mut seen) = seen.lock() {
                    seen.push(peer.ip());
                }
                // A visitor that went away needs no answer.
                let _ = writeln!(stream, "{}", peer.ip());
            }
        };
        std::thread::Builder::new().name("partner".to_string()).spawn(serve)?;
        Ok(())
    }

    /// All sources that were served.
    pub(super) fn seen(&self) -> Vec<IpAddr> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Asks a service of [`Host::serve`] whom it sees.
    pub(super) fn visit(&self, to: SocketAddr, limit: Duration) -> Result<IpAddr, String> {
        let connect = || -> std::io::Result<String> {
            let stream = TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line)
        };
        let line = self.within(connect).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        line.trim().parse().map_err(|_| format!("it said {line:?}"))
    }

    fn visit_only(&self, to: SocketAddr) -> Result<()> {
        self.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(200)))??;
        Ok(())
    }

    /// Runs something on a thread that is on this host.
    fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            let namespace = File::open(Path::new("/run/netns").join(&self.namespace))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        };
        let joined = std::thread::scope(|s| s.spawn(inside).join());
        joined.map_err(|_| anyhow::anyhow!("a thread on {} failed", self.name))?
    }
}
