//! The operations of the admin socket. In: a request as a type, or a line of JSON from the socket. Out: the line, or the
//! typed request; the same for answers and errors. The command line prints these types, `--json` is one of them as JSON.
//! No IO, no clock.
//!
//! A request is one line, `{"verb": …, "args": {…}}`; its answer is one line, `{"ok": …}` or
//! `{"error": …, "hint": …, "code": …}`. Times are seconds since the Unix epoch unless a field says otherwise.
//!
//! Requests are strict and answers are not: a process refuses a field that it does not know, because an intention that
//! is not understood must not be carried out in part; a command ignores what a newer process adds. A field that is
//! added later is therefore optional (`#[serde(default)]`) on both sides.

mod audit;
pub mod clock;
pub mod control;
mod edge;
mod error;
pub mod gate;
mod text;
mod verdict;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use audit::AuditEvent;
pub use edge::{
    ClientStatus, Doctor, EdgeInfo, EdgeStatus, Explain, Explained, Finding, Findings, Freshness, ListAnswer,
    ListContents, Lists, ListsInForce, Part, Reload, Reloaded, Severity, Status, Trouble,
};
pub use error::{Code, Error};
pub use verdict::Verdict;

/// One operation: its request is the type that implements this.
pub trait Call: Serialize + DeserializeOwned + Into<Request> + Send + 'static {
    /// What it is called on the wire.
    const VERB: &'static str;
    /// What comes back when it was done.
    type Answer: Answer;

    /// The call out of a request; `None` if the request is another one.
    fn of(request: Request) -> Option<Self>;
}

/// What an operation answers.
pub trait Answer: Serialize + DeserializeOwned + Send + 'static {
    /// Why what was done is in force and not saved yet: a crash before it is would undo it. `None`: it is saved.
    fn unsaved(&self) -> Option<&str> {
        None
    }
}

/// The answer of an operation that is in force at once, whatever the disk does: it takes something away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written<T> {
    /// What was done.
    #[serde(flatten)]
    pub done: T,
    /// Why it is not saved yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<String>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Answer for Written<T> {
    fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }
}

/// Nothing to tell but that it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

macro_rules! calls {
    ($($verb:literal $name:ident($call:ty) -> $answer:ty;)*) => {
        /// Every request there is, as it stands on the wire.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "verb", content = "args")]
        #[non_exhaustive]
        pub enum Request {
            $(#[doc = concat!("`", $verb, "`.")] #[serde(rename = $verb)] $name($call),)*
        }

        impl Request {
            /// Whose operation it is, of those that several components of a process have.
            #[must_use]
            pub fn owner(&self) -> Option<clock::Owner> {
                match self {
                    Request::Clock(call) => call.of,
                    Request::ClockReset(call) => call.of,
                    _ => None,
                }
            }

            /// What it is called on the wire.
            #[must_use]
            pub fn verb(&self) -> &'static str {
                match self { $(Request::$name(_) => $verb,)* }
            }
        }

        /// What requests are called on the wire.
        pub const VERBS: &[&str] = &[$($verb),*];

        $(
            impl Call for $call {
                const VERB: &'static str = $verb;
                type Answer = $answer;

                fn of(request: Request) -> Option<$call> {
                    match request { Request::$name(call) => Some(call), _ => None }
                }
            }

            impl From<$call> for Request {
                fn from(call: $call) -> Request {
                    Request::$name(call)
                }
            }
        )*
    };
}

