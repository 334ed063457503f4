//! Hands: sockets, TLS, links, dialling. In: addresses and settings that were decided elsewhere. Out: connections that
//! move bytes. Decides nothing, judges nobody.

pub mod buffers;
pub mod dial;
pub mod link;
pub mod memory;
pub mod replace;
pub mod sockets;
pub mod tls;
