//! A machine made of memory: accounts, processes and a clock that survive the agent's crashes, as the real ones do.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use gatepass_accounts::{AccountError, AccountName, AccountSpec, AccountState, Accounts, Marked};
use gatepass_agent_core::clock::{BootId, Now};
use gatepass_agent_core::fault::{Act, Fault, NoFault, Point};
use gatepass_agent_core::grant::{Approval, Approver, Right, Session};
use gatepass_agent_core::{Author, Grants, Processes, Wanted};
use gatepass_protocol::ids::{ComputerId, DeviceId, GrantId, Serial, TechnicianId, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::policy::{AccountKind, Scenario};

pub(crate) const START: u64 = 1_800_000_000;

/// What is there, and what happened.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) accounts: BTreeMap<AccountName, Marked>,
    pub(crate) foreign: BTreeSet<AccountName>,
    pub(crate) processes: BTreeMap<AccountName, usize>,
    pub(crate) passwords: BTreeMap<AccountName, usize>,
    pub(crate) alive: BTreeSet<u32>,
    /// How often an account went from closed to open.
    pub(crate) enabled: usize,
    /// Acts that fail.
    pub(crate) broken: BTreeSet<&'static str>,
}

/// The machine, shared by one agent after the other.
#[derive(Clone, Default)]
pub(crate) struct Machine(Arc<Mutex<World>>);

impl Machine {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Starts an agent on it.
    pub(crate) fn agent(&self, folder: &Path, fault: impl Fault + 'static) -> Grants {
        let author = Author::new(TenantId([1; 16]), ComputerId([2; 16]), Arc::new(SigningKey::from_seed(&[3; 32])));
        Grants::open(folder, Arc::new(self.clone()), Arc::new(self.clone()), author, Arc::new(fault)).unwrap()
    }

    pub(crate) fn healthy_agent(&self, folder: &Path) -> Grants {
        self.agent(folder, NoFault)
    }

    /// What the issue asks for: nothing is open, and nothing is in a group, without a live grant.
    pub(crate) fn assert_nothing_open_without_a_grant(&self, grants: &Grants, now: Now, story: &str) {
        let world = self.world();
        for (name, account) in &world.accounts {
            if grants.of_account(name.as_str(), now).is_none() {
                assert!(!account.enabled, "{story}: {name} is open without a live grant");
                assert!(account.groups.is_empty(), "{story}: {name} is in {:?} without a live grant", account.groups);
                assert_eq!(world.processes.get(name).copied().unwrap_or(0), 0, "{story}: {name} has processes left");
            }
        }
        for grant in grants.open_grants().filter(|grant| grant.is_live()) {
            if let Some(name) = grant.right.account() {
                assert!(
                    world.accounts[&name.parse().unwrap()].enabled,
                    "{story}: {name} has a live grant and is closed"
                );
            }
        }
    }

    fn change(
        &self,
        what: &'static str,
        name: &AccountName,
        change: impl FnOnce(&mut Marked),
    ) -> Result<(), AccountError> {
        let mut world = self.world();
        world.works(what, name)?;
        match world.accounts.get_mut(name) {
            Some(account) => change(account),
            None => return Err(AccountError::Missing { name: name.clone() }),
        }
        Ok(())
    }
}

impl World {
    fn works(&self, what: &'static str, name: &AccountName) -> Result<(), AccountError> {
        match self.broken.contains(what) {
            true => {
                Err(AccountError::Busy { what: "the account", lock: PathBuf::from(format!("/lock/{what}/{name}")) })
            }
            false => Ok(()),
        }
    }
}

