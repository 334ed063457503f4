//! Attacks on a running coordination server: handshakes that are cut, changed, repeated; frames and bodies that are too
//! long; keys of others, keys that are over, nodes nobody approved; relay clients that lie, listen badly or flood. In:
//! the built program. Each attack is refused, its cost is bounded, honest nodes go on, and the log says what happened.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use serde_json::json;
use sim::mesh::{Channel, Derp, MapStream, Node, Received, VERSION, read_head};
use stage::command::Server;
use stage::control::Control;
use tailnet_proto::derp::Frame;
use tailnet_proto::meshkey::NodeKey;
use tailnet_proto::noise::{INITIATION_LEN, Initiator};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::server::Reached;

/// Longest that anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What an attack may add to the memory of the process, in KiB.
const MEMORY: u64 = 64 * 1024;

impl Reached {
    fn auth_key(&self, how: &[&str]) -> String {
        Control::key(self, "eve", how)
    }

    fn node_count(&self) -> usize {
        self.json(&["nodes", "list"])["nodes"].as_array().unwrap().len()
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.data().join("control-audit.jsonl")).unwrap_or_default()
    }

    /// A registered node with its map stream.
    async fn member(&self, n: u64, auth: &str) -> Member {
        let node = Node::new(n);
        let mut channel = node.connect(self.addr, &self.key).await.unwrap();
        channel.register(auth).await.unwrap();
        let mut map = channel.map().await.unwrap();
        let first = in_time(map.news()).await.unwrap();
        assert!(first["Node"].is_object(), "{first}");
        Member { node, channel, map }
    }

    async fn tcp(&self) -> TcpStream {
        let io = TcpStream::connect(self.addr).await.unwrap();
        io.set_nodelay(true).unwrap();
        io
    }

    async fn relay(&self, node: &Node) -> Result<Derp<TcpStream>, String> {
        in_time(node.relay_over_http(self.tcp().await, "relay")).await.map_err(|e| format!("{e:#}"))
    }

    /// Sends bytes and reads until the server hangs up or answers with a whole head.
    async fn ask(&self, bytes: &[u8]) -> String {
        let mut io = self.tcp().await;
        // It may hang up before it has taken everything.
        let _ = io.write_all(bytes).await;
        in_time(read_head(&mut io)).await.map_or_else(|e| format!("{e:#}"), |(head, _)| head)
    }

    /// An honest node can still do everything; the process lives and has not grown.
    async fn is_well(&mut self, before: u64) {
        self.process.must_run();
        let auth = self.auth_key(&[]);
        let mut node = self.member(7777, &auth).await;
        let map = node.channel.post("/machine/map", &node.node.map_request(false)).await.unwrap();
        assert_eq!(map.0, 200);
        let grown = self.process.rss_kib().saturating_sub(before);
        assert!(grown < MEMORY, "the process has grown by {grown} KiB");
    }
}

struct Member {
    node: Node,
    channel: Channel,
    map: MapStream,
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("not in time")
}

/// A handshake's HTTP request around these bytes.
fn upgrade(initiation: &str) -> Vec<u8> {
    format!(
        "POST /ts2021 HTTP/1.1\r\nHost: control\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\
         X-Tailscale-Handshake: {initiation}\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = char::from(LETTERS[(n >> (18 - 6 * i)) as usize & 63]);
            out.push(if i <= three.len() { letter } else { '=' });
        }
    }
    out
}

