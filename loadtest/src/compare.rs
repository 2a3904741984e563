//! Two runs side by side: what is better, what is worse, by what factor.

use std::fmt::Write as _;

use crate::{
    report::{self, escape},
    results::{Results, Series},
    summary::plain,
};

/// Ratios up to this far from 1 are what the same load does twice on one machine.
const NOISE: f64 = 0.1;

/// Two runs.
pub struct Comparison {
    /// What they are called: the one before, the one after.
    pub names: [String; 2],
    /// Whatever makes the ratios doubtful: other loads, other machines.
    pub doubts: Vec<String>,
    /// One for each figure that either has.
    pub rows: Vec<Row>,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Before and after; none where it was not measured.
    pub values: [Option<f64>; 2],
    /// Whether more is better.
    pub more_is_better: bool,
}

/// One figure of a series.
type OfSeries = fn(&Series) -> f64;

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// For the better.
    Better,
    /// For the worse.
    Worse,
    /// None that means anything.
    Same,
    /// It can't be told.
    Unknown,
}

impl Row {
    /// After, as a multiple of before; none where one is missing or was nothing.
    pub fn ratio(&self) -> Option<f64> {
        let [Some(before), Some(after)] = self.values else { return None };
        if before == after { Some(1.0) } else { Some(after / before).filter(|ratio| ratio.is_finite()) }
    }

    /// What the change means.
    pub fn change(&self) -> Change {
        let grew = match (self.values, self.ratio()) {
            (_, Some(ratio)) if (ratio - 1.0).abs() <= NOISE => return Change::Same,
            (_, Some(ratio)) => ratio > 1.0,
            ([Some(before), Some(after)], None) => after > before,
            _ => return Change::Unknown,
        };
        if grew == self.more_is_better { Change::Better } else { Change::Worse }
    }
}

impl Comparison {
    /// Puts them side by side.
    pub fn of(before: &Results, after: &Results, names: [&str; 2]) -> Self {
        let runs = [before, after];
        let mut rows = Vec::new();
        let mut names_of_series: Vec<&str> = before.profile.series().to_vec();
        names_of_series.retain(|name| runs.iter().any(|run| run.series.contains_key(*name)));
        let figures: [(_, _, OfSeries, _); 5] = [
            ("p50", "ms", |series| series.p50_ms, false),
            ("p99", "ms", |series| series.p99_ms, false),
            ("p99.9", "ms", |series| series.p99_9_ms, false),
            ("max", "ms", |series| series.max_ms, false),
            ("rate", "/s", |series| series.per_s, true),
        ];
        for name in names_of_series {
            // How many there were is the load's doing; only of what the profile is about it says that the server kept up.
            let kept_up = Some(&name) == before.profile.series().first();
            for (figure, unit, of, more_is_better) in figures.into_iter().filter(|(.., rate)| kept_up || !rate) {
                let values = runs.map(|run| run.series.get(name).map(of));
                rows.push(Row { name: format!("{name} {figure}"), unit, values, more_is_better });
            }
        }
        let mut add = |name: &str, unit: &'static str, values| {
            rows.push(Row { name: name.into(), unit, values, more_is_better: false });
        };
        add("errors", "", runs.map(|run| Some(run.errors.values().sum::<u64>() as f64)));
        let of_server = |of: fn(&crate::results::ServerUse) -> f64| runs.map(|run| run.server.as_ref().map(of));
        add("server CPU", "%", of_server(|server| server.cpu_percent));
        add("server memory", "MiB", of_server(|server| server.rss_highest_kib as f64 / 1024.0));
        let each = runs.map(|run| run.server.as_ref().map(|server| server.kib_per_client).filter(|kib| *kib >= 1.0));
        add("memory a client", "KiB", each);
        rows.retain(|row| row.values.iter().any(Option::is_some));
        Self { names: names.map(str::to_owned), doubts: doubts(before, after), rows }
    }
}

fn doubts(before: &Results, after: &Results) -> Vec<String> {
    let mut doubts = Vec::new();
    let load = |run: &Results| {
        let mut profile = run.profile.clone();
        (profile.name, profile.limits) = (String::new(), vec![]);
        profile
    };
    if before.profile.kind() != after.profile.kind() {
        doubts.push(format!("they are of different kinds: {} and {}", before.profile.kind(), after.profile.kind()));
    } else if load(before) != load(after) {
        doubts.push("the loads differ: see both profiles".into());
    }
    if before.machine != after.machine {
        doubts.push("they ran on different machines".into());
    }
    if before.interrupted || after.interrupted {
        doubts.push("one was stopped before its end".into());
    }
    doubts
}

fn ratio(row: &Row) -> String {
    row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"))
}

fn value(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), plain)
}

/// For a terminal.
pub fn text(comparison: &Comparison) -> String {
    let [before, after] = &comparison.names;
    let mut text = format!("before: {before}\nafter:  {after}\n");
    for doubt in &comparison.doubts {
        let _ = writeln!(text, "careful: {doubt}");
    }
    let _ = writeln!(text, "\n{:<22} {:>10} {:>10} {:>8}", "", "before", "after", "ratio");
    for row in &comparison.rows {
        let name = if row.unit.is_empty() { row.name.clone() } else { format!("{} {}", row.name, row.unit) };
        let word = match row.change() {
            Change::Better => "  better",
            Change::Worse => "  worse",
            Change::Same | Change::Unknown => "",
        };
        let [before, after] = row.values.map(value);
        let _ = writeln!(text, "{name:<22} {before:>10} {after:>10} {:>8}{word}", ratio(row));
    }
    text
}

