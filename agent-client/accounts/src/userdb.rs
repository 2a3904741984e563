//! The daemon as the user database.
//!
//! libnss-systemd, which stands in `nsswitch.conf` of current distributions, asks every socket in `/run/systemd/userdb` about
//! users it doesn't find in the files, whether systemd runs or not. We are one of those sockets. What is answered depends on who
//! asks:
//!
//! - while a grant lives, everybody sees the account, with its groups;
//! - otherwise nobody does but root, who sees a locked and expired record of the same uid, if the account may be granted at all.
//!   sshd looks a user up before it lets PAM ask anything, and goes on with the uid that it got then.
//!
//! Accounts live in this process's memory and nowhere else. When it dies they are gone; when a grant's time is over they are
//! locked without anybody's doing. Only the uids (see `ledger`) and home directories are on disk.
//!
//! Where systemd-userdbd runs, it asks for everybody, as root. Then ordinary users see the locked record too, which gives nothing away
//! but that the name may be granted.

mod records;
mod server;

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use records::{Directory, Record};
use server::Server;

use crate::{
    AccountError, AccountName, AccountSpec, AccountState, Accounts, Homes, Marked,
    ledger::Ledger,
    leftovers,
    local::{self, Sources},
    now,
    sessions::Sessions,
};

/// Where the user database lives.
#[derive(Clone, Debug)]
pub struct UserDbConfig {
    /// The socket. Its file name is the name of the service.
    pub socket: PathBuf,
    /// Where the uids are remembered.
    pub state_dir: PathBuf,
    /// The uids (and gids) to give out: not those of local accounts, directories or containers.
    pub uids: RangeInclusive<u32>,
    /// Where home directories are made.
    pub homes: Homes,
    /// Everybody's shell.
    pub shell: PathBuf,
}

impl Default for UserDbConfig {
    fn default() -> Self {
        Self {
            socket: "/run/systemd/userdb/io.gatepass.Agent".into(),
            state_dir: "/var/lib/gatepass/agent/accounts".into(),
            uids: crate::UIDS,
            homes: Homes::default(),
            shell: "/bin/bash".into(),
        }
    }
}

/// The provider that is the user database itself.
pub struct UserDb {
    // The socket goes first: no question may arrive when the rest is gone.
    _server: Server,
    shared: Arc<Shared>,
    sessions: Sessions,
}

struct Shared {
    service: String,
    config: UserDbConfig,
    ledger: Ledger,
    accounts: Mutex<HashMap<AccountName, Account>>,
    may_be_granted: Box<dyn Fn(&AccountName) -> bool + Send + Sync>,
}

/// An account in memory.
#[derive(Clone)]
struct Account {
    uid: u32,
    technician: [u8; 16],
    real_name: String,
    groups: Vec<String>,
    expiry: Option<Expiry>,
    enabled: bool,
}

/// An end by two clocks, so that setting the wall clock back prolongs nothing.
#[derive(Clone, Copy)]
struct Expiry {
    not_after: u64,
    deadline: Instant,
}

impl Account {
    fn until(&self) -> Option<u64> {
        let ahead = |expiry: &Expiry| now() < expiry.not_after && Instant::now() < expiry.deadline;
        self.expiry.filter(|expiry| self.enabled && ahead(expiry)).map(|expiry| expiry.not_after)
    }
}

impl UserDb {
    /// Starts to answer. `may_be_granted` says for which names sshd may begin a login although no grant lives; it is asked by
    /// the answering thread, so it must neither block nor look users up itself.
    pub fn open(
        config: UserDbConfig,
        may_be_granted: impl Fn(&AccountName) -> bool + Send + Sync + 'static,
    ) -> Result<Self, AccountError> {
        let shared = Arc::new(Shared {
            service: config.socket.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ledger: Ledger::open(&config.state_dir, config.uids.clone())?,
            config,
            accounts: Mutex::default(),
            may_be_granted: Box::new(may_be_granted),
        });
        let server = Server::start(&shared.config.socket, shared.clone())?;
        Ok(Self { _server: server, shared, sessions: Sessions::detect() })
    }

    /// Changes an account that was created for this technician.
    fn change(&self, spec: &AccountSpec, change: impl FnOnce(&mut Account)) -> Result<(), AccountError> {
        let mut accounts = self.shared.accounts();
        let account = accounts.get_mut(&spec.name).ok_or_else(|| AccountError::Missing { name: spec.name.clone() })?;
        if account.technician != spec.technician {
            return Err(AccountError::Clash { name: spec.name.clone(), by: "another technician".into() });
        }
        change(account);
        Ok(())
    }