/// Keeps what is sent, for whoever wants to send it again.
struct Recorder {
    io: TcpStream,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recorder {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.sent.lock().unwrap().extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn handshakes_that_are_cut_changed_or_for_another_key() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let node = Node::new(1);
    let good = Initiator::start(&node.machine, &control.key, VERSION, [3; 32]).unwrap().1;
    let refused = |head: &str| head.starts_with("HTTP/1.1 400");
    for cut in [0, 1, 4, 5, 37, 85, INITIATION_LEN - 1] {
        let head = control.ask(&upgrade(&base64(&good[..cut]))).await;
        assert!(refused(&head), "cut at {cut}: {head}");
    }
    for byte in [0, 1, 2, 3, 4, 5, 36, 37, 84, 85, 100] {
        let mut changed = good;
        changed[byte] ^= 1;
        let head = control.ask(&upgrade(&base64(&changed))).await;
        assert!(refused(&head), "byte {byte} changed: {head}");
    }
    let other = Node::new(2).machine.public();
    let foreign = Initiator::start(&node.machine, &other, VERSION, [3; 32]).unwrap().1;
    assert!(refused(&control.ask(&upgrade(&base64(&foreign))).await));
    assert!(refused(&control.ask(&upgrade("no base64!")).await));
    assert!(refused(&control.ask(&upgrade(&"A".repeat(10_000))).await));
    // Longer than a head may be.
    let head = control.ask(&upgrade(&"A".repeat(20_000))).await;
    assert!(head.starts_with("HTTP/1.1 431"), "{head}");
    let head = control.ask(b"GET /ts2021 HTTP/1.1\r\nHost: control\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 426"), "{head}");
    let old = Initiator::start(&node.machine, &control.key, 50, [3; 32]).unwrap().1;
    assert!(refused(&control.ask(&upgrade(&base64(&old))).await), "a client from long ago");
    let long = [b"GET /key HTTP/1.1\r\nX-Long: ", &b"a".repeat(200_000)[..]].concat();
    let head = control.ask(&long).await;
    assert!(!head.starts_with("HTTP/1.1 2"), "{head}");
    assert_eq!(control.node_count(), 0);
    control.is_well(before).await;
}

#[tokio::test]
async fn a_whole_session_sent_again_does_nothing() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let auth = control.auth_key(&["--reusable"]);
    let sent = Arc::new(Mutex::new(vec![]));
    let node = Node::new(1);
    let io = Recorder { io: control.tcp().await, sent: sent.clone() };
    let mut channel = node.connect_over(io, "control", &control.key).await.unwrap();
    channel.register(&auth).await.unwrap();
    assert_eq!(control.node_count(), 1);
    let id = control.ok(&["nodes", "list", "--json"]);
    assert!(id.contains(&node.name), "{id}");
    control.ok(&["nodes", "delete", &node.name]);
    assert_eq!(control.node_count(), 0);
    let recorded = sent.lock().unwrap().clone();
    for _ in 0..3 {
        let mut io = control.tcp().await;
        io.write_all(&recorded).await.unwrap();
        let (head, mut came) = in_time(read_head(&mut io)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        // The handshake alone can be repeated; its records open for nobody, so the server hangs up.
        let _ = in_time(io.read_to_end(&mut came)).await;
        assert!(came.len() < 4096, "{} bytes came", came.len());
    }
    assert_eq!(control.node_count(), 0, "a registration was repeated");
    control.is_well(before).await;
}

#[tokio::test]
async fn records_and_bodies_that_are_too_long_or_no_http() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let node = Node::new(1);
    for bytes in [&[4, 0xff, 0xff, 0, 0][..], &[4, 0, 3, 1, 2, 3], &[9, 0, 40], &[4, 0, 40, 0]] {
        let (mut io, _, mut came) = node.handshake(control.tcp().await, "control", &control.key).await.unwrap();
        io.write_all(bytes).await.unwrap();
        io.shutdown().await.unwrap();
        let _ = in_time(io.read_to_end(&mut came)).await;
        assert!(came.len() < 4096, "{} bytes came", came.len());
    }
    // Sealed as it should be, and yet no HTTP/2.
    let (mut io, mut session, mut came) = node.handshake(control.tcp().await, "control", &control.key).await.unwrap();
    let mut record = [0; 4096];
    for _ in 0..100 {
        let len = session.sealer.seal(&[b'x'; 4000], &mut record).unwrap();
        if io.write_all(&record[..len]).await.is_err() {
            break;
        }
    }
    let _ = in_time(io.read_to_end(&mut came)).await;
    let mut channel = node.connect(control.addr, &control.key).await.unwrap();
    for path in ["/machine/register", "/machine/map"] {
        let status = channel.send("POST", path, vec![b' '; 600 * 1024]).await.map(|(status, _)| status);
        assert!(status.as_ref().map_or(true, |s| *s == 413), "{path}: {status:?}");
        channel = node.connect(control.addr, &control.key).await.unwrap();
        let (status, answer) = channel.post(path, &json!({ "Version": "not a number" })).await.unwrap();
        assert_eq!(status, 400, "{answer}");
        let deep = [b"[".repeat(50_000), b"]".repeat(50_000)].concat();
        // Too long or too deep, whichever the server sees first.
        let status = channel.send("POST", path, deep).await.unwrap().0;
        assert!([400, 413].contains(&status), "{path}: {status}");
    }
    assert_eq!(channel.post("/machine/unheard-of", &json!({})).await.unwrap().0, 501);
    assert_eq!(control.node_count(), 0);
    control.is_well(before).await;
}

