//! The one place where an address is judged. In: a view, a service or a list of it, an address. Out: a verdict with its
//! reason as data, and a refusal that keeps what it was judged by.

use std::fmt;
use std::sync::Arc;

use crate::{ListId, Service, View};
use addr::{Addr, Prefix};

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// May pass: this entry of this list holds the address.
    Allow(ListId, Prefix),
    /// Must not.
    Refuse(Why),
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No entry of this list holds the address.
    NotListed(ListId),
    /// The list is empty, which lets nobody in.
    EmptyList(ListId),
    /// No list guards what is asked for; before the first view nobody is allowed.
    NoList,
}

/// An address that was refused, with the view that it was judged by: what is said of it is what was judged, whatever the
/// lists say a moment later.
#[derive(Clone)]
pub struct Refusal {
    /// Who asked.
    pub addr: Addr,
    /// For what.
    pub service: Arc<Service>,
    /// Why not.
    pub why: Why,
    /// Judged by this.
    pub view: Arc<View>,
}

/// A verdict as a sentence for a person, without a final line end.
#[derive(Debug, Clone, Copy)]
pub struct Sentence<'a> {
    verdict: Verdict,
    view: &'a View,
    addr: Addr,
}

impl View {
    /// Judges an address that wants to reach a service. Pure; no lock, no allocation.
    #[inline]
    pub fn judge(&self, service: &Service, addr: Addr) -> Verdict {
        self.judge_by(self.guard(service), addr)
    }

    /// Judges an address by a list; by none, nobody passes. Pure; no lock, no allocation.
    #[inline]
    pub fn judge_by(&self, list: Option<ListId>, addr: Addr) -> Verdict {
        let Some((id, list)) = list.and_then(|id| Some((id, self.list(id)?))) else {
            return Verdict::Refuse(Why::NoList);
        };
        match list.set.lookup(addr) {
            Some(prefix) => Verdict::Allow(id, prefix),
            None if list.set.is_empty() => Verdict::Refuse(Why::EmptyList(id)),
            None => Verdict::Refuse(Why::NotListed(id)),
        }
    }
}

impl Verdict {
    /// True for `Allow`.
    #[must_use]
    pub fn is_allow(self) -> bool {
        matches!(self, Verdict::Allow(..))
    }

    /// The verdict in words; `view` and `addr` are those that it was given on.
    #[must_use]
    pub fn in_words(self, view: &View, addr: Addr) -> Sentence<'_> {
        Sentence { verdict: self, view, addr }
    }
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = self.addr;
        let named = |id: ListId| self.view.list(id).map_or(("?", "?"), |l| (l.name.as_str(), l.source.as_str()));
        match self.verdict {
            Verdict::Allow(id, p) => {
                let (name, source) = named(id);
                write!(f, "{addr} is allowed: `{p}` on list `{name}` ({source}) holds it")
            }
            Verdict::Refuse(Why::NotListed(id)) => {
                let (name, source) = named(id);
                write!(f, "{addr} is refused: no entry of list `{name}` ({source}) holds it")
            }
            Verdict::Refuse(Why::EmptyList(id)) => {
                let (name, source) = named(id);
                write!(f, "{addr} is refused: list `{name}` ({source}) is empty, which lets nobody in")
            }
            Verdict::Refuse(Why::NoList) => write!(f, "{addr} is refused: there is no list for this service yet"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Verdict::Refuse(self.why).in_words(&self.view, self.addr).fmt(f)
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.service)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{List, ViewBuilder};
    use addr::AddrSet;

    fn view(generation: u64, entries: &str) -> Arc<View> {
        let mut b = ViewBuilder::default();
        let set = AddrSet::new(addr::parse_list(entries).unwrap().prefixes);
        b.add(List { name: "data".to_string(), set, source: "test".to_string() });
        Arc::new(b.build(generation))
    }

    #[test]
    fn a_refusal_says_what_was_judged_whatever_the_lists_say_later() {
        let addr: Addr = "192.0.2.1".parse().unwrap();
        let (before, after) = (view(1, "198.51.100.1"), view(2, "192.0.2.1"));
        let Verdict::Refuse(why) = before.judge(&Service::Data, addr) else { panic!("it is not on the list") };
        let refusal = Refusal { addr, service: Arc::new(Service::Data), why, view: before };
        assert!(after.judge(&Service::Data, addr).is_allow());
        assert_eq!(refusal.to_string(), "192.0.2.1 is refused: no entry of list `data` (test) holds it");
    }

    #[test]
    fn every_verdict_has_its_words() {
        let addr: Addr = "192.0.2.1".parse().unwrap();
        let say = |v: &View| v.judge(&Service::Data, addr).in_words(v, addr).to_string();
        assert_eq!(
            say(&view(1, "192.0.2.0/24")),
            "192.0.2.1 is allowed: `192.0.2.0/24` on list `data` (test) holds it"
        );
        assert_eq!(say(&view(1, "none")), "192.0.2.1 is refused: list `data` (test) is empty, which lets nobody in");
        assert_eq!(say(&View::default()), "192.0.2.1 is refused: there is no list for this service yet");
        // A list that is not in this view is no list.
        let other = Some(ListId(7));
        assert_eq!(view(1, "all").judge_by(other, addr), Verdict::Refuse(Why::NoList));
    }
}
