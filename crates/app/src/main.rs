//! The one binary: arguments become settings, settings become a room.

fn main() {}