    fn is_foreign(&self, name: &AccountName) -> Result<Option<String>, AccountError> {
        match local::holder_in_files(&local::users()?, &local::groups()?, name) {
            Some(by) => Ok(Some(by)),
            None => local::holder_elsewhere(name, Some(&self.shared.config.socket)),
        }
    }
}

impl Accounts for UserDb {
    fn name(&self) -> &'static str {
        "userdb"
    }

    fn check(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        in_future(spec)?;
        if let Some(by) = self.is_foreign(&spec.name)? {
            return Err(AccountError::Clash { name: spec.name.clone(), by });
        }
        self.shared.ledger.may_have(&spec.name, &spec.technician)?;
        let uid = self.shared.ledger.slot(&spec.name).map(|slot| slot.uid);
        self.shared.config.homes.check(&spec.name, uid)?;
        local::know_groups(&spec.groups, &local::groups()?, Sources::All)
    }

    fn create(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        if let Some(by) = self.is_foreign(&spec.name)? {
            return Err(AccountError::Clash { name: spec.name.clone(), by });
        }
        let slot = self.shared.ledger.slot(&spec.name).filter(|slot| slot.present);
        if let Some(slot) = slot.filter(|slot| spec.name.is_shared() && slot.technician != spec.technician) {
            if self.shared.accounts().get(&spec.name).is_some_and(|account| account.until().is_some()) {
                return Err(AccountError::Clash {
                    name: spec.name.clone(),
                    by: "another technician, who uses it now".into(),
                });
            }
            hand_over(spec, slot.uid, &self.sessions, &self.shared.config.homes)?;
        }
        // Before the ledger says that the account exists.
        let uid = self.shared.ledger.slot(&spec.name).map(|slot| slot.uid);
        self.shared.config.homes.check(&spec.name, uid)?;
        let uid = self.shared.ledger.assign(&spec.name, &spec.technician, self.shared.taken(&spec.name)?)?;
        self.shared.config.homes.make(&spec.name, uid)?;
        let account = Account {
            uid,
            technician: spec.technician,
            real_name: crate::printable(&spec.technician_name),
            groups: Vec::new(),
            expiry: None,
            enabled: false,
        };
        let mut accounts = self.shared.accounts();
        if accounts.get(&spec.name).is_none_or(|known| known.technician != spec.technician) {
            accounts.insert(spec.name.clone(), account);
        }
        Ok(())
    }

    fn set_expiry(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        let left = in_future(spec)?;
        let deadline = Instant::now() + Duration::from_secs(left.min(u64::from(u32::MAX)));
        self.change(spec, |account| account.expiry = Some(Expiry { not_after: spec.not_after, deadline }))
    }

    fn set_groups(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        local::know_groups(&spec.groups, &local::groups()?, Sources::All)?;
        let groups = crate::sorted(&spec.groups);
        self.change(spec, |account| account.groups = groups)
    }

    fn enable(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        in_future(spec)?;
        self.shared.ledger.used(&spec.name, now() / 86_400)?;
        let mut expiry = None;
        self.change(spec, |account| {
            expiry = account.expiry;
            account.enabled = expiry.is_some();
        })?;
        match expiry {
            Some(_) => Ok(()),
            None => Err(AccountError::NotTaken { name: spec.name.clone(), what: "the expiry", found: "none".into() }),
        }
    }

    fn disable(&self, name: &AccountName) -> Result<(), AccountError> {
        if let Some(account) = self.shared.accounts().get_mut(name) {
            account.enabled = false;
            account.expiry = None;
        }
        Ok(())
    }

    fn strip_groups(&self, name: &AccountName) -> Result<(), AccountError> {
        if let Some(account) = self.shared.accounts().get_mut(name) {
            account.groups.clear();
        }
        Ok(())
    }

    fn rotate_password(&self, _: &AccountName) -> Result<(), AccountError> {
        // Its records carry no password, so none is valid, before and after.
        Ok(())
    }

    fn remove(&self, name: &AccountName) -> Result<(), AccountError> {
        let Some(slot) = self.shared.ledger.slot(name).filter(|slot| slot.present) else { return Ok(()) };
        self.shared.accounts().remove(name);
        self.shared.config.homes.remove(name, slot.uid)?;
        leftovers::remove_mail(name)?;
        self.shared.ledger.release(name)
    }

    fn adopt_session(&self, name: &AccountName, pid: u32) -> Result<(), AccountError> {
        match self.shared.ledger.slot(name) {
            Some(slot) if slot.present => self.sessions.adopt(name, pid),
            _ => Err(AccountError::Missing { name: name.clone() }),
        }
    }

    fn end_sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        let Some(slot) = self.shared.ledger.slot(name) else { return Ok(0) };
        let ended = self.sessions.end(name, slot.uid)?;
        leftovers::disarm(&self.shared.config.homes.of(name), slot.uid)?;
        Ok(ended)
    }

    fn sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        self.shared.ledger.slot(name).map_or(Ok(0), |slot| self.sessions.count(name, slot.uid))
    }

    fn state(&self, name: &AccountName) -> Result<AccountState, AccountError> {
        if self.is_foreign(name)?.is_some() {
            return Ok(AccountState::Foreign);
        }
        let Some(slot) = self.shared.ledger.slot(name).filter(|slot| slot.present) else {
            return Ok(AccountState::Absent);
        };
        let account = self.shared.accounts().get(name).cloned();
        Ok(AccountState::Marked(Marked {
            uid: slot.uid,
            technician: slot.technician,
            enabled: account.as_ref().is_some_and(|account| account.until().is_some()),
            expiry: account.as_ref().and_then(|account| account.expiry).map(|expiry| expiry.not_after),
            groups: account.map(|account| account.groups).unwrap_or_default(),
        }))
    }

    fn marked(&self) -> Result<Vec<AccountName>, AccountError> {
        Ok(self.shared.ledger.present().into_iter().map(|slot| slot.name).collect())
    }

    fn idle_since(&self, before: u64) -> Result<Vec<AccountName>, AccountError> {
        let accounts = self.shared.accounts();
        let idle = self.shared.ledger.present().into_iter().filter(|slot| slot.used < before / 86_400);
        Ok(idle
            .map(|slot| slot.name)
            .filter(|name| accounts.get(name).is_none_or(|account| !account.enabled))
            .collect())
    }
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, HashMap<AccountName, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which uids somebody else has in the files.
    fn taken(&self, name: &AccountName) -> Result<impl Fn(u32) -> bool + use<>, AccountError> {
        let (users, groups, name) = (local::users()?, local::groups()?, name.clone());
        Ok(move |uid| local::takes(&users, &groups, uid, &name))
    }

    fn open_record(&self, name: &AccountName, account: &Account) -> Option<Record> {
        let until = Some(account.until()?);
        Some(Record {
            groups: account.groups.clone(),
            real_name: account.real_name.clone(),
            until,
            ..self.locked(name, account.uid)
        })
    }

    fn locked(&self, name: &AccountName, uid: u32) -> Record {
        Record {
            name: name.to_string(),
            uid,
            real_name: String::new(),
            home: self.config.homes.of(name).to_string_lossy().into_owned(),
            shell: self.config.shell.to_string_lossy().into_owned(),
            groups: Vec::new(),
            until: None,
        }
    }
}

