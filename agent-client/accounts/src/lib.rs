//! Accounts that exist for as long as a grant does.
//!
//! The daemon walks each grant through [`Accounts`], one small act at a time: create (locked and expired), set the expiry,
//! set the groups, enable; and at the end disable, strip the groups, rotate the password, end the sessions, perhaps remove.
//! Every act may be repeated, and [`Accounts::state`] reads back what the machine really says, because the journal that drives
//! it may replay any step after a crash.
//!
//! Two providers do this on Linux:
//!
//! - [`UserDb`], the first choice: the daemon *is* the user database. The stock libnss-systemd asks it over a socket, so an
//!   account exists exactly as long as the daemon says so. Nothing is written to `/etc`, and a crash leaves no account behind.
//! - [`Standing`], where libnss-systemd is missing: a real account in `/etc/passwd`, locked and expired except during a grant.
//!
//! ```no_run
//! use gatepass_accounts::{AccountError, AccountName, AccountSpec, Accounts, OnEnd, UserDb, UserDbConfig};
//!
//! # fn main() -> Result<(), AccountError> {
//! let accounts = UserDb::open(UserDbConfig::default(), |name| name.as_str().starts_with("gp-"))?;
//! let alex = AccountSpec {
//!     name: AccountName::new("gp-alex")?,
//!     technician: [1; 16],
//!     technician_name: "Alex Doe".into(),
//!     groups: vec!["sudo".into()],
//!     not_after: 1_800_000_000,
//!     on_end: OnEnd::Keep,
//! };
//! for act in [Accounts::check, Accounts::create, Accounts::set_expiry, Accounts::set_groups, Accounts::enable] {
//!     act(&accounts, &alex)?;
//! }
//! // Alex works. Then:
//! accounts.disable(&alex.name)?;
//! accounts.end_sessions(&alex.name)?;
//! accounts.strip_groups(&alex.name)?;
//! # Ok(())
//! # }
//! ```
//!
//! Neither touches an account that Gatepass did not mark. [`doctor`] says what a machine lacks for either, and the feature
//! `conformance` exports the suite that both pass.

mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod doctor;
mod home;
mod ledger;
mod leftovers;
mod local;
mod name;
mod sessions;
mod standing;
mod userdb;

use std::{collections::BTreeSet, io, ops::RangeInclusive, path::PathBuf};

pub use home::Homes;
pub use name::AccountName;
pub use standing::{Standing, StandingConfig};
pub use userdb::{UserDb, UserDbConfig};

/// What a grant wants of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpec {
    /// The account's name.
    pub name: AccountName,
    /// Whose account it is. Only a shared account may change hands.
    pub technician: [u8; 16],
    /// The technician's name, for people who list users.
    pub technician_name: String,
    /// Existing groups of this computer that the account joins for the grant.
    pub groups: Vec<String>,
    /// When the grant ends, in Unix seconds.
    pub not_after: u64,
    /// What happens to the account after the grant.
    pub on_end: OnEnd,
}

/// What happens to an account after its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// It and its home directory wait for the next grant, locked and expired.
    Keep,
    /// It and its home directory go. Its uid is never given to another.
    Delete,
}

/// What the machine says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// Nobody has this name.
    Absent,
    /// Ours.
    Marked(Marked),
    /// Somebody else's. It is never touched.
    Foreign,
}

/// An account of ours, as read back from the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its uid, which is also the gid of its own group.
    pub uid: u32,
    /// Whose it is (of a shared account: who had it last).
    pub technician: [u8; 16],
    /// Whether somebody could log in to it now.
    pub enabled: bool,
    /// The expiry that was set for the running grant, in Unix seconds.
    pub expiry: Option<u64>,
    /// The groups that it is in besides its own, sorted.
    pub groups: Vec<String>,
}

/// A way of making temporary accounts. Every act is idempotent.
///
/// The daemon calls from blocking threads, from several at once; a provider serialises what must not overlap.
pub trait Accounts: Send + Sync {
    /// `userdb` or `standing`, for logs and `status`.
    fn name(&self) -> &'static str;

    /// Whether this account could be made: no clash with somebody else's, groups known, expiry ahead. Asked before approval.
    fn check(&self, spec: &AccountSpec) -> Result<(), AccountError>;

    /// Makes the account and its home directory, locked and expired.
    fn create(&self, spec: &AccountSpec) -> Result<(), AccountError>;

    /// Sets when the account ends, so that it ends even if nobody calls `disable`. The account stays locked.
    fn set_expiry(&self, spec: &AccountSpec) -> Result<(), AccountError>;

    /// Makes the account a member of exactly `spec.groups`.
    fn set_groups(&self, spec: &AccountSpec) -> Result<(), AccountError>;

    /// Opens the account until its expiry.
    fn enable(&self, spec: &AccountSpec) -> Result<(), AccountError>;

    /// Locks and expires the account. Absent is disabled too.
    fn disable(&self, name: &AccountName) -> Result<(), AccountError>;

    /// Takes the account out of every group but its own.
    fn strip_groups(&self, name: &AccountName) -> Result<(), AccountError>;

    /// Replaces the password by a random one that nobody learns. A provider without passwords has nothing to do.
    fn rotate_password(&self, name: &AccountName) -> Result<(), AccountError>;

