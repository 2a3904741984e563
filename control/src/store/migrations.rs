//! The schema's history. A step is carried out whole, in one transaction that also writes down that it was, so that what was
//! interrupted starts again from where it was. Steps are never changed once they were delivered, only added.

use super::StoreError;

/// A step.
pub(crate) struct Migration {
    /// For both databases, in SQLite's words.
    pub(crate) both: &'static str,
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

/// All of them.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        both: include_str!("migrations/1.sql"),
        sqlite: include_str!("migrations/1.sqlite.sql"),
        postgres: include_str!("migrations/1.postgres.sql"),
    },
    Migration { both: include_str!("migrations/2.sql"), sqlite: "", postgres: "" },
    Migration {
        both: include_str!("migrations/3.sql"),
        sqlite: include_str!("migrations/3.sqlite.sql"),
        postgres: include_str!("migrations/3.postgres.sql"),
    },
    Migration { both: include_str!("migrations/4.sql"), sqlite: "", postgres: "" },
    Migration { both: include_str!("migrations/5.sql"), sqlite: "", postgres: "" },
    Migration { both: include_str!("migrations/8.sql"), sqlite: "", postgres: "" },
    Migration { both: include_str!("migrations/7.sql"), sqlite: "", postgres: "" },
];

/// What Postgres calls the same things.
const IN_POSTGRES: &[(&str, &str)] =
    &[(" STRICT, WITHOUT ROWID", ""), (" STRICT", ""), (" BLOB", " BYTEA"), (" INTEGER", " BIGINT")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Migration {
    /// What is carried out.
    pub(crate) fn text(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Sqlite => format!("{}\n{}", self.both, self.sqlite),
            Dialect::Postgres => {
                let words = IN_POSTGRES.iter();
                let both = words.fold(self.both.to_owned(), |text, (sqlite, postgres)| text.replace(sqlite, postgres));
                format!("{both}\n{}", self.postgres)
            }
        }
    }
}

/// The steps that a database lacks which has had `done` of them, with their indexes.
pub(super) fn missing(
    known: &[Migration],
    done: usize,
    database: impl FnOnce() -> String,
) -> Result<impl Iterator<Item = (usize, &Migration)>, StoreError> {
    if done > known.len() {
        return Err(StoreError::TooNew { database: database(), found: done, known: known.len() });
    }
    Ok(known.iter().enumerate().skip(done))
}
