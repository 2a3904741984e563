//! Tokens: of each its hash, whose it is and how long it holds.

use gatepass_protocol::ids::{Serial, TechnicianId, TenantId};

use super::sql::Row;
use super::{Db, StoreError, Value};
use crate::access::{Caller, Role};
use crate::api::Token;

/// A token that somebody showed.
pub(crate) struct Known {
    pub(crate) caller: Caller,
    pub(crate) expires: Option<u64>,
}

fn role(row: &mut Row) -> Result<Role, StoreError> {
    row.next::<String>()?.parse().map_err(|_| StoreError::Damaged("a token has a role that is not known"))
}

/// The hash of 256 random bits is looked up as it is: nobody can guess their way to it by how long that takes.
pub(crate) fn token(db: &mut dyn Db, hash: &[u8; 32]) -> Result<Option<Known>, StoreError> {
    db.row("SELECT role, tenant, technician, id, expires FROM tokens WHERE hash = ?1", &[hash.into()], |row| {
        let caller = Caller { role: role(row)?, tenant: row.next()?, technician: row.next()?, token: row.next()? };
        Ok(Known { caller, expires: row.next()? })
    })
}

pub(crate) fn insert_token(
    db: &mut dyn Db,
    owner: Option<TenantId>,
    token: &Token,
    hash: &[u8; 32],
) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO tokens (hash, tenant, created, id, name, role, technician, expires)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            hash.into(),
            owner.as_ref().into(),
            token.created.into(),
            (&token.id).into(),
            (&token.name).into(),
            token.role.name().into(),
            token.technician.as_ref().into(),
            token.expires.into(),
        ],
    )?;
    Ok(())
}

/// Those of a tenant, or the operator's.
pub(crate) fn tokens(
    db: &mut dyn Db,
    owner: Option<TenantId>,
    after: &[u8],
    limit: u64,
) -> Result<Vec<Token>, StoreError> {
    db.rows(
        "SELECT id, name, role, technician, created, expires FROM tokens
         WHERE tenant IS NOT DISTINCT FROM ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        &[owner.as_ref().into(), after.into(), limit.into()],
        |row| {
            Ok(Token {
                id: row.next()?,
                name: row.next()?,
                role: role(row)?,
                technician: row.next()?,
                created: row.next()?,
                expires: row.next()?,
            })
        },
    )
}

/// Makes a token worthless; false where there is none.
pub(crate) fn remove_token(db: &mut dyn Db, owner: Option<TenantId>, id: Serial) -> Result<bool, StoreError> {
    let values = [owner.as_ref().into(), (&id).into()];
    Ok(db.execute("DELETE FROM tokens WHERE tenant IS NOT DISTINCT FROM ?1 AND id = ?2", &values)? > 0)
}

/// Makes all tokens of a technician worthless.
pub(crate) fn remove_tokens_of(db: &mut dyn Db, tenant: TenantId, one: TechnicianId) -> Result<u64, StoreError> {
    db.execute("DELETE FROM tokens WHERE tenant = ?1 AND technician = ?2", &[(&tenant).into(), (&one).into()])
}

/// Whether the operator has a token, who could make others.
pub(crate) fn has_operator(db: &mut dyn Db) -> Result<bool, StoreError> {
    let found =
        db.row("SELECT COUNT(*) FROM tokens WHERE role = ?1", &[Value::Text(Role::Operator.name())], |row| {
            row.next::<u64>()
        })?;
    Ok(found.is_some_and(|count| count > 0))
}
