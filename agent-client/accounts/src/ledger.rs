//! Which uid belongs to whom, for ever.
//!
//! Files and processes outlive accounts, so a uid that one technician had must never become another's. The ledger gives each
//! technician uids of his own out of a configured range and never takes one back: an account that is made, deleted and made again
//! has the uid it had, and a technician's single-use accounts share his uids one after the other. A shared account keeps its own.
//!
//! sshd asks who a user is *before* anybody approved anything, and keeps the uid that it hears then. So a name that might be
//! granted soon gets a hold: a uid promised in memory only, because strangers at the ssh port choose those names and must neither
//! fill the disk nor use up the range.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::Write,
    ops::RangeInclusive,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{AccountError, AccountName, During};

/// sshd gives a login 120 s; what it heard at the beginning must still be true at the end.
const HOLD: Duration = Duration::from_secs(180);

/// More names than this can't be on their way in at once.
const HOLDS: usize = 1024;

/// One uid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) uid: u32,
    #[serde(with = "hex")]
    pub(crate) technician: [u8; 16],
    /// The account that has it, or had it last.
    pub(crate) name: AccountName,
    /// Whether that account exists.
    pub(crate) present: bool,
    /// The day (since 1970) of its last grant.
    pub(crate) used: u64,
}

#[derive(Serialize, Deserialize)]
struct Page {
    version: u32,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Book {
    slots: BTreeMap<u32, Slot>,
    names: HashMap<AccountName, u32>,
    holds: HashMap<AccountName, (u32, Instant)>,
}

/// The ledger of one computer.
pub(crate) struct Ledger {
    path: PathBuf,
    uids: RangeInclusive<u32>,
    book: Mutex<Book>,
    /// Two daemons over one ledger would give one uid twice.
    _lock: File,
}

impl Ledger {
    pub(crate) fn open(dir: &Path, uids: RangeInclusive<u32>) -> Result<Self, AccountError> {
        let usable = 1000..=u32::MAX - 2;
        if uids.is_empty()
            || !usable.contains(uids.start())
            || !usable.contains(uids.end())
            || [65534, 65535].iter().any(|nobody| uids.contains(nobody))
        {
            return Err(AccountError::BadRange { first: *uids.start(), last: *uids.end() });
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).during("make the directory", dir)?;
        let lock_path = dir.join("uids.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .during("open", &lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(AccountError::AlreadyRuns { lock: lock_path });
            }
            Err(fs::TryLockError::Error(error)) => return Err(error).during("lock", lock_path),
        }
        let path = dir.join("uids.json");
        let book = match fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(|why| AccountError::Damaged { path: path.clone(), why })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(error).during("read", path),
        };
        Ok(Self { path, uids, book: Mutex::new(book), _lock: lock })
    }

    /// The slot whose account has, or had last, this name.
    pub(crate) fn slot(&self, name: &AccountName) -> Option<Slot> {
        let book = self.book();
        book.names.get(name).and_then(|uid| book.slots.get(uid)).cloned()
    }

    /// The name that belongs to a uid, held ones included.
    pub(crate) fn name_of(&self, uid: u32) -> Option<AccountName> {
        let book = self.book();
        if let Some(slot) = book.slots.get(&uid) {
            return Some(slot.name.clone());
        }
        book.holds.iter().find(|(_, (held, _))| *held == uid).map(|(name, _)| name.clone())
    }

    /// Every account that exists.
    pub(crate) fn present(&self) -> Vec<Slot> {
        self.book().slots.values().filter(|slot| slot.present).cloned().collect()
    }

    /// Whether `technician` may have the account `name`.
    pub(crate) fn may_have(&self, name: &AccountName, technician: &[u8; 16]) -> Result<(), AccountError> {
        match self.slot(name) {
            Some(slot) if !name.is_shared() && slot.technician != *technician => {
                Err(AccountError::Clash { name: name.clone(), by: "another technician".into() })
            }
            _ => Ok(()),
        }
    }

    /// The uid for an account that exists from now on. `taken` says which uids others on this computer have.
    pub(crate) fn assign(
        &self,
        name: &AccountName,
        technician: &[u8; 16],
        taken: impl Fn(u32) -> bool,
    ) -> Result<u32, AccountError> {
        self.may_have(name, technician)?;
        let mut book = self.book();
        let uid = match book.uid_of(name) {
            Some(uid) => uid,
            None => match book.spare(name, technician) {
                Some(uid) => uid,
                None => self.fresh(&book, &taken)?,
            },
        };
        if taken(uid) {
            return Err(AccountError::Clash { name: name.clone(), by: format!("somebody who has its user id {uid}") });
        }
        let before = book.slots.get(&uid);
        let used = before.map_or(0, |slot| slot.used);
        if !before.is_some_and(|slot| slot.present && slot.name == *name && slot.technician == *technician) {
            self.write(&mut book, Slot { uid, technician: *technician, name: name.clone(), present: true, used })?;
        }
        Ok(uid)
    }

    /// The uid that `name` has, or will have if it is made soon. None while too many names are held.
    pub(crate) fn hold(&self, name: &AccountName, now: Instant, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let mut book = self.book();
        if !book.holds.contains_key(name) {
            book.holds.retain(|_, (_, since)| now.duration_since(*since) < HOLD);
            // Who was here before gets in, however many strangers' names are held.
            if book.holds.len() >= HOLDS && !book.names.contains_key(name) {
                return None;
            }
        }
        let uid = match book.uid_of(name) {
            Some(uid) => uid,
            None => self.fresh(&book, &taken).ok()?,
        };
        book.holds.insert(name.clone(), (uid, now));
        Some(uid)
    }

    /// Remembers the day of a grant.
    pub(crate) fn used(&self, name: &AccountName, day: u64) -> Result<(), AccountError> {
        self.change(name, |slot| slot.used < day, |slot| slot.used = day)
    }

    /// Remembers that the account is gone.
    pub(crate) fn release(&self, name: &AccountName) -> Result<(), AccountError> {
        self.change(name, |slot| slot.present, |slot| slot.present = false)
    }

    fn change(
        &self,
        name: &AccountName,
        needed: impl Fn(&Slot) -> bool,
        change: impl Fn(&mut Slot),
    ) -> Result<(), AccountError> {
        let mut book = self.book();
        let Some(mut slot) = book.names.get(name).and_then(|uid| book.slots.get(uid)).cloned() else { return Ok(()) };
        if needed(&slot) {
            change(&mut slot);
            self.write(&mut book, slot)?;
        }
        Ok(())
    }

    fn fresh(&self, book: &Book, taken: impl Fn(u32) -> bool) -> Result<u32, AccountError> {
        let held: std::collections::HashSet<u32> = book.holds.values().map(|(uid, _)| *uid).collect();
        self.uids
            .clone()
            .find(|uid| !book.slots.contains_key(uid) && !held.contains(uid) && !taken(*uid))
            .ok_or(AccountError::RangeFull { first: *self.uids.start(), last: *self.uids.end() })
    }

    /// The disk first, then the memory: what was promised is what survives a power cut.
    fn write(&self, book: &mut Book, slot: Slot) -> Result<(), AccountError> {
        let mut slots = book.slots.clone();
        slots.insert(slot.uid, slot);
        let page = Page { version: 1, slots: slots.values().cloned().collect() };
        let bytes = serde_json::to_vec_pretty(&page).during("encode", &self.path)?;
        let new = self.path.with_extension("json.new");
        let written = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        written().during("write", &self.path)?;
        book.names = index(&slots);
        book.slots = slots;
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn uid_of(&self, name: &AccountName) -> Option<u32> {
        self.names.get(name).copied().or_else(|| self.holds.get(name).map(|(uid, _)| *uid))
    }

    /// A uid of this technician that no account of his uses now.
    fn spare(&self, name: &AccountName, technician: &[u8; 16]) -> Option<u32> {
        let held = |uid| self.holds.values().any(|(held, _)| *held == uid);
        let fits =
            |slot: &&Slot| !slot.present && slot.technician == *technician && !slot.name.is_shared() && !held(slot.uid);
        (!name.is_shared()).then(|| self.slots.values().find(fits).map(|slot| slot.uid)).flatten()
    }
}

