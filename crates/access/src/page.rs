//! One list of the ledger with its indexes. In: grants that come and go. Out: who is where, who leaves next when there
//! is no room, who is banned.
//!
//! Guests of share links have places of their own, and a guest who comes from many IPv6 networks of one provider's
//! customer pushes himself out before anybody else.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Ban, Grant, GrantId, Strength, Whom};
use addr::{Addr, AddrSet, Prefix, SourceKey};

use crate::learned::LearnedEntries;
use crate::rules::Rules;

/// Which limit a grant counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// None: pinned, or a name's address.
    Free,
    /// The limit of guests.
    Guest,
    /// The limit of everybody else.
    Proven,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rules: Rules,
    pub(crate) statics: AddrSet,
    pub(crate) by_prefix: BTreeMap<Prefix, GrantId>,
    /// Who is neither guest nor free, by who leaves first: the weakest, then as the rule says.
    proven: BTreeSet<(Strength, u64, GrantId)>,
    /// Guests by who leaves first.
    guests: BTreeSet<(u64, GrantId)>,
    /// The grants in which somebody has a part.
    pub(crate) by_principal: BTreeMap<String, BTreeSet<GrantId>>,
    /// The `seen_at` that the store has.
    pub(crate) saved_seen: BTreeMap<GrantId, u64>,
    /// Whose proofs do not count.
    pub(crate) bans: BTreeMap<Whom, Ban>,
    /// What enforcers should hold.
    pub(crate) learnt: LearnedEntries,
}

impl Page {
    pub(crate) fn new(rules: Rules) -> Page {
        Page {
            statics: AddrSet::new(rules.statics.iter().copied()),
            rules,
            by_prefix: BTreeMap::new(),
            proven: BTreeSet::new(),
            guests: BTreeSet::new(),
            by_principal: BTreeMap::new(),
            saved_seen: BTreeMap::new(),
            bans: BTreeMap::new(),
            learnt: LearnedEntries::default(),
        }
    }

    /// Puts a grant into the indexes. `told`: the end that enforcers have heard of, if they shall hear of no other.
    pub(crate) fn put(&mut self, g: &Grant, told: Option<Option<u64>>) {
        self.by_prefix.insert(g.prefix, g.id);
        self.learnt.put(g.id, g.prefix, told.unwrap_or_else(|| g.ends_at()));
        let leaves = self.rules.leaves_by(g);
        match place(g) {
            Place::Free => {}
            Place::Guest => drop(self.guests.insert((leaves, g.id))),
            Place::Proven => drop(self.proven.insert((g.strength(), leaves, g.id))),
        }
        for p in g.claims().filter_map(|c| c.principal.as_ref()) {
            self.by_principal.entry(p.clone()).or_default().insert(g.id);
        }
    }

    /// Takes a grant out of the indexes, as it was put in.
    pub(crate) fn take(&mut self, g: &Grant) {
        self.by_prefix.remove(&g.prefix);
        self.learnt.remove(g.id);
        let leaves = self.rules.leaves_by(g);
        self.guests.remove(&(leaves, g.id));
        self.proven.remove(&(g.strength(), leaves, g.id));
        self.saved_seen.remove(&g.id);
        for p in g.claims().filter_map(|c| c.principal.as_ref()) {
            if let Some(ids) = self.by_principal.get_mut(p) {
                ids.remove(&g.id);
                if ids.is_empty() {
                    self.by_principal.remove(p);
                }
            }
        }
    }

    /// True if somebody with this much evidence finds a place, perhaps that of somebody with as much or less.
    pub(crate) fn has_room(&self, new: Place, strength: Strength) -> bool {
        match new {
            Place::Free => true,
            // A guest takes another guest's place.
            Place::Guest => self.rules.guests != Some(0),
            Place::Proven => {
                let full = self.rules.max.is_some_and(|max| self.proven.len() >= max);
                !full || self.proven.first().is_some_and(|(weakest, ..)| *weakest <= strength)
            }
        }
    }

    /// Who has to leave because there are more than the rules allow, and how many those are.
    pub(crate) fn leaves_next(&self, grants: &BTreeMap<GrantId, Grant>) -> Option<(GrantId, usize)> {
        if let Some(max) = self.rules.max.filter(|max| self.proven.len() > *max) {
            return self.proven.first().map(|(.., id)| (*id, max));
        }
        let max = self.rules.guests.filter(|max| self.guests.len() > *max)?;
        Some((self.crowded(grants)?, max))
    }

    /// The guest who leaves first among those of the largest crowd: most of one IPv6 /48, of these most of one /56. Whoever
    /// can come from many networks is one household or one provider's customer, and takes no place of others.
    fn crowded(&self, grants: &BTreeMap<GrantId, Grant>) -> Option<GrantId> {
        let mut left: Vec<(GrantId, Prefix)> =
            self.guests.iter().filter_map(|(_, id)| Some((*id, grants.get(id)?.prefix))).collect();
        for level in [2, 1] {
            let mut count: BTreeMap<SourceKey, usize> = BTreeMap::new();
            // IPv4 has one level.
            let crowd = |p: Prefix| SourceKey::levels(p.first()).nth(level).unwrap_or_else(|| SourceKey::of(p.first()));
            for (_, p) in &left {
                *count.entry(crowd(*p)).or_default() += 1;
            }
            let most = count.values().copied().max()?;
            left.retain(|(_, p)| count.get(&crowd(*p)) == Some(&most));
        }
        left.first().map(|(id, _)| *id)
    }

    /// The ban that a proof of this person from there runs into.
    pub(crate) fn banned(&self, addr: Addr, learnt: Prefix, principal: Option<&str>) -> Option<&Ban> {
        if self.bans.is_empty() {
            return None;
        }
        let named = principal.and_then(|p| self.bans.get(&Whom::Named(p.to_string())));
        named.or_else(|| {
            self.bans.values().find(|b| match &b.whom {
                // What would be let in must hold nobody who is banned.
                Whom::From(p) => p.contains(addr) || learnt.covers(*p),
                Whom::Named(_) => false,
            })
        })
    }

    /// Number of those who count for the limit of proven ones, and of guests.
    pub(crate) fn counted(&self) -> (usize, usize) {
        (self.proven.len(), self.guests.len())
    }
}

/// Which limit a grant counts for.
pub(crate) fn place(g: &Grant) -> Place {
    match g.strength() {
        Strength::Pinned | Strength::Dns => Place::Free,
        Strength::Share => Place::Guest,
        _ => Place::Proven,
    }
}
