//! From many rounds to one figure: medians, ratios, and whether what was to be reached is reached.
//!
//! Machines are noisy, and two subjects are only comparable in the same minute. So a ratio is taken within each round, and the
//! median of those is what counts.

use serde::Serialize;

use crate::{
    subject::Subject,
    work::{Measured, Work},
};

/// One subject's doing of one piece of work in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Which round, from 1.
    pub(crate) round: usize,
    /// What was done.
    #[serde(serialize_with = "work_name")]
    pub(crate) work: Work,
    /// By whom.
    #[serde(serialize_with = "subject_name")]
    pub(crate) subject: Subject,
    /// What was read off.
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// One line of the result: the medians of all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What was done.
    #[serde(serialize_with = "work_name")]
    pub(crate) work: Work,
    /// By whom.
    #[serde(serialize_with = "subject_name")]
    pub(crate) subject: Subject,
    /// The server's processor time for each delivery, round trip or connection, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Deliveries, round trips or connections a second.
    pub(crate) per_s: Option<f64>,
    /// Median latency, in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// Resident memory for each connection, in KiB.
    pub(crate) rss_kib: Option<f64>,
}

fn work_name<S: serde::Serializer>(work: &Work, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(work.name())
}

fn subject_name<S: serde::Serializer>(subject: &Subject, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(subject.name())
}

/// A figure of a round.
pub(crate) type Of = fn(&Measured) -> Option<f64>;

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// In the order of measuring.
    pub(crate) samples: Vec<Sample>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
}

impl Figures {
    /// How often anything was measured, or should have been.
    pub(crate) fn tried(&self) -> usize {
        self.samples.len() + self.failures.len()
    }

    /// The median of a figure; `None` if it was never taken.
    pub(crate) fn median(&self, work: Work, subject: Subject, of: Of) -> Option<f64> {
        median(self.of(work, subject).filter_map(|sample| of(&sample.measured)).collect())
    }

    /// How often a figure of one subject was that of another, in the same round: the median of it.
    pub(crate) fn ratio(&self, work: Work, subject: Subject, to: Subject, of: Of) -> Option<f64> {
        let ratios = self.of(work, subject).filter_map(|sample| {
            let other = self.of(work, to).find(|other| other.round == sample.round)?;
            let (figure, other) = (of(&sample.measured)?, of(&other.measured)?);
            (other > 0.0).then_some(figure / other)
        });
        median(ratios.collect())
    }

    /// The peer whose median is the lowest.
    pub(crate) fn better_peer(&self, work: Work, of: Of) -> Option<Subject> {
        let peers = Subject::ALL.into_iter().filter(|subject| subject.is_peer());
        let figures = peers.filter_map(|peer| Some((peer, self.median(work, peer, of)?)));
        figures.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(peer, _)| peer)
    }

    /// The samples of one subject's work.
    pub(crate) fn of(&self, work: Work, subject: Subject) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.work == work && sample.subject == subject)
    }

    /// A line for each work and subject that was measured.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let all = Work::ALL.into_iter().flat_map(|work| Subject::ALL.map(|subject| (work, subject)));
        let measured = all.filter(|(work, subject)| self.of(*work, *subject).next().is_some());
        measured
            .map(|(work, subject)| {
                let median = |of: Of| self.median(work, subject, of);
                Row {
                    work,
                    subject,
                    cpu_us: median(|measured| measured.cpu_us),
                    per_s: median(|measured| measured.per_s),
                    p50_ms: median(|measured| measured.p50_ms),
                    p99_ms: median(|measured| measured.p99_ms),
                    rss_kib: median(|measured| measured.rss_kib),
                }
            })
            .collect()
    }

    /// What is to be reached in a piece of work, and what was. Nothing where our relay, or whom it is compared to, was not
    /// measured.
    pub(crate) fn targets(&self, work: Work) -> Vec<Target> {
        let cpu: Of = |measured| measured.cpu_us;
        let p99: Of = |measured| measured.p99_ms;
        let times_floor = |most| self.against("CPU", "the floor", Some(Subject::Floor), work, cpu, most);
        let times_peer =
            |what, of, most| self.against(what, "the better peer", self.better_peer(work, of), work, of, most);
        let at_most = |what, of, most, unit| {
            let is = self.median(work, Subject::Gatepass, of)?;
            Some(Target {
                text: format!("{what} at most {most} {unit}"),
                is: format!("{is:.1} {unit}"),
                reached: is <= most,
            })
        };
        let targets = match work {
            Work::Fanout20 | Work::Fanout100 => [times_floor(1.1), times_peer("p99", p99, 1.0)],
            Work::Fanout300 => [times_peer("CPU", cpu, 0.9), times_peer("p99", p99, 1.0)],
            Work::Pair100 => [times_floor(1.3), None],
            Work::Pair1 => [at_most("p50", |measured| measured.p50_ms.map(|ms| ms * 1e3), 50.0, "us"), None],
            Work::Idle => [at_most("memory", |measured| measured.rss_kib, 5.0, "KiB"), None],
            Work::IdleTls => [at_most("memory", |measured| measured.rss_kib, 16.0, "KiB"), None],
            Work::Connect => [at_most("CPU", cpu, 120.0, "us"), None],
            Work::ConnectTicket => [at_most("CPU", cpu, 50.0, "us"), None],
        };
        targets.into_iter().flatten().collect()
    }

    fn against(&self, what: &str, whom: &str, other: Option<Subject>, work: Work, of: Of, most: f64) -> Option<Target> {
        let other = other?;
        let is = self.ratio(work, Subject::Gatepass, other, of)?;
        let named = if other.is_peer() { format!("{is:.2} x {other}") } else { format!("{is:.2} x") };
        Some(Target { text: format!("{what} at most {most} x {whom}"), is: named, reached: is <= most })
    }
}

