//! HuJSON: JSON with comments and trailing commas. In: text. Out: a tree in which every value knows where it stands,
//! or the place and reason of the first thing that is no HuJSON. Strict everywhere else: no single quotes, no bare
//! keys, no duplicate keys, no raw control characters, no half surrogates.
//!
//! Our own and small, because the formatter needs the same tokens with their comments, and because the lenient
//! parsers accept what a policy must not: duplicate keys, control characters, empty documents.

use super::problem::{Lines, Problem};

/// Nesting that is still read. The deepest documented policy is 7 deep; values of `app` may nest further. The bound
/// keeps recursion within a small stack.
const MAX_DEPTH: usize = 100;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// Offset of its first byte.
    pub(crate) at: usize,
    /// What it is.
    pub(crate) value: Json,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// A text, unescaped.
    Text(String),
    /// `[…]`
    List(Vec<Item>),
    /// `{…}` in the order written; keys are unique.
    Object(Vec<Member>),
}

/// `"key": value`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Offset of the key.
    pub(crate) at: usize,
    /// The key, unescaped.
    pub(crate) key: String,
    /// The value.
    pub(crate) item: Item,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open(u8),
    Close(u8),
    Colon,
    Comma,
    Text,
    Word,
    LineComment,
    BlockComment,
    End,
}

/// A token: what it is and its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What is wrong and where.
pub(crate) type Fault = (usize, String);

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Item, Problem> {
    let mut parser = Parser { lexer: Lexer::new(text), depth: 0 };
    parser.document().map_err(|(at, message)| {
        let problem = Lines::new(text).problem(at, message);
        problem.hint("the file is HuJSON: JSON with // and /* */ comments and trailing commas")
    })
}

impl Item {
    /// The value's kind, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::Text(_) => "a text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// The same value for `serde_json`; numbers that do not fit become texts, which cannot happen for JSON numbers.
    pub(crate) fn to_serde(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.value {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => serde_json::from_str(n).unwrap_or_else(|_| Value::String(n.clone())),
            Json::Text(t) => Value::String(t.clone()),
            Json::List(l) => Value::Array(l.iter().map(Item::to_serde).collect()),
            Json::Object(o) => Value::Object(o.iter().map(|m| (m.key.clone(), m.item.to_serde())).collect()),
        }
    }
}

