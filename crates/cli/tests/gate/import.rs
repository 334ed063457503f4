//! Lists of other programs, taken over by the built program: what Gatekeeper has learned, and what Nginx Proxy Manager lets
//! in, held against a real nginx with the rules that it writes.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use stage::command::{Outcome, Server, command, run_at};
use stage::gate::Serve;
use stage::http::request;
use stage::process::Process;
use stage::proxies::nginx_by;
use stage::{Dir, START, eventually, pages, peers, ports, wait_or};

/// The tables of Nginx Proxy Manager (its `backend/migrations`, as SQLite has them), with what people have in them.
const NPM: &str = "
CREATE TABLE `proxy_host` (`id` integer not null primary key autoincrement, `created_on` datetime not null, `modified_on` datetime not null, `owner_user_id` integer not null, `is_deleted` integer not null default '0', `domain_names` json not null, `forward_host` varchar(255) not null, `forward_port` integer not null, `access_list_id` integer not null default '0', `certificate_id` integer not null default '0', `ssl_forced` integer not null default '0', `caching_enabled` integer not null default '0', `block_exploits` integer not null default '0', `advanced_config` text not null default '', `meta` json not null, `allow_websocket_upgrade` integer not null default '0', `http2_support` integer not null default '0', `forward_scheme` varchar(255) not null default 'http', `enabled` integer not null default '1', `locations` json);
CREATE TABLE `access_list` (`id` integer not null primary key autoincrement, `created_on` datetime not null, `modified_on` datetime not null, `owner_user_id` integer not null, `is_deleted` integer not null default '0', `name` varchar(255) not null, `meta` json not null, `satisfy_any` integer not null default '0', `pass_auth` integer not null default '1');
CREATE TABLE `access_list_client` (`id` integer not null primary key autoincrement, `created_on` datetime not null, `modified_on` datetime not null, `access_list_id` integer not null, `address` varchar(255) not null, `directive` varchar(255) not null, `meta` json not null);
CREATE TABLE `access_list_auth` (`id` integer not null primary key autoincrement, `created_on` datetime not null, `modified_on` datetime not null, `access_list_id` integer not null, `username` varchar(255) not null, `password` varchar(255) not null, `meta` json not null);
CREATE TABLE `stream` (`id` integer not null primary key autoincrement, `is_deleted` integer not null default '0', `incoming_port` integer not null);
INSERT INTO access_list (id, created_on, modified_on, owner_user_id, is_deleted, name, meta, satisfy_any) VALUES
 (1,'','',1,0,'Office & Home','{}',0), (2,'','',1,0,'Passwords','{}',0), (3,'','',1,1,'Old','{}',0), (4,'','',1,0,'office home','{}',1), (5,'','',1,0,'Bare','{}',0), (6,'','',1,0,'Unnamed','{}',0);
INSERT INTO access_list_client (created_on, modified_on, access_list_id, address, directive, meta) VALUES
 ('','',1,'198.51.100.7','deny','{}'), ('','',1,'198.51.100.0/24','allow','{}'), ('','',1,'198.51.100.9','deny','{}'), ('','',1,'2001:db8:7::/48','allow','{}'), ('','',1,'203.0.113.0/24','deny','{}'), ('','',1,'','allow','{}'),
 ('','',3,'all','allow','{}'), ('','',4,'192.0.2.7','allow','{}');
INSERT INTO access_list_auth (created_on, modified_on, access_list_id, username, password, meta) VALUES ('','',2,'ada','s3cret','{}'), ('','',4,'ben','s3cret','{}'), ('','',6,'','s3cret','{}');
INSERT INTO proxy_host (created_on, modified_on, owner_user_id, is_deleted, domain_names, forward_host, forward_port, access_list_id, meta, advanced_config) VALUES
 ('','',1,0,'[\"app.example.com\",\"wiki.example.com\"]','10.0.0.5',8080,1,'{}',''), ('','',1,0,'[\"open.example.com\"]','10.0.0.6',80,0,'{}',''),
 ('','',1,1,'[\"gone.example.com\"]','10.0.0.7',80,1,'{}',''), ('','',1,0,'[\"own.example.com\"]','10.0.0.8',80,4,'{}','allow 10.0.0.0/8;');
INSERT INTO stream (incoming_port) VALUES (25565);
";

/// The rules of a list as Nginx Proxy Manager writes them (its `templates/_access.conf`).
fn access_conf(db: &Connection, list: u32) -> String {
    let mut q =
        db.prepare("SELECT directive, address FROM access_list_client WHERE access_list_id = ?1 ORDER BY id").unwrap();
    let rule = |r: &rusqlite::Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?));
    let rules: Vec<(String, String)> = q.query_map([list], rule).unwrap().map(Result::unwrap).collect();
    let lines = rules.iter().filter(|(_, a)| !a.is_empty()).map(|(d, a)| format!("{d} {a};\n"));
    lines.chain(["deny all;\n".to_string()]).collect()
}