calls! {
    // every process
    "reload" Reload(Reload) -> Reloaded;
    "doctor" Doctor(Doctor) -> Findings;
    "clock" Clock(clock::Show) -> clock::Clock;
    "clock-reset" ClockReset(clock::Reset) -> Written<clock::WasReset>;
    // edge
    "explain" Explain(Explain) -> Explained;
    "lists" Lists(Lists) -> ListsInForce;
    "status" Status(Status) -> EdgeStatus;
    // gate
    "gate-lists" GateLists(gate::Lists) -> gate::ListStates;
    "gate-show" GateShow(gate::Show) -> gate::ListState;
    "gate-explain" GateExplain(gate::Explain) -> gate::Explained;
    "gate-audit" GateAudit(gate::Audit) -> gate::AuditLog;
    "gate-doctor" GateDoctor(gate::Doctor) -> Findings;
    "gate-grant" GateGrant(gate::ChangeGrants) -> gate::GrantsChanged;
    // coordination server
    "users-list" UsersList(control::UsersList) -> control::Users;
    "users-create" UsersCreate(control::UsersCreate) -> control::User;
    "users-rename" UsersRename(control::UsersRename) -> control::UserRenamed;
    "users-role" UsersRole(control::UsersRole) -> control::UserRole;
    "users-delete" UsersDelete(control::UsersDelete) -> Written<control::User>;
    "keys-list" KeysList(control::KeysList) -> control::Keys;
    "keys-create" KeysCreate(control::KeysCreate) -> control::KeyCreated;
    "keys-revoke" KeysRevoke(control::KeysRevoke) -> Written<control::KeyRevoked>;
    "nodes-list" NodesList(control::NodesList) -> control::Nodes;
    "nodes-show" NodesShow(control::NodesShow) -> control::NodeDetails;
    "nodes-approve" NodesApprove(control::NodesApprove) -> control::NodeChanged;
    "nodes-refuse" NodesRefuse(control::NodesRefuse) -> Written<Nothing>;
    "nodes-expire" NodesExpire(control::NodesExpire) -> Written<control::NodeChanged>;
    "nodes-rename" NodesRename(control::NodesRename) -> control::NodeChanged;
    "nodes-move" NodesMove(control::NodesMove) -> control::NodeMoved;
    "nodes-tag" NodesTag(control::NodesTag) -> control::NodeTagged;
    "nodes-delete" NodesDelete(control::NodesDelete) -> Written<control::NodeChanged>;
    "routes-list" RoutesList(control::RoutesList) -> control::Routes;
    "routes-approve" RoutesApprove(control::RoutesApprove) -> control::RoutesApproved;
    "routes-revoke" RoutesRevoke(control::RoutesRevoke) -> Written<control::RoutesRevoked>;
    "routes-check" RoutesCheck(control::RoutesCheck) -> control::Reachability;
    "policy-get" PolicyGet(control::PolicyGet) -> control::PolicyText;
    "policy-topology" PolicyTopology(control::PolicyTopology) -> control::Network;
    "policy-set" PolicySet(control::PolicySet) -> control::PolicyChange;
    "dns-get" DnsGet(control::DnsGet) -> control::Dns;
    "dns-set" DnsSet(control::DnsSet) -> Nothing;
    "apps-list" AppsList(control::AppsList) -> control::Apps;
    "apps-show" AppsShow(control::AppsShow) -> control::AppDetails;
    "control-status" ControlStatus(control::Status) -> control::ServerStatus;
}

macro_rules! answers {
    ($($answer:ty),* $(,)?) => { $(impl Answer for $answer {})* };
}

answers! {
    Nothing,
    Reloaded, Explained, ListsInForce, Findings, EdgeStatus,
    clock::Clock,
    gate::ListStates, gate::ListState, gate::Explained, gate::AuditLog,
    control::Users, control::User, control::UserRenamed, control::UserRole,
    control::Keys, control::KeyCreated,
    control::Nodes, control::NodeDetails, control::NodeChanged, control::NodeMoved, control::NodeTagged,
    control::Routes, control::RoutesApproved, control::Reachability,
    control::PolicyText, control::Network, control::PolicyChange,
    control::Dns, control::Apps, control::AppDetails, control::ServerStatus,
}

impl Request {
    /// Reads a request's line. `args` may be missing or `null` where nothing has to be said.
    ///
    /// # Errors
    /// [`Code::BadRequest`] if it is no request or says something that is not understood, [`Code::UnknownVerb`] if it
    /// asks for something that does not exist.
    pub fn read(line: &[u8]) -> Result<Request, Error> {
        #[derive(Deserialize)]
        struct Line {
            verb: String,
            #[serde(default)]
            args: Value,
        }
        let Line { verb, mut args } = serde_json::from_slice(line)
            .map_err(|e| Error::bad_request(format!("the request is not one line of JSON with a `verb`: {e}")))?;
        if !VERBS.contains(&verb.as_str()) {
            return Err(Error::new(Code::UnknownVerb, format!("there is no verb `{}`", verb.escape_debug())));
        }
        match &mut args {
            Value::Object(_) => {}
            Value::Null => args = Value::Object(serde_json::Map::new()),
            _ => return Err(Error::bad_request(format!("`{verb}` is not understood: `args` is no object"))),
        }
        serde_json::from_value(serde_json::json!({ "verb": verb, "args": args }))
            .map_err(|e| Error::bad_request(format!("`{verb}` is not understood: {e}")))
    }
}

/// An answer's line, without the end of the line.
///
/// # Errors
/// The answer holds what JSON cannot say.
pub fn write_reply<A: Serialize>(reply: &Result<A, Error>) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Done<'a, A> {
        ok: &'a A,
    }
    match reply {
        Ok(ok) => serde_json::to_vec(&Done { ok }),
        Err(e) => serde_json::to_vec(e),
    }
}

/// Reads an answer's line.
///
/// # Errors
/// It is no answer to this call: the other side is another version, or something else.
pub fn read_reply<C: Call>(line: &str) -> serde_json::Result<Result<C::Answer, Error>> {
    let reply: Value = serde_json::from_str(line)?;
    if reply.get("error").is_some() {
        return serde_json::from_value(reply).map(Err);
    }
    #[derive(Deserialize)]
    struct Done<A> {
        ok: A,
    }
    serde_json::from_value(reply).map(|Done { ok }: Done<C::Answer>| Ok(ok))
}
