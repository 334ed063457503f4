//! Files that are for their owner alone. In: an open file. Out: mode 0600, whatever made it, or a warning that says which
//! file others can read.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::warn;

/// Takes everybody else's rights to a file away: a restored backup or the target of a link may have some.
pub fn private(file: &File, path: &Path) {
    let Ok(meta) = file.metadata() else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    match file.set_permissions(Permissions::from_mode(0o600)) {
        Ok(()) => {
            warn!(path = %path.display(), "{} could be used by others (mode {mode:03o}); it is 600 now", path.display())
        }
        Err(e) => warn!(
            path = %path.display(), err = %e,
            "{} can be used by others (mode {mode:03o}), and that cannot be changed; `chmod 600` it as its owner",
            path.display()
        ),
    }
}
