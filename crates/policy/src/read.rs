//! From the document's tree to its values. In: HuJSON. Out: a [`Policy`] of which every value has the right form, and
//! everything that has not, with its place; reading goes on after a mistake so that one run shows them all.

use std::collections::BTreeMap;

use addr::Prefix;

use super::hujson::{Item, Json, Member, clip, parse};
use super::language::*;
use super::posture::{self, Condition};
use super::problem::{Lines, Problem};
use super::who::{self, Who, WhoPorts};

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

/// The teachers a list may name (the evidence of grants).
const TEACHERS: [&str; 8] = ["mtls", "share", "login", "knock", "tunnel", "node", "dns", "manual"];

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

    fn acl(&mut self, item: &Item) -> Option<Acl> {
        self.object(item)?;
        let comments = |m: &&Member| !m.key.starts_with('#');
        // Front ends of Headscale keep notes under keys that begin with `#`.
        let plain = match &item.value {
            Json::Object(o) => Item { at: item.at, value: Json::Object(o.iter().filter(comments).cloned().collect()) },
            _ => item.clone(),
        };
        let mut acl = Acl { pos: self.lines.pos(item.at), src: vec![], proto: None, dst: vec![], posture: vec![] };
        let mut action = false;
        let known = ["action", "src", "dst", "proto", "srcPosture", "users", "ports"];
        for (name, v) in self.fields(&plain, "a rule of acls", &known) {
            match name {
                "action" => action = self.acl_action(v),
                "src" | "users" => acl.src.extend(self.whos(v, "sources")),
                "dst" | "ports" => {
                    let dst: Vec<At<WhoPorts>> = self.list(v, "destinations", |r, i| r.via(i, who::read_who_ports));
                    acl.dst.extend(dst);
                }
                "proto" => acl.proto = self.via(v, |t| who::read_proto(&t.to_ascii_lowercase())).flatten(),
                _ => acl.posture = self.texts(v, "postures"),
            }
        }
        if !action && !self.object(item).unwrap_or_default().iter().any(|m| m.key.eq_ignore_ascii_case("action")) {
            self.fault_hint(
                item.at,
                "this rule has no `action`",
                "write `\"action\": \"accept\"`, the only one there is",
            );
        }
        if !who::has_ports(acl.proto) {
            for d in acl.dst.iter().filter(|d| d.it.ports != [who::Ports::ALL]) {
                let proto = who::proto_name(acl.proto.unwrap_or_default());
                let p = Problem {
                    pos: d.pos,
                    message: format!("protocol `{proto}` has no ports; only `*` is allowed"),
                    hint: None,
                };
                self.problems.push(p);
            }
        }
        Some(acl)
    }

    fn acl_action(&mut self, item: &Item) -> bool {
        match self.text(item) {
            Some("accept") => true,
            Some(other) => {
                let message = format!("the action `{}` does not exist", clip(other));
                self.fault_hint(item.at, message, "rules only ever `accept`; what no rule lets through is refused");
                true
            }
            None => true,
        }
    }

    fn grant(&mut self, item: &Item) -> Option<Grant> {
        self.object(item)?;
        let mut g = Grant {
            pos: self.lines.pos(item.at),
            src: vec![],
            dst: vec![],
            ip: vec![],
            app: BTreeMap::new(),
            via: vec![],
            posture: vec![],
        };
        for (name, v) in self.fields(item, "a grant", &["src", "dst", "ip", "app", "via", "srcPosture"]) {
            match name {
                "src" => g.src = self.whos(v, "sources"),
                "dst" => g.dst = self.whos(v, "destinations"),
                "ip" => g.ip = self.each(v, "protocols and ports", |r, i| r.via(i, who::read_net)),
                "app" => g.app = self.capabilities(v),
                "via" => g.via = self.list(v, "tags", |r, i| r.via_tag(i)),
                _ => g.posture = self.texts(v, "postures"),
            }
        }
        let written = |key: &str| self.has_content(item, key);
        if !written("ip") && !written("app") {
            self.fault_hint(
                item.at,
                "a grant needs `ip` or `app`, and both are empty",
                "write `\"ip\": [\"*\"]` to let all traffic through",
            );
        }
        Some(g)
    }

    /// True if the object holds something under the key, right or wrong: a wrong value has its own message.
    fn has_content(&self, item: &Item, key: &str) -> bool {
        let Json::Object(o) = &item.value else { return false };
        o.iter().filter(|m| m.key.eq_ignore_ascii_case(key)).any(|m| match &m.item.value {
            Json::List(l) => !l.is_empty(),
            Json::Object(o) => !o.is_empty(),
            Json::Null => false,
            _ => true,
        })
    }

    fn via_tag(&mut self, item: &Item) -> Option<String> {
        let text = self.text(item)?.trim();
        if !text.starts_with("tag:") {
            self.fault(item.at, format!("`{}` under `via`: only a tag can be the way", clip(text)));
            return None;
        }
        Some(text.to_string())
    }

    fn capabilities(&mut self, item: &Item) -> BTreeMap<String, At<serde_json::Value>> {
        let mut out = BTreeMap::new();
        for m in self.object(item).unwrap_or_default() {
            match &m.item.value {
                Json::List(_) | Json::Null => {}
                _ => {
                    self.wrong::<()>(&m.item, "a list `[…]` of values of this capability");
                }
            }
            out.insert(m.key.clone(), At { pos: self.lines.pos(m.at), it: m.item.to_serde() });
        }
        out
    }

    fn set_steps(&mut self, item: &Item) -> Vec<At<SetStep>> {
        let items = self.items(item, "addresses, ranges and sets");
        let word = |i: &Item| match &i.value {
            Json::Text(t) => t.trim().split_once(char::is_whitespace).map(|(w, _)| w.to_string()),
            _ => None,
        };
        let removes = items.iter().any(|i| word(i).as_deref() == Some("remove"));
        let mut out = Vec::new();
        for i in items {
            let Some(text) = self.text(i).map(str::trim) else { continue };
            let (add, target) = match text.split_once(char::is_whitespace) {
                Some(("add", t)) => (true, t.trim()),
                Some(("remove", t)) => (false, t.trim()),
                Some((w, _)) => {
                    self.fault(i.at, format!("`{}` is no step of a set; a step is `add` or `remove`", clip(w)));
                    continue;
                }
                None => {
                    if removes {
                        self.fault_hint(
                            i.at,
                            format!("`{}` says neither `add` nor `remove`", clip(text)),
                            "as soon as a set removes something, every step says which it is",
                        );
                    }
                    (true, text)
                }
            };
            match set_target(target) {
                Ok(who) => out.push(self.at(i, SetStep { add, who })),
                Err(why) => self.fault(i.at, why),
            }
        }
        out
    }

    fn auto_approvers(&mut self, item: &Item) -> AutoApprovers {
        let mut out = AutoApprovers::default();
        for (name, v) in self.fields(item, "autoApprovers", &["routes", "exitNode", "services"]) {
            match name {
                "routes" => {
                    for m in self.object(v).unwrap_or_default() {
                        let approvers = self.whos(&m.item, "approvers");
                        match Prefix::parse_lenient(&m.key) {
                            Ok((p, _)) => out.routes.push((At { pos: self.lines.pos(m.at), it: p }, approvers)),
                            Err(e) => self.fault(m.at, e.to_string()),
                        }
                    }
                }
                "exitNode" => out.exit_node = self.whos(v, "approvers"),
                _ => out.services = self.named(v, "", |r, i| r.whos(i, "approvers")),
            }
        }
        out
    }

    fn node_attr(&mut self, item: &Item) -> Option<NodeAttr> {
        self.object(item)?;
        let mut n = NodeAttr {
            pos: self.lines.pos(item.at),
            target: vec![],
            attr: vec![],
            connectors: vec![],
            app: BTreeMap::new(),
            ip_pool: vec![],
        };
        for (name, v) in self.fields(item, "an entry of nodeAttrs", &["target", "attr", "app", "ipPool"]) {
            match name {
                "target" => n.target = self.whos(v, "targets"),
                "attr" => n.attr = self.texts(v, "attributes"),
                "ipPool" => n.ip_pool = self.list(v, "prefixes", |r, i| r.prefix(i)),
                _ => {
                    for m in self.object(v).unwrap_or_default() {
                        let mut value = m.item.to_serde();
                        if m.key == CONNECTORS {
                            n.connectors = self.each(&m.item, "app connectors", |r, i| r.connector(i));
                            value = for_nodes(value);
                        }
                        n.app.insert(m.key.clone(), value);
                    }
                }
            }
        }
        Some(n)
    }

    fn connector(&mut self, item: &Item) -> Option<Connector> {
        self.object(item)?;
        let mut c = Connector {
            pos: self.lines.pos(item.at),
            name: String::new(),
            connectors: vec![],
            domains: vec![],
            except: vec![],
            routes: vec![],
            preset: None,
        };
        let known = ["name", "connectors", "domains", "routes", "presetAppID"];
        for (name, v) in self.fields(item, "an app connector", &known) {
            match name {
                "name" => c.name = self.text(v).unwrap_or_default().to_string(),
                "connectors" => c.connectors = self.texts(v, "tags"),
                "domains" => {
                    for d in self.texts(v, "domains") {
                        match d.it.strip_prefix('!') {
                            Some(name) => c.except.push(At { pos: d.pos, it: name.to_string() }),
                            None => c.domains.push(d),
                        }
                    }
                }
                "routes" => c.routes = self.list(v, "prefixes", |r, i| r.prefix(i)),
                _ => c.preset = self.text(v).map(str::to_string),
            }
        }
        Some(c)
    }

    fn ssh(&mut self, item: &Item) -> Option<Ssh> {
        self.object(item)?;
        let mut s = Ssh {
            pos: self.lines.pos(item.at),
            check: false,
            src: vec![],
            dst: vec![],
            users: vec![],
            check_period: None,
            accept_env: vec![],
            posture: vec![],
            recorder: vec![],
            enforce_recorder: false,
        };
        let mut action = None;
        let known =
            ["action", "src", "dst", "users", "checkPeriod", "acceptEnv", "srcPosture", "recorder", "enforceRecorder"];
        let mut period = None;
        for (name, v) in self.fields(item, "a rule of ssh", &known) {
            match name {
                "action" => action = self.text(v).map(|t| t.trim().to_string()),
                "src" => s.src = self.whos(v, "sources"),
                "dst" => s.dst = self.whos(v, "destinations"),
                "users" => s.users = self.texts(v, "login names"),
                "checkPeriod" => {
                    period = Some(v.at);
                    s.check_period = self.via(v, duration).filter(|d| self.check_period(v, *d));
                }
                "acceptEnv" => {
                    for i in self.items(v, "variables") {
                        match self.text(i) {
                            Some("") => self.fault(i.at, "a variable under acceptEnv may not be empty"),
                            Some(t) => s.accept_env.push(t.to_string()),
                            None => {}
                        }
                    }
                }
                "srcPosture" => s.posture = self.texts(v, "postures"),
                "recorder" => s.recorder = self.texts(v, "tags"),
                _ => s.enforce_recorder = self.bool(v),
            }
        }
        match action.as_deref() {
            Some("accept") => {}
            Some("check") => s.check = true,
            Some("") | None => self.fault_hint(item.at, "this rule has no `action`", "write `accept` or `check`"),
            Some(other) => {
                self.fault(item.at, format!("`{}` is no action of SSH; `accept` and `check` are", clip(other)))
            }
        }
        if let (Some(at), false) = (period, s.check) {
            self.fault(at, "`checkPeriod` belongs to rules with the action `check` only");
        }
        Some(s)
    }

    fn check_period(&mut self, item: &Item, seconds: u64) -> bool {
        if seconds > MAX_CHECK_PERIOD {
            self.fault(item.at, "`checkPeriod` may be 168h at most");
        }
        seconds <= MAX_CHECK_PERIOD
    }

    fn condition(&mut self, item: &Item) -> Option<Condition> {
        self.via(item, posture::read_condition)
    }

    fn test(&mut self, item: &Item) -> Option<Test> {
        self.object(item)?;
        let (mut src, mut posture, mut accept, mut deny) = (None, BTreeMap::new(), vec![], vec![]);
        let known = ["src", "proto", "srcPostureAttrs", "accept", "deny", "user", "allow"];
        let fields = self.fields(item, "a test", &known);
        // What a port may be depends on the protocol, wherever it stands.
        let proto = fields.iter().find(|(name, _)| *name == "proto").and_then(|(_, v)| self.test_proto(v));
        for (name, v) in fields {
            match name {
                "src" | "user" => src = self.who(v).map(|w| self.at(v, w)),
                "proto" => {}
                "srcPostureAttrs" => posture = self.attributes(v),
                "accept" | "allow" => {
                    accept = self.list(v, "destinations", |r, i| r.via(i, |t| who::read_test_place(t, proto)));
                }
                _ => deny = self.list(v, "destinations", |r, i| r.via(i, |t| who::read_test_place(t, proto))),
            }
        }
        let empty =
            !self.has_content(item, "accept") && !self.has_content(item, "allow") && !self.has_content(item, "deny");
        if empty {
            self.fault_hint(item.at, "this test asks for nothing", "give it `accept` or `deny`, or both");
        }
        let Some(src) = src else {
            if !self.has_content(item, "src") && !self.has_content(item, "user") {
                self.fault(item.at, "this test has no `src`");
            }
            return None;
        };
        Some(Test { pos: self.lines.pos(item.at), src, proto, posture, accept, deny })
    }

    fn test_proto(&mut self, item: &Item) -> who::Proto {
        let proto = self.via(item, |t| who::read_proto(&t.to_ascii_lowercase())).flatten();
        if !who::has_ports(proto) && !matches!(proto, Some(1 | 58)) {
            self.fault(item.at, "a test speaks tcp, udp, sctp or icmp, or leaves `proto` out");
            return None;
        }
        proto
    }

    /// Posture attributes: text, number, or true and false.
    pub(crate) fn attributes(&mut self, item: &Item) -> BTreeMap<String, posture::Value> {
        let mut out = BTreeMap::new();
        for m in self.object(item).unwrap_or_default() {
            let value = match &m.item.value {
                Json::Text(t) => posture::Value::Text(t.clone()),
                Json::Bool(b) => posture::Value::Bool(*b),
                Json::Number(n) => posture::Value::Number(n.parse().unwrap_or_default()),
                _ => {
                    self.wrong::<()>(&m.item, "a text, a number, true or false");
                    continue;
                }
            };
            out.insert(m.key.clone(), value);
        }
        out
    }

    fn ssh_test(&mut self, item: &Item) -> Option<SshTest> {
        self.object(item)?;
        let mut src = None;
        let mut t = SshTest {
            pos: self.lines.pos(item.at),
            src: self.at(item, Who::Any),
            dst: vec![],
            posture: BTreeMap::new(),
            accept: vec![],
            deny: vec![],
            check: vec![],
        };
        let names = |r: &mut Self, v: &Item| r.texts(v, "login names").into_iter().map(|t| t.it).collect();
        for (name, v) in self.fields(item, "an SSH test", &["src", "dst", "accept", "deny", "check", "srcPostureAttrs"])
        {
            match name {
                "src" => src = self.who(v).map(|w| self.at(v, w)),
                "dst" => t.dst = self.whos(v, "destinations"),
                "accept" => t.accept = names(self, v),
                "deny" => t.deny = names(self, v),
                "check" => t.check = names(self, v),
                _ => t.posture = self.attributes(v),
            }
        }
        if !self.has_content(item, "dst") {
            self.fault(item.at, "this SSH test has no `dst`");
        }
        if !["accept", "deny", "check"].iter().any(|k| self.has_content(item, k)) {
            self.fault(item.at, "this SSH test asks for nothing: give it `accept`, `deny` or `check`");
        }
        match src {
            Some(src) => Some(SshTest { src, ..t }),
            None => {
                if !self.has_content(item, "src") {
                    self.fault(item.at, "this SSH test has no `src`");
                }
                None
            }
        }
    }

    /// The map of relays, as written; what a server must be able to rely on has the right form.
    fn derp_map(&mut self, item: &Item) -> Option<serde_json::Value> {
        for m in self.object(item)? {
            match m.key.to_ascii_lowercase().as_str() {
                "omitdefaultregions" => drop(self.bool(&m.item)),
                "regions" => self.derp_regions(&m.item),
                _ => {}
            }
        }
        Some(item.to_serde())
    }

    fn derp_regions(&mut self, item: &Item) {
        for region in self.object(item).unwrap_or_default() {
            // Without a region under its number, `null` takes it out of the map.
            let Ok(number) = region.key.parse::<u32>() else {
                self.fault_hint(
                    region.at,
                    format!("the region `{}` has no number", clip(&region.key)),
                    "regions of one's own are 900 to 999",
                );
                continue;
            };
            for m in self.object(&region.item).unwrap_or_default() {
                match m.key.to_ascii_lowercase().as_str() {
                    "regionid" if self.number(&m.item, u64::from(u32::MAX)).is_some_and(|n| n != u64::from(number)) => {
                        self.fault(m.at, format!("`RegionID` differs from the key `{number}`"));
                    }
                    "regioncode" | "regionname" => drop(self.text(&m.item).map(str::len)),
                    "nodes" => {
                        for node in self.items(&m.item, "relays") {
                            let named = self.object(node).unwrap_or_default();
                            let host = named.iter().find(|f| f.key.eq_ignore_ascii_case("HostName"));
                            match host.map(|f| self.text(&f.item)) {
                                None => self.fault(node.at, "this relay has no `HostName`"),
                                Some(Some("")) => self.fault(node.at, "this relay's `HostName` is empty"),
                                Some(_) => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn one_cgnat_route(&mut self, item: &Item) -> String {
        let text = self.text(item).unwrap_or_default();
        if !["", "mac-always", "mac-never"].contains(&text) {
            self.fault(item.at, format!("`{}`: `mac-always`, `mac-never` or nothing was expected", clip(text)));
        }
        text.to_string()
    }

    fn list_rule(&mut self, item: &Item) -> ListRule {
        let mut l = ListRule::default();
        for (name, v) in self.fields(item, "a list", &["allow", "teachers", "max", "ttl", "idle", "ipv6"]) {
            match name {
                "allow" => l.allow = self.list(v, "addresses and IP sets", |r, i| r.via(i, set_target)),
                "teachers" => l.teachers = self.list(v, "teachers", |r, i| r.via(i, teacher)),
                "max" => l.max = self.number(v, u64::from(u32::MAX)),
                "ttl" => l.ttl = self.via(v, duration),
                "idle" => l.idle = self.via(v, duration),
                _ => l.ipv6 = self.number(v, 128).map(|n| n as u8),
            }
        }
        l
    }

    fn service(&mut self, item: &Item) -> Service {
        let mut s = Service::default();
        for (name, v) in self.fields(item, "a service", &["addrs", "ip"]) {
            match name {
                "addrs" => s.addrs = self.list(v, "addresses", |r, i| r.via(i, set_target)),
                _ => s.ip = self.each(v, "protocols and ports", |r, i| r.via(i, who::read_net)),
            }
        }
        s
    }
}

fn teacher(text: &str) -> Result<String, String> {
    match TEACHERS.contains(&text) {
        true => Ok(text.to_string()),
        false => Err(format!("`{}` teaches no list; {} do", clip(text), TEACHERS.join(", "))),
    }
}

/// What may stand in a set or a list: addresses, ranges, hosts, other sets, the internet.
fn set_target(text: &str) -> Result<Who, String> {
    let who = match text.strip_prefix("host:") {
        Some(host) if !host.is_empty() => Who::Host(host.to_string()),
        _ => who::read_who(text)?,
    };
    match who {
        Who::Prefix(..) | Who::Range(_) | Who::Host(_) | Who::IpSet(_) | Who::Internet => Ok(who),
        other => Err(format!(
            "`{other}` cannot be in a set: a set holds addresses, prefixes, ranges, `host:NAME`, `ipset:NAME` and `autogroup:internet`"
        )),
    }
}

/// Seconds of `20h`, `30m`, `1h30m`, `always` (0).
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is no length of time; write `20h`, `30m`, `90s` or `always`", clip(text));
    match text {
        "always" | "0" => return Ok(0),
        "" => return Err(wrong()),
        _ => {}
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let n: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') if !rest[digits..].starts_with("ms") => 60,
            Some('s') => 1,
            Some('d') => 86400,
            _ => return Err(wrong()),
        };
        total = n.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    Ok(total)
}

/// Whether a name has the form of its section. A tag begins with a letter, as the hosted service demands.
fn name_form(prefix: &str, rest: Option<&str>) -> Result<(), String> {
    let Some(rest) = rest else { return Err(format!("must begin with `{prefix}`")) };
    if rest.is_empty() {
        return Err(if prefix.is_empty() { "is empty".to_string() } else { format!("has nothing after `{prefix}`") });
    }
    if prefix == "tag:" && !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("must go on with a letter after `tag:`".to_string());
    }
    if rest.chars().any(|c| c.is_whitespace() || c.is_control() || c == ',') {
        return Err("may not hold spaces or commas".to_string());
    }
    Ok(())
}

/// What connectors are told of their apps: official ones know nothing of names that are left out.
fn for_nodes(mut apps: serde_json::Value) -> serde_json::Value {
    for app in apps.as_array_mut().into_iter().flatten() {
        if let Some(domains) = app.get_mut("domains").and_then(serde_json::Value::as_array_mut) {
            domains.retain(|d| !d.as_str().is_some_and(|d| d.trim_start().starts_with('!')));
        }
    }
    apps
}

/// The known name that differs least, if it differs by a slip of the pen.
pub(crate) fn nearest<'n>(text: &str, known: &[&'n str]) -> Option<&'n str> {
    // Two slips are a slip; three are another word.
    known
        .iter()
        .map(|k| (distance(&text.to_lowercase(), &k.to_lowercase()), *k))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, k)| k)
}

/// Edit distance, for words; long texts are not compared.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
