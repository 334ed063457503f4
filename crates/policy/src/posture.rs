//! Device posture: conditions on what is known of a device. In: texts such as `node:os IN ['macos', 'linux']` and the
//! device's attributes. Out: whether they hold. What is not known holds only where a condition asks for exactly that.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The value of a posture attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text; versions are texts.
    Text(String),
    /// A number.
    Number(f64),
    /// True or false.
    Bool(bool),
}

/// One condition, such as `node:tsVersion >= '1.40'`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The attribute, with its namespace.
    pub attribute: String,
    /// What is asked of it.
    pub test: Test,
}

/// What a condition asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `==`
    Is(Value),
    /// `!=`
    IsNot(Value),
    /// `<`, `<=`, `>`, `>=`: the orderings that satisfy it.
    Order(&'static [Ordering], Value),
    /// `IN`
    In(Vec<Value>),
    /// `NOT IN`
    NotIn(Vec<Value>),
    /// `IS SET`
    Set,
    /// `NOT SET`
    NotSet,
}

/// Namespaces of attributes (public documentation of device posture, "Attributes"; third parties have their own).
const NAMESPACES: [&str; 13] = [
    "node",
    "custom",
    "ip",
    "geo",
    "intune",
    "jamf",
    "jamfPro",
    "kandji",
    "kolide",
    "falcon",
    "crowdstrike",
    "sentinelOne",
    "huntress",
];

/// The attributes that a client's own words give (public documentation of device posture, "Attributes"): its operating
/// system and that one's version, its own version and whether that is a stable one. Empty texts give nothing.
#[must_use]
pub fn of_client(os: &str, os_version: &str, version: &str) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let mut say = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(format!("node:{name}"), Value::Text(value.to_string()));
        }
    };
    say("os", &os.to_ascii_lowercase());
    say("osVersion", os_version);
    // `1.88.2-t4b1c2d3e4-g5f6a7b8c9` is 1.88.2; an odd second number is an unstable one.
    let short = version.split(['-', '+']).next().unwrap_or_default();
    say("tsVersion", short);
    let minor = short.split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
    say("tsReleaseTrack", minor.map_or("", |m| if m % 2 == 0 { "stable" } else { "unstable" }));
    out
}

/// Reads a condition.
pub(crate) fn read_condition(text: &str) -> Result<Condition, String> {
    let wrong = |why: &str| format!("posture condition `{text}`: {why}");
    let trimmed = text.trim();
    let end = trimmed.find([' ', '=', '!', '<', '>']).ok_or_else(|| wrong("an operator is missing, such as `==`"))?;
    let (attribute, rest) = trimmed.split_at(end);
    let Some((namespace, name)) = attribute.split_once(':') else {
        return Err(wrong("an attribute is NAMESPACE:NAME, such as `node:os`"));
    };
    if name.is_empty() || !NAMESPACES.contains(&namespace) {
        return Err(wrong("the attribute's namespace is not known; `node:` and `custom:` are the usual ones"));
    }
    let rest = rest.trim();
    let test = read_ask(rest).ok_or_else(|| {
        wrong("wanted is OPERATOR VALUE: ==, !=, <, <=, >, >=, IN [..], NOT IN [..], IS SET, NOT SET; texts in single quotes")
    })?;
    Ok(Condition { attribute: attribute.to_string(), test })
}

/// True if the condition holds for a device with these attributes.
pub(crate) fn holds(condition: &Condition, attributes: &BTreeMap<String, Value>) -> bool {
    let known = attributes.get(&condition.attribute);
    match (&condition.test, known) {
        (Test::Set, value) => value.is_some(),
        (Test::NotSet, value) => value.is_none(),
        // What is not known can be no reason to let somebody in.
        (_, None) => false,
        (Test::Is(v), Some(k)) => k == v,
        (Test::IsNot(v), Some(k)) => k != v,
        (Test::In(list), Some(k)) => list.contains(k),
        (Test::NotIn(list), Some(k)) => !list.contains(k),
        (Test::Order(wanted, v), Some(k)) => compare(k, v).is_some_and(|o| wanted.contains(&o)),
    }
}

