//! A mesh on the stage: control on a host of a small internet, and official clients on theirs. In: names and addresses.
//! Out: members that have joined and talk.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::becomes;
use crate::control::{Control, PORT};
use crate::netns::service::{visit, visit_udp};
use crate::netns::tailscaled::Tailscaled;
use crate::netns::{Host, World};

/// Longer than any packet takes here; waited out in full only where nothing may answer.
pub const SOON: Duration = Duration::from_millis(1500);
/// Long enough for a change to be with every client, on a machine with two busy cores.
pub const SETTLED: Duration = Duration::from_secs(20);

/// Where control is in every mesh.
pub const CONTROL: &str = "203.0.113.9";
/// Where the DNS of the world is, in tests that have one.
pub const DNS: &str = "192.0.2.53";

/// A world with a control. Fields end in this order: processes before their hosts.
#[derive(Debug)]
pub struct Mesh {
    /// The coordination server.
    pub control: Control,
    /// Where it is.
    pub world: World,
}

impl Mesh {
    /// A control with no policy; `None` (said in one line) where the test cannot run.
    #[must_use]
    pub fn new() -> Option<Mesh> {
        Mesh::with(&[])
    }

    /// The same with more flags.
    #[must_use]
    pub fn with(args: &[&str]) -> Option<Mesh> {
        Mesh::at(&format!("http://{CONTROL}:{PORT}"), args)
    }

    /// The same with another URL for its clients.
    #[must_use]
    pub fn at(url: &str, args: &[&str]) -> Option<Mesh> {
        if !Tailscaled::here() {
            return None;
        }
        let world = World::new()?;
        let host = world.host("control", CONTROL);
        // It asks names of apps itself; in most worlds nobody answers there.
        host.resolver(&[ip(DNS)]);
        let control = Control::on(host, url, args);
        Some(Mesh { control, world })
    }

    /// A client on a new host with a public address, that has joined.
    #[must_use]
    pub fn member(&self, name: &str, public: &str, key: &str, args: &[&str]) -> Tailscaled {
        self.member_on(&self.world.host(name, public), key, args)
    }

    /// A router on a new host: it joins, and forwards.
    #[must_use]
    pub fn router(&self, name: &str, public: &str, key: &str, args: &[&str]) -> Tailscaled {
        let host = self.world.host(name, public);
        host.forward();
        self.member_on(&host, key, args)
    }

    /// Joins with a key.
    pub fn join(&self, client: &Tailscaled, key: &str, args: &[&str]) {
        let key = format!("--auth-key={key}");
        client.up(&self.control.url, &[&[key.as_str()], args].concat()).unwrap();
    }

    fn member_on(&self, host: &Host, key: &str, args: &[&str]) -> Tailscaled {
        let client = Tailscaled::start(host);
        self.join(&client, key, args);
        client
    }
}

/// Reaches a member's port 80 over both families and both protocols, and is seen as itself.
#[track_caller]
pub fn talk(from: &Tailscaled, other: &Tailscaled) {
    for (target, own) in [(other.v4(), from.v4()), (other.v6(), from.v6())] {
        let addr = (target, 80).into();
        becomes(SETTLED, &Ok(own), || visit(from.host(), addr, SOON));
        assert_eq!(visit_udp(from.host(), addr, SOON), Ok(own), "UDP to {target}");
    }
}

/// An address in words.
///
/// # Panics
/// It is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An address and port in words.
///
/// # Panics
/// It is none.
#[must_use]
pub fn to(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}
