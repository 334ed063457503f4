//! What fuzzing calls, as plain functions: one for each reader of bytes or text that untrusted peers send. In: any bytes.
//! Out: nothing, or a panic if the reader breaks a promise. `fuzz/` drives them; `tests/corpus.rs` replays the corpora.
#![allow(clippy::expect_used, clippy::panic, reason = "a reader that breaks a promise has to stop the fuzzer")]

use std::net::SocketAddr;

use access::certificate::{by_info, by_name};
use access::visitor::{AddressHeader, reported};
use addr::{Addr, AddrSet, Host, Prefix, parse_list};
use tailnet::record::{Names, Node};
use tailnet::{Registry, Settings};
use tailnet_proto::derp::{self, ClientInfo, Frame, ServerInfo};
use tailnet_proto::meshkey::{DiscoKey, MachineKey, MachinePrivate, NodeKey, NodePrivate};
use tailnet_proto::noise::{HEAD_LEN, Initiation, Initiator, RECORD_MAX, Session, record_len, respond};
use tailnet_proto::stun::{RESPONSE_MAX, Request, Response};
use tailnet_proto::tailcfg::map::MapRequest;
use tailnet_proto::tailcfg::register::RegisterRequest;
use tunnel_proto::connect::ConnectString;
use tunnel_proto::frame::{FrameReader, Part};
use tunnel_proto::hello::Hello;
use tunnel_proto::http1::chunked::{Chunks, Malformed, Part as ChunkPart};
use tunnel_proto::http1::forwarded::Trust;
use tunnel_proto::http1::head::{self, Body, HeadScan, Method, Reply};
use tunnel_proto::proxy_line::{self, HEADER_MAX, Version};
use tunnel_proto::upstream::{Plane, PortRanges, parse_upstreams};
use tunnel_proto::ws::{WsItem, WsReader};

pub use crate::mux::hostile as mux;

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 12] = [
    ("prefixes", prefixes),
    ("connect_strings", connect_strings),
    ("upstreams", upstreams),
    ("proxy_lines", proxy_lines),
    ("frames", frames),
    ("noise", noise),
    ("derp", derp),
    ("stun", stun),
    ("mesh_requests", mesh_requests),
    ("http1", http1),
    ("mux", mux),
    ("visitors", visitors),
];

/// Lists: what is read is written back to the same prefixes, and a set of them holds their ends.
pub fn prefixes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let list = match parse_list(text) {
        Ok(list) => list,
        Err(e) => {
            // One byte order mark is taken off, as the parser does; a second one is an entry's.
            let line = text.strip_prefix('\u{feff}').unwrap_or(text).lines().nth(e.line - 1);
            assert!(
                line.is_some_and(|l| e.column <= l.chars().count() + 1),
                "position {}:{} lies outside",
                e.line,
                e.column
            );
            return;
        }
    };
    let written: Vec<String> = list.prefixes.iter().map(ToString::to_string).collect();
    let again = parse_list(&written.join("\n"));
    assert_eq!(again.as_ref().map(|l| &l.prefixes), Ok(&list.prefixes), "written back");
    let set = AddrSet::new(list.prefixes.iter().copied());
    for p in &list.prefixes {
        for addr in [p.first(), p.last()] {
            let longest: Option<Prefix> =
                list.prefixes.iter().filter(|q| q.contains(addr)).max_by_key(|q| q.bits()).copied();
            assert_eq!(set.lookup(addr), longest, "{addr}");
        }
        let normal: Result<Addr, _> = p.first().to_string().parse();
        assert_eq!(normal.as_ref(), Ok(&p.first()), "an address reads back");
    }
}

/// Connect strings: what is read is written back to the same.
pub fn connect_strings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(c) = text.parse::<ConnectString>() {
        assert_eq!(c.to_string().parse(), Ok(c), "written back");
    }
}

