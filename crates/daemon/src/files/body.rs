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
use tokio::task::JoinHandle;

/// Read at once: large enough that the threads cost little, small enough for a thousand slow visitors.
const PIECE: u64 = 256 * 1024;

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
}

impl FileBody {
    pub(super) fn text(text: impl Into<Bytes>) -> FileBody {
        let text = text.into();
        FileBody::Text((!text.is_empty()).then_some(text))
    }

    /// The bytes of the file from `first` to before `end`. If the file turns out shorter, the body breaks: the
    /// visitor was promised a length.
    pub(super) fn part(file: File, first: u64, end: u64) -> FileBody {
        FileBody::Part(Part { file: Arc::new(file), at: first, left: end.saturating_sub(first), reading: None })
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
        let (file, at, want) = (&self.file, self.at, self.left.min(PIECE));
        let reading = self.reading.get_or_insert_with(|| {
            let file = file.clone();
            tokio::task::spawn_blocking(move || read(&file, at, want as usize))
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

fn read(file: &File, at: u64, want: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; want];
    file.read_exact_at(&mut piece, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "the file became shorter while it was sent"),
        _ => e,
    })?;
    Ok(piece.into())
}
