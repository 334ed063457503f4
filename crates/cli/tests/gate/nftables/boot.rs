//! Boots, in the order of the units: the guard, the interface, the gate. Nobody whom the list does not hold gets a packet
//! through at any moment, whatever becomes of the gate, its file and its store.

use super::*;

const CONFIG: &str = "data_dir = \"state\"\n[gate]\n[lists.players]\nstatic = [\"203.0.113.77\"]\n\
                      [[gate.nftables]]\nlist = \"players\"\nports = [8080]\n";

impl Place {
    fn portcullis(&self, args: &[&str]) -> Command {
        let mut c = self.gate.command(binary());
        plain(&mut c);
        c.args(args).current_dir(self.dir().path());
        c
    }

    fn serve(&self) -> Process {
        let p = Process::start("gate", self.portcullis(&["serve", "--config", "gate.toml"]));
        wait_or(|| answers(&self.dir().at("state")), || p.output());
        p
    }

    fn boot(&self) -> Outcome {
        Outcome::of(&mut self.portcullis(&["nft", "boot", "--config", "gate.toml", "--data-dir", "state"]))
    }

    /// What a reboot does to the machine: its interface is down, and the kernel knows of no table of ours.
    fn shut_down(&self) {
        self.gate.ip(&["link", "set", "v0", "down"]);
        let _ = self.gate.command("nft").args(["delete", "table", "inet", "portcullis"]).output();
        let _ = self.gate.command("conntrack").arg("-F").output();
    }

    /// Somebody who writes all the time from this address, and where what comes back is noted.
    fn knock(&self, source: &str) -> (Process, std::path::PathBuf) {
        let heard = self.dir().at(format!("knock-{source}"));
        let mut c = self.out.command("python3");
        c.arg(self.dir().at("talk.py")).arg(source).arg(&heard);
        (Process::start("knock", c), heard)
    }

    fn handle(&self) -> String {
        let shown = self.run(&self.gate, "nft", &["-a", "list", "table", "inet", "portcullis"]);
        shown.lines().next().unwrap_or_default().to_string()
    }
}

fn heard(file: &std::path::Path) -> u64 {
    std::fs::metadata(file).map_or(0, |m| m.len())
}

#[test]
fn guards_stand_before_the_network_with_the_grants_of_the_last_run() {
    let Some(w) = Place::new() else { return };
    w.dir().write("gate.toml", CONFIG);
    // The first boot ever: there is no store, and only the file's own entries pass.
    w.shut_down();
    let out = w.boot();
    assert_eq!(out.code, 0, "{}", out.all());
    assert!(out.all().contains("everybody but 1 entries") && !w.dir().at("state/gate.db").exists(), "{}", out.all());
    let mut gate = w.serve();
    w.tell(&["grant", "add", "203.0.113.7", "--for", "1h", "--list", "players"]);
    w.tell(&["grant", "add", "2001:db8:1:5::7", "--for", "1h", "--list", "players"]);
    w.tell(&["grant", "add", "203.0.113.9", "--for", "2s", "--list", "players"]);
    // The power fails: nothing is closed in order.
    gate.kill();
    w.shut_down();
    std::thread::sleep(Duration::from_secs(3));
    let (_stranger, strange) = w.knock("203.0.113.8");
    let (_granted, known) = w.knock("203.0.113.7");
    let out = w.boot();
    assert_eq!(out.code, 0, "{}", out.all());
    let table = w.table();
    // With their ends, in the kernel's own care; what ended meanwhile is not there.
    assert!(table.contains("203.0.113.7 timeout") && table.contains("2001:db8:1:5::7 timeout"), "{table}");
    assert!(table.contains("203.0.113.77") && !table.contains("203.0.113.9"), "{table}");
    w.gate.ip(&["link", "set", "v0", "up"]);
    // No gate runs yet.
    wait("who was granted gets through", || heard(&known) > 3);
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.7") && w.reaches("203.0.113.77"));
    let before = w.handle();
    let mut gate = w.serve();
    assert_eq!(w.handle(), before, "the gate takes the table over as it stands");
    w.tell(&["grant", "revoke", "203.0.113.7"]);
    wait_or(|| !w.reaches("203.0.113.7"), || gate.output());
    w.tell(&["grant", "add", "203.0.113.7", "--list", "players"]);
    wait_or(|| w.reaches("203.0.113.7"), || gate.output());
    for crash in [true, false] {
        match crash {
            true => gate.kill(),
            false => {
                gate.stop();
            }
        }
        assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.7"));
        gate = w.serve();
    }
    assert_eq!((heard(&strange), w.handle()), (0, before), "a stranger got through: {}", w.table());
    assert!(!w.reaches("203.0.113.8"));
}

