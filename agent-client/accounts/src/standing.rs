//! Standing accounts, for computers without libnss-systemd.
//!
//! The account is a real one in `/etc/passwd`, made once with `useradd`, locked and expired. A grant un-expires it and puts it into
//! its groups; the end expires and locks it and takes the groups away. Locking alone would not do: keys in `~/.ssh` still open a
//! locked account. An account is ours when its GECOS says so *and* its uid is in our ledger; nothing else is ever touched.
//!
//! Each act holds one lock for the whole computer, runs one of the shadow tools, and reads back what the files say then. Group
//! changes go through `usermod -G`, never `gpasswd`, which loses concurrent updates and reports success.
//!
//! The expiry in `/etc/shadow` counts days. The agent ends the grant to the second; should the agent be gone for good, the account shuts
//! by itself at the end of its last day (UTC).

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    AccountError, AccountName, AccountSpec, AccountState, Accounts, During, Homes, Marked, UIDS, command,
    ledger::{Ledger, Slot, hex},
    leftovers,
    local::{self, Sources},
    now, printable,
    sessions::Sessions,
    sorted,
    userdb::{hand_over, in_future},
};

/// The lock that all programs take which change the account files.
const PWD_LOCK: &str = "/etc/.pwd.lock";

/// The shadow tools hold it for some 30 ms; one that holds it longer is waiting for a person.
const PWD_LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Many grants at once queue up behind each other, 30 ms an act.
const PATIENCE: Duration = Duration::from_secs(30);

/// Expired on 2 January 1970. Day 0 means "never" to some programs.
const EXPIRED: &str = "1";

/// Where standing accounts live.
#[derive(Clone, Debug)]
pub struct StandingConfig {
    /// Where the uids are remembered.
    pub state_dir: PathBuf,
    /// The lock that serialises all writers of this computer. Beside the files it guards, where only root may hold it.
    pub lock: PathBuf,
    /// The uids (and gids) to give out.
    pub uids: RangeInclusive<u32>,
    /// Where home directories are made.
    pub homes: Homes,
    /// Everybody's shell.
    pub shell: PathBuf,
}

impl Default for StandingConfig {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/gatepass/agent/accounts".into(),
            lock: "/etc/.gatepass.lock".into(),
            uids: UIDS,
            homes: Homes::default(),
            shell: "/bin/bash".into(),
        }
    }
}

/// The provider that keeps accounts in `/etc/passwd`.
pub struct Standing {
    config: StandingConfig,
    ledger: Ledger,
    sessions: Sessions,
    /// Ends of grants to the second, which `/etc/shadow` can't hold.
    expiries: Mutex<HashMap<AccountName, u64>>,
}

/// An account in the files.
struct Found {
    technician: [u8; 16],
    uid: u32,
    groups: Vec<String>,
    locked: bool,
    /// The day from which on it is expired.
    expires: Option<u64>,
}

impl Found {
    fn enabled(&self) -> bool {
        self.expires.is_none_or(|day| day > now() / 86_400)
    }
}

enum Look {
    Absent,
    Ours(Found),
    Foreign(String),
}

impl Standing {
    /// Opens the ledger. Nothing is changed yet.
    pub fn open(config: StandingConfig) -> Result<Self, AccountError> {
        let ledger = Ledger::open(&config.state_dir, config.uids.clone())?;
        Ok(Self { config, ledger, sessions: Sessions::detect(), expiries: Mutex::default() })
    }

    /// What the files say about a name.
    fn look(&self, name: &AccountName) -> Result<Look, AccountError> {
        let (users, groups) = (local::users()?, local::groups()?);
        let Some(user) = users.iter().find(|user| user.name == name.as_str()) else {
            let holder = local::holder_in_files(&users, &groups, name);
            let holder = holder.map_or_else(|| local::holder_elsewhere(name, None), |by| Ok(Some(by)))?;
            return Ok(holder.map_or(Look::Absent, Look::Foreign));
        };
        let slot = self.ledger.slot(name).filter(|slot| slot.uid == user.uid);
        let (Some(technician), Some(_)) = (technician(&user.gecos), slot) else {
            return Ok(Look::Foreign(format!("the local account with user id {}", user.uid)));
        };
        let member = |group: &&local::Group| group.members.iter().any(|member| member == name.as_str());
        let groups: Vec<String> = groups.iter().filter(member).map(|group| group.name.clone()).collect();
        // Without a line in the shadow file nothing is locked.
        let (locked, expires) = local::shadow(name)?.unwrap_or((false, None));
        Ok(Look::Ours(Found { technician, uid: user.uid, groups: sorted(&groups), locked, expires }))
    }

