//! What a packet through the relay costs in memory, by counting allocations: nothing.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use control::relay::{Limits, Relay};
use sim::mesh::Node;
use tailnet_proto::derp::Frame;
use tailnet_proto::meshkey::NodePrivate;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is done by the system's allocator; a counter goes up beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test]
async fn packets_pass_without_allocations() {
    let relay = Relay::with_limits(
        NodePrivate::from_random([1; 32]),
        |_| true,
        Limits { bytes_per_second: None, ..Limits::default() },
    );
    let mut clients = vec![];
    for n in 0..2 {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let relay = relay.clone();
        tokio::spawn(async move { relay.serve(theirs, [], "192.0.2.1:1".parse().unwrap()).await });
        clients.push(Node::new(n).relay(ours).await.unwrap());
    }
    let (mut b, mut a) = (clients.pop().unwrap(), clients.pop().unwrap());
    // Prepared before counting: forty packets of a tunnel in one piece, which fit the outbox.
    let mut batch = vec![];
    (0..40).for_each(|_| Frame::SendPacket(Node::new(1).node.public(), &[7; 1400]).encode(&mut batch));
    let mut counts = [0; 2];
    for rounds in [50, 250] {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..rounds {
            a.sender.raw(&batch).await.unwrap();
            assert_eq!(b.receiver.count(40).await.unwrap(), 40 * 1400);
        }
        counts = [counts[1], ALLOCATIONS.load(Ordering::Relaxed) - before];
    }
    let [warm, counted] = counts;
    assert_eq!(relay.counts().dropped_full, 0);
    assert!(counted < 100, "{counted} allocations for 10,000 packets, {warm} for 2,000 before them");
}
