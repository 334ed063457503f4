//! The coordination server of the mesh. In: connections of official clients. Out: what they may know and reach.

mod budget;
pub mod noise_stream;
mod outbox;
pub mod relay;
pub mod relay_http;
pub mod stun;
