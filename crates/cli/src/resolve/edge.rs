//! An edge's arguments and file become its settings. Precedence: flag, variable, file, default.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gate::GateSettings;
use server::{Config, ControlConfig, node_lists};
use tunnel::settings::{EdgeSettings, EdgeTls, EdgeToken, TcpPlane};
use tunnel_proto::connect::TokenPlace;
use tunnel_proto::http1::forwarded::IdentityFields;
use tunnel_proto::upstream::PortRanges;

use super::file::{self, EdgeFile, Read};
use super::lists::{at_admission, say_wide, set_of};
use super::tokens::tokens;
use super::{Notes, control, gate_file, gate_shared, token};
use crate::args::control::ControlArgs;
use crate::args::{EdgeArgs, Given, GlobalArgs, values};
use crate::fail::Fail;

/// Which command was typed; they differ in their defaults only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `http server`.
    Http,
    /// `tcp server`.
    Tcp,
    /// `server`, as the open-source inlets.
    Classic,
    /// `serve`.
    Serve,
}

/// What a process is input, and what the person at the terminal is input besides.
pub(crate) struct EdgePlan {
    pub(crate) config: Config,
    /// Where the token lies here, as a hint for the connect string.
    pub(crate) token_place: Option<TokenPlace>,
}

/// Port of the control plane, as inlets-pro.
const CONTROL_PORT: u16 = 8123;
/// The same of the open-source inlets.
const CLASSIC_CONTROL_PORT: u16 = 8001;
/// Port of the HTTP plane, as both.
const HTTP_PORT: u16 = 8000;
/// Survives a client's restart and a laptop's change of network (field: reconnects take 100 ms to 10 s).
const DEFAULT_RECONNECT_GRACE: Duration = Duration::from_secs(30);
/// As many as one public address has ports: more visitors than that need more than one edge.
pub(crate) const MAX_VISITORS: u32 = 65_536;

/// The configuration file of `serve`: the one input, or the default one if it exists.
pub(crate) fn load_config(input: Option<&Path>) -> Result<Option<Read>, Fail> {
    let path = match input {
        Some(path) => path,
        None => match file::DEFAULT_FILES.iter().map(Path::new).find(|p| p.exists()) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    Ok(Some(file::read(path)?))
}

/// What an edge is input, and where remarks go.
#[derive(Clone, Copy)]
struct Input<'a> {
    kind: Kind,
    args: &'a EdgeArgs,
    /// The file's keys; none were given if there is no file.
    f: &'a EdgeFile,
    file: Option<&'a Read>,
    given: &'a Given,
    notes: &'a Notes,
}

/// Resolves everything.
///
/// # Errors
/// Contradictions and bad values, with the flag, variable or line they stand in.
pub(crate) fn edge(
    kind: Kind,
    args: &EdgeArgs,
    global: &GlobalArgs,
    file: Option<&Read>,
    given: &Given,
) -> Result<EdgePlan, Fail> {
    args.inlets.judge(given)?;
    let (notes, none) = (Notes::default(), EdgeFile::default());
    let f = file.map_or(&none, |r| &r.edge);
    let input = Input { kind, args, f, file, given, notes: &notes };
    let data_dir = super::data_dir(global.data_dir.clone().or_else(|| f.data_dir.as_ref().map(|p| input.beside(p))))?;
    let planes = input.planes()?;
    let gate = file.map(|r| gate_file::plan(r, data_dir.clone(), &notes)).transpose()?.flatten();
    if gate.is_some() && f.gate.as_ref().is_none_or(|g| g.trusted_proxies.is_none()) {
        gate_shared::say_private_proxies("`trusted_proxies` under [gate]", &notes);
    }
    let control = control_section(f, file, &data_dir, gate.as_ref(), &notes)?;
    let mut config = Config {
        log: super::log(global, file.map(|r| &r.edge)),
        drain: args.limits.drain.or(f.drain).unwrap_or(runtime::run::DRAIN),
        tunnel: None,
        lists: Vec::new(),
        files: input.files(gate.is_some())?,
        gate,
        control,
        notes: Vec::new(),
        data_dir,
    };
    let mut token_place = None;
    if planes.http.is_some() || planes.tcp.is_some() {
        let tokens = tokens(&args.token, file, given, &notes)?;
        config.files.extend(tokens.files);
        token_place = tokens.place;
        let tls = input.tls(&config.data_dir, planes.control)?;
        if let EdgeTls::Own { cert, key } = &tls {
            config.files.extend([cert.clone(), key.clone()]);
        }
        config.tunnel = Some(input.settings(planes, tokens.all, tls)?);
        config.lists = at_admission(&args.lists, given, file)?;
    } else if config.gate.is_none() && config.control.is_none() {
        return Err(Fail::usage(
            "this edge would serve nothing: HTTP is off and no TCP port is allowed",
            "give `--allow-ports`, or turn `http` on",
        ));
    }
    config.notes = notes.into_vec();
    Ok(EdgePlan { config, token_place })
}

