//! From an approval to an account that can log in, and to the session in it.

use std::collections::BTreeSet;

use gatepass_accounts::{AccountName, AccountSpec, AccountState, Marked};
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;
use gatepass_protocol::policy::Scenario;

use crate::clock::{Deadline, Now};
use crate::fault::{Act, Step};
use crate::grant::{Approval, Approver, Grant, Right, Session};
use crate::grants::{Grants, NotLive, Record, Refused};

/// What a verified approval asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// A fresh name for the grant.
    pub id: GrantId,
    /// What.
    pub right: Right,
    /// By whom.
    pub approver: Approver,
    /// What was asked for.
    pub scenario: Scenario,
    /// The approval that it comes from.
    pub approval: Approval,
    /// SHA-256 of that approval, signed.
    pub evidence: [u8; 32],
    /// Until when, in Unix seconds.
    pub until: u64,
}

impl Grants {
    /// Whether an account could be granted: asked before the technician is, so that a clash is said before the approval.
    pub fn check(&self, wanted: &Wanted, now: Now) -> Result<(), Refused> {
        self.guard.check(now.wall)?;
        if self.spent.contains_key(&wanted.approval) || self.open.contains_key(&wanted.id) {
            return Err(Refused::Duplicate);
        }
        if wanted.until <= now.wall {
            return Err(Refused::TooLate);
        }
        if let Some(open) = self.has_account_of(wanted).filter(|open| !joins(wanted, open, now)) {
            let account = open.right.shown_account().into();
            return Err(Refused::Busy { account, groups: open.right.groups().to_vec() });
        }
        match self.as_grant(wanted, now).spec()? {
            Some(spec) => Ok(self.accounts.check(&spec)?),
            None => Ok(()),
        }
    }

    /// Spends the approval and makes its right ready. On any failure what was begun is undone before this returns.
    ///
    /// A technician whose account is open already, with the same groups, joins that grant: a second window, not a second grant.
    /// The grant then ends when the earlier of the two approvals says.
    pub fn grant(&mut self, wanted: &Wanted, now: Now) -> Result<Grant, Refused> {
        self.check(wanted, now)?;
        if let Some(open) = self.has_account_of(wanted).map(|open| open.id) {
            return self.join(open, wanted, now);
        }
        let grant = self.as_grant(wanted, now);
        self.record(Step::Intent, Record::Grant(Box::new(grant.clone())))?;
        match self.make_ready(&grant, now, false) {
            Ok(()) => Ok(Grant { step: Step::Enabled, ..grant }),
            Err(refused) => {
                if let Err(unfinished) = self.end(&grant.id, EndReason::Failed, now) {
                    // It stays on the list of what is due, and is tried again every second.
                    tracing::error!(grant = %grant.id, %unfinished, "a grant that failed could not be undone yet");
                }
                Err(refused)
            }
        }
    }

    /// The grant that is open on the account that is wanted.
    fn has_account_of(&self, wanted: &Wanted) -> Option<&Grant> {
        let account = wanted.right.account()?;
        self.open.values().find(|open| open.right.account() == Some(account))
    }

    fn join(&mut self, id: GrantId, wanted: &Wanted, now: Now) -> Result<Grant, Refused> {
        let open = self.open.get(&id).ok_or(Refused::TooLate)?;
        let shorter = wanted.until < open.deadline.wall;
        let deadline = if shorter { Deadline::at(wanted.until, now) } else { open.deadline };
        self.record(Step::Active, Record::Joined(id, wanted.approval, deadline, now.wall))?;
        let open = self.open.get(&id).cloned().ok_or(Refused::TooLate)?;
        if let Some(spec) = open.spec()?.filter(|_| shorter) {
            self.act(Act::SetExpiry, |accounts| accounts.set_expiry(&spec))?;
            self.read_back(&spec, Act::SetExpiry, |account| account.expiry == Some(spec.not_after))?;
        }
        Ok(open)
    }

    fn as_grant(&self, wanted: &Wanted, now: Now) -> Grant {
        Grant {
            id: wanted.id,
            right: wanted.right.clone(),
            approver: wanted.approver.clone(),
            scenario: wanted.scenario,
            approval: wanted.approval,
            evidence: wanted.evidence,
            granted_at: now.wall,
            deadline: Deadline::at(wanted.until, now),
            step: Step::Intent,
            reason_to_end: None,
            sessions: Vec::new(),
        }
    }

