//! Guarded ports while no gate runs. In: what the gate is told, or was told when it last started; the grants of its
//! store. Out: at boot, tables that let in whom the lists hold; after a failure, none where the operator wants that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use access::ledger::Rules;
use access::publish::{Desired, is_plain_name};
use addr::{Port, Prefix};
use anyhow::{Context, ensure};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::GateSettings;
use super::enforce::{Closed, Config, Enforcer, NftablesConfig, OnFailure, Opened};
use super::ledger;

/// Ports that the kernel guards, and the rules of their list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The table.
    pub config: NftablesConfig,
    /// The rules of its list.
    pub rules: Rules,
}

/// What came of closing a guard's ports.
#[derive(Debug)]
pub struct Boot {
    /// Its enforcer's name.
    pub name: String,
    /// Whether they were closed already; else to how many entries they are open.
    pub done: anyhow::Result<Option<usize>>,
}

/// A guard in the data directory's `guards.json`, for a start at which the configuration cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    table: String,
    /// As in the configuration: `25565/tcp,25565/udp`.
    ports: String,
    list: String,
    #[serde(rename = "static")]
    statics: Vec<String>,
    #[serde(default)]
    on_failure: OnFailure,
}

/// The largest file that is read: 100,000 static entries are 4 MiB.
const MAX_FILE: u64 = 16 << 20;

/// The guards among these settings.
#[must_use]
pub fn of(settings: &GateSettings) -> Vec<Guard> {
    let rules = |list: &str| settings.lists.iter().find(|(name, _)| name == list).map(|(_, rules)| rules.clone());
    let each = settings.enforcers.iter().filter_map(|config| match config {
        Config::Nftables(config) => Some(config.clone()),
        _ => None,
    });
    each.map(|config| Guard { rules: rules(&config.list).unwrap_or_default(), config }).collect()
}

/// Closes each guard's ports to everybody but whom its list holds by the store in this data directory; tables that stand
/// already stay as they are. A store that cannot be read costs its grants, and is the error beside.
pub fn close(guards: &[Guard], data_dir: &Path) -> (Vec<Boot>, anyhow::Result<()>) {
    let rules: BTreeMap<String, Rules> = guards.iter().map(|g| (g.config.list.clone(), g.rules.clone())).collect();
    let (saved, read) = match ledger::saved(&data_dir.join("gate.db"), &rules) {
        Ok(saved) => (saved, Ok(())),
        Err(e) => (Default::default(), Err(e).context("the gate's grants cannot be read and let nobody in")),
    };
    let (lists, now) = saved;
    let closed = guards.iter().map(|guard| {
        let mut enforcer = Config::Nftables(guard.config.clone()).build();
        let statics = || Desired { statics: guard.rules.statics.clone(), ..Desired::default() };
        let to_all_but = lists.get(&guard.config.list).cloned().unwrap_or_else(statics);
        let done =
            enforcer.close(&to_all_but, now).map(|c| (c == Closed::Made).then(|| to_all_but.set().prefixes().len()));
        Boot { name: enforcer.info().name.clone(), done }
    });
    (closed.collect(), read)
}

/// Closes the ports that are to be guarded, to everybody but the entries that the configuration puts on their lists, if
/// their table is not there yet; nothing that fails later leaves them open then. Ports that are to be open after a
/// failure are closed once the store is read.
///
/// # Errors
/// The kernel does not let us; says what is missing.
pub(super) fn close_to_statics<'a>(
    enforcers: impl IntoIterator<Item = (&'a Config, &'a mut Box<dyn Enforcer>)>,
    lists: &[(String, Rules)],
) -> anyhow::Result<()> {
    for (config, enforcer) in enforcers {
        let Config::Nftables(NftablesConfig { list, on_failure: OnFailure::Closed, .. }) = config else { continue };
        let rules = lists.iter().filter(|(name, _)| name == list).map(|(_, rules)| rules);
        let statics: Vec<Prefix> = rules.flat_map(|r| r.statics.iter().copied()).collect();
        enforcer.close(&Desired { statics, ..Desired::default() }, 0)?;
    }
    Ok(())
}

/// Takes the tables away whose ports are to be open while the gate fails. One that a gate keeps is left alone.
pub fn give_up(guards: &[Guard]) {
    for Guard { config, .. } in guards.iter().filter(|g| g.config.on_failure == OnFailure::Open) {
        let table = &config.table;
        match Config::Nftables(config.clone()).build().open() {
            Ok(Opened::Now) => {
                warn!(table, "the gate failed: its ports are open to everybody until it runs (on_failure = \"open\")")
            }
            Ok(Opened::Before | Opened::Kept) => {}
            Err(e) => error!(
                table,
                err = format!("{e:#}"),
                "the gate failed, and its ports stay closed: the table cannot be taken away"
            ),
        }
    }
}

