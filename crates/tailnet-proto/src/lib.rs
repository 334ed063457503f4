//! What official clients of the mesh speak: map messages, Noise, DERP, STUN, keys. In: bytes a peer sent. Out: values that
//! are proof of their own validity. No IO. Fuzzed.

pub mod derp;
pub mod meshkey;
pub mod nacl;
pub mod noise;
pub mod stun;
pub mod tailcfg;
