//! Whether a policy makes sense in itself. In: a [`Policy`] of the right form. Out: every name that does not exist,
//! every word in a place where it means nothing, every circle. What the hosted service refuses is refused.

use addr::{Addr, Prefix};

use super::apps;
use super::hujson::clip;
use super::ipset;
use super::language::*;
use super::problem::{Pos, Problem};
use super::read::nearest;
use super::who::{Ports, Who, read_ports};

/// Capabilities under `tailscale.com/cap/` that only a server gives, to a node or about a peer (tailcfg, `NodeCapability`
/// and `PeerCapability`); what is left there belongs to applications, whose names nobody can list.
const SERVERS_OWN: [&str; 15] = [
    "debug",
    "debug-peer",
    "drive-sharer",
    "file-send",
    "file-sharing",
    "file-sharing-target",
    "funnel",
    "funnel-ports",
    "ingress",
    "is-admin",
    "is-owner",
    "relay-target",
    "ssh",
    "tailnet-lock",
    "wake-on-lan",
];

/// Where a name stands, which decides what may stand there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Src,
    Dst,
    GrantDst,
    Target,
    Owner,
    Approver,
    SshSrc,
    SshDst,
    SshTestSrc,
    SshTestDst,
    TestSrc,
    TestDst,
}

/// Everything that is wrong with the policy in itself; and, apart, what earlier versions took.
pub(crate) fn check(policy: &Policy) -> (Vec<Problem>, Vec<Problem>) {
    let mut c = Checker { p: policy, problems: Vec::new(), tolerated: Vec::new() };
    c.names();
    for acl in policy.acls.iter().flatten() {
        c.acl(acl);
    }
    for grant in policy.grants.iter().flatten() {
        c.grant(grant);
    }
    for rule in &policy.ssh {
        c.ssh(rule);
    }
    for entry in &policy.node_attrs {
        c.node_attr(entry);
    }
    c.tests();
    (c.problems, c.tolerated)
}

struct Checker<'p> {
    p: &'p Policy,
    problems: Vec<Problem>,
    /// What earlier versions took, and what means what it meant: refused where somebody can mend it.
    tolerated: Vec<Problem>,
}

impl<'p> Checker<'p> {
    fn tolerate(&mut self, pos: Pos, message: impl Into<String>, hint: &str) {
        self.tolerated.push(Problem { pos, message: message.into(), hint: Some(hint.to_string()) });
    }

    fn fault(&mut self, pos: Pos, message: impl Into<String>) {
        self.problems.push(Problem { pos, message: message.into(), hint: None });
    }

