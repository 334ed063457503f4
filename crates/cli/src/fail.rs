//! How the program fails. In: an error of any floor. Out: `error:`, the cause chain, `hint:` on standard error, and an
//! exit code.

use std::fmt::Display;
use std::process::ExitCode;

use runtime::hint::{self, Diagnostic};

use crate::say::plain;

/// How a command ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It failed, or found something wrong.
    Failure = 1,
    /// It was used wrongly.
    Usage = 2,
    /// It was asked whether something may pass, and it may not.
    Refused = 3,
}

impl Exit {
    /// Success if something may pass.
    pub(crate) fn of(allowed: bool) -> ExitCode {
        if allowed { ExitCode::SUCCESS } else { Exit::Refused.into() }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why the program ends, and how.
#[derive(Debug)]
pub(crate) struct Fail {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

/// What every command returns.
pub(crate) type Done = Result<(), Fail>;

impl Fail {
    /// Wrong usage: exit 2.
    pub(crate) fn usage(what: impl Display, hint: impl Display) -> Fail {
        Fail { exit: Exit::Usage, error: anyhow::anyhow!("{what}"), hint: Some(hint.to_string()) }
    }

    /// A failure with advice: exit 1.
    pub(crate) fn hinted(what: impl Display, hint: impl Display) -> Fail {
        Fail { exit: Exit::Failure, error: anyhow::anyhow!("{what}"), hint: Some(hint.to_string()) }
    }

    /// Wrong usage from an error that says enough.
    pub(crate) fn misused(error: anyhow::Error) -> Fail {
        Fail { exit: Exit::Usage, error, hint: None }
    }

    /// The error alone, with its advice if it has some.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self.hint {
            Some(hint) => self.error.context(Diagnostic::new("the configuration is not usable", hint)),
            None => self.error,
        }
    }

    /// The same failure with advice, unless it has some.
    pub(crate) fn or_hint(mut self, hint: impl Display) -> Fail {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// What kind of refusal a running process answered with.
    pub(crate) fn code(&self) -> Option<api::Code> {
        self.error.chain().find_map(|c| c.downcast_ref::<api::Error>()).map(|e| e.code)
    }

    /// Its advice, if it has some.
    pub(crate) fn hint(&self) -> Option<String> {
        self.hint.clone().or_else(|| hint::of(&self.error).map(str::to_string))
    }

    /// The error and its causes without their advice.
    pub(crate) fn in_one_line(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let text = self.text();
        text.lines().for_each(|l| eprintln!("{}", plain(l)));
        self.exit.into()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut hint = self.hint.clone();
        let mut before = String::new();
        for (n, cause) in self.error.chain().enumerate() {
            hint = hint.or_else(|| hint::in_link(cause).map(str::to_string));
            let cause = cause.to_string();
            // Some libraries repeat their cause in their own words.
            if n == 0 {
                text.push_str(&format!("error: {cause}\n"));
            } else if !before.ends_with(&cause) {
                text.push_str(&format!("  because: {cause}\n"));
            }
            before = cause;
        }
        if let Some(hint) = hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl From<anyhow::Error> for Fail {
    fn from(error: anyhow::Error) -> Fail {
        Fail { exit: Exit::Failure, error, hint: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    /// What a running process says over the admin socket is told like any other error.
    #[test]
    fn the_advice_of_another_process_is_advice() {
        let e = anyhow::Error::from(api::Error::refused("there is no list `x`").hinted("the lists are family"));
        assert_eq!(
            Fail::from(e.context("not done")).text(),
            "error: not done\n  because: there is no list `x`\nhint: the lists are family\n"
        );
    }

    #[test]
    fn chain_and_hint_from_any_floor() {
        let deep = Err::<(), _>(hint::Hinted::error("the edge is not trusted", "pin it with --ca-fingerprint"));
        let fail = Fail::from(
            deep.context("cannot connect to wss://e")
                .map_err(|e| e.context("client failed"))
                .err()
                .unwrap_or_else(|| anyhow::anyhow!("")),
        );
        assert_eq!(
            fail.text(),
            "error: client failed\n  because: cannot connect to wss://e\n  because: the edge is not trusted\nhint: pin it with --ca-fingerprint\n"
        );
    }
}
