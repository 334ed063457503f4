//! What was typed. In: the command line and the environment. Out: [`Cli`], with every flag as it was given and nothing
//! decided; `meant` gives it its meaning. Help, man page and completions come from here.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "comments on flags are printed as help, where brackets mean what they do in every manual"
)]

mod client;
pub(crate) mod control;
mod edge;
pub(crate) mod gate;
pub(crate) mod import;
pub(crate) mod init;
mod inlets;
pub(crate) mod policy;
#[cfg(test)]
mod printed;
pub(crate) mod values;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use client::{ClientArgs, Generate, PublishArgs, StatusArgs, TrustArgs};
pub(crate) use edge::{EdgeArgs, ListArgs, ProxyLine, ServeArgs, proxy_version};

/// A self-hosted access layer: which addresses may reach which services, and why.
///
/// Publish private services through your own edge, keep IP allow lists up to date in the proxies in front, and run a
/// coordination server that the official Tailscale clients join.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "portcullis",
    version,
    max_term_width = 110,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct GlobalArgs {
    /// Where state lives: the edge's CA, admin sockets [default: /var/lib/portcullis for root, otherwise $XDG_STATE_HOME/portcullis or ~/.local/state/portcullis]
    #[arg(long, global = true, value_name = "DIR", env = "PORTCULLIS_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Log every connection [default: false]
    #[arg(long, global = true, value_name = "BOOL", env = "PORTCULLIS_DEBUG", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) debug: Option<bool>,
    /// Form of the log on standard error [default: text]
    #[arg(long, global = true, value_name = "FORM", env = "PORTCULLIS_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object on each line
    Json,
}

/// The clock that deadlines go by.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClockCommand {
    /// Show the machine's clock, the time that deadlines go by, a jump that is not believed yet, and what a restart goes on from
    Show(gate::JsonArgs),
    /// The machine's clock is right, and the time that was saved is not: go by the clock again, running or stopped
    Reset {
        /// Do it; without it is only said what would change [default: false]
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        json: gate::JsonArgs,
    },
}

/// `backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) copy: CopyArgs,
    /// Replace an older copy of that name [default: false]
    #[arg(long)]
    pub(crate) force: bool,
}

