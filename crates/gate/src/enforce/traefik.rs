//! Traefik's file provider. In: the lists. Out: one file with a middleware for each, and when Traefik has it: by its API's
//! word, or by the time after which it must have read the file.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use access::ours::Format;
use access::publish::{Middleware, NOBODY, TraefikStyle, merge, traefik_yaml};
use addr::Prefix;
use anyhow::{Context, bail};
use futures_util::future::{BoxFuture, FutureExt};
use http::HeaderMap;
use net::replace::How;
use serde_json::Value;

use super::{
    Enforcer, InForce, Info, LONG_LIST, MAX_LIST_BODY, REQUEST_TIMEOUT, Reconciled, Remark, Snapshot, Wake, check_ours,
    note, note_length, write,
};
use runtime::fetch::{Base, Fetch};

/// Traefik's own default for its `providersThrottleDuration`.
pub const TRAEFIK_THROTTLE: Duration = Duration::from_secs(2);
/// From a file's change to its effect in Traefik, beside the throttle: noticing, reading, building the routers anew.
const READ_TIME: Duration = Duration::from_millis(300);
/// Traefik takes what is quiet for its `providersThrottleDuration` (2 s) at once and gathers the rest: a burst is a
/// write or two.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);
/// Writes that may be waited for at a time; Traefik gathers what is written within its throttle, and the gate writes four
/// times a second at most.
const MAX_PENDING: usize = 64;
/// A Traefik that watches the file shows it within two of its throttles.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// How often its API is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How Traefik is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraefikConfig {
    /// The file that Traefik watches.
    pub file: PathBuf,
    /// Each middleware's name and the lists it lets in.
    pub middlewares: Vec<(String, Vec<String>)>,
    /// How this Traefik reads a list.
    pub style: TraefikStyle,
    /// TCP middlewares too.
    pub tcp: bool,
    /// Traefik's API, to see when it has the list; `None`: it must have read the file after two throttles.
    pub api: Option<Base>,
    /// Its `providersThrottleDuration`.
    pub throttle: Duration,
}

/// A Traefik that watches a file.
pub(super) struct Traefik {
    config: TraefikConfig,
    info: Info,
    remarks: Vec<Remark>,
    /// By when it has read the latest change, where no API says it.
    read_by: Option<Instant>,
    pending: Pending,
}

impl Traefik {
    pub(super) fn new(config: TraefikConfig) -> Traefik {
        let lists: BTreeSet<String> = config.middlewares.iter().flat_map(|(_, lists)| lists.iter().cloned()).collect();
        let info = Info {
            name: format!("traefik {}", config.file.display()),
            lists: lists.into_iter().collect(),
            file: Some(config.file.clone()),
            by_peer: config.style.strategy.is_none(),
        };
        Traefik { config, info, remarks: Vec::new(), read_by: None, pending: Pending::default() }
    }

    async fn sync(&mut self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let written = middlewares(&self.config, desired)?;
        for m in &written {
            note_length(&mut self.remarks, &self.info.name, m.entries.len(), "Traefik", &m.name);
        }
        let (all, style) = (written.clone(), self.config.style.clone());
        let how = write(&self.config.file, move || traefik_yaml(&all, &style)).await?;
        if let How::InPlace(why) = &how
            && !self.remarks.iter().any(|r| matches!(r, Remark::InPlace { .. }))
        {
            let remark = Remark::InPlace { file: self.config.file.clone(), why: why.clone() };
            note(&mut self.remarks, &self.info.name, remark);
        }
        let changed = how != How::Same;
        if self.config.api.is_some() {
            self.pending.wrote(desired.published.generation, written);
        } else if changed {
            self.read_by = Some(Instant::now() + self.config.throttle + READ_TIME);
        }
        Ok(Reconciled { changed, in_force: self.in_force() })
    }

    fn in_force(&self) -> InForce {
        match (&self.config.api, self.read_by) {
            (Some(_), _) => InForce::WhenShown,
            (None, Some(by)) => InForce::By(by),
            (None, None) => InForce::Now,
        }
    }
}

impl Enforcer for Traefik {
    fn info(&self) -> &Info {
        &self.info
    }

    fn min_interval(&self) -> Duration {
        WRITE_INTERVAL
    }

    fn check_file(&self) -> anyhow::Result<()> {
        let names: Vec<String> = self.config.middlewares.iter().map(|(name, _)| name.clone()).collect();
        check_ours(
            &self.config.file,
            Format::Traefik(&names),
            "give the gate a file of its own beside it: Traefik's file provider reads every file of a `directory`",
        )
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }

