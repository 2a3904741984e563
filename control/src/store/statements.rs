//! Signed statements by kind and epoch: the newest epoch is in force, the older ones stay as history.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use gatepass_protocol::ids::TenantId;

use super::StoreError;
use crate::api::StatementKind;
use crate::problem::Refusal;

/// Adds a statement whose signature was checked; its epoch must be above all that are there.
pub(crate) fn insert(
    tx: &Transaction<'_>,
    tenant: TenantId,
    kind: StatementKind,
    epoch: u64,
    statement: &[u8],
    now: u64,
) -> Result<(), Refusal> {
    let newest = newest_epoch(tx, tenant, kind)?;
    if epoch <= newest {
        return Err(Refusal::EpochBehind { kind: kind.name(), got: epoch, newest });
    }
    tx.execute(
        "INSERT INTO statements (tenant, kind, epoch, statement, added) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![tenant.as_bytes(), kind.name(), epoch, statement, now],
    )?;
    Ok(())
}

/// The epoch in force, 0 before the first statement of that kind.
pub(crate) fn newest_epoch(db: &Connection, tenant: TenantId, kind: StatementKind) -> Result<u64, StoreError> {
    let mut query =
        db.prepare_cached("SELECT COALESCE(MAX(epoch), 0) FROM statements WHERE tenant = ?1 AND kind = ?2")?;
    Ok(query.query_row(params![tenant.as_bytes(), kind.name()], |row| row.get(0))?)
}

/// The statement in force.
pub(crate) fn newest(db: &Connection, tenant: TenantId, kind: StatementKind) -> Result<Option<Vec<u8>>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT statement FROM statements WHERE tenant = ?1 AND kind = ?2 ORDER BY epoch DESC LIMIT 1",
    )?;
    Ok(query.query_row(params![tenant.as_bytes(), kind.name()], |row| row.get(0)).optional()?)
}
