//! The rules of a policy in one form. In: `acls` and `grants` with their names resolved. Out: rules whose sources and
//! destinations are sets, each distinct one kept once.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use model::Prefix;

use super::bits::Bits;
use super::language::*;
use super::problem::Pos;
use super::ranges::Ranges;
use super::resolve::{Resolver, Set};
use super::who::{Ports, Proto, Who};

/// Which rule of the document something comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// `acls` or `grants`; empty for the rule that stands in for two absent sections.
    pub section: &'static str,
    /// Place in the section, from 0.
    pub index: usize,
    /// Where it begins.
    pub pos: Pos,
}

/// The sources of a rule, resolved.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Addresses as the packet filter matches them: approved routes included where `*` is a source.
    pub(crate) set: Set,
    /// The same before routes.
    base: Set,
    /// Approved subnet routes that `*` brings, one by one.
    routes: Vec<Prefix>,
    /// Names beside `*`, which keep their own entries.
    beside: Vec<String>,
    /// The prefixes of each name, in the order written.
    pub(crate) parts: Vec<Prefix>,
    /// True for `autogroup:danger-all`.
    everyone: bool,
    texts: OnceLock<Vec<String>>,
}

/// A destination of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Dest {
    /// As written.
    pub(crate) who: Who,
    /// What may pass: protocols with their ports.
    pub(crate) nets: Vec<(Proto, Vec<Ports>)>,
    /// Place among the destinations, or `None` for `autogroup:self`.
    pub(crate) set: Option<usize>,
}

/// A destination, resolved.
#[derive(Debug)]
pub(crate) struct Target {
    /// What it stands for.
    pub(crate) set: Set,
    /// Its prefixes in order.
    pub(crate) prefixes: Vec<Prefix>,
    /// True for `*`, which filters write as `*`.
    pub(crate) any: bool,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) origin: Origin,
    /// Place of its sources.
    pub(crate) src: usize,
    pub(crate) dst: Vec<Dest>,
    pub(crate) app: BTreeMap<String, serde_json::Value>,
    pub(crate) via: Vec<String>,
    /// Postures that were asked for, for explanations.
    pub(crate) posture: Vec<String>,
    /// Sources as written, for explanations.
    pub(crate) names: Vec<Who>,
}

/// All rules with what they share.
pub(crate) struct Rules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) sources: Vec<Sources>,
    pub(crate) targets: Vec<Target>,
}

type SourceKey = (Ranges, Vec<Prefix>, Vec<Prefix>, Vec<String>, bool);

/// Collects rules and keeps each distinct source and destination once.
struct Builder<'r> {
    r: &'r Resolver,
    out: Rules,
    by_key: BTreeMap<SourceKey, usize>,
    by_names: BTreeMap<(Vec<Who>, Vec<String>), Option<usize>>,
    by_who: BTreeMap<Who, usize>,
    postures: BTreeMap<Vec<String>, Bits>,
    sets: BTreeMap<Who, Set>,
}

impl Rules {
    /// Resolves every rule. A policy without `acls` and `grants` lets everybody through (public documentation: the
    /// default when neither section is there); an empty section lets nobody.
    pub(crate) fn new(r: &Resolver) -> Rules {
        let mut b = Builder {
            r,
            out: Rules { rules: Vec::new(), sources: Vec::new(), targets: Vec::new() },
            by_key: BTreeMap::new(),
            by_names: BTreeMap::new(),
            by_who: BTreeMap::new(),
            postures: BTreeMap::new(),
            sets: BTreeMap::new(),
        };
        let p = &r.policy;
        if p.acls.is_none() && p.grants.is_none() {
            let origin = Origin { section: "", index: 0, pos: Pos { line: 1, column: 1 } };
            let all = vec![(None, vec![Ports::ALL])];
            b.add(origin, &[Who::Any], vec![(Who::Any, all)], &BTreeMap::new(), &[], &[]);
        }
        for (index, g) in p.grants.iter().flatten().enumerate() {
            let origin = Origin { section: "grants", index, pos: g.pos };
            let dst = g.dst.iter().map(|d| (d.it.clone(), g.ip.clone())).collect();
            b.add(origin, &whos(&g.src), dst, &g.app, &g.via, &g.posture);
        }
        for (index, a) in p.acls.iter().flatten().enumerate() {
            let origin = Origin { section: "acls", index, pos: a.pos };
            let dst = a.dst.iter().map(|d| (d.it.who.clone(), vec![(a.proto, d.it.ports.clone())])).collect();
            b.add(origin, &whos(&a.src), dst, &BTreeMap::new(), &[], &a.posture);
        }
        b.out
    }
}

fn whos(list: &[At<Who>]) -> Vec<Who> {
    list.iter().map(|w| w.it.clone()).collect()
}

