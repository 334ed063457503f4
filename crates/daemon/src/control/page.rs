//! The pages of a coordination server. In: who waits. Out: HTML that works without scripts, in light and dark.

use decide::mesh::Snapshot;
use hyper::StatusCode;

/// The front page: how to join.
pub(super) fn front(url: &str) -> String {
    let url = escape(url);
    whole(
        "Portcullis",
        &format!(
            "<p>This is a coordination server. Join with the official client:</p>\
             <pre>tailscale up --login-server {url}</pre>"
        ),
    )
}

/// The page of a waiting node.
pub(super) fn waiting(s: &Snapshot, ticket: &str) -> (StatusCode, String) {
    let Some(p) = s.pending.get(ticket) else {
        let text = "<p>This page is not known here. It is good for an hour; run <code>tailscale up</code> again for a new one.</p>";
        return (StatusCode::NOT_FOUND, whole("Unknown page", text));
    };
    if p.node.is_some() {
        return (StatusCode::OK, whole("Approved", "<p>This device has joined. You can close this page.</p>"));
    }
    let host = escape(if p.host.hostname.is_empty() { "a device" } else { &p.host.hostname });
    let os = escape(&p.host.os);
    let text = format!(
        "<p><b>{host}</b> ({os}) wants to join. An administrator approves it on the server with:</p>\
         <pre>portcullis nodes approve {ticket} --user NAME</pre>\
         <p>Its machine key is <code>{}</code>; <code>portcullis nodes list</code> shows the same.</p>\
         <p>The device goes on by itself once that is done.</p>",
        p.machine.short(),
        ticket = escape(ticket),
    );
    (StatusCode::OK, whole("A device waits", &text))
}

fn whole(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
         <body style=\"font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:12vh auto;padding:0 1em\">\
         <h1 style=\"font-size:1.3em\">{title}</h1>{body}</body></html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
