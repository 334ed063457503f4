//! `portcullis nft`: ports that nftables guards, while no gate runs. In: what a gate is told, or was told last. Out: a
//! table that lets in whom its list held last and nobody else, a unit that makes it before there is a network, or no table.

use std::path::PathBuf;

use access::ledger::Rules;
use gate::enforce::{Config, NftablesConfig, OnFailure, Opened};
use gate::guards::{self, Guard};

use crate::args::GlobalArgs;
use crate::args::gate::{NftBootArgs, NftCommand};
use crate::fail::{Done, Fail};
use crate::resolve::{Notes, gate_file, gatekeeper};
use crate::{resolve, say, systemd};

/// Runs the command.
pub(crate) fn run(command: &NftCommand, global: &GlobalArgs) -> Done {
    match command {
        NftCommand::Boot(a) => boot(a, global),
        NftCommand::Open { all: true, .. } => {
            let guards = guards::remembered(&resolve::data_dir(global.data_dir.clone())?)?;
            // One that cannot be opened closes no other.
            let done: Vec<Done> = guards.iter().map(|g| open(&g.config)).collect();
            done.into_iter().collect()
        }
        NftCommand::Open { table, .. } => {
            let table = table.as_deref().unwrap_or("portcullis").to_string();
            open(&NftablesConfig {
                list: String::new(),
                ports: Default::default(),
                table,
                on_failure: OnFailure::Closed,
            })
        }
    }
}

fn open(config: &NftablesConfig) -> Done {
    let table = &config.table;
    match Config::Nftables(config.clone()).build().open()? {
        Opened::Kept => {
            return Err(Fail::hinted(
                format!("a gate keeps the table `inet {table}`, and would make it again"),
                "stop that gate first",
            ));
        }
        Opened::Now => say::aside(format_args!(
            "removed the table `inet {table}`: its ports are open to everybody until a gate guards them again"
        )),
        Opened::Before => say::aside(format_args!("there is no table `inet {table}`")),
    }
    Ok(())
}

fn boot(a: &NftBootArgs, global: &GlobalArgs) -> Done {
    let (guards, data_dir, configured) = match configured(a, global) {
        Ok((guards, data_dir)) => (guards, data_dir, Ok(())),
        // A mistake in the file opens no port: what the gate guarded last is guarded.
        Err(fail) if a.generate.is_none() && a.nft_ports.is_none() => {
            let data_dir = resolve::data_dir(global.data_dir.clone())?;
            match guards::remembered(&data_dir) {
                Ok(last) if last.is_empty() => return Err(fail),
                Ok(last) => (last, data_dir, Err(fail)),
                Err(e) => {
                    Fail::from(e.context("what was guarded last is not known, and no port is closed")).report();
                    return Err(fail);
                }
            }
        }
        Err(fail) => return Err(fail),
    };
    if let Some(kind) = a.generate {
        crate::no_k8s(kind)?;
        say::raw(&systemd::before_network("Ports that Portcullis guards, closed until it runs"));
        return Ok(());
    }
    let (closed, read) = guards::close(&guards, &data_dir);
    let mut failed = configured.err();
    for guards::Boot { name, done } in closed {
        match done {
            Ok(None) => say::aside(format_args!("{name} stands already and stays as it is")),
            Ok(Some(0)) => say::aside(format_args!("{name}: closed to everybody until the gate runs")),
            Ok(Some(n)) => say::aside(format_args!("{name}: closed to everybody but {n} entries until the gate runs")),
            Err(e) => failed = Some(e.into()),
        }
    }
    match (failed, read) {
        (Some(fail), _) => Err(fail),
        (None, read) => Ok(read?),
    }
}

/// The guards that the gate would keep, and where its state lies.
fn configured(a: &NftBootArgs, global: &GlobalArgs) -> Result<(Vec<Guard>, PathBuf), Fail> {
    if let Some(ports) = &a.nft_ports {
        let (statics, _) = gatekeeper::source_range(a.default_source_range.as_deref().unwrap_or_default())?;
        let table = a.nft_table.clone().unwrap_or_else(|| "portcullis".to_string());
        let data_dir = resolve::data_dir(global.data_dir.clone())?;
        let last = guards::remembered(&data_dir).unwrap_or_default();
        let last = last.into_iter().find(|g| g.config.table == table).map(|g| g.config.list);
        let list = last.unwrap_or_else(|| gatekeeper::LIST.to_string());
        let config = NftablesConfig { list, ports: ports.clone(), table, on_failure: OnFailure::Closed };
        return Ok((vec![Guard { config, rules: Rules { statics, ..Rules::default() } }], data_dir));
    }
    let nothing =
        || Fail::usage("there is nothing to guard", "give --nft-ports PORTS, or --config FILE with [[gate.nftables]]");
    let file = resolve::load_config(a.config.as_deref())?.ok_or_else(nothing)?;
    let data_dir =
        resolve::data_dir(global.data_dir.clone().or_else(|| file.edge.data_dir.as_ref().map(|d| file.dir().join(d))))?;
    let settings: Option<gate::GateSettings> = gate_file::plan(&file, data_dir.clone(), &Notes::default())?;
    let guards = settings.iter().flat_map(guards::of).collect::<Vec<_>>();
    if guards.is_empty() { Err(nothing()) } else { Ok((guards, data_dir)) }
}
