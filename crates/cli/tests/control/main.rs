//! The coordination server as people run it: the built binary, official clients on hosts of their own, attackers, and
//! policies as files and in force; and what a server keeps, whatever its machine does. In: commands, packets, nodes that
//! lie. Out: who reaches whom, and that nothing is lost or given away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod clock;
mod doctor;
mod hostile;
mod layouts;
mod machine;
mod mesh;
mod policy;
mod policy_running;
mod printed;
mod server;
mod strangers;
mod teach;
