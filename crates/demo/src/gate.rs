//! The gate's chapter of the demo. In: the edge of the tour, whose lists take in two lists of a gate. Out: what became of a
//! phone with a certificate and of a guest with a share link, now and when their time is over.
//!
//! The sites are played here, over real connections: one that demands a client certificate and mirrors what came
//! through it to the gate, and an album whose share links are alive or dead. The clock that runs ahead is simulated.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::ledger::Rules;
use addr::{AddrSet, Prefix};
use anyhow::{Context as _, Result};
use gate::asked::Proxies;
use gate::doctor::ConfiguredBy;
use gate::intake::{Cert, Guests, Listen, RefusalPage, Serves};
use gate::ledger::Ahead;
use gate::share::Share;
use gate::{self, Gate, GateSettings};
use net::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use runtime::run::Run;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Steps;
use super::visitor::{self, Answer};
use crate::say;

/// Host names at the edge; each has a list of its own.
pub(super) const HOME: &str = "home.example";
pub(super) const ALBUM: &str = "album.example";
/// What their lists take in.
pub(super) const HOME_LISTS: [&str; 1] = ["family"];
pub(super) const ALBUM_LISTS: [&str; 2] = ["family", "guests"];

const PHONE: &str = "127.0.0.4";
const GUEST: &str = "127.0.0.5";
const LIVE: &str = "/share/A1b2C3d4E5f6G7h8";
const DEAD: &str = "/share/Z9y8X7w6V5u4T3s2";

/// Length of a grant by certificate, and of a guest's.
const TTL: u64 = 7 * 86_400;
const GUEST_TTL: u64 = 86_400;

/// Everything here is on this machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The gate and the sites around it.
pub(super) struct Chapter {
    pub(super) gate: Gate,
    ahead: Arc<AtomicU64>,
    site: SocketAddr,
    album: SocketAddr,
    shares: SocketAddr,
    with_cert: Arc<ClientConfig>,
    without: Arc<ClientConfig>,
}

impl Chapter {
    pub(super) async fn start(run: &Run, folder: &Path) -> Result<Chapter> {
        let album = serve_album(run)?;
        let ahead: Arc<AtomicU64> = Arc::default();
        // All visitors of the demo come from loopback, which a real list does not learn.
        let rules = Rules { ttl: Some(TTL), learn_private: true, ..Rules::default() };
        let any = || Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let share =
            Share { name: "album".to_string(), base: format!("http://{album}").parse().map_err(anyhow::Error::msg)? };
        let settings = GateSettings {
            data_dir: folder.join("gate"),
            lists: vec![("family".to_string(), rules.clone()), ("guests".to_string(), rules)],
            follows: Vec::new(),
            dns: gate::names::Dns::default(),
            own: AddrSet::default(),
            proxies: Proxies { trusted: AddrSet::new(["127.0.0.1".parse::<Prefix>()?]), ..Proxies::default() },
            refusal: RefusalPage::default(),
            configured_by: ConfiguredBy::default(),
            accept: BTreeSet::new(),
            listeners: vec![
                (any(), Serves::Mirror { list: "family".to_string(), cert: Some(Cert::Gate) }),
                (any(), Serves::Share),
            ],
            shares: vec![(share, Guests { list: "guests".to_string(), ttl: GUEST_TTL })],
            share_paths: Vec::new(),
            probes: Vec::new(),
            enforcers: Vec::new(),
            take_over: Vec::new(),
            ahead: Ahead(Some(ahead.clone())),
        };
        let gate = gate::start(settings, run)?;
        let (mirror, shares) = (*gate.addrs.first().context("no intake")?, *gate.addrs.get(1).context("no shares")?);
        let tls = Certificates::make()?;
        let site = serve_site(run, tls.server, mirror)?;
        Ok(Chapter { gate, ahead, site, album, shares, with_cert: tls.with_cert, without: tls.without })
    }

