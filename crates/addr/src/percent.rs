//! Percent encoding. In: a part of a URL. Out: its bytes.

/// Undoes percent encoding (RFC 3986, section 2.1); `+` is a plus. `None` if two hexadecimal digits do not follow a
/// percent sign.
#[must_use]
pub fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |b: Option<u8>| char::from(b?).to_digit(16);
    while let Some(b) = bytes.next() {
        if b == b'%' {
            out.push((digit(bytes.next())? * 16 + digit(bytes.next())?) as u8);
        } else {
            out.push(b);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_digits_make_a_byte() {
        for (text, bytes) in [
            ("a%20b+c", Some(&b"a b+c"[..])),
            ("%00%fF", Some(&[0, 255])),
            ("é", Some("é".as_bytes())),
            ("", Some(b"")),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), bytes, "{text}");
        }
        for bad in ["%", "%4", "a%4x", "%é0", "%+1"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let upper: String = bytes.iter().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(percent_decoded(&upper), Some(bytes.clone()));
            prop_assert_eq!(percent_decoded(&upper.to_lowercase()), Some(bytes));
        }
    }
}
