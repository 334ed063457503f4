//! What the gate answers proxies. In: a status and words; what a person configured for refusals. Out: responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// What the check and learn endpoints answer where nobody is let in. Proxies hand it to the visitor, so it says nothing
/// of lists unless it is told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalPage {
    /// The status, 400 to 499; with a redirect 302.
    pub status: StatusCode,
    /// The body; HTML if it starts with `<`.
    pub body: String,
    /// Where a visitor is sent instead.
    pub redirect: Option<HeaderValue>,
    /// Say the reason in `X-Gate-Reason`.
    pub reason: bool,
}

impl Default for RefusalPage {
    fn default() -> RefusalPage {
        RefusalPage { status: StatusCode::FORBIDDEN, body: "refused\n".to_string(), redirect: None, reason: false }
    }
}

impl RefusalPage {
    /// A page from what a person wrote.
    ///
    /// # Errors
    /// What was wanted.
    pub fn new(
        status: Option<u16>,
        body: Option<String>,
        to: Option<&str>,
        reason: bool,
    ) -> Result<RefusalPage, String> {
        let plain = RefusalPage { reason, ..RefusalPage::default() };
        let redirect = match to {
            None => None,
            Some(to) => {
                let absolute = to.starts_with("https://") || to.starts_with("http://");
                let value = HeaderValue::from_str(to).ok().filter(|_| absolute && to.is_ascii() && !to.contains(' '));
                Some(
                    value.ok_or_else(|| {
                        format!("`{to}` is no place to send a visitor to: it needs https:// or http://")
                    })?,
                )
            }
        };
        if redirect.is_some() && status.is_some() {
            return Err("a redirect is answered with 302: leave the status out".to_string());
        }
        let status = match status {
            None if redirect.is_some() => StatusCode::FOUND,
            None => plain.status,
            Some(n) => StatusCode::from_u16(n)
                .ok()
                .filter(StatusCode::is_client_error)
                .ok_or_else(|| format!("{n} is no status for a refusal: it needs 400 to 499"))?,
        };
        Ok(RefusalPage { status, body: body.unwrap_or(plain.body), redirect, reason })
    }

    /// The answer to a refused visitor.
    pub(super) fn answer(&self, why: &str) -> Response<Full<Bytes>> {
        let mut response = text(self.status, &self.body);
        if self.body.trim_start().starts_with('<') {
            header(&mut response, "content-type", "text/html; charset=utf-8");
        }
        if let Some(to) = &self.redirect {
            response.headers_mut().insert(header::LOCATION, to.clone());
        }
        if self.reason {
            header(&mut response, "x-gate-reason", why);
        }
        response
    }
}

/// A plain text.
pub(super) fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    runtime::answer::text(status, Bytes::copy_from_slice(body.as_bytes()))
}

/// Sets a header.
pub(super) fn header(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    // A certificate's subject may hold anything; a header may not. What is no ASCII goes on as it came, in UTF-8: two
    // names never become one.
    let clean: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if let Ok(value) = HeaderValue::from_bytes(clean.as_bytes()) {
        response.headers_mut().insert(name, value);
    }
}
