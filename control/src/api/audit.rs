//! What travels of the audit trail.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use gatepass_protocol::api::{Base64, text};
use gatepass_protocol::ids::{ComputerId, Serial, TechnicianId};
use gatepass_protocol::log::Entry;

use super::{Role, optional_text};

/// An entry of the audit trail.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TrailEntry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When the server wrote it.
    pub at: u64,
    /// The computer that signed it; none where the control plane wrote down what it did for somebody.
    #[serde(with = "optional_text", default)]
    #[schemars(with = "Option<String>")]
    pub computer: Option<ComputerId>,
    /// Whether that computer was revoked by then, so that its word may be somebody else's.
    #[serde(default)]
    pub revoked: bool,
    /// The signed event, or the JSON of an [`Act`].
    #[schemars(with = "String")]
    pub event: Base64,
    /// The certificate chain of the computer that signed it, for checking its signature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub chain: Vec<Base64>,
    /// The way from it to the root of the log, where it was asked for: hashes of 32 bytes, one behind the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub proof: Option<Base64>,
}

impl TrailEntry {
    /// What the log's tree is made of.
    pub fn entry(&self) -> Entry {
        Entry { received: self.at, computer: self.computer, revoked: self.revoked, event: self.event.0.to_vec() }
    }
}

/// What came of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// A technician said no.
    Denied,
    /// The agent or the policy said no.
    Refused,
    /// Somebody should look at it.
    Alert,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 4] = [Outcome::Done, Outcome::Denied, Outcome::Refused, Outcome::Alert];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Denied => "denied",
            Outcome::Refused => "refused",
            Outcome::Alert => "alert",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Outcome, String> {
        let known = || Outcome::ALL.map(Outcome::name).join(", ");
        let found = Outcome::ALL.into_iter().find(|outcome| outcome.name() == text);
        found.ok_or_else(|| format!("there is no outcome {text:?}; known are: {}", known()))
    }
}

/// Who did something at the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct By {
    /// As what.
    pub role: Role,
    /// Whose token it was, if it was one's.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub technician: Option<TechnicianId>,
    /// With which token.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub token: Serial,
    /// By which request: `POST /tenants/{tenant}/technicians`.
    pub request: String,
}

/// What happened at the control plane: what an administrator did, or who enrolled with which ticket.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Act {
    /// When.
    pub at: u64,
    /// What, in a few words: "ticket added".
    pub act: String,
    /// To what: an identifier or a name.
    pub to: String,
    /// More about it, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Who did it; none where nobody needed to be signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
}
