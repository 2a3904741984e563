//! What this computer believes: the tenant's CA keys and the newest lists that they signed, kept on disk and renewed from
//! whoever brings a newer one. A list is on the disk before it is in force, so a restart does not go back behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use gatepass_client::api::Statements;
use gatepass_client::{Http, HttpError};
use gatepass_protocol::Code;
use gatepass_protocol::channel::Bulletin;
use gatepass_protocol::statement::Kind;
use gatepass_protocol::trust::{Accepted, TrustStore};
use tokio::time::Instant;

use crate::identity::{Identity, replace_file};

/// The lists in force, shared by everything in the daemon.
pub(crate) struct Trust {
    store: RwLock<TrustStore>,
    file: PathBuf,
    http: Http,
    /// When a list was last fetched because a relay announced it.
    announced: tokio::sync::Mutex<Option<Instant>>,
}

/// Announced lists are fetched this far apart.
const BETWEEN_FETCHES: Duration = Duration::from_secs(2);

/// Why a list is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the list was refused: {0}")]
    Refused(#[from] Code),
    #[error(transparent)]
    Fetch(#[from] HttpError),
}

/// Where the lists are kept.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("statements.json")
}

impl Trust {
    /// The CA keys of enrolment and the lists that were kept.
    pub(crate) fn load(identity: &Identity, state: &Path, http: Http) -> Self {
        let file = path(state);
        let mut store = TrustStore::new(identity.tenant, identity.cas.iter().copied());
        let kept = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Statements>(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match kept.map(|kept| kept.restore_into(&mut store)) {
            Ok(Ok(())) => {}
            Ok(Err(code)) => tracing::error!(%code, file = %file.display(), "the kept lists are not all this tenant's"),
            Err(error) => {
                tracing::error!(error, file = %file.display(), "no kept lists: nothing is granted until they are fetched");
            }
        }
        Self { store: RwLock::new(store), file, http, announced: tokio::sync::Mutex::default() }
    }

    /// The lists now. Don't hold it across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, TrustStore> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one list, whoever brought it.
    pub(crate) fn accept(&self, list: &Bytes, now: u64) -> Result<Option<Kind>, TrustError> {
        let mut new = None;
        self.change(|store| {
            let (kind, accepted) = store.accept(list, now)?;
            new = (accepted == Accepted::New).then_some(kind);
            Ok(new.is_some())
        })?;
        Ok(new)
    }

    /// Takes what a tenant channel brings; where the list itself did not fit, fetches it. A relay that announces lists which
    /// nobody signed makes this computer ask the control plane now and then, and not in a flood.
    pub(crate) async fn hear(&self, bulletin: &[u8], now: u64) -> Result<Vec<Kind>, TrustError> {
        let bulletin = Bulletin::decode(bulletin).map_err(|_| Code::BadFrame)?;
        if let Some(list) = bulletin.statement {
            return Ok(self.accept(&list, now)?.into_iter().collect());
        }
        let mut last = self.announced.lock().await;
        if let Some(last) = *last {
            tokio::time::sleep_until(last + BETWEEN_FETCHES).await;
        }
        *last = Some(Instant::now());
        self.fetch(now).await
    }

    /// Fetches all lists from the control plane; says which were new.
    pub(crate) async fn fetch(&self, now: u64) -> Result<Vec<Kind>, TrustError> {
        let tenant = self.read().tenant();
        let fetched: Statements = self.http.get_json(&format!("/api/v1/statements/{tenant}")).await?;
        let mut kinds = Vec::new();
        self.change(|store| {
            for (kind, verdict) in fetched.accept_into(store, now) {
                match verdict {
                    Ok(Accepted::New) => kinds.push(kind),
                    Ok(Accepted::Known) => {}
                    Err(code) => tracing::warn!(?kind, %code, "the control plane's list was refused"),
                }
            }
            Ok(!kinds.is_empty())
        })?;
        Ok(kinds)
    }

    /// Applies a change to a copy, keeps the copy on disk, then puts it in force. What a full disk can't keep is in force all
    /// the same until a restart, which fetches it again: a revocation must not wait for somebody to tidy up.
    fn change(&self, change: impl FnOnce(&mut TrustStore) -> Result<bool, TrustError>) -> Result<(), TrustError> {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let mut copy = store.clone();
        if change(&mut copy)? {
            let json = serde_json::to_vec(&Statements::of(&copy)).unwrap_or_default();
            if let Err(error) = replace_file(&self.file, &json) {
                tracing::error!(%error, file = %self.file.display(), "a newer list is in force, but can't be kept");
            }
            *store = copy;
        }
        Ok(())
    }
}
