//! `cargo xtask test|bench|check`.

fn main() {}
