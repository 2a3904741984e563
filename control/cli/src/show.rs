//! What a person sees: columns that line up, times in UTC, and nothing that does something to the terminal.

use std::fmt::Write as _;
use std::sync::OnceLock;

use anyhow::Result;
use serde::Serialize;

use gatepass_control::api::is_unprintable;
use gatepass_protocol::calendar::{civil, rfc3339};

use crate::say;

/// The text without characters that would do something to the terminal. Names come from phones and computers that may be
/// in anybody's hands.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|character| if is_unprintable(character) { '\u{fffd}' } else { character }).collect()
}

/// Whether `--json` was given: set once, when the program starts.
static JSON: OnceLock<bool> = OnceLock::new();

/// From now on lists are JSON, or not.
pub(crate) fn in_json(json: bool) {
    let _ = JSON.set(json);
}

/// Whether lists are JSON.
pub(crate) fn is_json() -> bool {
    JSON.get().copied().unwrap_or(false)
}

/// Prints a list: as a table, or as the JSON that the server sent.
pub(crate) fn list<T: Serialize>(headings: &[&str], items: &[T], row: impl Fn(&T) -> Vec<String>) -> Result<()> {
    if is_json() {
        return value(&items);
    }
    say(table(headings, &items.iter().map(row).collect::<Vec<_>>()).trim_end())
}

/// Prints JSON.
pub(crate) fn value<T: Serialize>(value: &T) -> Result<()> {
    say(&escape(&serde_json::to_string_pretty(value)?))
}

/// In JSON whatever could do something to a terminal stands only inside strings, and may be written as an escape there. The
/// line breaks between them stay.
pub(crate) fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match u16::try_from(u32::from(character)) {
            Ok(code) if is_unprintable(character) && character != '\n' => text.push_str(&format!("\\u{code:04x}")),
            _ => text.push(character),
        }
    }
    text
}

/// Rows under their headings, each column as wide as its widest cell; every cell is cleaned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `2026-11-22 03:40:07Z`.
pub(crate) fn time(unix: u64) -> String {
    rfc3339(unix).replacen('T', " ", 1)
}

/// The reverse, of `2026-11-22`, `2026-11-22T03:40:07Z`, Unix seconds, or `36h` and `7d` before now.
pub(crate) fn parse_time(text: &str, now: u64) -> Option<u64> {
    if let Some((unit, count)) = [("h", 3600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((seconds, text.strip_suffix(unit)?.parse::<u64>().ok()?)))
    {
        return now.checked_sub(count.checked_mul(unit)?);
    }
    if let Ok(unix) = text.parse() {
        return Some(unix);
    }
    let text = text.trim_end_matches('Z').replace(' ', "T");
    let (day, clock) = text.split_once('T').unwrap_or((&text, "00:00"));
    let parts =
        |text: &str, by: char| text.split(by).map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    let (wanted, clock) = (parts(day, '-')?, parts(clock, ':')?);
    let [year, month, day] = wanted[..] else { return None };
    let (hour, minute, second) = match clock[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let is_clock = hour < 24 && minute < 60 && second < 60 && (1970..10_000).contains(&year);
    // A year is searched by its months, which is as quick as a formula would be to read.
    let first = (year - 1970) * 365 + (year - 1970) / 4;
    let found = (first.saturating_sub(60)..first + 400).find(|days| civil(*days) == (year, month, day));
    found.filter(|_| is_clock).map(|days| days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_says() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_795_318_807), "2026-11-22 03:40:07Z");
        assert_eq!(time(4_107_542_400), "2100-03-01 00:00:00Z");
        for unix in [0, 951_782_399, 951_782_400, 1_795_318_807, 4_107_542_400, 9_000_000_001] {
            assert_eq!(parse_time(&time(unix), 0), Some(unix));
        }
        assert_eq!(parse_time("2026-11-22", 0), Some(1_795_305_600));
        assert_eq!((parse_time("7d", 604_801), parse_time("2h", 7200)), (Some(1), Some(0)));
        for wrong in ["", "yesterday", "2026-13-01", "2026-02-30", "2026-11-22T25:00", "9d", "-1"] {
            assert_eq!(parse_time(wrong, 0), None, "{wrong}");
        }
    }

    #[test]
    fn a_phone_named_by_a_villain_does_nothing_to_the_terminal() {
        let text = table(&["NAME"], &[vec!["\u{1b}]0;owned\u{7}\u{202e}phone\n".into()]]);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }
}
