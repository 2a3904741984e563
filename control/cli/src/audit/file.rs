//! An exported log: JSON Lines. The first says which log and how it was signed, the last that nothing was cut off, and each between
//! is an entry with all that proves it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use gatepass_control::api::{Base64, TrailEntry};
use gatepass_protocol::witness::Witnessed;

/// What the first line says it is.
pub(crate) const FORMAT: &str = "gatepass-audit-1";

/// A line of an export.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// The first.
    Start(Box<Start>),
    /// One for each entry.
    Entry(Box<Exported>),
    /// The last.
    End {
        /// How many entries there are between.
        entries: u64,
    },
}

/// The first line.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) format: String,
    pub(crate) tenant: String,
    pub(crate) tenant_name: String,
    /// The signed head, and the key that signed it.
    #[serde(flatten)]
    pub(crate) log: Witnessed,
    /// How many entries went before the first.
    pub(crate) from: u64,
    /// The roots of the whole trees that these are made of; none in an export of chosen entries, each of which has a proof of its own.
    pub(crate) frontier: Option<Base64>,
}

/// An entry.
#[derive(Serialize, Deserialize)]
pub(crate) struct Exported {
    /// As a person reads it. It says nothing that `signed` does not say, but for names.
    pub(crate) read: Value,
    /// As the log has it.
    pub(crate) signed: TrailEntry,
}
