//! The units of the package under a real systemd, in a Debian that boots (systemd-nspawn): guards before the network, a
//! start that is ready when it says so, a reload that refuses mistakes, a watchdog, credentials, stops and upgrades that
//! keep what there is. And, without a boot, what systemd itself finds in the units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stage::command::Outcome;
use stage::pages::recipe;
use stage::{Dir, eventually, peers, wait_or};

use super::packages::{Root, made};

/// A Debian that runs.
struct Machine {
    root: Root,
    nspawn: Child,
    /// Its process 1, by its number here.
    init: u32,
}

impl Machine {
    /// `None`, said in one line, where none boots.
    fn boot(root: Root) -> Option<Machine> {
        peers::need("systemd-nspawn")?;
        peers::need("nsenter")?;
        let log = fs::File::create(root.dir().at("boot.log")).unwrap();
        let mut c = Command::new("systemd-nspawn");
        c.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--capability=CAP_NET_ADMIN"]);
        c.arg("--console=pipe").arg("-D").arg(root.at("")).args(["--boot", "systemd.unit=multi-user.target"]);
        c.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").stdin(Stdio::null());
        let nspawn = c.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut m = Machine { root, nspawn, init: 0 };
        let children = format!("/proc/{0}/task/{0}/children", m.nspawn.id());
        let up = eventually(Duration::from_secs(120), || {
            let said = fs::read_to_string(&children).map_err(|_| "it ended")?;
            m.init = said.split_whitespace().next().and_then(|p| p.parse().ok()).ok_or("it has no child yet")?;
            match m.run("systemctl is-system-running --wait").out.trim() {
                "running" | "degraded" => Ok(()),
                _ => Err("it does not run yet"),
            }
        });
        if let Err(why) = up {
            let said = fs::read_to_string(m.root.dir().at("boot.log")).unwrap_or_default();
            stage::skip::skip(&format!("no Debian boots here by systemd-nspawn: {why}; {}", said.replace('\n', " ")));
            return None;
        }
        Some(m)
    }

    fn run(&self, script: &str) -> Outcome {
        let mut c = Command::new("timeout");
        c.args(["120", "nsenter", "-a", "-t", &self.init.to_string(), "sh", "-c", script]);
        Outcome::of(c.env("LC_ALL", "C"))
    }

    #[track_caller]
    fn must(&self, script: &str) -> String {
        let out = self.run(script);
        assert_eq!(out.code, 0, "{script}: {}\n{}", out.all(), self.journal());
        out.out
    }

    fn journal(&self) -> String {
        self.run("journalctl --no-pager -n 60 -o cat -u portcullis -u portcullis-guard -u 'portcullis-client@*'").out
    }

