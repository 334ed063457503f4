//! Why something passes or does not. In: who asks, where to, how. Out: the rule that lets it through, or the one that
//! came nearest and what it lacked, in data that a person's sentence is made from.

use addr::{Addr, Prefix};

use super::compile::Compiled;
use super::ipset::internet;
use super::ranges::Ranges;
use super::resolve::fits;
use super::rules::{Dest, Origin, Rule, nets_match};
use super::who::{Ports, Proto, Who, WhoPorts, has_ports, proto_name, read_who, read_who_ports};

/// So many pairs of addresses are answered one by one; names like `autogroup:internet` have dozens.
const MAX_PAIRS: usize = 4;

/// Protocols that are asked about where none is named (IANA, "Assigned Internet Protocol Numbers").
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// What somebody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asks, as written.
    pub src: String,
    /// Where to, as written, without the port.
    pub dst: String,
    /// The port, if one was named.
    pub port: Option<u16>,
    /// The protocol; `None` is the default of TCP, UDP and ICMP.
    pub proto: Proto,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// True if every address of the source gets through: at the port, if one was asked for; without a protocol, by one
    /// of them.
    pub allowed: bool,
    /// True if it also arrives: somebody has the source's address, and a node or a router has the destination's.
    pub arrives: bool,
    /// The protocols that get through, by number, where none was asked for or the one that was.
    pub passes: Vec<u8>,
    /// The rule that lets it through, or the one that came nearest; none if the policy has no rule.
    pub rule: Option<Origin>,
    /// Sentences for a person, the most important first.
    pub lines: Vec<String>,
}

/// What a rule has to say to a packet, condition by condition.
struct Match {
    src: bool,
    dst: bool,
    net: bool,
    posture: bool,
}

impl Question {
    /// Reads `SRC` and `DST[:PORT]`.
    ///
    /// # Errors
    /// The protocol is not known.
    pub fn read(src: &str, dst: &str, proto: Option<&str>) -> Result<Question, String> {
        let proto = super::who::read_proto(&proto.unwrap_or_default().to_ascii_lowercase())?;
        let whole = || Question { src: src.to_string(), dst: dst.to_string(), port: None, proto };
        // `tag:web` has a colon and no port; an address of IPv6 has many.
        if dst.parse::<Addr>().is_ok() || dst.parse::<Prefix>().is_ok() {
            return Ok(whole());
        }
        let ports = match read_who_ports(dst) {
            Ok(WhoPorts { ports, .. }) => ports,
            // `beedrill:99999` names a port that does not exist, and not a node.
            Err(why) if dst.rsplit_once(':').is_some_and(|(_, p)| is_number(p)) => return Err(why),
            Err(_) => return Ok(whole()),
        };
        let (name, _) = dst.rsplit_once(':').unwrap_or((dst, ""));
        let name = name.trim_start_matches('[').replace(']', "");
        match ports.as_slice() {
            [Ports { first, last }] if first == last => {
                Ok(Question { src: src.to_string(), dst: name, port: Some(*first), proto })
            }
            _ => Ok(Question { dst: name, ..whole() }),
        }
    }
}

