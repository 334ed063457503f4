//! Lists as people write them. In: `10.0.0.1, 10.0.0.0/8, 192.0.2.10-192.0.2.99, 2001:db8::/32`, on one line or on
//! many, with `#` comments. Out: prefixes and warnings, or the position and reason of the first thing that is wrong.

use std::fmt;

use crate::addr::Addr;
use crate::prefix::{AddrRange, Prefix};

/// What a list text meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListText {
    /// The prefixes, in the order written.
    pub prefixes: Vec<Prefix>,
    /// What was accepted but should be written otherwise.
    pub warnings: Vec<ListWarning>,
}

/// Something accepted that deserves a word, with the normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListWarning {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was written.
    pub text: String,
    /// How it was read.
    pub normal: String,
}

/// The first thing wrong in a list text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was written.
    pub text: String,
    /// What was wanted and what is wrong.
    pub reason: String,
}

/// Reads a list: items parted by commas, semicolons, spaces or line ends; `#` starts a comment. An item is an address,
/// a prefix, a range `FIRST-LAST`, or one of two words: `all` (`0.0.0.0/0` and `::/0`) and `none`, which stands alone.
///
/// # Errors
/// The first item that is none of these. An empty text is an empty list, which lets nobody in.
pub fn parse_list(text: &str) -> Result<ListText, ListError> {
    let mut out = ListText::default();
    let mut items_read = 0;
    let mut none: Option<(usize, usize)> = None;
    // Windows editors open a text with a byte order mark; it is no part of the first item.
    for (n, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let body = line.split('#').next().unwrap_or_default();
        for (at, item) in items(body) {
            let (line, column) = (n + 1, body[..at].chars().count() + 1);
            let fail = |reason: String| ListError { line, column, text: item.to_string(), reason };
            read_item(item, &mut out, line, column).map_err(fail)?;
            items_read += 1;
            if item.eq_ignore_ascii_case("none") {
                none = none.or(Some((line, column)));
            }
        }
    }
    match none {
        Some((line, column)) if items_read > 1 => Err(ListError {
            line,
            column,
            text: "none".to_string(),
            reason: "`none` means nobody and stands alone; remove it or the other entries".to_string(),
        }),
        _ => Ok(out),
    }
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: `{}`: {}", self.line, self.column, self.text, self.reason)
    }
}

impl std::error::Error for ListError {}

impl fmt::Display for ListWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: `{}` has host bits, read as `{}`",
            self.line, self.column, self.text, self.normal
        )
    }
}

/// The items of a line with their byte offsets. A range keeps together around its `-`: `a - b`, `a- b`, `a -b`.
fn items(line: &str) -> Vec<(usize, &str)> {
    let mut out: Vec<(usize, &str)> = Vec::new();
    for (from, part) in split_keep(line, |c| c == ',' || c == ';') {
        let first_of_part = out.len();
        for (o, word) in split_keep(part, char::is_whitespace) {
            if word.is_empty() {
                continue;
            }
            let end = from + o + word.len();
            let joins = out.len() > first_of_part
                && (word.starts_with('-') || out.last().is_some_and(|(_, before)| before.ends_with('-')));
            match out.last_mut() {
                Some((at, text)) if joins => *text = &line[*at..end],
                _ => out.push((from + o, word)),
            }
        }
    }
    out
}

fn split_keep(text: &str, is: impl Fn(char) -> bool) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let mut from = 0;
    for (i, c) in text.char_indices() {
        if is(c) {
            out.push((from, &text[from..i]));
            from = i + c.len_utf8();
        }
    }
    out.push((from, &text[from..]));
    out
}