impl Directory for Shared {
    fn service(&self) -> &str {
        &self.service
    }

    fn by_name(&self, name: &str, root: bool) -> Option<Record> {
        let name = AccountName::new(name).ok()?;
        let account = self.accounts().get(&name).cloned();
        if let Some(record) = account.as_ref().and_then(|account| self.open_record(&name, account)) {
            return Some(record);
        }
        if !root {
            return None;
        }
        match account {
            Some(account) => Some(self.locked(&name, account.uid)),
            None if (self.may_be_granted)(&name) => {
                let uid = self.ledger.hold(&name, Instant::now(), self.taken(&name).ok()?)?;
                Some(self.locked(&name, uid))
            }
            None => None,
        }
    }

    fn by_uid(&self, uid: u32, root: bool) -> Option<Record> {
        let name = self.ledger.name_of(uid)?;
        self.by_name(name.as_str(), root).filter(|record| record.uid == uid)
    }

    fn all(&self, root: bool) -> Vec<Record> {
        let accounts = self.accounts().clone();
        let seen = |(name, account): (&AccountName, &Account)| {
            self.open_record(name, account).or_else(|| root.then(|| self.locked(name, account.uid)))
        };
        accounts.iter().filter_map(seen).collect()
    }
}

/// A shared account comes to its next holder empty: keys that the last one left in its home would open it to him again.
pub(crate) fn hand_over(spec: &AccountSpec, uid: u32, sessions: &Sessions, homes: &Homes) -> Result<(), AccountError> {
    sessions.end(&spec.name, uid)?;
    homes.remove(&spec.name, uid)
}

/// How many seconds the grant has left.
pub(crate) fn in_future(spec: &AccountSpec) -> Result<u64, AccountError> {
    let now = now();
    match spec.not_after.checked_sub(now) {
        Some(left) if left > 0 => Ok(left),
        _ => Err(AccountError::Past { name: spec.name.clone(), not_after: spec.not_after, now }),
    }
}
