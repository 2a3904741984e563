//! Audit events: what an agent saw and did, signed by it, for the tenant's trail.

use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    ids::{ComputerId, GrantId, Serial, TechnicianId, TenantId},
    numbered::numbered,
    policy::Scenario,
    signed::Body,
};

numbered! {
    /// What happened.
    pub enum EventKind: "kind of event" {
        /// The agent started, and swept what it found.
        Started = 1 "started",
        /// Somebody asked for a right at this computer.
        Asked = 2 "asked",
        /// A technician approved and the grant is active.
        Granted = 3 "granted",
        /// A technician denied.
        Denied = 4 "denied",
        /// A technician denied and said that it was not them who asked.
        NotMe = 5 "not-me",
        /// The agent refused; the code says why.
        Refused = 6 "refused",
        /// A grant ended; `text` says why.
        Ended = 7 "ended",
        /// A newer policy, revocation or relay list is in force.
        ListAccepted = 8 "list-accepted",
        /// Something that an administrator should look at.
        Alert = 9 "alert",
    }
}

/// One event. Signed by the agent's Sign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Whose trail.
    pub tenant: TenantId,
    /// Where.
    pub computer: ComputerId,
    /// 1, 2, 3, … for each computer: a gap shows a lost or withheld event, a repeat is delivered once.
    pub sequence: u64,
    /// When, in Unix seconds.
    pub time: u64,
    /// What.
    pub kind: EventKind,
    /// Who, where known.
    pub technician: Option<TechnicianId>,
    /// With which device's certificate, where known.
    pub device: Option<Serial>,
    /// Which grant.
    pub grant: Option<GrantId>,
    /// For what.
    pub scenario: Option<Scenario>,
    /// Which account, or empty.
    pub account: String,
    /// Why refused.
    pub code: Option<Code>,
    /// SHA-256 of the signed approval, or of the signed receipt for an end; empty where there is none.
    #[serde(with = "serde_bytes")]
    pub evidence: Vec<u8>,
    /// The policy in force.
    pub policy_epoch: u64,
    /// The rest, for people: the asking user, the command, the reason.
    pub text: String,
}

impl Body for Event {
    const LABEL: &'static str = "gp1 event";
}
