//! The promises a policy makes about itself: `tests` and `sshTests`. In: a compiled policy. Out: each assertion with
//! whether it holds. A policy of which one fails is refused, and the old one stays.

use std::collections::BTreeMap;

use addr::{Addr, Prefix};

use super::compile::Compiled;
use super::language::{SshTest, Test};
use super::posture::Value;
use super::problem::Pos;
use super::resolve::fits;
use super::rules::{Origin, Rule, nets_match};
use super::who::{Ports, Proto, Who, has_ports, proto_name};

/// One assertion and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `tests` or `sshTests`, and the place in it.
    pub section: &'static str,
    /// Place in the section, from 0.
    pub index: usize,
    /// Where it stands.
    pub pos: Pos,
    /// What was asserted, in words: `thor@example.org -> tag:server:22 accept`.
    pub asserted: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// What became of an assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not; why.
    Fails(String),
    /// Nobody can say yet: it speaks of somebody who is not here; who.
    Unknown(String),
}

impl Outcome {
    /// True if the assertion holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.verdict == Verdict::Holds
    }

    /// Why it counts as failed, if it does. What nobody can say yet, counts where one is `strict`.
    #[must_use]
    pub fn failure(&self, strict: bool) -> Option<&str> {
        match &self.verdict {
            Verdict::Fails(why) => Some(why),
            Verdict::Unknown(why) if strict => Some(why),
            _ => None,
        }
    }
}

impl Compiled {
    /// Runs every assertion of the policy, in order.
    #[must_use]
    pub fn run_tests(&self) -> Vec<Outcome> {
        let mut out = Vec::new();
        for (i, t) in self.resolver.policy.tests.iter().enumerate() {
            self.run_test(i, t, &mut out);
        }
        for (i, t) in self.resolver.policy.ssh_tests.iter().enumerate() {
            self.run_ssh_test(i, t, &mut out);
        }
        out
    }

    fn run_test(&self, index: usize, t: &Test, out: &mut Vec<Outcome>) {
        let proto = t.proto.map(|p| format!(" over {}", proto_name(p))).unwrap_or_default();
        let src = self.resolver.set(&t.src.it);
        let from = src.prefixes();
        for (wanted, d) in t.accept.iter().map(|d| (true, d)).chain(t.deny.iter().map(|d| (false, d))) {
            let ports: Vec<String> = d.it.ports.iter().map(ToString::to_string).collect();
            let word = if wanted { "accept" } else { "deny" };
            let asserted = format!("{} -> {}:{}{proto} {word}", t.src.it, d.it.who, ports.join(","));
            let verdict = self.test_verdict(t, &from, &d.it.who, &d.it.ports, wanted);
            out.push(Outcome { section: "tests", index, pos: d.pos, asserted, verdict });
        }
    }

    fn test_verdict(&self, t: &Test, from: &[Prefix], to: &Who, ports: &[Ports], wanted: bool) -> Verdict {
        if *to == Who::Own {
            return Verdict::Fails("autogroup:self is a different place for everybody; name one".to_string());
        }
        let dst = self.resolver.set(to).prefixes();
        for (who, nobody) in [(&t.src.it, from.is_empty()), (to, dst.is_empty())] {
            // Nobody gets nowhere.
            match (nobody, wanted) {
                (true, true) => return Verdict::Unknown(format!("`{who}` has no address here yet")),
                (true, false) => return Verdict::Holds,
                _ => {}
            }
        }
        let attributes = (!t.posture.is_empty()).then_some(&t.posture);
        // What has no ports is asked for without one.
        let port = |p: &Ports| has_ports(t.proto).then_some(p.first);
        // Every address of the source must get through; one that does not is a way that is closed.
        let closed = from.iter().find(|f| {
            !dst.iter().any(|d| ports.iter().any(|p| self.first_rule(**f, *d, t.proto, port(p), attributes).is_some()))
        });
        match (wanted, closed) {
            (true, None) | (false, Some(_)) => Verdict::Holds,
            (true, Some(addr)) => {
                let lacks = dst.iter().find_map(|d| self.unfit(*addr, *d, t.proto, port(ports.first()?), attributes));
                let why = lacks.map(|l| format!("; {l}")).unwrap_or_default();
                Verdict::Fails(format!("it is refused: no rule lets {addr} through{why}"))
            }
            (false, None) => {
                let by = from.first().zip(dst.first());
                let by = by.and_then(|(f, d)| self.first_rule(*f, *d, t.proto, port(ports.first()?), attributes));
                Verdict::Fails(match by {
                    Some(o) => format!("it is let through by {} {} (line {})", o.section, o.index + 1, o.pos.line),
                    None => "it is let through".to_string(),
                })
            }
        }
    }

