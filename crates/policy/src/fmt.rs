//! A document in its usual layout, with every comment kept. In: HuJSON. Out: the same values and comments with one
//! indentation, one item a line, a comma after each. What stood on one line stays there if it fits.

use super::hujson::{Kind, Lexer, Token, parse};
use super::problem::Problem;

/// Widest line on which a list stays together, in characters.
const WIDTH: usize = 100;

/// Lays a document out.
///
/// # Errors
/// The text is no HuJSON: every place where it is not.
pub fn format(text: &str) -> Result<String, Vec<Problem>> {
    // The parser judges; what follows may then take the shape for granted.
    let (_, problems) = parse(text);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut reader = Reader { text, lexer: Lexer::new(text), peeked: None, last_end: 0 };
    let mut lead = Vec::new();
    reader.comments(&mut lead);
    let root = reader.value();
    let mut tail = Vec::new();
    reader.comments(&mut tail);
    let mut out = String::new();
    for c in &lead {
        c.write(&mut out, 0);
    }
    root.write(&mut out, 0);
    out.push('\n');
    for c in &tail {
        c.write(&mut out, 0);
    }
    Ok(out)
}

struct Comment<'t> {
    text: &'t str,
    /// An empty line stood before it.
    gap: bool,
    /// It stood on the line of what came before.
    same_line: bool,
}

struct Entry<'t> {
    gap: bool,
    lead: Vec<Comment<'t>>,
    key: Option<&'t str>,
    value: Value<'t>,
    trail: Vec<Comment<'t>>,
}

enum Value<'t> {
    Plain(&'t str),
    Group { open: char, close: char, entries: Vec<Entry<'t>>, tail: Vec<Comment<'t>>, broken: bool },
}

struct Reader<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    peeked: Option<Token>,
    last_end: usize,
}

impl<'t> Reader<'t> {
    fn peek(&mut self) -> Token {
        if let Some(t) = self.peeked {
            return t;
        }
        let end = self.text.len();
        let t = self.lexer.next().unwrap_or(Token { kind: Kind::End, start: end, end });
        self.peeked = Some(t);
        t
    }

    fn take(&mut self) -> Token {
        let t = self.peek();
        self.peeked = None;
        self.last_end = t.end;
        t
    }

    fn newlines_before(&self, t: Token) -> usize {
        self.text.get(self.last_end..t.start).map_or(0, |s| s.matches('\n').count())
    }

    /// Takes the comments that come next.
    fn comments(&mut self, into: &mut Vec<Comment<'t>>) {
        loop {
            let t = self.peek();
            if !matches!(t.kind, Kind::LineComment | Kind::BlockComment) {
                return;
            }
            into.push(self.comment());
        }
    }

    /// Takes the comments that stand on the line of what was read last.
    fn trailing(&mut self, into: &mut Vec<Comment<'t>>) {
        loop {
            let t = self.peek();
            if !matches!(t.kind, Kind::LineComment | Kind::BlockComment) || self.newlines_before(t) > 0 {
                return;
            }
            into.push(self.comment());
        }
    }

