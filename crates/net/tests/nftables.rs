//! The table in the real kernel, each test in a network namespace of its own thread.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use addr::{Port, Prefix, Transport};
use net::nftables::{Changes, Element, Ground, NftError, Set, Table};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs in a new network namespace, or says why not.
fn alone(test: impl FnOnce() + Send + 'static) {
    let inside = move || {
        // SAFETY: only this thread leaves the namespace, and it shares nothing that belongs to one.
        #[expect(unsafe_code, reason = "leaving a namespace is a promise about other threads")]
        let left = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        if let Err(e) = left {
            return stage::skip::skip(&format!("a network namespace cannot be made here ({e}; needs root)"));
        }
        if stage::peers::need("nft").is_some() {
            test();
        }
    };
    // The thread is the test, by name too, for who reads why it was skipped.
    let name = std::thread::current().name().unwrap_or_default().to_string();
    std::thread::Builder::new().name(name).spawn(inside).unwrap().join().unwrap();
}

fn tcp(number: u16) -> Port {
    Port { transport: Transport::Tcp, number }
}

fn udp(number: u16) -> Port {
    Port { transport: Transport::Udp, number }
}

fn exact(text: &str) -> Element {
    Element::exact(text.parse::<Prefix>().unwrap()).unwrap()
}

fn range(text: &str) -> Element {
    let p = text.parse::<Prefix>().unwrap();
    Element::range(p.is_v4(), p.first().bits(), p.last().bits())
}

fn host(n: u32) -> Element {
    Element { set: Set::Host4, first: u128::from(n), last: u128::from(n) }
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

fn add(elements: impl IntoIterator<Item = (Element, Option<Duration>)>) -> Changes {
    Changes { add: elements.into_iter().collect(), ..Changes::default() }
}

fn remove(elements: impl IntoIterator<Item = Element>) -> Changes {
    Changes { remove: elements.into_iter().collect(), ..Changes::default() }
}

fn nft(args: &str) -> String {
    let out = Command::new("nft").args(args.split(' ')).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn what_is_written_is_read_back_and_nft_shows_it() {
    alone(|| {
        let mut t = Table::open("gate").unwrap();
        assert!(t.read().unwrap().is_none());
        let elements = [
            (exact("192.0.2.1"), MINUTE),
            (exact("192.0.2.2"), None),
            (exact("2001:db8::1"), MINUTE),
            (exact("2001:db8:5:6::/64"), MINUTE),
            (range("10.0.0.0/8"), None),
            (range("198.51.100.0/25"), MINUTE),
            (range("198.51.100.128/25"), None),
            (range("2001:db8:8000::/33"), MINUTE),
            (range("ffff::/16"), None),
        ];
        let changes = Changes { open: vec![tcp(443), tcp(8080), udp(8080)], ..add(elements) };
        assert!(t.apply(Ground::Anew, &changes).unwrap());
        let there = t.read().unwrap().unwrap();
        assert!(there.rules && there.frame);
        assert_eq!(there.ports, BTreeSet::from([tcp(443), tcp(8080), udp(8080)]));
        assert_eq!(there.elements.keys().copied().collect::<BTreeSet<_>>(), elements.iter().map(|e| e.0).collect());
        for (e, left) in elements {
            let got = there.elements[&e];
            assert_eq!(got.is_some(), left.is_some(), "{e:?}");
            assert!(got.is_none_or(|g| g <= Duration::from_secs(60) && g > Duration::from_secs(50)));
        }
        let shown = nft("list table inet gate");
        for line in [
            "type filter hook prerouting priority mangle; policy accept;",
            "iif \"lo\" return",
            "fib daddr type unicast return",
            "tcp dport @tcp_ports jump guard",
            "udp dport @udp_ports jump guard",
            "ip saddr @host4 return",
            "ip6 saddr & ffff:ffff:ffff:ffff:: == @subnet6 return",
            "counter packets 0 bytes 0 drop",
            "2001:db8:5:6::",
            "2001:db8:8000::/33 timeout 1m",
            "198.51.100.128/25",
            "ffff::/16",
        ] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
        // Another gate of this machine has to take another name.
        assert!(matches!(Table::open("gate"), Err(NftError::Taken(_))));
        assert!(Table::open("other").is_ok());
        let changes = Changes { close: vec![tcp(443), udp(8080)], ..remove(elements.map(|e| e.0)) };
        t.apply(Ground::Stands, &changes).unwrap();
        let there = t.read().unwrap().unwrap();
        assert!(there.elements.is_empty() && there.ports == BTreeSet::from([tcp(8080)]));
    });
}

#[test]
fn others_changes_are_seen() {
    alone(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut t = Table::open("gate").unwrap();
        let changes = Changes { open: vec![tcp(443)], ..add([(exact("192.0.2.1"), MINUTE)]) };
        t.apply(Ground::Anew, &changes).unwrap();
        let mut watch = runtime.block_on(async { t.watch() }).unwrap();
        let mut touched = |wait: u64| {
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(wait), watch.touched()).await.is_ok() })
        };
        // Our own are no news, nor are other tables'.
        t.apply(Ground::Stands, &add([(exact("192.0.2.2"), MINUTE)])).unwrap();
        nft("add table inet another");
        assert!(!touched(200));
        for (command, rules, frame) in [
            ("add element inet gate host4 { 192.0.2.9 }", true, true),
            ("add rule inet gate guard accept", false, true),
            ("insert rule inet gate before accept", false, true),
            ("flush chain inet gate guard", false, true),
            ("add table inet gate { flags dormant; }", false, true),
            ("add chain inet gate mine", false, false),
            ("add set inet gate mine { type ipv4_addr; }", false, false),
        ] {
            let generation = t.generation().unwrap();
            nft(command);
            assert!(touched(2_000), "{command}");
            assert_ne!(t.generation().unwrap(), generation);
            let there = t.read().unwrap().unwrap();
            assert_eq!((there.rules, there.frame), (rules, frame), "{command}");
            t.apply(Ground::Anew, &changes).unwrap();
            assert!(t.read().unwrap().unwrap().rules, "{command}");
        }
        nft("flush ruleset");
        assert!(touched(2_000));
        assert!(t.read().unwrap().is_none());
        // Rules alone, with the elements left where they are.
        t.apply(Ground::Anew, &changes).unwrap();
        nft("flush chain inet gate guard");
        nft("add table inet gate { flags dormant; }");
        assert!(nft("list table inet gate").contains("dormant"));
        t.apply(Ground::Rules, &Changes::default()).unwrap();
        let there = t.read().unwrap().unwrap();
        assert!(there.rules && there.elements.len() == 1);
        assert!(nft("list chain inet gate guard").contains("drop"));
        assert!(!nft("list table inet gate").contains("dormant"));
    });
}

