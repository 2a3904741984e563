//! What was answered before: a request that is repeated with its key is not carried out twice.

use super::{Db, StoreError};

/// A request that its sender may repeat.
#[derive(Debug, Clone)]
pub(crate) struct Repeatable {
    /// The hash of the token that was shown: keys of others mean nothing.
    pub(crate) caller: [u8; 32],
    /// What the sender calls it.
    pub(crate) key: String,
    /// The hash of all of it.
    pub(crate) request: [u8; 32],
}

/// For how many seconds an answer is kept.
const KEPT: u64 = 86_400;

/// What was asked with that key, as its hash, and answered.
pub(crate) fn answered(db: &mut dyn Db, one: &Repeatable) -> Result<Option<([u8; 32], String)>, StoreError> {
    db.row(
        "SELECT request, answer FROM answers WHERE caller = ?1 AND key = ?2",
        &[(&one.caller).into(), (&one.key).into()],
        |row| Ok((row.next()?, row.next()?)),
    )
}

/// Keeps an answer, and forgets those of yesterday.
pub(crate) fn keep_answer(db: &mut dyn Db, one: &Repeatable, answer: &str, now: u64) -> Result<(), StoreError> {
    db.execute("DELETE FROM answers WHERE at < ?1", &[now.saturating_sub(KEPT).into()])?;
    db.execute(
        "INSERT INTO answers (caller, key, request, answer, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[(&one.caller).into(), (&one.key).into(), (&one.request).into(), answer.into(), now.into()],
    )?;
    Ok(())
}
