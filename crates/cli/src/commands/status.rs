//! `portcullis status`. In: an edge and its token. Out: who is connected, as a table or JSON.

use anyhow::Context as _;
use serde_json::Value;
use tunnel::client;
use tunnel::settings::{ClientSettings, UpstreamTls};

use crate::args::{Given, StatusArgs};
use crate::fail::{Done, Fail};
use crate::resolve::proxy;
use crate::{resolve, say};

/// Asks the edge's `/status`.
pub(crate) fn run(args: &StatusArgs, given: &Given) -> Done {
    let (url, trust) = resolve::trust(&args.trust, given)?;
    let token = resolve::token_for(&args.token, &args.trust, given)?;
    let settings = ClientSettings {
        proxy: proxy::choose(&url, |name| std::env::var(name).ok())?,
        url,
        token: token.secret,
        trust,
        upstreams: Vec::new(),
        carriers: 1,
        demux: false,
        id: None,
        upstream_tls: UpstreamTls::default(),
    };
    crate::block_on(async move {
        let body = client::get(settings, "/status").await?;
        let status: Value =
            serde_json::from_slice(&body).context("the edge's status is not JSON; is it a Portcullis edge?")?;
        print(&status, args.json == Some(true)).map_err(Fail::from)
    })
}

fn print(status: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        say::line(serde_json::to_string_pretty(status)?);
        return Ok(());
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let info = &status["info"];
    for (name, key) in [("Hostname", "hostname"), ("Started", "startTime"), ("Mode", "mode"), ("Version", "version")] {
        say::line(format_args!("{name:<10} {}", text(&info[key])));
    }
    let rows: Vec<Vec<String>> = status["clients"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            let upstreams: Vec<String> = c["upstreams"].as_array().into_iter().flatten().map(text).collect();
            vec![
                text(&c["clientID"]),
                text(&c["hostname"]),
                text(&c["remoteAddr"]),
                text(&c["since"]),
                upstreams.join(", "),
            ]
        })
        .collect();
    say::line("");
    if rows.is_empty() {
        say::line("No client is connected.");
    } else {
        say::raw(&say::table(&["CLIENT ID", "HOST", "ADDRESS", "CONNECTED", "UPSTREAMS"], &rows));
    }
    Ok(())
}
