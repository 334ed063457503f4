//! Names: those of the members, those that an administrator adds, and domains that another server knows.

use std::time::Duration;

use stage::becomes;
use stage::command::Server;
use stage::mesh::{Mesh, SETTLED, ip};
use stage::netns::dns::{Dns, at, resolve};
use stage::netns::tailscaled::Tailscaled;

#[test]
fn members_are_found_by_name_and_everything_else_as_before() {
    let Some(mesh) = Mesh::new() else { return };
    let world_dns = Dns::start(&mesh.world.host("dns", "192.0.2.53"));
    let corp_dns = Dns::start(&mesh.world.host("corp", "192.0.2.54"));
    world_dns.set("site.test", 5, &[at("198.51.100.7")]);
    corp_dns.set("wiki.corp.test", 5, &[at("198.51.100.8")]);
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let host = mesh.world.host("laptop", "203.0.113.20");
    host.resolver(&[ip("192.0.2.53")]);
    let laptop = Tailscaled::start(&host);
    mesh.join(&laptop, &key, &[]);
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let ask = |name: &str| {
        // As any program does: through the host's own resolver file, with its search list.
        let out = host.run("getent", &["ahostsv4", name]);
        String::from_utf8_lossy(&out.stdout).split_whitespace().next().map(ToString::to_string)
    };
    let name = server.status()["Self"]["DNSName"].as_str().unwrap().trim_end_matches('.').to_string();
    becomes(SETTLED, &Some(server.v4().to_string()), || ask("server"));
    assert_eq!(ask(&name), Some(server.v4().to_string()));
    assert_eq!(ask("site.test"), Some("198.51.100.7".to_string()));
    assert_eq!(ask("wiki.corp.test"), None);
    // Official clients give members' IPv4 addresses alone, unless an attribute asks for both; a question is no error.
    assert!(resolve(&host, ip("100.100.100.100"), &name, true, Duration::from_secs(2)).is_ok());
    assert!(world_dns.asked(&name).is_empty(), "names of members are nobody else's business");

    control.ok(&["dns", "split", "corp.test", "192.0.2.54"]);
    becomes(SETTLED, &Some("198.51.100.8".to_string()), || ask("wiki.corp.test"));
    assert_eq!(ask("site.test"), Some("198.51.100.7".to_string()));
    control.ok(&["dns", "add", "printer.lan.test", "10.0.0.9"]);
    becomes(SETTLED, &Some("10.0.0.9".to_string()), || ask("printer.lan.test"));
}