/// A real nginx that lets in whom these rules let in.
fn nginx(dir: &Path, rules: &str) -> Option<(Process, std::net::SocketAddr)> {
    let program = peers::need("nginx")?;
    std::fs::create_dir_all(dir).unwrap();
    let at = ports::local(ports::free());
    let http = format!(
        "set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;\nserver {{ listen {at}; location / {{ {rules} root {0}; }} }}\n",
        dir.display()
    );
    std::fs::write(dir.join("page"), "in").unwrap();
    let mut process = Process::start("nginx", nginx_by(Command::new(program), dir, &http));
    let up = eventually(START, || {
        process.must_run();
        std::net::TcpStream::connect(at).map(drop)
    });
    up.unwrap();
    Some((process, at))
}

#[test]
fn lists_of_nginx_proxy_manager_let_in_whom_nginx_lets_in() {
    let dir = Dir::new("npm");
    let db = Connection::open(dir.at("database.sqlite")).unwrap();
    db.execute_batch(NPM).unwrap();
    let [look, write, _serve] = pages::commands("from-npm").try_into().unwrap();
    let typed = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("portcullis ").unwrap().split(' ').collect();
        Outcome::of(command(&words).current_dir(dir.path()))
    };
    let here = |line: &str| line.replace("/data/database.sqlite", "database.sqlite");
    let said = typed(&here(&look));
    assert_eq!(said.code, 0, "{}", said.all());
    for part in [
        "5 access lists, which guard 3 hosts",
        "wiki.example.com  office-home  http://10.0.0.5:8080",
        "own.example.com  office-home-2",
        "access list Office & Home: deny 198.51.100.7: cut out of what is allowed behind it",
        "access list Office & Home: deny 198.51.100.9: without effect",
        "access list Passwords: passwords of ada: only addresses count here: nobody is on this list",
        "access list office home: passwords of ben: only addresses count here: who came in by a password",
        "access list Bare: it has no rule",
        "access list Unnamed: passwords of nobody: only addresses count here: nobody is on this list",
        "own.example.com: its advanced configuration",
        "1 proxy hosts: they have no access list",
        "1 streams",
        "nothing was changed",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(!said.out.contains("s3cret") && !said.out.contains("gone.example.com"), "{}", said.out);
    assert!(!dir.at("gate.toml").exists());
    let said = typed(&here(&write));
    assert_eq!(said.code, 0, "{}", said.all());
    let again = typed(&here(&write));
    assert!(again.code == 1 && again.err.contains("is there already; nothing was changed"), "{}", again.all());
    // The file is one that starts, and says of every visitor what nginx says.
    let text = std::fs::read_to_string(dir.at("gate.toml")).unwrap().replace("127.0.0.1:7070", "127.0.0.1:0");
    let gate = Serve::start(dir.path(), &text, &["listener=\"check endpoint\""]);
    let check = gate.at("check endpoint");
    let Some((_nginx, at)) = nginx(&dir.at("nginx"), &access_conf(&db, 1)) else { return };
    for visitor in [
        "198.51.100.6",
        "198.51.100.7",
        "198.51.100.8",
        "198.51.100.9",
        "198.51.100.255",
        "198.51.101.1",
        "203.0.113.9",
        "2001:db8:7::1",
        "2001:db8:8::1",
        "10.0.0.5",
    ] {
        let forwarded = [("X-Forwarded-For", visitor)];
        let theirs = request(at, "GET", "/page", &forwarded).0;
        let ours = request(check, "GET", "/v1/check/office-home", &forwarded).0;
        assert_eq!(ours, theirs, "{visitor}");
        // Lists without a rule are nobody's, with a password or without.
        for list in ["passwords", "bare", "unnamed"] {
            assert_eq!(request(check, "GET", &format!("/v1/check/{list}"), &forwarded).0, 403, "{visitor} {list}");
        }
    }
}

#[test]
fn rules_that_are_none_and_files_that_are_none_write_nothing() {
    let dir = Dir::new("npm-bad");
    let db = Connection::open(dir.at("database.sqlite")).unwrap();
    db.execute_batch(NPM).unwrap();
    db.execute("UPDATE access_list_client SET address = 'example.com' WHERE id = 4", []).unwrap();
    let import = |file: &str| {
        let (file, to) = (dir.at(file), dir.at("gate.toml"));
        Outcome::of(command(&["import", "npm"]).arg(file).arg("--write-config").arg(to))
    };
    let said = import("database.sqlite");
    assert!(said.code == 1 && said.err.contains("`example.com` is no address"), "{}", said.all());
    Connection::open(dir.at("other.sqlite")).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    let said = import("other.sqlite");
    assert!(said.code == 1 && said.err.contains("no access lists of Nginx Proxy Manager"), "{}", said.all());
    dir.write("letter.txt", "dear reader, this is no database, and long enough to see that");
    assert_eq!(import("letter.txt").code, 1);
    assert_eq!(import("nothing").code, 1);
    assert!(!dir.at("gate.toml").exists() && !dir.at("nothing").exists());
}

