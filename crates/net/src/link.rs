//! A link: one TCP connection, with TLS or without, in two halves that live in different tasks. In: bytes to send,
//! bytes of the peer. Out: the same on the other side.
//!
//! TLS runs on rustls' unbuffered interface with buffers of this house: one read of up to 256 KiB is decrypted record
//! by record and one write of up to 256 KiB is encrypted at once, where the buffered interface reads 4 KiB at a time.
//! An idle link holds no buffer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::buffers::{self, BULK, Lease};

/// Both halves of a link.
#[derive(Debug)]
pub struct Link {
    /// The reading half.
    pub read: LinkRead,
    /// The writing half.
    pub write: LinkWrite,
}

/// Ends a link from outside.
#[derive(Debug, Clone)]
pub struct Closer(std::sync::Weak<Shared>);

/// The reading half.
#[derive(Debug)]
pub struct LinkRead {
    shared: Arc<Shared>,
    /// Plaintext read ahead, see [`LinkRead::unread`].
    plain: Vec<u8>,
    ended: bool,
}

/// The writing half.
#[derive(Debug)]
pub struct LinkWrite {
    shared: Arc<Shared>,
    /// Bytes on their way to the socket, from `at`.
    out: Lease,
    at: usize,
}

#[derive(Debug)]
struct Shared {
    socket: TcpStream,
    tls: Option<Mutex<Tls>>,
}

struct Tls {
    machine: Machine,
    /// Records that TLS itself wants sent (key updates); they go before the next data.
    pending: Vec<u8>,
    /// Part of a record that has not arrived whole. It stays with the machine, which may hold offsets into it.
    cipher: Vec<u8>,
}

enum Machine {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// A handshake fits in this; more is an attack (certificate chains of 16 KiB are already absurd).
const HANDSHAKE_MAX: usize = 64 * 1024;

/// TLS adds at most this to a record of 16 KiB: head 5, type 1, tag 16 (RFC 8446, section 5.2).
const RECORD_EXTRA: usize = 22 + 16;

impl Link {
    /// A link without TLS.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Link {
        Link::from_parts(socket, None, Vec::new())
    }

    /// Answers a TLS handshake.
    ///
    /// # Errors
    /// The peer speaks no TLS, or went away.
    pub async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Link> {
        let machine = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        handshake(socket, Machine::Server(Box::new(machine))).await
    }

    /// Starts a TLS handshake.
    ///
    /// # Errors
    /// The peer's certificate is refused (the rustls error is the source), or it went away.
    pub async fn connect(socket: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Link> {
        let machine = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        handshake(socket, Machine::Client(Box::new(machine))).await
    }

    fn from_parts(socket: TcpStream, tls: Option<Tls>, plain: Vec<u8>) -> Link {
        let shared = Arc::new(Shared { socket, tls: tls.map(Mutex::new) });
        Link {
            read: LinkRead { shared: shared.clone(), plain, ended: false },
            write: LinkWrite { shared, out: Lease::new(), at: 0 },
        }
    }

    /// Address of the socket's peer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.read.shared.socket.peer_addr()
    }

    /// Ends this link later, when its halves are elsewhere.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer(Arc::downgrade(&self.read.shared))
    }

    /// Puts two halves together again; `None` if they are of different links.
    #[must_use]
    pub fn join(read: LinkRead, write: LinkWrite) -> Option<Link> {
        Arc::ptr_eq(&read.shared, &write.shared).then_some(Link { read, write })
    }
}

impl Closer {
    /// Ends the link in both directions, whoever is using it; whoever reads sees the end.
    pub fn close(&self) {
        if let Some(shared) = self.0.upgrade() {
            // A connection that is already gone has nothing left to end.
            let _ = socket2::SockRef::from(&shared.socket).shutdown(std::net::Shutdown::Both);
        }
    }

