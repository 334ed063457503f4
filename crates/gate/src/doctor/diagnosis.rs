//! What a doctor goes by between two questions. In: settings, what the gate saw. Out: a value that the gate's state holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::Addr;
use parking_lot::Mutex;

use super::advice::ConfiguredBy;
use super::finding::FindingId;
use crate::observations::Observations;
use runtime::fetch::Base;

/// What `doctor` goes by, beside what the gate does.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// How this gate was configured, for the lines that mend something.
    pub(crate) configured_by: ConfiguredBy,
    /// Findings that are not counted.
    pub(crate) accept: BTreeSet<FindingId>,
    /// Sites that are asked as an unauthenticated visitor would.
    pub(crate) probes: Vec<Base>,
    /// The false visitor of a doctor at work, and what became of it.
    pub(super) stranger: Arc<Mutex<Option<Stranger>>>,
    /// What requests showed of the surroundings.
    pub(crate) observations: Arc<Observations>,
}

impl Diagnosis {
    /// A doctor that has seen nothing yet.
    pub(crate) fn new(configured_by: ConfiguredBy, accept: BTreeSet<FindingId>, probes: Vec<Base>) -> Diagnosis {
        Diagnosis { configured_by, accept, probes, ..Diagnosis::default() }
    }

    /// The same doctor under other settings.
    pub(crate) fn under(&self, by: ConfiguredBy, accept: BTreeSet<FindingId>, probes: Vec<Base>) -> Diagnosis {
        let (stranger, observations) = (self.stranger.clone(), self.observations.clone());
        Diagnosis { configured_by: by, accept, probes, stranger, observations }
    }
}

/// A request of the doctor, and what the gate saw of it.
#[derive(Debug, Clone)]
pub(super) struct Stranger {
    /// Its user agent; nobody else has it.
    pub(super) agent: String,
    /// The address it pretends to come from: one of documentation (RFC 5737), where nobody lives.
    pub(super) forged: Addr,
    /// Taken for a proof at this endpoint, though it showed no certificate.
    pub(super) believed: Option<String>,
    /// A certificate was believed, though it has none.
    pub(super) named: Option<String>,
    /// Its own address header was believed.
    pub(super) placed: bool,
}
