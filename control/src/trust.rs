//! What each tenant's statements amount to, ready to be asked by the relay at every connection: a [`TrustStore`] for each
//! tenant, in memory, swapped as a whole when something new was signed. Each change has a number, so that a regional relay
//! can be told what came after the last one that it has heard of.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use rand_core::Rng as _;
use rusqlite::Connection;
use tokio::sync::watch;

use gatepass_protocol::api::{Feed, TenantTrust};
use gatepass_protocol::ids::TenantId;
use gatepass_protocol::trust::{CaPublic, TrustStore};

use crate::api::StatementKind;
use crate::rng;
use crate::store::{self, StoreError};

/// The trust stores of all tenants.
pub(crate) struct Trust {
    current: RwLock<HashMap<TenantId, (u64, Arc<TrustStore>)>>,
    changing: Mutex<()>,
    /// The number of the newest change.
    changes: watch::Sender<u64>,
    /// Numbers of another run mean nothing in this one.
    run: u64,
}

impl Trust {
    /// Builds the trust stores from what the database keeps.
    pub(crate) fn load(db: &Connection) -> Result<Trust, StoreError> {
        let mut current = HashMap::new();
        for (tenant, change) in store::tenants(db)?.into_iter().zip(1..) {
            current.insert(tenant.id, (change, Arc::new(rebuild(db, tenant.id)?)));
        }
        let changes = watch::Sender::new(current.len() as u64);
        Ok(Trust { current: RwLock::new(current), changing: Mutex::default(), changes, run: rng().next_u64() })
    }

    /// What a tenant's statements amount to; none where there is no such tenant.
    pub(crate) fn get(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(tenant).map(|(_, trust)| trust.clone())
    }

    /// Hears of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What has changed since `cursor`, of some tenants or (none named) of all: the oldest changes first, and no more of
    /// them than `budget` bytes of statements, but at least one.
    pub(crate) fn since(&self, cursor: &str, of: &HashSet<TenantId>, budget: usize) -> Feed {
        let mut after = self.number(cursor).unwrap_or(0);
        let mut changed: Vec<_> = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            let newer =
                current.iter().filter(|(id, (change, _))| *change > after && (of.is_empty() || of.contains(id)));
            newer.map(|(_, (change, trust))| (*change, trust.clone())).collect()
        };
        changed.sort_unstable_by_key(|(change, _)| *change);
        let (mut tenants, mut bytes, count) = (Vec::new(), 0, changed.len());
        for (change, trust) in changed {
            let tenant = TenantTrust::of(&trust);
            let lists = [&tenant.statements.policy, &tenant.statements.revocation, &tenant.statements.relays];
            bytes += lists.into_iter().flatten().map(|list| list.0.len()).sum::<usize>();
            if bytes > budget && !tenants.is_empty() {
                break;
            }
            after = change;
            tenants.push(tenant);
        }
        Feed { cursor: format!("{:016x}-{after}", self.run), more: tenants.len() < count, tenants }
    }

    /// The change that a cursor stands for; none where it is not of this run.
    pub(crate) fn number(&self, cursor: &str) -> Option<u64> {
        let (run, change) = cursor.split_once('-')?;
        change.parse().ok().filter(|_| u64::from_str_radix(run, 16) == Ok(self.run))
    }

    /// Held from reading a trust store to replacing it, so that two administrators who sign at once don't undo each other.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a trust store in force. The database has it already.
    pub(crate) fn put(&self, trust: TrustStore) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let change = *self.changes.borrow() + 1;
        current.insert(trust.tenant(), (change, Arc::new(trust)));
        // While nobody else can take the next number.
        self.changes.send_replace(change);
    }
}

/// Every statement was in time and in order when it was stored; now only its signature is looked at again. A revocation
/// list must not lapse because nobody signed a newer one.
pub(crate) fn rebuild(db: &Connection, tenant: TenantId) -> Result<TrustStore, StoreError> {
    let cas = store::ca_keys(db, tenant)?;
    let mut trust = TrustStore::new(tenant, cas.iter().filter_map(|ca| CaPublic::from_pem(&ca.pem).ok()));
    for kind in [StatementKind::Policy, StatementKind::Relays, StatementKind::Revocation] {
        let Some(statement) = store::newest(db, tenant, kind)?.map(Bytes::from) else { continue };
        if let Err(code) = trust.restore(&statement) {
            tracing::error!(
                kind = kind.name(),
                code = code.name(),
                "a stored statement does not verify and is not in force"
            );
        }
    }
    Ok(trust)
}
