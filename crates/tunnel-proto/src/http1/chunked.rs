//! The chunked coding (RFC 9112, section 7.1), pure. In: its bytes, cut anywhere. Out: where data lies in them, and
//! the trailer. Strict: what one reader could take for the end of a body and another not is an error.

/// Most digits of a chunk's size that are read: 2^60 bytes.
const SIZE_DIGITS: u8 = 15;

/// Most bytes of chunk extensions in one body. They carry nothing and are dropped.
const EXTENSIONS_MAX: usize = 16 * 1024;

/// Most blanks behind a chunk's size: a field of that width.
const BLANKS_MAX: u8 = 16;

/// Most bytes of a trailer.
const TRAILER_MAX: usize = 16 * 1024;

/// Reads a chunked body.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    extensions: usize,
    trailer: Vec<u8>,
}

/// What the bytes at the front are.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// All bytes were framing; more must come.
    More,
    /// A chunk of this many bytes begins.
    Begin(u64),
    /// The next `n` bytes of the input are data.
    Data(usize),
    /// A chunk ended.
    End,
    /// The body ended; what follows belongs to the next message.
    Done,
}

/// A body that is not chunked as it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(
    /// What is wrong, in words.
    pub &'static str,
);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// Blanks behind a size, which old servers fill up a field of fixed width with; every reader that takes them takes
    /// them for nothing, and they do not go on.
    Blank {
        value: u64,
        count: u8,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    Trailer {
        line: usize,
    },
    Done,
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks::new()
    }
}

impl Chunks {
    /// At the beginning of a body.
    #[must_use]
    pub fn new() -> Chunks {
        Chunks { state: FIRST, extensions: 0, trailer: Vec::new() }
    }

    /// Takes framing off the front: returns how many bytes it used up and what comes then. The bytes of
    /// [`Part::Data`] are not among them.
    ///
    /// # Errors
    /// [`Malformed`]; the connection must end.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Part), Malformed> {
        if self.state == State::Done {
            return Ok((0, Part::Done));
        }
        let mut used = 0;
        loop {
            if let State::Data(left) = self.state {
                let n = left.min((input.len() - used) as u64);
                if n == 0 {
                    return Ok((used, Part::More));
                }
                self.state = if n == left { State::DataCr } else { State::Data(left - n) };
                return Ok((used, Part::Data(n as usize)));
            }
            let Some(&b) = input.get(used) else { return Ok((used, Part::More)) };
            used += 1;
            if let Some(part) = self.byte(b)? {
                return Ok((used, part));
            }
        }
    }

    /// The trailer's lines, each with CR LF; complete once [`Part::Done`] was returned.
    #[must_use]
    pub fn trailer(&self) -> &[u8] {
        &self.trailer
    }

    fn byte(&mut self, b: u8) -> Result<Option<Part>, Malformed> {
        self.state = match (self.state, b) {
            (State::Size { value, digits }, _) if b.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return Err(Malformed("a chunk is too large"));
                }
                let digit = (b as char).to_digit(16).unwrap_or_default();
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Malformed("a chunk has no size")),
            (State::Size { value, .. } | State::Blank { value, .. }, b';') => State::Extension { value },
            (State::Size { value, .. }, b' ' | b'\t') => State::Blank { value, count: 1 },
            (State::Blank { value, count }, b' ' | b'\t') if count < BLANKS_MAX => {
                State::Blank { value, count: count + 1 }
            }
            (State::Size { value, .. } | State::Blank { value, .. } | State::Extension { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Extension { value }, _) if b != b'\n' && b != 0 => {
                self.extensions += 1;
                if self.extensions > EXTENSIONS_MAX {
                    return Err(Malformed("there are too many chunk extensions"));
                }
                State::Extension { value }
            }
            (State::SizeLf { value: 0 }, b'\n') => State::Trailer { line: 0 },
            (State::SizeLf { value }, b'\n') => {
                self.state = State::Data(value);
                return Ok(Some(Part::Begin(value)));
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.state = FIRST;
                return Ok(Some(Part::End));
            }
            (State::Trailer { line }, _) => return self.trailer_byte(line, b),
            _ => return Err(Malformed("the chunked coding is broken")),
        };
        Ok(None)
    }

    fn trailer_byte(&mut self, line: usize, b: u8) -> Result<Option<Part>, Malformed> {
        if self.trailer.len() == TRAILER_MAX {
            return Err(Malformed("the trailer is too long"));
        }
        self.trailer.push(b);
        if b != b'\n' {
            return Ok(None);
        }
        let text = self.trailer.get(line..).unwrap_or_default();
        if !text.ends_with(b"\r\n") {
            return Err(Malformed("a line of the trailer ends without a carriage return"));
        }
        if text.len() > 2 {
            self.state = State::Trailer { line: self.trailer.len() };
            return Ok(None);
        }
        self.trailer.truncate(line);
        self.state = State::Done;
        Ok(Some(Part::Done))
    }
}