    fn ours(&self, name: &AccountName) -> Result<Option<Found>, AccountError> {
        match self.look(name)? {
            Look::Ours(found) => Ok(Some(found)),
            Look::Absent => Ok(None),
            Look::Foreign(by) => Err(AccountError::Clash { name: name.clone(), by }),
        }
    }

    /// The account of this technician.
    fn mine(&self, spec: &AccountSpec) -> Result<Found, AccountError> {
        let found = self.ours(&spec.name)?.ok_or_else(|| AccountError::Missing { name: spec.name.clone() })?;
        if found.technician != spec.technician {
            return Err(AccountError::Clash { name: spec.name.clone(), by: "another technician".into() });
        }
        Ok(found)
    }

    /// Waits for our turn to write.
    fn turn(&self) -> Result<File, AccountError> {
        let path = &self.config.lock;
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).during("open", path)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error).during("lock", path),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
                Err(TryLockError::WouldBlock) => return Err(busy(path)),
            }
        }
    }

    /// Runs one of the shadow tools.
    fn act(&self, tool: &'static str, arguments: &[&str], name: &AccountName) -> Result<(), AccountError> {
        wait_for_pwd_lock()?;
        let said = command::run(tool, arguments, None)?;
        accepted(tool, name, said)
    }

    /// Sets a random password that nobody learns.
    fn new_password(&self, name: &AccountName) -> Result<(), AccountError> {
        wait_for_pwd_lock()?;
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(std::io::Error::other).during("read", "the system's random numbers")?;
        let mut line = Zeroizing::new(String::with_capacity(name.as_str().len() + 66));
        line.push_str(name.as_str());
        line.push(':');
        for byte in random.iter() {
            for digit in [byte >> 4, byte & 15] {
                line.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
            }
        }
        line.push('\n');
        let said = command::run("chpasswd", &[], Some(line.as_bytes()))?;
        accepted("chpasswd", name, said)
    }

    /// Reads the account back and compares.
    fn confirm(
        &self,
        name: &AccountName,
        what: &'static str,
        holds: impl Fn(&Found) -> bool,
        say: impl Fn(&Found) -> String,
    ) -> Result<(), AccountError> {
        let found = self.ours(name)?;
        match &found {
            Some(found) if holds(found) => Ok(()),
            _ => Err(AccountError::NotTaken {
                name: name.clone(),
                what,
                found: found.as_ref().map_or_else(|| "no account".into(), say),
            }),
        }
    }

    fn regroup(&self, name: &AccountName, wanted: &[String], found: &Found) -> Result<(), AccountError> {
        if found.groups != wanted {
            self.act("usermod", &["-G", &wanted.join(","), "--", name.as_str()], name)?;
        }
        self.confirm(name, "the groups", |found| found.groups == wanted, |found| found.groups.join(", "))
    }

    fn expiries(&self) -> MutexGuard<'_, HashMap<AccountName, u64>> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> Result<Vec<(Slot, Found)>, AccountError> {
        let mut present = Vec::new();
        for slot in self.ledger.present() {
            if let Look::Ours(found) = self.look(&slot.name)? {
                present.push((slot, found));
            }
        }
        Ok(present)
    }
}

