//! What a run came to, in plain words: for a terminal, and for the top of the report.

use crate::{
    limits::Metric,
    profile::Load,
    results::{Results, Series, Verdict},
};

/// A machine of which others use this part, in percent, is not quiet. The kernel's own work for loopback stays below.
const BUSY: f64 = 25.0;
/// A tester that is later than this part of what it measures says so.
const LATE: f64 = 0.2;

/// Sentences, the most important first.
pub fn sentences(results: &Results) -> Vec<String> {
    let mut said = vec![what_was_done(results)];
    said.extend(who_was_missing(results));
    if results.interrupted {
        said.push(format!("It was stopped after {}; these are partial results.", seconds(results.seconds)));
    }
    said.push(how_long_it_took(results));
    if let (Load::Storm(_), Some(newcomer)) = (&results.profile.load, results.series.get("newcomer")) {
        said.push(format!("Who came for the first time meanwhile waited {}.", spread(newcomer)));
    }
    if let (Load::Revocation(_), Some(last)) = (&results.profile.load, results.series.get("last")) {
        said.push(format!(
            "The last computer of a list heard of it after {} at the median, after {} at worst.",
            ms(last.p50_ms),
            ms(last.max_ms)
        ));
    }
    said.push(what_failed(results));
    said.extend(what_the_server_used(results));
    said.extend(caution(results));
    said.extend(company(results));
    said.push(limits(results));
    said
}

fn what_was_done(results: &Results) -> String {
    let profile = &results.profile;
    let crowd = match (profile.agents, profile.phones) {
        (agents, 0) => format!("{} computers connected", number(agents.into())),
        (agents, phones) => {
            format!("{} computers and {} phones connected", number(agents.into()), number(phones.into()))
        }
    };
    let done = match &profile.load {
        Load::Idle(load) => format!("and did nothing for {}", seconds(load.seconds)),
        Load::Storm(load) => {
            let whom =
                if load.cut_percent >= 100.0 { "all".to_owned() } else { format!("{} % of them", load.cut_percent) };
            let times = if load.rounds == 1 { "once".to_owned() } else { format!("{} times", load.rounds) };
            format!("and {whom} were cut off at once, {times}")
        }
        Load::Pairings(load) => {
            let real = if load.handshake { "with real handshakes" } else { "with messages of real sizes" };
            format!("and {} QR codes a second were scanned for {}, {real}", load.per_second, seconds(load.seconds))
        }
        Load::Messages(load) => format!(
            "and {} messages of {} bytes a second went to and fro in {} pairings for {}",
            load.per_second,
            load.bytes,
            number(profile.agents.min(profile.phones).into()),
            seconds(load.seconds)
        ),
        Load::Fanout(load) => format!(
            "and {} messages of {} bytes a second were published for {} to {}",
            load.per_second,
            load.bytes,
            seconds(load.seconds),
            if load.channels == 1 { "all computers".to_owned() } else { format!("{} channels", load.channels) }
        ),
        Load::Revocation(load) => {
            format!("and {} revocation lists of {} entries were put in force", load.lists, load.entries)
        }
        Load::Day(load) => {
            format!("and lived through a working day of {} for each hour", seconds(load.seconds_per_hour))
        }
    };
    format!("{crowd} {done}.")
}

/// Clients that never were let in. Through a day they come and go, and some come twice.
fn who_was_missing(results: &Results) -> Option<String> {
    let (meant, came) =
        (u64::from(results.profile.clients()), results.series.get("connect").map_or(0, |series| series.count));
    let all_meant_to_come = !results.interrupted && !matches!(results.profile.load, Load::Day(_));
    (all_meant_to_come && came < meant)
        .then(|| format!("Only {} of these {} were let in.", number(came), number(meant)))
}