#[test]
fn a_boot_with_a_broken_file_or_store_guards_what_was_guarded() {
    let Some(w) = Place::new() else { return };
    w.dir().write("gate.toml", CONFIG);
    let mut gate = w.serve();
    w.tell(&["grant", "add", "203.0.113.7", "--for", "1h", "--list", "players"]);
    gate.stop();
    w.shut_down();
    w.dir().write("gate.toml", format!("{CONFIG}no_such_key = 1\n"));
    let out = w.boot();
    assert!(out.code == 1 && out.err.contains("no_such_key"), "{}", out.all());
    w.gate.ip(&["link", "set", "v0", "up"]);
    wait("who was granted gets through", || w.reaches("203.0.113.7"));
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.77"), "{}", w.table());
    // A gate that cannot start changes nothing of it.
    let out = Outcome::of(&mut w.portcullis(&["serve", "--config", "gate.toml", "--data-dir", "state"]));
    assert!(out.code != 0 && w.reaches("203.0.113.7") && !w.reaches("203.0.113.8"), "{}", out.all());
    w.shut_down();
    w.dir().write("gate.toml", CONFIG);
    w.dir().write("state/gate.db", "this is no database, whatever its name says; not at all, and long enough");
    let out = w.boot();
    assert!(out.code == 1 && out.err.contains("grants cannot be read"), "{}", out.all());
    w.gate.ip(&["link", "set", "v0", "up"]);
    wait("the file's own entries pass", || w.reaches("203.0.113.77"));
    assert!(!w.reaches("203.0.113.7") && !w.reaches("203.0.113.8"), "{}", w.table());
}

#[test]
fn ports_are_open_while_the_gate_fails_only_where_the_operator_wants_that() {
    let Some(w) = Place::new() else { return };
    w.dir().write("gate.toml", format!("{CONFIG}on_failure = \"open\"\n"));
    let serve = |say: &str| {
        let out = Outcome::of(&mut w.portcullis(&["serve", "--config", "gate.toml", "--data-dir", "state"]));
        assert!(out.code != 0 && out.err.contains(say), "{}", out.all());
        out
    };
    let mut gate = w.serve();
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.77"), "{}", w.table());
    // Another start beside a gate that runs fails, and takes nothing away from it.
    serve("another process uses it");
    assert!(!w.reaches("203.0.113.8"), "{}", w.table());
    // Nor does a crash or a stop: the kernel goes on with who was let in.
    gate.kill();
    assert!(!w.reaches("203.0.113.8"), "{}", w.table());
    let mut gate = w.serve();
    gate.stop();
    assert!(!w.reaches("203.0.113.8"), "{}", w.table());
    w.dir().write("gate.toml", format!("{CONFIG}on_failure = \"open\"\nno_such_key = 1\n"));
    // A look at the file opens nothing.
    let out = Outcome::of(&mut w.portcullis(&["serve", "--check", "--config", "gate.toml", "--data-dir", "state"]));
    assert!(out.code != 0 && out.err.contains("no_such_key"), "{}", out.all());
    assert!(!w.reaches("203.0.113.8"), "{}", w.table());
    let out = serve("no_such_key");
    assert!(out.err.contains("open to everybody"), "{}", out.all());
    assert!(w.reaches("203.0.113.8"), "{}", w.table());
    // It is mended.
    w.dir().write("gate.toml", format!("{CONFIG}on_failure = \"open\"\n"));
    let mut gate = w.serve();
    wait_or(|| !w.reaches("203.0.113.8"), || gate.output());
    gate.stop();
    // The same where its store is what fails, by what the file says.
    w.dir().write("state/gate.db", "this is no database, whatever its name says; not at all, and long enough");
    serve("store");
    assert!(w.reaches("203.0.113.8"), "{}", w.table());
    w.dir().write("gate.toml", CONFIG);
    serve("store");
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.77"), "{}", w.table());
    // Opened by hand: by what was in force last, whatever the file says now.
    let out = Outcome::of(&mut w.portcullis(&["nft", "open", "--all", "--data-dir", "state"]));
    assert!(out.code == 0 && out.all().contains("open to everybody") && w.reaches("203.0.113.8"), "{}", out.all());
}

