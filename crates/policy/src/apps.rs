//! App connectors as they are written. In: a policy. Out: which names an app stands for, and who learns for it.

use super::language::{Connector, Policy};

impl Policy {
    /// All app connectors, in the order written.
    pub fn connectors(&self) -> impl Iterator<Item = &Connector> {
        self.node_attrs.iter().flat_map(|entry| &entry.connectors)
    }
}

impl Connector {
    /// True if a node with these tags learns for the app.
    pub fn is_at(&self, tags: &[String]) -> bool {
        self.connectors.iter().any(|t| t.it == "*" || tags.contains(&t.it))
    }

    /// True if the app stands for a name. Of everything written that reaches the name the longest decides, and of two
    /// that are as long the one that leaves it out.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let named = self.domains.iter().filter_map(|d| reach(&d.it, name)).max();
        named.is_some_and(|n| self.left_out(name).is_none_or(|out| out < n))
    }

    /// True if official connectors learn for a name: they know nothing of names that are left out.
    #[must_use]
    pub fn could_learn(&self, name: &str) -> bool {
        self.domains.iter().any(|d| reach(&d.it, name).is_some())
    }

    /// How much is written of the name where it is left out.
    fn left_out(&self, name: &str) -> Option<usize> {
        let all = |d: &str| {
            if d.starts_with("*.") { reach(d, name) } else { reach(d, name).or(reach(&format!("*.{d}"), name)) }
        };
        self.except.iter().filter_map(|d| all(&d.it)).max()
    }
}

/// The domain of a wildcard, and any other as it is.
pub(crate) fn base(domain: &str) -> &str {
    domain.strip_prefix("*.").unwrap_or(domain)
}

/// How long the domain is that stands for the name, if it does: itself, or with `*.` whatever is below it.
pub(crate) fn reach(domain: &str, name: &str) -> Option<usize> {
    let (name, base) = (name.trim_end_matches('.'), base(domain).trim_end_matches('.'));
    let same = if domain.starts_with("*.") {
        let head = name.len().checked_sub(base.len()).filter(|n| *n > 1 && name.is_char_boundary(*n))?;
        name.as_bytes().get(head - 1) == Some(&b'.') && name[head..].eq_ignore_ascii_case(base)
    } else {
        name.eq_ignore_ascii_case(base)
    };
    same.then_some(base.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_about_a_name_decides() {
        let app = |domains: &str| {
            let text = format!(
                r#"{{"nodeAttrs": [{{"target": ["*"], "app": {{"tailscale.com/app-connectors": [
                    {{"name": "crm", "connectors": ["*"], "domains": [{domains}]}}]}}}}]}}"#
            );
            Policy::parse(&text)
        };
        let policy =
            app(r#""*.crm.example", "!old.crm.example", "new.old.crm.example", "!*.lab.crm.example""#).unwrap();
        let c = &policy.node_attrs[0].connectors[0];
        for (name, is) in [
            ("a.crm.example", true),
            ("A.b.CRM.example.", true),
            ("crm.example", false),
            ("xcrm.example", false),
            ("old.crm.example", false),
            ("x.Old.crm.example.", false),
            ("gold.crm.example", true),
            ("new.old.crm.example", true),
            ("lab.crm.example", true),
            ("x.lab.crm.example", false),
        ] {
            assert_eq!(c.covers(name), is, "{name}");
        }
        assert!(c.could_learn("x.old.crm.example") && !c.could_learn("crm.example"));
        // What connectors are told holds no word that they do not know.
        let told = &policy.node_attrs[0].app["tailscale.com/app-connectors"][0]["domains"];
        assert_eq!(told, &serde_json::json!(["*.crm.example", "new.old.crm.example"]));
        for (bad, why) in [
            (r#""*.crm.example", "!else.example""#, "no wildcard of this app stands for it"),
            (r#""*.crm.example", "!crm.example""#, "no wildcard of this app stands for it"),
            (r#""*.crm.example", "a.crm.example", "!a.crm.example""#, "both named and left out"),
            (r#""*.crm.example", "!a..crm.example""#, "is no domain name"),
            (r#""!a.crm.example""#, "needs `domains`"),
        ] {
            let problems = app(bad).unwrap_err();
            assert!(problems.iter().any(|p| p.to_string().contains(why)), "{bad}: {problems:?}");
        }
    }
}
