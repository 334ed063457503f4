//! The relay with clients of `sim` over real sockets: packets, keys that are gone, keys that are there twice, and
//! attacks. Times are the relay's own where a test would otherwise wait for a minute.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::relay::{Limits, Relay};
use parking_lot::Mutex;
use sim::mesh::{Derp, Node, Received};
use tailnet_proto::derp::{Frame, Gone, HEAD_LEN, PACKET_MAX};
use tailnet_proto::meshkey::{NodeKey, NodePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const SOON: Duration = Duration::from_secs(5);

struct Stage {
    relay: Relay,
    address: SocketAddr,
    admitted: Arc<Mutex<BTreeSet<NodeKey>>>,
}

impl Stage {
    /// A relay that admits the nodes 0 to 9.
    async fn new(limits: Limits) -> Stage {
        let admitted = Arc::new(Mutex::new((0..10).map(|n| Node::new(n).node.public()).collect::<BTreeSet<_>>()));
        let asked = admitted.clone();
        let admit = move |key: &NodeKey| asked.lock().contains(key);
        let relay = Relay::with_limits(NodePrivate::from_random([1; 32]), admit, limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stage = Stage { relay: relay.clone(), address: listener.local_addr().unwrap(), admitted };
        tokio::spawn(async move {
            loop {
                let (io, remote) = listener.accept().await.unwrap();
                io.set_nodelay(true).unwrap();
                let relay = relay.clone();
                tokio::spawn(async move { relay.serve(io, [], remote).await });
            }
        });
        stage
    }

    async fn tcp(&self) -> TcpStream {
        let io = TcpStream::connect(self.address).await.unwrap();
        io.set_nodelay(true).unwrap();
        io
    }

    async fn node(&self, n: u64) -> Derp<TcpStream> {
        Node::new(n).relay(self.tcp().await).await.unwrap()
    }

    async fn refused(&self, at_least: u64) {
        self.until(|| self.relay.counts().refused >= at_least).await;
    }

    async fn until(&self, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < SOON, "{:?}", self.relay.counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn key(n: u64) -> NodeKey {
    Node::new(n).node.public()
}

async fn next(client: &mut Derp<TcpStream>) -> Received {
    tokio::time::timeout(SOON, client.receive()).await.expect("a frame in time").unwrap()
}

/// True once the relay has ended the connection; frames before that are passed over.
async fn ended(client: &mut Derp<TcpStream>) -> bool {
    tokio::time::timeout(SOON, async { while client.receive().await.is_ok() {} }).await.is_ok()
}

fn disco() -> Vec<u8> {
    let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
    packet.resize(100, 7);
    packet
}

#[tokio::test]
async fn packets_go_by_key_and_pings_come_back() {
    let stage = Stage::new(Limits::default()).await;
    let (mut a, mut b) = (stage.node(0).await, stage.node(1).await);
    for packet in [&b"hello"[..], b"", &[7; PACKET_MAX]] {
        a.send(&key(1), packet).await.unwrap();
        assert_eq!(next(&mut b).await, Received::Packet(key(0), packet.to_vec()));
    }
    b.send(&key(0), &disco()).await.unwrap();
    assert_eq!(next(&mut a).await, Received::Packet(key(1), disco()));
    a.sender.send(&Frame::NotePreferred(true)).await.unwrap();
    a.sender.raw(&[&[0xee, 0, 2, 0, 0][..], &[0; 0x20000]].concat()).await.unwrap();
    a.sender.send(&Frame::Ping(*b"12345678")).await.unwrap();
    assert_eq!(next(&mut a).await, Received::Pong(*b"12345678"), "behind a long frame of unknown type");
    assert!(stage.relay.has(&key(0)) && stage.relay.connections() == 2);
    let counts = stage.relay.counts();
    assert_eq!((counts.accepted, counts.refused, counts.packets_in), (2, 0, 4));
}

#[tokio::test]
async fn who_is_not_here_and_who_leaves_is_told() {
    let stage = Stage::new(Limits::default()).await;
    let (mut a, mut b) = (stage.node(0).await, stage.node(1).await);
    // Only path discovery is answered, three times at once.
    a.send(&key(5), b"no discovery").await.unwrap();
    for _ in 0..10 {
        a.send(&key(5), &disco()).await.unwrap();
    }
    a.sender.send(&Frame::Ping([1; 8])).await.unwrap();
    let mut told = 0;
    loop {
        match next(&mut a).await {
            Received::Gone(gone, Gone::NotHere) if gone == key(5) => told += 1,
            Received::Pong(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, 3);
    b.send(&key(0), b"hello").await.unwrap();
    assert_eq!(next(&mut a).await, Received::Packet(key(1), b"hello".to_vec()));
    drop(b);
    assert_eq!(next(&mut a).await, Received::Gone(key(1), Gone::Disconnected));
    assert!(!stage.relay.has(&key(1)));
}

#[tokio::test]
async fn of_two_connections_with_one_key_the_one_that_speaks_gets_the_packets() {
    let stage = Stage::new(Limits::default()).await;
    let (mut a, mut old) = (stage.node(0).await, stage.node(1).await);
    let mut new = stage.node(1).await;
    assert!(matches!(next(&mut old).await, Received::Health(problem) if problem.contains("more than once")));
    a.send(&key(1), b"to the newest").await.unwrap();
    assert_eq!(next(&mut new).await, Received::Packet(key(0), b"to the newest".to_vec()));
    old.sender.send(&Frame::Ping([2; 8])).await.unwrap();
    assert_eq!(next(&mut old).await, Received::Pong([2; 8]));
    a.send(&key(1), b"to who spoke last").await.unwrap();
    assert_eq!(next(&mut old).await, Received::Packet(key(0), b"to who spoke last".to_vec()));
    drop(new);
    assert_eq!(next(&mut old).await, Received::Health(String::new()), "one is left");
    a.send(&key(1), b"still here").await.unwrap();
    assert_eq!(next(&mut old).await, Received::Packet(key(0), b"still here".to_vec()));
    // The fifth takes the place of the first.
    let mut many = vec![];
    for _ in 0..4 {
        many.push(stage.node(1).await);
    }
    assert!(ended(&mut old).await);
    assert!(stage.relay.connections() == 5 && stage.relay.counts().same_key == 5);
}

#[tokio::test]
async fn only_admitted_keys_that_are_held_come_in_and_others_are_cut_when_it_changes() {
    let stage = Stage::new(Limits::default()).await;
    let stranger = Node::new(99).relay(stage.tcp().await).await;
    assert!(stranger.is_err(), "a key nobody admitted");
    let thief = Derp::start(stage.tcp().await, vec![], &Node::new(99).node, key(0)).await;
    assert!(thief.is_err(), "another's key");
    stage.refused(2).await;
    assert_eq!(stage.relay.connections(), 0);
    let (mut a, mut b) = (stage.node(0).await, stage.node(1).await);
    stage.admitted.lock().remove(&key(0));
    stage.relay.recheck();
    assert!(ended(&mut a).await);
    b.sender.send(&Frame::Ping([3; 8])).await.unwrap();
    assert_eq!(next(&mut b).await, Received::Pong([3; 8]), "others stay");
    assert!(Node::new(0).relay(stage.tcp().await).await.is_err());
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    stage.relay.close(minute, hour);
    assert_eq!(next(&mut b).await, Received::Restarting(minute, hour));
    assert!(ended(&mut b).await);
    stage.until(|| stage.relay.connections() == 0).await;
}

#[tokio::test]
async fn what_is_no_derp_is_cut_at_once() {
    let stage = Stage::new(Limits::default()).await;
    let mut huge = vec![0x02, 0xff, 0xff, 0xff, 0xff];
    huge.resize(64, 0);
    let mut early = vec![];
    Frame::SendPacket(key(1), b"before any introduction").encode(&mut early);
    let mut short = vec![];
    Frame::ClientInfo(key(0), &[0; 30]).encode(&mut short);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &huge, &early, &short] {
        let mut io = stage.tcp().await;
        io.write_all(bytes).await.unwrap();
        let mut came = vec![];
        // The relay's own key comes, then the end.
        let read = tokio::time::timeout(SOON, io.read_to_end(&mut came)).await.expect("cut in time");
        assert!(read.is_err() || came.len() == HEAD_LEN + 40);
    }
    stage.refused(4).await;
    for frame in [Frame::WatchConns, Frame::ClosePeer(key(1)), Frame::ForwardPacket(key(0), key(1), b"forged")] {
        let mut b = stage.node(1).await;
        let mut a = stage.node(0).await;
        a.sender.send(&frame).await.unwrap();
        assert!(ended(&mut a).await, "{frame:?}");
        b.sender.send(&Frame::Ping([4; 8])).await.unwrap();
        assert_eq!(next(&mut b).await, Received::Pong([4; 8]));
    }
    let mut a = stage.node(0).await;
    a.sender.raw(&[0x04, 0, 1, 0, 0x21]).await.unwrap();
    assert!(ended(&mut a).await, "a packet that is too long");
}

#[tokio::test]
async fn who_does_not_read_costs_itself_only() {
    let stage = Stage::new(Limits { bytes_per_second: None, ..Limits::default() }).await;
    let (mut a, _deaf, mut c) = (stage.node(0).await, stage.node(1).await, stage.node(2).await);
    // Far more than sockets and outbox hold.
    for _ in 0..30_000 {
        a.send(&key(1), &[0; 1400]).await.unwrap();
    }
    let start = Instant::now();
    a.send(&key(2), b"not held up").await.unwrap();
    assert_eq!(next(&mut c).await, Received::Packet(key(0), b"not held up".to_vec()));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(stage.relay.counts().dropped_full > 1000, "{:?}", stage.relay.counts());
    // It takes nothing, so it is cut.
    let start = Instant::now();
    while stage.relay.has(&key(1)) {
        assert!(start.elapsed() < Duration::from_secs(15));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn who_sends_too_fast_is_read_slower() {
    let limits = Limits { bytes_per_second: Some(1 << 20), burst: 64 << 10, ..Limits::default() };
    let stage = Stage::new(limits).await;
    let (mut a, mut b) = (stage.node(0).await, stage.node(1).await);
    let reading = tokio::spawn(async move { b.receiver.count(700).await });
    let start = Instant::now();
    for _ in 0..700 {
        a.send(&key(1), &[0; 1400]).await.unwrap();
    }
    // On a busy machine some are dropped for a reader that is late; they are read all the same.
    stage.until(|| stage.relay.counts().packets_in >= 700).await;
    let took = start.elapsed();
    reading.abort();
    assert!(took > Duration::from_millis(600), "a megabyte came in {took:?}");
    assert!(stage.relay.counts().slowed > 0);
}

#[tokio::test]
async fn a_full_relay_and_silent_strangers_do_not_harm_clients() {
    let stage = Stage::new(Limits { clients: 2, ..Limits::default() }).await;
    let mut silent = vec![];
    for _ in 0..164 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(stage.address).await.unwrap());
    }
    // From one address 128 may be silent, the others are refused at once.
    stage.refused(36).await;
    let (mut a, mut b) = (stage.node(0).await, stage.node(1).await);
    assert!(Node::new(2).relay(stage.tcp().await).await.is_err());
    a.send(&key(1), b"works").await.unwrap();
    assert_eq!(next(&mut b).await, Received::Packet(key(0), b"works".to_vec()));
    stage.until(|| stage.relay.counts().accepted == 167).await;
    // Silent ones are gone after ten seconds.
    let start = Instant::now();
    while stage.relay.counts().refused < 165 {
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", stage.relay.counts());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
