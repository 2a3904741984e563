//! Signed statements by kind and epoch: the newest epoch is in force, the older ones stay as history.

use gatepass_protocol::ids::TenantId;

use super::{Db, StoreError};
use crate::api::StatementKind;
use crate::problem::Refusal;

/// Adds a statement whose signature was checked; its epoch must be above all that are there.
pub(crate) fn insert(
    db: &mut dyn Db,
    tenant: TenantId,
    kind: StatementKind,
    epoch: u64,
    statement: &[u8],
    now: u64,
) -> Result<(), Refusal> {
    let newest = newest_epoch(db, tenant, kind)?;
    if epoch <= newest {
        return Err(Refusal::EpochBehind { kind: kind.name(), got: epoch, newest });
    }
    db.execute(
        "INSERT INTO statements (tenant, kind, epoch, statement, added) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[(&tenant).into(), kind.name().into(), epoch.into(), statement.into(), now.into()],
    )?;
    Ok(())
}

/// The epoch in force, 0 before the first statement of that kind.
pub(crate) fn newest_epoch(db: &mut dyn Db, tenant: TenantId, kind: StatementKind) -> Result<u64, StoreError> {
    let epoch = db.row(
        "SELECT MAX(epoch) FROM statements WHERE tenant = ?1 AND kind = ?2",
        &[(&tenant).into(), kind.name().into()],
        |row| row.next::<Option<u64>>(),
    )?;
    Ok(epoch.flatten().unwrap_or(0))
}

/// The statement in force.
pub(crate) fn newest(db: &mut dyn Db, tenant: TenantId, kind: StatementKind) -> Result<Option<Vec<u8>>, StoreError> {
    db.row(
        "SELECT statement FROM statements WHERE tenant = ?1 AND kind = ?2 ORDER BY epoch DESC LIMIT 1",
        &[(&tenant).into(), kind.name().into()],
        |row| row.next(),
    )
}
