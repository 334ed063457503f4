//! Verbs, all pure. What comes in are values of `model`; what goes out are verdicts and effects. No IO, no clock.

mod admit;
pub mod certificate;
pub mod clock;
pub mod ended;
pub mod filter;
pub mod grant;
pub mod http;
pub mod mesh;
pub mod names;
pub mod ours;
mod page;
pub mod policy;
pub mod publish;
mod service;
pub mod visitor;

pub use admit::{Ask, Verdict, Why, admit, explain, words};
pub use service::{Guard, Service};
