//! Technicians, groups of them, the operator's own people, and with whom a computer is shared.

use gatepass_protocol::ids::{ComputerId, Serial, TechnicianId, TenantId};

use super::{Db, StoreError, Value};
use crate::access::Role;
use crate::api::{Group, Person, Shares, Technician};
use crate::problem::Refusal;

const TECHNICIAN: &str = "SELECT id, name, email, role, delegated, added FROM technicians WHERE tenant = ?1";

fn read_technician(row: &mut super::sql::Row) -> Result<Technician, StoreError> {
    Ok(Technician {
        id: row.next()?,
        name: row.next()?,
        email: row.next()?,
        role: role(&row.next::<String>()?)?,
        delegated: row.next()?,
        added: row.next()?,
    })
}

fn role(name: &str) -> Result<Role, StoreError> {
    name.parse().map_err(|_| StoreError::Damaged("a technician has a role that is not known"))
}

pub(crate) fn insert_technician(db: &mut dyn Db, tenant: TenantId, technician: &Technician) -> Result<(), Refusal> {
    let added = db.execute(
        "INSERT INTO technicians (tenant, id, name, email, role, delegated, added)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        &[
            (&tenant).into(),
            (&technician.id).into(),
            (&technician.name).into(),
            (&technician.email).into(),
            technician.role.name().into(),
            technician.delegated.into(),
            technician.added.into(),
        ],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "technician", name: technician.name.clone() }) } else { Ok(()) }
}

pub(crate) fn technicians(
    db: &mut dyn Db,
    tenant: TenantId,
    after: &[u8],
    limit: u64,
) -> Result<Vec<Technician>, StoreError> {
    let values = [(&tenant).into(), after.into(), limit.into()];
    db.rows(&format!("{TECHNICIAN} AND id > ?2 ORDER BY id LIMIT ?3"), &values, read_technician)
}

pub(crate) fn technician(
    db: &mut dyn Db,
    tenant: TenantId,
    id: TechnicianId,
) -> Result<Option<Technician>, StoreError> {
    db.row(&format!("{TECHNICIAN} AND id = ?2"), &[(&tenant).into(), (&id).into()], read_technician)
}

/// Changes all of a technician but the name, which is part of account names.
pub(crate) fn update_technician(db: &mut dyn Db, tenant: TenantId, one: &Technician) -> Result<(), StoreError> {
    db.execute(
        "UPDATE technicians SET email = ?3, role = ?4 WHERE tenant = ?1 AND id = ?2",
        &[(&tenant).into(), (&one.id).into(), (&one.email).into(), one.role.name().into()],
    )?;
    Ok(())
}

pub(crate) fn insert_person(db: &mut dyn Db, person: &Person) -> Result<(), Refusal> {
    let added = db.execute(
        "INSERT INTO people (id, name, email, added) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        &[(&person.id).into(), (&person.name).into(), (&person.email).into(), person.added.into()],
    )?;
    if added == 0 { Err(Refusal::Exists { what: "person", name: person.name.clone() }) } else { Ok(()) }
}

pub(crate) fn people(db: &mut dyn Db, after: &[u8], limit: u64) -> Result<Vec<Person>, StoreError> {
    db.rows(
        "SELECT id, name, email, added FROM people WHERE id > ?1 ORDER BY id LIMIT ?2",
        &[after.into(), limit.into()],
        |row| Ok(Person { id: row.next()?, name: row.next()?, email: row.next()?, added: row.next()? }),
    )
}

pub(crate) fn person(db: &mut dyn Db, id: TechnicianId) -> Result<Option<Person>, StoreError> {
    db.row("SELECT name, email, added FROM people WHERE id = ?1", &[(&id).into()], |row| {
        Ok(Person { id, name: row.next()?, email: row.next()?, added: row.next()? })
    })
}

pub(crate) fn insert_group(db: &mut dyn Db, tenant: TenantId, group: &Group) -> Result<(), Refusal> {
    let added = db.execute(
        "INSERT INTO technician_groups (tenant, id, name) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        &[(&tenant).into(), (&group.id).into(), (&group.name).into()],
    )?;
    if added == 0 {
        return Err(Refusal::Exists { what: "group", name: group.name.clone() });
    }
    insert_members(db, tenant, group)
}

fn insert_members(db: &mut dyn Db, tenant: TenantId, group: &Group) -> Result<(), Refusal> {
    for one in &group.technicians {
        must_be_there(db, tenant, *one)?;
        db.execute(
            "INSERT INTO group_members (tenant, id, technician) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            &[(&tenant).into(), (&group.id).into(), one.into()],
        )?;
    }
    Ok(())
}

fn must_be_there(db: &mut dyn Db, tenant: TenantId, one: TechnicianId) -> Result<(), Refusal> {
    let found = technician(db, tenant, one)?;
    found.map(drop).ok_or_else(|| Refusal::Missing { what: "technician", name: one.to_string() })
}

