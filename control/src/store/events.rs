//! The audit trail of a tenant: numbered from 1, each row chained to the one before, never changed.

use sha2::{Digest, Sha256};

use gatepass_protocol::ids::{ComputerId, TenantId};

use super::{Db, StoreError};
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
    db: &mut dyn Db,
    tenant: TenantId,
    actor: Actor,
    event: &[u8],
    now: u64,
) -> Result<u64, StoreError> {
    let digest: [u8; 32] = Sha256::digest(event).into();
    let known = db.row(
        "SELECT seq FROM events WHERE tenant = ?1 AND digest = ?2",
        &[(&tenant).into(), (&digest).into()],
        |row| row.next(),
    )?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    let (last, previous): (u64, [u8; 32]) = db
        .row("SELECT seq, hash FROM events WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1", &[(&tenant).into()], |row| {
            Ok((row.next()?, row.next()?))
        })?
        .unwrap_or((0, [0; 32]));
    let (computer, revoked) = match &actor {
        Actor::Computer { computer, revoked } => (Some(computer), *revoked),
        Actor::Control => (None, false),
    };
    let hash = trail_hash(&previous, event);
    db.execute(
        "INSERT INTO events (tenant, seq, at, computer, revoked, event, digest, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            (&tenant).into(),
            (last + 1).into(),
            now.into(),
            computer.into(),
            revoked.into(),
            event.into(),
            (&digest).into(),
            (&hash).into(),
        ],
    )?;
    Ok(last + 1)
}

/// At most `limit` entries with a number above `after`, in order.
pub(crate) fn page(db: &mut dyn Db, tenant: TenantId, after: u64, limit: u64) -> Result<Vec<TrailEntry>, StoreError> {
    db.rows(
        "SELECT e.seq, e.at, e.computer, e.event, e.hash, c.certificate, t.statement, e.revoked FROM events e
         LEFT JOIN computers c ON c.tenant = e.tenant AND c.id = e.computer
         LEFT JOIN tickets t ON t.tenant = c.tenant AND t.serial = c.ticket
         WHERE e.tenant = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into()],
        |row| {
            let (seq, at, computer) = (row.next()?, row.next()?, row.next()?);
            let (event, hash): (Vec<u8>, [u8; 32]) = (row.next()?, row.next()?);
            let chain: [Option<Vec<u8>>; 2] = [row.next()?, row.next()?];
            Ok(TrailEntry {
                seq,
                at,
                computer,
                revoked: row.next()?,
                event: event.into(),
                chain: chain.into_iter().flatten().map(Base64::from).collect(),
                hash: hash.to_vec().into(),
            })
        },
    )
}
