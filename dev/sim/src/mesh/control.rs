//! A node's way to its coordination server: `/key`, the `ts2021` upgrade, HTTP/2 within, register and map. In: an address
//! and JSON. Out: JSON.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tailnet_proto::meshkey::MachineKey;
use tailnet_proto::noise::{HEAD_LEN, Initiator, RESPONSE_LEN, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stream::Stream;
use super::{Node, VERSION, bytes};

/// Anything that carries a connection.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// Longest answer to the upgrade, and longest message of a map stream: netmaps of thousands of nodes are below it.
const HEAD_MAX: usize = 16 * 1024;
const MAP_MAX: usize = 64 << 20;

/// The channel of one node.
pub struct Channel {
    requests: SendRequest<Full<Bytes>>,
    node: Node,
}

/// A running map stream.
pub struct MapStream {
    body: Incoming,
    came: Vec<u8>,
}

/// Asks a server for its key.
///
/// # Errors
/// No connection, or no key in the answer.
pub async fn server_key(server: SocketAddr) -> Result<MachineKey> {
    let mut io = TcpStream::connect(server).await.context("cannot connect")?;
    let ask = format!("GET /key?v={VERSION} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    io.write_all(ask.as_bytes()).await?;
    let (head, mut body) = read_head(&mut io).await?;
    io.read_to_end(&mut body).await?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let start = body.iter().position(|b| *b == b'{').context("no JSON in the answer")?;
    let end = body.iter().rposition(|b| *b == b'}').context("no JSON in the answer")?;
    let key: Value = serde_json::from_slice(&body[start..=end])?;
    Ok(key["publicKey"].as_str().context("no publicKey")?.parse()?)
}

/// Reads the head of an HTTP answer; returns it and what came behind it.
///
/// # Errors
/// The connection ended first, or the head is too long.
pub async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> Result<(String, Vec<u8>)> {
    let mut came = vec![];
    loop {
        if let Some(end) = came.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = came.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&came).into_owned(), rest));
        }
        ensure!(came.len() < HEAD_MAX, "a head without end");
        ensure!(io.read_buf(&mut came).await? > 0, "the connection ended: {:?}", String::from_utf8_lossy(&came));
    }
}

impl Node {
    /// Opens a channel to the server with this key.
    ///
    /// # Errors
    /// No connection, or the server refuses.
    pub async fn connect(&self, server: SocketAddr, key: &MachineKey) -> Result<Channel> {
        let io = TcpStream::connect(server).await.context("cannot connect")?;
        io.set_nodelay(true)?;
        self.connect_over(io, &server.to_string(), key).await
    }

    /// The same over any connection.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn connect_over(&self, io: impl Transport, host: &str, key: &MachineKey) -> Result<Channel> {
        let (io, session, came) = self.handshake(io, host, key).await?;
        let io = Stream::new(io, session, came);
        let (requests, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        // It ends with the channel: when the last request handle is dropped or the server hangs up.
        tokio::spawn(connection);
        Ok(Channel { requests, node: self.clone() })
    }

    /// The upgrade and the handshake; returns the connection, the session and what came behind it.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn handshake<S: Transport>(
        &self,
        mut io: S,
        host: &str,
        key: &MachineKey,
    ) -> Result<(S, Session, Vec<u8>)> {
        let (initiator, message) = Initiator::start(&self.machine, key, VERSION, ephemeral(self.seed))?;
        io.write_all(upgrade(host, &message).as_bytes()).await?;
        io.flush().await?;
        let (head, mut came) = read_head(&mut io).await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        while came.len() < HEAD_LEN || (came[0] == 2 && came.len() < RESPONSE_LEN) {
            ensure!(io.read_buf(&mut came).await? > 0, "the server ended the handshake");
        }
        let rest = came.split_off(came.len().min(RESPONSE_LEN));
        Ok((io, initiator.finish(&came)?, rest))
    }

    /// What it says of its host.
    #[must_use]
    pub fn hostinfo(&self) -> Value {
        json!({ "Hostname": self.name, "OS": "linux", "IPNVersion": "1.94.0", "BackendLogID": self.name,
            "GoArch": "amd64", "NetInfo": { "PreferredDERP": 900, "WorkingUDP": true } })
    }

    /// A registration with an auth key.
    #[must_use]
    pub fn register_request(&self, auth_key: &str) -> Value {
        json!({ "Version": VERSION, "NodeKey": self.node.public(), "OldNodeKey": format!("nodekey:{:064}", 0),
            "NLKey": format!("nlpub:{:064}", 0), "Auth": { "AuthKey": auth_key }, "Expiry": "0001-01-01T00:00:00Z",
            "Hostinfo": self.hostinfo() })
    }

    /// A request for the map, once or as a stream.
    #[must_use]
    pub fn map_request(&self, stream: bool) -> Value {
        json!({ "Version": VERSION, "KeepAlive": true, "NodeKey": self.node.public(), "DiscoKey": self.disco,
            "Stream": stream, "OmitPeers": !stream, "Hostinfo": self.hostinfo(),
            "Endpoints": ["192.0.2.1:41641"], "EndpointTypes": [1] })
    }
}

