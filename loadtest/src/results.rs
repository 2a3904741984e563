//! What a run came to: the JSON file, version 1. `docs/guides/load-testing.md` explains its fields.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    limits::{Limit, Metric},
    measure::{Second, Sparse, add, histogram, sparse},
    profile::Profile,
    server::Sample,
};

/// What the file says it is. A reader refuses another number; fields may be added under the same one.
pub const SCHEMA: &str = "gatepass-loadtest/1";
/// Points of a plot at most: as many as fit beside each other.
const POINTS: u32 = 240;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// The tester's version.
    pub version: String,
    /// When it began, in Unix seconds.
    pub started: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// When the load began, in seconds since the beginning: before that, clients connected.
    pub load_from: f64,
    /// Whether somebody stopped it before its end.
    pub interrupted: bool,
    /// The load, complete.
    pub profile: Profile,
    /// Where it went: one relay, or several with a blank between them.
    pub target: String,
    /// Worker processes of the tester.
    pub workers: u32,
    /// The tester's machine.
    pub machine: Machine,
    /// Latencies by what was measured; `profile` says which one matters.
    pub series: BTreeMap<String, Series>,
    /// How late the tester itself was: what it meant to begin, until it began it. Part of all other latencies.
    pub lag: Series,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    /// What failed for good, by kind.
    pub errors: BTreeMap<String, u64>,
    /// The same by second: kind, then second and how often.
    pub errors_over_time: BTreeMap<String, Vec<(u32, u64)>>,
    /// What was refused or broke and was tried again, by kind.
    pub retries: BTreeMap<String, u64>,
    /// Clients online: second, how many.
    pub online: Vec<(f64, i64)>,
    /// What the server used, where it runs on this machine.
    pub server: Option<ServerUse>,
    /// Processor time that the tester used, in seconds.
    pub tester_cpu_seconds: f64,
    /// What neither the tester nor the server used of the tester's machine during the load, in percent of all its processors:
    /// other programs, and the kernel's own work for the network.
    #[serde(default)]
    pub others_cpu_percent: f64,
    /// What had to hold, and whether it did.
    pub limits: Vec<Verdict>,
}

/// The tester's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors.
    pub cpus: u32,
    /// What they are.
    pub cpu: String,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// The kernel's release.
    pub kernel: String,
}

/// The latencies of one kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// How many.
    pub count: u64,
    /// How many a second, over the time in which they were meant to happen.
    pub per_s: f64,
    /// Milliseconds, all of these.
    pub min_ms: f64,
    /// The mean.
    pub mean_ms: f64,
    /// Half of them were faster.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 95 %.
    pub p95_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// 99.9 %.
    #[serde(rename = "p99.9_ms")]
    pub p99_9_ms: f64,
    /// 99.99 %.
    #[serde(rename = "p99.99_ms")]
    pub p99_99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// All of them: nanoseconds, to three digits, and how often.
    pub histogram: Sparse,
    /// The same by time.
    pub over_time: Vec<Point>,
}

/// The latencies of a few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When they were meant to happen, in seconds since the beginning.
    pub s: u32,
    /// How many a second.
    pub per_s: f64,
    /// Milliseconds, all of these.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// What the server used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Its processes; what follows is of all of them together.
    pub processes: Vec<u32>,
    /// What it is called.
    pub name: String,
    /// Processor time during the load, in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory before the first client came, in KiB.
    pub rss_before_kib: u64,
    /// When all were connected.
    pub rss_connected_kib: u64,
    /// At its highest.
    pub rss_highest_kib: u64,
    /// At the end.
    pub rss_after_kib: u64,
    /// For each client, when all were connected and nothing had happened yet; 0 where there were none.
    pub kib_per_client: f64,
    /// Second by second.
    pub samples: Vec<Sample>,
}

/// Whether a limit held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The limit.
    pub limit: Limit,
    /// What was measured; none: nothing was, and nothing holds of nothing.
    pub value: Option<f64>,
    /// Whether it held.
    pub holds: bool,
}

