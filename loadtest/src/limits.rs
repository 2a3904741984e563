//! What must hold: `[SERIES.]METRIC=VALUE`, in a profile or after `--limit`.
//!
//! ```text
//! p99_ms=5               of the latency that the profile is about, at most 5 ms at the 99th percentile
//! connect.p99.9_ms=250   of another one
//! last.max_ms=1000       the slowest
//! pairing.per_s>=950     at least 950 a second
//! errors=0               what failed for good
//! server_rss_mib=200     the server's memory, at its highest
//! ```

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Something that must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Limit {
    /// Of what.
    pub metric: Metric,
    /// The least that is good enough, and not the most.
    pub at_least: bool,
    /// The bound, in the metric's unit.
    pub value: f64,
}

/// Something with one number at the end of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// A series' latency at a percentile, in milliseconds.
    Percentile {
        /// Which series.
        series: String,
        /// 0 to 100.
        percentile: f64,
    },
    /// A series' mean latency, in milliseconds.
    Mean {
        /// Which series.
        series: String,
    },
    /// How many a second.
    Rate {
        /// Which series.
        series: String,
    },
    /// How many.
    Count {
        /// Which series.
        series: String,
    },
    /// What failed for good.
    Errors,
    /// What failed for good, in percent of all that was begun.
    ErrorPercent,
    /// The server's resident memory at its highest, in MiB.
    ServerMemory,
    /// The server's resident memory for each client online, in KiB, above what it had before.
    ServerMemoryPerClient,
    /// The server's CPU during the load, in percent of one core.
    ServerCpu,
}

/// Why a limit is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LimitError {
    /// No bound.
    #[error("the limit {text:?} says no bound; write it as p99_ms=5, or per_s>=100 for the least")]
    NoBound {
        /// What was given.
        text: String,
    },
    /// The bound is no number.
    #[error("the limit {text:?}: {value:?} is not a number")]
    NoNumber {
        /// What was given.
        text: String,
        /// What should be one.
        value: String,
    },
    /// Nothing of that name is measured.
    #[error("the limit {text:?}: nothing is called {name:?}; did you mean {nearest:?}?")]
    Unknown {
        /// What was given.
        text: String,
        /// What is not known.
        name: String,
        /// What is.
        nearest: String,
    },
}

const OF_A_SERIES: [&str; 9] =
    ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms", "max_ms", "mean_ms", "per_s", "count"];
const OF_ALL: [&str; 5] = ["errors", "error_percent", "server_rss_mib", "server_kib_per_client", "server_cpu_percent"];

impl Limit {
    /// Reads a limit of a profile that measures these series, the one it is about first.
    pub fn parse(text: &str, series: &[&str]) -> Result<Self, LimitError> {
        let no_bound = || LimitError::NoBound { text: text.to_owned() };
        let (name, bound) = text.split_once('=').ok_or_else(no_bound)?;
        let (name, at_least) = name.strip_suffix('>').map_or((name, false), |name| (name, true));
        let name = name.strip_suffix('<').unwrap_or(name).trim();
        let value = bound.trim().parse::<f64>().ok().filter(|value| value.is_finite());
        let value =
            value.ok_or_else(|| LimitError::NoNumber { text: text.to_owned(), value: bound.trim().to_owned() })?;
        let unknown = |name: &str, known: Vec<&str>| {
            let near =
                known.into_iter().min_by_key(|known| strsim::damerau_levenshtein(name, known)).unwrap_or_default();
            LimitError::Unknown { text: text.to_owned(), name: name.to_owned(), nearest: near.to_owned() }
        };
        let metric = match name {
            "errors" => Metric::Errors,
            "error_percent" => Metric::ErrorPercent,
            "server_rss_mib" => Metric::ServerMemory,
            "server_kib_per_client" => Metric::ServerMemoryPerClient,
            "server_cpu_percent" => Metric::ServerCpu,
            _ => {
                let (of, metric) = match name.split_once('.') {
                    // "p99.9_ms" has a point of its own.
                    Some((of, metric)) if !of.starts_with('p') || series.contains(&of) => (of, metric),
                    _ => (series.first().copied().unwrap_or_default(), name),
                };
                if !series.contains(&of) {
                    return Err(unknown(of, series.to_vec()));
                }
                let of_series = of.to_owned();
                let percentile = || metric.strip_prefix('p')?.strip_suffix("_ms")?.parse::<f64>().ok();
                match metric {
                    "max_ms" => Metric::Percentile { series: of_series, percentile: 100.0 },
                    "mean_ms" => Metric::Mean { series: of_series },
                    "per_s" => Metric::Rate { series: of_series },
                    "count" => Metric::Count { series: of_series },
                    _ => match percentile().filter(|percentile| (0.0..=100.0).contains(percentile)) {
                        Some(percentile) => Metric::Percentile { series: of_series, percentile },
                        None => return Err(unknown(metric, [&OF_A_SERIES[..], &OF_ALL[..]].concat())),
                    },
                }
            }
        };
        Ok(Self { metric, at_least, value })
    }

