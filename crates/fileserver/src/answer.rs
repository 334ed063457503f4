//! One request for a file. In: method, path, fields. Out: the answer. Looks are had at the file system at every
//! request, so a change is seen at once.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use addr::{Addr, SourceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use net::budget::{Budget, Charge};
use net::guesses::{Guesses, Wrong};
use net::secret::TokenHash;
use net::serve::{Full, Slot, Slots};

use super::body::FileBody;
use super::conditions::{Send, decide};
use super::page::{self, Order};
use super::path::{Below, Refused, encode};
use super::root::{ENTRIES_MAX, Facts, Found, Root};

/// The name of a folder's own page.
const INDEX: &[u8] = b"index.html";

/// Looked at to tell text from other files where the name does not.
const SAMPLE: usize = 1024;

/// What the file server shows and to whom.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) root: Root,
    pub(super) allow_browsing: bool,
    pub(super) token: Option<TokenHash>,
    pub(super) guesses: Guesses,
    /// Pages and pieces of files that wait for their visitors.
    pub(super) memory: Arc<Budget>,
    /// Pages of folders that are being made.
    pub(super) pages: Arc<Slots>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    pub(super) addr: Addr,
    /// Memory and places are counted for this source; `None` for a local proxy, which speaks for many.
    pub(super) source: Option<SourceKey>,
}

/// What a look at the file system found; made on a thread that may wait for a disk.
enum Look {
    File {
        file: File,
        facts: Facts,
        kind: HeaderValue,
    },
    List {
        page: String,
    },
    /// A folder whose path has no slash at its end, or a folder that shows nothing.
    NeedsSlash,
    Closed,
    Nothing,
    Denied,
    Failed(io::Error),
}

