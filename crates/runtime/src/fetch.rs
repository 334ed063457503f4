//! One small HTTP request. In: a URL from the configuration, never from a request. Out: the status, the headers and as
//! much of the body as was asked for. No redirect is followed, nothing is retried.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Over TLS.
    pub https: bool,
    /// Host name or address, brackets included.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, starting with `/`.
    pub path: String,
}

impl std::str::FromStr for Base {
    type Err = String;

    /// Parses `http://host[:port][/path]` or `https://…`; user names and fragments are refused.
    fn from_str(text: &str) -> Result<Base, String> {
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{text}` must start with http:// or https://")),
        };
        let auth = uri.authority().ok_or_else(|| format!("`{text}` has no host"))?;
        if auth.as_str().contains('@') {
            return Err(format!("`{text}` has a user name, which is not supported"));
        }
        let port = auth.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_string();
        Ok(Base { https, host: auth.host().to_string(), port, path })
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}{}", if self.https { "https" } else { "http" }, self.host, self.port, self.path)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    body: Bytes,
    limit: Limit,
    verify: bool,
}

/// How much of an answer's body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Nothing.
    Head,
    /// So many bytes; a longer one is cut off.
    Start(usize),
    /// All of it; a longer one is an error.
    Whole(usize),
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// As much of its body as was asked for.
    pub body: Bytes,
}

impl<'a> Fetch<'a> {
    /// A request for a path (with its query) that wants the status and the headers. A `Host` among the headers replaces the URL's.
    #[must_use]
    pub fn new(method: Method, path: &'a str, headers: HeaderMap) -> Fetch<'a> {
        Fetch { method, path, headers, body: Bytes::new(), limit: Limit::Head, verify: true }
    }

    /// The same by GET.
    #[must_use]
    pub fn get(path: &'a str, headers: HeaderMap) -> Fetch<'a> {
        Fetch::new(Method::GET, path, headers)
    }

    /// With this body.
    #[must_use]
    pub fn body(self, body: Bytes) -> Fetch<'a> {
        Fetch { body, ..self }
    }

    /// Reads the answer's body, at most so many bytes of it.
    #[must_use]
    pub fn start_of_body(self, bytes: usize) -> Fetch<'a> {
        Fetch { limit: Limit::Start(bytes), ..self }
    }

    /// Reads the answer's body; more than so many bytes are an error.
    #[must_use]
    pub fn whole_body(self, bytes: usize) -> Fetch<'a> {
        Fetch { limit: Limit::Whole(bytes), ..self }
    }

    /// Of a site whose certificate does not matter.
    #[must_use]
    pub fn unverified(self) -> Fetch<'a> {
        Fetch { verify: false, ..self }
    }

    /// Sends it, all within `wait`.
    ///
    /// # Errors
    /// Nobody answers in time, or what comes is no HTTP.
    pub async fn send(self, base: &Base, wait: Duration) -> anyhow::Result<Answer> {
        let config = match (base.https, self.verify) {
            (false, _) => None,
            (true, true) => Some(net::tls::system_roots(None)?),
            (true, false) => Some(net::tls::unverified()?),
        };
        let work = async {
            let host = base.host.trim_start_matches('[').trim_end_matches(']');
            let tcp = TcpStream::connect((host, base.port))
                .await
                .with_context(|| format!("cannot connect to {host}:{}", base.port))?;
            let _ = tcp.set_nodelay(true);
            let Some(config) = config else { return self.talk(tcp, base).await };
            let name = rustls_pki_types::ServerName::try_from(host.to_string()).context("the host is no TLS name")?;
            let tls = tokio_rustls::TlsConnector::from(config)
                .connect(name, tcp)
                .await
                .context("the TLS handshake failed")?;
            self.talk(tls, base).await
        };
        tokio::time::timeout(wait, work).await.map_err(|_| anyhow!("no answer within {} ms", wait.as_millis()))?
    }

    async fn talk(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        base: &Base,
    ) -> anyhow::Result<Answer> {
        let (mut send, conn) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .body(Full::new(self.body))
            .context("the path is not sendable")?;
        *request.headers_mut() = self.headers;
        if !request.headers().contains_key(header::HOST) {
            let host = format!("{}:{}", base.host, base.port).parse().context("the host is not sendable")?;
            request.headers_mut().insert(header::HOST, host);
        }
        let limit = self.limit;
        let answer = async move {
            let (head, body) = send.send_request(request).await?.into_parts();
            let body = read(body, limit).await?;
            Ok::<_, anyhow::Error>(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::pin!(answer);
        tokio::pin!(conn);
        // The connection is driven here and dropped with the answer: no task is left behind.
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                r = &mut answer => return r,
                c = &mut conn, if open => {
                    open = false;
                    if let Err(e) = c {
                        bail!("the connection broke: {e}");
                    }
                }
            }
        }
    }
}

async fn read(mut body: hyper::body::Incoming, limit: Limit) -> anyhow::Result<Bytes> {
    let (most, whole) = match limit {
        Limit::Head => return Ok(Bytes::new()),
        Limit::Start(most) => (most, false),
        Limit::Whole(most) => (most, true),
    };
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the answer broke off")?.into_data() else { continue };
        let room = most - out.len();
        out.extend_from_slice(data.get(..room).unwrap_or(&data));
        if data.len() > room {
            if whole {
                bail!("the answer is longer than {most} bytes");
            }
            break;
        }
    }
    Ok(out.into())
}
