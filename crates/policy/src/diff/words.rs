//! Groups of addresses in a person's words. In: lines of groups. Out: names of nodes, or of what they have in common
//! where they are many; ranges that people wrote, behind which routers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::bits::Bits;
use super::super::compile::Compiled;
use super::super::ranges::Ranges;
use super::rights::Rights;
use super::world::{Carrier, SIDES, Space, World};
use super::{Change, Kind, Whose};

/// Nodes that are named one by one; of more, what they have in common is said, if that has a name.
const NAMES: usize = 8;

/// Written ranges that together are a name.
const PARTS: usize = 4;

/// Ranges that are written out where no name fits.
const RANGES: usize = 8;

/// The lines as changes; pairs that cannot be, are no change.
pub(super) fn changes(
    world: &World<'_>,
    rights: &[Rights],
    lines: HashMap<(Kind, Vec<u32>), Vec<usize>>,
) -> Vec<Change> {
    let speaker = Speaker::new(world);
    lines.into_iter().filter_map(|((kind, columns), rows)| speaker.change(rights, kind, &columns, &rows)).collect()
}

struct Speaker<'w, 'c> {
    world: &'w World<'c>,
    /// Groups of sources and of destinations that the same routers carry to, by side.
    behind: [[BTreeMap<Vec<Carrier>, Bits>; 2]; 2],
    /// Groups of node addresses among the sources and among the destinations.
    nodes: [Bits; 2],
}

/// The two ends of a change.
const FROM: usize = 0;
const TO: usize = 1;

impl<'w, 'c> Speaker<'w, 'c> {
    fn new(world: &'w World<'c>) -> Speaker<'w, 'c> {
        let mut out = Speaker { world, behind: Default::default(), nodes: Default::default() };
        for (i, (ranges, members)) in world.from.atoms.iter().enumerate() {
            if members.first() == Some(&0) {
                out.nodes[FROM].set(i);
                continue;
            }
            for side in SIDES {
                let net = &world.sides[side].resolver.net;
                let routers: BTreeSet<usize> =
                    net.touching(ranges).iter().flat_map(|r| net.routers[r].iter().copied()).collect();
                let routers = routers.into_iter().map(|n| (n, false)).collect();
                out.behind[side][FROM].entry(routers).or_default().set(i);
            }
        }
        for (column, atoms) in world.columns.iter().zip(&world.column_atoms) {
            for atom in atoms {
                if column.node {
                    out.nodes[TO].set(*atom);
                } else if column.app.is_none() {
                    for side in SIDES {
                        out.behind[side][TO].entry(column.carriers[side].clone()).or_default().set(*atom);
                    }
                }
            }
        }
        out
    }

    fn change(&self, rights: &[Rights], mut kind: Kind, columns: &[u32], rows: &[usize]) -> Option<Change> {
        let w = self.world;
        let from_atoms = Bits::of(0, rows.iter().flat_map(|r| w.rows[*r].atoms.iter().copied()));
        let to_atoms = Bits::of(0, columns.iter().flat_map(|c| w.column_atoms[*c as usize].iter().copied()));
        let (from, to) = (joined(&w.from, &from_atoms), joined(&w.to, &to_atoms));
        let apps: Vec<&String> = columns.iter().filter_map(|c| w.columns[*c as usize].app.as_ref()).collect();
        let (v4, v6) = (
            from.iter().any(|r| r.first().is_v4()) && to.iter().any(|r| r.first().is_v4()),
            from.iter().any(|r| !r.first().is_v4()) && to.iter().any(|r| !r.first().is_v4()),
        );
        if !v4 && !v6 && apps.is_empty() {
            return None;
        }
        let net = &w.sides[1].resolver.net;
        let (senders, receivers) = (net.nodes_in(&from), net.nodes_in(&to));
        kind.whose = self.pairs(kind.whose, &from_atoms, &to_atoms, &senders, &receivers, !apps.is_empty())?;
        let side = usize::from(kind.gained);
        let who = self.names(FROM, side, &from_atoms, &from, &senders, None);
        let mut others = receivers.clone();
        let mut to_said = to.clone();
        if let (1, Some(one)) = (senders.count(), senders.iter().next()) {
            // Nobody reads that a node reaches itself.
            others.unset(one);
            if kind.whose == Whose::All {
                to_said.remove(&super::world::addresses(w.sides[1], [one].into_iter()));
            }
        }
        let mut at = Vec::new();
        if kind.whose == Whose::Own && self.all_of_their_own(&senders, &receivers) {
            at.push("their own devices".to_string());
        } else {
            let mut said = to_atoms.clone();
            for app in &apps {
                at.push((*app).clone());
                // Its name stands for what it has learned.
                let learnt = w.to.written.iter().find(|(name, _)| name == *app).map(|(_, learnt)| learnt);
                if let Some(learnt) = learnt.filter(|l| to_atoms.covers(l)) {
                    said.remove(learnt);
                }
            }
            at.extend(self.names(TO, side, &said, &to_said, &others, kind.ways.as_deref()));
            match (kind.whose, at.last_mut()) {
                (Whose::Own, Some(last)) => last.push_str(", as far as it is their own"),
                (Whose::Others, Some(last)) => last.push_str(", but for their own devices"),
                _ => {}
            }
        }
        let rights = rights.get(kind.rights as usize).cloned().unwrap_or_default();
        let mut what = rights.words();
        if let Some(before) = &kind.before {
            what.push(format!("another way, before through {}", self.routers(before)));
        }
        let (gained, whose, arrives) = (kind.gained, kind.whose, kind.arrives);
        Some(Change { gained, at, who, what, whose, arrives, from, to, nets: rights.nets() })
    }

