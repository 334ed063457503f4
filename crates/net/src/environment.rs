//! The process's environment, as orchestrators write it. In: names of variables. Out: the same variables without the
//! quotes that Docker Compose's list form keeps (`- NAME="value"`), and without those that are set to nothing.

use std::ffi::OsString;

/// Takes one pair of quotes around a value away, and unsets variables without a value. Does nothing where other threads
/// may read the environment meanwhile: call it first.
pub fn tidy<'a>(names: impl IntoIterator<Item = &'a str>) {
    let changes: Vec<(&str, Option<OsString>)> = names
        .into_iter()
        .filter_map(|name| {
            let value = std::env::var(name).ok()?;
            let bare = unquoted(&value);
            (bare.is_empty() || bare != value).then(|| (name, (!bare.is_empty()).then(|| bare.into())))
        })
        .collect();
    if changes.is_empty() || !alone() {
        return;
    }
    for (name, value) in changes {
        // SAFETY: this is the only thread of the process, so nobody reads or writes the environment beside it.
        #[expect(unsafe_code, reason = "the environment of a process is shared by its threads")]
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}

/// The value without blanks around it and without one pair of equal quotes.
#[must_use]
pub fn unquoted(value: &str) -> &str {
    let bare = value.trim();
    let inner = |quote: char| bare.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).map_or(bare, str::trim)
}

/// True if the process has one thread.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_of_quotes_and_blanks_around_go() {
        for (value, bare) in [
            ("\"4\"", "4"),
            ("'http://a:1,http://b:2'", "http://a:1,http://b:2"),
            ("  7d ", "7d"),
            ("\"\"", ""),
            ("\" \"", ""),
            ("\"", "\""),
            ("\"a'", "\"a'"),
            ("a\"b\"", "a\"b\""),
            ("\"\"a\"\"", "\"a\""),
        ] {
            assert_eq!(unquoted(value), bare, "{value}");
        }
    }
}