/// Notes the guards for [`remembered`].
///
/// # Errors
/// The file cannot be written.
pub(super) fn remember(data_dir: &Path, guards: &[Guard]) -> anyhow::Result<()> {
    let path = file(data_dir);
    if guards.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    let each = guards.iter().map(|Guard { config, rules }| Remembered {
        table: config.table.clone(),
        ports: config.ports.iter().map(Port::to_string).collect::<Vec<_>>().join(","),
        list: config.list.clone(),
        statics: rules.statics.iter().map(Prefix::to_string).collect(),
        on_failure: config.on_failure,
    });
    let bytes = serde_json::to_vec(&each.collect::<Vec<_>>())?;
    if read(&path).is_ok_and(|there| there.is_some_and(|b| b == bytes)) {
        return Ok(());
    }
    let part = data_dir.join("guards.json.part");
    let write = || -> std::io::Result<()> {
        // Made anew: a link that somebody put there before leads nowhere.
        let _ = std::fs::remove_file(&part);
        let mut f = File::options().write(true).create_new(true).mode(0o600).open(&part)?;
        f.write_all(&bytes)?;
        f.sync_all()?;
        std::fs::rename(&part, &path)?;
        File::open(data_dir)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The guards that the gate of this data directory last had; none if it had none.
///
/// # Errors
/// The file cannot be read, or is none of ours.
pub fn remembered(data_dir: &Path) -> anyhow::Result<Vec<Guard>> {
    let path = file(data_dir);
    let Some(bytes) = read(&path)? else { return Ok(Vec::new()) };
    let each: Vec<Remembered> =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not what the gate wrote", path.display()))?;
    each.into_iter()
        .map(|r| {
            let ports = Port::parse_list(&r.ports).map_err(anyhow::Error::msg)?;
            let statics = r.statics.iter().map(|p| p.parse::<Prefix>()).collect::<Result<_, _>>()?;
            let Remembered { table, list, on_failure, .. } = r;
            ensure!(is_plain_name(&table), "`{}` cannot name a table", table.escape_debug());
            let config = NftablesConfig { list, ports, table, on_failure };
            Ok(Guard { config, rules: Rules { statics, ..Rules::default() } })
        })
        .collect::<anyhow::Result<_>>()
        .with_context(|| format!("{} is not what the gate wrote", path.display()))
}

/// Reads what a gate may have written; `None`: there is nothing. Root reads it too, in a folder of the service's user: no
/// link is followed, and nothing but a file is waited for.
fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut bytes = Vec::new();
    let file = match rustix::fs::open(path, how, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => File::from(other.with_context(|| format!("cannot read {}", path.display()))?),
    };
    ensure!(file.metadata().is_ok_and(|m| m.is_file()), "{} is no file", path.display());
    let all = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    let len = all.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(len as u64 <= MAX_FILE, "{} is larger than the gate writes it", path.display());
    Ok(Some(bytes))
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("guards.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_was_told() {
        let dir = std::env::temp_dir().join(format!("portcullis-guards-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(remembered(&dir).unwrap(), []);
        let config = NftablesConfig {
            list: "players".to_string(),
            ports: Port::parse_list("25565,27015-27017/udp").unwrap(),
            table: "players".to_string(),
            on_failure: OnFailure::Open,
        };
        let statics = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()];
        let guards = [Guard { config, rules: Rules { statics, ..Rules::default() } }];
        remember(&dir, &guards).unwrap();
        assert_eq!(remembered(&dir).unwrap(), guards);
        std::fs::write(file(&dir), "[{\"table\": 7}]").unwrap();
        assert!(remembered(&dir).is_err());
        let one = |table: &str| format!(r#"[{{"table":"{table}","ports":"9/tcp","list":"x","static":[]}}]"#);
        std::fs::write(file(&dir), one("x y")).unwrap();
        assert!(remembered(&dir).is_err());
        // Neither a link, nor what is no file, nor more than a gate writes.
        let elsewhere = dir.join("elsewhere");
        std::fs::write(&elsewhere, one("x")).unwrap();
        std::fs::rename(&elsewhere, file(&dir)).unwrap();
        assert_eq!(remembered(&dir).unwrap().len(), 1);
        std::fs::rename(file(&dir), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file(&dir)).unwrap();
        assert!(remembered(&dir).is_err());
        std::fs::remove_file(file(&dir)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(file(&dir)).status().unwrap().success());
        assert!(remembered(&dir).is_err());
        std::fs::remove_file(file(&dir)).unwrap();
        File::create(file(&dir)).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(remembered(&dir).is_err());
        // Nor is anything written through a link.
        std::os::unix::fs::symlink(&elsewhere, dir.join("guards.json.part")).unwrap();
        remember(&dir, &guards).unwrap();
        assert_eq!(remembered(&dir).unwrap(), guards);
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), one("x"));
        remember(&dir, &[]).unwrap();
        assert_eq!(remembered(&dir).unwrap(), []);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
