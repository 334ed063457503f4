//! The built binary in Gatekeeper's place: what it documents, and each of its known faults as a test of its absence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stage::command::{Outcome, Server, command};
use stage::gate::Gate;
use stage::http::{request, request_full};
use stage::process::Process;
use stage::upstream::answering;
use stage::{Dir, wait, wait_or};

const IMMICH: &str = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";

#[test]
fn every_method_on_every_path_learns_and_says_ok() {
    let dir = Dir::new("methods");
    let g = Gate::start(dir.path(), &[("MAX_IP_LEN", "100")], &[]);
    for (n, method) in ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "OPTIONS", "REPORT"].iter().enumerate() {
        let ip = format!("198.51.100.{}", n + 1);
        assert_eq!(
            request(g.addrs[0], method, &format!("/api/x?n={n}"), &[("X-Forwarded-For", &ip)]),
            (200, "OK".to_string()),
            "{method}"
        );
    }
    assert_eq!(request(g.addrs[0], "HEAD", "/", &[("X-Forwarded-For", "198.51.100.9")]), (200, String::new()));
    // A mirrored request of a client that happens to ask for this path is one like any other.
    assert_eq!(
        request(
            g.addrs[0],
            "GET",
            "/verify_share_request?protocol=http&container_name_port=127.0.0.1:22",
            &[("X-Forwarded-For", "198.51.100.10")]
        )
        .0,
        200
    );
    let want: Vec<String> = (1..=10).map(|n| format!("198.51.100.{n}")).collect();
    g.expect(&want.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        g.file().contains("http:\n  middlewares:\n    dynamic-whitelist:\n      ipAllowList:\n        sourceRange:\n")
    );
}

#[test]
fn the_documented_and_the_read_variable_both_set_the_size_and_the_first_seen_leaves() {
    for name in ["MAX_IP_LEN", "MAX_ALLOWED_IPS"] {
        let dir = Dir::new(name);
        let g = Gate::start(dir.path(), &[(name, "4"), ("DEFAULT_SOURCE_RANGE", "10.0.0.0/8")], &[]);
        for n in [1, 2, 3, 4, 1, 5] {
            g.mirror(&format!("198.51.100.{n}"));
        }
        g.expect(&["198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5", "10.0.0.0/8"]);
    }
}

