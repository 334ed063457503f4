//! `portcullis status`. In: an edge and its token. Out: who is connected, as a table or JSON.

use anyhow::Context as _;
use api::EdgeStatus;
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
        let status: EdgeStatus =
            serde_json::from_slice(&body).context("the edge's status is not JSON; is it a Portcullis edge?")?;
        print(&status, args.json == Some(true)).map_err(Fail::from)
    })
}

fn print(status: &EdgeStatus, json: bool) -> anyhow::Result<()> {
    if json {
        return say::json(status);
    }
    let info = &status.info;
    for (name, text) in
        [("Hostname", &info.hostname), ("Started", &info.start_time), ("Mode", &info.mode), ("Version", &info.version)]
    {
        say::line(format_args!("{name:<10} {text}"));
    }
    let rows: Vec<Vec<String>> = status
        .clients
        .iter()
        .map(|c| {
            vec![
                c.client_id.clone(),
                c.hostname.clone(),
                c.remote_addr.clone(),
                c.since.clone(),
                c.upstreams.join(", "),
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
