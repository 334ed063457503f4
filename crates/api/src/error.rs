//! Why an operation was not done, as it stands on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it is, for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// The request was not understood: no JSON, a field that is missing, wrong or unknown.
    BadRequest,
    /// There is no such operation, or not in this process.
    UnknownVerb,
    /// What was asked for is against the rules, or about something that does not exist. Nothing was changed.
    Refused,
    /// It was tried and did not work: the disk, the network, a process that is stopping.
    #[default]
    #[serde(other)]
    Failed,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong, for people.
    #[serde(rename = "error")]
    pub what: String,
    /// What to do about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What kind of failure it is. Processes before this field came do not say.
    #[serde(default)]
    pub code: Code,
}

impl Error {
    /// An error without advice.
    pub fn new(code: Code, what: impl Into<String>) -> Error {
        Error { what: what.into(), hint: None, code }
    }

    /// A refusal: nothing was changed.
    pub fn refused(what: impl Into<String>) -> Error {
        Error::new(Code::Refused, what)
    }

    /// The same error with advice.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// A request that was not understood.
    pub fn bad_request(what: impl Into<String>) -> Error {
        Error::new(Code::BadRequest, what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}
