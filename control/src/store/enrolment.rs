//! Tickets and what was enrolled with them: phones, first waiting and then approved, and computers.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TechnicianId, TenantId};

use super::StoreError;
use crate::api::{Computer, PendingDevice, Ticket};
use crate::problem::Refusal;

/// A ticket whose signature was checked.
pub(crate) struct NewTicket<'a> {
    pub(crate) serial: Serial,
    pub(crate) purpose: &'a str,
    pub(crate) tags: &'a [String],
    pub(crate) uses: u32,
    pub(crate) not_after: u64,
    pub(crate) statement: &'a [u8],
}

/// A phone's request whose signature was checked.
pub(crate) struct NewDeviceRequest<'a> {
    pub(crate) request: Serial,
    pub(crate) ticket: Serial,
    pub(crate) name: &'a str,
    pub(crate) enrol: &'a [u8],
}

/// A device certificate that was checked.
pub(crate) struct ApprovedDevice<'a> {
    pub(crate) device: DeviceId,
    pub(crate) serial: Serial,
    pub(crate) technician: TechnicianId,
    pub(crate) certificate: &'a [u8],
    pub(crate) not_after: u64,
}

/// A computer's certificate that was checked.
pub(crate) struct NewComputer<'a> {
    pub(crate) id: ComputerId,
    pub(crate) ticket: Serial,
    pub(crate) name: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) os: &'a str,
    pub(crate) tags: &'a [String],
    pub(crate) certificate: &'a [u8],
    pub(crate) not_after: u64,
}

/// An approved device as its row says it.
pub(crate) struct DeviceRow {
    pub(crate) device: DeviceId,
    pub(crate) serial: Serial,
    pub(crate) name: String,
    pub(crate) technician_id: TechnicianId,
    pub(crate) technician: String,
    pub(crate) approved: u64,
    pub(crate) not_after: u64,
}

/// A phone's request: where it stands.
pub(crate) struct DeviceRequest {
    pub(crate) tenant: TenantId,
    pub(crate) enrol: Vec<u8>,
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Adds a ticket; false where it is there already.
pub(crate) fn insert_ticket(
    tx: &Transaction<'_>,
    tenant: TenantId,
    ticket: &NewTicket<'_>,
    now: u64,
) -> Result<bool, StoreError> {
    let added = tx.execute(
        "INSERT INTO tickets (tenant, serial, purpose, tags, uses, not_after, statement, added)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![
            tenant.as_bytes(),
            ticket.serial.as_bytes(),
            ticket.purpose,
            ticket.tags.join("\n"),
            ticket.uses,
            ticket.not_after,
            ticket.statement,
            now
        ],
    )?;
    Ok(added > 0)
}

/// Counts one use, if there is one left.
pub(crate) fn use_ticket(tx: &Transaction<'_>, tenant: TenantId, serial: Serial, uses: u32) -> Result<(), Refusal> {
    let counted = tx.execute(
        "UPDATE tickets SET used = used + 1 WHERE tenant = ?1 AND serial = ?2 AND used < uses",
        params![tenant.as_bytes(), serial.as_bytes()],
    )?;
    if counted == 0 { Err(Refusal::TicketUsedUp { uses }) } else { Ok(()) }
}

pub(crate) fn tickets(db: &Connection, tenant: TenantId) -> Result<Vec<Ticket>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT serial, purpose, tags, uses, used, not_after FROM tickets WHERE tenant = ?1 ORDER BY added DESC, serial",
    )?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(Ticket {
            serial: Serial(row.get(0)?),
            purpose: row.get(1)?,
            tags: split(&row.get::<_, String>(2)?),
            uses: row.get(3)?,
            used: row.get(4)?,
            not_after: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The request that these very bytes made before, if they did: a phone that never saw our answer asks again.
pub(crate) fn known_request(db: &Connection, tenant: TenantId, enrol: &[u8]) -> Result<Option<Serial>, StoreError> {
    let mut query = db.prepare_cached("SELECT request FROM devices WHERE tenant = ?1 AND enrol = ?2")?;
    Ok(query.query_row(params![tenant.as_bytes(), enrol], |row| row.get(0).map(Serial)).optional()?)
}

pub(crate) fn insert_request(
    tx: &Transaction<'_>,
    tenant: TenantId,
    request: &NewDeviceRequest<'_>,
    now: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO devices (request, tenant, ticket, name, enrol, asked) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            request.request.as_bytes(),
            tenant.as_bytes(),
            request.ticket.as_bytes(),
            request.name,
            request.enrol,
            now
        ],
    )?;
    Ok(())
}

pub(crate) fn request(db: &Connection, request: Serial) -> Result<Option<DeviceRequest>, StoreError> {
    let mut query = db.prepare_cached("SELECT tenant, enrol, certificate FROM devices WHERE request = ?1")?;
    let found = query.query_row([request.as_bytes()], |row| {
        Ok(DeviceRequest { tenant: TenantId(row.get(0)?), enrol: row.get(1)?, certificate: row.get(2)? })
    });
    Ok(found.optional()?)
}