/// Traefik makes a site of every container for which it is enabled: whoever asks that of the gate's own has shown nothing.
#[test]
fn what_came_without_tls_or_to_a_containers_site_is_no_proof() {
    let dir = Dir::new("clear");
    let g = Gate::start(dir.path(), &[], &[]);
    let from = |address: &str, scheme: &str| {
        let fields = [("X-Forwarded-For", address), ("X-Forwarded-Proto", scheme)];
        assert_eq!(request(g.addrs[0], "GET", "/", &fields).0, 200);
    };
    for scheme in ["http", "HTTP", "ws", "https, http"] {
        from("198.51.100.1", scheme);
    }
    for scheme in ["https", "wss", "http, https", ""] {
        from("198.51.100.2", scheme);
    }
    for (host, address) in [
        ("gatekeeper-home", "198.51.100.1"),
        ("gatekeeper:443", "198.51.100.1"),
        ("gatekeeper-home.", "198.51.100.1"),
        ("Gatekeeper.:443", "198.51.100.1"),
        ("gatekeeper..", "198.51.100.1"),
        ("ha.example.com, gatekeeper.", "198.51.100.1"),
        ("b\u{fc}ro.gatekeeper", "198.51.100.1"),
        ("ha.example.com", "198.51.100.3"),
        ("ha.example.com.:443", "198.51.100.5"),
        ("ha.example.com, HA.example.com", "198.51.100.6"),
        ("LOCALHOST:8443", "198.51.100.7"),
        ("[2001:db8::1]:443", "198.51.100.4"),
    ] {
        let fields = [("X-Forwarded-For", address), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", host)];
        assert_eq!(request(g.addrs[0], "GET", "/", &fields).0, 200);
    }
    let proved = ["2", "3", "5", "6", "7", "4"].map(|n| format!("198.51.100.{n}"));
    g.expect(&proved.each_ref().map(String::as_str));
    let (code, said) = g.doctor();
    assert!(code == 1 && said.contains("[open-site]") && said.contains("traefik.enable"), "{said}");
    assert!(g.command(&["explain", "198.51.100.1"]).1.contains("without TLS"));
}

#[test]
fn source_ranges_forgive_spaces_host_bits_and_absence_and_the_file_is_never_empty() {
    let dir = Dir::new("ranges");
    let g = Gate::start(dir.path(), &[("DEFAULT_SOURCE_RANGE", " 192.168.1.1/24, 172.16.0.0/12 ,,")], &[]);
    g.expect(&["192.168.1.0/24", "172.16.0.0/12"]);
    drop(g);
    let dir = Dir::new("noranges");
    let g = Gate::start(dir.path(), &[], &[]);
    g.expect(&["255.255.255.255"]);
    g.mirror("198.51.100.1");
    g.expect(&["198.51.100.1"]);
    assert!(!g.file().contains("''"));
}

#[test]
fn one_address_is_one_entry_in_every_spelling_and_private_ones_are_not_learnt() {
    let dir = Dir::new("spelling");
    let g = Gate::start(dir.path(), &[("IPV6_PREFIX", "128"), ("DEFAULT_SOURCE_RANGE", "203.0.113.0/24")], &[]);
    for xff in
        ["2001:db8::1", "2001:DB8::1", "2001:db8:0::1", "::ffff:198.51.100.7", "198.51.100.7", "198.51.100.7:4711"]
    {
        assert_eq!(g.mirror(xff).0, 200);
    }
    for xff in [
        "10.0.0.5",
        "::ffff:10.0.0.5",
        "100.64.1.1",
        "fd00::1",
        "127.0.0.1",
        "203.0.113.9",
        "::ffff:203.0.113.9",
        "fe80::1%eth0",
        "nonsense",
        "",
    ] {
        assert_eq!(g.mirror(xff), (200, "OK".to_string()), "{xff}");
    }
    g.expect(&["2001:db8::1", "198.51.100.7", "203.0.113.0/24"]);
    let dir = Dir::new("sixtyfour");
    let g = Gate::start(dir.path(), &[], &[]);
    g.mirror("2001:db8::1");
    g.mirror("2001:db8::2");
    g.expect(&["2001:db8::/64"]);
}

#[test]
fn several_hops_work_and_nobody_can_say_who_he_is() {
    let dir = Dir::new("hops");
    let g = Gate::start(dir.path(), &[], &[]);
    // Behind a second proxy that is trusted.
    g.mirror("198.51.100.1, 172.18.0.5");
    // Something further left: the address is a proxy that nobody named, or its client made it up. Neither is learned.
    g.mirror("8.8.8.8, 198.51.100.9, 172.18.0.5");
    wait("it is logged with the line that mends it", || {
        g.process
            .logged("198.51.100.9 is no visitor")
            .is_some_and(|l| l.contains("TRUSTED_PROXIES=") && l.contains("172.16.0.0/12"))
    });
    g.expect(&["198.51.100.1"]);
    // Twice, an underscore, none: nothing is learned.
    request(g.addrs[0], "GET", "/", &[("X-Forwarded-For", "198.51.100.2"), ("X-Forwarded-For", "198.51.100.3")]);
    request(g.addrs[0], "GET", "/", &[("X_Forwarded_For", "198.51.100.4")]);
    request(g.addrs[0], "GET", "/", &[("X-Real-Ip", "198.51.100.5")]);
    g.mirror("198.51.100.6");
    g.expect(&["198.51.100.1", "198.51.100.6"]);
    drop(g);
    // A peer that is no trusted proxy teaches nothing, and the log has the line to add.
    let dir = Dir::new("stranger");
    let g = Gate::start(dir.path(), &[("TRUSTED_PROXIES", "192.0.2.1")], &[]);
    assert_eq!(g.mirror("198.51.100.1"), (200, "OK".to_string()));
    wait("it is logged", || g.process.logged("TRUSTED_PROXIES=192.0.2.1,127.0.0.1").is_some());
    g.expect(&["255.255.255.255"]);
}

#[test]
fn a_restart_and_a_kill_forget_nobody_and_an_earlier_file_is_taken_over_once() {
    let dir = Dir::new("restart");
    let old = "http:\n  middlewares:\n    dynamic-whitelist:\n      IPAllowList:\n        sourceRange:\n        - 198.51.100.1\n        - 2001:DB8::1\n        - 2001:db8:0::1\n        - ''\n        - 10.0.0.0/8\n        - 172.16.0.0/12\n";
    std::fs::write(dir.at("dynamic-whitelist.yml"), old).unwrap();
    let env = [("DEFAULT_SOURCE_RANGE", "10.0.0.0/8")];
    let mut g = Gate::start(dir.path(), &env, &[]);
    g.expect(&["198.51.100.1", "2001:db8::/64", "10.0.0.0/8"]);
    g.mirror("198.51.100.2");
    // Killed at once: what was answered is kept.
    g.process.kill();
    drop(g);
    std::fs::write(dir.at("dynamic-whitelist.yml"), "").unwrap();
    let g = Gate::start(dir.path(), &env, &[]);
    g.expect(&["198.51.100.1", "2001:db8::/64", "198.51.100.2", "10.0.0.0/8"]);
    let (code, said) = g.command(&["grant", "revoke", "198.51.100.1"]);
    assert_eq!(code, 0, "{said}");
    g.expect(&["2001:db8::/64", "198.51.100.2", "10.0.0.0/8"]);
    drop(g);
    // The file still names nobody who was revoked, and what is in it is not taken over a second time.
    std::fs::write(dir.at("dynamic-whitelist.yml"), old).unwrap();
    let g = Gate::start(dir.path(), &env, &[]);
    g.expect(&["2001:db8::/64", "198.51.100.2", "10.0.0.0/8"]);
}

#[test]
fn a_grant_ends_by_itself() {
    let dir = Dir::new("ttl");
    let g = Gate::start(dir.path(), &[("GRANT_TTL", "2s")], &[]);
    g.mirror("198.51.100.1");
    g.expect(&["198.51.100.1"]);
    g.expect(&["255.255.255.255"]);
    let (_, said) = g.command(&["audit"]);
    assert!(said.contains("given") && said.contains("expired"), "{said}");
}

/// Two upstreams that behave as Immich and Nextcloud do, and one that is broken.
fn share(path: &str, up: std::net::SocketAddr) -> String {
    format!("/verify_share_request?protocol=http&container_name_port={up}&x={path}")
}

fn ask(g: &Gate, up: std::net::SocketAddr, uri: &str, guest: &str) -> u16 {
    request(
        g.addrs[0],
        "GET",
        &share("", up),
        &[("X-Forwarded-For", guest), ("X-Forwarded-Uri", uri), ("X-Forwarded-Host", "photos.example.com")],
    )
    .0
}

#[test]
fn share_links_are_checked_at_named_upstreams_only_and_fast() {
    let dir = Dir::new("share");
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let immich = answering(move |head| {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(head.to_lowercase().contains("host: photos.example.com"), "{head}");
        if head.starts_with(&format!("GET /share/{IMMICH} ")) { (200, "album".into()) } else { (404, String::new()) }
    });
    let redirects =
        answering(|head| if head.starts_with("GET /login") { (200, String::new()) } else { (302, String::new()) });
    let anything = answering(|_| (200, "app".into()));
    let unnamed = answering(|_| panic!("an upstream that is not named was asked"));
    let named = format!("http://{immich},redirects=http://{redirects},anything=http://{anything}")
        .replace("http://127.0.0.1", "immich=http://127.0.0.1")
        .replace("redirects=immich=", "redirects=")
        .replace("anything=immich=", "anything=");
    let g = Gate::start(dir.path(), &[("SHARE_UPSTREAMS", &named), ("TRAEFIK_THROTTLE", "0s")], &[]);
    let link = format!("/share/{IMMICH}");
    assert_eq!(ask(&g, immich, &link, "198.51.100.1"), 200);
    // The answer came when the file had it.
    assert_eq!(g.entries(), ["198.51.100.1"]);
    // Behind a second proxy a live link is learned too.
    assert_eq!(ask(&g, immich, &link, "198.51.100.2, 172.18.0.5"), 200);
    g.expect(&["198.51.100.1", "198.51.100.2"]);
    let before = asked.load(Ordering::SeqCst);
    let dead = format!("/share/{}", IMMICH.replace('T', "U"));
    for _ in 0..5 {
        assert_eq!(ask(&g, immich, &dead, "198.51.100.3"), 403);
    }
    assert_eq!(asked.load(Ordering::SeqCst) - before, 1, "a dead link is asked for once");
    assert_eq!(ask(&g, redirects, "/s/aBcDeFgHiJkLmNo", "198.51.100.3"), 403, "a redirect to a login is no live link");
    assert_eq!(
        ask(&g, anything, "/s/aBcDeFgHiJkLmNo", "198.51.100.3"),
        403,
        "an upstream that accepts anything proves nothing"
    );
    wait("it is loud", || g.process.logged("links that do not exist").is_some());
    assert_eq!(ask(&g, unnamed, &link, "198.51.100.3"), 403);
    wait("the line to add is logged", || g.process.logged(&format!(",http://{unnamed}")).is_some());
    for bad in ["/", "/share/short", "/share/../api/server/about", "/api/users", "/share/aaaaaaaa%2f..%2f.."] {
        assert_eq!(ask(&g, immich, bad, "198.51.100.3"), 403, "{bad}");
    }
    assert_eq!(g.entries(), ["198.51.100.1", "198.51.100.2"]);
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("links that do not exist") && said.contains("SHARE_UPSTREAMS"), "{said}");
    // A thousand guesses cost the upstream a handful of questions.
    let before = asked.load(Ordering::SeqCst);
    for n in 0..60 {
        let guess = format!("/share/{n:02}{}", &IMMICH[2..]);
        assert_eq!(ask(&g, immich, &guess, "198.51.100.66"), 403);
    }
    assert!(asked.load(Ordering::SeqCst) - before <= 20);
}