/// Upstreams and ports: what is read is written back to the same.
pub fn upstreams(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(ports) = text.parse::<PortRanges>() {
        assert_eq!(ports.to_string().parse(), Ok(ports), "written back");
    }
    for plane in [Plane::Http, Plane::Tcp] {
        if let Ok(list) = parse_upstreams(&[text.to_string()], None, plane) {
            let written: Vec<String> = list.iter().map(ToString::to_string).collect();
            assert_eq!(parse_upstreams(&written, None, plane), Ok(list), "written back");
        }
    }
}

/// What proxies say of a visitor: nothing left of what a trusted hop saw counts, and a certificate that is read is
/// exactly what its text says. The first byte chooses.
pub fn visitors(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match how % 4 {
        0 => visitor(AddressHeader::XForwardedFor, text, "junk, "),
        1 => visitor(AddressHeader::Forwarded, text, "for=_junk, "),
        2 => {
            let Ok(holder) = by_name(text, None) else { return };
            assert_eq!(holder.subject, text.trim());
            assert!(!text.contains(['{', '}', '"', ';']) || text.contains('\\'), "{text}");
        }
        _ => {
            let Ok(holder) = by_info(text, false) else { return };
            let device = holder.device.as_deref().unwrap_or_default();
            let plain = format!("Subject=\"{}\";SerialNumber=\"{device}\"", holder.subject);
            assert_eq!(plain.matches('"').count(), 4, "{plain}");
            let escaped: String = plain.bytes().map(|b| format!("%{b:02x}")).collect();
            assert_eq!(by_info(&escaped, false).as_ref(), Ok(&holder), "written back");
            assert_eq!(by_info(text, true), Ok(holder));
        }
    }
}

fn visitor(header: AddressHeader, text: &str, junk: &str) {
    let trusted = AddrSet::new("10.0.0.0/8".parse::<Prefix>());
    let read = |text: &str| reported(header, &[text.as_bytes()], &trusted).ok().flatten();
    assert!(reported(header, &[text.as_bytes(), b""], &trusted).is_err(), "twice");
    let Some(found) = read(text) else { return };
    assert_eq!(found.hops.first(), Some(&found.addr));
    assert!(found.hops.iter().skip(1).all(|h| trusted.contains(*h)), "each hop vouches for the one before");
    assert!(!found.more || !trusted.contains(found.addr), "it stops at the first that is not trusted");
    if !trusted.contains(found.addr) {
        let again = read(&format!("{junk}{text}")).map(|t| (t.addr, t.hops, t.more));
        assert_eq!(again, Some((found.addr, found.hops, true)), "what stands further left is not read");
    }
}

/// HTTP/1.1: a request that goes on is one request, read again as the same; it says of the visitor what is known and
/// nothing else; bodies and answers mean the same however they are cut. The first byte chooses.
pub fn http1(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    match how % 3 {
        0 => http1_request(bytes),
        1 => http1_answer(bytes),
        _ => http1_chunks(bytes, usize::from(how / 3).max(1)),
    }
}

const VISITOR: [u8; 4] = [192, 0, 2, 77];

