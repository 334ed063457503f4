//! Methods of HTTP. In: a name. Out: what matters of it to framing, retries and counting.

/// The methods that matter to framing, retries and counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are named as on the wire")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Other,
}

impl Method {
    /// By its name on the wire.
    #[must_use]
    pub fn of(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// As counted; methods that are not in RFC 9110 and 5789 are one.
    pub fn label(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Other => "OTHER",
        }
    }

    /// May be sent again when nothing came back (RFC 9110, section 9.2.1): the safe ones.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_only_what_changes_nothing_is_sent_again() {
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            assert_eq!(Method::of(name).label(), name);
            assert_eq!(
                Method::of(&name.to_lowercase()),
                Method::Other,
                "methods are case sensitive (RFC 9110, section 9.1)"
            );
            assert_eq!(Method::of(name).is_safe(), ["GET", "HEAD", "OPTIONS", "TRACE"].contains(&name), "{name}");
        }
        for other in ["", "CONNECT", "PROPFIND", "GETT"] {
            assert_eq!((Method::of(other).label(), Method::of(other).is_safe()), ("OTHER", false), "{other}");
        }
    }
}
