//! How far each tenant's trail was sent to somebody else.

use gatepass_protocol::ids::TenantId;

use super::{Db, StoreError};

/// The tenants of whose trail a target has not been sent all, with the last number that it was.
pub(crate) fn behind(db: &mut dyn Db, target: &str) -> Result<Vec<(TenantId, u64)>, StoreError> {
    db.rows(
        "SELECT t.id, COALESCE(f.seq, 0) FROM tenants t LEFT JOIN forwarded f ON f.tenant = t.id AND f.target = ?1
         WHERE EXISTS (SELECT 1 FROM events e WHERE e.tenant = t.id AND e.seq > COALESCE(f.seq, 0)) ORDER BY t.id",
        &[target.into()],
        |row| Ok((row.next()?, row.next()?)),
    )
}

/// Writes down that a target was sent a tenant's trail up to a number.
pub(crate) fn sent(db: &mut dyn Db, target: &str, tenant: TenantId, seq: u64) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO forwarded (target, tenant, seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (target, tenant) DO UPDATE SET seq = excluded.seq",
        &[target.into(), (&tenant).into(), seq.into()],
    )?;
    Ok(())
}
