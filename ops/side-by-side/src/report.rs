//! The result as one HTML file that needs nothing else: what was to be reached, and for each piece of work a table and plots. Each
//! round is a dot, so that a reader sees how far a median can be trusted.

use std::fmt::Write as _;

use crate::{
    figures::{Figures, Of, Row},
    machine::Machine,
    subject::Subject,
    table::{grouped, main_figure, title},
    work::{Size, Work},
};

const STYLE: &str = include_str!("report.css");
/// The plots' width, and the height of one subject's line in them.
const WIDTH: f64 = 640.0;
const LINE: f64 = 30.0;
/// Where the names end and the axis begins, and where it ends.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 96.0;

/// The file.
pub(crate) fn html(figures: &Figures, size: &Size, machine: &Machine) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Gatepass beside its peers</title>\n<style>{STYLE}</style>\n<h1>Gatepass beside its peers</h1>\n"
    );
    let _ = writeln!(out, "<p class=\"machine\">{}</p>", machine.lines().map(|line| escaped(&line)).join("<br>"));
    reached(&mut out, figures, size);
    let rows = figures.rows();
    for work in Work::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.work == work).collect();
        if !rows.is_empty() {
            section(&mut out, figures, size, work, &rows);
        }
    }
    out.push_str(
        "<p class=\"note\">Medians of all rounds; a dot is one round. Processor time is the server's own, its kernel time included; \
         latency is measured by the clients, in the fan-out from the moment when a message was to be sent. Ratios are the medians of \
         the ratios within a round.</p>\n</html>\n",
    );
    out
}

fn reached(out: &mut String, figures: &Figures, size: &Size) {
    let all: Vec<_> = Work::ALL
        .into_iter()
        .flat_map(|work| figures.targets(work).into_iter().map(move |target| (work, target)))
        .collect();
    if all.is_empty() {
        return;
    }
    out.push_str("<table class=\"reach\"><tr><th>work<th>to be reached<th>is<th></tr>\n");
    for (work, target) in all {
        let (class, word) = if target.reached { ("yes", "reached") } else { ("no", "missed") };
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td class=\"n\">{}<td class=\"{class}\">{word}</tr>",
            title(work, size),
            target.text,
            target.is
        );
    }
    out.push_str("</table>\n");
}

fn section(out: &mut String, figures: &Figures, size: &Size, work: Work, rows: &[&Row]) {
    let (unit, of) = main_figure(work);
    let _ = writeln!(out, "<h2>{}</h2>", title(work, size));
    out.push_str(
        "<table><tr><th><th>CPU us<th>per s<th>p50 ms<th>p99 ms<th>KiB<th>x floor<th>x better peer<th>load<th>others</tr>\n",
    );
    let better = figures.better_peer(work, of);
    for row in rows {
        let cell =
            |figure: Option<f64>, digits: usize| figure.map(|figure| format!("{figure:.digits$}")).unwrap_or_default();
        let ratio = |to: Option<Subject>| {
            let to = to.filter(|to| *to != row.subject);
            cell(to.and_then(|to| figures.ratio(work, row.subject, to, of)), 2)
        };
        let share = |of: Of| figures.median(work, row.subject, of).map(|share| format!("{:.0} %", share * 100.0));
        let cells = [
            cell(row.cpu_us, 1),
            row.per_s.map(grouped).unwrap_or_default(),
            cell(row.p50_ms, 3),
            cell(row.p99_ms, 3),
            cell(row.rss_kib, 1),
            ratio(Some(Subject::Floor)),
            ratio(better),
            share(|measured| measured.load_share).unwrap_or_default(),
            share(|measured| measured.others_share).unwrap_or_default(),
        ];
        let cells: String = cells.iter().map(|cell| format!("<td class=\"n\">{cell}")).collect();
        let _ = writeln!(out, "<tr class=\"{0}\"><th>{0}{cells}</tr>", row.subject);
    }
    out.push_str("</table>\n<div class=\"plots\">\n");
    if work != Work::Pair1 {
        bars(out, figures, work, rows, unit, of);
    }
    if rows.iter().any(|row| row.p99_ms.is_some()) {
        spans(out, figures, work, rows);
    }
    out.push_str("</div>\n");
}

/// A bar for each subject's median, a dot for each round.
fn bars(out: &mut String, figures: &Figures, work: Work, rows: &[&Row], unit: &str, of: Of) {
    let all = rows.iter().flat_map(|row| figures.of(work, row.subject)).filter_map(|sample| of(&sample.measured));
    let most = all.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let x = |figure: f64| LEFT + (RIGHT - LEFT) * figure / most;
    begin(out, rows.len(), &format!("{unit}, less is better"));
    for (at, row) in rows.iter().enumerate() {
        let Some(median) = figures.median(work, row.subject, of) else { continue };
        let top = name(out, at, row.subject);
        let width = x(median) - LEFT;
        let _ = writeln!(
            out,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>",
            row.subject,
            top - 8.0
        );
        for sample in figures.of(work, row.subject) {
            if let Some(figure) = of(&sample.measured) {
                let _ = writeln!(out, "<circle class=\"round\" cx=\"{:.1}\" cy=\"{top:.1}\" r=\"2.5\"/>", x(figure));
            }
        }
        value(out, top, &format!("{median:.1}"));
    }
    out.push_str("</svg>\n");
}

