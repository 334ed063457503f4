//! The tunnel room: the edge (public side), the client (private side), and the planes between them.

mod balancer;
mod bulk;
pub mod client;
pub mod edge;
pub mod http;
mod mux;
mod relay;
pub mod settings;
mod stream;
mod upgrade;

/// What a peer says, fit for a log: one line, of a length.
fn printable(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(600).collect()
}
