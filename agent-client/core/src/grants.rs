//! The engine: every grant of this computer, in memory and in the journal.
//!
//! ```text
//!   approval ──> intent ─> created ─> expiry set ─> grouped ─> enabled ──> active ──┐
//!                   └──────────┴───────────┴───────────┴───────────┴── failed ──┐   │ logout, time, phone,
//!                                                                               v   v administrator, reboot
//!                                             receipt <── closed <─ verified <─ ending
//! ```
//!
//! One thread at a time walks through it, and each arrow is a record on the disk. A record before the account is touched
//! names all that may have to be undone; each later one follows its act, after what the act did was read back. So at every
//! moment the journal knows at least as much as the machine has, and [`Grants::recover`] can end what a crash left behind.
//!
//! An approval is spent in the same record that begins its grant: there is no moment in which the one is on the disk
//! without the other.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gatepass_accounts::{AccountError, Accounts};
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;
use serde::{Deserialize, Serialize};

use crate::author::Author;
use crate::clock::{ClockSetBack, Deadline, Guard, Now};
use crate::fault::{Act, Fault, Point, Step};
use crate::grant::{Approval, Grant, Session};
use crate::journal::{Journal, JournalError};

/// The journal is rewritten when it has grown past this.
const COMPACT_AT: u64 = 1024 * 1024;
/// Receipts that stay readable; older ones are in the audit trail.
const RECEIPTS: usize = 100;
/// How long a spent approval is remembered. It expires within minutes; the clock's guard covers the rest.
const REMEMBER_APPROVALS: u64 = 7 * 24 * 3600;
/// The highest time seen is written this often, in seconds, while nothing else is.
const WRITE_TIME_EVERY: u64 = 300;

/// One record of the journal. Variants and fields are only ever added at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Record {
    /// The highest wall time seen.
    Time(u64),
    /// An administrator said that this is the time.
    ClockAccepted(u64),
    /// A grant begins ([`Step::Intent`]), or, after a compaction, goes on; its approval is spent.
    Grant(Box<Grant>),
    /// A grant came this far.
    Step(GrantId, Step, u64),
    /// A session opened in a grant, which is now active.
    Opened(GrantId, Session, u64),
    /// A session closed.
    Left(GrantId, Session, u64),
    /// A grant is ending.
    Ending(GrantId, EndReason, u64),
    /// A grant is over; its receipt, with how to sort it.
    Closed(Receipt),
    /// After a compaction: an approval that was spent, and when.
    Spent(Approval, u64),
    /// A further approval for a live grant was spent; the grant ends at this time.
    Joined(GrantId, Approval, Deadline, u64),
}

/// The proof that a grant was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The grant.
    pub grant: GrantId,
    /// When it was closed, in Unix seconds.
    pub closed_at: u64,
    /// The signed receipt.
    pub signed: Bytes,
    /// The grant as it was, for the audit trail and for those who ask who had it.
    pub of: Box<Grant>,
}

/// Why nothing was granted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nothing is granted while the clock is wrong.
    #[error(transparent)]
    Clock(#[from] ClockSetBack),
    /// Ask for a new approval.
    #[error("this approval was used before; one approval gives one grant")]
    Duplicate,
    /// The approval is too old, or asks for no time.
    #[error("the approval's time is over")]
    TooLate,
    /// Ask for the same as the grant that it has, or end that one.
    #[error(
        "{account} is open already, with these groups: {groups:?}. Choose exactly these to log in once more, end the open grant, or \
         choose another account"
    )]
    Busy {
        /// The account.
        account: String,
        /// The groups of its grant.
        groups: Vec<String>,
    },
    /// The provider can't make the account ready.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The account was not as asked for when it was read back.
    #[error("{account} is not as it was asked for after {act}: {found}")]
    NotAsAsked {
        /// The account.
        account: String,
        /// The act.
        act: Act,
        /// What was found.
        found: String,
    },
    /// What can't be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Why a session can't be registered or a grant not be found.
