//! DNS for tests (RFC 1035): a small server whose answers the test changes as it goes, and a resolver that asks one
//! question. In: names and records. Out: answers over UDP and TCP, and who asked what.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Host;
use crate::ports;

/// Type numbers (RFC 1035 section 3.2.2, RFC 3596).
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// Another name.
    Alias(String),
}

/// An address record.
#[must_use]
pub fn at(addr: &str) -> Data {
    Data::Address(addr.parse().unwrap_or_else(|e| panic!("{addr}: {e}")))
}

/// A CNAME record.
#[must_use]
pub fn alias(name: &str) -> Data {
    Data::Alias(name.to_string())
}

/// A running server; ends with its owner.
#[derive(Debug)]
pub struct Dns {
    /// `None` is this machine.
    host: Option<Host>,
    addr: SocketAddr,
    zone: Arc<Zone>,
}

#[derive(Debug, Default)]
struct Zone {
    stop: AtomicBool,
    names: Mutex<BTreeMap<String, Entry>>,
    asked: Mutex<Vec<(String, IpAddr)>>,
}

#[derive(Debug, Clone)]
struct Entry {
    ttl: u32,
    records: Vec<Data>,
    /// Gives one record at a time, the next with each question.
    turn: Option<usize>,
    trouble: Option<Trouble>,
}

/// What a server has with a name instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It fails (SERVFAIL).
    Failure,
    /// It says nothing.
    Silence,
}

impl Dns {
    /// Answers at port 53 of all addresses of a host.
    pub fn start(host: &Host) -> Dns {
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
        let zone = host.within(|| Dns::listen(addr));
        Dns { host: Some(host.clone()), addr, zone }
    }

    /// Answers on 127.0.0.1 of this machine, at a free port.
    #[must_use]
    pub fn here() -> Dns {
        let addr = ports::local(ports::free());
        Dns { host: None, addr, zone: Dns::listen(addr) }
    }

    fn listen(addr: SocketAddr) -> Arc<Zone> {
        let zone = Arc::new(Zone::default());
        let udp = UdpSocket::bind(addr).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
        let tcp = TcpListener::bind(addr).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
        let (one, two) = (zone.clone(), zone.clone());
        std::thread::Builder::new().name("dns".to_string()).spawn(move || packets(&udp, &one)).unwrap();
        std::thread::Builder::new().name("dns".to_string()).spawn(move || streams(&tcp, &two)).unwrap();
        zone
    }

    /// Where it answers.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on a name has these records, all in each answer. TTL in seconds.
    pub fn set(&self, name: &str, ttl: u32, records: &[Data]) {
        self.put(name, Entry { ttl, records: records.to_vec(), turn: None, trouble: None });
    }

    /// From now on a name has these records, one in each answer, in turn.
    pub fn rotate(&self, name: &str, ttl: u32, records: &[Data]) {
        self.put(name, Entry { ttl, records: records.to_vec(), turn: Some(0), trouble: None });
    }

    /// From now on it answers nothing about a name.
    pub fn trouble(&self, name: &str, trouble: Trouble) {
        self.put(name, Entry { ttl: 1, records: Vec::new(), turn: None, trouble: Some(trouble) });
    }

    /// From now on there is no such name.
    pub fn remove(&self, name: &str) {
        self.zone.names.lock().unwrap().remove(name);
    }

    /// Who asked for a name so far.
    #[must_use]
    pub fn asked(&self, name: &str) -> Vec<IpAddr> {
        self.zone.asked.lock().unwrap().iter().filter(|(n, _)| n == name).map(|(_, ip)| *ip).collect()
    }

    fn put(&self, name: &str, entry: Entry) {
        self.zone.names.lock().unwrap().insert(name.to_string(), entry);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.zone.stop.store(true, Ordering::Relaxed);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.addr.port()));
        let wake = || {
            let _ = TcpStream::connect_timeout(&at, Duration::from_millis(200));
            let _ = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"end", at));
        };
        match &self.host {
            Some(host) => host.within(wake),
            None => wake(),
        }
    }
}

