//! Tenants, the tokens of their administrators, their CA keys and their technicians.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use gatepass_protocol::ids::{TechnicianId, TenantId};
use gatepass_protocol::keys::Kid;

use super::StoreError;
use crate::api::{CaKey, Technician, Tenant, hex};
use crate::problem::Refusal;

/// Whom a token lets act: the operator of this server, or the administrator of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Operator,
    Tenant(TenantId),
}

impl Owner {
    fn column(self) -> Option<[u8; 16]> {
        match self {
            Owner::Operator => None,
            Owner::Tenant(tenant) => Some(*tenant.as_bytes()),
        }
    }
}

pub(crate) fn insert_token(tx: &Transaction<'_>, owner: Owner, hash: &[u8; 32], now: u64) -> Result<(), StoreError> {
    tx.execute("INSERT INTO tokens (hash, tenant, created) VALUES (?1, ?2, ?3)", params![hash, owner.column(), now])?;
    Ok(())
}

pub(crate) fn token_hashes(db: &Connection, owner: Owner) -> Result<Vec<[u8; 32]>, StoreError> {
    let mut query = db.prepare_cached("SELECT hash FROM tokens WHERE tenant IS ?1")?;
    let rows = query.query_map([owner.column()], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn insert_tenant(tx: &Transaction<'_>, id: TenantId, name: &str, now: u64) -> Result<(), Refusal> {
    let added = tx.execute(
        "INSERT INTO tenants (id, name, created) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING",
        params![id.as_bytes(), name, now],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "tenant", name: name.to_owned() }) } else { Ok(()) }
}

pub(crate) fn tenants(db: &Connection) -> Result<Vec<Tenant>, StoreError> {
    let mut query = db.prepare_cached("SELECT id, name, created FROM tenants ORDER BY name")?;
    let rows =
        query.query_map([], |row| Ok(Tenant { id: TenantId(row.get(0)?), name: row.get(1)?, created: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn tenant(db: &Connection, id: TenantId) -> Result<Option<Tenant>, StoreError> {
    let mut query = db.prepare_cached("SELECT name, created FROM tenants WHERE id = ?1")?;
    let found = query.query_row([id.as_bytes()], |row| Ok(Tenant { id, name: row.get(0)?, created: row.get(1)? }));
    Ok(found.optional()?)
}

pub(crate) fn insert_ca_key(tx: &Transaction<'_>, tenant: TenantId, key: &CaKey) -> Result<(), Refusal> {
    let added = tx.execute(
        "INSERT INTO ca_keys (tenant, kid, name, pem, added) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        params![tenant.as_bytes(), key.kid.0, key.name, key.pem, key.added],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "CA key", name: hex(&key.kid.0) }) } else { Ok(()) }
}

pub(crate) fn ca_keys(db: &Connection, tenant: TenantId) -> Result<Vec<CaKey>, StoreError> {
    let mut query =
        db.prepare_cached("SELECT kid, name, pem, added FROM ca_keys WHERE tenant = ?1 ORDER BY added, kid")?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(CaKey { kid: Kid(row.get(0)?), name: row.get(1)?, pem: row.get(2)?, added: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn insert_technician(
    tx: &Transaction<'_>,
    tenant: TenantId,
    technician: &Technician,
) -> Result<(), Refusal> {
    let added = tx.execute(
        "INSERT INTO technicians (tenant, id, name, added) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![tenant.as_bytes(), technician.id.as_bytes(), technician.name, technician.added],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "technician", name: technician.name.clone() }) } else { Ok(()) }
}

pub(crate) fn technicians(db: &Connection, tenant: TenantId) -> Result<Vec<Technician>, StoreError> {
    let mut query = db.prepare_cached("SELECT id, name, added FROM technicians WHERE tenant = ?1 ORDER BY name")?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(Technician { id: TechnicianId(row.get(0)?), name: row.get(1)?, added: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
