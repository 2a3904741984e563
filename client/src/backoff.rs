//! How long to wait before the next try: exponential with *full* jitter (uniform between nothing and the bound), so that ten
//! thousand clients cut off together do not come back together.

use std::time::Duration;

/// First bound. Small, because most cuts are a relay's restart or a changed network.
pub(crate) const BASE: Duration = Duration::from_millis(250);
/// Last bound: nobody waits longer than this for a relay that is back.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// Counts failures in a row and turns them into waits.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Which try the next one is, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// The wait after one more failure; `random` is uniform over all of `u64`.
    pub(crate) fn after_failure(&mut self, random: u64) -> Duration {
        let bound = BASE.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        jitter(bound, random)
    }

    /// The connection has proved itself.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Uniform in `0..=bound`.
pub(crate) fn jitter(bound: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(random % (nanos + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_thirty_seconds_and_no_further() {
        let mut backoff = Backoff::default();
        for failures in 0..40 {
            assert_eq!(backoff.attempt(), failures + 1);
            let wait = backoff.after_failure(u64::MAX);
            assert!(wait <= CAP && wait <= BASE * (1 << failures.min(16)), "{failures}: {wait:?}");
        }
        backoff.succeeded();
        assert!(backoff.after_failure(u64::MAX) <= BASE);
    }

    #[test]
    fn the_whole_span_is_used_so_that_a_crowd_comes_back_spread_out() {
        let mut tenths = [0_u32; 10];
        for step in 0..10_000_u64 {
            let wait = jitter(CAP, step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            tenths[usize::try_from((wait.as_millis() * 10 / (CAP.as_millis() + 1)).min(9)).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|&count| (800..1200).contains(&count)), "{tenths:?}");
    }
}