    fn fault_hint(&mut self, pos: Pos, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem { pos, message: message.into(), hint: Some(hint.into()) });
    }

    /// Owners, approvers, sets, lists, services: the sections that give names.
    fn names(&mut self) {
        let p = self.p;
        for owners in p.tag_owners.values() {
            self.all(&owners.it, Place::Owner);
        }
        let approvers = &p.auto_approvers;
        let routes = approvers.routes.iter().map(|(_, who)| who);
        for who in routes.chain([&approvers.exit_node]).chain(approvers.services.values().map(|s| &s.it)) {
            self.all(who, Place::Approver);
        }
        for set in p.ipsets.values() {
            for step in &set.it {
                self.known(&step.it.who, step.pos, false);
            }
        }
        for circle in ipset::circles(p) {
            if let Some(set) = circle.first().and_then(|n| p.ipsets.get(n)) {
                self.fault(set.pos, format!("these IP sets go round in a circle: {}", circle.join(" -> ")));
            }
        }
        for list in p.lists.values() {
            for who in &list.it.allow {
                self.known(&who.it, who.pos, false);
            }
        }
        for service in p.services.values() {
            for who in &service.it.addrs {
                self.known(&who.it, who.pos, false);
            }
        }
        self.postures(&p.default_src_posture);
    }

    fn all(&mut self, whos: &[At<Who>], place: Place) {
        for who in whos {
            self.who(who, place);
        }
    }

    /// Judges one name in one place.
    fn who(&mut self, who: &At<Who>, place: Place) {
        if let Err((message, hint)) = fits(&who.it, place) {
            self.problems.push(Problem { pos: who.pos, message, hint: hint.map(str::to_string) });
            return;
        }
        self.exists(&who.it, who.pos);
    }

    fn exists(&mut self, who: &Who, pos: Pos) {
        self.known(who, pos, true);
    }

    /// True to say how people are written, where they could be meant.
    fn known(&mut self, who: &Who, pos: Pos, people: bool) {
        let p = self.p;
        let (section, known): (&str, Vec<&str>) = match who {
            Who::Group(_) => ("groups", keys(&p.groups)),
            Who::Tag(_) => ("tagOwners", keys(&p.tag_owners)),
            Who::Host(_) => ("hosts", keys(&p.hosts)),
            Who::IpSet(_) => ("ipsets", keys(&p.ipsets)),
            // A document of the hosted service names services that it defines elsewhere; here they have no address.
            Who::Service(_) if p.services.is_empty() => return,
            Who::Service(_) => ("services", keys(&p.services)),
            Who::App(_) => ("the app connectors of nodeAttrs", app_names(p)),
            _ => return,
        };
        let name = match who {
            Who::App(name) => name.trim_start_matches("app:").to_string(),
            _ => who.to_string(),
        };
        if known.contains(&name.as_str()) {
            return;
        }
        let message = match who {
            Who::Tag(_) => format!("tag not found: `{}`", clip(&name)),
            _ => format!("`{}` is not defined in {section}", clip(&name)),
        };
        let with_ports = name.rsplit_once(':').filter(|(head, ports)| head.contains(':') && read_ports(ports).is_ok());
        let hint = match (who, with_ports, nearest(&name, &known)) {
            (_, Some((head, _)), _) => {
                format!("ports are not written here: write `{head}`; in grants, ports stand under `ip`")
            }
            (_, _, Some(near)) => format!("did you mean `{near}`?"),
            (Who::Host(_), ..) if people => format!("define it under hosts; a user is written `{name}@`"),
            (Who::Group(n), ..) if n.contains('@') => {
                "groups of an identity provider are not known here; name its users under groups".to_string()
            }
            _ => format!("define it under {section}"),
        };
        self.fault_hint(pos, message, hint);
    }

    fn tag(&mut self, tag: &At<String>) {
        self.exists(&Who::Tag(tag.it.clone()), tag.pos);
    }

    fn postures(&mut self, names: &[At<String>]) {
        for n in names {
            if !self.p.postures.contains_key(&n.it) {
                self.fault(n.pos, format!("`{}` is not defined in postures", clip(&n.it)));
            }
        }
    }

    fn acl(&mut self, acl: &Acl) {
        self.all(&acl.src, Place::Src);
        for d in &acl.dst {
            self.who(&At { pos: d.pos, it: d.it.who.clone() }, Place::Dst);
        }
        self.own_devices(&acl.src, acl.dst.iter().find(|d| d.it.who == Who::Own).map(|d| d.pos), true);
        self.postures(&acl.posture);
    }

    fn grant(&mut self, grant: &Grant) {
        self.all(&grant.src, Place::Src);
        self.all(&grant.dst, Place::GrantDst);
        for tag in &grant.via {
            self.tag(tag);
        }
        self.own_devices(&grant.src, grant.dst.iter().find(|d| d.it == Who::Own).map(|d| d.pos), false);
        self.postures(&grant.posture);
        for (name, value) in &grant.app {
            if let Err(why) = capability_name(name) {
                self.fault(value.pos, format!("capability `{}` {why}", clip(name)));
            }
        }
        if let (false, Some(d)) = (grant.app.is_empty(), grant.dst.iter().find(|d| d.it == Who::Internet)) {
            self.fault(d.pos, "capabilities of `app` cannot be granted on autogroup:internet: no node answers for it");
        }
    }

    /// `autogroup:self` means the devices of the asking user, so every source must be users. In `acls`, `*` is read as
    /// every user; in `grants` it is refused, because it includes tagged nodes.
    fn own_devices(&mut self, src: &[At<Who>], own: Option<Pos>, any: bool) {
        let Some(pos) = own else { return };
        let users = |w: &Who| match w {
            Who::User(_) | Who::Domain(_) | Who::Group(_) | Who::Member | Who::Role(_) => true,
            Who::Any => any,
            _ => false,
        };
        if let Some(bad) = src.iter().find(|s| !users(&s.it)) {
            self.fault_hint(
                pos,
                format!(
                    "autogroup:self can only be used with users, groups or autogroups of users, not with `{}`",
                    bad.it
                ),
                "use autogroup:member as the source",
            );
        }
    }

    fn ssh(&mut self, rule: &Ssh) {
        self.all(&rule.src, Place::SshSrc);
        self.all(&rule.dst, Place::SshDst);
        self.postures(&rule.posture);
        for tag in &rule.recorder {
            match tag.it.strip_prefix("tag:") {
                Some(_) => self.tag(tag),
                None => {
                    self.fault(tag.pos, format!("`{}` under `recorder`: recorders are named by a tag", clip(&tag.it)))
                }
            }
        }
        if rule.users.is_empty() {
            self.fault_hint(rule.pos, "this rule names no `users`", "write login names, or autogroup:nonroot");
        }
        for u in rule.users.iter().filter(|u| u.it.is_empty() || u.it == "*") {
            self.fault(u.pos, format!("`{}` is no login name", u.it));
        }
        let tagged = rule.src.iter().any(|s| matches!(s.it, Who::Tag(_) | Who::Tagged));
        if let (true, Some(s)) = (rule.check, rule.src.iter().find(|s| matches!(s.it, Who::Tag(_) | Who::Tagged))) {
            let message = format!("`{}` cannot pass a check: nobody sits at a tagged node who could confirm it", s.it);
            self.tolerate(s.pos, message, "write `\"action\": \"accept\"` for tagged sources");
        }
        let users: Vec<&Who> =
            rule.src.iter().map(|s| &s.it).filter(|w| !matches!(w, Who::Tag(_) | Who::Tagged)).collect();
        for d in &rule.dst {
            match &d.it {
                Who::User(name) if tagged => {
                    self.fault(d.pos, format!("tagged nodes cannot reach the devices of `{name}` by SSH"));
                }
                Who::User(_) if users.as_slice() != [&d.it] => {
                    self.fault_hint(
                        d.pos,
                        format!("`{}` as a destination needs that same user as the only source", d.it),
                        "write autogroup:self for every user's own devices",
                    );
                }
                Who::Own | Who::Member if tagged => {
                    self.fault(
                        d.pos,
                        format!("`{}` holds devices of users, which tagged nodes cannot reach by SSH", d.it),
                    );
                }
                _ => {}
            }
        }
    }

    fn node_attr(&mut self, entry: &NodeAttr) {
        self.all(&entry.target, Place::Target);
        for pool in &entry.ip_pool {
            if let Err(why) = pool_fits(pool.it) {
                self.fault(pool.pos, format!("ipPool {} {why}", pool.it.long()));
            }
        }
        for c in &entry.connectors {
            self.connector(c);
            self.learns(entry, c);
        }
    }

    /// An app connector that nobody is, or whose nodes are not told of it, never learns anything.
    fn learns(&mut self, entry: &NodeAttr, c: &Connector) {
        if c.connectors.is_empty() {
            let hint = "write `\"connectors\": [\"tag:NAME\"]`, the tag of the nodes that learn";
            self.tolerate(
                c.pos,
                format!("the app connector `{}` has no `connectors`: nothing can learn", clip(&c.name)),
                hint,
            );
            return;
        }
        let told = |tag: &str| {
            entry.target.iter().any(|t| match &t.it {
                Who::Any => true,
                Who::Tagged => tag != "*",
                Who::Tag(t) => t == tag,
                // Addresses and people may be those of the nodes that learn, where every node is one.
                Who::Prefix(..) | Who::Host(_) => true,
                _ => tag == "*",
            })
        };
        if let Some(tag) = c.connectors.iter().find(|t| !told(&t.it)) {
            let message =
                format!("nodes with `{}` are to learn for `{}`, but `target` leaves them out", tag.it, clip(&c.name));
            self.tolerate(tag.pos, message, "write `\"target\": [\"*\"]`");
        }
    }

    fn connector(&mut self, c: &Connector) {
        if c.name.is_empty() {
            self.fault(c.pos, "an app connector needs a `name`");
        }
        for tag in &c.connectors {
            match tag.it.as_str() {
                "*" => {}
                t if t.starts_with("tag:") => self.tag(tag),
                t => self.fault(tag.pos, format!("`{}`: connectors are tags, or `*`", clip(t))),
            }
        }
        if c.domains.is_empty() && c.routes.is_empty() && c.preset.is_none() {
            self.fault(c.pos, "an app connector needs `domains`, `routes` or `presetAppID`");
        }
        if c.preset.is_some() && !c.domains.is_empty() {
            self.fault(c.pos, "`presetAppID` brings its own domains; write one or the other");
        }
        for d in &c.domains {
            if let Err(why) = domain_fits(&d.it) {
                self.fault(d.pos, format!("domain `{}` {why}", clip(&d.it)));
            }
        }
        for d in &c.except {
            let name = clip(&d.it);
            if let Err(why) = domain_fits(&d.it) {
                self.fault(d.pos, format!("domain `!{name}` {why}"));
            } else if c.domains.iter().any(|n| n.it.eq_ignore_ascii_case(&d.it)) {
                self.fault(d.pos, format!("`{name}` is both named and left out"));
            } else if !c
                .domains
                .iter()
                .any(|n| n.it.starts_with("*.") && apps::reach(&n.it, apps::base(&d.it)).is_some())
            {
                self.fault(d.pos, format!("`!{name}` leaves nothing out: no wildcard of this app stands for it"));
            }
        }
        for r in c.routes.iter().filter(|r| r.it.bits() == 0) {
            self.fault(r.pos, "an app connector cannot take every route; that is an exit node");
        }
    }

    fn tests(&mut self) {
        let p = self.p;
        let wide = "`*` in a test asks about everybody at once, which has no one answer";
        for t in &p.tests {
            self.who(&t.src, Place::TestSrc);
            if t.src.it == Who::Any {
                self.tolerate(t.src.pos, wide, "name a user, a group, a tag or an address");
            }
            for d in t.accept.iter().chain(&t.deny) {
                if d.it.who == Who::Any {
                    self.tolerate(d.pos, wide, "name a user, a tag, a host or an address");
                }
                self.who(&At { pos: d.pos, it: d.it.who.clone() }, Place::TestDst);
                if let Err(why) = one_place(p, &d.it.who, false).and_then(|()| one_port(&d.it.ports)) {
                    self.fault(d.pos, format!("test destination `{}` {why}", d.it.who));
                }
            }
        }
        for t in &p.ssh_tests {
            self.who(&t.src, Place::SshTestSrc);
            for d in &t.dst {
                self.who(d, Place::SshTestDst);
                if let Err(why) = one_place(p, &d.it, true) {
                    self.fault(d.pos, format!("SSH test destination `{}` {why}", d.it));
                }
            }
        }
    }
}