    /// Whether it holds with this value of its metric.
    pub fn holds(&self, value: f64) -> bool {
        if self.at_least { value >= self.value } else { value <= self.value }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Percentile { series, percentile } if *percentile == 100.0 => write!(out, "{series}.max_ms"),
            Metric::Percentile { series, percentile } => write!(out, "{series}.p{percentile}_ms"),
            Metric::Mean { series } => write!(out, "{series}.mean_ms"),
            Metric::Rate { series } => write!(out, "{series}.per_s"),
            Metric::Count { series } => write!(out, "{series}.count"),
            Metric::Errors => out.write_str("errors"),
            Metric::ErrorPercent => out.write_str("error_percent"),
            Metric::ServerMemory => out.write_str("server_rss_mib"),
            Metric::ServerMemoryPerClient => out.write_str("server_kib_per_client"),
            Metric::ServerCpu => out.write_str("server_cpu_percent"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}{}", self.metric, if self.at_least { ">=" } else { "=" }, self.value)
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> String {
        limit.to_string()
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    /// Reads what [`Limit`]'s `Display` writes, whatever the series.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let series = text.split_once('.').map_or("", |(series, _)| series);
        Self::parse(text, &[series])
    }
}

impl TryFrom<String> for Limit {
    type Error = LimitError;

    fn try_from(text: String) -> Result<Self, LimitError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: [&str; 2] = ["pairing", "connect"];

    #[test]
    fn limits_read_as_people_write_them_and_say_what_they_are_about() {
        for (text, full) in [
            ("p99_ms=5", "pairing.p99_ms=5"),
            ("p99.9_ms=5.5", "pairing.p99.9_ms=5.5"),
            ("p99_ms<=5", "pairing.p99_ms=5"),
            ("connect.max_ms=250", "connect.max_ms=250"),
            ("pairing.p99.9_ms=7", "pairing.p99.9_ms=7"),
            ("per_s>=950", "pairing.per_s>=950"),
            ("errors=0", "errors=0"),
            ("server_rss_mib=200", "server_rss_mib=200"),
        ] {
            let limit = Limit::parse(text, &SERIES).unwrap();
            assert_eq!(limit.to_string(), full);
            assert_eq!(full.parse::<Limit>().unwrap(), limit);
        }
    }

    #[test]
    fn a_limit_holds_up_to_its_bound_and_not_past_it() {
        let most = Limit::parse("p99_ms=5", &SERIES).unwrap();
        assert!(most.holds(5.0) && !most.holds(5.1));
        let least = Limit::parse("per_s>=100", &SERIES).unwrap();
        assert!(least.holds(100.0) && !least.holds(99.9));
    }

    #[test]
    fn a_mistyped_limit_is_refused_with_what_was_meant() {
        for (text, said) in [
            ("p99_ms", "p99_ms=5"),
            ("p99_ms=fast", "\"fast\" is not a number"),
            ("conect.p99_ms=5", "did you mean \"connect\"?"),
            ("p99ms=5", "did you mean \"p99_ms\"?"),
            ("error=0", "did you mean \"errors\"?"),
            ("pairing.p101_ms=5", "\"p101_ms\""),
        ] {
            let error = Limit::parse(text, &SERIES).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
