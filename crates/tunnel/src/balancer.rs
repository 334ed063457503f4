//! The PROXY line of a balancer in front. In: a fresh connection of a trusted peer. Out: the visitor it names; not a
//! byte of the visitor is read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tunnel_proto::proxy_line::{self, HEADER_MAX, Version};

/// A balancer must have sent its line by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A line that came in part is looked at again after this; balancers send it whole.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Takes the PROXY line off a connection. `None`: the balancer speaks for itself (a health check).
///
/// # Errors
/// There is no line of this version within five seconds.
pub(super) async fn take_line(socket: &TcpStream, version: Version) -> io::Result<Option<SocketAddr>> {
    tokio::time::timeout(HEADER_TIMEOUT, take(socket, version))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY line in 5 s")))
}

async fn take(socket: &TcpStream, version: Version) -> io::Result<Option<SocketAddr>> {
    let mut buf = [0; HEADER_MAX];
    loop {
        let n = socket.peek(&mut buf).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match proxy_line::decode(&buf[..n], version) {
            Ok(Some(decoded)) => {
                let mut left = decoded.len;
                while left > 0 {
                    socket.readable().await?;
                    match socket.try_read(&mut buf[..left]) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(n) => left -= n,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Err(e),
                    }
                }
                return Ok(decoded.source);
            }
            Ok(None) => tokio::time::sleep(RETRY_INTERVAL).await,
            Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
        }
    }
}
