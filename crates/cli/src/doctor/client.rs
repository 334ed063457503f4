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
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=').and_then(|(n, v)| Some((n.strip_prefix("PORTCULLIS_")?, v)))
        else {
            // The name alone: what stands behind it may be a secret, and what is said here ends in bug reports.
            let is_name = |n: &&str| n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let name = line.split_once('=').map(|(n, _)| n).filter(is_name);
            let what = name.map_or(String::new(), |n| format!(": `{n}`"));
            return Err(Fail::hinted(
                format!("line {} of {}{what} is no variable of Portcullis", number + 1, path.display()),
                "lines are NAME=VALUE, such as PORTCULLIS_CONNECT=wss://…",
            ));
        };
        let value = value.trim_matches(['"', '\'']);
        words.push(format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    }
    let cli = Cli::try_parse_from(words).map_err(|e| {
        // Its own words hold values.
        anyhow::anyhow!("{} is not understood: {}", path.display(), e.kind())
    })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_of_variables_is_said_without_its_values() {
        let file = std::env::temp_dir().join(format!("portcullis-doctor-{}", std::process::id()));
        for (text, said) in [
            ("# mine\nTOKEN=hunter2\n", "line 2 of "),
            ("hunter2\n", "line 1 of "),
            ("a hunter2=x\n", "line 1 of "),
            ("PORTCULLIS_HUNTER=hunter2\n", "is not understood"),
            ("PORTCULLIS_DEBUG=hunter2\n", "is not understood"),
        ] {
            std::fs::write(&file, text).unwrap();
            let Err(fail) = of_file(&file) else { panic!("{text}") };
            let fail = format!("{fail:?}");
            assert!(fail.contains(said) && !fail.contains("hunter2"), "{text}: {fail}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}
