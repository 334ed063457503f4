//! Names of nodes. In: what a host calls itself. Out: a DNS label that no other node has.

/// Longest label of a name (RFC 1035, section 2.3.4).
const LABEL: usize = 63;

/// Names that machines ask for by themselves and believe whoever has them: a proxy for everything (WPAD), a router
/// (ISATAP, RFC 5214). No host gets one by saying so.
const BELIEVED: [&str; 2] = ["wpad", "isatap"];

/// A host's name as a DNS label: small letters, digits and single hyphens; `node` if nothing is left, and before a
/// number, which means the node of that number, and before names that machines ask for by themselves.
#[must_use]
pub(crate) fn label(host: &str) -> String {
    let mut out = String::new();
    // Phones put their owner's name and a domain into it: what is before the first dot names the device.
    for c in host.split('.').next().unwrap_or_default().chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => out.push(c),
            '\'' | '’' => {}
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.truncate(LABEL);
    let out = out.trim_end_matches('-');
    match out {
        // What every host calls itself names none of them.
        "" | "localhost" => "node".to_string(),
        name if is_number(name) || BELIEVED.contains(&name) => {
            format!("node-{}", &name[..name.len().min(LABEL - "node-".len())])
        }
        _ => out.to_string(),
    }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// The label, with a number behind it if it is taken.
pub(crate) fn unique(label: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(label) {
        return label.to_string();
    }
    let mut n = 1u64;
    loop {
        let tail = format!("-{n}");
        let head: String = label.chars().take(LABEL - tail.len()).collect();
        let name = format!("{}{tail}", head.trim_end_matches('-'));
        if !taken(&name) {
            return name;
        }
        n += 1;
    }
}

/// A name that a person gives.
///
/// # Errors
/// It is no DNS label.
pub(crate) fn given(name: &str) -> Result<&str, String> {
    let good = !name.is_empty()
        && name.len() <= LABEL
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !is_number(name);
    if good {
        Ok(name)
    } else {
        Err(format!(
            "`{}` cannot name a node; use small letters, digits and `-`, at most 63, no `-` at an end, no number",
            name.escape_debug()
        ))
    }
}

/// A domain name as clients take it: small letters, no dot at its end.
///
/// # Errors
/// It is none; says what is wrong with it. Official clients on Linux end at once when they are told of a name with an
/// empty label (release 1.102), so that no such name may ever be passed on.
pub fn domain_name(text: &str) -> Result<String, &'static str> {
    /// Longest name (RFC 1035, section 2.3.4), without the dot at its end.
    const NAME: usize = 253;
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        !l.is_empty() && l.len() <= LABEL && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let good = name.len() <= NAME && name.split('.').all(label);
    if good { Ok(name) } else { Err("is no domain name; write one like corp.example") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_of_what_hosts_call_themselves() {
        for (host, want) in [
            ("Ada's MacBook Pro", "adas-macbook-pro"),
            ("web01.example.com", "web01"),
            ("__", "node"),
            ("", "node"),
            ("localhost", "node"),
            ("-x-", "x"),
            ("Gerät", "ger-t"),
            ("17", "node-17"),
            ("WPAD.example", "node-wpad"),
        ] {
            assert_eq!(label(host), want, "{host}");
        }
        assert_eq!(label(&"a".repeat(99)).len(), LABEL);
        assert_eq!(label(&"9".repeat(99)).len(), LABEL);
    }

    #[test]
    fn a_taken_name_gets_a_number_and_stays_a_label() {
        assert_eq!(unique("x", |n| ["x", "x-1"].contains(&n)), "x-2");
        let long = "a".repeat(LABEL);
        let other = unique(&long, |n| n == long);
        assert!(other.ends_with("-1") && other.len() <= LABEL);
        assert_eq!(domain_name("Corp.Example."), Ok("corp.example".to_string()));
        for bad in ["", ".", "b..ad", "a b", "*.x", ".x", &"a".repeat(64)] {
            assert!(domain_name(bad).is_err(), "{bad}");
        }
        assert!(given("web-1").is_ok() && given("Web").is_err() && given("a.b").is_err() && given("").is_err());
    }

    proptest! {
        /// Whatever a host calls itself, it gets a name that a person might have given and that nobody else has.
        #[test]
        fn every_host_gets_a_name(hosts in prop::collection::vec("(?s).{0,12}|[a-c]{1,2}|[0-9]{1,4}|[-a9]{60,70}|wpad|isatap-?|localhost", 1..40)) {
            let mut taken: Vec<String> = Vec::new();
            for host in hosts {
                let name = unique(&label(&host), |n| taken.iter().any(|t| t == n));
                prop_assert_eq!(given(&name), Ok(name.as_str()), "of {:?}", host);
                prop_assert!(!BELIEVED.contains(&name.as_str()) && name != "localhost");
                prop_assert!(!taken.contains(&name));
                taken.push(name);
            }
        }

        #[test]
        fn a_domain_name_is_in_its_one_form(text in "[ -~]{0,20}|([A-Za-z0-9_-]{0,70}\\.){0,6}") {
            let Ok(name) = domain_name(&text) else { return Ok(()) };
            prop_assert_eq!(domain_name(&name), Ok(name.clone()));
            prop_assert!(name.len() <= 253 && !name.contains("..") && !name.ends_with('.'));
            prop_assert!(name.split('.').all(|l| (1..=63).contains(&l.len())), "{}", name);
        }
    }

    #[test]
    fn what_is_refused_is_named_without_its_control_characters() {
        assert!(given("a\nb").unwrap_err().starts_with("`a\\nb` cannot name a node"));
        assert!(given("1234").is_err(), "a number means the node of that number");
        assert!(given(&"a".repeat(63)).is_ok() && given(&"a".repeat(64)).is_err());
        assert_eq!(domain_name(&format!("{}.example", "a.".repeat(122) + "b")).map(|n| n.len()), Ok(253));
        assert!(domain_name(&format!("{}.example", "a.".repeat(123) + "b")).is_err(), "255 bytes");
    }
}