fn read_ask(text: &str) -> Option<Test> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["IS", "SET"] => return Some(Test::Set),
        ["NOT", "SET"] => return Some(Test::NotSet),
        _ => {}
    }
    let list = |rest: &str| -> Option<Vec<Value>> {
        let inner = rest.trim().strip_prefix('[')?.strip_suffix(']')?;
        split_list(inner)?.iter().map(|v| read_value(v)).collect()
    };
    if let Some(rest) = text.strip_prefix("NOT").map(str::trim_start).and_then(|r| r.strip_prefix("IN")) {
        return list(rest).map(Test::NotIn);
    }
    if let Some(rest) = text.strip_prefix("IN") {
        return list(rest).map(Test::In);
    }
    const ORDERS: [(&str, &[Ordering]); 4] = [
        (">=", &[Ordering::Greater, Ordering::Equal]),
        ("<=", &[Ordering::Less, Ordering::Equal]),
        (">", &[Ordering::Greater]),
        ("<", &[Ordering::Less]),
    ];
    if let Some(rest) = text.strip_prefix("==") {
        return read_value(rest).map(Test::Is);
    }
    if let Some(rest) = text.strip_prefix("!=") {
        return read_value(rest).map(Test::IsNot);
    }
    let (rest, orders) = ORDERS.iter().find_map(|(op, o)| text.strip_prefix(op).map(|r| (r, *o)))?;
    read_value(rest).map(|v| Test::Order(orders, v))
}

/// Parts a list at commas outside quotes.
fn split_list(text: &str) -> Option<Vec<&str>> {
    let (mut out, mut from, mut quote) = (Vec::new(), 0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None, ',') => {
                out.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    quote.is_none().then_some(out)
}

fn read_value(text: &str) -> Option<Value> {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            let inner = inner.strip_suffix(quote)?;
            return (!inner.contains(quote)).then(|| Value::Text(inner.to_string()));
        }
    }
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ => text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::Number),
    }
}

/// Order of two values of one kind. Texts compare as versions: number by number, then as letters.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(compare_versions(a, b)),
        (Value::Number(n), Value::Text(t)) => Some(compare_versions(&n.to_string(), t)),
        (Value::Text(t), Value::Number(n)) => Some(compare_versions(t, &n.to_string())),
        _ => None,
    }
}

fn compare_versions(a: &str, b: &str) -> Ordering {
    let parts = |v: &str| -> Vec<(u64, String)> {
        v.split(['.', '-', '_', '+'])
            .map(|p| {
                let digits = p.len() - p.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                (p[..digits].parse().unwrap_or(0), p[digits..].to_string())
            })
            .collect()
    };
    let (mut a, mut b) = (parts(a), parts(b));
    // `1.40` is `1.40.0`.
    let len = a.len().max(b.len());
    a.resize(len, (0, String::new()));
    b.resize(len, (0, String::new()));
    a.cmp(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_words_are_attributes() {
        let text = |s: &str| Some(Value::Text(s.to_string()));
        let of = of_client("macOS", "14.5", "1.88.2-t4b1c2d3e4-g5f6a7b8c9");
        assert_eq!(of.get("node:os").cloned(), text("macos"));
        assert_eq!(of.get("node:tsVersion").cloned(), text("1.88.2"));
        assert_eq!(of.get("node:tsReleaseTrack").cloned(), text("stable"));
        assert_eq!(of_client("linux", "", "1.89.0").get("node:tsReleaseTrack").cloned(), text("unstable"));
        assert!(of_client("", "", "").is_empty() && of_client("linux", "", "odd").len() == 2);
    }

    #[test]
    fn conditions_hold_or_not() {
        let device: BTreeMap<String, Value> = [
            ("node:os".to_string(), Value::Text("macos".into())),
            ("node:tsVersion".to_string(), Value::Text("1.40.2".into())),
            ("custom:tier".to_string(), Value::Number(3.0)),
            ("custom:managed".to_string(), Value::Bool(true)),
        ]
        .into();
        let yes = [
            "node:os == 'macos'",
            "node:os IN ['linux', 'macos']",
            "node:os NOT IN ['windows']",
            "node:tsVersion >= '1.40'",
            "node:tsVersion < '1.100'",
            "custom:tier > 2",
            "custom:managed == true",
            "custom:managed IS SET",
            "custom:other NOT SET",
            "node:os!='linux'",
        ];
        let no = [
            "node:os == 'linux'",
            "node:tsVersion >= '1.41'",
            "custom:other != 'x'",
            "custom:other NOT IN ['x']",
            "custom:other IS SET",
            "node:os > 5",
        ];
        for c in yes {
            assert!(holds(&read_condition(c).unwrap(), &device), "{c}");
        }
        for c in no {
            assert!(!holds(&read_condition(c).unwrap(), &device), "{c}");
        }
        for c in
            ["", "node:os", "os == 'x'", "node:os = 'x'", "node:os == x", "node:os IN 'x'", "node: == 'x'", "x:y == 1"]
        {
            assert!(read_condition(c).is_err(), "{c}");
        }
    }
}
