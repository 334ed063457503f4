//! What waits for one client of the relay. In: packets and notices. Out: bytes, framed, in two pieces. Bounded; buffers
//! are kept and swapped, so that a packet costs a copy and no allocation.

use tailnet_proto::derp::{Frame, HEAD_LEN, SEND_MAX, is_disco};
use tailnet_proto::meshkey::NodeKey;

/// Bytes of packets that may wait: about ninety full packets, a tenth of a second at 10 Mbit/s, and the longest packet
/// that there is. As much again may be on its way out. Official relays hold 32 packets.
const BULK: usize = 128 * 1024;

/// Bytes of path discovery that may wait; they have a queue of their own, so that bulk does not push them out.
const DISCO: usize = 16 * 1024;

/// Path discovery messages are no longer than a datagram on any link; what is longer only looks like one.
const DISCO_PACKET: usize = 2 * 1024;

/// Bytes of notices that may wait. Who pings faster than they read gets fewer answers.
const NOTICES: usize = 8 * 1024;

/// Three queues of frames.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    notices: Vec<u8>,
    disco: Vec<u8>,
    bulk: Vec<u8>,
    closing: bool,
}

impl Outbox {
    /// With a frame that goes first.
    pub(super) fn starting_with(frame: &[u8]) -> Outbox {
        Outbox { notices: frame.to_vec(), ..Outbox::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.disco.is_empty() && self.bulk.is_empty()
    }

    /// Adds a packet; returns how many older ones had to go.
    pub(super) fn packet(&mut self, from: &NodeKey, packet: &[u8]) -> u64 {
        let disco = packet.len() <= DISCO_PACKET && is_disco(packet);
        let (queue, most) = if disco { (&mut self.disco, DISCO) } else { (&mut self.bulk, BULK) };
        let frame = Frame::RecvPacket(*from, packet);
        let need = HEAD_LEN + from.as_bytes().len() + packet.len();
        let dropped = if queue.len() + need > most { drop_oldest(queue, need, most) } else { 0 };
        frame.encode(queue);
        dropped
    }

    /// Adds a notice, unless too many wait already.
    pub(super) fn notify(&mut self, notice: &Frame<'_>) {
        if self.notices.len() < NOTICES {
            notice.encode(&mut self.notices);
        }
    }

    /// Nothing more comes; what is there still goes out.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Moves all that waits into two empty buffers, what is urgent into the first. True if nothing more will come.
    pub(super) fn take(&mut self, few: &mut Vec<u8>, bulk: &mut Vec<u8>) -> bool {
        few.append(&mut self.notices);
        few.append(&mut self.disco);
        std::mem::swap(&mut self.bulk, bulk);
        self.closing
    }

    /// Gives memory back that is not needed now.
    pub(super) fn shrink(&mut self) {
        self.notices.shrink_to_fit();
        self.disco.shrink_to_fit();
        self.bulk.shrink_to_fit();
    }
}

/// Drops whole frames from the front until `need` bytes fit, and a quarter more, so that a full queue is not moved for
/// every packet.
fn drop_oldest(queue: &mut Vec<u8>, need: usize, most: usize) -> u64 {
    let wanted = (queue.len() + need).saturating_sub(most).max(most / 4).min(queue.len());
    let (mut at, mut dropped) = (0, 0);
    while at < wanted {
        let Some([_, a, b, c, d]) = queue.get(at..).and_then(|q| q.first_chunk::<HEAD_LEN>()) else { break };
        at += HEAD_LEN + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        dropped += 1;
    }
    queue.drain(..at.min(queue.len()));
    dropped
}

const _: () = assert!(BULK >= HEAD_LEN + SEND_MAX, "the longest packet fits");

#[cfg(test)]
mod tests {
    use tailnet_proto::derp::{PACKET_MAX, first};

    use super::*;

    fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = vec![];
        while let Some((frame, len)) = first(bytes).unwrap() {
            let Some(Frame::RecvPacket(_, packet)) = frame else { panic!("{frame:?}") };
            out.push(packet.to_vec());
            bytes = &bytes[len..];
        }
        assert!(bytes.is_empty(), "frames are whole");
        out
    }

    #[test]
    fn a_full_outbox_keeps_the_newest_whole_packets() {
        let from = NodeKey::from_bytes([1; 32]);
        let mut outbox = Outbox::default();
        let mut dropped = 0;
        for i in 0..1000u32 {
            let mut packet = i.to_be_bytes().to_vec();
            packet.resize(100 + i as usize, 0);
            dropped += outbox.packet(&from, &packet);
        }
        let (mut few, mut bulk) = (vec![], vec![]);
        outbox.take(&mut few, &mut bulk);
        assert!(bulk.len() <= BULK && outbox.is_empty());
        let kept: Vec<u32> = packets(&bulk).iter().map(|p| u32::from_be_bytes(*p.first_chunk().unwrap())).collect();
        assert_eq!(kept.len() as u64 + dropped, 1000);
        assert_eq!(kept, (dropped as u32..1000).collect::<Vec<_>>());
        assert_eq!(outbox.packet(&from, &vec![7; PACKET_MAX]), 0);
        assert_eq!(outbox.packet(&from, &vec![8; PACKET_MAX]), 1, "one of the longest packets fits");
    }

    #[test]
    fn bulk_does_not_push_out_path_discovery_and_notices_are_bounded() {
        let from = NodeKey::from_bytes([1; 32]);
        let mut disco = b"TS\xf0\x9f\x92\xac".to_vec();
        disco.resize(100, 0);
        let mut outbox = Outbox::default();
        outbox.packet(&from, &disco);
        for _ in 0..1000 {
            outbox.packet(&from, &[0; 1400]);
            outbox.notify(&Frame::Pong([0; 8]));
        }
        let (mut few, mut bulk) = (vec![], vec![]);
        assert!(!outbox.take(&mut few, &mut bulk));
        assert!(few.ends_with(&disco) && few.len() < 2 * NOTICES, "{} bytes", few.len());
        outbox.close();
        assert!(outbox.take(&mut few, &mut bulk));
    }
}