/// Something to be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    /// What.
    pub(crate) text: String,
    /// What is so.
    pub(crate) is: String,
    /// Whether that is it.
    pub(crate) reached: bool,
}

/// The middle one, or the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len().checked_sub(1)? / 2;
    let other = figures.len() / 2;
    Some((figures[middle] + figures[other]) / 2.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(round: usize, work: Work, subject: Subject, cpu_us: f64, p99_ms: f64) -> Sample {
        let measured = Measured { cpu_us: Some(cpu_us), p99_ms: Some(p99_ms), ..Measured::default() };
        Sample { round, work, subject, measured }
    }

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_machine_that_was_slow_for_a_round_does_not_change_a_ratio() {
        let work = Work::Fanout20;
        let (floor, ours) = (Subject::Floor, Subject::Gatepass);
        let samples = [(5.0, 6.0), (50.0, 60.0), (5.0, 6.0), (20.0, 24.0)];
        let samples = samples.into_iter().enumerate().flat_map(|(round, (one, other))| {
            [sample(round, work, floor, one, 1.0), sample(round, work, ours, other, 1.0)]
        });
        let figures = Figures { samples: samples.collect(), ..Figures::default() };
        let ratio = figures.ratio(work, ours, floor, |measured| measured.cpu_us).unwrap();
        assert!((ratio - 1.2).abs() < 1e-9, "{ratio}");
        let [target] = &figures.targets(work)[..] else { panic!("no peer, no comparison with one") };
        assert_eq!((target.is.as_str(), target.reached), ("1.20 x", false));
    }

    #[test]
    fn the_better_peer_is_another_one_for_each_figure() {
        let work = Work::Fanout300;
        let samples = vec![
            sample(1, work, Subject::Gatepass, 3.0, 40.0),
            sample(1, work, Subject::Nats, 3.4, 140.0),
            sample(1, work, Subject::Nchan, 3.7, 50.0),
        ];
        let figures = Figures { samples, ..Figures::default() };
        let texts: Vec<_> =
            figures.targets(work).into_iter().map(|target| (target.text, target.is, target.reached)).collect();
        let is = |what: &str, most: &str, is: &str| {
            (format!("{what} at most {most} x the better peer"), is.to_owned(), true)
        };
        assert_eq!(texts, [is("CPU", "0.9", "0.88 x nats"), is("p99", "1", "0.80 x nchan")]);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let figures =
            Figures { samples: vec![sample(1, Work::Connect, Subject::Nats, 250.0, 1.5)], ..Figures::default() };
        let rows = serde_json::to_value(figures.rows()).unwrap();
        let expected = serde_json::json!([{
            "work": "connect", "subject": "nats",
            "cpu_us": 250.0, "per_s": null, "p50_ms": null, "p99_ms": 1.5, "rss_kib": null,
        }]);
        assert_eq!(rows, expected);
        assert!(figures.targets(Work::Connect).is_empty());
    }
}
