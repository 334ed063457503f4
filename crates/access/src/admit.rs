//! The one place where an address is judged. In: a view and an ask. Out: a verdict with its reason as data.

use std::fmt;

use crate::{ListId, View};
use addr::{Addr, Prefix};

/// Who asks to pass which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The visitor, made once at the door.
    pub addr: Addr,
    /// The list that guards the door.
    pub list: ListId,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// May pass.
    Allow(Why),
    /// Must not.
    Refuse(Why),
}

/// The reason, as data; [`explain`] puts it into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// This entry of this list holds the address.
    Entry(ListId, Prefix),
    /// No entry of this list holds the address.
    NotListed(ListId),
    /// The list is empty, which lets nobody in.
    EmptyList(ListId),
    /// There is no such list in the view; before the first view nobody is allowed.
    NoList(ListId),
}

/// Judges an address. Pure; no lock, no allocation.
#[inline]
pub fn admit(view: &View, ask: Ask) -> Verdict {
    let Some(list) = view.list(ask.list) else { return Verdict::Refuse(Why::NoList(ask.list)) };
    match list.set.lookup(ask.addr) {
        Some(prefix) => Verdict::Allow(Why::Entry(ask.list, prefix)),
        None if list.set.is_empty() => Verdict::Refuse(Why::EmptyList(ask.list)),
        None => Verdict::Refuse(Why::NotListed(ask.list)),
    }
}

/// The verdict in words for a person: one sentence, no final line end.
#[must_use]
pub fn explain(view: &View, ask: Ask) -> String {
    Sentence { view, ask, verdict: admit(view, ask) }.to_string()
}

/// A verdict that was given, in the same words; `view` and `ask` are those that it was given on.
#[must_use]
pub fn words(view: &View, ask: Ask, verdict: Verdict) -> String {
    Sentence { view, ask, verdict }.to_string()
}

impl Verdict {
    /// True for `Allow`.
    #[must_use]
    pub fn is_allow(self) -> bool {
        matches!(self, Verdict::Allow(_))
    }

    /// The reason.
    #[must_use]
    pub fn why(self) -> Why {
        match self {
            Verdict::Allow(w) | Verdict::Refuse(w) => w,
        }
    }
}

struct Sentence<'a> {
    view: &'a View,
    ask: Ask,
    verdict: Verdict,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = self.ask.addr;
        let named = |id: ListId| self.view.list(id).map_or(("?", "?"), |l| (l.name.as_str(), l.source.as_str()));
        match self.verdict.why() {
            Why::Entry(id, p) => {
                let (name, source) = named(id);
                write!(f, "{addr} is allowed: `{p}` on list `{name}` ({source}) holds it")
            }
            Why::NotListed(id) => {
                let (name, source) = named(id);
                write!(f, "{addr} is refused: no entry of list `{name}` ({source}) holds it")
            }
            Why::EmptyList(id) => {
                let (name, source) = named(id);
                write!(f, "{addr} is refused: list `{name}` ({source}) is empty, which lets nobody in")
            }
            Why::NoList(_) => write!(f, "{addr} is refused: there is no list for this door yet"),
        }
    }
}