    fn unchanged(&mut self, generation: u64) -> InForce {
        if self.config.api.is_some() && self.pending.same(generation) { InForce::Now } else { self.in_force() }
    }

    fn idle(&mut self) -> BoxFuture<'_, anyhow::Result<Wake>> {
        let (pending, api) = (&mut self.pending, self.config.api.as_ref());
        async move { pending.shown(api).await.map(Wake::InForce) }.boxed()
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }
}

/// The middlewares that hold what is desired: each entry once, nobody only where nobody else is, long ones merged.
fn middlewares(config: &TraefikConfig, desired: &Snapshot) -> anyhow::Result<Vec<Middleware>> {
    let nobody: Option<Prefix> = NOBODY.parse().ok();
    let each = config.middlewares.iter().map(|(name, lists)| {
        let mut entries: Vec<Prefix> = Vec::new();
        for list in lists {
            entries.extend(desired.list(list)?.entries());
        }
        if entries.iter().any(|p| Some(*p) != nobody) {
            entries.retain(|p| Some(*p) != nobody);
        }
        let mut seen = BTreeSet::new();
        entries.retain(|p| seen.insert(*p));
        if entries.len() > LONG_LIST {
            entries = merge(entries);
        }
        Ok(Middleware { name: name.clone(), entries, tcp: config.tcp })
    });
    each.collect()
}

/// What was written and Traefik's API does not show yet.
#[derive(Debug, Default)]
struct Pending {
    writes: VecDeque<Write>,
}

#[derive(Debug)]
struct Write {
    generation: u64,
    written: Vec<Middleware>,
    since: Instant,
}

impl Pending {
    fn wrote(&mut self, generation: u64, written: Vec<Middleware>) {
        if self.writes.len() >= MAX_PENDING {
            self.writes.pop_back();
        }
        self.writes.push_back(Write { generation, written, since: Instant::now() });
    }

    /// The lists are the same at this generation. True if nothing is waited for, so that it is reached.
    fn same(&mut self, generation: u64) -> bool {
        self.writes.back_mut().map(|w| w.generation = generation).is_none()
    }

    /// Waits until Traefik's API shows something that was written; the newest of it counts. Waits for ever if nothing was
    /// written, and loses nothing when it is dropped.
    ///
    /// # Errors
    /// Traefik does not show it, or its API cannot be asked; nothing is waited for any more.
    async fn shown(&mut self, api: Option<&Base>) -> anyhow::Result<u64> {
        let (Some(api), Some(since)) = (api, self.writes.front().map(|w| w.since)) else {
            return std::future::pending().await;
        };
        loop {
            match self.newest_shown(api).await {
                Ok(Some(at)) => return Ok(self.reached(at)),
                Ok(None) if since.elapsed() < SYNC_TIMEOUT => tokio::time::sleep(POLL_INTERVAL).await,
                Ok(None) => {
                    self.writes.clear();
                    bail!("Traefik's API does not show the lists as written; does its file provider watch this file?");
                }
                // It may just be starting.
                Err(_) if since.elapsed() < SYNC_TIMEOUT => tokio::time::sleep(POLL_INTERVAL * 4).await,
                Err(e) => {
                    self.writes.clear();
                    return Err(e);
                }
            }
        }
    }

    /// The write at this place is in force, and those before it: its generation.
    fn reached(&mut self, at: usize) -> u64 {
        let generation = self.writes.get(at).map_or(0, |w| w.generation);
        self.writes.drain(..=at);
        generation
    }

    /// The newest of what is waited for that the API shows, by its place.
    async fn newest_shown(&self, api: &Base) -> anyhow::Result<Option<usize>> {
        let names: BTreeSet<&str> =
            self.writes.iter().flat_map(|w| w.written.iter().map(|m| m.name.as_str())).collect();
        let mut shown: Vec<(&str, Vec<String>)> = Vec::new();
        for name in names {
            let path = format!("{}/api/http/middlewares/{name}@file", api.path.trim_end_matches('/'));
            let ask = Fetch::get(&path, HeaderMap::new()).whole_body(MAX_LIST_BODY);
            let answer = ask.send(api, REQUEST_TIMEOUT).await.context("Traefik's API")?;
            let ranges = source_range(&answer.body).filter(|_| answer.status == 200);
            let Some(ranges) = ranges else { return Ok(None) };
            shown.push((name, ranges));
        }
        Ok(self.newest(&shown))
    }