impl Site {
    /// Answers a request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        visitor: Visitor,
    ) -> Result<Response<FileBody>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        let mut response = self.respond(&request, visitor).await;
        if method == Method::HEAD {
            // The length stays in the head.
            let length = http_body::Body::size_hint(response.body()).exact().unwrap_or_default();
            if !response.headers().contains_key(header::CONTENT_LENGTH) && !bodiless(response.status()) {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = FileBody::text("");
        }
        tracing::debug!(%method, path, status = response.status().as_u16(), "request");
        Ok(response)
    }

    async fn respond(self: &Arc<Self>, request: &Request<Incoming>, visitor: Visitor) -> Response<FileBody> {
        if let Some(refused) = self.password_refused(request.headers(), visitor) {
            return refused;
        }
        let get = request.method() == Method::GET;
        if !get && request.method() != Method::HEAD {
            let mut r = plain(StatusCode::METHOD_NOT_ALLOWED, "Files can only be read here.");
            set(&mut r, header::ALLOW, "GET, HEAD");
            return r;
        }
        let below = match Below::read(request.uri().path()) {
            Ok(below) => below,
            Err(Refused::Nothing) => return nothing(),
            Err(Refused::Malformed(why)) => {
                return plain(StatusCode::BAD_REQUEST, &format!("The path cannot be read: {why}."));
            }
        };
        let names = below.names.clone();
        let order = Order::read(request.uri().query().unwrap_or_default());
        let page = match self.place_for_page(&below, visitor) {
            Ok(slot) => slot,
            Err(_) => return busy(),
        };
        let site = self.clone();
        let look = tokio::task::spawn_blocking(move || site.look(&below, order)).await;
        drop(page);
        let account = self.memory.charge(visitor.source);
        match look.unwrap_or_else(|e| Look::Failed(io::Error::other(e))) {
            Look::File { file, facts, kind } => send_file(file, facts, kind, request.headers(), get, account),
            Look::List { page } => {
                FileBody::charged(page, account).map_or_else(|_| busy(), |body| html(StatusCode::OK, body))
            }
            Look::NeedsSlash => redirect(&names, request.uri().query()),
            Look::Closed => plain(StatusCode::FORBIDDEN, "The contents of this folder are not shown."),
            Look::Denied => plain(StatusCode::FORBIDDEN, "This file cannot be read by the server."),
            Look::Nothing => nothing(),
            Look::Failed(e) => {
                tracing::warn!(path = request.uri().path(), err = %e, "file cannot be read");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "This file cannot be read at the moment.")
            }
        }
    }

    /// The answer to who does not give the password that is asked for, if one is. Any user name will do.
    fn password_refused(&self, headers: &HeaderMap, visitor: Visitor) -> Option<Response<FileBody>> {
        let token = self.token.as_ref()?;
        let (who, now) = (guesser(visitor, headers), Instant::now());
        if self.guesses.blocked(who, now) {
            return Some(blocked());
        }
        let given = password(headers);
        if given.as_ref().is_some_and(|p| token.matches(p)) {
            self.guesses.right(who);
            return None;
        }
        // A browser asks without a password first: that is no guess.
        if headers.contains_key(header::AUTHORIZATION) && self.guesses.wrong(who, now) == Wrong::LastOne {
            tracing::warn!(peer = %who, "too many wrong passwords; closed for this source for a minute");
        }
        let mut r = plain(StatusCode::UNAUTHORIZED, "A password is needed to see these files. Any user name will do.");
        set(&mut r, header::WWW_AUTHENTICATE, "Basic realm=\"files\", charset=\"UTF-8\"");
        Some(r)
    }

    /// A place to make the page of a folder in; a path that names a file needs none.
    fn place_for_page(&self, below: &Below, visitor: Visitor) -> Result<Option<Slot>, Full> {
        if !self.allow_browsing || !below.slash {
            return Ok(None);
        }
        visitor.source.map_or_else(|| self.pages.take_trusted(), |source| self.pages.take(source)).map(Some)
    }

    fn look(&self, below: &Below, order: Order) -> Look {
        let folder = match self.root.find(&below.names) {
            // A file has no slash at its end.
            Ok(Found::File(..)) if below.slash => return Look::Nothing,
            Ok(Found::File(file, facts)) => {
                return file_look(file, facts, below.names.last().map_or(INDEX, Vec::as_slice));
            }
            Ok(Found::Folder(_)) if !below.slash => return Look::NeedsSlash,
            Ok(Found::Folder(folder)) => folder,
            Err(e) => return failed(e),
        };
        let mut index = below.names.clone();
        index.push(INDEX.to_vec());
        match self.root.find(&index) {
            Ok(Found::File(file, facts)) => return file_look(file, facts, INDEX),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Look::Denied,
            _ => {}
        }
        if !self.allow_browsing {
            return Look::Closed;
        }
        match self.root.list(&folder, &below.names) {
            Ok(mut entries) => {
                order.sort(&mut entries);
                let cut = entries.len() >= ENTRIES_MAX;
                Look::List { page: page::folder(&below.names, &entries, order, cut) }
            }
            Err(e) => failed(e),
        }
    }
}

/// The password of HTTP Basic authentication (RFC 7617), if exactly one was given.
fn password(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return None };
    let (scheme, encoded) = one.to_str().ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok())??;
    String::from_utf8(decoded).ok()?.split_once(':').map(|(_, password)| password.to_string())
}

/// Who guesses: the visitor, or the one for whom a local proxy speaks, whose own entry is the last. Only the count of
/// wrong passwords goes by it, so that a local process that lies about it gains tries and nothing else.
fn guesser(visitor: Visitor, headers: &HeaderMap) -> Addr {
    if visitor.source.is_some() {
        return visitor.addr;
    }
    let fields = headers.get_all("x-forwarded-for").iter().next_back();
    let last = fields.and_then(|f| f.to_str().ok()).and_then(|text| text.rsplit(',').next());
    last.and_then(|text| text.parse().ok()).unwrap_or(visitor.addr)
}

fn file_look(file: File, facts: Facts, name: &[u8]) -> Look {
    let kind = content_type(name, &file);
    Look::File { file, facts, kind }
}

fn failed(e: io::Error) -> Look {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => Look::Nothing,
        io::ErrorKind::PermissionDenied => Look::Denied,
        _ => Look::Failed(e),
    }
}

