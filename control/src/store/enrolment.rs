//! Tickets and what was enrolled with them: phones, first waiting and then approved, and computers.

use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TechnicianId, TenantId};

use super::{Db, StoreError};
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

/// Who looks at computers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SeenBy {
    /// Somebody who sees all of them.
    Everybody,
    /// Somebody who sees those that are shared with all users, or with this technician.
    Technician(Option<TechnicianId>),
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
    db: &mut dyn Db,
    tenant: TenantId,
    ticket: &NewTicket<'_>,
    now: u64,
) -> Result<bool, StoreError> {
    let tags = ticket.tags.join("\n");
    let added = db.execute(
        "INSERT INTO tickets (tenant, serial, purpose, tags, uses, not_after, statement, added)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        &[
            (&tenant).into(),
            (&ticket.serial).into(),
            ticket.purpose.into(),
            (&tags).into(),
            ticket.uses.into(),
            ticket.not_after.into(),
            ticket.statement.into(),
            now.into(),
        ],
    )?;
    Ok(added > 0)
}

/// Counts one use, if there is one left.
pub(crate) fn use_ticket(db: &mut dyn Db, tenant: TenantId, serial: Serial, uses: u32) -> Result<(), Refusal> {
    let counted = db.execute(
        "UPDATE tickets SET used = used + 1 WHERE tenant = ?1 AND serial = ?2 AND used < uses",
        &[(&tenant).into(), (&serial).into()],
    )?;
    if counted == 0 { Err(Refusal::TicketUsedUp { uses }) } else { Ok(()) }
}

pub(crate) fn tickets(db: &mut dyn Db, tenant: TenantId, after: &[u8], limit: u64) -> Result<Vec<Ticket>, StoreError> {
    db.rows(
        "SELECT serial, purpose, tags, uses, used, not_after FROM tickets WHERE tenant = ?1 AND serial > ?2 ORDER BY serial LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into()],
        |row| {
            Ok(Ticket {
                serial: row.next()?,
                purpose: row.next()?,
                tags: split(&row.next::<String>()?),
                uses: row.next()?,
                used: row.next()?,
                not_after: row.next()?,
            })
        },
    )
}

/// The request that these very bytes made before, if they did: a phone that never saw our answer asks again.
pub(crate) fn known_request(db: &mut dyn Db, tenant: TenantId, enrol: &[u8]) -> Result<Option<Serial>, StoreError> {
    let values = [(&tenant).into(), enrol.into()];
    db.row("SELECT request FROM devices WHERE tenant = ?1 AND enrol = ?2", &values, |row| row.next())
}

pub(crate) fn insert_request(
    db: &mut dyn Db,
    tenant: TenantId,
    request: &NewDeviceRequest<'_>,
    now: u64,
) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO devices (request, tenant, ticket, name, enrol, asked) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[
            (&request.request).into(),
            (&tenant).into(),
            (&request.ticket).into(),
            request.name.into(),
            request.enrol.into(),
            now.into(),
        ],
    )?;
    Ok(())
}

pub(crate) fn request(db: &mut dyn Db, request: Serial) -> Result<Option<DeviceRequest>, StoreError> {
    db.row("SELECT tenant, enrol, certificate FROM devices WHERE request = ?1", &[(&request).into()], |row| {
        Ok(DeviceRequest { tenant: row.next()?, enrol: row.next()?, certificate: row.next()? })
    })
}

pub(crate) fn pending(
    db: &mut dyn Db,
    tenant: TenantId,
    after: &[u8],
    limit: u64,
) -> Result<Vec<PendingDevice>, StoreError> {
    db.rows(
        "SELECT d.request, d.name, d.asked, t.statement, d.enrol
         FROM devices d JOIN tickets t ON t.tenant = d.tenant AND t.serial = d.ticket
         WHERE d.tenant = ?1 AND d.certificate IS NULL AND d.request > ?2 ORDER BY d.request LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into()],
        |row| {
            Ok(PendingDevice {
                request: row.next()?,
                name: row.next()?,
                asked: row.next()?,
                ticket: row.next::<Vec<u8>>()?.into(),
                enrol: row.next::<Vec<u8>>()?.into(),
            })
        },
    )
}

/// A phone that waits.
pub(crate) fn pending_one(db: &mut dyn Db, tenant: TenantId, id: Serial) -> Result<Option<PendingDevice>, StoreError> {
    let waits = request(db, id)?.is_some_and(|asked| asked.tenant == tenant && asked.certificate.is_none());
    // The first one from there on is the one.
    let before = (u128::from_be_bytes(id.0).saturating_sub(1)).to_be_bytes();
    let found = pending(db, tenant, &before, 1)?.pop();
    Ok(found.filter(|pending| waits && pending.request == id))
}

/// Forgets a phone that waits.
pub(crate) fn remove_request(db: &mut dyn Db, tenant: TenantId, request: Serial) -> Result<(), StoreError> {
    db.execute(
        "DELETE FROM devices WHERE tenant = ?1 AND request = ?2 AND certificate IS NULL",
        &[(&tenant).into(), (&request).into()],
    )?;
    Ok(())
}

/// Turns a waiting phone into a device; false where it no longer waits.
pub(crate) fn approve(
    db: &mut dyn Db,
    tenant: TenantId,
    request: Serial,
    approved: &ApprovedDevice<'_>,
    now: u64,
) -> Result<bool, StoreError> {
    let changed = db.execute(
        "UPDATE devices SET device = ?3, serial = ?4, technician = ?5, certificate = ?6, not_after = ?7, approved = ?8
         WHERE tenant = ?1 AND request = ?2 AND certificate IS NULL",
        &[
            (&tenant).into(),
            (&request).into(),
            (&approved.device).into(),
            (&approved.serial).into(),
            (&approved.technician).into(),
            approved.certificate.into(),
            approved.not_after.into(),
            now.into(),
        ],
    )?;
    Ok(changed > 0)
}

