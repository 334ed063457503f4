//! Sockets with the options every room wants. In: addresses. Out: listeners and connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Queue of connections the kernel has finished and we have not yet accepted. A burst of visitors fits; the kernel's
/// own limit (`net.core.somaxconn`, 4096 by default) cuts it anyway.
const BACKLOG: i32 = 4096;

/// Unacknowledged bytes for this long: the peer is gone (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Unsent bytes a carrier keeps in the kernel, so that a small stream does not queue behind a bulk one.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Listens on an address; `[::]` takes IPv4 too, as everywhere on Linux.
///
/// # Errors
/// As the system says; the caller names the flag that chose the address.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Lets this process open as many files as the system allows it, each connection being one. Shells and services start
/// with 1,024, which a single untrusted peer can use up.
pub fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused by some sandboxes; then it stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files this process may have open, each connection being one.
#[must_use]
pub fn file_limit() -> usize {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Files that this process may have open at the same time.
#[must_use]
pub fn files_max() -> usize {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Options of a visitor's or an upstream's connection: no Nagle.
pub fn tune(stream: &TcpStream) {
    // A socket that was reset meanwhile refuses options; the next read says so.
    let _ = stream.set_nodelay(true);
}

/// Options of a link: no Nagle, keepalive, dead peers noticed, little unsent data.
pub fn tune_link(stream: &TcpStream) {
    tune(stream);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(10));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
    }
}

/// Bytes that were written to a connection and that its peer has not acknowledged; `None` where the system does not say.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
#[must_use]
pub fn unacknowledged(stream: &TcpStream) -> Option<usize> {
    /// SIOCOUTQ of tcp(7), which on these machines has the number of TIOCOUTQ.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    #[expect(unsafe_code, reason = "rustix has no function for this request")]
    // SAFETY: this request writes one int and reads nothing.
    let left = unsafe {
        let asked = rustix::ioctl::Getter::<SIOCOUTQ, core::ffi::c_int>::new();
        rustix::ioctl::ioctl(stream, asked)
    };
    left.ok().and_then(|n| usize::try_from(n).ok())
}

/// Elsewhere the system is not asked.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))))]
#[must_use]
pub fn unacknowledged(_stream: &TcpStream) -> Option<usize> {
    None
}

/// Ends the writing direction; the reading one goes on.
///
/// # Errors
/// The connection is gone.
pub fn half_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}

/// Makes the coming close a reset, so that the peer does not take a cut for a regular end.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The address this machine would use towards the internet; no packet is sent. For connect strings.
#[must_use]
pub fn own_address() -> Option<std::net::IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket only picks a route.
    own_towards("0.0.0.0:0", "192.0.2.1:9")
}

/// The addresses from which this machine reaches others, of both families.
#[must_use]
pub fn own_addresses() -> Vec<std::net::IpAddr> {
    own_address().into_iter().chain(own_towards("[::]:0", "[2001:db8::1]:9")).collect()
}

fn own_towards(from: &str, to: &str) -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|a| !a.is_unspecified())
}
