//! The edge's TOML file. In: `edge.toml`. Out: what it says, each value typed, each list entry with its line; unknown
//! keys and bad values are errors with line and column. Keys are the names of the flags with `_` for `-`.

pub(crate) mod control;
pub(crate) mod gate;
mod value;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use access::visitor::AddressHeader;
use addr::Host;
use anyhow::Context;
use serde::Deserialize;
use tunnel::settings::Site;
use tunnel_proto::upstream::PortRanges;

use self::control::Section;
use self::gate::{GateFile, ListFile};
pub(crate) use self::value::ListValue;
use self::value::{bind_addr, duration, ports, proxy_version, sites, trusted_header};
use crate::args::{LogFormat, ProxyLine};

/// The first of these that exists is read when `serve` is given no other file.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["/etc/portcullis/portcullis.toml", "/etc/portcullis/edge.toml"];

/// Every key of the file. `docs/manual/edge.toml` explains them, and a test keeps the two equal.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EdgeFile {
    pub(crate) http: Option<bool>,
    pub(crate) port: Option<u16>,
    pub(crate) control_port: Option<u16>,
    #[serde(default, deserialize_with = "bind_addr")]
    pub(crate) control_addr: Option<IpAddr>,
    #[serde(default, deserialize_with = "bind_addr")]
    pub(crate) data_addr: Option<IpAddr>,
    #[serde(default, deserialize_with = "ports")]
    pub(crate) allow_ports: Option<PortRanges>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) token_files: Option<Vec<PathBuf>>,
    pub(crate) token_env: Option<String>,
    pub(crate) tokens: Option<Vec<TokenFile>>,
    pub(crate) auto_tls: Option<bool>,
    pub(crate) auto_tls_san: Option<Vec<String>>,
    pub(crate) auto_tls_path: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) allow_ips: Option<ListValue>,
    pub(crate) allow_ips_control: Option<ListValue>,
    pub(crate) allow_ips_data: Option<ListValue>,
    pub(crate) trusted_proxies: Option<ListValue>,
    #[serde(default, deserialize_with = "trusted_header")]
    pub(crate) trusted_header: Option<AddressHeader>,
    pub(crate) trusted_identity: Option<Vec<String>>,
    #[serde(default, deserialize_with = "proxy_version")]
    pub(crate) proxy_protocol: Option<ProxyLine>,
    #[serde(default, deserialize_with = "proxy_version")]
    pub(crate) lb_proxy_protocol: Option<ProxyLine>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) grace: Option<Duration>,
    pub(crate) max_visitors: Option<u32>,
    pub(crate) max_visitors_per_source: Option<u32>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) stall_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) drain: Option<Duration>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) debug: Option<bool>,
    pub(crate) log_format: Option<LogFormat>,
    /// Lists of single TCP ports.
    #[serde(default)]
    pub(crate) port_lists: BTreeMap<String, Guard>,
    /// Lists of single hosts.
    #[serde(default)]
    pub(crate) host_lists: BTreeMap<String, Guard>,
    /// Lists that learn and forget; see `gate_file`.
    #[serde(default)]
    pub(crate) lists: BTreeMap<String, ListFile>,
    /// Their grant sources and enforcers.
    pub(crate) gate: Option<GateFile>,
    /// The coordination server of the mesh; `docs/manual/control.toml` explains its keys.
    pub(crate) control: Option<Section>,
}

/// One of `[[tokens]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenFile {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    #[serde(default, deserialize_with = "sites")]
    pub(crate) hosts: Option<Vec<Site>>,
    #[serde(default, deserialize_with = "ports")]
    pub(crate) ports: Option<PortRanges>,
    pub(crate) allow_ips: Option<ListValue>,
}

/// A list of its own for one port or host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guard {
    pub(crate) allow_ips: ListValue,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) path: PathBuf,
    pub(crate) edge: EdgeFile,
    text: String,
}

