//! The result as a person reads it in a terminal.

use std::fmt::Write as _;

use crate::{
    figures::{Figures, Of},
    subject::Subject,
    work::{Size, Work},
};

/// What a piece of work is, in words.
pub(crate) fn title(work: Work, size: &Size) -> String {
    let fan = |rate| format!("fan-out, 1 to {}, 200 B, {rate} msg/s (a delivery)", grouped(size.subscribers as f64));
    match work {
        Work::Fanout20 => fan(20),
        Work::Fanout100 => fan(100),
        Work::Fanout300 => fan(300),
        Work::Pair100 => format!("round trip, {} pairs, closed loop", size.pairs),
        Work::Pair1 => "round trip, one pair".to_owned(),
        Work::Idle => format!("{} idle connections, listening", grouped(size.idle as f64)),
        Work::IdleTls => format!("{} idle connections, listening, TLS", grouped(size.idle as f64)),
        Work::ConnectTicket => format!("connect again, {} connections, by ticket", grouped(size.visitors as f64)),
        Work::Connect => format!("connect, {} connections (ours authenticates)", grouped(size.visitors as f64)),
    }
}

/// The main figure of a piece of work, by which subjects are compared.
pub(crate) fn main_figure(work: Work) -> (&'static str, Of) {
    match work {
        Work::Idle | Work::IdleTls => ("KiB", |measured| measured.rss_kib),
        Work::Pair1 => ("p50 ms", |measured| measured.p50_ms),
        _ => ("CPU us", |measured| measured.cpu_us),
    }
}

/// The whole table.
pub(crate) fn table(figures: &Figures, size: &Size) -> String {
    let mut out = String::new();
    let rows = figures.rows();
    for work in Work::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.work == work).collect();
        if rows.is_empty() {
            continue;
        }
        let (_, of) = main_figure(work);
        let better = figures.better_peer(work, of);
        let _ = writeln!(out, "\n{}", title(work, size));
        let _ = writeln!(
            out,
            "  {:<10}{:>9}{:>11}{:>10}{:>10}{:>9}{:>10}{:>10}",
            "", "CPU us", "per s", "p50 ms", "p99 ms", "KiB", "x floor", "x peer"
        );
        for row in rows {
            let ratio = |to: Option<Subject>| {
                let to = to.filter(|to| *to != row.subject);
                cell(to.and_then(|to| figures.ratio(work, row.subject, to, of)), 2)
            };
            let _ = writeln!(
                out,
                "  {:<10}{:>9}{:>11}{:>10}{:>10}{:>9}{:>10}{:>10}",
                row.subject,
                cell(row.cpu_us, 1),
                row.per_s.map(grouped).unwrap_or_default(),
                cell(row.p50_ms, 3),
                cell(row.p99_ms, 3),
                cell(row.rss_kib, 1),
                ratio(Some(Subject::Floor)),
                ratio(better),
            );
        }
        for target in figures.targets(work) {
            let verdict = if target.reached { "reached" } else { "MISSED" };
            let _ = writeln!(out, "  gatepass: {:<38} {:<15} {verdict}", target.text, target.is);
        }
    }
    out
}

fn cell(figure: Option<f64>, digits: usize) -> String {
    figure.map(|figure| format!("{figure:.digits$}")).unwrap_or_default()
}

/// With a comma between thousands.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
