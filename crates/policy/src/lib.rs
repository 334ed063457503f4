//! Policy: one HuJSON document that says who reaches what. In: the document and who exists. Out: what each node is
//! told, whether the policy keeps its own promises, why something passes or does not, and what a change would change.
//!
//! ```text
//! text -> hujson -> read -> Policy -> check -> resolve -> rules -> compile -> NodeView
//! ```

mod apps;
mod bits;
mod caps;
mod check;
mod compile;
mod diff;
mod explain;
mod fmt;
mod hujson;
pub mod ipset;
pub mod language;
mod net;
mod notes;
mod people;
pub mod posture;
mod problem;
mod ranges;
mod read;
mod resolve;
mod routes;
mod rules;
mod split_dns;
mod ssh;
mod tags;
mod tests;
mod topology;
mod view;
mod who;

pub use compile::{Compiled, Filter, NodeView, SourcesRef};
pub use diff::{Change, Diff, Whose, diff};
pub use explain::{Answer, Question};
pub use fmt::format;
pub use language::Policy;
pub use problem::{Pos, Problem};
pub use ranges::Ranges;
pub use rules::Origin;
pub use tests::{Outcome, Verdict};
pub use topology::{Node, Topology, User};
pub use who::read_who;
pub use who::{Ports, Proto, Role, Who, WhoPorts};

impl Policy {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text. What the hosted service refuses is refused; whether
    /// its own tests hold needs a topology and is another question.
    pub fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
        let (policy, problems, tolerated) = Policy::weigh(text);
        let problems = in_order(problems.into_iter().chain(tolerated));
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }

    /// Reads a document that is in force already. What an earlier version took, and means what it meant, is no reason to
    /// be without a policy; it comes beside it, to be mended.
    ///
    /// # Errors
    /// Everything that is wrong with it, if there is more than that.
    pub fn parse_in_force(text: &str) -> Result<(Policy, Vec<Problem>), Vec<Problem>> {
        let (policy, problems, tolerated) = Policy::weigh(text);
        if problems.is_empty() {
            return Ok((policy, in_order(tolerated.into_iter())));
        }
        Err(in_order(problems.into_iter().chain(tolerated)))
    }

    fn weigh(text: &str) -> (Policy, Vec<Problem>, Vec<Problem>) {
        let (policy, mut problems, mut tolerated) = read::read(text);
        // Names are looked up even when the form is wrong somewhere: one run shows all there is to mend.
        let (more, also) = check::check(&policy);
        problems.extend(more);
        tolerated.extend(also);
        (policy, problems, tolerated)
    }

    /// The addresses of every IP set, by name.
    #[must_use]
    pub fn ip_sets(&self) -> std::collections::BTreeMap<String, Ranges> {
        ipset::resolve(self).into_iter().map(|(name, set)| (name, set.ranges)).collect()
    }

    /// The static part of every named allow list, as the set that admission and enforcers look addresses up in. A list
    /// without entries is an empty set, which lets nobody in.
    #[must_use]
    pub fn list_sets(&self) -> std::collections::BTreeMap<String, addr::AddrSet> {
        let sets = ipset::resolve(self);
        let entries = |list: &language::ListRule| {
            let mut all = Ranges::new();
            list.allow.iter().for_each(|w| all.add(&ipset::target(self, &sets, &w.it).ranges));
            addr::AddrSet::new(all.prefixes())
        };
        self.lists.iter().map(|(name, list)| (name.clone(), entries(&list.it))).collect()
    }
}

fn in_order(problems: impl Iterator<Item = Problem>) -> Vec<Problem> {
    let mut out: Vec<Problem> = problems.collect();
    out.sort_by(|a, b| (a.pos, &a.message).cmp(&(b.pos, &b.message)));
    out.dedup();
    out
}

#[cfg(test)]
mod names {
    use super::*;

    #[test]
    fn services_of_elsewhere_are_accepted_and_stand_for_nobody() {
        let policy = Policy::parse(r#"{"grants": [{"src": ["*"], "dst": ["svc:web"], "ip": ["443"]}]}"#).unwrap();
        let topology =
            Topology::read(r#"{"users": [], "nodes": {"a": {"tags": ["tag:a"], "ipv4": "100.64.0.1"}}}"#).unwrap();
        assert!(
            Compiled::new(policy.into(), topology.into()).for_all().all(|v| v.filter.is_empty() && v.peers.is_empty())
        );
        // Whoever defines services here may slip with the pen.
        let text = r#"{"services": {"svc:git": {"addrs": ["192.0.2.5"]}}, "grants": [{"src": ["*"], "dst": ["svc:gti"], "ip": ["443"]}]}"#;
        assert!(Policy::parse(text).unwrap_err()[0].hint.as_deref().is_some_and(|h| h.contains("svc:git")));
    }

    #[test]
    fn logins_are_no_people() {
        let text = r#"{"grants": [{"src": ["localpart:*@example.com"], "dst": ["*"], "ip": ["22"]}]}"#;
        assert!(Policy::parse(text).unwrap_err()[0].message.contains("names logins"));
    }
}
