//! `portcullis init`: by flags, by lines of a script, by a person at a terminal. In: answers, good and bad. Out: files that
//! the program starts from, and a doctor that finds no error.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use stage::command::{Outcome, answers, binary, command, plain};
use stage::process::Process;
use stage::upstream::answering;
use stage::{Dir, START, eventually, http, pages, peers, ports};

/// `portcullis init` with a folder of its own for everything.
fn init(dir: &Dir, args: &[&str]) -> Outcome {
    Outcome::of(command(&["init"]).args(args).args(places(dir)))
}

fn places(dir: &Dir) -> Vec<String> {
    let at = |name: &str| dir.at(name).display().to_string();
    ["--dir", &at("etc"), "--store", &at("state"), "--unit", "none"].map(str::to_string).to_vec()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Other tests have the usual ports too: the file's are replaced by free ones.
fn free_ports(dir: &Dir, keys: &[&str]) -> Vec<u16> {
    let file = dir.at("etc/edge.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    let mut found = Vec::new();
    for key in keys {
        let port = ports::free();
        let line =
            text.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("{key}:\n{text}"));
        let digits: Vec<&str> = line.split(|c: char| !c.is_ascii_digit()).filter(|d| d.len() >= 4).collect();
        text = text.replace(line, &line.replace(digits.last().unwrap(), &port.to_string()));
        found.push(port);
    }
    std::fs::write(&file, text).unwrap();
    found
}

#[test]
fn an_edge_and_its_client_work_as_they_were_set_up() {
    let dir = Dir::new("init-edge");
    let done =
        init(&dir, &["--for", "edge", "--name", "127.0.0.1", "--allow", "127.0.0.1", "--proxy", "none", "--yes"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let (config, token) = (dir.at("etc/edge.toml"), dir.at("etc/token"));
    assert_eq!(mode(&token), 0o600);
    assert!(matches!(mode(&config), 0o640 | 0o644));
    let secret = std::fs::read_to_string(&token).unwrap();
    assert!(secret.trim().len() >= 32 && !done.out.contains(secret.trim()), "the token is shown to nobody");
    let connect = done.out.lines().find_map(|l| l.strip_prefix("connect string: ")).unwrap().to_string();
    assert!(connect.contains("#sha256:") && connect.ends_with(",token-file=token"), "{connect}");
    let said = Outcome::of(command(&["serve", "--check", "--config"]).arg(&config));
    assert_eq!((said.code, said.out.trim().ends_with("is good")), (0, true), "{said:?}");

    // A second time nothing is touched, and nothing is lost when it is meant.
    let before = std::fs::read_to_string(&config).unwrap();
    let again = init(&dir, &["--for", "edge", "--yes"]);
    assert!(
        again.code == 1 && again.err.contains("is there already") && again.err.contains("--force"),
        "{}",
        again.err
    );
    let args = ["--for", "edge", "--name", "127.0.0.1", "--allow", "127.0.0.1", "--proxy", "none", "--yes", "--force"];
    let forced = init(&dir, &args);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert_eq!(std::fs::read_to_string(dir.at("etc/edge.toml.old")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(&token).unwrap(), secret, "clients know it");
    assert!(forced.out.contains(&connect), "its CA stays as well: {}", forced.out);

    let found = free_ports(&dir, &["port", "control_port"]);
    let (visitors, clients) = (ports::local(found[0]), found[1]);
    let mut serve = command(&["serve", "--config"]);
    serve.arg(&config);
    let edge = Process::start("edge", serve);
    let up = eventually(START, || std::net::TcpStream::connect(visitors).map(drop));
    assert!(up.is_ok(), "{}", edge.output());

    let upstream = answering(|_| (200, "hello from inside".to_string()));
    // The CA's certificate does not name a port: the pin is for the CA that was made for the usual one.
    let usual = std::fs::read_dir(dir.at("state")).unwrap().flatten().find(|e| e.file_name() == "tls-8123");
    assert!(usual.is_some(), "made at once, so that clients can be told");
    let connect = edge_says(&edge, &connect, clients);
    let other = Dir::new("init-client");
    let target = format!("http://{upstream}");
    let token_file = token.display().to_string();
    let args = ["--for", "client", "--connect", &connect, "--token-file", &token_file, "--upstream", &target, "--yes"];
    let done = Outcome::of(command(&["init"]).args(args).args(["--unit", "none", "--dir"]).arg(other.at("etc")));
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(mode(&other.at("etc/client.env")), 0o600);
    let look = ["doctor", "--connect", &connect, "--token-file", &token_file, "--upstream", &target];
    let before = Outcome::of(&mut command(&look));
    assert_eq!(before.code, 0, "{}", before.out);

    // As the line that it printed does.
    let mut shell = Command::new("sh");
    plain(&mut shell);
    let line = format!("set -a; . {}; exec {} http client", other.at("etc/client.env").display(), binary());
    shell.args(["-c", &line]);
    let client = Process::start("client", shell);
    let page = eventually(START, || match http::request(visitors, "GET", "/", &[]) {
        (200, page) if page.contains("hello from inside") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(page, Ok(()), "{}\n{}", edge.output(), client.output());
    let after = Outcome::of(&mut command(&look));
    assert_eq!((after.code, after.out.trim()), (0, "nothing wrong was found"), "{}", after.err);
    let edge_doctor = Outcome::of(command(&["doctor", "--config"]).arg(&config));
    assert_eq!(edge_doctor.code, 0, "{}", edge_doctor.out);
}

/// The connect string with the port that the test chose, and the CA that the edge made for it.
fn edge_says(edge: &Process, connect: &str, port: u16) -> String {
    let pin = eventually(START, || {
        let said = edge.output();
        said.lines().find_map(|l| l.strip_prefix("ca fingerprint: ")).map(str::to_string).ok_or(said)
    })
    .unwrap();
    let (url, _) = connect.split_once('#').unwrap();
    format!("{}#{pin}", url.replace(":8123", &format!(":{port}")))
}

#[test]
fn a_gate_and_a_coordination_server_start_and_their_doctors_find_no_error() {
    let dir = Dir::new("init-both");
    let args = ["--for", "gate,control", "--name", "127.0.0.1", "--allow", "198.51.100.7", "--proxy", "none", "--yes"];
    let done = init(&dir, &args);
    assert_eq!(done.code, 0, "{}", done.err);
    let config = dir.at("etc/edge.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (gate, control) = (ports::local(ports::free()), ports::local(ports::free()));
    let own = |text: &str, begin: &str, to: &str| {
        let line = text.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("{begin}:\n{text}"));
        text.replace(line, to)
    };
    let text = own(&text, "listen = \"", &format!("listen = \"{gate}\""));
    let text = own(&text, "listen = [", &format!("listen = [\"{control}\"]"));
    let text = own(&text, "server_url", &format!("server_url = \"http://{control}\""));
    let text = if text.contains("stun = ") { text } else { text + "stun = \"off\"\n" };
    std::fs::write(&config, &text).unwrap();
    let mut serve = command(&["serve", "--config"]);
    serve.arg(&config);
    let process = Process::start("serve", serve);
    let asks = |who: &str| http::request(gate, "GET", "/v1/check/family", &[("X-Forwarded-For", who)]).0;
    let up = eventually(START, || std::net::TcpStream::connect(gate).map(drop));
    assert!(up.is_ok(), "{}\n{text}", process.output());
    let taken = eventually(START, || answers(&dir.at("state")).then_some(()).ok_or(()));
    assert!(taken.is_ok(), "{}", process.output());
    assert_eq!(asks("198.51.100.7"), 200);
    assert_eq!(asks("198.51.100.8"), 403);
    let doctor = Outcome::of(command(&["doctor", "--json", "--config"]).arg(&config));
    let said: Value = serde_json::from_str(&doctor.out).unwrap();
    assert_eq!(doctor.code, 0, "{said}");
    let kinds: Vec<(&str, &str)> = said["found"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["id"].as_str().unwrap(), f["severity"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [("policy", "warning")], "{said}");
}

#[test]
fn what_stands_in_front_is_told_with_the_manuals_words() {
    let dir = Dir::new("init-front");
    let shown = |args: &[&str]| {
        let done = init(&dir, &[args, &["--yes", "--dry-run", "--json"]].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        serde_json::from_str::<Value>(&done.out).unwrap()
    };
    let edge = shown(&["--for", "edge", "--name", "app.example.net", "--allow", "all", "--proxy", "caddy"]);
    assert_eq!(edge["written"], false);
    assert!(edge["snippet"].as_str().unwrap().contains("app.example.net:8443 {\n    reverse_proxy 127.0.0.1:"));
    assert!(edge["connect"].as_str().unwrap().starts_with("wss://app.example.net:8443#"));
    let files = edge["files"].as_array().unwrap();
    let texts: Vec<&str> = files.iter().filter_map(|f| f["text"].as_str()).collect();
    assert!(texts.iter().any(|t| t.contains("auto_tls = false") && t.contains("trusted_proxies")), "{edge}");
    assert!(files.iter().any(|f| f["text"].is_null() && f["mode"] == "0600"), "a token is not shown: {edge}");
    assert!(!dir.at("etc").exists() && !dir.at("state").exists(), "nothing is written");
    for front in ["nginx", "caddy", "traefik", "haproxy"] {
        let gate = shown(&["--for", "gate", "--allow", "none", "--proxy", front]);
        assert!(gate["snippet"].as_str().unwrap().contains("family"), "{gate}");
        let control = shown(&["--for", "control", "--name", "mesh.example.net", "--proxy", front]);
        assert!(control["snippet"].as_str().unwrap().contains("mesh.example.net"), "{control}");
    }
}

#[test]
fn units_are_those_that_generate_prints() {
    let dir = Dir::new("init-unit");
    let token = dir.secret("token", "a token");
    let token = token.display().to_string();
    let unit = |args: &[&str], words: &[&str]| {
        let mut shown = command(&["init", "--yes", "--dry-run", "--json", "--proxy", "none", "--unit"]);
        shown.arg(dir.path()).args(args);
        if !args.contains(&"--dir") {
            shown.arg("--dir").arg(dir.at("etc"));
        }
        // Where root's services have their state; nothing is written there.
        let done = Outcome::of(&mut shown);
        assert_eq!(done.code, 0, "{}", done.err);
        let said: Value = serde_json::from_str(&done.out).unwrap();
        let files = said["files"].as_array().unwrap();
        // What guards comes before what serves.
        let units: Vec<&Value> = files.iter().filter(|f| f["path"].as_str().unwrap().ends_with(".service")).collect();
        for guard in &units[..units.len() - 1] {
            let text = guard["text"].as_str().unwrap();
            for w in ["nft boot --config ", "/edge.toml\n", "Before=network-pre.target", "WantedBy=sysinit.target"] {
                assert!(text.contains(w), "{w}:\n{text}");
            }
            super::cli::verify_unit(&dir, text);
        }
        let guarded = args.contains(&"--guard");
        assert_eq!(units.len(), if guarded { 2 } else { 1 });
        let next = said["next"][0].as_str().unwrap();
        assert_eq!(next.contains("enable --now portcullis-guard portcullis"), guarded, "{next}");
        let text = units[units.len() - 1]["text"].as_str().unwrap().to_string();
        for w in words {
            assert!(text.contains(w), "{w}:\n{text}");
        }
        super::cli::verify_unit(&dir, &text);
        text
    };
    let etc = dir.at("etc").display().to_string();
    let config = format!("serve --config {etc}/edge.toml");
    let edge = unit(
        &["--for", "edge", "--name", "a.test", "--allow", "all"],
        &["Description=Portcullis edge\n", &format!("{config} --token-file %d/token"), &format!("token:{etc}/token")],
    );
    assert!(!edge.contains("CAP_NET_BIND_SERVICE"), "{edge}");
    // Clients of a public address come back through port 443.
    let control = ["Description=Portcullis\n", config.as_str(), "AmbientCapabilities=CAP_NET_BIND_SERVICE"];
    unit(&["--for", "control", "--name", "203.0.113.9"], &control);
    let guards = ["AmbientCapabilities=CAP_NET_ADMIN", config.as_str()];
    unit(&["--for", "gate", "--guard", "25565"], &guards);
    unit(
        &["--for", "client", "--connect", "wss://e.test", "--token-file", &token, "--upstream", "2222=127.0.0.1:22"],
        &[
            "tcp client --token-file %d/token",
            &format!("EnvironmentFile={etc}/client.env"),
            "StateDirectory=portcullis-client",
        ],
    );
    let odd = dir.at("a b%h").display().to_string();
    unit(
        &[
            "--for",
            "client",
            "--connect",
            "wss://e.test",
            "--token-file",
            &token,
            "--upstream",
            "22=127.0.0.1:22",
            "--dir",
            &odd,
        ],
        &[&format!("\nEnvironmentFile={}/client.env\n", odd.replace('%', "%%"))],
    );
}

#[test]
fn wrong_answers_are_refused_and_nobody_is_never_everybody() {
    let dir = Dir::new("init-wrong");
    for (args, wanted) in [
        (&["--yes"][..], "--for"),
        (&["--for", "edge,client", "--yes"], "--for client"),
        (&["--for", "edge", "--name", "https://x", "--yes"], "--name"),
        (&["--for", "edge", "--name", "a.test", "--allow", "", "--yes"], "nobody is named"),
        (&["--for", "edge", "--name", "a.test", "--allow", "198.51.100.300", "--yes"], "198.51.100.300"),
        (&["--for", "edge", "--name", "a.test", "--allow", "none,all", "--yes"], "stands alone"),
        (&["--for", "edge", "--name", "203.0.113.9", "--allow", "all", "--proxy", "nginx", "--yes"], "need a name"),
        (&["--for", "client", "--connect", "nonsense", "--yes"], "--connect"),
        (&["--for", "client", "--connect", "wss://e.test", "--token-file", "/nowhere", "--yes"], "/nowhere"),
        (&["--for", "edge", "--guard", "22", "--yes", "--name", "a.test", "--proxy", "none"], "--for gate"),
        // Nobody answers.
        (&["--for", "edge"], "--name"),
    ] {
        let done = Outcome::of(command(&["init"]).args(args).args(["--unit", "none", "--dir"]).arg(dir.at("etc")));
        assert!(done.code == 2 && done.err.contains(wanted), "{args:?}: {} {}", done.code, done.err);
    }
    assert!(!dir.at("etc").exists());
    // What is not said is nobody.
    let done = init(&dir, &["--for", "edge", "--name", "a.test", "--proxy", "none", "--yes"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let text = std::fs::read_to_string(dir.at("etc/edge.toml")).unwrap();
    assert!(text.contains("allow_ips_data = [\"none\"]"), "{text}");
}

/// What a person types, and what is waited for before.
const TALK: &str = r#"
import os, pty, select, sys
talk, argv = eval(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(argv[0], argv)
seen, at = b'', 0
def until(word):
    global seen, at
    while word not in seen[at:]:
        ready = select.select([fd], [], [], 60)[0]
        part = os.read(fd, 4096) if ready else b''
        if not part:
            sys.exit('waited for %r in %r' % (word, seen))
        seen += part
    at = len(seen)
for word, answer in talk:
    until(word.encode())
    os.write(fd, answer.encode() + b'\n')
try:
    while True:
        part = os.read(fd, 4096)
        if not part:
            break
        seen += part
except OSError:
    pass
sys.stdout.write(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn a_person_is_asked_five_things_and_asked_again_after_a_bad_answer() {
    let Some(python) = peers::need("python3") else { return };
    let dir = Dir::new("init-person");
    let store = dir.at("state").display().to_string();
    let talk = format!(
        "[('What is this machine for?', 'everything'), ('none of edge', 'edge, gate'), ('Under which name', 'no name!'), \
          ('not a host name', 'edge.example.net'), ('Who may come in?', '300.1.1.1'), ('300.1.1.1', '198.51.100.0/24'), \
          ('Which proxy', 'none'), ('Where is its state', '{store}')]"
    );
    let mut person = Command::new(python);
    plain(&mut person);
    person.args(["-c", TALK, &talk, binary(), "init", "--unit", "none", "--dir"]).arg(dir.at("etc"));
    person.stdin(Stdio::null());
    let done = Outcome::of(&mut person);
    assert_eq!(done.code, 0, "{} {}", done.out, done.err);
    let questions = ["What is this machine", "Under which", "Who may come in", "Which proxy", "Where is its state"];
    assert_eq!(questions.map(|q| done.out.matches(q).count()), [2, 2, 2, 1, 1], "{}", done.out);
    let text = std::fs::read_to_string(dir.at("etc/edge.toml")).unwrap();
    for wanted in ["static = [\"198.51.100.0/24\"]", "allow_ips_data = [\"list:family\"]", "edge.example.net"] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
}

/// The commands of the page, with a folder of their own, and what they would write; by the shell, as they stand.
#[test]
fn the_pages_commands_are_taken() {
    let dir = Dir::new("init-pages");
    dir.secret("token", "a token");
    let recipes = ["init-edge", "init-client", "init-others"];
    for line in recipes.iter().flat_map(|name| pages::commands(name)) {
        // The page cannot print a fingerprint; a test can.
        let line = line.replace("sha256:…", &format!("sha256:{}", "ab".repeat(32)));
        let line = line.replacen("portcullis", binary(), 1);
        let mut shell = Command::new("sh");
        plain(&mut shell);
        shell.args(["-ec", &format!("{line} --dry-run --unit none --dir etc")]).current_dir(dir.path());
        let done = Outcome::of(&mut shell);
        assert_eq!(done.code, 0, "{line}: {}", done.err);
        assert!(done.out.contains("would write etc/") || done.out.contains("/etc/"), "{}", done.out);
    }
    // Only the last of them needs nothing that runs.
    let doctor = pages::commands("doctor");
    assert_eq!(doctor.len(), 5, "{doctor:?}");
    dir.write("edge.toml", "token_file = \"token\"\ndata_dir = \"state\"\nport = 0\ncontrol_port = 0\n");
    for (line, code) in [(&doctor[0], 0), (&doctor[3], 1)] {
        let mut shell = Command::new("sh");
        plain(&mut shell);
        shell.args(["-ec", &line.replacen("portcullis", binary(), 1)]).current_dir(dir.path());
        assert_eq!(Outcome::of(&mut shell).code, code, "{line}");
    }
    let last = doctor[4].replace("sha256:…", &format!("sha256:{}", "ab".repeat(32)));
    let mut shell = Command::new("sh");
    plain(&mut shell);
    let last =
        last.replacen("portcullis", binary(), 1).replace("203.0.113.9:8123", &format!("127.0.0.1:{}", ports::free()));
    shell.args(["-ec", &last]).current_dir(dir.path());
    let said = Outcome::of(&mut shell);
    assert!(said.code == 1 && said.out.contains("[unreachable]"), "{said:?}");
}

/// A service's user can put a link wherever root would write.
#[test]
fn root_makes_nothing_in_the_folder_of_a_services_user() {
    if !std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        return stage::skip::skip("needs root");
    }
    let dir = Dir::new("init-service");
    let (state, elsewhere) = (dir.at("state"), dir.at("elsewhere"));
    for made in [&state, &elsewhere] {
        std::fs::create_dir(made).unwrap();
    }
    let of_service = |path: &Path| std::os::unix::fs::lchown(path, Some(4242), Some(4242)).unwrap();
    let args = ["--for", "edge", "--name", "127.0.0.1", "--allow", "none", "--proxy", "none", "--yes", "--force"];
    let in_vain = |what: &str| {
        let done = init(&dir, &args);
        assert_eq!(done.code, 0, "{what}: {}", done.err);
        assert!(!done.out.contains("connect string: "), "{what}: {}", done.out);
        assert!(done.out.contains("another user's"), "{what}: {}", done.out);
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "{what}");
    };
    // The folder is the service's; then only what the edge's files would lie in, behind a link.
    of_service(&state);
    in_vain("empty");
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
    std::os::unix::fs::symlink(&elsewhere, state.join("tls-8123")).unwrap();
    of_service(&state.join("tls-8123"));
    in_vain("a link");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::fs::create_dir(state.join("tls-8123")).unwrap();
    of_service(&state.join("tls-8123"));
    std::os::unix::fs::symlink(elsewhere.join("key"), state.join("tls-8123/ca.part")).unwrap();
    in_vain("the inner folder");
    // A folder of root's is as before.
    std::fs::remove_dir_all(&state).unwrap();
    let done = init(&dir, &args);
    assert!(done.out.contains("connect string: ") && state.join("tls-8123/ca.key").exists(), "{}", done.out);
}
