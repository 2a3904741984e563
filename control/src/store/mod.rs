//! The database: one SQLite file, or Postgres. [`Store`] is what both are; the queries are beside it, one file a subject, in the
//! one SQL of [`sql`], and the tests in `conformance.rs` are what both have to hold.
//!
//! Every call here blocks on the disk or the network, so the HTTP side only makes them inside `spawn_blocking`. A write is one
//! transaction from its first check to its last row: a ticket can't be used twice by two computers that arrive together.

mod answers;
mod copy;
mod enrolment;
mod events;
mod forwarded;
mod log;
mod migrations;
mod people;
mod postgres;
mod postgres_tls;
mod sign_ins;
mod slots;
mod sql;
mod sqlite;
mod statements;
mod tenants;
mod tokens;

use std::path::{Path, PathBuf};

use gatepass_protocol::ids::TenantId;

pub(crate) use answers::*;
pub(crate) use copy::{back_up, restore};
pub(crate) use enrolment::*;
pub(crate) use events::{Actor, Filter, append, page};
pub(crate) use forwarded::{behind, sent};
pub(crate) use log::{Facts, Tree, catch_up_logs, log_key, log_size, set_log_key};
pub(crate) use people::*;
pub use postgres::Reason;
pub(crate) use sign_ins::*;
pub(crate) use slots::*;
pub(crate) use sql::{Db, Value};
pub(crate) use statements::{insert as insert_statement, newest, newest_epoch};
pub(crate) use tenants::*;
pub(crate) use tokens::*;

use migrations::{MIGRATIONS, Migration};
use postgres::Postgres;
use postgres_tls::MakeTls;
use sqlite::Sqlite;

/// Why the database didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Make room, then repeat: nothing was written.
    #[error("the disk of the control plane is full; nothing was written. Make room and try again")]
    DiskFull,
    /// Others are in the way; repeat later.
    #[error("the database is in use by others; nothing was written, try again")]
    Busy,
    /// It can't be reached: repeat once it can.
    #[error("the database can't be reached ({0}); nothing was written, try again")]
    Gone(Reason),
    /// It went away at the very end: look before repeating.
    #[error("the database went away while this was being kept, so it may be kept or not; look before you repeat it")]
    Unsure,
    /// Start the newer program again.
    #[error(
        "{database} was written by a newer Gatepass (schema {found}, this program knows {known}); start the newer program"
    )]
    TooNew {
        /// The database.
        database: String,
        /// The schema in it.
        found: usize,
        /// The newest schema that this program knows.
        known: usize,
    },
    /// The file can't be made or opened.
    #[error("can't open the database {path}: {source}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Write the settings of Postgres differently.
    #[error("the settings for Postgres can't be used: {0}")]
    Settings(String),
    /// Restore into a database that has nothing in it, or back up into a file that isn't there.
    #[error("{0} has something in it already, and is not written over")]
    NotEmpty(String),
    /// Something in it is not as it was written.
    #[error("the database is damaged: {0}")]
    Damaged(&'static str),
    /// Anything else: a damaged file, a broken promise of the schema.
    #[error("the database failed: {0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Where a control plane keeps what it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file: for one node.
    File(PathBuf),
    /// A Postgres database: for several.
    Postgres {
        /// `host=db.example user=gatepass dbname=gatepass sslmode=require`, or `postgresql://..`; without the password.
        connection: String,
        /// The file with the password, where one is needed.
        password_file: Option<PathBuf>,
        /// The file with the certificates (PEM) to believe for the server.
        ca_file: Option<PathBuf>,
    },
}

/// What writes wait for each other about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Who is here at all.
    Operator,
    /// Anything of one tenant.
    Tenant(TenantId),
}

/// How long one question may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Somebody waits for the answer.
    Short,
    /// All there is is read or written.
    Endless,
}

/// A database, ready to be asked.
pub(crate) struct Store(Kind);

enum Kind {
    Sqlite(Box<Sqlite>),
    Postgres(Box<Postgres>),
}

impl Store {
    /// Opens a database and brings its schema up to date.
    pub(crate) fn open(database: &Database) -> Result<Store, StoreError> {
        Store::open_with(database, MIGRATIONS, Patience::Short)
    }

    /// The same for a backup, which takes as long as it takes.
    pub(crate) fn open_for_copying(database: &Database) -> Result<Store, StoreError> {
        Store::open_with(database, MIGRATIONS, Patience::Endless)
    }

    fn open_with(database: &Database, known: &[Migration], patience: Patience) -> Result<Store, StoreError> {
        let kind = match database {
            Database::File(path) => Kind::Sqlite(Box::new(Sqlite::open(path, known)?)),
            Database::Postgres { connection, password_file, ca_file } => {
                let settings = |error: &dyn std::fmt::Display| StoreError::Settings(error.to_string());
                let mut config: ::postgres::Config =
                    connection.parse().map_err(|error: ::postgres::Error| settings(&error))?;
                if config.get_password().is_some() {
                    return Err(settings(&"a password in the configuration is no secret: use postgres_password_file"));
                }
                if let Some(file) = password_file {
                    config.password(read(file)?.trim_end_matches(['\r', '\n']));
                }
                let roots = ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
                let tls = MakeTls::only(&roots).map_err(|error| settings(&error))?;
                Kind::Postgres(Box::new(Postgres::open(config, tls, known, patience)?))
            }
        };
        Ok(Store(kind))
    }

    /// Reads: sees one committed state and never waits for a writer.
    pub(crate) fn read<T, E: From<StoreError>>(&self, work: impl FnOnce(&mut dyn Db) -> Result<T, E>) -> Result<T, E> {
        match &self.0 {
            Kind::Sqlite(sqlite) => sqlite.read(work),
            Kind::Postgres(postgres) => postgres.read(work),
        }
    }

    /// Writes: all of `work` or nothing of it.
    pub(crate) fn write<T, E: From<StoreError>>(
        &self,
        scope: Scope,
        work: impl FnOnce(&mut dyn Db) -> Result<T, E>,
    ) -> Result<T, E> {
        match &self.0 {
            Kind::Sqlite(sqlite) => sqlite.write(work),
            Kind::Postgres(postgres) => postgres.write(scope, work),
        }
    }

    /// Whether other nodes may write to the same database.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0, Kind::Postgres(_))
    }

    /// Lets the file grow by `spare` more pages and no further: a full disk, on order.
    #[cfg(test)]
    pub(crate) fn fill_disk(&self, spare: i64) {
        match &self.0 {
            Kind::Sqlite(sqlite) => sqlite.fill_disk(spare),
            Kind::Postgres(_) => panic!("whose disk is the server's"),
        }
    }
}

fn read(path: &Path) -> Result<String, StoreError> {
    std::fs::read_to_string(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

#[cfg(test)]
pub(crate) mod cluster;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod measure;
