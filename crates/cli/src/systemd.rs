//! `--generate=systemd`. In: the command line as typed. Out: a hardened unit that runs it, with secrets kept out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use gate::enforce;

use crate::args::Cli;

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
    let mut out: String = notes.iter().map(|n| format!("# {n}\n")).collect();
    // After nftables.service, which flushes all tables when it starts (nftables(8) of Debian); both come before the network.
    let _ = write!(
        out,
        "[Unit]
Description={what}
DefaultDependencies=no
After=local-fs.target nftables.service firewalld.service
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=sysinit.target
",
        command = command.join(" "),
    );
    out
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
    let netlink = if unit.guards { " AF_NETLINK" } else { "" };
    let calls = if unit.root.is_some() { "" } else { "SystemCallFilter=~@privileged @resources\n" };
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
Restart=always
RestartSec=5
# Longer than --drain, so that a stop is never cut short.
TimeoutStopSec=60
{user}StateDirectory=portcullis{suffix}
Environment=PORTCULLIS_DATA_DIR=%S/portcullis{suffix}
{credential}{capabilities}NoNewPrivileges=yes
ProtectSystem=strict
{folder}{writes}ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX{netlink}
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
{calls}SystemCallErrorNumber=EPERM
UMask=0077
LimitNOFILE={files}

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

/// The command line, fit for a service: it starts in `/`, as a user of its own, and nobody may read a secret in it.
#[derive(Debug, Default)]
struct Words {
    words: Vec<String>,
    notes: Vec<String>,
    /// The file that systemd, as root, hands on as the token.
    credential: Option<String>,
    /// Other files that it hands on, by the names of their copies.
    copied: Vec<(&'static str, String)>,
    copies_tls: bool,
    suffix: &'static str,
}

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// A file or a folder.
    Path,
    /// Where state lies: the service has its own folder for that.
    State,
    /// A file that holds the token.
    TokenFile,
    /// The token itself.
    Token,
    /// Names of files stand behind `@` in it.
    Other,
    /// A certificate's file, or its key's: what its copy is called.
    Tls(&'static str),
    /// Left out, like `--generate`.
    Dropped,
    /// It has none, or only behind `=`.
    None,
}

impl Words {
    fn read(self, args: &[String], here: &Path) -> Words {
        let flags = flags(&mut Cli::command());
        let mut out = self;
        let mut args = args.iter().cloned().peekable();
        while let Some(arg) = args.next() {
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_string(), Some(value.to_string())),
                // `-fFILE`
                _ if arg.len() > 2 && arg.starts_with('-') && !arg.starts_with("--") && arg.is_char_boundary(2) => {
                    (arg[..2].to_string(), Some(arg[2..].to_string()))
                }
                _ => (arg.clone(), None),
            };
            match flags.get(&flag) {
                None | Some(Value::None) => out.words.push(out_of(&arg, here)),
                Some(kind) => {
                    let value = value.or_else(|| args.next()).unwrap_or_default();
                    out.flag(flag, *kind, &value, here);
                }
            }
        }
        out
    }

    fn flag(&mut self, flag: String, kind: Value, value: &str, here: &Path) {
        let absolute = here.join(value).display().to_string();
        match kind {
            Value::Dropped => {}
            Value::State => {
                self.notes.push(format!("{flag} is left out: state lies in /var/lib/portcullis{}", self.suffix))
            }
            Value::Token => {
                self.notes.push("the token was in an argument, which every user can read: put it into /etc/portcullis/token, mode 0600".to_string());
                self.token("/etc/portcullis/token".to_string());
            }
            Value::TokenFile => self.token(absolute),
            Value::Tls(name) if self.copies_tls => {
                self.copied.push((name, absolute));
                self.words.extend([flag, format!("%d/{name}")]);
            }
            Value::Path | Value::Tls(_) => {
                self.note_unreadable(&absolute);
                self.words.extend([flag, absolute]);
            }
            Value::Other | Value::None => {
                let value = out_of(value, here);
                for path in value.split(',').filter_map(|v| v.strip_prefix('@')) {
                    self.note_unreadable(path);
                }
                self.words.extend([flag, value]);
            }
        }
    }

    fn token(&mut self, path: String) {
        self.credential = Some(path);
        self.words.extend(["--token-file".to_string(), "%d/token".to_string()]);
    }

    /// The service runs as a user of its own, which is nobody's group and owns nothing.
    fn note_unreadable(&mut self, path: &str) {
        let open = |p: &Path, bit: u32| std::fs::metadata(p).map_or(true, |m| m.permissions().mode() & bit != 0);
        let inside = Path::new(path).ancestors().skip(1).all(|dir| open(dir, 0o001));
        if !open(Path::new(path), 0o004) || !inside {
            self.notes.push(format!("the service's user cannot read {path}: open it and the folders above it to others, or give the unit `SupplementaryGroups=`"));
        }
    }
}

