//! What would change if this policy were saved. In: the old and the new policy, compiled for the same nodes. Out: who
//! gains and who loses which addresses behind which router, grouped so that a person can read it.
//!
//! Addresses that no rule tells apart are one group; of two groups only what the two policies do not give alike is
//! looked at. So a change of one rule among thousands costs a look at those whom it concerns.

mod rights;
mod words;
mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bits::Bits;
use super::compile::Compiled;
use super::ranges::Ranges;
use super::who::Ports;
use rights::Rights;
use world::{Carrier, Column, Row, SIDES, World};

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// What is lost, then what is gained.
    pub changes: Vec<Change>,
    /// Changes that are not among them: too many to read.
    pub more: usize,
    /// True if not everything was compared: it would have taken too long.
    pub partial: bool,
}

/// One change, the same for several sources and several destinations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// True if it is gained, false if it is lost.
    pub gained: bool,
    /// Where, in words: nodes, ranges behind routers. Empty for what nodes are told about themselves.
    pub at: Vec<String>,
    /// Who, in words: nodes, ranges behind routers.
    pub who: Vec<String>,
    /// What: `tcp:22`, `app example.com/cap/x`, `ssh as root`, `route 10.0.0.0/8`, `attribute funnel`.
    pub what: Vec<String>,
    /// Which pairs of them.
    pub whose: Whose,
    /// False if no node and no router has the addresses: nothing arrives yet.
    pub arrives: bool,
    /// The sources.
    pub from: Ranges,
    /// The destinations.
    pub to: Ranges,
    /// What passes, by protocol, where it is traffic.
    pub nets: BTreeMap<u8, Vec<Ports>>,
}

/// Which pairs of sources and destinations a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Whose {
    /// All of them.
    #[default]
    All,
    /// Devices of one user among themselves.
    Own,
    /// All but those.
    Others,
}

/// Lines that are kept; nobody reads more.
const MAX_LINES: usize = 1000;

/// Looks at whether something given reaches a group of destinations, after which no more sources are compared: so many
/// take seconds, and the answer would be longer than anybody reads.
const MAX_LOOKS: usize = 1 << 30;

/// Groups of destinations that are kept for all lines together: a hundred megabytes.
const MAX_KEPT: usize = 1 << 24;

/// What makes cells one line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Kind {
    gained: bool,
    whose: Whose,
    arrives: bool,
    rights: u32,
    /// Where a rule sends its sources through routers with a tag: these.
    ways: Option<Vec<Carrier>>,
    /// The routers through which they went before, if only that has changed.
    before: Option<Vec<Carrier>>,
}

/// What was found where this is given.
struct Seen {
    given: [Vec<u32>; 2],
    live: [bool; 2],
    others: [u32; 2],
    /// Among devices of one user, once it was asked for.
    among: Option<[u32; 2]>,
}

/// Who gains and who loses what. Both policies are compiled for the same nodes; their routes may differ.
#[must_use]
pub fn diff(old: &Compiled, new: &Compiled) -> Diff {
    let world = World::new(old, new);
    let mut d = Differ::new(&world);
    for i in 0..world.rows.len() {
        if d.looks > MAX_LOOKS || d.kept > MAX_KEPT {
            d.partial = true;
            break;
        }
        d.row(i);
    }
    let mut changes = words::changes(&world, &d.rights, d.lines);
    changes.extend(of_nodes(old, new));
    changes.sort_by(|a, b| (a.gained, &a.at, &a.who, &a.what).cmp(&(b.gained, &b.at, &b.who, &b.what)));
    Diff { changes, more: d.more, partial: d.partial }
}

struct Differ<'w, 'c> {
    world: &'w World<'c>,
    /// Columns whose carriers differ between the two.
    moved: Vec<u32>,
    /// What remains of rights without others: gained and lost.
    known: HashMap<[Vec<u32>; 2], [u32; 2]>,
    /// Rights that lines speak of.
    rights: Vec<Rights>,
    places: HashMap<Rights, u32>,
    lines: HashMap<(Kind, Vec<u32>), Vec<usize>>,
    looks: usize,
    kept: usize,
    more: usize,
    partial: bool,
}

impl<'w, 'c> Differ<'w, 'c> {
    fn new(world: &'w World<'c>) -> Differ<'w, 'c> {
        let columns = world.columns.iter().enumerate();
        let moved = columns.filter(|(_, c)| c.carriers[0] != c.carriers[1]).map(|(i, _)| i as u32).collect();
        let places = HashMap::from([(Rights::default(), 0)]);
        Differ {
            world,
            moved,
            known: HashMap::new(),
            rights: vec![Rights::default()],
            places,
            lines: HashMap::new(),
            looks: 0,
            kept: 0,
            more: 0,
            partial: false,
        }
    }