#[test]
fn a_table_that_no_gate_made_is_left_alone() {
    alone(|| {
        nft("add table inet filter");
        nft("add set inet filter tcp_ports { type inet_service; }");
        nft("add chain inet filter input { type filter hook input priority 0; policy drop; }");
        let before = nft("list table inet filter");
        let mut t = Table::open("filter").unwrap();
        assert!(matches!(t.apply(Ground::Anew, &Changes::default()), Err(NftError::Foreign(name)) if name == "filter"));
        assert!(matches!(t.delete(), Err(NftError::Foreign(_))));
        assert!(before.contains("policy drop") && nft("list table inet filter") == before);
        // One that holds nothing, and what an earlier run left, whatever came to it.
        nft("add table inet gate");
        for more in ["add chain inet gate mine", "flush table inet gate"] {
            let mut t = Table::open("gate").unwrap();
            t.apply(Ground::Anew, &Changes::default()).unwrap();
            assert!(t.read().unwrap().unwrap().rules, "{more}");
            nft(more);
        }
        assert!(Table::open("gate").unwrap().delete().unwrap());
        assert!(!Table::open("gate").unwrap().delete().unwrap());
    });
}

#[test]
fn a_refused_transaction_changes_nothing() {
    alone(|| {
        let mut t = Table::open("gate").unwrap();
        t.apply(Ground::Anew, &add([(range("10.0.0.0/8"), None)])).unwrap();
        let before = t.read().unwrap().unwrap().elements;
        let missing = Changes { remove: vec![exact("192.0.2.7")], ..add([(exact("192.0.2.1"), None)]) };
        for (changes, why) in
            [(add([(exact("192.0.2.1"), None), (range("10.1.0.0/16"), None)]), "overlaps"), (missing, "not there")]
        {
            assert!(matches!(t.apply(Ground::Stands, &changes), Err(NftError::Refused { .. })), "{why}");
            assert_eq!(t.read().unwrap().unwrap().elements, before, "{why}");
        }
        // A range becomes a smaller one, then gets a later end, each within one transaction.
        let smaller = [(range("10.1.0.0/16"), MINUTE), (range("10.0.0.0/16"), None)];
        t.apply(Ground::Stands, &Changes { remove: vec![range("10.0.0.0/8")], ..add(smaller) }).unwrap();
        let longer = (range("10.1.0.0/16"), Some(Duration::from_secs(3_600)));
        t.apply(Ground::Stands, &Changes { remove: vec![longer.0], ..add([longer]) }).unwrap();
        let there = t.read().unwrap().unwrap().elements;
        assert_eq!(there.len(), 2);
        assert!(there[&range("10.1.0.0/16")] > MINUTE);
    });
}

