//! `portcullis demo`: everything once, on this machine, with real traffic. In: nothing. Out: a private service, an
//! edge and a client on loopback, requests from several loopback addresses, and what became of them, step by step.

mod gate;
pub mod mesh;
mod say;
mod visitor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::Service;
use access::visitor::AddressHeader;
use addr::{Addr, AddrSet};
use anyhow::{Context as _, Result, bail};
use fileserver::{self, FilesSettings};
use net::secret::{Secret, TokenHash};
use runtime::admission::Admission;
use runtime::lists::{self, ListPart, ListSource, Lists};
use runtime::run::Run;
use tunnel::settings::{ClientSettings, EdgeSettings, EdgeTls, EdgeToken, TcpPlane, Trust, UpstreamTls};
use tunnel::{client, edge};
use tunnel_proto::hello::Rewrite;
use tunnel_proto::http1::forwarded::IdentityFields;
use tunnel_proto::upstream::{PortRanges, Upstream, UpstreamMatch, UpstreamTo};

use self::visitor::{Answer, Download};

/// Visitors of the tour; all of 127.0.0.0/8 is this machine.
const FRIEND: &str = "127.0.0.1";
const COLLEAGUE: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";

/// Size of the file that is being downloaded when the list changes; sparse, so that it takes no room on the disk.
const BIG: u64 = 4 << 30;

/// Whoever is taken off a list must be gone by then.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// Shows the tour; stays up afterwards unless `once`.
///
/// # Errors
/// A step did not come out as it should, or this machine does not let the demo run.
pub async fn run(once: bool) -> Result<()> {
    let run = Run::new(Duration::from_secs(1));
    run.follow_signals()?;
    let folder = Folder::new()?;
    let toured = tokio::select! {
        toured = tour(&run, &folder, once) => toured,
        () = run.stopping() => Ok(()),
    };
    if toured.is_ok() && !once {
        run.stopping().await;
    }
    run.stop();
    let finished = run.finish().await;
    toured.context("the demo did not come out as it should")?;
    finished
}

async fn tour(run: &Run, folder: &Folder, once: bool) -> Result<()> {
    let world = World::start(run, folder).await?;
    say::line("Portcullis demo: a private service, published through an edge, to the right addresses only.\n");
    let mut steps = Steps::default();
    say::line(format_args!(
        "  private service   http://{}   (a folder of files; reachable on this machine only)",
        world.private
    ));
    say::line(format_args!("  edge              http://{}   visitors", world.http));
    say::line(format_args!(
        "                    wss://{}    clients, certificate pinned by {}…",
        world.control,
        &world.pin[..19]
    ));
    say::line(format_args!("  allow list        {}   ({FRIEND}, {COLLEAGUE})", world.list.display()));
    world.chapter.say_where();
    say::line("");

    steps.title("Who gets in");
    for who in [FRIEND, COLLEAGUE] {
        let answer = visitor::get(who, world.http, "/", "").await;
        steps.check(&format!("{who} asks for /"), &answer.to_string(), matches!(answer, Answer::Page(200, _)));
        steps.why(&world.explain(who)?);
    }
    let answer = visitor::get(STRANGER, world.http, "/", "").await;
    steps.check(&format!("{STRANGER} asks for /"), &answer.to_string(), matches!(answer, Answer::Closed));
    steps.why(&world.explain(STRANGER)?);
    let answer = visitor::get(STRANGER, world.http, "/", &format!("X-Forwarded-For: {FRIEND}\r\n")).await;
    steps.check(&format!("{STRANGER} claims to be {FRIEND}"), &answer.to_string(), matches!(answer, Answer::Closed));
    let answer = visitor::get(FRIEND, SocketAddr::from(([127, 0, 0, 1], world.port)), "/", "").await;
    steps.check(
        &format!("{FRIEND} on TCP port {}", world.port),
        &answer.to_string(),
        matches!(answer, Answer::Page(200, _)),
    );

    say::line("");
    steps.title("A list that changes while a download runs");
    let mut stays = Download::start(FRIEND, world.http, "/big").await?;
    let mut goes = Download::start(COLLEAGUE, world.http, "/big").await?;
    stays.read_some(2 << 20).await?;
    goes.read_some(2 << 20).await?;
    steps.check(&format!("{FRIEND} and {COLLEAGUE} download a big file"), "both run", true);
    std::fs::write(&world.list, format!("{FRIEND}\n"))?;
    let changed = Instant::now();
    let cut = goes.until_cut(CUT_WITHIN).await;
    let took = changed.elapsed();
    steps.check(
        &format!("{COLLEAGUE} is taken off the list"),
        &format!(
            "{} {} ms later, after {} MiB",
            if cut { "cut" } else { "NOT cut" },
            took.as_millis(),
            goes.read >> 20
        ),
        cut,
    );
    steps.why(&world.explain(COLLEAGUE)?);
    let before = stays.read;
    stays.read_some(8 << 20).await?;
    steps.check(
        &format!("{FRIEND} notices nothing"),
        &format!("{} MiB more arrived", (stays.read - before) >> 20),
        true,
    );
    drop((stays, goes));
    std::fs::write(&world.list, "")?;
    let alone = world.wait_refused(FRIEND).await;
    steps.check("the list is empty", if alone { "nobody gets in" } else { "somebody got in" }, alone);
    std::fs::write(&world.list, format!("{FRIEND}\n{COLLEAGUE}\n"))?;

    say::line("");
    steps.title("The control plane");
    let refused = world.with_wrong_token().await;
    steps.check("a client with a wrong token", &refused, refused.contains("refuses the token"));
    let refused = world.with_wrong_pin().await;
    steps.check("a client that pinned another edge", &refused, refused.contains("is not trusted"));

    say::line("");
    world.chapter.tell(&mut steps, world.http, |who, host| world.explain_host(who, host)).await?;

    steps.finish()?;
    if !once {
        world.say_how();
    }
    Ok(())
}

