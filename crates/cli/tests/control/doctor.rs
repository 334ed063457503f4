//! `portcullis doctor` for a coordination server. In: servers with a fault each. Out: its finding and the exit code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stage::command::{Outcome, Server, command};
use stage::control::Control;
use stage::process::Process;
use stage::upstream::answering;
use stage::{Dir, START, eventually, ports};

fn findings(out: &str) -> Vec<[String; 3]> {
    let said: Value = serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let word = |f: &Value, key: &str| f[key].as_str().unwrap().to_string();
    let each = said["found"].as_array().unwrap().iter();
    each.map(|f| [word(f, "part"), word(f, "id"), word(f, "severity")]).collect()
}

fn one(found: [&str; 3]) -> Vec<[String; 3]> {
    vec![found.map(str::to_string)]
}

#[test]
fn a_server_asks_itself_as_clients_do() {
    let control = Control::start(&[]);
    let policy = ["control", "policy", "warning"];
    assert_eq!(findings(&control.ok(&["doctor", "--json"])), one(policy));

    // Its URL leads to another server, or nowhere, or to something else.
    let page = answering(|_| (200, "a page".to_string()));
    for url in [control.url.clone(), format!("http://127.0.0.1:{}", ports::free()), format!("http://{page}")] {
        let dir = Dir::new("doctor-url");
        let (_process, config) = serve(&dir, &url, ports::local(ports::free()), "");
        let done = eventually(START, || {
            let done = doctor(&config);
            if done.out.contains("server-url") { Ok(done) } else { Err(done) }
        });
        let done = done.unwrap_or_else(|done| panic!("{url}: {done:?}"));
        assert_eq!(
            (done.code, findings(&done.out)[0].clone()),
            (1, ["control", "server-url", "error"].map(str::to_string))
        );
    }
}

/// A server by its file.
fn serve(dir: &Dir, url: &str, listen: SocketAddr, more: &str) -> (Process, PathBuf) {
    let text = format!(
        "data_dir = \"state\"\n[control]\nserver_url = \"{url}\"\nlisten = [\"{listen}\"]\nstun = \"off\"\n{more}"
    );
    let config = dir.write("server.toml", text);
    let mut serve = command(&["serve", "--config"]);
    serve.arg(&config);
    (Process::start("serve", serve), config)
}

fn doctor(config: &Path) -> Outcome {
    Outcome::of(command(&["doctor", "--json", "--config"]).arg(config))
}

#[test]
fn a_list_that_takes_in_nobody_is_named() {
    let dir = Dir::new("doctor-teach");
    let (gate, control) = (ports::local(ports::free()), ports::local(ports::free()));
    let more = format!(
        "[[control.teach]]\nlist = \"family\"\nnodes = [\"group:nobody\"]\n[lists.family]\n[gate]\nlisten = \"{gate}\"\n"
    );
    let (process, config) = serve(&dir, &format!("http://{control}"), control, &more);
    let looked = eventually(START, || {
        let done = doctor(&config);
        if done.out.contains("group:nobody") { Ok(done) } else { Err(done) }
    });
    let done = looked.unwrap_or_else(|done| panic!("{done:?}\n{}", process.output()));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(findings(&done.out).contains(&["control", "teach", "warning"].map(str::to_string)), "{done:?}");
}
