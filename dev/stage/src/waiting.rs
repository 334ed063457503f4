//! Waiting for what a busy machine does late. In: a condition and a bound. Out: that it holds, or a failure that says
//! what was the case instead.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::START;

/// Between two looks: short beside what is waited for, long beside a look.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again every 20 ms until `f` gives something or `limit` has passed.
///
/// # Errors
/// The last reason `f` gave.
pub fn eventually<T, E>(limit: Duration, mut f: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match f() {
            Ok(v) => return Ok(v),
            Err(e) if Instant::now() >= end => return Err(e),
            Err(_) => sleep(PAUSE),
        }
    }
}

/// Waits until `holds`, at most [`START`].
///
/// # Panics
/// With `what`, if it never does.
#[track_caller]
pub fn wait(what: &str, holds: impl FnMut() -> bool) {
    wait_or(holds, || what.to_string());
}

/// The same with a reason that is looked up when it is needed, such as what a child printed.
///
/// # Panics
/// With what `why` gives, if it never does.
#[track_caller]
pub fn wait_or(mut holds: impl FnMut() -> bool, why: impl FnOnce() -> String) {
    let end = Instant::now() + START;
    while !holds() {
        if Instant::now() >= end {
            panic!("not within {START:?}: {}", why());
        }
        sleep(PAUSE);
    }
}

/// Waits until `f` gives `want`.
///
/// # Panics
/// With what it gave last, after `limit`.
#[track_caller]
pub fn becomes<T: PartialEq + Debug>(limit: Duration, want: &T, mut f: impl FnMut() -> T) {
    let got = eventually(limit, || {
        let got = f();
        if got == *want { Ok(()) } else { Err(got) }
    });
    if let Err(got) = got {
        panic!("after {limit:?} still {got:?}, not {want:?}");
    }
}
