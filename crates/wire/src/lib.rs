//! Bytes. Decode is `TryFrom` into `model`. No IO.
