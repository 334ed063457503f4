//! The picture that decisions are made on. In: lists, once. Out: an immutable `View` with a generation, held in an
//! `Arc` and replaced whole.

use std::collections::BTreeMap;

use addr::AddrSet;

use crate::Service;

/// Both clocks, read once by the shell and handed to pure code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Seconds since the Unix epoch.
    pub unix: u64,
}

/// A list's place in a view. Stable across views built by the same builder order; look it up by name at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListId(pub u32);

/// A named allow list.
#[derive(Debug, Clone)]
pub struct List {
    /// The name people use: `data`, `control`, `port:2222`, `host:app.example.com`.
    pub name: String,
    /// Who is on it.
    pub set: AddrSet,
    /// Where it was written: `--allow-ips`, `@/etc/portcullis/office`, `edge.toml: data.allow_ips`.
    pub source: String,
}

/// Every list, at a generation. Nothing in it changes; a change is a new view.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Counts up by one at every change; 0 is the view before the first, in which nobody is allowed.
    pub generation: u64,
    lists: Vec<List>,
    names: BTreeMap<String, ListId>,
    /// The lists that guard a service of an edge.
    guards: BTreeMap<Service, ListId>,
}

/// Collects lists for the next view.
#[derive(Debug, Default)]
pub struct ViewBuilder {
    lists: Vec<List>,
}

impl View {
    /// The list at this place, if there is one.
    #[must_use]
    #[inline]
    pub fn list(&self, id: ListId) -> Option<&List> {
        self.lists.get(id.0 as usize)
    }

    /// The place of a named list.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<ListId> {
        self.names.get(name).copied()
    }

    /// The list that guards a service: its own, or that of its plane. `None`: nobody passes.
    #[must_use]
    pub fn guard(&self, service: &Service) -> Option<ListId> {
        self.guards.get(service).or_else(|| self.guards.get(&service.plane())).copied()
    }

    /// Which list guards a service and why that one, as a sentence without a final line end.
    #[must_use]
    pub fn explain_guard(&self, service: &Service) -> String {
        let Some(list) = self.guard(service).and_then(|id| self.list(id)) else {
            return format!("{service} has no list, so nobody passes");
        };
        let own = service.list();
        match (service.plane() == *service, own == list.name) {
            (true, _) => format!("list `{own}` guards {service}"),
            (false, true) => format!("list `{own}` guards {service} in the place of the plane's"),
            (false, false) => format!("list `{}` guards {service}, which has no list `{own}` of its own", list.name),
        }
    }

    /// The services that have a list of their own, with it.
    pub fn guarded(&self) -> impl Iterator<Item = (&Service, &List)> {
        self.guards.iter().filter_map(|(service, id)| Some((service, self.list(*id)?)))
    }

    /// All lists, in the order they were added.
    #[must_use]
    pub fn lists(&self) -> &[List] {
        &self.lists
    }
}

impl ViewBuilder {
    /// Adds a list; its place is the number of lists added before it.
    pub fn add(&mut self, list: List) -> ListId {
        self.lists.push(list);
        ListId((self.lists.len() - 1) as u32)
    }

    /// The finished view.
    #[must_use]
    pub fn build(self, generation: u64) -> View {
        let each = || self.lists.iter().enumerate().map(|(i, l)| (l.name.as_str(), ListId(i as u32)));
        let names = each().map(|(name, id)| (name.to_string(), id)).collect();
        let guards = each().filter_map(|(name, id)| Some((Service::of_list(name)?, id))).collect();
        View { generation, lists: self.lists, names, guards }
    }
}
