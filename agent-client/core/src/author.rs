//! Who signs receipts: this computer's agent, with the key that its certificate names.

use std::sync::Arc;

use bytes::Bytes;
use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::order::{EndReason, Receipt, Verified};
use gatepass_protocol::signed::Signed;

use crate::clock::Now;
use crate::grant::Grant;

/// The agent as a signer.
#[derive(Clone)]
pub struct Author {
    tenant: TenantId,
    computer: ComputerId,
    key: Arc<SigningKey>,
}

impl Author {
    /// The agent of `computer` in `tenant`, whose certificate names the public half of `key`.
    pub fn new(tenant: TenantId, computer: ComputerId, key: Arc<SigningKey>) -> Self {
        Self { tenant, computer, key }
    }

    /// The signed receipt of a grant of which nothing is left. Called only after that was looked at.
    pub(crate) fn receipt(&self, grant: &Grant, reason: EndReason, now: Now) -> Bytes {
        let receipt = Receipt {
            tenant: self.tenant,
            computer: self.computer,
            grant: grant.id,
            technician: grant.approver.technician,
            device: grant.approver.certificate,
            scenario: grant.scenario,
            kind: grant.right.kind(),
            account: grant.right.shown_account().into(),
            groups: grant.right.groups().to_vec(),
            since: grant.granted_at,
            ended: now.wall,
            reason,
            verified: Verified { disabled: true, groups_stripped: true, password_rotated: true, sessions_ended: true },
            approval: grant.evidence,
        };
        // A key in memory never refuses to sign.
        Signed::sign(receipt, &*self.key).map(|signed| signed.bytes().clone()).unwrap_or_default()
    }
}
