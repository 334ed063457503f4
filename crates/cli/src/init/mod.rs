//! `portcullis init`. In: at most five answers, by flags or from a terminal, and what can be found out. Out: a
//! configuration that was read and found good before it is in its place, a unit that runs it, what the proxy in front and
//! the other machine need, and what to type next.

mod ask;
mod facts;
mod manual;
pub(crate) mod places;
mod plan;
pub(crate) mod write;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::Serialize;
use tunnel_proto::connect::{ConnectString, Fingerprint, TokenPlace};

use self::ask::{Answers, Token};
use self::write::Planned;
use crate::args::init::{InitArgs, Purpose};
use crate::args::{EdgeArgs, Given, GlobalArgs, PublishArgs};
use crate::fail::{Done, Fail};
use crate::resolve::{self, Kind};
use crate::say;

/// What was made, or would be.
#[derive(Debug, Serialize)]
struct Made {
    /// False: nothing was written.
    written: bool,
    files: Vec<Planned>,
    /// Where state is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    /// For the proxy in front.
    #[serde(skip_serializing_if = "String::is_empty")]
    snippet: String,
    /// For the other machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<String>,
    notes: Vec<String>,
    /// What to type next.
    next: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(a: &InitArgs, global: &GlobalArgs) -> Done {
    let dir = match &a.dir {
        Some(dir) => std::path::absolute(dir).context("the folder of the configuration is not known")?,
        None => places::config_dir()?,
    };
    // What is in the way is said before anybody is asked anything.
    if !a.purpose.is_empty() && !a.dry_run {
        let client = a.purpose.contains(&Purpose::Client);
        write::make_room(&dir.join(if client { places::CLIENT_ENV } else { places::CONFIG }), a.force)?;
    }
    let facts = facts::look();
    let store = a.store.clone().or_else(|| global.data_dir.clone());
    let answers = ask::answers(a, store, &dir, &facts)?;
    let made = match &answers {
        Answers::Server { .. } => server(a, &answers, &dir)?,
        Answers::Client { connect, token, upstream } => client(a, connect, token, upstream, &dir)?,
    };
    if a.json.json == Some(true) {
        return Ok(say::json(&made)?);
    }
    tell(&made);
    Ok(())
}

/// The folder for the unit; `None`: there is none.
fn unit_dir(a: &InitArgs) -> Option<PathBuf> {
    match &a.unit {
        Some(none) if none.as_os_str() == "none" => None,
        Some(dir) => Some(dir.clone()),
        None => (runtime::run::is_root() && places::systemd_runs()).then(|| PathBuf::from(places::UNITS)),
    }
}

fn server(a: &InitArgs, answers: &Answers, dir: &Path) -> Result<Made, Fail> {
    let (Some(plan), Answers::Server { purposes, name, store, guard, .. }) = (plan::server(answers), answers) else {
        return Err(Fail::usage("nothing is to be set up", "give --for"));
    };
    let (config, token) = (dir.join(places::CONFIG), plan::token(dir));
    let mut notes = plan.notes;
    if plan::is_local(name) && plan.snippet.is_empty() && !purposes.contains(&Purpose::Gate) {
        notes.push(format!("{name} is reached from this machine only: give another name with --name"));
    }
    let mut files = Vec::new();
    if plan.edge.is_some() && !token.exists() {
        files.push(Planned::secret(token.clone(), &runtime::hex(&rand::random::<[u8; 24]>())));
    }
    check(&plan.config, plan.edge.is_some())?;
    files.push(Planned::config(config.clone(), plan.config));
    // A service of systemd has its state where its unit says, and a user that owns no other folder.
    let usual = resolve::data_dir(None)?;
    let units = unit_dir(a).filter(|_| *store == usual);
    if units.is_none() && unit_dir(a).is_some() {
        notes.push(format!("no unit: a service keeps its state in {}, not in {}", usual.display(), store.display()));
    }
    let mut next = Vec::new();
    let services = services(!guard.is_empty());
    if let Some(units) = units.as_ref().filter(|_| !a.dry_run) {
        for (name, _) in &services {
            write::make_room(&units.join(format!("{name}.service")), a.force)?;
        }
    }
    write(a, &mut files, &mut notes)?;
    if let Some(units) = &units {
        for (name, words) in &services {
            let text = unit(words, &config, a, &files)?;
            let unit = Planned::unit(units.join(format!("{name}.service")), text);
            write_one(a, &unit, &mut notes)?;
            files.push(unit);
        }
        let names: Vec<&str> = services.iter().map(|(name, _)| *name).collect();
        next.push(format!("systemctl daemon-reload && systemctl enable --now {}", names.join(" ")));
    } else {
        if !guard.is_empty() {
            notes.push(format!(
                "when this machine starts, guarded ports are open until the gate runs: `portcullis nft boot --config {} --generate=systemd` prints a unit that closes them before there is a network",
                config.display()
            ));
        }
        next.push(format!("portcullis serve --config {}", config.display()));
    }
    let edge = plan.edge.is_some();
    let connect = plan.edge.map(|url| connect(a, url, plan.own_ca, store, name)).transpose()?.flatten();
    if edge && connect.is_none() {
        notes.push(format!(
            "{} is another user's, and root makes nothing in it: the edge makes its CA when it starts, and then prints the connect string",
            store.display()
        ));
        if units.is_some() {
            next.push("journalctl -u portcullis | grep '#sha256:'      has the connect string".to_string());
        }
    }
    let asked = if *store == usual { String::new() } else { format!(" --data-dir {}", store.display()) };
    next.push(format!("portcullis doctor{asked}"));
    if let Some(url) = &plan.server_url {
        next.push(format!("portcullis users create NAME{asked}"));
        next.push(format!("portcullis keys create --user NAME{asked}"));
        next.push(format!("tailscale up --login-server {url} --authkey KEY      on each device"));
    }
    if edge {
        next.push(format!(
            "portcullis init --for client      on the other machine, with the connect string and {}",
            token.display()
        ));
    }
    if store.join("gate.db").exists() || store.join("control.db").exists() {
        notes.push(format!("what is stored in {} stays and is used", store.display()));
    }
    let connect = connect.map(|c| c.to_string());
    Ok(Made { written: !a.dry_run, files, store: Some(store.clone()), snippet: plan.snippet, connect, notes, next })
}

/// The services of a server and what they run with its configuration: the process, and before it what closes the ports
/// that its gate guards while there is no network yet.
fn services(guards: bool) -> Vec<(&'static str, &'static [&'static str])> {
    let guard: (&str, &[&str]) = ("portcullis-guard", &["nft", "boot", "--config"]);
    guards.then_some(guard).into_iter().chain([("portcullis", &["serve", "--config"][..])]).collect()
}

/// How clients connect; the edge's CA is made now, so that they can be told its fingerprint. `None`: it is made by the
/// edge alone, since its folder is another user's.
fn connect(
    a: &InitArgs,
    url: tunnel_proto::connect::EdgeUrl,
    own_ca: Option<u16>,
    store: &Path,
    name: &str,
) -> Result<Option<ConnectString>, Fail> {
    let mut pin = None;
    if let Some(port) = own_ca.filter(|_| !a.dry_run) {
        let tls = store.join(format!("tls-{port}"));
        let tls = std::path::absolute(&tls).unwrap_or(tls);
        if write::is_anothers(&tls) {
            return Ok(None);
        }
        std::fs::create_dir_all(store).with_context(|| format!("cannot make {}", store.display()))?;
        // Between the two somebody else may have made it.
        if write::is_anothers(&tls) {
            return Ok(None);
        }
        pin = Some(Fingerprint(net::tls::own_ca(&tls, &[name.to_string()])?.1));
    }
    Ok(Some(ConnectString { url, pin, token: Some(TokenPlace::File(places::TOKEN.to_string())) }))
}

fn client(a: &InitArgs, connect: &ConnectString, token: &Token, upstream: &[String], dir: &Path) -> Result<Made, Fail> {
    let (mut files, mut notes) = (Vec::new(), Vec::new());
    let token_file = match token {
        Token::File(file) => file.clone(),
        Token::Typed(secret) => {
            let file = plan::token(dir);
            files.push(Planned::secret(file.clone(), secret.reveal()));
            file
        }
    };
    // The place of the token here is said apart from the edge's guess at it.
    let connect = ConnectString { token: None, ..connect.clone() };
    let env = dir.join(places::CLIENT_ENV);
    // A shell reads the file too: within these quotes everything else is what it is.
    for (flag, text) in [
        ("--connect", connect.to_string()),
        ("--upstream", upstream.join(",")),
        ("--dir", env.display().to_string()),
        ("--token-file", token_file.display().to_string()),
    ] {
        if text.contains(['\'', '\n']) {
            return Err(Fail::usage(format!("{flag}: a quote or a line end has no place in it"), "leave it out"));
        }
    }
    let text = plan::client(&connect.to_string(), upstream, &token_file);
    files.push(Planned::private(env.clone(), text));
    write(a, &mut files, &mut notes)?;
    let publish = PublishArgs { upstream: upstream.to_vec(), ..PublishArgs::default() };
    let plane = match crate::doctor::plane(&publish) {
        tunnel_proto::upstream::Plane::Http => "http",
        tunnel_proto::upstream::Plane::Tcp => "tcp",
    };
    let mut next = Vec::new();
    if let Some(units) = unit_dir(a) {
        let text = unit(&[plane, "client", "--token-file"], &token_file, a, &files)?;
        let text = with_variables(&text, &env);
        let unit = Planned::unit(units.join("portcullis-client.service"), text);
        write_one(a, &unit, &mut notes)?;
        files.push(unit);
        next.push("systemctl daemon-reload && systemctl enable --now portcullis-client".to_string());
    } else {
        next.push(format!("set -a; . {}; portcullis {plane} client", env.display()));
    }
    next.push("portcullis doctor".to_string());
    Ok(Made { written: !a.dry_run, files, store: None, snippet: String::new(), connect: None, notes, next })
}

/// Reads the configuration as the process will, before anything is in its place.
fn check(config: &str, has_token: bool) -> Done {
    let stage = stage()?;
    let staged = || -> Result<(), Fail> {
        Planned::private(stage.join(places::CONFIG), config.to_string()).write()?;
        if has_token {
            Planned::secret(stage.join(places::TOKEN), "for the check alone").write()?;
        }
        good(&stage.join(places::CONFIG))
    };
    let done = staged();
    let _ = std::fs::remove_dir_all(&stage);
    done
}

/// That a process would start from this file, as far as the file decides it.
pub(crate) fn good(path: &Path) -> Done {
    let read = resolve::file::read(path)?;
    let global = GlobalArgs { data_dir: None, debug: None, log_format: None };
    let plan = resolve::edge(Kind::Serve, &EdgeArgs::default(), &global, Some(&read), &Given::default())?;
    runtime::lists::load(&plan.config.lists, plan.config.gate_lists().as_ref())?;
    Ok(())
}

fn write(a: &InitArgs, files: &mut [Planned], notes: &mut Vec<String>) -> Done {
    // First whatever is in the way: nothing is half done.
    if !a.dry_run {
        for file in files.iter() {
            write::make_room(&file.path, a.force)?;
        }
    }
    files.iter().try_for_each(|file| write_one(a, file, notes))
}

fn write_one(a: &InitArgs, file: &Planned, notes: &mut Vec<String>) -> Done {
    if a.dry_run {
        return Ok(());
    }
    if let Some(old) = write::make_room(&file.path, a.force)? {
        write::keep(&file.path, &old)?;
        notes.push(format!("{} was there, and is kept as {}", file.path.display(), old.display()));
    }
    file.write()
}

/// The unit that `--generate=systemd` prints for a command with a file.
fn unit(words: &[&str], file: &Path, a: &InitArgs, files: &[Planned]) -> Result<String, Fail> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let mut command = Command::new(program);
    // What is set in this shell is no part of the service.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
    // Before it is written, a copy elsewhere stands for it.
    let copy = files.iter().find(|f| f.path == file).filter(|_| a.dry_run);
    let stage = copy.map(|_| stage()).transpose()?;
    let told = stage.as_ref().map_or_else(|| file.to_path_buf(), |s| s.join(file.file_name().unwrap_or_default()));
    if let Some(text) = copy.and_then(|f| f.text.as_deref()) {
        Planned::private(told.clone(), text.to_string()).write()?;
    }
    let out = command.args(words).arg(told).arg("--generate=systemd").output();
    let stage = stage.inspect(|s| {
        let _ = std::fs::remove_dir_all(s);
    });
    let out = out.context("cannot ask for the unit")?;
    if !out.status.success() {
        return Err(anyhow::anyhow!("the unit was not made: {}", String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let Some((stage, dir)) = stage.zip(file.parent()) else { return Ok(text) };
    // What is said of the copy's folder does not hold where the file will lie.
    let (stage, dir) = (stage.display().to_string(), dir.display().to_string());
    let lines = text.lines().filter(|l| !(l.starts_with('#') && l.contains(stage.as_str())));
    Ok(lines.map(|l| l.replace(stage.as_str(), &dir) + "\n").collect())
}

/// A folder for what is looked at before it is in its place; only its owner sees into it.
fn stage() -> Result<PathBuf, Fail> {
    let dir = std::env::temp_dir().join(format!("portcullis-init-{:016x}", rand::random::<u64>()));
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// A unit that has a file's variables. The path is the rest of its line: quotes would be part of it, and `%` alone means
/// something (systemd.exec(5)).
fn with_variables(unit: &str, env: &Path) -> String {
    let env = env.display().to_string().replace('%', "%%");
    unit.replacen("\n[Service]\n", &format!("\n[Service]\nEnvironmentFile={env}\n"), 1)
}

fn tell(made: &Made) {
    for file in &made.files {
        let verb = if made.written { "wrote" } else { "would write" };
        say::line(format!("{verb} {} (mode {})", file.path.display(), file.mode));
        if let Some(text) = file.text.as_ref().filter(|_| !made.written) {
            text.lines().for_each(|l| say::line(format!("    {l}")));
        }
    }
    for note in &made.notes {
        say::line(format!("note: {note}"));
    }
    if !made.snippet.is_empty() {
        say::line("\nthe proxy in front needs:\n");
        made.snippet.lines().for_each(|l| say::line(format!("    {l}")));
    }
    if let Some(connect) = &made.connect {
        say::line(format!("\nconnect string: {connect}"));
    }
    say::line("\nnext:");
    made.next.iter().for_each(|l| say::line(format!("    {l}")));
}
