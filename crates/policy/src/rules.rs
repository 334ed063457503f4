//! The rules of a policy in one form. In: `acls` and `grants`, and what their names stand for. Out: rules whose sources
//! and destinations are sets, each distinct one kept once. What only the policy says is an [`Outline`], made once; the
//! sets change with the network, and a change of one node makes anew only those that it touches.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use addr::Prefix;

use super::bits::Bits;
use super::ipset::internet;
use super::language::*;
use super::people::Members;
use super::problem::Pos;
use super::ranges::Ranges;
use super::resolve::{Change, Resolver, Set};
use super::who::{Ports, Proto, Who};

/// Protocols a test without `proto` asks about: TCP, UDP and both ICMPs, what filters mean by no protocol.
const DEFAULT_PROTOS: [u8; 4] = [6, 17, 1, 58];

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

/// What may pass: protocols with their ports.
pub(crate) type Nets = Vec<(Proto, Vec<Ports>)>;

/// A destination of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Dest {
    /// As written.
    pub(crate) who: Who,
    /// What may pass.
    pub(crate) nets: Nets,
    /// Place among the destinations, or `None` for `autogroup:self`.
    pub(crate) set: Option<usize>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) origin: Origin,
    /// Place of its sources as written.
    asks: usize,
    pub(crate) dst: Vec<Dest>,
    pub(crate) app: Arc<BTreeMap<String, serde_json::Value>>,
    pub(crate) via: Vec<String>,
    /// Postures that were asked for, for explanations.
    pub(crate) posture: Vec<String>,
    /// Sources as written, for explanations.
    pub(crate) names: Vec<Who>,
}

/// Sources as written: names, and postures of which one must hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asks {
    names: Vec<usize>,
    posture: Option<usize>,
}

/// What a policy says, whoever exists: its names, each once, and its rules.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    names: Vec<Who>,
    asks: Vec<Asks>,
    postures: Vec<Vec<At<String>>>,
    /// Places of the names that are destinations.
    targets: Vec<usize>,
    rules: Vec<Rule>,
}

/// The sources of a rule, resolved.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Addresses as the packet filter matches them: approved routes included where `*` is a source.
    pub(crate) set: Arc<Set>,
    /// The same before routes.
    base: Arc<Set>,
    /// Approved subnet routes that `*` brings, one by one.
    routes: Vec<Prefix>,
    /// Names beside `*`, which keep their own entries.
    beside: Vec<String>,
    /// What each name stands for, in the order written.
    parts: Vec<Arc<Set>>,
    /// True for `autogroup:danger-all`.
    everyone: bool,
    /// Of what makes two sources the same.
    digest: u64,
    /// Nodes and routers among them.
    pub(crate) from: Bits,
    texts: OnceLock<Vec<String>>,
}

/// A destination, resolved.
#[derive(Debug)]
pub(crate) struct Target {
    /// What it stands for.
    pub(crate) set: Arc<Set>,
    /// Its prefixes in order.
    pub(crate) prefixes: Vec<Prefix>,
    /// True for `*`, which filters write as `*`.
    pub(crate) any: bool,
    /// True if addresses are written of which some lie in the internet.
    pub(crate) public: bool,
}

/// All rules with what they share.
pub(crate) struct Rules {
    outline: Arc<Outline>,
    /// By name: the nodes it stands for, if it names people or machines.
    members: Arc<Vec<Option<Members>>>,
    /// By name: what it stands for.
    sets: Vec<Arc<Set>>,
    /// By posture: nodes that satisfy it.
    fit: Vec<Arc<Bits>>,
    /// By sources as written: what they are.
    asked: Vec<Arc<Sources>>,
    /// By sources as written: their place among the distinct ones.
    places: Vec<usize>,
    /// The distinct ones.
    pub(crate) sources: Vec<Arc<Sources>>,
    /// Those by their digest.
    known: BTreeMap<u64, Vec<usize>>,
    /// Destinations.
    pub(crate) targets: Vec<Arc<Target>>,
}

/// Collects rules and keeps each name once.
#[derive(Default)]
struct Builder {
    out: Outline,
    names: BTreeMap<Who, usize>,
    asks: BTreeMap<Asks, usize>,
    postures: BTreeMap<Vec<String>, usize>,
    targets: BTreeMap<usize, usize>,
}

