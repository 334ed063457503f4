//! The first steps as README and manual print them, typed on the machines that they name, in their order.

use stage::becomes;
use stage::command::Server;
use stage::mesh::{CONTROL, DNS, Mesh, SETTLED, SOON, ip, to};
use stage::netns::dns::{Dns, at, resolve};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::Tailscaled;
use stage::pages::{commands, recipe};

/// Types one line after the other: commands of the server at the server, the rest on the office's machine if the line
/// speaks of routes or of the kernel, else on each device.
fn typed(lines: &[String], mesh: &Mesh, key: &mut String, devices: &[&Tailscaled], office: &Tailscaled) {
    let url = format!("http://{CONTROL}:8080");
    for line in lines {
        let line = line.replace("URL", &url).replace("KEY", key);
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        match line.split_whitespace().next().unwrap_or_default() {
            // It runs already, under this very URL.
            "portcullis" if words[0] == "control" => assert!(line.contains(&url), "{line}"),
            "portcullis" => {
                let said = mesh.control.ok(&words);
                if words[..2] == ["keys", "create"] {
                    *key = said.trim().to_string();
                }
            }
            "sysctl" => {
                let out = office.host().command("sysctl").args(&words).output().unwrap();
                assert!(out.status.success(), "{line}: {out:?}");
            }
            "tailscale" if line.contains("--advertise-") => {
                let said = office.said(&words).unwrap();
                assert!(!said.contains("forwarding is disabled"), "{line}: {said}");
            }
            "tailscale" => devices.iter().for_each(|d| drop(d.said(&words).unwrap())),
            other => panic!("nobody knows {other}: {line}"),
        }
    }
}

fn partner(steps: &[Vec<String>], accept: bool) {
    let Some(mesh) = Mesh::new() else { return };
    let site = mesh.world.host("partner", "198.51.100.7");
    site.only_from(ip("203.0.113.10"));
    let _service = Service::start(&site, to("[::]:443"));
    let client = |name: &str, public: &str| Tailscaled::start(&mesh.world.host(name, public));
    let (laptop, phone) = (client("laptop", "203.0.113.20"), client("phone", "203.0.113.21"));
    // Its host has another name than the recipe gives it.
    let office = client("vm", "203.0.113.10");
    let mut key = String::new();
    for lines in steps {
        typed(lines, &mesh, &mut key, &[&laptop, &phone], &office);
    }
    for device in [&laptop, &phone] {
        if accept {
            device.cli(&["set", "--accept-routes"]).unwrap();
        }
        becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(device.host(), to("198.51.100.7:443"), SOON));
    }
    assert!(mesh.control.ok(&["routes", "check", "198.51.100.7"]).contains("leaves from: 203.0.113.10"));
}

#[test]
fn the_readmes_partner_as_printed() {
    partner(&[commands("partner")], false);
}

#[test]
fn the_manuals_partner_as_printed() {
    partner(&[commands("control-start"), commands("partner-office")], true);
}

/// A SaaS by name, with the policy and the lines of the README; what the office's machine forwards is switched on "as
/// above".
#[test]
fn the_readmes_saas_as_printed() {
    let Some(mesh) = Mesh::new() else { return };
    let dns = Dns::start(&mesh.world.host("dns", DNS));
    for (name, addr) in [("www.crm.example", "198.51.100.7"), ("eu.crm.example", "198.51.100.8")] {
        dns.set(name, 60, &[at(addr)]);
    }
    let site = mesh.world.host("crm", "198.51.100.7");
    site.ip(&["addr", "add", "198.51.100.8/24", "dev", "eth0"]);
    site.only_from(ip("203.0.113.10"));
    let _service = Service::start(&site, to("[::]:443"));
    let client = |name: &str, public: &str| {
        let host = mesh.world.host(name, public);
        host.resolver(&[ip(DNS)]);
        Tailscaled::start(&host)
    };
    let (laptop, office) = (client("laptop", "203.0.113.20"), client("vm", "203.0.113.10"));
    let own = mesh.control.key("ada@example.com", &[]);
    mesh.join(&laptop, &own, &[]);
    mesh.control.policy(&recipe("saas-policy"));
    let as_above: Vec<String> = commands("partner").into_iter().filter(|l| l.starts_with("sysctl")).collect();
    assert_eq!(as_above.len(), 1);
    let mut key = String::new();
    let lines = commands("saas-commands");
    typed(&[as_above, lines].concat(), &mesh, &mut key, &[&laptop], &office);
    for (name, addr) in [("www.crm.example", "198.51.100.7"), ("eu.crm.example", "198.51.100.8")] {
        let asked = || resolve(laptop.host(), ip("100.100.100.100"), name, false, SOON);
        becomes(SETTLED, &Ok(vec![ip(addr)]), asked);
        becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(laptop.host(), (ip(addr), 443).into(), SOON));
    }
    let shown = mesh.control.ok(&["apps", "show", "crm"]);
    assert!(shown.contains("www.crm.example") && shown.contains("connector"), "{shown}");
}
