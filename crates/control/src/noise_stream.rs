//! An established `ts2021` channel as a byte stream. In: a session and whatever carries it. Out: `AsyncRead` and
//! `AsyncWrite` of the plaintext. Two bounded buffers for each channel, which exist only while bytes are under way: most
//! channels wait most of the time, and there are many. Nothing is allocated for a record within a burst.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tailnet_proto::noise::{HEAD_LEN, OVERHEAD, Opener, PLAIN_MAX, RECORD_MAX, Sealer, Session, record_len};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Sealed bytes that wait to be sent: two whole records, so that one is filled while one is sent.
const UNSENT_MAX: usize = 2 * RECORD_MAX;

/// Bytes that are waited for without a buffer: a short record fits.
const MIN_READ: usize = 128;

/// What the early payload starts with; an HTTP/2 peer never sends it first (Tailscale's `control/ts2021`).
pub const EARLY_MAGIC: [u8; 5] = *b"\xff\xff\xffTS";

/// A channel over `S`. After an error of either direction that direction stays broken.
#[derive(Debug)]
pub struct NoiseStream<S> {
    io: S,
    reader: Reader,
    writer: Writer,
}

#[derive(Debug)]
struct Reader {
    opener: Opener,
    /// `[plain_from..plain_to]` is opened and not yet read, `[next..filled]` has come and is not yet opened.
    buffer: Option<Box<[u8; RECORD_MAX]>>,
    plain_from: usize,
    plain_to: usize,
    next: usize,
    filled: usize,
    /// Bytes that came before the channel was made, and how many of them are used.
    leftover: Vec<u8>,
    used: usize,
    broken: bool,
}

#[derive(Debug)]
struct Writer {
    sealer: Sealer,
    /// `[from..to]` is sealed and not yet sent.
    buffer: Option<Box<[u8; UNSENT_MAX]>>,
    from: usize,
    to: usize,
    broken: bool,
}