/// Where an edge listens.
struct Planes {
    control: SocketAddr,
    http: Option<SocketAddr>,
    tcp: Option<TcpPlane>,
}

impl Input<'_> {
    /// A path of the file starts where the file lies.
    fn beside(&self, path: &Path) -> PathBuf {
        self.file.map_or_else(|| path.to_path_buf(), |r| r.at(path))
    }

    /// True if there is no tunnel: a file of a gate or a mesh alone need not say so.
    fn no_tunnel(&self) -> Result<bool, Fail> {
        let (f, listen) = (self.f, &self.args.listen);
        let tokens = [f.token_file.is_some(), f.token_files.is_some(), f.token_env.is_some(), f.tokens.is_some()];
        let ports = [f.port.is_some(), f.control_port.is_some(), f.allow_ports.is_some()];
        let flags = [listen.port.is_some(), listen.control_port.is_some(), listen.allow_ports.is_some()];
        Ok((f.gate.is_some() || f.control.is_some())
            && !tokens.iter().chain(&ports).chain(&flags).any(|given| *given)
            && token::find(&self.args.token, self.given, self.notes)?.is_none())
    }

    fn planes(&self) -> Result<Planes, Fail> {
        let (f, listen, kind) = (self.f, &self.args.listen, self.kind);
        let default_control = if kind == Kind::Classic { CLASSIC_CONTROL_PORT } else { CONTROL_PORT };
        let control_port = listen.control_port.or(f.control_port).unwrap_or(default_control);
        let control =
            SocketAddr::new(listen.control_addr.or(f.control_addr).unwrap_or_else(every_address), control_port);
        let data_addr = listen.data_addr.or(f.data_addr).unwrap_or_else(every_address);
        let http_port = listen.port.or(f.port).unwrap_or(HTTP_PORT);
        let no_tunnel = self.no_tunnel()?;
        let http = (kind != Kind::Tcp && f.http.unwrap_or(!no_tunnel)).then(|| SocketAddr::new(data_addr, http_port));
        if http.is_some() && http_port == control_port && http_port != 0 {
            return Err(Fail::usage(
                format!("the HTTP plane and the control plane both want port {http_port}"),
                "give another `--port` or `--control-port`",
            ));
        }
        let default_ports = if kind == Kind::Tcp { PortRanges::all() } else { PortRanges::none() };
        let allow_ports = listen.allow_ports.clone().or_else(|| f.allow_ports.clone()).unwrap_or(default_ports);
        let tcp = (allow_ports.count() > 0).then_some(TcpPlane { addr: data_addr, allow_ports });
        Ok(Planes { control, http, tcp })
    }

    /// The files that are read besides those of lists and tokens.
    fn files(&self, gate: bool) -> Result<Vec<PathBuf>, Fail> {
        let Some(read) = self.file else { return Ok(Vec::new()) };
        let mut files = vec![read.path.clone()];
        if gate {
            files.extend(gate_file::files(read)?);
        }
        files.extend(self.f.control.iter().filter_map(|c| c.derp_map.as_ref()).map(|p| self.beside(p)));
        Ok(files)
    }

    fn settings(&self, planes: Planes, tokens: Vec<EdgeToken>, tls: EdgeTls) -> Result<EdgeSettings, Fail> {
        let Input { args, f, file, given, notes, .. } = *self;
        let trusted_proxies = set_of(
            "trusted-proxies",
            &args.front.trusted_proxies,
            f.trusted_proxies.as_ref().zip(file),
            &given.place("trusted_proxies"),
            notes,
        )?;
        say_wide(&trusted_proxies, "--trusted-proxies", notes);
        let lb = args.front.lb_proxy_protocol.or(f.lb_proxy_protocol).and_then(|p| p.0);
        if lb.is_some() && trusted_proxies.is_empty() {
            notes.info(
                "a PROXY line is believed from loopback and private addresses only; name the balancer with --trusted-proxies if it has another",
            );
        }
        if args.limits.disable_transport_wrapping.is_some() {
            notes.info("--disable-transport-wrapping is accepted for old scripts; nothing is wrapped here");
        }
        say_closed_ports(&tokens, planes.tcp.as_ref(), notes);
        let max_visitors = args.limits.max_visitors.or(f.max_visitors).unwrap_or(MAX_VISITORS);
        let of_one_source = args.limits.max_visitors_per_source.or(f.max_visitors_per_source);
        Ok(EdgeSettings {
            control: planes.control,
            http: planes.http,
            tcp: planes.tcp,
            tokens,
            tls,
            trusted_proxies,
            trusted_header: args.front.trusted_header.or(f.trusted_header).unwrap_or_default(),
            identity_fields: identity(args, f, given)?,
            stall: stall(args, f)?,
            proxy_protocol: args.front.proxy_protocol.or(f.proxy_protocol).and_then(|p| p.0),
            lb_proxy_protocol: lb,
            grace: args.limits.grace.or(f.grace).unwrap_or(DEFAULT_RECONNECT_GRACE),
            max_visitors: max_visitors as usize,
            max_visitors_per_source: of_one_source.unwrap_or_else(|| max_visitors.div_ceil(4)) as usize,
        })
    }
}

