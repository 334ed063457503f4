//! The words of a command line in a unit. In: as typed, and where. Out: paths made absolute, secrets handed over as
//! credentials, and what a person should know.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::args::Cli;

/// The command line, fit for a service: it starts in `/`, as a user of its own, and nobody may read a secret in it.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) words: Vec<String>,
    pub(super) notes: Vec<String>,
    /// The file that systemd, as root, hands on as the token.
    pub(super) credential: Option<String>,
    /// Other files that it hands on, by the names of their copies.
    pub(super) copied: Vec<(&'static str, String)>,
    pub(super) copies_tls: bool,
    pub(super) suffix: &'static str,
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
    pub(super) fn read(self, args: &[String], here: &Path) -> Words {
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

    pub(super) fn token(&mut self, path: String) {
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

/// A word as systemd reads it: `%` and `$` stand for themselves, quotes around what needs them (systemd.service(5)).
pub(super) fn quoted(word: &str) -> String {
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

    fn words(args: &str) -> Words {
        let args: Vec<String> = args.split(' ').map(ToString::to_string).collect();
        Words::default().read(&args, Path::new("/nowhere/at all"))
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
}
