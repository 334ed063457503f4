//! Dialling the edge: TCP, perhaps through a CONNECT proxy, TLS with its trust, the upgrade. In: settings. Out: links,
//! or an error that says whether trying again can help.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use net::link::Link;
use net::sockets;
use rand::random;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tunnel_proto::connect::Fingerprint;
use tunnel_proto::hello::{REJECT_HEADER, RejectCode};

use super::super::printable;
use super::super::settings::{ClientSettings, Trust};
use runtime::hint::Hinted;

use super::super::upgrade::{self, H_CLIENT, H_LINK, H_SESSION, LinkKind};

/// From the first SYN to the upgrade's answer.
const DIAL: Duration = Duration::from_secs(15);

/// Dials with one set of settings.
pub(super) struct Dialler {
    pub(super) settings: ClientSettings,
    tls: Option<Arc<ClientConfig>>,
    /// What this client calls itself.
    id: String,
}

/// What came of a question to the control plane.
pub(super) struct Asked {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    complete: bool,
}

impl Asked {
    /// Why the edge refused; `None`: it did not.
    pub(super) fn refusal(&self) -> Option<(RejectCode, DialError)> {
        if self.status == 200 {
            return None;
        }
        let code = self.headers.iter().find(|(n, _)| *n == REJECT_HEADER.to_ascii_lowercase());
        let code = code.map_or(RejectCode::Unknown, |(_, v)| RejectCode::of(v));
        Some((code, refused(self.status, &self.headers, &self.body, None)))
    }
}

/// Why there is no link.
#[derive(Debug)]
pub(super) enum DialError {
    /// Trying again cannot help.
    Final(anyhow::Error),
    /// It may.
    Again(anyhow::Error),
}

impl From<anyhow::Error> for DialError {
    fn from(e: anyhow::Error) -> DialError {
        DialError::Again(e)
    }
}

impl Dialler {
    pub(super) fn new(settings: ClientSettings) -> anyhow::Result<Dialler> {
        let tls = match &settings.trust {
            Trust::Plain => None,
            Trust::System { ca_file } => Some(net::tls::system_roots(ca_file.as_deref())?),
            Trust::Pin(pin) => Some(net::tls::pinned(pin.0)?),
        };
        let id = settings.id.clone().unwrap_or_else(random_name);
        Ok(Dialler { settings, tls, id })
    }

    /// Dials a link of a session.
    pub(super) async fn link(&self, session: &str, kind: LinkKind) -> Result<Link, DialError> {
        match tokio::time::timeout(DIAL, self.dial(session, kind)).await {
            Ok(done) => done,
            Err(_) => Err(DialError::Again(anyhow!("the edge did not answer in 15 s"))),
        }
    }

