//! Errors that say what to do. In: what failed and advice. Out: a link of an `anyhow` chain, whose advice the program
//! prints as `hint: …` after the chain.

pub use addr::Diagnostic;

/// Makes errors that carry advice.
#[derive(Debug)]
pub enum Hinted {}

impl Hinted {
    /// A new error with advice.
    pub fn error(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Diagnostic::new(what, hint))
    }
}

/// The advice of an error, the outermost if there are several.
#[must_use]
pub fn of(e: &anyhow::Error) -> Option<&str> {
    e.chain().find_map(in_link)
}

/// The advice of one link of a chain.
#[must_use]
pub fn in_link<'e>(e: &'e (dyn std::error::Error + 'static)) -> Option<&'e str> {
    let own = e.downcast_ref::<Diagnostic>().map(|d| d.hint.as_str());
    own.or_else(|| e.downcast_ref::<::api::Error>()?.hint.as_deref())
}
