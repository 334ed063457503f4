//! `--generate=systemd`, and the units of the packages. In: the command line as typed. Out: a hardened unit that runs it,
//! with secrets kept out.

#[cfg(test)]
mod packaged;
mod sandbox;
mod words;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use gate::enforce;

use sandbox::{Home, Sandbox};
use words::{Words, quoted};

/// What the unit needs to know besides the command line.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// `Portcullis edge`.
    pub(crate) what: &'static str,
    /// Binds a port below 1024.
    pub(crate) low_ports: bool,
    /// Open files that it may need.
    pub(crate) files: u64,
    /// The token's file, where it stands in a configuration file that the command names.
    pub(crate) token: Option<PathBuf>,
    /// Keeps a table of nftables.
    pub(crate) guards: bool,
    /// Folders in which it writes files for others.
    pub(crate) writes: Vec<PathBuf>,
    /// Where it runs, if it writes a file that its command line does not name.
    pub(crate) folder: Option<PathBuf>,
    /// Variables that the command reads beside `PORTCULLIS_…`.
    pub(crate) reads: Vec<String>,
    /// Why it must be root: it runs programs that are.
    pub(crate) root: Option<&'static str>,
    /// What distinguishes its folder below `/var/lib` (`portcullis…`), where its state lies: two services of one machine
    /// have one each, since each is a user of its own.
    pub(crate) suffix: &'static str,
    /// Certificate and key are read at the start alone: systemd, as root, hands on copies of them.
    pub(crate) copies_tls: bool,
}

/// The unit that runs this command line once, before there is a network: a oneshot that only speaks to the kernel.
pub(crate) fn before_network(what: &str) -> String {
    let Words { words, notes, .. } = own_words(&Unit::default());
    let command: Vec<String> =
        std::iter::once(program().display().to_string()).chain(words).map(|w| quoted(&w)).collect();
    let out: String = notes.iter().map(|n| format!("# {n}\n")).collect();
    let state = "# It reads the grants of the gate, a user of its own.\n\
                 Environment=PORTCULLIS_DATA_DIR=%S/portcullis\n\
                 AmbientCapabilities=CAP_NET_ADMIN CAP_DAC_READ_SEARCH\n\
                 CapabilityBoundingSet=CAP_NET_ADMIN CAP_DAC_READ_SEARCH\n";
    out + &guard(what, &command.join(" "), state, Home::Readable)
}

/// A oneshot that only speaks to the kernel, before there is a network. It comes after nftables.service, which flushes
/// all tables when it starts (nftables(8) of Debian); both come before the network.
fn guard(what: &str, command: &str, who: &str, home: Home) -> String {
    let sandbox = Sandbox { families: "AF_NETLINK AF_UNIX", home, own_tmp: false, root: false };
    format!(
        "[Unit]
Description={what}
Documentation=man:portcullis(1)
DefaultDependencies=no
After=local-fs.target nftables.service firewalld.service
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
RequiresMountsFor=/var/lib

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
{who}{sandbox}
[Install]
WantedBy=sysinit.target
"
    )
}

fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/portcullis"))
}

fn own_words(unit: &Unit) -> Words {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    Words { copies_tls: unit.copies_tls, suffix: unit.suffix, ..Words::default() }.read(&args, &here)
}

/// The unit for this process's own arguments, without `--generate`.
pub(crate) fn render(unit: &Unit) -> String {
    let set = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    text(unit, &program(), own_words(unit), systemd_version(), &set.collect::<Vec<_>>())
}

fn text(unit: &Unit, program: &Path, words: Words, systemd: Option<u32>, variables: &[String]) -> String {
    let mut out = String::new();
    let mut words = words;
    if let (None, Some(path)) = (&words.credential, &unit.token) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        words.token(path.display().to_string());
    }
    let Words { words, mut notes, credential, copied, .. } = words;
    let lost: Vec<&str> = variables
        .iter()
        .map(String::as_str)
        .filter(|v| v.starts_with("PORTCULLIS_") || unit.reads.iter().any(|r| r == v))
        .filter(|v| *v != "PORTCULLIS_DATA_DIR")
        .collect();
    if !lost.is_empty() {
        notes.push(format!("set in this shell, and not known to the service: {}", lost.join(", ")));
    }
    if let Some(why) = unit.root {
        notes.push(format!("root: {why}"));
    } else if !unit.writes.is_empty() {
        let dirs: Vec<String> = unit.writes.iter().map(|d| d.display().to_string()).collect();
        notes.push(format!("the service's user must be able to write in {}: give the folder a group and the unit `SupplementaryGroups=`", dirs.join(", ")));
    }
    for note in &notes {
        let _ = writeln!(out, "# {note}");
    }
    let command: Vec<String> =
        std::iter::once(program.display().to_string()).chain(words).map(|w| quoted(&w)).collect();
    let credential =
        credential.map_or(String::new(), |path| format!("LoadCredential={}\n", quoted(&format!("token:{path}"))));
    let credential = copied.iter().fold(credential, |mut all, (name, path)| {
        let _ = writeln!(all, "LoadCredential={}", quoted(&format!("{name}:{path}")));
        all
    });
    let named = [(unit.low_ports, "CAP_NET_BIND_SERVICE"), (unit.guards, "CAP_NET_ADMIN")];
    let named: Vec<&str> = named.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect();
    let capabilities = match (unit.root, named.join(" ")) {
        // What it runs needs rights of its own.
        (Some(_), _) => String::new(),
        (None, none) if none.is_empty() => "CapabilityBoundingSet=\n".to_string(),
        (None, some) => format!("AmbientCapabilities={some}\nCapabilityBoundingSet={some}\n"),
    };
    let user = if unit.root.is_some() { "User=root\n" } else { "DynamicUser=yes\n" };
    let folder = unit.folder.as_ref().map(|dir| format!("WorkingDirectory={}\n", quoted(&dir.display().to_string())));
    let folder = folder.unwrap_or_default();
    let writes: String =
        unit.writes.iter().map(|dir| format!("ReadWritePaths={}\n", quoted(&dir.display().to_string()))).collect();
    let sandbox = Sandbox {
        families: if unit.guards { "AF_INET AF_INET6 AF_UNIX AF_NETLINK" } else { "AF_INET AF_INET6 AF_UNIX" },
        home: Home::Readable,
        own_tmp: true,
        root: unit.root.is_some(),
    };
    // `notify-reload` came with 253 (systemd.service(5)); the other form does on every version.
    let kind = if systemd.is_some_and(|v| v >= 253) {
        "Type=notify-reload"
    } else {
        "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"
    };
    let _ = write!(
        out,
        "[Unit]
Description={what}
Wants=network-online.target
After=network-online.target

[Service]
{kind}
ExecStart={command}
{LIFE}{user}StateDirectory=portcullis{suffix}
Environment=PORTCULLIS_DATA_DIR=%S/portcullis{suffix}
{credential}{capabilities}{folder}{writes}{sandbox}LimitNOFILE={files}

[Install]
WantedBy=multi-user.target
",
        what = unit.what,
        suffix = unit.suffix,
        files = unit.files,
        command = command.join(" "),
    );
    out
}

