//! What is measured: latencies into HDR histograms (three digits, 1 ns to an hour), second by second; counts; failures by
//! kind.
//!
//! A latency belongs to the second in which its operation was *meant* to happen, so that a stall of ten seconds looks like one
//! and not like a single slow answer after a gap. Histograms of several workers add up exactly: they are sent as value and
//! count pairs, and a merged percentile is that of all samples together.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// The tester's own lateness: from when it meant to begin something until it began it.
pub const LAG: &str = "tester.lag";
/// The longest latency that is told apart, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// The values of a histogram that occur, in nanoseconds, with how often.
pub type Sparse = Vec<(u64, u64)>;

/// An empty histogram of latencies in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap_or_else(|error| unreachable!("{error:?}"))
}

/// The values of a histogram.
pub fn sparse(histogram: &Histogram<u64>) -> Sparse {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// Adds values to a histogram.
pub fn add(histogram: &mut Histogram<u64>, values: &[(u64, u64)]) {
    for (value, count) in values {
        histogram.saturating_record_n(*value, *count);
    }
}

/// What one worker measured in one second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Latencies by series.
    pub series: BTreeMap<String, Sparse>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    /// What failed for good, by kind.
    pub errors: BTreeMap<String, u64>,
    /// What was refused or broke and was tried again, by kind.
    pub retries: BTreeMap<String, u64>,
}

/// What reached this worker's clients of one announcement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// How many clients.
    pub clients: u64,
    /// The latency of the last of them, in nanoseconds.
    pub last: u64,
}

#[derive(Default)]
struct Raw {
    series: BTreeMap<&'static str, Histogram<u64>>,
    counts: BTreeMap<&'static str, u64>,
    errors: BTreeMap<String, u64>,
    retries: BTreeMap<String, u64>,
}

/// One worker's measurements, since they were last taken.
pub struct Recorder {
    zero: Moment,
    seconds: Mutex<BTreeMap<u32, Raw>>,
    announcements: Mutex<BTreeMap<u64, Reached>>,
    online: AtomicI64,
    samples: AtomicU64,
}

impl Recorder {
    /// Seconds are counted from this moment.
    pub fn new(zero: Moment) -> Self {
        Self {
            zero,
            seconds: Mutex::default(),
            announcements: Mutex::default(),
            online: AtomicI64::new(0),
            samples: AtomicU64::new(0),
        }
    }

    /// When seconds began.
    pub fn zero(&self) -> Moment {
        self.zero
    }

    /// Something that was meant to happen at `meant` is done, now.
    pub fn took(&self, series: &'static str, meant: Moment) {
        self.took_until(series, meant, Moment::now());
    }

    /// Something that was meant to happen at `meant` was done at `done`.
    pub fn took_until(&self, series: &'static str, meant: Moment, done: Moment) {
        self.samples.fetch_add(1, Relaxed);
        let nanos = done.0.saturating_sub(meant.0);
        self.at(meant, |raw| raw.series.entry(series).or_insert_with(histogram).saturating_record(nanos.max(1)));
    }

    /// How many latencies were measured so far.
    pub fn samples(&self) -> u64 {
        self.samples.load(Relaxed)
    }

    /// Something happened.
    pub fn count(&self, what: &'static str, times: u64) {
        self.at(Moment::now(), |raw| *raw.counts.entry(what).or_default() += times);
    }

    /// Something failed for good.
    pub fn failed(&self, kind: &str) {
        self.failed_times(kind, 1);
    }

    /// Something failed for good, several times.
    pub fn failed_times(&self, kind: &str, times: u64) {
        if times > 0 {
            self.at(Moment::now(), |raw| *raw.errors.entry(kind.to_owned()).or_default() += times);
        }
    }

    /// Something was refused or broke, and is tried again.
    pub fn retried(&self, kind: &str) {
        self.at(Moment::now(), |raw| *raw.retries.entry(kind.to_owned()).or_default() += 1);
    }

    /// A client heard announcement number `epoch`, which was meant for `meant`.
    pub fn heard(&self, epoch: u64, meant: Moment) {
        let nanos = Moment::now().since(meant).as_nanos() as u64;
        let mut all = locked(&self.announcements);
        let reached = all.entry(epoch).or_default();
        reached.clients += 1;
        reached.last = reached.last.max(nanos);
    }

    /// A client came online (1) or went (-1).
    pub fn online(&self, change: i64) {
        self.online.fetch_add(change, Relaxed);
    }

    /// How many clients are online.
    pub fn now_online(&self) -> i64 {
        self.online.load(Relaxed)
    }

    /// What was measured since the last time, by second.
    pub fn take(&self) -> BTreeMap<u32, Second> {
        let taken = std::mem::take(&mut *locked(&self.seconds));
        let owned = |map: BTreeMap<&'static str, u64>| map.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        taken
            .into_iter()
            .map(|(second, Raw { series, counts, errors, retries })| {
                let series = series.iter().map(|(name, values)| ((*name).to_owned(), sparse(values))).collect();
                (second, Second { series, counts: owned(counts), errors, retries })
            })
            .collect()
    }

    /// All announcements so far.
    pub fn announcements(&self) -> BTreeMap<u64, Reached> {
        locked(&self.announcements).clone()
    }

    fn at(&self, moment: Moment, change: impl FnOnce(&mut Raw)) {
        let second = moment.since(self.zero).as_secs() as u32;
        change(locked(&self.seconds).entry(second).or_default());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stall_is_charged_to_the_second_in_which_the_work_was_due() {
        let recorder = Recorder::new(Moment(0));
        let second = |n: u64| Moment(n * 1_000_000_000);
        // Due in seconds 1, 2 and 3; the server woke up in second 9.
        for due in [1, 2, 3] {
            recorder.took_until("pairing", second(due), second(9));
        }
        let taken = recorder.take();
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let latency = taken[&1].series["pairing"][0].0;
        assert!(latency.abs_diff(8_000_000_000) < 8_000_000, "{latency}: from when it was due, to a thousandth");
        assert!(recorder.take().is_empty(), "and is taken once");
    }

    #[test]
    fn the_last_of_an_announcement_is_the_slowest_client() {
        let recorder = Recorder::new(Moment(0));
        let now = Moment::now();
        recorder.heard(7, Moment(now.0 - 5_000_000_000));
        recorder.heard(7, now);
        let reached = recorder.announcements()[&7];
        assert!(reached.clients == 2 && Duration::from_nanos(reached.last) >= Duration::from_secs(5));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn percentiles_of_merged_workers_are_those_of_all_samples(
            samples in proptest::collection::vec(1..3_000_000_000_u64, 1..400), workers in 1..6_usize,
        ) {
            let mut whole = histogram();
            let mut parts = vec![histogram(); workers];
            for (n, sample) in samples.iter().enumerate() {
                whole.saturating_record(*sample);
                parts[n % workers].saturating_record(*sample);
            }
            let mut merged = histogram();
            for part in &parts {
                let sent = serde_json::to_string(&sparse(part)).unwrap();
                add(&mut merged, &serde_json::from_str::<Sparse>(&sent).unwrap());
            }
            prop_assert_eq!(merged.len(), whole.len());
            for percentile in [0.0, 50.0, 90.0, 99.0, 99.9, 100.0] {
                prop_assert_eq!(merged.value_at_percentile(percentile), whole.value_at_percentile(percentile));
            }
        }
    }
}