impl Outline {
    /// Reads every rule. A policy without `acls` and `grants` lets everybody through (public documentation: the default
    /// when neither section is there); an empty section lets nobody.
    fn new(p: &Policy) -> Outline {
        let mut b = Builder::default();
        let postures = |own: &[At<String>]| match own {
            [] => p.default_src_posture.clone(),
            own => own.to_vec(),
        };
        if p.acls.is_none() && p.grants.is_none() {
            let origin = Origin { section: "", index: 0, pos: Pos { line: 1, column: 1 } };
            let all = vec![(None, vec![Ports::ALL])];
            b.add(origin, vec![Who::Any], vec![(Who::Any, all)], postures(&[]));
        }
        for (index, g) in p.grants.iter().flatten().enumerate() {
            let origin = Origin { section: "grants", index, pos: g.pos };
            let dst = g.dst.iter().map(|d| (d.it.clone(), g.ip.clone())).collect();
            if let Some(rule) = b.add(origin, whos(&g.src), dst, postures(&g.posture)) {
                rule.app = Arc::new(g.app.iter().map(|(k, v)| (k.clone(), v.it.clone())).collect());
                rule.via = g.via.iter().map(|t| t.it.clone()).collect();
            }
        }
        for (index, a) in p.acls.iter().flatten().enumerate() {
            let origin = Origin { section: "acls", index, pos: a.pos };
            let dst = a.dst.iter().map(|d| (d.it.who.clone(), vec![(a.proto, d.it.ports.clone())])).collect();
            b.add(origin, whos(&a.src), dst, postures(&a.posture));
        }
        b.out
    }
}

fn whos(list: &[At<Who>]) -> Vec<Who> {
    list.iter().map(|w| w.it.clone()).collect()
}

impl Builder {
    fn add(
        &mut self,
        origin: Origin,
        src: Vec<Who>,
        dst: Vec<(Who, Nets)>,
        posture: Vec<At<String>>,
    ) -> Option<&mut Rule> {
        if src.is_empty() || dst.is_empty() {
            return None;
        }
        let names = src.iter().map(|w| self.name(w)).collect();
        let words: Vec<String> = posture.iter().map(|p| p.it.clone()).collect();
        let posture =
            (!posture.is_empty()).then(|| place(&mut self.postures, &mut self.out.postures, words.clone(), posture));
        let asks = Asks { names, posture };
        let asks = place(&mut self.asks, &mut self.out.asks, asks.clone(), asks);
        let dst = dst.into_iter().map(|(who, nets)| {
            let set = (who != Who::Own).then(|| {
                let name = self.name(&who);
                place(&mut self.targets, &mut self.out.targets, name, name)
            });
            Dest { who, nets, set }
        });
        let dst = dst.collect();
        self.out.rules.push(Rule {
            origin,
            asks,
            dst,
            app: Arc::default(),
            via: Vec::new(),
            posture: words,
            names: src,
        });
        self.out.rules.last_mut()
    }

    fn name(&mut self, who: &Who) -> usize {
        place(&mut self.names, &mut self.out.names, who.clone(), who.clone())
    }
}

/// The place of something in a list, entered if it is new.
fn place<K: Ord, T>(known: &mut BTreeMap<K, usize>, list: &mut Vec<T>, key: K, it: T) -> usize {
    *known.entry(key).or_insert_with(|| {
        list.push(it);
        list.len() - 1
    })
}

impl Rules {
    /// Resolves every rule.
    pub(crate) fn new(r: &Resolver) -> Rules {
        let outline = Arc::new(Outline::new(&r.policy));
        let members = outline.names.iter().map(|w| r.members(w)).collect();
        Rules::resolved(r, outline, Arc::new(members))
    }

    /// The same rules for other nodes of the same users.
    pub(crate) fn with_nodes(&self, r: &Resolver) -> Rules {
        Rules::resolved(r, Arc::clone(&self.outline), Arc::clone(&self.members))
    }

    fn resolved(r: &Resolver, outline: Arc<Outline>, members: Arc<Vec<Option<Members>>>) -> Rules {
        let named = outline.names.iter().zip(members.iter());
        let sets: Vec<Arc<Set>> = named.map(|(who, m)| Arc::new(r.set_with(who, m.as_ref()))).collect();
        let fit: Vec<Arc<Bits>> = outline.postures.iter().map(|p| Arc::new(r.fit_nodes(p))).collect();
        let asked = outline.asks.iter().map(|a| Arc::new(resolve_sources(r, &outline, a, &sets, &fit))).collect();
        let targets = outline.targets.iter().map(|name| Arc::new(target(&outline, *name, &sets))).collect();
        Rules::joined(outline, members, sets, fit, asked, targets)
    }

