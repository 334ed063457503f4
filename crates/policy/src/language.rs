//! The policy document as values. Everything in it is of the right form; whether the names it uses exist is judged in
//! `check`. Each value that a message may have to point at carries its place.

use std::collections::BTreeMap;

use addr::Prefix;

use super::posture::Condition;
use super::problem::Pos;
use super::who::{Ports, Proto, Who, WhoPorts};

/// A value and its place in the document.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// Where it stands.
    pub pos: Pos,
    /// What stands there.
    pub it: T,
}

/// A policy document. Sections keep the order written.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `groups`: name with `group:` to users.
    pub groups: Named<Vec<At<String>>>,
    /// `hosts`: name to prefix.
    pub hosts: Named<Prefix>,
    /// `tagOwners`: name with `tag:` to owners.
    pub tag_owners: Named<Vec<At<Who>>>,
    /// `ipsets`: name with `ipset:` to operations in order.
    pub ipsets: Named<Vec<At<SetStep>>>,
    /// `acls`; `None` when the section is absent, which is not the same as empty.
    pub acls: Option<Vec<Acl>>,
    /// `grants`; `None` when the section is absent.
    pub grants: Option<Vec<Grant>>,
    /// `ssh`
    pub ssh: Vec<Ssh>,
    /// `autoApprovers`
    pub auto_approvers: AutoApprovers,
    /// `nodeAttrs`
    pub node_attrs: Vec<NodeAttr>,
    /// `postures`: name with `posture:` to conditions, all of which must hold.
    pub postures: Named<Vec<Condition>>,
    /// `defaultSrcPosture`
    pub default_src_posture: Vec<At<String>>,
    /// `tests`
    pub tests: Vec<Test>,
    /// `sshTests`
    pub ssh_tests: Vec<SshTest>,
    /// `derpMap`, as written.
    pub derp_map: Option<serde_json::Value>,
    /// `disableIPv4`
    pub disable_ipv4: bool,
    /// `OneCGNATRoute`: empty, `mac-always` or `mac-never`.
    pub one_cgnat_route: String,
    /// `randomizeClientPort`
    pub randomize_client_port: bool,
    /// Ours: `lists`, named allow lists of tunnels and gate.
    pub lists: Named<ListRule>,
    /// Ours: `services`, name with `svc:` to its addresses and ports.
    pub services: Named<Service>,
}

/// A section of names, with the place of each; sorted by name.
pub type Named<T> = BTreeMap<String, At<T>>;

/// One rule of `acls`.
#[derive(Debug, Clone)]
pub struct Acl {
    /// Where the rule begins.
    pub pos: Pos,
    /// Who may.
    pub src: Vec<At<Who>>,
    /// With which protocol.
    pub proto: Proto,
    /// Where to, with ports.
    pub dst: Vec<At<WhoPorts>>,
    /// Postures of which the source needs one; empty means the default.
    pub posture: Vec<At<String>>,
}

/// One rule of `grants`.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Where the rule begins.
    pub pos: Pos,
    /// Who may.
    pub src: Vec<At<Who>>,
    /// Where to.
    pub dst: Vec<At<Who>>,
    /// Protocols and ports.
    pub ip: Vec<(Proto, Vec<Ports>)>,
    /// Capabilities of the application layer: name to values.
    pub app: BTreeMap<String, At<serde_json::Value>>,
    /// Tags of the routers that the traffic must take.
    pub via: Vec<At<String>>,
    /// Postures of which the source needs one; empty means the default.
    pub posture: Vec<At<String>>,
}

/// One step of an IP set, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct SetStep {
    /// True for `add`, false for `remove`.
    pub add: bool,
    /// What is added or removed.
    pub who: Who,
}

/// `autoApprovers`
#[derive(Debug, Clone, Default)]
pub struct AutoApprovers {
    /// Who may have which route, or a part of it, without being asked.
    pub routes: Vec<(At<Prefix>, Vec<At<Who>>)>,
    /// Who may be an exit node.
    pub exit_node: Vec<At<Who>>,
    /// Who may offer which service.
    pub services: Named<Vec<At<Who>>>,
}