/// As Gatekeeper leaves it: what it learned, then what was configured, and an empty entry where nothing was.
const LEARNED: &str = "http:\n  middlewares:\n    dynamic-whitelist:\n      IPAllowList:\n        sourceRange:\n        - 203.0.113.7\n        - 2001:db8:1:2:3::4\n        - 10.1.2.3\n        - 10.0.0.0/8\n        - ''\n";

#[test]
fn what_gatekeeper_has_learned_is_on_a_list_with_its_evidence() {
    let dir = Dir::new("gatekeeper-import");
    std::fs::create_dir(dir.at("file_providers")).unwrap();
    dir.write("file_providers/dynamic-whitelist.yml", LEARNED);
    let (data, file) = (dir.at("state"), dir.at("gate.toml"));
    let lines = pages::commands("from-gatekeeper");
    let [look, import] = lines
        .iter()
        .map(|l| {
            let line = l.replace("./traefik/etc/file_providers", &dir.at("file_providers").display().to_string());
            line.replace(" gate.toml", &format!(" {}", file.display()))
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let typed = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("portcullis ").unwrap().split(' ').collect();
        run_at(&data, &words)
    };
    let said = typed(&look);
    assert_eq!(said.code, 0, "{}", said.all());
    for part in
        ["2 addresses on the list family", "203.0.113.7", "an empty entry: it is no address", "nothing was changed"]
    {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(!data.exists() && !file.exists());
    let said = typed(&import);
    assert_eq!(said.code, 0, "{}", said.all());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"10.0.0.0/8\"") && text.contains("[lists.\"family\"]"), "{text}");
    // A gate with that file has them, as an earlier gate's word.
    let config = format!("http = false\n{text}\n[gate]\nlisten = \"127.0.0.1:0\"\n");
    let gate = Serve::start(dir.path(), &config, &["listener=\"check endpoint\""]);
    let check = gate.at("check endpoint");
    for (visitor, wanted) in [("203.0.113.7", 200), ("10.9.9.9", 200), ("2001:db8:1:2::9", 200), ("203.0.113.8", 403)] {
        let got = request(check, "GET", "/v1/check/family", &[("X-Forwarded-For", visitor)]).0;
        assert_eq!(got, wanted, "{visitor}");
    }
    let shown = gate.ok(&["list", "show", "family"]);
    assert!(shown.contains("earlier"), "{shown}");
    // While it runs its store is its own.
    let busy = typed(&import.replace("gate.toml", "other.toml"));
    assert!(busy.code == 1 && busy.err.contains("another gate runs"), "{}", busy.all());
    assert!(!dir.at("other.toml").exists());
    let none = typed(&look.replace("dynamic-whitelist.yml", "nothing.yml"));
    assert_eq!(none.code, 1, "{}", none.all());
    wait_or(|| gate.ok(&["audit", "verify"]).contains("none changed"), || gate.ok(&["audit", "verify"]));
}

#[test]
fn root_writes_nothing_into_another_users_data_directory() {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    let dir = Dir::new("import-of-another");
    let (data, victim) = (dir.at("state"), dir.write("victim", "of root's\n"));
    dir.write("dynamic-whitelist.yml", LEARNED);
    std::fs::create_dir(&data).unwrap();
    if std::fs::metadata(&data).unwrap().uid() != 0 {
        return; // Only root can give it to somebody.
    }
    for name in ["audit.jsonl", "gate.db", "control.db"] {
        symlink(&victim, data.join(name)).unwrap();
    }
    chown(&data, Some(4242), Some(4242)).unwrap();
    let mode = || std::fs::metadata(&victim).unwrap().mode();
    let before = mode();
    let (file, other) = (dir.at("dynamic-whitelist.yml").display().to_string(), victim.display().to_string());
    for words in [
        &["import", "gatekeeper", &file][..],
        &["import", "headscale", &other],
        &["import", "headscale", &other, "--dry-run"],
        &["restore", &other],
        &["clock", "show"],
        &["clock", "reset", "--yes"],
    ] {
        for at in [data.clone(), data.join("not/yet")] {
            let said = run_at(&at, words);
            assert_eq!(said.code, 1, "{words:?}: {}", said.all());
            if words[0] != "clock" || at == data {
                assert!(said.err.contains("sudo -u '#4242' portcullis"), "{words:?}: {}", said.all());
            }
        }
    }
    assert_eq!((std::fs::read_to_string(&victim).unwrap().as_str(), mode()), ("of root's\n", before));
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 3);
}
