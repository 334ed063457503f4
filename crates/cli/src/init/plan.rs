//! What a set-up consists of. In: answers and what was found out. Out: the texts of its files, what the proxy in front is
//! told, what the person does next.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use control::ServerUrl;
use tunnel_proto::connect::EdgeUrl;

use super::ask::{Answers, word};
use super::manual::{self, CLIENTS_IN_FRONT, Ports};
use super::{facts, places};
use crate::args::init::{Front, Purpose};

/// The list of a gate that `init` makes.
pub(super) const LIST: &str = "family";

/// A server's files and what belongs to them.
#[derive(Debug)]
pub(super) struct Server {
    /// The configuration.
    pub(super) config: String,
    /// It has an edge, which needs a token; this is where clients connect.
    pub(super) edge: Option<EdgeUrl>,
    /// The edge makes its certificate itself, for this port.
    pub(super) own_ca: Option<u16>,
    /// For the proxy in front.
    pub(super) snippet: String,
    /// How a device joins.
    pub(super) server_url: Option<ServerUrl>,
    /// What a person should know besides.
    pub(super) notes: Vec<String>,
}

/// Puts a server together.
pub(super) fn server(a: &Answers) -> Option<Server> {
    let Answers::Server { purposes, name, allow, proxy, guard, store } = a else { return None };
    let mut notes = Vec::new();
    let ports = ports(purposes, store, &mut notes);
    let fronted = *proxy != Front::None;
    let is = |p: Purpose| purposes.contains(&p);
    let mut out = Server {
        config: head(purposes, *proxy, store),
        edge: None,
        own_ca: None,
        snippet: String::new(),
        server_url: None,
        notes,
    };
    if is(Purpose::Edge) {
        let lists = if is(Purpose::Gate) { vec![format!("list:{LIST}")] } else { allow.clone() };
        out.config.push_str(&edge(name, &lists, fronted, ports));
        out.snippet.push_str(&manual::edge(*proxy, name, ports));
        let port = if fronted { CLIENTS_IN_FRONT } else { ports.clients };
        out.edge = Some(EdgeUrl { tls: true, host: name.clone(), port, path: String::new() });
        out.own_ca = (!fronted).then_some(ports.clients);
    }
    if is(Purpose::Gate) {
        out.config.push_str(&gate(allow, *proxy, guard, ports.gate));
        // With an edge the proxy is in front of that, and the edge asks the list itself.
        if !is(Purpose::Edge) {
            out.snippet.push_str(&manual::gate(*proxy, LIST, ports.gate));
        }
        if *proxy == Front::Haproxy && !is(Purpose::Edge) {
            out.notes.push(format!("HAProxy starts only if its map is there: touch /etc/haproxy/{LIST}.map"));
        }
        if *proxy == Front::None && guard.is_empty() && !is(Purpose::Edge) {
            out.notes.push(
                "nothing asks this gate yet: `--guard PORTS` lets it close ports of this machine, `--proxy` a site behind a proxy"
                    .to_string(),
            );
        }
    }
    if is(Purpose::Control) {
        let url = ServerUrl { tls: fronted, host: name.clone(), port: if fronted { 443 } else { ports.control } };
        out.config.push_str(&control(&url, fronted, ports.control, &mut out.notes));
        out.snippet.push_str(&manual::control(*proxy, name, ports));
        out.server_url = Some(url);
    }
    Some(out)
}

/// The usual ports, or the next ones that are free.
fn ports(purposes: &BTreeSet<Purpose>, store: &Path, notes: &mut Vec<String>) -> Ports {
    let running = facts::runs(store);
    let mut one = |wanted: bool, usual: u16, what: &str| {
        let port = if wanted && !running { facts::free_port(usual) } else { usual };
        if port != usual {
            notes.push(format!("port {usual} is taken: {what} get {port}"));
        }
        port
    };
    let is = |p: Purpose| purposes.contains(&p);
    Ports {
        visitors: one(is(Purpose::Edge), 8000, "visitors"),
        clients: one(is(Purpose::Edge), 8123, "clients"),
        gate: one(is(Purpose::Gate), 7070, "questions of proxies"),
        control: one(is(Purpose::Control), 8080, "nodes"),
    }
}