type Misfit = (String, Option<&'static str>);

/// Whether a kind of name means something in a place.
fn fits(who: &Who, place: Place) -> Result<(), Misfit> {
    use Place::*;
    let no = |why: &str| Err((format!("`{who}` {why}"), None));
    let cannot = |hint| Err((format!("`{who}` cannot stand {}", place_name(place)), Some(hint)));
    match (who, place) {
        (Who::Own, Src) => no("is not valid as a source of a rule"),
        (Who::Internet, Src | TestSrc) => no("can only be a destination"),
        (Who::DangerAll, Dst | GrantDst) => no("cannot be a destination"),
        (Who::Shared, Dst | GrantDst) => no("can only be a source"),
        (Who::NonRoot, Src | Dst | GrantDst | Target | TestSrc) => no("is a word for the users of SSH rules only"),
        (Who::App(_) | Who::Service(_), Src) => no("can only be a destination"),
        (Who::Prefix(p, _), GrantDst) if p.bits() == 0 => {
            Err((format!("dst `{who}`: every address is written otherwise"), Some("write `*` or `autogroup:internet`")))
        }
        (Who::Own | Who::Internet | Who::DangerAll | Who::Shared, Target) => {
            no("describes no lasting set of nodes, and cannot be a target")
        }
        (Who::IpSet(_) | Who::App(_) | Who::Service(_) | Who::Range(_), Target) => cannot(
            "targets are users, groups, tags, hosts, addresses, autogroup:member, autogroup:tagged, roles or `*`",
        ),
        (Who::User(_) | Who::Group(_) | Who::Tag(_) | Who::Domain(_), Owner | Approver) => Ok(()),
        (Who::Member | Who::Role(_) | Who::Tagged, Owner | Approver) => Ok(()),
        (_, Owner | Approver) => cannot("write users, groups, tags, autogroup:member or a role"),
        (
            Who::User(_) | Who::Group(_) | Who::Tag(_) | Who::Domain(_) | Who::Member | Who::Tagged | Who::Role(_),
            SshSrc,
        ) => Ok(()),
        (Who::Shared, SshSrc) => Ok(()),
        (_, SshSrc) => cannot("sources of SSH are users, groups, tags and autogroups"),
        (Who::User(_) | Who::Tag(_) | Who::Member | Who::Tagged | Who::Own, SshDst) => Ok(()),
        (Who::Any, SshDst) => Err((
            "`*` is not supported as a destination of SSH".to_string(),
            Some("write autogroup:self, autogroup:member, autogroup:tagged or tags"),
        )),
        (_, SshDst) => {
            cannot("destinations of SSH are tags, autogroup:self, autogroup:member, autogroup:tagged, or the one user")
        }
        (Who::Internet | Who::IpSet(_) | Who::App(_) | Who::Any | Who::Range(_) | Who::DangerAll, SshTestDst) => {
            cannot("name one place that SSH can reach")
        }
        (Who::Internet | Who::Own | Who::DangerAll, SshTestSrc) => cannot("name who asks"),
        _ => Ok(()),
    }
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Src => "under src",
        Place::Dst | Place::GrantDst => "under dst",
        Place::Target => "under target",
        Place::Owner => "in tagOwners",
        Place::Approver => "in autoApprovers",
        Place::SshSrc => "under src of an SSH rule",
        Place::SshDst => "under dst of an SSH rule",
        Place::SshTestSrc => "under src of an SSH test",
        Place::SshTestDst => "under dst of an SSH test",
        Place::TestSrc => "under src of a test",
        Place::TestDst => "in a test",
    }
}

