//! Who may come in, all pure. In: lists, proofs of untrusted peers, the time. Out: verdicts, grants and what the ledger does with
//! them, lists as enforcers want them. No IO, no clock.

mod ban;
pub mod certificate;
pub mod clock;
pub mod ended;
mod grant;
pub mod import;
pub mod learned;
pub mod ledger;
pub mod names;
pub mod ours;
mod page;
pub mod publish;
pub mod record;
mod rules;
mod service;
mod verdict;
mod view;
pub mod visitor;

pub use ban::{Ban, BanId, Whom};
pub use grant::{Claim, Evidence, EvidenceError, Grant, GrantId, Strength};
pub use service::Service;
pub use verdict::{Refusal, Sentence, Verdict, Why};
pub use view::{List, ListId, Now, View, ViewBuilder};
