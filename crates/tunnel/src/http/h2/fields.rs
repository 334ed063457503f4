//! Fields of requests between versions of HTTP. In: a request as it came. Out: it as HTTP/1.1 or HTTP/2 goes on, with the changes
//! that an upstream asks for, and without what belongs to one connection.

use super::*;

/// `:authority`, or `Host` where there is none; both must agree (RFC 9113, section 8.3.1).
pub(super) fn authority_of(request: &Request<Incoming>) -> Result<Authority, Reject> {
    let read = |text: &str| Authority::parse(text).ok_or_else(|| Reject::bad("the host is no host"));
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next().map(|v| v.to_str().map_err(|_| Reject::bad("the host is no host"))).transpose()?;
    if fields.next().is_some() {
        return Err(Reject::bad("there are two Host fields"));
    }
    let pseudo = request.uri().authority().map(|a| read(a.as_str())).transpose()?;
    match (pseudo, field.map(read).transpose()?) {
        (Some(a), Some(f)) if a != f => Err(Reject::bad("the Host field and the authority differ")),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Reject::bad("there is no host")),
    }
}

/// Path and query, with raw bytes above ASCII written as `%XX`, as on the other plane.
pub(super) fn path_of<B>(request: &Request<B>) -> String {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii() {
            out.push(char::from(b));
        } else {
            // Writing into memory does not fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// The host that the upstream is asked for: the one that was judged, or what its client wants it to see.
pub(super) fn host_for(authority: &Authority, change: Option<&Rewrite>) -> String {
    change.filter(|c| !c.host.is_empty()).map_or_else(|| authority.to_string(), |c| c.host.clone())
}

/// Sets and removes fields as the upstream's client wants it, whatever their spelling.
pub(super) fn changed(headers: &mut HeaderMap, set: &[SetField], remove: &[String]) {
    let gone: Vec<HeaderName> = headers.keys().filter(|n| is_changed(n.as_str(), set, remove)).cloned().collect();
    gone.iter().for_each(|name| drop(headers.remove(name)));
    for field in set {
        // Names and values were checked when the client said them.
        if let (Ok(name), Ok(value)) = (field.name.parse::<HeaderName>(), HeaderValue::from_str(&field.value)) {
            headers.append(name, value);
        }
    }
}

/// Makes the request one in HTTP/1.1.
pub(super) fn to_h1(
    request: &mut Request<AnyBody>,
    authority: &Authority,
    change: Option<&Rewrite>,
) -> Result<(), Reject> {
    let path = path_of(request);
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Reject::bad("the path is malformed"))?;
    *request.version_mut() = Version::HTTP_11;
    let open = !request.body().is_end_stream();
    let headers = request.headers_mut();
    if open && !headers.contains_key(header::CONTENT_LENGTH) {
        // hyper would drop the body of a GET without a length.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let host = HeaderValue::from_str(&host_for(authority, change)).map_err(|_| Reject::bad("the host is no host"))?;
    headers.insert(header::HOST, host);
    Ok(())
}

/// Makes the request one in HTTP/2.
pub(super) fn to_h2(
    request: &mut Request<AnyBody>,
    authority: &Authority,
    change: Option<&Rewrite>,
) -> Result<(), Reject> {
    let path = path_of(request);
    let uri = Uri::builder().scheme("http").authority(host_for(authority, change)).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|_| Reject::bad("the path is malformed"))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// An upstream may say its length more than once; hyper has seen that it is the same one. HTTP/2 takes one.
pub(super) fn one_length(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(first), second) = (all.next(), all.next()) else { return };
    let text = first.to_str().unwrap_or_default();
    let one = text.split(',').next().unwrap_or_default().trim();
    if second.is_none() && one == text {
        return;
    }
    match HeaderValue::from_str(one) {
        Ok(one) => drop(headers.insert(header::CONTENT_LENGTH, one)),
        Err(_) => drop(headers.remove(header::CONTENT_LENGTH)),
    }
}

/// Fields of this hop only (RFC 9110, section 7.6.1), with those that `Connection` names.
pub(super) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|t| t.trim().parse().ok())
        .filter(|n: &HeaderName| *n != header::HOST && *n != header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"] {
        headers.remove(name);
    }
    headers.remove(header::PROXY_AUTHENTICATE);
    headers.remove(header::PROXY_AUTHORIZATION);
}

/// HTTP/2 may cut cookies into several fields; HTTP/1.1 wants one (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}