    fn comment(&mut self) -> Comment<'t> {
        let t = self.peek();
        let newlines = self.newlines_before(t);
        self.take();
        let text = self.text.get(t.start..t.end).unwrap_or_default().trim_end();
        Comment { text, gap: newlines > 1, same_line: newlines == 0 }
    }

    fn value(&mut self) -> Value<'t> {
        let t = self.take();
        match t.kind {
            Kind::Open(bracket) => self.group(bracket == b'{'),
            _ => Value::Plain(self.text.get(t.start..t.end).unwrap_or_default()),
        }
    }

    fn group(&mut self, object: bool) -> Value<'t> {
        let (open, close) = if object { ('{', '}') } else { ('[', ']') };
        let first = self.peek();
        let mut broken = self.newlines_before(first) > 0;
        let mut entries: Vec<Entry<'t>> = Vec::new();
        let mut lead = Vec::new();
        loop {
            self.comments(&mut lead);
            let t = self.peek();
            match t.kind {
                Kind::Close(_) | Kind::End => {
                    self.take();
                    break;
                }
                Kind::Comma => {
                    self.take();
                    if let Some(e) = entries.last_mut() {
                        self.trailing(&mut e.trail);
                    }
                    continue;
                }
                _ => {}
            }
            let gap = lead.is_empty() && self.newlines_before(t) > 1;
            let key = if object { Some(self.key(&mut lead)) } else { None };
            let value = self.value();
            let mut entry = Entry { gap, lead: std::mem::take(&mut lead), key, value, trail: Vec::new() };
            self.trailing(&mut entry.trail);
            entries.push(entry);
        }
        let loud = |c: &Comment<'_>| c.text.starts_with("//") || c.text.contains('\n') || !c.same_line;
        // On one line a comment before an item would be read as one after the item before.
        broken |= lead.iter().any(loud)
            || entries.iter().skip(1).any(|e| !e.lead.is_empty())
            || entries.iter().any(|e| e.value.is_broken() || e.lead.iter().chain(&e.trail).any(loud));
        broken &= !(entries.is_empty() && lead.is_empty());
        Value::Group { open, close, entries, tail: lead, broken }
    }

    /// A key and its colon; comments between them go before the key.
    fn key(&mut self, lead: &mut Vec<Comment<'t>>) -> &'t str {
        let t = self.take();
        self.comments(lead);
        self.take();
        self.comments(lead);
        self.text.get(t.start..t.end).unwrap_or_default()
    }
}

impl Comment<'_> {
    fn write(&self, out: &mut String, depth: usize) {
        if self.gap && !out.is_empty() && !out.ends_with("{\n") && !out.ends_with("[\n") {
            out.push('\n');
        }
        indent(out, depth);
        out.push_str(self.text);
        out.push('\n');
    }
}

