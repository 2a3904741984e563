//! SQLite: one file, one writer, a reader that never waits for it (WAL).
//!
//! `synchronous = FULL`, because an agent deletes an audit event from its spool once it was told that the event is kept.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, ToSql, TransactionBehavior, params_from_iter};

use super::migrations::{Dialect, Migration};
use super::sql::{Cell, Db, Row, Value};
use super::{StoreError, migrations};

/// Longer than any write here takes; another process (a backup) may hold the file for a moment.
const BUSY: Duration = Duration::from_secs(5);

/// The database file with its two connections.
pub(super) struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Sqlite {
    /// Opens the file, readable by its owner only, makes it if it isn't there, and brings its schema up to date.
    pub(super) fn open(path: &Path, known: &[Migration]) -> Result<Sqlite, StoreError> {
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
        migrate(&mut writer, path, known)?;
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(Sqlite { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Puts all that was written into the file itself, and away with the files beside it: for a file that is to be carried off.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(self.reader);
        let sound: String = writer.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if sound != "ok" {
            return Err(StoreError::Damaged("the file does not pass SQLite's own check"));
        }
        writer.pragma_update(None, "journal_mode", "DELETE")?;
        writer.close().map_err(|(_, error)| error.into())
    }

    pub(super) fn read<T, E: From<StoreError>>(&self, work: impl FnOnce(&mut dyn Db) -> Result<T, E>) -> Result<T, E> {
        let reader = lock(&self.reader);
        // All of `work` sees one state.
        let transaction = reader.unchecked_transaction().map_err(StoreError::from)?;
        work(&mut Session(&transaction))
    }

    pub(super) fn write<T, E: From<StoreError>>(&self, work: impl FnOnce(&mut dyn Db) -> Result<T, E>) -> Result<T, E> {
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let result = work(&mut Session(&transaction))?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    /// Lets the file grow by `spare` more pages and no further: a full disk, on order.
    #[cfg(test)]
    pub(super) fn fill_disk(&self, spare: i64) {
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

fn version(connection: &Connection) -> Result<usize, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// `user_version` counts how much of the schema's history a file has.
fn migrate(connection: &mut Connection, path: &Path, known: &[Migration]) -> Result<(), StoreError> {
    for (index, migration) in migrations::missing(known, version(connection)?, || path.display().to_string())? {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(&migration.text(Dialect::Sqlite))?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

struct Session<'a>(&'a Connection);

impl Db for Session<'_> {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let changed = self.0.prepare_cached(sql)?.execute(params_from_iter(values))?;
        Ok(changed as u64)
    }

    fn each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement: &mut Statement<'_> = &mut *self.0.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let cells = (0..columns).map(|column| cell(row.get_ref(column)?)).collect::<Result<_, StoreError>>()?;
            take(Row::new(cells))?;
        }
        Ok(())
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Number(number) => {
                let number = i64::try_from(*number);
                ValueRef::Integer(number.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?)
            }
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn cell(value: ValueRef<'_>) -> Result<Cell, StoreError> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => {
            Cell::Number(number.try_into().map_err(|_| StoreError::Damaged("a number is below zero"))?)
        }
        ValueRef::Text(text) => {
            Cell::Text(String::from_utf8(text.to_vec()).map_err(|_| StoreError::Damaged("a text is not UTF-8"))?)
        }
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(StoreError::Damaged("a number has a fraction")),
    })
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
            _ => StoreError::Failed(error.into()),
        }
    }
}
