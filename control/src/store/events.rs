//! The audit trail of a tenant: numbered from 1, in a Merkle log, never changed.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::log::{self as tree, Entry};

use super::log::{self, Tree};
use super::{Db, StoreError, Value};
use crate::api::{Base64, Outcome, TrailEntry};

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

/// Appends an event and returns its number. One of a computer that is there already keeps its number: an agent that never saw
/// our answer sends it again. What is done twice here was done twice.
pub(crate) fn append(
    db: &mut dyn Db,
    tenant: TenantId,
    actor: Actor,
    event: &[u8],
    now: u64,
) -> Result<u64, StoreError> {
    let last =
        db.row("SELECT seq FROM events WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1", &[(&tenant).into()], |row| {
            row.next::<u64>()
        })?;
    let seq = last.unwrap_or(0) + 1;
    let (computer, revoked) = match actor {
        Actor::Computer { computer, revoked } => (Some(computer), revoked),
        Actor::Control => (None, false),
    };
    let digest = match computer {
        Some(_) => Sha256::digest(event),
        None => Sha256::new().chain_update(seq.to_be_bytes()).chain_update(event).finalize(),
    };
    let digest: [u8; 32] = digest.into();
    let known = db.row(
        "SELECT seq FROM events WHERE tenant = ?1 AND digest = ?2",
        &[(&tenant).into(), (&digest).into()],
        |row| row.next(),
    )?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    db.execute(
        "INSERT INTO events (tenant, seq, at, computer, revoked, event, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            (&tenant).into(),
            seq.into(),
            now.into(),
            computer.as_ref().into(),
            revoked.into(),
            event.into(),
            (&digest).into(),
        ],
    )?;
    log::add(db, tenant, seq, &Entry { received: now, computer, revoked, event: event.to_vec() })?;
    Ok(seq)
}

/// Which entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Received then or later, in Unix seconds.
    pub(crate) since: Option<u64>,
    /// Received before then.
    pub(crate) until: Option<u64>,
    /// By this technician, or with this token.
    pub(crate) actor: Option<[u8; 16]>,
    pub(crate) computer: Option<[u8; 16]>,
    pub(crate) kind: Option<String>,
    pub(crate) outcome: Option<Outcome>,
    /// The size of the log in which each is proved to be.
    pub(crate) proved_in: Option<u64>,
}

/// At most `limit` entries with a number above `after`, in order.
pub(crate) fn page(
    db: &mut dyn Db,
    tenant: TenantId,
    filter: &Filter,
    after: u64,
    limit: u64,
) -> Result<Vec<TrailEntry>, StoreError> {
    // Time never goes back in what is searched by, so a span of time is one of numbers.
    let first_at = |db: &mut dyn Db, time: u64| {
        db.row(
            "SELECT seq FROM event_facts WHERE tenant = ?1 AND time >= ?2 ORDER BY time, seq LIMIT 1",
            &[(&tenant).into(), time.into()],
            |row| row.next::<u64>(),
        )
    };
    let unending = i64::MAX as u64;
    let after = match filter.since {
        Some(since) => after.max(first_at(db, since)?.unwrap_or(unending) - 1),
        None => after,
    };
    let before = match filter.until {
        Some(until) => first_at(db, until)?.unwrap_or(unending),
        None => unending,
    };
    let mut values: Vec<Value<'_>> = vec![(&tenant).into(), after.into(), limit.into(), before.into()];
    // The rarest first: one index is read in its order until the page is full, and the others must not tempt the planner.
    let wanted = [
        ("actor", filter.actor.as_ref().map(Value::from)),
        ("computer", filter.computer.as_ref().map(Value::from)),
        ("kind", filter.kind.as_ref().map(Value::from)),
        ("outcome", filter.outcome.map(|outcome| outcome.name().into())),
    ];
    let mut conditions = String::new();
    for (column, value) in wanted {
        let Some(value) = value else { continue };
        values.push(value);
        let place = values.len();
        let is_first = conditions.is_empty();
        let _ = match is_first {
            true => write!(conditions, " AND f.{column} = ?{place}"),
            false => write!(conditions, " AND COALESCE(f.{column}, f.{column}) = ?{place}"),
        };
    }
    let from = if conditions.is_empty() {
        "FROM events e"
    } else {
        "FROM event_facts f JOIN events e ON e.tenant = f.tenant AND e.seq = f.seq"
    };
    let name = if conditions.is_empty() { "e" } else { "f" };
    let sql = format!(
        "SELECT e.seq, e.at, e.computer, e.event, c.certificate, t.statement, e.revoked {from}
         LEFT JOIN computers c ON c.tenant = e.tenant AND c.id = e.computer
         LEFT JOIN tickets t ON t.tenant = c.tenant AND t.serial = c.ticket
         WHERE {name}.tenant = ?1 AND {name}.seq > ?2 AND {name}.seq < ?4{conditions} ORDER BY {name}.seq LIMIT ?3"
    );
    let mut entries = db.rows(&sql, &values, |row| {
        let (seq, at, computer) = (row.next()?, row.next()?, row.next()?);
        let event: Vec<u8> = row.next()?;
        let chain: [Option<Vec<u8>>; 2] = [row.next()?, row.next()?];
        Ok(TrailEntry {
            seq,
            at,
            computer,
            revoked: row.next()?,
            event: event.into(),
            chain: chain.into_iter().flatten().map(Base64::from).collect(),
            proof: None,
        })
    })?;
    if let Some(size) = filter.proved_in {
        for entry in entries.iter_mut().filter(|entry| entry.seq <= size) {
            let proof = tree::inclusion(&mut Tree { db, tenant }, entry.seq - 1, size)?;
            entry.proof = Some(proof.to_bytes().into());
        }
    }
    Ok(entries)
}
