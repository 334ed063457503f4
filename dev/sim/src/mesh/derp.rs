//! A node's connection to a relay. In: any connection. Out: frames.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tailnet_proto::derp::{ClientInfo, Frame, Gone, ServerInfo, VERSION, first};
use tailnet_proto::meshkey::{NodeKey, NodePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::Node;
use super::control::{Transport, read_head};

/// A client of a relay. Its halves can be used apart.
pub struct Derp<S> {
    /// Reads frames.
    pub receiver: Receiver<S>,
    /// Writes frames.
    pub sender: Sender<S>,
    /// The relay's key.
    pub relay: NodeKey,
}

/// Its reading half.
pub struct Receiver<S> {
    io: ReadHalf<S>,
    came: Vec<u8>,
    used: usize,
}

/// Its writing half.
pub struct Sender<S> {
    io: WriteHalf<S>,
    frame: Vec<u8>,
}

/// A frame that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A packet and who sent it.
    Packet(NodeKey, Vec<u8>),
    /// A key is not here.
    Gone(NodeKey, Gone),
    /// The answer to a ping.
    Pong([u8; 8]),
    /// What is wrong with the connection.
    Health(String),
    /// A sign of life.
    KeepAlive,
    /// The relay goes away.
    Restarting(Duration, Duration),
}

impl Node {
    /// Connects to a relay through its HTTP upgrade.
    ///
    /// # Errors
    /// The relay refuses.
    pub async fn relay_over_http<S: Transport>(&self, mut io: S, host: &str) -> Result<Derp<S>> {
        let ask = format!("GET /derp HTTP/1.1\r\nHost: {host}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n");
        io.write_all(ask.as_bytes()).await?;
        io.flush().await?;
        let (head, came) = read_head(&mut io).await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        Derp::start(io, came, &self.node, self.node.public()).await
    }

    /// Connects to a relay whose HTTP part is over.
    ///
    /// # Errors
    /// The relay refuses.
    pub async fn relay<S: Transport>(&self, io: S) -> Result<Derp<S>> {
        Derp::start(io, vec![], &self.node, self.node.public()).await
    }
}

impl<S: Transport> Derp<S> {
    /// Introductions, with a key that is claimed and one that is held; honest nodes have both the same.
    ///
    /// # Errors
    /// The relay refuses.
    pub async fn start(io: S, came: Vec<u8>, held: &NodePrivate, claimed: NodeKey) -> Result<Derp<S>> {
        let (read, write) = tokio::io::split(io);
        let mut receiver = Receiver { io: read, came, used: 0 };
        let mut sender = Sender { io: write, frame: vec![] };
        let Frame::ServerKey(relay) = receiver.frame().await? else { bail!("no key of a relay") };
        let info = ClientInfo { version: VERSION, can_ack_pings: true, is_prober: false };
        // One message for each key and relay; a real client has random nonces.
        let nonce = std::array::from_fn(|i| i as u8);
        let sealed = info.seal(held, &relay, &nonce).context("a relay key of no use")?;
        sender.send(&Frame::ClientInfo(claimed, &sealed)).await?;
        let Frame::ServerInfo(sealed) = receiver.frame().await? else { bail!("no answer of a relay") };
        let info = ServerInfo::open(sealed, held, &relay)?;
        ensure!(info.version == VERSION, "{info:?}");
        Ok(Derp { receiver, sender, relay })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, to: &NodeKey, packet: &[u8]) -> Result<()> {
        self.sender.send(&Frame::SendPacket(*to, packet)).await
    }

    /// The next frame.
    ///
    /// # Errors
    /// The connection ended, or the relay sends what it must not.
    pub async fn receive(&mut self) -> Result<Received> {
        self.receiver.receive().await
    }
}

impl<S: Transport> Sender<S> {
    /// Sends a frame.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.frame.clear();
        frame.encode(&mut self.frame);
        self.io.write_all(&self.frame).await?;
        Ok(self.io.flush().await?)
    }

    /// Sends bytes as they are: frames prepared before, or no frames at all.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }
}

impl<S: Transport> Receiver<S> {
    /// The next frame, which borrows until the next call.
    ///
    /// # Errors
    /// The connection ended, or what comes is no frame.
    pub async fn frame(&mut self) -> Result<Frame<'_>> {
        self.came.drain(..std::mem::take(&mut self.used));
        loop {
            if let Some((frame, len)) = first(&self.came)? {
                if frame.is_some() {
                    self.used = len;
                    break;
                }
                self.came.drain(..len);
            } else {
                ensure!(self.io.read_buf(&mut self.came).await? > 0, "the relay ended the connection");
            }
        }
        first(&self.came)?.and_then(|(frame, _)| frame).context("a frame")
    }

    /// The next frame, as a client understands it.
    ///
    /// # Errors
    /// As for [`Receiver::frame`], and a frame that no client gets.
    pub async fn receive(&mut self) -> Result<Received> {
        Ok(match self.frame().await? {
            Frame::RecvPacket(from, packet) => Received::Packet(from, packet.to_vec()),
            Frame::PeerGone(key, reason) => Received::Gone(key, reason),
            Frame::Pong(data) => Received::Pong(data),
            Frame::Health(problem) => Received::Health(problem.to_string()),
            Frame::KeepAlive => Received::KeepAlive,
            Frame::Restarting(after, during) => Received::Restarting(after, during),
            other => bail!("a client gets no {other:?}"),
        })
    }

    /// Reads and counts packets as fast as they come, for `packets` of them; returns their bytes.
    ///
    /// # Errors
    /// As for [`Receiver::frame`].
    pub async fn count(&mut self, packets: usize) -> Result<u64> {
        let (mut left, mut total) = (packets, 0);
        let mut at = std::mem::take(&mut self.used);
        loop {
            while left > 0
                && let Some((frame, len)) = first(&self.came[at..])?
            {
                if let Some(Frame::RecvPacket(_, packet)) = frame {
                    left -= 1;
                    total += packet.len() as u64;
                }
                at += len;
            }
            self.came.drain(..std::mem::take(&mut at));
            if left == 0 {
                return Ok(total);
            }
            self.came.reserve(64 * 1024);
            ensure!(self.io.read_buf(&mut self.came).await? > 0, "the relay ended the connection");
        }
    }
}