impl Compiled {
    /// Says which rule lets it through, or which came nearest.
    ///
    /// # Errors
    /// A name that means nothing here, in words.
    pub fn explain(&self, q: &Question) -> Result<Answer, String> {
        let (src, from) = self.place(&q.src)?;
        let (dst, to) = self.place(&q.dst)?;
        let mut alike: Vec<(String, Vec<(Prefix, Prefix)>)> = Vec::new();
        let (mut allowed, mut arrives) = (true, true);
        let mut origin = None;
        let mut passes: Option<Vec<u8>> = None;
        for f in &from {
            for t in to.iter().filter(|t| t.is_v4() == f.is_v4()) {
                let found = self.protocols(*f, *t, q);
                let through: Vec<u8> = found.iter().filter(|(_, r)| r.is_some()).map(|(p, _)| *p).collect();
                // Where a port is asked for, a protocol without ports is no answer.
                let yes = through.iter().any(|p| q.port.is_none() || q.proto.is_some() || has_ports(Some(*p)));
                let (rule, answer) = match found.iter().find_map(|(_, r)| *r) {
                    None => {
                        let (rule, words) = self.nearest(*f, *t, q);
                        (rule, format!("refused, {words}"))
                    }
                    Some(rule) => {
                        let words = self.verdict(&found, *f, *t, q);
                        let rules = found.iter().filter_map(|(_, r)| *r);
                        let part = self.part(rules, *f, *t, q).map(|p| format!("; {p}")).unwrap_or_default();
                        allowed &= part.is_empty();
                        match (yes, part.is_empty()) {
                            (true, true) => (Some(rule.origin), format!("allowed{words}")),
                            (true, false) => (Some(rule.origin), format!("allowed in part{words}{part}")),
                            (false, _) => {
                                let (rule, words) = self.nearest(*f, *t, q);
                                let only = protos_named(&through);
                                (rule, format!("refused, {words}; only {only} gets through"))
                            }
                        }
                    }
                };
                allowed &= yes;
                arrives &= yes && self.somebody_at(*f) && self.carried(*t);
                passes = Some(match passes {
                    None => through,
                    Some(before) => before.into_iter().filter(|p| through.contains(p)).collect(),
                });
                match alike.iter_mut().find(|(a, _)| *a == answer) {
                    Some((_, pairs)) => pairs.push((*f, *t)),
                    None => alike.push((answer, vec![(*f, *t)])),
                }
                if origin.is_none() || !yes {
                    origin = rule;
                }
            }
        }
        if alike.is_empty() {
            return Err(format!("{src} and {dst} have no address of the same family"));
        }
        let asked = asked(q);
        let mut lines = Vec::new();
        for (answer, pairs) in alike {
            if pairs.len() > MAX_PAIRS {
                lines.push(format!("{src} -> {dst}{asked}: {answer} (the same for {} pairs of prefixes)", pairs.len()));
                continue;
            }
            let line = |(f, t)| format!("{src} ({f}) -> {dst} ({t}){asked}: {answer}");
            lines.extend(pairs.into_iter().map(line));
        }
        if let (Some((_, port)), true, None) = (dst.rsplit_once(':'), is_v6(&dst), q.port)
            && is_number(port)
            && self.resolver.net.node_at(to[0].first()).is_none()
        {
            lines.push(format!("`{dst}` was read as one address; `[ADDRESS]:{port}` asks for a port"));
        }
        let passes = passes.unwrap_or_default();
        Ok(Answer { allowed, arrives: allowed && arrives, passes, rule: origin, lines })
    }

    /// The first rule that lets each protocol through: the one that is asked for, or the usual ones and those that rules
    /// between the two name.
    fn protocols(&self, from: Prefix, to: Prefix, q: &Question) -> Vec<(u8, Option<&Rule>)> {
        let icmp = if to.is_v4() { ICMP } else { ICMP6 };
        let mut asked: Vec<u8> = q.proto.map_or_else(|| vec![TCP, UDP, icmp], |p| vec![p]);
        let between: Vec<&Rule> =
            self.rules.all().iter().filter(|r| self.matches(r, from, to, None, None).both()).collect();
        if q.proto.is_none() {
            let named = between.iter().flat_map(|r| &r.dst).flat_map(|d| &d.nets).filter_map(|(p, _)| *p);
            let mut named: Vec<u8> = named.filter(|p| !asked.contains(p) && !matches!(*p, ICMP | ICMP6)).collect();
            named.sort_unstable();
            named.dedup();
            asked.extend(named);
        }
        let first = |p: u8| {
            // What has no ports is not asked for one.
            let port = q.port.filter(|_| has_ports(Some(p)) || q.proto.is_some());
            between.iter().copied().find(|r| self.matches(r, from, to, Some(p), port).all())
        };
        asked.into_iter().map(|p| (p, first(p))).collect()
    }

