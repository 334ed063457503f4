//! What is wrong with a policy, and where. In: byte offsets. Out: line, column, a sentence, and what to do about it.

use std::fmt;

/// A place in a document: line and column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One thing that is wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub pos: Pos,
    /// What was wanted and what came, as a sentence without full stop.
    pub message: String,
    /// What to do, if there is more to say than the message.
    pub hint: Option<String>,
}

impl Problem {
    /// The same with a word on what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pos, self.message)
    }
}

impl std::error::Error for Problem {}

/// The line starts of a text, to turn offsets into places.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Characters before every `STEP`th byte: a policy on one line of megabytes is counted once.
    counts: Vec<usize>,
}

/// Bytes between two counts: few to walk over, little to keep.
const STEP: usize = 256;

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Lines<'a> {
        let starts =
            std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        let mut sum = 0;
        let counts = text.as_bytes().chunks(STEP).map(|chunk| {
            let before = sum;
            sum += characters(chunk);
            before
        });
        Lines { text, starts: starts.collect(), counts: counts.collect() }
    }

    /// The place of an offset; an offset past the end is the end.
    pub(crate) fn pos(&self, at: usize) -> Pos {
        let at = at.min(self.text.len());
        let line = self.starts.partition_point(|s| *s <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.before(at) - self.before(start);
        Pos { line: line as u32, column: column as u32 + 1 }
    }

    /// Characters before an offset.
    fn before(&self, at: usize) -> usize {
        let from = at / STEP;
        let Some(count) = self.counts.get(from) else {
            return self.counts.last().map_or(0, |c| c + self.rest(self.counts.len() - 1, at));
        };
        count + self.rest(from, at)
    }

    fn rest(&self, step: usize, at: usize) -> usize {
        characters(self.text.as_bytes().get(step * STEP..at).unwrap_or_default())
    }

    pub(crate) fn problem(&self, at: usize, message: impl Into<String>) -> Problem {
        Problem { pos: self.pos(at), message: message.into(), hint: None }
    }
}

/// Characters that begin in these bytes of UTF-8.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "aé\n".repeat(100) + &"é😀x".repeat(500) + "\nz";
        let lines = Lines::new(&text);
        for (at, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let before = &text[..at];
            let start = before.rfind('\n').map_or(0, |i| i + 1);
            let want = Pos {
                line: before.matches('\n').count() as u32 + 1,
                column: before[start..].chars().count() as u32 + 1,
            };
            assert_eq!(lines.pos(at), want, "{at}");
        }
        assert_eq!(Lines::new("").pos(7), Pos { line: 1, column: 1 });
        assert_eq!(Lines::new(&"x".repeat(512)).pos(512).column, 513);
    }
}
