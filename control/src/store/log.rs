//! The Merkle tree of a tenant's trail, and what the trail is searched by. Both are made of the trail alone, in the transaction
//! that appends to it, and made again where they are missing: after an upgrade, and after a backup was restored.

use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::log::{self, Entry, Frontier, Hash, Nodes};
use gatepass_protocol::signed::Unverified;
use zeroize::Zeroizing;

use super::{Db, Scope, Store, StoreError, Value};
use crate::api::{Act, Outcome};

/// Entries that are caught up with in one transaction.
const AT_ONCE: u64 = 10_000;

/// The nodes in the database.
pub(crate) struct Tree<'a> {
    pub(crate) db: &'a mut dyn Db,
    pub(crate) tenant: TenantId,
}

impl Nodes for Tree<'_> {
    type Error = StoreError;

    fn node(&mut self, level: u8, place: u64) -> Result<Hash, StoreError> {
        let values = [(&self.tenant).into(), u64::from(level).into(), place.into()];
        let found = self.db.row(
            "SELECT hash FROM log_nodes WHERE tenant = ?1 AND level = ?2 AND place = ?3",
            &values,
            |row| row.next(),
        )?;
        found.ok_or(StoreError::Damaged("the audit log lacks a node; restart the server, which makes it again"))
    }
}

/// How many entries the tree is made of.
pub(crate) fn log_size(db: &mut dyn Db, tenant: TenantId) -> Result<u64, StoreError> {
    let last = db.row(
        "SELECT place FROM log_nodes WHERE tenant = ?1 AND level = 0 ORDER BY place DESC LIMIT 1",
        &[(&tenant).into()],
        |row| row.next::<u64>(),
    )?;
    Ok(last.map_or(0, |last| last + 1))
}

/// Adds the entry with number `seq` to the tree and to what is searched by.
pub(super) fn add(db: &mut dyn Db, tenant: TenantId, seq: u64, entry: &Entry) -> Result<(), StoreError> {
    let roots = log::frontier(&mut Tree { db, tenant }, seq - 1)?;
    let mut frontier = Frontier::new(seq - 1, roots).map_err(|_| StoreError::Damaged("the audit log's tree"))?;
    let mut made = Vec::new();
    frontier.push(entry.leaf(), |level, place, hash| made.push((level, place, *hash)));
    for (level, place, hash) in made {
        db.execute(
            "INSERT INTO log_nodes (tenant, level, place, hash) VALUES (?1, ?2, ?3, ?4)",
            &[(&tenant).into(), u64::from(level).into(), place.into(), (&hash).into()],
        )?;
    }
    let before = db.row(
        "SELECT time FROM event_facts WHERE tenant = ?1 AND seq = ?2",
        &[(&tenant).into(), (seq - 1).into()],
        |row| row.next::<u64>(),
    )?;
    let facts = Facts::of(entry);
    db.execute(
        "INSERT INTO event_facts (tenant, seq, time, kind, outcome, actor, computer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            (&tenant).into(),
            seq.into(),
            entry.received.max(before.unwrap_or(0)).into(),
            (&facts.kind).into(),
            facts.outcome.name().into(),
            facts.actor.as_ref().into(),
            entry.computer.as_ref().into(),
        ],
    )?;
    Ok(())
}

/// What an entry is searched by.
pub(crate) struct Facts {
    pub(crate) kind: String,
    pub(crate) outcome: Outcome,
    /// The technician, or where it was none, the token.
    actor: Option<[u8; 16]>,
}

impl Facts {
    pub(crate) fn of(entry: &Entry) -> Facts {
        if entry.computer.is_none() {
            let act = serde_json::from_slice::<Act>(&entry.event).ok();
            let kind = act.as_ref().map_or_else(String::new, |act| kind_of(&act.act));
            let by = act.and_then(|act| act.by);
            let actor = by.map(|by| by.technician.map_or(by.token.0, |technician| technician.0));
            let outcome = if kind == "sign-in-refused" { Outcome::Refused } else { Outcome::Done };
            return Facts { kind, outcome, actor };
        }
        let Ok(event) = Unverified::<Event>::decode(entry.event.clone()) else {
            return Facts { kind: String::new(), outcome: Outcome::Alert, actor: None };
        };
        let event = event.claimed();
        let outcome = match event.kind {
            EventKind::Denied => Outcome::Denied,
            EventKind::Refused => Outcome::Refused,
            EventKind::NotMe | EventKind::Alert => Outcome::Alert,
            EventKind::Started | EventKind::Asked | EventKind::Granted | EventKind::Ended | EventKind::ListAccepted => {
                Outcome::Done
            }
        };
        Facts { kind: event.kind.name().to_owned(), outcome, actor: event.technician.map(|technician| technician.0) }
    }
}

/// The kind of an act: its words, as one.
fn kind_of(act: &str) -> String {
    act.to_lowercase().replace(' ', "-")
}

/// Makes what is made of the trail where it is missing, a bounded number of entries at a time, and the keys of heads.
pub(crate) fn catch_up_logs(store: &Store) -> Result<(), StoreError> {
    for tenant in store.read(incomplete)? {
        while store.write(Scope::Tenant(tenant), |db| catch_up(db, tenant))? {}
    }
    Ok(())
}

/// The tenants whose log has no key, or whose tree lacks entries.
fn incomplete(db: &mut dyn Db) -> Result<Vec<TenantId>, StoreError> {
    db.rows(
        "SELECT t.id FROM tenants t WHERE t.log_key IS NULL
         OR COALESCE((SELECT MAX(e.seq) FROM events e WHERE e.tenant = t.id), 0)
          > COALESCE((SELECT MAX(n.place) + 1 FROM log_nodes n WHERE n.tenant = t.id AND n.level = 0), 0)",
        &[],
        |row| row.next(),
    )
}

fn catch_up(db: &mut dyn Db, tenant: TenantId) -> Result<bool, StoreError> {
    if log_key(db, tenant)?.is_none() {
        set_log_key(db, tenant, &SigningKey::generate(&mut crate::rng()))?;
    }
    let size = log_size(db, tenant)?;
    let missing = db.rows(
        "SELECT seq, at, computer, revoked, event FROM events WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
        &[(&tenant).into(), size.into(), AT_ONCE.into()],
        |row| {
            let seq: u64 = row.next()?;
            let (received, computer): (u64, Option<ComputerId>) = (row.next()?, row.next()?);
            Ok((seq, Entry { received, computer, revoked: row.next()?, event: row.next()? }))
        },
    )?;
    for (seq, entry) in &missing {
        add(db, tenant, *seq, entry)?;
    }
    Ok(missing.len() as u64 == AT_ONCE)
}

/// What a tenant's heads are signed with.
pub(crate) fn log_key(db: &mut dyn Db, tenant: TenantId) -> Result<Option<SigningKey>, StoreError> {
    let seed =
        db.row("SELECT log_key FROM tenants WHERE id = ?1", &[(&tenant).into()], |row| row.next::<Option<[u8; 32]>>())?;
    Ok(seed.flatten().map(|seed| SigningKey::from_seed(&Zeroizing::new(seed))))
}

pub(crate) fn set_log_key(db: &mut dyn Db, tenant: TenantId, key: &SigningKey) -> Result<(), StoreError> {
    let seed = key.seed();
    db.execute("UPDATE tenants SET log_key = ?2 WHERE id = ?1", &[(&tenant).into(), Value::Bytes(&seed[..])])?;
    Ok(())
}
