//! Whose tags are whose to give. In: a policy and who exists. Out: yes or no.

use super::Policy;
use super::people::People;
use super::topology::Topology;

impl Policy {
    /// True if `tagOwners` gives this tag (written with `tag:`) to the user at this place. A tag whose owners are
    /// written as `[]` belongs to administrators.
    #[must_use]
    pub fn owns_tag(&self, topology: &Topology, user: usize, tag: &str) -> bool {
        let Some(owners) = self.tag_owners.get(tag) else { return false };
        let people = People::new(topology);
        if owners.it.is_empty() {
            return people.has_role(user, super::Role::Admin);
        }
        owners.it.iter().any(|o| people.users(self, &o.it).contains(&user))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_groups_users_and_roles() {
        let policy = Policy::parse(
            r#"{"groups": {"group:ops": ["ada@example.com"]},
                "tagOwners": {"tag:a": ["group:ops"], "tag:b": ["ben@example.com"], "tag:c": ["autogroup:member"]}}"#,
        )
        .unwrap();
        let topology = Topology::read(
            r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}, {"id": 2, "name": "ben", "email": "ben@example.com"}], "nodes": {}}"#,
        )
        .unwrap();
        let owns = |user, tag| policy.owns_tag(&topology, user, tag);
        assert!(owns(0, "tag:a") && !owns(1, "tag:a"));
        assert!(owns(1, "tag:b") && !owns(0, "tag:b"));
        assert!(owns(0, "tag:c") && owns(1, "tag:c") && !owns(0, "tag:none"));
    }
}
