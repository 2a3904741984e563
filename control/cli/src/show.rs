//! What a person sees: columns that line up, times in UTC, and nothing that does something to the terminal.

use std::fmt::Write as _;
use std::sync::OnceLock;

use anyhow::Result;
use serde::Serialize;

use gatepass_control::api::is_unprintable;

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
    let (year, month, day) = date(unix / 86_400);
    let second = unix % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The civil date of a day since 1970: Howard Hinnant's `civil_from_days`, for days after 1970 only.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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
    }

    #[test]
    fn a_phone_named_by_a_villain_does_nothing_to_the_terminal() {
        let text = table(&["NAME"], &[vec!["\u{1b}]0;owned\u{7}\u{202e}phone\n".into()]]);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }
}
