//! What a visitor wants to reach, and which list guards it: written here and nowhere else. In: a name as people say it,
//! or a list's. Out: the service, the name of its list, and that of its plane.

use std::fmt;
use std::str::FromStr;

use addr::{Authority, Host};

/// Something that an edge guards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The control plane, which clients connect to.
    Control,
    /// The data plane, where nothing more special is said.
    Data,
    /// A TCP port of the edge.
    Port(u16),
    /// A host of the HTTP plane, in lower case.
    Host(String),
    /// The clients of a token, which pass the control plane's list too.
    Token(String),
}

/// What stands before the name of a port, a host or a token in its list's name.
const PORT: &str = "port:";
const HOST: &str = "host:";
const TOKEN: &str = "token:";

impl Service {
    /// The name of its own list: what guards it if the view holds such a list.
    #[must_use]
    pub fn list(&self) -> String {
        match self {
            Service::Control => "control".to_string(),
            Service::Data => "data".to_string(),
            Service::Port(port) => format!("{PORT}{port}"),
            Service::Host(host) => format!("{HOST}{host}"),
            Service::Token(name) => format!("{TOKEN}{name}"),
        }
    }

    /// The service whose own list has this name; `None`: the list guards no service by itself.
    #[must_use]
    pub fn of_list(name: &str) -> Option<Service> {
        match name {
            "control" => return Some(Service::Control),
            "data" => return Some(Service::Data),
            _ => {}
        }
        if let Some(port) = name.strip_prefix(PORT) {
            return port.parse().ok().map(Service::Port).filter(|s| s.list() == name);
        }
        let host = name.strip_prefix(HOST).map(|h| Service::Host(h.to_string()));
        host.or_else(|| name.strip_prefix(TOKEN).map(|t| Service::Token(t.to_string())))
    }

    /// The plane that it belongs to, whose list guards it if it has none of its own.
    #[must_use]
    pub fn plane(&self) -> Service {
        match self {
            Service::Control | Service::Token(_) => Service::Control,
            Service::Data | Service::Port(_) | Service::Host(_) => Service::Data,
        }
    }
}

impl FromStr for Service {
    type Err = String;

    /// Reads `control`, `data`, `port:2222`, `host:app.example.com`, a port alone or a host alone (a port behind it
    /// does not count).
    fn from_str(text: &str) -> Result<Service, String> {
        let wanted = || {
            format!(
                "`{text}` is not a service; wanted `control`, `data`, `port:2222`, `host:app.example.com` or `token:laptop`"
            )
        };
        let t = text.trim().to_ascii_lowercase();
        let port = |p: &str| p.parse::<u16>().ok().filter(|n| *n != 0 && p.bytes().all(|b| b.is_ascii_digit()));
        if let Some(name) = text.trim().strip_prefix(TOKEN).filter(|n| !n.is_empty()) {
            return Ok(Service::Token(name.to_string()));
        }
        match t.split_once(':') {
            Some(("port", p)) => port(p).map(Service::Port).ok_or_else(wanted),
            Some(("host", h)) => host(h).map(Service::Host).ok_or_else(wanted),
            _ if t == "control" => Ok(Service::Control),
            _ if t == "data" => Ok(Service::Data),
            _ => port(&t).map(Service::Port).or_else(|| host(&t).map(Service::Host)).ok_or_else(wanted),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Control => f.write_str("the control plane"),
            Service::Data => f.write_str("the data plane"),
            Service::Port(port) => write!(f, "port {port}"),
            Service::Host(host) => write!(f, "host {host}"),
            Service::Token(name) => write!(f, "token {name}"),
        }
    }
}

/// A host in its one form; IPv6 with or without brackets, a port behind it does not count.
fn host(text: &str) -> Option<String> {
    let alone = Host::parse(text);
    alone.or_else(|| Authority::parse(text).map(|a| a.host)).map(|h| h.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{List, View, ViewBuilder};
    use addr::AddrSet;

    fn view(lists: &[(&str, &str)]) -> View {
        let mut b = ViewBuilder::default();
        for (name, entries) in lists {
            let set = AddrSet::new(addr::parse_list(entries).unwrap().prefixes);
            b.add(List { name: (*name).to_string(), set, source: "test".to_string() });
        }
        b.build(1)
    }

    #[test]
    fn names_as_people_say_them() {
        for (text, service) in [
            ("control", Service::Control),
            ("DATA", Service::Data),
            ("port:2222", Service::Port(2222)),
            ("2222", Service::Port(2222)),
            ("token:Laptop", Service::Token("Laptop".to_string())),
            ("host:App.example.com.", Service::Host("app.example.com".into())),
            ("app.example.com:9443", Service::Host("app.example.com".into())),
            ("host:control", Service::Host("control".into())),
        ] {
            assert_eq!(text.parse::<Service>().unwrap(), service, "{text}");
        }
        for bad in ["", "port:", "port:0", "port:70000", "70000", "host:", "a b", "port:+1", "fü"] {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
    }

    #[test]
    fn its_own_list_stands_in_the_place_of_the_planes() {
        let v =
            view(&[("control", "none"), ("data", "10.0.0.0/8"), ("port:22", "192.0.2.1"), ("host:a.example", "none")]);
        let judge = |service: &str, addr: &str| v.judge(&service.parse().unwrap(), addr.parse().unwrap()).is_allow();
        assert!(judge("data", "10.1.1.1") && judge("80", "10.1.1.1") && judge("b.example", "10.1.1.1"));
        assert!(judge("22", "192.0.2.1") && !judge("22", "10.1.1.1"), "the port's list replaces the plane's");
        assert!(!judge("a.example", "10.1.1.1"), "an empty list lets nobody in");
        assert!(!judge("control", "10.1.1.1"));
        let none = View::default();
        assert!(!none.judge(&Service::Data, "10.1.1.1".parse().unwrap()).is_allow(), "before the first view");
    }

    #[test]
    fn says_which_list_and_why() {
        let v = view(&[("data", "all"), ("port:22", "none")]);
        let say = |s: &str| {
            let s: Service = s.parse().unwrap();
            v.explain_guard(&s)
        };
        assert_eq!(say("data"), "list `data` guards the data plane");
        assert_eq!(say("22"), "list `port:22` guards port 22 in the place of the plane's");
        assert_eq!(say("23"), "list `data` guards port 23, which has no list `port:23` of its own");
        assert_eq!(say("control"), "the control plane has no list, so nobody passes");
    }

    #[test]
    fn a_list_and_its_service_name_each_other() {
        for service in [
            Service::Control,
            Service::Data,
            Service::Port(2222),
            Service::Host("app.example.com".to_string()),
            Service::Token("Laptop".to_string()),
        ] {
            assert_eq!(Service::of_list(&service.list()), Some(service));
        }
        for free in ["home", "port:", "port:022", "port:x", "Data"] {
            assert_eq!(Service::of_list(free), None, "{free}");
        }
    }
}