/// A test asks about one place and one port; anything wider has no single answer. In `tests` the hosted service refuses
/// even a prefix of one address, in `sshTests` it does not.
fn one_place(p: &Policy, who: &Who, written_prefix: bool) -> Result<(), &'static str> {
    let wide = |prefix: Prefix| !prefix.is_host();
    match who {
        Who::Internet => Err("is no single place; name an address"),
        Who::Prefix(prefix, written) if wide(*prefix) || (*written && !written_prefix) => {
            Err("is a prefix; a test asks about one address")
        }
        Who::Range(_) => Err("is a range; a test asks about one address"),
        Who::Host(h) if p.hosts.get(h).is_some_and(|h| wide(h.it)) => {
            Err("stands for a prefix; a test asks about one address")
        }
        _ => Ok(()),
    }
}

fn one_port(ports: &[Ports]) -> Result<(), &'static str> {
    match ports {
        [p] if p.first == p.last => Ok(()),
        _ => Err("needs exactly one port"),
    }
}

/// Capability names are DOMAIN/PATH without a scheme; those of tailscale.com are for servers to give, except a few.
fn capability_name(name: &str) -> Result<(), &'static str> {
    if name.contains("://") || !name.split_once('/').is_some_and(|(d, p)| !d.is_empty() && !p.is_empty()) {
        return Err("must have the form DOMAIN/PATH, without `https://`");
    }
    if name.starts_with("tailscale.com/")
        && name.strip_prefix("tailscale.com/cap/").is_none_or(|n| n.is_empty() || SERVERS_OWN.contains(&n))
    {
        return Err("is one of those under tailscale.com that only a server gives");
    }
    Ok(())
}