pub(crate) fn devices(
    db: &mut dyn Db,
    tenant: TenantId,
    after: &[u8],
    limit: u64,
) -> Result<Vec<DeviceRow>, StoreError> {
    db.rows(
        "SELECT d.device, d.serial, d.name, d.technician, t.name, d.approved, d.not_after
         FROM devices d JOIN technicians t ON t.tenant = d.tenant AND t.id = d.technician
         WHERE d.tenant = ?1 AND d.certificate IS NOT NULL AND d.device > ?2 ORDER BY d.device LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into()],
        |row| {
            Ok(DeviceRow {
                device: row.next()?,
                serial: row.next()?,
                name: row.next()?,
                technician_id: row.next()?,
                technician: row.next()?,
                approved: row.next()?,
                not_after: row.next()?,
            })
        },
    )
}

/// The certificate under which a computer is enrolled, if it is.
pub(crate) fn computer_certificate(
    db: &mut dyn Db,
    tenant: TenantId,
    id: ComputerId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let values = [(&tenant).into(), (&id).into()];
    db.row("SELECT certificate FROM computers WHERE tenant = ?1 AND id = ?2", &values, |row| row.next())
}

pub(crate) fn insert_computer(
    db: &mut dyn Db,
    tenant: TenantId,
    computer: &NewComputer<'_>,
    now: u64,
) -> Result<(), StoreError> {
    let tags = computer.tags.join("\n");
    db.execute(
        "INSERT INTO computers (tenant, id, ticket, name, domain, os, tags, certificate, not_after, enrolled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        &[
            (&tenant).into(),
            (&computer.id).into(),
            (&computer.ticket).into(),
            computer.name.into(),
            computer.domain.into(),
            computer.os.into(),
            (&tags).into(),
            computer.certificate.into(),
            computer.not_after.into(),
            now.into(),
        ],
    )?;
    Ok(())
}

/// Notes that a computer's agent was heard.
pub(crate) fn heard(
    db: &mut dyn Db,
    tenant: TenantId,
    id: ComputerId,
    version: Option<&str>,
    now: u64,
) -> Result<(), StoreError> {
    db.execute(
        "UPDATE computers SET last_event = ?3, agent_version = COALESCE(?4, agent_version) WHERE tenant = ?1 AND id = ?2",
        &[(&tenant).into(), (&id).into(), now.into(), version.into()],
    )?;
    Ok(())
}

/// The computers of a tenant, or those that are shared with somebody.
pub(crate) fn computers(
    db: &mut dyn Db,
    tenant: TenantId,
    seen_by: SeenBy,
    after: &[u8],
    limit: u64,
) -> Result<Vec<Computer>, StoreError> {
    let (all, technician) = match &seen_by {
        SeenBy::Everybody => (true, None),
        SeenBy::Technician(technician) => (false, technician.as_ref()),
    };
    db.rows(
        "SELECT c.id, c.name, c.domain, c.os, c.tags, c.enrolled, c.not_after, c.agent_version, c.last_event
         FROM computers c WHERE c.tenant = ?1 AND c.id > ?2 AND (CAST(?4 AS BIGINT) > 0 OR EXISTS (
             SELECT s.kind FROM shares s WHERE s.tenant = c.tenant AND s.computer = c.id AND (
                 s.kind = 'users' OR (s.kind = 'technician' AND s.subject = ?5)
                 OR (s.kind = 'group' AND s.subject IN (
                     SELECT m.id FROM group_members m WHERE m.tenant = c.tenant AND m.technician = ?5)))))
         ORDER BY c.id LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into(), all.into(), technician.into()],
        |row| {
            Ok(Computer {
                id: row.next()?,
                name: row.next()?,
                domain: row.next()?,
                os: row.next()?,
                tags: split(&row.next::<String>()?),
                enrolled: row.next()?,
                not_after: row.next()?,
                agent_version: row.next()?,
                last_event: row.next()?,
                revoked: false,
            })
        },
    )
}

/// One of them.
pub(crate) fn computer(
    db: &mut dyn Db,
    tenant: TenantId,
    seen_by: SeenBy,
    id: ComputerId,
) -> Result<Option<Computer>, StoreError> {
    // The first one from there on is the one.
    let before = (u128::from_be_bytes(id.0).saturating_sub(1)).to_be_bytes();
    Ok(computers(db, tenant, seen_by, &before, 1)?.pop().filter(|computer| computer.id == id))
}

/// How many technicians, devices, waiting phones, computers and events there are.
pub(crate) fn counts(db: &mut dyn Db, tenant: TenantId) -> Result<[u64; 5], StoreError> {
    let counts = db.row(
        "SELECT (SELECT COUNT(*) FROM technicians WHERE tenant = ?1),
                (SELECT COUNT(*) FROM devices WHERE tenant = ?1 AND certificate IS NOT NULL),
                (SELECT COUNT(*) FROM devices WHERE tenant = ?1 AND certificate IS NULL),
                (SELECT COUNT(*) FROM computers WHERE tenant = ?1),
                (SELECT COALESCE(MAX(seq), 0) FROM events WHERE tenant = ?1)",
        &[(&tenant).into()],
        |row| Ok([row.next()?, row.next()?, row.next()?, row.next()?, row.next()?]),
    )?;
    counts.ok_or(StoreError::Damaged("what was counted is missing"))
}

/// Tags are kept one a line: none has a line break in it.
fn split(tags: &str) -> Vec<String> {
    tags.lines().map(str::to_owned).collect()
}
