//! What the audit logs tell of, each event with the word that stands for it in the files.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Something that is put on record.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum AuditEvent {
            $($(#[$doc])* $name,)*
            /// A word of another version. It is kept as it is: a log's hashes go over it.
            Other(String),
        }

        impl AuditEvent {
            /// Every event there is a name for.
            pub const ALL: &[AuditEvent] = &[$(AuditEvent::$name),*];

            /// The word that stands in the files.
            #[must_use]
            pub fn word(&self) -> &str {
                match self {
                    $(AuditEvent::$name => $word,)*
                    AuditEvent::Other(word) => word,
                }
            }
        }

        impl From<String> for AuditEvent {
            fn from(word: String) -> AuditEvent {
                match word.as_str() {
                    $($word => AuditEvent::$name,)*
                    _ => AuditEvent::Other(word),
                }
            }
        }
    };
}

events! {
    /// Somebody was let in.
    Given = "given",
    /// A person or a rule ended a grant.
    Revoked = "revoked",
    /// A grant's time was over.
    Expired = "expired",
    /// A list was full and somebody with as much or more evidence came.
    Evicted = "evicted",
    /// A person set a grant's end.
    Extended = "extended",
    /// A grant's device showed up elsewhere: it ends soon.
    Superseded = "superseded",
    /// One of a grant's reasons is over, others go on.
    Lapsed = "lapsed",
    /// A proof that a ban kept out.
    Refused = "refused",
    /// A proof that found its list full of stronger evidence.
    Full = "full",
    /// Proofs of somebody no longer count.
    Banned = "banned",
    /// They count again.
    Unbanned = "unbanned",
    /// Another program's users, keys, nodes or addresses were taken over.
    Imported = "imported",
    /// Somebody asked to join with a key that is not good.
    JoinRefused = "join-refused",
    /// A pre-auth key was made.
    KeyCreated = "key-created",
    /// A node asked with another one's key.
    KeyOfAnother = "key-of-another",
    /// A pre-auth key was taken back.
    KeyRevoked = "key-revoked",
    /// Nameservers, search domains or records were set.
    NamesSet = "names-set",
    /// A node was deleted.
    NodeDeleted = "node-deleted",
    /// A node has to log in again.
    NodeExpired = "node-expired",
    /// An ephemeral node was away for too long.
    NodeForgotten = "node-forgotten",
    /// A node joined.
    NodeJoined = "node-joined",
    /// A node logged out.
    NodeLeft = "node-left",
    /// A node belongs to another user.
    NodeMoved = "node-moved",
    /// A node that asked to join was turned away.
    NodeRefused = "node-refused",
    /// A node logged in again.
    NodeRejoined = "node-rejoined",
    /// A node has another name.
    NodeRenamed = "node-renamed",
    /// A node has other tags.
    NodeTagged = "node-tagged",
    /// A node waits for approval.
    NodeWaits = "node-waits",
    /// A policy was put in force.
    PolicySet = "policy-set",
    /// Routes were approved.
    RoutesApproved = "routes-approved",
    /// Routes were taken back.
    RoutesRevoked = "routes-revoked",
    /// A user was made.
    UserCreated = "user-created",
    /// A user was deleted.
    UserDeleted = "user-deleted",
    /// A user has another name.
    UserRenamed = "user-renamed",
    /// A user has another role.
    UserRole = "user-role",
    /// Deadlines go by the machine's clock again.
    ClockReset = "clock-reset",
    /// The log is not what its store knows of it.
    LogChanged = "log-changed",
}

impl From<AuditEvent> for String {
    fn from(event: AuditEvent) -> String {
        match event {
            AuditEvent::Other(word) => word,
            known => known.word().to_string(),
        }
    }
}

impl FromStr for AuditEvent {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<AuditEvent, Infallible> {
        Ok(AuditEvent::from(word.to_string()))
    }
}

impl fmt::Display for AuditEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_word_of_its_own_and_others_are_kept() {
        for (n, event) in AuditEvent::ALL.iter().enumerate() {
            assert_eq!(&AuditEvent::from(event.word().to_string()), event);
            assert!(AuditEvent::ALL.iter().skip(n + 1).all(|e| e.word() != event.word()), "{event}");
        }
        let later = AuditEvent::from("node-painted".to_string());
        assert_eq!((later.word(), String::from(later.clone())), ("node-painted", "node-painted".to_string()));
    }
}