    /// Asks for a path of the control plane: status, metrics.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, DialError> {
        let Asked { status, headers, body, complete } = self.ask(path).await?;
        match status {
            200 if complete => Ok(body),
            200 => Err(DialError::Again(anyhow!("the answer of {} broke off", self.settings.url))),
            _ => Err(refused(status, &headers, &body, None)),
        }
    }

    /// The same, whatever comes back.
    pub(super) async fn ask(&self, path: &str) -> Result<Asked, DialError> {
        let mut link = self.connect().await?;
        let url = &self.settings.url;
        let ask = format!(
            "GET {}{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nUser-Agent: {AGENT}\r\nConnection: close\r\n\r\n",
            url.path,
            url.authority(),
            self.settings.token.reveal()
        );
        link.write.write_all(ask.as_bytes()).await.map_err(anyhow::Error::from)?;
        /// A status page with thousands of clients fits.
        const ANSWER_MAX: usize = 16 * 1024 * 1024;
        let answer = async {
            let (status, headers) = upgrade::read_answer(&mut link.read).await?;
            let body = upgrade::read_body(&mut link.read, &headers, ANSWER_MAX).await;
            anyhow::Ok((status, headers, body))
        };
        let (status, headers, body) =
            tokio::time::timeout(DIAL, answer).await.map_err(|_| anyhow!("the edge did not answer in 15 s"))??;
        Ok(Asked { status, headers, body: body.bytes, complete: body.complete })
    }

    async fn dial(&self, session: &str, kind: LinkKind) -> Result<Link, DialError> {
        let mut link = self.connect().await?;
        let url = &self.settings.url;
        let key = base64::engine::general_purpose::STANDARD.encode(random::<[u8; 16]>());
        let ask = format!(
            "GET {}/tunnel HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {}\r\nUser-Agent: {AGENT}\r\n{H_SESSION}: {session}\r\n{H_CLIENT}: {}\r\n{H_LINK}: {kind}\r\n\r\n",
            url.path,
            url.authority(),
            self.settings.token.reveal(),
            self.id,
        );
        link.write.write_all(ask.as_bytes()).await.map_err(anyhow::Error::from)?;
        let (status, headers) = upgrade::read_answer(&mut link.read).await.map_err(|e| {
            e.context(match self.tls {
                None => "no answer to the upgrade; an edge with TLS is `wss://`, and one that refuses this address (--allow-ips) does not answer",
                Some(_) => "no answer to the upgrade; does the edge refuse this address (--allow-ips)?",
            })
        })?;
        if status != 101 {
            /// The words of a refusal are worth a moment, not more: they may never come to an end.
            const WORDS: Duration = Duration::from_secs(2);
            let body = upgrade::read_body(&mut link.read, &headers, 4096);
            let body = tokio::time::timeout(WORDS, body).await.map_or_else(|_| Vec::new(), |b| b.bytes);
            return Err(refused(status, &headers, &body, Some(kind)));
        }
        let accepted = headers.iter().find(|(n, _)| n == "sec-websocket-accept").map(|(_, v)| v.as_str());
        if accepted != Some(&upgrade::accept_key(&key)) {
            return Err(DialError::Again(anyhow!(
                "the answer to the upgrade is of another websocket; is {url} a Portcullis edge?"
            )));
        }
        Ok(link)
    }

    pub(super) async fn connect(&self) -> Result<Link, DialError> {
        let url = &self.settings.url;
        let socket = match &self.settings.proxy {
            Some(proxy) => {
                let credentials = proxy.credentials.as_ref().map(|c| c.reveal());
                net::dial::through_proxy((&proxy.host, proxy.port), credentials, &url.host, url.port).await?
            }
            None => net::dial::tcp(&url.host, url.port)
                .await
                .with_context(|| format!("cannot reach {}:{}", url.host, url.port))?,
        };
        sockets::tune_link(&socket);
        let Some(tls) = &self.tls else { return Ok(Link::plain(socket)) };
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| DialError::Final(anyhow!("`{}` is neither a DNS name nor an address", url.host)))?;
        Link::connect(socket, tls.clone(), name).await.map_err(|e| self.tls_failed(e))
    }

    fn tls_failed(&self, e: std::io::Error) -> DialError {
        let url = &self.settings.url;
        if let Some((seen, words)) = net::tls::seen_in(&e) {
            let seen = seen.map(Fingerprint);
            let hint = match (&self.settings.trust, seen) {
                (Trust::Pin(pin), Some(seen)) => format!(
                    "pinned is {pin}, the edge showed {seen}: either the edge has a new CA (compare with what it printed at its start), or somebody is in between"
                ),
                (Trust::Pin(pin), None) => format!(
                    "pinned is {pin}, and the edge shows a certificate of a CA that it does not show itself: if it is a public one, leave the fingerprint out; else take the root's, and put the root into the edge's --tls-cert"
                ),
                (_, Some(seen)) => format!(
                    "if the edge itself printed this fingerprint at its start, pin it: --ca-fingerprint {seen}; behind a proxy with a public certificate, check that its name is {}",
                    url.host
                ),
                (_, None) => format!(
                    "give the root of its CA with --ca-file, and check that the certificate is for {}",
                    url.host
                ),
            };
            return DialError::Final(Hinted::error(format!("the edge at {url} is not trusted: {words}"), hint));
        }
        let ended = matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset);
        let e = anyhow::Error::from(e);
        DialError::Again(if ended {
            e.context("the connection was closed during TLS; does the edge refuse this address (--allow-ips)?")
        } else {
            e.context("the other side does not speak TLS as expected; an edge without it is `ws://`")
        })
    }
}

const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// A random name: 128 bits in hex.
pub(super) fn random_name() -> String {
    format!("{:032x}", random::<u128>())
}

