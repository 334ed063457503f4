//! `portcullis nft`: ports that nftables guards, while no gate runs. In: what a gate is told. Out: a table that lets in
//! who the configuration names and nobody else, a unit that makes it before there is a network, or no table.

use access::ledger::Rules;
use gate::enforce::{Closed, Config, NftablesConfig};
use net::nftables::Table;

use crate::args::GlobalArgs;
use crate::args::gate::{NftBootArgs, NftCommand};
use crate::fail::{Done, Fail};
use crate::resolve::{Notes, gate_file, gatekeeper};
use crate::{resolve, say, systemd};

/// Runs the command.
pub(crate) fn run(command: &NftCommand, global: &GlobalArgs) -> Done {
    match command {
        NftCommand::Boot(a) => boot(a, global),
        NftCommand::Open { table } => {
            let mut kernel = Table::open(table).map_err(|e| {
                Fail::hinted(
                    format!("the table `inet {table}` cannot be taken away: {e}"),
                    "run it as root, and stop the gate that keeps it",
                )
            })?;
            let was = kernel.delete().map_err(|e| {
                Fail::hinted(format!("the table `inet {table}` cannot be taken away: {e}"), "run it as root")
            })?;
            say::aside(format_args!(
                "{}",
                match was {
                    true => format!(
                        "removed the table `inet {table}`: its ports are open to everybody until a gate guards them again"
                    ),
                    false => format!("there is no table `inet {table}`"),
                }
            ));
            Ok(())
        }
    }
}

fn boot(a: &NftBootArgs, global: &GlobalArgs) -> Done {
    let guards = guards(a, global)?;
    if let Some(kind) = a.generate {
        crate::no_k8s(kind)?;
        say::raw(&systemd::before_network("Ports that Portcullis guards, closed until it runs"));
        return Ok(());
    }
    for (config, rules) in guards {
        let mut enforcer = config.build();
        let made = enforcer.close(&rules.statics)? == Closed::Made;
        let name = &enforcer.info().name;
        say::aside(format_args!(
            "{}",
            match (made, rules.statics.len()) {
                (false, _) => format!("{name} stands already and stays as it is"),
                (true, 0) => format!("{name}: closed to everybody until the gate runs"),
                (true, n) => format!("{name}: closed to everybody but {n} entries until the gate runs"),
            }
        ));
    }
    Ok(())
}

/// The guards that the gate would keep, each with the rules of its list.
fn guards(a: &NftBootArgs, global: &GlobalArgs) -> Result<Vec<(Config, Rules)>, Fail> {
    if let Some(ports) = &a.nft_ports {
        let (statics, _) = gatekeeper::source_range(a.default_source_range.as_deref().unwrap_or_default())?;
        let table = a.nft_table.clone().unwrap_or_else(|| "portcullis".to_string());
        let config = Config::Nftables(NftablesConfig { list: String::new(), ports: ports.clone(), table });
        return Ok(vec![(config, Rules { statics, ..Rules::default() })]);
    }
    let nothing =
        || Fail::usage("there is nothing to guard", "give --nft-ports PORTS, or --config FILE with [[gate.nftables]]");
    let file = resolve::load_config(a.config.as_deref())?.ok_or_else(nothing)?;
    let data_dir = resolve::data_dir(global.data_dir.clone())?;
    let settings: Option<gate::GateSettings> = gate_file::plan(&file, data_dir, &Notes::default())?;
    let mut out = Vec::new();
    if let Some(settings) = settings {
        for config in settings.enforcers {
            if let Config::Nftables(NftablesConfig { list, .. }) = &config {
                let rules = settings.lists.iter().find(|(name, _)| name == list).map(|(_, rules)| rules.clone());
                out.push((config, rules.unwrap_or_default()));
            }
        }
    }
    if out.is_empty() { Err(nothing()) } else { Ok(out) }
}