#[test]
fn a_slow_upstream_blocks_nobody_and_is_given_up() {
    let _turn = stage::alone();
    let dir = Dir::new("slow");
    let slow = answering(|_| {
        std::thread::sleep(Duration::from_secs(8));
        (200, String::new())
    });
    let g = Gate::start(dir.path(), &[("SHARE_UPSTREAMS", &format!("slow=http://{slow}"))], &[]);
    let at = g.addrs[0];
    let waits = std::thread::spawn(move || {
        let began = Instant::now();
        let status = request(
            at,
            "GET",
            &share("", slow),
            &[("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-Uri", "/s/aBcDeFgHiJkLmNo")],
        )
        .0;
        (status, began.elapsed())
    });
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    g.mirror("198.51.100.2");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let (status, took) = waits.join().unwrap();
    assert_eq!(status, 403);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn with_a_scope_a_guest_enters_one_service_and_not_the_others() {
    let dir = Dir::new("scope");
    let up = answering(|head| if head.contains(IMMICH) { (200, String::new()) } else { (404, String::new()) });
    let g = Gate::start(
        dir.path(),
        &[
            ("SHARE_UPSTREAMS", &format!("immich=http://{up}")),
            ("SHARE_SCOPE", "service"),
            ("DEFAULT_SOURCE_RANGE", "10.0.0.0/8"),
        ],
        &[],
    );
    g.mirror("198.51.100.1");
    assert_eq!(ask(&g, up, &format!("/share/{IMMICH}"), "198.51.100.9"), 200);
    let file = g.file();
    let (all, photos) = file.split_once("dynamic-whitelist-immich:").unwrap();
    assert!(all.contains("198.51.100.1") && !all.contains("198.51.100.9"), "{file}");
    assert!(
        photos.contains("198.51.100.1") && photos.contains("198.51.100.9") && photos.contains("10.0.0.0/8"),
        "{file}"
    );
}

#[test]
fn wrong_settings_say_what_to_do_and_exit_2() {
    let dir = Dir::new("wrong");
    for (k, v, says) in [
        ("MAX_IP_LEN", "many", "whole number"),
        ("MAX_IP_LEN", "0", "MAX_IP_LEN=0 would forget everybody"),
        ("DEFAULT_SOURCE_RANGE", "10.0.0.0/33", "DEFAULT_SOURCE_RANGE"),
        ("DEFAULT_SOURCE_RANGE", "192.0.2.9-192.0.2.1", "192.0.2.9-192.0.2.1"),
        ("DEFAULT_SOURCE_RANGE", "10.0.0.0/8,home.example.net", "dns:home.example.net"),
        ("TRUSTED_PROXIES", "traefik", "TRUSTED_PROXIES"),
        ("SHARE_UPSTREAMS", "immich", "http://immich_server:2283"),
        ("TRAEFIK_API", "traefik", "http://traefik:8080"),
        ("PROBE_URLS", "ha", "https://ha.example.com"),
        // Nobody typed --ttl.
        ("GRANT_TTL", "7", "invalid value '7' for 'GRANT_TTL'"),
        ("LEARN_PRIVATE", "perhaps", "for 'LEARN_PRIVATE'"),
        ("IPV4_PREFIX", "8", "for 'IPV4_PREFIX'"),
    ] {
        let Outcome { code, err: said, .. } =
            Outcome::of(Gate::command_in(dir.path(), &["--listen", "127.0.0.1:0"]).env(k, v));
        assert!(code == 2 && said.contains("error: ") && said.contains(says), "{k}={v}: {said}");
        assert!(!said.contains("--ttl") && !dir.at("state").exists(), "{k}={v}: {said}");
    }
    // A flag that was typed is named, whatever the environment holds beside it.
    let out = Outcome::of(command(&["gatekeeper", "--ttl", "7"]).env("GRANT_TTL", "7d"));
    assert!(out.err.contains("for '--ttl"), "{out:?}");
}

#[test]
fn variables_are_taken_as_compose_files_write_them() {
    let dir = Dir::new("compose");
    let up = answering(|head| if head.contains(IMMICH) { (200, String::new()) } else { (404, String::new()) });
    let g = Gate::start(
        dir.path(),
        &[
            // The list form of Docker Compose keeps the quotes; an unset variable of its own becomes an empty one.
            ("MAX_IP_LEN", "\"2\""),
            ("SHARE_UPSTREAMS", &format!("'http://{up}'")),
            ("DEFAULT_SOURCE_RANGE", "\"192.0.2.8-192.0.2.11, 10.1.2.3/8\""),
            ("GRANT_TTL", ""),
            ("TRAEFIK_API", "\"\""),
            ("PORTCULLIS_EVICT", "\"first-seen\""),
            ("LEARN_PRIVATE", "yes"),
            // A pool of a carrier: the proof comes from one address, the next connection from another.
            ("IPV4_PREFIX", "24"),
        ],
        &["--check-listen", "127.0.0.1:0"],
    );
    assert_eq!(ask(&g, up, &format!("/share/{IMMICH}"), "198.51.100.7"), 200);
    for phone in ["203.0.113.7", "192.168.7.7", "9.9.9.9"] {
        g.mirror(phone);
    }
    // Two places, and the guest's own.
    g.expect(&["198.51.100.0/24", "192.168.7.0/24", "9.9.9.0/24", "192.0.2.8/30", "10.0.0.0/8"]);
    let check = |ip: &str| request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &[("X-Forwarded-For", ip)]).0;
    assert_eq!((check("9.9.9.77"), check("9.9.8.77")), (200, 403));
}

