//! Netlink, as far as this house speaks it: messages with attributes, batches, dumps. In: bytes built here. Out: what
//! the kernel says, cut into attributes that are never longer than what came. Linux only.
//!
//! Formats after the kernel's own description (`Documentation/userspace-api/netlink/intro.rst`) and RFC 3549.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the thing changed while it was listed.
const INTERRUPTED: u16 = 0x10;
/// `NLA_F_NESTED` and the bits of an attribute's kind.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
/// The kernel fills at most 32 KiB of a dump at a time; an answer repeats what was asked, which is capped by it too.
const RECEIVE: usize = 128 * 1024;
/// The kernel answers within the call; later than this something is very wrong.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(10);
/// What is asked for as room to send: 100,000 elements of 40 bytes in one transaction.
const SEND: usize = 16 << 20;
/// A list that changes all the time is read this often before it is an error.
const MAX_ATTEMPTS: usize = 10;

/// A socket to one part of the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
    /// The longest transmission the kernel takes, in bytes.
    pub(crate) room: usize,
}

impl Netlink {
    /// A socket; `groups`: bits of the multicast groups to hear.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Netlink> {
        let flags = if groups == 0 { SocketFlags::CLOEXEC } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        if groups == 0 {
            rustix::net::sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(KERNEL_TIMEOUT))?;
            // Above the system's limit only with CAP_NET_ADMIN over the whole machine; within it for everybody.
            if set_socket_send_buffer_size_force(&fd, SEND).is_err() {
                let _ = set_socket_send_buffer_size(&fd, SEND);
            }
        }
        let room = rustix::net::sockopt::socket_send_buffer_size(&fd)?;
        // `netlink_sendmsg` keeps 32 bytes for itself.
        Ok(Netlink { fd, seq: 1, room: room.saturating_sub(64) })
    }

    /// This socket's number, which stands in what others hear of its changes.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let addr = rustix::net::getsockname(&self.fd)?;
        Ok(SocketAddrNetlink::try_from(addr).map(|a| a.pid())?)
    }

    /// Sends a transmission whose messages are worked off within the call, and reads what is said to it. The first
    /// refusal counts.
    pub(crate) fn send(&mut self, out: Messages) -> io::Result<()> {
        let (first, last) = (out.first, out.seq);
        self.transmit(&out)?;
        self.seq = last.wrapping_add(1);
        let mut refused = None;
        let mut answered = false;
        let mut buf = vec![0; RECEIVE];
        loop {
            let flags = if answered || refused.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let got = match rustix::net::recv(&self.fd, buf.as_mut_slice(), flags) {
                Ok((_, n)) => n,
                Err(Errno::AGAIN) if answered || refused.is_some() => break,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let parts = Parts::new(buf.get(..got).unwrap_or_default());
            for m in parts.filter(|m| m.kind == ERROR && (first..=last).contains(&m.seq)) {
                match errno(m.body) {
                    0 => answered = true,
                    e => refused = refused.or(Some(e)),
                }
            }
        }
        refused.map_or(Ok(()), |e| Err(io::Error::from_raw_os_error(e)))
    }

    /// Sends a request and hands each answer (kind and body) on until the kernel says that it is over.
    pub(crate) fn ask(&mut self, out: Messages, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<Whole> {
        let seq = out.first;
        self.transmit(&out)?;
        self.seq = out.seq.wrapping_add(1);
        let mut buf = vec![0; RECEIVE];
        let mut whole = Whole::Yes;
        loop {
            let got = match rustix::net::recv(&self.fd, buf.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, n)) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            for m in Parts::new(buf.get(..got).unwrap_or_default()).filter(|m| m.seq == seq) {
                if m.flags & INTERRUPTED != 0 {
                    whole = Whole::Changed;
                }
                match m.kind {
                    ERROR | DONE => {
                        return match errno(m.body) {
                            0 => Ok(whole),
                            e => Err(io::Error::from_raw_os_error(e)),
                        };
                    }
                    kind => each(kind, m.body),
                }
            }
        }
    }

    /// Lists something, anew when it changed meanwhile.
    pub(crate) fn list<T>(
        &mut self,
        request: impl Fn(Messages) -> Messages,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..MAX_ATTEMPTS {
            let mut out = Vec::new();
            if self.ask(request(self.messages()), &mut |_, body| out.extend(read(body)))? == Whole::Yes {
                return Ok(out);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// An empty transmission with this socket's next number.
    pub(crate) fn messages(&self) -> Messages {
        Messages { bytes: Vec::new(), open: Vec::new(), first: self.seq, seq: self.seq.wrapping_sub(1) }
    }

    fn transmit(&self, out: &Messages) -> io::Result<()> {
        rustix::net::sendto(&self.fd, &out.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }
}

impl From<Netlink> for OwnedFd {
    fn from(nl: Netlink) -> OwnedFd {
        nl.fd
    }
}

/// Whether a list is of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Yes,
    Changed,
}

/// Messages being written, one after the other.
#[derive(Debug)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// Where the lengths of what is open stand.
    open: Vec<usize>,
    first: u32,
    seq: u32,
}

impl Messages {
    /// Begins a message; what was open before is closed.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, head: &[u8]) -> &mut Messages {
        self.close_all();
        self.seq = self.seq.wrapping_add(1);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(head);
        self.pad();
        self
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Messages {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a text that ends with a zero byte.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Messages {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds a number, most significant byte first, as netfilter has them.
    pub(crate) fn number(&mut self, kind: u16, n: u32) -> &mut Messages {
        self.put(kind, &n.to_be_bytes())
    }

    /// Opens an attribute that holds others, writes them and closes it.
    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Messages)) -> &mut Messages {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        let len = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        self
    }

    /// The bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Closes the last message.
    pub(crate) fn done(mut self) -> Messages {
        self.close_all();
        self
    }

    fn close_all(&mut self) {
        while let Some(at) = self.open.pop() {
            let len = (self.bytes.len() - at) as u32;
            if let Some(place) = self.bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&len.to_ne_bytes());
            }
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message that came.
struct Part<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    body: &'a [u8],
}

/// The messages in what came.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn new(bytes: &'a [u8]) -> Parts<'a> {
        Parts(bytes)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let part = Part {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            seq: u32_at(self.0, 8)?,
            body: self.0.get(16..len)?,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    }
}

/// The attributes in a body: kind and value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes behind a fixed head.
    pub(crate) fn after(body: &'a [u8], head: usize) -> Attributes<'a> {
        Attributes(body.get(head..).unwrap_or_default())
    }

    /// The first of a kind.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// What stands within one that holds others.
    pub(crate) fn within(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A text without its zero byte.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok().map(|t| t.trim_end_matches('\0'))
    }

    /// A number as netfilter has them.
    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// What others changed: the sender's number and the message, for each that waits on a listening socket. `None`: so
/// much happened that some of it was lost.
pub(crate) fn heard(fd: BorrowedFd<'_>, each: &mut dyn FnMut(u32, u16, &[u8])) -> io::Result<Option<()>> {
    let mut buf = vec![0; RECEIVE];
    match rustix::net::recv(fd, buf.as_mut_slice(), RecvFlags::DONTWAIT) {
        Ok((_, got)) => {
            let mut rest = buf.get(..got).unwrap_or_default();
            while let (Some(len), Some(sender)) = (u32_at(rest, 0), u32_at(rest, 12)) {
                let Some(part) = Parts::new(rest).next() else { break };
                each(sender, part.kind, part.body);
                rest = rest.get((len as usize).next_multiple_of(4)..).unwrap_or_default();
            }
            Ok(Some(()))
        }
        Err(Errno::NOBUFS) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The (positive) error number of an `NLMSG_ERROR` or `NLMSG_DONE`; 0 if it went well.
fn errno(body: &[u8]) -> i32 {
    u32_at(body, 0).map_or(0, |n| (n as i32).checked_neg().unwrap_or(i32::MAX))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut m = Messages { bytes: Vec::new(), open: Vec::new(), first: 1, seq: 0 };
        m.message(7, ACK, &[1, 0, 0, 0]).text(1, "abc").nest(2, |m| {
            m.number(1, 5).put(3, &[1]);
        });
        m.message(8, 0, &[]);
        let m = m.done();
        let parts: Vec<Part<'_>> = Parts::new(&m.bytes).collect();
        assert_eq!(parts.iter().map(|p| (p.kind, p.seq)).collect::<Vec<_>>(), [(7, 1), (8, 2)]);
        let a = Attributes::after(parts[0].body, 4);
        assert_eq!(a.text(1), Some("abc"));
        assert_eq!(a.within(2).and_then(|n| n.number(1)), Some(5));
        assert_eq!(a.within(2).and_then(|n| n.get(3)), Some(&[1u8][..]));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for bytes in [&[][..], &[3, 0], &[3, 0, 1, 0], &[0; 3], &[0; 40], &[255; 40]] {
            assert!(Attributes(bytes).count() < 2);
            assert!(Parts::new(bytes).count() < 2);
        }
    }
}