    /// The same after a change of one node: whatever it does not touch is shared.
    pub(crate) fn replaced(&self, r: &Resolver, change: &Change) -> Rules {
        let outline = &self.outline;
        let renew = |i: usize, set: &Arc<Set>| {
            let (who, members) = (&outline.names[i], self.members[i].as_ref());
            match touches(change, who, members, set) {
                true => Arc::new(r.set_with(who, members)),
                false => Arc::clone(set),
            }
        };
        let sets: Vec<Arc<Set>> = self.sets.iter().enumerate().map(|(i, set)| renew(i, set)).collect();
        let fit = self.fit.iter().zip(&outline.postures).map(|(fit, posture)| {
            let fits = r.fits(posture, &change.new);
            if fits == fit.has(change.place) {
                return Arc::clone(fit);
            }
            let mut fit = Bits::clone(fit);
            if fits {
                fit.set(change.place)
            } else {
                fit.unset(change.place)
            }
            Arc::new(fit)
        });
        let fit: Vec<Arc<Bits>> = fit.collect();
        let same = |name: &usize| Arc::ptr_eq(&sets[*name], &self.sets[*name]);
        let asked = self.asked.iter().zip(&outline.asks).map(|(before, asks)| {
            let any = asks.names.iter().any(|n| outline.names[*n] == Who::Any);
            let keep = asks.names.iter().all(same)
                && asks.posture.is_none_or(|p| Arc::ptr_eq(&fit[p], &self.fit[p]))
                && (!any || change.routes.is_empty());
            if keep { Arc::clone(before) } else { Arc::new(resolve_sources(r, outline, asks, &sets, &fit)) }
        });
        let asked = asked.collect();
        let targets = self.targets.iter().zip(&outline.targets).map(|(before, name)| match same(name) {
            true => Arc::clone(before),
            false => Arc::new(target(outline, *name, &sets)),
        });
        let targets = targets.collect();
        Rules::joined(Arc::clone(outline), Arc::clone(&self.members), sets, fit, asked, targets)
    }

    /// Gives the same sources the same place: filters join rules by it.
    fn joined(
        outline: Arc<Outline>,
        members: Arc<Vec<Option<Members>>>,
        sets: Vec<Arc<Set>>,
        fit: Vec<Arc<Bits>>,
        asked: Vec<Arc<Sources>>,
        targets: Vec<Arc<Target>>,
    ) -> Rules {
        let mut sources: Vec<Arc<Sources>> = Vec::new();
        let mut known: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let places = asked.iter().map(|s| {
            let alike = known.entry(s.digest).or_default();
            if let Some(i) = alike.iter().find(|i| sources[**i].same(s)) {
                return *i;
            }
            alike.push(sources.len());
            sources.push(Arc::clone(s));
            sources.len() - 1
        });
        let places = places.collect();
        Rules { outline, members, sets, fit, asked, places, sources, known, targets }
    }

    /// The rules, `grants` first, each section in its order.
    pub(crate) fn all(&self) -> &[Rule] {
        &self.outline.rules
    }

    /// Every name that a rule uses, with what it stands for.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Who, &Set)> {
        self.outline.names.iter().zip(self.sets.iter().map(|s| &**s))
    }

    /// The place of a rule's sources in `sources`.
    pub(crate) fn place(&self, rule: &Rule) -> usize {
        self.places[rule.asks]
    }

    /// A rule's sources.
    pub(crate) fn source(&self, rule: &Rule) -> &Sources {
        &self.asked[rule.asks]
    }

    /// What a destination stands for; `None` for `autogroup:self`.
    pub(crate) fn target(&self, dest: &Dest) -> Option<&Target> {
        self.targets.get(dest.set?).map(|t| &**t)
    }

    /// The place of sources that are exactly these addresses.
    pub(crate) fn plain(&self, hosts: &[Prefix]) -> Option<usize> {
        let alike = self.known.get(&digest(&Ranges::new(), hosts, &[], &[], false))?;
        alike.iter().copied().find(|i| self.sources[*i].plain() == Some(hosts))
    }
}

/// True if a change of one node may have made another set of this one.
fn touches(change: &Change, who: &Who, members: Option<&Members>, set: &Set) -> bool {
    let own = match (members, who) {
        (Some(m), _) => {
            let (before, after) = (m.has(&change.old), m.has(&change.new));
            before != after || (before && change.addrs)
        }
        (None, Who::Any) => change.addrs,
        (None, Who::App(_)) => {
            change.old.learned != change.new.learned || change.old.tags != change.new.tags || change.addrs
        }
        (None, _) => {
            let addrs = || change.old.addrs().chain(change.new.addrs());
            change.addrs && addrs().any(|a| set.ranges.contains(a))
        }
    };
    // Where routes come or go, the others move up: whoever touches one is looked at again.
    own || (!change.routes.is_empty()
        && (!set.routes.is_empty() || change.routes.iter().flat_map(|r| r.prefixes()).any(|p| set.ranges.overlaps(p))))
}

fn target(outline: &Outline, name: usize, sets: &[Arc<Set>]) -> Target {
    let set = Arc::clone(&sets[name]);
    let prefixes = set.prefixes();
    let who = &outline.names[name];
    let written = matches!(who, Who::Prefix(..) | Who::Range(_) | Who::Host(_) | Who::IpSet(_) | Who::Service(_));
    let inside = || {
        let internet = internet();
        prefixes.iter().any(|p| internet.covers(*p))
    };
    let public = set.internet || (written && inside());
    Target { any: *who == Who::Any, public, prefixes, set }
}