/// Cuts text into tokens; white space is skipped, comments are tokens.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        // A byte order mark is what some editors put first; it means nothing here.
        Lexer { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 } }
    }

    /// The next token, comments included.
    pub(crate) fn next(&mut self) -> Result<Token, Fault> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        let start = self.at;
        let Some(&first) = bytes.get(start) else { return Ok(Token { kind: Kind::End, start, end: start }) };
        let (kind, end) = match first {
            b'{' | b'[' => (Kind::Open(first), start + 1),
            b'}' | b']' => (Kind::Close(first), start + 1),
            b':' => (Kind::Colon, start + 1),
            b',' => (Kind::Comma, start + 1),
            b'"' => (Kind::Text, self.text_end(start)?),
            b'/' => self.comment(start)?,
            _ => (Kind::Word, self.word_end(start)?),
        };
        self.at = end;
        Ok(Token { kind, start, end })
    }

    fn text_end(&self, start: usize) -> Result<usize, Fault> {
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        loop {
            match bytes.get(at) {
                None => return Err((start, "this text has no closing `\"`".into())),
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at += 2,
                Some(b) if *b < 0x20 => {
                    let what = if *b == b'\n' { "the line ends inside this text".to_string() } else { format!("the control character {b:#04x} must be escaped in a text") };
                    return Err((if *b == b'\n' { start } else { at }, what));
                }
                Some(_) => at += 1,
            }
        }
    }

    fn comment(&self, start: usize) -> Result<(Kind, usize), Fault> {
        let rest = &self.text[start..];
        if rest.starts_with("//") {
            return Ok((Kind::LineComment, start + rest.find('\n').unwrap_or(rest.len())));
        }
        if rest.starts_with("/*") {
            let close = rest[2..].find("*/").ok_or((start, "this comment has no closing `*/`".to_string()))?;
            return Ok((Kind::BlockComment, start + 2 + close + 2));
        }
        Err((start, "a comment begins with `//` or `/*`".into()))
    }

    fn word_end(&self, start: usize) -> Result<usize, Fault> {
        let rest = &self.text[start..];
        let stop = |c: char| c.is_whitespace() || c.is_control() || "{}[]:,\"/'".contains(c);
        match rest.find(stop).unwrap_or(rest.len()) {
            0 => {
                let c = rest.chars().next().unwrap_or(' ');
                let hint = if c == '\'' { "; texts stand between double quotes" } else { "" };
                Err((start, format!("{c:?} does not belong here{hint}")))
            }
            n => Ok(start + n),
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Item, Fault> {
        let first = self.token()?;
        if first.kind == Kind::End {
            return Err((first.start, "the document is empty; at least `{}` was expected".into()));
        }
        let item = self.value(first)?;
        let rest = self.token()?;
        if rest.kind == Kind::End { Ok(item) } else { Err((rest.start, "nothing may follow the document".into())) }
    }

    /// The next token that is no comment.
    fn token(&mut self) -> Result<Token, Fault> {
        loop {
            let t = self.lexer.next()?;
            if !matches!(t.kind, Kind::LineComment | Kind::BlockComment) {
                return Ok(t);
            }
        }
    }

    fn value(&mut self, token: Token) -> Result<Item, Fault> {
        let at = token.start;
        let value = match token.kind {
            Kind::Text => Json::Text(self.unescape(token)?),
            Kind::Word => word(&self.lexer.text[token.start..token.end]).ok_or_else(|| self.unexpected(token, "a value"))?,
            Kind::Open(bracket) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
                }
                let inner = if bracket == b'{' { self.object()? } else { self.list()? };
                self.depth -= 1;
                inner
            }
            _ => return Err(self.unexpected(token, "a value")),
        };
        Ok(Item { at, value })
    }

    fn list(&mut self) -> Result<Json, Fault> {
        let mut out = Vec::new();
        loop {
            let t = self.token()?;
            if t.kind == Kind::Close(b']') {
                return Ok(Json::List(out));
            }
            out.push(self.value(t)?);
            let t = self.token()?;
            match t.kind {
                Kind::Comma => {}
                Kind::Close(b']') => return Ok(Json::List(out)),
                _ => return Err(self.unexpected(t, "`,` or `]`")),
            }
        }
    }

    fn object(&mut self) -> Result<Json, Fault> {
        let mut out: Vec<Member> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let t = self.token()?;
            match t.kind {
                Kind::Close(b'}') => return Ok(Json::Object(out)),
                Kind::Text => {}
                _ => return Err(self.unexpected(t, "a key between double quotes, or `}`")),
            }
            let key = self.unescape(t)?;
            if !seen.insert(key.clone()) {
                return Err((t.start, format!("the key `{key}` stands twice in this object")));
            }
            let colon = self.token()?;
            if colon.kind != Kind::Colon {
                return Err(self.unexpected(colon, "`:`"));
            }
            let first = self.token()?;
            let item = self.value(first)?;
            out.push(Member { at: t.start, key, item });
            let t = self.token()?;
            match t.kind {
                Kind::Comma => {}
                Kind::Close(b'}') => return Ok(Json::Object(out)),
                _ => return Err(self.unexpected(t, "`,` or `}`")),
            }
        }
    }

    fn unexpected(&self, token: Token, wanted: &str) -> Fault {
        let came = match token.kind {
            Kind::End => "the end of the file".to_string(),
            _ => format!("`{}`", clip(&self.lexer.text[token.start..token.end])),
        };
        (token.start, format!("{wanted} was expected, {came} came"))
    }

    fn unescape(&self, token: Token) -> Result<String, Fault> {
        let raw = &self.lexer.text[token.start + 1..token.end - 1];
        if !raw.contains('\\') {
            return Ok(raw.to_string());
        }
        let mut out = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(i) = rest.find('\\') {
            out.push_str(&rest[..i]);
            let at = token.start + 1 + (raw.len() - rest.len()) + i;
            let (c, used) = escape(&rest[i..]).ok_or((at, "this escape is not one of JSON's".to_string()))?;
            out.push(c);
            rest = &rest[i + used..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// At most 40 characters of a text for a message.
pub(crate) fn clip(text: &str) -> String {
    if text.chars().count() <= 40 {
        return text.to_string();
    }
    text.chars().take(39).chain(['…']).collect()
}

fn word(text: &str) -> Option<Json> {
    match text {
        "null" => Some(Json::Null),
        "true" => Some(Json::Bool(true)),
        "false" => Some(Json::Bool(false)),
        _ => is_number(text).then(|| Json::Number(text.to_string())),
    }
}

/// RFC 8259, section 6.
fn is_number(text: &str) -> bool {
    let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.starts_with('0')) {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let n = digits(fraction);
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let n = digits(exponent);
        return n > 0 && n == exponent.len();
    }
    rest.is_empty()
}

/// The character that an escape stands for, and the bytes it takes. RFC 8259, section 7.
fn escape(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let high = hex4(text, 2)?;
            if let Some(c) = char::from_u32(high) {
                return Some((c, 6));
            }
            if !(0xd800..0xdc00).contains(&high) || text.get(6..8)? != "\\u" {
                return None;
            }
            let low = hex4(text, 8)?;
            if !(0xdc00..0xe000).contains(&low) {
                return None;
            }
            return char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|c| (c, 12));
        }
        _ => return None,
    };
    Some((c, 2))
}

fn hex4(text: &str, from: usize) -> Option<u32> {
    let digits = text.get(from..from + 4)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn fault(text: &str) -> (u32, u32, String) {
        let p = parse(text).unwrap_err();
        (p.pos.line, p.pos.column, p.message)
    }

    #[test]
    fn comments_and_trailing_commas_are_read() {
        let item = parse("// a\n{ /* b */ \"x\": [1, true, null, \"\\u00e9\\ud83d\\ude00\",], // c\n}").unwrap();
        let Json::Object(o) = item.value else { panic!() };
        let Json::List(l) = &o[0].item.value else { panic!() };
        assert_eq!(l.len(), 4);
        assert_eq!(l[3].value, Json::Text("é😀".into()));
    }

    #[test]
    fn faults_have_their_place() {
        assert_eq!(fault("{\n  \"a\": 1,\n  \"a\": 2\n}"), (3, 3, "the key `a` stands twice in this object".into()));
        assert_eq!(fault("").0, 1);
        assert_eq!(fault("// only").2, "the document is empty; at least `{}` was expected");
        assert_eq!(fault("{\"ä\": 01}").1, 7);
        assert_eq!(fault("{'a': 1}").1, 2);
        assert_eq!(fault("{\"a\": \"x\ny\"}").1, 7);
        for bad in ["{", "[1 2]", "{\"a\" 1}", "{} {}", "\"\\ud800\"", "\"\\x\"", "/* ", "nul", "-", "1.", "\"\u{1}\"", "[,]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&"[".repeat(200_000)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))).is_ok());
    }
}
