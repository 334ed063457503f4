//! Whose tags are whose to give. In: a policy and who exists. Out: yes or no.

use super::Policy;
use super::people::People;
use super::topology::Topology;

impl Policy {
    /// True if the user at this place may give this tag (written with `tag:`): `tagOwners` says so, or the user is an
    /// administrator, who may give every tag that the policy knows (public documentation of tags). Where no user has a
    /// role, nobody is one by that; then a tag whose owners are written as `[]` belongs to all.
    #[must_use]
    pub fn owns_tag(&self, topology: &Topology, user: usize, tag: &str) -> bool {
        let Some(owners) = self.tag_owners.get(tag) else { return false };
        let people = People::new(topology);
        if people.gives_any_tag(user) || (owners.it.is_empty() && people.has_role(user, super::Role::Admin)) {
            return true;
        }
        owners.it.iter().any(|o| people.users(self, &o.it).contains(&user))
    }
}

#[cfg(test)]
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

    #[test]
    fn administrators_give_every_tag_there_is() {
        let policy = Policy::parse(r#"{"tagOwners": {"tag:b": ["ben@example.com"], "tag:none": []}}"#).unwrap();
        let roles = ["owner", "admin", "network-admin", "it-admin", "auditor", "member"];
        let users: Vec<String> = roles
            .iter()
            .enumerate()
            .map(|(i, r)| format!(r#"{{"id": {i}, "name": "u{i}", "email": "u{i}@example.com", "role": "{r}"}}"#))
            .collect();
        let topology = Topology::read(&format!(r#"{{"users": [{}], "nodes": {{}}}}"#, users.join(","))).unwrap();
        let may: Vec<bool> = (0..roles.len()).map(|u| policy.owns_tag(&topology, u, "tag:b")).collect();
        assert_eq!(may, [true, true, true, false, false, false]);
        assert!(!policy.owns_tag(&topology, 0, "tag:unheard"), "what the policy does not know, nobody gives");
    }
}