fn read(bytes: &[u8]) -> Result<Book, String> {
    let page: Page = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if page.version != 1 {
        return Err(format!("it has version {}, and this agent knows version 1", page.version));
    }
    let count = page.slots.len();
    let slots: BTreeMap<u32, Slot> = page.slots.into_iter().map(|slot| (slot.uid, slot)).collect();
    let names = index(&slots);
    if slots.len() != count || names.len() != count {
        return Err("a user id or a name is in it twice".into());
    }
    Ok(Book { slots, names, holds: HashMap::new() })
}

fn index(slots: &BTreeMap<u32, Slot>) -> HashMap<AccountName, u32> {
    slots.values().map(|slot| (slot.name.clone(), slot.uid)).collect()
}

pub(crate) mod hex {
    //! Technicians as 32 hexadecimal digits.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn encode(id: &[u8; 16]) -> String {
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn decode(text: &str) -> Option<[u8; 16]> {
        let lower = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 32 && text.bytes().all(lower))
            .then(|| u128::from_str_radix(text, 16).ok())?
            .map(u128::to_be_bytes)
    }

    pub(crate) fn serialize<S: Serializer>(id: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(id))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        decode(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> AccountName {
        AccountName::new(name).unwrap()
    }

    fn ledger(dir: &Path) -> Ledger {
        Ledger::open(dir, 70_000..=70_009).unwrap()
    }

    #[test]
    fn a_technician_keeps_his_uid_over_deletion_and_restart_and_nobody_else_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let (alex, anna) = ([1; 16], [2; 16]);
        let first = {
            let ledger = ledger(dir.path());
            let uid = ledger.assign(&name("gp-alex"), &alex, |_| false).unwrap();
            assert_eq!(uid, ledger.assign(&name("gp-alex"), &alex, |_| false).unwrap());
            ledger.release(&name("gp-alex")).unwrap();
            assert!(ledger.present().is_empty());
            uid
        };
        let ledger = ledger(dir.path());
        assert_ne!(first, ledger.assign(&name("gp-anna"), &anna, |_| false).unwrap());
        assert!(matches!(ledger.assign(&name("gp-alex"), &anna, |_| false), Err(AccountError::Clash { .. })));
        // His single-use account runs under his own uid, and a second one at the same time under another of his.
        assert_eq!(first, ledger.assign(&name("alex_566054625600"), &alex, |_| false).unwrap());
        assert_ne!(first, ledger.assign(&name("alex_566054625601"), &alex, |_| false).unwrap());
    }

    #[test]
    fn a_shared_account_changes_hands_and_keeps_its_uid() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let uid = ledger.assign(&name("gp-1234"), &[1; 16], |_| false).unwrap();
        ledger.release(&name("gp-1234")).unwrap();
        assert_eq!(uid, ledger.assign(&name("gp-1234"), &[2; 16], |_| false).unwrap());
        ledger.release(&name("gp-1234")).unwrap();
        assert_ne!(uid, ledger.assign(&name("gp-anna"), &[2; 16], |_| false).unwrap());
    }

    #[test]
    fn the_uid_that_sshd_heard_is_the_one_that_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let now = Instant::now();
        let held = ledger.hold(&name("gp-alex"), now, |_| false).unwrap();
        let other = ledger.hold(&name("gp-anna"), now, |_| false).unwrap();
        assert_ne!(held, other);
        assert_eq!(ledger.name_of(held), Some(name("gp-alex")));
        assert!(!ledger.path.exists(), "a lookup writes nothing");
        assert_eq!(other, ledger.assign(&name("gp-anna"), &[2; 16], |_| false).unwrap());
        assert_eq!(held, ledger.assign(&name("gp-alex"), &[1; 16], |_| false).unwrap());
        // Nor may another account of the same technician slip into a uid that sshd was told.
        ledger.release(&name("gp-alex")).unwrap();
        assert_eq!(held, ledger.hold(&name("gp-alex"), now, |_| false).unwrap());
        assert_ne!(held, ledger.assign(&name("alex_566054625600"), &[1; 16], |_| false).unwrap());
    }

    #[test]
    fn strangers_asking_for_names_use_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 70_000..=79_999).unwrap();
        let now = Instant::now();
        ledger.assign(&name("gp-alex"), &[1; 16], |_| false).unwrap();
        for n in 0..HOLDS {
            assert!(ledger.hold(&name(&format!("gp-x{n}")), now, |_| false).is_some());
        }
        assert_eq!(None, ledger.hold(&name("gp-late"), now, |_| false));
        assert!(ledger.hold(&name("gp-x1"), now, |_| false).is_some());
        assert_eq!(Some(70_000), ledger.hold(&name("gp-alex"), now, |_| false));
        assert_eq!(Some(70_001), ledger.hold(&name("gp-late"), now + HOLD, |_| false));
    }

    #[test]
    fn the_end_of_the_range_and_foreign_uids_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        assert_eq!(70_001, ledger.assign(&name("gp-alex"), &[1; 16], |uid| uid == 70_000).unwrap());
        assert!(matches!(
            ledger.assign(&name("gp-alex"), &[1; 16], |uid| uid == 70_001),
            Err(AccountError::Clash { .. })
        ));
        assert!(matches!(ledger.assign(&name("gp-bert"), &[3; 16], |_| true), Err(AccountError::RangeFull { .. })));
    }

    #[test]
    fn roots_and_nobodys_uids_are_no_range() {
        let dir = tempfile::tempdir().unwrap();
        for (first, last) in [(0, 10), (999, 2000), (60_000, 70_000), (70_000, u32::MAX), (80_000, 70_000)] {
            assert!(matches!(Ledger::open(dir.path(), first..=last), Err(AccountError::BadRange { .. })));
        }
    }

    #[test]
    fn a_second_daemon_and_a_damaged_ledger_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        {
            let ledger = ledger(dir.path());
            ledger.assign(&name("gp-alex"), &[1; 16], |_| false).unwrap();
            let second = Ledger::open(dir.path(), 70_000..=70_009).err().unwrap();
            assert!(matches!(second, AccountError::AlreadyRuns { .. }), "{second}");
        }
        let text = fs::read_to_string(dir.path().join("uids.json")).unwrap();
        for damaged in [
            &text[..text.len() / 2],
            &text.replace("gp-alex", "../alex"),
            &text.replace("\"version\": 1", "\"version\": 2"),
        ] {
            fs::write(dir.path().join("uids.json"), damaged).unwrap();
            let error = Ledger::open(dir.path(), 70_000..=70_009).err().unwrap();
            assert!(matches!(error, AccountError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_full_disk_promises_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        // A directory in the way of the new file fails as a full disk does, for root too.
        fs::create_dir(dir.path().join("uids.json.new")).unwrap();
        assert!(ledger.assign(&name("gp-alex"), &[1; 16], |_| false).is_err());
        assert!(ledger.slot(&name("gp-alex")).is_none());
    }
}