pub(crate) fn groups(db: &mut dyn Db, tenant: TenantId, after: &[u8], limit: u64) -> Result<Vec<Group>, StoreError> {
    let mut groups = db.rows(
        "SELECT id, name FROM technician_groups WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        &[(&tenant).into(), after.into(), limit.into()],
        |row| Ok(Group { id: row.next()?, name: row.next()?, technicians: Vec::new() }),
    )?;
    for group in &mut groups {
        group.technicians = members(db, tenant, group.id)?;
    }
    Ok(groups)
}

fn members(db: &mut dyn Db, tenant: TenantId, id: Serial) -> Result<Vec<TechnicianId>, StoreError> {
    db.rows(
        "SELECT technician FROM group_members WHERE tenant = ?1 AND id = ?2 ORDER BY technician",
        &[(&tenant).into(), (&id).into()],
        |row| row.next(),
    )
}

pub(crate) fn group(db: &mut dyn Db, tenant: TenantId, id: Serial) -> Result<Option<Group>, StoreError> {
    let values = [(&tenant).into(), (&id).into()];
    let name = db.row("SELECT name FROM technician_groups WHERE tenant = ?1 AND id = ?2", &values, |row| row.next())?;
    let Some(name) = name else { return Ok(None) };
    Ok(Some(Group { id, name, technicians: members(db, tenant, id)? }))
}

/// Gives a group its name and its members anew.
pub(crate) fn update_group(db: &mut dyn Db, tenant: TenantId, group: &Group) -> Result<(), Refusal> {
    let same_name = db.row(
        "SELECT id FROM technician_groups WHERE tenant = ?1 AND name = ?2",
        &[(&tenant).into(), (&group.name).into()],
        |row| row.next::<Serial>(),
    )?;
    if same_name.is_some_and(|id| id != group.id) {
        return Err(Refusal::Exists { what: "group", name: group.name.clone() });
    }
    db.execute(
        "UPDATE technician_groups SET name = ?3 WHERE tenant = ?1 AND id = ?2",
        &[(&tenant).into(), (&group.id).into(), (&group.name).into()],
    )?;
    db.execute("DELETE FROM group_members WHERE tenant = ?1 AND id = ?2", &[(&tenant).into(), (&group.id).into()])?;
    insert_members(db, tenant, group)
}

/// Removes a group, and what was shared with it.
pub(crate) fn remove_group(db: &mut dyn Db, tenant: TenantId, id: Serial) -> Result<(), StoreError> {
    let values = [(&tenant).into(), (&id).into()];
    db.execute("DELETE FROM shares WHERE tenant = ?1 AND kind = 'group' AND subject = ?2", &values)?;
    db.execute("DELETE FROM technician_groups WHERE tenant = ?1 AND id = ?2", &values)?;
    Ok(())
}

pub(crate) fn shares(db: &mut dyn Db, tenant: TenantId, computer: ComputerId) -> Result<Shares, StoreError> {
    let rows = db.rows(
        "SELECT kind, subject FROM shares WHERE tenant = ?1 AND computer = ?2 ORDER BY kind, subject",
        &[(&tenant).into(), (&computer).into()],
        |row| Ok((row.next::<String>()?, row.next::<Vec<u8>>()?)),
    )?;
    let mut shares = Shares::default();
    for (kind, subject) in rows {
        let subject = || subject.try_into().map(Serial).map_err(|_| StoreError::Damaged("a share has no subject"));
        match kind.as_str() {
            "admins" => shares.all_admins = true,
            "users" => shares.all_users = true,
            "technician" => shares.technicians.push(TechnicianId(subject()?.0)),
            _ => shares.groups.push(subject()?),
        }
    }
    Ok(shares)
}

/// Shares a computer with these, and nobody else any more.
pub(crate) fn set_shares(
    db: &mut dyn Db,
    tenant: TenantId,
    computer: ComputerId,
    shares: &Shares,
) -> Result<(), Refusal> {
    db.execute("DELETE FROM shares WHERE tenant = ?1 AND computer = ?2", &[(&tenant).into(), (&computer).into()])?;
    for one in &shares.technicians {
        must_be_there(db, tenant, *one)?;
    }
    for one in &shares.groups {
        let missing = || Refusal::Missing { what: "group", name: one.to_string() };
        group(db, tenant, *one)?.ok_or_else(missing)?;
    }
    let all = [("admins", shares.all_admins), ("users", shares.all_users)];
    let everybody = all.into_iter().filter(|(_, shared)| *shared).map(|(kind, _)| (kind, &[][..]));
    let technicians = shares.technicians.iter().map(|one| ("technician", &one.0[..]));
    let groups = shares.groups.iter().map(|one| ("group", &one.0[..]));
    for (kind, subject) in everybody.chain(technicians).chain(groups) {
        db.execute(
            "INSERT INTO shares (tenant, computer, kind, subject) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            &[(&tenant).into(), (&computer).into(), kind.into(), Value::Bytes(subject)],
        )?;
    }
    Ok(())
}