/// Pools are parts of 100.64.0.0/10 and leave alone what the client needs for itself (public documentation of IP
/// pools: 100.100.100.0/24 for its resolver, 100.115.92.0/23 for ChromeOS).
fn pool_fits(pool: Prefix) -> Result<(), &'static str> {
    let v4 = |a: [u8; 4], len| Prefix::new(Addr::new(std::net::IpAddr::from(a)), len);
    if !v4([100, 64, 0, 0], 10).is_some_and(|cgnat| cgnat.covers(pool)) {
        return Err("does not lie in 100.64.0.0/10");
    }
    let reserved = [v4([100, 100, 100, 0], 24), v4([100, 115, 92, 0], 23)];
    if reserved.into_iter().flatten().any(|r| r.covers(pool) || pool.covers(r)) {
        return Err("touches a range that clients keep for themselves: 100.100.100.0/24, 100.115.92.0/23");
    }
    Ok(())
}

/// A domain or `*.` and a domain of two labels at least: no wildcard for a whole top-level domain.
fn domain_fits(domain: &str) -> Result<(), &'static str> {
    let (wild, rest) = domain.strip_prefix("*.").map_or((false, domain), |r| (true, r));
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    if rest.contains('*') {
        return Err("may hold `*` only as its first label: `*.example.com`");
    }
    if !rest.trim_end_matches('.').split('.').all(label) || rest.len() > 253 {
        return Err("is no domain name");
    }
    if wild && !rest.trim_end_matches('.').contains('.') {
        return Err("would take a whole top-level domain");
    }
    Ok(())
}

fn keys<T>(named: &Named<T>) -> Vec<&str> {
    named.keys().map(String::as_str).collect()
}

/// Names of app connectors, without `app:`.
fn app_names(p: &Policy) -> Vec<&str> {
    p.connectors().map(|c| c.name.as_str()).collect()
}
