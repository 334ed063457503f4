//! Why the registry does not do something. In: what stood against it. Out: a value for programs, and its words for people.

use addr::Prefix;
use policy::Problem;

/// Why something was not done; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A node speaks with a key that nobody has.
    #[error("this node key is not known here")]
    UnknownNodeKey,
    /// A node speaks with a key of another machine.
    #[error("this node key belongs to another machine")]
    NodeKeyOfAnother,
    /// Two stored nodes have one key.
    #[error("nodes {0} and {1} have the same key")]
    SameNodeKey(u64, u64),
    /// A node went away meanwhile.
    #[error("the node is gone")]
    NodeGone,
    /// No node is called so.
    #[error("there is no node `{}`; {}", name.escape_debug(), there_are(there))]
    NoNode {
        /// What was asked for.
        name: String,
        /// Some that there are.
        there: Vec<String>,
    },
    /// A name that names no nodes, such as an address of others.
    #[error("`{}` stands for no nodes", .0.escape_debug())]
    NoNodes(String),
    /// A text cannot name a node. Why, in words.
    #[error("{0}")]
    BadNodeName(String),
    /// Another node has the name.
    #[error("node {node} is called `{name}` already")]
    NodeNameTaken {
        /// The other node's number.
        node: u64,
        /// The name.
        name: String,
    },
    /// The name is a record's, or this machine's own.
    #[error("`{0}` names something else; `portcullis dns show` has what you added")]
    NameInUse(String),
    /// Nobody waits under a ticket.
    #[error("nobody waits as `{}`; `portcullis nodes list` shows who does. A page is good for an hour", .0.escape_debug())]
    NobodyWaits(String),
    /// A text is no tag.
    #[error("`{}` is no tag; write it like tag:router", .0.escape_debug())]
    NoTag(String),
    /// A node asks for something that is no tag.
    #[error("requested tags are invalid: `{}` is no tag", .0.escape_debug())]
    BadRequestedTag(String),
    /// A node asks for more tags than it may.
    #[error("a node may ask for {0} tags at most")]
    TooManyTags(usize),
    /// A node asks for a tag that its user may not give.
    #[error(
        "requested tags [{}] are invalid or not permitted: `tagOwners` of the policy does not give {not_given} to this user",
        asked.join(" ")
    )]
    TagsNotPermitted {
        /// What it asks for.
        asked: Vec<String>,
        /// The first that is not its user's to give.
        not_given: String,
    },
    /// A node without a user loses its last tag.
    #[error("without a tag `{0}` would belong to nobody")]
    BelongsToNobody(String),
    /// A route lies among the addresses of nodes.
    #[error("{0} lies in the network itself: its nodes answer there, and no router")]
    RouteInNetwork(Prefix),
    /// A node has no such route.
    #[error("`{node}` has no route {route}; it offers {offers}")]
    NoRoute {
        /// Its name.
        node: String,
        /// The route.
        route: Prefix,
        /// What it offers, in words.
        offers: String,
    },
    /// All addresses are given out.
    #[error("no address of {0} is free")]
    PoolFull(Prefix),
    /// All addresses that the policy names for such a node are given out.
    #[error("no address of the `ipPool` that the policy names for it is free")]
    NamedPoolFull,
    /// Nobody has made such a pre-auth key.
    #[error("this auth key is not known here")]
    UnknownAuthKey,
    /// The pre-auth key was taken back.
    #[error("this auth key was revoked")]
    AuthKeyRevoked,
    /// The pre-auth key's time is over.
    #[error("this auth key has expired")]
    AuthKeyExpired,
    /// The pre-auth key was for one node, which has it.
    #[error("this auth key was for one node and has been used")]
    AuthKeyUsed,
    /// A pre-auth key for nobody's nodes.
    #[error("a key is a user's or has tags")]
    KeyOfNobody,
    /// No pre-auth key has the number.
    #[error("there is no key {0}")]
    NoKey(u64),
    /// A text cannot name a user.
    #[error("`{}` cannot name a user; use letters, digits and `-_.@+`, such as ada or ada@example.com", .0.escape_debug())]
    BadUserName(String),
    /// Another user has the name.
    #[error("there is a user `{0}` already")]
    UserExists(String),
    /// No user is called so.
    #[error("there is no user `{}`; {}", name.escape_debug(), there_are(there))]
    NoUser {
        /// What was asked for.
        name: String,
        /// Some that there are.
        there: Vec<String>,
    },
    /// Several users could be meant.
    #[error("`{}` could be {}; write it in full", name.escape_debug(), all.join(" or "))]
    AmbiguousUser {
        /// What was asked for.
        name: String,
        /// Who could be meant.
        all: Vec<String>,
    },
    /// The network would have no owner.
    #[error("`{0}` owns the network; give it to somebody else first: portcullis users role NAME owner")]
    OnlyOwner(String),
    /// A user still has nodes.
    #[error("`{user}` has nodes: {}; delete them, or `portcullis nodes move NODE --user NAME`", nodes.join(", "))]
    UserHasNodes {
        /// As it was asked for.
        user: String,
        /// The nodes' names.
        nodes: Vec<String>,
    },
    /// A record's name has no domain.
    #[error("`{name}` is no full name; write {name}.{domain}")]
    NotFullName {
        /// The name.
        name: String,
        /// The network's domain.
        domain: String,
    },
    /// A record's name is a node's.
    #[error("`{name}` is the node {node}; its address is its own")]
    NameOfNode {
        /// The name.
        name: String,
        /// The node's name.
        node: String,
    },
    /// A policy is not written right.
    #[error("the policy is refused:\n{}", lines(.0))]
    Policy(Vec<Problem>),
    /// A policy breaks its own promises. Each test that fails, in words.
    #[error("the policy's own tests fail:\n{}", .0.join("\n"))]
    PolicyTests(Vec<String>),
}

fn there_are(all: &[String]) -> String {
    if all.is_empty() { "there is none yet".into() } else { format!("there are {}", all.join(", ")) }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