/// How a service that stays is kept running: its loops are asked three times within `WatchdogSec`, so that a slow disk
/// is no reason to end it, and a stop has time for `--drain`.
const LIFE: &str = "\
Restart=always
RestartSec=5
WatchdogSec=60
# Longer than --drain, so that a stop is never cut short.
TimeoutStopSec=60
";

/// The version of this machine's systemd; `None` where there is none to ask.
fn systemd_version() -> Option<u32> {
    let out = Command::new(OsStr::new("systemctl")).arg("--version").output().ok()?;
    String::from_utf8_lossy(&out.stdout).split_whitespace().nth(1)?.split(['.', '~', '-']).next()?.parse().ok()
}

/// What a unit must give these enforcers.
pub(crate) fn of_enforcers(enforcers: &[enforce::Config]) -> Unit {
    let mut unit = Unit::default();
    let mut writes: BTreeSet<PathBuf> = BTreeSet::new();
    for config in enforcers {
        match config {
            enforce::Config::Nftables(_) => unit.guards = true,
            enforce::Config::Nginx(_) => unit.root = Some("nginx is tested and reloaded at each change"),
            enforce::Config::Command(_) => {
                unit.root = Some(
                    "the command of --exec runs with the service's rights; give it a user of its own if it needs fewer",
                )
            }
            _ => {}
        }
        let file = config.info().file.map(|file| std::path::absolute(&file).unwrap_or(file));
        writes.extend(file.and_then(|file| file.parent().map(Path::to_path_buf)));
    }
    unit.writes = writes.into_iter().collect();
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_certificates_at_the_start_alone_is_handed_copies() {
        let args =
            ["control", "--tls-cert", "c.pem", "--tls-key=/etc/k.pem", "--policy", "p.hujson", "--data-dir", "x"];
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let words = Words { copies_tls: true, suffix: "-control", ..Words::default() };
        let words = words.read(&args, Path::new("/nowhere"));
        assert_eq!(
            words.words.join(" "),
            "control --tls-cert %d/cert.pem --tls-key %d/key.pem --policy /nowhere/p.hujson"
        );
        let unit = Unit { what: "Portcullis", suffix: "-control", copies_tls: true, ..Unit::default() };
        let text = text(&unit, Path::new("/bin/p"), words, None, &[]);
        for line in [
            "LoadCredential=cert.pem:/nowhere/c.pem",
            "LoadCredential=key.pem:/etc/k.pem",
            "StateDirectory=portcullis-control",
            "Environment=PORTCULLIS_DATA_DIR=%S/portcullis-control",
            "# --data-dir is left out: state lies in /var/lib/portcullis-control",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_kind_of_service_is_one_that_systemd_knows() {
        let unit = Unit { what: "Portcullis edge", files: 1, ..Unit::default() };
        let of = |version| text(&unit, Path::new("/bin/p"), Words::default(), version, &["PORTCULLIS_X".to_string()]);
        assert!(of(Some(253)).contains("\nType=notify-reload\n"));
        for old in [Some(252), None] {
            assert!(of(old).contains("\nType=notify\nExecReload=/bin/kill -HUP $MAINPID\n"));
        }
        assert!(of(None).contains("PORTCULLIS_X") && !of(None).contains("WorkingDirectory="));
        let unit = Unit { folder: Some("/srv/gate".into()), reads: vec!["MAX_IP_LEN".to_string()], ..Unit::default() };
        let set = ["MAX_IP_LEN", "HOME"].map(str::to_string);
        let said = text(&unit, Path::new("/bin/p"), Words::default(), None, &set);
        assert!(said.contains("\nWorkingDirectory=/srv/gate\n"), "{said}");
        assert!(said.contains("not known to the service: MAX_IP_LEN\n"), "{said}");
    }
}
