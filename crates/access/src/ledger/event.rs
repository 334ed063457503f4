//! What can happen to the ledger and what comes of it. In: proofs and a person's word. Out: values; no rule is here.

use addr::{Addr, Prefix};

use crate::ended::{Ended, What};
use crate::{Ban, BanId, Claim, Evidence, Grant, GrantId, Whom};

/// A proof: somebody showed at `addr` that the list's grant source may trust it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The list it opens.
    pub list: String,
    /// From where.
    pub addr: Addr,
    /// What was shown.
    pub evidence: Evidence,
    /// Who.
    pub principal: Option<String>,
    /// With which device.
    pub device: Option<String>,
    /// Seconds instead of the list's `ttl`, for a grant source with its own.
    pub ttl: Option<u64>,
}

/// An entry made by a person or by a name's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The list.
    pub list: String,
    /// From where; any width.
    pub prefix: Prefix,
    /// `Manual`, `Earlier` or `Dns`.
    pub evidence: Evidence,
    /// Who it is for, or the name.
    pub principal: Option<String>,
    /// When it ends; `None`: never by itself.
    pub until: Option<u64>,
    /// Break-glass: no limit removes it.
    pub pinned: bool,
}

/// What can happen to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A grant source saw a proof.
    Proof(Proof),
    /// An address on the list was admitted somewhere.
    Seen(String, Addr),
    /// An entry by hand.
    Add(Entry),
    /// Several, saved together: the stretches of a range.
    AddAll(Vec<Entry>),
    /// A grant ends now, for all its reasons. The text says by whom or why.
    Revoke(GrantId, String),
    /// One reason of a grant ends now: that of this evidence, principal and device. The text says why.
    Withdraw(GrantId, Claim, String),
    /// A person ends grants and bans whom he likes, all of it or nothing.
    Close(Close),
    /// The ends of grants are set: as a person's word beside what proofs gave.
    Extend {
        /// Which.
        ids: Vec<GrantId>,
        /// When they end; `None`: they no longer end by themselves.
        until: Option<u64>,
        /// What proofs gave ends then too, until the next one.
        shorten: bool,
    },
    /// Proofs of these count again on these lists.
    Unban(Vec<(String, Whom)>),
}

/// What a person ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// These grants, but for what followed names say.
    pub ids: Vec<GrantId>,
    /// Only what this principal has a part in; `None`: everybody's.
    pub principal: Option<String>,
    /// On which lists whose proofs no longer count, and until when.
    pub bans: Vec<(String, Whom, Option<u64>)>,
    /// By whom or why.
    pub by: String,
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new grant.
    Given(GrantId),
    /// The grant was there and lives on.
    Renewed(GrantId),
    /// The grant ended.
    Ended(GrantId),
    /// So many grants ended, changed or were forbidden to come back.
    Settled(usize),
    /// Nothing to do or nothing allowed.
    Rejected(Rejection),
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No such list.
    NoList,
    /// No such grant.
    NoGrant,
    /// The address is private and the list does not learn those.
    Private,
    /// The address is this machine's own.
    Own,
    /// Nobody can come from the address: multicast, broadcast, unspecified.
    Nobodys,
    /// A static entry of the list holds the address already.
    Static,
    /// The list is full of stronger evidence.
    Full,
    /// A person said that no proof of these counts.
    Banned,
    /// There is no room for another ban.
    Bans,
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Save this grant.
    Persist(Grant),
    /// Delete this grant from the store.
    Forget(GrantId),
    /// The desired entries of this list are different now.
    Changed(String),
    /// Save this ban.
    PersistBan(Ban),
    /// Delete this ban from the store.
    ForgetBan(BanId),
    /// Write this into the audit log.
    Audit(Audit),
    /// Remember this, for whoever asks why somebody is no longer in.
    Ended(Ended),
}

/// A line of the audit log, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// What happened.
    pub what: What,
    /// To what, as it was then.
    pub about: About,
    /// By whom or why; may be empty.
    pub by: String,
}

/// To what something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A grant.
    Grant(Grant),
    /// A ban.
    Ban(Ban),
}
