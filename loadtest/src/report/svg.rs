//! Plots as inline SVG: lines over linear or logarithmic axes, coloured by the page's own style, so that they follow light and
//! dark.

use std::fmt::Write as _;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// Lines with no more points than this show each of them.
const DOTS: usize = 40;

/// One line.
pub(super) struct Line {
    pub(super) name: String,
    /// Which of the page's eight colours.
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From nothing.
    Linear,
    /// By decades; what is not above zero is left out.
    Log,
}

/// The horizontal axis.
pub(super) enum Axis {
    /// Seconds since the test began, up to its end: the same in each plot of a page.
    Seconds(f64),
    /// Marked at these places with these words.
    Marked(Vec<(f64, String)>),
}

/// A plot.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    /// What it shows, and how to read it.
    pub(super) note: &'a str,
    pub(super) lines: Vec<Line>,
    pub(super) y: Scale,
    pub(super) y_text: fn(f64) -> String,
    pub(super) x: Axis,
    /// A vertical line with a word at it.
    pub(super) mark: Option<(f64, &'a str)>,
    /// A horizontal line: a limit.
    pub(super) limit: Option<f64>,
}

impl Plot<'_> {
    /// The figure; empty where there is nothing to show.
    pub(super) fn figure(&self) -> String {
        let shown = |(_, y): &&(f64, f64)| y.is_finite() && (self.y == Scale::Linear || *y > 0.0);
        let points = || self.lines.iter().flat_map(|line| line.points.iter().filter(shown));
        if points().count() == 0 {
            return String::new();
        }
        let edge =
            |start: f64, pick: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64| points().map(of).fold(start, pick);
        let (x_low, x_end, x_ticks) = match &self.x {
            Axis::Seconds(end) => {
                let (.., ticks) = steps(*end);
                (0.0, *end, ticks.into_iter().filter(|(s, _)| s <= end).map(|(s, _)| (s, format!("{s} s"))).collect())
            }
            Axis::Marked(ticks) => {
                let place = |tick: Option<&(f64, String)>| tick.map_or(0.0, |(x, _)| *x);
                (place(ticks.first()), place(ticks.last()), ticks.clone())
            }
        };
        let x_high = edge(x_end.max(x_low + 1e-9), f64::max, |point| point.0);
        let highest = edge(self.limit.unwrap_or(f64::MIN), f64::max, |point| point.1);
        let (y_low, y_high, y_ticks) = match self.y {
            Scale::Log => decades(edge(f64::MAX, f64::min, |point| point.1), highest),
            Scale::Linear => steps(highest),
        };
        let x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
        let place = |value: f64| if self.y == Scale::Log { value.max(1e-12).log10() } else { value };
        let (bottom, top) = (place(y_low), place(y_high));
        let y = |value: f64| HEIGHT - BOTTOM - (place(value) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(self.title));
        for (value, is_labelled) in y_ticks {
            let at = y(value);
            let _ =
                write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
            if is_labelled {
                let text = escape(&(self.y_text)(value));
                let _ =
                    write!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#, LEFT - 7.0, at + 4.0);
            }
        }
        let base = HEIGHT - BOTTOM;
        let _ =
            write!(svg, r#"<line class="axis" x1="{LEFT}" x2="{:.1}" y1="{base:.1}" y2="{base:.1}"/>"#, WIDTH - RIGHT);
        for (value, text) in x_ticks {
            let at = x(value);
            let _ =
                write!(svg, r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{base:.1}" y2="{:.1}"/>"#, base + 4.0);
            let anchor = if at > WIDTH - 30.0 { "end" } else { "middle" };
            let _ = write!(
                svg,
                r#"<text x="{at:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
                base + 18.0,
                escape(&text)
            );
        }
        if let Some(limit) = self.limit {
            let at = y(limit);
            let _ = write!(
                svg,
                r#"<line class="limit" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"><title>limit {}</title></line>"#,
                WIDTH - RIGHT,
                escape(&(self.y_text)(limit))
            );
        }
        for line in &self.lines {
            let points: Vec<_> = line.points.iter().filter(shown).collect();
            let path: Vec<String> = points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
            let _ = write!(svg, r#"<polyline class="curve k{}" points="{}"/>"#, line.colour, path.join(" "));
            // Points in time were measured; those of a distribution are where the curve was read off.
            if points.len() <= DOTS && matches!(self.x, Axis::Seconds(_)) {
                for (px, py) in points {
                    let _ = write!(
                        svg,
                        r#"<circle class="f{}" cx="{:.1}" cy="{:.1}" r="2.4"><title>{}: {}</title></circle>"#,
                        line.colour,
                        x(*px),
                        y(*py),
                        escape(&line.name),
                        escape(&(self.y_text)(*py))
                    );
                }
            }
        }
        if let Some((value, word)) = self.mark.filter(|(value, _)| (x_low..x_high).contains(value)) {
            let at = x(value);
            let _ = write!(svg, r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{base:.1}"/>"#);
            let _ = write!(svg, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, at + 4.0, TOP + 9.0, escape(word));
        }
        svg.push_str("</svg>");
        let names = self.lines.iter().filter(|line| !line.points.is_empty());
        let mut legend: Vec<String> = names
            .map(|line| format!(r#"<span><i class="f{}"></i>{}</span>"#, line.colour, escape(&line.name)))
            .collect();
        if self.limit.is_some() {
            legend.push(r#"<span><i style="background: var(--bad)"></i>limit</span>"#.into());
        }
        let legend =
            if legend.len() > 1 { format!(r#"<div class="legend">{}</div>"#, legend.join("")) } else { String::new() };
        format!("<figure><h3>{}</h3><p>{}</p>{legend}{svg}</figure>", escape(self.title), escape(self.note))
    }
}

/// From the decade, or its half, below the least to the one above the most; labels at 1, and at 2 and 5 where there is room.
fn decades(least: f64, most: f64) -> (f64, f64, Vec<(f64, bool)>) {
    const PARTS: [f64; 3] = [1.0, 2.0, 5.0];
    let all: Vec<(f64, f64)> = (-9..=9).flat_map(|power| PARTS.map(|part| (part * 10_f64.powi(power), part))).collect();
    let low = all.iter().rev().find(|(value, _)| *value <= least).map_or(1e-9, |(value, _)| *value);
    let high = all.iter().find(|(value, _)| *value >= most && *value > low).map_or(1e9, |(value, _)| *value);
    let few = (high / low).log10() <= 2.2;
    let within = all.into_iter().filter(|(value, _)| (low..=high).contains(value));
    (low, high, within.map(|(value, part)| (value, few || part == 1.0)).collect())
}

/// From nothing to a round number above the most, in three to six round steps.
fn steps(most: f64) -> (f64, f64, Vec<(f64, bool)>) {
    let most = if most > 0.0 { most } else { 1.0 };
    let rough = most / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|part| part * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    let count = (most / step - 1e-9).ceil().max(1.0) as u32;
    let ticks = (0..=count).map(|n| ((f64::from(n) * step * 1e6).round() / 1e6, true)).collect();
    (0.0, f64::from(count) * step, ticks)
}

/// Text for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_hold_everything() {
        for most in [0.3, 1.0, 7.0, 99.0, 101.0, 12_345.0] {
            let (low, high, ticks) = steps(most);
            assert!(low == 0.0 && high >= most && high <= most * 1.7, "{most}: {high}");
            assert!((2..=7).contains(&ticks.len()), "{most}: {ticks:?}");
        }
        let (low, high, ticks) = decades(0.3, 47.0);
        assert_eq!((low, high), (0.2, 50.0));
        assert!(ticks.len() > 3 && ticks.iter().all(|(value, _)| (0.2..=50.0).contains(value)));
    }

    #[test]
    fn what_comes_from_elsewhere_is_text_and_nothing_else() {
        let line = Line { name: "<script>".into(), colour: 0, points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let other = Line { name: "b".into(), colour: 1, points: vec![(0.0, 1.0)] };
        let plot = Plot {
            title: "a < b",
            note: "",
            lines: vec![line, other],
            y: Scale::Linear,
            y_text: |value| value.to_string(),
            x: Axis::Seconds(2.0),
            mark: None,
            limit: None,
        };
        let figure = plot.figure();
        assert!(!figure.contains("<script>") && figure.contains("a &lt; b"), "{figure}");
    }
}
