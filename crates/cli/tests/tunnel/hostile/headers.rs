//! Header lists that are short on the wire and long in memory (HPACK, RFC 7541): an edge that may use 1 GiB lives on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use stage::http;
use stage::upstream::Upstream;

use super::Site;

/// A HEADERS frame that ends its stream.
fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut frame = (block.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[1, 0x5]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(block);
    frame
}

/// 200 requests whose header lists are 16 times one entry of 3.9 KB; it is sent once, and named by one byte then.
fn bomb() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // `:method: GET`, `:scheme: http`, `:path: /` by their numbers; the authority as it is.
    let start = [&[0x82, 0x86, 0x84, 0x01, 9][..], b"site.test"].concat();
    // A new name, to be remembered: `x` with a value of 3,900 bytes (127 + 3,773 in 7-bit pieces).
    let entry = [&[0x40, 1, b'x', 0x7f, 0xbd, 0x1d][..], &[b'y'; 3_900]].concat();
    for i in 0..200_u32 {
        let named: &[u8] = if i == 0 { &entry } else { &[0xbe] };
        bytes.extend(headers(2 * i + 1, &[&start, named, &[0xbe; 15]].concat()));
    }
    bytes
}

/// Reads and throws away until it is over.
fn drain(mut s: TcpStream) {
    std::thread::spawn(move || while s.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
}

#[test]
fn long_lists_in_few_bytes_end_nothing() {
    // An upstream that reads and never answers, but for what others ask.
    let upstream = Upstream::serve(|mut s| {
        while let Ok(Some(head)) = http::read_head(&mut s) {
            if !head.to_lowercase().contains("\r\nx: yyyy") {
                let body =
                    if head.starts_with("GET /bytes/100000/5 ") { stage::pattern(100_000, 5) } else { Vec::new() };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if s.write_all(&[answer.as_bytes(), &body].concat()).is_err() {
                    return;
                }
            }
        }
    });
    let mut site = Site::start(upstream, &[]);
    site.edge.process.limit_memory(1 << 30);
    let bomb = bomb();
    assert!(bomb.len() < 16 * 1024, "few bytes: {}", bomb.len());
    let mut held = Vec::new();
    // From one source, and from as many as there are connections.
    for i in 0..174_u8 {
        let from = Ipv4Addr::new(127, 0, 1, if i < 87 { 1 } else { i });
        let mut s = http::tcp_from(from, site.http()).unwrap();
        // It may be hung up on.
        let _ = s.write_all(&bomb);
        drain(s.try_clone().unwrap());
        held.push(s);
    }
    site.edge.process.must_run();
    site.serves();
    let most = site.edge.process.rss_kib().max(site.before + 1);
    assert!(most < 400 * 1024, "the edge holds {most} KiB");
    for s in held {
        let _ = s.shutdown(std::net::Shutdown::Both);
    }
    site.edge.process.must_run();
    site.client.process.must_run();
    site.serves();
    // Given back: what stays is what an allocator keeps beside the connections, whatever was held at most. Not given back,
    // the header lists of a minute ago are 60 MiB and more.
    const KEPT_KIB: u64 = 40 * 1024;
    let left = || {
        let now = site.edge.process.rss_kib();
        if now < site.before + KEPT_KIB {
            Ok(now)
        } else {
            Err(format!("{now} KiB, {} before, {most} then", site.before))
        }
    };
    stage::eventually(std::time::Duration::from_secs(60), left).unwrap();
}
