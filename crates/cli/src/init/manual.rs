//! What the proxy in front is to be told. In: the manual's pages, whose recipes tests run with the real proxies. Out: the
//! same text with the names and ports of this set-up.

use crate::args::init::Front;

const EDGE: &str = include_str!("../../../../docs/manual/howto/behind-a-proxy.md");
const GATE: &str = include_str!("../../../../docs/manual/gate.md");
const CONTROL: &str = include_str!("../../../../docs/manual/control.md");

/// Where this machine listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) visitors: u16,
    pub(super) clients: u16,
    pub(super) gate: u16,
    pub(super) control: u16,
}

/// The port at which a proxy in front of an edge takes clients; visitors have 443.
pub(super) const CLIENTS_IN_FRONT: u16 = 8443;

/// For an edge.
pub(super) fn edge(front: Front, name: &str, ports: Ports) -> String {
    let of = |recipe: &str| {
        block(EDGE, recipe)
            .replace("example.com:9443", name)
            .replace("example.com:9444", &format!("{name}:{CLIENTS_IN_FRONT}"))
            .replace("for visitors on 9443, for clients on 9444", "for visitors, and for clients")
            .replace("listen 9443", "listen 443")
            .replace("listen 9444", &format!("listen {CLIENTS_IN_FRONT}"))
            .replace("example.com", name)
            .replace("127.0.0.1:9000", &format!("127.0.0.1:{}", ports.visitors))
            .replace("127.0.0.1:9001", &format!("127.0.0.1:{}", ports.clients))
    };
    match front {
        Front::Nginx => of("nginx-front"),
        Front::Caddy => of("caddy-front"),
        Front::None => String::new(),
        Front::Traefik | Front::Haproxy => format!(
            "# {name} leads to http://127.0.0.1:{}, {name}:{CLIENTS_IN_FRONT} to http://127.0.0.1:{}, websockets included",
            ports.visitors, ports.clients
        ),
    }
}

/// For a gate: the proxy asks it about each request.
pub(super) fn gate(front: Front, list: &str, port: u16) -> String {
    let of = |recipe: &str| {
        block(GATE, recipe).replace("dynamic-whitelist", list).replace("127.0.0.1:7070", &format!("127.0.0.1:{port}"))
    };
    match front {
        Front::Nginx => of("check-nginx"),
        Front::Caddy => of("check-caddy"),
        Front::Traefik => of("check-traefik"),
        Front::Haproxy => "# haproxy.cfg\nglobal\n  stats socket /run/haproxy/admin.sock level admin\n# in the frontend\n  http-request deny unless { src,map_ip(/etc/haproxy/family.map) -m found }\n".replace("family", list),
        Front::None => String::new(),
    }
}

/// For a coordination server.
pub(super) fn control(front: Front, name: &str, ports: Ports) -> String {
    let of = |recipe: &str| {
        block(CONTROL, recipe)
            .replace("mesh.example.com", name)
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports.control))
    };
    match front {
        Front::Nginx => of("control-nginx"),
        Front::Caddy => of("control-caddy"),
        Front::Traefik => format!("{}{}", of("control-traefik"), of("control-traefik-routes")),
        Front::Haproxy => format!(
            "# {name} leads to http://127.0.0.1:{}; `Upgrade` and `Connection` are passed on, X-Forwarded-For is set",
            ports.control
        ),
        Front::None => String::new(),
    }
}

/// The block of this name; a test sees that there is one.
fn block(page: &str, name: &str) -> String {
    let opens = |l: &&str| l.starts_with("```") && l.split_whitespace().nth(1) == Some(name);
    let inside = page.lines().skip_while(|l| !opens(l)).skip(1).take_while(|l| !l.starts_with("```"));
    inside.map(|l| format!("{l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_recipe_and_no_name_of_its_own_is_left() {
        let ports = Ports { visitors: 8000, clients: 8123, gate: 7070, control: 8081 };
        for front in [Front::Nginx, Front::Caddy, Front::Traefik, Front::Haproxy] {
            for text in [edge(front, "a.test", ports), control(front, "a.test", ports), gate(front, "family", 7071)] {
                assert!(!text.is_empty(), "{front:?}");
                for left in ["9443", "9444", "9000", "9001", "mesh.example", "dynamic-whitelist", "7070"] {
                    assert!(!text.contains(left), "{front:?}: {left} in\n{text}");
                }
            }
        }
        assert!(edge(Front::Caddy, "a.test", ports).contains("a.test:8443 {"));
        assert!(control(Front::Nginx, "a.test", ports).contains("proxy_pass http://127.0.0.1:8081;"));
    }
}
