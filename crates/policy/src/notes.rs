//! What is allowed and yet probably not meant. In: a policy, and who exists. Out: notes with their places, for whoever
//! checks a policy or puts it in force; nothing is refused for them.

use std::collections::{BTreeMap, BTreeSet};

use super::Policy;
use super::compile::Compiled;
use super::hujson::clip;
use super::language::{At, Named};
use super::problem::{Pos, Problem};
use super::who::{Who, read_ports};

impl Policy {
    /// What a person should know about this policy, whoever exists, in the order of the text.
    #[must_use]
    pub fn notes(&self) -> Vec<Problem> {
        let mut n = Notes::default();
        for acl in self.acls.iter().flatten() {
            n.rule("rule of acls", acl.pos, acl.src.is_empty(), acl.dst.is_empty());
        }
        for grant in self.grants.iter().flatten() {
            n.rule("grant", grant.pos, grant.src.is_empty(), grant.dst.is_empty());
        }
        for rule in &self.ssh {
            n.rule("rule of ssh", rule.pos, rule.src.is_empty(), rule.dst.is_empty());
        }
        for entry in self.node_attrs.iter().filter(|e| e.target.is_empty()) {
            n.say(entry.pos, "this entry of nodeAttrs has no `target`: it is for nobody");
        }
        n.tags(&self.tag_owners);
        let mut apps: BTreeMap<&str, usize> = BTreeMap::new();
        for c in self.connectors() {
            let seen = apps.entry(&c.name).or_default();
            *seen += 1;
            if *seen == 2 {
                n.say(c.pos, format!("there are two apps `{}`: `app:{}` means both", clip(&c.name), clip(&c.name)));
            }
        }
        if let Some(rule) = self.ssh.iter().find(|r| r.check) {
            n.say(
                rule.pos,
                "Portcullis cannot confirm logins yet: where a rule of SSH asks for a check, the login is refused",
            );
        }
        n.in_order()
    }
}

impl Compiled {
    /// The same, with what is to say about those who exist: users and groups that stand for nobody.
    #[must_use]
    pub fn notes(&self) -> Vec<Problem> {
        let (policy, people) = (self.policy(), &self.resolver.people);
        let mut n = Notes(policy.notes());
        let nobody = |text: &str| people.named(text).is_empty();
        for (name, members) in &policy.groups {
            let ghosts: Vec<&str> = members.it.iter().map(|m| m.it.as_str()).filter(|m| nobody(m)).collect();
            match ghosts.as_slice() {
                [] => {}
                all if all.len() == members.it.len() => {
                    n.say(members.pos, format!("`{name}` stands for nobody: there is no user {}", listed(all)));
                }
                some => n.say(members.pos, format!("`{name}` names users who do not exist: {}", listed(some))),
            }
        }
        let mut said = BTreeSet::new();
        for (who, pos) in users(policy) {
            if nobody(who) && said.insert(who) {
                n.say(pos, format!("there is no user `{}`", clip(who)));
            }
        }
        n.in_order()
    }
}

#[derive(Default)]
struct Notes(Vec<Problem>);

impl Notes {
    fn say(&mut self, pos: Pos, message: impl Into<String>) {
        self.0.push(Problem { pos, message: message.into(), hint: None });
    }

    fn rule(&mut self, what: &str, pos: Pos, no_src: bool, no_dst: bool) {
        let lacks = match (no_src, no_dst) {
            (true, true) => "neither `src` nor `dst`",
            (true, false) => "no `src`",
            (false, true) => "no `dst`",
            (false, false) => return,
        };
        self.say(pos, format!("this {what} has {lacks}: it lets nobody in"));
    }

    /// A tag whose name ends as a destination with ports does, is a typo that no node can have.
    fn tags(&mut self, owners: &Named<Vec<At<Who>>>) {
        for (tag, it) in owners {
            let name = tag.trim_start_matches("tag:");
            if name.rsplit_once(':').is_some_and(|(_, ports)| read_ports(ports).is_ok()) {
                self.say(it.pos, format!("`{}` is a tag with a colon in its name; ports belong into rules", clip(tag)));
            }
        }
    }

