//! Where plans become rooms. In: a plan of `meant`. Out: a running edge or client until the process is told to stop.

use std::net::IpAddr;
use std::path::Path;

use gate::{self, Gate};
use runtime::api;
use runtime::door::Doors;
use runtime::lists::Lists;
use runtime::run::Run;
use tracing::warn;
use tunnel::edge::EdgeHandle;
use tunnel::settings::EdgeTls;
use tunnel::{client as client_room, edge as edge_room};
use tunnel_proto::connect::{ConnectString, EdgeUrl, TokenPlace};

use crate::commands::control;
use crate::fail::Done;
use crate::resolve::{ClientPlan, EdgePlan};
use crate::{node_teacher, resolve, say};

/// Runs an edge, a gate or both until they are told to stop.
pub(crate) async fn edge(plan: EdgePlan) -> Done {
    let run = Run::new(plan.drain);
    run.follow_signals()?;
    match start(plan, &run).await {
        Ok(()) => Ok(run.finish().await?),
        Err(e) => {
            run.abandon().await;
            Err(e)
        }
    }
}

async fn start(plan: EdgePlan, run: &Run) -> Done {
    let ready = run.not_ready("edge");
    let doors = Doors::new();
    // The gate first: the doors may name its lists.
    let gate = plan.gate.map(|settings| gate::start(settings, run)).transpose()?;
    if let Some(gate) = &gate {
        let _ = plan.gate_runs.set(gate.clone());
    }
    let lists = runtime::lists::start(run, &doors, plan.find, gate.as_ref().map(|g| g.keeper.views.clone()))?;
    if let Some((settings, teach)) = plan.mesh {
        let control = control::serve(settings, run).await?;
        if let Some(gate) = &gate {
            node_teacher::start(run, &control, gate, teach);
        }
    }
    if let Some(gate) = &gate {
        gate_commands(run, gate, Some(&lists), &plan.data_dir);
        signs_of_life(run, &doors, &lists, gate);
    }
    let Some(settings) = plan.settings else {
        ready.ready();
        return Ok(());
    };
    let tls = settings.tls.clone();
    // A proxy or a balancer in front names its visitors.
    let fronted = !settings.trusted_proxies.is_empty() || settings.lb_proxy_protocol.is_some();
    if let Some(at) = settings.http.map(|h| h.ip()).or(settings.tcp.as_ref().map(|t| t.addr)).filter(|_| !fronted) {
        resolve::say_unreachable(
            &doors.view(),
            "data",
            at,
            "--data-addr 0.0.0.0, or --trusted-proxies with the proxy in front",
        );
    }
    let edge = edge_room::start(settings, doors.clone(), run).await?;
    let socket = api::edge_socket(&plan.data_dir, edge.control_addr.port());
    let for_status = edge.clone();
    let at_doors = lists.clone();
    let behind = gate.map(|gate| -> api::Behind {
        std::sync::Arc::new(move |list, addr| gate::behind(&gate, &lists.takes_in(list), addr))
    });
    // In a read-only container there is no admin socket, and the edge serves all the same.
    if let Err(e) =
        api::serve(run, &socket, api::edge_verbs(run, &doors, &at_doors, behind, move || for_status.status()))
    {
        warn!("no `explain` and `reload` from the command line: {e:#}");
    }
    say_where(&edge, &tls, plan.token_place.as_ref());
    ready.ready();
    net::memory::forget_startup_code();
    Ok(())
}

/// `list`, `grant`, `doctor`, … from the command line. `lists`: the list files of this process, if it reads any.
pub(crate) fn gate_commands(run: &Run, gate: &Gate, lists: Option<&Lists>, data_dir: &Path) {
    let lists = lists.cloned();
    let stale = move || lists.as_ref().map(api::stale).unwrap_or_default();
    let verbs = gate::verbs(api::reload_verbs(api::Verbs::default(), run), gate, stale);
    if let Err(e) = api::serve(run, &gate::gate_socket(data_dir), verbs) {
        warn!("no `list`, `grant` and `doctor` from the command line: {e:#}");
    }
}