#[derive(Debug, thiserror::Error)]
pub enum NotLive {
    /// No grant of this name is live.
    #[error("this grant has ended")]
    Ended,
    /// The provider could not take the session in.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// What can't be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What ends sessions that have no account of their own: the processes under a sudo or su.
pub trait Processes: Send + Sync {
    /// Ends these processes and all that they started; says how many were left to end.
    fn end(&self, sessions: &[Session]) -> usize;
    /// Whether this process is still there.
    fn alive(&self, session: &Session) -> bool;
}

/// Every grant of this computer. One owner at a time: callers share it behind a lock.
pub struct Grants {
    pub(crate) journal: Journal,
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) processes: Arc<dyn Processes>,
    pub(crate) author: Author,
    pub(crate) fault: Arc<dyn Fault>,
    pub(crate) guard: Guard,
    /// All that are not closed.
    pub(crate) open: BTreeMap<GrantId, Grant>,
    pub(crate) spent: BTreeMap<Approval, u64>,
    pub(crate) receipts: VecDeque<Receipt>,
    time_written: u64,
}

impl Grants {
    /// Reads the journal in `folder`. Call [`Grants::recover`] before anything else.
    pub fn open(
        folder: &Path,
        accounts: Arc<dyn Accounts>,
        processes: Arc<dyn Processes>,
        author: Author,
        fault: Arc<dyn Fault>,
    ) -> Result<Self, JournalError> {
        let (journal, records) = Journal::open(folder)?;
        let mut grants = Self {
            journal,
            accounts,
            processes,
            author,
            fault,
            guard: Guard::default(),
            open: BTreeMap::new(),
            spent: BTreeMap::new(),
            receipts: VecDeque::new(),
            time_written: 0,
        };
        for record in records {
            grants.apply(record);
        }
        Ok(grants)
    }

    /// The grants that are not closed, the ending ones among them.
    pub fn open_grants(&self) -> impl Iterator<Item = &Grant> {
        self.open.values()
    }

    /// One of them.
    pub fn get(&self, id: &GrantId) -> Option<&Grant> {
        self.open.get(id)
    }

    /// The live grant that an account has, if it has one.
    pub fn of_account(&self, account: &str, now: Now) -> Option<&Grant> {
        self.open
            .values()
            .find(|grant| grant.is_live() && grant.deadline.left(now) > 0 && grant.right.account() == Some(account))
    }

