//! Traefik's file provider. In: the lists. Out: one file with a middleware for each, and Traefik's word that it has it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use decide::publish::{Middleware, TraefikStyle, merge, traefik_yaml};
use http::{HeaderMap, Method};
use model::Prefix;
use net::replace::{How, replace};
use serde_json::Value;
use tracing::warn;

use super::{LONG, Memory, Remark, WAIT, of};
use crate::gate::fetch::{Base, fetch};
use crate::gate::keeper::Published;

pub(super) async fn apply(
    file: &Path,
    middlewares: &[(String, Vec<String>)],
    style: &TraefikStyle,
    tcp: bool,
    api: Option<&Base>,
    now: &Published,
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let mut written = Vec::new();
    for (name, lists) in middlewares {
        let mut entries: Vec<Prefix> = Vec::new();
        for list in lists {
            entries.extend(of(now, list)?.entries());
        }
        let nobody: Option<Prefix> = decide::publish::NOBODY.parse().ok();
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
    if let Some(api) = api {
        seen_by_traefik(api, &written).await?;
    }
    Ok(how != How::Same)
}

/// Waits until Traefik's API shows every middleware with its entries.
async fn seen_by_traefik(api: &Base, written: &[Middleware]) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut missing = None;
        for m in written {
            let path = format!("{}/api/http/middlewares/{}@file", api.path.trim_end_matches('/'), m.name);
            let (status, body) = fetch(api, Method::GET, &path, HeaderMap::new(), Bytes::new(), 16 << 20, WAIT)
                .await
                .context("Traefik's API")?;
            let shown: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let ranges = ["ipAllowList", "ipWhiteList"].iter().find_map(|k| shown[*k]["sourceRange"].as_array());
            let want: Vec<String> = m.entries.iter().map(ToString::to_string).collect();
            let same =
                ranges.is_some_and(|r| r.len() == want.len() && r.iter().zip(&want).all(|(a, b)| a == b.as_str()));
            if status != 200 || !same {
                missing = Some(&m.name);
                break;
            }
        }
        let Some(name) = missing else { return Ok(()) };
        if Instant::now() > until {
            bail!("Traefik's API does not show `{name}` as written; does its file provider watch this file?");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
