//! The write-ahead journal: what the agent is about to do, on disk before it does it.
//!
//! One file, append-only: eight bytes that say what it is, then records of `length u32be | crc32 u32be | msgpack`, the
//! checksum over length and body. [`Journal::append`] returns only when the record is on the disk, so a power cut leaves
//! either the record or no act. A cut in the middle of a write leaves half a record at the end; it is cut off on the next
//! boot, because the act it announced never began. Damage anywhere else is something no crash does (a failing disk, an
//! editor): the journal then refuses to open, and a person decides.
//!
//! A write that fails leaves the file as it was (it is cut back). If even that fails, or `fsync` does, nobody knows what
//! the disk holds, and the journal takes no more records until it was written anew as a whole.
//!
//! The file grows until [`Journal::compact`] writes the records that still matter into a new one and renames it over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First bytes of the file: what it is, and the version of its records.
const MAGIC: &[u8; 8] = b"gpjrnl\x00\x01";
/// Length and checksum.
const HEAD: usize = 8;
/// No record comes near this; a longer one is a damaged length.
const MAX_RECORD: usize = 64 * 1024;

/// Why the journal can't be used, named by what has to be done.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk took no more.
    #[error(
        "no space left for the journal {}: nothing is granted until it can be written; free some space on that disk",
        path.display()
    )]
    DiskFull {
        /// The journal.
        path: PathBuf,
    },
    /// A record that is not the last one is damaged.
    #[error(
        "the journal {} is damaged at byte {offset}: {what}. No crash does this. Look at the disk, end what Gatepass granted by hand \
         (`getent passwd | grep gp-`), then move the file away and start the agent again",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Where the damage begins.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The file is something else, or of a newer version.
    #[error("{} is not a journal that this version reads: move it away, or run the version that wrote it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another agent has it open.
    #[error("another gatepass-agent is running on {}: stop it first", path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// An earlier write failed in a way that leaves the file's content unknown.
    #[error("the journal {} can't be written: look at its disk. It is tried anew every second", path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
    },
    /// Anything else the file system said.
    #[error("the journal {}: {source}", path.display())]
    Io {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open journal; it is locked against a second agent for as long as it lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    poisoned: bool,
    _lock: File,
}

impl Journal {
    /// Opens `grants.journal` in `folder`, or makes it, and reads every record in it.
    pub fn open<T: DeserializeOwned>(folder: &Path) -> Result<(Self, Vec<T>), JournalError> {
        let path = folder.join("grants.journal");
        let lock = lock(folder)?;
        if !path.exists() {
            write_whole(&path, &[]).map_err(|source| wrap(&path, source))?;
        }
        let bytes = fs::read(&path).map_err(|source| wrap(&path, source))?;
        let (records, length) = scan(&path, &bytes)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(|source| wrap(&path, source))?;
        if length < bytes.len() {
            tracing::warn!(
                cut = bytes.len() - length,
                "the journal ended in half a record, as after a power cut: cut off"
            );
            file.set_len(length as u64).and_then(|()| file.sync_all()).map_err(|source| wrap(&path, source))?;
        }
        Ok((Self { path, file, length: length as u64, poisoned: false, _lock: lock }, records))
    }

    /// Writes one record; when this returns `Ok`, the record is on the disk.
    pub fn append<T: Serialize>(&mut self, record: &T) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        }
        let framed = frame(record).map_err(|source| wrap(&self.path, source))?;
        if let Err(source) = self.file.write_all_at(&framed, self.length) {
            self.poisoned = self.file.set_len(self.length).is_err();
            return Err(wrap(&self.path, source));
        }
        if let Err(source) = self.file.sync_data() {
            // After a failed fsync the kernel may have dropped the pages: what is on the disk is unknown until re-read.
            self.poisoned = true;
            return Err(wrap(&self.path, source));
        }
        self.length += framed.len() as u64;
        Ok(())
    }

    /// Replaces all records by `records`, atomically: after a crash either the old file or the new one is there.
    pub fn compact<T: Serialize>(&mut self, records: &[T]) -> Result<(), JournalError> {
        let mut body = Vec::new();
        for record in records {
            body.extend(frame(record).map_err(|source| wrap(&self.path, source))?);
        }
        write_whole(&self.path, &body).map_err(|source| wrap(&self.path, source))?;
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.length = (MAGIC.len() + body.len()) as u64;
                self.poisoned = false;
                Ok(())
            }
            Err(source) => {
                // The old handle points at a file that no longer has a name.
                self.poisoned = true;
                Err(wrap(&self.path, source))
            }
        }
    }

    /// Whether only [`Journal::compact`] can make it usable again.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Bytes in the file: the caller compacts when this has grown.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Looks at the journal in `folder` and changes nothing; says how many records it has. For a look from outside, also while an
