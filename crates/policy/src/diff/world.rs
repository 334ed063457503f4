//! The addresses that a change may concern, in groups that no rule tells apart. In: two compiled policies for the same
//! nodes. Out: groups of sources and of destinations with what is known of them, and every rule as a triple of
//! destination, rights and way, by the sources that have it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use addr::Prefix;

use super::super::bits::Bits;
use super::super::compile::Compiled;
use super::super::ipset::{internet, mesh};
use super::super::language::Ssh;
use super::super::ranges::{Ranges, split};
use super::super::resolve::fits;
use super::super::topology::is_exit;
use super::super::who::Who;
use super::rights::{OWN_NAME, Rights};

/// The old and the new policy, by place.
pub(super) const SIDES: [usize; 2] = [0, 1];

/// A router that may carry to an address, and whether it does so as an exit node.
pub(super) type Carrier = (usize, bool);

/// What a rule's destination is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Dst {
    /// Place among the sets of destinations; none for one's own devices.
    set: Option<u32>,
    /// `*`
    any: bool,
    /// Exit nodes let it in.
    public: bool,
    /// It stands for the internet, so that rules with `via` may send it through exit nodes.
    internet: bool,
    /// An app connector's name, and the nodes that learn for it: what it learned opens nobody else.
    app: Option<(String, Vec<usize>)>,
    /// Only nodes are meant: logins.
    nodes: bool,
}

/// One thing that a rule gives to its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Gift {
    pub(super) dst: u32,
    pub(super) rights: u32,
    /// Place among the ways; 0 is no way in particular.
    pub(super) via: u32,
}

/// Sources that no rule tells apart.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// Places of its groups of addresses.
    pub(super) atoms: Vec<usize>,
    /// What they are given, by side, in order.
    pub(super) gifts: [Vec<u32>; 2],
    /// True if somebody has these addresses: by side. Where nobody has them on either, they count on both.
    pub(super) live: [bool; 2],
    /// True if nobody has them, before or after.
    pub(super) idle: bool,
}

/// Destinations that no rule tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Column {
    /// Destinations of rules that hold it.
    dsts: Vec<u32>,
    /// Addresses of nodes.
    pub(super) node: bool,
    /// Who carries there, by side.
    pub(super) carriers: [Vec<Carrier>; 2],
    /// It stands for the names of this app, not for addresses.
    pub(super) app: Option<String>,
}

/// Groups of addresses on one side of the rules, and the names that people wrote for them.
#[derive(Default)]
pub(super) struct Space {
    /// Addresses of each group, with the sets they lie in.
    pub(super) atoms: Vec<(Ranges, Vec<u32>)>,
    /// Names with the groups they stand for; names of people and machines apart from those of addresses.
    pub(super) people: Vec<(String, Bits)>,
    pub(super) written: Vec<(String, Bits)>,
}

pub(super) struct World<'c> {
    pub(super) sides: [&'c Compiled; 2],
    pub(super) from: Space,
    pub(super) to: Space,
    pub(super) rows: Vec<Row>,
    pub(super) columns: Vec<Column>,
    /// The groups of each column.
    pub(super) column_atoms: Vec<Vec<usize>>,
    pub(super) rights: Vec<Rights>,
    pub(super) gifts: Vec<Gift>,
    dsts: Vec<Dst>,
    /// Tagged nodes of each way.
    vias: Vec<Bits>,
    /// The columns that each gift reaches, by side.
    pub(super) reached: [Vec<Vec<u32>>; 2],
    /// The users who have devices at each column.
    owners: Vec<Bits>,
}

/// Things, each kept once.
struct Pool<T> {
    list: Vec<T>,
    places: HashMap<T, u32>,
}

impl<T: Clone + Eq + std::hash::Hash> Pool<T> {
    fn new() -> Pool<T> {
        Pool { list: Vec::new(), places: HashMap::new() }
    }

