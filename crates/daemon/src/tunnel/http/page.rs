//! Plain pages for what we answer ourselves. In: a status and a sentence. Out: a whole response.

use bytes::BytesMut;

use super::head::Reply;

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
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
             <body style=\"font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:12vh auto;padding:0 1em\">\
             <h1 style=\"font-size:1.3em\">{title}</h1><p>{}</p></body></html>\n",
            escape(&self.text)
        )
    }

    /// Writes the response.
    pub(super) fn write(&self, reply: Reply, out: &mut BytesMut) {
        let body = self.html();
        let connection = match (reply.close, reply.http10) {
            (true, _) => "Connection: close\r\n",
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{allow}{connection}\r\n",
            self.status,
            reason(self.status),
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        if reply.method != super::head::Method::Head {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
