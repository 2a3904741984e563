//! Backups: a SQLite file with every row of the database in it, whichever database it is. So a backup can be looked into,
//! and one of SQLite be restored into Postgres when one node is no longer enough.
//!
//! What a backup gives back, it must not give to somebody who lost it since: agents and phones refuse older policies and
//! revocation lists by themselves, but whom this server lets in, and how often a ticket was used, it alone knows. So [`restore`]
//! uses up every ticket and lets nobody in with a token of before.

use std::path::Path;

use super::migrations::MIGRATIONS;
use super::sql::Row;
use super::sqlite::Sqlite;
use super::{Database, Db, Scope, Store, StoreError, Value};

/// Every table, with what identifies a row: those that others refer to come first.
const TABLES: &[(&str, &str)] = &[
    ("tenants", "id, name, created, revision, log_key"),
    ("tokens", "hash, tenant, created, id, name, role, technician, expires"),
    ("people", "id, name, email, added"),
    ("ca_keys", "tenant, kid, name, pem, added"),
    ("technicians", "tenant, id, name, added, email, role, delegated"),
    ("technician_groups", "tenant, id, name"),
    ("group_members", "tenant, id, technician"),
    ("tickets", "tenant, serial, purpose, tags, uses, used, not_after, statement, added"),
    (
        "devices",
        "request, tenant, ticket, name, enrol, asked, device, serial, technician, certificate, not_after, approved",
    ),
    (
        "computers",
        "tenant, id, ticket, name, domain, os, tags, certificate, not_after, enrolled, last_event, agent_version",
    ),
    ("shares", "tenant, computer, kind, subject"),
    ("statements", "tenant, kind, epoch, statement, added"),
    ("forwarded", "target, tenant, seq"),
    ("events", "tenant, seq, at, computer, revoked, event, digest"),
];

/// Writes a backup into a new file, which appears under its name once it is whole; says how many rows are in it.
pub(crate) fn back_up(store: &Store, file: &Path) -> Result<u64, StoreError> {
    if file.exists() {
        return Err(StoreError::NotEmpty(file.display().to_string()));
    }
    let unfinished = file.with_added_extension("unfinished");
    let failed = |source| StoreError::Open { path: unfinished.clone(), source };
    if unfinished.exists() {
        std::fs::remove_file(&unfinished).map_err(failed)?;
    }
    let copied = write_file(store, &unfinished);
    if copied.is_err() {
        // Half a backup is worse than none: somebody would count on it.
        let _ = std::fs::remove_file(&unfinished);
        return copied;
    }
    std::fs::File::open(&unfinished).and_then(|written| written.sync_all()).map_err(failed)?;
    std::fs::rename(&unfinished, file).map_err(failed)?;
    copied
}

fn write_file(store: &Store, file: &Path) -> Result<u64, StoreError> {
    let backup = Sqlite::open(file, MIGRATIONS)?;
    let copied = store.read(|from| backup.write(|to| copy(from, to)))?;
    backup.close()?;
    Ok(copied)
}

/// Fills an empty database from a backup, older ones included.
pub(crate) fn restore(store: &Store, file: &Path) -> Result<u64, StoreError> {
    // A copy is brought up to date, and the backup stays as it is.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let working = folder.join(format!(".{}.restoring", std::process::id()));
    let failed = |source| StoreError::Open { path: file.to_owned(), source };
    std::fs::copy(file, &working).map_err(failed)?;
    let restored = Store::open(&Database::File(working.clone())).and_then(|backup| fill(store, &backup));
    for name in ["restoring", "restoring-wal", "restoring-shm"] {
        let _ = std::fs::remove_file(working.with_extension(name));
    }
    restored
}

fn fill(store: &Store, backup: &Store) -> Result<u64, StoreError> {
    backup.read(|from| {
        store.write(Scope::Operator, |to| {
            for (table, _) in TABLES {
                let rows = to.row(&format!("SELECT COUNT(*) FROM {table}"), &[], |row| row.next::<u64>())?;
                if rows != Some(0) {
                    return Err(StoreError::NotEmpty(format!("the table {table} of the database")));
                }
            }
            let copied = copy(from, to)?;
            to.execute("DELETE FROM tokens", &[])?;
            to.execute("UPDATE tickets SET used = uses", &[])?;
            Ok(copied)
        })
    })
}

fn copy(from: &mut dyn Db, to: &mut dyn Db) -> Result<u64, StoreError> {
    let mut copied = 0;
    for (table, columns) in TABLES {
        let places: Vec<String> = (1..=columns.split(", ").count()).map(|place| format!("?{place}")).collect();
        let insert = format!("INSERT INTO {table} ({columns}) VALUES ({})", places.join(", "));
        from.each(&format!("SELECT {columns} FROM {table}"), &[], &mut |row: Row| {
            let cells = row.rest();
            let values: Vec<Value<'_>> = cells.iter().map(|cell| cell.value()).collect();
            copied += to.execute(&insert, &values)?;
            Ok(())
        })?;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not for somebody who comes after a restore are answers to repeated requests, passwords, and enrolments of that minute; and
    /// the log's tree and what it is searched by are made again of the trail.
    const LEFT_OUT: [&str; 6] = ["answers", "sign_ins", "slots", "slot_messages", "log_nodes", "event_facts"];

    #[test]
    fn a_backup_has_every_column_of_every_table_but_those_that_are_left_out_on_purpose() {
        let folder = tempfile::TempDir::new().unwrap();
        let database = Sqlite::open(&folder.path().join("control.sqlite"), MIGRATIONS).unwrap();
        let columns = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'";
        let mut there: Vec<(String, String)> =
            database.write(|db| db.rows(columns, &[], |row| Ok((row.next()?, row.next()?)))).unwrap();
        there.retain(|(table, _)| !LEFT_OUT.contains(&table.as_str()) && !table.starts_with("sqlite_"));
        let mut copied: Vec<(String, String)> = TABLES
            .iter()
            .flat_map(|(table, columns)| columns.split(", ").map(|column| ((*table).to_owned(), column.to_owned())))
            .collect();
        there.sort();
        copied.sort();
        assert_eq!(copied, there);
    }
}
