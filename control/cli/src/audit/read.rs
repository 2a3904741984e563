//! An entry of the trail as a person reads it, as JSON and as the cells of a table.

use std::collections::HashMap;

use serde_json::{Value, json};

use gatepass_control::api::{Act, TrailEntry, hex};
use gatepass_protocol::event::Event;
use gatepass_protocol::signed::Unverified;

use crate::show;

/// Names for identifiers.
#[derive(Default)]
pub(super) struct Names {
    pub(super) computers: HashMap<String, String>,
    pub(super) technicians: HashMap<String, String>,
}

pub(super) fn in_words(entry: &TrailEntry, names: &Names) -> String {
    let mut words = vec![format!("{:>6}", entry.seq)];
    match (entry.computer, event(entry), act(entry)) {
        (Some(_), Some(event), _) => {
            words.push(show::time(event.time));
            words.push(names.computer(&event.computer.to_string()));
            words.extend(entry.revoked.then(|| "(revoked)".to_owned()));
            words.push(event.kind.name().to_owned());
            words.extend(event.scenario.map(|scenario| scenario.name().to_owned()));
            words.extend(event.technician.map(|who| names.technician(&who.to_string())));
            words.extend(
                Some(&event.account).filter(|account| !account.is_empty()).map(|account| format!("as {account}")),
            );
            words.extend(event.grant.map(|grant| format!("grant {grant}")));
            words.extend(event.code.map(|code| format!("({}: {})", code.name(), code.message())));
            words.extend(Some(event.text).filter(|text| !text.is_empty()));
        }
        (None, _, Some(act)) => {
            words.extend([show::time(act.at), "control plane".to_owned(), act.act, act.to]);
            words.extend(Some(act.detail).filter(|detail| !detail.is_empty()).map(|detail| format!("({detail})")));
            words.extend(act.by.map(|by| match by.technician {
                Some(who) => format!("by {}, {}", names.technician(&who.to_string()), by.role),
                None => format!("by token {}, {}", by.token, by.role),
            }));
        }
        _ => words.extend([show::time(entry.at), "an entry that this version can't read".to_owned()]),
    }
    show::clean(&words.join("  "))
}

pub(super) fn in_json(entry: &TrailEntry, names: &Names) -> Value {
    let mut line = json!({ "seq": entry.seq, "received": entry.at, "leaf": hex(&entry.entry().leaf()) });
    if let (Some(computer), Some(event)) = (entry.computer, event(entry)) {
        line["time"] = event.time.into();
        line["event"] = event.kind.name().into();
        line["computer"] = computer.to_string().into();
        line["computer_name"] = names.computer(&computer.to_string()).into();
        line["revoked"] = entry.revoked.into();
        line["sequence"] = event.sequence.into();
        line["technician"] = event.technician.map(|id| id.to_string()).into();
        line["technician_name"] = event.technician.map(|id| names.technician(&id.to_string())).into();
        line["device_certificate"] = event.device.map(|id| id.to_string()).into();
        line["grant"] = event.grant.map(|id| id.to_string()).into();
        line["scenario"] = event.scenario.map(|scenario| scenario.name()).into();
        line["account"] = event.account.into();
        line["code"] = event.code.map(|code| code.name()).into();
        line["evidence"] = hex(&event.evidence).into();
        line["policy_epoch"] = event.policy_epoch.into();
        line["text"] = event.text.into();
    } else if let Some(act) = act(entry) {
        line["time"] = act.at.into();
        line["event"] = act.act.into();
        line["to"] = act.to.into();
        line["detail"] = act.detail.into();
        if let Some(by) = act.by {
            line["technician"] = by.technician.map(|id| id.to_string()).into();
            line["technician_name"] = by.technician.map(|id| names.technician(&id.to_string())).into();
            line["role"] = by.role.name().into();
            line["token"] = by.token.to_string().into();
            line["request"] = by.request.into();
        }
    }
    line
}

/// The columns of a table, by the names in the JSON.
pub(super) const COLUMNS: [&str; 24] = [
    "seq",
    "received",
    "time",
    "event",
    "computer",
    "computer_name",
    "revoked",
    "sequence",
    "technician",
    "technician_name",
    "account",
    "scenario",
    "grant",
    "code",
    "policy_epoch",
    "device_certificate",
    "evidence",
    "text",
    "to",
    "detail",
    "role",
    "token",
    "request",
    "leaf",
];

/// A row of a table (RFC 4180).
pub(super) fn in_csv(line: &Value) -> String {
    let cells = COLUMNS.map(|column| match (&line[column], column) {
        (Value::Null, _) => String::new(),
        (Value::Number(time), "received" | "time") => cell(&show::time(time.as_u64().unwrap_or(0))),
        (Value::String(text), _) => cell(text),
        (other, _) => cell(&other.to_string()),
    });
    cells.join(",")
}

/// A cell that a spreadsheet shows and does not carry out: names and texts come from computers in anybody's hands, and what begins
/// like a formula would be one.
fn cell(text: &str) -> String {
    let text = show::clean(text);
    let is_formula =
        text.trim_start().starts_with(['=', '+', '-', '@', '|', '%', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    let guard = if is_formula { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn event(entry: &TrailEntry) -> Option<Event> {
    Unverified::<Event>::decode(entry.event.0.clone()).ok().map(|event| event.claimed().clone())
}

fn act(entry: &TrailEntry) -> Option<Act> {
    serde_json::from_slice(&entry.event.0).ok()
}

impl Names {
    fn computer(&self, id: &str) -> String {
        self.computers.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    fn technician(&self, id: &str) -> String {
        self.technicians.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_none_ends_early() {
        for villain in ["=HYPERLINK(\"http://x\")", "+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "|calc"] {
            let cell = cell(villain);
            let inside = cell.trim_start_matches('"').trim_start_matches(['\u{fffd}', ' ']);
            assert!(cell.starts_with("\"'") || cell.starts_with("\"\u{fffd}"), "{cell}: {inside}");
        }
        assert_eq!(cell("a \"b\", c\nd"), "\"a \"\"b\"\", c\u{fffd}d\"");
        assert_eq!(in_csv(&json!({ "seq": 7, "text": "=1" })).split(',').count(), COLUMNS.len());
    }
}