/// Why a file of results can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Not JSON, or not of this form.
    #[error("not the results of a load test: {0}")]
    Form(#[from] serde_json::Error),
    /// Of another version.
    #[error("results of the form {found:?}; this version reads {SCHEMA:?}: run the test again with this version")]
    Schema {
        /// What it says.
        found: String,
    },
}

impl Results {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, ResultsError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let Head { schema } = serde_json::from_str(text)?;
        if schema != SCHEMA {
            return Err(ResultsError::Schema { found: schema });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The latency that the profile is about.
    pub fn headline(&self) -> (&'static str, Option<&Series>) {
        let name = self.profile.series().first().copied().unwrap_or("connect");
        (name, self.series.get(name))
    }

    /// The number of a metric; none if nothing was measured.
    pub fn value(&self, metric: &Metric) -> Option<f64> {
        let of = |series: &String| self.series.get(series).filter(|series| series.count > 0);
        let errors: u64 = self.errors.values().sum();
        match metric {
            Metric::Percentile { series, percentile } => {
                let mut all = histogram();
                add(&mut all, &of(series)?.histogram);
                Some(ms(all.value_at_percentile(*percentile)))
            }
            Metric::Mean { series } => of(series).map(|series| series.mean_ms),
            Metric::Rate { series } => of(series).map(|series| series.per_s),
            Metric::Count { series } => Some(self.series.get(series).map_or(0.0, |series| series.count as f64)),
            Metric::Errors => Some(errors as f64),
            Metric::ErrorPercent => {
                let done: u64 = self.headline().1.map_or(0, |series| series.count);
                Some(if errors == 0 { 0.0 } else { errors as f64 * 100.0 / (errors + done) as f64 })
            }
            Metric::ServerMemory => self.server.as_ref().map(|server| server.rss_highest_kib as f64 / 1024.0),
            Metric::ServerMemoryPerClient => {
                self.server.as_ref().map(|server| server.kib_per_client).filter(|kib| *kib > 0.0)
            }
            Metric::ServerCpu => self.server.as_ref().map(|server| server.cpu_percent),
        }
    }

    /// Judges the limits.
    pub fn judge(&mut self, limits: &[Limit]) {
        let verdict = |limit: &Limit| {
            let value = self.value(&limit.metric);
            Verdict { limit: limit.clone(), value, holds: value.is_some_and(|value| limit.holds(value)) }
        };
        self.limits = limits.iter().map(verdict).collect();
    }

    /// The limits that did not hold.
    pub fn broken_limits(&self) -> Vec<&Verdict> {
        self.limits.iter().filter(|verdict| !verdict.holds).collect()
    }
}

/// Milliseconds of nanoseconds.
pub fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The seconds of all workers, added up.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    seconds: BTreeMap<u32, Sum>,
}

#[derive(Debug, Clone, Default)]
struct Sum {
    series: BTreeMap<String, BTreeMap<u64, u64>>,
    counts: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    retries: BTreeMap<String, u64>,
}

impl Merged {
    /// Adds what one worker says of a second.
    pub fn add(&mut self, second: u32, part: Second) {
        let sum = self.seconds.entry(second).or_default();
        for (name, values) in part.series {
            let series = sum.series.entry(name).or_default();
            values.into_iter().for_each(|(value, count)| *series.entry(value).or_default() += count);
        }
        for (into, from) in
            [(&mut sum.counts, part.counts), (&mut sum.errors, part.errors), (&mut sum.retries, part.retries)]
        {
            from.into_iter().for_each(|(kind, times)| *into.entry(kind).or_default() += times);
        }
    }

