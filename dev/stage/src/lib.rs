//! The stage: the one harness of tests and benchmarks. In: the built binary and the names of real peers. Out: children
//! that run, are ready and die with their owner; upstreams and visitors that check every byte; whole networks.
//!
//! | what | where |
//! | --- | --- |
//! | directories, waiting | [`Dir`], [`eventually`], [`wait`], [`wait_or`], [`becomes`] |
//! | processes, ports, small disks | [`process`], [`ports`], [`disk`] |
//! | tests that run alone | [`alone`], [`shared`] |
//! | the built binary and its answers | [`command`] |
//! | a tunnel, a gate, a coordination server, a mesh | [`edge`], [`gate`], [`control`], [`mesh`] |
//! | real peers, proxies in front, certificates | [`peers`], [`skip`], [`proxies`], [`certificates`] |
//! | services behind, visitors in front | [`upstream`], [`http`], [`tls`], [`curl`] |
//! | hosts of their own | [`netns`] |
//! | what README and manual print | [`pages`] |
//!
//! Everything here is blocking and meant for tests: what goes wrong panics with the reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

pub mod certificates;
pub mod command;
pub mod control;
pub mod curl;
pub mod disk;
pub mod edge;
pub mod gate;
pub mod http;
pub mod mesh;
pub mod netns;
pub mod pages;
pub mod peers;
pub mod ports;
pub mod process;
pub mod proxies;
pub mod recording;
pub mod skip;
pub mod tls;
mod turn;
pub mod upstream;
mod waiting;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use turn::{Alone, Shared, alone, shared};
pub use waiting::{becomes, eventually, wait, wait_or};

/// Long enough for a process to start on a machine where a compiler has both cores.
pub const START: Duration = Duration::from_secs(30);

/// A directory that is removed with its owner.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes an empty one under the system's temporary directory.
    #[must_use]
    pub fn new(what: &str) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portcullis-{}-{n}-{what}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        // Proxies that drop privileges must be able to look inside.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Dir(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where something of this name is in it, or would be.
    #[must_use]
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Writes a file that only its owner may read.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// SHA-256 as hex.
#[must_use]
pub fn sha256(data: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref())
}

/// Hex digits of bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `n` bytes that do not repeat in any period a copy loop could have.
#[must_use]
pub fn pattern(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(n + 8);
    while out.len() < n {
        // xorshift64*: fast, and good enough to notice a lost or swapped byte.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(n);
    out
}

/// Reads until the end, at most `limit` bytes.
///
/// # Errors
/// As the stream.
pub fn read_all(stream: &mut impl io::Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buf = vec![0; 64 * 1024];
    while out.len() < limit {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => out.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}