pub(crate) fn pending(db: &Connection, tenant: TenantId) -> Result<Vec<PendingDevice>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT d.request, d.name, d.asked, t.statement, d.enrol
         FROM devices d JOIN tickets t ON t.tenant = d.tenant AND t.serial = d.ticket
         WHERE d.tenant = ?1 AND d.certificate IS NULL ORDER BY d.asked, d.request",
    )?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(PendingDevice {
            request: Serial(row.get(0)?),
            name: row.get(1)?,
            asked: row.get(2)?,
            ticket: row.get::<_, Vec<u8>>(3)?.into(),
            enrol: row.get::<_, Vec<u8>>(4)?.into(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets a phone that waits.
pub(crate) fn remove_request(tx: &Transaction<'_>, tenant: TenantId, request: Serial) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM devices WHERE tenant = ?1 AND request = ?2 AND certificate IS NULL",
        params![tenant.as_bytes(), request.as_bytes()],
    )?;
    Ok(())
}

/// Turns a waiting phone into a device; false where it no longer waits.
pub(crate) fn approve(
    tx: &Transaction<'_>,
    tenant: TenantId,
    request: Serial,
    approved: &ApprovedDevice<'_>,
    now: u64,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE devices SET device = ?3, serial = ?4, technician = ?5, certificate = ?6, not_after = ?7, approved = ?8
         WHERE tenant = ?1 AND request = ?2 AND certificate IS NULL",
        params![
            tenant.as_bytes(),
            request.as_bytes(),
            approved.device.as_bytes(),
            approved.serial.as_bytes(),
            approved.technician.as_bytes(),
            approved.certificate,
            approved.not_after,
            now
        ],
    )?;
    Ok(changed > 0)
}

pub(crate) fn devices(db: &Connection, tenant: TenantId) -> Result<Vec<DeviceRow>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT d.device, d.serial, d.name, d.technician, t.name, d.approved, d.not_after
         FROM devices d JOIN technicians t ON t.tenant = d.tenant AND t.id = d.technician
         WHERE d.tenant = ?1 AND d.certificate IS NOT NULL ORDER BY t.name, d.name, d.device",
    )?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(DeviceRow {
            device: DeviceId(row.get(0)?),
            serial: Serial(row.get(1)?),
            name: row.get(2)?,
            technician_id: TechnicianId(row.get(3)?),
            technician: row.get(4)?,
            approved: row.get(5)?,
            not_after: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The certificate under which a computer is enrolled, if it is.
pub(crate) fn computer_certificate(
    db: &Connection,
    tenant: TenantId,
    id: ComputerId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut query = db.prepare_cached("SELECT certificate FROM computers WHERE tenant = ?1 AND id = ?2")?;
    Ok(query.query_row(params![tenant.as_bytes(), id.as_bytes()], |row| row.get(0)).optional()?)
}

pub(crate) fn insert_computer(
    tx: &Transaction<'_>,
    tenant: TenantId,
    computer: &NewComputer<'_>,
    now: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO computers (tenant, id, ticket, name, domain, os, tags, certificate, not_after, enrolled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            tenant.as_bytes(),
            computer.id.as_bytes(),
            computer.ticket.as_bytes(),
            computer.name,
            computer.domain,
            computer.os,
            computer.tags.join("\n"),
            computer.certificate,
            computer.not_after,
            now
        ],
    )?;
    Ok(())
}

/// Notes that a computer's agent was heard.
pub(crate) fn heard(tx: &Transaction<'_>, tenant: TenantId, id: ComputerId, now: u64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE computers SET last_event = ?3 WHERE tenant = ?1 AND id = ?2",
        params![tenant.as_bytes(), id.as_bytes(), now],
    )?;
    Ok(())
}

pub(crate) fn computers(db: &Connection, tenant: TenantId) -> Result<Vec<Computer>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT id, name, domain, os, tags, enrolled, not_after, last_event FROM computers WHERE tenant = ?1 ORDER BY name, id",
    )?;
    let rows = query.query_map([tenant.as_bytes()], |row| {
        Ok(Computer {
            id: ComputerId(row.get(0)?),
            name: row.get(1)?,
            domain: row.get(2)?,
            os: row.get(3)?,
            tags: split(&row.get::<_, String>(4)?),
            enrolled: row.get(5)?,
            not_after: row.get(6)?,
            last_event: row.get(7)?,
            revoked: false,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many technicians, devices, waiting phones, computers and events there are.
pub(crate) fn counts(db: &Connection, tenant: TenantId) -> Result<[u64; 5], StoreError> {
    let mut query = db.prepare_cached(
        "SELECT (SELECT COUNT(*) FROM technicians WHERE tenant = ?1),
                (SELECT COUNT(*) FROM devices WHERE tenant = ?1 AND certificate IS NOT NULL),
                (SELECT COUNT(*) FROM devices WHERE tenant = ?1 AND certificate IS NULL),
                (SELECT COUNT(*) FROM computers WHERE tenant = ?1),
                (SELECT COALESCE(MAX(seq), 0) FROM events WHERE tenant = ?1)",
    )?;
    let row = query
        .query_row([tenant.as_bytes()], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]));
    Ok(row?)
}

/// Tags are kept one a line: none has a line break in it.
fn split(tags: &str) -> Vec<String> {
    tags.lines().map(str::to_owned).collect()
}