    /// True once nobody holds the link any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl LinkRead {
    /// Appends what has arrived to `out`, up to about [`BULK`] bytes. `Ready(0)`: the peer ended the connection.
    ///
    /// # Errors
    /// The connection broke, or the peer broke TLS.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut Lease) -> Poll<io::Result<usize>> {
        if !self.plain.is_empty() {
            let plain = std::mem::take(&mut self.plain);
            out.extend(&plain);
            return Poll::Ready(Ok(plain.len()));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        loop {
            ready!(self.shared.socket.poll_read_ready(cx))?;
            let got = match &self.shared.tls {
                None => read_plain(&self.shared.socket, out),
                Some(tls) => read_tls(&self.shared.socket, &mut tls.lock(), out),
            };
            match got {
                Ok(Got::Bytes(0)) => continue, // TLS records without data.
                Ok(Got::Bytes(n)) => return Poll::Ready(Ok(n)),
                Ok(Got::End) => {
                    self.ended = true;
                    return Poll::Ready(Ok(0));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// [`LinkRead::poll_fill`] as a future; may be dropped at any time.
    ///
    /// # Errors
    /// The connection broke, or the peer broke TLS.
    pub async fn fill(&mut self, out: &mut Lease) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, out)).await
    }

    /// Gives back bytes that were read ahead; the next read starts with them.
    pub fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.plain.splice(0..0, bytes.iter().copied());
        }
    }
}