fn how_long_it_took(results: &Results) -> String {
    let (name, headline) = results.headline();
    let what = match name {
        "connect" => "Connecting, until let in,",
        "reconnect" => "Coming back, from the cut until let in again,",
        "pairing" => "From QR read to result, with the human left out, it",
        "delivery" => "A message, from when it was due to its arrival,",
        "revocation" => "A list, from the administrator's signature to a computer,",
        _ => "It",
    };
    match headline {
        Some(series) => format!("{what} took {} ({} of them).", spread(series), number(series.count)),
        None => format!("Nothing was measured as \"{name}\"."),
    }
}

/// "2.1 ms at the median, 4.8 ms at most for 99 of 100, 31 ms at worst"
fn spread(series: &Series) -> String {
    format!(
        "{} at the median, at most {} for 99 of 100, {} at worst",
        ms(series.p50_ms),
        ms(series.p99_ms),
        ms(series.max_ms)
    )
}

fn what_failed(results: &Results) -> String {
    let failed: u64 = results.errors.values().sum();
    let tried: u64 = results.retries.values().sum();
    let again = match tried {
        0 => String::new(),
        _ => format!(
            " {} times something was refused or broke and was tried again ({}).",
            number(tried),
            kinds(&results.retries)
        ),
    };
    match failed {
        0 => format!("Nothing failed.{again}"),
        _ => format!("{} failed: {}.{again}", number(failed), kinds(&results.errors)),
    }
}

fn kinds(counts: &std::collections::BTreeMap<String, u64>) -> String {
    const MOST: usize = 4;
    let mut all: Vec<_> = counts.iter().collect();
    all.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    let more = all.len().saturating_sub(MOST);
    let mut said: Vec<String> =
        all.iter().take(MOST).map(|(kind, times)| format!("{kind}, {}", number(**times))).collect();
    if more > 0 {
        said.push(format!("{more} more kinds"));
    }
    said.join("; ")
}

fn what_the_server_used(results: &Results) -> Option<String> {
    let server = results.server.as_ref()?;
    let each = match server.kib_per_client {
        // Less is memory that it had from before: what a client costs is seen at a server that has just started.
        kib if kib >= 1.0 => format!(", {kib:.1} KiB for each connected client"),
        _ => String::new(),
    };
    Some(format!(
        "The server used {:.0} % of one core during the load, and {} at most{each}.",
        server.cpu_percent,
        kib(server.rss_highest_kib)
    ))
}

fn caution(results: &Results) -> Option<String> {
    let (_, headline) = results.headline();
    let late = results.lag.p99_ms;
    (headline.is_some_and(|series| late > 0.1 && late > series.p99_ms * LATE)).then(|| {
        format!(
            "Caution: the tester itself was up to {} late (99 of 100), which is part of these figures; give it more workers or a \
             machine of its own.",
            ms(late)
        )
    })
}

/// Who else was at it.
fn company(results: &Results) -> Option<String> {
    (results.others_cpu_percent >= BUSY).then(|| {
        format!(
            "Caution: {:.0} % of this machine's processors went to other programs and the kernel meanwhile; a quiet machine gives \
             better figures.",
            results.others_cpu_percent
        )
    })
}

fn limits(results: &Results) -> String {
    let broken = results.broken_limits();
    match (results.limits.len(), broken.len()) {
        (0, _) => "No limit was set.".into(),
        (1, 0) => "The one limit held.".into(),
        (all, 0) => format!("All {all} limits held."),
        _ => format!("Limits broken: {}.", broken.iter().map(|verdict| judged(verdict)).collect::<Vec<_>>().join("; ")),
    }
}

/// "pairing.p99_ms is 7.3, must be at most 5"
pub fn judged(verdict: &Verdict) -> String {
    let bound = if verdict.limit.at_least { "at least" } else { "at most" };
    let value = verdict.value.map_or_else(|| "was not measured".to_owned(), |value| format!("is {}", plain(value)));
    format!("{} {value}, must be {bound} {}", verdict.limit.metric, plain(verdict.limit.value))
}

