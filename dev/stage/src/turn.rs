//! Who runs beside whom. In: what a test measures. Out: a guard that it holds while it must not be disturbed.
//!
//! Tests of one binary run beside each other. Most do not mind: they have ports, folders and networks of their own.
//! A test that measures time or memory, or that needs the machine as it was, takes [`alone`]; one that loads the
//! machine so that it would disturb such a test takes [`shared`]. Who takes neither runs at any time.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that nobody who takes part in this may run beside.
#[must_use]
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>);

/// Held by a test that loads the machine, beside others that do.
#[must_use]
#[derive(Debug)]
pub struct Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>);

/// Waits until nobody holds either guard; nobody gets one until it is dropped.
pub fn alone() -> Alone {
    // A test that failed while it held the lock has left nothing behind that it would guard.
    Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until nobody holds [`alone`].
pub fn shared() -> Shared {
    Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}
