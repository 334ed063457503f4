//! Ports of this machine that are guarded. In: text such as `25565`, `27015-27030/udp`. Out: ports with their transport.

use std::collections::BTreeSet;
use std::fmt;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport.
    pub transport: Transport,
    /// 1 to 65535.
    pub number: u16,
}

/// Most ports of one transport that one text may name: a range of a game server has a few hundred; 65,535 of both would guard the way to
/// the machine itself, which is a slip in nearly every case.
const PORTS_MAX: usize = 4_096;

impl Transport {
    /// Both.
    pub const ALL: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    /// Its number in an IP header (IANA, Assigned Internet Protocol Numbers).
    #[must_use]
    pub fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl Port {
    /// Ports from a text: numbers and ranges, each followed by `/tcp`, `/udp` or nothing for both, with commas or blanks
    /// between them. Quotes around it are taken off: lists in compose files keep theirs.
    ///
    /// # Errors
    /// What is wrong, for a person, naming the item.
    pub fn parse_list(text: &str) -> Result<BTreeSet<Port>, String> {
        let mut out = BTreeSet::new();
        let bare = text.trim().trim_matches(['"', '\'']);
        for item in bare.split([',', ' ']).map(str::trim).filter(|t| !t.is_empty()) {
            let (numbers, transports) = match item.split_once('/') {
                None => (item, &Transport::ALL[..]),
                Some((n, t)) if t.eq_ignore_ascii_case("tcp") => (n, &[Transport::Tcp][..]),
                Some((n, t)) if t.eq_ignore_ascii_case("udp") => (n, &[Transport::Udp][..]),
                Some((_, t)) => return Err(format!("`{item}`: `/{t}` is neither `/tcp` nor `/udp`")),
            };
            let number = |t: &str| {
                let n = t.trim().parse::<u16>().ok().filter(|n| *n > 0);
                n.ok_or_else(|| format!("`{item}`: `{}` is no port; ports are 1 to 65535", t.trim()))
            };
            let (first, last) = match numbers.split_once(['-', ':']) {
                None => (number(numbers)?, number(numbers)?),
                Some((a, b)) => (number(a)?, number(b)?),
            };
            if first > last {
                return Err(format!("`{item}` runs backwards; write {last}-{first}"));
            }
            out.extend(transports.iter().flat_map(|t| (first..=last).map(|number| Port { transport: *t, number })));
            let many = |t: &Transport| out.iter().filter(|p| p.transport == *t).count() > PORTS_MAX;
            if transports.iter().any(many) {
                return Err(format!("`{item}` makes more than {PORTS_MAX} ports"));
            }
        }
        if out.is_empty() { Err(format!("`{text}` names no port")) } else { Ok(out) }
    }
}

/// `25565/tcp`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, if self.transport == Transport::Tcp { "tcp" } else { "udp" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        match Port::parse_list(text) {
            Ok(ports) => ports.iter().map(Port::to_string).collect::<Vec<_>>().join(" "),
            Err(e) => e,
        }
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(words("25565"), "25565/tcp 25565/udp");
        assert_eq!(words("25565/udp"), "25565/udp");
        assert_eq!(words("7777-7779/udp, 22/TCP"), "22/tcp 7777/udp 7778/udp 7779/udp");
        assert_eq!(words("27015:27016/tcp"), "27015/tcp 27016/tcp");
        assert_eq!(words("\"25565\""), "25565/tcp 25565/udp");
        assert_eq!(words("80,80/tcp 80/udp"), "80/tcp 80/udp");
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(words("0"), "`0`: `0` is no port; ports are 1 to 65535");
        assert_eq!(words("65536"), "`65536`: `65536` is no port; ports are 1 to 65535");
        assert_eq!(words("9-7"), "`9-7` runs backwards; write 7-9");
        assert_eq!(words("53/sctp"), "`53/sctp`: `/sctp` is neither `/tcp` nor `/udp`");
        assert_eq!(words("http"), "`http`: `http` is no port; ports are 1 to 65535");
        assert_eq!(words("1-65535"), "`1-65535` makes more than 4096 ports");
        assert_eq!(words(" , "), "` , ` names no port");
    }
}
