//! The file server over its socket: what it sends, what it refuses, and that nothing leads out of the folder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{List, ViewBuilder};
use addr::AddrSet;
use fileserver::{FilesSettings, start};
use net::secret::TokenHash;
use runtime::admission::Admission;
use runtime::run::Run;
use stage::Dir;

struct Server {
    addr: SocketAddr,
    dir: Dir,
    admission: Arc<Admission>,
    run: Run,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    fn new(allow_browsing: bool, token: Option<&str>) -> Server {
        let dir = Dir::new("files");
        std::fs::create_dir_all(dir.at("root/sub dir")).unwrap();
        std::fs::create_dir_all(dir.at("root/site")).unwrap();
        std::fs::write(dir.at("secret.txt"), "secret").unwrap();
        let root = dir.at("root");
        std::fs::write(root.join("digits.txt"), "0123456789").unwrap();
        std::fs::write(root.join("page.html"), "<p>hi").unwrap();
        std::fs::write(root.join("README"), "plain words, höflich\n").unwrap();
        std::fs::write(root.join("noise"), [0, 1, 2, 255]).unwrap();
        std::fs::write(root.join("sub dir/a&b.txt"), "ab").unwrap();
        std::fs::write(root.join("site/index.html"), "<h1>site").unwrap();
        std::fs::write(root.join(".hidden"), "h").unwrap();
        let settings = FilesSettings {
            webroot: root,
            allow_browsing,
            token: token.map(TokenHash::of),
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (admission, run) = (Admission::new(), Run::new(Duration::from_secs(5)));
        let addr = runtime.block_on(start(settings, admission.clone(), &run)).unwrap().addr;
        let server = Server { addr, dir, admission, run, runtime };
        server.allow("127.0.0.0/8");
        server
    }

    fn allow(&self, text: &str) {
        let mut view = ViewBuilder::default();
        let set = AddrSet::new(addr::parse_list(text).unwrap().prefixes);
        view.add(List { name: "data".into(), set, source: "test".into() });
        self.admission.publish(view.build(self.admission.view().generation + 1));
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.at("root").join(name)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Status, head and body of one request on a connection of its own.
    fn ask(&self, line: &str, fields: &str) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        write!(stream, "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let end = got.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(got[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        (status, head, got.split_off(end))
    }

    fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        self.ask(&format!("GET {path}"), "")
    }

    fn text(&self, path: &str) -> String {
        let (status, head, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {head}");
        String::from_utf8(body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run.stop();
        let _ = &self.runtime;
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

/// Tests that measure the memory of this process, one at a time.
static MEASURING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Resident memory of this process in MiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_048_576
}

#[test]
fn sends_files_with_what_is_known_of_them() {
    let server = Server::new(true, None);
    let (status, head, body) = server.get("/digits.txt");
    assert_eq!((status, body.as_slice()), (200, &b"0123456789"[..]));
    assert_eq!(field(&head, "content-length"), Some("10"));
    assert_eq!(field(&head, "accept-ranges"), Some("bytes"));
    assert_eq!(field(&head, "x-content-type-options"), Some("nosniff"));
    assert!(field(&head, "etag").unwrap().starts_with('"'));
    assert!(field(&head, "last-modified").unwrap().ends_with(" GMT"));
    for (path, kind) in [
        ("/digits.txt", "text/plain; charset=utf-8"),
        ("/page.html", "text/html; charset=utf-8"),
        ("/README", "text/plain; charset=utf-8"),
        ("/noise", "application/octet-stream"),
    ] {
        assert_eq!(field(&server.get(path).1, "content-type"), Some(kind), "{path}");
    }
    let (status, head, body) = server.ask("HEAD /digits.txt", "");
    assert_eq!((status, field(&head, "content-length"), body.len()), (200, Some("10"), 0));
    assert_eq!(server.text("/sub%20dir/a%26b.txt"), "ab");
    for method in ["POST", "PUT", "DELETE", "PROPFIND", "OPTIONS"] {
        let (status, head, _) = server.ask(&format!("{method} /digits.txt"), "");
        assert_eq!((status, field(&head, "allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn parts_and_conditions() {
    let server = Server::new(true, None);
    let (_, head, _) = server.get("/digits.txt");
    let (etag, modified) = (field(&head, "etag").unwrap(), field(&head, "last-modified").unwrap());
    let ask = |fields: &str| {
        let (status, head, body) = server.ask("GET /digits.txt", fields);
        (status, field(&head, "content-range").map(ToString::to_string), body)
    };
    let part = |text: &str, range: &str| (206, Some(range.to_string()), text.as_bytes().to_vec());
    assert_eq!(ask("Range: bytes=2-4\r\n"), part("234", "bytes 2-4/10"));
    assert_eq!(ask("Range: bytes=8-\r\n"), part("89", "bytes 8-9/10"));
    assert_eq!(ask("Range: bytes=-3\r\n"), part("789", "bytes 7-9/10"));
    assert_eq!(ask(&format!("Range: bytes=0-0\r\nIf-Range: {etag}\r\n")), part("0", "bytes 0-0/10"));
    assert_eq!(ask(&format!("Range: bytes=0-0\r\nIf-Range: {modified}\r\n")), part("0", "bytes 0-0/10"));
    assert_eq!(ask("Range: bytes=0-0\r\nIf-Range: \"old\"\r\n").0, 200);
    assert_eq!(ask("Range: bytes=0-0,2-2\r\n").0, 200);
    let (status, range, _) = ask("Range: bytes=10-\r\n");
    assert_eq!((status, range.as_deref()), (416, Some("bytes */10")));
    let (status, _, body) = ask(&format!("If-None-Match: {etag}\r\n"));
    assert_eq!((status, body.len()), (304, 0));
    assert_eq!(ask(&format!("If-Modified-Since: {modified}\r\n")).0, 304);
    assert_eq!(ask("If-Match: \"other\"\r\n").0, 412);
    assert_eq!(ask("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n").0, 412);
    // A changed file has another tag, and is seen at once.
    std::fs::write(server.root("digits.txt"), "abc").unwrap();
    let (status, head, body) = server.ask("GET /digits.txt", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((status, body.as_slice()), (200, &b"abc"[..]));
    assert_ne!(field(&head, "etag"), Some(etag));
    std::fs::remove_file(server.root("digits.txt")).unwrap();
    assert_eq!(server.get("/digits.txt").0, 404);
}

#[test]
fn folders() {
    let server = Server::new(true, None);
    let page = server.text("/");
    for seen in
        ["Index of /", "./digits.txt\"", "./sub%20dir/\"", "?sort=size&amp;order=asc", "10 B", "2 folders, 4 files"]
    {
        assert!(page.contains(seen), "{seen} in {page}");
    }
    assert!(!page.contains(".hidden\"") && !page.contains("Parent folder"), "{page}");
    let page = server.text("/sub%20dir/");
    assert!(page.contains("Parent folder") && page.contains("a&amp;b.txt") && page.contains("./a%26b.txt"), "{page}");
    assert!(server.text("/?sort=size&order=desc").contains("aria-sort=\"descending\""));
    assert_eq!(server.text("/site/"), "<h1>site");
    let (status, head, _) = server.get("/sub%20dir?sort=size");
    assert_eq!((status, field(&head, "location")), (307, Some("./sub%20dir/?sort=size")));
    assert_eq!(server.get("/digits.txt/").0, 404);
    // A new file is there at once.
    std::fs::write(server.root("sub dir/<new>.txt"), "").unwrap();
    let page = server.text("/sub%20dir/");
    assert!(page.contains("&lt;new&gt;.txt") && !page.contains("<new>"), "{page}");
    let (status, head, body) = server.ask("HEAD /", "");
    assert_eq!((status, body.len()), (200, 0));
    assert!(field(&head, "content-length").unwrap().parse::<usize>().unwrap() > 1000);
}

#[test]
fn folders_are_closed_unless_asked_for() {
    let server = Server::new(false, None);
    let (status, _, body) = server.get("/");
    assert_eq!(status, 403);
    assert!(!String::from_utf8(body).unwrap().contains("digits"));
    assert_eq!(server.text("/site/"), "<h1>site");
    assert_eq!(server.text("/digits.txt"), "0123456789");
}

#[test]
fn nothing_leads_out() {
    let server = Server::new(true, None);
    symlink("../secret.txt", server.root("out")).unwrap();
    symlink(server.dir.at("secret.txt"), server.root("out-absolute")).unwrap();
    symlink("/", server.root("all")).unwrap();
    symlink("digits.txt", server.root("in")).unwrap();
    symlink(server.root("digits.txt"), server.root("in-absolute")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        server.root("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let socket = std::os::unix::net::UnixListener::bind(server.root("socket")).unwrap();
    for path in [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/sub%20dir/../../secret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/%252e%252e/secret.txt",
        "/.hidden",
        "/%2ehidden",
        "/out",
        "/out-absolute",
        "/all/etc/passwd",
        "/all/",
        "/pipe",
        "/socket",
        "/nothing",
        "/digits.txt/x",
    ] {
        let started = Instant::now();
        let (status, _, body) = server.get(path);
        assert_eq!(status, 404, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{path}");
        assert!(started.elapsed() < Duration::from_secs(2), "{path} hung");
    }
    for path in ["/digits.txt%00.html", "/%", "/%zz"] {
        assert_eq!(server.get(path).0, 400, "{path}");
    }
    for path in ["/in", "/in-absolute"] {
        assert_eq!(server.text(path), "0123456789", "{path}");
    }
    let page = server.text("/");
    for hidden in ["out", "all", "pipe", "socket"] {
        assert!(!page.contains(&format!("./{hidden}")), "{hidden} in {page}");
    }
    assert!(page.contains("./in\"") && page.contains("./in-absolute\""), "{page}");
    drop(socket);
}

#[test]
fn asks_for_the_password() {
    use base64::Engine as _;
    let server = Server::new(true, Some("p:ss wörd"));
    let basic =
        |pair: &str| format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair));
    for fields in [
        String::new(),
        basic("user:wrong"),
        basic("user:"),
        basic("p:ss wörd"),
        "Authorization: Basic !!!\r\n".into(),
        "Authorization: Bearer p:ss\r\n".into(),
        format!("{}{}", basic("a:p:ss wörd"), basic("a:p:ss wörd")),
    ] {
        let (status, head, body) = server.ask("GET /digits.txt", &fields);
        assert_eq!(status, 401, "{fields}");
        assert!(field(&head, "www-authenticate").unwrap().starts_with("Basic "));
        assert!(!body.starts_with(b"0123"));
    }
    for user in ["admin", ""] {
        assert_eq!(server.ask("GET /digits.txt", &basic(&format!("{user}:p:ss wörd"))).0, 200);
    }
}

#[test]
fn passwords_are_not_guessed_fast() {
    use base64::Engine as _;
    let server = Server::new(true, Some("right"));
    let ask = |password: &str, from: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("a:{password}"));
        // What a local proxy or the tunnel's client sends: its own entry is the last.
        let fields = format!("Authorization: Basic {pair}\r\nX-Forwarded-For: 192.0.2.200, {from}\r\n");
        server.ask("GET /digits.txt", &fields).0
    };
    for _ in 0..50 {
        assert_eq!(server.get("/digits.txt").0, 401, "asking without a password is no guess");
    }
    assert_eq!(server.ask("GET /digits.txt", "Authorization: Basic cjpyaWdodA==\r\n").0, 200);
    for n in 0..10 {
        assert_eq!(ask(&format!("wrong {n}"), "198.51.100.7"), 401);
    }
    assert_eq!(ask("wrong", "198.51.100.7"), 429);
    assert_eq!(ask("right", "198.51.100.7"), 429, "whoever hits it now is not told");
    assert_eq!(ask("right", "198.51.100.8"), 200, "others are not kept out");
    assert_eq!(ask("right", "2001:db8::1"), 200);
    for n in 0..10 {
        ask("wrong", &format!("2001:db8::{n}"));
    }
    assert_eq!(ask("right", "2001:db8::ffff"), 429, "a network of IPv6 is one source");
}

/// Visitors who ask for the page of a large folder and never read it: each page was held for as long as they liked.
#[test]
fn pages_that_nobody_reads_are_bounded() {
    let _alone = MEASURING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = Server::new(true, None);
    let names = server.root("many");
    std::fs::create_dir(&names).unwrap();
    for n in 0..20_000 {
        std::fs::File::create(names.join(format!("a file with a rather long name, number {n}.txt"))).unwrap();
    }
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut stream = server.connect();
        write!(stream, "GET /many/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        // The head says that the page was made, or that there is no room for it.
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        held.push((stream, String::from_utf8_lossy(&head[9..]).into_owned()));
    }
    let busy = held.iter().filter(|(_, status)| status == "503").count();
    let grown = resident().saturating_sub(before);
    assert!(busy > 0 && busy < 60, "{busy} of 60 were refused");
    assert!(grown < 300, "{grown} MiB more");
    assert_eq!(server.text("/digits.txt"), "0123456789", "files are served all the same");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.get("/many/").0 != 200 {
        assert!(Instant::now() < deadline, "the memory is not given back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn files_that_nobody_reads_are_bounded() {
    let _alone = MEASURING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = Server::new(true, None);
    std::fs::File::create(server.root("large.bin")).unwrap().set_len(3_000_000).unwrap();
    let before = resident();
    let held: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let mut whole = server.get("/large.bin").2;
    whole.retain(|b| *b != 0);
    assert!(whole.is_empty(), "large files are still served whole");
    let grown = resident().saturating_sub(before);
    assert!(grown < 250, "{grown} MiB for {} readers that stand still", held.len());
}

#[test]
fn large_files_come_whole_and_in_parts() {
    let server = Server::new(true, None);
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(server.root("large.bin"), &data).unwrap();
    assert!(server.get("/large.bin").2 == data);
    let (status, _, body) = server.ask("GET /large.bin", "Range: bytes=1000000-4000000\r\n");
    assert_eq!(status, 206);
    assert!(body == data[1_000_000..=4_000_000]);
}

#[test]
fn a_file_cut_short_while_it_is_sent_is_no_success() {
    let server = Server::new(true, None);
    let path = server.root("large.bin");
    std::fs::File::create(&path).unwrap().set_len(500_000_000).unwrap();
    let mut stream = server.connect();
    write!(stream, "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.is_err() || rest.len() < 499_000_000, "{} bytes came", rest.len());
}

#[test]
fn the_list_decides_and_cuts() {
    let server = Server::new(true, None);
    std::fs::File::create(server.root("large.bin")).unwrap().set_len(5_000_000_000).unwrap();
    let mut stream = server.connect();
    write!(stream, "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut some = vec![0; 1_000_000];
    stream.read_exact(&mut some).unwrap();
    let cut = Instant::now();
    server.allow("192.0.2.1");
    let mut total = 0;
    let end = loop {
        match stream.read(&mut some) {
            Ok(0) => break "end",
            Ok(n) => total += n,
            Err(_) => break "reset",
        }
    };
    assert_eq!(end, "reset", "after {total} more bytes");
    assert!(cut.elapsed() < Duration::from_secs(1));
    // And is not let in again, without a word.
    let mut got = Vec::new();
    let _ = server.connect().read_to_end(&mut got);
    assert!(got.is_empty());
}

#[test]
fn a_folder_that_is_not_there_says_so() {
    let settings = FilesSettings {
        webroot: "/nonexistent/folder".into(),
        allow_browsing: false,
        token: None,
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let e = runtime.block_on(start(settings, Admission::new(), &Run::new(Duration::ZERO))).unwrap_err();
    assert!(format!("{e:#}").contains("/nonexistent/folder"), "{e:#}");
}
