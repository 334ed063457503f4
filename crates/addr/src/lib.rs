//! What every part speaks of. What comes in is text or `std::net` types; what goes out are values that are proof of their
//! own validity: a folded address, a normal prefix, an immutable set, a host, a port. No IO, no clock, no runtime.

mod addr;
mod diagnostic;
mod host;
mod list;
mod percent;
mod port;
mod prefix;
mod set;
mod source;
mod timestamp;

pub use addr::{Addr, AddrError};
pub use diagnostic::Diagnostic;
pub use host::{Authority, Host};
pub use list::{ListError, ListText, ListWarning, parse_list};
pub use percent::percent_decoded;
pub use port::{Port, Transport};
pub use prefix::{AddrRange, Prefix, PrefixError};
pub use set::AddrSet;
pub use source::SourceKey;
pub use timestamp::{Timestamp, TimestampError, to_the_minute};
