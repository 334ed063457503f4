//! Whose client certificate a proxy saw. In: the texts that it writes into headers. Out: the subject and the device, or
//! why they are no proof.
//!
//! Each proxy writes one documented form, and only that form counts: a name that fits no grammar may be a variable that
//! was never replaced, or a name that was made to look like other fields. Nothing is searched for inside a text.

use std::fmt;

/// Who showed a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The subject, as the proxy writes it: `CN=anna`.
    pub subject: String,
    /// What tells this certificate from others of the same subject: a fingerprint or a serial number.
    pub device: Option<String>,
}

/// Why a header proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoProof {
    /// The header did not come, or is empty: the proxy saw no certificate.
    Absent,
    /// The header came more than once.
    Twice,
    /// It is no text, has control characters, or is longer than [`MAX_HEADER_LEN`].
    NoText,
    /// A variable of the proxy that nobody replaced: `{…}`, `$…`, `%[…]`.
    Unexpanded,
    /// The subject is no distinguished name (RFC 4514).
    NoName,
    /// The fingerprint is none.
    NoFingerprint,
    /// Not `Subject="…";SerialNumber="…"`.
    NoInfo,
    /// More than one certificate, which names can pretend.
    Chain,
}

/// Bytes of a header that names a holder. Names of people and serial numbers fit many times; a chain of three does.
pub const MAX_HEADER_LEN: usize = 2_000;

/// A subject as nginx (`$ssl_client_s_dn`) and Caddy (`{tls_client_subject}`) write it, and a fingerprint.
///
/// # Errors
/// [`NoProof`].
pub fn by_name(subject: &str, fingerprint: Option<&str>) -> Result<Holder, NoProof> {
    let subject = plain(subject)?;
    distinguished(subject)?;
    let device = match fingerprint.map(str::trim) {
        None | Some("") => None,
        Some(f) => Some(plain(f).and_then(printed)?),
    };
    Ok(Holder { subject: subject.to_string(), device })
}

/// `X-Forwarded-Tls-Client-Cert-Info` as Traefik's passTLSClientCert writes it with the subject and the serial number,
/// query-escaped. With `chain` further certificates may follow, as some clients send their CA's too; the first is the
/// client's. Traefik quotes no quote, so that with `chain` a CA must not sign names that hold one.
///
/// # Errors
/// [`NoProof`].
pub fn by_info(escaped: &str, chain: bool) -> Result<Holder, NoProof> {
    let text = unescaped(escaped.trim()).ok_or(NoProof::NoInfo)?;
    let text = plain(&text)?;
    let (first, mut rest) = one_info(text)?;
    while !rest.is_empty() {
        if !chain {
            return Err(NoProof::Chain);
        }
        rest = one_info(rest.strip_prefix(',').ok_or(NoProof::NoInfo)?)?.1;
    }
    Ok(first)
}

/// One `Subject="…";SerialNumber="…"`, and what follows it.
fn one_info(text: &str) -> Result<(Holder, &str), NoProof> {
    let body = text.strip_prefix("Subject=\"").ok_or(NoProof::NoInfo)?;
    let (subject, rest) = body.split_once('"').ok_or(NoProof::NoInfo)?;
    let body = rest.strip_prefix(";SerialNumber=\"").ok_or(NoProof::NoInfo)?;
    let (serial, rest) = body.split_once('"').ok_or(NoProof::NoInfo)?;
    let digits = serial.strip_prefix('-').unwrap_or(serial);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !rest.is_empty() && !rest.starts_with(',') {
        return Err(NoProof::NoInfo);
    }
    // Traefik escapes nothing, so the parts are looked at only as far as that there are some.
    let part = |p: &str| p.split_once('=').is_some_and(|(n, v)| attribute(n) && !v.is_empty());
    if !subject.split(',').next().is_some_and(part) {
        return Err(NoProof::NoName);
    }
    Ok((Holder { subject: subject.to_string(), device: Some(serial.to_string()) }, rest))
}

