//! Databases of other versions of Headscale, made by its own statements, and what stands against an import.

use rusqlite::Connection;
use stage::Dir;

use super::*;

/// The tables of version 0.23 (its `hscontrol/types`, as GORM makes them), with a network in them.
const OLD: &str = "
CREATE TABLE `users` (`id` integer PRIMARY KEY AUTOINCREMENT,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,`name` text UNIQUE);
CREATE TABLE `pre_auth_keys` (`id` integer PRIMARY KEY AUTOINCREMENT,`key` text,`user_id` integer,`reusable` numeric,`ephemeral` numeric DEFAULT false,`used` numeric DEFAULT false,`created_at` datetime,`expiration` datetime);
CREATE TABLE `pre_auth_key_acl_tags` (`id` integer PRIMARY KEY AUTOINCREMENT,`pre_auth_key_id` integer,`tag` text);
CREATE TABLE `routes` (`id` integer PRIMARY KEY AUTOINCREMENT,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,`node_id` integer,`prefix` text,`advertised` numeric,`enabled` numeric,`is_primary` numeric);
CREATE TABLE `nodes` (`id` integer PRIMARY KEY AUTOINCREMENT,`machine_key` text,`node_key` text,`disco_key` text,`endpoints` text,`host_info` text,`ipv4` text,`ipv6` text,`hostname` text,`given_name` varchar(63),`user_id` integer,`register_method` text,`forced_tags` text,`auth_key_id` integer,`last_seen` datetime,`expiry` datetime,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime);
CREATE TABLE `api_keys` (`id` integer PRIMARY KEY AUTOINCREMENT,`prefix` text UNIQUE,`hash` blob,`created_at` datetime,`expiration` datetime,`last_seen` datetime);
CREATE TABLE `policies` (`id` integer PRIMARY KEY AUTOINCREMENT,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,`data` text);
INSERT INTO users VALUES (1,'2024-01-02 03:04:05.6+00:00','2024-01-02 03:04:05+00:00',NULL,'ada'), (2,'2024-01-02 03:04:05+00:00',NULL,'2024-02-02 00:00:00+00:00','gone');
INSERT INTO pre_auth_keys VALUES (3,'0123456789abcdef',1,1,1,0,'2024-01-02 03:04:05+00:00','2099-01-01 00:00:00+00:00'), (4,'fedcba9876543210',2,0,0,1,NULL,NULL), (5,'',1,0,0,0,NULL,NULL);
INSERT INTO pre_auth_key_acl_tags VALUES (1,3,'tag:ci');
INSERT INTO api_keys VALUES (1,'abc',x'00',NULL,NULL,NULL);
INSERT INTO policies VALUES (1,NULL,NULL,NULL,'{\"acls\":[]}'), (2,NULL,NULL,NULL,'{\"tagOwners\":{\"tag:web\":[\"ada@\"]},\"acls\":[{\"action\":\"accept\",\"src\":[\"*\"],\"dst\":[\"*:*\"]}]}');
";

fn key(kind: &str, n: u8) -> String {
    format!("{kind}:{}", format!("{n:02x}").repeat(32))
}

fn node(db: &Connection, id: u8, columns: &[(&str, &str)]) {
    let (machine, node) = (key("mkey", id), key("nodekey", id));
    let of = |name: &str, usual: &str| columns.iter().find(|(n, _)| *n == name).map_or(usual, |(_, v)| v).to_string();
    db.execute(
        "INSERT INTO nodes (id, machine_key, node_key, disco_key, host_info, endpoints, ipv4, ipv6, hostname, given_name,
         user_id, forced_tags, auth_key_id, created_at, expiry, deleted_at)
         VALUES (?1, ?2, ?3, '', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 3, '2024-03-01 00:00:00+00:00', ?12, nullif(?13, ''))",
        rusqlite::params![
            id,
            of("machine_key", &machine),
            of("node_key", &node),
            of("host_info", "{}"),
            of("endpoints", "[\"203.0.113.9:41641\"]"),
            of("ipv4", &format!("100.64.0.{id}")),
            of("ipv6", ""),
            of("hostname", "Some Host"),
            of("given_name", &format!("n{id}")),
            of("user_id", "1").parse::<u8>().ok(),
            of("forced_tags", "null"),
            of("expiry", "0001-01-01 00:00:00+00:00"),
            of("deleted_at", ""),
        ],
    )
    .unwrap();
}

