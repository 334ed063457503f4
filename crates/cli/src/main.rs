//! The one binary. In: arguments, environment, files. Out: a room that runs, or an answer of one that does.

mod admin_client;
mod args;
mod commands;
mod doctor;
mod fail;
mod grants;
mod init;
mod logs;
mod resolve;
mod run;
mod say;
mod systemd;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use tunnel_proto::upstream::Plane;

use crate::args::{Cli, ClientArgs, Command, EdgeArgs, Generate, Given, GlobalArgs, ServeArgs, Side};
use crate::fail::{Done, Fail};
use crate::resolve::{Kind, Notes};

/// musl's own allocator has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (cli, given) = args::parse();
    // Fails only if a provider is installed already, and nothing runs before this.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match start(cli, &given) {
        Ok(code) => code,
        Err(fail) => fail.report(),
    }
}

fn start(cli: Cli, given: &Given) -> Result<ExitCode, Fail> {
    let global = &cli.global;
    // The demo tells its own story; with --debug the rooms tell theirs beside it.
    let tells_itself = matches!(cli.command, Command::Demo(_)) && global.debug != Some(true);
    if !matches!(cli.command, Command::Serve(_)) && !tells_itself {
        log(global, None);
    }
    match &cli.command {
        Command::Http(Side::Server(a)) => edge(Kind::Http, a, global, given),
        Command::Tcp(Side::Server(a)) => edge(Kind::Tcp, a, global, given),
        Command::Http(Side::Fileserver(a)) => commands::fileserver::run(a, given),
        Command::Tcp(Side::Fileserver(_)) => Err(Fail::usage("a folder is served by HTTP", "`portcullis fileserver`")),
        Command::Uplink { .. } => Err(Fail::usage(
            "`uplink` belongs to a service that inlets sells; there is no such thing here",
            "run an edge of your own with `portcullis http server`, and `portcullis http client` here",
        )),
        Command::Version => {
            say::raw(concat!("portcullis ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
        Command::Server(a) => edge(Kind::Classic, &classic_token(a.clone()), global, given),
        Command::Serve(a) => serve(a, global, given),
        Command::Http(Side::Client(a)) => client(Plane::Http, a, given),
        Command::Tcp(Side::Client(a)) => client(Plane::Tcp, a, given),
        Command::Client(a) => {
            let mut a = a.clone();
            classic_env(&mut a.token);
            client(Plane::Http, &a, given)
        }
        Command::Fileserver(a) => commands::fileserver::run(a, given),
        Command::Init(a) => init::run(a, global),
        Command::Status(a) => commands::status::run(a, given),
        Command::Gatekeeper(a) => match a.generate {
            Some(kind) => no_k8s(kind).and_then(|()| commands::gatekeeper::generate(a, global)),
            None => block_on(commands::gatekeeper::run(a, global)),
        },
        Command::Grant(a) => return commands::gate::grant(a, global),
        Command::Audit(a) => return commands::gate::audit(a, global),
        Command::Nft(c) => commands::nft::run(c, global),
        Command::Doctor(a) => return doctor::run(a, global, given),
        Command::Backup(a) => commands::backup::backup(a, global),
        Command::Clock(c) => commands::clock::run(c, global),
        Command::Restore(a) => commands::backup::restore(a, global),
        Command::Import(c) => commands::import::run(c, global),
        Command::Demo(a) if a.mesh == Some(true) => block_on(async { Ok(demo::mesh::run().await?) }),
        Command::Demo(a) => block_on(async { Ok(demo::run(a.once.unwrap_or(false)).await?) }),
        Command::Explain(a) => return commands::admin::explain(a, global),
        Command::Lists(a) => return commands::lists::run(a, global),
        Command::Reload(a) => return commands::admin::reload(a, global),
        Command::Control(a) => match a.generate {
            Some(kind) => no_k8s(kind).and_then(|()| commands::control::unit(a, global)),
            None => block_on(commands::control::run(*a.clone(), global.clone())),
        },
        Command::Users(c) => return commands::mesh::users(c, global),
        Command::Keys(c) => return commands::mesh::keys(c, global),
        Command::Nodes(c) => return commands::mesh::nodes(c, global),
        Command::Routes(c) => return commands::mesh::routes(c, global),
        Command::Apps(c) => return commands::mesh::apps(c, global),
        Command::Dns(c) => return commands::mesh::dns(c, global),
        Command::Policy(a) => return commands::policy::run(a, global),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "portcullis", &mut out);
            say::raw(&String::from_utf8_lossy(&out));
            Ok(())
        }
        Command::Man => man(),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn serve(a: &ServeArgs, global: &GlobalArgs, given: &Given) -> Done {
    let file = match resolve::load_config(a.config.as_deref()) {
        Ok(file) => file,
        Err(fail) => {
            log(global, None);
            // A look at a file changes nothing.
            if a.edge.limits.generate.is_none() && !a.check {
                run::give_up(global);
            }
            return Err(fail.or_hint(
                "docs/manual/edge.toml explains every key, gate.toml those of [lists] and [gate], control.toml those of [control]",
            ));
        }
    };
    log(global, file.as_ref().map(|f| &f.edge));
    if let Some(kind) = a.edge.limits.generate {
        return generate(kind, &a.edge, file.as_ref(), given);
    }
    if a.check {
        let path = file.as_ref().map(|f| f.path.display().to_string());
        let plan = resolve::edge(Kind::Serve, &a.edge, global, file.as_ref(), given)?;
        runtime::lists::load(&plan.config.lists, plan.config.gate_lists().as_ref())?;
        plan.config.notes.iter().for_each(server::Note::say);
        say::line(format!("{} is good", path.as_deref().unwrap_or("what was typed")));
        return Ok(());
    }
    start_edge(Kind::Serve, &a.edge, global, file, given)
}

fn edge(kind: Kind, a: &EdgeArgs, global: &GlobalArgs, given: &Given) -> Done {
    if let Some(kind) = a.limits.generate {
        return generate(kind, a, None, given);
    }
    start_edge(kind, a, global, None, given)
}

fn start_edge(kind: Kind, a: &EdgeArgs, global: &GlobalArgs, file: Option<resolve::file::Read>, given: &Given) -> Done {
    let greet = commands::control::say_how_to_join;
    block_on(commands::tunnel::edge(kind, a.clone(), global.clone(), file, given.clone(), greet))
}

fn client(plane: Plane, a: &ClientArgs, given: &Given) -> Done {
    if let Some(kind) = a.link.generate {
        no_k8s(kind)?;
        let unit = systemd::Unit {
            what: "Portcullis client",
            files: CLIENT_FILES,
            suffix: "-client",
            ..systemd::Unit::default()
        };
        say::raw(&systemd::render(&unit));
        return Ok(());
    }
    let plan = resolve::client(plane, a, given)?;
    block_on(commands::tunnel::client(plan))
}

/// Open files of a client: a connection to an upstream for each of the visitors that an edge takes by default.
const CLIENT_FILES: u64 = 65_536;

fn generate(kind: Generate, a: &EdgeArgs, file: Option<&resolve::file::Read>, given: &Given) -> Done {
    no_k8s(kind)?;
    let low = |p: Option<u16>| p.is_some_and(|p| p != 0 && p < 1024);
    let f = file.map(|r| &r.edge);
    let ports = a.listen.allow_ports.as_ref().or(f.and_then(|f| f.allow_ports.as_ref()));
    let opened = ports.is_some_and(|p| p.iter().next().is_some_and(|p| p < 1024));
    let low_ports = opened
        || low(a.listen.port.or(f.and_then(|f| f.port)))
        || low(a.listen.control_port.or(f.and_then(|f| f.control_port)));
    let visitors = a.limits.max_visitors.or(f.and_then(|f| f.max_visitors)).unwrap_or(resolve::MAX_VISITORS);
    // The token of the file is root's, and read before the service's own user is there.
    let token = file.filter(|_| resolve::token::find(&a.token, given, &Notes::default()).ok().flatten().is_none());
    let token = token
        .and_then(|r| r.edge.token_file.as_ref().filter(|t| !t.starts_with("$CREDENTIALS_DIRECTORY")).map(|t| r.at(t)));
    let files = u64::from(visitors) + ::tunnel::edge::FILES_KEPT as u64;
    let data_dir = resolve::data_dir(None)?;
    let control = f.is_some_and(|f| f.control.is_some());
    let low_ports = low_ports || control_is_low(file, given);
    let gate = file.map(|r| resolve::gate_file::plan(r, data_dir, &Notes::default())).transpose()?.flatten();
    let enforcers = gate.map(|g| g.enforcers).unwrap_or_default();
    let alone = enforcers.is_empty() && !control && f.is_none_or(|f| f.gate.is_none());
    let what = if alone { "Portcullis edge" } else { "Portcullis" };
    say::raw(&systemd::render(&systemd::Unit { what, low_ports, files, token, ..systemd::of_enforcers(&enforcers) }));
    Ok(())
}

/// True if the coordination server of this file listens below 1024, or wants to for clients that come back.
fn control_is_low(file: Option<&resolve::file::Read>, given: &Given) -> bool {
    let global = GlobalArgs { data_dir: None, debug: None, log_format: None };
    let plan = resolve::edge(Kind::Serve, &EdgeArgs::default(), &global, file, given).ok();
    let low = |port: u16| port != 0 && port < 1024;
    plan.and_then(|p| p.config.control).is_some_and(|c| {
        let s = &c.settings;
        s.listen.iter().chain(&s.stun).chain(&s.metrics).any(|at| low(at.port())) || s.server_url.needs_443()
    })
}

fn no_k8s(kind: Generate) -> Result<(), Fail> {
    match kind {
        Generate::Systemd => Ok(()),
        Generate::K8s => Err(Fail::usage(
            "manifests for Kubernetes are not made here",
            "run the same command in a Deployment of your own, the token in a Secret: `--token-file /run/token/token`",
        )),
    }
}

/// The open-source inlets reads `TOKEN`; here it counts after every other way.
fn classic_env(token: &mut args::TokenArgs) {
    if token.token.is_none()
        && token.token_file.is_none()
        && token.token_env.is_none()
        && token.token_from.is_none()
        && std::env::var_os("TOKEN").is_some()
    {
        token.token_env = Some("TOKEN".to_string());
    }
}

fn classic_token(mut a: EdgeArgs) -> EdgeArgs {
    classic_env(&mut a.token);
    a
}

fn log(global: &GlobalArgs, file: Option<&resolve::file::EdgeFile>) {
    logs::start(resolve::log(global, file));
}

fn man() -> Done {
    let mut out = Vec::new();
    let write = |out: &mut Vec<u8>| -> std::io::Result<()> {
        let mut command = Cli::command();
        command.build();
        clap_mangen::Man::new(command.clone()).render(out)?;
        // One page holds every command, so that `man` needs no folder of pages.
        let mut all: Vec<(String, clap::Command)> = Vec::new();
        below("portcullis", &command, &mut all);
        for (name, sub) in all {
            let man = clap_mangen::Man::new(sub.clone().display_name(name.clone()));
            writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
            writeln!(out, "{}", sub.get_about().map(ToString::to_string).unwrap_or_default())?;
            man.render_options_section(out)?;
        }
        Ok(())
    };
    use std::io::Write;
    write(&mut out).context("cannot write the manual page")?;
    say::raw(&String::from_utf8_lossy(&out));
    Ok(())
}

fn below(name: &str, command: &clap::Command, out: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        let name = format!("{name} {}", sub.get_name());
        out.push((name.clone(), sub.clone()));
        below(&name, sub, out);
    }
}

pub(crate) fn block_on(room: impl Future<Output = Done>) -> Done {
    net::sockets::more_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(room);
    // What is still on a blocking thread (a name lookup) must not hold up the end.
    runtime.shutdown_background();
    done
}
