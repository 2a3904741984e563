//! Waiting for something to become true, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a slow and busy machine: a test that fails waits this long once, one that passes never does.
/// A login that nobody answers lives for 90 seconds.
const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until `look` sees it, and returns it. Panics, naming `what` was awaited, when it never comes.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, look) {
        Some(seen) => seen,
        None => panic!("waited {} s for {what}", PATIENCE.as_secs()),
    }
}

/// Waits until `look` sees it, but no longer than `patience`.
pub fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if start.elapsed() > patience {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
