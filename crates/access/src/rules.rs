//! What holds for one list. In: configuration. Out: limits, widths and lives of what the list learns.

use addr::Prefix;

use crate::Grant;

/// Who leaves when a list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evict {
    /// Whoever was seen longest ago.
    #[default]
    LeastRecentlySeen,
    /// Whoever came first, as Gatekeeper does.
    FirstSeen,
}

/// What holds for one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// At most so many learned grants; guests, names' addresses, static and pinned entries do not count. `None`: no limit.
    pub max: Option<usize>,
    /// At most so many guests of share links. `None`: no limit.
    pub guests: Option<usize>,
    /// Who leaves when it is full.
    pub evict: Evict,
    /// Seconds from the latest proof to the end. `None`: a proof does not age.
    pub ttl: Option<u64>,
    /// Seconds from the latest sign of life (proof or admitted request) to the end. `None`: silence ends nothing.
    pub idle: Option<u64>,
    /// Width of a learned IPv4 prefix in bits, 1 to 32: less than 32 for carriers whose customers change their address
    /// within a pool from one connection to the next.
    pub v4_width: u8,
    /// Width of a learned IPv6 prefix in bits, 1 to 128.
    pub v6_width: u8,
    /// Learn from private, loopback, link-local, CGN and unique local addresses too.
    pub learn_private: bool,
    /// At most so many places of one principal and family. `None`: no limit.
    pub devices: Option<usize>,
    /// Seconds that the old address of a device stays after its new one came. `None`: a new one ends no old one.
    pub grace: Option<u64>,
    /// Entries that are always on the list.
    pub statics: Vec<Prefix>,
}

/// Limits with nothing but the defaults: 50 guests, /64 for IPv6, no private addresses, five minutes of grace.
impl Default for Rules {
    fn default() -> Rules {
        Rules {
            max: None,
            // An album is shown to a family, not to a town.
            guests: Some(50),
            evict: Evict::default(),
            ttl: None,
            idle: None,
            v4_width: 32,
            // A household or a phone has a whole /64 and changes its address in it daily (RFC 8981).
            v6_width: 64,
            learn_private: false,
            devices: None,
            // Long enough for requests under way and a phone that flaps between Wi-Fi and mobile data.
            grace: Some(300),
            statics: Vec::new(),
        }
    }
}

impl Rules {
    /// The smaller, the sooner it leaves a full list.
    pub(crate) fn leaves_by(&self, g: &Grant) -> u64 {
        match self.evict {
            Evict::FirstSeen => g.given_at,
            Evict::LeastRecentlySeen => g.seen_at,
        }
    }
}