/// From the median latency to the 99th percentile, in powers of ten.
fn spans(out: &mut String, figures: &Figures, work: Work, rows: &[&Row]) {
    let both = |measured: &crate::work::Measured| Some((measured.p50_ms?.max(1e-4), measured.p99_ms?.max(1e-4)));
    let samples = rows.iter().flat_map(|row| figures.of(work, row.subject));
    let all: Vec<f64> = samples.filter_map(|sample| both(&sample.measured)).flat_map(|(p50, p99)| [p50, p99]).collect();
    let least = all.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
    let most = all.iter().copied().fold(0.0, f64::max).log10().ceil().max(least + 1.0);
    let x = |ms: f64| LEFT + (RIGHT - LEFT) * (ms.log10() - least) / (most - least);
    begin(out, rows.len(), "latency in ms, from p50 to p99, in powers of ten");
    let bottom = 26.0 + LINE * rows.len() as f64;
    for power in least as i32..=most as i32 {
        let at = x(10_f64.powi(power));
        let _ = writeln!(out, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"22\" y2=\"{bottom:.1}\"/>");
        let _ = writeln!(
            out,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 12.0,
            10_f64.powi(power)
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let (Some(p50), Some(p99)) = (row.p50_ms, row.p99_ms) else { continue };
        let (p50, p99) = (p50.max(1e-4), p99.max(1e-4));
        let top = name(out, at, row.subject);
        let _ = writeln!(
            out,
            "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" rx=\"5\"/>",
            row.subject,
            x(p50) - 3.0,
            top - 5.0,
            x(p99) - x(p50) + 6.0
        );
        for (p50, p99) in figures.of(work, row.subject).filter_map(|sample| both(&sample.measured)) {
            for ms in [p50, p99] {
                let _ = writeln!(out, "<circle class=\"round\" cx=\"{:.1}\" cy=\"{top:.1}\" r=\"2.5\"/>", x(ms));
            }
        }
        value(out, top, &format!("{} / {}", short(p50), short(p99)));
    }
    out.push_str("</svg>\n");
}

fn begin(out: &mut String, lines: usize, caption: &str) {
    let height = 42.0 + LINE * lines as f64;
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{caption}\">\n<text class=\"caption\" x=\"0\" y=\"13\">{caption}</text>"
    );
}

/// A subject's name before its line; where the line is.
fn name(out: &mut String, at: usize, subject: Subject) -> f64 {
    let top = 26.0 + LINE * (at as f64 + 0.5);
    let _ = writeln!(out, "<text class=\"name\" x=\"{}\" y=\"{:.1}\">{subject}</text>", LEFT - 8.0, top + 4.0);
    top
}

fn value(out: &mut String, top: f64, text: &str) {
    let _ = writeln!(out, "<text class=\"value\" x=\"{}\" y=\"{:.1}\">{text}</text>", RIGHT + 10.0, top + 4.0);
}

/// Three digits.
fn short(ms: f64) -> String {
    match ms {
        100.0.. => format!("{ms:.0}"),
        10.0..100.0 => format!("{ms:.1}"),
        1.0..10.0 => format!("{ms:.2}"),
        _ => format!("{ms:.3}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::sample;

    #[test]
    fn the_report_needs_nothing_else_and_shows_every_round() {
        let work = Work::Fanout20;
        let mut samples = vec![];
        for round in 1..=3 {
            for (subject, cpu_us) in [(Subject::Floor, 5.0), (Subject::Gatepass, 5.2), (Subject::Nats, 15.0)] {
                let mut sample = sample(round, work, subject, cpu_us + round as f64 / 10.0, 7.0);
                sample.measured.p50_ms = Some(3.0);
                samples.push(sample);
            }
        }
        let machine = Machine { processor: "a <fast> one".into(), ..Machine::default() };
        let html = html(&Figures { samples, ..Figures::default() }, &crate::work::tests::size(), &machine);
        // Each round: one dot for its processor time, two for its latencies.
        assert_eq!(html.matches("<circle").count(), 3 * 3 * 3);
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
        assert!(html.contains("a &lt;fast&gt; one") && html.contains("class=\"yes\">reached"));
        assert!(!html.contains("http"), "nothing is fetched");
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }
}
