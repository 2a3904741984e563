//! Enrolment slots: who opened one when, and the messages in it.

use gatepass_protocol::ids::{Serial, TenantId};
use gatepass_protocol::slot::{DAY, OPEN_FOR};

use super::{Db, StoreError};
use crate::api::Slot;

/// Where a slot stands.
pub(crate) struct SlotRow {
    pub(crate) tenant: TenantId,
    pub(crate) opened: u64,
    pub(crate) closed: bool,
}

/// When a tenant's slots of the last day were opened; those before are forgotten.
pub(crate) fn slots_of_the_day(db: &mut dyn Db, tenant: TenantId, now: u64) -> Result<Vec<u64>, StoreError> {
    let before = now.saturating_sub(DAY);
    let old = [(&tenant).into(), before.into()];
    db.execute(
        "DELETE FROM slot_messages WHERE slot IN (SELECT id FROM slots WHERE tenant = ?1 AND opened <= ?2)",
        &old,
    )?;
    db.execute("DELETE FROM slots WHERE tenant = ?1 AND opened <= ?2", &old)?;
    db.rows("SELECT opened FROM slots WHERE tenant = ?1", &[(&tenant).into()], |row| row.next())
}

pub(crate) fn insert_slot(
    db: &mut dyn Db,
    tenant: TenantId,
    id: Serial,
    name: &str,
    now: u64,
) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO slots (id, tenant, name, opened) VALUES (?1, ?2, ?3, ?4)",
        &[(&id).into(), (&tenant).into(), name.into(), now.into()],
    )?;
    Ok(())
}

pub(crate) fn slot(db: &mut dyn Db, id: Serial) -> Result<Option<SlotRow>, StoreError> {
    db.row("SELECT tenant, opened, closed FROM slots WHERE id = ?1", &[(&id).into()], |row| {
        Ok(SlotRow { tenant: row.next()?, opened: row.next()?, closed: row.next::<u64>()? > 0 })
    })
}

/// The open slots of a tenant in which nobody has answered yet.
pub(crate) fn waiting_slots(
    db: &mut dyn Db,
    tenant: TenantId,
    after: &[u8],
    limit: u64,
    now: u64,
) -> Result<Vec<Slot>, StoreError> {
    db.rows(
        "SELECT s.id, s.name, s.opened FROM slots s
         WHERE s.tenant = ?1 AND s.id > ?2 AND s.closed = 0 AND s.opened > ?4
           AND NOT EXISTS (SELECT m.number FROM slot_messages m WHERE m.slot = s.id AND m.number > 1)
         ORDER BY s.id LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into(), now.saturating_sub(OPEN_FOR).into()],
        |row| Ok(Slot { id: row.next()?, name: row.next()?, opened: row.next()? }),
    )
}

/// Closes a slot, and forgets what was said in it.
pub(crate) fn close_slot(db: &mut dyn Db, id: Serial) -> Result<(), StoreError> {
    db.execute("UPDATE slots SET closed = 1 WHERE id = ?1", &[(&id).into()])?;
    db.execute("DELETE FROM slot_messages WHERE slot = ?1", &[(&id).into()])?;
    Ok(())
}

pub(crate) fn slot_message(db: &mut dyn Db, id: Serial, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let values = [(&id).into(), number.into()];
    db.row("SELECT message FROM slot_messages WHERE slot = ?1 AND number = ?2", &values, |row| row.next())
}

pub(crate) fn insert_slot_message(db: &mut dyn Db, id: Serial, number: u64, message: &[u8]) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO slot_messages (slot, number, message) VALUES (?1, ?2, ?3)",
        &[(&id).into(), number.into(), message.into()],
    )?;
    Ok(())
}
