//! How a policy names people, machines, addresses, ports and protocols. In: one text of the document. Out: a value
//! that is proof of its form, or why it is not one. Whether the name exists is judged in `check`.

use std::fmt;

use addr::{Addr, AddrRange, Prefix};

/// Somebody or something that a rule names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// `*`: every node and every approved subnet route.
    Any,
    /// `autogroup:danger-all`: every address there is.
    DangerAll,
    /// `autogroup:internet`: every public address.
    Internet,
    /// `autogroup:self`: the devices of the user who asks.
    Own,
    /// `autogroup:member`: devices of users.
    Member,
    /// `autogroup:tagged`: devices with a tag.
    Tagged,
    /// `autogroup:shared`: devices shared from outside; there are none here.
    Shared,
    /// `autogroup:nonroot`: a word of SSH rules.
    NonRoot,
    /// `autogroup:admin` and the other roles.
    Role(Role),
    /// `odin@example.com`, or `odin@` for a user without an address.
    User(String),
    /// `user:*@example.com`: everybody of a domain.
    Domain(String),
    /// `group:…`, with its prefix.
    Group(String),
    /// `tag:…`, with its prefix.
    Tag(String),
    /// A name of the section `hosts`.
    Host(String),
    /// An address or a CIDR, and whether a length was written.
    Prefix(Prefix, bool),
    /// `first-last`.
    Range(AddrRange),
    /// `ipset:…`, with its prefix.
    IpSet(String),
    /// `app:…`, with its prefix: what that app connector has learned.
    App(String),
    /// `svc:…`, with its prefix: a service of section `services`.
    Service(String),
}

/// What a user may do in the administration, by the names of the policy language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `autogroup:owner`
    Owner,
    /// `autogroup:admin`
    Admin,
    /// `autogroup:network-admin`
    NetworkAdmin,
    /// `autogroup:it-admin`
    ItAdmin,
    /// `autogroup:billing-admin`
    BillingAdmin,
    /// `autogroup:auditor`
    Auditor,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// A destination of an access rule with the ports that may be reached there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhoPorts {
    /// Where.
    pub who: Who,
    /// Which ports.
    pub ports: Vec<Ports>,
}

/// A protocol by its number; `None` is the default of TCP, UDP and ICMP.
pub type Proto = Option<u8>;

/// Protocols that a policy may call by name, with their numbers (IANA, "Assigned Internet Protocol Numbers").
const PROTOCOLS: [(&str, u8); 14] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipv4", 4),
    ("ip-in-ip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("fc", 133),
];

/// What stands before the first colon of a name.
const KINDS: [&str; 8] = ["autogroup", "group", "tag", "ipset", "app", "svc", "user", "host"];

/// Numbers of the protocols that have ports.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

impl Ports {
    /// Every port.
    pub const ALL: Ports = Ports { first: 0, last: u16::MAX };

    /// True if the port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Role {
    const NAMES: [(&'static str, Role); 6] = [
        ("owner", Role::Owner),
        ("admin", Role::Admin),
        ("network-admin", Role::NetworkAdmin),
        ("it-admin", Role::ItAdmin),
        ("billing-admin", Role::BillingAdmin),
        ("auditor", Role::Auditor),
    ];

    /// The role of this name, as it follows `autogroup:`.
    #[must_use]
    pub fn named(name: &str) -> Option<Role> {
        Role::NAMES.iter().find(|(n, _)| *n == name).map(|(_, r)| *r)
    }

    /// Its name, as it follows `autogroup:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Role::NAMES.iter().find(|(_, r)| *r == self).map_or("", |(n, _)| *n)
    }
}

/// The addresses of a range as one type for both kinds of target.
pub(crate) fn target_range(who: &Who) -> Option<AddrRange> {
    match who {
        Who::Prefix(p, _) => Some(p.range()),
        Who::Range(r) => Some(*r),
        _ => None,
    }
}