#[tokio::test]
async fn the_keys_of_others() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let auth = control.auth_key(&["--reusable"]);
    let (alice, mut eve) = (control.member(1, &auth).await, control.member(2, &auth).await);
    let mut stolen = eve.node.map_request(true);
    stolen["NodeKey"] = json!(alice.node.node.public());
    let map = eve.channel.map_with(&stolen).await.map(|_| ()).unwrap_err();
    assert!(map.to_string().contains("404"), "{map:#}");
    let mut stolen = eve.node.register_request(&auth);
    stolen["NodeKey"] = json!(alice.node.node.public());
    let (_, answer) = eve.channel.post("/machine/register", &stolen).await.unwrap();
    assert!(answer["Error"].as_str().is_some_and(|e| e.contains("another machine")), "{answer}");
    let mut stolen = Node::new(3).register_request("");
    stolen["OldNodeKey"] = json!(alice.node.node.public());
    let (_, answer) = eve.channel.post("/machine/register", &stolen).await.unwrap();
    assert_ne!(answer["MachineAuthorized"], true, "another's old key: {answer}");
    assert!(control.audit().contains("key-of-another"), "{}", control.audit());
    assert_eq!(control.node_count(), 2);
    let thief = in_time(async {
        let mut io = control.tcp().await;
        io.write_all(b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n").await.unwrap();
        let (_, came) = read_head(&mut io).await.unwrap();
        Derp::start(io, came, &eve.node.node, alice.node.node.public()).await.map(|_| ())
    });
    assert!(thief.await.is_err(), "the relay takes another's key");
    control.is_well(before).await;
}

#[tokio::test]
async fn keys_that_are_over_and_keys_that_are_good_once() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let short = control.auth_key(&["--reusable", "--expiry", "1s"]);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut refused = Node::new(1).connect(control.addr, &control.key).await.unwrap();
    let no = refused.register(&short).await.unwrap_err().to_string();
    assert!(no.contains("expired"), "{no}");
    for wrong in ["", "tskey-auth-wrong", &format!("{short}x"), &"k".repeat(100_000)] {
        let mut channel = Node::new(1).connect(control.addr, &control.key).await.unwrap();
        assert!(channel.register(wrong).await.is_err(), "{wrong:.20}");
    }
    assert_eq!(control.node_count(), 0);
    // Many at once with a key that is good for one.
    let once = control.auth_key(&[]);
    let mut racing = tokio::task::JoinSet::new();
    for n in 10..30 {
        let (addr, key, once) = (control.addr, control.key, once.clone());
        racing.spawn(async move {
            let mut channel = Node::new(n).connect(addr, &key).await.unwrap();
            channel.register(&once).await.is_ok()
        });
    }
    let entered = in_time(racing.join_all()).await.into_iter().filter(|in_| *in_).count();
    assert_eq!((entered, control.node_count()), (1, 1));
    control.is_well(before).await;
}

#[tokio::test]
async fn nodes_that_nobody_approved_or_whose_time_is_over() {
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let node = Node::new(1);
    let mut channel = node.connect(control.addr, &control.key).await.unwrap();
    let map = channel.map().await.map(|_| ()).unwrap_err();
    assert!(map.to_string().contains("404"), "never registered: {map:#}");
    let (_, answer) = channel.post("/machine/register", &node.register_request("")).await.unwrap();
    assert!(answer["AuthURL"].as_str().is_some_and(|u| u.contains("/register/")), "{answer}");
    assert_ne!(answer["MachineAuthorized"], true);
    let map = channel.map().await.map(|_| ()).unwrap_err();
    assert!(map.to_string().contains("404"), "waits for approval: {map:#}");
    assert!(control.relay(&node).await.is_err(), "the relay takes a node that waits");
    assert_eq!(control.node_count(), 0);
    // Many that wait do not fill anything up.
    for n in 100..400 {
        let stranger = Node::new(n);
        let mut channel = stranger.connect(control.addr, &control.key).await.unwrap();
        let _ = channel.post("/machine/register", &stranger.register_request("")).await.unwrap();
    }
    let auth = control.auth_key(&["--reusable"]);
    let mut member = control.member(2, &auth).await;
    let mut relayed = control.relay(&member.node).await.unwrap();
    control.ok(&["nodes", "expire", &member.node.name]);
    let cut = in_time(async { while relayed.receive().await.is_ok() {} });
    cut.await;
    assert!(control.relay(&member.node).await.is_err(), "the relay takes a node whose time is over");
    // Its map says so, or ends.
    let told = in_time(async {
        loop {
            match member.map.next().await {
                Ok(Some(message)) if message["Node"]["KeyExpiry"].is_string() => return true,
                Ok(Some(_)) => {}
                _ => return true,
            }
        }
    });
    assert!(told.await);
    control.is_well(before).await;
}

