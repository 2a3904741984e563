//! Postgres, for several nodes of the control plane at one database.
//!
//! Every write first takes the lock of what it is about ([`Scope`]): writes of one tenant come one after the other, as they do
//! in SQLite, so that a check and the row that follows from it belong together. Connections are made when they are needed and
//! kept; one that broke while it lay idle is replaced before anything is asked of it.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, IsolationLevel, Statement, Transaction};

use super::migrations::{Dialect, Migration};
use super::postgres_tls::MakeTls;
use super::sql::{Cell, Db, Row, Value};
use super::{Patience, Scope, StoreError, migrations};

/// To reach the server. Who asks waits for it.
const CONNECT: Duration = Duration::from_secs(5);

/// An answer means that the disk has it.
const DURABLE: &str = "-c synchronous_commit=on -c client_min_messages=warning";

/// For a lock, then for any one statement, then for a node that hangs with a transaction open.
const LIMITS: &str = "-c lock_timeout=5s -c statement_timeout=20s -c idle_in_transaction_session_timeout=30s";

/// Nobody else's lock has this number but by a chance of one in 2^64.
const OPERATOR_LOCK: i64 = 0;

pub(super) struct Postgres {
    config: Config,
    tls: MakeTls,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Postgres {
    /// Connects, and brings the schema up to date.
    pub(super) fn open(
        mut config: Config,
        tls: MakeTls,
        known: &[Migration],
        patience: Patience,
    ) -> Result<Postgres, StoreError> {
        let options = match patience {
            Patience::Short => format!("{DURABLE} {LIMITS}"),
            Patience::Endless => DURABLE.to_owned(),
        };
        config.connect_timeout(CONNECT).tcp_user_timeout(CONNECT).application_name("gatepass").options(&options);
        let store = Postgres { config, tls, idle: Mutex::default() };
        let mut connection = store.connect()?;
        store.migrate(&mut connection, known)?;
        store.give_back(connection);
        Ok(store)
    }

    pub(super) fn read<T, E: From<StoreError>>(&self, work: impl FnOnce(&mut dyn Db) -> Result<T, E>) -> Result<T, E> {
        let mut connection = self.fresh()?;
        let (result, usable) = {
            let builder = connection.client.build_transaction();
            let builder = builder.isolation_level(IsolationLevel::RepeatableRead).read_only(true);
            let transaction = builder.start().map_err(StoreError::from)?;
            let mut session = Session { transaction, prepared: &mut connection.prepared };
            let result = work(&mut session);
            (result, session.transaction.rollback().is_ok())
        };
        if usable {
            self.give_back(connection);
        }
        result
    }

    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        scope: Scope,
        work: impl FnOnce(&mut dyn Db) -> Result<T, E>,
    ) -> Result<T, E> {
        let lock = match scope {
            Scope::Operator => OPERATOR_LOCK,
            Scope::Tenant(tenant) => i64::from_be_bytes(*tenant.0.first_chunk().unwrap_or(&[0; 8])),
        };
        let mut connection = self.fresh()?;
        let (result, ended) = {
            let mut transaction = connection.client.transaction().map_err(StoreError::from)?;
            transaction.query("SELECT pg_advisory_xact_lock($1)", &[&lock]).map_err(StoreError::from)?;
            let mut session = Session { transaction, prepared: &mut connection.prepared };
            let result = work(&mut session);
            let transaction = session.transaction;
            let ended = if result.is_ok() { transaction.commit() } else { transaction.rollback() };
            (result, ended)
        };
        let ended = ended.map_err(|error| match error.into() {
            StoreError::Gone(_) => StoreError::Unsure,
            other => other,
        });
        match (result, ended) {
            (Ok(_), Err(error)) => Err(error.into()),
            (result, Err(_)) => result,
            (result, Ok(())) => {
                self.give_back(connection);
                result
            }
        }
    }