/// A text of bounded length without control characters and without a proxy's own variables.
fn plain(text: &str) -> Result<&str, NoProof> {
    let text = text.trim();
    if text.is_empty() {
        return Err(NoProof::Absent);
    }
    if text.len() > MAX_HEADER_LEN || text.chars().any(char::is_control) {
        return Err(NoProof::NoText);
    }
    if text.contains(['{', '}']) || text.contains("%[") || text.contains("=$") || text.starts_with('$') {
        return Err(NoProof::Unexpanded);
    }
    Ok(text)
}

/// RFC 4514, section 3: `type=value` with `,` or `+` between them; what would be special in a value stands behind `\`.
fn distinguished(text: &str) -> Result<(), NoProof> {
    for part in parts(text).ok_or(NoProof::NoName)? {
        let (name, value) = part.split_once('=').ok_or(NoProof::NoName)?;
        if !attribute(name.trim_start_matches(' ')) || value.is_empty() {
            return Err(NoProof::NoName);
        }
    }
    Ok(())
}

/// Splits at `,` and `+` that are not escaped. `None` where a special character is bare or an escape is cut off.
fn parts(text: &str) -> Option<Vec<&str>> {
    let (mut out, mut from, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' | '+' => {
                out.push(text.get(from..i)?);
                from = i + 1;
            }
            '"' | ';' | '<' | '>' => return None,
            _ => {}
        }
    }
    out.push(text.get(from..)?);
    (!escaped).then_some(out)
}

/// `CN`, `emailAddress`, `2.5.4.3`.
fn attribute(name: &str) -> bool {
    !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

/// A fingerprint or another short name of a device.
fn printed(text: &str) -> Result<String, NoProof> {
    let good = text.len() <= 200
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'+' | b'/' | b'='));
    good.then(|| text.to_string()).ok_or(NoProof::NoFingerprint)
}

/// Undoes the escaping of a query (`application/x-www-form-urlencoded`). `None` if something is not escaped that must be.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let hex = |b: Option<u8>| (b? as char).to_digit(16);
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => u8::try_from(hex(bytes.next())? * 16 + hex(bytes.next())?).ok()?,
            _ if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'*') => b,
            _ => return None,
        });
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for NoProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoProof::Absent => "the proxy reports no client certificate",
            NoProof::Twice => "the header with the certificate came more than once",
            NoProof::NoText => "the header with the certificate is too long or no text",
            NoProof::Unexpanded => "the header with the certificate holds a variable that the proxy did not replace",
            NoProof::NoName => "the header with the certificate holds no subject such as `CN=anna`",
            NoProof::NoFingerprint => "the header with the certificate's fingerprint holds none",
            NoProof::NoInfo => {
                "the certificate's info is not `Subject=\"…\";SerialNumber=\"…\"`: passTLSClientCert must write these two and nothing else"
            }
            NoProof::Chain => {
                "the certificate's info names more than one certificate: the client sends its CA's along, which `traefik-chain` allows"
            }
        })
    }
}

impl std::error::Error for NoProof {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Go's url.QueryEscape.
    fn escape(text: &str) -> String {
        let each = |b: u8| match b {
            b' ' => "+".to_string(),
            _ if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') => (b as char).to_string(),
            _ => format!("%{b:02X}"),
        };
        text.bytes().map(each).collect()
    }

    fn info(text: &str, chain: bool) -> Result<(String, String), NoProof> {
        by_info(&escape(text), chain).map(|h| (h.subject, h.device.unwrap()))
    }