fn resolve_sources(r: &Resolver, outline: &Outline, asks: &Asks, sets: &[Arc<Set>], fit: &[Arc<Bits>]) -> Sources {
    let parts: Vec<Arc<Set>> = asks.names.iter().map(|n| Arc::clone(&sets[*n])).collect();
    if let Some(posture) = asks.posture {
        return fit_sources(r, &parts, &fit[posture]);
    }
    let is = |who: Who| asks.names.iter().any(|n| outline.names[*n] == who);
    let (any, everyone) = (is(Who::Any), is(Who::DangerAll));
    let mut beside = Vec::new();
    for n in asks.names.iter().filter(|n| any && outline.names[**n] != Who::Any) {
        beside.extend(sets[*n].texts());
    }
    let base = match parts.as_slice() {
        [one] => Arc::clone(one),
        many => {
            let mut all = Set::default();
            many.iter().for_each(|s| all.join(s));
            Arc::new(all)
        }
    };
    let routes = if any { r.net.routes.clone() } else { Vec::new() };
    let set = if routes.is_empty() {
        Arc::clone(&base)
    } else {
        let mut matched = base.wide.clone();
        matched.add(&routes.iter().copied().collect());
        Arc::new(r.complete(matched, base.hosts.clone(), false, None))
    };
    Sources::new(set, base, routes, beside, parts, everyone)
}

/// Sources under a posture are nodes that satisfy one; addresses that no node has, satisfy none.
fn fit_sources(r: &Resolver, parts: &[Arc<Set>], fit: &Bits) -> Sources {
    let mut nodes = Bits::new(r.net.len);
    parts.iter().for_each(|s| nodes.add(&s.nodes));
    nodes.keep(fit);
    let addrs = nodes.iter().filter_map(|n| r.topology.nodes.get(n)).flat_map(|n| n.addrs()).map(Prefix::host);
    let base = Arc::new(r.complete(Ranges::new(), addrs.collect(), false, None));
    Sources::new(Arc::clone(&base), Arc::clone(&base), Vec::new(), Vec::new(), vec![base], false)
}

/// Sources with the same digest are looked at closely; others are not the same.
fn digest(wide: &Ranges, hosts: &[Prefix], routes: &[Prefix], beside: &[String], everyone: bool) -> u64 {
    // Thousands of addresses are folded with few steps each: an unlucky sum only costs a closer look.
    let fold = |sum: u64, p: &Prefix| {
        let bits = p.first().bits();
        (sum ^ (bits as u64) ^ (bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    };
    let mut h = DefaultHasher::new();
    (wide, hosts.len(), hosts.iter().fold(0, fold), routes, beside, everyone).hash(&mut h);
    h.finish()
}

impl Sources {
    fn new(
        set: Arc<Set>,
        base: Arc<Set>,
        routes: Vec<Prefix>,
        beside: Vec<String>,
        parts: Vec<Arc<Set>>,
        everyone: bool,
    ) -> Sources {
        let digest = digest(&base.wide, &base.hosts, &routes, &beside, everyone);
        let mut from = set.nodes.clone();
        from.add(&set.routers);
        Sources { set, base, routes, beside, parts, everyone, digest, from, texts: OnceLock::new() }
    }

    /// True if filters say the same of both.
    fn same(&self, other: &Sources) -> bool {
        self.everyone == other.everyone
            && self.routes == other.routes
            && self.beside == other.beside
            && (Arc::ptr_eq(&self.base, &other.base)
                || (self.base.wide == other.base.wide && self.base.hosts == other.base.hosts))
    }

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

    /// The prefixes of each name, in the order written.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.parts.iter().flat_map(|s| s.prefixes())
    }

    /// True if nobody is among them.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.ranges.is_empty()
    }

    /// Its addresses, if they stand one by one and there is nothing else.
    fn plain(&self) -> Option<&[Prefix]> {
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

/// True if one of these protocols and ports covers what is asked. No protocol stands for the usual ones on both sides.
pub(crate) fn nets_match(nets: &[(Proto, Vec<Ports>)], proto: Proto, port: Option<u16>) -> bool {
    nets.iter().any(|(p, ports)| {
        let protocol = match (p, proto) {
            (None, None) => true,
            (None, Some(asked)) => DEFAULT_PROTOS.contains(&asked),
            (Some(p), None) => DEFAULT_PROTOS.contains(p),
            (Some(p), Some(asked)) => *p == asked,
        };
        protocol && port.is_none_or(|port| ports.iter().any(|r| r.contains(port)))
    })
}
