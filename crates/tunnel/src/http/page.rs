//! Plain pages for what we answer ourselves. In: a status and a sentence. Out: a whole response.

use std::fmt::Write as _;

use bytes::BytesMut;
use http::StatusCode;
use runtime::answer::Media;
use runtime::html;
use tunnel_proto::http1::head::{Method, Reply};

/// Says why there is no answer of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Page {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Page {
        Page { status, text: text.into() }
    }

    /// The page as HTML: works without a style sheet, in light and dark.
    pub(super) fn html(&self) -> String {
        let title = format!("{} {}", self.status, reason(self.status));
        html::page(&title, &format!("<p>{}</p>", html::escape(&self.text)))
    }

    /// Writes the response.
    pub(super) fn write(&self, reply: Reply, out: &mut BytesMut) {
        let body = self.html();
        let connection = match (reply.close, reply.http10) {
            (true, _) => "Connection: close\r\n",
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        };
        let reason = reason(self.status);
        let _ = write!(out, "HTTP/1.1 {} {reason}\r\nContent-Length: {}\r\n", self.status, body.len());
        for (name, value) in Media::Html.fields() {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if self.status == 405 {
            out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n");
        }
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
        if reply.method != Method::Head {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}
