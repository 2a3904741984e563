//! The control plane: who belongs to a tenant, what its CA has signed, and what has happened.
//!
//! ```text
//! administrator --(signed statements)--> /api/v1 --> SQLite --> trust stores --> the relay asks them, publishes the news
//! agent, phone  --(ticket, request)----> /api/v1 --> SQLite
//! agent         --(signed events)------> /api/v1 --> audit trail
//! ```
//!
//! It signs nothing and is believed by nobody: it verifies each statement against the tenant's CA keys before it keeps it,
//! so that honest mistakes are noticed at once, but agents and phones verify all of it again. Somebody who takes this
//! server over can withhold what it knows and nothing else.
//!
//! [`Control`] is cheap to clone. The server hands it every request under `/api/v1/`, asks [`Control::trust`] for each
//! connection, and publishes what [`Control::news`] tells.

mod access;
mod admin;
pub mod api;
mod audit;
mod directory;
mod enrol;
mod feed;
mod http;
mod openapi;
mod people;
mod problem;
mod routes;
mod sign_in;
mod slots;
mod store;
mod syslog;
mod token;
mod trust;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand_core::{CryptoRng, UnwrapErr};
use tokio::sync::{Semaphore, broadcast, watch};
use zeroize::Zeroizing;

use gatepass_protocol::ids::{Serial, TenantId};
use gatepass_protocol::statement::Kind;
use gatepass_protocol::trust::TrustStore;

pub use problem::Refusal;
pub use store::{Database, Reason, StoreError};
pub use syslog::{Collector, NoCollector};

use api::{Role, StatementKind, Token};
use store::{Db, Scope, Store};
use trust::Trust;

/// The file beside a new database with the token that creates tenants.
pub const OPERATOR_TOKEN_FILE: &str = "operator.token";

/// The file beside the database with the token that regional relays show.
pub const RELAY_TOKEN_FILE: &str = "relay.token";

/// A file with fewer characters was cut off, or is nobody's secret: it is replaced.
const SHORTEST_TOKEN: usize = 32;

/// Threads that may wait for the disk at once. There is one writer; the others read or wait their turn.
const WORKERS: usize = 16;

/// How soon a node notices what another one put in force: a revocation is everywhere within a second.
const LOOK: Duration = Duration::from_millis(250);

/// News that a slow listener may be behind by before it has to ask for everything again.
const NEWS: usize = 256;

/// The control plane. Clones share everything.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    trust: Trust,
    news: broadcast::Sender<News>,
    workers: Arc<Semaphore>,
    /// Turns at looking at passwords.
    hashing: Semaphore,
    /// The hash of what regional relays show.
    relay_token: [u8; 32],
    /// Nobody is kept waiting for news any more.
    closing: watch::Sender<bool>,
}

/// A statement that is in force now, to be published to everybody of its tenant.
#[derive(Debug, Clone)]
pub struct News {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which of the tenant's lists it is.
    pub kind: Kind,
    /// Its epoch.
    pub epoch: u64,
    /// The signed bytes.
    pub statement: Bytes,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token can't be written beside the database, or read there.
    #[error("can't keep a token in {path}: {source}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Control {
    /// [`Control::connect`] for a SQLite file, with the tokens beside it.
    pub fn open(path: &Path) -> Result<Control, OpenError> {
        Control::connect(&Database::File(path.to_owned()), path.parent().unwrap_or(Path::new("")))
    }

    /// Opens the database, makes what is missing in it, and reads the trust stores of all tenants.
    ///
    /// With a new database comes a token for its operator, who may create tenants: [`OPERATOR_TOKEN_FILE`] in the folder
    /// `tokens`, for its owner only.
    pub fn connect(database: &Database, tokens: &Path) -> Result<Control, OpenError> {
        let store = Store::open(database)?;
        if !store.read(store::has_operator)? {
            make_operator(&store, &tokens.join(OPERATOR_TOKEN_FILE))?;
        }
        if store.read(|db| store::tenant(db, store::OPERATOR))?.is_none() {
            store.write(Scope::Operator, |db| store::insert_operator(db, http::now()))?;
        }
        store::catch_up_logs(&store)?;
        let relay_token = relay_token(&tokens.join(RELAY_TOKEN_FILE))?;
        let trust = store.read(Trust::load)?;
        let inner = Inner {
            store,
            trust,
            news: broadcast::Sender::new(NEWS),
            workers: Arc::new(Semaphore::new(WORKERS)),
            hashing: sign_in::turns(),
            relay_token,
            closing: watch::Sender::new(false),
        };
        Ok(Control { inner: Arc::new(inner) })
    }

