//! Answers that the program gives over HTTP in its own words: pages, sentences, JSON, metrics. In: a status and a body.
//! Out: a response that no cache keeps, whose type no browser guesses, and whose page may load nothing.
//!
//! A server of `hyper` tells the length, and leaves the body of an answer to HEAD out, by itself.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// A sentence for a person.
    Text,
    /// A page of ours: it has its style inside and needs nothing else.
    Html,
    /// For a program.
    Json,
    /// Of [`crate::metrics`].
    Metrics,
}

/// Fields of every answer with a body: what is answered depends on who asks and when, and is what it says it is.
const ALL: [(&str, &str); 2] = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];

/// Of a page on top: whatever might get into it, nothing is loaded and nothing is run.
const PAGE: [(&str, &str); 1] = [("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")];

impl Media {
    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Media::Text => "text/plain; charset=utf-8",
            Media::Html => "text/html; charset=utf-8",
            Media::Json => "application/json",
            Media::Metrics => crate::metrics::CONTENT_TYPE,
        }
    }

    /// All fields that go with it but the length, for who writes HTTP by hand.
    pub fn fields(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let page: &[_] = if self == Media::Html { &PAGE } else { &[] };
        std::iter::once(("Content-Type", self.content_type())).chain(ALL).chain(page.iter().copied())
    }
}

/// An answer with any sort of body.
#[must_use]
pub fn with<B>(status: StatusCode, media: Media, body: B) -> Response<B> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in media.fields() {
        if let Ok(name) = HeaderName::try_from(name) {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    answer
}

/// A sentence.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with(status, Media::Text, Full::new(body.into()))
}

/// A page.
#[must_use]
pub fn html(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with(status, Media::Html, Full::new(body.into()))
}

/// JSON, which is written already.
#[must_use]
pub fn json(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with(StatusCode::OK, Media::Json, Full::new(body.into()))
}

/// Metrics, as [`crate::metrics::Exposition::finish`] gives them.
#[must_use]
pub fn metrics(body: String) -> Response<Full<Bytes>> {
    with(StatusCode::OK, Media::Metrics, Full::new(body.into()))
}

/// A status without a body; its fields are the caller's.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(answer: &Response<Full<Bytes>>) -> Vec<String> {
        answer.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn answers_say_what_they_are_and_are_kept_nowhere() {
        let answer = text(StatusCode::NOT_FOUND, "nothing\n");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            fields(&answer),
            ["content-type: text/plain; charset=utf-8", "cache-control: no-store", "x-content-type-options: nosniff"]
        );
        assert_eq!(
            fields(&html(StatusCode::OK, "<p>"))[3],
            "content-security-policy: default-src 'none'; style-src 'unsafe-inline'"
        );
        assert_eq!(fields(&json("{}"))[0], "content-type: application/json");
        assert_eq!(fields(&metrics(String::new()))[0], "content-type: text/plain; version=0.0.4; charset=utf-8");
        assert!(fields(&empty(StatusCode::NO_CONTENT)).is_empty());
    }
}