    fn show(&self, what: &str) -> String {
        self.must(&format!("systemctl show -P {what} portcullis")).trim().to_string()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An orderly end by its process 1; then by force.
        let _ = Command::new("kill").args(["-TERM", &self.nspawn.id().to_string()]).status();
        let ended = eventually(Duration::from_secs(40), || match self.nspawn.try_wait() {
            Ok(None) => Err("it runs"),
            _ => Ok(()),
        });
        if ended.is_err() {
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
    }
}

/// An edge and a gate with guarded ports; the token is root's, and handed over.
const CONFIG: &str = "\
token_file = \"$CREDENTIALS_DIRECTORY/token\"
port = 80
auto_tls_san = [\"127.0.0.1\"]
allow_ips = [\"127.0.0.1\"]
[lists.players]
ttl = \"1h\"
[gate]
listen = \"127.0.0.1:8125\"
[[gate.nftables]]
list = \"players\"
ports = [25565]
";

/// What a person does after `dpkg --install`, as the manual says.
fn set_up(r: &Root) {
    fs::write(r.at("etc/portcullis/portcullis.toml"), CONFIG).unwrap();
    fs::write(r.at("token"), "a-token-of-this-test\n").unwrap();
    for name in ["credentials", "guarded-ports"] {
        r.must(&["sh", "-ec", &recipe(name)]);
    }
    assert_eq!(r.must(&["stat", "-c", "%U %a", "/etc/portcullis/credentials/token"]).trim(), "root 600");
    fs::remove_file(r.at("token")).unwrap();
}

#[test]
fn the_units_do_what_they_say_under_a_real_systemd() {
    let _turn = stage::alone();
    let Some(r) = Root::new("release-systemd") else { return };
    let Some(packages) = made("deb", r.dir()) else { return };
    let (old, new) = (r.take(&packages[0]), r.take(&packages[1]));
    r.must(&["dpkg", "--install", &old]);
    set_up(&r);
    let Some(m) = Machine::boot(r) else { return };
    starts_and_reloads(&m);
    is_watched(&m);
    serves_a_client(&m);
    // A restart keeps what it was told, and an upgrade is one.
    let before = m.show("MainPID");
    m.must(&format!("dpkg --install {new}"));
    wait_or(|| m.show("ActiveState") == "active", || m.journal());
    assert_ne!(m.show("MainPID"), before, "an upgrade restarts what runs");
    assert!(m.must("portcullis list show").contains("203.0.113.7"));
    // A stop ends in order, and leaves the ports guarded.
    m.must("systemctl stop portcullis");
    assert_eq!((m.show("Result").as_str(), m.show("ExecMainStatus").as_str()), ("success", "0"), "{}", m.journal());
    assert!(m.must("nft list table inet portcullis").contains("203.0.113.7"));
    m.must("systemctl start portcullis");
    assert!(m.must("portcullis list show").contains("203.0.113.7"));
    // A removal stops it and opens them: nobody would be left who could.
    m.must("dpkg --remove portcullis");
    assert_eq!(m.must("nft list tables").trim(), "");
    assert!(m.run("pidof portcullis").out.trim().is_empty());
    m.must("dpkg --purge portcullis");
    assert_eq!(m.must("ls -d /etc/portcullis /var/lib/portcullis 2>&1 || true").matches("No such file").count(), 2);
}

fn starts_and_reloads(m: &Machine) {
    wait_or(|| m.show("ActiveState") == "active", || m.journal());
    // The guard was there before the network, and before the gate.
    let at =
        |unit: &str, what: &str| -> u64 { m.must(&format!("systemctl show -P {what} {unit}")).trim().parse().unwrap() };
    let guarded = at("portcullis-guard.service", "ActiveEnterTimestampMonotonic");
    let network = at("network-pre.target", "ActiveEnterTimestampMonotonic");
    assert!(
        guarded > 0 && guarded <= network,
        "{guarded} {network}: {}",
        m.run("systemctl status --no-pager -l portcullis-guard; ls -lan /etc/portcullis /var/lib/portcullis").out
    );
    assert!(network <= at("portcullis.service", "ExecMainStartTimestampMonotonic"));
    // Ready is ready: at once, at a port below 1024, as a user without rights.
    assert_eq!(m.must("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/").trim(), "503", "{}", m.journal());
    let rights =
        m.must("grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$(systemctl show -P MainPID portcullis)/status");
    let uid = m.must("id -u portcullis");
    // CAP_NET_BIND_SERVICE and CAP_NET_ADMIN: bits 10 and 12.
    for wanted in [format!("Uid:\t{}\t", uid.trim()), "CapEff:\t0000000000001400".into(), "NoNewPrivs:\t1".into()] {
        assert!(rights.contains(&wanted), "{rights}");
    }
    m.must("portcullis grant add 203.0.113.7 --for 1h");
    m.must("systemctl reload portcullis");
    m.must("echo 'no_such_key = 1' >> /etc/portcullis/portcullis.toml");
    assert_ne!(m.run("systemctl reload portcullis").code, 0, "a mistake is refused and said");
    assert!(m.journal().contains("no_such_key") && m.show("ActiveState") == "active", "{}", m.journal());
    m.must("sed -i '/no_such_key/d' /etc/portcullis/portcullis.toml && systemctl reload portcullis");
}

/// A process that no longer turns is replaced, and its successor has what it had.
fn is_watched(m: &Machine) {
    m.must("mkdir -p /run/systemd/system/portcullis.service.d");
    m.must("printf '[Service]\\nWatchdogSec=6\\nRestartSec=1\\n' > /run/systemd/system/portcullis.service.d/w.conf");
    m.must("systemctl daemon-reload && systemctl restart portcullis");
    let first = m.show("MainPID");
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(m.show("MainPID"), first, "one that turns is left alone: {}", m.journal());
    m.must(&format!("kill -STOP {first}"));
    wait_or(|| m.show("NRestarts") == "1" && m.show("ActiveState") == "active", || m.journal());
    assert_ne!(m.show("MainPID"), first);
    assert!(m.must("portcullis list show").contains("203.0.113.7"));
    assert!(m.must("nft list table inet portcullis").contains("203.0.113.7"));
    m.must("rm -r /run/systemd/system/portcullis.service.d && systemctl daemon-reload && systemctl restart portcullis");
}

/// A client's unit: its token is root's, its user nobody's.
fn serves_a_client(m: &Machine) {
    let said = m.must("journalctl --no-pager -o cat -u portcullis | grep -o 'wss://[^,]*' | tail -n 1");
    m.must("install -m 600 /etc/portcullis/credentials/token /etc/portcullis/clients/web.token");
    m.must(&format!(
        "printf 'PORTCULLIS_CONNECT=%s\\nPORTCULLIS_UPSTREAM=http://127.0.0.1:3000\\n' '{}' > /etc/portcullis/clients/web.env",
        said.trim()
    ));
    m.must("mkdir -p /srv/web && echo published > /srv/web/index.html");
    m.must("systemd-run --quiet --unit=files portcullis fileserver --webroot /srv/web --addr 127.0.0.1 --port 3000");
    m.must("systemctl start portcullis-client@web");
    wait_or(|| m.run("curl -s http://127.0.0.1/").out.contains("published"), || m.journal());
    assert_eq!(
        m.run("systemctl start portcullis-client@nothing; systemctl is-active portcullis-client@nothing").out.trim(),
        "inactive"
    );
    m.must("systemctl stop portcullis-client@web files");
}

/// The units where systemd looks for them, with a program in its place.
fn laid(dir: &Dir) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let system = dir.at("usr/lib/systemd/system");
    fs::create_dir_all(&system).unwrap();
    for unit in ["portcullis.service", "portcullis-client@.service", "portcullis-guard.service", "guarded-ports.conf"] {
        let text = fs::read_to_string(root.join("deploy/systemd").join(unit)).unwrap();
        // A program and a manual page that every machine has.
        let text = text.replace("/usr/bin/portcullis", "/bin/true").replace("Documentation=man:portcullis(1)\n", "");
        fs::write(system.join(unit), text).unwrap();
    }
    let drop_ins = system.join("portcullis-gate.service.d");
    fs::create_dir_all(&drop_ins).unwrap();
    fs::copy(system.join("portcullis.service"), system.join("portcullis-gate.service")).unwrap();
    fs::rename(system.join("guarded-ports.conf"), drop_ins.join("guarded-ports.conf")).unwrap();
    system
}

#[test]
fn systemd_finds_nothing_wrong_and_little_exposed() {
    let Some(_) = peers::need("systemd-analyze") else { return };
    let dir = Dir::new("release-units");
    let system = laid(&dir);
    let all =
        ["portcullis.service", "portcullis-client@.service", "portcullis-guard.service", "portcullis-gate.service"];
    let out = Outcome::of(Command::new("systemd-analyze").arg("verify").args(all.iter().map(|u| system.join(u))));
    assert!(out.code == 0 && out.err.trim().is_empty(), "{}", out.all());
    // Without a gate that guards ports, with one, and the others.
    for (unit, most) in [(all[0], 2.0), (all[3], 3.0), (all[1], 2.0), (all[2], 2.0)] {
        let mut c = Command::new("systemd-analyze");
        c.args(["security", "--offline=yes", "--no-pager"]).arg(system.join(unit)).env("LC_ALL", "C.UTF-8");
        let out = Outcome::of(&mut c);
        let said = out.out.lines().last().unwrap_or_default().to_string();
        let score = said.split(": ").nth(1).and_then(|s| s.split(' ').next()?.parse::<f64>().ok());
        let score = score.unwrap_or_else(|| panic!("{unit}: {}", out.all()));
        println!("{unit}: {score}");
        assert!(score <= most, "{unit}: {}", out.all());
    }
}