    /// Tells the chapter. `edge`: where visitors connect; `explain`: why an address may reach a host.
    pub(super) async fn tell(
        &self,
        steps: &mut Steps,
        edge: SocketAddr,
        explain: impl Fn(&str, &str) -> Result<String>,
    ) -> Result<()> {
        steps.title("A list that learns");
        let host = |name: &str| format!("Host: {name}\r\n");
        let (home, album) = (host(HOME), host(ALBUM));
        let open = |a: &Answer| matches!(a, Answer::Page(200, _));
        let shut = |a: &Answer| matches!(a, Answer::Closed | Answer::Page(403, _));
        let answer = visitor::get(PHONE, edge, "/", &home).await;
        steps.check(&format!("{PHONE}, a phone, asks for {HOME}"), &answer.to_string(), shut(&answer));
        let said = self.visit_site(self.without.clone()).await;
        steps.check("… and the other site without a certificate", &said.to_string(), said == Reached::Refused);
        let said = self.visit_site(self.with_cert.clone()).await;
        steps.check("… and that one with its certificate", &said.to_string(), said == Reached::Status(200));
        let answer = until(PHONE, edge, &home, open).await;
        steps.check(&format!("… and {HOME} again: let in"), &answer.to_string(), open(&answer));
        steps.why(&explain(PHONE, HOME)?);

        let answer = self.share(DEAD).await;
        steps.check(&format!("{GUEST}, a guest, has a dead share link"), &answer.to_string(), shut(&answer));
        let answer = self.share(LIVE).await;
        steps.check("… and a live one", &answer.to_string(), open(&answer));
        let answer = until(GUEST, edge, &album, open).await;
        steps.check(&format!("… and sees {ALBUM}"), &answer.to_string(), open(&answer));
        steps.why(&explain(GUEST, ALBUM)?);
        let answer = visitor::get(GUEST, edge, "/", &home).await;
        steps.check(&format!("… but not {HOME}"), &answer.to_string(), shut(&answer));

        say::line("\nTime passes: the gate's clock is simulated from here on");
        self.sleep(GUEST_TTL + 3_600);
        let answer = until(GUEST, edge, &album, shut).await;
        steps.check("25 hours later the guest asks again", &answer.to_string(), shut(&answer));
        let answer = visitor::get(PHONE, edge, "/", &home).await;
        steps.check("… and the phone", &answer.to_string(), open(&answer));
        self.sleep(TTL);
        let answer = until(PHONE, edge, &home, shut).await;
        steps.check("a week later the phone is forgotten too", &answer.to_string(), shut(&answer));
        steps.why(&explain(PHONE, HOME)?);
        Ok(())
    }

    pub(super) fn say_where(&self) {
        say::line(format_args!(
            "  gate              https://{}   a site that demands a client certificate, mirrored to the gate",
            self.site
        ));
        say::line(format_args!("                    http://{}    an album with share links", self.album));
    }

    /// The simulated clock runs ahead by so many seconds more.
    fn sleep(&self, secs: u64) {
        self.ahead.fetch_add(secs, Ordering::SeqCst);
        self.gate.ledger.look();
    }

    /// The phone at the site with the certificate: the status, or that it was refused.
    async fn visit_site(&self, config: Arc<ClientConfig>) -> Reached {
        let ask = async {
            let tcp = dial(PHONE, self.site).await?;
            let name = ServerName::try_from("site.example")?;
            let tls = TlsConnector::from(config).connect(name, tcp).await?;
            // With TLS 1.3 the site's refusal arrives with the first answer.
            status(tls, "GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n").await
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, ask).await {
            Ok(Ok(status)) => Reached::Status(status),
            Ok(Err(_)) => Reached::Refused,
            Err(_) => Reached::Nothing,
        }
    }

    /// What a proxy in front of the album asks the gate when a guest comes with a link.
    async fn share(&self, link: &str) -> Answer {
        let path = format!("/verify_share_request?protocol=http&container_name_port={}", self.album);
        let headers = format!("X-Forwarded-For: {GUEST}\r\nX-Forwarded-Uri: {link}\r\n");
        visitor::get("127.0.0.1", self.shares, &path, &headers).await
    }
}

/// What a site that asks for a certificate answers.
#[derive(PartialEq)]
enum Reached {
    Status(u16),
    Refused,
    Nothing,
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reached::Status(status) => status.fmt(f),
            Reached::Refused => f.write_str("refused by the TLS handshake"),
            Reached::Nothing => f.write_str("no answer in 5 s"),
        }
    }
}

