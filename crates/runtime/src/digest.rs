//! Bytes as people and files write them. In: bytes. Out: hexadecimal digits.

use aws_lc_rs::digest::{SHA256, digest};

/// Two small digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The SHA-256 of bytes.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}