impl<S> NoiseStream<S> {
    /// A channel whose handshake is done. `leftover` are bytes that were already read behind the handshake.
    pub fn new(io: S, session: Session, leftover: impl Into<Vec<u8>>) -> NoiseStream<S> {
        let reader = Reader {
            opener: session.opener,
            buffer: None,
            plain_from: 0,
            plain_to: 0,
            next: 0,
            filled: 0,
            leftover: leftover.into(),
            used: 0,
            broken: false,
        };
        let writer = Writer { sealer: session.sealer, buffer: None, from: 0, to: 0, broken: false };
        NoiseStream { io, reader, writer }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> NoiseStream<S> {
    /// Sends the early payload, which goes before the HTTP/2 server's first byte: [`EARLY_MAGIC`], the length (u32,
    /// big-endian) and `json`.
    ///
    /// # Errors
    /// Those of the carrier.
    pub async fn send_early_payload(&mut self, json: &[u8]) -> io::Result<()> {
        let len = u32::try_from(json.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.write_all(&EARLY_MAGIC).await?;
        self.write_u32(len).await?;
        self.write_all(json).await?;
        self.flush().await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let reader = &mut this.reader;
        // A record may be empty, so it is a loop.
        while reader.plain_from == reader.plain_to {
            if reader.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            match ready!(reader.poll_record(&mut this.io, cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Ok(())),
                Err(e) => {
                    reader.broken = true;
                    return Poll::Ready(Err(e));
                }
            }
        }
        let take = out.remaining().min(reader.plain_to - reader.plain_from);
        let buffer = reader.buffer.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        out.put_slice(&buffer[reader.plain_from..reader.plain_from + take]);
        reader.plain_from += take;
        Poll::Ready(Ok(()))
    }
}

impl Reader {
    /// Opens the next record; false at an end between two records.
    fn poll_record<S: AsyncRead + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let Some(buffer) = &mut self.buffer {
                let came = &mut buffer[self.next..self.filled];
                if let Some(head) = came.first_chunk::<HEAD_LEN>() {
                    let len = record_len(*head).map_err(invalid)?;
                    if let Some(record) = came.get_mut(..len) {
                        let plain = self.opener.open(record).map_err(invalid)?.len();
                        self.plain_from = self.next + HEAD_LEN;
                        self.plain_to = self.plain_from + plain;
                        self.next += len;
                        return Poll::Ready(Ok(true));
                    }
                }
                // All that was opened has been read, so its place is free.
                buffer.copy_within(self.next..self.filled, 0);
            }
            self.filled -= self.next;
            self.next = 0;
            (self.plain_from, self.plain_to) = (0, 0);
            let before = self.filled;
            let Poll::Ready(done) = self.poll_fill(io, cx) else {
                if before == 0 {
                    self.buffer = None;
                }
                return Poll::Pending;
            };
            done?;
            if self.filled == before {
                let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the channel ended within a record");
                return Poll::Ready(if before == 0 { Ok(false) } else { Err(cut()) });
            }
        }
    }

    /// Takes what fits of the leftover bytes, then of the carrier's. A record fits, so there is always room.
    fn poll_fill<S: AsyncRead + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.used < self.leftover.len() {
            let room = &mut self.buffer.get_or_insert_with(|| Box::new([0; RECORD_MAX]))[self.filled..];
            let take = room.len().min(self.leftover.len() - self.used);
            room[..take].copy_from_slice(&self.leftover[self.used..self.used + take]);
            (self.used, self.filled) = (self.used + take, self.filled + take);
            if self.used == self.leftover.len() {
                (self.leftover, self.used) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        let Some(buffer) = &mut self.buffer else {
            // Waits with a few bytes in hand; a buffer is made for what follows them.
            let mut few = [0; MIN_READ];
            let mut room = ReadBuf::new(&mut few);
            ready!(Pin::new(io).poll_read(cx, &mut room))?;
            self.filled = room.filled().len();
            if self.filled > 0 {
                let buffer = self.buffer.insert(Box::new([0; RECORD_MAX]));
                buffer[..self.filled].copy_from_slice(room.filled());
            }
            return Poll::Ready(Ok(()));
        };
        let mut room = ReadBuf::new(&mut buffer[self.filled..]);
        ready!(Pin::new(io).poll_read(cx, &mut room))?;
        self.filled += room.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let writer = &mut this.writer;
        let take = plain.len().min(PLAIN_MAX);
        if take == 0 {
            return Poll::Ready(Ok(0));
        }
        while UNSENT_MAX - writer.to < take + OVERHEAD {
            ready!(writer.poll_send(&mut this.io, cx))?;
        }
        let buffer = writer.buffer.get_or_insert_with(|| Box::new([0; UNSENT_MAX]));
        let len = writer.sealer.seal(&plain[..take], &mut buffer[writer.to..]).map_err(io::Error::other)?;
        writer.to += len;
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.writer.from < this.writer.to {
            ready!(this.writer.poll_send(&mut this.io, cx))?;
        }
        this.writer.buffer = None;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Writer {
    /// Sends some of what waits, and makes room behind it when that is possible for nothing.
    fn poll_send<S: AsyncWrite + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(buffer) = &mut self.buffer else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(io).poll_write(cx, &buffer[self.from..self.to])) {
            Ok(sent) if sent > 0 => self.from += sent,
            // A part of a record may be out: what follows would not be understood.
            other => {
                self.broken = true;
                return Poll::Ready(Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into())));
            }
        }
        if self.from >= RECORD_MAX || self.from == self.to {
            buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        Poll::Ready(Ok(()))
    }
}

fn invalid(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

#[cfg(test)]
mod tests {
    use tailnet_proto::meshkey::MachinePrivate;
    use tailnet_proto::noise::{Accepted, Initiator, respond};
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    fn sessions() -> (Session, Session) {
        let (node, server) = (MachinePrivate::from_random([1; 32]), MachinePrivate::from_random([2; 32]));
        let (initiator, message) = Initiator::start(&node, &server.public(), 130, [3; 32]).unwrap();
        let Accepted { session, response, .. } = respond(&server, &message[..].try_into().unwrap(), [4; 32]).unwrap();
        (initiator.finish(&response).unwrap(), session)
    }

    fn channel(pipe: usize) -> (NoiseStream<DuplexStream>, NoiseStream<DuplexStream>) {
        let (node, server) = sessions();
        let (a, b) = tokio::io::duplex(pipe);
        (NoiseStream::new(a, node, []), NoiseStream::new(b, server, []))
    }

    #[tokio::test]
    async fn bytes_arrive_however_small_the_pipe() {
        let sent: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        for pipe in [1, 7, 4096, 1 << 20] {
            let (mut node, mut server) = channel(pipe);
            let copy = sent.clone();
            let writing = tokio::spawn(async move {
                for piece in copy.chunks(4999) {
                    node.write_all(piece).await.unwrap();
                }
                node.shutdown().await.unwrap();
            });
            let mut came = vec![];
            server.read_to_end(&mut came).await.unwrap();
            assert_eq!(came, sent);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn bytes_that_were_already_read_come_first() {
        let (mut node, server) = sessions();
        let mut early = vec![0; 3 * RECORD_MAX];
        let mut len = 0;
        for i in 0..3u8 {
            len += node.sealer.seal(&[i; 3000], &mut early[len..]).unwrap();
        }
        early.truncate(len);
        // The last record is cut: its rest comes from the carrier.
        let rest = early.split_off(len - 100);
        let (mut a, b) = tokio::io::duplex(64);
        let mut server = NoiseStream::new(b, server, early);
        let sending = tokio::spawn(async move { a.write_all(&rest).await });
        let mut came = vec![];
        server.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, [[0; 3000], [1; 3000], [2; 3000]].concat());
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_early_payload_comes_before_everything() {
        let (mut node, mut server) = channel(1 << 16);
        server.send_early_payload(br#"{"nodeKeyChallenge":"chalpub:00"}"#).await.unwrap();
        server.write_all(b"http").await.unwrap();
        server.shutdown().await.unwrap();
        let json = br#"{"nodeKeyChallenge":"chalpub:00"}"#;
        let mut early = vec![0; EARLY_MAGIC.len() + 4 + json.len()];
        node.read_exact(&mut early).await.unwrap();
        assert_eq!(early, [&EARLY_MAGIC[..], &(json.len() as u32).to_be_bytes(), json].concat());
        let mut rest = String::new();
        node.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "http");
    }

    #[tokio::test]
    async fn cut_repeated_and_foreign_records_end_the_stream_with_an_error() {
        let (mut node, _) = sessions();
        let mut record = vec![0; 64];
        let len = node.sealer.seal(b"hello", &mut record).unwrap();
        record.truncate(len);
        let twice = [&record[..], &record].concat();
        for (bytes, kind) in [
            (&record[..len - 1], io::ErrorKind::UnexpectedEof),
            (&record[..2], io::ErrorKind::UnexpectedEof),
            (&twice, io::ErrorKind::InvalidData),
            (b"GET / HTTP/1.1\r\n", io::ErrorKind::InvalidData),
            (&[4, 0xff, 0xff], io::ErrorKind::InvalidData),
        ] {
            let (_, server) = sessions();
            let mut server = NoiseStream::new(tokio::io::empty(), server, bytes);
            let mut came = vec![];
            assert_eq!(server.read_to_end(&mut came).await.unwrap_err().kind(), kind);
            assert_eq!(server.read_to_end(&mut came).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_the_writer_not_the_memory() {
        let (mut node, _server) = channel(1024);
        let mut written = 0;
        let much = [0; 4096];
        let wait = std::time::Duration::from_millis(50);
        while let Ok(n) = tokio::time::timeout(wait, node.write(&much)).await {
            written += n.unwrap();
            assert!(written < 5 * RECORD_MAX, "{written} bytes were taken");
        }
        assert!(written >= RECORD_MAX);
    }
}