/// Why there is no link, by the edge's code; without one by the status, which may be that of a proxy or of an older edge.
fn refused(status: u16, headers: &[(String, String)], body: &[u8], kind: Option<LinkKind>) -> DialError {
    let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| printable(v));
    let words = words_of(body);
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    let server = of("server").map_or(String::new(), |v| format!(" (from {v})"));
    let code = of(&REJECT_HEADER.to_ascii_lowercase()).map_or(RejectCode::Unknown, |v| RejectCode::of(&v));
    // An edge without codes forgets a session too, and its URL is right: the first carrier came in.
    let later = kind.is_some_and(|kind| kind != LinkKind::Carrier(0));
    match status {
        401 if code != RejectCode::TokenRefused
            && of("www-authenticate").is_some_and(|v| !v.to_ascii_lowercase().starts_with("bearer")) =>
        {
            DialError::Final(Hinted::error(
                format!("something in front of the edge wants a login of its own{server}{words}"),
                "let the path of the tunnel through without one: the token is what guards the edge",
            ))
        }
        401 => DialError::Final(Hinted::error(
            "the edge refuses the token",
            "the token must be the one the edge was started with; compare the files, a line end does not count",
        )),
        403 => DialError::Again(anyhow!("refused{server}{words}")),
        404 if code == RejectCode::NoSuchSession || (code == RejectCode::Unknown && later) => {
            DialError::Again(anyhow!("the edge has forgotten the session"))
        }
        404 => DialError::Again(Hinted::error(
            format!("no edge at this URL: status 404{server}{words}"),
            "the URL must lead to the edge's control plane; if a proxy serves it below a path, the path belongs to the URL",
        )),
        301 | 302 | 303 | 307 | 308 => DialError::Final(Hinted::error(
            format!("the URL redirects to {}{server}", of("location").unwrap_or_else(|| "?".to_string())),
            "give the final URL; a tunnel follows no redirects",
        )),
        426 => DialError::Again(Hinted::error(
            format!("the request to upgrade did not arrive as one: status 426{server}"),
            "a proxy in between must pass `Upgrade` and `Connection` on (nginx: proxy_http_version 1.1 and both as headers)",
        )),
        502..=504 => {
            DialError::Again(anyhow!("the edge behind this URL does not answer: status {status}{server}{words}"))
        }
        200..=299 => DialError::Again(Hinted::error(
            format!("no edge at this URL: status {status}{server}{words}"),
            "a page or an empty answer came instead of the tunnel: does the proxy have a site of this very name and port that leads to the edge's control plane?",
        )),
        _ => DialError::Again(anyhow!("the upgrade was refused with status {status}{server}{words}")),
    }
}

/// One line of a refusal's body for a person: the first one that says something, without the tags of a page.
fn words_of(body: &[u8]) -> String {
    /// Enough for a sentence.
    const MAX_REASON_LEN: usize = 300;
    let text = String::from_utf8_lossy(body);
    let text = match text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")) {
        Some((title, _)) => title.to_string(),
        None if text.trim_start().starts_with('<') => String::new(),
        None => text.into_owned(),
    };
    let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MAX_REASON_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, headers: &[(&str, &str)], body: &str) -> (bool, String) {
        let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string())).collect();
        match refused(status, &headers, body.as_bytes(), Some(LinkKind::Carrier(0))) {
            DialError::Final(e) => (true, format!("{e:#}")),
            DialError::Again(e) => (false, format!("{e:#}")),
        }
    }

    #[test]
    fn refusals_say_who_refused_and_whether_trying_again_can_help() {
        let nginx = [("server", "nginx/1.22.1")];
        let page = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>…";
        for (status, headers, body, is_final, wanted) in [
            (401, &[("www-authenticate", "Bearer")][..], "401: the token is wrong", true, "refuses the token"),
            (401, &[("www-authenticate", "Basic realm=\"x\"")], "", true, "a login of its own"),
            (404, &nginx, page, false, "404 (from nginx/1.22.1): 404 Not Found"),
            (200, &[("server", "Caddy")], "", false, "no edge at this URL: status 200 (from Caddy)"),
            (301, &[("location", "https://b.example/")], "", true, "https://b.example/"),
            (502, &nginx, "", false, "does not answer: status 502 (from nginx/1.22.1)"),
            (426, &[], "426: …", false, "upgrade"),
            (403, &[], "403: 192.0.2.1 is refused", false, "192.0.2.1 is refused"),
        ] {
            let (fin, words) = of(status, headers, body);
            assert!(fin == is_final && words.contains(wanted), "{status}: {fin} {words}");
        }
    }
    #[test]
    fn a_forgotten_session_is_known_by_its_code_and_of_an_older_edge_by_what_was_asked() {
        let forgotten = |code: Option<&str>, kind| {
            let headers: Vec<_> = code.iter().map(|c| ("x-portcullis-reject".to_string(), (*c).to_string())).collect();
            match refused(404, &headers, b"404: words of any sort", Some(kind)) {
                DialError::Again(e) => format!("{e:#}").contains("forgotten the session"),
                DialError::Final(_) => false,
            }
        };
        for kind in [LinkKind::Carrier(0), LinkKind::Carrier(1), LinkKind::Bulk] {
            assert!(forgotten(Some("no-such-session"), kind), "{kind}");
            assert!(!forgotten(Some("address-refused"), kind), "{kind}");
        }
        assert!(forgotten(None, LinkKind::Bulk) && forgotten(None, LinkKind::Carrier(3)));
        assert!(!forgotten(None, LinkKind::Carrier(0)), "a proxy's 404: the URL may be wrong");
    }
}
