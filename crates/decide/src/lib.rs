//! Verbs, all pure. What comes in are values of `model`; what goes out are verdicts and effects. No IO, no clock.

mod admit;
pub mod filter;
pub mod policy;
mod service;
pub mod clock;
pub mod grant;
pub mod publish;
pub mod visitor;

pub use admit::{Ask, Verdict, Why, admit, explain};
pub use service::{Guard, Service};