    #[test]
    fn names_as_proxies_write_them() {
        for good in [
            "CN=anna",
            "CN=phone,O=home\\, sweet home,C=DE",
            "CN=a\\\"b",
            "CN=J\\C3\\BCrgen",
            "CN=Jürgen",
            "OU=x+CN=y",
            "1.2.3=#0401",
            "emailAddress=a@b.example,CN=A = B",
        ] {
            assert_eq!(by_name(good, Some("ab:12")).map(|h| h.subject), Ok(good.to_string()), "{good}");
        }
        for (bad, why) in [
            ("", NoProof::Absent),
            ("  ", NoProof::Absent),
            ("{http.request.tls.client.subject}", NoProof::Unexpanded),
            ("CN={tls_client_subject}", NoProof::Unexpanded),
            ("$ssl_client_s_dn", NoProof::Unexpanded),
            ("CN=$ssl_client_s_dn_cn", NoProof::Unexpanded),
            ("O=home,CN=$ssl_client_s_dn_cn", NoProof::Unexpanded),
            ("%[ssl_c_s_dn]", NoProof::Unexpanded),
            ("anna", NoProof::NoName),
            ("-", NoProof::NoName),
            ("(null)", NoProof::NoName),
            ("/CN=anna", NoProof::NoName),
            ("CN=", NoProof::NoName),
            ("CN=anna,", NoProof::NoName),
            ("CN=anna\\", NoProof::NoName),
            ("CN=\"anna\"", NoProof::NoName),
            ("Subject=\"CN=anna\"", NoProof::NoName),
            ("CN=a;CN=b", NoProof::NoName),
            ("CN=a\tb", NoProof::NoText),
        ] {
            assert_eq!(by_name(bad, None), Err(why), "{bad}");
        }
        assert_eq!(by_name("CN=a", Some("{fp}")), Err(NoProof::Unexpanded));
        assert_eq!(by_name("CN=a", Some("not one")), Err(NoProof::NoFingerprint));
        assert_eq!(by_name("CN=a", Some(" ")).unwrap().device, None);
        assert_eq!(by_name(&format!("CN={}", "a".repeat(MAX_HEADER_LEN)), None), Err(NoProof::NoText));
    }

    #[test]
    fn infos_as_traefik_writes_them() {
        let anna = Ok(("CN=anna smith".to_string(), "17".to_string()));
        assert_eq!(info("Subject=\"CN=anna smith\";SerialNumber=\"17\"", false), anna);
        let chain = "Subject=\"CN=anna smith\";SerialNumber=\"17\",Subject=\"CN=ca\";SerialNumber=\"1\"";
        assert_eq!(info(chain, false), Err(NoProof::Chain));
        assert_eq!(info(chain, true), anna);
        for bad in [
            "NotSubject=\"CN=anna\";SerialNumber=\"17\"",
            "Subject=\"CN=anna\"",
            "SerialNumber=\"17\"",
            "SerialNumber=\"17\";Subject=\"CN=anna\"",
            "Subject=\"CN=anna\";SerialNumber=\"18\";SerialNumber=\"17\"",
            "Subject=\"CN=anna\";SerialNumber=\"18\";x=\"\";SerialNumber=\"17\"",
            "Subject=\"CN=anna\";Issuer=\"CN=x\";SerialNumber=\"17\"",
            "Subject=\"CN=anna\";SerialNumber=\"17\";SAN=\"a.example\"",
            "Subject=\"CN=anna\";SerialNumber=\"{sn}\"",
            "Subject=\"anna\";SerialNumber=\"17\"",
            "Subject=\"\";SerialNumber=\"17\"",
            "Subject=\"CN=anna\";SerialNumber=\"\"",
            " Subject=\"CN=anna\";SerialNumber=\"17\"x",
        ] {
            assert!(info(bad, true).is_err() && info(bad, false).is_err(), "{bad}");
        }
        // What is not escaped was not written by Traefik.
        assert_eq!(by_info("Subject=\"CN=anna\";SerialNumber=\"17\"", false), Err(NoProof::NoInfo));
        assert_eq!(by_info("%", false), Err(NoProof::NoInfo));
        assert_eq!(by_info("", false), Err(NoProof::Absent));
    }

    proptest! {
        /// Whatever stands in the common name: it never makes its holder somebody else, with one certificate in the info.
        #[test]
        fn no_name_is_another(cn in "[ -~]{1,60}", forged in prop::sample::select(vec![
            "anna\";SerialNumber=\"18\";x=\"", "anna\";Issuer=\"CN=x", "anna\";SerialNumber=\"18\",Subject=\"CN=z", "anna",
        ]), join in any::<bool>()) {
            let cn = if join { format!("{forged}{cn}") } else { cn };
            if let Ok((subject, serial)) = info(&format!("Subject=\"CN={cn}\";SerialNumber=\"17\""), false) {
                prop_assert_eq!((subject, serial), (format!("CN={cn}"), "17".to_string()));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), fp in any::<Option<String>>()) {
            let _ = by_name(&text, fp.as_deref());
            let _ = by_info(&text, true);
        }
    }
}
