//! Memory that untrusted peers can make the process hold: one budget, with a share for each source. In: sizes about to be
//! held. Out: charges that give back what they took when they are dropped, or no.

use std::collections::HashMap;
use std::sync::Arc;

use addr::SourceKey;
use parking_lot::Mutex;

/// A budget of bytes.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    per_source: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    by_source: HashMap<SourceKey, usize>,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
#[must_use = "the bytes are given back when this is dropped"]
pub struct Charge {
    budget: Arc<Budget>,
    source: Option<SourceKey>,
    bytes: usize,
}

/// The budget or the source's share of it is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

impl std::fmt::Display for Exhausted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the memory set aside for this is used up")
    }
}

impl std::error::Error for Exhausted {}

impl Budget {
    /// A budget of so many bytes in all and for each source.
    #[must_use]
    pub fn new(total: usize, per_source: usize) -> Arc<Budget> {
        Arc::new(Budget { total, per_source, state: Mutex::default() })
    }

    /// An empty charge of a source, to be grown; `None` for one that stands for many sources (a trusted proxy), which only
    /// the whole budget bounds.
    pub fn charge(self: &Arc<Budget>, source: Option<SourceKey>) -> Charge {
        Charge { budget: self.clone(), source, bytes: 0 }
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().used
    }
}

impl State {
    fn release(&mut self, source: Option<SourceKey>, bytes: usize) {
        let Some(source) = source else { return };
        if let Some(mine) = self.by_source.get_mut(&source) {
            *mine -= bytes.min(*mine);
            if *mine == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

impl Charge {
    /// Takes more bytes.
    ///
    /// # Errors
    /// There are not so many left; the charge is as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let mut state = self.budget.state.lock();
        if bytes > self.budget.total.saturating_sub(state.used) {
            return Err(Exhausted);
        }
        if let Some(source) = self.source {
            let mine = state.by_source.get(&source).copied().unwrap_or(0);
            if bytes > self.budget.per_source.saturating_sub(mine) {
                return Err(Exhausted);
            }
            if bytes > 0 {
                state.by_source.insert(source, mine + bytes);
            }
        }
        state.used += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives bytes back; more than were taken are as many as were taken.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes == 0 {
            return;
        }
        let mut state = self.budget.state.lock();
        state.used -= bytes;
        self.bytes -= bytes;
        state.release(self.source, bytes);
    }

    /// The bytes turn out to be held for another source, one that a trusted proxy speaks for: they count there from now on.
    ///
    /// # Errors
    /// That source has its share; the charge is as it was.
    pub fn moved_to(&mut self, source: SourceKey) -> Result<(), Exhausted> {
        if self.source == Some(source) {
            return Ok(());
        }
        if self.bytes > 0 {
            let mut state = self.budget.state.lock();
            let mine = state.by_source.get(&source).copied().unwrap_or(0);
            if self.bytes > self.budget.per_source.saturating_sub(mine) {
                return Err(Exhausted);
            }
            state.by_source.insert(source, mine + self.bytes);
            state.release(self.source, self.bytes);
        }
        self.source = Some(source);
        Ok(())
    }

    /// Another charge of the same source, empty.
    pub fn sibling(&self) -> Charge {
        self.budget.charge(self.source)
    }

    /// Bytes that this charge holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> SourceKey {
        SourceKey::of(addr::Addr::new(std::net::Ipv4Addr::new(192, 0, 2, n).into()))
    }

    #[test]
    fn one_source_never_takes_it_all() {
        let budget = Budget::new(100, 40);
        let mut a = budget.charge(Some(key(1)));
        let mut again = budget.charge(Some(key(1)));
        a.grow(30).unwrap();
        assert_eq!(again.grow(11), Err(Exhausted));
        again.grow(10).unwrap();
        let mut proxy = budget.charge(None);
        proxy.grow(60).unwrap();
        assert_eq!(budget.charge(Some(key(2))).grow(1), Err(Exhausted));
        drop(proxy);
        assert_eq!(budget.used(), 40);
        drop((a, again));
        assert_eq!(budget.used(), 0);
        assert!(budget.state.lock().by_source.is_empty());
    }

    #[test]
    fn what_a_proxy_brings_counts_for_its_visitor() {
        let budget = Budget::new(100, 40);
        let proxy = || {
            let mut charge = budget.charge(None);
            charge.grow(30).unwrap();
            charge
        };
        let (mut a, mut b) = (proxy(), proxy());
        a.moved_to(key(1)).unwrap();
        assert_eq!(b.moved_to(key(1)), Err(Exhausted));
        b.moved_to(key(2)).unwrap();
        assert_eq!((budget.used(), a.grow(11)), (60, Err(Exhausted)));
        drop((a, b));
        assert_eq!(budget.used(), 0);
        assert!(budget.state.lock().by_source.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_is_counted(steps in prop::collection::vec((0u8..4, 0usize..50, any::<bool>()), 0..200)) {
            let budget = Budget::new(120, 50);
            let mut charges: Vec<Charge> = (0..4).map(|n| budget.charge((n > 0).then(|| key(n)))).collect();
            for (who, bytes, more) in steps {
                let charge = &mut charges[who as usize];
                if more { let _ = charge.grow(bytes); } else { charge.shrink(bytes); }
                prop_assert_eq!(budget.used(), charges.iter().map(Charge::bytes).sum::<usize>());
                prop_assert!(budget.used() <= 120);
                prop_assert!(charges.iter().skip(1).all(|c| c.bytes() <= 50));
            }
            drop(charges);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