/// A mistake in a file with its line, and with what was wanted in words for people in the place of types.
pub(crate) fn in_words(e: &toml::de::Error) -> String {
    let (all, said) = (e.to_string(), e.message());
    let mut words = said.to_string();
    for (types, plain) in [
        (&["usize", "u8", "u16", "u32", "u64"][..], "a whole number"),
        (&["a boolean"], "true or false"),
        (&["a sequence"], "a list in brackets: [ … ]"),
        (&["a string"], "text in quotes"),
    ] {
        for t in types {
            if let Some(before) = words.strip_suffix(&format!("expected {t}")) {
                words = format!("{before}expected {plain}");
                break;
            }
        }
    }
    let all = all.trim_end();
    all.strip_suffix(said).map_or_else(|| all.to_string(), |place| format!("{place}{words}"))
}

/// A path that a file of this folder names: it starts there. Below `$CREDENTIALS_DIRECTORY` lies what the service manager
/// hands on (systemd.exec(5)): secrets that only root can read in their place.
pub(crate) fn located(dir: &Path, path: &Path) -> PathBuf {
    match (path.strip_prefix("$CREDENTIALS_DIRECTORY"), std::env::var_os("CREDENTIALS_DIRECTORY")) {
        (Ok(name), Some(credentials)) => Path::new(&credentials).join(name),
        _ => dir.join(path),
    }
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or is no valid configuration: with line, column and the line itself.
pub(crate) fn read(path: &Path) -> anyhow::Result<Read> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let edge: EdgeFile = toml::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {}", path.display(), in_words(&e)))?;
    let read = Read { path: path.to_path_buf(), edge, text };
    for (name, guard) in &read.edge.port_lists {
        if name.parse::<u16>().is_err() || name == "0" || name.starts_with(['+', '0']) {
            let line = read.line(guard.allow_ips.0.span().start);
            anyhow::bail!("{}:{line}: `port_lists` needs a port from 1 to 65535, not `{name}`", path.display());
        }
    }
    let mut hosts = BTreeMap::new();
    for (name, guard) in &read.edge.host_lists {
        let place = read.place(guard.allow_ips.0.span().start);
        // A list that can never be asked would look like a guard and be none.
        let host = Host::parse(name).with_context(|| {
            format!(
                "{place}: `host_lists` needs one host as requests name it, without port or wildcard, not `{name}`; names \
                 of other scripts are written in their `xn--` form"
            )
        })?;
        if let Some(other) = hosts.insert(host, name) {
            anyhow::bail!("{place}: `host_lists` has two lists for one host: `{other}` and `{name}`");
        }
    }
    Ok(read)
}

