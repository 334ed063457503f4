//! `--generate=systemd`. In: the command line as typed. Out: a hardened unit that runs it, with secrets kept out.

use std::fmt::Write;

/// What the unit needs to know besides the command line.
pub(crate) struct Unit {
    /// `Portcullis edge`.
    pub(crate) what: &'static str,
    /// Binds a port below 1024.
    pub(crate) low_ports: bool,
}

/// The unit for this process's own arguments, without `--generate`. Relative paths in them are made absolute, since a
/// service starts elsewhere.
pub(crate) fn systemd(unit: &Unit) -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "/usr/local/bin/portcullis".to_string(), |p| p.display().to_string());
    let mut words = vec![program];
    let mut args = std::env::args().skip(1).peekable();
    let mut notes = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--generate" => drop(args.next()),
            a if a.starts_with("--generate=") => {}
            "--token" | "-t" => {
                drop(args.next());
                words.extend(["--token-file".to_string(), "%d/token".to_string()]);
                notes.push("the token was in an argument, which every user can read: put it into /etc/portcullis/token, mode 0600");
            }
            a if a.starts_with("--token=") => {
                words.extend(["--token-file".to_string(), "%d/token".to_string()]);
                notes.push("the token was in an argument, which every user can read: put it into /etc/portcullis/token, mode 0600");
            }
            _ => words.push(arg),
        }
    }
    let words: Vec<String> = absolute_paths(words).iter().map(|w| quoted(w)).collect();
    let mut out = String::new();
    for note in &notes {
        let _ = writeln!(out, "# {note}");
    }
    let credential = if notes.is_empty() { "" } else { "LoadCredential=token:/etc/portcullis/token\n" };
    let capabilities = if unit.low_ports {
        "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"
    } else {
        "CapabilityBoundingSet=\n"
    };
    let _ = write!(
        out,
        "[Unit]
Description={what}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify-reload
ExecStart={command}
Restart=always
RestartSec=5
# Longer than --drain, so that a stop is never cut short.
TimeoutStopSec=60
DynamicUser=yes
StateDirectory=portcullis
Environment=PORTCULLIS_DATA_DIR=%S/portcullis
{credential}{capabilities}NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
",
        what = unit.what,
        command = words.join(" "),
    );
    out
}

/// Values that name a file here are made absolute, also behind `@` and `=`.
fn absolute_paths(words: Vec<String>) -> Vec<String> {
    let Ok(here) = std::env::current_dir() else { return words };
    let absolute = |value: &str| -> Option<String> {
        let (at, path) = value.strip_prefix('@').map_or(("", value), |p| ("@", p));
        let joined = here.join(path);
        (!path.is_empty() && !path.starts_with('/') && (at == "@" || path.contains(['/', '.'])) && joined.is_file())
            .then(|| format!("{at}{}", joined.display()))
    };
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                absolute(value).map_or_else(|| word.clone(), |v| format!("{flag}={v}"))
            }
            _ => absolute(&word).unwrap_or(word),
        })
        .collect()
}

/// A word as systemd reads it: `%` and `$` stand for themselves, quotes around what needs them (systemd.service(5)).
fn quoted(word: &str) -> String {
    let literal = if word.starts_with("%d/") { word.to_string() } else { word.replace('%', "%%").replace('$', "$$") };
    if !literal.is_empty() && literal.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\;".contains(&b)) {
        return literal;
    }
    format!("\"{}\"", literal.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
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
}
