//! Strangers at a coordination server: nobody gave them anything, and they take what they can: places, memory, pages,
//! other people's addresses. In: the built program. Each is bounded by where it comes from, and others go on.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use sim::mesh::{Node, read_head};
use stage::command::{Server, binary};
use stage::control::Control;
use tailnet_proto::noise::{RECORD_MAX, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::server::Reached;

const PROXY: &str = "127.0.0.8";

/// Longest that anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

impl Reached {
    /// A server that was started with so many files, as a shell starts it.
    async fn with_files(files: u32) -> Reached {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -Sn {files}; exec \"$0\" \"$@\""), binary()]);
        Reached::by(command, &["--trusted-proxies", PROXY]).await
    }

    async fn behind_proxy() -> Reached {
        Reached::with_files(1024).await
    }

    async fn from(&self, source: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        socket.connect(self.addr).await.unwrap()
    }

    async fn get(&self, path: &str) -> (String, String) {
        let mut io = TcpStream::connect(self.addr).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n");
        io.write_all(ask.as_bytes()).await.unwrap();
        let (head, mut body) = in_time(read_head(&mut io)).await.unwrap();
        in_time(io.read_to_end(&mut body)).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    async fn answers(&mut self) {
        self.process.must_run();
        let (head, _) = self.get("/health").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("not in time")
}

#[tokio::test]
async fn one_address_does_not_use_up_the_files_of_the_process() {
    let _turn = stage::shared();
    let mut control = Reached::with_files(256).await;
    let mut held = vec![];
    for _ in 0..600 {
        held.push(TcpStream::connect(control.addr).await.unwrap());
    }
    control.answers().await;
    control.ok(&["users", "list"]);
}

#[tokio::test]
async fn a_flood_of_pages_from_one_address_leaves_those_of_others() {
    let _turn = stage::shared();
    let mut control = Reached::behind_proxy().await;
    let honest = Node::new(1);
    let mut channel = honest.connect_over(control.from("127.0.0.9").await, "c", &control.key).await.unwrap();
    let (_, answer) = channel.post("/machine/register", &honest.register_request("")).await.unwrap();
    let url = answer["AuthURL"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let ticket = url.rsplit('/').next().unwrap().to_string();
    let mut last = String::new();
    for n in 100..220 {
        let stranger = Node::new(n);
        let mut channel = stranger.connect(control.addr, &control.key).await.unwrap();
        let mut request = stranger.register_request("");
        request["Hostinfo"]["Hostname"] = json!("<script>alert(1)</script>\u{1b}[2J\r\nwaits");
        request["Hostinfo"]["RequestTags"] = json!(["tag:<b>router"]);
        let (_, answer) = channel.post("/machine/register", &request).await.unwrap();
        last = answer["AuthURL"].as_str().unwrap_or_else(|| panic!("{answer}")).to_string();
    }
    let waiting = control.json(&["nodes", "list"])["waiting"].as_array().unwrap().len();
    assert!((2..=51).contains(&waiting), "{waiting} wait");
    let (head, page) = control.get(&format!("/register/{}", last.rsplit('/').next().unwrap())).await;
    assert!(head.starts_with("HTTP/1.1 200") && !page.contains("<script>"), "{head}{page}");
    assert!(page.contains("asks for <b>tag:&lt;b&gt;router</b>"), "{page}");
    let list = control.ok(&["nodes", "list"]);
    assert!(list.contains("asks for tag:<b>router"), "{list}");
    assert!(!list.contains('\u{1b}') && !list.contains('\r'), "{list:?}");
    control.ok(&["nodes", "approve", &ticket, "--user", "eve"]);
    control.answers().await;
}

#[tokio::test]
async fn what_a_stranger_says_about_its_address_is_not_believed() {
    let control = Reached::behind_proxy().await;
    let auth = Control::key(&control, "eve", &[]);
    let node = Node::new(1);
    let host = "c\r\nX-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\nX-Real-IP: 203.0.113.7";
    let mut channel = node.connect_over(control.from("127.0.0.9").await, host, &control.key).await.unwrap();
    channel.register(&auth).await.unwrap();
    let mut map = channel.map().await.unwrap();
    in_time(map.news()).await.unwrap();
    let shown = &control.json(&["nodes", "list"])["nodes"][0];
    assert_eq!(shown["comes_from"], "127.0.0.9", "{shown}");
}

#[tokio::test]
async fn a_member_has_a_few_channels_and_the_newest_are_the_ones_that_live() {
    let mut control = Reached::behind_proxy().await;
    let auth = Control::key(&control, "eve", &[]);
    let node = Node::new(1);
    let mut channels = vec![];
    for i in 0..40 {
        let mut channel = node.connect(control.addr, &control.key).await.unwrap();
        if i == 0 {
            channel.register(&auth).await.unwrap();
        }
        let map = channel.map().await.unwrap();
        channels.push((channel, map));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut living = vec![];
    for (i, (channel, _)) in channels.iter_mut().enumerate() {
        if in_time(channel.post("/machine/map", &node.map_request(false))).await.is_ok() {
            living.push(i);
        }
    }
    assert_eq!(living, (32..40).collect::<Vec<_>>(), "the newest live");
    in_time(channels[39].1.news()).await.unwrap();
    control.answers().await;
}

#[tokio::test]
async fn headers_that_contradict_each_other_are_refused_and_fill_no_log() {
    let mut control = Reached::behind_proxy().await;
    let twice = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2";
    let other = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.2";
    for i in 0..100 {
        let mut io = control.from(PROXY).await;
        let said = [twice, other, "X-Forwarded-For: nobody"][i % 3];
        io.write_all(format!("GET /key?v=130 HTTP/1.1\r\nHost: c\r\n{said}\r\n\r\n").as_bytes()).await.unwrap();
        let (head, _) = in_time(read_head(&mut io)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 400"), "{said}: {head}");
    }
    let lines = control.process.output().lines().filter(|l| l.contains("X-Forwarded-For")).count();
    assert!((1..=40).contains(&lines), "{lines} lines about 100 requests");
    control.answers().await;
}

/// HTTP/2 by hand, inside a control channel: for what no library sends.
struct Raw {
    out: mpsc::Sender<Vec<u8>>,
    over: mpsc::Receiver<()>,
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

impl Raw {
    async fn open(control: &Reached, n: u64) -> Raw {
        Raw::try_open(control, n, "127.0.0.1").await.unwrap()
    }

    /// Nothing if the server has no place for it.
    async fn try_open(control: &Reached, n: u64, source: &str) -> Option<Raw> {
        let node = Node::new(n);
        let (io, session, came) = node.handshake(control.from(source).await, "c", &control.key).await.ok()?;
        let (mut read, mut write) = tokio::io::split(io);
        let (out, mut queue) = mpsc::channel::<Vec<u8>>(4);
        let (tell, over) = mpsc::channel(1);
        tokio::spawn(async move {
            // What comes is read and not looked at.
            let mut came = came;
            while read.read_buf(&mut came).await.is_ok_and(|n| n > 0) {
                came.clear();
            }
            drop(tell);
        });
        tokio::spawn(async move {
            let Session { mut sealer, .. } = session;
            let mut record = [0; RECORD_MAX];
            while let Some(bytes) = queue.recv().await {
                for piece in bytes.chunks(4000) {
                    let len = sealer.seal(piece, &mut record).unwrap();
                    if write.write_all(&record[..len]).await.is_err() {
                        return;
                    }
                }
            }
            // Whoever drops it hangs up.
            let _ = write.shutdown().await;
        });
        let raw = Raw { out, over };
        raw.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat()).await;
        Some(raw)
    }

    /// False once the server has hung up.
    async fn send(&self, bytes: Vec<u8>) -> bool {
        tokio::time::timeout(SOON, self.out.send(bytes)).await.is_ok_and(|sent| sent.is_ok())
    }

    async fn ends(mut self) -> bool {
        tokio::time::timeout(SOON, self.over.recv()).await.is_ok()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed, name and value as they are (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |t: &str| [&[u8::try_from(t.len()).unwrap()], t.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

fn request(path: &str) -> Vec<u8> {
    [field(":method", "POST"), field(":scheme", "https"), field(":authority", "c"), field(":path", path)].concat()
}

#[tokio::test]
async fn half_sent_requests_of_one_stranger_fill_no_memory() {
    let _turn = stage::shared();
    /// As much as fits into the window that a stream starts with, less than a stranger's longest request.
    const PART: usize = 31 * 1024;
    const CHANNELS: u64 = 100;
    let mut control = Reached::behind_proxy().await;
    let mut held = vec![];
    for n in 0..CHANNELS {
        held.push(Raw::open(&control, 1_000 + n).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = control.process.rss_kib();
    // One after the other on each channel, so that its window opens again in between when requests are read at once.
    for i in 0..14u32 {
        for raw in &held {
            let stream = 2 * i + 1;
            let mut bytes = frame(HEADERS, 4, stream, &request("/machine/register"));
            for piece in vec![b' '; PART].chunks(8 * 1024) {
                bytes.extend(frame(0, 0, stream, piece));
            }
            raw.send(bytes).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let each = control.process.rss_kib().saturating_sub(before) / CHANNELS;
    println!("{each} KiB a channel");
    assert!(each < 256, "{each} KiB a channel");
    drop(held);
    control.answers().await;
}

/// Nine sources that share what strangers may have, each with far more channels than it gets, all of them filled.
#[tokio::test]
async fn channels_of_many_strangers_neither_end_the_server_nor_lock_out_who_was_there() {
    let _turn = stage::shared();
    const CHANNELS: u64 = 573;
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -Sv {}; exec \"$0\" \"$@\"", 1 << 20), binary()]);
    let mut control = Reached::by(command, &[]).await;
    let auth = Control::key(&control, "eve", &[]);
    let node = Node::new(1);
    let mut channel = node.connect_over(control.from("127.0.0.50").await, "c", &control.key).await.unwrap();
    channel.register(&auth).await.unwrap();
    drop(channel);
    let before = control.process.rss_kib();
    let mut held = vec![];
    for n in 0..9 * CHANNELS {
        let source = format!("127.0.1.{}", 1 + n % 9);
        let Some(raw) = Raw::try_open(&control, 1_000 + n, &source).await else { continue };
        for stream in [1u32, 3, 5, 7] {
            let mut bytes = frame(HEADERS, 4, stream, &request("/machine/register"));
            for piece in vec![b' '; 15 * 1024].chunks(8 * 1024) {
                bytes.extend(frame(0, 0, stream, piece));
            }
            raw.send(bytes).await;
        }
        held.push(raw);
    }
    let (open, full) = (held.len(), control.process.rss_kib());
    println!("{open} channels of {}; {before} KiB before, {full} KiB then", 9 * CHANNELS);
    assert!((200..1_600).contains(&open), "{open} channels are open");
    assert!(full < 400 * 1024, "{full} KiB");
    control.process.must_run();
    // A node of before is let in again, whatever strangers hold.
    let mut channel = node.connect_over(control.from("127.0.0.50").await, "c", &control.key).await.unwrap();
    in_time(channel.post("/machine/map", &node.map_request(false))).await.unwrap();
    drop(held);
    let start = Instant::now();
    while control.process.rss_kib() > before + 32 * 1024 {
        assert!(start.elapsed() < SOON, "{} KiB are not given back", control.process.rss_kib());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{} KiB after", control.process.rss_kib());
    control.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_behind_one_address_are_no_strangers_of_it() {
    const NODES: u64 = 2_300;
    let mut control = Reached::behind_proxy().await;
    let policy = control.data().join("policy.hujson");
    std::fs::write(&policy, r#"{"grants": []}"#).unwrap();
    control.ok(&["policy", "set", policy.to_str().unwrap()]);
    let auth = Control::key(&control, "eve", &["--reusable"]);
    let (addr, key) = (control.addr, control.key);
    let mut held = vec![];
    let mut joining = tokio::task::JoinSet::new();
    for n in 0..NODES {
        let auth = auth.clone();
        joining.spawn(async move {
            let node = Node::new(5_000 + n);
            let mut channel = node.connect(addr, &key).await?;
            channel.register(&auth).await?;
            anyhow::Ok(channel)
        });
        while joining.len() >= 32 {
            held.push(joining.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    while let Some(joined) = joining.join_next().await {
        held.push(joined.unwrap().unwrap());
    }
    assert_eq!(held.len() as u64, NODES);
    let answer = in_time(held[0].post("/machine/ssh/check", &json!({}))).await.unwrap();
    assert_eq!(answer.0, 501, "the first is still there: {answer:?}");
    control.answers().await;
}

#[tokio::test]
async fn a_proxy_that_takes_the_upgrade_out_is_named_once() {
    let mut control = Reached::behind_proxy().await;
    for i in 0..20 {
        let mut io = control.from(PROXY).await;
        let part = if i % 2 == 0 { "" } else { "Upgrade: tailscale-control-protocol\r\n" };
        let ask = format!(
            "POST /ts2021 HTTP/1.1\r\nHost: c\r\n{part}X-Tailscale-Handshake: AAAA\r\nContent-Length: 0\r\n\r\n"
        );
        io.write_all(ask.as_bytes()).await.unwrap();
        let (head, _) = in_time(read_head(&mut io)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 426"), "{head}");
    }
    let output = control.process.output();
    let lines: Vec<&str> =
        output.lines().filter(|l| l.contains("WARN") && l.contains("a client cannot connect")).collect();
    assert_eq!(lines.len(), 1, "{output}");
    assert!(lines[0].contains(PROXY) && lines[0].contains("proxy_set_header Upgrade"), "{}", lines[0]);
    // A browser that strays there is no sign of anything.
    assert!(control.get("/ts2021").await.0.starts_with("HTTP/1.1 426"));
    control.answers().await;
}

#[tokio::test]
async fn requests_that_are_taken_back_and_heads_without_end_are_cut() {
    let mut control = Reached::behind_proxy().await;
    let before = control.process.rss_kib();
    let taken_back = Raw::open(&control, 1).await;
    let start = Instant::now();
    for i in 0..50_000u32 {
        let stream = 2 * i + 1;
        let mut bytes = frame(HEADERS, 4, stream, &request("/machine/map"));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        if !taken_back.send(bytes).await || start.elapsed() > SOON {
            break;
        }
    }
    assert!(taken_back.ends().await, "requests are taken back for ever");
    let endless = Raw::open(&control, 2).await;
    endless.send(frame(HEADERS, 0, 1, &request("/machine/map"))).await;
    let more = field("x", &"y".repeat(100)).repeat(20);
    for _ in 0..20_000 {
        if !endless.send(frame(CONTINUATION, 0, 1, &more)).await {
            break;
        }
    }
    assert!(endless.ends().await, "a head goes on for ever");
    let grown = control.process.rss_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    control.answers().await;
}