    /// The names of all series.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.seconds.values().flat_map(|sum| sum.series.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// All of a series. `over`: the seconds in which it was meant to happen, where that is known.
    pub fn series(&self, name: &str, over: Option<f64>) -> Series {
        let in_order: Vec<(u32, &BTreeMap<u64, u64>)> =
            self.seconds.iter().filter_map(|(second, sum)| Some((*second, sum.series.get(name)?))).collect();
        let (Some((first, _)), Some((last, _))) = (in_order.first(), in_order.last()) else { return Series::default() };
        let span = last - first + 1;
        let each = span.div_ceil(POINTS);
        let mut all = histogram();
        let mut over_time = Vec::new();
        for chunk in in_order.chunk_by(|(a, _), (b, _)| (a - first) / each == (b - first) / each) {
            let mut some = histogram();
            chunk.iter().for_each(|(_, values)| {
                values.iter().for_each(|(value, count)| some.saturating_record_n(*value, *count))
            });
            let _ = all.add(&some);
            let at = |percentile| ms(some.value_at_percentile(percentile));
            let s = first + (chunk[0].0 - first) / each * each;
            let per_s = some.len() as f64 / f64::from(each.min(last + 1 - s));
            over_time.push(Point {
                s,
                per_s,
                p50_ms: at(50.0),
                p90_ms: at(90.0),
                p99_ms: at(99.0),
                max_ms: ms(some.max()),
            });
        }
        Series { over_time, per_s: all.len() as f64 / over.unwrap_or(f64::from(span)), ..of(&all) }
    }

    /// Counts of one sort in all seconds.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.total(|sum| &sum.counts)
    }

    /// What failed for good.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.total(|sum| &sum.errors)
    }

    /// What was tried again.
    pub fn retries(&self) -> BTreeMap<String, u64> {
        self.total(|sum| &sum.retries)
    }

    /// What failed for good, second by second.
    pub fn errors_over_time(&self) -> BTreeMap<String, Vec<(u32, u64)>> {
        let mut all: BTreeMap<String, Vec<(u32, u64)>> = BTreeMap::new();
        for (second, sum) in &self.seconds {
            sum.errors.iter().for_each(|(kind, times)| all.entry(kind.clone()).or_default().push((*second, *times)));
        }
        all
    }

    /// The latest second that has any of a series, at or before `until`, with its point: for a live line.
    pub fn latest(&self, name: &str, until: u32) -> Option<Series> {
        let (_, sum) = self.seconds.range(..=until).rev().find(|(_, sum)| sum.series.contains_key(name))?;
        let mut some = histogram();
        sum.series.get(name)?.iter().for_each(|(value, count)| some.saturating_record_n(*value, *count));
        Some(Series { per_s: some.len() as f64, ..of(&some) })
    }

    fn total(&self, of: impl Fn(&Sum) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let mut total = BTreeMap::new();
        for sum in self.seconds.values() {
            of(sum).iter().for_each(|(kind, times)| *total.entry(kind.clone()).or_default() += times);
        }
        total
    }
}