    /// The newest receipts, oldest first.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.receipts.iter()
    }

    /// Whether the clock may be believed.
    pub fn check_clock(&self, now: Now) -> Result<(), ClockSetBack> {
        self.guard.check(now.wall)
    }

    /// An administrator says that the clock is right now, and that it was wrong before.
    pub fn accept_clock(&mut self, now: Now) -> Result<(), JournalError> {
        self.journal.append(&Record::ClockAccepted(now.wall))?;
        self.apply(Record::ClockAccepted(now.wall));
        self.time_written = now.wall;
        Ok(())
    }

    /// Takes note of the time, and of sessions whose process is gone without a word; says which grants have to end, and why.
    /// Call it every second or so.
    pub fn due(&mut self, now: Now) -> Vec<(GrantId, EndReason)> {
        self.guard.see(now.wall);
        if self.guard.highest() >= self.time_written + WRITE_TIME_EVERY {
            let highest = self.guard.highest();
            match self.journal.append(&Record::Time(highest)) {
                Ok(()) => self.time_written = highest,
                Err(error) => tracing::error!(%error, "the time could not be written to the journal"),
            }
        }
        self.open.values().filter_map(|grant| Some((grant.id, self.reason_to_end(grant, now)?))).collect()
    }

    pub(crate) fn reason_to_end(&self, grant: &Grant, now: Now) -> Option<EndReason> {
        if let Some(reason) = grant.reason_to_end {
            return Some(reason); // began to end, and could not be finished
        }
        if now.boot != grant.deadline.boot {
            return Some(EndReason::Restart);
        }
        if grant.deadline.left(now) == 0 {
            return Some(EndReason::Time);
        }
        match grant.step {
            Step::Enabled if now.wall.saturating_sub(grant.granted_at) > crate::UNUSED_AFTER => Some(EndReason::Failed),
            Step::Active if !grant.sessions.iter().any(|session| self.processes.alive(session)) => {
                Some(EndReason::Logout)
            }
            _ => None,
        }
    }

    /// Writes the journal anew when it has grown, or when an earlier failure left it unusable. Call it every second or so.
    pub fn tend_journal(&mut self, now: Now) -> Result<(), JournalError> {
        if self.journal.is_poisoned() || self.journal.length() > COMPACT_AT { self.compact(now) } else { Ok(()) }
    }

    /// Writes a new journal with what still matters.
    pub fn compact(&mut self, now: Now) -> Result<(), JournalError> {
        self.spent.retain(|_, at| *at + REMEMBER_APPROVALS > now.wall);
        let mut records = Vec::new();
        records.extend(self.spent.iter().map(|(approval, at)| Record::Spent(*approval, *at)));
        records.extend(self.receipts.iter().cloned().map(Record::Closed));
        records.extend(self.open.values().map(|grant| Record::Grant(Box::new(grant.clone()))));
        // Last, and as an accepted time: the others may carry times of a clock that was wrong then and has been set right.
        records.push(Record::ClockAccepted(self.guard.highest()));
        self.journal.compact(&records)
    }

    /// Writes a record and, when it is on the disk, takes it into account.
    pub(crate) fn record(&mut self, step: Step, record: Record) -> Result<(), JournalError> {
        self.fault.reach(Point::Recording(step));
        self.journal.append(&record)?;
        self.apply(record);
        self.fault.reach(Point::Recorded(step));
        Ok(())
    }

    /// What a record means, at boot as when it is written.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Time(at) => {
                self.guard.see(at);
                self.time_written = self.time_written.max(at);
            }
            Record::ClockAccepted(at) => self.guard.accept(at),
            Record::Grant(grant) => {
                self.guard.see(grant.granted_at);
                self.spent.insert(grant.approval, grant.granted_at);
                self.open.insert(grant.id, *grant);
            }
            Record::Step(id, step, at) => {
                self.guard.see(at);
                self.with(id, |grant| grant.step = step);
            }
            Record::Opened(id, session, at) => {
                self.guard.see(at);
                self.with(id, |grant| {
                    grant.step = Step::Active;
                    grant.sessions.push(session);
                });
            }
            Record::Left(id, session, at) => {
                self.guard.see(at);
                self.with(id, |grant| grant.sessions.retain(|open| *open != session));
            }
            Record::Ending(id, reason, at) => {
                self.guard.see(at);
                self.with(id, |grant| {
                    grant.step = Step::Ending;
                    grant.reason_to_end.get_or_insert(reason);
                });
            }
            Record::Closed(receipt) => {
                self.guard.see(receipt.closed_at);
                self.open.remove(&receipt.grant);
                self.receipts.push_back(receipt);
                while self.receipts.len() > RECEIPTS {
                    self.receipts.pop_front();
                }
            }
            Record::Spent(approval, at) => {
                self.spent.insert(approval, at);
            }
            Record::Joined(id, approval, deadline, at) => {
                self.guard.see(at);
                self.spent.insert(approval, at);
                self.with(id, |grant| grant.deadline = deadline);
            }
        }
    }

    fn with(&mut self, id: GrantId, change: impl FnOnce(&mut Grant)) {
        if let Some(grant) = self.open.get_mut(&id) {
            change(grant);
        }
    }

    /// One act on an account, between its two points.
    pub(crate) fn act<T, E>(&self, act: Act, on: impl FnOnce(&dyn Accounts) -> Result<T, E>) -> Result<T, E> {
        self.fault.reach(Point::Acting(act));
        let done = on(&*self.accounts)?;
        self.fault.reach(Point::Acted(act));
        Ok(done)
    }
}
