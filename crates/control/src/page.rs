//! The pages of a coordination server. In: who waits. Out: HTML that works without scripts, in light and dark.

use hyper::StatusCode;
use tailnet::Snapshot;

use runtime::html::{escape, page};

/// The front page: how to join.
pub(super) fn front(url: &str) -> String {
    let url = escape(url);
    page(
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
        return (StatusCode::NOT_FOUND, page("Unknown page", text));
    };
    if p.node.is_some() {
        return (StatusCode::OK, page("Approved", "<p>This device has joined. You can close this page.</p>"));
    }
    if p.refused.is_some() {
        return (StatusCode::OK, page("Turned away", "<p>An administrator has turned this device away.</p>"));
    }
    let host = escape(if p.host.hostname.is_empty() { "a device" } else { &p.host.hostname });
    let os = escape(&p.host.os);
    let tags = escape(&p.host.request_tags.join(" "));
    let tags = if tags.is_empty() { String::new() } else { format!(" and asks for <b>{tags}</b>") };
    let text = format!(
        "<p><b>{host}</b> ({os}) wants to join{tags}. An administrator approves it on the server with:</p>\
         <pre>portcullis nodes approve {ticket} --user NAME</pre>\
         <p>Its machine key is <code>{}</code>; <code>portcullis nodes list</code> shows the same.</p>\
         <p>The device goes on by itself once that is done.</p>",
        p.machine.short(),
        ticket = escape(ticket),
    );
    (StatusCode::OK, page("A device waits", &text))
}