impl LinkWrite {
    /// Takes all of `bytes`: what the socket does not take now is sent by [`LinkWrite::poll_flush`], which must have
    /// been `Ready` before.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &self.shared.tls {
            Some(tls) => tls.lock().encrypt(bytes, &mut self.out)?,
            None if self.out.is_empty() => {
                let n = match self.shared.socket.try_write(bytes) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(e) => return Err(e),
                };
                if n < bytes.len() {
                    self.out.extend(&bytes[n..]);
                }
            }
            None => self.out.extend(bytes),
        }
        self.try_flush().map(drop)
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.try_flush()? {
            ready!(self.shared.socket.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes now; true if that was all.
    fn try_flush(&mut self) -> io::Result<bool> {
        while !self.out.is_empty() {
            match self.shared.socket.try_write(&self.out.filled()[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
            if self.at == self.out.filled().len() {
                self.out.release();
                self.at = 0;
            }
        }
        Ok(true)
    }

    /// Sends everything.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(BULK) {
            self.flush().await?;
            self.send(chunk)?;
        }
        self.flush().await
    }

    /// [`LinkWrite::poll_flush`] as a future; may be dropped at any time.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says goodbye in TLS and ends the writing direction. Best effort: the peer may be gone.
    pub async fn close(&mut self) {
        if self.flush().await.is_ok()
            && let Some(tls) = &self.shared.tls
        {
            tls.lock().close(&mut self.out);
            let _ = self.flush().await;
        }
        let _ = crate::sockets::half_close(&self.shared.socket);
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys live in here.
        f.write_str("Tls")
    }
}

enum Got {
    Bytes(usize),
    End,
}

fn read_plain(socket: &TcpStream, out: &mut Lease) -> io::Result<Got> {
    let n = socket.try_read(&mut out.space(BULK / 2)[..])?;
    out.advance(n);
    Ok(if n == 0 { Got::End } else { Got::Bytes(n) })
}

fn read_tls(socket: &TcpStream, tls: &mut Tls, out: &mut Lease) -> io::Result<Got> {
    buffers::with_scratch(|scratch| {
        let left = tls.cipher.len();
        let room = scratch.get_mut(left..).filter(|r| !r.is_empty()).ok_or(io::ErrorKind::InvalidData)?;
        let n = socket.try_read(room)?;
        if n == 0 {
            // Without close_notify the end could be forged (RFC 8446, section 6.1); the frames inside say where a
            // stream ends, so that nothing is taken for whole that is not.
            return Ok(Got::End);
        }
        scratch[..left].copy_from_slice(&tls.cipher);
        let before = out.filled().len();
        let (used, closed) = tls.decrypt(&mut scratch[..left + n], out)?;
        tls.cipher.clear();
        if used == left + n {
            tls.cipher = Vec::new();
        } else {
            tls.cipher.extend_from_slice(&scratch[used..left + n]);
        }
        let got = out.filled().len() - before;
        Ok(if got == 0 && closed { Got::End } else { Got::Bytes(got) })
    })
}

/// What one step of the TLS machine came to.
enum Step {
    /// Go on at once.
    Again,
    /// Needs more bytes of the peer.
    Blocked,
    /// Data may be sent; nothing is left to read.
    Ready,
    /// The peer ended its direction.
    Closed,
}

impl Tls {
    /// Decrypts whole records from the front of `cipher`; returns how many bytes are used up and whether the peer
    /// closed.
    fn decrypt(&mut self, cipher: &mut [u8], out: &mut Lease) -> io::Result<(usize, bool)> {
        let mut used = 0;
        loop {
            let (discard, step) = self.machine.step(&mut cipher[used..], out, &mut self.pending, None)?;
            used += discard;
            match step {
                Step::Again => {}
                Step::Blocked | Step::Ready => return Ok((used, false)),
                Step::Closed => return Ok((used, true)),
            }
        }
    }

    /// Encrypts all of `bytes` behind whatever TLS itself wants sent.
    fn encrypt(&mut self, bytes: &[u8], out: &mut Lease) -> io::Result<()> {
        let mut none = Lease::new();
        loop {
            let send = Some((bytes, &mut *out));
            let (discard, step) = self.machine.step(&mut self.cipher, &mut none, &mut self.pending, send)?;
            self.cipher.drain(..discard);
            match step {
                Step::Again => {}
                Step::Ready => return Ok(()),
                Step::Blocked | Step::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn close(&mut self, out: &mut Lease) {
        out.extend(&self.pending);
        self.pending.clear();
        self.machine.close(&mut self.cipher, out);
    }
}

impl Machine {
    fn step(
        &mut self,
        cipher: &mut [u8],
        plain: &mut Lease,
        pending: &mut Vec<u8>,
        send: Option<(&[u8], &mut Lease)>,
    ) -> io::Result<(usize, Step)> {
        match self {
            Machine::Client(c) => step(c.process_tls_records(cipher), plain, pending, send),
            Machine::Server(s) => step(s.process_tls_records(cipher), plain, pending, send),
        }
    }

    fn close(&mut self, cipher: &mut [u8], out: &mut Lease) {
        fn notify<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut Lease) {
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
                let n = traffic.queue_close_notify(out.space(64)).unwrap_or(0);
                out.advance(n);
            }
        }
        match self {
            Machine::Client(c) => notify(c.process_tls_records(cipher), out),
            Machine::Server(s) => notify(s.process_tls_records(cipher), out),
        }
    }
}

/// Handles one state of the machine. Handshake records and other bytes that TLS itself wants sent go to `pending`.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Lease,
    pending: &mut Vec<u8>,
    send: Option<(&[u8], &mut Lease)>,
) -> io::Result<(usize, Step)> {
    let UnbufferedStatus { discard, state } = status;
    let step = match state.map_err(invalid)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plain.extend(record.map_err(invalid)?.payload);
            }
            Step::Again
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let from = pending.len();
            let mut room = 1024;
            loop {
                pending.resize(from + room, 0);
                match data.encode(&mut pending[from..]) {
                    Ok(n) => {
                        pending.truncate(from + n);
                        break;
                    }
                    Err(EncodeError::InsufficientSize(need)) => room = need.required_size,
                    Err(e) => return Err(io::Error::other(e)),
                }
            }
            Step::Again
        }
        // The caller sends `pending`, then asks again.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake => Step::Blocked,
        ConnectionState::WriteTraffic(mut traffic) => {
            if let Some((bytes, out)) = send {
                out.extend(pending);
                pending.clear();
                let records = bytes.len() / (16 * 1024) + 1;
                let mut room = bytes.len() + records * RECORD_EXTRA;
                loop {
                    match traffic.encrypt(bytes, out.space(room)) {
                        Ok(n) => {
                            out.advance(n);
                            break;
                        }
                        Err(EncryptError::InsufficientSize(need)) => room = need.required_size,
                        Err(e) => return Err(io::Error::other(e)),
                    }
                }
            }
            Step::Ready
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::Closed,
        _ => return Err(io::Error::other("TLS is in a state that was never asked for")),
    };
    Ok((discard, step))
}

