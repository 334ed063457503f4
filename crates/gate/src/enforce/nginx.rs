//! nginx: a file for a `geo` block. In: the list. Out: the file, tested, and a reload.

use std::path::PathBuf;
use std::time::Duration;

use access::ours::Format;
use access::publish::nginx_geo;
use anyhow::Context;
use futures_util::future::{BoxFuture, FutureExt};
use net::replace::replace;

use super::command::program;
use super::{Enforcer, Info, OWN_FILE, Reconciled, Snapshot, check_ours};

/// nginx starts new workers at each reload, and old ones live as long as their connections: not more often than this.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How nginx is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxConfig {
    /// The list.
    pub list: String,
    /// The file.
    pub file: PathBuf,
    /// Tests the configuration: a program and its arguments.
    pub test: Vec<String>,
    /// Makes nginx read it: a program and its arguments.
    pub reload: Vec<String>,
}

/// An nginx that reads a file at each reload.
pub(super) struct Nginx {
    config: NginxConfig,
    info: Info,
    /// It was reloaded with what its file has.
    reloaded: bool,
}

impl Nginx {
    pub(super) fn new(config: NginxConfig) -> Nginx {
        let info = Info {
            name: format!("nginx {}", config.file.display()),
            lists: vec![config.list.clone()],
            file: Some(config.file.clone()),
            by_peer: false,
        };
        Nginx { config, info, reloaded: false }
    }

    async fn sync(&mut self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let NginxConfig { list, file, test, reload } = &self.config;
        let (list, path) = (desired.list(list)?.clone(), file.clone());
        let write = move || {
            let text = nginx_geo(&list.merged());
            let before = std::fs::read(&path).ok();
            let same = before.as_deref() == Some(text.as_bytes());
            replace(&path, text.as_bytes()).map(|_| (before, same))
        };
        let written = tokio::task::spawn_blocking(write).await?;
        let (before, same) = written.with_context(|| format!("{} cannot be written", file.display()))?;
        if same && self.reloaded {
            return Ok(Reconciled::now(false));
        }
        if let Err(e) = program(test, None, &[]).await {
            // A reload of somebody else must not meet it either.
            if let Some(before) = before {
                replace(file, &before)?;
            }
            return Err(e.context("nginx refuses its configuration"));
        }
        program(reload, None, &[]).await.context("nginx was not reloaded")?;
        self.reloaded = true;
        Ok(Reconciled::now(true))
    }
}

impl Enforcer for Nginx {
    fn info(&self) -> &Info {
        &self.info
    }

    fn min_interval(&self) -> Duration {
        RELOAD_INTERVAL
    }

    fn check_file(&self) -> anyhow::Result<()> {
        check_ours(&self.config.file, Format::Geo, OWN_FILE)
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_string).collect()
    }

    #[tokio::test]
    async fn a_configuration_that_nginx_refuses_is_put_back() {
        let dir = tempfile();
        let file = dir.join("list.conf");
        let config = |test: &str, reload: &str| NginxConfig {
            list: "home".to_string(),
            file: file.clone(),
            test: words(test),
            reload: words(reload),
        };
        let one = snapshot(1, &[("home", &["192.0.2.1"])]);
        let two = snapshot(2, &[("home", &["192.0.2.1", "192.0.2.9"])]);
        let mut good = Nginx::new(config("true", "true"));
        assert!(good.sync(&one).await.unwrap().changed);
        let first = std::fs::read_to_string(&file).unwrap();
        assert!(first.contains("192.0.2.1"), "{first}");
        assert!(!good.sync(&one).await.unwrap().changed, "the same again is no reload");

        let mut refused = Nginx::new(config("false", "true"));
        assert!(refused.sync(&two).await.is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first, "the last good state stays");

        // Not reloaded is not done: the same text is tried again.
        let mut stuck = Nginx::new(config("true", "false"));
        assert!(stuck.sync(&two).await.is_err());
        stuck.config.reload = words("true");
        assert!(stuck.sync(&two).await.unwrap().changed);
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempfile() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("portcullis-nginx-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
