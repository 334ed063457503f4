//! `backup` and `restore`. In: what was typed. Out: a copy of what is stored, or the copy in its place.

use crate::args::{BackupArgs, GlobalArgs};
use crate::fail::Done;
use crate::{meant, say};

/// `backup`: works while the process runs.
pub(crate) fn backup(a: &BackupArgs, global: &GlobalArgs) -> Done {
    let dir = meant::data_dir(global.data_dir.clone())?;
    let store = daemon::backup::store(&dir, a.store.as_deref(), true)?;
    daemon::backup::backup(&store, &a.file)?;
    say::line(format!(
        "{} is copied to {}; it holds keys, keep it as safe as the original",
        store.display(),
        a.file.display()
    ));
    Ok(())
}

/// `restore`: for a process that is stopped.
pub(crate) fn restore(a: &BackupArgs, global: &GlobalArgs) -> Done {
    let dir = meant::data_dir(global.data_dir.clone())?;
    let store = daemon::backup::store(&dir, a.store.as_deref(), false)?;
    let kept = daemon::backup::restore(&a.file, &store)?;
    say::line(format!("{} is what {} holds now", store.display(), a.file.display()));
    say::line("what was revoked, expired or deleted since that copy was made counts again: take it away once more");
    if let Some(kept) = kept {
        say::line(format!("what was there is kept as {}", kept.display()));
    }
    Ok(())
}
