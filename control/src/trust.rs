//! What each tenant's statements amount to, ready to be asked by the relay at every connection: a [`TrustStore`] for each
//! tenant, in memory, swapped as a whole when something new was signed. Each change has a number, so that a regional relay
//! can be told what came after the last one that it has heard of.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use rand_core::Rng as _;
use tokio::sync::watch;

use gatepass_protocol::api::{Feed, TenantTrust};
use gatepass_protocol::ids::TenantId;
use gatepass_protocol::qr::tenant_tag;
use gatepass_protocol::trust::{CaPublic, TrustStore};

use crate::api::{StatementKind, hex};
use crate::problem::Refusal;
use crate::rng;
use crate::store::{self, Db, StoreError};

/// The trust stores of all tenants.
pub(crate) struct Trust {
    current: RwLock<HashMap<TenantId, Entry>>,
    /// The number of the newest change.
    changes: watch::Sender<u64>,
    /// Numbers of another run mean nothing in this one.
    run: u64,
}

struct Entry {
    /// The number of the change that brought it, in this process.
    change: u64,
    /// The tenant's own count of changes, in the database.
    revision: u64,
    trust: Arc<TrustStore>,
}

impl Trust {
    /// Builds the trust stores from what the database keeps.
    pub(crate) fn load(db: &mut dyn Db) -> Result<Trust, StoreError> {
        let mut current = HashMap::new();
        for ((tenant, _), change) in store::revisions(db)?.into_iter().zip(1..) {
            let (revision, trust) = rebuild(db, tenant)?;
            current.insert(tenant, Entry { change, revision, trust: Arc::new(trust) });
        }
        let changes = watch::Sender::new(current.len() as u64);
        Ok(Trust { current: RwLock::new(current), changes, run: rng().next_u64() })
    }

    /// What a tenant's statements amount to; none where there is no such tenant.
    pub(crate) fn get(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(tenant).map(|entry| entry.trust.clone())
    }

    /// The tenant of a tag of 8 hexadecimal digits, as people type it.
    pub(crate) fn tagged(&self, tag: &str) -> Result<TenantId, Refusal> {
        let wanted = tag.to_ascii_lowercase();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let mut fits = current.keys().filter(|id| hex(&tenant_tag(**id)) == wanted);
        match (fits.next(), fits.next()) {
            (Some(one), None) => Ok(*one),
            (None, _) => Err(Refusal::NoSuchTag),
            // One tag in four milliards: with 1,000 tenants, once in 10,000 servers.
            (Some(_), Some(_)) => Err(Refusal::Fix("two tenants have this tag: enrol by a ticket instead".to_owned())),
        }
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
            let newer = current.iter().filter(|(id, entry)| entry.change > after && (of.is_empty() || of.contains(id)));
            newer.map(|(_, entry)| (entry.change, entry.trust.clone())).collect()
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

    /// Which tenants the database has another revision of than memory has.
    pub(crate) fn behind(&self, revisions: Vec<(TenantId, u64)>) -> Vec<TenantId> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let is_behind =
            |(id, revision): &(TenantId, u64)| current.get(id).is_none_or(|entry| entry.revision < *revision);
        revisions.into_iter().filter(is_behind).map(|(id, _)| id).collect()
    }

    /// Puts a trust store in force, which the database has already, unless a newer one was faster.
    pub(crate) fn put(&self, revision: u64, trust: TrustStore) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.get(&trust.tenant()).is_some_and(|entry| entry.revision >= revision) {
            return;
        }
        let change = *self.changes.borrow() + 1;
        current.insert(trust.tenant(), Entry { change, revision, trust: Arc::new(trust) });
        // While nobody else can take the next number.
        self.changes.send_replace(change);
    }
}

/// What a tenant's statements amount to, and at which revision. Every statement was in time and in order when it was stored; now only its signature is looked at again. A revocation
/// list must not lapse because nobody signed a newer one.
pub(crate) fn rebuild(db: &mut dyn Db, tenant: TenantId) -> Result<(u64, TrustStore), StoreError> {
    let revision = store::revision(db, tenant)?.unwrap_or(0);
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
    Ok((revision, trust))
}