#[test]
fn people_add_show_extend_and_revoke_and_the_audit_log_finds_changes() {
    let dir = Dir::new("hands");
    let g = Gate::start(dir.path(), &[("MAX_IP_LEN", "1"), ("DOCTOR_ACCEPT", "list-full")], &[]);
    let ok = |args: &[&str]| g.ok(args);
    ok(&["grant", "add", "203.0.113.0/28", "--pin", "--principal", "office"]);
    g.mirror("198.51.100.77");
    g.mirror("198.51.100.1");
    // Pinned stays, the one place goes to the newcomer.
    g.expect(&["203.0.113.0/28", "198.51.100.1"]);
    wait("the enforcer has it", || ok(&["lists", "show", "dynamic-whitelist"]).contains("has it"));
    let shown = ok(&["lists", "show", "dynamic-whitelist"]);
    assert!(
        shown.contains("office") && shown.contains("mtls") && shown.contains("pinned") && shown.contains("has it"),
        "{shown}"
    );
    assert!(ok(&["lists"]).contains("dynamic-whitelist"));
    ok(&["grant", "extend", "198.51.100.1", "--for", "never"]);
    let (code, said) = g.command(&["explain", "203.0.113.3"]);
    assert!(code == 0 && said.contains("allowed") && said.contains("office"), "{said}");
    let (code, said) = g.command(&["explain", "192.0.2.3"]);
    assert!(code == 3 && said.contains("refused"), "{said}");
    ok(&["grant", "revoke", "203.0.113.0/24"]);
    g.expect(&["198.51.100.1"]);
    let (code, said) = g.command(&["grant", "revoke", "203.0.113.1"]);
    assert!(code == 1 && said.contains("hint:"), "{said}");
    let (code, said) = g.command(&["grant", "add", "nonsense"]);
    assert!(code == 1 && said.contains("nonsense"), "{said}");
    assert!(ok(&["audit"]).contains("revoked"));
    assert!(ok(&["audit", "verify"]).contains("none changed"));
    let log = dir.at("state/audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(dir.at("forged"), text.replacen("203.0.113", "203.0.114", 1)).unwrap();
    let (code, said) = g.command(&["audit", "verify", dir.at("forged").to_str().unwrap()]);
    assert!(code == 1 && said.contains("line 1"), "{said}");
    // Nothing wrong so far but nothing hidden either.
    wait("nothing wrong is found", || g.command(&["doctor"]).0 == 0);
}

#[test]
fn a_second_gate_on_the_same_directory_is_refused() {
    let dir = Dir::new("second");
    let _g = Gate::start(dir.path(), &[], &[]);
    let Outcome { code, err: said, .. } = Outcome::of(&mut Gate::command_in(dir.path(), &["--listen", "127.0.0.1:0"]));
    assert!(code == 1 && said.contains("another gate"), "{said}");
}

#[test]
fn the_check_endpoint_answers_by_the_list_and_forgets_at_once() {
    let dir = Dir::new("check");
    let g = Gate::start(dir.path(), &[("DEFAULT_SOURCE_RANGE", "192.0.2.0/24")], &["--check-listen", "127.0.0.1:0"]);
    let check = |ip: &str, list: &str| {
        request_full(g.addrs[1], "GET", &format!("/v1/check/{list}"), &[("X-Forwarded-For", ip)])
    };
    // A stranger hears of no list.
    let (status, head, why) = check("198.51.100.1", "dynamic-whitelist");
    assert!(
        status == 403 && why == "refused\n" && !head.contains("x-gate") && !head.contains("whitelist"),
        "{head} {why}"
    );
    // A certificate that the proxy reports is a proof, with a name; none is none.
    let learn = |headers: &[(&str, &str)], query: &str| {
        request_full(g.addrs[1], "GET", &format!("/v1/learn/dynamic-whitelist{query}"), headers)
    };
    assert_eq!(learn(&[("X-Forwarded-For", "198.51.100.1")], "").0, 403);
    assert_eq!(
        learn(
            &[("X-Forwarded-For", "198.51.100.1"), ("X-Gate-Cert-Subject", "CN=anna"), ("X-Gate-Cert-Fp", "ab12")],
            ""
        )
        .0,
        200
    );
    // Which header is the proof is configuration: nothing in the address of a request chooses it.
    let info = ("X-Forwarded-Tls-Client-Cert-Info", "Subject%3D%22CN%3Dbert%22%3BSerialNumber%3D%2217%22");
    assert_eq!(learn(&[("X-Forwarded-For", "198.51.100.2"), info], "?cert=traefik").0, 403);
    let both =
        [("X-Forwarded-For", "198.51.100.1"), info, ("X-Gate-Cert-Subject", "CN=anna"), ("X-Gate-Cert-Fp", "ab12")];
    assert!(learn(&both, "?cert=traefik").1.contains("x-gate-user: CN=anna"));
    let (status, head, _) = check("198.51.100.1", "dynamic-whitelist");
    assert!(status == 200 && head.contains("x-gate-user: CN=anna") && head.contains("mtls"), "{head}");
    assert_eq!(check("198.51.100.2", "dynamic-whitelist").0, 403);
    assert_eq!(check("192.0.2.9", "dynamic-whitelist").0, 200);
    assert_eq!(check("192.0.2.9", "other").0, 403);
    assert_eq!(g.command(&["grant", "revoke", "198.51.100.1"]).0, 0);
    assert_eq!(check("198.51.100.1", "dynamic-whitelist").0, 403);
    let (status, metrics) = request(g.addrs[1], "GET", "/metrics", &[]);
    assert!(status == 200 && metrics.contains("portcullis_gate_grants{list=\"dynamic-whitelist\"} 0"), "{metrics}");
    assert_eq!(request(g.addrs[1], "GET", "/healthz", &[]).0, 200);
}

#[test]
fn a_file_of_somebody_else_is_never_written_over() {
    let own = "http:\n  routers:\n    ha:\n      rule: Host(`ha.example.com`)\n  middlewares:\n    dynamic-whitelist:\n      ipWhiteList:\n        sourceRange:\n          - 10.0.0.0/8\n";
    for (file, flag, text) in [
        ("http.yml", "--file", own),
        ("server.conf", "--nginx-file", "server { listen 80; }\n"),
        ("hosts.map", "--haproxy-map", "example.com backend\n"),
        ("list.sh", "--list-file", "#!/bin/sh\necho hi\n"),
    ] {
        let dir = Dir::new("not-ours");
        std::fs::write(dir.at(file), text).unwrap();
        let mut c = Gate::command_in(dir.path(), &["--listen", "127.0.0.1:0", flag, file]);
        if flag == "--haproxy-map" {
            c.args(["--haproxy-socket", "haproxy.sock"]);
        }
        let Outcome { code, err: said, .. } = Outcome::of(&mut c);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("is not the gate's to write") && said.contains("hint: "), "{said}");
        assert_eq!(std::fs::read_to_string(dir.at(file)).unwrap(), text);
    }
    // A folder that Docker made for a file that was missing.
    let dir = Dir::new("folder");
    std::fs::create_dir(dir.at("dynamic-whitelist.yml")).unwrap();
    let said = Outcome::of(&mut Gate::command_in(dir.path(), &["--listen", "127.0.0.1:0"])).err;
    assert!(said.contains("is a folder") && said.contains("mount the folder around it"), "{said}");
}