    /// Which pairs there are between these: none if only a node with itself, all if own devices make no difference.
    fn pairs(
        &self,
        whose: Whose,
        from: &Bits,
        to: &Bits,
        senders: &Bits,
        receivers: &Bits,
        apps: bool,
    ) -> Option<Whose> {
        let nodes = &self.world.sides[1].topology().nodes;
        let only_nodes = self.nodes[FROM].covers(from) && self.nodes[TO].covers(to) && !apps;
        if whose == Whose::All {
            let self_only = only_nodes && senders.count() == 1 && *senders == *receivers;
            return (!self_only).then_some(Whose::All);
        }
        let owners = |of: &Bits| {
            let mut count: BTreeMap<usize, usize> = BTreeMap::new();
            of.iter().filter_map(|n| nodes.get(n)?.owner()).for_each(|u| *count.entry(u).or_default() += 1);
            count
        };
        let (mine, theirs) = (owners(senders), owners(receivers));
        let shared = mine
            .iter()
            .any(|(u, n)| theirs.get(u).is_some_and(|t| *n > 1 || *t > 1 || !self.same_node(*u, senders, receivers)));
        let other = !only_nodes
            || senders.iter().any(|s| nodes.get(s).is_some_and(|n| n.owner().is_none()))
            || receivers.iter().any(|s| nodes.get(s).is_some_and(|n| n.owner().is_none()))
            || mine.len() > 1
            || theirs.len() > 1
            || mine.keys().ne(theirs.keys());
        match (whose, shared, other) {
            (Whose::Own, true, _) => Some(Whose::Own),
            (Whose::Others, true, true) => Some(Whose::Others),
            (Whose::Others, false, true) => Some(Whose::All),
            _ => None,
        }
    }

    /// True if the only device of a user on either side is the same one.
    fn same_node(&self, user: usize, senders: &Bits, receivers: &Bits) -> bool {
        let nodes = &self.world.sides[1].topology().nodes;
        let of = |b: &Bits| b.iter().find(|n| nodes.get(*n).is_some_and(|n| n.owner() == Some(user)));
        of(senders) == of(receivers)
    }

    /// True if the receivers are all devices of the senders' users.
    fn all_of_their_own(&self, senders: &Bits, receivers: &Bits) -> bool {
        let c = self.world.sides[1];
        let users: BTreeSet<usize> = senders.iter().filter_map(|n| c.topology().nodes.get(n)?.owner()).collect();
        let devices = users.iter().filter_map(|u| c.resolver.devices_of(*u)).flatten();
        devices.into_iter().all(|n| receivers.has(*n))
    }

    /// One end of a change: its nodes, and ranges behind routers.
    fn names(
        &self,
        end: usize,
        side: usize,
        atoms: &Bits,
        ranges: &Ranges,
        nodes: &Bits,
        ways: Option<&[Carrier]>,
    ) -> Vec<String> {
        let space = if end == FROM { &self.world.from } else { &self.world.to };
        let mut out = self.machines(end, space, atoms, ranges, nodes);
        for (carriers, there) in &self.behind[side][end] {
            let mut here = there.clone();
            here.keep(atoms);
            if here.is_empty() {
                continue;
            }
            let ranges = named(space, &here, there).join(", ");
            let through = ways.filter(|w| !w.is_empty()).unwrap_or(carriers);
            out.push(match (through.is_empty(), end) {
                (false, _) => format!("{ranges} behind {}", self.routers(through)),
                (true, FROM) => format!("{ranges} (no node and no router has it)"),
                (true, _) => format!("{ranges} (no router has it)"),
            });
        }
        out
    }

    /// The routers that carry somewhere: those of subnet routes, else the exit nodes.
    fn routers(&self, carriers: &[Carrier]) -> String {
        let c = self.world.sides[1];
        let subnet = carriers.iter().any(|(_, exit)| !exit);
        let nodes: Vec<usize> = carriers.iter().filter(|(_, exit)| !(*exit && subnet)).map(|(n, _)| *n).collect();
        nodes_named(c, &nodes).join(", ")
    }

