//! A run as one page: what it came to in plain words, the figures that matter, plots, tables. One file, no script, light and
//! dark.

mod svg;

use std::fmt::Write as _;

use crate::{
    limits::Metric,
    measure::{add, histogram},
    results::{Results, Series, ms as millis},
    server::Sample,
    summary::{self, judged, kib, ms, number, plain},
};

pub(crate) use svg::escape;
use svg::{Axis, Line, Plot, Scale};

const STYLE: &str = include_str!("style.css");
/// Where the median is on the axis of percentiles: the logarithm of how rare something is.
const MEDIAN: f64 = std::f64::consts::LOG10_2;
/// The page's colours in the order in which they are told apart best; 5 is grey, for the tester itself.
const COLOURS: [usize; 7] = [0, 1, 2, 3, 4, 6, 7];
/// Points of the line by percentile for each factor of ten.
const PER_DECADE: i32 = 15;

/// The page.
pub fn page(results: &Results) -> String {
    let (headline, _) = results.headline();
    // Of a storm everything is due at once, so that there is nothing to see over time but of those who came meanwhile.
    let moments = |name: &str| results.series.get(name).map_or(0, |series| series.over_time.len());
    let names = results.profile.series();
    let shown = if moments(headline) > 3 {
        headline
    } else {
        names.iter().max_by_key(|name| moments(name)).unwrap_or(&headline)
    };
    let mut body = head(results);
    let _ = write!(body, r#"<div class="cards">{}</div>"#, cards(results));
    let plots: Vec<String> = [
        latency_over_time(results, shown),
        by_percentile(&percentile_lines(results), "Latency by percentile"),
        throughput(results, shown),
        online(results),
        memory(results),
        cpu(results),
        errors_over_time(results),
    ]
    .into();
    let _ = write!(body, r#"<h2>Over time</h2><div class="plots">{}</div>"#, plots.concat());
    let _ = write!(body, "<h2>Latencies</h2>{}", latencies(results));
    let others = names.iter().filter(|name| **name != shown && moments(name) > 1);
    let others: String = others.map(|name| latency_over_time(results, name)).collect();
    if !others.is_empty() {
        let _ = write!(
            body,
            r#"<details><summary>The other latencies over time</summary><div class="plots">{others}</div></details>"#
        );
    }
    body += &limits(results);
    body += &failures(results);
    body += &conditions(results);
    document(&format!("{} · Gatepass load test", results.profile.name), &body)
}

/// A page of this look.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\"><title>{}</title><style>{STYLE}</style></head><body><main>{body}<footer>gatepass-loadtest {}. \
         Latencies count from when something was meant to happen, not from when the tester got to it. Merged from HDR histograms \
         of three digits.</footer></main></body></html>\n",
        escape(title),
        env!("CARGO_PKG_VERSION"),
    )
}

fn head(results: &Results) -> String {
    let (class, verdict) = match (results.interrupted, results.limits.len(), results.broken_limits().len()) {
        (true, ..) => ("warn", "stopped early".to_owned()),
        (_, 0, _) => ("warn", "no limit set".to_owned()),
        (_, 1, 0) => ("good", "the one limit held".to_owned()),
        (_, all, 0) => ("good", format!("all {all} limits held")),
        (.., 1) => ("bad", "1 limit broken".to_owned()),
        (.., broken) => ("bad", format!("{broken} limits broken")),
    };
    let mut sentences = summary::sentences(results).into_iter();
    let first = sentences.next().unwrap_or_default();
    let mut rest = sentences.collect::<Vec<_>>().join(" ");
    // A line never breaks between a number and its unit.
    for unit in ["ms", "µs", "s ", "s,", "s.", "MiB", "KiB", "%"] {
        rest = rest.replace(&format!(" {unit}"), &format!("\u{a0}{unit}"));
    }
    format!(
        r#"<header><h1>Load test: {}</h1><span class="verdict {class}">{verdict}</span><p>{} · {} · seed {}</p></header><p class="summary"><span class="first">{}</span>{}</p>"#,
        escape(&results.profile.name),
        escape(&results.target),
        utc(results.started),
        results.profile.seed,
        escape(&first),
        escape(&rest)
    )
}