/// Asks until the answer is as wanted, or a second has passed.
async fn until(from: &str, edge: SocketAddr, host: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let end = tokio::time::Instant::now() + super::CUT_WITHIN;
    loop {
        let answer = visitor::get(from, edge, "/", host).await;
        if wanted(&answer) || tokio::time::Instant::now() > end {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Serves connections at a free port of this machine until the run stops.
fn serve<F>(
    run: &Run,
    name: &'static str,
    work: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = Listener::bind(name, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let (at, visits) = (listener.local_addr()?, run.clone());
    run.spawn(name, async move {
        let mut stopping = pin!(visits.stopping());
        while let Some((tcp, peer)) = listener.accept_until(stopping.as_mut()).await {
            let work = work(tcp, peer);
            visits.visit(name, async move {
                let _ = tokio::time::timeout(REQUEST_TIMEOUT, work).await;
            });
        }
        Ok(())
    });
    Ok(at)
}

/// A site that lets in whoever has a certificate of its CA, and mirrors each request to the gate.
fn serve_site(run: &Run, config: Arc<ServerConfig>, gate: SocketAddr) -> Result<SocketAddr> {
    let acceptor = TlsAcceptor::from(config);
    serve(run, "demo site", move |tcp, peer| {
        let acceptor = acceptor.clone();
        async move {
            // Whoever has no certificate ends here.
            let mut tls = acceptor.accept(tcp).await?;
            read_head(&mut tls).await?;
            // The mirror: the same request, with who came and by which certificate.
            let mirrored = format!(
                "GET / HTTP/1.1\r\nHost: gate\r\nX-Forwarded-For: {}\r\nX-Gate-Cert-Subject: CN=phone\r\nConnection: close\r\n\r\n",
                peer.ip()
            );
            status(TcpStream::connect(gate).await?, &mirrored).await?;
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
            Ok(tls.shutdown().await?)
        }
    })
}

/// An album: one live share link, 404 for every other.
fn serve_album(run: &Run) -> Result<SocketAddr> {
    serve(run, "demo album", |mut tcp, _| async move {
        let head = read_head(&mut tcp).await?;
        let line = if head.starts_with(&format!("GET {LIVE} ")) { "200 OK" } else { "404 Not Found" };
        let answer = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        Ok(tcp.write_all(answer.as_bytes()).await?)
    })
}

async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    while !all.windows(4).any(|w| w == b"\r\n\r\n") && all.len() < 64 * 1024 {
        let n = io.read(&mut buf).await?;
        anyhow::ensure!(n > 0, "the request ended early");
        all.extend_from_slice(buf.get(..n).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

async fn status(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<u16> {
    io.write_all(request.as_bytes()).await?;
    let head = read_head(&mut io).await?;
    head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("not HTTP")
}

async fn dial(from: &str, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse()?, 0))?;
    Ok(socket.connect(to).await?)
}

/// A CA of the demo, a site's certificate and the phone's.
struct Certificates {
    server: Arc<ServerConfig>,
    with_cert: Arc<ClientConfig>,
    without: Arc<ClientConfig>,
}

impl Certificates {
    fn make() -> Result<Certificates> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "demo ca");
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let leaf = |name: &str, usage| -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![name.to_string()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let cert = params.signed_by(&key, &issuer)?;
            Ok((cert.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca_cert.der().clone())?;
        let roots = Arc::new(roots);
        let (site, site_key) = leaf("site.example", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (phone, phone_key) = leaf("phone", ExtendedKeyUsagePurpose::ClientAuth)?;
        let verifier = WebPkiClientVerifier::builder(roots.clone()).build()?;
        let server =
            ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(vec![site], site_key)?;
        let client = || ClientConfig::builder().with_root_certificates(roots.clone());
        Ok(Certificates {
            server: Arc::new(server),
            with_cert: Arc::new(client().with_client_auth_cert(vec![phone], phone_key)?),
            without: Arc::new(client().with_no_client_auth()),
        })
    }
}
