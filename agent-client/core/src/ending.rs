//! Taking a right back, and proving that it is gone.
//!
//! What the journal can't take is done all the same: a full disk stops grants from beginning, never from ending. Each act is
//! tried even when an earlier one failed, and the grant stays on the list until a look at the machine finds nothing left.

use gatepass_accounts::{AccountError, AccountName, AccountState, Accounts};
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;

use crate::clock::Now;
use crate::fault::{Act, Step};
use crate::grant::{Grant, Right};
use crate::grants::{Grants, Receipt, Record};
use crate::journal::JournalError;

/// Why a grant is not closed yet. It is tried again until it is.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// Nothing of this name is open.
    #[error("no grant of this name is open")]
    Unknown,
    /// The account could not be closed.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Everything was done, and yet something is left.
    #[error("{what} is still there after the grant was ended")]
    Left {
        /// What.
        what: String,
    },
    /// All is taken back, and only the record of it is missing.
    #[error("the right was taken back, but the journal could not be written: {0}")]
    Journal(#[from] JournalError),
}

impl Grants {
    /// Ends a grant: the account can log in no more, its sessions are over, it is in no group, its password is nobody's;
    /// all of that was looked at; the receipt is signed and written. May be called again after any failure.
    pub fn end(&mut self, id: &GrantId, reason: EndReason, now: Now) -> Result<Receipt, Unfinished> {
        let grant = self.open.get(id).cloned().ok_or(Unfinished::Unknown)?;
        let reason = grant.reason_to_end.unwrap_or(reason);
        let mut unwritten = None;
        if grant.reason_to_end.is_none() {
            let ending = Record::Ending(*id, reason, now.wall);
            if let Err(error) = self.record(Step::Ending, ending.clone()) {
                self.apply(ending);
                unwritten = Some(error);
            }
        }
        let ended = self.take_back(&grant)?;
        tracing::info!(grant = %id, why = reason.name(), processes = ended, "grant ended");
        if let Some(error) = unwritten {
            return Err(error.into());
        }
        self.record(Step::Verified, Record::Step(*id, Step::Verified, now.wall))?;
        let signed = self.author.receipt(&grant, reason, now);
        let receipt = Receipt {
            grant: *id,
            closed_at: now.wall,
            signed,
            of: Box::new(Grant { reason_to_end: Some(reason), ..grant }),
        };
        self.record(Step::Closed, Record::Closed(receipt.clone()))?;
        Ok(receipt)
    }

    /// Undoes the right and looks whether it is gone. Says how many processes were ended.
    fn take_back(&self, grant: &Grant) -> Result<usize, Unfinished> {
        match &grant.right {
            Right::Account { name, delete, .. } => self.close_account(&AccountName::new(name)?, *delete),
            Right::Elevation { .. } => {
                let ended = self.act(Act::EndSessions, |_| Ok::<_, Unfinished>(self.processes.end(&grant.sessions)))?;
                match self.act(Act::Verify, |_| {
                    Ok::<_, Unfinished>(grant.sessions.iter().find(|session| self.processes.alive(session)))
                })? {
                    None => Ok(ended),
                    Some(session) => Err(Unfinished::Left { what: format!("process {}", session.pid) }),
                }
            }
        }
    }

    /// Closes an account of ours, whatever state it is in.
    pub(crate) fn close_account(&self, name: &AccountName, delete: bool) -> Result<usize, Unfinished> {
        if let AccountState::Foreign = self.accounts.state(name)? {
            // Not ours, so nothing of ours is enabled; and nothing of somebody else's is touched.
            return Ok(0);
        }
        // In this order: no new session, nothing that a running one could still gain by its groups, then the running ones, then
        // what they could have learnt.
        let mut first_error = None;
        let mut attempt = |act, on: &dyn Fn(&dyn Accounts) -> Result<usize, AccountError>| match self.act(act, on) {
            Ok(count) => count,
            Err(error) => {
                tracing::error!(%act, %error, "an account could not be closed whole");
                first_error.get_or_insert(error);
                0
            }
        };
        attempt(Act::Disable, &|accounts| accounts.disable(name).map(|()| 0));
        attempt(Act::StripGroups, &|accounts| accounts.strip_groups(name).map(|()| 0));
        let ended = attempt(Act::EndSessions, &|accounts| accounts.end_sessions(name));
        attempt(Act::Rotate, &|accounts| accounts.rotate_password(name).map(|()| 0));
        attempt(Act::RotateAgain, &|accounts| accounts.rotate_password(name).map(|()| 0));
        if delete {
            attempt(Act::Remove, &|accounts| accounts.remove(name).map(|()| 0));
        }
        if let Some(error) = first_error {
            return Err(error.into());
        }
        self.act(Act::Verify, |accounts| {
            let left = |what: &str| Err(Unfinished::Left { what: format!("{what} of {name}") });
            match accounts.state(name)? {
                AccountState::Absent | AccountState::Foreign => Ok(()),
                AccountState::Marked(_) if delete => left("the account"),
                AccountState::Marked(account) if account.enabled => left("the login"),
                AccountState::Marked(account) if !account.groups.is_empty() => left("a group"),
                AccountState::Marked(_) if accounts.sessions(name)? > 0 => left("a session"),
                AccountState::Marked(_) => Ok(()),
            }
        })?;
        Ok(ended)
    }
}