/// One entry of `nodeAttrs`.
#[derive(Debug, Clone)]
pub struct NodeAttr {
    /// Where the entry begins.
    pub pos: Pos,
    /// Which nodes.
    pub target: Vec<At<Who>>,
    /// Attributes they get.
    pub attr: Vec<At<String>>,
    /// App connectors.
    pub connectors: Vec<Connector>,
    /// Other `app` values, as written.
    pub app: BTreeMap<String, serde_json::Value>,
    /// Ranges their addresses come from.
    pub ip_pool: Vec<At<Prefix>>,
}

/// One app connector of `nodeAttrs[].app["tailscale.com/app-connectors"]`.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Where it begins.
    pub pos: Pos,
    /// Its name, by which `app:NAME` finds it.
    pub name: String,
    /// Tags of the nodes that learn, or `*`.
    pub connectors: Vec<At<String>>,
    /// Names it learns from: `example.com`, `*.example.com`.
    pub domains: Vec<At<String>>,
    /// Names it leaves out of its wildcards, with all below them, written `!example.com`; here without the `!`. One that
    /// begins with `*.` leaves out only what is below.
    pub except: Vec<At<String>>,
    /// Pinned routes, approved without being asked.
    pub routes: Vec<At<Prefix>>,
    /// A ready-made app instead of domains.
    pub preset: Option<String>,
}

/// One rule of `ssh`.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// Where the rule begins.
    pub pos: Pos,
    /// `accept` or, if true, `check`.
    pub check: bool,
    /// Who may.
    pub src: Vec<At<Who>>,
    /// Where to.
    pub dst: Vec<At<Who>>,
    /// As whom.
    pub users: Vec<At<String>>,
    /// Seconds that a check lasts; `None` for the default, 0 for always.
    pub check_period: Option<u64>,
    /// Environment variables that may be sent.
    pub accept_env: Vec<String>,
    /// Postures of which the source needs one; empty asks for none.
    pub posture: Vec<At<String>>,
    /// Tags of the nodes that record the sessions.
    pub recorder: Vec<At<String>>,
    /// True if what cannot be recorded may not be.
    pub enforce_recorder: bool,
}

/// One entry of `tests`.
#[derive(Debug, Clone)]
pub struct Test {
    /// Where the entry begins.
    pub pos: Pos,
    /// Who asks.
    pub src: At<Who>,
    /// With which protocol.
    pub proto: Proto,
    /// Posture attributes the source is taken to have.
    pub posture: BTreeMap<String, super::posture::Value>,
    /// What must be let through.
    pub accept: Vec<At<WhoPorts>>,
    /// What must not.
    pub deny: Vec<At<WhoPorts>>,
}

/// One entry of `sshTests`.
#[derive(Debug, Clone)]
pub struct SshTest {
    /// Where the entry begins.
    pub pos: Pos,
    /// Who asks.
    pub src: At<Who>,
    /// Where to.
    pub dst: Vec<At<Who>>,
    /// Posture attributes the source is taken to have.
    pub posture: BTreeMap<String, super::posture::Value>,
    /// Login names that must be let in.
    pub accept: Vec<String>,
    /// Login names that must not.
    pub deny: Vec<String>,
    /// Login names that must be let in after a check.
    pub check: Vec<String>,
}

/// Ours: an allow list of tunnels and gate.
#[derive(Debug, Clone, Default)]
pub struct ListRule {
    /// Addresses and IP sets that are always on it.
    pub allow: Vec<At<Who>>,
    /// Ways to earn a place: `mtls`, `share`, `login`, `knock`, `tunnel`, `node`, `dns`, `manual`.
    pub grant_sources: Vec<At<String>>,
    /// Most entries it may hold.
    pub max: Option<u64>,
    /// Seconds a learned entry lasts.
    pub ttl: Option<u64>,
    /// Seconds without being seen after which a learned entry goes.
    pub idle: Option<u64>,
    /// Bits of an IPv6 address that are learned.
    pub ipv6: Option<u8>,
}

/// Ours: something that can be reached under a name.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// Addresses it has.
    pub addrs: Vec<At<Who>>,
    /// Protocols and ports it answers on.
    pub ip: Vec<(Proto, Vec<Ports>)>,
}
