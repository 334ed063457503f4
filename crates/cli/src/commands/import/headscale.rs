//! `import headscale`. In: a Headscale server's files. Out: a coordination server's data directory, or what would be in it.

use ::control::import::{self, Headscale};
use anyhow::Context;

use super::{NewFile, configure, say_done, say_not};
use crate::args::GlobalArgs;
use crate::args::import::HeadscaleImport;
use crate::fail::Done;
use crate::{resolve, say};

pub(super) fn run(a: &HeadscaleImport, global: &GlobalArgs) -> Done {
    let dir = resolve::data_dir(global.data_dir.clone())?;
    // Looking opens the store too.
    resolve::as_owner_of(&dir, &format!("import headscale {} …", a.file.display()))?;
    let from = Headscale {
        database: a.file.clone(),
        config: a.config.clone(),
        policy: a.policy.clone(),
        noise_key: a.noise_key.clone(),
        derp_key: a.derp_key.clone(),
    };
    let file = a.write_config.as_deref().filter(|_| !a.dry_run).map(NewFile::at).transpose()?;
    let done = import::headscale(&from, &dir, a.dry_run)?;
    let [users, keys, nodes, routes] = done.counts;
    let policy = if done.policy { "a policy" } else { "no policy: everything of one's own is reachable" };
    say::line(format!(
        "{}: {users} users, {keys} pre-auth keys, {nodes} nodes, {routes} approved routes, {policy}",
        a.file.display()
    ));
    let widths = |of: fn(&(String, String, String)) -> usize| done.nodes.iter().map(of).max().unwrap_or(0);
    let (name, owner) = (widths(|n| n.0.chars().count()), widths(|n| n.1.chars().count()));
    for (n, o, addresses) in &done.nodes {
        say::line(format!("  {:<name$}  {:<owner$}  {addresses}", say::word(n), say::word(o)));
    }
    if done.server_key {
        say::line("the server's key is the same: clients that find it at the same URL stay logged in");
    }
    if users > 0 {
        say::line("users have no roles there: `portcullis users role NAME owner` says whose the network is");
    }
    say_not(done.not.iter().map(|n| (n.what.as_str(), n.why.as_str())));
    if !done.settings.is_empty() {
        let mut all = toml::Table::new();
        all.insert("control".into(), toml::Value::try_from(&done.settings).context("cannot write the settings")?);
        let text = toml::to_string(&all).context("cannot write the settings")?;
        configure(&text, file, "start the server with these: `portcullis control --config FILE`")?;
    }
    say_done(a.dry_run, &format!("{} has it all", dir.join("control.db").display()));
    Ok(())
}
