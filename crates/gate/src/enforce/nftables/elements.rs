//! What a table's sets should hold, and how they get there. In: the list with its ends, what the sets hold. Out: elements
//! to remove and to add.

use std::collections::BTreeMap;

use access::learned::LearnedEntry;
use access::publish::{Desired, later, stretches};
use addr::Port;
use net::nftables::Element;

/// Elements with their ends, seconds since the Unix epoch.
pub(super) type Elements = BTreeMap<Element, Option<u64>>;

/// What leads from what the sets hold to what they should.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// What goes.
    pub(super) remove: Vec<Element>,
    /// What comes, with its end.
    pub(super) add: Vec<(Element, Option<u64>)>,
    /// Something is removed for good.
    pub(super) left: bool,
    /// Ports that go and that come.
    pub(super) ports: (Vec<Port>, Vec<Port>),
}

/// Everything that the sets should hold.
pub(super) fn elements(d: &Desired) -> Elements {
    let all = || d.statics.iter().map(|p| (*p, None)).chain(d.learnt.iter());
    let mut out = Elements::new();
    for (p, end) in all() {
        if let Some(e) = Element::exact(p) {
            let end = out.get(&e).map_or(end, |o| later(*o, end));
            out.insert(e, end);
        }
    }
    let wide = stretches(all().filter(|(p, _)| Element::exact(*p).is_none()));
    out.extend(wide.into_iter().map(|s| (Element::range(s.v4, s.first, s.last), s.end)));
    out
}

/// The differences when only exact addresses changed, without a look at the others. `None`: not so.
pub(super) fn quick(has: &Desired, d: &Desired) -> Option<Differences> {
    if has.statics != d.statics {
        return None;
    }
    let mut out = Differences::default();
    let element = |l: LearnedEntry| -> Option<Element> { Element::exact(l.0).filter(|_| !d.statics.contains(&l.0)) };
    for c in has.learnt.changes(&d.learnt) {
        if let Some(before) = c.before {
            out.remove.push(element(before)?);
            out.left |= c.after.is_none_or(|a| a.0 != before.0);
        }
        if let Some(after) = c.after {
            out.add.push((element(after)?, after.1));
        }
    }
    Some(out)
}

/// The differences of two states; ends that are this far apart or less (seconds) are the same.
pub(super) fn differences(have: &Elements, want: &Elements, tolerance: u64) -> Differences {
    let mut out = Differences::default();
    let same = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) <= tolerance,
        (a, b) => a == b,
    };
    for (e, end) in have {
        match want.get(e) {
            Some(w) if same(*end, *w) => {}
            Some(w) => {
                out.remove.push(*e);
                out.add.push((*e, *w));
            }
            None => {
                out.remove.push(*e);
                out.left = true;
            }
        }
    }
    out.add.extend(want.iter().filter(|(e, _)| !have.contains_key(e)).map(|(e, end)| (*e, *end)));
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{desired, ending};
    use super::*;

    fn element(prefix: &str) -> Element {
        Element::exact(prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_exact_and_networks_are_ranges_that_do_not_overlap() {
        let all = elements(&desired("home", &["192.0.2.1", "198.51.100.0/24", "198.51.100.128/25"]));
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.contains_key(&element("192.0.2.1")));
    }

    #[test]
    fn the_quick_way_finds_what_the_long_way_finds() {
        let before = ending("home", &[("192.0.2.1", Some(100)), ("192.0.2.2", None), ("192.0.2.3", Some(50))]);
        let after = ending("home", &[("192.0.2.1", Some(900)), ("192.0.2.2", None), ("192.0.2.4", Some(70))]);
        let mut fast = quick(&before, &after).unwrap();
        let mut slow = differences(&elements(&before), &elements(&after), 0);
        for d in [&mut fast, &mut slow] {
            d.remove.sort();
            d.add.sort();
        }
        assert_eq!(fast, slow);
        assert!(fast.left, "192.0.2.3 left");
        // A network is no single address: the long way is for it.
        assert!(quick(&before, &desired("home", &["198.51.100.0/24"])).is_none());
    }

    #[test]
    fn what_the_kernel_rounds_is_no_difference() {
        let at = |end| Elements::from([(element("192.0.2.1"), end)]);
        let same = |a, b| differences(&at(a), &at(b), 2) == Differences::default();
        assert!(same(Some(100), Some(102)) && same(None, None));
        assert!(!same(Some(100), Some(103)) && !same(Some(100), None));
        // An entry that stays longer is put in anew, and nobody left.
        assert!(!differences(&at(Some(100)), &at(None), 2).left);
        // Somebody else's entry goes.
        let foreign = differences(&at(None), &Elements::new(), 2);
        assert_eq!(foreign.remove, [element("192.0.2.1")]);
        assert!(foreign.left);
    }
}
