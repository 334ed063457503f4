//! Asks a site as a stranger would, whatever its certificate. In: a URL from the configuration, headers. Out: that it
//! answered, or that it demands a client certificate, which the TLS alert says and no word of an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustls::AlertDescription;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use runtime::fetch::Base;

/// What a site answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// It answered by HTTP.
    Answered,
    /// It wants a client certificate and ended the connection because there is none.
    CertificateDemanded,
    /// Nothing that can be understood.
    Nothing(anyhow::Error),
}

/// With TLS 1.3 a server judges the client's certificate after the client holds the handshake for done (RFC 8446, 4.4.2):
/// so long its alert is waited for. What is slower is found when the request fails.
const ALERT_WAIT: Duration = Duration::from_millis(700);
/// Bytes of an answer in which its status line ends.
const STATUS_LINE: usize = 1_024;

/// One GET, all within `wait`.
pub(super) async fn ask(site: &Base, path: &str, headers: &[(&str, &str)], wait: Duration) -> Answer {
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n", site.host, site.port);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let late = || anyhow!("no answer within {} ms", wait.as_millis());
    tokio::time::timeout(wait, go(site, &head)).await.unwrap_or_else(|_| Answer::Nothing(late()))
}

async fn go(site: &Base, head: &str) -> Answer {
    let host = site.host.trim_start_matches('[').trim_end_matches(']');
    let tcp =
        TcpStream::connect((host, site.port)).await.with_context(|| format!("cannot connect to {host}:{}", site.port));
    let tcp = match tcp {
        Ok(tcp) => tcp,
        Err(e) => return Answer::Nothing(e),
    };
    if !site.https {
        return plain(tcp, head).await;
    }
    let wanted = Arc::new(Wanted::default());
    match over_tls(tcp, host, head, wanted.clone()).await {
        Ok(()) => Answer::Answered,
        Err(e) => match e.downcast_ref::<io::Error>().and_then(alert) {
            Some(alert) if wanted.0.load(Ordering::Relaxed) && is_about_certificates(alert) => {
                Answer::CertificateDemanded
            }
            _ => Answer::Nothing(e),
        },
    }
}

async fn plain(tcp: TcpStream, head: &str) -> Answer {
    match exchange(tcp, head).await {
        Ok(()) => Answer::Answered,
        Err(e) => Answer::Nothing(e.into()),
    }
}

async fn over_tls(tcp: TcpStream, host: &str, head: &str, wanted: Arc<Wanted>) -> anyhow::Result<()> {
    let mut config = (*net::tls::unverified()?).clone();
    config.client_auth_cert_resolver = wanted.clone();
    let name = rustls::pki_types::ServerName::try_from(host.to_string()).context("the host is no TLS name")?;
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    if wanted.0.load(Ordering::Relaxed) {
        // Nothing was asked: whatever comes now is the judgement.
        let mut none = [0; 1];
        match tokio::time::timeout(ALERT_WAIT, tls.read(&mut none)).await {
            Ok(Err(e)) => return Err(e.into()),
            Ok(Ok(_)) => return Err(anyhow!("the site ended the connection without an answer")),
            Err(_) => {}
        }
    }
    Ok(exchange(tls, head).await?)
}

async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> io::Result<()> {
    // An alert that came meanwhile is still to be read when the write fails.
    let written = async {
        io.write_all(head.as_bytes()).await?;
        io.flush().await
    };
    let written: io::Result<()> = written.await;
    let mut line = Vec::new();
    let mut buf = [0; 256];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        match io.read(&mut buf).await {
            Ok(0) => break,
            Ok(n) => line.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Err(e) => return Err(e),
        }
    }
    match (line.starts_with(b"HTTP/1."), written) {
        (true, _) => Ok(()),
        (false, Err(e)) => Err(e),
        (false, Ok(())) => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP")),
    }
}

/// The alert that ended a connection.
fn alert(e: &io::Error) -> Option<AlertDescription> {
    match e.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// What servers send when the client shows no certificate: TLS 1.3 has an alert for it (RFC 8446, 6.2), TLS 1.2 says
/// `handshake_failure` (RFC 5246, 7.4.6) or `bad_certificate`.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::HandshakeFailure
            | AlertDescription::AccessDenied
    )
}

/// A client without a certificate that remembers being asked for one.
#[derive(Debug, Default)]
struct Wanted(AtomicBool);

impl ResolvesClientCert for Wanted {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
