//! Requests that are refused. In: what is wrong with one. Out: the status and the reason to answer with; the bounds of a head.

/// Longest head, in bytes. Go and nginx allow less by default; a cookie jar rarely passes 16 KiB.
pub const HEAD_MAX: usize = 64 * 1024;

/// Most header fields in one head, as it came and as it goes on. Apache's default; 100 of them take 3 KiB of stack.
pub const FIELDS_MAX: usize = 100;

/// A request that is refused, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The status to answer with.
    pub status: u16,
    /// Why, for people: `there are two Host fields`.
    pub reason: String,
}

impl Reject {
    /// A request that means nothing, or more than one thing.
    pub fn bad(reason: impl Into<String>) -> Reject {
        Reject { status: 400, reason: reason.into() }
    }

    /// A head above [`HEAD_MAX`].
    #[must_use]
    pub fn too_large() -> Reject {
        Reject { status: 431, reason: format!("the head is longer than {} KiB", HEAD_MAX / 1024) }
    }

    /// More fields than [`FIELDS_MAX`], counting those that go on.
    #[must_use]
    pub fn too_many_fields() -> Reject {
        Reject { status: 431, reason: format!("the head has too many fields: more than {FIELDS_MAX} would go on") }
    }

    pub(super) fn of(e: httparse::Error, bytes: &[u8]) -> Reject {
        match e {
            httparse::Error::TooManyHeaders => Reject::too_many_fields(),
            httparse::Error::Version if names_a_version(bytes) => {
                Reject { status: 505, reason: "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken".into() }
            }
            e => Reject::bad(format!("the head is malformed ({e})")),
        }
    }
}

/// True if the request line has three words of which the last is a version, only not one that is spoken here.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    words.nth(2).is_some_and(|v| v.starts_with(b"HTTP/") && v.len() == 8) && words.next().is_none()
}