/// What the tour runs on.
struct World {
    admission: Arc<Admission>,
    private: SocketAddr,
    http: SocketAddr,
    control: SocketAddr,
    port: u16,
    pin: String,
    list: PathBuf,
    token: PathBuf,
    client: ClientSettings,
    chapter: gate::Chapter,
    lists: Lists,
}

impl World {
    async fn start(run: &Run, folder: &Folder) -> Result<World> {
        let admission = Admission::new();
        let list = folder.0.join("allow.txt");
        std::fs::write(&list, format!("{FRIEND}\n{COLLEAGUE}\n"))?;
        let token = folder.0.join("token");
        let secret = format!("{:x}", rand_u128());
        std::fs::write(&token, &secret)?;
        let private = start_files(run, &folder.0.join("www")).await?;
        let port = free_port()?;
        let settings = EdgeSettings {
            control: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            tcp: Some(TcpPlane { addr: [127, 0, 0, 1].into(), allow_ports: PortRanges::all() }),
            tokens: vec![EdgeToken::all("demo", TokenHash::of(&secret))],
            tls: EdgeTls::Auto { sans: vec!["127.0.0.1".to_string()], dir: folder.0.join("tls") },
            trusted_proxies: AddrSet::default(),
            trusted_header: AddressHeader::default(),
            identity_fields: IdentityFields::default(),
            stall: Duration::from_secs(60),
            proxy_protocol: None,
            lb_proxy_protocol: None,
            grace: Duration::from_secs(30),
            max_visitors: 1024,
            max_visitors_per_source: 1024,
        };
        let chapter = gate::Chapter::start(run, &folder.0).await?;
        let named = |names: &[&str]| {
            let part = |n: &&str| ListPart::Named { name: (*n).to_string(), from: "demo".to_string() };
            names.iter().map(part).collect()
        };
        let sources = vec![
            ListSource { name: Service::Control.list(), parts: vec![ListPart::Default] },
            ListSource { name: Service::Data.list(), parts: vec![ListPart::File(list.clone())] },
            ListSource { name: Service::Host(gate::HOME.to_string()).list(), parts: named(&gate::HOME_LISTS) },
            ListSource { name: Service::Host(gate::ALBUM.to_string()).list(), parts: named(&gate::ALBUM_LISTS) },
        ];
        let lists = lists::keep(run, &admission, sources, Some(chapter.gate.ledger.views.clone()))?;
        let handle = edge::start(settings, admission.clone(), run).await?;
        let pin = handle.fingerprint.context("the edge made no certificate")?;
        let to = UpstreamTo::tcp(private.ip().to_string(), private.port());
        let any_host = UpstreamMatch::Http { host: None, path: String::new() };
        let client_settings = ClientSettings {
            url: format!("wss://{}", handle.control_addr).parse()?,
            token: Secret::new(secret),
            trust: Trust::Pin(pin),
            upstreams: [any_host, UpstreamMatch::Port(port)]
                .map(|ask| Upstream { ask, to: to.clone(), rewrite: Rewrite::default() })
                .to_vec(),
            carriers: 2,
            demux: false,
            proxy: None,
            id: None,
            upstream_tls: UpstreamTls::default(),
        };
        client::start(client_settings.clone(), run).await?;
        tokio::time::timeout(Duration::from_secs(10), handle.published())
            .await
            .context("the client did not connect in 10 s")?;
        Ok(World {
            admission,
            private,
            http: handle.http_addr.context("the edge has no HTTP plane")?,
            control: handle.control_addr,
            port,
            pin: pin.to_string(),
            list,
            token,
            client: client_settings,
            chapter,
            lists,
        })
    }

    fn explain(&self, who: &str) -> Result<String> {
        let (view, addr) = (self.admission.view(), who.parse::<Addr>()?);
        let words = view.judge(&Service::Data, addr).in_words(&view, addr).to_string();
        // The file's full path is said once, above.
        Ok(words.replace(&self.list.display().to_string(), "allow.txt"))
    }

