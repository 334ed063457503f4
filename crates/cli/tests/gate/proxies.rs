//! The gate beside the real nginx, HAProxy and Caddy, a command and a webhook: the right address gets in, the wrong
//! one does not, a revoked one is refused.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use stage::command::Server;
use stage::curl::Visitor;
use stage::gate::Gate;
use stage::process::Process;
use stage::proxies::nginx_by;
use stage::upstream::answering;
use stage::{Dir, peers, ports, wait, wait_or};

/// The status of a request that comes from an address of the loopback network.
fn from(source: &str, port: u16) -> u16 {
    Visitor::new(source, "localhost", port).plain("/", &[])
}

const ENV: [(&str, &str); 1] = [("LEARN_PRIVATE", "true")];

/// LearnedRoute, refused, revoked.
fn round(g: &Gate, port: u16) {
    assert_eq!(from("127.0.1.1", port), 403);
    g.mirror("127.0.1.1");
    wait("the learnt address gets in", || from("127.0.1.1", port) == 200);
    assert_eq!(from("127.0.1.2", port), 403);
    assert_eq!(g.command(&["grant", "revoke", "127.0.1.1"]).0, 0);
    wait("the revoked address does not", || from("127.0.1.1", port) == 403);
}

fn ready(port: u16, p: &Process) {
    wait_or(|| from("127.0.0.1", port) != 0, || p.output());
}

#[test]
fn nginx_by_its_geo_file_and_by_auth_request() {
    let (Some(nginx), Some(_)) = (peers::need("nginx"), peers::need("curl")) else { return };
    let dir = Dir::new("nginx");
    let (geo, ask) = (ports::free(), ports::free());
    let conf = dir.at("nginx.conf");
    let test = format!("{} -t -q -c {}", nginx.display(), conf.display());
    let reload = format!("{} -s reload -c {}", nginx.display(), conf.display());
    std::fs::write(dir.at("list.geo"), "").unwrap();
    let check = ports::free();
    let http = format!(
        "geo $gate {{ default 0; include {}; }}
  server {{ listen 127.0.0.1:{geo}; location / {{ if ($gate = 0) {{ return 403; }} return 200 in; }} }}
  server {{ listen 127.0.0.1:{ask};
    location = /_gate {{ internal; proxy_pass http://127.0.0.1:{check}/v1/check/dynamic-whitelist; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; proxy_set_header X-Forwarded-For $remote_addr; }}
    location / {{ auth_request /_gate; try_files /nothing @in; }}
    location @in {{ return 200 in; }} }}",
        dir.at("list.geo").display()
    );
    let p = Process::start("nginx", nginx_by(Command::new(&nginx), dir.path(), &http));
    ready(geo, &p);
    let g = Gate::start(
        dir.path(),
        &ENV,
        &[
            "--nginx-file",
            dir.at("list.geo").to_str().unwrap(),
            "--nginx-test",
            &test,
            "--nginx-reload",
            &reload,
            "--check-listen",
            &format!("127.0.0.1:{check}"),
        ],
    );
    round(&g, geo);
    round(&g, ask);
    // A configuration that nginx refuses: the file goes back, the old workers serve on, and it is said.
    let good = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, "nonsense;").unwrap();
    let before = std::fs::read(dir.at("list.geo")).unwrap();
    g.mirror("127.0.1.9");
    wait("it is said", || g.process.logged("nginx refuses its configuration").is_some());
    wait("the file goes back", || std::fs::read(dir.at("list.geo")).unwrap() == before);
    assert_eq!(from("127.0.1.2", geo), 403);
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("nginx"), "{said}");
    std::fs::write(&conf, good).unwrap();
    wait("it is tried again by itself", || from("127.0.1.9", geo) == 200);
}

#[test]
fn haproxy_by_its_runtime_socket_and_its_map_file() {
    let (Some(haproxy), Some(_)) = (peers::need("haproxy"), peers::need("curl")) else { return };
    let dir = Dir::new("haproxy");
    let (port, sock, map, conf) = (ports::free(), dir.at("h.sock"), dir.at("list.map"), dir.at("h.cfg"));
    std::fs::write(&map, "").unwrap();
    std::fs::write(
        &conf,
        format!(
            "global\n stats socket {} level admin\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind 127.0.0.1:{port}\n http-request deny deny_status 403 unless {{ src,map_ip({}) -m found }}\n http-request return status 200\n",
            sock.display(),
            map.display()
        ),
    )
    .unwrap();
    let start = || {
        let mut c = Command::new(&haproxy);
        c.arg("-f").arg(&conf).arg("-db");
        Process::start("haproxy", c)
    };
    let p = start();
    ready(port, &p);
    let g = Gate::start(
        dir.path(),
        &[("LEARN_PRIVATE", "true"), ("MAX_IP_LEN", "5000")],
        &["--haproxy-socket", sock.to_str().unwrap(), "--haproxy-map", map.to_str().unwrap()],
    );
    round(&g, port);
    // Thousands, far over the buffer of one command, and counted back.
    let text: String = (0..3_000).map(|n| format!("        - \"198.18.{}.{}\"\n", n / 250, n % 250)).collect();
    drop(g);
    let bulk = Dir::new("haproxybulk");
    std::fs::write(
        bulk.at("dynamic-whitelist.yml"),
        format!("http:\n  middlewares:\n    dynamic-whitelist:\n      ipAllowList:\n        sourceRange:\n{text}"),
    )
    .unwrap();
    let g = Gate::start(
        bulk.path(),
        &[("LEARN_PRIVATE", "true"), ("MAX_IP_LEN", "5000")],
        &["--haproxy-socket", sock.to_str().unwrap(), "--haproxy-map", map.to_str().unwrap()],
    );
    g.mirror("127.0.1.1");
    wait_or(|| from("127.0.1.1", port) == 200, || g.process.output());
    assert_eq!(from("127.0.1.2", port), 403);
    // HAProxy starts anew from the map file, which follows a long list shortly after.
    wait_or(|| std::fs::read_to_string(&map).is_ok_and(|m| m.contains("127.0.1.1 ")), || g.process.output());
    drop(p);
    let p = start();
    ready(port, &p);
    assert_eq!(from("127.0.1.1", port), 200);
    assert!(g.command(&["doctor"]).1.contains("nothing wrong"), "{}", g.command(&["doctor"]).1);
}