    /// Makes the account as the grant says. A grant that begins writes each step down; one that goes on after a restart
    /// (`again`) has them in the journal already, and a provider that forgot its account is told anew.
    pub(crate) fn make_ready(&mut self, grant: &Grant, now: Now, again: bool) -> Result<(), Refused> {
        let write = (!again).then_some(now.wall);
        let Some(spec) = grant.spec()? else {
            // Nothing to make: the steps between are those of an account.
            return self.write_step(grant, Step::Enabled, write);
        };
        let mut groups = spec.groups.clone();
        groups.sort();
        groups.dedup();

        self.act(Act::Create, |accounts| accounts.create(&spec))?;
        self.act(Act::Rotate, |accounts| accounts.rotate_password(&spec.name))?;
        self.read_back(&spec, Act::Create, |account| again || !account.enabled)?;
        self.write_step(grant, Step::Created, write)?;

        self.act(Act::SetExpiry, |accounts| accounts.set_expiry(&spec))?;
        self.read_back(&spec, Act::SetExpiry, |account| account.expiry == Some(spec.not_after))?;
        self.write_step(grant, Step::ExpirySet, write)?;

        self.act(Act::SetGroups, |accounts| accounts.set_groups(&spec))?;
        self.read_back(&spec, Act::SetGroups, |account| account.groups == groups)?;
        self.write_step(grant, Step::Grouped, write)?;

        self.act(Act::Enable, |accounts| accounts.enable(&spec))?;
        self.read_back(&spec, Act::Enable, |account| account.enabled && account.groups == groups)?;
        self.write_step(grant, Step::Enabled, write)
    }

    fn write_step(&mut self, grant: &Grant, step: Step, write: Option<u64>) -> Result<(), Refused> {
        match write {
            Some(at) => Ok(self.record(step, Record::Step(grant.id, step, at))?),
            None => Ok(()),
        }
    }

    /// Looks at the account after an act; only what is really so counts.
    fn read_back(&self, spec: &AccountSpec, act: Act, as_asked: impl Fn(&Marked) -> bool) -> Result<(), Refused> {
        match self.accounts.state(&spec.name)? {
            AccountState::Marked(account) if account.technician == spec.technician && as_asked(&account) => Ok(()),
            found => Err(Refused::NotAsAsked { account: spec.name.to_string(), act, found: format!("{found:?}") }),
        }
    }

    /// A session begins in a live grant: its processes belong to the grant from here on, and the grant is active.
    pub fn session_opened(&mut self, id: &GrantId, session: Session, now: Now) -> Result<&Grant, NotLive> {
        let grant =
            self.open.get(id).filter(|grant| grant.is_live() && grant.deadline.left(now) > 0).ok_or(NotLive::Ended)?;
        if let Some(account) = grant.right.account() {
            self.accounts.adopt_session(&AccountName::new(account)?, session.pid)?;
        }
        if !grant.sessions.contains(&session) {
            self.record(Step::Active, Record::Opened(*id, session, now.wall))?;
        }
        self.open.get(id).ok_or(NotLive::Ended)
    }

    /// A session closed; says whether it was the last one, after which the grant has to end.
    pub fn session_closed(&mut self, id: &GrantId, session: &Session, now: Now) -> bool {
        let Some(grant) = self.open.get(id) else { return false };
        if grant.sessions.contains(session) {
            let left = Record::Left(*id, *session, now.wall);
            // A logout that can't be written down is a logout all the same.
            if let Err(error) = self.journal.append(&left) {
                tracing::error!(grant = %id, %error, "a logout could not be written to the journal");
            }
            self.apply(left);
        }
        self.open.get(id).is_some_and(|grant| grant.step == Step::Active && grant.sessions.is_empty())
    }
}

/// Whether an approval asks for just what a live grant has: the same technician, the same groups.
fn joins(wanted: &Wanted, open: &Grant, now: Now) -> bool {
    let set = |right: &Right| right.groups().iter().cloned().collect::<BTreeSet<_>>();
    open.is_live()
        && open.deadline.left(now) > 0
        && open.approver.technician == wanted.approver.technician
        && set(&open.right) == set(&wanted.right)
}