#[test]
fn entries_end_by_themselves_and_ranges_go_whole() {
    alone(|| {
        let mut t = Table::open("gate").unwrap();
        let second = Some(Duration::from_secs(1));
        let short = [exact("192.0.2.1"), exact("2001:db8:1:2::/64"), range("10.0.0.0/8"), range("2001:db8::/48")];
        let stays = range("11.0.0.0/8");
        t.apply(Ground::Anew, &add(short.map(|e| (e, second)).into_iter().chain([(stays, None)]))).unwrap();
        assert_eq!(t.read().unwrap().unwrap().elements.len(), 5);
        std::thread::sleep(Duration::from_millis(1_500));
        // A range whose end outlived its beginning would show as something else.
        assert_eq!(t.read().unwrap().unwrap().elements.into_keys().collect::<Vec<_>>(), [stays]);
        // The same entries can come again at once, whatever the kernel still has of them.
        t.apply(Ground::Stands, &add(short.map(|e| (e, MINUTE)))).unwrap();
        assert_eq!(t.read().unwrap().unwrap().elements.len(), 5);
    });
}

#[test]
fn any_ranges_that_do_not_overlap() {
    alone(|| {
        let mut t = Table::open("gate").unwrap();
        t.apply(Ground::Anew, &Changes::default()).unwrap();
        let kernel = std::cell::RefCell::new((t, BTreeSet::<Element>::new()));
        let end = u128::from(u32::MAX);
        let points =
            proptest::collection::btree_set(prop_oneof![8 => 0u128..40, 1 => Just(end - 1), 1 => Just(end)], 0..20);
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let run = runner.run(&(points, any::<bool>(), any::<u32>()), |(points, touch, ends)| {
            let mut kernel = kernel.borrow_mut();
            let (t, have) = &mut *kernel;
            let points: Vec<u128> = points.into_iter().collect();
            // Neighbours that touch, or neighbours with a gap.
            let step = if touch { 1 } else { 2 };
            let last = |w: &[u128]| if touch { w[1] - 1 } else { w[1] };
            let want: BTreeSet<Element> =
                points.windows(2).step_by(step).map(|w| Element::range(true, w[0], last(w))).collect();
            let left = |e: &Element| ((ends >> (e.first % 32)) & 1 == 1).then_some(Duration::from_secs(600));
            let changes = Changes {
                remove: have.difference(&want).copied().collect(),
                ..add(want.difference(have).map(|e| (*e, left(e))))
            };
            t.apply(Ground::Stands, &changes)
                .map_err(|e| TestCaseError::fail(format!("{e:?}: {have:?} to {want:?}")))?;
            let there: BTreeSet<Element> = t.read().unwrap().unwrap().elements.into_keys().collect();
            prop_assert_eq!(&there, &want, "from {:?}", have);
            *have = want;
            Ok(())
        });
        run.unwrap();
    });
}

#[test]
fn a_hundred_thousand() {
    alone(|| {
        let all: BTreeMap<Element, Option<Duration>> =
            (0..100_000u32).map(|n| (host(0x0a00_0000 + n * 7), MINUTE)).collect();
        let mut t = Table::open("gate").unwrap();
        let began = Instant::now();
        assert!(t.apply(Ground::Anew, &add(all.clone())).unwrap(), "in one transaction");
        let set_up = began.elapsed();
        // The kernel grows the hash table behind the transaction; a listing taken meanwhile may miss what is being moved
        // (nft_rhash_walk goes on after EAGAIN). It is whole once that is done.
        let whole = |t: &mut Table| t.read().unwrap().unwrap().elements.len() == all.len();
        assert!((0..100).any(|_| whole(&mut t) || (std::thread::sleep(Duration::from_millis(50)), false).1));
        let began = Instant::now();
        assert!(whole(&mut t));
        let read = began.elapsed();
        let mut times: Vec<Duration> = (0..200u32)
            .map(|n| {
                let began = Instant::now();
                t.apply(Ground::Stands, &add([(host(n), MINUTE)])).unwrap();
                t.apply(Ground::Stands, &remove([host(n)])).unwrap();
                began.elapsed() / 2
            })
            .collect();
        times.sort();
        eprintln!(
            "100,000: set up in {set_up:?}, read in {read:?}, one change {:?} (p99 {:?})",
            times[100], times[198]
        );
        let began = Instant::now();
        t.apply(Ground::Stands, &remove(all.keys().copied())).unwrap();
        eprintln!("all removed in {:?}", began.elapsed());
        assert!(t.read().unwrap().unwrap().elements.is_empty());
    });
}