    /// The verdict on a host, and who stands behind the address.
    fn explain_host(&self, who: &str, host: &str) -> Result<String> {
        let (service, view, addr) = (Service::Host(host.to_string()), self.admission.view(), who.parse::<Addr>()?);
        let mut words = view.judge(&service, addr).in_words(&view, addr).to_string();
        for list in self.lists.takes_in(&service.list()) {
            for g in self.chapter.gate.ledger.holding(&list, addr) {
                let left = g.ends_at().map_or(0, |e| e.saturating_sub(g.seen_at)) / 3_600;
                words.push_str(&format!(
                    "; {} on `{list}`, given to {} on {} evidence for {left} hours",
                    g.id,
                    g.claim.principal.as_deref().unwrap_or("somebody"),
                    g.claim.evidence
                ));
            }
        }
        Ok(words)
    }

    async fn wait_refused(&self, who: &str) -> bool {
        let until = Instant::now() + CUT_WITHIN;
        while Instant::now() < until {
            if matches!(visitor::get(who, self.http, "/", "").await, Answer::Closed) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn with_wrong_token(&self) -> String {
        self.refused(ClientSettings { token: Secret::new("guess"), ..self.client.clone() }).await
    }

    async fn with_wrong_pin(&self) -> String {
        self.refused(ClientSettings {
            trust: Trust::Pin(tunnel_proto::connect::Fingerprint([7; 32])),
            ..self.client.clone()
        })
        .await
    }

    /// Asks with other settings and says what went wrong.
    async fn refused(&self, settings: ClientSettings) -> String {
        match client::get(settings, "/status").await {
            Ok(_) => "was let in".to_string(),
            Err(e) => e.to_string(),
        }
    }

    fn say_how(&self) {
        let (http, private, list) = (self.http, self.private, self.list.display());
        say::line("Still running, until Ctrl-C. Try it:\n");
        say::line(format_args!("  curl http://{http}/                            let in"));
        say::line(format_args!("  curl --interface 127.0.0.9 http://{http}/      refused"));
        say::line(format_args!("  echo 127.0.0.9 >> {list}      and again: let in"));
        say::line(format_args!("  http://{http}/ in a browser                    the page\n"));
        say::line("The same on two machines:\n");
        say::line(
            "  edge    portcullis http server --token-file token --auto-tls-san YOUR.ADDRESS --allow-ips-data @allow.txt",
        );
        say::line(format_args!(
            "  client  portcullis http client --connect 'wss://YOUR.ADDRESS:8123#sha256:…' --token-file token --upstream http://{private}"
        ));
        say::line(format_args!(
            "\nThis demo's token is in {}, its edge is wss://{}#{}",
            self.token.display(),
            self.control,
            self.pin
        ));
    }
}

async fn start_files(run: &Run, www: &Path) -> Result<SocketAddr> {
    std::fs::create_dir(www)?;
    std::fs::write(www.join("hello.txt"), "Hello from a private service.\n")?;
    let page = "<!doctype html><title>A private service</title><h1>It works</h1><p>This page comes from a service that no port of the outside leads to. <a href=\"hello.txt\">hello.txt</a>\n";
    std::fs::write(www.join("index.html"), page)?;
    std::fs::File::create(www.join("big"))?.set_len(BIG)?;
    // The private service has a list of its own: the client's address, on this machine.
    let admission = Admission::new();
    let mut view = access::ViewBuilder::default();
    let set = AddrSet::new(["127.0.0.0/8".parse()?]);
    view.add(access::List { name: "data".to_string(), set, source: "demo".to_string() });
    admission.publish(view.build(1));
    let settings = FilesSettings {
        webroot: www.to_path_buf(),
        allow_browsing: true,
        token: None,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    Ok(fileserver::start(settings, admission, run).await?.addr)
}

/// Counts steps and remembers whether all came out.
#[derive(Default)]
struct Steps {
    bad: Vec<String>,
}

impl Steps {
    fn title(&self, title: &str) {
        say::line(format_args!("{title}"));
    }

    fn check(&mut self, what: &str, became: &str, good: bool) {
        say::line(format_args!("  {} {what:<44} {became}", if good { "ok " } else { "BAD" }));
        if !good {
            self.bad.push(format!("{what}: {became}"));
        }
    }

    fn why(&self, sentence: &str) {
        say::line(format_args!("      {sentence}"));
    }

    fn finish(self) -> Result<()> {
        say::line("");
        if !self.bad.is_empty() {
            bail!("{}", self.bad.join("; "));
        }
        Ok(())
    }
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("portcullis-demo-{:08x}", rand_u128() as u32));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It lies in the temporary folder; what cannot be removed is removed with that.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn rand_u128() -> u128 {
    rand::random()
}
