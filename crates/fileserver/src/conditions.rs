//! Conditional and partial requests, pure (RFC 9110, sections 13 and 14). In: a request's fields and what is known of
//! the file. Out: all of it, a part of it, or nothing and why.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Send {
    /// 200.
    Whole,
    /// 206: from the first byte to before the last.
    Part(u64, u64),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    OutOfRange,
}

/// Decides in the order of section 13.2.2. `modified` has whole seconds. Several ranges in one request are answered
/// with the whole file, which section 14.2 allows: no multipart.
pub(super) fn decide(headers: &HeaderMap, get: bool, etag: &str, modified: SystemTime, size: u64) -> Send {
    if let Some(wanted) = all(headers, &IF_MATCH) {
        if !wanted.iter().any(|list| matches_strong(list, etag)) {
            return Send::Failed;
        }
    } else if let Some(since) = date(headers, &IF_UNMODIFIED_SINCE)
        && modified > since
    {
        return Send::Failed;
    }
    if let Some(known) = all(headers, &IF_NONE_MATCH) {
        if known.iter().any(|list| matches_weak(list, etag)) {
            return Send::NotModified;
        }
    } else if let Some(since) = date(headers, &IF_MODIFIED_SINCE)
        && modified <= since
    {
        return Send::NotModified;
    }
    if !get || !range_holds(headers, etag, modified) {
        return Send::Whole;
    }
    match all(headers, &RANGE).as_deref() {
        Some([one]) => range(one, size),
        _ => Send::Whole,
    }
}

/// `If-Range`: a strong entity tag or the exact date (section 13.1.5).
fn range_holds(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    match headers.get(IF_RANGE).map(|v| v.to_str()) {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(text)) if text.starts_with('"') => text == etag,
        Some(Ok(text)) => httpdate::parse_http_date(text).is_ok_and(|at| at == modified),
    }
}

/// One range of bytes; anything else is not understood and so left out of account (section 14.2).
fn range(text: &str, size: u64) -> Send {
    let Some(spec) = text.get(..6).filter(|u| u.eq_ignore_ascii_case("bytes=")).and_then(|_| text.get(6..)) else {
        return Send::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Send::Whole };
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().unwrap_or(u64::MAX));
    match (first.is_empty(), last.is_empty(), number(first), number(last)) {
        // The last `n` bytes.
        (true, false, _, Some(0)) => Send::OutOfRange,
        (true, false, _, Some(_)) if size == 0 => Send::OutOfRange,
        (true, false, _, Some(n)) => Send::Part(size.saturating_sub(n), size),
        (false, true, Some(first), _) if first < size => Send::Part(first, size),
        (false, false, Some(first), Some(last)) if first > last => Send::Whole,
        (false, false, Some(first), Some(last)) if first < size => Send::Part(first, last.saturating_add(1).min(size)),
        (false, _, Some(_), Some(_)) => Send::OutOfRange,
        _ => Send::Whole,
    }
}

fn all<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> Option<Vec<&'h str>> {
    // A value that is no text cannot match anything, but it was there.
    let values: Vec<&str> = headers.get_all(name).iter().map(|v| v.to_str().unwrap_or_default()).collect();
    (!values.is_empty()).then_some(values)
}

/// A date that cannot be read is left out of account (section 13.1.3).
fn date(headers: &HeaderMap, name: &http::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

fn matches_strong(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|t| t == "*" || t == etag)
}

fn matches_weak(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const ETAG: &str = "\"e\"";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ask(fields: &[(&str, &str)]) -> Send {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        decide(&headers, true, ETAG, at(1000), 100)
    }

    #[test]
    fn conditions_in_their_order() {
        let (before, same, after) =
            (httpdate::fmt_http_date(at(999)), httpdate::fmt_http_date(at(1000)), httpdate::fmt_http_date(at(1001)));
        for (fields, want) in [
            (vec![], Send::Whole),
            (vec![("if-none-match", "\"e\"")], Send::NotModified),
            (vec![("if-none-match", "\"x\", W/\"e\"")], Send::NotModified),
            (vec![("if-none-match", "*")], Send::NotModified),
            (vec![("if-none-match", "\"x\"")], Send::Whole),
            (vec![("if-modified-since", same.as_str())], Send::NotModified),
            (vec![("if-modified-since", after.as_str())], Send::NotModified),
            (vec![("if-modified-since", before.as_str())], Send::Whole),
            (vec![("if-modified-since", "yesterday")], Send::Whole),
            // The tag is the better evidence.
            (vec![("if-none-match", "\"x\""), ("if-modified-since", after.as_str())], Send::Whole),
            (vec![("if-match", "\"e\"")], Send::Whole),
            (vec![("if-match", "*")], Send::Whole),
            (vec![("if-match", "W/\"e\"")], Send::Failed),
            (vec![("if-match", "\"x\"")], Send::Failed),
            (vec![("if-unmodified-since", before.as_str())], Send::Failed),
            (vec![("if-unmodified-since", same.as_str())], Send::Whole),
            (vec![("if-match", "\"e\""), ("if-unmodified-since", before.as_str())], Send::Whole),
            (vec![("if-match", "\"x\""), ("if-none-match", "\"e\"")], Send::Failed),
            (vec![("range", "bytes=0-9"), ("if-range", "\"e\"")], Send::Part(0, 10)),
            (vec![("range", "bytes=0-9"), ("if-range", "\"x\"")], Send::Whole),
            (vec![("range", "bytes=0-9"), ("if-range", "W/\"e\"")], Send::Whole),
            (vec![("range", "bytes=0-9"), ("if-range", same.as_str())], Send::Part(0, 10)),
            (vec![("range", "bytes=0-9"), ("if-range", after.as_str())], Send::Whole),
            (vec![("range", "bytes=0-9"), ("if-none-match", "\"e\"")], Send::NotModified),
        ] {
            assert_eq!(ask(&fields), want, "{fields:?}");
        }
    }

    #[test]
    fn ranges() {
        for (text, want) in [
            ("bytes=0-0", Send::Part(0, 1)),
            ("bytes=0-", Send::Part(0, 100)),
            ("bytes=99-", Send::Part(99, 100)),
            ("bytes=90-200", Send::Part(90, 100)),
            ("bytes=10-18446744073709551615", Send::Part(10, 100)),
            ("bytes=10-99999999999999999999999", Send::Part(10, 100)),
            ("Bytes=-10", Send::Part(90, 100)),
            ("bytes=-1000", Send::Part(0, 100)),
            ("bytes=-0", Send::OutOfRange),
            ("bytes=100-", Send::OutOfRange),
            ("bytes=100-200", Send::OutOfRange),
            ("bytes=99999999999999999999999-", Send::OutOfRange),
            ("bytes=9-0", Send::Whole),
            ("bytes=-", Send::Whole),
            ("bytes=a-b", Send::Whole),
            ("bytes=0", Send::Whole),
            ("bytes=+1-2", Send::Whole),
            ("lines=0-1", Send::Whole),
            ("bytes=0-1,5-6", Send::Whole),
            ("", Send::Whole),
        ] {
            assert_eq!(ask(&[("range", text)]), want, "{text}");
        }
        assert_eq!(ask(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]), Send::Whole);
        let mut headers = HeaderMap::new();
        headers.insert("range", "bytes=0-1".parse().unwrap());
        assert_eq!(decide(&headers, false, ETAG, at(0), 100), Send::Whole, "HEAD");
        assert_eq!(decide(&headers, true, ETAG, at(0), 0), Send::OutOfRange, "nothing to take from");
    }
}