/// agent is running.
pub fn examine(folder: &Path) -> Result<usize, JournalError> {
    let path = folder.join("grants.journal");
    let bytes = fs::read(&path).map_err(|source| wrap(&path, source))?;
    scan::<serde::de::IgnoredAny>(&path, &bytes).map(|(records, _)| records.len())
}

/// One agent a state folder: the lock is a file of its own, because compaction replaces the journal.
fn lock(folder: &Path) -> Result<File, JournalError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| wrap(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(JournalError::InUse { path: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(wrap(&path, source)),
    }
}

/// Writes header and body beside the journal, flushes, renames over it and flushes the folder.
fn write_whole(path: &Path, body: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("journal.new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(MAGIC)?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// All records, and the length of the file up to the end of the last whole one.
fn scan<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Vec<T>, usize), JournalError> {
    if !bytes.starts_with(MAGIC) {
        return Err(JournalError::Foreign { path: path.to_owned() });
    }
    let mut records = Vec::new();
    let mut offset = MAGIC.len();
    while offset < bytes.len() {
        let Some(body) = record_at(bytes, offset) else {
            // Half a record is the last thing in the file. If a whole one follows, this is damage and not a crash.
            let later = (offset + 1..bytes.len()).any(|at| record_at(bytes, at).is_some());
            if later {
                let what = "its checksum is wrong, and later records are whole";
                return Err(JournalError::Damaged { path: path.to_owned(), offset, what });
            }
            break;
        };
        let Ok(record) = rmp_serde::from_slice(body) else {
            let what = "a whole record that can't be understood";
            return Err(JournalError::Damaged { path: path.to_owned(), offset, what });
        };
        records.push(record);
        offset += HEAD + body.len();
    }
    Ok((records, offset))
}

/// The body of the record that begins at `offset`, if it is whole and its checksum right.
fn record_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let head = bytes.get(offset..offset + HEAD)?;
    let length = u32::from_be_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_be_bytes(head[4..].try_into().ok()?);
    if length == 0 || length > MAX_RECORD {
        return None;
    }
    let body = bytes.get(offset + HEAD..offset + HEAD + length)?;
    (checksum(&head[..4], body) == sum).then_some(body)
}

fn frame<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let body = rmp_serde::to_vec(record).map_err(io::Error::other)?;
    if body.is_empty() || body.len() > MAX_RECORD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a record of {} bytes; at most {MAX_RECORD}", body.len()),
        ));
    }
    let length = (body.len() as u32).to_be_bytes();
    let mut framed = Vec::with_capacity(HEAD + body.len());
    framed.extend_from_slice(&length);
    framed.extend_from_slice(&checksum(&length, &body).to_be_bytes());
    framed.extend_from_slice(&body);
    Ok(framed)
}

fn wrap(path: &Path, source: io::Error) -> JournalError {
    match source.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::FileTooLarge
        | io::ErrorKind::WriteZero => JournalError::DiskFull { path: path.to_owned() },
        _ => JournalError::Io { path: path.to_owned(), source },
    }
}

