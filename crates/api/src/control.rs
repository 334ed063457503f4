//! What a coordination server answers: users, pre-auth keys, nodes, routes, the policy, names, apps.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use addr::{Addr, Prefix};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::text;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident $body:tt)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name $body)*
    };
}

requests! {
    /// Asks for all users.
    UsersList {}

    /// Makes a user.
    UsersCreate {
        /// Its login name, or its address.
        pub name: String,
        /// Its role; the first user is `owner` without one.
        #[serde(default)]
        pub role: Option<String>,
    }

    /// Gives a user another name.
    UsersRename {
        /// Whom.
        pub name: String,
        /// Its name from now on.
        pub new: String,
    }

    /// Gives a user a role.
    UsersRole {
        /// Whom.
        pub name: String,
        /// `owner`, `admin`, … or `member`.
        pub role: String,
    }

    /// Deletes a user that has no nodes.
    UsersDelete {
        /// Whom.
        pub name: String,
    }

    /// Asks for all pre-auth keys.
    KeysList {}

    /// Makes a pre-auth key.
    KeysCreate {
        /// Whose nodes these will be; nobody's with tags alone.
        #[serde(default)]
        pub user: Option<String>,
        /// True if more than one node may use it.
        #[serde(default)]
        pub reusable: bool,
        /// True if its nodes are forgotten when they go.
        #[serde(default)]
        pub ephemeral: bool,
        /// Tags of its nodes, with `tag:`.
        #[serde(default)]
        pub tags: Vec<String>,
        /// For how many seconds it is good; without an end if absent.
        #[serde(default)]
        pub expiry: Option<u64>,
    }

    /// Takes a pre-auth key back.
    KeysRevoke {
        /// Its number.
        pub id: u64,
    }

    /// Asks for all nodes and those that wait.
    NodesList {}

    /// Asks for a node with what it is told.
    NodesShow {
        /// Its name, number or address.
        pub node: String,
    }

    /// Lets a node join.
    NodesApprove {
        /// What it waits with, or its machine.
        pub node: String,
        /// Whose it is; the only user's without one.
        #[serde(default)]
        pub user: Option<String>,
    }

    /// Turns a node away that waits.
    NodesRefuse {
        /// What it waits with, or its machine.
        pub node: String,
    }

    /// Lets a node log in again before it may go on.
    NodesExpire {
        /// Its name, number or address.
        pub node: String,
    }

    /// Gives a node another name.
    NodesRename {
        /// Its name, number or address.
        pub node: String,
        /// Its name from now on.
        pub name: String,
    }

    /// Gives a node to another user.
    NodesMove {
        /// Its name, number or address.
        pub node: String,
        /// To whom.
        pub user: String,
    }

    /// Gives a node other tags.
    NodesTag {
        /// Its name, number or address.
        pub node: String,
        /// With `tag:`; none makes it its user's again.
        #[serde(default)]
        pub tags: Vec<String>,
    }

    /// Deletes a node.
    NodesDelete {
        /// Its name, number or address.
        pub node: String,
    }

    /// Asks for all routes.
    RoutesList {}

    /// Approves routes of a node.
    RoutesApprove {
        /// Its name, number or address.
        pub node: String,
        /// Prefixes, or `exit` for all of both families.
        pub routes: Vec<String>,
    }

    /// Takes routes back.
    RoutesRevoke {
        /// Its name, number or address.
        pub node: String,
        /// Prefixes, or `exit` for all of both families.
        pub routes: Vec<String>,
    }

    /// Asks for the policy in force.
    PolicyGet {}

    /// Asks who exists, in the form of a topology file.
    PolicyTopology {
        /// Under this policy instead of the one in force.
        #[serde(default)]
        pub policy: Option<String>,
    }

    /// Puts a policy in force, after its own tests.
    PolicySet {
        /// The policy, HuJSON.
        pub policy: String,
        /// True: change nothing, only say what would change.
        #[serde(default)]
        pub dry_run: bool,
        /// True: tests of somebody who is not there yet count as failed.
        #[serde(default)]
        pub strict: bool,
    }

    /// Asks for the network's names.
    DnsGet {}

    /// Changes the network's names. What is absent stays.
    DnsSet {
        /// All nameservers from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub nameservers: Option<Vec<String>>,
        /// All search domains from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub search: Option<Vec<String>>,
        /// The nameservers of one domain from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub split: Option<Split>,
        /// A record that is added.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub record: Option<NewRecord>,
        /// A name whose records are taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub remove_record: Option<String>,
    }

    /// A domain with nameservers of its own.
    Split {
        /// The domain.
        pub domain: String,
        /// Its nameservers; none takes the rule away.
        #[serde(default)]
        pub servers: Vec<String>,
    }

    /// A name and its address.
    NewRecord {
        /// The name.
        pub name: String,
        /// The address.
        pub value: String,
    }

    /// Asks for all apps.
    AppsList {}

    /// Asks for an app with the addresses that were learned.
    AppsShow {
        /// Its name in the policy.
        pub name: String,
    }

    /// Asks how the server stands.
    Status {}
}

