//! What a gate answers: its lists, the grants on them, why an address is on one or not, what is wrong around it.

use addr::{Addr, Prefix};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::verdict::Verdict;
use crate::{Answer, AuditEvent, text};

/// Asks for all lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lists {}

/// The lists of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListStates {
    /// Counts up with every change.
    pub generation: u64,
    /// Each list.
    pub lists: Vec<ListSummary>,
}

/// How a list stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListSummary {
    /// Its name.
    pub name: String,
    /// Entries of the configuration.
    #[serde(rename = "static")]
    pub statics: usize,
    /// Learned entries.
    pub learnt: usize,
    /// Counts up with every change of this list.
    pub generation: u64,
    /// Most learned entries that it holds.
    pub max: Option<usize>,
    /// Learned entries that count for `max`.
    pub counted: usize,
    /// Guests of share links.
    pub guests: usize,
    /// Most guests that it holds.
    pub max_guests: Option<usize>,
    /// How many left it for others since the start, guests too.
    pub evicted: u64,
    /// How many proofs found no place since the start.
    pub refused: u64,
    /// How many bans there are.
    pub bans: usize,
    /// What is kept equal to it.
    pub enforcers: Vec<Enforcer>,
}

/// Something that is kept equal to a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enforcer {
    /// What it is.
    pub name: String,
    /// The generation that it has.
    pub generation: u64,
    /// True if that is the newest.
    pub current: bool,
    /// How often it was changed since the start.
    pub changes: u64,
    /// How long the last change took, milliseconds.
    pub took_ms: f64,
    /// Why it is not equal to its list.
    pub error: Option<String>,
    /// Advice about it.
    pub remark: Option<String>,
}

/// Asks for one list with all that is on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Which; the only one without a name.
    #[serde(default)]
    pub list: Option<String>,
}

/// A list with all that is on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListState {
    /// Its name.
    pub name: String,
    /// Counts up with every change of this list.
    pub generation: u64,
    /// The time that deadlines go by.
    pub now: u64,
    /// The host names that it follows.
    pub names: Vec<FollowedName>,
    /// Entries of the configuration.
    #[serde(rename = "static", with = "text::list")]
    pub statics: Vec<Prefix>,
    /// The grants on it, oldest first.
    pub grants: Vec<Grant>,
    /// Whose proofs do not count.
    pub bans: Vec<Ban>,
    /// What is kept equal to it.
    pub enforcers: Vec<Enforcer>,
}

/// A host name whose addresses are on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedName {
    /// The name, with `dns:`.
    pub name: String,
    /// When that ends.
    pub until: Option<u64>,
    /// True if its addresses count among the pinned ones.
    pub pinned: bool,
    /// Its addresses.
    #[serde(with = "text::list")]
    pub addresses: Vec<Addr>,
    /// Why some of them are not on the list, in words.
    pub not_counting: Vec<String>,
    /// When it last had a good answer.
    pub good_at: Option<u64>,
    /// When it is asked for again.
    pub ask_at: Option<u64>,
    /// Why the last answer was not good.
    pub failed: Option<String>,
}

/// Somebody on a list: the strongest reason among the fields, the others under `beside`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its number.
    pub id: u64,
    /// The list.
    pub list: String,
    /// From where.
    #[serde(with = "text")]
    pub prefix: Prefix,
    /// First proof.
    pub given_at: u64,
    /// Latest proof or sign of life.
    pub seen_at: u64,
    /// The strongest reason.
    #[serde(flatten)]
    pub claim: Claim,
    /// The other reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Claim>,
}

/// A reason for which somebody is on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What proved it.
    pub evidence: String,
    /// Latest proof; absent: when the grant was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<u64>,
    /// Seconds without a sign of life after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// When it ends in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// True if nothing but a person ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where its device showed up later.
    #[serde(default, with = "text::opt", skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Prefix>,
    /// At how many places at a time its device has been seen; absent: at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u8>,
    /// When it ends as things stand; of a grant: when the last of its reasons does.
    #[serde(default)]
    pub ends_at: Option<u64>,
}