    fn machines(&self, end: usize, space: &Space, atoms: &Bits, ranges: &Ranges, nodes: &Bits) -> Vec<String> {
        let c = self.world.sides[1];
        let all = &c.topology().nodes;
        let whole = |n: &usize| all.get(*n).is_some_and(|n| n.addrs().all(|a| ranges.contains(a)));
        let (whole, part): (Vec<usize>, Vec<usize>) = nodes.iter().partition(|n| whole(n));
        let mut out = Vec::new();
        let mut here = self.nodes[end].clone();
        here.keep(atoms);
        let common = (whole.len() > NAMES && whole.len() < all.len() && part.is_empty())
            .then(|| in_common(&space.people, &here, &self.nodes[end], PARTS))
            .flatten();
        match common {
            Some(names) => out.push(format!("{} ({} nodes)", names.join(", "), whole.len())),
            None => out.extend(nodes_named(c, &whole)),
        }
        let addrs = |n: &usize| {
            let addrs = all.get(*n).into_iter().flat_map(|n| n.addrs()).filter(|a| ranges.contains(*a));
            let addrs: Vec<String> = addrs.map(|a| a.to_string()).collect();
            format!("{} ({})", all.get(*n).map_or("?", |n| n.name.as_str()), addrs.join(", "))
        };
        out.extend(part.iter().filter(|n| !whole.contains(n)).take(NAMES).map(addrs));
        if part.len() > NAMES {
            out.push(format!("{} more by one of their addresses", part.len() - NAMES));
        }
        out
    }
}

/// Nodes by name, all of them as what they are; of many, some.
pub(super) fn nodes_named(c: &Compiled, nodes: &[usize]) -> Vec<String> {
    let all = &c.topology().nodes;
    if nodes.len() == all.len() && nodes.len() > 3 {
        return vec![format!("every node ({})", nodes.len())];
    }
    let mut out: Vec<String> = nodes.iter().take(NAMES).filter_map(|n| all.get(*n)).map(|n| n.name.clone()).collect();
    if nodes.len() > NAMES {
        out.push(format!("{} more nodes", nodes.len() - NAMES));
    }
    out
}

/// The addresses of these groups.
fn joined(space: &Space, atoms: &Bits) -> Ranges {
    Ranges::of(atoms.iter().filter_map(|a| space.atoms.get(a)).flat_map(|(r, _)| r.iter()))
}

/// Names for the groups `here`, out of all `there` that the same routers carry to.
fn named(space: &Space, here: &Bits, there: &Bits) -> Vec<String> {
    if let Some(names) = in_common(&space.written, here, there, PARTS) {
        return names;
    }
    // The narrowest written range around it, and what it lacks of that.
    let around = space.written.iter().filter_map(|(name, bits)| {
        let mut clip = bits.clone();
        clip.keep(there);
        clip.covers(here).then_some((clip.count(), bits.count(), name, clip))
    });
    if let Some((_, _, name, mut rest)) = around.min_by_key(|(clip, bits, ..)| (*clip, *bits)) {
        rest.remove(here);
        let lacks = in_common(&space.written, &rest, there, PARTS).or_else(|| {
            let texts: Vec<String> = joined(space, &rest).texts().take(PARTS + 1).collect();
            (texts.len() <= PARTS).then_some(texts)
        });
        if let Some(lacks) = lacks {
            return vec![format!("{name} without {}", lacks.join(" and "))];
        }
    }
    let all = joined(space, here);
    let mut texts: Vec<String> = all.texts().take(RANGES).collect();
    let more = all.iter().count().saturating_sub(RANGES);
    if more > 0 {
        texts.push(format!("{more} more ranges"));
    }
    texts
}

/// The fewest of these names that together are exactly the groups `here`, out of all `there`; the narrowest first.
fn in_common(names: &[(String, Bits)], here: &Bits, there: &Bits, most: usize) -> Option<Vec<String>> {
    let mut inside: Vec<(usize, usize, &String, Bits)> = Vec::new();
    for (name, bits) in names {
        let mut clip = bits.clone();
        clip.keep(there);
        let size = clip.count();
        if size > 0 && here.covers(&clip) {
            inside.push((size, bits.count(), name, clip));
        }
    }
    // The largest part first; of two that are alike here, the one that reaches less far elsewhere.
    inside.sort_by_key(|(size, bits, ..)| (std::cmp::Reverse(*size), *bits));
    let (mut rest, mut out) = (here.clone(), Vec::new());
    for (_, _, name, clip) in inside {
        let mut new = clip.clone();
        new.keep(&rest);
        if new.is_empty() {
            continue;
        }
        rest.remove(&clip);
        out.push(name.clone());
        if rest.is_empty() || out.len() == most {
            break;
        }
    }
    (rest.is_empty() && !out.is_empty()).then_some(out)
}