/// Asks which way an address is reached, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesCheck {
    /// Which.
    #[serde(with = "text")]
    pub address: Addr,
}

/// A person, or a company's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Number, counting up from 1.
    pub id: u64,
    /// Short name.
    pub name: String,
    /// Address; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// What it may do in the policy's eyes; absent for a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Since when.
    pub created: u64,
}

impl User {
    /// The name that others see: its address, else its short name.
    #[must_use]
    pub fn login(&self) -> &str {
        if self.email.is_empty() { &self.name } else { &self.email }
    }
}

/// All users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// By number.
    pub users: Vec<UserNodes>,
}

/// A user and how many nodes it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNodes {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// How many nodes without tags it has.
    pub nodes: usize,
}

/// A user that has another name now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRenamed {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// What it was called.
    pub before: String,
    /// True if there is a policy, which may say the old name.
    pub policy: bool,
}

/// A user that has another role now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRole {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// Who owned the network until now.
    pub owner_before: Option<String>,
}

/// All pre-auth keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// By number.
    pub keys: Vec<Key>,
}

/// A pre-auth key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Number, counting up from 1.
    pub id: u64,
    /// Whose nodes these will be.
    pub user: Option<String>,
    /// True if more than one node may use it.
    pub reusable: bool,
    /// True if its nodes are forgotten when they go.
    pub ephemeral: bool,
    /// Tags of its nodes, with `tag:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Since when.
    pub created: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// How many nodes have used it.
    pub used: u64,
    /// True if it was taken back.
    pub revoked: bool,
    /// Whether it is still good.
    pub state: KeyState,
}

/// Whether a pre-auth key is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is.
    Good,
    /// It was taken back.
    Revoked,
    /// Its time is over.
    Expired,
    /// It was good for one node, which has it.
    Used,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyState::Good => "good",
            KeyState::Revoked => "revoked",
            KeyState::Expired => "expired",
            KeyState::Used => "used",
        })
    }
}

/// A new pre-auth key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCreated {
    /// The key.
    #[serde(flatten)]
    pub about: Key,
    /// Tags of it that the policy in force gives to nobody.
    pub unknown_tags: Vec<String>,
    /// Its secret, which nobody is told again.
    pub key: String,
}

/// Without the secret: what is logged is read by others.
impl fmt::Debug for KeyCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCreated").field("about", &self.about).finish_non_exhaustive()
    }
}

/// A pre-auth key that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevoked {
    /// Its number.
    pub id: u64,
    /// True.
    pub revoked: bool,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Members, by number.
    pub nodes: Vec<Node>,
    /// Those that wait for somebody to let them join.
    pub waiting: Vec<Waiting>,
}

/// A member of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Number, counting up from 1.
    pub id: u64,
    /// Its name here, unlike all others.
    pub name: String,
    /// That with the network's domain.
    pub full_name: String,
    /// Who it belongs to, or who brought it if it has tags.
    pub user: Option<String>,
    /// Its tags, with `tag:`.
    pub tags: Vec<String>,
    /// Its tags, or its user.
    pub belongs_to: String,
    /// Its address.
    #[serde(with = "text")]
    pub ipv4: Addr,
    /// Its other address.
    #[serde(with = "text")]
    pub ipv6: Addr,
    /// True while it is connected.
    pub online: bool,
    /// True while it counts as connected for others: it is, or it was a moment ago.
    pub expected: bool,
    /// True once it has to log in again.
    pub expired: bool,
    /// When it has to.
    pub expires: Option<u64>,
    /// When it joined.
    pub created: u64,
    /// When it was last connected.
    pub seen: u64,
    /// True if it is forgotten when it goes.
    pub ephemeral: bool,
    /// Where its connection to this server comes from.
    #[serde(with = "text::opt")]
    pub comes_from: Option<Addr>,
    /// Its operating system.
    pub os: String,
    /// Its client's version.
    pub client: String,
    /// What its machine calls itself.
    pub hostname: String,
    /// Its client's capability version.
    pub version: u32,
    /// Where it can be reached.
    #[serde(with = "text::list")]
    pub endpoints: Vec<SocketAddr>,
    /// The relay region that it listens at; 0 for none.
    pub relay: u32,
    /// Its machine's key.
    pub machine: String,
    /// Its WireGuard key.
    pub key: String,
    /// Its routes.
    pub routes: Vec<NodeRoute>,
}

