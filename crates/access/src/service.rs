//! What a visitor wants to reach, and which list guards it. In: a name as people say it. Out: the names of the lists
//! that may guard it, and the verdict of the first that exists.

use std::fmt;
use std::str::FromStr;

use crate::{ListId, View};
use addr::{Addr, Authority, Host};

use crate::admit::{Ask, Verdict, admit};

/// Something behind a door of an edge.
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

/// Which list guards a service, and why that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The lists that may guard it, most specific first.
    pub candidates: Vec<String>,
    /// The first of them that the view holds; `None`: nobody passes.
    pub list: Option<ListId>,
}

impl Service {
    /// The names of the lists that may guard it, most specific first: its own list stands in the place of the plane's.
    #[must_use]
    pub fn lists(&self) -> Vec<String> {
        match self {
            Service::Control => vec!["control".to_string()],
            Service::Data => vec!["data".to_string()],
            Service::Port(port) => vec![format!("port:{port}"), "data".to_string()],
            Service::Host(host) => vec![format!("host:{host}"), "data".to_string()],
            Service::Token(name) => vec![format!("token:{name}"), "control".to_string()],
        }
    }

    /// The list that guards it in this view.
    #[must_use]
    pub fn guard(&self, view: &View) -> Guard {
        let candidates = self.lists();
        let list = candidates.iter().find_map(|name| view.id(name));
        Guard { candidates, list }
    }

    /// Judges an address that wants to reach it.
    pub fn admit(&self, view: &View, addr: Addr) -> Verdict {
        // A place that no view holds, so that a service without a list refuses.
        let list = self.guard(view).list.unwrap_or(ListId(u32::MAX));
        admit(view, Ask { addr, list })
    }
}

impl Guard {
    /// Which list decides and why that one, as a sentence without a final line end.
    #[must_use]
    pub fn explain(&self, view: &View, service: &Service) -> String {
        let Some(list) = self.list.and_then(|id| view.list(id)) else {
            return format!("{service} has no list, so nobody passes");
        };
        match self.candidates.as_slice() {
            [only] => format!("list `{only}` guards {service}"),
            [own, ..] if *own == list.name => format!("list `{own}` guards {service} in the place of the plane's"),
            [own, ..] => format!("list `{}` guards {service}, which has no list `{own}` of its own", list.name),
            [] => String::new(),
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
        if let Some(name) = text.trim().strip_prefix("token:").filter(|n| !n.is_empty()) {
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
    use crate::{List, ViewBuilder};
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
        let judge =
            |service: &str, addr: &str| service.parse::<Service>().unwrap().admit(&v, addr.parse().unwrap()).is_allow();
        assert!(judge("data", "10.1.1.1") && judge("80", "10.1.1.1") && judge("b.example", "10.1.1.1"));
        assert!(judge("22", "192.0.2.1") && !judge("22", "10.1.1.1"), "the port's list replaces the plane's");
        assert!(!judge("a.example", "10.1.1.1"), "an empty list lets nobody in");
        assert!(!judge("control", "10.1.1.1"));
        let none = View::default();
        assert!(!Service::Data.admit(&none, "10.1.1.1".parse().unwrap()).is_allow(), "before the first view");
    }

    #[test]
    fn says_which_list_and_why() {
        let v = view(&[("data", "all"), ("port:22", "none")]);
        let say = |s: &str| {
            let s: Service = s.parse().unwrap();
            s.guard(&v).explain(&v, &s)
        };
        assert_eq!(say("data"), "list `data` guards the data plane");
        assert_eq!(say("22"), "list `port:22` guards port 22 in the place of the plane's");
        assert_eq!(say("23"), "list `data` guards port 23, which has no list `port:23` of its own");
        assert_eq!(say("control"), "the control plane has no list, so nobody passes");
    }
}