/// A copy, and the store that it is of.
#[derive(Debug, Clone, Args)]
pub(crate) struct CopyArgs {
    /// The copy
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Whose, where a data directory has both: gate or control
    #[arg(long, value_name = "STORE", value_parser = ["gate", "control"])]
    pub(crate) store: Option<String>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Publish HTTP services: requests are routed by host and path
    #[command(subcommand)]
    Http(Side),
    /// Publish TCP services: ports of the edge are forwarded
    #[command(subcommand)]
    Tcp(Side),
    /// Serve a folder of files
    Fileserver(FilesArgs),
    /// Set this machine up: a few questions, then a configuration and a service that work
    Init(Box<init::InitArgs>),
    /// Show who is connected to an edge
    Status(StatusArgs),
    /// Run an edge as the open-source inlets does: HTTP on 8000, plain control plane on 8001
    Server(EdgeArgs),
    /// Connect as the open-source inlets does
    Client(ClientArgs),
    /// Run an edge, a gate and a coordination server from a TOML file, each or all, in one process
    Serve(ServeArgs),
    /// Run a gate as Gatekeeper does: learn addresses from mirrored requests and share links, write Traefik's list
    Gatekeeper(Box<gate::GatekeeperArgs>),
    /// Let somebody in by hand, or end what was given
    #[command(subcommand)]
    Grant(gate::GrantCommand),
    /// Show what a gate gave and took, and what was changed in the mesh, from the audit logs
    Audit(gate::AuditArgs),
    /// Ports that nftables guards, while no gate runs
    #[command(subcommand)]
    Nft(gate::NftCommand),
    /// Say what is wrong with an edge, a gate, a coordination server or a client and its surroundings, each with the line that mends it
    Doctor(Box<DoctorArgs>),
    /// The time that a gate and a coordination server go by, and the way back after the machine's clock was wrong
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Copy what a gate or a coordination server stores, while it runs or not
    Backup(BackupArgs),
    /// Put a copy in the place of what is stored; the process must be stopped, and what was there is kept beside
    Restore(CopyArgs),
    /// Take over what another program keeps; its files are only read
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// See it work: a service, an edge and a client on this machine, with real requests
    Demo(DemoArgs),
    /// Say whether a running edge or gate lets an address in, and why
    Explain(ExplainArgs),
    /// Show the lists of a running edge and gate: what is on them, how full they are, and what keeps them
    #[command(alias = "list")]
    Lists(gate::ListsArgs),
    /// Run the coordination server that official Tailscale clients join
    Control(Box<control::ControlArgs>),
    /// People whose nodes join a coordination server
    #[command(subcommand)]
    Users(control::UsersCommand),
    /// Keys with which nodes join unasked
    #[command(subcommand)]
    Keys(control::KeysCommand),
    /// Members of the mesh
    #[command(subcommand)]
    Nodes(control::NodesCommand),
    /// Routes that nodes offer, and what became of them
    #[command(subcommand)]
    Routes(control::RoutesCommand),
    /// Services that are reached by name through a connector
    #[command(subcommand)]
    Apps(control::AppsCommand),
    /// Names inside the mesh
    #[command(subcommand)]
    Dns(control::DnsCommand),
    /// Make a running edge read its lists and certificate again
    Reload(AdminArgs),
    /// Check, compile, test, explain, compare and lay out policies
    Policy(policy::PolicyArgs),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
    /// As inlets writes `--version`
    #[command(hide = true)]
    Version,
    /// Of inlets
    #[command(hide = true, disable_help_flag = true)]
    Uplink {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Side {
    /// The public side: takes visitors and clients
    Server(EdgeArgs),
    /// The private side: connects services to an edge
    Client(ClientArgs),
    /// As inlets writes `fileserver`
    #[command(hide = true)]
    Fileserver(FilesArgs),
}

/// How the shared secret is given.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Token")]
pub(crate) struct TokenArgs {
    /// The shared secret; every user of this machine can see it in the process list, so prefer a file
    #[arg(long, short = 't', value_name = "TOKEN", env = "PORTCULLIS_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the token; the newline at its end does not count
    #[arg(long, short = 'f', value_name = "FILE", env = "PORTCULLIS_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Name of the environment variable that holds the token
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_TOKEN_ENV")]
    pub(crate) token_env: Option<String>,
    /// Old name of --token-file
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) token_from: Option<PathBuf>,
    /// Accepted for old scripts; the token is never printed
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) print_token: Option<bool>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FilesArgs {
    /// Folder to serve [default: the current one]
    #[arg(long, short = 'w', value_name = "DIR", env = "PORTCULLIS_WEBROOT")]
    pub(crate) webroot: Option<PathBuf>,
    /// Show the contents of folders [default: false]
    #[arg(long, short = 'a', value_name = "BOOL", env = "PORTCULLIS_ALLOW_BROWSING", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) allow_browsing: Option<bool>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "PORTCULLIS_ADDR", value_parser = values::bind_addr)]
    pub(crate) addr: Option<IpAddr>,
    /// Port to listen on [default: 8080]
    #[arg(long, short = 'p', value_name = "PORT", env = "PORTCULLIS_PORT")]
    pub(crate) port: Option<u16>,
    /// Who may come: addresses, prefixes, ranges, @FILE, `all`, `none`; repeatable [default: 0.0.0.0/0,::/0]
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_ALLOW_IPS")]
    pub(crate) allow_ips: Vec<String>,
    /// How long downloads may go on after a stop, such as 10s [default: 10s]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_DRAIN", value_parser = values::duration)]
    pub(crate) drain: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// End after the tour; exit 0 only if every step came out as it should [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", env = "PORTCULLIS_ONCE", hide_possible_values = true)]
    pub(crate) once: Option<bool>,
    /// Show the mesh instead: a partner that answers one address only, official clients, real packets; needs root and `tailscaled` [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", env = "PORTCULLIS_MESH", hide_possible_values = true)]
    pub(crate) mesh: Option<bool>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainArgs {
    /// The visitor's address
    #[arg(value_parser = values::addr)]
    pub(crate) address: addr::Addr,
    /// What it wants to reach: `control`, `data`, `port:2222`, `host:app.example.com`, a port or a host [default: every list]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_SERVICE")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// What is looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// File of `serve`: checked too, and all there is to check where nothing runs [default: /etc/portcullis/edge.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: gate::JsonArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    #[command(flatten)]
    pub(crate) publish: PublishArgs,
}

/// How a running edge is found.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminArgs {
    /// Which edge, if several run from one data directory [default: the only one]
    #[arg(long, short = 'c', value_name = "PORT", env = "PORTCULLIS_CONTROL_PORT")]
    pub(crate) control_port: Option<u16>,
    /// Print JSON [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", env = "PORTCULLIS_JSON", hide_possible_values = true)]
    pub(crate) json: Option<bool>,
}

/// Which flags stood on the command line; all others came from the environment, a file, or nowhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(BTreeSet<String>);

impl Given {
    /// True if this flag (`token_file`) was typed.
    pub(crate) fn typed(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// What a person calls the place where a value was given: `--allow-ips` or `PORTCULLIS_ALLOW_IPS`.
    pub(crate) fn place(&self, id: &str) -> String {
        if self.typed(id) { format!("--{}", id.replace('_', "-")) } else { format!("PORTCULLIS_{}", id.to_uppercase()) }
    }

    fn collect(&mut self, matches: &ArgMatches) {
        for id in matches.ids() {
            let id = id.as_str();
            if matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine) {
                self.0.insert(id.to_string());
            }
        }
        if let Some((_, sub)) = matches.subcommand() {
            self.collect(sub);
        }
    }
}

/// What Gatekeeper reads beside what it documents.
const MAX_ALLOWED_IPS: &str = "MAX_ALLOWED_IPS";

/// Gatekeeper's users write its variables as Docker Compose takes them; for `gatekeeper` a value in quotes is the value,
/// and a variable without a value is none.
fn tidy_environment(typed: &[String]) {
    if !typed.iter().any(|a| a == "gatekeeper") {
        return;
    }
    let all = Cli::command();
    let Some(gatekeeper) = all.find_subcommand("gatekeeper") else { return };
    let names = gatekeeper.get_arguments().filter_map(|a| a.get_env()?.to_str());
    net::environment::tidy(names.chain([MAX_ALLOWED_IPS]));
}

/// The error of a value that came from the environment names the variable: nobody typed the flag.
fn by_its_name(mut error: clap::Error, typed: &[String]) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let flag = flag.split([' ', '=', '[']).next().unwrap_or_default().to_string();
    let mut command = Cli::command();
    // As deep as subcommands were typed: `--listen` is another flag in another command.
    for word in typed {
        if let Some(sub) = command.find_subcommand(word) {
            command = sub.clone();
        }
    }
    let long = flag.trim_start_matches('-');
    let Some(arg) = command.get_arguments().find(|a| a.get_long() == Some(long)) else { return error };
    let short = arg.get_short().map(|c| format!("-{c}"));
    let stands = |t: &String| {
        t.strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            || short.as_ref().is_some_and(|s| t.starts_with(s))
    };
    if let Some(name) = arg.get_env().filter(|name| std::env::var_os(name).is_some())
        && !typed.iter().any(stands)
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(name.to_string_lossy().into_owned()));
    }
    error
}

/// Parses the process's arguments; prints and exits by itself for `--help`, `--version` and wrong usage (exit 2).
pub(crate) fn parse() -> (Cli, Given) {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    tidy_environment(&typed);
    let matches = Cli::command().try_get_matches().unwrap_or_else(|e| by_its_name(e, &typed).exit());
    let mut given = Given::default();
    given.collect(&matches);
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => (cli, given),
        Err(e) => e.exit(),
    }
}