impl Accounts for Machine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn check(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        match self.world().foreign.contains(&spec.name) {
            true => Err(AccountError::Clash { name: spec.name.clone(), by: "somebody".into() }),
            false => Ok(()),
        }
    }

    fn create(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        let mut world = self.world();
        world.works("create", &spec.name)?;
        let uid = 60_000 + world.accounts.len() as u32;
        let new = Marked { uid, technician: spec.technician, enabled: false, expiry: None, groups: Vec::new() };
        world.accounts.entry(spec.name.clone()).or_insert(new);
        Ok(())
    }

    fn set_expiry(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        self.change("set_expiry", &spec.name, |account| account.expiry = Some(spec.not_after))
    }

    fn set_groups(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        self.change("set_groups", &spec.name, |account| {
            account.groups = spec.groups.clone();
            account.groups.sort();
        })
    }

    fn enable(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        self.change("enable", &spec.name, |account| account.enabled = true)?;
        self.world().enabled += 1;
        Ok(())
    }

    fn disable(&self, name: &AccountName) -> Result<(), AccountError> {
        match self.change("disable", name, |account| account.enabled = false) {
            Err(AccountError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    fn strip_groups(&self, name: &AccountName) -> Result<(), AccountError> {
        match self.change("strip_groups", name, |account| account.groups.clear()) {
            Err(AccountError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    fn rotate_password(&self, name: &AccountName) -> Result<(), AccountError> {
        let mut world = self.world();
        world.works("rotate_password", name)?;
        *world.passwords.entry(name.clone()).or_default() += 1;
        Ok(())
    }

    fn remove(&self, name: &AccountName) -> Result<(), AccountError> {
        let mut world = self.world();
        world.works("remove", name)?;
        world.accounts.remove(name);
        Ok(())
    }

    fn adopt_session(&self, name: &AccountName, _: u32) -> Result<(), AccountError> {
        let mut world = self.world();
        world.works("adopt_session", name)?;
        *world.processes.entry(name.clone()).or_default() += 1;
        Ok(())
    }

    fn end_sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        let mut world = self.world();
        world.works("end_sessions", name)?;
        world.alive.clear();
        Ok(world.processes.remove(name).unwrap_or(0))
    }

    fn sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        Ok(self.world().processes.get(name).copied().unwrap_or(0))
    }

    fn state(&self, name: &AccountName) -> Result<AccountState, AccountError> {
        let world = self.world();
        Ok(match world.accounts.get(name) {
            _ if world.foreign.contains(name) => AccountState::Foreign,
            Some(account) => AccountState::Marked(account.clone()),
            None => AccountState::Absent,
        })
    }

    fn marked(&self) -> Result<Vec<AccountName>, AccountError> {
        Ok(self.world().accounts.keys().cloned().collect())
    }

    fn idle_since(&self, _: u64) -> Result<Vec<AccountName>, AccountError> {
        Ok(Vec::new())
    }
}

impl Processes for Machine {
    fn end(&self, sessions: &[Session]) -> usize {
        let mut world = self.world();
        sessions.iter().filter(|session| world.alive.remove(&session.pid)).count()
    }

    fn alive(&self, session: &Session) -> bool {
        self.world().alive.contains(&session.pid)
    }
}

/// The agent dies at one point, the first time that it comes there.
pub(crate) struct DiesAt(pub(crate) Point);

/// What a death unwinds with, apart from a failed assertion.
pub(crate) struct Died;

impl Fault for DiesAt {
    fn reach(&self, point: Point) {
        if point == self.0 {
            std::panic::resume_unwind(Box::new(Died));
        }
    }
}

/// Runs a piece of an agent's life; `None` when it died.
pub(crate) fn until_death<T>(life: impl FnOnce() -> T) -> Option<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(life)) {
        Ok(value) => Some(value),
        Err(cause) if cause.is::<Died>() => None,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}

pub(crate) fn now(after: u64) -> Now {
    Now { wall: START + after, uptime: 1000 + after, boot: BootId([9; 16]) }
}

pub(crate) const SESSION: Session = Session { pid: 4711, started: 99 };

/// The kinds of right that a technician can be given.
pub(crate) fn rights() -> [(&'static str, Right); 3] {
    let groups = || vec!["sudo".to_string(), "adm".to_string()];
    [
        (
            "a kept account",
            Right::Account { name: "gp-alex".into(), kind: AccountKind::Named, groups: groups(), delete: false },
        ),
        (
            "an account for once",
            Right::Account {
                name: "alex_566054625600".into(),
                kind: AccountKind::Random,
                groups: groups(),
                delete: true,
            },
        ),
        ("an elevation", Right::Elevation { from: "alex".into(), to: "root".into() }),
    ]
}

pub(crate) fn wanted(right: Right, number: u8) -> Wanted {
    Wanted {
        id: GrantId([number; 16]),
        right,
        approver: Approver {
            technician: TechnicianId([7; 16]),
            name: "Alex".into(),
            device: DeviceId([8; 16]),
            certificate: Serial([9; 16]),
            chain: Vec::new(),
        },
        scenario: Scenario::Ssh,
        approval: Approval([number; 32]),
        evidence: [5; 32],
        until: START + 1800,
    }
}

/// A temporary folder in memory where there is one: the tests make thousands of journals.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) const ALL_ACTS: [(Act, &str); 5] = [
    (Act::Create, "create"),
    (Act::Rotate, "rotate_password"),
    (Act::SetExpiry, "set_expiry"),
    (Act::SetGroups, "set_groups"),
    (Act::Enable, "enable"),
];