impl Accounts for Standing {
    fn name(&self) -> &'static str {
        "standing"
    }

    fn check(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        in_future(spec)?;
        self.ledger.may_have(&spec.name, &spec.technician)?;
        let uid = self.ours(&spec.name)?.map(|found| found.uid);
        self.config.homes.check(&spec.name, uid.or(self.ledger.slot(&spec.name).map(|slot| slot.uid)))?;
        local::know_groups(&spec.groups, &local::groups()?, Sources::Files)
    }

    fn create(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        let name = spec.name.as_str();
        let _turn = self.turn()?;
        // "Gatepass" and the technician where only root may change them, the person's name in the last field.
        let gecos = format!("{},,,,{}", mark(&spec.technician), printable(&spec.technician_name));
        let uid = match self.look(&spec.name)? {
            Look::Foreign(by) => return Err(AccountError::Clash { name: spec.name.clone(), by }),
            Look::Ours(found) => {
                let changes_hands = found.technician != spec.technician;
                if changes_hands && (!spec.name.is_shared() || found.enabled()) {
                    return Err(AccountError::Clash { name: spec.name.clone(), by: "another technician".into() });
                }
                if changes_hands {
                    hand_over(spec, found.uid, &self.sessions, &self.config.homes)?;
                    self.act("usermod", &["-c", &gecos, "--", name], &spec.name)?;
                }
                self.ledger.assign(&spec.name, &spec.technician, |_| false)?
            }
            Look::Absent => {
                let (users, groups) = (local::users()?, local::groups()?);
                let taken = |uid| local::takes(&users, &groups, uid, &spec.name);
                // Before the ledger says that the account exists.
                self.config.homes.check(&spec.name, self.ledger.slot(&spec.name).map(|slot| slot.uid))?;
                let uid = self.ledger.assign(&spec.name, &spec.technician, taken)?;
                let (home, shell) = (self.config.homes.of(&spec.name), &self.config.shell);
                let (first, last) = (self.config.uids.start(), self.config.uids.end());
                // The range, so that the group gets the number of the user; no subordinate ids, which nobody would take back.
                let settings = [
                    format!("UID_MIN={first}"),
                    format!("UID_MAX={last}"),
                    format!("GID_MIN={first}"),
                    format!("GID_MAX={last}"),
                    "SUB_UID_COUNT=0".into(),
                    "SUB_GID_COUNT=0".into(),
                ];
                let (uid_text, home, shell) = (uid.to_string(), home.to_string_lossy(), shell.to_string_lossy());
                let mut arguments =
                    vec!["-M", "-U", "-u", &uid_text, "-e", EXPIRED, "-c", &gecos, "-d", &home, "-s", &shell];
                settings.iter().for_each(|setting| arguments.extend(["-K", setting]));
                arguments.extend(["--", name]);
                self.act("useradd", &arguments, &spec.name)?;
                uid
            }
        };
        self.config.homes.make(&spec.name, uid)?;
        let made = |found: &Found| found.uid == uid && found.technician == spec.technician;
        self.confirm(&spec.name, "the account", made, |found| format!("user id {}", found.uid))
    }

    fn set_expiry(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        in_future(spec)?;
        self.mine(spec)?;
        // Writing the day opens the account, and that is the next step's to do.
        self.expiries().insert(spec.name.clone(), spec.not_after);
        Ok(())
    }

    fn set_groups(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        local::know_groups(&spec.groups, &local::groups()?, Sources::Files)?;
        let _turn = self.turn()?;
        let found = self.mine(spec)?;
        self.regroup(&spec.name, &sorted(&spec.groups), &found)
    }

    fn enable(&self, spec: &AccountSpec) -> Result<(), AccountError> {
        in_future(spec)?;
        let _turn = self.turn()?;
        self.mine(spec)?;
        if self.expiries().get(&spec.name) != Some(&spec.not_after) {
            return Err(AccountError::NotTaken { name: spec.name.clone(), what: "the expiry", found: "none".into() });
        }
        let today = now() / 86_400;
        self.ledger.used(&spec.name, today)?;
        // PAM shuts on the day itself, so it is the day after the last one.
        let day = spec.not_after / 86_400 + 1;
        self.act("usermod", &["-e", &day.to_string(), "--", spec.name.as_str()], &spec.name)?;
        self.confirm(
            &spec.name,
            "the expiry",
            |found| found.expires == Some(day),
            |found| format!("day {:?}", found.expires),
        )
    }

    fn disable(&self, name: &AccountName) -> Result<(), AccountError> {
        self.expiries().remove(name);
        let _turn = self.turn()?;
        let shut = |found: &Found| found.locked && !found.enabled();
        match self.ours(name)? {
            None => return Ok(()),
            Some(found) if shut(&found) => return Ok(()),
            Some(_) => self.act("usermod", &["-L", "-e", EXPIRED, "--", name.as_str()], name)?,
        }
        self.confirm(name, "the lock", shut, |found| format!("locked: {}, expires: {:?}", found.locked, found.expires))
    }

    fn strip_groups(&self, name: &AccountName) -> Result<(), AccountError> {
        let _turn = self.turn()?;
        self.ours(name)?.map_or(Ok(()), |found| self.regroup(name, &[], &found))
    }

    fn rotate_password(&self, name: &AccountName) -> Result<(), AccountError> {
        let _turn = self.turn()?;
        let Some(found) = self.ours(name)? else { return Ok(()) };
        self.new_password(name)?;
        if found.enabled() {
            return Ok(());
        }
        // A new password unlocks.
        self.act("usermod", &["-L", "--", name.as_str()], name)?;
        self.confirm(name, "the lock", |found| found.locked, |_| "unlocked".into())
    }

    fn remove(&self, name: &AccountName) -> Result<(), AccountError> {
        self.expiries().remove(name);
        let _turn = self.turn()?;
        let uid = match self.look(name)? {
            Look::Foreign(by) => return Err(AccountError::Clash { name: name.clone(), by }),
            Look::Ours(found) => {
                self.act("userdel", &["--", name.as_str()], name)?;
                if local::groups()?.iter().any(|group| group.name == name.as_str() && group.gid == found.uid) {
                    self.act("groupdel", &["--", name.as_str()], name)?;
                }
                if let Look::Ours(_) | Look::Foreign(_) = self.look(name)? {
                    return Err(AccountError::NotTaken {
                        name: name.clone(),
                        what: "the removal",
                        found: "still there".into(),
                    });
                }
                found.uid
            }
            // Perhaps a crash came between the account and its home.
            Look::Absent => match self.ledger.slot(name).filter(|slot| slot.present) {
                Some(slot) => slot.uid,
                None => return Ok(()),
            },
        };
        self.config.homes.remove(name, uid)?;
        leftovers::remove_mail(name)?;
        self.ledger.release(name)
    }

    fn adopt_session(&self, name: &AccountName, pid: u32) -> Result<(), AccountError> {
        match self.ours(name)? {
            Some(_) => self.sessions.adopt(name, pid),
            None => Err(AccountError::Missing { name: name.clone() }),
        }
    }

    fn end_sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        let Some(slot) = self.ledger.slot(name) else { return Ok(0) };
        let ended = self.sessions.end(name, slot.uid)?;
        leftovers::disarm(&self.config.homes.of(name), slot.uid)?;
        Ok(ended)
    }

    fn sessions(&self, name: &AccountName) -> Result<usize, AccountError> {
        self.ledger.slot(name).map_or(Ok(0), |slot| self.sessions.count(name, slot.uid))
    }

    fn state(&self, name: &AccountName) -> Result<AccountState, AccountError> {
        let found = match self.look(name)? {
            Look::Absent => return Ok(AccountState::Absent),
            Look::Foreign(_) => return Ok(AccountState::Foreign),
            Look::Ours(found) => found,
        };
        let exact = self.expiries().get(name).copied();
        let day = || found.expires.filter(|_| found.enabled()).map(|day| day.saturating_mul(86_400));
        Ok(AccountState::Marked(Marked {
            uid: found.uid,
            technician: found.technician,
            enabled: found.enabled(),
            expiry: exact.or_else(day),
            groups: found.groups,
        }))
    }

    fn marked(&self) -> Result<Vec<AccountName>, AccountError> {
        // Those whose removal was interrupted are in the ledger alone; removing them again finishes it.
        Ok(self.ledger.present().into_iter().map(|slot| slot.name).collect())
    }

    fn idle_since(&self, before: u64) -> Result<Vec<AccountName>, AccountError> {
        let idle = |(slot, found): &(Slot, Found)| slot.used < before / 86_400 && !found.enabled();
        Ok(self.present()?.into_iter().filter(idle).map(|(slot, _)| slot.name).collect())
    }
}

