//! The account: what became of each pairing and of each revocation list, and the table that says so.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    crowd::locked,
    pairing::{Ending, Pairing},
};

/// What one fault came to.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) fault: String,
    /// Pairings that were in flight when it struck, and those of them that completed.
    pub(crate) in_flight: usize,
    pub(crate) in_flight_completed: usize,
    pub(crate) begun: usize,
    pub(crate) completed: usize,
    pub(crate) told: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) silent: usize,
    /// What those were told that did not complete, and how many.
    pub(crate) words: BTreeMap<String, usize>,
    pub(crate) messages: u64,
    /// The longest that a pairing's message was on its way.
    pub(crate) longest_message: Duration,
    /// Lists, each for each client.
    pub(crate) expected: usize,
    pub(crate) seen: usize,
    /// The longest that a client was online without a list that was published.
    pub(crate) longest_list: Duration,
    /// Seconds until everything was whole again; `None`: not in time.
    pub(crate) whole: Option<Duration>,
    /// Why it was not done.
    pub(crate) skipped: Option<String>,
}

impl Account {
    /// Adds a pairing that is over, and that was in flight or not.
    pub(crate) fn add(&mut self, pairing: &Pairing, in_flight: bool) {
        self.begun += 1;
        self.messages += pairing.messages();
        let agent = locked(&pairing.agent);
        let phones: Vec<_> = pairing.phones.iter().map(locked).collect();
        let claimed: Vec<_> = phones.iter().filter(|phone| phone.claimed).collect();
        for end in std::iter::once(&agent).chain(&phones) {
            self.longest_message = self.longest_message.max(end.longest);
        }
        let ends = || std::iter::once(&*agent).chain(phones.iter().map(|phone| &**phone));
        let is = |ending: &Ending| ends().any(|end| end.ending.as_ref() == Some(ending));
        let done = |end: &crate::pairing::End| end.ending == Some(Ending::Done);
        if claimed.len() > 1 || ends().any(|end| end.doubled) {
            self.doubled += 1;
        } else if ends().any(|end| end.hole) {
            self.lost += 1;
        } else if is(&Ending::Silent) || ends().any(|end| end.ending.is_none()) {
            self.silent += 1;
        } else if done(&agent) && claimed.iter().any(|phone| done(phone)) {
            self.completed += 1;
            self.in_flight_completed += usize::from(in_flight);
        } else {
            self.told += 1;
            let word = |end: &crate::pairing::End| match &end.ending {
                Some(Ending::Told(word)) => word.clone(),
                Some(Ending::Done) => "done".to_owned(),
                Some(Ending::Silent) | None => "nothing".to_owned(),
            };
            let phone =
                claimed.first().map_or_else(|| phones.first().map(|phone| word(phone)), |phone| Some(word(phone)));
            let words = format!("agent: {}, phone: {}", word(&agent), phone.unwrap_or_default());
            *self.words.entry(words).or_default() += 1;
        }
    }

    /// Whether nothing was lost, doubled or silent, and all was whole again.
    pub(crate) fn holds(&self) -> bool {
        self.skipped.is_some()
            || self.lost + self.doubled + self.silent == 0 && self.seen == self.expected && self.whole.is_some()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "fault": self.fault, "skipped": self.skipped, "in_flight": self.in_flight, "in_flight_completed": self.in_flight_completed, "begun": self.begun,
            "completed": self.completed, "told": self.told, "lost": self.lost, "doubled": self.doubled, "silent": self.silent,
            "words": self.words, "messages": self.messages, "longest_message_s": self.longest_message.as_secs_f64(),
            "lists_expected": self.expected, "lists_seen": self.seen, "longest_list_s": self.longest_list.as_secs_f64(),
            "whole_s": self.whole.map(|whole| whole.as_secs_f64()), "holds": self.holds(),
        })
    }
}

/// The table of all of them.
pub(crate) fn table(accounts: &[Account]) -> String {
    let head = [
        "fault",
        "in flight",
        "begun",
        "completed",
        "told",
        "lost",
        "doubled",
        "silent",
        "messages",
        "lists",
        "seen",
        "longest s",
        "list s",
        "whole s",
    ];
    let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).into()];
    for one in accounts {
        if let Some(why) = &one.skipped {
            rows.push(vec![one.fault.clone(), format!("not done: {why}")]);
            continue;
        }
        let counts =
            [one.begun, one.completed, one.told, one.lost, one.doubled, one.silent].map(|count| count.to_string());
        let mut row = vec![one.fault.clone(), format!("{}/{}", one.in_flight_completed, one.in_flight)];
        row.extend(counts);
        row.extend([one.messages.to_string(), one.expected.to_string(), one.seen.to_string()]);
        row.extend([seconds(one.longest_message), seconds(one.longest_list)]);
        row.push(one.whole.map_or("never".to_owned(), seconds));
        rows.push(row);
    }
    let width = |at: usize| {
        let whole = rows.iter().filter(|row| row.len() == head.len());
        whole.filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let _ = match at {
                0 => write!(line, "{cell:<width$}", width = width(0)),
                _ => write!(line, "  {cell:>width$}", width = width(at)),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for one in accounts.iter().filter(|one| !one.words.is_empty()) {
        let _ = writeln!(text, "\n{}, told:", one.fault);
        for (word, count) in &one.words {
            let _ = writeln!(text, "  {count:>6}  {word}");
        }
    }
    text
}
