//! Nodes of the mesh that speak its protocols over real sockets, many in one process. In: the address of a coordination
//! server or a relay. Out: what it answers, as JSON and frames. They do nothing by themselves: no tunnel, no policy.

mod control;
mod derp;
mod stream;
mod tls;

pub use control::{Channel, MapStream, Transport, read_head, server_key};
pub use derp::{Derp, Received};
use tailnet_proto::meshkey::{DiscoKey, MachinePrivate, NodePrivate};
pub use tls::tls;

/// The capability version that these nodes say they have: that of client 1.94.
pub const VERSION: u16 = 130;

/// The keys and the name of one node.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it calls itself.
    pub name: String,
    /// Its key towards the coordination server.
    pub machine: MachinePrivate,
    /// Its key towards other nodes and relays.
    pub node: NodePrivate,
    /// Its key for path discovery; only the public half is ever needed here.
    pub disco: DiscoKey,
    seed: u64,
}

impl Node {
    /// The node with this number; the same number makes the same keys.
    #[must_use]
    pub fn new(seed: u64) -> Node {
        Node {
            name: format!("sim-{seed}"),
            machine: MachinePrivate::from_random(bytes(seed, 1)),
            node: NodePrivate::from_random(bytes(seed, 2)),
            disco: DiscoKey::from_bytes(bytes(seed, 3)),
            seed,
        }
    }

    /// The same machine with another node key, as after a key has expired.
    #[must_use]
    pub fn rekeyed(&self, nth: u64) -> Node {
        Node { node: NodePrivate::from_random(bytes(self.seed, 1000 + nth)), ..self.clone() }
    }
}

/// Thirty-two bytes that look random and are always the same. Not for secrets.
#[must_use]
pub fn bytes(seed: u64, stream: u64) -> [u8; 32] {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut out = [0; 32];
    for word in out.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out
}