    fn put(&mut self, it: T) -> u32 {
        if let Some(i) = self.places.get(&it) {
            return *i;
        }
        let i = self.list.len() as u32;
        self.list.push(it.clone());
        self.places.insert(it, i);
        i
    }
}

/// What is collected from the rules before addresses are put into groups.
struct Draft {
    sources: Pool<Ranges>,
    targets: Pool<Ranges>,
    dsts: Pool<Dst>,
    rights: Pool<Rights>,
    vias: Pool<Vec<String>>,
    gifts: Pool<Gift>,
    /// What each set of sources is given, by side.
    given: [BTreeMap<u32, BTreeSet<u32>>; 2],
}

impl Draft {
    fn give(&mut self, side: usize, source: u32, dst: Dst, rights: Rights, via: &[String]) {
        if rights.is_empty() {
            return;
        }
        let (dst, rights, via) = (self.dsts.put(dst), self.rights.put(rights), self.vias.put(via.to_vec()));
        let gift = self.gifts.put(Gift { dst, rights, via });
        self.given[side].entry(source).or_default().insert(gift);
    }

    fn rules(&mut self, side: usize, c: &Compiled) {
        for rule in c.rules.all() {
            let sources = &c.rules.source(rule).set.ranges;
            if sources.is_empty() {
                continue;
            }
            let source = self.sources.put(sources.clone());
            for d in &rule.dst {
                let apps: Vec<Rights> = rule.app.iter().map(|(name, value)| Rights::of_app(name, value)).collect();
                let Some(target) = c.rules.target(d) else {
                    let own = Dst { set: None, any: false, public: false, internet: false, app: None, nodes: true };
                    // A way through routers leads to nobody's own devices.
                    if rule.via.is_empty() {
                        for rights in apps.into_iter().chain([Rights::of_nets(&d.nets)]) {
                            self.give(side, source, own.clone(), rights, &[]);
                        }
                    }
                    continue;
                };
                let set = Some(self.targets.put(target.set.ranges.clone()));
                let app = match &d.who {
                    Who::App(name) => Some((name.clone(), target.set.nodes.iter().collect())),
                    _ => None,
                };
                let (any, public, internet) = (target.any, target.public, target.set.internet && !target.any);
                let dst = Dst { set, any: any && rule.via.is_empty(), public, internet, app, nodes: false };
                for rights in apps.into_iter().filter(|_| rule.via.is_empty()) {
                    let dst = Dst { any: false, public: false, internet: false, ..dst.clone() };
                    self.give(side, source, dst, rights, &[]);
                }
                self.give(side, source, dst, Rights::of_nets(&d.nets), &rule.via);
            }
        }
    }

    fn logins(&mut self, side: usize, c: &Compiled) {
        for rule in &c.policy().ssh {
            let mut by_rights: Vec<(Rights, Ranges)> = Vec::new();
            let names = rule.users.iter().map(|u| u.it.as_str());
            let (own, named): (Vec<&str>, Vec<&str>) = names.partition(|n| n.starts_with(OWN_NAME));
            let named: Vec<String> = named.into_iter().map(str::to_string).collect();
            by_rights.push((Rights::of_logins(named, rule.check), logged(c, rule, |_| true)));
            for domain in own.iter().filter_map(|n| n.strip_prefix("localpart:*@")) {
                let theirs = |user: usize| {
                    let email = c.topology().users.get(user).map_or("", |u| u.email.as_str());
                    email.rsplit_once('@').is_some_and(|(_, d)| d.eq_ignore_ascii_case(domain))
                };
                let sources =
                    logged(c, rule, |n| c.topology().nodes.get(n).and_then(|n| n.owner()).is_some_and(theirs));
                by_rights.push((Rights::of_logins([OWN_NAME.to_string()], rule.check), sources));
            }
            for (rights, sources) in by_rights.into_iter().filter(|(_, s)| !s.is_empty()) {
                let source = self.sources.put(sources);
                for d in &rule.dst {
                    let set = (d.it != Who::Own).then(|| {
                        self.targets.put(addresses(c, c.resolver.nodes_of(&d.it).unwrap_or_default().into_iter()))
                    });
                    let dst = Dst { set, any: false, public: false, internet: false, app: None, nodes: true };
                    self.give(side, source, dst, rights.clone(), &[]);
                }
            }
        }
    }
}

