//! HuJSON: JSON with comments and trailing commas. In: text. Out: a tree in which every value knows where it stands,
//! or the place and reason of everything that is no HuJSON. Strict everywhere else: no single quotes, no bare
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
    /// What the lexer could not read; it was told when it came.
    Broken,
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

/// Faults after which reading stops: as many as a person is shown.
const MAX_FAULTS: usize = 50;

/// Reads one document; after a fault it goes on where the next value or key begins, so that one run shows all there is
/// to mend. With the faults comes the tree if its shape is sound, which keys that stand twice leave it.
pub(crate) fn parse(text: &str) -> (Option<Item>, Vec<Problem>) {
    let mut parser =
        Parser { lexer: Lexer::new(text), depth: 0, back: None, faults: Vec::new(), broken: false, lost: false };
    let item = parser.document().ok().filter(|_| !parser.broken);
    let lines = Lines::new(text);
    let hint = "the file is HuJSON: JSON with // and /* */ comments and trailing commas";
    let problems = parser.faults.into_iter().map(|(at, message)| lines.problem(at, message).hint(hint));
    (item, problems.collect())
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

    /// After a fault: passes over what could not be read, a text up to its end on the same line, a comment to the end.
    fn skip(&mut self) -> Token {
        let start = self.at;
        let rest = &self.text[start..];
        let line = rest.find('\n').unwrap_or(rest.len());
        let first = rest.chars().next().unwrap_or(' ');
        let len = match first {
            '"' | '\'' => rest[1..line.max(1)].find(first).map_or(line, |n| n + 2),
            '/' if rest.starts_with("/*") => rest.len(),
            c => c.len_utf8().min(rest.len()),
        };
        self.at = start + len;
        Token { kind: Kind::Broken, start, end: self.at }
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
                    let what = if *b == b'\n' {
                        "the line ends inside this text".to_string()
                    } else {
                        format!("the control character {b:#04x} must be escaped in a text")
                    };
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
        if let Some(inside) = rest.strip_prefix("/*") {
            let close = inside.find("*/").ok_or((start, "this comment has no closing `*/`".to_string()))?;
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

/// There is nothing more to read, or nothing that would make sense.
struct Stop;

struct Parser<'a> {
    lexer: Lexer<'a>,
    depth: usize,
    /// A token that was taken too early.
    back: Option<Token>,
    faults: Vec<Fault>,
    /// True if the shape of the document is wrong somewhere.
    broken: bool,
    /// True right after something unreadable: what is missing behind it is no fault of its own.
    lost: bool,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Item, Stop> {
        let first = self.token()?;
        if first.kind == Kind::End {
            return self.stop((first.start, "the document is empty; at least `{}` was expected".into()));
        }
        let item = self.value(first)?;
        let rest = self.token()?;
        if rest.kind != Kind::End && !self.broken {
            self.fault((rest.start, "nothing may follow the document".into()))?;
        }
        Ok(item)
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Stop> {
        self.broken = true;
        self.faults.push(fault);
        if self.faults.len() < MAX_FAULTS { Ok(()) } else { Err(Stop) }
    }

    fn stop<T>(&mut self, fault: Fault) -> Result<T, Stop> {
        self.fault(fault)?;
        Err(Stop)
    }

    /// The next token that is no comment.
    fn token(&mut self) -> Result<Token, Stop> {
        if let Some(t) = self.back.take() {
            return Ok(t);
        }
        loop {
            match self.lexer.next() {
                Ok(t) if matches!(t.kind, Kind::LineComment | Kind::BlockComment) => {}
                Ok(t) => return Ok(t),
                Err(fault) => {
                    self.fault(fault)?;
                    return Ok(self.lexer.skip());
                }
            }
        }
    }

    /// Says what should have been here. The end of the file ends it all; brackets and commas are left to whom they
    /// belong to.
    fn miss(&mut self, token: Token, wanted: &str) -> Result<(), Stop> {
        if !self.lost || token.kind == Kind::End {
            let fault = self.unexpected(token, wanted);
            self.fault(fault)?;
        }
        match token.kind {
            Kind::End => return Err(Stop),
            Kind::Close(_) | Kind::Comma => self.back = Some(token),
            _ => {}
        }
        self.lost = true;
        Ok(())
    }

    fn value(&mut self, token: Token) -> Result<Item, Stop> {
        let at = token.start;
        self.lost = false;
        let value = match token.kind {
            Kind::Text => Json::Text(self.unescape(token)?),
            Kind::Word => match word(&self.lexer.text[token.start..token.end]) {
                Some(value) => value,
                None => {
                    let fault = self.unexpected(token, "a value");
                    self.fault(fault)?;
                    Json::Null
                }
            },
            Kind::Open(bracket) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return self.stop((at, format!("nested deeper than {MAX_DEPTH} levels")));
                }
                let inner = if bracket == b'{' { self.object()? } else { self.list()? };
                self.depth -= 1;
                inner
            }
            Kind::Broken => {
                self.lost = true;
                Json::Null
            }
            _ => {
                self.miss(token, "a value")?;
                Json::Null
            }
        };
        Ok(Item { at, value })
    }

    fn list(&mut self) -> Result<Json, Stop> {
        let mut out = Vec::new();
        loop {
            let t = self.token()?;
            match t.kind {
                Kind::Close(b']') => break,
                Kind::Close(_) => {
                    self.miss(t, "a value or `]`")?;
                    break;
                }
                _ => out.push(self.value(t)?),
            }
            if self.closed(b']', "`,` or `]`")? {
                break;
            }
        }
        Ok(Json::List(out))
    }

    /// After a value: a comma, or the end of the list or object, which makes it true.
    fn closed(&mut self, bracket: u8, wanted: &str) -> Result<bool, Stop> {
        let t = self.token()?;
        match t.kind {
            Kind::Comma => {}
            Kind::Close(b) if b == bracket => {
                self.lost = false;
                return Ok(true);
            }
            Kind::Close(_) => {
                self.miss(t, wanted)?;
                return Ok(true);
            }
            Kind::Colon => self.miss(t, wanted)?,
            _ => {
                self.miss(t, wanted)?;
                // Only the comma was forgotten.
                self.back = Some(t);
            }
        }
        self.lost = false;
        Ok(false)
    }

    fn object(&mut self) -> Result<Json, Stop> {
        let mut out: Vec<Member> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let t = self.token()?;
            let mut key = None;
            match t.kind {
                Kind::Close(b'}') => break,
                Kind::Text => key = Some(self.unescape(t)?),
                Kind::Broken => self.lost = true,
                _ => {
                    self.miss(t, "a key between double quotes, or `}`")?;
                    match t.kind {
                        Kind::Close(_) => break,
                        Kind::Open(_) | Kind::Colon => self.back = Some(t),
                        _ => {}
                    }
                }
            }
            let item = self.after_key()?;
            if let (Some(key), Some(item)) = (key, item) {
                if seen.insert(key.clone()) {
                    out.push(Member { at: t.start, key, item });
                } else {
                    self.faults.push((t.start, format!("the key `{key}` stands twice in this object")));
                }
            }
            if self.closed(b'}', "`,` or `}`")? {
                break;
            }
        }
        Ok(Json::Object(out))
    }

    /// `: value`; `None` where there is none.
    fn after_key(&mut self) -> Result<Option<Item>, Stop> {
        let t = self.token()?;
        if t.kind == Kind::Colon {
            let first = self.token()?;
            return self.value(first).map(Some);
        }
        if self.lost && !matches!(t.kind, Kind::Open(_)) {
            self.back = Some(t);
            return Ok(None);
        }
        self.miss(t, "`:`")?;
        match t.kind {
            Kind::Close(_) | Kind::Comma => Ok(None),
            _ => self.value(t).map(Some),
        }
    }

    fn unexpected(&self, token: Token, wanted: &str) -> Fault {
        let came = match token.kind {
            Kind::End => "the end of the file".to_string(),
            _ => format!("`{}`", clip(&self.lexer.text[token.start..token.end])),
        };
        (token.start, format!("{wanted} was expected, {came} came"))
    }

    fn unescape(&mut self, token: Token) -> Result<String, Stop> {
        let text = self.lexer.text;
        let raw = &text[token.start + 1..token.end - 1];
        if !raw.contains('\\') {
            return Ok(raw.to_string());
        }
        let mut out = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(i) = rest.find('\\') {
            out.push_str(&rest[..i]);
            let at = token.start + 1 + (raw.len() - rest.len()) + i;
            let (c, used) = match escape(&rest[i..]) {
                Some(known) => known,
                None => {
                    self.fault((at, "this escape is not one of JSON's".to_string()))?;
                    ('\u{fffd}', 1)
                }
            };
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
mod tests {
    use super::*;

    fn fault(text: &str) -> (u32, u32, String) {
        let p = parse(text).1.remove(0);
        (p.pos.line, p.pos.column, p.message)
    }

    #[test]
    fn comments_and_trailing_commas_are_read() {
        let item = parse("// a\n{ /* b */ \"x\": [1, true, null, \"\\u00e9\\ud83d\\ude00\",], // c\n}").0.unwrap();
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
        for bad in
            ["{", "[1 2]", "{\"a\" 1}", "{} {}", "\"\\ud800\"", "\"\\x\"", "/* ", "nul", "-", "1.", "\"\u{1}\"", "[,]"]
        {
            assert!(!parse(bad).1.is_empty(), "{bad}");
        }
    }

    #[test]
    fn several_faults_are_told_at_once() {
        let places = |text: &str| parse(text).1.iter().map(|p| (p.pos.line, p.pos.column)).collect::<Vec<_>>();
        let text = "{\n\"a\": [1 2],\n\"b\" 3,\nc: 4,\n\"d\": tru,\n\"e\": 'x',\n\"f\": \"open,\n\"g\": [1,,2],\n\"h\": \"\\q\",\n\"i\": }";
        assert_eq!(places(text), [(2, 9), (3, 5), (4, 1), (5, 6), (6, 6), (7, 6), (8, 9), (9, 7), (10, 6)]);
        assert_eq!(places("[1, {\"a\": 1], 2]"), [(1, 12)], "one bracket, one fault");
        assert_eq!(places("{\"a\": 1, \"a\": 2, \"b\": 1, \"b\": 1}"), [(1, 10), (1, 26)]);
        assert!(parse("{\"a\": 1, \"a\": 2}").0.is_some() && parse("{\"a\" 1}").0.is_none());
        assert_eq!(parse(&"'".repeat(1000)).1.len(), 2, "where a value was expected, and after it");
        assert_eq!(parse(&format!("[{}]", "x y ".repeat(1000))).1.len(), MAX_FAULTS);
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(parse(&"[".repeat(200_000)).1.len(), 1);
        assert!(parse(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))).1.is_empty());
    }
}