/// Says which ports a token may publish that the edge opens for nobody.
fn say_closed_ports(tokens: &[EdgeToken], tcp: Option<&TcpPlane>, notes: &Notes) {
    for token in tokens {
        let closed = |port: &u16| tcp.is_none_or(|t| !t.allow_ports.contains(*port));
        let ports = token.rights.ports.as_ref().filter(|p| p.iter().any(|port| closed(&port)));
        if let Some(ports) = ports {
            notes.warning(format!(
                "the token `{}` may publish ports {ports}, and this edge does not open all of them: name them in `allow_ports` too",
                token.name
            ));
        }
    }
}

/// Fields in which trusted proxies say who is logged in.
fn identity(args: &EdgeArgs, f: &EdgeFile, given: &Given) -> Result<IdentityFields, Fail> {
    let flags = &args.front.trusted_identity;
    let (names, place) = match &f.trusted_identity {
        Some(names) if flags.is_empty() => (names, "trusted_identity".to_string()),
        _ => (flags, given.place("trusted_identity")),
    };
    IdentityFields::new(names.iter().map(String::as_str)).map_err(|why| {
        Fail::usage(format!("{place}: {why}"), "name the fields that your proxy writes itself and takes from nobody")
    })
}

/// Longest useful wait for a visitor that takes nothing.
const MAX_WRITE_STALL: Duration = Duration::from_secs(60);

fn stall(args: &EdgeArgs, f: &EdgeFile) -> Result<Duration, Fail> {
    match args.limits.stall_timeout.or(f.stall_timeout) {
        Some(time) if time < Duration::from_secs(1) => {
            Err(Fail::usage("--stall-timeout is below a second: slow visitors would be cut", "give `60s` or more"))
        }
        time => Ok(time.unwrap_or(MAX_WRITE_STALL)),
    }
}

