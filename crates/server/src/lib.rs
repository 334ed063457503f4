//! The whole process. In: a [`Config`] that leaves no question open. Out: the components that it asks for, linked to each
//! other, until the run stops; and the next configuration put into force without a restart.
//!
//! It knows no command line and prints nothing. Components never name each other: what one needs of another passes here.

mod admin;
mod config;
mod doctor;
mod liveness;
pub mod node_lists;
mod supervisor;

pub use config::{Config, ControlConfig, Log, Note, Teach};
pub use supervisor::{Read, Supervisor, say_unreachable};