/// The addresses of an SSH rule's sources that satisfy its postures.
fn logged(c: &Compiled, rule: &Ssh, also: impl Fn(usize) -> bool) -> Ranges {
    let nodes: BTreeSet<usize> = rule.src.iter().flat_map(|s| c.resolver.nodes_of(&s.it).unwrap_or_default()).collect();
    let fit = |n: &usize| {
        let known = c.topology().nodes.get(*n).map(|n| &n.posture);
        let fit = |p: &str| known.is_some_and(|k| fits(c.policy(), p, k));
        rule.posture.is_empty() || rule.posture.iter().any(|p| fit(&p.it))
    };
    addresses(c, nodes.into_iter().filter(fit).filter(|n| also(*n)))
}

pub(super) fn addresses(c: &Compiled, nodes: impl Iterator<Item = usize>) -> Ranges {
    nodes.filter_map(|n| c.topology().nodes.get(n)).flat_map(|n| n.addrs()).map(Prefix::host).collect()
}

impl<'c> World<'c> {
    pub(super) fn new(old: &'c Compiled, new: &'c Compiled) -> World<'c> {
        let sides = [old, new];
        let mut draft = Draft {
            sources: Pool::new(),
            targets: Pool::new(),
            dsts: Pool::new(),
            rights: Pool::new(),
            vias: Pool::new(),
            gifts: Pool::new(),
            given: [BTreeMap::new(), BTreeMap::new()],
        };
        draft.vias.put(Vec::new());
        for side in SIDES {
            draft.rules(side, sides[side]);
            draft.logins(side, sides[side]);
        }
        let tagged = |tags: &Vec<String>| {
            let nodes = tags.iter().flat_map(|t| new.resolver.tagged(t)).copied();
            Bits::of(new.resolver.net.len, nodes)
        };
        let mut world = World {
            sides,
            from: Space::default(),
            to: Space::default(),
            rows: Vec::new(),
            columns: Vec::new(),
            column_atoms: Vec::new(),
            rights: draft.rights.list.clone(),
            gifts: draft.gifts.list.clone(),
            dsts: draft.dsts.list.clone(),
            vias: draft.vias.list.iter().map(tagged).collect(),
            reached: [Vec::new(), Vec::new()],
            owners: Vec::new(),
        };
        world.sources(&draft);
        world.destinations(&draft);
        world.reach();
        world
    }

    fn sources(&mut self, draft: &Draft) {
        let nodes = addresses(self.sides[1], 0..self.sides[1].resolver.net.len);
        let routed = self.sides.map(|c| c.resolver.net.routes.iter().copied().collect::<Ranges>());
        let written = written(&self.sides, |who, d| !d || *who == Who::DangerAll);
        let base = [&nodes, &routed[0], &routed[1], &written];
        let sets: Vec<&Ranges> = base.into_iter().chain(&draft.sources.list).collect();
        self.from = space(&self.sides, &sets, base.len());
        let mut rows: BTreeMap<Row, Vec<usize>> = BTreeMap::new();
        for (i, (_, members)) in self.from.atoms.iter().enumerate() {
            let is = |set: u32| members.binary_search(&set).is_ok();
            let live = [is(0) || is(1), is(0) || is(2)];
            let idle = live == [false, false];
            let live = if idle { [true, true] } else { live };
            let given = SIDES.map(|side| {
                let sets = members.iter().filter_map(|m| m.checked_sub(base.len() as u32));
                let gifts: BTreeSet<u32> = sets.filter_map(|s| draft.given[side].get(&s)).flatten().copied().collect();
                gifts.into_iter().collect::<Vec<u32>>()
            });
            rows.entry(Row { atoms: Vec::new(), gifts: given, live, idle }).or_default().push(i);
        }
        self.rows = rows.into_iter().map(|(row, atoms)| Row { atoms, ..row }).collect();
    }

    fn destinations(&mut self, draft: &Draft) {
        let nodes = addresses(self.sides[1], 0..self.sides[1].resolver.net.len);
        let routed = self.sides.map(|c| c.resolver.net.routes.iter().copied().collect::<Ranges>());
        let public = internet();
        let exits = self.sides.map(|c| if c.resolver.net.exits.is_empty() { Ranges::new() } else { public.clone() });
        let written = written(&self.sides, |_, d| d);
        let mut sets: Vec<&Ranges> = vec![&nodes, &routed[0], &routed[1], &exits[0], &exits[1], &written];
        let base = sets.len();
        sets.push(&public);
        // What each router carries, by side.
        let mut routers: Vec<(usize, usize, Ranges)> = Vec::new();
        for (side, c) in self.sides.iter().enumerate() {
            for n in 0..c.resolver.net.len {
                let routes: Ranges = c.approved(n).iter().copied().filter(|p| !is_exit(*p)).collect();
                if !routes.is_empty() {
                    routers.push((side, n, routes));
                }
            }
        }
        let first_router = sets.len();
        sets.extend(routers.iter().map(|(_, _, r)| r));
        let first_target = sets.len();
        sets.extend(&draft.targets.list);
        self.to = space(&self.sides, &sets, base);
        let apps: BTreeSet<&String> = self.dsts.iter().filter_map(|d| d.app.as_ref().map(|(name, _)| name)).collect();
        let mut by_set: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (i, d) in self.dsts.iter().enumerate() {
            by_set.entry(d.set.unwrap_or(u32::MAX)).or_default().push(i as u32);
        }
        let mut columns: BTreeMap<Column, Vec<usize>> = BTreeMap::new();
        for (i, (_, members)) in self.to.atoms.iter().enumerate() {
            let is = |set: usize| members.binary_search(&(set as u32)).is_ok();
            let mut carriers: [Vec<Carrier>; 2] = Default::default();
            for (place, (side, node, _)) in routers.iter().enumerate() {
                if is(first_router + place) {
                    carriers[*side].push((*node, false));
                }
            }
            for side in SIDES {
                if is(3 + side) {
                    carriers[side].extend(self.sides[side].resolver.net.exits.iter().map(|n| (n, true)));
                }
            }
            let node = is(0);
            if node {
                carriers = Default::default();
            }
            let targets = members.iter().filter_map(|m| m.checked_sub(first_target as u32));
            let mut dsts: Vec<u32> = targets.filter_map(|t| by_set.get(&t)).flatten().copied().collect();
            dsts.sort_unstable();
            columns.entry(Column { dsts, node, carriers, app: None }).or_default().push(i);
        }
        // An app is something that one may reach before anything is learned.
        for app in apps {
            self.to.atoms.push((Ranges::new(), Vec::new()));
            let is = |d: &Dst| d.app.as_ref().is_some_and(|(name, _)| name == app);
            let dsts = self.dsts.iter().enumerate().filter(|(_, d)| is(d)).map(|(i, _)| i as u32).collect();
            let column = Column { dsts, node: false, carriers: Default::default(), app: Some(app.clone()) };
            columns.insert(column, vec![self.to.atoms.len() - 1]);
        }
        (self.columns, self.column_atoms) = columns.into_iter().unzip();
    }

    fn reach(&mut self) {
        let mut by_dst: Vec<Vec<u32>> = vec![Vec::new(); self.dsts.len()];
        for (i, g) in self.gifts.iter().enumerate() {
            by_dst[g.dst as usize].push(i as u32);
        }
        let any: Vec<u32> = (0..self.dsts.len() as u32).filter(|d| self.dsts[*d as usize].any).collect();
        let mut reached = [vec![Vec::new(); self.gifts.len()], vec![Vec::new(); self.gifts.len()]];
        for (i, column) in self.columns.iter().enumerate() {
            let mut dsts: Vec<u32> = column.dsts.iter().chain(&any).copied().collect();
            dsts.sort_unstable();
            dsts.dedup();
            for gift in dsts.iter().flat_map(|d| &by_dst[*d as usize]) {
                for side in SIDES {
                    if self.reaches(*gift, column, side) {
                        reached[side][*gift as usize].push(i as u32);
                    }
                }
            }
        }
        self.reached = reached;
        if self.dsts.iter().any(|d| d.set.is_none()) {
            let of = |(column, atoms): (&Column, &Vec<usize>)| match column.node {
                true => self.owners_in(&self.to, atoms),
                false => Bits::default(),
            };
            self.owners = self.columns.iter().zip(&self.column_atoms).map(of).collect();
        }
    }

    /// The users whose devices a row is.
    pub(super) fn owners_from(&self, row: &Row) -> Bits {
        self.owners_in(&self.from, &row.atoms)
    }

    fn owners_in(&self, space: &Space, atoms: &[usize]) -> Bits {
        let c = self.sides[1];
        let nodes = atoms.iter().flat_map(|a| c.resolver.net.nodes_in(&space.atoms[*a].0).iter().collect::<Vec<_>>());
        Bits::of(0, nodes.filter_map(|n| c.topology().nodes.get(n)?.owner()))
    }

    /// True if one of these users has a device at the column.
    pub(super) fn share(&self, users: &Bits, column: u32) -> bool {
        let there = self.owners.get(column as usize);
        there.is_some_and(|there| {
            let mut both = users.clone();
            both.keep(there);
            !both.is_empty()
        })
    }

    /// True if somebody has these addresses: by side. Where nobody has them on either, they count on both.
    pub(super) fn live(&self, column: &Column) -> [bool; 2] {
        let live = SIDES.map(|s| column.node || column.app.is_some() || !column.carriers[s].is_empty());
        if live == [false, false] { [true, true] } else { live }
    }

    /// True if nobody has these addresses, before or after.
    pub(super) fn idle(&self, column: &Column) -> bool {
        !column.node && column.app.is_none() && column.carriers.iter().all(Vec::is_empty)
    }

    /// True if what is given is one's own devices, which are other ones for everybody.
    pub(super) fn own(&self, gift: u32) -> bool {
        self.dsts[self.gifts[gift as usize].dst as usize].set.is_none()
    }

    /// True if the gift reaches the column: a node itself lets it in, or one of those who carry there.
    fn reaches(&self, gift: u32, column: &Column, side: usize) -> bool {
        let g = self.gifts[gift as usize];
        let (dst, held) = (&self.dsts[g.dst as usize], column.dsts.binary_search(&g.dst).is_ok());
        if let Some(app) = &column.app {
            return dst.any || (held && g.via == 0 && dst.app.as_ref().is_some_and(|(name, _)| name == app));
        }
        if dst.nodes || column.node {
            return column.node && g.via == 0 && (dst.any || (held && dst.app.is_none()));
        }
        if self.idle(column) {
            return dst.any || held;
        }
        column.carriers[side].iter().any(|c| self.carries(gift, column, *c))
    }

    /// True if this router lets in what the gift gives at the column.
    pub(super) fn carries(&self, gift: u32, column: &Column, (node, exit): Carrier) -> bool {
        let g = self.gifts[gift as usize];
        let (dst, held) = (&self.dsts[g.dst as usize], column.dsts.binary_search(&g.dst).is_ok());
        if g.via != 0 && !self.vias[g.via as usize].has(node) {
            return false;
        }
        match (exit, g.via != 0) {
            (true, true) => held && dst.internet,
            (true, false) => dst.any || (held && dst.public && dst.app.is_none()),
            (false, _) => dst.any || (held && dst.app.as_ref().is_none_or(|(_, nodes)| nodes.contains(&node))),
        }
    }
}