    /// Writes every row of the database into a new SQLite file, which is one state of it; says how many. Others may go on
    /// reading and writing meanwhile. The file is as secret as the database.
    pub fn back_up(database: &Database, file: &Path) -> Result<u64, StoreError> {
        store::back_up(&Store::open_for_copying(database)?, file)
    }

    /// Fills an empty database from such a file; says with how many rows.
    ///
    /// Nobody gets back what was taken from them since: all tokens are void, and all tickets used up. The operator's new token
    /// is made at the next [`Control::connect`]. Agents and phones refuse policies and lists that are older than those they
    /// know, whoever brings them.
    pub fn restore(database: &Database, file: &Path) -> Result<u64, StoreError> {
        store::restore(&Store::open_for_copying(database)?, file)
    }

    /// Follows what other nodes put in force in the same database, for as long as it is polled. A database that nobody shares
    /// is never looked at.
    pub async fn follow(&self) {
        if !self.inner.store.is_shared() {
            return std::future::pending().await;
        }
        let mut answers = true;
        loop {
            tokio::time::sleep(LOOK).await;
            let control = self.clone();
            let looked = tokio::task::spawn_blocking(move || control.inner.catch_up()).await;
            match &looked {
                Ok(Ok(())) if answers => {}
                Ok(Ok(())) => tracing::info!("the database answers again"),
                Ok(Err(error)) if answers => tracing::error!(%error, "what other nodes put in force is not known"),
                Ok(Err(_)) => {}
                Err(error) => tracing::error!(%error, "looking for news panicked"),
            }
            answers = matches!(looked, Ok(Ok(())));
        }
    }

    /// What a tenant believes: its CA keys, policy, revocations. From memory; none where there is no such tenant.
    pub fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.inner.trust.get(tenant)
    }

    /// Answers whoever waits for news, now and from now on at once: for the end of the process.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Hears of every statement that comes into force from now on. Whoever falls behind
    /// ([`broadcast::error::RecvError::Lagged`]) asks [`Control::in_force`].
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.inner.news.subscribe()
    }

    /// All statements in force, for a start and after falling behind. Reads the disk.
    pub fn in_force(&self) -> Result<Vec<News>, StoreError> {
        self.inner.store.read(|db| {
            let mut news = Vec::new();
            for (tenant, _) in store::revisions(db)? {
                news.extend(in_force(db, tenant)?);
            }
            Ok(news)
        })
    }
}

impl Inner {
    /// Takes over what the database has and memory has not.
    fn catch_up(&self) -> Result<(), StoreError> {
        let behind = self.trust.behind(self.store.read(store::revisions)?);
        for tenant in behind {
            let ((revision, trust), news) =
                self.store.read(|db| Ok::<_, StoreError>((trust::rebuild(db, tenant)?, in_force(db, tenant)?)))?;
            self.trust.put(revision, trust);
            // To say something twice is no harm: who has it already sees that by its epoch.
            for one in news {
                let _ = self.news.send(one);
            }
        }
        Ok(())
    }
}

fn in_force(db: &mut dyn Db, tenant: TenantId) -> Result<Vec<News>, StoreError> {
    let mut news = Vec::new();
    for kind in StatementKind::ALL {
        let Some(statement) = store::newest(db, tenant, kind)? else { continue };
        let epoch = store::newest_epoch(db, tenant, kind)?;
        news.push(News { tenant, kind: kind.kind(), epoch, statement: statement.into() });
    }
    Ok(news)
}

/// The system's random numbers. Panics where it has none, for then no secret may be made.
fn rng() -> impl CryptoRng {
    UnwrapErr(getrandom::SysRng)
}

/// Writes the operator's token. The file comes first: a token in the database that nobody has would lock everybody out.
fn make_operator(store: &Store, path: &Path) -> Result<(), OpenError> {
    let (secret, hash) = token::new();
    write_token(path, &secret)?;
    let token = Token {
        id: Serial::random(&mut rng()),
        name: OPERATOR_TOKEN_FILE.to_owned(),
        role: Role::Operator,
        technician: None,
        created: http::now(),
        expires: None,
    };
    store.write(Scope::Operator, |db| store::insert_token(db, None, &token, &hash))?;
    Ok(())
}

/// The hash of the token that regional relays show; made where there is none. The file alone counts: who replaces it, and
/// restarts this, has made the old one worthless.
fn relay_token(path: &Path) -> Result<[u8; 32], OpenError> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(token) if token.trim().len() >= SHORTEST_TOKEN => return Ok(token::hash(token.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(OpenError::Token { path: path.to_owned(), source }),
    }
    let (token, hash) = token::new();
    write_token(path, &token)?;
    Ok(hash)
}

fn write_token(path: &Path, token: &str) -> Result<(), OpenError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(token.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        })
        .map_err(|source| OpenError::Token { path: path.to_owned(), source })
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests;