/// Somebody whose proofs do not count on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Its number.
    pub id: u64,
    /// The list.
    pub list: String,
    /// From where; or `name`.
    #[serde(default, with = "text::opt", skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
    /// Who; or `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Since when.
    pub since: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What lists know of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The grants that hold it.
    pub grants: Vec<Grant>,
    /// What ended for it or around it.
    pub ended: Vec<Ended>,
    /// The bans that it runs into.
    pub bans: Vec<Ban>,
}

/// A grant that ended, or a proof in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: u64,
    /// The list.
    pub list: String,
    /// From where.
    #[serde(with = "text")]
    pub prefix: Prefix,
    /// Who it was.
    pub principal: Option<String>,
    /// On what evidence.
    pub evidence: String,
    /// Which of the two, and how.
    pub what: AuditEvent,
    /// By whom or why; may be empty.
    pub by: String,
    /// True if it is not of the address itself and only near it.
    pub neighbour: bool,
}

/// Asks why an address is on a list or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Whose.
    #[serde(with = "text")]
    pub address: Addr,
    /// On which list; on every one without a name.
    #[serde(default)]
    pub service: Option<String>,
}

/// Why an address is on lists or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whose.
    #[serde(with = "text")]
    pub address: Addr,
    /// Of the lists that were asked.
    pub generation: u64,
    /// The time that deadlines go by.
    pub now: u64,
    /// What each list says.
    pub answers: Vec<ListAnswer>,
    /// What the gate noticed of this address lately, in words.
    pub heard: Vec<String>,
}

/// What one list of a gate says of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAnswer {
    /// The list.
    pub list: String,
    /// Yes or no.
    pub verdict: Verdict,
    /// The verdict in words.
    pub text: String,
    /// Who stands behind it, or why nobody does any more.
    #[serde(flatten)]
    pub behind: Behind,
}

/// Asks where the audit log is, or whether it is what was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// True: check it.
    #[serde(default)]
    pub verify: bool,
}

/// An audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLog {
    /// Where it is.
    pub file: String,
    /// Lines in it; absent if it was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// The last line's hash, hex; absent if it was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

/// Asks what is wrong with a gate and what is around it. The answer is [`crate::Findings`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {}

/// Changes who is on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase")]
pub enum ChangeGrants {
    /// Lets somebody in.
    Add(Add),
    /// Ends grants.
    Revoke(Revoke),
    /// Lets proofs count again.
    Unban(Unban),
    /// Sets the end of grants.
    Extend(Extend),
}

/// Lets somebody in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// On which list.
    pub list: String,
    /// Addresses, prefixes and ranges, or a host name with `dns:`.
    pub prefix: String,
    /// For how many seconds; without an end if absent.
    #[serde(default)]
    pub r#for: Option<u64>,
    /// Who it is.
    #[serde(default)]
    pub principal: Option<String>,
    /// True if only a person ends it.
    #[serde(default)]
    pub pinned: bool,
    /// True if very many addresses are meant.
    #[serde(default)]
    pub yes: bool,
}

/// Ends grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// A grant (`g17`), an address, a prefix, a range, a person, or a host name with `dns:`.
    pub what: String,
    /// On which list; without it, on every one.
    #[serde(default)]
    pub list: Option<String>,
    /// For how long no proof of it counts.
    #[serde(default)]
    pub ban: Option<BanTime>,
    /// True if grants around it are meant too.
    #[serde(default)]
    pub wider: bool,
    /// True if grants within it are meant too.
    #[serde(default)]
    pub within: bool,
}

/// Lets proofs count again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unban {
    /// An address, a prefix, a range or a person.
    pub what: String,
    /// On which list; without it, on every one.
    #[serde(default)]
    pub list: Option<String>,
}

