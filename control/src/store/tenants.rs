//! Tenants and their CA keys.

use gatepass_protocol::ids::TenantId;

use super::{Db, StoreError};
use crate::api::{CaKey, Tenant, hex};
use crate::problem::Refusal;

/// Under this name the operator's own acts are written down, in a log like a tenant's. It is listed nowhere, and has nothing else.
pub(crate) const OPERATOR: TenantId = TenantId([0; 16]);

/// Makes room for the operator's own log.
pub(crate) fn insert_operator(db: &mut dyn Db, now: u64) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO tenants (id, name, created) VALUES (?1, '(operator)', ?2) ON CONFLICT DO NOTHING",
        &[(&OPERATOR).into(), now.into()],
    )?;
    Ok(())
}

pub(crate) fn insert_tenant(db: &mut dyn Db, id: TenantId, name: &str, now: u64) -> Result<(), Refusal> {
    let added = db.execute(
        "INSERT INTO tenants (id, name, created) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING",
        &[(&id).into(), name.into(), now.into()],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "tenant", name: name.to_owned() }) } else { Ok(()) }
}

pub(crate) fn tenants(db: &mut dyn Db, after: &[u8], limit: u64) -> Result<Vec<Tenant>, StoreError> {
    let after = if after.is_empty() { &OPERATOR.0 } else { after };
    let values = [after.into(), limit.into()];
    db.rows("SELECT id, name, created FROM tenants WHERE id > ?1 ORDER BY id LIMIT ?2", &values, |row| {
        Ok(Tenant { id: row.next()?, name: row.next()?, created: row.next()? })
    })
}

pub(crate) fn tenant(db: &mut dyn Db, id: TenantId) -> Result<Option<Tenant>, StoreError> {
    db.row("SELECT name, created FROM tenants WHERE id = ?1", &[(&id).into()], |row| {
        Ok(Tenant { id, name: row.next()?, created: row.next()? })
    })
}

/// How often what a tenant believes has changed; none where there is no such tenant.
pub(crate) fn revision(db: &mut dyn Db, tenant: TenantId) -> Result<Option<u64>, StoreError> {
    db.row("SELECT revision FROM tenants WHERE id = ?1", &[(&tenant).into()], |row| row.next())
}

/// The same of all tenants.
pub(crate) fn revisions(db: &mut dyn Db) -> Result<Vec<(TenantId, u64)>, StoreError> {
    db.rows("SELECT id, revision FROM tenants WHERE id > ?1 ORDER BY id", &[(&OPERATOR).into()], |row| {
        Ok((row.next()?, row.next()?))
    })
}

/// Counts a change of what the tenant believes.
pub(crate) fn revise(db: &mut dyn Db, tenant: TenantId) -> Result<(), StoreError> {
    db.execute("UPDATE tenants SET revision = revision + 1 WHERE id = ?1", &[(&tenant).into()])?;
    Ok(())
}

pub(crate) fn insert_ca_key(db: &mut dyn Db, tenant: TenantId, key: &CaKey) -> Result<(), Refusal> {
    let added = db.execute(
        "INSERT INTO ca_keys (tenant, kid, name, pem, added) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        &[(&tenant).into(), (&key.kid).into(), (&key.name).into(), (&key.pem).into(), key.added.into()],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "CA key", name: hex(&key.kid.0) }) } else { Ok(()) }
}

pub(crate) fn ca_keys(db: &mut dyn Db, tenant: TenantId) -> Result<Vec<CaKey>, StoreError> {
    db.rows(
        "SELECT kid, name, pem, added FROM ca_keys WHERE tenant = ?1 ORDER BY added, kid",
        &[(&tenant).into()],
        |row| Ok(CaKey { kid: row.next()?, name: row.next()?, pem: row.next()?, added: row.next()? }),
    )
}