fn cards(results: &Results) -> String {
    let (name, headline) = results.headline();
    let mut cards = Vec::new();
    let mut card = |value: String, what: String| {
        cards.push(format!(r#"<div class="card"><b>{value}</b><span>{}</span></div>"#, escape(&what)))
    };
    if let Some(series) = headline {
        card(ms(series.p50_ms), format!("{name}, median"));
        card(ms(series.p99_ms), format!("{name}, 99 of 100"));
        card(ms(series.max_ms), format!("{name}, slowest"));
        card(format!("{}/s", plain(series.per_s)), format!("{name}, {} in all", number(series.count)));
    }
    let errors: u64 = results.errors.values().sum();
    let class = if errors > 0 { "bad" } else { "good" };
    card(format!(r#"<span class="{class}">{}</span>"#, number(errors)), "failed for good".into());
    if let Some(server) = &results.server {
        card(kib(server.rss_highest_kib), "server's memory at most".into());
        card(format!("{:.0} %", server.cpu_percent), "server's CPU, of one core".into());
        if server.kib_per_client >= 1.0 {
            card(format!("{:.1} KiB", server.kib_per_client), "memory a connected client".into());
        }
    }
    cards.concat()
}

fn latency_over_time(results: &Results, name: &str) -> String {
    let Some(series) = results.series.get(name) else { return String::new() };
    let line = |title: &str, colour, of: fn(&crate::results::Point) -> f64| Line {
        name: title.to_owned(),
        colour,
        points: series.over_time.iter().map(|point| (f64::from(point.s), of(point))).collect(),
    };
    let limit = results.limits.iter().find_map(|verdict| match &verdict.limit.metric {
        Metric::Percentile { series, .. } if series == name => Some(verdict.limit.value),
        _ => None,
    });
    Plot {
        title: &format!("{name}: latency"),
        note: "by the second in which it was due; logarithmic",
        lines: vec![
            line("slowest", 5, |point| point.max_ms),
            line("99 of 100", 1, |point| point.p99_ms),
            line("median", 0, |point| point.p50_ms),
        ],
        y: Scale::Log,
        y_text: ms,
        x: Axis::Seconds(results.seconds),
        mark: load_begins(results),
        limit,
    }
    .figure()
}

fn load_begins(results: &Results) -> Option<(f64, &'static str)> {
    (results.load_from > results.seconds * 0.02).then_some((results.load_from, "load begins"))
}

fn percentile_lines(results: &Results) -> Vec<(String, usize, &Series)> {
    let names = results.profile.series().iter().filter_map(|name| Some((name, results.series.get(*name)?)));
    let mut lines: Vec<_> =
        names.enumerate().map(|(n, (name, series))| ((*name).to_owned(), COLOURS[n % COLOURS.len()], series)).collect();
    if results.lag.count > 0 {
        lines.push(("the tester's own lateness".into(), 5, &results.lag));
    }
    lines
}

/// Latency by percentile: the further right, the rarer.
pub(crate) fn by_percentile(series: &[(String, usize, &Series)], title: &str) -> String {
    let rarest = series.iter().map(|(.., series)| (series.count.max(1) as f64).log10()).fold(0.0, f64::max);
    // From the median on: what is faster than most is of no interest.
    let first = (MEDIAN * f64::from(PER_DECADE)) as i32;
    let line = |(name, colour, series): &(String, usize, &Series)| {
        let mut all = histogram();
        add(&mut all, &series.histogram);
        let last = ((series.count.max(1) as f64).log10() * f64::from(PER_DECADE)).floor() as i32;
        let at = |step: i32| {
            let x = f64::from(step) / f64::from(PER_DECADE);
            (x, millis(all.value_at_percentile((1.0 - 10_f64.powf(-x)) * 100.0)))
        };
        Line { name: name.clone(), colour: *colour, points: (first..=last).map(at).collect() }
    };
    let ticks = [
        (MEDIAN, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
        (5.0, "99.999 %"),
        (6.0, "99.9999 %"),
    ];
    let ticks = ticks.into_iter().filter(|(x, _)| *x <= rarest.max(1.0)).map(|(x, text)| (x, text.to_owned()));
    Plot {
        title,
        note: "to the right of 99 % is the slowest hundredth; logarithmic",
        lines: series.iter().map(line).collect(),
        y: Scale::Log,
        y_text: ms,
        x: Axis::Marked(ticks.collect()),
        mark: None,
        limit: None,
    }
    .figure()
}

fn over_time(results: &Results, title: &str, note: &str, lines: Vec<Line>, y_text: fn(f64) -> String) -> String {
    let plot = Plot {
        title,
        note,
        lines,
        y: Scale::Linear,
        y_text,
        x: Axis::Seconds(results.seconds),
        mark: load_begins(results),
        limit: None,
    };
    plot.figure()
}

fn one(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Vec<Line> {
    vec![Line { name: name.to_owned(), colour, points }]
}

fn throughput(results: &Results, name: &str) -> String {
    let Some(series) = results.series.get(name) else { return String::new() };
    // The first and the last second are begun and not whole.
    let whole = match series.over_time.as_slice() {
        [_, whole @ .., _] if whole.len() > 1 => whole,
        all => all,
    };
    let points = whole.iter().map(|point| (f64::from(point.s), point.per_s)).collect();
    over_time(
        results,
        &format!("{name}: how many a second"),
        "that came to their end, by when they were due",
        one(name, 3, points),
        plain,
    )
}

fn online(results: &Results) -> String {
    let points = results.online.iter().map(|(s, online)| (*s, *online as f64)).collect();
    over_time(results, "Clients online", "let in by the relay and listening", one("online", 4, points), plain)
}

fn memory(results: &Results) -> String {
    let Some(server) = &results.server else { return String::new() };
    let points = server.samples.iter().map(|sample| (sample.s, sample.rss_kib as f64 / 1024.0)).collect();
    over_time(results, "The server's memory", "resident", one("memory", 0, points), |mib| format!("{} MiB", plain(mib)))
}

fn cpu(results: &Results) -> String {
    let Some(server) = &results.server else { return String::new() };
    let busy = |pair: &[Sample]| {
        (pair[1].s, (pair[1].cpu_seconds - pair[0].cpu_seconds) / (pair[1].s - pair[0].s).max(1e-3) * 100.0)
    };
    let points = server.samples.windows(2).map(busy).collect();
    over_time(results, "The server's CPU", "of one core", one("cpu", 1, points), |percent| {
        format!("{} %", plain(percent))
    })
}

fn errors_over_time(results: &Results) -> String {
    let lines = results.errors_over_time.iter().enumerate().map(|(n, (kind, seconds))| Line {
        name: kind.clone(),
        colour: [2, 1, 4, 7, 6, 0, 3, 5][n % 8],
        points: seconds.iter().map(|(s, times)| (f64::from(*s), *times as f64)).collect(),
    });
    over_time(results, "Errors", "by kind, a second", lines.collect(), plain)
}

fn latencies(results: &Results) -> String {
    let row = |name: &str, series: &Series| {
        let Series { count, per_s, mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, p99_9_ms, p99_99_ms, max_ms, .. } = series;
        let cells = [mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, p99_9_ms, p99_99_ms, max_ms]
            .map(|value| format!("<td>{}</td>", plain(*value)));
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td>{}</tr>",
            escape(name),
            number(*count),
            plain(*per_s),
            cells.concat()
        )
    };
    let mut rows = String::new();
    for name in results.profile.series() {
        rows += &results.series.get(*name).map(|series| row(name, series)).unwrap_or_default();
    }
    let rest = results.series.iter().filter(|(name, _)| !results.profile.series().contains(&name.as_str()));
    rest.for_each(|(name, series)| rows += &row(name, series));
    rows += &row("the tester's own lateness", &results.lag);
    let head = ["milliseconds", "count", "per s", "mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
        .map(|name| format!("<th>{name}</th>"));
    format!(r#"<div class="panel"><table><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table></div>"#, head.concat())
}

fn limits(results: &Results) -> String {
    if results.limits.is_empty() {
        return String::new();
    }
    let row = |verdict: &crate::results::Verdict| {
        let (class, word) = if verdict.holds { ("good", "held") } else { ("bad", "broken") };
        format!(r#"<tr><td class="text">{}</td><td class="{class}">{word}</td></tr>"#, escape(&judged(verdict)))
    };
    let rows: String = results.limits.iter().map(row).collect();
    format!(r#"<h2>Limits</h2><div class="panel"><table><tbody>{rows}</tbody></table></div>"#)
}

fn failures(results: &Results) -> String {
    let table = |title: &str, note: &str, kinds: &std::collections::BTreeMap<String, u64>, colour: usize| {
        let most = kinds.values().copied().max().unwrap_or(1).max(1) as f64;
        let mut all: Vec<_> = kinds.iter().collect();
        all.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let row = |(kind, times): (&String, &u64)| {
            let width = *times as f64 / most * 220.0;
            format!(
                r#"<tr><th>{}</th><td class="text"><span class="bar f{colour}" style="width: {width:.0}px"></span></td><td>{}</td></tr>"#,
                escape(kind),
                number(*times)
            )
        };
        let rows: String = all.into_iter().map(row).collect();
        format!(r#"<h2>{title}</h2><p>{note}</p><div class="panel"><table><tbody>{rows}</tbody></table></div>"#)
    };
    let mut text = String::new();
    if !results.errors.is_empty() {
        text += &table("What failed", "For good: it had no outcome, or not the right one.", &results.errors, 2);
    }
    if !results.retries.is_empty() {
        text += &table(
            "What was tried again",
            "Refused or broken, and repeated by the product's own rules.",
            &results.retries,
            1,
        );
    }
    text
}

fn conditions(results: &Results) -> String {
    let machine = &results.machine;
    let settings = serde_json::to_string_pretty(&results.profile).unwrap_or_default();
    let mut rows = vec![
        (
            "Machine",
            format!("{} × {}, {}, Linux {}", machine.cpus, machine.cpu, kib(machine.memory_kib), machine.kernel),
        ),
        (
            "Tester",
            format!(
                "{} worker{}, {:.1} s of processor time in {:.0} s",
                results.workers,
                if results.workers == 1 { "" } else { "s" },
                results.tester_cpu_seconds,
                results.seconds
            ),
        ),
    ];
    let others = format!(
        "{:.0} % of this machine's processors during the load, the kernel included",
        results.others_cpu_percent
    );
    rows.push(("Other programs", others));
    if let Some(server) = &results.server {
        rows.push((
            "Server",
            format!(
                "{} (process{}): {} before, {} when all were connected, {} at most, {} at the end",
                server.name,
                server.processes.iter().map(|pid| format!(" {pid}")).collect::<String>(),
                kib(server.rss_before_kib),
                kib(server.rss_connected_kib),
                kib(server.rss_highest_kib),
                kib(server.rss_after_kib)
            ),
        ));
    } else {
        rows.push(("Server", "not on this machine, or not to be seen by this user: no memory and CPU".into()));
    }
    let counts: Vec<String> = results.counts.iter().map(|(what, times)| format!("{what} {}", number(*times))).collect();
    if !counts.is_empty() {
        rows.push(("Counted", counts.join(", ")));
    }
    let rows: String = rows
        .iter()
        .map(|(name, text)| format!(r#"<tr><th>{name}</th><td class="text">{}</td></tr>"#, escape(text)))
        .collect();
    format!(
        r#"<h2>Conditions</h2><div class="panel"><table><tbody>{rows}</tbody></table></div><details><summary>The profile, complete</summary><div class="panel"><pre>{}</pre></div></details>"#,
        escape(&settings)
    )
}

/// `2026-11-26 22:46 UTC` of Unix seconds (civil from days, Howard Hinnant's algorithm).
pub(crate) fn utc(unix: u64) -> String {
    let (days, of_day) = ((unix / 86_400) as i64 + 719_468, unix % 86_400);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3_600, of_day / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_file_without_scripts_and_what_came_from_elsewhere_is_text() {
        let mut results = crate::results::tests::run(&[2, 3, 40]);
        results.errors.insert("<script>alert(1)</script>".into(), 1);
        results.profile.name = "\"><img src=x>".into();
        let page = page(&results);
        for never in ["<script", "<img", "href=", "@import"] {
            assert!(!page.contains(never), "{never}");
        }
        assert!(
            page.contains("&lt;script&gt;") && page.contains("<svg") && page.contains("prefers-color-scheme: dark")
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix, shown) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_800_000_000, "2027-01-15 08:00 UTC"),
        ] {
            assert_eq!(utc(unix), shown);
        }
    }
}