    /// By which rule what passes, and what does not.
    fn verdict(&self, found: &[(u8, Option<&Rule>)], from: Prefix, to: Prefix, q: &Question) -> String {
        let mut by: Vec<(&Rule, Vec<u8>)> = Vec::new();
        for (p, rule) in found {
            let Some(rule) = rule else { continue };
            match by.iter_mut().find(|(r, _)| r.origin == rule.origin) {
                Some((_, protos)) => protos.push(*p),
                None => by.push((rule, vec![*p])),
            }
        }
        let words = |rule: &Rule| self.passes(rule, from, to);
        let closed: Vec<u8> = found.iter().filter(|(_, r)| r.is_none()).map(|(p, _)| *p).collect();
        if let ([(rule, _)], true) = (by.as_slice(), closed.is_empty() || q.proto.is_some()) {
            return format!(", {}", words(rule));
        }
        let parts: Vec<String> = by.iter().map(|(r, p)| format!(" for {}, {}", protos_named(p), words(r))).collect();
        let rest = match closed.len() {
            0 => String::new(),
            1 => format!("; {} is refused", protos_named(&closed)),
            _ => format!("; {} are refused", protos_named(&closed)),
        };
        format!("{}{rest}", parts.join("; and"))
    }

    /// True if a node or an approved route has part of these addresses.
    fn somebody_at(&self, prefix: Prefix) -> bool {
        let set: Ranges = [prefix].into_iter().collect();
        !self.resolver.net.nodes_in(&set).is_empty() || !self.resolver.net.touching(&set).is_empty()
    }

    /// True if a node has part of these addresses, or a router carries there, be it as an exit node.
    fn carried(&self, prefix: Prefix) -> bool {
        self.somebody_at(prefix) || (!self.resolver.net.exits.is_empty() && internet().overlaps(prefix))
    }

    /// True if a destination of a rule opens an address. What several routers or exit nodes carry is open if one of them
    /// lets it in; what nobody carries, as the rule words it.
    fn opens(&self, rule: &Rule, d: &Dest, from: Prefix, to: Prefix) -> bool {
        let via = !rule.via.is_empty();
        let Some(t) = self.rules.target(d) else {
            return !via && self.same_owner(from.first(), to.first());
        };
        let (any, held) = (t.any && !via, t.set.ranges.overlaps(to));
        if !to.is_host() || !(any || held) {
            return any || held;
        }
        let (net, set) = (&self.resolver.net, [to].into_iter().collect::<Ranges>());
        let app = matches!(d.who, Who::App(_));
        let nodes = net.nodes_in(&set);
        if !nodes.is_empty() {
            return !via && (any || !app || nodes.iter().any(|n| t.set.nodes.has(n)));
        }
        let tagged = |n: usize| {
            let node = self.topology().nodes.get(n);
            !via || node.is_some_and(|node| rule.via.iter().any(|t| node.has_tag(t)))
        };
        let touching = net.touching(&set);
        let mut routers = touching.iter().flat_map(|r| net.routers[r].iter().copied()).peekable();
        let exits = internet().covers(to) && !net.exits.is_empty();
        if routers.peek().is_none() && !exits {
            return any || held;
        }
        let lets = |n: usize| tagged(n) && (any || !app || t.set.nodes.has(n));
        let out = || match via {
            true => held && t.set.internet && !t.any,
            false => any || (held && t.public && !app),
        };
        routers.any(lets) || (exits && out() && net.exits.iter().any(tagged))
    }

