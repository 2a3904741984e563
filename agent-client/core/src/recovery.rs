//! What a restart does before it serves anybody.

use gatepass_accounts::{AccountError, AccountName, AccountState};
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;

use crate::clock::Now;
use crate::ending::Unfinished;
use crate::fault::Step;
use crate::grant::Grant;
use crate::grants::{Grants, Receipt};

/// What a restart found and did.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Grants that were closed, with their receipts.
    pub closed: Vec<Receipt>,
    /// Accounts that were open with no grant behind them, and are not any more.
    pub swept: Vec<AccountName>,
    /// Grants that go on: active, in time, their account as it should be.
    pub kept: Vec<GrantId>,
    /// What could not be closed, and why; `due` brings grants up again every second.
    pub failed: Vec<String>,
}

impl Grants {
    /// Closes every grant that a crash, a reboot or its time has ended, then every marked account without a live grant.
    ///
    /// A grant with a running session goes on: restarting the agent throws nobody out. One that was still being made
    /// ready is closed: whoever waited for it saw the agent go away.
    pub fn recover(&mut self, now: Now) -> Recovered {
        let mut recovered = Recovered::default();
        let ids: Vec<GrantId> = self.open.keys().copied().collect();
        for id in ids {
            let Some(grant) = self.open.get(&id).cloned() else { continue };
            match self.take_up(&grant, now) {
                Ok(()) => recovered.kept.push(id),
                Err(reason) => match self.end(&id, reason, now) {
                    Ok(receipt) => recovered.closed.push(receipt),
                    Err(unfinished) => recovered.failed.push(format!("grant {id}: {unfinished}")),
                },
            }
        }
        match self.sweep(now) {
            Ok(swept) => recovered.swept = swept,
            Err(unfinished) => recovered.failed.push(format!("the sweep of marked accounts: {unfinished}")),
        }
        recovered
    }

    /// Goes on with a grant, or says why it has to end.
    ///
    /// Only one with a running session goes on. Its account may be closed nevertheless: the user database forgets its
    /// accounts when the agent dies, and so opens this one again. It can't be one whose end began without a word in the
    /// journal, on a full disk: ending kills the sessions.
    fn take_up(&mut self, grant: &Grant, now: Now) -> Result<(), EndReason> {
        if grant.reason_to_end.is_some() || grant.step != Step::Active {
            return Err(grant.reason_to_end.unwrap_or(EndReason::Restart));
        }
        if let Some(reason) = self.reason_to_end(grant, now) {
            return Err(reason);
        }
        match grant.right.account().map(|name| self.is_enabled(name)) {
            None | Some(Ok(true)) => Ok(()),
            Some(_) => self.make_ready(grant, now, true).map_err(|refused| {
                tracing::error!(grant = %grant.id, %refused, "a grant can't go on after a restart");
                EndReason::Restart
            }),
        }
    }

    fn is_enabled(&self, name: &str) -> Result<bool, AccountError> {
        Ok(matches!(self.accounts.state(&AccountName::new(name)?)?, AccountState::Marked(account) if account.enabled))
    }

    /// Closes every account of ours that is open, or in a group, without a grant.
    fn sweep(&self, now: Now) -> Result<Vec<AccountName>, Unfinished> {
        let mut swept = Vec::new();
        let mut first_error = None;
        for name in self.accounts.marked()? {
            if self.of_account(name.as_str(), now).is_some() {
                continue;
            }
            let outcome = match self.accounts.state(&name) {
                Ok(AccountState::Marked(account)) if account.enabled || !account.groups.is_empty() => {
                    self.close_account(&name, false).map(|_| swept.push(name))
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = outcome {
                first_error.get_or_insert(error);
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(swept),
        }
    }
}