    /// Compares what one group of sources is given.
    fn row(&mut self, place: usize) {
        let (w, row) = (self.world, &self.world.rows[place]);
        let asked = self.asked(row);
        if asked.is_empty() {
            return;
        }
        // What is given at each of these columns, by side; one's own devices apart.
        let mut at = vec![u32::MAX; w.columns.len()];
        asked.iter().enumerate().for_each(|(i, c)| at[*c as usize] = i as u32);
        let mut given: Vec<[Vec<u32>; 2]> = vec![Default::default(); asked.len()];
        let mut own: [Vec<u32>; 2] = Default::default();
        for side in SIDES {
            for gift in row.gifts[side].iter().filter(|_| row.live[side]) {
                if w.own(*gift) {
                    own[side].push(w.gifts[*gift as usize].rights);
                    continue;
                }
                let reached = &w.reached[side][*gift as usize];
                self.looks += reached.len().min(asked.len()) + 1;
                if reached.len() <= asked.len() * 8 {
                    for c in reached.iter().map(|c| at[*c as usize]).filter(|c| *c != u32::MAX) {
                        given[c as usize][side].push(*gift);
                    }
                } else {
                    for (i, _) in asked.iter().enumerate().filter(|(_, c)| reached.binary_search(c).is_ok()) {
                        given[i][side].push(*gift);
                    }
                }
            }
        }
        let owners = if own.iter().any(|o| !o.is_empty()) { w.owners_from(row) } else { Bits::default() };
        let mut found: BTreeMap<Kind, Vec<u32>> = BTreeMap::new();
        let mut last = None;
        for (c, given) in asked.iter().zip(given) {
            let column = &w.columns[*c as usize];
            let live = w.live(column);
            // Neighbours are often given the same.
            if last.as_ref().is_none_or(|l: &Seen| l.given != given || l.live != live) {
                let others = self.between(self.rights_of(&given, live, None));
                last = Some(Seen { given: given.clone(), live, others, among: None });
            }
            let Some(seen) = &mut last else { continue };
            let mut cells = vec![(Whose::All, seen.others)];
            if column.node && w.share(&owners, *c) {
                let among = match seen.among {
                    Some(known) => known,
                    None => *seen.among.insert(self.between(self.rights_of(&given, live, Some(&own)))),
                };
                if among != seen.others {
                    cells = vec![(Whose::Others, seen.others), (Whose::Own, among)];
                }
            }
            let ways = self.ways(&given, column);
            let arrives = !w.idle(column) && !row.idle;
            for (whose, both) in cells {
                for (gained, rights) in [(false, both[0]), (true, both[1])].into_iter().filter(|(_, r)| *r != 0) {
                    let ways = ways[usize::from(gained)].clone();
                    let kind = Kind { gained, whose, arrives, rights, ways, before: None };
                    found.entry(kind).or_default().push(*c);
                }
                if let ([0, 0], [Some(before), Some(now)]) = (both, &ways)
                    && before != now
                    && !before.is_empty()
                    && !now.is_empty()
                {
                    let (ways, before) = (Some(now.clone()), Some(before.clone()));
                    let kind = Kind { gained: true, whose, arrives, rights: 0, ways, before };
                    found.entry(kind).or_default().push(*c);
                }
            }
        }
        for (kind, columns) in found {
            let full = self.lines.len() >= MAX_LINES;
            let size = columns.len();
            match self.lines.entry((kind, columns)) {
                std::collections::hash_map::Entry::Occupied(mut rows) => rows.get_mut().push(place),
                std::collections::hash_map::Entry::Vacant(_) if full => self.more += 1,
                std::collections::hash_map::Entry::Vacant(new) => {
                    new.insert(vec![place]);
                    self.kept += size;
                }
            }
        }
    }

    /// The rights of what is given, by side, and of one's own devices where those count.
    fn rights_of(&self, given: &[Vec<u32>; 2], live: [bool; 2], own: Option<&[Vec<u32>; 2]>) -> [Vec<u32>; 2] {
        SIDES.map(|side| {
            let gifts = given[side].iter().filter(|_| live[side]);
            let rights = gifts.map(|g| self.world.gifts[*g as usize].rights);
            rights.chain(own.into_iter().flat_map(|o| o[side].iter().copied())).collect()
        })
    }