fn read_item(item: &str, out: &mut ListText, line: usize, column: usize) -> Result<(), String> {
    if item.eq_ignore_ascii_case("all") {
        out.prefixes.extend([Prefix::ALL_V4, Prefix::ALL_V6]);
        return Ok(());
    }
    if item.eq_ignore_ascii_case("none") {
        return Ok(());
    }
    if let Some((a, b)) = item.split_once('-') {
        let (a, b) = (a.trim(), b.trim());
        let first: Addr = a.parse().map_err(|e: crate::AddrError| format!("the start of the range, {e}"))?;
        let last: Addr =
            b.parse().map_err(|e: crate::AddrError| format!("the end of the range, {e}; write both ends in full"))?;
        if first.is_v4() != last.is_v4() {
            return Err("one end of the range is IPv4 and the other is IPv6".to_string());
        }
        let range = AddrRange::new(first, last)
            .ok_or_else(|| format!("the range runs backwards; did you mean `{last}-{first}`?"))?;
        out.prefixes.extend(range.prefixes());
        return Ok(());
    }
    let (prefix, host_bits) = Prefix::parse_lenient(item).map_err(|e| e.reason)?;
    if host_bits {
        out.warnings.push(ListWarning { line, column, text: item.to_string(), normal: prefix.to_string() });
    }
    out.prefixes.push(prefix);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<String> {
        parse_list(text).unwrap().prefixes.iter().map(|p| format!("{p:?}")).collect()
    }

    fn refused(text: &str) -> (usize, usize, String) {
        let e = parse_list(text).unwrap_err();
        (e.line, e.column, e.reason)
    }

    #[test]
    fn accepts_what_people_write() {
        assert_eq!(read("10.0.0.1"), ["10.0.0.1/32"]);
        assert_eq!(
            read(" 10.0.0.0/8 ,, 2001:db8::/32;192.0.2.1\t198.51.100.0/24"),
            ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32", "198.51.100.0/24"]
        );
        assert_eq!(read("192.0.2.10-192.0.2.12"), ["192.0.2.10/31", "192.0.2.12/32"]);
        for spaced in ["10.0.0.1 - 10.0.0.1", "10.0.0.1- 10.0.0.1", "10.0.0.1 -10.0.0.1"] {
            assert_eq!(read(&format!("10.9.9.9 {spaced} 10.8.8.8")), ["10.9.9.9/32", "10.0.0.1/32", "10.8.8.8/32"]);
        }
        assert_eq!(read("\u{feff}# office\r\n10.0.0.1 # desk\r\n\r\n10.0.0.2\r\n"), ["10.0.0.1/32", "10.0.0.2/32"]);
        assert_eq!(read("::ffff:192.0.2.0/120"), ["192.0.2.0/24"]);
        assert_eq!(read("[2001:db8::1]"), ["2001:db8::1/128"]);
    }

    #[test]
    fn words_are_never_an_absence() {
        assert_eq!(read("all"), ["0.0.0.0/0", "::/0"]);
        assert_eq!(read("None"), Vec::<String>::new());
        assert_eq!(read(" # nothing yet\n"), Vec::<String>::new());
        assert_eq!(refused("10.0.0.1,none").1, 10);
    }

    #[test]
    fn host_bits_get_a_warning_with_the_normal_form() {
        let list = parse_list("10.0.0.1\n 192.0.2.17/24").unwrap();
        assert_eq!(list.warnings.len(), 1);
        assert_eq!(
            list.warnings[0].to_string(),
            "line 2, column 2: `192.0.2.17/24` has host bits, read as `192.0.2.0/24`"
        );
    }

    #[test]
    fn refuses_with_position_and_reason() {
        for (text, line, column, word) in [
            ("10.0.0.0/33", 1, 1, "0 to 32"),
            ("10.0.0.1, 10.0.0.256", 1, 11, "not an IPv4 or IPv6"),
            ("10.0.0.1\n\n  office", 3, 3, "not an IPv4 or IPv6"),
            ("ü, 10.0.0.0/x", 1, 1, "not an IPv4 or IPv6"),
            ("10.0.0.9-10.0.0.1", 1, 1, "backwards"),
            ("10.0.0.9-2001:db8::1", 1, 1, "IPv6"),
            ("192.0.2.10-99", 1, 1, "in full"),
            ("fe80::1%eth0", 1, 1, "zone"),
            ("::ffff:10.0.0.0/8", 1, 1, "96 or more"),
            ("10.0.0.0/255.255.255.0", 1, 1, "write `/24`"),
            ("10.0.0.0/", 1, 1, "0 to 32"),
            ("10.0.0.1 - ", 1, 1, "end of the range"),
            ("- 10.0.0.1", 1, 1, "start of the range"),
            ("010.0.0.1", 1, 1, "not an IPv4 or IPv6"),
        ] {
            let (l, c, reason) = refused(text);
            assert_eq!((l, c), (line, column), "{text}");
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    fn item() -> impl Strategy<Value = (String, Vec<Prefix>)> {
        let addr = || any::<u32>().prop_map(|n| Addr::new(std::net::Ipv4Addr::from(n).into()));
        let v6 = (any::<u128>(), 0u8..=128)
            .prop_map(|(n, len)| Prefix::new(Addr::new(std::net::Ipv6Addr::from(n).into()), len));
        prop_oneof![
            addr().prop_map(|a| (a.to_string(), vec![Prefix::host(a)])),
            v6.prop_filter_map("as wide as the family", |p| p.map(|p| (p.to_string(), vec![p]))),
            (addr(), addr(), prop::sample::select(vec!["-", " - ", "- ", " -"])).prop_map(|(a, b, dash)| {
                let range = AddrRange::new(a.min(b), a.max(b)).unwrap();
                (format!("{}{dash}{}", range.first(), range.last()), range.prefixes())
            }),
            Just(("ALL".to_string(), vec![Prefix::ALL_V4, Prefix::ALL_V6])),
        ]
    }

    proptest! {
        /// Whatever stands between items, they are read in order and none is lost.
        #[test]
        fn items_are_read_in_order(
            items in prop::collection::vec((item(), prop::sample::select(vec![",", ";", ", ", ";;", "\n", "\r\n", " # office\n", ",\n\n\t"])), 0..12),
        ) {
            let text: String = items.iter().map(|((text, _), end)| format!("{text}{end}")).collect();
            let want: Vec<Prefix> = items.into_iter().flat_map(|((_, prefixes), _)| prefixes).collect();
            prop_assert_eq!(parse_list(&text).map(|l| (l.prefixes, l.warnings.len())), Ok((want, 0)), "{}", text);
        }

        /// Of any text either everything is read, or what is wrong stands where the error says.
        #[test]
        fn an_error_points_at_what_is_wrong(text in "[0-9a-fg.:/, ;#\\-\u{fc}\n]{0,60}") {
            let Err(e) = parse_list(&text) else { return Ok(()) };
            let line: Vec<char> = text.lines().nth(e.line - 1).unwrap().chars().collect();
            let there: String = line[e.column - 1..].iter().collect();
            prop_assert!(there.starts_with(&e.text), "{:?} at {} of {:?}", e.text, e.column, line);
            prop_assert!(!line[..e.column - 1].contains(&'#'), "a comment is not read");
        }
    }

    #[test]
    fn nobody_stands_alone() {
        assert_eq!(refused("none, none").0, 1);
        assert_eq!(
            refused("10.0.0.1\nNONE"),
            (2, 1, "`none` means nobody and stands alone; remove it or the other entries".into())
        );
        assert_eq!(read("none # , 10.0.0.1"), Vec::<String>::new());
        assert_eq!(refused("nobody").2, "it is not an IPv4 or IPv6 address");
    }
}
