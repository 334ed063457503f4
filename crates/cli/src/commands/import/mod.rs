//! `import`. In: files of another program. Out: what it kept, kept here, or the words for what would be and what would not.

mod gatekeeper;
mod headscale;
mod npm;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::args::GlobalArgs;
use crate::args::import::ImportCommand;
use crate::fail::{Done, Fail};
use crate::say;

pub(crate) fn run(c: &ImportCommand, global: &GlobalArgs) -> Done {
    match c {
        ImportCommand::Headscale(a) => headscale::run(a, global),
        ImportCommand::Gatekeeper(a) => gatekeeper::run(a, global),
        ImportCommand::Npm(a) => npm::run(a),
    }
}

/// A file that is written when all else is done, and was not there before.
struct NewFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    /// Takes the name.
    fn at(path: &Path) -> Result<NewFile, Fail> {
        let open = File::options().write(true).create_new(true).mode(0o644).open(path);
        let file = open.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Fail::hinted(
                format!("{} is there already; nothing was changed", path.display()),
                "name another file, and put the two together by hand",
            ),
            _ => Fail::hinted(format!("{} cannot be written: {e}", path.display()), "name a file that can be written"),
        })?;
        Ok(NewFile { file, path: path.to_path_buf(), kept: false })
    }

    fn write(mut self, text: &str) -> Done {
        let write = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        write.with_context(|| format!("{} cannot be written", self.path.display()))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes what is to be configured into a file, or shows it.
fn configure(text: &str, file: Option<NewFile>, how: &str) -> Done {
    let Some(file) = file else {
        say::line(format!("\n# {how}\n{}", text.trim_end()));
        return Ok(());
    };
    let path = file.path.display().to_string();
    file.write(text)?;
    say::line(format!("{path} is written: {how}"));
    Ok(())
}

/// What is not as it was, line by line.
fn say_not<'n>(not: impl IntoIterator<Item = (&'n str, &'n str)>) {
    let mut not = not.into_iter().peekable();
    if not.peek().is_some() {
        say::line("not as it was:");
    }
    not.for_each(|(what, why)| say::line(format!("  {}: {}", say::word(what), say::word(why))));
}

/// The last line.
fn say_done(dry: bool, done: &str) {
    say::line(if dry { "nothing was changed: this was a dry run" } else { done });
}