/// What rules name by address, as sources or, with true, as destinations. Addresses of nodes to come are no news,
/// unless one was written by itself.
fn written(sides: &[&Compiled; 2], wanted: impl Fn(&Who, bool) -> bool) -> Ranges {
    let mut out = Ranges::new();
    let mut all: Vec<Ranges> = Vec::new();
    for c in sides {
        let known: BTreeMap<&Who, &Ranges> = c.rules.named().map(|(who, set)| (who, &set.ranges)).collect();
        let src = c.rules.all().iter().flat_map(|r| &r.names).map(|w| (w, false));
        let dst = c.rules.all().iter().flat_map(|r| &r.dst).map(|d| (&d.who, true));
        let names: BTreeSet<(&Who, bool)> = src.chain(dst).collect();
        for (who, _) in names.into_iter().filter(|(w, d)| wanted(w, *d) && (by_address(w) || **w == Who::DangerAll)) {
            all.extend(known.get(who).map(|r| (*r).clone()));
        }
    }
    let mesh = mesh();
    for mut ranges in all {
        if !matches!(ranges.prefixes().as_slice(), [one] if one.is_host()) {
            ranges.remove(&mesh);
        }
        out.add(&ranges);
    }
    out
}

/// True for names that stand for addresses and not for people or machines.
fn by_address(who: &Who) -> bool {
    matches!(
        who,
        Who::Prefix(..) | Who::Range(_) | Who::Host(_) | Who::IpSet(_) | Who::Service(_) | Who::App(_) | Who::Internet
    )
}

