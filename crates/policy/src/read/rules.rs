//! Who reaches what: rules, grants, sets, approvers, attributes of nodes, app connectors, map settings. In: parts of a document. Out: the
//! language's values; what is wrong is kept with its place.

use crate::hujson::{Item, Json, Member, clip};
use crate::language::*;
use crate::problem::Problem;
use crate::who::{self, WhoPorts};
use addr::Prefix;
use std::collections::BTreeMap;

use super::text::{duration, for_nodes, grant_source, set_target};
use super::*;

impl Reader<'_> {
    pub(super) fn acl(&mut self, item: &Item) -> Option<Acl> {
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

    pub(super) fn acl_action(&mut self, item: &Item) -> bool {
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

    pub(super) fn grant(&mut self, item: &Item) -> Option<Grant> {
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
    pub(super) fn has_content(&self, item: &Item, key: &str) -> bool {
        let Json::Object(o) = &item.value else { return false };
        o.iter().filter(|m| m.key.eq_ignore_ascii_case(key)).any(|m| match &m.item.value {
            Json::List(l) => !l.is_empty(),
            Json::Object(o) => !o.is_empty(),
            Json::Null => false,
            _ => true,
        })
    }

    pub(super) fn via_tag(&mut self, item: &Item) -> Option<String> {
        let text = self.text(item)?.trim();
        if !text.starts_with("tag:") {
            self.fault(item.at, format!("`{}` under `via`: only a tag can be the way", clip(text)));
            return None;
        }
        Some(text.to_string())
    }

    pub(super) fn capabilities(&mut self, item: &Item) -> BTreeMap<String, At<serde_json::Value>> {
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

    pub(super) fn set_steps(&mut self, item: &Item) -> Vec<At<SetStep>> {
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

    pub(super) fn auto_approvers(&mut self, item: &Item) -> AutoApprovers {
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

    pub(super) fn node_attr(&mut self, item: &Item) -> Option<NodeAttr> {
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

    pub(super) fn connector(&mut self, item: &Item) -> Option<Connector> {
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

    /// The map of relays, as written; what a server must be able to rely on has the right form.
    pub(super) fn derp_map(&mut self, item: &Item) -> Option<serde_json::Value> {
        for m in self.object(item)? {
            match m.key.to_ascii_lowercase().as_str() {
                "omitdefaultregions" => drop(self.bool(&m.item)),
                "regions" => self.derp_regions(&m.item),
                _ => {}
            }
        }
        Some(item.to_serde())
    }

    pub(super) fn derp_regions(&mut self, item: &Item) {
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

    pub(super) fn one_cgnat_route(&mut self, item: &Item) -> String {
        let text = self.text(item).unwrap_or_default();
        if !["", "mac-always", "mac-never"].contains(&text) {
            self.fault(item.at, format!("`{}`: `mac-always`, `mac-never` or nothing was expected", clip(text)));
        }
        text.to_string()
    }

    pub(super) fn list_rule(&mut self, item: &Item) -> ListRule {
        let mut l = ListRule::default();
        for (name, v) in self.fields(item, "a list", &["allow", "teachers", "max", "ttl", "idle", "ipv6"]) {
            match name {
                "allow" => l.allow = self.list(v, "addresses and IP sets", |r, i| r.via(i, set_target)),
                "teachers" => l.grant_sources = self.list(v, "teachers", |r, i| r.via(i, grant_source)),
                "max" => l.max = self.number(v, u64::from(u32::MAX)),
                "ttl" => l.ttl = self.via(v, duration),
                "idle" => l.idle = self.via(v, duration),
                _ => l.ipv6 = self.number(v, 128).map(|n| n as u8),
            }
        }
        l
    }

    pub(super) fn service(&mut self, item: &Item) -> Service {
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