fn head(purposes: &BTreeSet<Purpose>, proxy: Front, store: &Path) -> String {
    let what: Vec<String> = purposes.iter().map(|p| word(*p)).collect();
    let behind = if proxy == Front::None { String::new() } else { format!(" --proxy {}", word(proxy)) };
    let mut out = format!(
        "# Made by `portcullis init --for {}{behind}`. Every key is explained in the manual: edge.toml, gate.toml, control.toml.\n\
         # Lists, tokens and limits change while it runs: within a second of a change of this file.\n",
        what.join(",")
    );
    let usual = crate::resolve::data_dir(None).ok();
    if usual.as_deref() != Some(store) {
        let _ = writeln!(out, "data_dir = {}", quoted(&store.display().to_string()));
    }
    out
}

fn edge(name: &str, allow: &[String], fronted: bool, ports: Ports) -> String {
    let mut out = format!(
        "\n# The edge. Clients prove themselves by this token.\nport = {}\ncontrol_port = {}\ntoken_file = \"{}\"\n",
        ports.visitors,
        ports.clients,
        places::TOKEN
    );
    if fronted {
        out.push_str(
            "# The proxy in front has the certificate, and names visitors in X-Forwarded-For.\n\
             data_addr = \"127.0.0.1\"\ncontrol_addr = \"127.0.0.1\"\nauto_tls = false\ntrusted_proxies = [\"127.0.0.1\", \"::1\"]\n",
        );
    } else {
        let _ = writeln!(out, "auto_tls_san = [{}]", quoted(name));
    }
    let _ = writeln!(out, "# Clients come from anywhere with the token; visitors from here:");
    let _ = writeln!(out, "allow_ips_control = [\"all\"]\nallow_ips_data = {}", list(allow));
    out.push_str("# TCP ports that clients may open besides, such as \"2222,5432\".\n# allow_ports = \"2222\"\n");
    out
}

fn gate(allow: &[String], proxy: Front, guard: &[String], port: u16) -> String {
    let mut out = format!("\n# Who is on this list may come in: these always, others by proof.\n[lists.{LIST}]\n");
    match allow {
        [none] if none.eq_ignore_ascii_case("none") => out.push_str("# static = [\"198.51.100.7\"]\n"),
        some => {
            let _ = writeln!(out, "static = {}", list(some));
        }
    }
    let _ = writeln!(out, "\n[gate]\nlisten = \"127.0.0.1:{port}\"\ntrusted_proxies = [\"127.0.0.1\", \"::1\"]");
    if proxy == Front::Haproxy {
        let _ = writeln!(
            out,
            "\n[[gate.haproxy]]\nlist = \"{LIST}\"\nsocket = \"/run/haproxy/admin.sock\"\nmap = \"/etc/haproxy/{LIST}.map\""
        );
    }
    if !guard.is_empty() {
        let _ = writeln!(
            out,
            "\n# Only the list reaches these ports of this machine.\n[[gate.nftables]]\nlist = \"{LIST}\"\nports = {}",
            list(guard)
        );
    }
    out
}

fn control(url: &ServerUrl, fronted: bool, port: u16, notes: &mut Vec<String>) -> String {
    let listen = if fronted { format!("127.0.0.1:{port}") } else { format!("0.0.0.0:{port}") };
    let mut out = format!(
        "\n# The coordination server. Clients: tailscale up --login-server {url}\n[control]\nserver_url = \"{url}\"\nlisten = [\"{listen}\"]\n"
    );
    /// Where clients expect STUN (RFC 5389, section 18.4).
    const STUN: u16 = 3478;
    if facts::udp_taken(STUN) {
        notes.push(format!("UDP port {STUN} is taken: nodes get no STUN from this server"));
        out.push_str("stun = \"off\"\n");
    }
    if fronted {
        out.push_str("trusted_proxies = [\"127.0.0.1\", \"::1\"]\n");
    }
    out
}

/// The variables of a client.
pub(super) fn client(connect: &str, upstream: &[String], token: &Path) -> String {
    format!(
        "# Made by `portcullis init --for client`: what `portcullis http client` and `tcp client` read.\n\
         PORTCULLIS_CONNECT='{connect}'\nPORTCULLIS_TOKEN_FILE='{}'\nPORTCULLIS_UPSTREAM='{}'\n",
        token.display(),
        upstream.join(",")
    )
}

/// True if this name leads nowhere but to this machine.
pub(super) fn is_local(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

fn list(entries: &[String]) -> String {
    let all: Vec<String> = entries.iter().map(|e| quoted(e)).collect();
    format!("[{}]", all.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// The place of the token in a configuration's folder.
pub(super) fn token(dir: &Path) -> PathBuf {
    dir.join(places::TOKEN)
}
