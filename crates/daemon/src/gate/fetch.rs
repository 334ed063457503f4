//! One small HTTP request. In: a URL from the configuration, never from a request. Out: the status and the start of
//! the body. No redirect is followed, nothing is retried.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
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

/// Sends a request and reads at most `limit` bytes of the answer, all within `wait`. A `Host` among the headers
/// replaces the URL's.
///
/// # Errors
/// Nobody answers in time, or what comes is no HTTP.
pub async fn fetch(
    base: &Base,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    limit: usize,
    wait: Duration,
) -> anyhow::Result<(u16, Bytes)> {
    let config = if base.https { Some(net::tls::system_roots(None)?) } else { None };
    go(base, config, method, path, headers, body, limit, wait).await
}

/// Sends a request to a site whose certificate does not matter, and reads nothing but the status.
///
/// # Errors
/// Nobody answers in time, or what comes is no HTTP.
pub async fn fetch_unverified(
    base: &Base,
    method: Method,
    path: &str,
    headers: HeaderMap,
    wait: Duration,
) -> anyhow::Result<(u16, Bytes)> {
    let config = if base.https { Some(net::tls::unverified()?) } else { None };
    go(base, config, method, path, headers, Bytes::new(), 0, wait).await
}

#[allow(clippy::too_many_arguments)]
async fn go(
    base: &Base,
    tls: Option<Arc<rustls::ClientConfig>>,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    limit: usize,
    wait: Duration,
) -> anyhow::Result<(u16, Bytes)> {
    let work = async {
        let host = base.host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, base.port))
            .await
            .with_context(|| format!("cannot connect to {host}:{}", base.port))?;
        let _ = tcp.set_nodelay(true);
        if let Some(config) = tls {
            let name = rustls::pki_types::ServerName::try_from(host.to_string()).context("the host is no TLS name")?;
            let tls = tokio_rustls::TlsConnector::from(config)
                .connect(name, tcp)
                .await
                .context("the TLS handshake failed")?;
            talk(tls, base, method, path, headers, body, limit).await
        } else {
            talk(tcp, base, method, path, headers, body, limit).await
        }
    };
    tokio::time::timeout(wait, work).await.map_err(|_| anyhow!("no answer within {} ms", wait.as_millis()))?
}

async fn talk(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    base: &Base,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    limit: usize,
) -> anyhow::Result<(u16, Bytes)> {
    let (mut send, conn) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let mut request =
        Request::builder().method(method).uri(path).body(Full::new(body)).context("the path is not sendable")?;
    *request.headers_mut() = headers;
    if !request.headers().contains_key(header::HOST) {
        let host = format!("{}:{}", base.host, base.port).parse().context("the host is not sendable")?;
        request.headers_mut().insert(header::HOST, host);
    }
    let answer = async move {
        let response = send.send_request(request).await?;
        let status = response.status().as_u16();
        if limit == 0 {
            return Ok((status, Bytes::new()));
        }
        let body = Limited::new(response.into_body(), limit)
            .collect()
            .await
            .map_err(|e| anyhow!("the answer is too long or broken: {e}"))?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
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