fn http1_request(bytes: &[u8]) {
    let Ok(Some(end)) = HeadScan::default().end(bytes, true) else { return };
    let peer = SocketAddr::from((VISITOR, 4711));
    let Ok(request) = head::Request::read(&bytes[..end], peer, &Trust::default(), "http") else { return };
    let mut again = HeadScan::default();
    assert_eq!(again.end(&request.head, true).ok().flatten(), Some(request.head.len()), "one head goes on");
    let read = head::Request::read(&request.head, peer, &Trust::default(), "http");
    assert!(read.is_ok(), "what goes on can be read");
    let Ok(read) = read else { return };
    assert_eq!((&read.host, read.body, read.path()), (&request.host, request.body, request.path()));
    assert_eq!((read.method, read.upgrade), (request.method, request.upgrade));
    assert!(request.host.is_empty() || Host::parse(&request.host).is_some_and(|h| h.as_str() == request.host));
    let text = String::from_utf8_lossy(&request.head);
    let fields: Vec<(String, &str)> = text
        .split("\r\n")
        .skip(1)
        .filter_map(|l| l.split_once(": ").or_else(|| l.split_once(':')))
        .map(|(n, v)| (n.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-"), v))
        .collect();
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect::<Vec<_>>();
    assert_eq!(all("host").len(), 1, "one host goes on");
    assert_eq!(all("x-forwarded-for"), ["192.0.2.77"]);
    assert_eq!(all("x-real-ip"), ["192.0.2.77"]);
    assert_eq!((all("forwarded").len(), all("x-forwarded-proto").len()), (1, 1));
    let told = all("x-forwarded-host");
    assert!(told.len() <= 1 && told.iter().all(|h| *h == all("host")[0]), "the host that was judged");
    assert!(all("content-length").len() + all("transfer-encoding").len() <= 1, "one framing");
    assert!(all("connection").len() <= 1 && fields.iter().all(|(n, _)| n != "x-gate-user" && n != "remote-user"));
}

fn http1_answer(bytes: &[u8]) {
    let Ok(Some(end)) = HeadScan::default().end(bytes, false) else { return };
    let reply = Reply { method: Method::Get, http10: false, close: false };
    let mut out = Default::default();
    let Ok(answer) = head::Response::read(&bytes[..end], reply, None, &mut out) else { return };
    assert!(HeadScan::default().end(&out, true).is_ok_and(|end| end == Some(out.len())), "one head goes on");
    let mut unused = Default::default();
    let again = head::Response::read(&out, reply, None, &mut unused);
    assert!(again.is_ok(), "what goes on can be read");
    let Ok(again) = again else { return };
    assert_eq!(again.status, answer.status);
    // A body that ends with the connection goes on in chunks.
    let body = if answer.body == Body::Eof { Body::Chunked } else { answer.body };
    assert_eq!(again.body, body);
}

fn http1_chunks(bytes: &[u8], step: usize) {
    let read = |step: usize| {
        let mut chunks = Chunks::new();
        let (mut data, mut used) = (Vec::new(), 0);
        for piece in bytes.chunks(step) {
            let mut at = 0;
            loop {
                let (n, part) = chunks.next(&piece[at..])?;
                (at, used) = (at + n, used + n);
                match part {
                    ChunkPart::More => break,
                    ChunkPart::Done => return Ok((data, used, chunks.trailer().to_vec())),
                    ChunkPart::Data(n) => {
                        data.extend_from_slice(&piece[at..at + n]);
                        (at, used) = (at + n, used + n);
                    }
                    ChunkPart::Begin(_) | ChunkPart::End => {}
                }
            }
        }
        Err(Malformed("not whole"))
    };
    assert_eq!(read(step), read(bytes.len().max(1)), "a body in pieces");
}

/// PROXY headers: a header is never longer than what came, more bytes never change a header that was read, and what
/// names a visitor can be written again.
pub fn proxy_lines(bytes: &[u8]) {
    for version in [Version::V1, Version::V2] {
        let Ok(Some(header)) = proxy_line::decode(bytes, version) else { continue };
        assert!(header.len <= bytes.len() && header.len > 0);
        let longer = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(proxy_line::decode(&longer, version), Ok(Some(header)), "bytes behind a header change nothing");
        for cut in 0..header.len.min(HEADER_MAX) {
            assert!(!matches!(proxy_line::decode(&bytes[..cut], version), Ok(Some(_))), "a part is no header");
        }
        if let Some(source) = header.source {
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            let again = proxy_line::encode(version, source, source);
            assert_eq!(
                proxy_line::decode(&again, version).ok().flatten().and_then(|h| h.source),
                Some(source),
                "written again"
            );
        }
    }
}

/// Websocket and tunnel frames: whole or in pieces, the same comes out. The first byte says how long the pieces are.
pub fn frames(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let whole = read_ws(bytes, bytes.len().max(1));
    assert_eq!(read_ws(bytes, usize::from(*step).max(1)), whole, "websocket frames in pieces");
    let whole = read_frames(bytes, bytes.len().max(1));
    assert_eq!(read_frames(bytes, usize::from(*step).max(1)), whole, "tunnel frames in pieces");
    let _ = Hello::parse(bytes);
}

/// Payload, control items in words, and whether it ended in an error.
fn read_ws(bytes: &[u8], step: usize) -> (Vec<u8>, Vec<String>, bool) {
    let (mut payload, mut control) = (Vec::new(), Vec::new());
    let mut reader = WsReader::default();
    let mut bytes = bytes.to_vec();
    for piece in bytes.chunks_mut(step) {
        let mut input = piece;
        loop {
            match reader.next(&mut input) {
                Ok(Some(WsItem::Payload(p))) => payload.extend_from_slice(p),
                Ok(Some(other)) => control.push(format!("{other:?}")),
                Ok(None) => break,
                Err(_) => return (payload, control, true),
            }
        }
    }
    (payload, control, false)
}

fn read_frames(bytes: &[u8], step: usize) -> (Vec<(u32, Vec<u8>)>, bool) {
    let mut out: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut reader = FrameReader::default();
    for piece in bytes.chunks(step) {
        let mut input = piece;
        loop {
            match reader.next(&mut input) {
                // Pieces of one stream that follow each other are joined, however they were cut.
                Ok(Some(Part::Data(stream, data))) => match out.last_mut() {
                    Some((s, d)) if *s == stream => d.extend_from_slice(data),
                    _ => out.push((stream, data.to_vec())),
                },
                Ok(Some(Part::Control(kind, stream, body))) => {
                    out.push((u32::MAX, format!("{kind:?} {stream} {body:?}").into_bytes()));
                }
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

/// Handshakes and records of the mesh: with fixed keys there is one right message at each place, and nothing else is
/// taken. The first byte says what the rest is.
#[expect(clippy::expect_used, reason = "the keys are fixed: if these fail, so shall the target")]
pub fn noise(bytes: &[u8]) {
    let Some((place, bytes)) = bytes.split_first() else { return };
    let (node, server) = (MachinePrivate::from_random([1; 32]), MachinePrivate::from_random([2; 32]));
    let (initiator, message) = Initiator::start(&node, &server.public(), 130, [3; 32]).expect("fixed keys");
    let accepted = respond(&server, &message[..].try_into().expect("its form"), [4; 32]).expect("fixed keys");
    match place % 4 {
        0 => {
            let Ok(initiation) = Initiation::try_from(bytes) else { return };
            let taken = respond(&server, &initiation, [4; 32]);
            assert_eq!(taken.is_ok(), bytes == message, "only the right initiation");
        }
        1 => assert_eq!(initiator.finish(bytes).is_ok(), bytes == accepted.response, "only the right response"),
        2 => {
            let Ok(mut sender) = initiator.finish(&accepted.response) else { return };
            records(bytes, accepted.session, &mut sender);
        }
        _ => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(key) = text.parse::<NodeKey>() {
                assert_eq!(key.to_string().parse(), Ok(key), "written back");
            }
            let kinds = [text.parse::<MachineKey>().is_ok(), text.parse::<DiscoKey>().is_ok()];
            assert!(!kinds.iter().all(|k| *k), "a key has one kind");
        }
    }
}

/// Records that open are the right ones, in their order: the first `n` that the sender seals around `n, n, n…`.
#[expect(clippy::expect_used, reason = "the keys are fixed: if these fail, so shall the target")]
fn records(bytes: &[u8], mut session: Session, sender: &mut Session) {
    let (mut rest, mut right) = (bytes, [0; RECORD_MAX]);
    for n in 0u8.. {
        let Some(Ok(len)) = rest.first_chunk::<HEAD_LEN>().map(|head| record_len(*head)) else { return };
        let Some((record, after)) = rest.split_at_checked(len) else { return };
        let sealed = sender.sealer.seal(&[n; 16], &mut right).expect("sixteen bytes");
        let opened = session.opener.open(&mut record.to_vec()).map(|plain| plain.to_vec());
        assert_eq!(opened.is_ok(), *record == right[..sealed], "only the right record");
        if opened.is_err() || n == u8::MAX {
            return;
        }
        rest = after;
    }
}

/// Frames of relays: whole or in pieces the same comes out, and what is read is written back to the same. The first
/// byte says how long the pieces are.
pub fn derp(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let whole = read_derp(bytes, bytes.len().max(1));
    assert_eq!(read_derp(bytes, usize::from(*step).max(1)), whole, "in pieces");
}

fn read_derp(bytes: &[u8], step: usize) -> (Vec<String>, bool) {
    let own = NodePrivate::from_random([5; 32]);
    let (mut out, mut held) = (vec![], vec![]);
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        loop {
            let len = match derp::first(&held) {
                Err(_) => return (out, true),
                Ok(None) => break,
                Ok(Some((frame, len))) => {
                    assert!(len <= held.len() && len >= derp::HEAD_LEN);
                    if let Some(frame) = frame {
                        let mut again = vec![];
                        frame.encode(&mut again);
                        assert_eq!(derp::first(&again), Ok(Some((Some(frame), again.len()))), "written back");
                        let opened = match frame {
                            Frame::ClientInfo(key, sealed) => ClientInfo::open(sealed, &own, &key).is_ok(),
                            Frame::ServerInfo(sealed) => ServerInfo::open(sealed, &own, &own.public()).is_ok(),
                            _ => false,
                        };
                        out.push(format!("{frame:?} {opened}"));
                    }
                    len
                }
            };
            held.drain(..len);
        }
    }
    (out, false)
}

/// STUN: what is read as a question or an answer is written back to one that says the same.
pub fn stun(bytes: &[u8]) {
    if let Ok(request) = Request::try_from(bytes) {
        assert_eq!(Request::try_from(&request.encode()[..]), Ok(request), "written back");
    }
    if let Ok(response) = Response::try_from(bytes) {
        let mut out = [0; RESPONSE_MAX];
        let len = response.encode(&mut out);
        let again = Response::try_from(&out[..len]).map(|r| (r.transaction, r.mapped.ip(), r.mapped.port()));
        let mapped = response.mapped;
        assert_eq!(again, Ok((response.transaction, mapped.ip().to_canonical(), mapped.port())), "written back");
    }
}

/// What machines ask and what the store holds: never a panic, and a registry that takes any of it stays whole.
pub fn mesh_requests(bytes: &[u8]) {
    let machine = MachineKey::from_bytes([7; 32]);
    let mut registry = Registry::new(Settings::default());
    let now = 1_000_000;
    if let Ok(ask) = serde_json::from_slice::<RegisterRequest>(bytes) {
        let _ = registry.register(machine, &ask, None, "ticket", now);
        if registry.create_user("ada", None, "fuzz", now).is_ok()
            && registry.approve("ticket", "ada", "fuzz", now).is_ok()
        {
            let node = registry.nodes_of(machine).first().cloned();
            let node = node.expect("who was approved is there");
            assert!(node.name.len() <= 63 && !node.name.is_empty(), "a name is a label");
            let text = serde_json::to_vec(&*node).expect("a record is plain data");
            let again: Node = serde_json::from_slice(&text).expect("what was saved can be read");
            assert_eq!(again, *node, "saved and read");
        }
        let _ = registry.snapshot(now);
    }
    if let Ok(ask) = serde_json::from_slice::<MapRequest>(bytes) {
        let _ = registry.update(machine, &ask, now);
    }
    let _ = serde_json::from_slice::<Node>(bytes);
    let _ = serde_json::from_slice::<Names>(bytes);
}