    /// The columns at which a row may have gained or lost something.
    fn asked(&mut self, row: &Row) -> Vec<u32> {
        let w = self.world;
        let all = || SIDES.into_iter().flat_map(|s| row.gifts[s].iter().map(move |g| (s, *g)));
        if row.live[0] != row.live[1] {
            let reached: BTreeSet<u32> =
                all().flat_map(|(side, g)| w.reached[side][g as usize].iter().copied()).collect();
            // Devices of one's own may be any node.
            return if all().any(|(_, g)| w.own(g)) { self.every_node(reached) } else { reached.into_iter().collect() };
        }
        let mut out: BTreeSet<u32> = BTreeSet::new();
        let mut own = false;
        for (side, g) in all().filter(|(side, g)| row.gifts[1 - side].binary_search(g).is_err()) {
            own |= w.own(g);
            out.extend(&w.reached[side][g as usize]);
        }
        if !self.moved.is_empty() {
            for (side, g) in all() {
                let reached = &w.reached[side][g as usize];
                self.looks += self.moved.len();
                out.extend(self.moved.iter().filter(|c| reached.binary_search(c).is_ok()));
            }
        }
        if own { self.every_node(out) } else { out.into_iter().collect() }
    }

    fn every_node(&self, mut out: BTreeSet<u32>) -> Vec<u32> {
        let columns = self.world.columns.iter().enumerate();
        out.extend(columns.filter(|(_, c)| c.node).map(|(i, _)| i as u32));
        out.into_iter().collect()
    }

    /// What is lost and what is gained between two lists of rights.
    fn between(&mut self, mut rights: [Vec<u32>; 2]) -> [u32; 2] {
        for list in &mut rights {
            list.sort_unstable();
            list.dedup();
        }
        if rights[0] == rights[1] {
            return [0, 0];
        }
        if let Some(known) = self.known.get(&rights) {
            return *known;
        }
        let all = SIDES.map(|side| {
            let mut all = Rights::default();
            rights[side].iter().for_each(|r| all.add(&self.world.rights[*r as usize]));
            all
        });
        let both = [all[0].minus(&all[1]), all[1].minus(&all[0])].map(|r| self.enter(r));
        self.known.insert(rights, both);
        both
    }

    fn enter(&mut self, rights: Rights) -> u32 {
        *self.places.entry(rights).or_insert_with_key(|r| {
            self.rights.push(r.clone());
            self.rights.len() as u32 - 1
        })
    }

    /// The routers that let in what is given at a column, by side, where a rule with `via` makes a difference.
    fn ways(&self, given: &[Vec<u32>; 2], column: &Column) -> [Option<Vec<Carrier>>; 2] {
        let w = self.world;
        let via = given.iter().flatten().any(|g| w.gifts[*g as usize].via != 0);
        if !via || column.carriers.iter().all(|c| c.len() < 2) {
            return [None, None];
        }
        SIDES.map(|side| {
            let lets = |c: &&Carrier| given[side].iter().any(|g| w.carries(*g, column, **c));
            Some(column.carriers[side].iter().filter(lets).copied().collect())
        })
    }
}

/// Attributes and approved routes of nodes themselves, one change for all to whom the same happens. What follows from
/// the role of a user is no news of a policy.
fn of_nodes(old: &Compiled, new: &Compiled) -> Vec<Change> {
    let mut all: BTreeMap<(bool, Vec<String>), Vec<usize>> = BTreeMap::new();
    for i in 0..new.topology().nodes.len() {
        let words = |c: &Compiled| -> BTreeSet<String> {
            let told = c.capabilities(i).into_iter().filter(|(k, _)| !super::caps::by_role(k));
            let attributes = told.map(|(k, v)| match v {
                serde_json::Value::Null => format!("attribute {k}"),
                v => format!("attribute {k} {v}"),
            });
            attributes.chain(c.approved(i).iter().map(|r| format!("route {}", r.long()))).collect()
        };
        let (before, after) = (words(old), words(new));
        for (gained, what) in [(false, &before - &after), (true, &after - &before)] {
            if !what.is_empty() {
                all.entry((gained, what.into_iter().collect())).or_default().push(i);
            }
        }
    }
    let change = |((gained, what), nodes): ((bool, Vec<String>), Vec<usize>)| Change {
        gained,
        at: Vec::new(),
        who: words::nodes_named(new, &nodes),
        what,
        whose: Whose::All,
        arrives: true,
        from: Ranges::new(),
        to: Ranges::new(),
        nets: BTreeMap::new(),
    };
    all.into_iter().map(change).collect()
}