    /// A connection that answers now.
    fn fresh(&self) -> Result<Connection, StoreError> {
        while let Some(mut connection) = self.take() {
            if connection.client.is_valid(CONNECT).is_ok() {
                return Ok(connection);
            }
        }
        self.connect()
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// As many are kept as were ever used at once: the callers are bounded.
    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let client = self.config.connect(self.tls.clone())?;
        Ok(Connection { client, prepared: HashMap::new() })
    }

    fn migrate(&self, connection: &mut Connection, known: &[Migration]) -> Result<(), StoreError> {
        loop {
            let mut step = connection.client.transaction()?;
            // Several nodes may start at once.
            step.query("SELECT pg_advisory_xact_lock($1)", &[&OPERATOR_LOCK])?;
            step.batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")?;
            let done = step.query_opt("SELECT version FROM schema_version", &[])?;
            let done = done.map_or(0, |row| usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX));
            let Some((index, migration)) = migrations::missing(known, done, || "the Postgres database".into())?.next()
            else {
                return Ok(step.commit()?);
            };
            step.batch_execute(&migration.text(Dialect::Postgres))?;
            step.batch_execute("DELETE FROM schema_version")?;
            step.execute("INSERT INTO schema_version VALUES ($1)", &[&(index as i64 + 1)])?;
            step.commit()?;
        }
    }
}

/// Each client has a runtime of its own, which must not end on a thread that works for another one.
impl Drop for Postgres {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = std::thread::spawn(move || drop(idle)).join();
    }
}

struct Session<'a> {
    transaction: Transaction<'a>,
    prepared: &'a mut HashMap<String, Statement>,
}

impl Session<'_> {
    fn prepare(&mut self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.transaction.prepare(&sql.replace('?', "$"))?;
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Db for Session<'_> {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.prepare(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        Ok(self.transaction.execute(&statement, &values)?)
    }

    fn each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = self.prepare(sql)?;
        let mut rows = self.transaction.query_raw(&statement, values)?;
        while let Some(row) = rows.next()? {
            let cells = (0..row.len()).map(|column| cell(&row, column)).collect::<Result<_, StoreError>>()?;
            take(Row::new(cells))?;
        }
        Ok(())
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Number(number) => i64::try_from(*number)?.to_sql(kind, out),
            Value::Text(text) => text.to_sql(kind, out),
            Value::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(kind)
    }

    to_sql_checked!();
}

fn cell(row: &postgres::Row, column: usize) -> Result<Cell, StoreError> {
    let kind = row.columns()[column].type_();
    let cell = if *kind == Type::BYTEA {
        row.try_get::<_, Option<Vec<u8>>>(column)?.map(Cell::Bytes)
    } else if *kind == Type::TEXT {
        row.try_get::<_, Option<String>>(column)?.map(Cell::Text)
    } else if *kind == Type::INT8 {
        let number = row.try_get::<_, Option<i64>>(column)?;
        let number = number.map(u64::try_from).transpose();
        number.map_err(|_| StoreError::Damaged("a number is below zero"))?.map(Cell::Number)
    } else {
        return Err(StoreError::Damaged("a column has a type that is not used here"));
    };
    Ok(cell.unwrap_or(Cell::Null))
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> Self {
        let Some(state) = error.code() else {
            // No answer of the server, so none arrived: refused, cut off, or timed out.
            return StoreError::Gone(Reason::of(&error));
        };
        let (class, restarting) = (&state.code()[..2], [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN]);
        if *state == SqlState::DISK_FULL {
            StoreError::DiskFull
        } else if class == "08" || restarting.contains(state) || *state == SqlState::CANNOT_CONNECT_NOW {
            StoreError::Gone(Reason::of(&error))
        } else if class == "40" || class == "53" || class == "55" || *state == SqlState::QUERY_CANCELED {
            StoreError::Busy
        } else {
            StoreError::Failed(Reason::of(&error).0.into())
        }
    }
}

/// What the driver said, with its causes.
#[derive(Debug)]
pub struct Reason(String);

impl Reason {
    fn of(error: &(dyn Error + 'static)) -> Reason {
        let (mut text, mut cause) = (error.to_string(), error.source());
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Reason(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
