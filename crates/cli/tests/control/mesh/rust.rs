//! The Rust crate `tailscale` (dev/peer-rust): a client that has nothing in common with the Go one but the protocol.

use std::net::IpAddr;

use serde_json::json;
use stage::mesh::{CONTROL, Mesh, SETTLED, SOON, to};
use stage::netns::service::{Service, visit};
use stage::process::Process;
use stage::{becomes, eventually, peers};

/// A policy in which the server's own relay says not to look at its certificate: the crate cannot pin one yet.
fn policy(acls: &serde_json::Value) -> String {
    let node = json!({ "Name": "900a", "RegionID": 900, "HostName": CONTROL, "IPv4": CONTROL, "IPv6": "none",
                       "DERPPort": 8080, "STUNPort": 3478, "InsecureForTests": true });
    let region = json!({ "RegionID": 900, "RegionCode": "own", "RegionName": "Own", "Nodes": [node] });
    json!({ "derpMap": { "Regions": { "900": region } }, "acls": acls }).to_string()
}

#[test]
fn a_node_by_the_rust_crate_reaches_official_clients_and_is_reached() {
    let Some(program) = peers::need("peer-rust") else { return };
    let Some(mesh) = Mesh::new() else { return };
    let (open, shut) = (json!([{ "action": "accept", "src": ["*"], "dst": ["*:*"] }]), json!([]));
    mesh.control.policy(&policy(&open));
    let key = mesh.control.key("ann", &["--reusable"]);
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let service = Service::start(server.host(), to("[::]:80"));
    let target = format!("{}:80", server.v4());

    let host = mesh.world.host("rusty", "203.0.113.20");
    let mut command = host.command(program);
    command.args([mesh.control.url.as_str(), "rusty"]).arg(host.dir().join("keys.json")).arg(&target);
    command.env("PEER_KEY", &key).env("RUST_LOG", "info");
    let mut rust = Process::start("peer-rust", command);
    let joined = |l: &str| l.strip_prefix("joined ")?.split(' ').next()?.parse::<IpAddr>().ok();
    let addr = rust.line(SETTLED, joined).unwrap();
    assert_eq!(mesh.control.node("rusty").map(|n| n["ipv4"].clone()), Some(addr.to_string().into()));
    let seen = format!("{target} sees {addr}");
    rust.line(SETTLED, |l| (l == seen).then_some(())).unwrap();
    assert!(service.seen().contains(&addr));
    becomes(SETTLED, &Ok(server.v4()), || visit(server.host(), (addr, 80).into(), SOON));
    eventually(SETTLED, || server.peer("rusty").filter(|p| p["Online"] == true).ok_or(())).unwrap();

    // What the policy takes away ends for it as for others, and comes back.
    mesh.control.policy(&policy(&shut));
    becomes(SETTLED, &true, || visit(server.host(), (addr, 80).into(), SOON).is_err());
    let silent = format!("{target} ");
    rust.line(SETTLED, |l| (l.starts_with(&silent) && l != seen).then_some(())).unwrap();
    mesh.control.policy(&policy(&open));
    becomes(SETTLED, &Ok(server.v4()), || visit(server.host(), (addr, 80).into(), SOON));
    rust.line(SETTLED, |l| (l == seen).then_some(())).unwrap();
}