/// The name of a metric's value where it stands in a table.
pub fn unit(metric: &Metric) -> &'static str {
    match metric {
        Metric::Percentile { .. } | Metric::Mean { .. } => "ms",
        Metric::Rate { .. } => "/s",
        Metric::ErrorPercent | Metric::ServerCpu => "%",
        Metric::ServerMemory => "MiB",
        Metric::ServerMemoryPerClient => "KiB",
        Metric::Count { .. } | Metric::Errors => "",
    }
}

/// A number with as many digits as mean something.
pub fn plain(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => trimmed(format!("{value:.2}")),
        small if small < 100.0 => trimmed(format!("{value:.1}")),
        _ => number(value.round() as u64),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Milliseconds, or seconds where there are many.
pub fn ms(value: f64) -> String {
    match value {
        long if long >= 1_000.0 => format!("{} s", plain(value / 1_000.0)),
        short if short > 0.0 && short < 0.01 => format!("{} µs", plain(value * 1_000.0)),
        short if short > 0.0 && short < 1.0 => format!("{} µs", plain((value * 1_000.0).round())),
        _ => format!("{} ms", plain(value)),
    }
}

/// KiB as MiB, or GiB.
pub fn kib(value: u64) -> String {
    let mib = value as f64 / 1024.0;
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

/// Thousands apart: 12,000.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn seconds(value: f64) -> String {
    let rounded = plain(value);
    if value < 120.0 { format!("{rounded} s") } else { format!("{} min", plain(value / 60.0)) }
}

/// The table of latencies, for a terminal.
pub fn table(results: &Results) -> String {
    let mut text = format!(
        "{:<12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "", "count", "per s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"
    );
    let mut names: Vec<&str> = results.profile.series().to_vec();
    names.extend(results.series.keys().map(String::as_str).filter(|name| !results.profile.series().contains(name)));
    for name in names {
        let Some(series) = results.series.get(name) else { continue };
        text += &row(name, series);
    }
    text += &row("(tester lag)", &results.lag);
    text
}

fn row(name: &str, series: &Series) -> String {
    let Series { count, per_s, p50_ms, p90_ms, p99_ms, p99_9_ms, max_ms, .. } = series;
    let [per_s, p50, p90, p99, p999, max] =
        [per_s, p50_ms, p90_ms, p99_ms, p99_9_ms, max_ms].map(|value| plain(*value));
    format!("{name:<12} {:>10} {per_s:>9} {p50:>9} {p90:>9} {p99:>9} {p999:>9} {max:>9}\n", number(*count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_write_them() {
        for (value, shown) in
            [(0.0, "0"), (0.1234, "0.123"), (4.0, "4"), (4.567, "4.57"), (45.67, "45.7"), (12_345.6, "12,346")]
        {
            assert_eq!(plain(value), shown);
        }
        assert_eq!(ms(0.0456), "46 µs");
        assert_eq!((ms(12_000.0).as_str(), ms(999.4).as_str(), ms(0.0005).as_str()), ("12 s", "999 ms", "0.500 µs"));
        assert_eq!((number(999).as_str(), number(1_000_000).as_str()), ("999", "1,000,000"));
        assert_eq!(kib(512 * 1024), "512 MiB");
    }

    #[test]
    fn somebody_who_reads_only_the_first_lines_knows_how_it_went() {
        let mut results = crate::results::tests::run(&[2, 2, 2, 40]);
        results.errors.insert("claim: quota".into(), 1_200);
        results.interrupted = true;
        (results.lag.p99_ms, results.others_cpu_percent) = (30.0, 61.0);
        results.judge(&[crate::limits::Limit::parse("p99_ms=5", &["pairing"]).unwrap()]);
        let said = sentences(&results).join(" ");
        for part in [
            "500 computers and 500 phones connected",
            "these are partial results",
            "it took 2 ms at the median",
            "1,200 failed: claim: quota, 1,200.",
            "the tester itself was up to 30 ms late",
            "61 % of this machine's processors went to other programs",
            "Limits broken: pairing.p99_ms is 40, must be at most 5.",
        ] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}
