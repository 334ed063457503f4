//! Caddy: the ranges of a matcher, through its admin API. In: the list. Out: the matcher's ranges.

use std::time::Duration;

use addr::Prefix;
use anyhow::bail;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{Enforcer, Info, MAX_LIST_BODY, REQUEST_TIMEOUT, Reconciled, Remark, Snapshot, note_length};
use runtime::fetch::{Answer, Base, Fetch};

/// Caddy closes its streams at each change: not more often than this.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How Caddy is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaddyConfig {
    /// The list.
    pub list: String,
    /// The admin API with the path of the ranges: `http://127.0.0.1:2019/id/gate/remote_ip/ranges`.
    pub api: Base,
}

/// A Caddy with an admin API.
pub(super) struct Caddy {
    config: CaddyConfig,
    info: Info,
    remarks: Vec<Remark>,
}

impl Caddy {
    pub(super) fn new(config: CaddyConfig) -> Caddy {
        let info = Info { name: format!("caddy {}", config.api), lists: vec![config.list.clone()], ..Info::default() };
        Caddy { config, info, remarks: Vec::new() }
    }

    async fn sync(&mut self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let api = &self.config.api;
        let d = desired.list(&self.config.list)?;
        let entries = d.merged();
        note_length(&mut self.remarks, &self.info.name, entries.len(), "Caddy", &d.list);
        let want = ranges(&entries);
        let Answer { status, body, .. } =
            Fetch::get(&api.path, HeaderMap::new()).whole_body(MAX_LIST_BODY).send(api, REQUEST_TIMEOUT).await?;
        if status == 200 && holds(&body, &want) {
            return Ok(Reconciled::now(false));
        }
        if status == 404 || status == 400 {
            bail!(
                "Caddy does not know {}: the matcher needs an \"@id\" ({})",
                api.path,
                String::from_utf8_lossy(&body)
            );
        }
        if !self.remarks.contains(&Remark::ClosesStreams) {
            self.remarks.push(Remark::ClosesStreams);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let ask = Fetch::new(Method::PATCH, &api.path, headers).body(Bytes::from(want.to_string())).whole_body(1 << 20);
        let Answer { status, body, .. } = ask.send(api, REQUEST_TIMEOUT).await?;
        if status != 200 {
            bail!("Caddy answers {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(Reconciled::now(true))
    }
}

impl Enforcer for Caddy {
    fn info(&self) -> &Info {
        &self.info
    }

    fn min_interval(&self) -> Duration {
        RELOAD_INTERVAL
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }
}

/// A matcher's ranges as Caddy writes them.
fn ranges(entries: &[Prefix]) -> Value {
    json!(entries.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// True if what the API shows is exactly this.
fn holds(body: &[u8], want: &Value) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|v| v == *want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_back_as_they_were_written() {
        let entries: Vec<Prefix> = ["192.0.2.1", "2001:db8::/64"].iter().map(|p| p.parse().unwrap()).collect();
        let want = ranges(&entries);
        assert_eq!(want.to_string(), r#"["192.0.2.1","2001:db8::/64"]"#);
        assert!(holds(want.to_string().as_bytes(), &want));
        for other in [r#"["192.0.2.1"]"#, r#"["2001:db8::/64","192.0.2.1"]"#, "null", "", "{"] {
            assert!(!holds(other.as_bytes(), &want), "{other}");
        }
    }
}
