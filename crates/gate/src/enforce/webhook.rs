//! Any HTTP service. In: the list. Out: the list by POST, as JSON, with who came and went.

use access::publish::Desired;
use addr::Prefix;
use anyhow::bail;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::command::{LastSent, is_empty};
use super::{Enforcer, Info, REQUEST_TIMEOUT, Reconciled, Snapshot};
use runtime::fetch::{Base, Fetch};

/// How an HTTP service is told of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The list.
    pub list: String,
    /// Where to.
    pub to: Base,
}

/// A service that is told of a list.
pub(super) struct Webhook {
    config: WebhookConfig,
    info: Info,
    last_sent: LastSent,
}

impl Webhook {
    pub(super) fn new(config: WebhookConfig) -> Webhook {
        let scheme = if config.to.https { "https" } else { "http" };
        let info = Info {
            // The path may hold a secret.
            name: format!("webhook {scheme}://{}:{}", config.to.host, config.to.port),
            lists: vec![config.list.clone()],
            ..Info::default()
        };
        Webhook { config, info, last_sent: LastSent::default() }
    }

    async fn sync(&mut self, desired: &Snapshot) -> anyhow::Result<Reconciled> {
        let d = desired.list(&self.config.list)?;
        let entries = d.merged();
        if self.last_sent.is(&entries) {
            return Ok(Reconciled::now(false));
        }
        let body = body(d, &entries, &self.last_sent.changes(d, desired));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let to = &self.config.to;
        let ask = Fetch::new(Method::POST, &to.path, headers).body(Bytes::from(body.to_string()));
        let status = ask.send(to, REQUEST_TIMEOUT).await?.status;
        if !(200..300).contains(&status) {
            bail!("it answers {status}");
        }
        self.last_sent.set(entries, d);
        Ok(Reconciled::now(true))
    }
}

impl Enforcer for Webhook {
    fn info(&self) -> &Info {
        &self.info
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired).boxed()
    }
}

/// What is sent. Nobody is an empty array here: a program that reads JSON can tell it from none at all.
fn body(d: &Desired, entries: &[Prefix], changes: &[Value]) -> Value {
    let entries: Vec<String> = if is_empty(d) { Vec::new() } else { entries.iter().map(ToString::to_string).collect() };
    json!({
        "list": d.list,
        "generation": d.generation,
        "entries": entries,
        "empty": is_empty(d),
        "changes": changes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::desired;
    use super::*;

    #[test]
    fn nobody_is_an_empty_array() {
        let d = desired("home", &[]);
        let text = body(&d, &d.merged(), &[]);
        assert_eq!((&text["entries"], &text["empty"]), (&json!([]), &json!(true)));
        let d = desired("home", &["192.0.2.1"]);
        let text = body(&d, &d.merged(), &[]);
        assert_eq!((&text["entries"], &text["empty"]), (&json!(["192.0.2.1"]), &json!(false)));
    }

    #[test]
    fn the_name_keeps_the_path_to_itself() {
        let to = "https://hooks.example/T0/secret".parse().unwrap();
        let hook = Webhook::new(WebhookConfig { list: "home".to_string(), to });
        assert_eq!(hook.info().name, "webhook https://hooks.example:443");
    }
}
