//! Dialling out. In: a host and port, perhaps a CONNECT proxy. Out: a connected socket.

use std::net::IpAddr;
use std::time::Duration;

use addr::Diagnostic;
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A dial that takes longer than this has failed: twice the time after which kernels send the third SYN.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer of a CONNECT proxy fits in this.
const PROXY_HEAD_MAX: usize = 16 * 1024;

/// Connects to a host by name or address.
///
/// # Errors
/// The name does not resolve, or nobody answers in [`DIAL_TIMEOUT`].
pub async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let dial = async {
        match host.parse::<IpAddr>() {
            Ok(ip) => TcpStream::connect((ip, port)).await,
            Err(_) => TcpStream::connect((host, port)).await,
        }
    };
    tokio::time::timeout(DIAL_TIMEOUT, dial)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in 10 s")))
}

/// Connects to `host:port` through a CONNECT proxy (RFC 9110, section 9.3.6).
///
/// # Errors
/// The proxy cannot be reached or refuses; its status line is in the error.
pub async fn through_proxy(proxy: (&str, u16), credentials: Option<&str>, host: &str, port: u16) -> Result<TcpStream> {
    let name = format!("{}:{}", proxy.0, proxy.1);
    let mut socket = tcp(proxy.0, proxy.1).await.with_context(|| format!("cannot reach the proxy {name}"))?;
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let auth = credentials.map_or_else(String::new, |c| {
        format!("Proxy-Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(c))
    });
    let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{auth}\r\n");
    let answer = async {
        socket.write_all(ask.as_bytes()).await?;
        read_head(&mut socket).await
    };
    let head = tokio::time::timeout(DIAL_TIMEOUT, answer)
        .await
        .with_context(|| format!("the proxy {name} did not answer in 10 s"))?
        .with_context(|| format!("the proxy {name} broke off"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(socket),
        Some("407") => {
            let schemes = schemes(&head);
            let basic = schemes.is_empty() || schemes.iter().any(|s| s.eq_ignore_ascii_case("basic"));
            let asks = if schemes.is_empty() { String::new() } else { format!(", by {}", schemes.join(" or ")) };
            let hint = if basic {
                "HTTPS_PROXY=http://user:password@host:port"
            } else {
                "only Basic is spoken here; run a helper that speaks the proxy's way, such as cntlm, and name that in HTTPS_PROXY"
            };
            Err(Diagnostic::new(format!("the proxy {name} wants other credentials{asks}: `{status}`"), hint).into())
        }
        _ => bail!("the proxy {name} refused to connect to {target}: `{status}`"),
    }
}

/// The ways in which a proxy wants to be told who asks (RFC 9110, section 11.7.1), each once.
fn schemes(head: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|l| l.split_once(':'));
    let values = fields.filter(|(name, _)| name.trim().eq_ignore_ascii_case("proxy-authenticate")).map(|(_, v)| v);
    let mut out: Vec<String> = Vec::new();
    for challenge in values.flat_map(|v| v.split(',')) {
        // `realm="x"` is a parameter of the challenge before it.
        let scheme = challenge.trim().split(' ').next().unwrap_or_default();
        let is_token = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if is_token && !out.iter().any(|s| s.eq_ignore_ascii_case(scheme)) {
            out.push(scheme.to_string());
        }
    }
    out
}

/// Reads byte by byte up to the empty line: what follows belongs to the tunnel.
async fn read_head(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_MAX {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "its answer has no end"));
        }
        head.push(socket.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_schemes_are_named() {
        let head = "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM, Digest realm=\"a\", nonce=\"b\"\r\n\r\n";
        assert_eq!(schemes(head), ["Negotiate", "NTLM", "Digest"]);
        assert!(schemes("HTTP/1.1 407 x\r\n\r\n").is_empty());
    }
}
