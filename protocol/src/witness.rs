//! What somebody remembers of an audit log, so that nobody can show them another one: phones and administrators' machines.
//!
//! The log's key is taken at the first sight and expected from then on. Each newer head has to continue the newest that is
//! remembered; one that does not is refused, and the remembered one is kept as evidence.

use serde::{Deserialize, Serialize};

use crate::api::{Base64, Log};
use crate::ids::TenantId;
use crate::keys::PublicKey;
use crate::log::{Head, NoProof, Proof};
use crate::signed::Unverified;

/// Heads that are kept: the newest is what the next has to continue, the others are for comparing with an export.
const MOST_HEADS: usize = 64;

/// What was seen of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The key that signs its heads.
    log_key: Option<Base64>,
    /// Signed heads, the newest last.
    heads: Vec<Base64>,
}

/// A head that somebody has seen, for comparing with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witnessed {
    /// The signed head.
    pub head: Base64,
    /// The Ed25519 key that signed it.
    pub log_key: Base64,
}

/// Why a log is not the one that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTheLog {
    /// Ask again, or tell the operator: nothing of it can be read.
    #[error("what is shown of the audit log is no signed head with its key")]
    Malformed,
    /// Ask for the right one.
    #[error("this is the audit log of another tenant, {0}")]
    OtherTenant(TenantId),
    /// Somebody changed it on the way, or made it up.
    #[error("the head of the audit log was not signed with the log's key: somebody changed it")]
    Signature,
    /// An alarm.
    #[error("the audit log is signed with another key than was seen before: it is another log")]
    OtherKey,
    /// An alarm.
    #[error(
        "the audit log does not continue what was seen of it: it had {seen} entries then, has {shown} now, and what was there is gone \
         or changed ({why})"
    )]
    Forked {
        /// How many entries were seen.
        seen: u64,
        /// How many are shown.
        shown: u64,
        /// What is wrong with the proof.
        why: NoProof,
    },
}

impl NotTheLog {
    /// Whether somebody has to look at it: what was there is not there any more.
    pub fn is_alarm(self) -> bool {
        matches!(self, NotTheLog::OtherKey | NotTheLog::Forked { .. })
    }
}

impl Witnessed {
    /// The head, if the key signed it.
    pub fn verify(&self) -> Result<Head, NotTheLog> {
        let key: [u8; 32] = self.log_key.0[..].try_into().map_err(|_| NotTheLog::Malformed)?;
        let head = Unverified::<Head>::decode(self.head.0.clone()).map_err(|_| NotTheLog::Malformed)?;
        let head = head.verify(&PublicKey::Ed25519(key)).map_err(|_| NotTheLog::Signature)?;
        Ok(head.into_body())
    }
}

impl Witness {
    /// How many entries the log had when it was last seen: what to ask from.
    pub fn seen(&self) -> u64 {
        self.newest().map_or(0, |head| head.size)
    }

    /// The heads that were seen, the newest last.
    pub fn heads(&self) -> Vec<Witnessed> {
        let Some(log_key) = &self.log_key else { return Vec::new() };
        self.heads.iter().map(|head| Witnessed { head: head.clone(), log_key: log_key.clone() }).collect()
    }

    /// Takes what is shown of a log, asked from [`Witness::seen`], and remembers it if it continues what was seen.
    pub fn accept(&mut self, tenant: TenantId, shown: &Log) -> Result<Head, NotTheLog> {
        if self.log_key.as_ref().is_some_and(|key| *key != shown.key) {
            return Err(NotTheLog::OtherKey);
        }
        let head = Witnessed { head: shown.head.clone(), log_key: shown.key.clone() }.verify()?;
        if head.tenant != tenant {
            return Err(NotTheLog::OtherTenant(head.tenant));
        }
        let newest = self.newest();
        if let Some(seen) = &newest {
            let proof = shown.consistency.as_ref().map_or(Ok(Proof::default()), |proof| Proof::from_bytes(&proof.0));
            let continues = proof.and_then(|proof| proof.continues((seen.size, &seen.root), (head.size, &head.root)));
            continues.map_err(|why| NotTheLog::Forked { seen: seen.size, shown: head.size, why })?;
        }
        if newest.is_none_or(|seen| seen.size < head.size) {
            self.log_key = Some(shown.key.clone());
            self.heads.push(shown.head.clone());
            let surplus = self.heads.len().saturating_sub(MOST_HEADS);
            self.heads.drain(..surplus);
        }
        Ok(head)
    }

    fn newest(&self) -> Option<Head> {
        self.heads().last()?.verify().ok()
    }
}