fn of(all: &Histogram<u64>) -> Series {
    if all.is_empty() {
        return Series::default();
    }
    let at = |percentile| ms(all.value_at_percentile(percentile));
    Series {
        count: all.len(),
        per_s: 0.0,
        min_ms: ms(all.min()),
        mean_ms: all.mean() / 1e6,
        p50_ms: at(50.0),
        p90_ms: at(90.0),
        p95_ms: at(95.0),
        p99_ms: at(99.0),
        p99_9_ms: at(99.9),
        p99_99_ms: at(99.99),
        max_ms: ms(all.max()),
        histogram: sparse(all),
        over_time: vec![],
    }
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([':', ' ', '\t']).trim().to_owned()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            cpu: after(&read("/proc/cpuinfo"), "model name"),
            memory_kib: memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Pairings that took this many milliseconds each, one a second.
    pub(crate) fn run(latencies_ms: &[u64]) -> Results {
        let mut merged = Merged::default();
        for (second, latency) in latencies_ms.iter().enumerate() {
            let series = BTreeMap::from([("pairing".to_owned(), vec![(latency * 1_000_000, 1)])]);
            merged.add(second as u32, Second { series, ..Second::default() });
        }
        Results {
            schema: SCHEMA.into(),
            version: "0".into(),
            started: 1_800_000_000,
            seconds: latencies_ms.len() as f64,
            load_from: 0.0,
            interrupted: false,
            profile: Profile::load("pairings", &[]).unwrap(),
            target: "ws://127.0.0.1:8443".into(),
            workers: 2,
            machine: Machine { cpus: 2, cpu: "<cpu>".into(), memory_kib: 1, kernel: "6".into() },
            series: BTreeMap::from([("pairing".to_owned(), merged.series("pairing", None))]),
            lag: Series::default(),
            counts: BTreeMap::new(),
            errors: BTreeMap::new(),
            errors_over_time: BTreeMap::new(),
            retries: BTreeMap::new(),
            online: vec![],
            server: None,
            tester_cpu_seconds: 0.0,
            others_cpu_percent: 0.0,
            limits: vec![],
        }
    }

    fn limit(text: &str) -> Limit {
        Limit::parse(text, &["pairing", "connect"]).unwrap()
    }

    #[test]
    fn workers_seconds_add_up_whenever_they_come_in() {
        let part = |values: &[(u64, u64)], errors: u64| Second {
            series: BTreeMap::from([("pairing".to_owned(), values.to_vec())]),
            errors: BTreeMap::from([("pairing: timeout".to_owned(), errors)]),
            ..Second::default()
        };
        let mut merged = Merged::default();
        merged.add(5, part(&[(2_000_000, 3)], 1));
        merged.add(4, part(&[(1_000_000, 1)], 0));
        // The other worker's word about the same second, and a late one's.
        merged.add(5, part(&[(2_000_000, 1), (9_000_000, 1)], 2));
        let series = merged.series("pairing", None);
        assert_eq!((series.count, series.per_s), (6, 3.0));
        assert_eq!(
            series.over_time.iter().map(|point| (point.s, point.per_s)).collect::<Vec<_>>(),
            [(4, 1.0), (5, 5.0)]
        );
        assert!((series.max_ms - 9.0).abs() < 0.01 && (series.min_ms - 1.0).abs() < 0.01);
        assert_eq!(merged.errors()["pairing: timeout"], 3);
        assert_eq!(merged.series("claim", None), Series::default());
    }

    #[test]
    fn a_plot_of_hours_has_no_more_points_than_fit() {
        let results = run(&vec![3; 10_000]);
        let over_time = &results.series["pairing"].over_time;
        assert!(over_time.len() <= POINTS as usize);
        assert!(over_time.iter().all(|point| (point.per_s - 1.0).abs() < 1e-9), "the last one, too, is a rate");
    }

    #[test]
    fn limits_are_judged_and_what_was_not_measured_holds_nothing() {
        let mut results = run(&[1, 2, 3, 4, 100]);
        results.errors.insert("pairing: timeout".into(), 5);
        let limits = [
            "p50_ms=3.1",
            "max_ms=99",
            "connect.p99_ms=1000",
            "errors=4",
            "error_percent=50",
            "count>=5",
            "server_rss_mib=1",
        ];
        results.judge(&limits.map(limit));
        let held: Vec<bool> = results.limits.iter().map(|verdict| verdict.holds).collect();
        assert_eq!(held, [true, false, false, false, true, true, false]);
        assert_eq!(results.broken_limits().len(), 4);
    }

    #[test]
    fn results_are_read_back_as_they_were_written() {
        let mut results = run(&[1, 2, 3]);
        results.judge(&[limit("p99.9_ms=5")]);
        let text = serde_json::to_string(&results).unwrap();
        assert!(text.starts_with(r#"{"schema":"gatepass-loadtest/1""#) && text.contains(r#""p99.9_ms":"#));
        assert_eq!(Results::parse(&text).unwrap(), results);
        let newer = text.replace("gatepass-loadtest/1", "gatepass-loadtest/2");
        assert!(matches!(Results::parse(&newer), Err(ResultsError::Schema { .. })));
    }
}
