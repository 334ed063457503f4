//! Caddy: the ranges of a matcher, through its admin API. In: the list. Out: the matcher's ranges.

use access::publish::Desired;
use anyhow::bail;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{Memory, Remark, WAIT};
use crate::fetch::{Answer, Ask, Base};

pub(super) async fn apply(d: &Desired, api: &Base, memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    super::say_if_long(entries.len(), "Caddy", &d.list, memory);
    let want = json!(entries.iter().map(ToString::to_string).collect::<Vec<_>>());
    let Answer { status, body, .. } =
        Ask::get(&api.path, HeaderMap::new()).whole_body(16 << 20).send(api, WAIT).await?;
    if status == 200 && serde_json::from_slice::<Value>(&body).is_ok_and(|v| v == want) {
        return Ok(false);
    }
    if status == 404 || status == 400 {
        bail!("Caddy does not know {}: the matcher needs an \"@id\" ({})", api.path, String::from_utf8_lossy(&body));
    }
    memory.remark = Some(Remark::ClosesStreams);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let ask = Ask::new(Method::PATCH, &api.path, headers).body(Bytes::from(want.to_string())).whole_body(1 << 20);
    let Answer { status, body, .. } = ask.send(api, WAIT).await?;
    if status != 200 {
        bail!("Caddy answers {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(true)
}