impl Value<'_> {
    fn is_broken(&self) -> bool {
        matches!(self, Value::Group { broken: true, .. })
    }

    /// The value on one line, or `None` if it does not belong there.
    fn line(&self) -> Option<String> {
        match self {
            Value::Plain(text) => Some((*text).to_string()),
            Value::Group { broken: true, .. } => None,
            Value::Group { open, close, entries, tail, .. } => {
                let mut parts = Vec::new();
                for e in entries {
                    let lead: String = e.lead.iter().map(|c| format!("{} ", c.text)).collect();
                    let trail: String = e.trail.iter().map(|c| format!(" {}", c.text)).collect();
                    let key = e.key.map(|k| format!("{k}: ")).unwrap_or_default();
                    parts.push(format!("{lead}{key}{}{trail}", e.value.line()?));
                }
                parts.extend(tail.iter().map(|c| c.text.to_string()));
                let pad = if *open == '{' && !parts.is_empty() { " " } else { "" };
                // A comment after the last item follows no comma.
                let (items, rest) = parts.split_at(entries.len());
                let mut inner = items.join(", ");
                for r in rest {
                    if !inner.is_empty() {
                        inner.push(' ');
                    }
                    inner.push_str(r);
                }
                Some(format!("{open}{pad}{inner}{pad}{close}"))
            }
        }
    }

    fn write(&self, out: &mut String, depth: usize) {
        let used = out.rsplit('\n').next().map_or(0, |l| l.chars().count());
        if let Some(line) =
            self.line().filter(|l| used + l.chars().count() <= WIDTH || matches!(self, Value::Plain(_)) || l.len() == 2)
        {
            out.push_str(&line);
            return;
        }
        let Value::Group { open, close, entries, tail, .. } = self else { return };
        out.push(*open);
        out.push('\n');
        for (i, e) in entries.iter().enumerate() {
            if e.gap && i > 0 {
                out.push('\n');
            }
            for c in &e.lead {
                c.write(out, depth + 1);
            }
            indent(out, depth + 1);
            if let Some(key) = e.key {
                out.push_str(key);
                out.push_str(": ");
            }
            e.value.write(out, depth + 1);
            out.push(',');
            let mut fresh = false;
            for c in &e.trail {
                if fresh {
                    indent(out, depth + 1);
                } else {
                    out.push(' ');
                }
                out.push_str(c.text);
                fresh = c.text.starts_with("//");
                if fresh {
                    out.push('\n');
                }
            }
            if !fresh {
                out.push('\n');
            }
        }
        for c in tail {
            c.write(out, depth + 1);
        }
        indent(out, depth);
        out.push(*close);
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n('\t', depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_stay_and_twice_is_once() {
        let text =
            "// top\n{\"a\":[1,2 , 3],// why\n\n\n  /* block */ \"b\" /* odd */ : {\"c\":\"d\"}\n  // tail\n}\n// end";
        let once = format(text).unwrap();
        let want = "// top\n{\n\t\"a\": [1, 2, 3], // why\n\n\t/* block */\n\t/* odd */\n\t\"b\": { \"c\": \"d\" },\n\t// tail\n}\n// end\n";
        assert_eq!(once, want);
        assert_eq!(format(&once).unwrap(), once);
    }

    #[test]
    fn long_lists_break_and_empty_ones_do_not() {
        let long = format!("{{\"a\": [{}], \"b\": [\n], \"c\": {{}}}}", ["\"0123456789\""; 12].join(","));
        let once = format(&long).unwrap();
        assert!(
            once.contains("\"a\": [\n\t\t\"0123456789\",\n") && once.contains("\"b\": [],\n\t\"c\": {},\n"),
            "{once}"
        );
        assert_eq!(format(&once).unwrap(), once);
    }

    /// A document with comments wherever they may stand, and blanks and commas as people write them.
    fn document() -> impl Strategy<Value = String> {
        let gap = || {
            prop::sample::select(vec![
                "",
                " ",
                "\n",
                "\n\n",
                "\t",
                " // why\n",
                "/* a */",
                "\n// b\n// c\n",
                " /* d\n * e */ ",
                "\r\n",
            ])
        };
        let plain = prop::sample::select(vec![
            "1",
            "-0.5e3",
            "true",
            "null",
            "\"x\"",
            "\"a // b\"",
            "\"\\u00e9\"",
            "\"\"",
            "[]",
            "{}",
        ]);
        let leaf = (gap(), plain, gap()).prop_map(|(a, v, b)| format!("{a}{v}{b}"));
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let list = (gap(), prop::collection::vec(inner.clone(), 1..5), gap(), any::<bool>()).prop_map(
                |(a, items, b, comma)| format!("{a}[{}{}]{b}", items.join(","), if comma { "," } else { "" }),
            );
            let object =
                (gap(), prop::collection::vec((gap(), gap(), inner), 1..5), gap()).prop_map(|(a, items, b)| {
                    let each = items.into_iter().enumerate().map(|(i, (x, y, v))| format!("{x}\"k{i}\"{y}:{v}"));
                    format!("{a}{{{}}}{b}", each.collect::<Vec<_>>().join(","))
                });
            prop_oneof![list, object]
        })
    }

    /// The words of every comment without what stands around them, sorted: one behind a comma comes before those that
    /// stood before the comma.
    fn comments(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            let t = lexer.next().unwrap();
            match t.kind {
                Kind::End => {
                    out.sort();
                    return out;
                }
                Kind::LineComment | Kind::BlockComment => {
                    let words = text[t.start..t.end].split_whitespace().collect::<Vec<_>>();
                    out.push(words.join(" "));
                }
                _ => {}
            }
        }
    }

    proptest! {
        /// Laying out changes blanks and commas and nothing else, and twice is once.
        #[test]
        fn values_and_comments_stay(text in document()) {
            let once = format(&text).unwrap();
            let value = |t: &str| parse(t).0.unwrap().to_serde();
            prop_assert_eq!(value(&once), value(&text), "{}", once);
            prop_assert_eq!(comments(&once), comments(&text), "{}", once);
            prop_assert_eq!(&format(&once).unwrap(), &once);
            prop_assert!(once.ends_with('\n') && !once.contains("\n\n\n") && once.lines().all(|l| l == l.trim_end()), "{:?}", once);
        }
    }
}