    fn in_order(mut self) -> Vec<Problem> {
        self.0.sort_by(|a, b| (a.pos, &a.message).cmp(&(b.pos, &b.message)));
        self.0
    }
}

/// Every user that a rule, an owner or an approver names, with the place.
fn users(p: &Policy) -> Vec<(&str, Pos)> {
    let mut all: Vec<&At<Who>> = Vec::new();
    for g in p.grants.iter().flatten() {
        all.extend(g.src.iter().chain(&g.dst));
    }
    for rule in &p.ssh {
        all.extend(rule.src.iter().chain(&rule.dst));
    }
    for e in &p.node_attrs {
        all.extend(&e.target);
    }
    all.extend(p.tag_owners.values().flat_map(|o| &o.it));
    all.extend(p.auto_approvers.routes.iter().flat_map(|(_, who)| who).chain(&p.auto_approvers.exit_node));
    let mut out: Vec<(&Who, Pos)> = all.into_iter().map(|w| (&w.it, w.pos)).collect();
    for a in p.acls.iter().flatten() {
        out.extend(a.src.iter().map(|w| (&w.it, w.pos)));
        out.extend(a.dst.iter().map(|d| (&d.it.who, d.pos)));
    }
    out.into_iter()
        .filter_map(|(who, pos)| if let Who::User(u) = who { Some((u.as_str(), pos)) } else { None })
        .collect()
}

/// Some names of many.
fn listed(names: &[&str]) -> String {
    const MAX_SHOWN: usize = 5;
    let mut out: Vec<String> = names.iter().take(MAX_SHOWN).map(|n| format!("`{}`", clip(n))).collect();
    if names.len() > MAX_SHOWN {
        out.push(format!("{} more", names.len() - MAX_SHOWN));
    }
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Topology;
    use super::*;

    #[test]
    fn what_means_nothing_is_said() {
        let text = r#"{
            "groups": {"group:a": ["ada@example.com", "adda@example.com"], "group:ghosts": ["x@example.com"]},
            "tagOwners": {"tag:x": [], "tag:cloud-server:*": []},
            "acls": [{"action": "accept", "dst": ["tag:x:22"]}],
            "grants": [{"src": [], "dst": [], "ip": ["*"]}, {"src": ["adda@example.com"], "dst": ["tag:x"], "ip": ["*"]}],
            "ssh": [{"action": "check", "src": ["ada@example.com"], "dst": ["autogroup:self"], "users": ["root"]}],
            "nodeAttrs": [{"attr": ["funnel"]}, {"target": ["*"], "app": {"tailscale.com/app-connectors": [
                {"name": "a", "connectors": ["tag:x"], "domains": ["a.example"]}, {"name": "a", "connectors": ["tag:x"], "domains": ["b.example"]}]}}],
        }"#;
        let policy = Policy::parse(text).unwrap();
        let topology =
            Topology::read(r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}], "nodes": {}}"#);
        let notes = Compiled::new(policy.into(), topology.unwrap().into()).notes();
        let got: Vec<String> = notes.iter().map(|n| format!("{}: {}", n.pos.line, n.message)).collect();
        let want = [
            "2: `group:a` names users who do not exist: `adda@example.com`",
            "2: `group:ghosts` stands for nobody: there is no user `x@example.com`",
            "3: `tag:cloud-server:*` is a tag with a colon in its name; ports belong into rules",
            "4: this rule of acls has no `src`: it lets nobody in",
            "5: this grant has neither `src` nor `dst`: it lets nobody in",
            "5: there is no user `adda@example.com`",
            "6: Portcullis cannot confirm logins yet: where a rule of SSH asks for a check, the login is refused",
            "7: this entry of nodeAttrs has no `target`: it is for nobody",
            "8: there are two apps `a`: `app:a` means both",
        ];
        assert_eq!(got, want);
    }
}
