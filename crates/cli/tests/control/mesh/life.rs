//! A node's life: how it joins and how it may not, by which name it goes, and how it leaves.

use std::io::{Read, Write};
use std::time::Duration;

use stage::command::Server;
use stage::mesh::{CONTROL, Mesh, SETTLED, SOON, to};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::Tailscaled;
use stage::{START, becomes, eventually};

#[test]
fn keys_that_may_not_be_used_are_refused_with_a_reason() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let once = control.key("ann", &[]);
    let short = control.key("ann", &["--expiry", "1s"]);
    let _first = mesh.member("first", "203.0.113.20", &once, &[]);
    let second = Tailscaled::start(&mesh.world.host("second", "203.0.113.21"));
    std::thread::sleep(Duration::from_secs(2));
    for key in [once.as_str(), short.as_str(), "tskey-that-nobody-made"] {
        let refused = second.up(&control.url, &[&format!("--auth-key={key}"), "--timeout=10s"]).unwrap_err();
        let words: String = refused.lines().take(3).collect();
        assert!(words.contains("key"), "{refused}");
        assert_ne!(second.state(), "Running");
    }
    assert_eq!(control.json(&["nodes", "list"])["nodes"].as_array().map(Vec::len), Some(1));
    // A key with tags: the node belongs to its tags.
    let tagged = control.key("ann", &["--tags", "tag:server,tag:db"]);
    let third = mesh.member("third", "203.0.113.22", &tagged, &[]);
    let mut tags: Vec<String> = serde_json::from_value(third.status()["Self"]["Tags"].clone()).unwrap();
    tags.sort();
    assert_eq!(tags, ["tag:db", "tag:server"]);
}

#[test]
fn a_person_approves_a_node_by_the_command_that_its_page_shows() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    control.user("ann");
    let laptop = Tailscaled::start(&mesh.world.host("laptop", "203.0.113.20"));
    let mut up = laptop.up_interactive(&control.url, &[]);
    let find = |l: &str| {
        l.split_whitespace().find(|w| w.starts_with(&format!("http://{CONTROL}:8080/"))).map(ToString::to_string)
    };
    let url = up.line(START, find).unwrap();
    let path = url.strip_prefix(&format!("http://{CONTROL}:8080")).unwrap();
    let page = {
        let mut s = laptop.host().connect(to(&format!("{CONTROL}:8080")), SOON).unwrap();
        write!(s, "GET {path} HTTP/1.1\r\nHost: {CONTROL}:8080\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        s.read_to_string(&mut text).unwrap();
        text
    };
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(control.node("laptop").is_none(), "nobody has let it in yet");
    let command = page.split(['<', '>', '\n']).map(str::trim).find(|l| l.starts_with("portcullis nodes approve"));
    let command = command.unwrap_or_else(|| panic!("no command in the page:\n{page}"));
    let words: Vec<&str> = command.split_whitespace().skip(1).map(|w| if w == "NAME" { "ann" } else { w }).collect();
    control.ok(&words);
    up.wait(SETTLED).unwrap();
    laptop.wait(SETTLED, |s| s["BackendState"] == "Running").unwrap();
    assert!(control.node("laptop").is_some());
}

#[test]
fn logout_expiry_and_deletion_end_it_and_a_new_key_brings_it_back() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let laptop = mesh.member("laptop", "203.0.113.20", &key, &[]);
    let service = Service::start(server.host(), to("[::]:80"));
    let target = (server.v4(), 80).into();
    let reach = || visit(laptop.host(), target, Duration::from_millis(400));
    let own = laptop.v4();
    becomes(SETTLED, &Ok(own), reach);

    laptop.cli(&["logout"]).unwrap();
    assert_eq!(laptop.state(), "NeedsLogin");
    becomes(Duration::from_secs(5), &true, || reach().is_err());
    mesh.join(&laptop, &key, &[]);
    assert_eq!(laptop.v4(), own, "the same machine of the same user has its address again");
    becomes(SETTLED, &Ok(own), reach);

    control.ok(&["nodes", "expire", "laptop"]);
    becomes(Duration::from_secs(5), &true, || reach().is_err());
    laptop.wait(SETTLED, |s| s["BackendState"] == "NeedsLogin").unwrap();
    mesh.join(&laptop, &key, &["--force-reauth"]);
    becomes(SETTLED, &Ok(laptop.v4()), reach);

    control.ok(&["nodes", "delete", "laptop"]);
    becomes(Duration::from_secs(5), &true, || reach().is_err());
    assert!(control.node("laptop").is_none());
    server.wait(SETTLED, |s| s["Peer"].as_object().is_none_or(serde_json::Map::is_empty)).unwrap();
    laptop.wait(SETTLED, |s| s["BackendState"] == "NeedsLogin").unwrap();
    mesh.join(&laptop, &key, &["--force-reauth"]);
    becomes(SETTLED, &Ok(laptop.v4()), reach);
    drop(service);
}

#[test]
fn an_ephemeral_node_is_forgotten_when_it_goes() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let stays = mesh.member("stays", "203.0.113.20", &control.key("ann", &[]), &[]);
    let goes = mesh.member("goes", "203.0.113.21", &control.key("ann", &["--ephemeral"]), &[]);
    stays.wait(SETTLED, |s| s["Peer"].as_object().is_some_and(|p| p.len() == 1)).unwrap();
    goes.cli(&["logout"]).unwrap();
    becomes(SETTLED, &true, || control.node("goes").is_none());
    stays.wait(SETTLED, |s| s["Peer"].as_object().is_none_or(serde_json::Map::is_empty)).unwrap();
    assert!(control.node("stays").is_some());
}

#[test]
fn a_new_name_and_new_tags_are_with_everybody() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let laptop = mesh.member("laptop", "203.0.113.20", &key, &[]);
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let name = || laptop.status()["Peer"].as_object().and_then(|p| p.values().next().map(|p| p["DNSName"].clone()));
    eventually(SETTLED, || name().filter(|n| n.as_str().is_some_and(|n| n.starts_with("server."))).ok_or(())).unwrap();
    control.ok(&["nodes", "rename", "server", "db"]);
    eventually(SETTLED, || name().filter(|n| n.as_str().is_some_and(|n| n.starts_with("db."))).ok_or_else(name))
        .unwrap();
    control.ok(&["nodes", "tag", "db", "tag:db"]);
    server.wait(SETTLED, |s| s["Self"]["Tags"] == serde_json::json!(["tag:db"])).unwrap();
    // Two hosts of one name are told apart.
    let twin = Tailscaled::start(&mesh.world.host("twin", "203.0.113.22"));
    mesh.join(&twin, &key, &["--hostname=laptop"]);
    assert!(
        control.node("laptop").is_some() && control.node("laptop-1").is_some(),
        "{}",
        control.ok(&["nodes", "list"])
    );
}
