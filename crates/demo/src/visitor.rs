//! Visitors of the demo. In: a source address, where to ask. Out: what a visitor gets to see, byte for byte.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Everything here is on this machine: whoever has not answered by then does not answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of a request.
pub(super) enum Answer {
    /// A status and how long the body is.
    Page(u16, usize),
    /// Closed without a byte.
    Closed,
    /// Anything else.
    Strange(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Page(status, len) => write!(f, "{status}, {len} bytes"),
            Answer::Closed => f.write_str("closed without a byte"),
            Answer::Strange(what) => f.write_str(what),
        }
    }
}

/// Asks once from an address; `headers` are whole lines, and may begin with a `Host:` of their own.
pub(super) async fn get(from: &str, to: SocketAddr, path: &str, headers: &str) -> Answer {
    let ask = async {
        let mut stream = dial(from, to).await?;
        let host = if headers.starts_with("Host:") { "" } else { "Host: demo.example\r\n" };
        let ask = format!("GET {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n");
        // A refusal may come before the request is out: what counts is what is read.
        let _ = stream.write_all(ask.as_bytes()).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        anyhow::Ok(all)
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, ask).await {
        Err(_) => Answer::Strange("no answer in 5 s".to_string()),
        Ok(Err(e)) => Answer::Strange(format!("{e:#}")),
        Ok(Ok(all)) if all.is_empty() => Answer::Closed,
        Ok(Ok(all)) => {
            let text = String::from_utf8_lossy(&all);
            let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
            let body = text.find("\r\n\r\n").map_or(0, |at| text.len() - at - 4);
            status.map_or_else(|| Answer::Strange("not HTTP".to_string()), |s| Answer::Page(s, body))
        }
    }
}

/// A download that runs.
pub(super) struct Download {
    stream: TcpStream,
    /// Bytes that have arrived.
    pub(super) read: u64,
}

impl Download {
    pub(super) async fn start(from: &str, to: SocketAddr, path: &str) -> Result<Download> {
        let mut stream = dial(from, to).await?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: demo.example\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        Ok(Download { stream, read: 0 })
    }

    /// Reads until this many more bytes have come.
    pub(super) async fn read_some(&mut self, more: u64) -> Result<()> {
        let until = self.read + more;
        let mut buf = vec![0; 64 * 1024];
        while self.read < until {
            let read = tokio::time::timeout(REQUEST_TIMEOUT, self.stream.read(&mut buf))
                .await
                .context("the download stalls")??;
            if read == 0 {
                bail!("the download ended after {} bytes", self.read);
            }
            self.read += read as u64;
        }
        Ok(())
    }

    /// Reads slowly on; true if the connection broke in time.
    pub(super) async fn until_cut(&mut self, within: Duration) -> bool {
        let mut buf = vec![0; 64 * 1024];
        let read = async {
            loop {
                match self.stream.read(&mut buf).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => self.read += n as u64,
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(within, read).await.is_ok()
    }
}

async fn dial(from: &str, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse()?, 0)).with_context(|| format!("this machine has no address {from}"))?;
    tokio::time::timeout(REQUEST_TIMEOUT, socket.connect(to))
        .await
        .context("no connection in 5 s")?
        .context("no connection")
}
