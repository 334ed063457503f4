//! The tunnel room: the edge (public side), the client (private side), and the planes between them.

pub mod http;
pub mod settings;
