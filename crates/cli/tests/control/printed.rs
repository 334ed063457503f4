//! What README and manual print is what works: each file of theirs starts, each policy is one. Recipes are found by
//! their names (`stage::pages`).

use stage::command::{Outcome, Server, command, run};
use stage::gate::{Gate, Serve};
use stage::{Dir, pages, wait_or};

/// A file of the manual as `serve` takes it: free ports in place of those that people know.
fn file_of_serve(name: &str) -> String {
    let mut file = pages::recipe(name).replace("[control]", "[control]\nstun = \"127.0.0.1:0\"");
    for port in ["8080", "7070", "5000"] {
        file = file.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    file
}

#[test]
fn files_of_serve_start() {
    let dir = Dir::new("printed");
    let s = Serve::start(dir.path(), &file_of_serve("phones-at-the-gate"), &["listening listener="]);
    // Nobody is in the group yet; that is said, once.
    wait_or(|| s.process.output().contains("stands for no node now"), || s.process.output());
    let made = s.ok(&["users", "create", "ada@example.com"]);
    assert!(made.contains("ada@example.com"), "{made}");
    assert!(s.ok(&["lists"]).contains("photos"));
}

#[test]
fn a_gate_and_an_edge_start_from_one_file() {
    let dir = Dir::new("printed-gate");
    dir.write("token.txt", "0123456789abcdef");
    let file = file_of_serve("gate-and-edge").replace("dns:home.example.net", "192.0.2.7");
    let file = format!("port = 0\ncontrol_port = 0\n{file}");
    let s = Serve::start(dir.path(), &file, &["visitors at once"]);
    assert!(s.ok(&["explain", "192.0.2.7", "--service", "data"]).contains("is allowed"));
}

/// What the manual's sections of a policy speak of.
const DEFINED: &str = r#"
    "groups": { "group:eng": ["ada@example.com"], "group:ops": ["ada@example.com"] },
    "hosts": { "partner": "203.0.113.80" },
    "postures": { "posture:mac": ["node:os == 'macos'"] },
    "tagOwners": { "tag:web": [], "tag:dev": [], "tag:conn": [], "tag:rec": [] },
"#;

#[test]
fn policies_are_policies() {
    let dir = Dir::new("printed-policy");
    let whole = ["saas-policy", "phones-policy"].map(|n| (n, pages::recipe(n)));
    let sections = ["policy-tests", "policy-ipsets", "policy-apps", "policy-ssh"];
    let sections = sections.map(|n| (n, format!("{{\n{DEFINED}{}}}", pages::recipe(n))));
    let printed = pages::blocks().iter().filter(|b| b.language == "jsonc").count();
    assert_eq!(printed, whole.len() + sections.len(), "a policy that nothing checks");
    for (name, policy) in whole.into_iter().chain(sections) {
        let file = dir.write(&format!("{name}.hujson"), policy);
        let checked = run(&["policy", "check", file.to_str().unwrap()]);
        assert_eq!(checked.code, 0, "{name}: {}", checked.all());
    }
}

/// A topology that `compile` takes.
#[test]
fn the_topology_is_one() {
    let dir = Dir::new("printed-topology");
    dir.write("policy.hujson", "{}");
    dir.write("nodes.json", pages::recipe("topology"));
    let mut compile = command(&["policy", "compile", "--policy", "policy.hujson", "--topology", "nodes.json"]);
    let compiled = Outcome::of(compile.current_dir(dir.path()));
    assert!(compiled.code == 0 && compiled.out.contains("100.64.0.1"), "{}", compiled.all());
}

/// Environments as Compose files print them: the gate starts with each.
#[test]
fn environments_of_the_gate_start() {
    for name in ["gatekeeper-compose", "share-scope", "share-paths", "cloudflare-gate", "immich-traefik"] {
        let text = pages::recipe(name);
        let variable = |l: &str| {
            let (key, value) = l.trim().trim_start_matches("- ").split_once('=')?;
            let upper = key.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            upper.then(|| (key.to_string(), value.to_string()))
        };
        let env: Vec<(String, String)> = text.lines().filter_map(variable).collect();
        assert!(!env.is_empty(), "{name} sets nothing:\n{text}");
        let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let dir = Dir::new("printed-env");
        let gate = Gate::start(dir.path(), &env, &[]);
        assert_eq!(gate.addrs.len(), 1, "{name}: {}", gate.process.output());
    }
}
