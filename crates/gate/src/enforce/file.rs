//! A plain file, one prefix a line. In: the list. Out: the file.

use std::path::PathBuf;

use access::ours::Format;
use access::publish::lines;
use futures_util::future::{BoxFuture, FutureExt};
use net::replace::How;

use super::{Enforcer, Info, OWN_FILE, Reconciled, Snapshot, check_ours, write};

/// How a plain file is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The list.
    pub list: String,
    /// The file.
    pub file: PathBuf,
}

/// A file that an edge or a program of one's own reads.
pub(super) struct TextFile {
    config: FileConfig,
    info: Info,
}

impl TextFile {
    pub(super) fn new(config: FileConfig) -> TextFile {
        let info = Info {
            name: format!("file {}", config.file.display()),
            lists: vec![config.list.clone()],
            file: Some(config.file.clone()),
            by_peer: false,
        };
        TextFile { config, info }
    }

    async fn sync(&self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let list = desired.list(&self.config.list)?.clone();
        let how = write(&self.config.file, move || lines(&list.merged())).await?;
        Ok(Reconciled::now(how != How::Same))
    }
}

impl Enforcer for TextFile {
    fn info(&self) -> &Info {
        &self.info
    }

    fn check_file(&self) -> anyhow::Result<()> {
        check_ours(&self.config.file, Format::Lines, OWN_FILE)
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }
}