/// Whoever passes a door by a list of the gate, or is still inside, is alive: `idle` counts from there.
fn signs_of_life(run: &Run, doors: &std::sync::Arc<Doors>, lists: &Lists, gate: &Gate) {
    let (at_doors, to_gate) = (lists.clone(), gate.clone());
    doors.on_pass(move |addr| to_gate.admitted(&at_doors.all_taken_in(), addr));
    let (doors, lists, gate, stopping) = (doors.clone(), lists.clone(), gate.clone(), run.stopping());
    run.spawn("gate's guests inside", async move {
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => return Ok(()),
                () = tokio::time::sleep(LOOK_INSIDE) => {}
            }
            let taken = lists.all_taken_in();
            for addr in doors.addrs() {
                gate.admitted(&taken, addr);
            }
        }
    });
}

/// A sign of life is saved once a minute at most; looked at twice as often, no minute is missed.
const LOOK_INSIDE: std::time::Duration = std::time::Duration::from_secs(30);

/// Runs a client until it is told to stop or its token is refused.
pub(crate) async fn client(plan: ClientPlan) -> Done {
    let run = Run::new(plan.drain);
    run.follow_signals()?;
    client_room::start(plan.settings, &run).await?;
    let running = run.clone();
    run.visit("start-up memory", async move {
        // Until the first session the client still runs through start-up code.
        tokio::select! {
            () = running.ready() => net::memory::forget_startup_code(),
            () = running.stopping() => {}
        }
    });
    Ok(run.finish().await?)
}

/// What the person needs for the other machine, on standard output.
fn say_where(edge: &EdgeHandle, tls: &EdgeTls, token: Option<&TokenPlace>) {
    say::aside(format_args!("control plane: {}", edge.control_addr));
    if let Some(http) = edge.http_addr {
        say::aside(format_args!("http visitors: {http}"));
    }
    let url = EdgeUrl {
        tls: !matches!(tls, EdgeTls::Off),
        host: public_host(edge, tls),
        port: edge.control_addr.port(),
        path: String::new(),
    };
    let connect = ConnectString { url, pin: edge.fingerprint, token: token.and_then(portable) };
    if let Some(pin) = &connect.pin {
        say::aside(format_args!("ca fingerprint: {pin}"));
    }
    say::aside(format_args!("connect string: {connect}"));
    let what = if edge.http_addr.is_some() { "http client" } else { "tcp client" };
    let upstream =
        if edge.http_addr.is_some() { "--upstream http://127.0.0.1:3000" } else { "--upstream 127.0.0.1 --ports 2222" };
    let token = if connect.token.is_some() { "" } else { " --token-file FILE" };
    let insecure = if connect.url.tls { "" } else { " --insecure" };
    say::aside(format_args!("on the other machine: portcullis {what} --connect {connect}{token}{insecure} {upstream}"));
    match tls {
        EdgeTls::Auto { sans, .. } if sans.is_empty() => {
            say::aside(format_args!(
                "({} is a guess; say what this edge is called with --auto-tls-san)",
                connect.url.host
            ));
        }
        EdgeTls::Own { .. } => {
            if edge.name.is_none() {
                say::aside(format_args!("(put the name in your certificate in the place of {})", connect.url.host));
            }
            if edge.needs_root {
                say::aside(format_args!(
                    "(this system does not know the CA of your certificate: clients that do not either need its root, by --ca-file, or by its fingerprint once the root stands last in the file of --tls-cert)"
                ));
            }
        }
        EdgeTls::Off => {
            say::aside("(not encrypted: behind a proxy with TLS, clients use its wss:// URL without --insecure)")
        }
        EdgeTls::Auto { .. } => {}
    }
}

/// The token's place as it may be called on another machine: a file by its name alone.
fn portable(place: &TokenPlace) -> Option<TokenPlace> {
    let place = match place {
        TokenPlace::Env(name) => TokenPlace::Env(name.clone()),
        TokenPlace::File(path) => TokenPlace::File(Path::new(path).file_name()?.to_str()?.to_string()),
    };
    let (TokenPlace::Env(word) | TokenPlace::File(word)) = &place;
    // A connect string is one word, parted by commas.
    word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)).then_some(place)
}

/// The name or address by which clients reach this edge, as far as can be known here.
fn public_host(edge: &EdgeHandle, tls: &EdgeTls) -> String {
    if let EdgeTls::Auto { sans, .. } = tls
        && let Some(san) = sans.iter().find(|s| !s.contains('*'))
    {
        return san.clone();
    }
    if let Some(name) = &edge.name {
        return name.clone();
    }
    let bound = edge.control_addr.ip();
    if !bound.is_unspecified() {
        return bound.to_string();
    }
    net::sockets::own_address().unwrap_or(IpAddr::from([127, 0, 0, 1])).to_string()
}
