//! App connectors for people: what each app stands for, who learns for it, what was learnt. In: a snapshot. Out: tables.

use std::collections::BTreeMap;

use model::Prefix;
use wire::mesh::Learnt;

use super::snapshot::{Member, Snapshot, covers};

/// An app of the policy.
#[derive(Debug, Clone)]
pub struct App<'s> {
    /// Its name.
    pub name: String,
    /// Its domains, as written.
    pub domains: Vec<String>,
    /// Its pinned routes.
    pub pinned: Vec<Prefix>,
    /// The nodes that learn for it.
    pub connectors: Vec<&'s Member>,
    /// What they have learnt.
    pub learnt: Vec<(&'s Member, &'s Learnt)>,
}

impl Snapshot {
    /// Every app of the policy, by name.
    #[must_use]
    pub fn apps(&self) -> Vec<App<'_>> {
        let mut out: BTreeMap<&str, App<'_>> = BTreeMap::new();
        let connectors = self.compiled.policy().node_attrs.iter().flat_map(|a| &a.connectors);
        for c in connectors {
            let app = out.entry(c.name.as_str()).or_insert_with(|| App {
                name: c.name.clone(),
                domains: Vec::new(),
                pinned: Vec::new(),
                connectors: Vec::new(),
                learnt: Vec::new(),
            });
            app.domains.extend(c.domains.iter().map(|d| d.it.clone()));
            app.pinned.extend(c.routes.iter().map(|r| r.it));
            let learns = |m: &&Member| c.connectors.iter().any(|t| t.it == "*" || m.node.tags.contains(&t.it));
            for m in self.nodes.values().filter(learns) {
                if !app.connectors.iter().any(|o| o.node.id == m.node.id) {
                    app.connectors.push(m);
                }
                let of = |l: &&Learnt| c.domains.iter().any(|d| covers(&d.it, &l.domain));
                app.learnt.extend(m.node.learnt.iter().filter(of).map(|l| (m, l)));
            }
        }
        out.into_values().collect()
    }
}
