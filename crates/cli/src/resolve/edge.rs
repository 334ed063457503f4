//! An edge's arguments and file become its settings. Precedence: flag, variable, file, default.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::control::ControlSettings;
use addr::AddrSet;
use gate::{Gate, GateSettings};
use net::secret::TokenHash;
use runtime::lists::{self, Find, ListPart, ListSource, Sources};
use tracing::{info, warn};
use tunnel::settings::{EdgeSettings, EdgeTls, EdgeToken, Rights, TcpPlane};
use tunnel_proto::connect::TokenPlace;
use tunnel_proto::http1::forwarded::IdentityFields;
use tunnel_proto::upstream::PortRanges;

use crate::args::control::ControlArgs;
use crate::args::{EdgeArgs, Given, GlobalArgs, ListArgs, TokenArgs, values};
use crate::commands::control::{self, Teach};
use crate::fail::Fail;
use crate::node_teacher;
use crate::resolve::config::{self, EdgeFile, ListValue, Read};
use crate::resolve::{gate_file, token};

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

/// Everything an edge needs, or a gate, or both.
pub(crate) struct EdgePlan {
    /// `None`: a gate alone.
    pub(crate) settings: Option<EdgeSettings>,
    /// The gate of the same file.
    pub(crate) gate: Option<GateSettings>,
    /// The coordination server of the same file, and what it teaches the gate's lists.
    pub(crate) mesh: Option<(ControlSettings, Vec<Teach>)>,
    /// Where the running gate is put, for the lists to be put into force at a reload.
    pub(crate) gate_runs: Arc<OnceLock<Gate>>,
    /// Finds the lists, at the start and at every reload.
    pub(crate) find: Find,
    pub(crate) data_dir: PathBuf,
    pub(crate) drain: Duration,
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
const GRACE: Duration = Duration::from_secs(30);
/// As many as one public address has ports: more visitors than that need more than one edge.
pub(crate) const MAX_VISITORS: u32 = 65_536;

/// The configuration file of `serve`: the one told, or the default one if it exists.
pub(crate) fn load_config(told: Option<&Path>) -> Result<Option<Read>, Fail> {
    let path = match told {
        Some(path) => path,
        None if Path::new(config::DEFAULT_FILE).exists() => Path::new(config::DEFAULT_FILE),
        None => return Ok(None),
    };
    Ok(Some(config::read(path)?))
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
    let none = config::EdgeFile::default();
    let f = file.map_or(&none, |r| &r.edge);
    let in_dir = |p: &PathBuf| file.map_or_else(|| p.clone(), |r| r.dir().join(p));
    let data_dir = super::data_dir(global.data_dir.clone().or_else(|| f.data_dir.as_ref().map(in_dir)))?;

    let default_control = if kind == Kind::Classic { CLASSIC_CONTROL_PORT } else { CONTROL_PORT };
    let control_port = args.listen.control_port.or(f.control_port).unwrap_or(default_control);
    let control =
        SocketAddr::new(args.listen.control_addr.or(f.control_addr).unwrap_or_else(every_address), control_port);
    let data_addr = args.listen.data_addr.or(f.data_addr).unwrap_or_else(every_address);
    let http_port = args.listen.port.or(f.port).unwrap_or(HTTP_PORT);
    // A file of a gate or a mesh alone need not say that there is no tunnel.
    let alone = (f.gate.is_some() || f.control.is_some())
        && [f.token_file.is_some(), f.token_files.is_some(), f.token_env.is_some(), f.tokens.is_some()] == [false; 4]
        && [f.port.is_some(), f.control_port.is_some(), f.allow_ports.is_some()] == [false; 3]
        && [args.listen.port.is_some(), args.listen.control_port.is_some(), args.listen.allow_ports.is_some()]
            == [false; 3]
        && token::find(&args.token, given)?.is_none();
    let http = (kind != Kind::Tcp && f.http.unwrap_or(!alone)).then(|| SocketAddr::new(data_addr, http_port));
    if http.is_some() && http_port == control_port && http_port != 0 {
        return Err(Fail::usage(
            format!("the HTTP plane and the control plane both want port {http_port}"),
            "give another `--port` or `--control-port`",
        ));
    }
    let default_ports = if kind == Kind::Tcp { PortRanges::all() } else { PortRanges::none() };
    let allow_ports = args.listen.allow_ports.clone().or_else(|| f.allow_ports.clone()).unwrap_or(default_ports);
    let tcp = (allow_ports.count() > 0).then_some(TcpPlane { addr: data_addr, allow_ports });
    let gate = file.map(|r| gate_file::plan(r, data_dir.clone())).transpose()?.flatten();
    if gate.is_some() && f.gate.as_ref().is_none_or(|g| g.trusted_proxies.is_none()) {
        crate::commands::gatekeeper::say_private_proxies("`trusted_proxies` under [gate]");
    }
    let mesh = mesh(f, file, &data_dir, gate.as_ref())?;
    let gate_runs: Arc<OnceLock<Gate>> = Arc::default();
    let config = file.map(|r| r.path.clone());
    let drain = args.limits.drain.or(f.drain).unwrap_or(runtime::run::DRAIN);
    if (gate.is_some() || mesh.is_some()) && http.is_none() && tcp.is_none() {
        let find = find(None, given.clone(), config, gate_runs.clone());
        return Ok(EdgePlan { settings: None, gate, mesh, gate_runs, find, data_dir, drain, token_place: None });
    }
    if http.is_none() && tcp.is_none() {
        return Err(Fail::usage(
            "this edge would serve nothing: HTTP is off and no TCP port is allowed",
            "give `--allow-ports`, or turn `http` on",
        ));
    }

    let (tokens, token_place) = tokens(&args.token, file, given)?;
    let trusted_proxies = set_of(
        "trusted-proxies",
        &args.front.trusted_proxies,
        f.trusted_proxies.as_ref().zip(file),
        &given.place("trusted_proxies"),
    )?;
    say_wide(&trusted_proxies, "--trusted-proxies");
    let lb = args.front.lb_proxy_protocol.or(f.lb_proxy_protocol).and_then(|p| p.0);
    if lb.is_some() && trusted_proxies.is_empty() {
        info!(
            "a PROXY line is believed from loopback and private addresses only; name the balancer with --trusted-proxies if it has another"
        );
    }
    let max_visitors = args.limits.max_visitors.or(f.max_visitors).unwrap_or(MAX_VISITORS);
    let settings = EdgeSettings {
        control,
        http,
        tcp,
        tokens,
        tls: tls(kind, args, f, &in_dir, &data_dir, control)?,
        trusted_proxies,
        trusted_header: args.front.trusted_header.or(f.trusted_header).unwrap_or_default(),
        identity_fields: identity(args, f, given)?,
        stall: stall(args, f)?,
        proxy_protocol: args.front.proxy_protocol.or(f.proxy_protocol).and_then(|p| p.0),
        lb_proxy_protocol: lb,
        grace: args.limits.grace.or(f.grace).unwrap_or(GRACE),
        max_visitors: max_visitors as usize,
        max_visitors_per_source: args
            .limits
            .max_visitors_per_source
            .or(f.max_visitors_per_source)
            .unwrap_or_else(|| max_visitors.div_ceil(4)) as usize,
    };
    if args.limits.disable_transport_wrapping.is_some() {
        info!("--disable-transport-wrapping is accepted for old scripts; nothing is wrapped here");
    }
    let find = find(Some(args.lists.clone()), given.clone(), config, gate_runs.clone());
    Ok(EdgePlan { settings: Some(settings), gate, mesh, gate_runs, find, data_dir, drain, token_place })
}

/// Fields in which trusted proxies say who is logged in.
fn identity(args: &EdgeArgs, f: &config::EdgeFile, given: &Given) -> Result<IdentityFields, Fail> {
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
const STALL: Duration = Duration::from_secs(60);

fn stall(args: &EdgeArgs, f: &config::EdgeFile) -> Result<Duration, Fail> {
    match args.limits.stall_timeout.or(f.stall_timeout) {
        Some(time) if time < Duration::from_secs(1) => {
            Err(Fail::usage("--stall-timeout is below a second: slow visitors would be cut", "give `60s` or more"))
        }
        time => Ok(time.unwrap_or(STALL)),
    }
}

/// A set that is read once, at the start: `--trusted-proxies`. Nothing given is nobody.
pub(crate) fn set_of(
    name: &str,
    flags: &[String],
    file: Option<(&ListValue, &Read)>,
    place: &str,
) -> Result<AddrSet, Fail> {
    let parts = if flags.is_empty() {
        match file {
            None => return Ok(AddrSet::default()),
            Some((value, read)) => from_file(value, read)?,
        }
    } else {
        from_flags(flags, place).map_err(Fail::misused)?
    };
    if let Some(ListPart::Named { name: list, from }) = parts.iter().find(|p| matches!(p, ListPart::Named { .. })) {
        return Err(Fail::usage(
            format!("{from}: `list:{list}` can not say whom to believe"),
            "name the proxies themselves",
        ));
    }
    let sources = Sources { lists: vec![ListSource { name: name.to_string(), parts }], ..Sources::default() };
    let mut loaded = lists::load(&sources)?;
    if let Some(host) = loaded.hosts.iter().flatten().next() {
        return Err(Fail::usage(
            format!(
                "{place}: `{}` can not say whom to believe: whoever answers for the name would choose",
                host.entry()
            ),
            "name the proxies by their addresses",
        ));
    }
    // `none` is this set's default: that it is empty deserves no word.
    for w in &loaded.warnings {
        warn!("{w}");
    }
    Ok(loaded.lists.pop().map(|l| l.set).unwrap_or_default())
}

/// Says if strangers are among the proxies that are believed.
pub(crate) fn say_wide(trusted: &AddrSet, switch: &str) {
    if let Some(wide) = trusted.prefixes().iter().find(|p| gate::doctor::holds_strangers(**p)) {
        warn!(
            "{switch} holds {wide}: whoever comes from there may claim any address, and lists keep nobody out; name the proxies themselves"
        );
    }
}

fn tokens(args: &TokenArgs, file: Option<&Read>, given: &Given) -> Result<(Vec<EdgeToken>, Option<TokenPlace>), Fail> {
    if let Some(t) = token::find(args, given)? {
        warn_short(t.secret.reveal(), "the token");
        return Ok((vec![EdgeToken::all("token", TokenHash::of(t.secret.reveal()))], t.place));
    }
    let Some(read) = file else { return Err(token::missing()) };
    let f = &read.edge;
    let from = read.path.display().to_string();
    let ways = [f.token_file.is_some(), f.token_files.is_some(), f.token_env.is_some(), f.tokens.is_some()];
    if ways.iter().filter(|w| **w).count() > 1 {
        return Err(Fail::hinted(
            format!("{from}: the token is given twice"),
            "keep one of `token_file`, `token_files`, `token_env` and `[[tokens]]`",
        ));
    }
    let path = |p: &PathBuf| TokenPlace::File(read.dir().join(p).display().to_string());
    let by_name = |p: &PathBuf| (p.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path(p));
    let mut places: Vec<(String, TokenPlace)> = Vec::new();
    places.extend(f.token_file.iter().chain(f.token_files.iter().flatten()).map(by_name));
    places.extend(f.token_env.clone().map(|e| ("token".to_string(), TokenPlace::Env(e))));
    places.extend(f.tokens.iter().flatten().map(|t| (t.name.clone(), path(&t.file))));
    if places.is_empty() {
        return Err(token::missing());
    }
    let mut out: Vec<EdgeToken> = Vec::new();
    for (i, (name, place)) in places.iter().enumerate() {
        let secret = token::at(place, &from)?.secret;
        warn_short(secret.reveal(), &format!("the token `{name}`"));
        if let Some(same) = out.iter().find(|o| o.hash.matches(secret.reveal())) {
            return Err(Fail::hinted(
                format!("{from}: the tokens `{}` and `{name}` are the same", same.name),
                "a token of its own for each: `head -c 32 /dev/urandom | base64 > NAME.token`",
            ));
        }
        let told = f.tokens.as_ref().and_then(|t| t.get(i));
        out.push(EdgeToken {
            name: name.clone(),
            hash: TokenHash::of(secret.reveal()),
            rights: told.map_or_else(Rights::default, rights),
            guarded: told.is_some_and(|t| t.allow_ips.is_some()),
        });
    }
    if f.tokens.is_some() {
        names_are_good(&places, &from)?;
    }
    let only = if let [(_, one)] = places.as_slice() { Some(one.clone()) } else { None };
    Ok((out, only))
}

/// Of a token for which hosts are named, ports are none unless they are named too, and the other way round.
fn rights(told: &config::TokenFile) -> Rights {
    match (&told.hosts, &told.ports) {
        (None, None) => Rights::default(),
        (hosts, ports) => Rights {
            hosts: Some(hosts.clone().unwrap_or_default()),
            ports: Some(ports.clone().unwrap_or_else(PortRanges::none)),
        },
    }
}

/// A token's name is part of a list's name and of log lines.
fn names_are_good(tokens: &[(String, TokenPlace)], from: &str) -> Result<(), Fail> {
    for (i, (name, _)) in tokens.iter().enumerate() {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(Fail::hinted(
                format!("{from}: `{name}` is not a name for a token"),
                "letters, digits, `-`, `_` and `.`, up to 64 of them",
            ));
        }
        if tokens.iter().take(i).any(|(other, _)| other == name) {
            return Err(Fail::hinted(format!("{from}: two tokens are called `{name}`"), "give each a name of its own"));
        }
    }
    Ok(())
}

/// 16 characters of `base64` are 96 bits; what people make up is far less at this length.
const SHORT: usize = 16;

fn warn_short(token: &str, what: &str) {
    if token.len() < SHORT {
        warn!(
            "{what} has {} characters and may be guessed; a good one: `head -c 32 /dev/urandom | base64 > token && chmod 600 token`",
            token.len()
        );
    }
}

fn tls(
    kind: Kind,
    args: &EdgeArgs,
    f: &config::EdgeFile,
    in_dir: &dyn Fn(&PathBuf) -> PathBuf,
    data_dir: &Path,
    control: SocketAddr,
) -> Result<EdgeTls, Fail> {
    let cert = args.tls.tls_cert.clone().or_else(|| f.tls_cert.as_ref().map(in_dir));
    let key = args.tls.tls_key.clone().or_else(|| f.tls_key.as_ref().map(in_dir));
    let told = args.tls.auto_tls.or(f.auto_tls);
    match (cert, key) {
        (Some(_), Some(_)) if told == Some(true) => Err(Fail::usage(
            "--auto-tls and --tls-cert contradict each other",
            "leave --auto-tls out to use your own certificate",
        )),
        (Some(cert), Some(key)) => Ok(EdgeTls::Own { cert, key }),
        (Some(_), None) => Err(Fail::usage("--tls-cert needs --tls-key", "give the private key of the certificate")),
        (None, Some(_)) => Err(Fail::usage("--tls-key needs --tls-cert", "give the certificate chain of the key")),
        (None, None) if !told.unwrap_or(kind != Kind::Classic) => {
            if !control.ip().is_loopback() {
                info!("the control plane is not encrypted; put a proxy with TLS in front of it, or use --auto-tls");
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
            let dir = args.tls.auto_tls_path.clone().or_else(|| f.auto_tls_path.as_ref().map(in_dir));
            Ok(EdgeTls::Auto { sans, dir: dir.unwrap_or_else(|| data_dir.join(format!("tls-{}", control.port()))) })
        }
    }
}

/// `[control]` of the file: paths in it start where the file lies.
fn mesh(
    f: &EdgeFile,
    file: Option<&Read>,
    data_dir: &Path,
    gate: Option<&GateSettings>,
) -> Result<Option<(ControlSettings, Vec<Teach>)>, Fail> {
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
        if rules.is_some_and(|r| [r.idle, r.ttl].into_iter().flatten().any(|s| s < node_teacher::SHORTEST)) {
            return Err(Fail::hinted(
                format!(
                    "{}: `lists.{}` forgets an address sooner than nodes give signs of life",
                    read.path.display(),
                    t.list
                ),
                format!("give it `idle` and `ttl` of at least {} s", node_teacher::SHORTEST),
            ));
        }
        if t.nodes.is_empty() {
            return Err(Fail::hinted(
                format!("{}: [[control.teach]] of the list `{}` names no nodes", read.path.display(), t.list),
                "name whose: nodes = [\"group:family\"]",
            ));
        }
    }
    let settings = control::plan(&ControlArgs::default(), section.beside(&read.dir()), data_dir.to_path_buf())?;
    Ok(Some((settings, teach)))
}

/// Reads flags and file anew at every call: a reload sees a changed configuration file and changed `@` files. `args`:
/// `None` where no door is, only a gate.
fn find(args: Option<ListArgs>, given: Given, config: Option<PathBuf>, gate: Arc<OnceLock<Gate>>) -> Find {
    Arc::new(move || {
        let file = config.as_deref().map(config::read).transpose()?;
        let mut also_watch: Vec<PathBuf> = config.iter().cloned().collect();
        let mut first: Option<lists::First> = None;
        if let (Some(read), Some(gate)) = (&file, gate.get().cloned()) {
            let ((rules, follows), files) = gate_file::lists(read)?;
            // What is wrong with the rest of it is better known now than at the next start.
            gate_file::plan(read, PathBuf::new())?;
            also_watch.extend(files);
            first = Some(Arc::new(move || {
                tokio::runtime::Handle::current().block_on(gate.relist(rules.clone(), follows.clone()))
            }));
        }
        let Some(args) = &args else { return Ok(Sources { lists: Vec::new(), also_watch, first }) };
        let f = file.as_ref().map(|r| &r.edge);
        // A plane's own list, wherever it stands, before the list for both.
        let plane = |flags: &[String], id: &str, value: Option<&ListValue>| -> anyhow::Result<Option<Vec<ListPart>>> {
            if !flags.is_empty() {
                return from_flags(flags, &given.place(id)).map(Some);
            }
            value.zip(file.as_ref()).map(|(v, r)| from_file(v, r)).transpose()
        };
        let both = plane(&args.allow_ips, "allow_ips", f.and_then(|f| f.allow_ips.as_ref()))?
            .unwrap_or_else(|| vec![ListPart::Default]);
        let control =
            plane(&args.allow_ips_control, "allow_ips_control", f.and_then(|f| f.allow_ips_control.as_ref()))?;
        let data = plane(&args.allow_ips_data, "allow_ips_data", f.and_then(|f| f.allow_ips_data.as_ref()))?;
        let mut lists = vec![
            ListSource { name: "control".to_string(), parts: control.unwrap_or_else(|| both.clone()) },
            ListSource { name: "data".to_string(), parts: data.unwrap_or(both) },
        ];
        if let Some(read) = &file {
            for token in read.edge.tokens.iter().flatten() {
                if let Some(list) = &token.allow_ips {
                    lists.push(ListSource { name: format!("token:{}", token.name), parts: from_file(list, read)? });
                }
            }
            for (port, guard) in &read.edge.port_lists {
                lists.push(ListSource { name: format!("port:{port}"), parts: from_file(&guard.allow_ips, read)? });
            }
            for (host, guard) in &read.edge.host_lists {
                // The form in which requests are judged; that it is one was seen when the file was read.
                let host = addr::Host::parse(host).map_or_else(|| host.clone(), |h| h.to_string());
                lists.push(ListSource { name: format!("host:{host}"), parts: from_file(&guard.allow_ips, read)? });
            }
        }
        Ok(Sources { lists, also_watch, first })
    })
}

/// The parts of a list flag that may be repeated.
///
/// # Errors
/// The first bad entry, with flag and column.
pub(crate) fn from_flags(values: &[String], place: &str) -> anyhow::Result<Vec<ListPart>> {
    let mut out = Vec::new();
    for value in values {
        out.extend(lists::parts(value, place, None)?);
    }
    none_stands_alone(&out, place)?;
    Ok(out)
}

fn from_file(value: &ListValue, read: &Read) -> anyhow::Result<Vec<ListPart>> {
    let mut out = Vec::new();
    for (text, place) in read.entries(value)? {
        out.extend(lists::parts(text, &place, Some(&read.dir()))?);
    }
    none_stands_alone(&out, &read.path.display().to_string())?;
    Ok(out)
}

/// Says that nobody on a list can come, where only this machine can connect and the list holds no address of it.
pub(crate) fn say_unreachable(view: &access::View, list: &str, listen: IpAddr, instead: &str) {
    let Some(list) = view.lists().iter().find(|l| l.name == list) else { return };
    // RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3.
    let own = [[127, 0, 0, 0].into(), Ipv6Addr::LOCALHOST.into()].map(addr::Addr::new);
    let own = [addr::Prefix::new(own[0], 8), addr::Prefix::new(own[1], 128)];
    let reaches = list.set.prefixes().iter().any(|p| own.iter().flatten().any(|o| p.covers(*o) || o.covers(*p)));
    if listen.is_loopback() && !list.set.is_empty() && !reaches {
        warn!(
            "nobody can come in: {listen} is reached from this machine only, and list `{}` ({}) holds no address of it; to be reached from elsewhere: {instead}",
            list.name, list.source
        );
    }
}

/// `none` beside other values would look like a lock and be none.
fn none_stands_alone(parts: &[ListPart], place: &str) -> anyhow::Result<()> {
    let is_none = |p: &ListPart| matches!(p, ListPart::Text { text, .. } if text.trim().eq_ignore_ascii_case("none"));
    anyhow::ensure!(
        parts.len() < 2 || !parts.iter().any(is_none),
        "{place}: `none` means nobody and stands alone; remove it or the other entries"
    );
    Ok(())
}

/// `[::]` takes IPv4 too; a system without IPv6 gets `0.0.0.0`.
fn every_address() -> IpAddr {
    if Path::new("/proc/net/if_inet6").exists() || !cfg!(target_os = "linux") {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from([0, 0, 0, 0])
    }
}