/// As a page.
pub fn page(comparison: &Comparison, before: &Results, after: &Results) -> String {
    let count = |change| comparison.rows.iter().filter(|row| row.change() == change).count();
    let (better, worse) = (count(Change::Better), count(Change::Worse));
    let (class, verdict) = match (better, worse) {
        (0, 0) => ("good", "no change that means anything".to_owned()),
        (_, 0) => ("good", format!("{better} better, none worse")),
        (0, _) => ("bad", format!("{worse} worse, none better")),
        _ => ("warn", format!("{better} better, {worse} worse")),
    };
    let [one, other] = comparison.names.each_ref().map(|name| escape(name));
    let doubts: Vec<String> = comparison.doubts.iter().map(|doubt| format!("Careful: {}.", escape(doubt))).collect();
    let mut rows = String::new();
    for row in &comparison.rows {
        let (class, word) = match row.change() {
            Change::Better => ("good", "better"),
            Change::Worse => ("bad", "worse"),
            Change::Same => ("", "same"),
            Change::Unknown => ("", ""),
        };
        let [before, after] = row.values.map(value);
        let _ = write!(
            rows,
            r#"<tr><th>{} <small>{}</small></th><td>{before}</td><td>{after}</td><td>{}</td><td class="{class}">{word}</td></tr>"#,
            escape(&row.name),
            row.unit,
            ratio(row)
        );
    }
    let mut plots = String::new();
    for name in before.profile.series() {
        let both = [(&one, 5, before), (&other, 0, after)];
        let lines: Vec<_> = both
            .into_iter()
            .filter_map(|(run, colour, results)| Some((run.clone(), colour, results.series.get(*name)?)))
            .collect();
        if !lines.is_empty() {
            plots += &report::by_percentile(&lines, &format!("{name}: latency by percentile"));
        }
    }
    let body = format!(
        r#"<header><h1>Two load tests</h1><span class="verdict {class}">{verdict}</span><p>before: {one}, {} · after: {other}, {}</p></header><p class="summary">{} Changes of up to {:.0} % count as the same. {}</p><div class="panel"><table><thead><tr><th></th><th>before</th><th>after</th><th>ratio</th><th></th></tr></thead><tbody>{rows}</tbody></table></div><h2>By percentile</h2><div class="plots">{plots}</div>"#,
        report::utc(before.started),
        report::utc(after.started),
        verdict_sentence(comparison),
        NOISE * 100.0,
        doubts.join(" "),
    );
    report::document("Two Gatepass load tests", &body)
}

/// The figures with the largest changes, in a sentence.
fn verdict_sentence(comparison: &Comparison) -> String {
    let far = |row: &&Row| row.ratio().map_or(0.0, |ratio| ratio.max(1e-9).ln().abs());
    let most = |change| {
        let rows = comparison.rows.iter().filter(|row| row.change() == change);
        rows.max_by(|a, b| far(a).total_cmp(&far(b))).map(|row| format!("{} ({})", escape(&row.name), ratio(row)))
    };
    match (most(Change::Better), most(Change::Worse)) {
        (None, None) => "Nothing changed that means anything.".into(),
        (Some(better), None) => format!("Improved most: {better}. Nothing got worse."),
        (None, Some(worse)) => format!("Got worse most: {worse}. Nothing improved."),
        (Some(better), Some(worse)) => format!("Improved most: {better}. Got worse most: {worse}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::run;

    fn change(comparison: &Comparison, name: &str) -> Change {
        comparison.rows.iter().find(|row| row.name == name).map(Row::change).unwrap()
    }

    #[test]
    fn a_slower_run_is_worse_a_faster_one_better_and_a_little_is_nothing() {
        let slow = run(&[10; 50]);
        for (latency, expected) in [(20, Change::Worse), (5, Change::Better), (10, Change::Same)] {
            let comparison = Comparison::of(&slow, &run(&[latency; 50]), ["a", "b"]);
            assert_eq!(change(&comparison, "pairing p99"), expected, "{latency}");
            assert!(comparison.doubts.is_empty());
        }
        let comparison = Comparison::of(&slow, &run(&[20; 50]), ["a", "b"]);
        assert!(text(&comparison).contains("2.00x  worse"), "{}", text(&comparison));
    }

    #[test]
    fn errors_out_of_nowhere_are_worse_and_no_ratio() {
        let (before, mut after) = (run(&[1]), run(&[1]));
        after.errors.insert("pairing: timeout".into(), 3);
        let comparison = Comparison::of(&before, &after, ["a", "b"]);
        assert_eq!(change(&comparison, "errors"), Change::Worse);
        assert!(page(&comparison, &before, &after).contains("1 worse, none better"));
    }

    #[test]
    fn what_makes_a_comparison_doubtful_is_said() {
        let (before, mut after) = (run(&[1]), run(&[1]));
        (after.profile.agents, after.machine.cpus, after.interrupted) = (9, 64, true);
        assert_eq!(Comparison::of(&before, &after, ["a", "b"]).doubts.len(), 3);
    }
}
