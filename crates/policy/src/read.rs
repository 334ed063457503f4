//! From the document's tree to its values. In: HuJSON. Out: a [`Policy`] of which every value has the right form, and
//! everything that has not, with its place; reading goes on after a mistake so that one run shows them all.

mod checks;
mod rules;
mod text;

use addr::Prefix;

use super::hujson::{Item, Json, Member, clip, parse};
use super::language::*;
use super::problem::{Lines, Problem};
use super::who::{self, Who};
use text::name_form;

pub(crate) use text::nearest;

/// Keys of the document; they are matched without regard to case, as the hosted service does.
const SECTIONS: [&str; 21] = [
    "groups",
    "hosts",
    "tagOwners",
    "ipsets",
    "acls",
    "grants",
    "ssh",
    "autoApprovers",
    "nodeAttrs",
    "postures",
    "defaultSrcPosture",
    "tests",
    "sshTests",
    "attrConfig",
    "derpMap",
    "disableIPv4",
    "OneCGNATRoute",
    "randomizeClientPort",
    "lists",
    "services",
    "$schema",
];

/// The grant sources that a list may name under `teachers`, by the evidence of their grants.
const GRANT_SOURCES: [&str; 8] = ["mtls", "share", "login", "knock", "tunnel", "node", "dns", "manual"];

/// The key under which `nodeAttrs` describes app connectors.
const CONNECTORS: &str = "tailscale.com/app-connectors";

/// Longest `checkPeriod` in seconds: 168 hours, as the public documentation of SSH rules says.
const MAX_CHECK_PERIOD: u64 = 168 * 3600;

/// Reads a document; the problems come in the order of the text.
pub(crate) fn read(text: &str) -> (Policy, Vec<Problem>, Vec<Problem>) {
    let mut reader = Reader::new(text);
    let mut policy = Policy::default();
    let (root, problems) = parse(text);
    reader.problems = problems;
    if let Some(root) = root {
        reader.document(&root, &mut policy);
        reader.two_words(&root);
    }
    (policy, reader.problems, reader.tolerated)
}

