//! Where the guests of share links go. In: settings. Out: what lets them in, as a value that the gate's state holds.

use std::sync::Arc;

use net::serve::{Limits, Slots};
use tokio_util::sync::CancellationToken;

use super::Shares;

/// Where the guests of a share go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guests {
    /// The list they enter.
    pub list: String,
    /// Seconds they stay.
    pub ttl: u64,
}

/// Answers that wait at a time; the others come at once. One source needs one, a family behind one address a few.
const WAITING: Limits = Limits { total: 256, per_source: 4, reserve: 0 };

/// Share links, and what it takes to let their guests in.
#[derive(Debug)]
pub(crate) struct ShareState {
    /// Whether a link is alive.
    pub(crate) checker: Arc<Shares>,
    /// For each share, where its guests go, in the order of the shares.
    guests: Vec<Guests>,
    /// Answers to new guests that wait for enforcers.
    pub(super) waiting: Arc<Slots>,
    /// The process stops: nothing is waited for any more.
    pub(super) stopping: CancellationToken,
}

impl ShareState {
    pub(crate) fn new(checker: Shares, guests: Vec<Guests>, stopping: CancellationToken) -> ShareState {
        ShareState { checker: Arc::new(checker), guests, waiting: Slots::new(WAITING), stopping }
    }

    /// The same under other settings.
    pub(crate) fn under(&self, checker: Arc<Shares>, guests: Vec<Guests>) -> ShareState {
        ShareState { checker, guests, waiting: self.waiting.clone(), stopping: self.stopping.clone() }
    }

    /// Where the guests of a share go.
    pub(super) fn guests(&self, share: &str) -> Option<&Guests> {
        let at = self.checker.all().iter().position(|s| s.name == share);
        at.and_then(|i| self.guests.get(i))
    }
}
