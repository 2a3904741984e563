//! The database: one SQLite file, one writer, readers that never wait for it (WAL).
//!
//! Every call here blocks on the disk, so the HTTP side only makes them inside `spawn_blocking`. A write is one
//! transaction from its first check to its last row: a ticket can't be used twice by two computers that arrive together.
//! `synchronous = FULL`, because an agent deletes an audit event from its spool once it was told that the event is kept.

mod enrolment;
mod events;
mod statements;
mod tenants;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

pub(crate) use enrolment::*;
pub(crate) use events::{Actor, append, page};
pub(crate) use statements::{insert as insert_statement, newest, newest_epoch};
pub(crate) use tenants::*;

/// The schema is this list; `user_version` counts how much of it a database file has.
const MIGRATIONS: &[&str] = &[include_str!("schema-1.sql")];

/// Longer than any write here takes; another process (a backup) may hold the file for a moment.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Make room, then repeat: nothing was written.
    #[error("the disk of the control plane is full; nothing was written. Make room and try again")]
    DiskFull,
    /// Another program holds the database; repeat later.
    #[error("the database is in use by another program; try again")]
    Busy,
    /// Start the newer program again.
    #[error(
        "{path} was written by a newer Gatepass (schema {found}, this program knows {known}); start the newer program"
    )]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// The schema in the file.
        found: usize,
        /// The newest schema that this program knows.
        known: usize,
    },
    /// The file can't be made or opened.
    #[error("can't open the database {path}: {source}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else: a damaged file, a broken promise of the schema.
    #[error("the database failed: {0}")]
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
            _ => StoreError::Failed(error),
        }
    }
}

/// The database file with its two connections.
pub(crate) struct Store {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens the file, readable by its owner only, makes it if it isn't there, and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Store, StoreError> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        writer.pragma_update(None, "journal_mode", "WAL")?;
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut writer, path)?;
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(Store { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Reads: sees the newest committed state and never waits for the writer.
    pub(crate) fn read<T, E: From<StoreError>>(&self, work: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        work(&lock(&self.reader))
    }

    /// Writes: all of `work` or nothing of it.
    pub(crate) fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let result = work(&transaction)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    /// Lets the file grow by `spare` more pages and no further: a full disk, on order.
    #[cfg(test)]
    pub(crate) fn fill_disk(&self, spare: i64) {
        let writer = lock(&self.writer);
        let used: i64 = writer.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        writer.pragma_update_and_check(None, "max_page_count", used + spare, |_| Ok(())).unwrap();
    }
}

/// A panic while the lock was held left no half-written row (the transaction rolled back), so the connection is still good.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let done: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if done > MIGRATIONS.len() {
        return Err(StoreError::TooNew { path: path.to_owned(), found: done, known: MIGRATIONS.len() });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