fn old(dir: &Dir) -> (Connection, Headscale) {
    let database = dir.at("db.sqlite");
    let db = Connection::open(&database).unwrap();
    db.execute_batch(OLD).unwrap();
    (db, Headscale { database, ..Headscale::default() })
}

fn said(done: &Imported, what: &str) -> String {
    done.not
        .iter()
        .find(|n| n.what.contains(what))
        .map(|n| n.why.clone())
        .unwrap_or_else(|| panic!("{what}: {:?}", done.not))
}

fn stored(dir: &Dir) -> Registry {
    let store = crate::open(&dir.at("data")).unwrap();
    let mut registry = Registry::new(Settings::default());
    registry::read(&mut registry, &store, 1).unwrap();
    registry
}

#[test]
fn a_database_of_0_23_with_what_old_networks_have_in_them() {
    let dir = Dir::new("headscale-old");
    let (db, from) = old(&dir);
    let asks = r#"{"Hostname":"web","RoutableIPs":["10.0.0.0/24"],"RequestTags":["tag:web","tag:db"]}"#;
    node(&db, 7, &[("host_info", asks), ("given_name", "web")]);
    node(&db, 8, &[("expiry", "2030-01-01 00:00:00+01:00"), ("host_info", "damaged")]);
    node(&db, 9, &[("user_id", "2")]);
    node(&db, 10, &[("node_key", "")]);
    node(&db, 11, &[("deleted_at", "2024-03-03 00:00:00+00:00")]);
    node(
        &db,
        12,
        &[("given_name", "WPAD"), ("ipv6", "fd7a:115c:a1e0::c"), ("forced_tags", "[\"tag:x\",\"y\"]"), ("user_id", "")],
    );
    db.execute_batch(
        "INSERT INTO routes (node_id, prefix, advertised, enabled) VALUES (7,'10.0.0.0/24',1,1), (7,'10.9.0.0/24',1,0),
         (7,'0.0.0.0/0',1,1), (7,'100.64.3.0/24',1,1), (99,'10.7.0.0/24',1,1);",
    )
    .unwrap();
    drop(db);
    let looked = headscale(&from, &dir.at("data"), true).unwrap();
    assert!(!dir.at("data").exists());
    let done = headscale(&from, &dir.at("data"), false).unwrap();
    assert_eq!((done.counts, &done.not), (looked.counts, &looked.not));
    assert_eq!(done.counts, [1, 1, 3, 2], "{:?}", done.not);
    for (what, why) in [
        ("1 deleted rows of users", "deleted"),
        ("1 deleted rows of nodes", "deleted"),
        ("pre-auth key 4", "no user that is there"),
        ("pre-auth key 5", "neither the key nor a hash"),
        ("node 7 (web): tag:db", "tagOwners"),
        ("node 7 (web): route 100.64.3.0/24", "in the network itself"),
        ("node 8 (n8): what it says of its host", "cannot be read"),
        ("node 9 (n9)", "no user that is there"),
        ("node 10 (n10)", "join anew"),
        ("node 12 (WPAD): y", "no tag"),
        ("node 12 (WPAD): its name", "node-wpad"),
        ("node 7 (web): one address only", "fd7a:115c:a1e0::"),
        ("routes 10.7.0.0/24 of node 99", "no such node"),
        ("1 API keys", "no HTTP API"),
        ("the server's Noise key", "restarted once"),
    ] {
        assert!(said(&done, what).contains(why), "{what}: {}", said(&done, what));
    }
    let registry = stored(&dir);
    let nodes: Vec<_> = [7, 8, 12].map(|id| registry.saved(tailnet::Slot::Node(id)).unwrap()).into();
    let of = |n: usize| match &nodes[n] {
        tailnet::Saved::Node(n) => n.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((of(0).tags.clone(), of(0).stable.as_deref(), of(0).named), (vec!["tag:web".into()], Some("7"), false));
    assert_eq!(of(0).approved.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0", "10.0.0.0/24"]);
    assert!(of(0).ephemeral && of(0).by_key == Some(3) && of(0).expires.is_none() && of(0).user == Some(1));
    assert_eq!((of(1).expires, of(1).ipv4.to_string()), (Some(1_893_452_400), "100.64.0.8".into()));
    assert_eq!((of(2).name.as_str(), of(2).ipv6.to_string()), ("node-wpad", "fd7a:115c:a1e0::c".into()));
    let keys: Vec<_> = registry.keys().collect();
    assert_eq!((keys[0].id, &keys[0].tags[..], keys[0].reusable), (3, &["tag:ci".to_string()][..], true));
    assert_eq!(keys[0].hash, runtime::sha256_hex(b"0123456789abcdef"));
    assert!(registry.policy_text().unwrap().contains("tag:web"), "the latest one counts");
    runtime::audit::verify(&dir.at("data/control-audit.jsonl"), None).unwrap();
}

#[test]
fn a_moment_or_a_list_that_cannot_be_read_is_an_error_and_never_nothing() {
    for (change, named) in [
        ("UPDATE pre_auth_keys SET expiration = 1706842445 WHERE id = 3", "pre_auth_keys: row 3: expiration"),
        ("UPDATE nodes SET expiry = 1706842445", "nodes: row 7: expiry"),
        ("UPDATE nodes SET expiry = 'soon'", "nodes: row 7: expiry is no moment: `soon`"),
        ("UPDATE nodes SET deleted_at = 1706842445", "nodes: row 7: deleted_at"),
        ("UPDATE users SET deleted_at = x'ff' WHERE id = 2", "users: row 2: deleted_at"),
        ("UPDATE policies SET deleted_at = 0 WHERE id = 2", "policies: row 2: deleted_at"),
        (
            "INSERT INTO routes (id, deleted_at, node_id, prefix, enabled) VALUES (1,5,7,'10.0.0.0/24',1)",
            "routes: row 1",
        ),
        ("ALTER TABLE pre_auth_keys ADD revoked datetime; UPDATE pre_auth_keys SET revoked = 1", "row 3: revoked"),
        ("UPDATE nodes SET forced_tags = 'tag:web'", "nodes: row 7: forced_tags is no list"),
    ] {
        let dir = Dir::new("headscale-unread");
        let (db, from) = old(&dir);
        node(&db, 7, &[]);
        assert!(headscale(&from, &dir.at("data"), true).is_ok());
        db.execute_batch(change).unwrap();
        let why = format!("{:#}", headscale(&from, &dir.at("data"), false).unwrap_err());
        assert!(why.contains(named), "{change}: {why}");
        assert!(!dir.at("data").exists());
    }
    // By these nothing is decided.
    let dir = Dir::new("headscale-about");
    let (db, from) = old(&dir);
    node(&db, 7, &[]);
    db.execute_batch("UPDATE nodes SET created_at = 5, last_seen = 'soon', expiry = '1970-01-01 00:00:00+00:00'")
        .unwrap();
    headscale(&from, &dir.at("data"), false).unwrap();
    let Some(tailnet::Saved::Node(n)) = stored(&dir).saved(tailnet::Slot::Node(7)) else { panic!("no node") };
    assert_eq!((n.created, n.expires), (0, Some(1)), "over, not without an end");
}

#[test]
fn what_has_only_tags_that_are_none_here_never_becomes_its_users() {
    let dir = Dir::new("headscale-tags");
    let (db, from) = old(&dir);
    node(&db, 7, &[("forced_tags", "[\"tag:db.prod\"]")]);
    node(&db, 8, &[("forced_tags", "[\"tag:db.prod\",\"tag:db\"]")]);
    db.execute_batch("UPDATE pre_auth_key_acl_tags SET tag = 'tag:ci.prod'").unwrap();
    let done = headscale(&from, &dir.at("data"), false).unwrap();
    assert_eq!(done.counts, [1, 0, 1, 0], "{:?}", done.not);
    for what in ["node 7 (n7)", "pre-auth key 3"] {
        let left = |n: &NotCarried| n.what == what && n.why.contains("none of its tags is possible here");
        assert!(done.not.iter().any(left), "{what}: {:?}", done.not);
    }
    let Some(tailnet::Saved::Node(n)) = stored(&dir).saved(tailnet::Slot::Node(8)) else { panic!("no node") };
    assert_eq!(n.tags, ["tag:db"]);
}

#[test]
fn what_collides_is_named_and_nothing_is_changed() {
    let dir = Dir::new("headscale-collides");
    let (db, from) = old(&dir);
    node(&db, 7, &[]);
    headscale(&from, &dir.at("data"), false).unwrap();
    let entries = || {
        let store = crate::open(&dir.at("data")).unwrap();
        store.list("mesh/").unwrap()
    };
    let before = entries();
    let why = format!("{:#}", headscale(&from, &dir.at("data"), false).unwrap_err());
    for part in ["user 1 is ada there and ada here", "pre-auth key 3", "node 7 (n7) has the number of n7"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(entries(), before);
    // Within the database: an address twice, a user twice under names that are one here.
    node(&db, 8, &[("ipv4", "100.64.0.7"), ("node_key", &key("nodekey", 7))]);
    node(&db, 9, &[("ipv4", "100.64.0.7")]);
    let why = format!("{:#}", headscale(&from, &dir.at("other"), false).unwrap_err());
    assert!(why.contains("node key of node 7") && why.contains("has the address 100.64.0.7 of n7"), "{why}");
    assert!(!dir.at("other").exists(), "what is refused makes nothing");
    // A store that another process has open.
    let _held = crate::open(&dir.at("third")).unwrap();
    assert!(headscale(&from, &dir.at("third"), false).is_err());
}

#[test]
fn a_policy_that_is_none_here_and_one_whose_tests_fail_are_refused() {
    let dir = Dir::new("headscale-policy");
    let (db, from) = old(&dir);
    node(&db, 7, &[]);
    let with = |text: &str| {
        let policy = Some(dir.write("policy.hujson", text));
        headscale(&Headscale { policy, ..from.clone() }, &dir.at("data"), true)
    };
    let why = format!("{:#}", with("{\"acls\": [{\"action\": \"deny\"}]}").unwrap_err());
    assert!(why.contains("nothing was imported: the policy"), "{why}");
    let tests = "\"acls\": [], \"tests\": [{\"src\": \"ada@\", \"accept\": [\"100.64.0.7:22\"]}]";
    let why = format!("{:#}", with(&format!("{{{tests}}}")).unwrap_err());
    assert!(why.contains("the policy"), "{why}");
    assert!(with("{\"acls\": []}").is_ok());
}

#[test]
fn a_hash_that_is_none_or_costs_too_much_is_not_taken() {
    let rest = "x".repeat(53);
    for (hash, good) in [
        (format!("$2a$10${rest}"), true),
        (format!("$2b$14${rest}"), true),
        (format!("$2a$31${rest}"), false),
        (format!("$6$10${rest}"), false),
        ("$2a$10$short".to_string(), false),
        (String::new(), false),
    ] {
        let bcrypt = tailnet::record::BcryptHash { prefix: "p".into(), hash };
        assert_eq!(bcrypt.is_bearable(), good, "{}", bcrypt.hash);
    }
}

#[test]
fn what_is_no_database_of_headscale_is_said() {
    let dir = Dir::new("headscale-none");
    let refused = |sql: &str| {
        let database = dir.at("other.sqlite");
        let _ = std::fs::remove_file(&database);
        Connection::open(&database).unwrap().execute_batch(sql).unwrap();
        format!("{:#}", headscale(&Headscale { database, ..Headscale::default() }, &dir.at("data"), true).unwrap_err())
    };
    assert!(refused("CREATE TABLE x (y)").contains("no nodes of a Headscale server"));
    assert!(refused("CREATE TABLE machines (id)").contains("before 0.23"));
    let config = dir.write("config.yaml", "server_url: [");
    let from = Headscale { database: dir.at("other.sqlite"), config: Some(config), ..Headscale::default() };
    assert!(format!("{:#}", headscale(&from, &dir.at("data"), true).unwrap_err()).contains("no YAML"));
    let config = dir.write("config.yaml", "database: {type: postgres}\n");
    let from = Headscale { config: Some(config), ..from };
    assert!(format!("{:#}", headscale(&from, &dir.at("data"), true).unwrap_err()).contains("PostgreSQL"));
}

#[test]
fn moments_as_databases_have_them() {
    for text in [
        "2024-08-28 10:11:12.123456789+00:00",
        "2024-08-28T10:11:12Z",
        "2024-08-28 12:11:12+02:00",
        "2024-08-28 10:11:12 +0000 UTC",
        "2024-08-28 10:11:12.5 +0000 UTC m=+0.1",
        "2024-08-28 10:11:12",
    ] {
        assert_eq!(moment(text), Some(1_724_839_872), "{text}");
    }
    for over in ["1970-01-01 00:00:00+00:00", "1969-12-31 23:59:59Z", "0001-01-01 00:00:00+00:00"] {
        assert_eq!(moment(over), Some(1), "{over}");
    }
    for none in ["", "soon", "1706842445", "2024-08-28", "2024-13-28 10:11:12Z"] {
        assert_eq!(moment(none), None, "{none}");
    }
}