#[test]
fn other_ports_are_guarded_by_a_reload() {
    let Some(w) = Place::new() else { return };
    w.dir().write("gate.toml", CONFIG);
    let gate = w.serve();
    assert!(!w.reaches("203.0.113.8"), "{}", w.table());
    let handle = w.handle();
    w.dir().write("gate.toml", CONFIG.replace("8080", "8081, 9090"));
    w.tell(&["reload"]);
    assert!(w.reaches("203.0.113.8") && w.table().contains("8081, 9090"), "{}\n{}", w.table(), gate.output());
    w.dir().write("gate.toml", CONFIG);
    w.tell(&["reload"]);
    assert!(!w.reaches("203.0.113.8"), "{}\n{}", w.table(), gate.output());
    assert_eq!(w.handle(), handle, "the table stands all the while");
    assert!(std::fs::read_to_string(w.dir().at("state/guards.json")).unwrap().contains("\"8080/tcp"));
}

#[test]
fn a_table_without_its_rules_is_closed_again_and_tables_of_others_stay() {
    let Some(w) = Place::new() else { return };
    w.dir().write("gate.toml", CONFIG);
    assert_eq!(w.boot().code, 0);
    let before = w.handle();
    for command in [
        "flush chain inet portcullis before",
        "insert rule inet portcullis guard accept",
        "add table inet portcullis { flags dormant; }",
    ] {
        assert!(!w.reaches("203.0.113.8"), "before {command}: {}", w.table());
        w.nft(command);
        assert!(w.reaches("203.0.113.8"), "{command}: {}", w.table());
        let out = w.boot();
        assert_eq!(out.code, 0, "{command}: {}", out.all());
    }
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.77"), "{}", w.table());
    assert_eq!(w.handle(), before, "its entries stay");
    // Whoever may write what is remembered names no table of others.
    w.nft("add table inet filter; add chain inet filter mine { type filter hook input priority 0; policy accept; }");
    let others = w.nft("list table inet filter");
    let named =
        ["filter", "portcullis"].map(|t| format!(r#"{{"table":"{t}","ports":"9/tcp","list":"x","static":[]}}"#));
    std::fs::create_dir_all(w.dir().at("state")).unwrap();
    w.dir().write("gate.toml", format!("{CONFIG}no_such_key = 1\n"));
    // Where that is damaged too, both are said.
    w.dir().write("state/guards.json", "[");
    let out = w.boot();
    assert!(out.code == 1 && out.err.contains("no_such_key") && out.err.contains("guards.json"), "{}", out.all());
    w.dir().write("state/guards.json", format!("[{}]", named.join(",")));
    let out = w.boot();
    assert!(out.code == 1 && out.err.contains("inet filter"), "{}", out.all());
    assert_eq!(w.nft("list table inet filter"), others);
    let out = Outcome::of(&mut w.portcullis(&["nft", "open", "--all", "--data-dir", "state"]));
    assert!(out.code == 1 && out.err.contains("inet filter"), "{}", out.all());
    assert_eq!(w.nft("list table inet filter"), others);
    assert!(w.table().is_empty() && w.reaches("203.0.113.8"), "{}", w.table());
}
