//! Seventy seconds without a byte from a visitor: proxies cut what is silent for sixty, and must not notice silence.

use std::io::{Read, Write};
use std::time::Duration;

use stage::edge::{Behind, Mode, wait_echo};
use stage::proxies::{ALL, Kind};
use stage::upstream::Upstream;
use stage::{http, ports};

/// Ten seconds more than the sixty after which nginx cuts a silent connection.
const SILENCE: Duration = Duration::from_secs(70);

/// All four wait at the same time: the test takes seventy seconds, not five minutes.
#[test]
fn seventy_seconds() {
    let waits =
        ALL.map(|kind| std::thread::Builder::new().name(format!("silence {kind:?}")).spawn(move || one(kind)).unwrap());
    let failed: Vec<_> = waits.into_iter().filter_map(|w| w.join().err()).collect();
    assert!(failed.is_empty(), "{} of the four did not survive; their words stand above", failed.len());
}

fn one(kind: Kind) {
    let echo = Upstream::echo();
    let port = ports::free();
    let map = format!("{port}={}", echo.addr());
    let Some(mut b) = Behind::start(kind, Mode::Tcp, &[], &["--upstream", &map]) else { return };
    wait_echo(ports::local(port)).unwrap_or_else(|e| panic!("{kind:?}: {e}\nclient:\n{}", b.client.process.output()));
    let mut idle = http::tcp(ports::local(port)).unwrap();
    let mut talk = |word: &[u8; 4]| {
        let mut back = [0; 4];
        idle.write_all(word).and_then(|()| idle.read_exact(&mut back)).map(|()| back)
    };
    assert_eq!(talk(b"one.").unwrap(), *b"one.");
    std::thread::sleep(SILENCE);
    assert_eq!(talk(b"two.").unwrap_or_else(|e| panic!("{kind:?}: the idle visitor was cut: {e}")), *b"two.");
    wait_echo(ports::local(port)).unwrap_or_else(|e| panic!("{kind:?}: no new visitor: {e}"));
    b.client.process.must_run();
    let sessions = b.client.process.output().matches("connected to").count();
    assert_eq!(sessions, 1, "{kind:?}: the session did not live through the silence:\n{}", b.client.process.output());
}