    /// Removes the account and its home directory.
    fn remove(&self, name: &AccountName) -> Result<(), AccountError>;

    /// Remembers that `pid` and all that it will start belong to the account, so that they end with it even where they became
    /// root on the way. Called when a session opens; without a writable cgroup tree it does nothing.
    fn adopt_session(&self, name: &AccountName, pid: u32) -> Result<(), AccountError>;

    /// Kills every process of the account, wherever it went, and removes what would start new ones (linger, crontab, at jobs).
    /// Returns how many processes were found. Disable first, or new ones may come.
    fn end_sessions(&self, name: &AccountName) -> Result<usize, AccountError>;

    /// How many processes the account has.
    fn sessions(&self, name: &AccountName) -> Result<usize, AccountError>;

    /// What the machine says about a name.
    fn state(&self, name: &AccountName) -> Result<AccountState, AccountError>;

    /// Every account of ours, for the sweep at boot.
    fn marked(&self) -> Result<Vec<AccountName>, AccountError>;

    /// Those of ours that nobody was granted since `before` (Unix seconds), for the removal of idle accounts.
    fn idle_since(&self, before: u64) -> Result<Vec<AccountName>, AccountError>;
}

/// Why an account could not be had, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Choose another name.
    #[error("\"{name}\" can't be an account name: {why}. Choose another name.")]
    BadName {
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Choose another name: this one is somebody else's.
    #[error(
        "the name {name} is already taken on this computer by {by}. Gatepass leaves it alone; choose another account name."
    )]
    Clash {
        /// The name that was asked for.
        name: AccountName,
        /// Who has it.
        by: String,
    },
    /// Ask for groups that exist.
    #[error("this computer has no group called \"{group}\". Choose another group, or create it first.")]
    UnknownGroup {
        /// The group, escaped.
        group: String,
    },
    /// Ask for a later end.
    #[error(
        "the grant for {name} would end at {not_after}, and it is {now} now. Ask for a later end, and check this computer's clock."
    )]
    Past {
        /// The account.
        name: AccountName,
        /// The end that was asked for, in Unix seconds.
        not_after: u64,
        /// The time here, in Unix seconds.
        now: u64,
    },
    /// Create it first.
    #[error("the account {name} does not exist here. Ask for a new grant.")]
    Missing {
        /// The account.
        name: AccountName,
    },
    /// Try again in a moment.
    #[error("{what} is busy: another program holds {lock}. Try again in a moment.")]
    Busy {
        /// What could not be changed.
        what: &'static str,
        /// The lock that is held.
        lock: PathBuf,
    },
    /// Stop the other one first.
    #[error(
        "another gatepass-agent runs on this computer: it holds {lock}. 'gatepass-agent status' asks it; stop it before you start one."
    )]
    AlreadyRuns {
        /// The lock that is held.
        lock: PathBuf,
    },
    /// Free or widen the range.
    #[error("all user ids from {first} to {last} are in use. Give the agent a wider range (accounts.uids).")]
    RangeFull {
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
    },
    /// Configure another range.
    #[error(
        "user ids from {first} to {last} (accounts.uids) can't be given out: they must lie between 1000 and 4294967293 and leave out \
         65534 and 65535, which mean nobody"
    )]
    BadRange {
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
    },
    /// Look at what keeps them alive.
    #[error("{left} processes of {name} are still running after they were killed. Look at them with: ps -u {uid}")]
    StillRunning {
        /// The account.
        name: AccountName,
        /// Its uid.
        uid: u32,
        /// How many are left.
        left: usize,
    },
    /// The machine says something else than what was just written: do not grant.
    #[error("{what} was changed for {name}, but reads back as {found}. Run: gatepass-agent doctor")]
    NotTaken {
        /// The account.
        name: AccountName,
        /// What was changed.
        what: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A program of the system refused.
    #[error("{tool} refused for {name}: {said}")]
    Refused {
        /// The program.
        tool: &'static str,
        /// The account.
        name: AccountName,
        /// What it said.
        said: String,
    },
    /// The ledger of uids can't be trusted: repair it.
    #[error("{} is damaged ({why}). Restore it from a backup; user ids must never be given out twice.", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Look at the disk, the path or the rights.
    #[error("could not {act} {}: {source}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl AccountError {
    /// Whether the same act may succeed in a moment.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Names the act and the path of an IO error.
pub(crate) trait During<T> {
    fn during(self, act: &'static str, path: impl Into<PathBuf>) -> Result<T, AccountError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, act: &'static str, path: impl Into<PathBuf>) -> Result<T, AccountError> {
        self.map_err(|source| AccountError::Io { act, path: path.into(), source: source.into() })
    }
}

/// The uids to give out unless the configuration says others: between systemd's dynamic users and Debian's first subordinate uid,
/// where nobody else allots any.
pub const UIDS: RangeInclusive<u32> = 70_000..=89_999;

/// A person's name as it may stand in a user record: no separators, no control characters, not endless.
pub(crate) fn printable(name: &str) -> String {
    let harmless = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '.' | '\'' | '_' | '@' | '(' | ')');
    name.chars().filter(harmless).take(64).collect::<String>().trim().to_owned()
}

pub(crate) fn sorted(groups: &[String]) -> Vec<String> {
    groups.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Unix seconds now. Accounts are an edge of the system: their expiry is the machine's own clock.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