    /// The newest write whose middlewares are all shown as they were written.
    fn newest(&self, shown: &[(&str, Vec<String>)]) -> Option<usize> {
        let has = |m: &Middleware| {
            let ranges = shown.iter().find(|(n, _)| *n == m.name).map(|(_, r)| r);
            ranges.is_some_and(|r| {
                r.len() == m.entries.len() && r.iter().zip(&m.entries).all(|(a, b)| *a == b.to_string())
            })
        };
        self.writes.iter().rposition(|w| w.written.iter().all(has))
    }
}

/// The ranges of a middleware as the API shows it, under the key of any version.
fn source_range(body: &[u8]) -> Option<Vec<String>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let ranges = ["ipAllowList", "ipWhiteList"].iter().find_map(|k| value[*k]["sourceRange"].as_array())?;
    Some(ranges.iter().filter_map(|r| r.as_str().map(str::to_string)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;

    fn config(middlewares: &[(&str, &[&str])], api: bool) -> TraefikConfig {
        let owned = |l: &[&str]| l.iter().map(|t| (*t).to_string()).collect();
        TraefikConfig {
            file: "/nowhere/list.yml".into(),
            middlewares: middlewares.iter().map(|(name, lists)| ((*name).to_string(), owned(lists))).collect(),
            style: access::publish::TraefikStyle::default(),
            tcp: false,
            api: api.then(|| "http://127.0.0.1:1".parse().unwrap()),
            throttle: TRAEFIK_THROTTLE,
        }
    }

    fn entries(m: &Middleware) -> Vec<String> {
        m.entries.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_middleware_lets_in_all_its_lists_once() {
        let state = snapshot(1, &[("home", &["192.0.2.1"]), ("guests", &["192.0.2.1", "192.0.2.7"]), ("none", &[])]);
        let all = [("a", &["home", "guests"][..]), ("b", &["none"]), ("c", &["none", "home"])];
        let written = middlewares(&config(&all, false), &state).unwrap();
        let text: Vec<Vec<String>> = written.iter().map(entries).collect();
        assert_eq!(text[0], ["192.0.2.1", "192.0.2.7"]);
        assert_eq!(text[1], [NOBODY], "an empty list is an error to Traefik");
        assert_eq!(text[2], ["192.0.2.1"]);
        assert!(middlewares(&config(&[("a", &["gone"])], false), &state).is_err());
        assert_eq!(Traefik::new(config(&all, false)).info().lists, ["guests", "home", "none"]);
    }

    #[test]
    fn the_api_is_read_in_every_version() {
        let ranges = |key: &str| source_range(format!(r#"{{"{key}":{{"sourceRange":["192.0.2.1"]}}}}"#).as_bytes());
        assert_eq!(ranges("ipAllowList").unwrap(), ["192.0.2.1"]);
        assert_eq!(ranges("ipWhiteList").unwrap(), ["192.0.2.1"]);
        assert!(ranges("basicAuth").is_none() && source_range(b"404 page not found").is_none());
    }

    #[test]
    fn the_newest_write_that_is_shown_counts() {
        let mut t = Traefik::new(config(&[("a", &["home"])], true));
        let write = |n: u64, who: &[&str]| middlewares(&t.config, &snapshot(n, &[("home", who)])).unwrap();
        let (one, two) = (write(1, &["192.0.2.1"]), write(2, &["192.0.2.2"]));
        t.pending.wrote(1, one);
        t.pending.wrote(2, two);
        assert!(!t.pending.same(3), "generation 3 is the same lists, which are still waited for");
        let shows = |who: &str| [("a", vec![who.to_string()])];
        assert_eq!(t.pending.newest(&shows("198.51.100.1")), None);
        assert_eq!(t.pending.newest(&shows("192.0.2.1")), Some(0));
        let newest = t.pending.newest(&shows("192.0.2.2")).unwrap();
        assert_eq!(t.pending.reached(newest), 3);
        assert!(t.pending.same(4), "nothing is waited for");
        assert_eq!(t.unchanged(4), InForce::Now);
    }

    #[test]
    fn without_an_api_a_change_is_in_force_after_the_throttle() {
        let mut t = Traefik::new(config(&[("a", &["home"])], false));
        assert_eq!(t.unchanged(1), InForce::Now);
        let by = Instant::now() + TRAEFIK_THROTTLE;
        t.read_by = Some(by);
        assert_eq!(t.unchanged(2), InForce::By(by));
    }
}
