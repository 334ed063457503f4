//! Heads that go on. In: what a head means. Out: its bytes, such that a reader takes them for the same.

use std::ops::Range;

use super::framing::{Body, Facts};
use super::method::Method;
use super::reject::{FIELDS_MAX, HEAD_MAX, Reject};

/// How the visitor is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// What was asked: the answer to HEAD has no body.
    pub method: Method,
    /// The visitor speaks HTTP/1.0.
    pub http10: bool,
    /// The connection ends after this response.
    pub close: bool,
}

/// More fields than [`FIELDS_MAX`], counting those that go on.
pub(super) const TOO_MANY_IN_ANSWER: &str = "its answer has too many header fields";

pub(super) struct HeadWriter<B> {
    pub(super) out: B,
    /// Where the head begins: others may stand before it.
    pub(super) start: usize,
    pub(super) fields: usize,
}

impl HeadWriter<Vec<u8>> {
    /// Room for what is added: the fields about the visitor take some 200 bytes.
    pub(super) fn new(len: usize) -> HeadWriter<Vec<u8>> {
        HeadWriter { out: Vec::with_capacity(len + 320), start: 0, fields: 0 }
    }

    /// Returns where the path (without query) stands.
    pub(super) fn request_line(&mut self, method: &str, target: &str) -> Range<usize> {
        self.put(method.as_bytes());
        self.put(b" ");
        let start = self.out.len();
        self.put(target.as_bytes());
        self.put(b" HTTP/1.1\r\n");
        start..start + target.find('?').unwrap_or(target.len())
    }

    pub(super) fn body(&mut self, body: Body, length_given: bool) {
        match body {
            Body::Length(n) => self.number("Content-Length", n),
            Body::Chunked => self.field("Transfer-Encoding", b"chunked"),
            Body::None if length_given => self.number("Content-Length", 0),
            Body::None | Body::Eof => {}
        }
    }

    /// The head, which must be one that a reader such as this takes.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, Reject> {
        self.put(b"\r\n");
        match () {
            () if self.fields > FIELDS_MAX => Err(Reject::too_many_fields()),
            () if self.out.len() > HEAD_MAX => Err(Reject::too_large()),
            () => Ok(self.out),
        }
    }
}

impl HeadWriter<bytes::BytesMut> {
    pub(super) fn on(out: bytes::BytesMut) -> HeadWriter<bytes::BytesMut> {
        HeadWriter { start: out.len(), out, fields: 0 }
    }

    pub(super) fn status_line(&mut self, status: u16, reason: &str) {
        self.put(b"HTTP/1.1 ");
        self.put(status.to_string().as_bytes());
        self.put(b" ");
        self.put(reason.as_bytes());
        self.put(b"\r\n");
    }

    /// Returns whether the visitor was told that the connection ends.
    pub(super) fn response_framing(&mut self, body: Body, facts: &Facts<'_>, reply: Reply, status: u16) -> bool {
        match body {
            Body::Length(n) => self.number("Content-Length", n),
            Body::Chunked | Body::Eof if !reply.http10 => self.field("Transfer-Encoding", b"chunked"),
            Body::Chunked | Body::Eof => {}
            // To HEAD, and with 304, these say what GET would bring; 204 has neither (RFC 9110, section 8.6).
            Body::None if status == 204 => {}
            Body::None => match facts.content_length {
                Some(n) => self.number("Content-Length", n),
                None if facts.chunked && !reply.http10 => self.field("Transfer-Encoding", b"chunked"),
                None => {}
            },
        }
        // HTTP/1.0 knows no chunks: such a body ends with the connection.
        let close = reply.close || (reply.http10 && matches!(body, Body::Chunked | Body::Eof));
        let upgrade = if status == 426 { "Upgrade" } else { "" };
        match (close, reply.http10, upgrade) {
            (true, _, "") => self.field("Connection", b"close"),
            (true, _, _) => self.field("Connection", b"Upgrade, close"),
            (false, true, _) => self.field("Connection", b"keep-alive"),
            (false, false, "") => {}
            (false, false, _) => self.field("Connection", b"Upgrade"),
        }
        close
    }

    /// The head, which must be one that a reader such as this takes.
    pub(super) fn finish_bytes(mut self) -> Result<bytes::BytesMut, &'static str> {
        self.put(b"\r\n");
        match () {
            () if self.fields > FIELDS_MAX => Err(TOO_MANY_IN_ANSWER),
            () if self.out.len() - self.start > HEAD_MAX => Err("its answer's head is too large"),
            () => Ok(self.out),
        }
    }
}

impl<B: bytes::BufMut> HeadWriter<B> {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.fields += 1;
        self.put(name.as_bytes());
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
    }

    pub(super) fn number(&mut self, name: &str, n: u64) {
        self.field(name, n.to_string().as_bytes());
    }
}