/// Whoever reaches the place of mirrored requests puts any address on the list.
#[test]
fn nobody_but_this_machine_teaches_unless_asked_for() {
    let start = |args: &[&str]| {
        let dir = Dir::new("teaches");
        let mut c = Gate::command_in(dir.path(), args);
        c.env_remove("container");
        (Process::start("gate", c), dir)
    };
    let (mut gate, dir) = start(&["--check-listen", "127.0.0.1:0"]);
    wait_or(|| gate.logged("listener=\"check endpoint\"").is_some(), || gate.output());
    assert!(gate.logged("no mirrored requests are taken").is_some(), "{}", gate.output());
    assert!(gate.logged("mirrored requests for").is_none(), "{}", gate.output());
    assert!(!dir.at("dynamic-whitelist.yml").exists(), "no Traefik reads it");
    gate.stop();
    let (mut gate, _dir) = start(&["--listen", "none", "--check-listen", "127.0.0.1:0"]);
    wait_or(|| gate.logged("listener=\"check endpoint\"").is_some(), || gate.output());
    assert!(gate.logged("mirrored requests for").is_none(), "{}", gate.output());
    gate.stop();
    let marks = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    if marks.iter().all(|m| !std::path::Path::new(m).exists()) && std::net::TcpListener::bind("127.0.0.1:5000").is_ok()
    {
        let (gate, _dir) = start(&[]);
        wait_or(|| gate.logged("addr=127.0.0.1:5000").is_some(), || gate.output());
    }
}