/// Reads a name; spaces around it mean nothing.
pub fn read_who(text: &str) -> Result<Who, String> {
    let text = text.trim();
    if let Some(who) = read_address(text) {
        return who;
    }
    if text == "*" {
        return Ok(Who::Any);
    }
    if let Some(domain) = text.strip_prefix("user:") {
        return match domain.strip_prefix("*@") {
            Some(d) if !d.is_empty() && !d.contains('@') => Ok(Who::Domain(d.to_ascii_lowercase())),
            _ => Err(format!("`{text}` is no user: write `user:*@DOMAIN` or an address like `odin@example.com`")),
        };
    }
    if text.starts_with("localpart:") {
        return Err(format!(
            "`{text}` names logins, under `users` of an SSH rule only; people of a domain are `user:*@DOMAIN`"
        ));
    }
    if let Some(group) = text.strip_prefix("autogroup:") {
        return autogroup(group);
    }
    type Named = fn(String) -> Who;
    let named: [(&str, Named); 5] = [
        ("group:", Who::Group),
        ("tag:", Who::Tag),
        ("ipset:", Who::IpSet),
        ("app:", Who::App),
        ("svc:", Who::Service),
    ];
    for (prefix, make) in named {
        if text.strip_prefix(prefix).is_some_and(|n| !n.is_empty()) {
            return Ok(make(text.to_string()));
        }
    }
    if let Some((_, domain)) = text.split_once('@') {
        return match domain.contains(':') {
            true => Err(format!("`{text}` is no user; ports are not written here")),
            false => Ok(Who::User(text.to_string())),
        };
    }
    // An address with a typo must not be taken for a host's name.
    if text.contains('/') || text.is_empty() || text.contains(':') {
        return Err(format!("`{text}` is no user, group, tag, host, address, autogroup or IP set"));
    }
    Ok(Who::Host(text.to_string()))
}

/// Reads a destination with its ports: `tag:web:80,443`, `[2001:db8::1]:22`, `*:*`.
pub(crate) fn read_who_ports(text: &str) -> Result<WhoPorts, String> {
    let (who, ports) = split_ports(text)?;
    let ports = read_ports(ports).map_err(|e| format!("dst `{text}`: ports `{ports}`: {e}"))?;
    Ok(WhoPorts { who: read_who(&who)?, ports })
}

/// The same for a test: what has no ports is asked for at port 0 (public documentation of the policy file, "tests").
pub(crate) fn read_test_place(text: &str, proto: Proto) -> Result<WhoPorts, String> {
    if has_ports(proto) {
        return read_who_ports(text);
    }
    let (who, ports) = split_ports(text)?;
    match ports {
        "0" => Ok(WhoPorts { who: read_who(&who)?, ports: vec![Ports { first: 0, last: 0 }] }),
        _ => Err(format!("`{text}`: {} has no ports; write `{who}:0`", proto_name(proto.unwrap_or_default()))),
    }
}

/// Reads ports: `*`, `22`, `80,443`, `1000-2000`.
pub(crate) fn read_ports(text: &str) -> Result<Vec<Ports>, String> {
    if text == "*" {
        return Ok(vec![Ports::ALL]);
    }
    text.split(',').map(read_port_range).collect()
}

/// Reads what `ip` of a grant says: `*`, `443`, `tcp:443`, `udp:1000-2000`, `icmp:*`.
pub(crate) fn read_net(text: &str) -> Result<(Proto, Vec<Ports>), String> {
    if text == "*" {
        return Ok((None, vec![Ports::ALL]));
    }
    match text.split_once(':') {
        None => Ok((None, read_ports(text).map_err(|e| format!("ports `{text}`: {e}"))?)),
        Some((proto, ports)) => {
            if ports.contains(':') {
                return Err(format!("`{text}` has more than one `:`; write PROTOCOL:PORTS, such as `tcp:443`"));
            }
            Ok((read_proto(proto)?, read_ports(ports).map_err(|e| format!("ports `{ports}`: {e}"))?))
        }
    }
}

/// Reads a protocol: a name in lower case or a number from 1 to 255; empty is the default.
pub(crate) fn read_proto(text: &str) -> Result<Proto, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some((_, number)) = PROTOCOLS.iter().find(|(n, _)| *n == text) {
        return Ok(Some(*number));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if digits && text.starts_with('0') {
        return Err(format!("protocol `{text}`: a number may not begin with 0"));
    }
    match text.parse::<u8>() {
        Ok(n) if digits => Ok(Some(n)),
        _ => Err(format!(
            "protocol `{text}` is not known; write a name such as tcp, udp, icmp, or a number from 1 to 255"
        )),
    }
}

/// True if the protocol has ports to speak of.
pub(crate) fn has_ports(proto: Proto) -> bool {
    proto.is_none_or(|p| WITH_PORTS.contains(&p))
}

/// The name of a protocol, or its number.
pub(crate) fn proto_name(proto: u8) -> String {
    PROTOCOLS.iter().find(|(_, n)| *n == proto).map_or_else(|| proto.to_string(), |(name, _)| (*name).to_string())
}

fn read_address(text: &str) -> Option<Result<Who, String>> {
    let plain = |t: &str| !t.contains([' ', '[', ']', '%']);
    if let Some((first, last)) = text.split_once('-') {
        if !plain(text) {
            return None;
        }
        let (first, last) = (first.parse::<Addr>().ok()?, last.parse::<Addr>().ok()?);
        let wrong = || format!("`{text}`: a range runs from the lower to the higher address of one family");
        return Some(AddrRange::new(first, last).map(Who::Range).ok_or_else(wrong));
    }
    if !plain(text) {
        return None;
    }
    Prefix::parse_lenient(text).ok().map(|(p, _)| Ok(Who::Prefix(p, text.contains('/'))))
}