/// A word in which files stand behind `@`: their paths made absolute.
fn out_of(word: &str, here: &Path) -> String {
    let one = |part: &str| match part.strip_prefix('@') {
        Some(path) if !path.is_empty() => format!("@{}", here.join(path).display()),
        _ => part.to_string(),
    };
    word.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// Every flag that takes a value, in all its spellings, and what the value is. From the definitions of the flags.
fn flags(command: &mut clap::Command) -> BTreeMap<String, Value> {
    command.build();
    let mut out = BTreeMap::new();
    let mut todo = vec![&*command];
    while let Some(command) = todo.pop() {
        for arg in command.get_arguments() {
            let path = arg.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>();
            let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
            let kind = match arg.get_id().as_str() {
                "generate" => Value::Dropped,
                "token" => Value::Token,
                "token_file" | "token_from" => Value::TokenFile,
                "data_dir" | "auto_tls_path" => Value::State,
                _ if !arg.get_action().takes_values() || optional => Value::None,
                "tls_cert" => Value::Tls("cert.pem"),
                "tls_key" => Value::Tls("key.pem"),
                _ if path => Value::Path,
                _ => Value::Other,
            };
            let long = arg.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = arg.get_all_aliases().unwrap_or_default();
            out.extend(long.into_iter().chain(hidden).map(|l| (format!("--{l}"), kind)));
            out.extend(
                arg.get_short_and_visible_aliases().unwrap_or_default().into_iter().map(|s| (format!("-{s}"), kind)),
            );
        }
        todo.extend(command.get_subcommands());
    }
    out
}

/// The version of this machine's systemd; `None` where there is none to ask.
fn systemd_version() -> Option<u32> {
    let out = Command::new(OsStr::new("systemctl")).arg("--version").output().ok()?;
    String::from_utf8_lossy(&out.stdout).split_whitespace().nth(1)?.split(['.', '~', '-']).next()?.parse().ok()
}

/// A word as systemd reads it: `%` and `$` stand for themselves, quotes around what needs them (systemd.service(5)).
fn quoted(word: &str) -> String {
    let literal = if word.starts_with("%d/") { word.to_string() } else { word.replace('%', "%%").replace('$', "$$") };
    if !literal.is_empty() && literal.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\;".contains(&b)) {
        return literal;
    }
    format!("\"{}\"", literal.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
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
    fn words_are_quoted_as_systemd_reads_them() {
        assert_eq!(quoted("--allow-ips=10.0.0.0/8"), "--allow-ips=10.0.0.0/8");
        assert_eq!(quoted("50%$HOME"), "50%%$$HOME");
        assert_eq!(quoted("a \"b\""), "\"a \\\"b\\\"\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("%d/token"), "%d/token");
    }

    fn words(args: &str) -> Words {
        let args: Vec<String> = args.split(' ').map(ToString::to_string).collect();
        Words::default().read(&args, Path::new("/nowhere/at all"))
    }

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
    fn paths_are_absolute_and_the_token_is_a_credential() {
        for given in ["--token-file token", "--token-file=token", "-f token", "-ftoken"] {
            let w = words(&format!(
                "http server {given} --allow-ips @office,192.0.2.1 --tls-cert c.pem --generate=systemd"
            ));
            assert_eq!(w.credential.as_deref(), Some("/nowhere/at all/token"), "{given}");
            assert_eq!(
                w.words.join(" "),
                "http server --token-file %d/token --allow-ips @/nowhere/at all/office,192.0.2.1 --tls-cert /nowhere/at all/c.pem"
            );
        }
        let w = words("tcp client -u 2222=127.0.0.1:22 --demux --debug=true --generate systemd -t hidden --data-dir x");
        assert_eq!(w.words.join(" "), "tcp client -u 2222=127.0.0.1:22 --demux --debug=true --token-file %d/token");
        assert_eq!(w.notes.len(), 2, "{:?}", w.notes);
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