/// Groups of addresses under these sets, and the names that the rules and the routers have for them.
fn space(sides: &[&Compiled; 2], sets: &[&Ranges], base: usize) -> Space {
    let mut names: BTreeMap<String, (bool, &Ranges, bool)> = BTreeMap::new();
    for c in sides {
        for (who, set) in c.rules.named().filter(|(w, _)| !matches!(w, Who::Any)) {
            let entry = names.entry(who.to_string()).or_insert((by_address(who), &set.ranges, true));
            // A name that changed its meaning says nothing.
            entry.2 &= *entry.1 == set.ranges;
        }
    }
    names.retain(|_, (_, ranges, same)| *same && !ranges.is_empty());
    let routes: BTreeSet<Prefix> = sides.iter().flat_map(|c| c.resolver.net.routes.iter().copied()).collect();
    let routes: Vec<(String, Ranges)> =
        routes.into_iter().map(|p| (p.to_string(), [p].into_iter().collect())).collect();
    let all: Vec<&Ranges> =
        sets.iter().copied().chain(routes.iter().map(|(_, r)| r)).chain(names.values().map(|(_, r, _)| *r)).collect();
    let atoms = split(&all, base);
    let mut holds: Vec<Vec<usize>> = vec![Vec::new(); all.len() - sets.len()];
    for (i, (_, members)) in atoms.iter().enumerate() {
        for m in members.iter().filter_map(|m| (*m as usize).checked_sub(sets.len())) {
            holds[m].push(i);
        }
    }
    let mut out = Space::default();
    let mut holds = holds.into_iter().map(|places| Bits::of(atoms.len(), places));
    for ((text, _), bits) in routes.iter().zip(&mut holds) {
        out.written.push((text.clone(), bits));
    }
    for ((text, (by_address, _, _)), bits) in names.into_iter().zip(&mut holds) {
        if by_address || text == Who::DangerAll.to_string() {
            out.written.push((text, bits))
        } else {
            out.people.push((text, bits))
        }
    }
    out.atoms = atoms;
    out
}
