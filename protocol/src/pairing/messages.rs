//! What the seven messages say.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    code::Code,
    ids::{ComputerId, GrantId, Serial, TechnicianId, TenantId},
    numbered::numbered,
    policy::{AccountKind, Choice, Scenario},
    signed::Body,
    statement::KeyProtection,
    wire,
};

/// M1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions that the phone speaks.
    pub versions: Vec<u8>,
    /// Suites that it knows.
    pub suites: Vec<u8>,
    /// The app and its version, for the audit trail.
    pub app: String,
    /// The newest revocation list that it knows.
    pub revocation_epoch: u64,
}

/// M2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The agent's certificate chain.
    pub chain: Vec<Bytes>,
    /// Ed25519 over `"gp1 agent-auth" 00 len h`, with `h` the handshake hash before this payload.
    #[serde(with = "serde_bytes")]
    pub signature: [u8; 64],
}

/// M3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHello {
    /// The device's certificate.
    pub chain: Vec<Bytes>,
    /// The newest revocation list that the phone knows.
    pub revocation_epoch: u64,
}

/// M4: what the technician decides about. SHA-256 of its exact bytes is in the approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Which computer.
    pub machine: MachineCard,
    /// What is asked for.
    pub scenario: Scenario,
    /// Who asks, and how.
    pub request: Request,
    /// What may be chosen.
    pub choices: Vec<Choice>,
    /// The account's name for each kind that may be chosen.
    pub accounts: Vec<(AccountKind, String)>,
    /// What to propose, in minutes.
    pub default_minutes: u32,
    /// Makes the context unique.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// The agent's clock, in Unix seconds: what the approval's times are reckoned from.
    pub time: u64,
    /// When the question lapses, in Unix seconds by the agent's clock.
    pub expires: u64,
    /// The policy in force.
    pub policy_epoch: u64,
    /// The revocation list in force.
    pub revocation_epoch: u64,
    /// The head of the agent's audit trail; zero where it has none.
    #[serde(with = "serde_bytes")]
    pub audit_root: [u8; 32],
}

/// Which computer asks. Its name and domain are in its certificate too; the phone shows those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCard {
    /// Its identity.
    pub computer: ComputerId,
    /// Its name now.
    pub host: String,
    /// The operating system now.
    pub os: String,
    /// The agent's version.
    pub agent: String,
}

/// Who asks, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The login service: sshd, sudo, su, login.
    pub service: String,
    /// The user who asks, or the name that was typed.
    pub user: String,
    /// The user whose rights are asked for.
    pub target: String,
    /// From where: a remote host, or empty.
    pub from: String,
    /// The terminal.
    pub tty: String,
    /// Exactly what will run; empty for a session.
    pub command: String,
}

numbered! {
    /// How the confirm code was to be given.
    pub enum ConfirmMode: "confirm mode" {
        /// Not at all.
        Off = 0,
        /// Shown on the phone, typed at the computer.
        AtComputer = 1,
        /// Shown at the computer, typed on the phone: the value is in the approval.
        OnPhone = 2,
    }
}

numbered! {
    /// How the device made sure of its person.
    pub enum Verification: "user verification" {
        /// A PIN or password.
        Pin = 1,
        /// A finger or face.
        Biometric = 2,
    }
}

/// The approval: what the agent acts on. Signed by the device's Approve key; transferable, as every name it needs is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// 1.
    pub version: u8,
    /// 1: approved.
    pub decision: u8,
    /// The channel's handshake hash.
    #[serde(with = "serde_bytes")]
    pub h_final: [u8; 32],
    /// SHA-256 of M4's bytes.
    #[serde(with = "serde_bytes")]
    pub context: [u8; 32],
    /// The tenant.
    pub tenant: TenantId,
    /// The serial of the agent's certificate.
    pub agent: Serial,
    /// The computer.
    pub computer: ComputerId,
    /// The serial of the device's certificate.
    pub device: Serial,
    /// Who approves.
    pub technician: TechnicianId,
    /// Which kind of account.
    pub kind: AccountKind,
    /// Its name, as the context gave it.
    pub account: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// The organisational unit, for directory accounts; else empty.
    pub ou: String,
    /// The grant ends then at the latest, in Unix seconds by the agent's clock.
    pub not_after: u64,
    /// The grant lasts this many seconds at the most.
    pub max_session: u32,
    /// The context's.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// How the confirm code is given.
    pub confirm: ConfirmMode,
    /// Its value where it was typed on the phone, else 0.
    pub confirm_value: u32,
    /// The revocation list that the phone knows.
    pub revocation_epoch: u64,
    /// How the device made sure of its person.
    pub verification: Verification,
    /// Where the key lives; the certificate's word counts, and must be the same.
    pub protection: KeyProtection,
    /// [`reason_hash`].
    #[serde(with = "serde_bytes")]
    pub reason: [u8; 32],
}

impl Body for Approval {
    const LABEL: &'static str = "gp1 approve";
}

/// SHA-256 of msgpack `[reason, ticket]`: the approval can be passed on without them.
pub fn reason_hash(reason: &str, ticket: &str) -> [u8; 32] {
    Sha256::digest(wire::to_vec(&(reason, ticket))).into()
}

/// M5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// A signed [`Approval`]; none: denied.
    pub approval: Option<Bytes>,
    /// Denied, and it was not the technician who asked.
    pub not_me: bool,
    /// Why the right is needed, in the technician's words.
    pub reason: String,
    /// The ticket of another system that this is for.
    pub ticket: String,
}

/// M6, and in place of M4 where the agent does not even ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "OutcomeWire", try_from = "OutcomeWire")]
pub enum Outcome {
    /// The right is there.
    Granted {
        /// Its name.
        grant: GrantId,
        /// The account, or the asking user for an elevation.
        account: String,
        /// Until, in Unix seconds by the agent's clock.
        until: u64,
    },
    /// It is not, and why.
    Refused(Code),
}

type OutcomeWire = (Option<Code>, Option<GrantId>, String, u64);

impl From<Outcome> for OutcomeWire {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Granted { grant, account, until } => (None, Some(grant), account, until),
            Outcome::Refused(code) => (Some(code), None, String::new(), 0),
        }
    }
}

impl TryFrom<OutcomeWire> for Outcome {
    type Error = &'static str;
    fn try_from(wire: OutcomeWire) -> Result<Self, &'static str> {
        match wire {
            (None, Some(grant), account, until) => Ok(Outcome::Granted { grant, account, until }),
            (Some(code), None, account, 0) if account.is_empty() => Ok(Outcome::Refused(code)),
            _ => Err("neither granted nor refused"),
        }
    }
}

/// M7: a phone's word to end the grant, or an agent's signed [`crate::order::Receipt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ending {
    /// None from a phone; the receipt from an agent.
    pub receipt: Option<Bytes>,
}
