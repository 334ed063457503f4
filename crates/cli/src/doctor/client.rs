//! What stands in a client's way. In: the flags that it is started with, or the file of variables that its service has.
//! Out: findings.

use std::path::{Path, PathBuf};

use anyhow::Context;
use api::Finding;
use clap::Parser;
use tunnel_proto::upstream::Plane;

use crate::args::{Cli, ClientArgs, Command, DoctorArgs, Given, PublishArgs, Side};
use crate::fail::Fail;
use crate::init::places;
use crate::resolve;

/// A client by its flags.
pub(crate) fn of_flags(a: &DoctorArgs, given: &Given) -> Result<Vec<Finding>, Fail> {
    let client = ClientArgs {
        trust: a.trust.clone(),
        token: a.token.clone(),
        publish: a.publish.clone(),
        ..ClientArgs::default()
    };
    look(client, given)
}

/// The variables of this machine's client, if it has some.
pub(crate) fn default_file() -> Option<PathBuf> {
    places::config_dir().ok().map(|d| d.join(places::CLIENT_ENV)).filter(|f| f.exists())
}

/// A client by the file of variables that its service has.
pub(crate) fn of_file(path: &Path) -> Result<Vec<Finding>, Fail> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut words: Vec<String> = ["portcullis", "http", "client"].map(str::to_string).to_vec();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let Some((name, value)) = line.split_once('=').and_then(|(n, v)| Some((n.strip_prefix("PORTCULLIS_")?, v)))
        else {
            return Err(Fail::hinted(
                format!("{}: `{line}` is no variable of Portcullis", path.display()),
                "lines are NAME=VALUE, such as PORTCULLIS_CONNECT=wss://…",
            ));
        };
        let value = value.trim_matches(['"', '\'']);
        words.push(format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    }
    let cli = Cli::try_parse_from(words).with_context(|| format!("{} is not understood", path.display()))?;
    match cli.command {
        Command::Http(Side::Client(client)) => look(client, &Given::default()),
        _ => Ok(Vec::new()),
    }
}

fn look(client: ClientArgs, given: &Given) -> Result<Vec<Finding>, Fail> {
    let plane = plane(&client.publish);
    let plan = resolve::client(plane, &client, given)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    Ok(runtime.block_on(tunnel::client::doctor(plan.settings)))
}

/// `http client` publishes by HTTP what has a scheme, `tcp client` ports.
pub(crate) fn plane(publish: &PublishArgs) -> Plane {
    let http = |u: &String| u.split(',').any(|u| u.contains("://"));
    if publish.ports.is_empty() && publish.upstream.iter().any(http) { Plane::Http } else { Plane::Tcp }
}