/// A node and what it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDetails {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// What it is told; absent if it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<NodeMap>,
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMap {
    /// Its peers' names.
    pub peers: Vec<String>,
    /// The rest, in the form of `policy compile --json`.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A route of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRoute {
    /// Where to.
    #[serde(with = "text::long")]
    pub prefix: Prefix,
    /// What became of it.
    pub state: RouteState,
    /// True if the policy approved it and no person.
    pub by_policy: bool,
    /// True if this node is the one that carries it now.
    pub primary: bool,
}

/// What became of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteState {
    /// It waits for an administrator.
    #[serde(rename = "pending")]
    Pending,
    /// An administrator or the policy approved it.
    #[serde(rename = "approved")]
    Approved,
    /// An administrator took it back.
    #[serde(rename = "revoked")]
    Revoked,
    /// Its name has stopped answering with it.
    #[serde(rename = "gone")]
    Gone,
    /// It is of a name that its app leaves out.
    #[serde(rename = "left out")]
    LeftOut,
    /// Its app has as many routes as it may.
    #[serde(rename = "over the limit")]
    Over,
    /// Approved for when the node offers it.
    #[serde(rename = "approved, not offered")]
    Awaited,
    /// Approved, and its node has to log in first.
    #[serde(rename = "approved, but its node is logged out")]
    LoggedOut,
}

impl fmt::Display for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RouteState::Pending => "pending",
            RouteState::Approved => "approved",
            RouteState::Revoked => "revoked",
            RouteState::Gone => "gone",
            RouteState::LeftOut => "left out",
            RouteState::Over => "over the limit",
            RouteState::Awaited => "approved, not offered",
            RouteState::LoggedOut => "approved, but its node is logged out",
        })
    }
}

/// A node that waits for somebody to let it join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What it is approved with.
    pub ticket: String,
    /// What its machine calls itself.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// Its machine's key.
    pub machine: String,
    /// The tags that it asks for.
    pub asks_tags: Vec<String>,
    /// Since when it waits.
    pub since: u64,
    /// Until when it may be approved.
    pub until: u64,
}

/// A node that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChanged {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its address.
    #[serde(with = "text")]
    pub ipv4: Addr,
    /// Its other address.
    #[serde(with = "text")]
    pub ipv6: Addr,
    /// Its tags, with `tag:`.
    pub tags: Vec<String>,
    /// When it has to log in again.
    pub expires: Option<u64>,
}

/// A node that belongs to another user now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMoved {
    /// The node.
    #[serde(flatten)]
    pub node: NodeChanged,
    /// Who it belongs to, or who counts as who brought it if it has tags.
    pub user: Option<String>,
}

/// A node that has other tags now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTagged {
    /// The node.
    #[serde(flatten)]
    pub node: NodeChanged,
    /// Tags of it that the policy in force gives to nobody.
    pub unknown_tags: Vec<String>,
}

/// All routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// By node and prefix.
    pub routes: Vec<Route>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its node's name.
    pub node: String,
    /// Its node's number.
    pub id: u64,
    /// The route itself.
    #[serde(flatten)]
    pub route: NodeRoute,
    /// True while its node counts as connected.
    pub online: bool,
    /// Where its node's traffic to the internet comes from.
    #[serde(with = "text::opt")]
    pub leaves_from: Option<Addr>,
}

/// Routes that were approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesApproved {
    /// The node's name.
    pub node: String,
    /// Those of them that the node does not offer now.
    #[serde(with = "text::long::list")]
    pub not_offered: Vec<Prefix>,
}

/// Routes that were taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesRevoked {
    /// The node's name.
    pub node: String,
}

/// Which way an address is reached, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachability {
    /// Which address.
    #[serde(with = "text")]
    pub address: Addr,
    /// The node that has it itself.
    pub node: Option<String>,
    /// Who carries it.
    pub carriers: Vec<Carrier>,
    /// Every address that its traffic may come from.
    pub leaves_from: Vec<Source>,
    /// Why nobody may pass.
    pub nobody: Option<String>,
    /// Routes that lead there and are not in force.
    pub not_approved: Vec<Unapproved>,
}

/// A router that carries an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// By which route.
    #[serde(with = "text::long")]
    pub route: Prefix,
    /// The router's name.
    pub node: String,
    /// True while it counts as connected.
    pub online: bool,
    /// True if it does as an exit node.
    pub exit: bool,
    /// Where its traffic to the internet comes from.
    #[serde(with = "text::opt")]
    pub leaves_from: Option<Addr>,
    /// Who may use it: names of nodes.
    pub users: Vec<String>,
}

