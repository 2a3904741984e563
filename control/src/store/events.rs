//! The audit trail of a tenant: numbered from 1, each row chained to the one before, never changed.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sha2::{Digest, Sha256};

use gatepass_protocol::ids::{ComputerId, TenantId};

use super::StoreError;
use crate::api::{Base64, TrailEntry, trail_hash};

/// Who stands behind an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor {
    /// The computer whose agent signed the event, and whether it was revoked by then.
    Computer {
        /// Which one.
        computer: ComputerId,
        /// Whether its word may be somebody else's.
        revoked: bool,
    },
    /// The control plane, about what an administrator did through it.
    Control,
}

/// Appends an event and returns its number. One that is there already keeps its number: an agent that never saw our
/// answer sends it again.
pub(crate) fn append(
    tx: &Transaction<'_>,
    tenant: TenantId,
    actor: Actor,
    event: &[u8],
    now: u64,
) -> Result<u64, StoreError> {
    let digest: [u8; 32] = Sha256::digest(event).into();
    let known = tx
        .prepare_cached("SELECT seq FROM events WHERE tenant = ?1 AND digest = ?2")?
        .query_row(params![tenant.as_bytes(), digest], |row| row.get(0))
        .optional()?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    let (last, previous): (u64, [u8; 32]) = tx
        .prepare_cached("SELECT seq, hash FROM events WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([tenant.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or((0, [0; 32]));
    let (computer, revoked) = match actor {
        Actor::Computer { computer, revoked } => (Some(*computer.as_bytes()), revoked),
        Actor::Control => (None, false),
    };
    tx.prepare_cached(
        "INSERT INTO events (tenant, seq, at, computer, revoked, event, digest, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        tenant.as_bytes(),
        last + 1,
        now,
        computer,
        revoked,
        event,
        digest,
        trail_hash(&previous, event)
    ])?;
    Ok(last + 1)
}

/// At most `limit` entries with a number above `after`, in order.
pub(crate) fn page(db: &Connection, tenant: TenantId, after: u64, limit: u64) -> Result<Vec<TrailEntry>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT e.seq, e.at, e.computer, e.event, e.hash, c.certificate, t.statement, e.revoked FROM events e
         LEFT JOIN computers c ON c.tenant = e.tenant AND c.id = e.computer
         LEFT JOIN tickets t ON t.tenant = c.tenant AND t.serial = c.ticket
         WHERE e.tenant = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3",
    )?;
    let rows = query.query_map(params![tenant.as_bytes(), after, limit], |row| {
        Ok(TrailEntry {
            seq: row.get(0)?,
            at: row.get(1)?,
            computer: row.get::<_, Option<[u8; 16]>>(2)?.map(ComputerId),
            revoked: row.get(7)?,
            event: row.get::<_, Vec<u8>>(3)?.into(),
            chain: [row.get::<_, Option<Vec<u8>>>(5)?, row.get(6)?].into_iter().flatten().map(Base64::from).collect(),
            hash: row.get::<_, [u8; 32]>(4)?.to_vec().into(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
