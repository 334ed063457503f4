//! The tunnel's two ends. In: what was typed. Out: an edge (and what else its file asks for) or a client, until it is told
//! to stop; and what the person needs for the other machine.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use runtime::run::Run;
use server::Config;
use tunnel::client as client_end;
use tunnel::edge::EdgeHandle;
use tunnel::settings::EdgeTls;
use tunnel_proto::connect::{ConnectString, EdgeUrl, TokenPlace};

use crate::args::{EdgeArgs, Given, GlobalArgs};
use crate::fail::{Done, Fail};
use crate::resolve::{self, ClientPlan, Kind};
use crate::{run, say};

/// Runs an edge, and what else its file asks for, until they are told to stop. `greet_mesh`: what is said where a
/// coordination server runs beside it.
pub(crate) async fn edge(
    kind: Kind,
    args: EdgeArgs,
    global: GlobalArgs,
    file: Option<resolve::file::Read>,
    given: Given,
    greet_mesh: fn(&control::Control),
) -> Done {
    let first = resolve::edge(kind, &args, &global, file.as_ref(), &given).inspect_err(|_| {
        if kind == Kind::Serve {
            run::give_up(&global);
        }
    })?;
    let (path, token_place) = (file.map(|r| r.path), first.token_place);
    let tls = first.config.tunnel.as_ref().map(|t| t.tls.clone());
    let running = first.config.data_dir.clone();
    let again = move || {
        let file = path.as_deref().map(resolve::file::read).transpose()?;
        let config = |global: &GlobalArgs| {
            resolve::edge(kind, &args, global, file.as_ref(), &given).map(|p| p.config).map_err(Fail::into_error)
        };
        let wanted = config(&global)?;
        if wanted.data_dir == running {
            return Ok(wanted);
        }
        // State moves at a restart, and so does what lies beside it, such as the CA that clients have pinned.
        let here = config(&GlobalArgs { data_dir: Some(running.clone()), ..global.clone() })?;
        Ok(Config { data_dir: wanted.data_dir, ..here })
    };
    run::server(first.config, Some(Arc::new(again)), |supervisor| {
        if let Some(control) = supervisor.control() {
            greet_mesh(control);
        }
        if let Some((edge, tls)) = supervisor.edge().zip(tls) {
            say_where(edge, &tls, token_place.as_ref());
        }
    })
    .await
}

/// Runs a client until it is told to stop or its token is refused.
pub(crate) async fn client(plan: ClientPlan) -> Done {
    let run = Run::new(plan.drain);
    run.follow_signals()?;
    client_end::start(plan.settings, &run).await?;
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