const FIRST: State = State::Size { value: 0, digits: 0 };

/// Copies the fields of a trailer that `keep` lets through, each with CR LF.
///
/// # Errors
/// A trailer that is not made of header fields.
pub fn copy_trailer(trailer: &[u8], keep: fn(&str) -> bool, out: &mut bytes::BytesMut) -> Result<(), Malformed> {
    if trailer.is_empty() {
        return Ok(());
    }
    let mut whole = trailer.to_vec();
    whole.extend_from_slice(b"\r\n");
    // As many as 16 KiB of trailer can be expected to hold.
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&whole, &mut fields) else {
        return Err(Malformed("the trailer is malformed"));
    };
    for f in fields.iter().filter(|f| keep(f.name)) {
        out.extend_from_slice(f.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(f.value);
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, usize), Malformed> {
        let mut chunks = Chunks::new();
        let mut data = Vec::new();
        for piece in pieces {
            let mut at = 0;
            loop {
                let (used, part) = chunks.next(&piece[at..])?;
                at += used;
                match part {
                    Part::More => break,
                    Part::Data(n) => {
                        data.extend_from_slice(&piece[at..at + n]);
                        at += n;
                    }
                    Part::Done => return Ok((data, chunks.trailer().to_vec(), piece.len() - at)),
                    Part::Begin(_) | Part::End => {}
                }
            }
        }
        Err(Malformed("not done"))
    }

    #[test]
    fn reads_however_it_is_cut() {
        let text = b"5\r\nhello\r\n7;name=\"v\"\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\nGET /";
        let want = (b"hello, world".to_vec(), b"X-Sum: 12\r\n".to_vec());
        for size in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            let (data, trailer, _) = read(&pieces).unwrap();
            assert_eq!((data, trailer), want, "cut each {size} bytes");
        }
        assert_eq!(read(&[text]).unwrap().2, 5);
    }

    #[test]
    fn blanks_behind_a_size_mean_nothing() {
        for good in [&b"5  \r\nhello\r\n0 \r\n\r\n"[..], b"5\t;x=1\r\nhello\r\n0\r\n\r\n"] {
            assert_eq!(read(&[good]).unwrap().0, b"hello", "{}", String::from_utf8_lossy(good));
        }
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 5\r\nhello\r\n0\r\n\r\n",
            b"5 \nhello\r\n0\r\n\r\n",
            b"5                                  \r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\n\r\n",
        ] {
            assert!(read(&[bad]).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest::proptest! {
        /// However it is cut, the same bytes mean the same; and nothing makes it panic.
        #[test]
        fn cuts_mean_nothing(text in "([0-9a-f]{1,2}|[;\r\n x]|\r\n|0\r\n\r\n){0,24}", cut in 1_usize..7) {
            let whole = read(&[text.as_bytes()]).map(|(data, trailer, _)| (data, trailer));
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            proptest::prop_assert_eq!(read(&pieces).map(|(data, trailer, _)| (data, trailer)), whole);
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let mut long = b"1;".to_vec();
        long.resize(EXTENSIONS_MAX + 10, b'x');
        assert!(matches!(read(&[&long]), Err(Malformed(m)) if m.contains("extensions")));
        let mut long = b"0\r\nX: ".to_vec();
        long.resize(TRAILER_MAX + 10, b'x');
        assert!(matches!(read(&[&long]), Err(Malformed(m)) if m.contains("trailer")));
    }
}