    /// The rule that would let a packet pass, were it not for its postures.
    fn unfit(
        &self,
        from: Prefix,
        to: Prefix,
        proto: Proto,
        port: Option<u16>,
        attributes: Option<&BTreeMap<String, Value>>,
    ) -> Option<String> {
        let named = |r: &Rule| r.names.iter().any(|w| self.resolver.set(w).ranges.overlaps(from));
        let mut with = self.rules.all().iter().filter(|r| !r.posture.is_empty());
        let rule = with.find(|r| self.dst_matches(r, to, proto, port) && named(r))?;
        let lack = match attributes {
            Some(_) => format!("`srcPostureAttrs` of this test does not satisfy {}", rule.posture.join(" or ")),
            None => self.posture_lack(rule, from),
        };
        let (section, index, line) = (rule.origin.section, rule.origin.index + 1, rule.origin.pos.line);
        Some(format!("{section} {index} (line {line}) would, but {lack}"))
    }

    /// The first rule that lets a packet pass from one prefix to part of another.
    pub(crate) fn first_rule(
        &self,
        from: Prefix,
        to: Prefix,
        proto: Proto,
        port: Option<u16>,
        attributes: Option<&BTreeMap<String, Value>>,
    ) -> Option<Origin> {
        let passes = |rule: &&Rule| self.src_matches(rule, from, attributes) && self.dst_matches(rule, to, proto, port);
        self.rules.all().iter().find(passes).map(|r| r.origin)
    }

    /// True if the rule has the prefix among its sources. With attributes given, they decide about postures.
    pub(crate) fn src_matches(&self, rule: &Rule, from: Prefix, attributes: Option<&BTreeMap<String, Value>>) -> bool {
        if let (Some(attributes), false) = (attributes, rule.posture.is_empty()) {
            let named = rule.names.iter().any(|w| self.resolver.set(w).ranges.overlaps(from));
            return named && rule.posture.iter().any(|p| fits(&self.resolver.policy, p, attributes));
        }
        self.rules.source(rule).set.ranges.overlaps(from)
    }

    /// True if the rule reaches part of the prefix under the protocol, at the port if one is given.
    pub(crate) fn dst_matches(&self, rule: &Rule, to: Prefix, proto: Proto, port: Option<u16>) -> bool {
        rule.dst.iter().any(|d| {
            let Some(target) = self.rules.target(d) else { return false };
            (target.any || target.set.ranges.overlaps(to)) && nets_match(&d.nets, proto, port)
        })
    }

    fn run_ssh_test(&self, index: usize, t: &SshTest, out: &mut Vec<Outcome>) {
        let addrs: Vec<Addr> = self.resolver.set(&t.src.it).ranges.iter().flat_map(|r| [r.first(), r.last()]).collect();
        let src_nodes = self.resolver.set(&t.src.it).nodes;
        let attributes = (!t.posture.is_empty()).then_some(&t.posture);
        let asked = [(&t.accept, "accept"), (&t.deny, "deny"), (&t.check, "check")];
        for d in &t.dst {
            let places = self.ssh_places(&t.src.it, &d.it);
            for (names, word) in asked {
                for login in names {
                    let asserted = format!("{} -> {login}@{} {word}", t.src.it, d.it);
                    let nobody = if addrs.is_empty() || src_nodes.is_empty() {
                        Some(&t.src.it)
                    } else {
                        places.is_empty().then_some(&d.it)
                    };
                    let verdict = match (nobody, word) {
                        (Some(_), "deny") => Verdict::Holds,
                        (Some(who), _) => Verdict::Unknown(format!("`{who}` is no node here yet")),
                        (None, _) => self
                            .ssh_failure(src_nodes.iter(), &places, login, word, attributes)
                            .map_or(Verdict::Holds, Verdict::Fails),
                    };
                    out.push(Outcome { section: "sshTests", index, pos: d.pos, asserted, verdict });
                }
            }
        }
    }

    fn ssh_failure(
        &self,
        from: impl Iterator<Item = usize>,
        places: &[usize],
        login: &str,
        word: &str,
        attributes: Option<&BTreeMap<String, Value>>,
    ) -> Option<String> {
        let name = |n: usize| self.topology().nodes.get(n).map_or("?", |n| n.name.as_str());
        for f in from {
            for p in places {
                let (let_in, checked) = self.ssh_as(f, *p, login, attributes);
                let wrong = match word {
                    "accept" if !let_in => "is refused",
                    "deny" if let_in => "is let in",
                    "check" if let_in && !checked => "is let in without a check",
                    "check" if !checked => "is refused",
                    _ => continue,
                };
                return Some(format!("`{login}` from {} {wrong} at {}", name(f), name(*p)));
            }
        }
        None
    }

    /// The nodes that a destination of SSH means to a source.
    fn ssh_places(&self, src: &Who, dst: &Who) -> Vec<usize> {
        if *dst != Who::Own {
            return self.resolver.set(dst).nodes.iter().collect();
        }
        let Who::User(_) = src else { return Vec::new() };
        let owners = self.resolver.users(src);
        owners.iter().flat_map(|u| self.resolver.devices_of(*u).unwrap_or_default().to_vec()).collect()
    }
}
