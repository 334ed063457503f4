//! `dns:` entries: a list follows a name, with a small authoritative name server that the test changes.

use stage::command::Server;
use stage::gate::{Gate, Serve};
use stage::http::{request, request_full};
use stage::netns::dns::{Dns, Trouble, at};
use stage::{Dir, wait, wait_or};

/// From now on a name has these addresses, for a second.
fn say(dns: &Dns, name: &str, addrs: &[&str]) {
    dns.set(name, 1, &addrs.iter().map(|a| at(a)).collect::<Vec<_>>());
}

#[test]
fn gatekeepers_source_range_follows_a_name_and_keeps_its_last_good_answer() {
    let dir = Dir::new("dnsenv");
    let dns = Dns::here();
    say(&dns, "home.example.net", &["198.51.100.1", "2001:db8::9", "10.0.0.5"]);
    let servers = dns.addr().to_string();
    let env = [
        ("DEFAULT_SOURCE_RANGE", "192.0.2.0/24,dns:Home.example.net"),
        ("DNS_SERVERS", servers.as_str()),
        ("DNS_LEAST", "1s"),
    ];
    let g = Gate::start(dir.path(), &env, &[]);
    // Both families, IPv6 as wide as the list learns it, no private address.
    wait_or(
        || g.entries() == ["198.51.100.1", "2001:db8::/64", "192.0.2.0/24"],
        || format!("{:?}\n{}", g.entries(), g.process.output()),
    );
    let (_, said) = g.command(&["lists", "show", "dynamic-whitelist"]);
    assert!(said.contains("dns:home.example.net") && said.contains(" dns "), "{said}");
    // It moves: the new address comes, the old one goes, and the other family's with it.
    say(&dns, "home.example.net", &["198.51.100.2"]);
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    // Every kind of failure: the last good answer stays, and it is said.
    let troubles = [(Some(Trouble::Failure), "fail"), (None, "no such name"), (Some(Trouble::Silence), "timed out")];
    for (trouble, why) in troubles {
        match trouble {
            Some(trouble) => dns.trouble("home.example.net", trouble),
            None => dns.remove("home.example.net"),
        }
        wait_or(
            || g.command(&["lists", "show", "dynamic-whitelist"]).1.to_lowercase().contains(why),
            || format!("{why}: {}", g.command(&["lists", "show", "dynamic-whitelist"]).1),
        );
        g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    }
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("dns:home.example.net") && said.contains("fix:"), "{said}");
    assert!(g.process.logged("keeping its last addresses").is_some(), "{}", g.process.output());
    // A restart while the name is silent keeps it too; an answer mends it.
    drop(g);
    let g = Gate::start(dir.path(), &env, &[]);
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    say(&dns, "home.example.net", &["198.51.100.3"]);
    g.expect(&["198.51.100.3", "192.0.2.0/24"]);
    // No longer named: no longer on the list.
    drop(g);
    let g = Gate::start(dir.path(), &[("DEFAULT_SOURCE_RANGE", "192.0.2.0/24")], &[]);
    g.expect(&["192.0.2.0/24"]);
}

#[test]
fn people_add_names_and_take_them_back() {
    let dir = Dir::new("dnshand");
    let dns = Dns::here();
    say(&dns, "home.example.net", &["198.51.100.1"]);
    say(&dns, "office.example.net", &["198.51.100.1", "198.51.100.7"]);
    let servers = dns.addr().to_string();
    let env = [("DNS_SERVERS", servers.as_str()), ("DNS_LEAST", "1s")];
    let mut g = Gate::start(dir.path(), &env, &[]);
    let said = g.ok(&["grant", "add", "dns:home.example.net"]);
    assert!(said.contains("198.51.100.1"), "the first answer is shown: {said}");
    g.expect(&["198.51.100.1"]);
    let said = g.ok(&["grant", "add", "dns:nowhere.example.net"]);
    assert!(said.contains("no such name"), "{said}");
    g.ok(&["grant", "add", "dns:office.example.net", "--for", "4s"]);
    g.expect(&["198.51.100.1", "198.51.100.7"]);
    let (code, said) = g.command(&["explain", "198.51.100.1"]);
    assert!(code == 0 && said.contains("dns:home.example.net") && said.contains("on dns evidence"), "{said}");
    // Killed: it is still followed, and the one for a time ends when it should.
    g.process.kill();
    drop(g);
    let g = Gate::start(dir.path(), &env, &[]);
    g.expect(&["198.51.100.1"]);
    say(&dns, "home.example.net", &["198.51.100.2"]);
    g.expect(&["198.51.100.2"]);
    // Its address alone cannot be revoked: it would be back at once.
    let (code, said) = g.command(&["grant", "revoke", "198.51.100.2"]);
    assert!(code == 1 && said.contains("grant revoke dns:home.example.net"), "{said}");
    g.ok(&["grant", "revoke", "dns:home.example.net"]);
    g.expect(&["255.255.255.255"]);
    let (code, said) = g.command(&["grant", "revoke", "dns:home.example.net"]);
    assert!(code == 1 && said.contains("hint:"), "{said}");
    let (code, said) = g.command(&["grant", "add", "dns:home"]);
    assert!(code == 1 && said.contains("full host name"), "{said}");
}