/// Somebody whose address traffic may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The address; `None` if it is not known yet.
    #[serde(with = "text::opt")]
    pub address: Option<Addr>,
    /// True if it is a private one, so that others see another.
    pub private: bool,
    /// The node's name.
    pub node: String,
    /// True if it carries the address now, for everybody or for some.
    pub carries: bool,
    /// True while it counts as connected.
    pub online: bool,
    /// The app that it is a connector of.
    pub app: Option<String>,
}

/// A route that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unapproved {
    /// The route.
    #[serde(with = "text::long")]
    pub route: Prefix,
    /// The node's name.
    pub node: String,
    /// Why.
    pub state: RouteState,
}

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// As it was written; `None` if there is none.
    pub policy: Option<String>,
}

/// Who exists, and the policy in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Users and nodes, in the form of a topology file.
    pub topology: Value,
    /// The policy in force; one that lets everybody through where there is none.
    pub policy: String,
    /// True if there is one.
    pub stored: bool,
}

/// What a policy changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// Who gains and who loses what.
    pub changes: Vec<Change>,
    /// How many more there are.
    pub more: usize,
    /// True if not all was compared: too much changes.
    pub partial: bool,
    /// True if it is in force now.
    pub in_force: bool,
    /// How many tests of its own hold.
    pub tests: usize,
    /// Tests of which nobody can say yet, in words.
    pub unknown: Vec<String>,
    /// The file that the server reads when it starts again, instead of what was set.
    pub until_start_from: Option<String>,
    /// What is allowed and probably not meant, as `line:column: what`.
    pub notes: Vec<String>,
}

/// What somebody gains or loses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// True if it is gained.
    pub gained: bool,
    /// Who.
    pub who: Vec<String>,
    /// Where; empty for what nodes are told about themselves.
    pub at: Vec<String>,
    /// What.
    pub what: Vec<String>,
    /// False if nothing arrives yet: no node and no router has the addresses.
    #[serde(default)]
    pub arrives: bool,
}

/// The network's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The network's domain.
    pub domain: String,
    /// Asked for everything else; empty: each node's own.
    pub nameservers: Vec<String>,
    /// Domains tried after a name without dots.
    pub search: Vec<String>,
    /// Nameservers of a domain and what is below it.
    pub split: BTreeMap<String, Vec<String>>,
    /// Names of the network's own.
    pub records: Vec<Record>,
}

/// A name of the network's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    /// Full name.
    pub name: String,
    /// `A` or `AAAA`; empty: by the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    /// The address.
    pub value: String,
}

/// All apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apps {
    /// In the policy's order.
    pub apps: Vec<App>,
}

/// An app that connectors lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name in the policy.
    pub name: String,
    /// Its domains.
    pub domains: Vec<String>,
    /// Its addresses in the policy.
    #[serde(with = "text::long::list")]
    pub pinned: Vec<Prefix>,
    /// Names of its connectors.
    pub connectors: Vec<String>,
    /// How many addresses were learned and count.
    pub addresses: usize,
}

/// An app with the addresses that were learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppDetails {
    /// Its name in the policy.
    pub name: String,
    /// Its domains.
    pub domains: Vec<String>,
    /// Its addresses in the policy.
    #[serde(with = "text::long::list")]
    pub pinned: Vec<Prefix>,
    /// Names of its connectors.
    pub connectors: Vec<String>,
    /// What they have learned.
    pub learnt: Vec<LearnedAddress>,
}

/// An address that a connector has seen behind a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedAddress {
    /// The name asked for.
    pub domain: String,
    /// The address.
    #[serde(with = "text")]
    pub address: Addr,
    /// When it was first seen.
    pub since: u64,
    /// When the name last answered with it.
    pub seen: u64,
    /// True once no route goes there any more.
    pub gone: bool,
    /// True if that is because the app has too many.
    pub over: bool,
    /// When it ends, or when it ended.
    pub until: Option<u64>,
    /// The connector's name.
    pub connector: String,
}

/// How a coordination server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// What clients log in to.
    pub url: String,
    /// Its nodes.
    pub nodes: usize,
    /// Those of them that count as connected.
    pub online: usize,
    /// Connections that wait for news.
    pub streams: usize,
    /// Its users.
    pub users: usize,
    /// True if a policy is in force.
    pub policy: bool,
    /// Counts up with every change.
    pub generation: u64,
    /// Nodes that wait for somebody to let them join.
    pub waiting: usize,
}