#[tokio::test]
async fn relay_clients_that_flood_lie_or_do_not_read() {
    let _turn = stage::shared();
    let mut control = Reached::with(&[]).await;
    let before = control.process.rss_kib();
    let auth = control.auth_key(&["--reusable"]);
    let mut members = vec![];
    for n in 1..=4 {
        members.push(control.member(n, &auth).await);
    }
    let key = |n: usize| -> NodeKey { members[n].node.node.public() };
    let mut flooder = control.relay(&members[0].node).await.unwrap();
    let _deaf = control.relay(&members[1].node).await.unwrap();
    let (mut c, mut d) =
        (control.relay(&members[2].node).await.unwrap(), control.relay(&members[3].node).await.unwrap());
    let to = key(1);
    let flood = tokio::spawn(async move {
        let mut batch = vec![];
        (0..100).for_each(|_| Frame::SendPacket(to, &[0; 1400]).encode(&mut batch));
        (0..100).for_each(|_| Frame::Ping([0; 8]).encode(&mut batch));
        // Until it is cut, or for two hundred megabytes; its own answers are not read either.
        for _ in 0..1400 {
            if flooder.sender.raw(&batch).await.is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    for i in 0..50u8 {
        c.send(&key(3), &[i; 100]).await.unwrap();
        assert_eq!(in_time(d.receive()).await.unwrap(), Received::Packet(key(2), vec![i; 100]));
    }
    assert!(start.elapsed() < SOON, "others waited {:?}", start.elapsed());
    let grown = control.process.rss_kib().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB more under the flood");
    flood.abort();
    let stranger = Node::new(99);
    for _ in 0..200 {
        assert!(control.relay(&stranger).await.is_err(), "a key nobody knows");
    }
    for frame in [Frame::WatchConns, Frame::ClosePeer(key(3)), Frame::ForwardPacket(key(2), key(3), b"forged")] {
        let mut own = control.relay(&members[0].node).await.unwrap();
        own.sender.send(&frame).await.unwrap();
        in_time(async { while own.receive().await.is_ok() {} }).await;
    }
    c.send(&key(3), b"still here").await.unwrap();
    assert_eq!(in_time(d.receive()).await.unwrap(), Received::Packet(key(2), b"still here".to_vec()));
    let log = control.process.output();
    let lines = log.lines().filter(|l| l.contains("relay: connection refused")).count();
    assert!((1..=60).contains(&lines), "{lines} lines about 200 refusals");
    control.is_well(before).await;
}

#[tokio::test]
async fn the_relay_speaks_tls_with_the_certificate_that_its_map_pins() {
    let control = Reached::with(&[]).await;
    let auth = control.auth_key(&["--reusable"]);
    let node = Node::new(1);
    let mut channel = node.connect(control.addr, &control.key).await.unwrap();
    channel.register(&auth).await.unwrap();
    let mut map = channel.map().await.unwrap();
    let first = in_time(map.news()).await.unwrap();
    let relay = &first["DERPMap"]["Regions"]["900"]["Nodes"][0];
    let (host, port) = (relay["HostName"].as_str().unwrap(), relay["DERPPort"].as_u64().unwrap());
    assert_eq!(port, u64::from(control.addr.port()), "{relay}");
    let (io, shown) = sim::mesh::tls(control.tcp().await, host).await.unwrap();
    assert_eq!(relay["CertName"].as_str().unwrap(), format!("sha256-raw:{shown}"));
    let mut derp = node.relay_over_http(io, host).await.unwrap();
    derp.sender.send(&Frame::Ping(*b"over tls")).await.unwrap();
    assert_eq!(in_time(derp.receive()).await.unwrap(), Received::Pong(*b"over tls"));
}