fn invalid(e: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

async fn handshake(socket: TcpStream, mut machine: Machine) -> io::Result<Link> {
    let (mut cipher, mut plain, mut pending) = (Vec::new(), Lease::new(), Vec::new());
    let mut used = 0;
    loop {
        let stepped = machine.step(&mut cipher[used..], &mut plain, &mut pending, None);
        let (discard, step) = match stepped {
            Ok(done) => done,
            Err(e) => {
                // The alert that tells the peer why is queued; one more step encodes it.
                let _ = machine.step(&mut cipher[used..], &mut Lease::new(), &mut pending, None);
                let _ = write_all(&socket, &pending).await;
                return Err(e);
            }
        };
        used += discard;
        match step {
            Step::Again if pending.len() < BULK => {}
            Step::Again => return Err(io::ErrorKind::InvalidData.into()),
            Step::Blocked => {
                write_all(&socket, &pending).await?;
                pending.clear();
                cipher.drain(..used);
                used = 0;
                if cipher.len() >= HANDSHAKE_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer's TLS handshake has no end"));
                }
                if read_some(&socket, &mut cipher).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Step::Ready => {
                write_all(&socket, &pending).await?;
                cipher.drain(..used);
                let tls = Tls { machine, pending: Vec::new(), cipher };
                return Ok(Link::from_parts(socket, Some(tls), plain.filled().to_vec()));
            }
            Step::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn read_some(socket: &TcpStream, out: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        let mut chunk = [0; 4096];
        match socket.try_read(&mut chunk) {
            Ok(n) => {
                out.extend_from_slice(&chunk[..n]);
                return Ok(n);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair(tls: bool) -> (Link, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let dir = std::env::temp_dir().join(format!("portcullis-link-{}-{}", std::process::id(), addr.port()));
        let (server, digest) = crate::tls::own_ca(&dir, &["localhost".to_string()]).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let accept = async {
            let (socket, _) = listener.accept().await.unwrap();
            if tls { Link::accept(socket, server).await.unwrap() } else { Link::plain(socket) }
        };
        let dial = async {
            let socket = TcpStream::connect(addr).await.unwrap();
            if !tls {
                return Link::plain(socket);
            }
            let name = ServerName::try_from("elsewhere.example").unwrap();
            Link::connect(socket, crate::tls::pinned(digest).unwrap(), name).await.unwrap()
        };
        tokio::join!(accept, dial)
    }

    #[tokio::test]
    async fn bytes_arrive_whole_both_ways_at_once_with_and_without_tls() {
        for tls in [false, true] {
            let (a, b) = pair(tls).await;
            let flow = |mut from: LinkWrite, mut to: LinkRead, step: usize| async move {
                let data: Vec<u8> = (0..5_000_000usize).map(|i| (i / 7 + i * step) as u8).collect();
                let want = data.clone();
                let send = async {
                    for chunk in data.chunks(step) {
                        from.write_all(chunk).await.unwrap();
                    }
                    from.close().await;
                };
                let take = async {
                    let (mut got, mut part) = (Vec::new(), Lease::new());
                    while to.fill(&mut part).await.unwrap() > 0 {
                        got.extend_from_slice(part.filled());
                        part.release();
                    }
                    got
                };
                let ((), got) = tokio::join!(send, take);
                assert!(got == want, "{} bytes came of {}", got.len(), want.len());
            };
            tokio::join!(flow(a.write, b.read, 300_000), flow(b.write, a.read, 1_017));
        }
    }

    #[tokio::test]
    async fn a_wrong_pin_is_refused_and_the_right_one_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let dir = std::env::temp_dir().join(format!("portcullis-pin-{}", std::process::id()));
        let (server, digest) = crate::tls::own_ca(&dir, &[]).unwrap();
        let again = crate::tls::own_ca(&dir, &["192.0.2.1".to_string()]).unwrap().1;
        assert_eq!(digest, again, "the CA is kept");
        std::fs::remove_dir_all(&dir).unwrap();
        for config in [crate::tls::pinned([7; 32]).unwrap(), crate::tls::system_roots(None).unwrap()] {
            let accept = async {
                let (socket, _) = listener.accept().await.unwrap();
                Link::accept(socket, server.clone()).await
            };
            let dial = async {
                let socket = TcpStream::connect(addr).await.unwrap();
                Link::connect(socket, config, ServerName::try_from("localhost").unwrap()).await
            };
            let (accepted, dialled) = tokio::join!(accept, dial);
            assert!(accepted.is_err(), "the edge hears that it was refused");
            let (seen, why) = crate::tls::seen_in(&dialled.unwrap_err()).unwrap();
            assert_eq!(seen, Some(digest));
            assert!(!why.is_empty());
        }
    }
}