fn mark(technician: &[u8; 16]) -> String {
    format!("Gatepass {}", hex::encode(technician))
}

fn technician(gecos: &str) -> Option<[u8; 16]> {
    hex::decode(gecos.split(',').next()?.strip_prefix("Gatepass ")?)
}

fn accepted(tool: &'static str, name: &AccountName, said: command::Said) -> Result<(), AccountError> {
    match said.code {
        0 => Ok(()),
        // All of them say "cannot lock /etc/passwd; try again later." and return their general code.
        _ if said.err.contains("cannot lock") || said.err.contains("can't lock") => Err(busy(Path::new(PWD_LOCK))),
        code => Err(AccountError::Refused { tool, name: name.clone(), said: format!("{} (code {code})", said.err) }),
    }
}

fn busy(lock: &Path) -> AccountError {
    AccountError::Busy { what: "the account database", lock: lock.into() }
}

/// Waits a moment for the lock that the tool will take itself: behind it, the tool would wait 15 seconds in silence.
fn wait_for_pwd_lock() -> Result<(), AccountError> {
    let until = Instant::now() + PWD_LOCK_PATIENCE;
    while crate::doctor::pwd_lock_is_held(Path::new(PWD_LOCK))? {
        if Instant::now() >= until {
            return Err(busy(Path::new(PWD_LOCK)));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_mark_is_a_mark() {
        let id = [0xab; 16];
        assert_eq!(technician(&format!("{},,,,Alex Doe", mark(&id))), Some(id));
        for gecos in [
            "",
            "Gatepass",
            "Gatepass abab",
            &mark(&id).to_uppercase(),
            &format!(" {}", mark(&id)),
            &format!("{} x", mark(&id)),
        ] {
            assert_eq!(technician(gecos), None, "{gecos}");
        }
    }
}