fn autogroup(name: &str) -> Result<Who, String> {
    let who = match name {
        "internet" => Who::Internet,
        "self" => Who::Own,
        "member" | "members" => Who::Member,
        "tagged" => Who::Tagged,
        "shared" => Who::Shared,
        "danger-all" => Who::DangerAll,
        "nonroot" => Who::NonRoot,
        _ => match Role::named(name) {
            Some(role) => Who::Role(role),
            None => return Err(format!("there is no `autogroup:{name}`")),
        },
    };
    Ok(who)
}

/// Parts a destination from its ports at the last colon. Brackets are for IPv6 only: `[::1]:80`, `[fd00::]/64:*`.
fn split_ports(text: &str) -> Result<(String, &str), String> {
    let missing = || format!("dst `{text}` has no ports; write `{text}:*`, `{text}:443`");
    let (head, rest) = match text.strip_prefix('[') {
        None => (String::new(), text),
        Some(inner) => {
            let (addr, rest) = inner.split_once(']').ok_or_else(|| format!("`{text}` has `[` without `]`"))?;
            if addr.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("`{text}`: brackets stand around IPv6 addresses only"));
            }
            if !rest.starts_with([':', '/']) {
                return Err(format!("`{text}`: after `]` comes `:PORTS` or `/LENGTH:PORTS`"));
            }
            (addr.to_string(), rest)
        }
    };
    let (who, ports) = rest.rsplit_once(':').ok_or_else(missing)?;
    // The colon of `autogroup:internet` is no colon of ports.
    if head.is_empty() && KINDS.contains(&who) {
        return Err(missing());
    }
    let who = head + who;
    if who.is_empty() || ports.is_empty() {
        return Err(missing());
    }
    Ok((who, ports))
}

fn read_port_range(text: &str) -> Result<Ports, String> {
    let port = |t: &str| {
        let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        match t.parse::<u16>() {
            Ok(p) if digits => Ok(p),
            _ if digits => Err(format!("`{t}` is above 65535")),
            _ => Err(format!("`{t}` is not a port number")),
        }
    };
    if let Some((first, last)) = text.split_once('-') {
        let ports = Ports { first: port(first)?, last: port(last)? };
        return if ports.first <= ports.last { Ok(ports) } else { Err(format!("`{text}` runs backwards")) };
    }
    match port(text)? {
        0 => Err("a port is above 0; `*` means every port".to_string()),
        p => Ok(Ports { first: p, last: p }),
    }
}

impl Who {
    /// Whether it is written `autogroup:…`.
    pub(crate) fn is_autogroup(&self) -> bool {
        match self {
            Who::DangerAll
            | Who::Internet
            | Who::Own
            | Who::Member
            | Who::Tagged
            | Who::Shared
            | Who::NonRoot
            | Who::Role(_) => true,
            Who::Any
            | Who::User(_)
            | Who::Domain(_)
            | Who::Group(_)
            | Who::Tag(_)
            | Who::Host(_)
            | Who::Prefix(..)
            | Who::Range(_)
            | Who::IpSet(_)
            | Who::App(_)
            | Who::Service(_) => false,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Any => f.write_str("*"),
            Who::DangerAll => f.write_str("autogroup:danger-all"),
            Who::Internet => f.write_str("autogroup:internet"),
            Who::Own => f.write_str("autogroup:self"),
            Who::Member => f.write_str("autogroup:member"),
            Who::Tagged => f.write_str("autogroup:tagged"),
            Who::Shared => f.write_str("autogroup:shared"),
            Who::NonRoot => f.write_str("autogroup:nonroot"),
            Who::Role(r) => write!(f, "autogroup:{}", r.name()),
            Who::Domain(d) => write!(f, "user:*@{d}"),
            Who::User(n)
            | Who::Group(n)
            | Who::Tag(n)
            | Who::Host(n)
            | Who::IpSet(n)
            | Who::App(n)
            | Who::Service(n) => f.write_str(n),
            Who::Prefix(p, false) => p.fmt(f),
            Who::Prefix(p, true) => f.write_str(&p.long()),
            Who::Range(r) => write!(f, "{}-{}", r.first(), r.last()),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ports::ALL => f.write_str("*"),
            Ports { first, last } if first == last => write!(f, "{first}"),
            Ports { first, last } => write!(f, "{first}-{last}"),
        }
    }
}
