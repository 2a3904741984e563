//! What is granted to whom until when.

use bytes::Bytes;
use gatepass_accounts::{AccountError, AccountName, AccountSpec, OnEnd};
use gatepass_protocol::ids::{DeviceId, GrantId, Serial, TechnicianId};
use gatepass_protocol::order::{EndReason, GrantView};
use gatepass_protocol::policy::{AccountKind, Scenario};
use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::fault::Step;

/// A temporary right. The journal holds it whole, so that a restarted agent needs nothing else to end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its name.
    pub id: GrantId,
    /// What is granted.
    pub right: Right,
    /// Who approved it, and whose it is.
    pub approver: Approver,
    /// What was asked for.
    pub scenario: Scenario,
    /// Names the approval; no second grant comes of it.
    pub approval: Approval,
    /// SHA-256 of the signed approval: the receipt names it.
    #[serde(with = "serde_bytes")]
    pub evidence: [u8; 32],
    /// When it was granted, in Unix seconds.
    pub granted_at: u64,
    /// When it ends at the latest.
    pub deadline: Deadline,
    /// How far it has come.
    pub step: Step,
    /// Why it is ending, once it is.
    pub reason_to_end: Option<EndReason>,
    /// The sessions that are open in it.
    pub sessions: Vec<Session>,
}

/// What a grant gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// An account of Gatepass's own, that can log in for as long as the grant lives.
    Account {
        /// Its name.
        name: String,
        /// What kind of account it is.
        kind: AccountKind,
        /// Groups of the computer that it is in meanwhile.
        groups: Vec<String>,
        /// Whether account and home directory go when the grant ends.
        delete: bool,
    },
    /// One command or session of a user who is there already (sudo, su). There is no account to make or to end.
    Elevation {
        /// Who asked.
        from: String,
        /// Whose rights it has.
        to: String,
    },
}

/// The technician and the device that approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// The technician.
    pub technician: TechnicianId,
    /// The technician's name.
    pub name: String,
    /// The phone.
    pub device: DeviceId,
    /// The phone's certificate.
    pub certificate: Serial,
    /// That certificate itself, with its chain: it tells whether it was revoked meanwhile, and to which key a report goes.
    pub chain: Vec<Bytes>,
}

/// Names one approval for good: the hash of the handshake it was given in. Nobody can make two handshakes with one hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Approval(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// One session in a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The process that the PAM module lives in.
    pub pid: u32,
    /// When that process started, in the kernel's ticks: a pid comes again, the pair does not.
    pub started: u64,
}

impl Right {
    /// The account's name, where there is one.
    pub fn account(&self) -> Option<&str> {
        match self {
            Right::Account { name, .. } => Some(name),
            Right::Elevation { .. } => None,
        }
    }

    /// The kind of account; for an elevation the asking user's own.
    pub fn kind(&self) -> AccountKind {
        match self {
            Right::Account { kind, .. } => *kind,
            Right::Elevation { .. } => AccountKind::Own,
        }
    }

    /// The account that people read: the granted one, or the asking user's.
    pub fn shown_account(&self) -> &str {
        match self {
            Right::Account { name, .. } => name,
            Right::Elevation { from, .. } => from,
        }
    }

    /// The groups that it gives.
    pub fn groups(&self) -> &[String] {
        match self {
            Right::Account { groups, .. } => groups,
            Right::Elevation { .. } => &[],
        }
    }
}

impl Grant {
    /// What the account provider is asked for; `None` for an elevation.
    pub(crate) fn spec(&self) -> Result<Option<AccountSpec>, AccountError> {
        let Right::Account { name, groups, delete, .. } = &self.right else { return Ok(None) };
        Ok(Some(AccountSpec {
            name: AccountName::new(name)?,
            technician: *self.approver.technician.as_bytes(),
            technician_name: self.approver.name.clone(),
            groups: groups.clone(),
            not_after: self.deadline.wall,
            on_end: if *delete { OnEnd::Delete } else { OnEnd::Keep },
        }))
    }

    /// Whether logging in with it is possible: ready, and not yet ending.
    pub fn is_live(&self) -> bool {
        matches!(self.step, Step::Enabled | Step::Active)
    }

    /// What a phone is told of it.
    pub fn view(&self) -> GrantView {
        GrantView {
            grant: self.id,
            account: self.right.shown_account().into(),
            groups: self.right.groups().to_vec(),
            scenario: self.scenario,
            since: self.granted_at,
            until: self.deadline.wall,
            sessions: self.sessions.len() as u32,
        }
    }
}