#[test]
fn answers_that_do_not_count_are_said() {
    let dir = Dir::new("dnspriv");
    let dns = Dns::here();
    say(&dns, "priv.example.net", &["192.168.1.9", "127.0.0.1"]);
    let many: Vec<String> = (1..=21).map(|n| format!("198.51.100.{n}")).collect();
    say(&dns, "many.example.net", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let servers = dns.addr().to_string();
    let g = Gate::start(dir.path(), &[("DNS_SERVERS", servers.as_str()), ("DNS_LEAST", "1s")], &[]);
    let (code, said) = g.command(&["grant", "add", "dns:priv.example.net"]);
    assert!(code == 0 && said.contains("192.168.1.9 does not count: it is a private address"), "{said}");
    assert!(said.contains("127.0.0.1 does not count"), "{said}");
    let (_, said) = g.command(&["lists", "show"]);
    assert!(said.contains("192.168.1.9 does not count"), "{said}");
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("dns:priv.example.net") && said.contains("does not count"), "{said}");
    let (code, said) = g.command(&["grant", "add", "dns:many.example.net"]);
    assert!(code == 0 && said.contains("5 more addresses do not count"), "{said}");
}

#[test]
fn a_file_follows_names_and_reads_them_again() {
    let dir = Dir::new("dnsfile");
    let dns = Dns::here();
    say(&dns, "home.example.net", &["198.51.100.1"]);
    say(&dns, "work.example.net", &["10.1.2.3"]);
    let asking = |dns: &Dns, name: &str, private: bool| {
        format!(
            "http = false\n[lists.family]\nlearn_private = {private}\nstatic = [\"dns:{name}\"]\n[gate]\nlisten = \"127.0.0.1:0\"\ndns_servers = [\"{}\"]\ndns_least = \"1s\"\n",
            dns.addr()
        )
    };
    let config = |name: &str, private: bool| asking(&dns, name, private);
    let s = Serve::start(dir.path(), &config("home.example.net", false), &["listener=\"check endpoint\""]);
    let check = s.at("check endpoint");
    let on = |ip: &str| request(check, "GET", "/v1/check/family", &[("X-Forwarded-For", ip)]).0 == 200;
    wait_or(|| on("198.51.100.1"), || s.process.output());
    let head = request_full(check, "GET", "/v1/check/family", &[("X-Forwarded-For", "198.51.100.1")]).1;
    assert!(head.contains("x-gate-user: dns:home.example.net") && head.contains("dns"), "{head}");
    s.rewrite(&config("work.example.net", false));
    s.ok(&["reload"]);
    wait("the old name's address goes", || !on("198.51.100.1"));
    wait("the new one is asked for", || s.ok(&["lists", "show", "family"]).contains("10.1.2.3"));
    assert!(!on("10.1.2.3"), "a private address is not learnt");
    s.rewrite(&config("work.example.net", true));
    s.ok(&["reload"]);
    wait("unless asked to", || on("10.1.2.3"));
    // Another server is asked at once, and the first one no more.
    let other = Dns::here();
    say(&other, "work.example.net", &["198.51.100.2"]);
    s.rewrite(&asking(&other, "work.example.net", true));
    assert!(s.ok(&["reload"]).contains("name servers"));
    wait("the new server answers", || on("198.51.100.2") && !on("10.1.2.3"));
    let (status, metrics) = request(check, "GET", "/metrics", &[]);
    assert!(
        status == 200 && metrics.contains("portcullis_gate_name_failing{name=\"work.example.net\"} 0"),
        "{metrics}"
    );
}
