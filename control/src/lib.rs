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

mod admin;
pub mod api;
mod enrol;
mod feed;
mod http;
mod problem;
mod store;
mod token;
mod trust;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand_core::{CryptoRng, UnwrapErr};
use tokio::sync::{Semaphore, broadcast, watch};
use zeroize::Zeroizing;

use gatepass_protocol::ids::TenantId;
use gatepass_protocol::statement::Kind;
use gatepass_protocol::trust::TrustStore;

pub use problem::Refusal;
pub use store::StoreError;

use api::StatementKind;
use store::{Owner, Store};
use trust::Trust;

/// The file beside a new database with the token that creates tenants.
pub const OPERATOR_TOKEN_FILE: &str = "operator.token";

/// The file beside the database with the token that regional relays show.
pub const RELAY_TOKEN_FILE: &str = "relay.token";

/// A file with fewer characters was cut off, or is nobody's secret: it is replaced.
const SHORTEST_TOKEN: usize = 32;

/// Threads that may wait for the disk at once. There is one writer; the others read or wait their turn.
const WORKERS: usize = 16;

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
    /// Opens the database, makes it where there is none, and reads the trust stores of all tenants.
    ///
    /// With a new database comes a token for its operator, who may create tenants: [`OPERATOR_TOKEN_FILE`] in the same
    /// folder, for its owner only.
    pub fn open(path: &Path) -> Result<Control, OpenError> {
        let store = Store::open(path)?;
        if store.read(|db| store::token_hashes(db, Owner::Operator))?.is_empty() {
            make_operator(&store, &path.with_file_name(OPERATOR_TOKEN_FILE))?;
        }
        let relay_token = relay_token(&path.with_file_name(RELAY_TOKEN_FILE))?;
        let trust = store.read(Trust::load)?;
        let inner = Inner {
            store,
            trust,
            news: broadcast::Sender::new(NEWS),
            workers: Arc::new(Semaphore::new(WORKERS)),
            relay_token,
            closing: watch::Sender::new(false),
        };
        Ok(Control { inner: Arc::new(inner) })
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
            for tenant in store::tenants(db)? {
                for kind in StatementKind::ALL {
                    let Some(statement) = store::newest(db, tenant.id, kind)? else { continue };
                    let epoch = store::newest_epoch(db, tenant.id, kind)?;
                    news.push(News { tenant: tenant.id, kind: kind.kind(), epoch, statement: statement.into() });
                }
            }
            Ok(news)
        })
    }
}

/// The system's random numbers. Panics where it has none, for then no secret may be made.
fn rng() -> impl CryptoRng {
    UnwrapErr(getrandom::SysRng)
}

/// Writes the operator's token. The file comes first: a token in the database that nobody has would lock everybody out.
fn make_operator(store: &Store, path: &Path) -> Result<(), OpenError> {
    let (token, hash) = token::new();
    write_token(path, &token)?;
    store.write(|tx| store::insert_token(tx, Owner::Operator, &hash, http::now()))?;
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
mod tests;
