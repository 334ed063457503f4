//! Bytes and texts that cross a border: tunnel frames, hellos, PROXY lines, connect strings, upstream forms. In: bytes
//! a peer or a person sent. Out: values that are proof of their own validity. No IO. Fuzzed.

pub mod connect;
pub mod derp;
pub mod frame;
pub mod grant;
pub mod hello;
pub mod mesh;
pub mod meshkey;
pub mod nacl;
pub mod noise;
pub mod proxy_line;
pub mod secret;
pub mod stun;
pub mod tailcfg;
pub mod upstream;
pub mod ws;