/// By the name's ending; where that says nothing, text is told from other files by its beginning.
fn content_type(name: &[u8], file: &File) -> HeaderValue {
    let name = String::from_utf8_lossy(name);
    let text = match mime_guess::from_path(Path::new(name.as_ref())).first_raw() {
        Some(kind) if kind.starts_with("text/") || kind == "application/json" => format!("{kind}; charset=utf-8"),
        Some(kind) => kind.to_string(),
        None if looks_like_text(file) => "text/plain; charset=utf-8".to_string(),
        None => "application/octet-stream".to_string(),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

fn looks_like_text(file: &File) -> bool {
    let mut sample = [0; SAMPLE];
    let Ok(n) = file.read_at(&mut sample, 0) else { return false };
    let sample = sample.get(..n).unwrap_or_default();
    let text = match std::str::from_utf8(sample) {
        Ok(_) => true,
        // A character cut by the end of the sample.
        Err(e) => e.error_len().is_none(),
    };
    n > 0 && text && !sample.iter().any(|b| *b < 0x20 && !b"\t\n\r\x0c\x1b".contains(b))
}

fn send_file(
    file: File,
    facts: Facts,
    kind: HeaderValue,
    headers: &HeaderMap,
    get: bool,
    account: Charge,
) -> Response<FileBody> {
    let etag = facts.etag();
    let (status, first, end) = match decide(headers, get, &etag, facts.modified_at(), facts.size) {
        Send::Whole => (StatusCode::OK, 0, facts.size),
        Send::Part(first, end) => (StatusCode::PARTIAL_CONTENT, first, end),
        Send::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Send::Failed => return plain(StatusCode::PRECONDITION_FAILED, "The file has changed."),
        Send::OutOfRange => {
            let mut r = plain(StatusCode::RANGE_NOT_SATISFIABLE, "The file has no such part.");
            set(&mut r, header::CONTENT_RANGE, &format!("bytes */{}", facts.size));
            return r;
        }
    };
    let mut r = Response::new(FileBody::part(file, first, end, account));
    *r.status_mut() = status;
    set(&mut r, header::ETAG, &etag);
    set(&mut r, header::LAST_MODIFIED, &httpdate::fmt_http_date(facts.modified_at()));
    // Kept, but asked for again at every use: a change is seen at once.
    set(&mut r, header::CACHE_CONTROL, "no-cache");
    if status != StatusCode::NOT_MODIFIED {
        r.headers_mut().insert(header::CONTENT_TYPE, kind);
        set(&mut r, header::ACCEPT_RANGES, "bytes");
        set(&mut r, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        r.headers_mut().insert(header::CONTENT_LENGTH, (end - first).into());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        set(&mut r, header::CONTENT_RANGE, &format!("bytes {first}-{}/{}", end - 1, facts.size));
    }
    r
}

/// To the same path with a slash, encoded anew: nothing that was sent comes back as it was.
fn redirect(names: &[Vec<u8>], query: Option<&str>) -> Response<FileBody> {
    let path: Vec<String> = names.iter().map(|n| encode(n)).collect();
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    let mut r = plain(StatusCode::TEMPORARY_REDIRECT, "This is a folder.");
    // Relative to the last name, so that it holds below any prefix.
    set(&mut r, header::LOCATION, &format!("./{}/{query}", path.last().map_or("", String::as_str)));
    r
}

fn nothing() -> Response<FileBody> {
    plain(StatusCode::NOT_FOUND, "There is no such file here.")
}

fn plain(status: StatusCode, text: &str) -> Response<FileBody> {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    html(status, FileBody::text(page::plain(&title, &page::escape(text.as_bytes()))))
}

/// Too much waits for this visitor's source, or for everybody.
fn busy() -> Response<FileBody> {
    let mut r = plain(StatusCode::SERVICE_UNAVAILABLE, "Too many pages are being read. Try again in a moment.");
    set(&mut r, header::RETRY_AFTER, "2");
    r
}

fn blocked() -> Response<FileBody> {
    let mut r =
        plain(StatusCode::TOO_MANY_REQUESTS, "Too many wrong passwords came from your address. Try again in a minute.");
    set(&mut r, header::RETRY_AFTER, "60");
    set(&mut r, header::CONNECTION, "close");
    r
}

fn html(status: StatusCode, body: FileBody) -> Response<FileBody> {
    runtime::answer::with(status, runtime::answer::Media::Html, body)
}

fn bodiless(status: StatusCode) -> bool {
    status == StatusCode::NOT_MODIFIED
}

fn set(r: &mut Response<FileBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        r.headers_mut().insert(name, value);
    }
}
