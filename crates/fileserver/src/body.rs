//! Bodies of answers. In: a short text, or a file and which part of it. Out: its bytes, read on threads that may wait
//! for a disk.

use std::fs::File;
use std::future::Future as _;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use net::budget::{Charge, Exhausted};
use tokio::task::JoinHandle;

/// Read at once while memory is left for it: large enough that the threads cost little.
const PIECE: u64 = 256 * 1024;

/// Read at once when it is not: as many visitors as there are places hold 64 MiB of these.
const SMALL_PIECE: u64 = 16 * 1024;

/// A body.
#[derive(Debug)]
pub(super) enum FileBody {
    Text(Option<Bytes>),
    Part(Part),
}

/// A part of a file on its way.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// An empty charge of the visitor's, which pieces are taken from.
    account: Charge,
}

/// Bytes that count in the budget for as long as anybody holds them.
struct Charged {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl FileBody {
    pub(super) fn text(text: impl Into<Bytes>) -> FileBody {
        let text = text.into();
        FileBody::Text((!text.is_empty()).then_some(text))
    }

    /// A text that may be long, taken from the visitor's share of memory until it has been sent.
    ///
    /// # Errors
    /// The share is used up.
    pub(super) fn charged(text: String, mut charge: Charge) -> Result<FileBody, Exhausted> {
        charge.grow(text.len())?;
        Ok(FileBody::text(Bytes::from_owner(Charged { bytes: text.into_bytes(), _charge: charge })))
    }

    /// The bytes of the file from `first` to before `end`, read in pieces that come from the visitor's share of memory.
    /// If the file turns out shorter, the body breaks: the visitor was promised a length.
    pub(super) fn part(file: File, first: u64, end: u64, account: Charge) -> FileBody {
        let left = end.saturating_sub(first);
        FileBody::Part(Part { file: Arc::new(file), at: first, left, reading: None, account })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            FileBody::Text(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            FileBody::Part(part) => part.poll(cx).map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            FileBody::Text(text) => text.is_none(),
            FileBody::Part(part) => part.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            FileBody::Text(text) => text.as_ref().map_or(0, |t| t.len() as u64),
            FileBody::Part(part) => part.left,
        })
    }
}

impl Part {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (file, at, left, account) = (&self.file, self.at, self.left, &self.account);
        let reading = self.reading.get_or_insert_with(|| {
            let file = file.clone();
            let mut charge = account.sibling();
            let want = left.min(PIECE) as usize;
            match charge.grow(want) {
                Ok(()) => tokio::task::spawn_blocking(move || {
                    let bytes = read(&file, at, want)?;
                    Ok(Bytes::from_owner(Charged { bytes, _charge: charge }))
                }),
                Err(Exhausted) => tokio::task::spawn_blocking(move || {
                    Ok(Bytes::from(read(&file, at, left.min(SMALL_PIECE) as usize)?))
                }),
            }
        });
        let read = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|e| Err(io::Error::other(e)));
        self.reading = None;
        if let Ok(piece) = &read {
            self.at += piece.len() as u64;
            self.left -= piece.len() as u64;
        }
        Poll::Ready(Some(read))
    }
}

fn read(file: &File, at: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; want];
    file.read_exact_at(&mut piece, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "the file became shorter while it was sent"),
        _ => e,
    })?;
    Ok(piece)
}