pub(crate) struct Reader<'a> {
    lines: Lines<'a>,
    pub(crate) problems: Vec<Problem>,
    /// What earlier versions took.
    tolerated: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Reader<'a> {
        Reader { lines: Lines::new(text), problems: Vec::new(), tolerated: Vec::new() }
    }

    fn document(&mut self, root: &Item, p: &mut Policy) {
        for m in self.fields(root, "the policy", &SECTIONS) {
            let v = m.1;
            match m.0 {
                "groups" => p.groups = self.named(v, "group:", |r, i| r.list(i, "users", |r, i| r.user(i))),
                "hosts" => p.hosts = self.hosts(v),
                "tagOwners" => p.tag_owners = self.named(v, "tag:", |r, i| r.list(i, "owners", |r, i| r.who(i))),
                "ipsets" => p.ipsets = self.named(v, "ipset:", |r, i| r.set_steps(i)),
                "acls" => p.acls = Some(self.each(v, "acls", |r, i| r.acl(i))),
                "grants" => p.grants = Some(self.each(v, "grants", |r, i| r.grant(i))),
                "ssh" => p.ssh = self.each(v, "ssh", |r, i| r.ssh(i)),
                "autoApprovers" => p.auto_approvers = self.auto_approvers(v),
                "nodeAttrs" => p.node_attrs = self.each(v, "nodeAttrs", |r, i| r.node_attr(i)),
                "postures" => {
                    p.postures = self.named(v, "posture:", |r, i| r.each(i, "conditions", |r, i| r.condition(i)))
                }
                "defaultSrcPosture" => p.default_src_posture = self.texts(v, "postures"),
                "tests" => p.tests = self.each(v, "tests", |r, i| r.test(i)),
                "sshTests" => p.ssh_tests = self.each(v, "sshTests", |r, i| r.ssh_test(i)),
                "derpMap" => p.derp_map = self.derp_map(v),
                "attrConfig" => drop(self.object(v)),
                "disableIPv4" => p.disable_ipv4 = self.bool(v),
                "randomizeClientPort" => p.randomize_client_port = self.bool(v),
                "OneCGNATRoute" => p.one_cgnat_route = self.one_cgnat_route(v),
                "lists" => p.lists = self.named(v, "", |r, i| r.list_rule(i)),
                "services" => p.services = self.named(v, "svc:", |r, i| r.service(i)),
                _ => {}
            }
        }
    }

    /// `autogroup:member` and `autogroup:members` are the same; the hosted service refuses a document that uses both
    /// (public documentation of autogroups).
    fn two_words(&mut self, root: &Item) {
        let mut first: [Option<usize>; 2] = [None, None];
        let mut open = vec![root];
        while let Some(item) = open.pop() {
            match &item.value {
                Json::Object(o) => open.extend(o.iter().map(|m| &m.item)),
                Json::List(l) => open.extend(l),
                Json::Text(t) => {
                    let Some(rest) = t.trim().strip_prefix("autogroup:member") else { continue };
                    let word = usize::from(rest.starts_with('s'));
                    if matches!(&rest[word..], r if r.is_empty() || r.starts_with(':')) {
                        first[word] = Some(first[word].map_or(item.at, |at| at.min(item.at)));
                    }
                }
                _ => {}
            }
        }
        if let [Some(_), Some(at)] = first {
            let message = "`autogroup:members` beside `autogroup:member`: a policy uses one of the two words";
            self.tolerated.push(self.lines.problem(at, message).hint("write autogroup:member everywhere"));
        }
    }

    // Shapes.

    pub(crate) fn fault(&mut self, at: usize, message: impl Into<String>) {
        self.problems.push(self.lines.problem(at, message));
    }

    pub(crate) fn fault_hint(&mut self, at: usize, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(self.lines.problem(at, message).hint(hint));
    }

    fn at<T>(&self, item: &Item, it: T) -> At<T> {
        At { pos: self.lines.pos(item.at), it }
    }

    fn wrong<T>(&mut self, item: &Item, wanted: &str) -> Option<T> {
        self.fault(item.at, format!("{wanted} was expected, {} came", item.kind()));
        None
    }

    /// The members of an object; `null` is an object without members.
    pub(crate) fn object<'i>(&mut self, item: &'i Item) -> Option<&'i [Member]> {
        match &item.value {
            Json::Object(o) => Some(o),
            Json::Null => Some(&[]),
            _ => self.wrong(item, "an object `{…}`"),
        }
    }

    /// The known fields of an object under their right names. Unknown ones, and the same one twice, are problems.
    pub(crate) fn fields<'i>(
        &mut self,
        item: &'i Item,
        of: &str,
        known: &[&'static str],
    ) -> Vec<(&'static str, &'i Item)> {
        let mut out: Vec<(&'static str, &'i Item)> = Vec::new();
        for m in self.object(item).unwrap_or_default() {
            let Some(name) = known.iter().copied().find(|k| k.eq_ignore_ascii_case(&m.key)) else {
                let message = format!("{of} has no key `{}`", clip(&m.key));
                match nearest(&m.key, known) {
                    Some(k) => self.fault_hint(m.at, message, format!("did you mean `{k}`?")),
                    None => self.fault_hint(m.at, message, format!("known keys are {}", known.join(", "))),
                }
                continue;
            };
            if out.iter().any(|(n, _)| *n == name) {
                self.fault(
                    m.at,
                    format!("the key `{name}` stands twice; upper and lower case make no difference here"),
                );
                continue;
            }
            out.push((name, &m.item));
        }
        out
    }

    /// The items of a list; `null` is an empty list.
    pub(crate) fn items<'i>(&mut self, item: &'i Item, what: &str) -> &'i [Item] {
        match &item.value {
            Json::List(l) => l,
            Json::Null => &[],
            _ => self.wrong(item, &format!("a list `[…]` of {what}")).unwrap_or_default(),
        }
    }

    fn each<T>(&mut self, item: &Item, what: &str, read: impl Fn(&mut Self, &Item) -> Option<T>) -> Vec<T> {
        self.items(item, what).iter().filter_map(|i| read(self, i)).collect()
    }

    fn list<T>(&mut self, item: &Item, what: &str, read: impl Fn(&mut Self, &Item) -> Option<T>) -> Vec<At<T>> {
        self.items(item, what).iter().filter_map(|i| read(self, i).map(|t| self.at(i, t))).collect()
    }

    pub(crate) fn text<'i>(&mut self, item: &'i Item) -> Option<&'i str> {
        match &item.value {
            Json::Text(t) => Some(t),
            _ => self.wrong(item, "a text between double quotes"),
        }
    }

    fn texts(&mut self, item: &Item, what: &str) -> Vec<At<String>> {
        self.list(item, what, |r, i| r.text(i).map(|t| t.trim().to_string()))
    }

    fn bool(&mut self, item: &Item) -> bool {
        match item.value {
            Json::Bool(b) => b,
            Json::Null => false,
            _ => self.wrong(item, "true or false").unwrap_or_default(),
        }
    }

    pub(crate) fn number(&mut self, item: &Item, most: u64) -> Option<u64> {
        let n = match &item.value {
            Json::Number(n) => n.parse::<u64>().ok().filter(|n| *n <= most),
            _ => return self.wrong(item, "a number"),
        };
        if n.is_none() {
            self.fault(item.at, format!("a whole number from 0 to {most} was expected"));
        }
        n
    }

    /// Reads a text with a function that says why it cannot.
    pub(crate) fn via<T>(&mut self, item: &Item, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(item)?;
        read(text).map_err(|why| self.fault(item.at, why)).ok()
    }

    fn who(&mut self, item: &Item) -> Option<Who> {
        self.via(item, who::read_who)
    }

    fn whos(&mut self, item: &Item, what: &str) -> Vec<At<Who>> {
        self.list(item, what, |r, i| r.who(i))
    }

    pub(crate) fn prefix(&mut self, item: &Item) -> Option<Prefix> {
        self.via(item, |t| Prefix::parse_lenient(t).map(|(p, _)| p).map_err(|e| e.to_string()))
    }

    fn named<T>(&mut self, item: &Item, prefix: &str, read: impl Fn(&mut Self, &Item) -> T) -> Named<T> {
        let mut out = Named::new();
        for m in self.object(item).unwrap_or_default() {
            let name = m.key.strip_prefix(prefix);
            if let Err(why) = name_form(prefix, name) {
                self.fault(m.at, format!("the name `{}` {why}", clip(&m.key)));
            }
            let it = read(self, &m.item);
            out.insert(m.key.clone(), At { pos: self.lines.pos(m.at), it });
        }
        out
    }

    // Sections.

    fn user(&mut self, item: &Item) -> Option<String> {
        let text = self.text(item)?.trim();
        if text.starts_with("group:") {
            self.fault_hint(item.at, format!("`{text}`: a group cannot hold a group"), "name its users one by one");
            return None;
        }
        if !text.contains('@') || text.starts_with("tag:") || text.starts_with("autogroup:") {
            self.fault_hint(
                item.at,
                format!("`{}` is no user; a group holds users", clip(text)),
                "write an address such as `odin@example.com`, or `NAME@` for a user without one",
            );
            return None;
        }
        Some(text.to_string())
    }

    fn hosts(&mut self, item: &Item) -> Named<Prefix> {
        let mut out = Named::new();
        for m in self.object(item).unwrap_or_default() {
            if m.key.is_empty() || m.key.contains(['@', ':', '/', '*']) {
                self.fault(m.at, format!("`{}` is no name for a host; it may not hold @ : / *", clip(&m.key)));
                continue;
            }
            if let Some(it) = self.prefix(&m.item) {
                out.insert(m.key.clone(), At { pos: self.lines.pos(m.at), it });
            }
        }
        out
    }
}