/// The HTTP request that carries an initiation.
#[must_use]
pub(super) fn upgrade(host: &str, initiation: &[u8]) -> String {
    format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {host}\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\
         X-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        STANDARD.encode(initiation)
    )
}

/// Never the same twice in one process, as a handshake wants it.
fn ephemeral(seed: u64) -> [u8; 32] {
    static USED: AtomicU64 = AtomicU64::new(0);
    bytes(seed ^ u64::from(std::process::id()) << 32, 1 << 32 | USED.fetch_add(1, Ordering::Relaxed))
}

impl Channel {
    /// Posts JSON; returns the status and the answer, which is a text if it is no JSON.
    ///
    /// # Errors
    /// The channel ended.
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let (status, body) = self.send("POST", path, serde_json::to_vec(body)?).await?;
        let bytes = body.collect().await?.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
    }

    /// Sends a request with any body.
    ///
    /// # Errors
    /// The channel ended.
    pub async fn send(&mut self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Incoming)> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("https://control.invalid{path}"))
            .body(Full::new(Bytes::from(body)))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// Registers with an auth key.
    ///
    /// # Errors
    /// The server refuses, or has not authorized the machine.
    pub async fn register(&mut self, auth_key: &str) -> Result<Value> {
        let (status, answer) = self.post("/machine/register", &self.node.register_request(auth_key)).await?;
        if status != 200 || answer["Error"].as_str().is_some_and(|e| !e.is_empty()) {
            bail!("registration refused: {status} {answer}");
        }
        ensure!(answer["MachineAuthorized"] == true, "not authorized: {answer}");
        Ok(answer)
    }

    /// Starts the map stream.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn map(&mut self) -> Result<MapStream> {
        self.map_with(&self.node.map_request(true)).await
    }

    /// Starts a map stream with a request of one's own.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn map_with(&mut self, request: &Value) -> Result<MapStream> {
        let (status, body) = self.send("POST", "/machine/map", serde_json::to_vec(request)?).await?;
        if status != 200 {
            bail!("map refused: {status} {:?}", body.collect().await?.to_bytes());
        }
        Ok(MapStream { body, came: vec![] })
    }
}

impl MapStream {
    /// The next message, of however few bytes; nothing at the end of the stream.
    ///
    /// # Errors
    /// The channel ended within a message, or the message is no JSON.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        Ok(match self.next_bytes().await? {
            Some(message) => Some(serde_json::from_slice(&message)?),
            None => None,
        })
    }

    /// The next message as it came.
    ///
    /// # Errors
    /// The channel ended within a message.
    pub async fn next_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some((len, _)) = self.came.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                ensure!(len <= MAP_MAX, "a message of {len} bytes");
                if self.came.len() >= 4 + len {
                    let message = self.came.drain(..4 + len).skip(4).collect();
                    return Ok(Some(message));
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(mut data) = frame?.into_data() {
                        while data.has_remaining() {
                            self.came.extend_from_slice(data.chunk());
                            data.advance(data.chunk().len());
                        }
                    }
                }
                None => {
                    ensure!(self.came.is_empty(), "the stream ended within a message");
                    return Ok(None);
                }
            }
        }
    }

    /// The next message that says something: keep-alives are passed over.
    ///
    /// # Errors
    /// As for [`MapStream::next`], and at the end of the stream.
    pub async fn news(&mut self) -> Result<Value> {
        loop {
            let message = self.next().await?.context("the map stream ended")?;
            if message["KeepAlive"] != true {
                return Ok(message);
            }
        }
    }
}