    /// What of a wide source and destination the rules name, if that is not all of them.
    fn part<'r>(
        &self,
        rules: impl Iterator<Item = &'r Rule>,
        from: Prefix,
        to: Prefix,
        q: &Question,
    ) -> Option<String> {
        if from.is_host() && to.is_host() {
            return None;
        }
        let (mut src, mut dst) = (Ranges::new(), Ranges::new());
        for rule in rules {
            src.add(&self.rules.source(rule).set.ranges);
            let port = q.port.filter(|_| q.proto.is_some());
            for d in rule.dst.iter().filter(|d| nets_match(&d.nets, q.proto, port)) {
                match self.rules.target(d) {
                    Some(t) if t.any => dst.add(&Ranges::all()),
                    Some(t) => dst.add(&t.set.ranges),
                    None => dst.add(&[to].into_iter().collect()),
                }
            }
        }
        let mut lacks = Vec::new();
        for (asked, named, word) in [(from, src, "sources"), (to, dst, "destinations")] {
            if !named.covers(asked) {
                let both = named.intersect(&[asked].into_iter().collect());
                let mut texts: Vec<String> = both.texts().take(MAX_PAIRS + 1).collect();
                if texts.len() > MAX_PAIRS {
                    texts[MAX_PAIRS] = "…".to_string();
                }
                lacks.push(format!("of the {word} only {}", texts.join(", ")));
            }
        }
        (!lacks.is_empty()).then(|| lacks.join(", and "))
    }

    /// A name or address as prefixes: nodes by their names first, then everything a policy can name.
    fn place(&self, text: &str) -> Result<(String, Vec<Prefix>), String> {
        if let Some(n) = self.topology().node(text).and_then(|i| self.topology().nodes.get(i)) {
            return Ok((text.to_string(), n.addrs().map(Prefix::host).collect()));
        }
        let who = read_who(text)?;
        if let Who::Host(name) = &who
            && !self.resolver.policy.hosts.contains_key(name)
        {
            return Err(format!("`{name}` is no node, no host of the policy, no user and no address"));
        }
        if matches!(who, Who::Any | Who::DangerAll) {
            return Err(format!("`{who}` is everybody; name a node, a user, a tag or an address"));
        }
        if matches!(who, Who::Own | Who::NonRoot) {
            return Err(format!("`{who}` is a different place for everybody; name a node"));
        }
        let prefixes = self.resolver.set(&who).prefixes();
        if prefixes.is_empty() {
            return Err(format!("`{who}` has no address in this topology"));
        }
        Ok((text.to_string(), prefixes))
    }

    /// True if some rule lets something pass from one address to the other.
    #[must_use]
    pub fn reaches(&self, from: Addr, to: Addr) -> bool {
        let (from, to) = (Prefix::host(from), Prefix::host(to));
        self.rules.all().iter().any(|r| self.matches(r, from, to, None, None).both())
    }

    fn matches(&self, rule: &Rule, from: Prefix, to: Prefix, proto: Proto, port: Option<u16>) -> Match {
        let named = rule.names.contains(&Who::DangerAll)
            || self.rules.source(rule).set.ranges.overlaps(from)
            || (!rule.posture.is_empty() && rule.names.iter().any(|w| self.resolver.set(w).ranges.overlaps(from)));
        let posture = self.rules.source(rule).set.ranges.overlaps(from);
        let mut m = Match { src: named, posture, dst: false, net: false };
        for d in &rule.dst {
            let here = self.opens(rule, d, from, to);
            m.dst |= here;
            m.net |= here && nets_match(&d.nets, proto, port);
        }
        m
    }

    /// True if both addresses are devices of one user.
    pub(crate) fn same_owner(&self, a: Addr, b: Addr) -> bool {
        let owner = |addr| self.resolver.net.node_at(addr).and_then(|n| self.topology().nodes.get(n)?.owner());
        owner(a).is_some() && owner(a) == owner(b)
    }

    fn passes(&self, rule: &Rule, from: Prefix, to: Prefix) -> String {
        let mut words = format!("by {}", place_of(rule.origin));
        if !rule.via.is_empty() {
            words += &format!(", through routers with {}", rule.via.join(" or "));
        }
        if !self.carried(to) {
            words += "; but no router has an approved route there, so nothing arrives";
        }
        if !self.somebody_at(from) {
            words += "; no node and no approved route has the source address today";
        }
        words
    }

    /// The rule that lacked least, and what it lacked.
    fn nearest(&self, from: Prefix, to: Prefix, q: &Question) -> (Option<Origin>, String) {
        let score = |m: &Match| (u8::from(m.src) + u8::from(m.dst), m.net, m.posture, m.src);
        let look = |r| {
            let mut m = self.matches(r, from, to, q.proto, q.port);
            // A port is a port of TCP or UDP.
            let opens = |p: u8| self.matches(r, from, to, Some(p), q.port).net;
            m.net &= q.proto.is_some() || q.port.is_none() || opens(TCP) || opens(UDP);
            (r, m)
        };
        let best = self.rules.all().iter().map(look).rev().max_by_key(|(_, m)| score(m));
        let Some((rule, m)) = best else {
            return (None, "the policy has no rule that lets anybody through".to_string());
        };
        if !m.src && !m.dst {
            return (None, "no rule names either of them".to_string());
        }
        let mut lacks = Vec::new();
        if !m.src {
            let names: Vec<String> = rule.names.iter().map(ToString::to_string).collect();
            lacks.push(format!("its sources are {}", names.join(", ")));
        }
        if m.src && !m.posture && !rule.posture.is_empty() {
            lacks.push(self.posture_lack(rule, from));
        }
        let named = |d: &Dest| self.rules.target(d).is_some_and(|t| t.any || t.set.ranges.overlaps(to));
        if !m.dst && !rule.via.is_empty() && rule.dst.iter().any(named) {
            lacks.push(format!("it goes through routers with {}, and none of them leads there", rule.via.join(" or ")));
        } else if !m.dst {
            let names: Vec<String> = rule.dst.iter().map(|d| d.who.to_string()).collect();
            lacks.push(format!("its destinations are {}", names.join(", ")));
        } else if !m.net {
            let here = |d: &&Dest| self.opens(rule, d, from, to);
            let mut nets: Vec<String> = rule.dst.iter().filter(here).flat_map(|d| &d.nets).map(net_words).collect();
            nets.dedup();
            lacks.push(match nets.is_empty() {
                true => "it grants capabilities only, no traffic".to_string(),
                false => format!("there it opens {}", nets.join(", ")),
            });
        }
        (
            Some(rule.origin),
            format!("no rule lets it through; {} came nearest, but {}", place_of(rule.origin), lacks.join(", and ")),
        )
    }

    pub(crate) fn posture_lack(&self, rule: &Rule, from: Prefix) -> String {
        let node = self.resolver.net.node_at(from.first()).and_then(|n| self.topology().nodes.get(n));
        let Some(node) = node else { return format!("only a node can satisfy {}", rule.posture.join(" or ")) };
        let unmet: Vec<&str> = rule
            .posture
            .iter()
            .map(String::as_str)
            .filter(|p| !fits(&self.resolver.policy, p, &node.posture))
            .collect();
        format!("{} does not satisfy {}", node.name, unmet.join(" or "))
    }
}

impl Match {
    fn all(&self) -> bool {
        self.both() && self.net
    }

    /// True if source and destination are those of the rule.
    fn both(&self) -> bool {
        self.src && self.dst && self.posture
    }
}

/// Protocols as a person says them: `tcp, udp and icmp`.
fn protos_named(protos: &[u8]) -> String {
    let names: Vec<String> =
        protos.iter().map(|p| if *p == ICMP6 { "icmp".to_string() } else { proto_name(*p) }).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn place_of(o: Origin) -> String {
    match o.section {
        "" => "the default of a policy without acls and grants".to_string(),
        section => format!("rule {} of {section} (line {})", o.index + 1, o.pos.line),
    }
}

/// Protocol and ports as a person says them.
pub(crate) fn net_words((proto, ports): &(Proto, Vec<Ports>)) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match proto {
        Some(p) => format!("{}:{}", proto_name(*p), ports.join(",")),
        None => ports.join(","),
    }
}

fn asked(q: &Question) -> String {
    let port = q.port.map(|p| format!(" port {p}")).unwrap_or_default();
    let proto = q.proto.map(|p| format!(" {}", proto_name(p))).unwrap_or_default();
    format!("{port}{proto}")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_v6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}