/// Sets the end of grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// As for [`Revoke`].
    pub what: String,
    /// For how many seconds from now; without an end if absent.
    #[serde(default)]
    pub r#for: Option<u64>,
    /// On which list; without it, on every one.
    #[serde(default)]
    pub list: Option<String>,
    /// True if an end that is later now is meant too.
    #[serde(default)]
    pub shorten: bool,
}

/// How long a ban lasts; on the wire seconds, or `true` for one without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanTime {
    /// So many seconds.
    Seconds(u64),
    /// Until a person ends it.
    Forever,
}

impl Serialize for BanTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            BanTime::Seconds(n) => s.serialize_u64(*n),
            BanTime::Forever => s.serialize_bool(true),
        }
    }
}

impl<'de> Deserialize<'de> for BanTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<BanTime, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a ban lasts a number of seconds, or `true` for one without an end")]
        enum Wire {
            Seconds(u64),
            Flag(bool),
        }
        match Wire::deserialize(d)? {
            Wire::Seconds(n) => Ok(BanTime::Seconds(n)),
            Wire::Flag(true) => Ok(BanTime::Forever),
            Wire::Flag(false) => Err(serde::de::Error::custom("a ban of `false` is none; leave it out")),
        }
    }
}

/// What became of a change. Each kind has fields that the others have not, in the order in which they are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GrantsChanged {
    /// A host name is followed, or its end was set.
    Followed(Followed),
    /// Somebody was let in.
    Added(Added),
    /// Grants ended, or are kept out, or both.
    Revoked(Revoked),
    /// A host name is no longer followed.
    Unfollowed(Unfollowed),
    /// Proofs count again.
    Unbanned(Unbanned),
    /// Grants have another end.
    Extended(Extended),
}

impl Answer for GrantsChanged {
    fn unsaved(&self) -> Option<&str> {
        match self {
            GrantsChanged::Added(a) => a.unsaved.as_deref(),
            GrantsChanged::Revoked(r) => r.unsaved.as_deref(),
            GrantsChanged::Unbanned(u) => u.unsaved.as_deref(),
            GrantsChanged::Extended(e) => e.unsaved.as_deref(),
            GrantsChanged::Followed(_) | GrantsChanged::Unfollowed(_) => None,
        }
    }
}

/// Somebody was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The grants, with commas: `g17, g18`.
    pub grant: String,
    /// Enforcers that have this generation have them.
    pub generation: u64,
    /// Why they are not saved yet.
    pub unsaved: Option<String>,
    /// When they end.
    pub until: Option<u64>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A host name is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// The name, with `dns:`.
    pub grant: String,
    /// The same, as a list.
    pub extended: Vec<String>,
    /// Its addresses now.
    #[serde(with = "text::list")]
    pub addresses: Vec<Addr>,
    /// Why there is no good answer.
    pub failed: Option<String>,
    /// When that ends.
    pub until: Option<u64>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Enforcers that have this generation have it.
    pub generation: u64,
}

/// Grants ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Which.
    pub ended: Vec<String>,
    /// Whose proofs do not count any more.
    pub banned: Vec<Banned>,
    /// Enforcers that have this generation have it.
    pub generation: u64,
    /// Why that is not saved yet.
    pub unsaved: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Somebody whose proofs do not count on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banned {
    /// The list.
    pub list: String,
    /// Who, or from where.
    pub whom: String,
    /// When that ends.
    pub until: Option<u64>,
}

/// A host name is no longer followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfollowed {
    /// The name, with `dns:`.
    pub ended: Vec<String>,
}

/// Proofs count again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbanned {
    /// Whose.
    pub unbanned: Vec<OnList>,
    /// Enforcers that have this generation have it.
    pub generation: u64,
    /// Why that is not saved yet.
    pub unsaved: Option<String>,
}

/// Somebody on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnList {
    /// The list.
    pub list: String,
    /// Who, or from where.
    pub whom: String,
}

/// Grants have another end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// Which.
    pub extended: Vec<String>,
    /// When they end.
    pub until: Option<u64>,
    /// Enforcers that have this generation have it.
    pub generation: u64,
    /// Why that is not saved yet.
    pub unsaved: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}
