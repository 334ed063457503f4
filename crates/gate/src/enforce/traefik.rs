//! Traefik's file provider. In: the lists. Out: one file with a middleware for each, and when Traefik has it: by its API's
//! word, or by the time after which it must have read the file.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use access::publish::{Middleware, TraefikStyle, merge, traefik_yaml};
use addr::Prefix;
use anyhow::{Context, bail};
use http::HeaderMap;
use net::replace::{How, replace};
use serde_json::Value;
use tracing::warn;

use super::{LONG, Memory, Remark, WAIT, of};
use crate::fetch::{Ask, Base};
use crate::keeper::Published;

pub(super) async fn apply(
    file: &Path,
    middlewares: &[(String, Vec<String>)],
    style: &TraefikStyle,
    tcp: bool,
    api: bool,
    now: &Published,
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let mut written = Vec::new();
    for (name, lists) in middlewares {
        let mut entries: Vec<Prefix> = Vec::new();
        for list in lists {
            entries.extend(of(now, list)?.entries());
        }
        let nobody: Option<Prefix> = access::publish::NOBODY.parse().ok();
        if entries.iter().any(|p| Some(*p) != nobody) {
            entries.retain(|p| Some(*p) != nobody);
        }
        let mut seen = std::collections::BTreeSet::new();
        entries.retain(|p| seen.insert(*p));
        if entries.len() > LONG {
            entries = merge(entries);
        }
        super::say_if_long(entries.len(), "Traefik", name, memory);
        written.push(Middleware { name: name.clone(), entries, tcp });
    }
    let (path, text) = (file.to_path_buf(), traefik_yaml(&written, style));
    let how = tokio::task::spawn_blocking(move || replace(&path, text.as_bytes()))
        .await?
        .with_context(|| format!("{} can not be written", file.display()))?;
    if let How::InPlace(why) = &how
        && memory.remark.is_none()
    {
        let remark = Remark::InPlace { file: file.to_path_buf(), why: why.clone() };
        warn!("{remark}");
        memory.remark = Some(remark);
    }
    if api {
        memory.traefik.wrote(now.generation, written);
    }
    Ok(how != How::Same)
}

/// What was written and Traefik's API does not show yet.
#[derive(Debug, Default)]
pub(super) struct State {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    generation: u64,
    written: Vec<Middleware>,
    since: Instant,
}

/// Writes that may be waited for at a time; Traefik gathers what is written within its throttle, and the gate writes four
/// times a second at most.
const WAITING: usize = 64;
/// A Traefik that watches the file shows it within two of its throttles.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// How often its API is asked.
const LOOK: Duration = Duration::from_millis(25);

impl State {
    fn wrote(&mut self, generation: u64, written: Vec<Middleware>) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_back();
        }
        self.waiting.push_back(Waiting { generation, written, since: Instant::now() });
    }

    /// The lists are the same at this generation. True if nothing is waited for, so that it is reached.
    pub(super) fn same(&mut self, generation: u64) -> bool {
        self.waiting.back_mut().map(|w| w.generation = generation).is_none()
    }

    /// Waits until Traefik's API shows something that was written; the newest of it counts. Waits for ever if nothing was
    /// written, and loses nothing when it is dropped.
    ///
    /// # Errors
    /// Traefik does not show it, or its API can not be asked; nothing is waited for any more.
    pub(super) async fn shown(&mut self, api: Option<&Base>) -> anyhow::Result<u64> {
        let (Some(api), Some(since)) = (api, self.waiting.front().map(|w| w.since)) else {
            return std::future::pending().await;
        };
        loop {
            match self.newest_shown(api).await {
                Ok(Some(at)) => {
                    let generation = self.waiting.get(at).map_or(0, |w| w.generation);
                    self.waiting.drain(..=at);
                    return Ok(generation);
                }
                Ok(None) if since.elapsed() < SHOWN_WITHIN => tokio::time::sleep(LOOK).await,
                Ok(None) => {
                    self.waiting.clear();
                    bail!("Traefik's API does not show the lists as written; does its file provider watch this file?");
                }
                // It may just be starting.
                Err(_) if since.elapsed() < SHOWN_WITHIN => tokio::time::sleep(LOOK * 4).await,
                Err(e) => {
                    self.waiting.clear();
                    return Err(e);
                }
            }
        }
    }

    /// The newest of what is waited for that the API shows, by its place.
    async fn newest_shown(&self, api: &Base) -> anyhow::Result<Option<usize>> {
        let names: Vec<&str> = self.waiting.iter().flat_map(|w| w.written.iter().map(|m| m.name.as_str())).collect();
        let mut shown: Vec<(&str, Vec<String>)> = Vec::new();
        for name in names {
            if shown.iter().any(|(n, _)| *n == name) {
                continue;
            }
            let path = format!("{}/api/http/middlewares/{name}@file", api.path.trim_end_matches('/'));
            let ask = Ask::get(&path, HeaderMap::new()).whole_body(16 << 20);
            let answer = ask.send(api, WAIT).await.context("Traefik's API")?;
            let value: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            let ranges = ["ipAllowList", "ipWhiteList"].iter().find_map(|k| value[*k]["sourceRange"].as_array());
            let Some(ranges) = ranges.filter(|_| answer.status == 200) else { return Ok(None) };
            shown.push((name, ranges.iter().filter_map(|r| r.as_str().map(str::to_string)).collect()));
        }
        let has = |m: &Middleware| {
            let ranges = shown.iter().find(|(n, _)| *n == m.name).map(|(_, r)| r);
            ranges.is_some_and(|r| {
                r.len() == m.entries.len() && r.iter().zip(&m.entries).all(|(a, b)| *a == b.to_string())
            })
        };
        Ok(self.waiting.iter().rposition(|w| w.written.iter().all(has)))
    }
}
