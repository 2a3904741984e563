//! Orders and reports: what a device and a computer say to each other when no pairing is open.
//!
//! A device publishes an order on `computer/ID`, an agent a report on `device/ID`. Both are signed by their sender and
//! sealed to their reader ([`crate::sealed`]), so that the relay sees only that something was said.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ComputerId, DeviceId, GrantId, Serial, TechnicianId, TenantId},
    numbered::numbered,
    policy::{AccountKind, Scenario},
    signed::Body,
    wire::{self, WireError},
};

/// An order older or newer than this many seconds is refused.
pub const ORDER_WINDOW: u64 = 300;

/// What a device wants. Signed by its Sign key; an order can only look and end, so no biometric is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which computer; another one refuses it.
    pub computer: ComputerId,
    /// Fresh; the report names it, and an agent takes it once.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// When, in Unix seconds.
    pub time: u64,
    /// The grant to end; none: only report.
    pub end: Option<GrantId>,
}

impl Body for Order {
    const LABEL: &'static str = "gp1 order";
}

/// An agent's answer, or its word that a grant ended. Signed by its Sign key. Only the technician's own grants are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// To which device.
    pub device: DeviceId,
    /// The order that it answers; none: unasked.
    pub answers: Option<Serial>,
    /// When, in Unix seconds.
    pub time: u64,
    /// Live grants.
    pub grants: Vec<GrantView>,
    /// Signed [`Receipt`]s, newest first, as many as fit.
    pub receipts: Vec<Bytes>,
}

impl Body for Report {
    const LABEL: &'static str = "gp1 report";
}

/// A live grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Its name.
    pub grant: GrantId,
    /// The account, or the asking user for an elevation.
    pub account: String,
    /// The groups.
    pub groups: Vec<String>,
    /// For what.
    pub scenario: Scenario,
    /// From, in Unix seconds.
    pub since: u64,
    /// Until, in Unix seconds.
    pub until: u64,
    /// Open sessions.
    pub sessions: u32,
}

/// Who said it, and what: the content of a sealed message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The sender's certificate chain.
    pub chain: Vec<Bytes>,
    /// A signed [`Order`] or [`Report`].
    pub signed: Bytes,
}

impl Letter {
    /// The bytes to seal.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// Reads an opened message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::from_slice(bytes)
    }
}

numbered! {
    /// Why a grant ended.
    pub enum EndReason: "reason for an end" {
        /// The last session was closed.
        Logout = 1 "logged out",
        /// Its time was over.
        Time = 2 "time over",
        /// The technician ended it from a phone.
        Technician = 3 "ended from the phone",
        /// An administrator revoked it, its technician or its device.
        Administrator = 4 "revoked by an administrator",
        /// The agent was restarted and could not vouch for it.
        Restart = 5 "agent restarted",
        /// It never became active: a step failed or nobody logged in.
        Failed = 6 "never became active",
        /// Ended on the computer itself, by root.
        Local = 7 "ended on the computer",
    }
}

/// What the agent looked at, after a grant's end, and found as it must be. The first three are about the account that the grant made;
/// where it made none ([`AccountKind::Own`]) there is nothing to be found, and they are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The account is gone, or disabled and expired.
    pub disabled: bool,
    /// It is in no group that the grant gave.
    pub groups_stripped: bool,
    /// Its password was rotated, or it has none.
    pub password_rotated: bool,
    /// None of its processes runs.
    pub sessions_ended: bool,
}

/// The agent's proof that a grant was closed. Signed by its Sign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose.
    pub tenant: TenantId,
    /// Where.
    pub computer: ComputerId,
    /// Which grant.
    pub grant: GrantId,
    /// Who approved.
    pub technician: TechnicianId,
    /// With which device's certificate.
    pub device: Serial,
    /// For what.
    pub scenario: Scenario,
    /// The kind of account.
    pub kind: AccountKind,
    /// The account, or the asking user for an elevation.
    pub account: String,
    /// The groups that it had.
    pub groups: Vec<String>,
    /// From, in Unix seconds.
    pub since: u64,
    /// To, in Unix seconds.
    pub ended: u64,
    /// Why.
    pub reason: EndReason,
    /// What was looked at afterwards.
    pub verified: Verified,
    /// SHA-256 of the signed approval.
    #[serde(with = "serde_bytes")]
    pub approval: [u8; 32],
}

impl Body for Receipt {
    const LABEL: &'static str = "gp1 receipt";
}
