//! `backup` and `restore`. In: what was typed. Out: a copy of what is stored, or the copy in its place.

use std::path::Path;

use crate::args::{BackupArgs, CopyArgs, GlobalArgs};
use crate::fail::{Done, Fail};
use crate::{resolve, say};

/// `backup`: works while the process runs.
pub(crate) fn backup(args: &BackupArgs, global: &GlobalArgs) -> Done {
    let a = &args.copy;
    is_a_file(&a.file)?;
    let dir = resolve::data_dir(global.data_dir.clone())?;
    let store = runtime::backup::store(&dir, a.store.as_deref(), true)?;
    runtime::backup::backup(&store, &a.file, args.force)?;
    say::line(format!(
        "{} is copied to {}; it holds keys, keep it as safe as the original",
        store.display(),
        a.file.display()
    ));
    Ok(())
}

/// `restore`: for a process that is stopped.
pub(crate) fn restore(a: &CopyArgs, global: &GlobalArgs) -> Done {
    is_a_file(&a.file)?;
    let dir = resolve::data_dir(global.data_dir.clone())?;
    resolve::as_owner_of(&dir, &format!("restore {}", a.file.display()))?;
    let store = runtime::backup::place(&a.file, &dir, a.store.as_deref())?;
    let kept = runtime::backup::restore(&a.file, &store)?;
    say::line(format!("{} is what {} holds now", store.display(), a.file.display()));
    say::line("what was revoked, expired or deleted since that copy was made counts again: take it away once more");
    if let Some(kept) = kept {
        say::line(format!("what was there is kept as {}", kept.display()));
    }
    Ok(())
}

/// `-` is standard input or output elsewhere; a store is neither read nor written there.
fn is_a_file(file: &Path) -> Result<(), Fail> {
    if file == Path::new("-") {
        return Err(Fail::usage(
            "`-` is no file: a copy is written to a file and read from one",
            "name a file, such as `copy.db`; one of that name is `./-`",
        ));
    }
    Ok(())
}
