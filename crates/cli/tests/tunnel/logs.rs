//! The log as JSON: each line is an object whose fields say who and why; at DEBUG a connection has a number, by which the
//! lines that belong together are found.

use std::io::Read;
use std::net::Ipv4Addr;

use serde_json::Value;
use stage::edge::{Edge, Mode, wait_echo};
use stage::upstream::Upstream;
use stage::{START, http, ports};

/// Lines of the log that are objects; others are what the program says to people.
fn objects(log: &str) -> Vec<Value> {
    log.lines().filter_map(|l| serde_json::from_str(l).ok()).filter(Value::is_object).collect()
}

fn has(event: &Value, message: &str) -> bool {
    event["message"] == message
}

#[test]
fn json_lines_carry_fields_and_a_connection_has_a_number() {
    let _turn = stage::shared();
    let echo = Upstream::echo();
    let port = ports::free();
    let rules = ["--allow-ips-data", "127.0.0.1", "--log-format", "json", "--debug"];
    let mut edge = Edge::start(Mode::Tcp, false, &rules);
    let _client = edge.client(&["--upstream", &format!("{port}=127.0.0.1:{}", echo.port())]);
    wait_echo(ports::local(port)).unwrap();
    let mut refused = http::tcp_from(Ipv4Addr::new(127, 0, 0, 8), ports::local(port)).unwrap();
    assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
    let mut half = http::tcp_from(Ipv4Addr::new(127, 0, 0, 9), edge.control).unwrap();
    std::io::Write::write_all(&mut half, b"hello?\r\n\r\n").unwrap();
    let _ = half.read(&mut [0; 512]);

    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let events = stage::eventually(START, || {
        let events = objects(&edge.process.output());
        let wanted = ["listening", "client connected", "connection refused", "connection failed"];
        if wanted.iter().all(|w| events.iter().any(|e| has(e, w))) { Ok(events) } else { Err(()) }
    });
    let events = events.unwrap_or_else(|()| panic!("{}", edge.process.output()));
    let find = |message: &str| events.iter().find(|e| has(e, message)).unwrap();

    let listening = find("listening");
    assert!(text(&listening["addr"]).ends_with(&format!(":{port}")), "{listening}");
    let client = find("client connected");
    assert!(text(&client["upstreams"]).contains(&echo.port().to_string()), "{client}");
    assert!(text(&client["peer"]).starts_with("127.0.0.1") && client["client"].is_string(), "{client}");
    let refused = find("connection refused");
    assert_eq!(refused["level"], "INFO");
    assert!(text(&refused["peer"]).starts_with("127.0.0.8:"), "{refused}");
    assert!(text(&refused["why"]).contains("127.0.0.8"), "{refused}");
    let failed = find("connection failed");
    assert_eq!((failed["level"].as_str(), failed["span"]["name"].as_str()), (Some("DEBUG"), Some("connection")));
    assert!(failed["span"]["id"].as_u64().is_some_and(|id| id > 0), "{failed}");
    assert!(text(&failed["span"]["peer"]).starts_with("127.0.0.9:"), "{failed}");
}