/// CRC-32 (IEEE 802.3), as zlib has it: finds torn and damaged records, and is no defence against a forger, who would be
/// root here and could do without us.
fn checksum(length: &[u8], body: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !length.iter().chain(body).fold(!0u32, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_three_records() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, records) = Journal::open::<String>(folder.path()).unwrap();
        assert!(records.is_empty());
        for text in ["one", "two", "three"] {
            journal.append(&text).unwrap();
        }
        let path = folder.path().join("grants.journal");
        (folder, path)
    }

    fn read(folder: &tempfile::TempDir) -> Result<Vec<String>, JournalError> {
        Journal::open(folder.path()).map(|(_, records)| records)
    }

    #[test]
    fn checksum_is_the_one_of_zlib() {
        assert_eq!(checksum(b"1234", b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let (folder, _) = with_three_records();
        assert_eq!(read(&folder).unwrap(), ["one", "two", "three"]);
        let (mut journal, _) = Journal::open::<String>(folder.path()).unwrap();
        journal.append(&"four").unwrap();
        drop(journal);
        assert_eq!(read(&folder).unwrap(), ["one", "two", "three", "four"]);
        assert_eq!(examine(folder.path()).unwrap(), 4);
    }

    #[test]
    fn a_power_cut_at_any_byte_of_the_last_record_loses_only_that_record() {
        let (folder, path) = with_three_records();
        let whole = fs::read(&path).unwrap();
        let last = HEAD + rmp_serde::to_vec("three").unwrap().len();
        for cut in 1..=last {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut journal, records) = Journal::open::<String>(folder.path()).unwrap();
            assert_eq!(records, ["one", "two"], "{cut} bytes cut");
            journal.append(&"again").unwrap();
            drop(journal);
            assert_eq!(read(&folder).unwrap(), ["one", "two", "again"], "{cut} bytes cut");
        }
    }

    #[test]
    fn a_tail_of_zeros_as_some_file_systems_leave_it_is_cut_off() {
        let (folder, path) = with_three_records();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([0; 300]);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&folder).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn a_flipped_bit_before_the_last_record_is_refused_and_says_where() {
        let (folder, path) = with_three_records();
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - HEAD - rmp_serde::to_vec("three").unwrap().len();
        for at in MAGIC.len()..last {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                let error = read(&folder).unwrap_err();
                assert!(matches!(error, JournalError::Damaged { .. }), "byte {at}, bit {bit}: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_journal_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.journal");
        fs::write(&path, b"something else altogether").unwrap();
        assert!(matches!(read(&folder), Err(JournalError::Foreign { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"something else altogether");
    }

    #[test]
    fn two_agents_on_one_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Journal::open::<String>(folder.path()).unwrap();
        assert!(matches!(read(&folder), Err(JournalError::InUse { .. })));
        drop(first);
        assert!(read(&folder).is_ok());
    }

    #[test]
    fn compaction_keeps_what_it_is_given_and_appends_go_on_after_it() {
        let (folder, _) = with_three_records();
        let (mut journal, _) = Journal::open::<String>(folder.path()).unwrap();
        let before = journal.length();
        journal.compact(&["three"]).unwrap();
        assert!(journal.length() < before);
        journal.append(&"four").unwrap();
        drop(journal);
        assert_eq!(read(&folder).unwrap(), ["three", "four"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the journal and its lock, nothing left beside");
    }

    #[test]
    fn a_journal_that_failed_is_usable_again_once_it_was_written_anew() {
        // /dev/full takes no byte; the journal's file handle is put on it.
        let (folder, path) = with_three_records();
        let (mut journal, _) = Journal::open::<String>(folder.path()).unwrap();
        let real = std::mem::replace(&mut journal.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = journal.append(&"lost").unwrap_err();
        assert!(matches!(error, JournalError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        // /dev/full can't be cut back, as a real file can, so nobody knows what is in it.
        assert!(journal.is_poisoned());
        assert!(matches!(journal.append(&"lost"), Err(JournalError::Poisoned { .. })));
        drop(real);
        journal.compact(&["one", "two", "three"]).unwrap();
        journal.append(&"four").unwrap();
        drop(journal);
        assert_eq!(read(&folder).unwrap(), ["one", "two", "three", "four"]);
    }
}
