//! One host: a network namespace with an `/etc` of its own. In: commands, sockets, rules. Out: what they give.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What programs need from `/etc`; a host's copy starts with these and its own `resolv.conf`.
const ETC: [&str; 10] = [
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "passwd",
    "protocols",
    "services",
];

/// A handle to a host; clones are the same host, which its world removes.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    dir: PathBuf,
}

impl Host {
    /// Makes the namespace `{tag}-{name}` and its directory below `dir`.
    ///
    /// # Errors
    /// The words of `ip`.
    pub(super) fn make(tag: &str, name: &str, dir: &Path) -> Result<Host, String> {
        let namespace = format!("{tag}-{name}");
        let out = Command::new("ip").args(["netns", "add", &namespace]).output().map_err(|e| e.to_string())?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_string());
        }
        let dir = dir.join(name);
        let host = Host(Arc::new(Inner { name: name.to_string(), namespace, dir: dir.clone() }));
        std::fs::create_dir_all(dir.join("etc")).map_err(|e| e.to_string())?;
        let there: Vec<PathBuf> = ETC.iter().map(|n| Path::new("/etc").join(n)).filter(|p| p.exists()).collect();
        let copied = Command::new("cp").arg("-a").args(there).arg(dir.join("etc")).status();
        assert!(copied.is_ok_and(|s| s.success()), "cannot copy /etc for {name}");
        host.resolver(&[]);
        // Duplicate address detection would hold each IPv6 address back for two seconds.
        host.sysctl("net/ipv6/conf/all/accept_dad", "0");
        host.sysctl("net/ipv6/conf/default/accept_dad", "0");
        host.ip(&["link", "set", "lo", "up"]);
        Ok(host)
    }

    /// What the test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The namespace's name, for `ip`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// A directory of its own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// A command that will run there, with this host's `/etc`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        // The mount is seen by this command alone: `ip netns exec` gives it mounts of its own.
        let script = "mount --bind \"$1\" /etc && shift && exec \"$@\"";
        command.args(["netns", "exec", self.namespace(), "sh", "-c", script, "sh"]);
        command.arg(self.etc()).arg(program.as_ref());
        command
    }

    /// Runs a command there to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let out = self.command(program).args(args).output();
        out.unwrap_or_else(|e| panic!("cannot run {program} on {}: {e}", self.name()))
    }

    /// `ip` for this host's interfaces, addresses and routes; must succeed.
    pub fn ip(&self, args: &[&str]) {
        let out = Command::new("ip").args(["-n", self.namespace()]).args(args).output();
        let out = out.unwrap_or_else(|e| panic!("cannot run ip: {e}"));
        assert!(out.status.success(), "ip {args:?} on {}: {}", self.name(), String::from_utf8_lossy(&out.stderr));
    }

    /// Rules of nftables, in its own words; must be taken.
    pub fn nft(&self, rules: &str) {
        let out = self.run("nft", &[rules]);
        assert!(out.status.success(), "nft on {}: {}\n{rules}", self.name(), String::from_utf8_lossy(&out.stderr));
    }

    /// Accepts nothing but loopback, answers, and what comes from `source`.
    pub fn only_from(&self, source: IpAddr) {
        let family = if source.is_ipv4() { "ip" } else { "ip6" };
        self.nft(&format!(
            "table inet trust {{ chain input {{ type filter hook input priority filter; policy drop; \
             iif lo accept; meta l4proto ipv6-icmp accept; ct state {{ established, related }} accept; \
             {family} saddr {source} accept; }}; }}"
        ));
    }

    /// Loses UDP on the way in and out, but for STUN (port 3478): no direct path is left.
    pub fn no_direct_paths(&self) {
        self.nft(
            "table inet lost { chain in { type filter hook input priority filter; \
             iifname \"eth0\" meta l4proto udp udp sport != 3478 drop; }; \
             chain out { type filter hook output priority filter; \
             oifname \"eth0\" meta l4proto udp udp dport != { 53, 3478 } drop; }; }",
        );
    }

    /// Removes a table that was set before.
    pub fn forget(&self, table: &str) {
        self.nft(&format!("delete table inet {table}"));
    }

    /// Writes `/etc/resolv.conf` of this host.
    pub fn resolver(&self, servers: &[IpAddr]) {
        let text: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
        std::fs::write(self.etc().join("resolv.conf"), text).unwrap();
    }

    /// Adds a line to `/etc/hosts` of this host.
    pub fn name_of(&self, name: &str, addr: IpAddr) {
        let path = self.etc().join("hosts");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{text}\n{addr} {name}\n")).unwrap();
    }

    /// `/etc/resolv.conf` as programs on this host read it now.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        std::fs::read_to_string(self.etc().join("resolv.conf")).unwrap_or_default()
    }

    /// Makes it pass on packets that are not for itself.
    pub fn forward(&self) {
        self.sysctl("net/ipv4/ip_forward", "1");
        self.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// Sets a network switch of the kernel for this host.
    pub fn sysctl(&self, path: &str, value: &str) {
        // Which namespace is meant is decided when the file is opened, by who opens it.
        let done = self.within(|| std::fs::write(Path::new("/proc/sys").join(path), value));
        done.unwrap_or_else(|e| panic!("cannot set {path} on {}: {e}", self.name()));
    }

    /// Runs `f` on a thread that is on this host: its sockets, and the threads it starts, are this host's.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let path = Path::new("/run/netns").join(self.namespace());
            let file = File::open(&path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|e| panic!("cannot enter {}: {e}", path.display()));
            f()
        };
        std::thread::scope(|s| s.spawn(inside).join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    }

    /// Connects from this host.
    ///
    /// # Errors
    /// As the connection; nobody there is a timeout after `limit`.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        let stream = self.within(|| TcpStream::connect_timeout(&to, limit))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(stream)
    }

    fn etc(&self) -> PathBuf {
        self.0.dir.join("etc")
    }
}