impl Builder<'_> {
    fn add(
        &mut self,
        origin: Origin,
        src: &[Who],
        dst: Vec<(Who, Vec<(Proto, Vec<Ports>)>)>,
        app: &BTreeMap<String, At<serde_json::Value>>,
        via: &[At<String>],
        posture: &[At<String>],
    ) {
        let posture = if posture.is_empty() { &self.r.policy.default_src_posture } else { posture };
        if src.is_empty() || dst.is_empty() {
            return;
        }
        let Some(source) = self.source(src, posture) else { return };
        let dst = dst
            .into_iter()
            .map(|(who, nets)| Dest { set: (who != Who::Own).then(|| self.target(&who)), who, nets })
            .collect();
        self.out.rules.push(Rule {
            origin,
            src: source,
            dst,
            app: app.iter().map(|(k, v)| (k.clone(), v.it.clone())).collect(),
            via: via.iter().map(|t| t.it.clone()).collect(),
            posture: posture.iter().map(|p| p.it.clone()).collect(),
            names: src.to_vec(),
        });
    }

    fn set(&mut self, who: &Who) -> Set {
        if let Some(set) = self.sets.get(who) {
            return set.clone();
        }
        let set = self.r.set(who);
        self.sets.insert(who.clone(), set.clone());
        set
    }

    fn target(&mut self, who: &Who) -> usize {
        if let Some(i) = self.by_who.get(who) {
            return *i;
        }
        let set = self.set(who);
        let any = *who == Who::Any;
        let prefixes = set.prefixes();
        self.out.targets.push(Target { set, prefixes, any });
        self.by_who.insert(who.clone(), self.out.targets.len() - 1);
        self.out.targets.len() - 1
    }

    /// The place of these sources.
    fn source(&mut self, src: &[Who], posture: &[At<String>]) -> Option<usize> {
        let names = (src.to_vec(), posture.iter().map(|p| p.it.clone()).collect::<Vec<_>>());
        if let Some(i) = self.by_names.get(&names) {
            return *i;
        }
        let sources = self.resolve_sources(src, posture);
        let base = &sources.base;
        let key: SourceKey =
            (base.wide.clone(), base.hosts.clone(), sources.routes.clone(), sources.beside.clone(), sources.everyone);
        let i = match self.by_key.get(&key) {
            Some(i) => *i,
            None => {
                self.out.sources.push(sources);
                self.by_key.insert(key, self.out.sources.len() - 1);
                self.out.sources.len() - 1
            }
        };
        self.by_names.insert(names, Some(i));
        Some(i)
    }

    fn resolve_sources(&mut self, src: &[Who], posture: &[At<String>]) -> Sources {
        let any = src.contains(&Who::Any);
        let mut s = Sources {
            set: Set::default(),
            base: Set::default(),
            routes: Vec::new(),
            beside: Vec::new(),
            parts: Vec::new(),
            everyone: src.contains(&Who::DangerAll),
            texts: OnceLock::new(),
        };
        if !posture.is_empty() {
            return self.fit_sources(src, posture, s);
        }
        let mut all = None;
        for who in src {
            let set = self.set(who);
            s.parts.extend(set.prefixes());
            if any && *who != Who::Any {
                s.beside.extend(set.texts());
            }
            all = Some(match all {
                None => set,
                Some(all) => Set::with(all, set),
            });
        }
        s.base = Set { internet: false, ..all.unwrap_or_default() };
        if any {
            s.routes = self.r.net.routes.clone();
        }
        if s.routes.is_empty() {
            s.set = s.base.clone();
        } else {
            let mut matched = s.base.wide.clone();
            matched.add(&s.routes.iter().copied().collect());
            s.set = self.r.net.set(matched, s.base.hosts.clone(), false);
        }
        s
    }

    /// Sources under a posture are nodes that satisfy one; addresses that no node has, satisfy none.
    fn fit_sources(&mut self, src: &[Who], posture: &[At<String>], mut s: Sources) -> Sources {
        let names: Vec<String> = posture.iter().map(|p| p.it.clone()).collect();
        let fit = match self.postures.get(&names) {
            Some(fit) => fit.clone(),
            None => {
                let fit = self.r.fit_nodes(posture);
                self.postures.insert(names, fit.clone());
                fit
            }
        };
        let mut nodes = Bits::new(self.r.net.len);
        for who in src {
            nodes.add(&self.set(who).nodes);
        }
        nodes.keep(&fit);
        let addrs = nodes.iter().flat_map(|n| self.r.topology.nodes[n].addrs()).map(Prefix::host);
        s.base = self.r.net.set(Ranges::new(), addrs.collect(), false);
        s.everyone = false;
        s.parts = s.base.prefixes();
        s.set = s.base.clone();
        s
    }
}

impl Sources {
    /// `SrcIPs` of a packet filter.
    pub(crate) fn texts(&self) -> &[String] {
        self.texts.get_or_init(|| {
            if self.everyone {
                return vec!["*".to_string()];
            }
            let mut out: Vec<String> = self.base.texts().collect();
            out.extend(self.routes.iter().map(ToString::to_string));
            out.extend(self.beside.iter().cloned());
            let mut seen = std::collections::BTreeSet::new();
            out.retain(|t| seen.insert(t.clone()));
            out
        })
    }

    /// True if nobody is among them.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.ranges.is_empty()
    }

    /// Its addresses, if they stand one by one and there is nothing else.
    pub(crate) fn plain(&self) -> Option<&[Prefix]> {
        let only = self.routes.is_empty() && self.beside.is_empty() && !self.everyone && self.base.wide.is_empty();
        only.then_some(&self.base.hosts)
    }
}

impl Target {
    /// Its addresses as `SrcIPs` of the companion rule that answers a capability; `*` brings the approved routes.
    pub(crate) fn texts(&self, routes: &[Prefix]) -> Vec<String> {
        let mut out: Vec<String> = self.set.texts().collect();
        if self.any {
            out.extend(routes.iter().map(ToString::to_string));
        }
        out
    }
}