/// Asks a server, from a host, for the addresses of a name: both families, or one by its record type.
///
/// # Errors
/// No answer within `limit`, or the server's refusal (`NXDOMAIN` …).
pub fn resolve(from: &Host, server: IpAddr, name: &str, v6: bool, limit: Duration) -> Result<Vec<IpAddr>, String> {
    let question = question(0x7a31, name, if v6 { AAAA } else { A });
    let answer = from.within(|| {
        let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(limit))?;
        socket.send_to(&question, (server, 53))?;
        let mut buf = vec![0; 4096];
        let n = socket.recv(&mut buf)?;
        buf.truncate(n);
        Ok(buf)
    });
    let answer = answer.map_err(|e: std::io::Error| e.to_string())?;
    read_answer(&answer).ok_or_else(|| format!("{name}: an answer that cannot be read: {answer:02x?}"))?
}

fn packets(socket: &UdpSocket, zone: &Zone) {
    let mut buf = [0; 1500];
    while let Ok((n, peer)) = socket.recv_from(&mut buf) {
        if zone.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Some(answer) = zone.answer(&buf[..n], peer.ip()) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn streams(listener: &TcpListener, zone: &Zone) {
    for stream in listener.incoming().flatten() {
        if zone.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut stream = stream;
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let Ok(peer) = stream.peer_addr() else { continue };
        let mut len = [0; 2];
        while stream.read_exact(&mut len).is_ok() {
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            if stream.read_exact(&mut query).is_err() {
                break;
            }
            let Some(answer) = zone.answer(&query, peer.ip()) else { break };
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            if stream.write_all(&framed).is_err() {
                break;
            }
        }
    }
}

impl Zone {
    /// The reply to one message, or nothing if it is no question.
    fn answer(&self, query: &[u8], peer: IpAddr) -> Option<Vec<u8>> {
        let (name, end) = read_name(query, 12)?;
        let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
        self.asked.lock().unwrap().push((name.clone(), peer));
        let trouble = self.names.lock().unwrap().get(&name).and_then(|entry| entry.trouble);
        let found = self.chain(&name, kind);
        // NOERROR, SERVFAIL, NXDOMAIN (RFC 1035 section 4.1.1).
        let code = match (trouble, &found) {
            (Some(Trouble::Silence), _) => return None,
            (Some(Trouble::Failure), _) => 2,
            (None, None) => 3,
            (None, Some(_)) => 0,
        };
        let mut reply = query.get(..2)?.to_vec();
        // QR, AA, RD; RA and the code.
        reply.extend_from_slice(&[0x85, 0x80 | code]);
        let answers = found.unwrap_or_default();
        reply.extend_from_slice(&[0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
        reply.extend_from_slice(query.get(12..end + 4)?);
        for (owner, ttl, data) in answers {
            let (kind, bytes) = match data {
                Data::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
                Data::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
                Data::Alias(to) => (CNAME, labels(&to)),
            };
            reply.extend_from_slice(&labels(&owner));
            reply.extend_from_slice(&kind.to_be_bytes());
            reply.extend_from_slice(&[0, 1]);
            reply.extend_from_slice(&ttl.to_be_bytes());
            reply.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            reply.extend_from_slice(&bytes);
        }
        Some(reply)
    }

    /// The records of a name and of all names it leads to; `None` if it does not exist.
    fn chain(&self, name: &str, kind: u16) -> Option<Vec<(String, u32, Data)>> {
        let mut names = self.names.lock().unwrap();
        let mut out = Vec::new();
        let mut next = name.to_string();
        // Longer chains than any test makes.
        for step in 0..16 {
            let Some(entry) = names.get_mut(&next) else {
                return (step > 0).then_some(out);
            };
            let wanted: Vec<Data> = entry
                .records
                .iter()
                .filter(|d| match d {
                    Data::Address(ip) => (kind == A && ip.is_ipv4()) || (kind == AAAA && ip.is_ipv6()),
                    Data::Alias(_) => true,
                })
                .cloned()
                .collect();
            let given = match &mut entry.turn {
                Some(turn) if !wanted.is_empty() => {
                    *turn += 1;
                    vec![wanted[(*turn - 1) % wanted.len()].clone()]
                }
                _ => wanted,
            };
            out.extend(given.iter().map(|d| (next.clone(), entry.ttl, d.clone())));
            match given.first() {
                Some(Data::Alias(to)) => next.clone_from(to),
                _ => break,
            }
        }
        Some(out)
    }
}

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&labels(name));
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// A name in lower case, without the last dot, and where the bytes go on.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut parts: Vec<String> = Vec::new();
    let mut end = None;
    // No name has more labels (RFC 1035 section 3.1); a loop of pointers ends here.
    for _ in 0..128 {
        let len = usize::from(*message.get(at)?);
        match len >> 6 {
            0 if len == 0 => return Some((parts.join("."), end.unwrap_or(at + 1))),
            0 => {
                parts.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + len)?).to_lowercase());
                at += 1 + len;
            }
            3 => {
                end = end.or(Some(at + 2));
                at = (len & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}

/// The addresses in a reply, or its refusal; `None` if it cannot be read.
fn read_answer(message: &[u8]) -> Option<Result<Vec<IpAddr>, String>> {
    match message.get(3)? & 0x0f {
        0 => {}
        3 => return Some(Err("NXDOMAIN".to_string())),
        code => return Some(Err(format!("response code {code}"))),
    }
    let (_, end) = read_name(message, 12)?;
    let mut at = end + 4;
    let mut out = Vec::new();
    for _ in 0..u16::from_be_bytes(message.get(6..8)?.try_into().ok()?) {
        let (_, end) = read_name(message, at)?;
        let kind = u16::from_be_bytes(message.get(end..end + 2)?.try_into().ok()?);
        let len = usize::from(u16::from_be_bytes(message.get(end + 8..end + 10)?.try_into().ok()?));
        let data = message.get(end + 10..end + 10 + len)?;
        match kind {
            A => out.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            AAAA => out.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
        at = end + 10 + len;
    }
    Some(Ok(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(zone: &Zone, name: &str, kind: u16) -> Result<Vec<IpAddr>, String> {
        let reply = zone.answer(&question(1, name, kind), [192, 0, 2, 1].into()).unwrap();
        read_answer(&reply).unwrap()
    }

    #[test]
    fn chains_turns_and_families() {
        let zone = Zone::default();
        let put = |name: &str, records: &[Data], turn| {
            let entry = Entry { ttl: 60, records: records.to_vec(), turn, trouble: None };
            zone.names.lock().unwrap().insert(name.to_string(), entry);
        };
        put("a.test", &[alias("b.test")], None);
        put("b.test", &[alias("c.test")], None);
        put("c.test", &[at("192.0.2.7"), at("192.0.2.8"), at("2001:db8::7")], Some(0));
        assert_eq!(ask(&zone, "A.test", A), Ok(vec!["192.0.2.7".parse().unwrap()]));
        assert_eq!(ask(&zone, "a.test", A), Ok(vec!["192.0.2.8".parse().unwrap()]));
        assert_eq!(ask(&zone, "c.test", AAAA), Ok(vec!["2001:db8::7".parse().unwrap()]));
        assert_eq!(ask(&zone, "d.test", A), Err("NXDOMAIN".to_string()));
        put("four.test", &[at("192.0.2.9")], None);
        assert_eq!(ask(&zone, "four.test", AAAA), Ok(vec![]));
        let trouble = |trouble| Entry { ttl: 1, records: vec![], turn: None, trouble: Some(trouble) };
        zone.names.lock().unwrap().insert("broken.test".to_string(), trouble(Trouble::Failure));
        zone.names.lock().unwrap().insert("silent.test".to_string(), trouble(Trouble::Silence));
        assert_eq!(ask(&zone, "broken.test", A), Err("response code 2".to_string()));
        assert_eq!(zone.answer(&question(1, "silent.test", A), [192, 0, 2, 1].into()), None);
        assert_eq!(zone.answer(b"short", [192, 0, 2, 1].into()), None);
    }
}