impl Input<'_> {
    fn tls(&self, data_dir: &Path, control: SocketAddr) -> Result<EdgeTls, Fail> {
        let Input { kind, args, f, notes, .. } = *self;
        let in_dir = |p: &PathBuf| self.beside(p);
        let cert = args.tls.tls_cert.clone().or_else(|| f.tls_cert.as_ref().map(&in_dir));
        let key = args.tls.tls_key.clone().or_else(|| f.tls_key.as_ref().map(&in_dir));
        let auto = args.tls.auto_tls.or(f.auto_tls);
        match (cert, key) {
            (Some(_), Some(_)) if auto == Some(true) => Err(Fail::usage(
                "--auto-tls and --tls-cert contradict each other",
                "leave --auto-tls out to use your own certificate",
            )),
            (Some(cert), Some(key)) => Ok(EdgeTls::Own { cert, key }),
            (Some(_), None) => {
                Err(Fail::usage("--tls-cert needs --tls-key", "give the private key of the certificate"))
            }
            (None, Some(_)) => Err(Fail::usage("--tls-key needs --tls-cert", "give the certificate chain of the key")),
            (None, None) if !auto.unwrap_or(kind != Kind::Classic) => {
                if !control.ip().is_loopback() {
                    notes.info(
                        "the control plane is not encrypted; put a proxy with TLS in front of it, or use --auto-tls",
                    );
                }
                Ok(EdgeTls::Off)
            }
            (None, None) => {
                let sans = if args.tls.auto_tls_san.is_empty() {
                    f.auto_tls_san.clone().unwrap_or_default()
                } else {
                    args.tls.auto_tls_san.clone()
                };
                let sans = sans.iter().filter(|s| !s.trim().is_empty()).map(|s| {
                values::certificate_name(s).map_err(|why| {
                    Fail::usage(
                        format!("`{}` is not a name or address for a certificate: {why}", s.trim()),
                        "give --auto-tls-san the name or address by which clients reach this edge, such as edge.example.com or 203.0.113.9",
                    )
                })
            });
                let sans = sans.collect::<Result<Vec<_>, Fail>>()?;
                let dir = args.tls.auto_tls_path.clone().or_else(|| f.auto_tls_path.as_ref().map(&in_dir));
                Ok(EdgeTls::Auto { sans, dir: dir.unwrap_or_else(|| data_dir.join(format!("tls-{}", control.port()))) })
            }
        }
    }
}

/// `[control]` of the file: paths in it start where the file lies.
fn control_section(
    f: &EdgeFile,
    file: Option<&Read>,
    data_dir: &Path,
    gate: Option<&GateSettings>,
    notes: &Notes,
) -> Result<Option<ControlConfig>, Fail> {
    let Some((section, read)) = f.control.clone().zip(file) else { return Ok(None) };
    let teach = section.teach.clone();
    for t in &teach {
        if !gate.is_some_and(|g| g.lists.iter().any(|(name, _)| *name == t.list)) {
            return Err(Fail::hinted(
                format!("{}: [[control.teach]] names the list `{}`, which is not there", read.path.display(), t.list),
                format!("add `[lists.{}]` and `[gate]`", t.list),
            ));
        }
        let rules = gate.iter().flat_map(|g| &g.lists).find(|(name, _)| *name == t.list).map(|(_, rules)| rules);
        if rules.is_some_and(|r| [r.idle, r.ttl].into_iter().flatten().any(|s| s < node_lists::SHORTEST)) {
            return Err(Fail::hinted(
                format!(
                    "{}: `lists.{}` forgets an address sooner than nodes give signs of life",
                    read.path.display(),
                    t.list
                ),
                format!("give it `idle` and `ttl` of at least {} s", node_lists::SHORTEST),
            ));
        }
        if t.nodes.is_empty() {
            return Err(Fail::hinted(
                format!("{}: [[control.teach]] of the list `{}` names no nodes", read.path.display(), t.list),
                "name whose: nodes = [\"group:family\"]",
            ));
        }
    }
    let settings = control::plan(&ControlArgs::default(), section.beside(&read.dir()), data_dir.to_path_buf(), notes)?;
    Ok(Some(ControlConfig { settings, teach }))
}

/// `[::]` takes IPv4 too; a system without IPv6 gets `0.0.0.0`.
fn every_address() -> IpAddr {
    if Path::new("/proc/net/if_inet6").exists() || !cfg!(target_os = "linux") {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from([0, 0, 0, 0])
    }
}
