//! How technicians sign in: what their passwords are checked against, and what was tried.

use gatepass_protocol::ids::{TechnicianId, TenantId};

use super::{Db, StoreError};

/// What a sign-in is checked against.
pub(crate) struct SignIn {
    pub(crate) salt: [u8; 16],
    pub(crate) hash: [u8; 32],
    /// The secret of the one-time codes.
    pub(crate) totp: [u8; 20],
    /// The newest time step whose code was used.
    pub(crate) used_step: u64,
    /// Wrong ones since the last good one.
    pub(crate) failures: u64,
    pub(crate) locked_until: u64,
}

pub(crate) fn sign_in(db: &mut dyn Db, tenant: TenantId, who: TechnicianId) -> Result<Option<SignIn>, StoreError> {
    db.row(
        "SELECT salt, hash, totp, used_step, failures, locked_until FROM sign_ins WHERE tenant = ?1 AND technician = ?2",
        &[(&tenant).into(), (&who).into()],
        |row| {
            Ok(SignIn {
                salt: row.next()?,
                hash: row.next()?,
                totp: row.next()?,
                used_step: row.next()?,
                failures: row.next()?,
                locked_until: row.next()?,
            })
        },
    )
}

/// Puts it in the place of the one before.
pub(crate) fn set_sign_in(
    db: &mut dyn Db,
    tenant: TenantId,
    who: TechnicianId,
    sign_in: &SignIn,
) -> Result<(), StoreError> {
    remove_sign_in(db, tenant, who)?;
    db.execute(
        "INSERT INTO sign_ins (tenant, technician, salt, hash, totp, used_step, failures, locked_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            (&tenant).into(),
            (&who).into(),
            (&sign_in.salt).into(),
            (&sign_in.hash).into(),
            (&sign_in.totp).into(),
            sign_in.used_step.into(),
            sign_in.failures.into(),
            sign_in.locked_until.into(),
        ],
    )?;
    Ok(())
}

pub(crate) fn remove_sign_in(db: &mut dyn Db, tenant: TenantId, who: TechnicianId) -> Result<(), StoreError> {
    db.execute("DELETE FROM sign_ins WHERE tenant = ?1 AND technician = ?2", &[(&tenant).into(), (&who).into()])?;
    Ok(())
}

/// The technician of that name.
pub(crate) fn technician_named(
    db: &mut dyn Db,
    tenant: TenantId,
    name: &str,
) -> Result<Option<TechnicianId>, StoreError> {
    let values = [(&tenant).into(), name.into()];
    db.row("SELECT id FROM technicians WHERE tenant = ?1 AND name = ?2", &values, |row| row.next())
}