#[test]
fn caddy_by_forward_auth_and_by_its_admin_api() {
    let (Some(caddy), Some(_)) = (peers::need("caddy"), peers::need("curl")) else { return };
    let dir = Dir::new("caddy");
    let (ask, ranges, admin, check) = (ports::free(), ports::free(), ports::free(), ports::free());
    let conf = dir.at("caddy.json");
    let auth = |at: u16| {
        serde_json::json!({ "handler": "reverse_proxy", "rewrite": { "method": "GET", "uri": "/v1/check/dynamic-whitelist" },
            "upstreams": [{ "dial": format!("127.0.0.1:{at}") }],
            "handle_response": [{ "match": { "status_code": [2] }, "routes": [{ "handle": [{ "handler": "headers" }] }] }] })
    };
    let ok = serde_json::json!({ "handler": "static_response", "status_code": 200 });
    let config = serde_json::json!({
        "admin": { "listen": format!("127.0.0.1:{admin}") },
        "apps": { "http": { "servers": {
            "ask": { "listen": [format!("127.0.0.1:{ask}")], "automatic_https": { "disable": true }, "routes": [{ "handle": [auth(check), ok] }] },
            "ranges": { "listen": [format!("127.0.0.1:{ranges}")], "automatic_https": { "disable": true }, "routes": [
                { "match": [{ "@id": "gate", "remote_ip": { "ranges": ["255.255.255.255/32"] } }], "handle": [ok] },
                { "handle": [{ "handler": "static_response", "status_code": 403 }] }] }
        } } }
    });
    std::fs::write(&conf, config.to_string()).unwrap();
    let p = Process::start("caddy", {
        let mut c = Command::new(&caddy);
        c.args(["run", "--config"]).arg(&conf);
        c.env("HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path()).env("XDG_DATA_HOME", dir.path());
        c
    });
    ready(ranges, &p);
    let g = Gate::start(
        dir.path(),
        &ENV,
        &[
            "--check-listen",
            &format!("127.0.0.1:{check}"),
            "--caddy-api",
            &format!("http://127.0.0.1:{admin}/id/gate/remote_ip/ranges"),
        ],
    );
    round(&g, ask);
    round(&g, ranges);
}

#[test]
fn any_program_and_any_service_get_the_whole_list_and_are_tried_again() {
    let dir = Dir::new("hooks");
    let tool = dir.at("tool.sh");
    std::fs::write(&tool, format!("#!/bin/sh\ntest -e {0}/broken && exit 3\ncat > {0}/got\n", dir.path().display()))
        .unwrap();
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let posts: Arc<Mutex<u32>> = Arc::default();
    let count = posts.clone();
    let hook: SocketAddr = answering(move |head| {
        if !head.starts_with("POST /hook ") {
            return (400, String::new());
        }
        *count.lock().unwrap() += 1;
        // The first one fails: it is sent again.
        (if *count.lock().unwrap() == 1 { 500 } else { 204 }, String::new())
    });
    let g =
        Gate::start(dir.path(), &[], &["--exec", tool.to_str().unwrap(), "--webhook", &format!("http://{hook}/hook")]);
    let got = || std::fs::read_to_string(dir.at("got")).unwrap_or_default();
    wait("the first list arrives", || got() == "255.255.255.255\n");
    wait("the webhook is tried again", || *posts.lock().unwrap() >= 2);
    std::fs::write(dir.at("broken"), "").unwrap();
    g.mirror("198.51.100.2");
    g.mirror("198.51.100.3");
    wait("it is said", || g.process.logged("ended with exit status: 3").is_some());
    std::fs::remove_file(dir.at("broken")).unwrap();
    wait("neighbours arrive as one prefix", || got() == "198.51.100.2/31\n");
}
