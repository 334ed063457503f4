//! Where plans become rooms. In: a plan of `meant`. Out: a running edge or client until the process is told to stop.

use std::net::IpAddr;

use daemon::api;
use daemon::door::Doors;
use daemon::run::Run;
use daemon::tunnel::edge::EdgeHandle;
use daemon::tunnel::settings::EdgeTls;
use daemon::tunnel::{client as client_room, edge as edge_room};
use wire::connect::{ConnectString, EdgeUrl, TokenPlace};

use crate::fail::Done;
use crate::meant::{ClientPlan, EdgePlan};
use crate::say;

/// Runs an edge until it is told to stop.
pub(crate) async fn edge(plan: EdgePlan) -> Done {
    let run = Run::new(plan.drain);
    run.follow_signals()?;
    let ready = run.not_ready("edge");
    let doors = Doors::new();
    daemon::lists::start(&run, &doors, plan.find)?;
    let tls = plan.settings.tls.clone();
    let edge = edge_room::start(plan.settings, doors.clone(), &run).await?;
    let socket = api::edge_socket(&plan.data_dir, edge.control_addr.port());
    let for_status = edge.clone();
    api::serve(&run, &socket, api::edge_verbs(&run, &doors, move || for_status.status()))?;
    say_where(&edge, &tls, plan.token_place);
    ready.ready();
    Ok(run.finish().await?)
}

/// Runs a client until it is told to stop or its token is refused.
pub(crate) async fn client(plan: ClientPlan) -> Done {
    let run = Run::new(plan.drain);
    run.follow_signals()?;
    client_room::start(plan.settings, &run).await?;
    Ok(run.finish().await?)
}

/// What the person needs for the other machine, on standard output.
fn say_where(edge: &EdgeHandle, tls: &EdgeTls, token: Option<TokenPlace>) {
    say::line(format_args!("control plane: {}", edge.control_addr));
    if let Some(http) = edge.http_addr {
        say::line(format_args!("http visitors: {http}"));
    }
    let url = EdgeUrl {
        tls: !matches!(tls, EdgeTls::Off),
        host: public_host(edge, tls),
        port: edge.control_addr.port(),
        path: String::new(),
    };
    let connect = ConnectString { url, pin: edge.fingerprint, token };
    if let Some(pin) = &connect.pin {
        say::line(format_args!("ca fingerprint: {pin}"));
    }
    say::line(format_args!("connect string: {connect}"));
}

/// The name or address by which clients reach this edge, as far as can be known here.
fn public_host(edge: &EdgeHandle, tls: &EdgeTls) -> String {
    if let EdgeTls::Auto { sans, .. } = tls
        && let Some(san) = sans.first()
    {
        return san.clone();
    }
    let bound = edge.control_addr.ip();
    if !bound.is_unspecified() {
        return bound.to_string();
    }
    net::sockets::own_address().unwrap_or(IpAddr::from([127, 0, 0, 1])).to_string()
}
