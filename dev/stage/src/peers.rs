//! Where real peers are. In: a program's name. Out: its path on this machine, or nothing.

use std::path::PathBuf;

/// Where set-up keeps what is not a system package: `$PORTCULLIS_CACHE`, else `~/.cache/portcullis`.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("PORTCULLIS_CACHE") {
        return PathBuf::from(dir);
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    base.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("portcullis")
}

/// The program from the cache, `$PATH` or a system directory.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = [cache().join("peers/bin"), cache().join("traefik/bin")];
    // Debian puts servers where an ordinary user's PATH does not look.
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    own.into_iter().chain(std::env::split_paths(&path)).chain(system).map(|d| d.join(program)).find(|p| p.is_file())
}

/// The program, or the test is skipped in one line (and fails where every peer is required).
#[must_use]
pub fn need(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        crate::skip::skip(&format!("{program} is not installed (`cargo xtask test --setup` installs it)"));
    }
    found
}