impl Read {
    /// The entries of a list with the place of each: `edge.toml:12`.
    ///
    /// # Errors
    /// The list is empty; `none` must be said.
    pub(crate) fn entries<'a>(&'a self, list: &'a ListValue) -> anyhow::Result<Vec<(&'a str, String)>> {
        let place = |at: usize| self.place(at);
        let items = list.0.get_ref();
        if items.is_empty() {
            anyhow::bail!(
                "{}: an empty list lets nobody in; write [\"none\"] if that is meant",
                place(list.0.span().start)
            );
        }
        Ok(items.iter().map(|i| (i.get_ref().as_str(), place(i.span().start))).collect())
    }

    /// The folder of the file: paths in it start there.
    pub(crate) fn dir(&self) -> PathBuf {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }

    /// A path that the file names.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        located(&self.dir(), path)
    }

    /// `edge.toml:12` for a byte of the text.
    pub(crate) fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    fn line(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().matches('\n').count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = include_str!("../../../../../docs/manual/edge.toml");
    const PACKAGED: &str = include_str!("../../../../../deploy/etc/portcullis.toml");

    #[test]
    fn every_section_of_the_packages_file_is_valid_once_it_is_no_comment() {
        assert!(toml::from_str::<toml::Table>(PACKAGED).unwrap().is_empty(), "a new installation runs nothing");
        let sections = PACKAGED.split("\n# --- ").skip(1).map(|section| {
            let lines = section.lines().skip(1).filter_map(|l| l.strip_prefix('#'));
            lines.filter(|l| !l.starts_with(' ')).map(|l| format!("{l}\n")).collect::<String>()
        });
        let files: Vec<EdgeFile> =
            sections.map(|s| toml::from_str(&s).map_err(|e| format!("{s}: {e}")).unwrap()).collect();
        assert!(files[0].token_file.is_some() && files[1].gate.is_some() && files[2].control.is_some());
    }

    #[test]
    fn the_manual_is_a_valid_file_and_knows_every_key() {
        let edge: EdgeFile = toml::from_str(MANUAL).unwrap();
        assert_eq!(edge.port, Some(8000));
        assert_eq!(edge.port_lists.len(), 1);
        // serde names every key it knows when it meets one it does not.
        for (line, wanted) in [
            ("port = \"8000\"", "invalid type: string \"8000\", expected a whole number"),
            ("debug = \"yes\"", "expected true or false"),
            ("trusted_identity = 7", "expected a list in brackets: [ … ]"),
        ] {
            let said = in_words(&toml::from_str::<EdgeFile>(line).unwrap_err());
            assert!(said.contains("line 1") && said.ends_with(wanted), "{said}");
        }
        let error = toml::from_str::<EdgeFile>("no_such_key = 1").unwrap_err().to_string();
        let keys: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|k| *k != "no_such_key").collect();
        assert!(keys.len() > 20, "{error}");
        for key in keys {
            let said = |l: &str| {
                l.trim_start_matches("# ").starts_with(&format!("{key} = "))
                    || l.trim_start_matches("# ").starts_with(&format!("[{key}"))
                    || l == format!("# [[{key}]]")
                    || l.starts_with(&format!("[{key}."))
            };
            assert!(MANUAL.lines().any(said), "docs/manual/edge.toml does not explain `{key}`");
        }
    }

    #[test]
    fn what_is_commented_out_in_the_manual_is_valid_too() {
        let (alone, tables) = MANUAL.split_once("# [[").unwrap();
        for line in alone.lines().filter_map(|l| l.strip_prefix("# ")).filter(|l| l.contains(" = ")) {
            toml::from_str::<EdgeFile>(line).map_err(|e| format!("{line}: {e}")).unwrap();
        }
        let table: String =
            tables.lines().take_while(|l| !l.is_empty()).map(|l| format!("{}\n", l.trim_start_matches("# "))).collect();
        let file = toml::from_str::<EdgeFile>(&format!("[[{table}")).unwrap();
        assert_eq!(file.tokens.unwrap()[0].hosts.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn a_single_string_has_its_line_as_well() {
        let dir = std::env::temp_dir().join(format!("portcullis-config-{}.toml", std::process::id()));
        std::fs::write(&dir, "port = 1\nallow_ips = \"10.0.0.1\"\nallow_ips_data = [\n'a',\n'b']\n").unwrap();
        let file = read(&dir).unwrap();
        let places = |v: &Option<ListValue>| {
            file.entries(v.as_ref().unwrap())
                .unwrap()
                .iter()
                .map(|(_, p)| p.rsplit(':').next().unwrap().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(places(&file.edge.allow_ips), ["2"]);
        assert_eq!(places(&file.edge.allow_ips_data), ["4", "5"]);
        std::fs::remove_file(dir).unwrap();
    }

    #[test]
    fn host_lists_guard_hosts_that_requests_can_name() {
        let dir = std::env::temp_dir().join(format!("portcullis-hosts-{}.toml", std::process::id()));
        let said = |hosts: &[&str]| {
            let list = |h: &&str| format!("[host_lists.\"{h}\"]\nallow_ips = [\"none\"]\n");
            std::fs::write(&dir, hosts.iter().map(list).collect::<String>()).unwrap();
            read(&dir).map(drop).map_err(|e| format!("{e:#}"))
        };
        said(&["App.example.com", "localhost", "a_b.example", "192.0.2.1", "2001:DB8:0::1", "example.com."]).unwrap();
        for bad in ["b.com:28002", "*.c.com", "bad host", "", ".", "a..b", "http://a", "127.1", "x,y", "[::1]"] {
            let why = said(&[bad]).unwrap_err();
            assert!(why.contains(":2: `host_lists` needs one host"), "{bad}: {why}");
        }
        for twice in [["a.example", "A.Example."], ["::1", "0::1"], ["::ffff:192.0.2.1", "192.0.2.1"]] {
            let why = said(&twice).unwrap_err();
            assert!(why.contains("two lists for one host"), "{twice:?}: {why}");
        }
        std::fs::remove_file(dir).unwrap();
    }
}
