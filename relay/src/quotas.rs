//! What a tenant may have of a whole region, at whichever of its relays its clients are: connections, pairings and bytes.
//!
//! Each relay holds a share of what the backplane has of a tenant, so a client mostly costs no question. A backplane that can't be
//! reached keeps nobody out: whoever comes meanwhile is counted by [`crate::rates`] alone, which bounds what one relay takes.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use gatepass_protocol::{frame::MAX_FRAME, ids::TenantId};
use tokio::time::sleep;

use crate::{
    backplane::{
        Backplane, Resource,
        quota::{Quota, Taken},
    },
    config::Limits,
    metrics::{Limit, Metrics},
};

/// Between two looks at shares that are not needed any more.
const SETTLE: Duration = Duration::from_secs(10);
/// The window of a tenant's bytes.
const WINDOW: Duration = Duration::from_secs(60);
/// The part of a tenant's bytes that a relay takes at a time: what it takes and does not use is lost to the others.
const PARTS: u64 = 64;
/// A tenant whose bytes are used up is looked after again after this long.
const AGAIN: Duration = Duration::from_millis(250);

/// All tenants' quotas at this relay.
pub(crate) struct Quotas {
    plane: Arc<dyn Backplane>,
    connections: Quota,
    pairings: Quota,
    bytes: DashMap<TenantId, Weak<Allowance>>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// What one connection has of its tenant's quotas, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Account {
    _connection: Option<Taken>,
    allowance: Arc<Allowance>,
}

/// What a tenant may send through this relay without asking.
struct Allowance {
    tenant: TenantId,
    left: AtomicI64,
    asking: AtomicBool,
    plane: Arc<dyn Backplane>,
    limit: u64,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Allowance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Allowance").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Quotas {
    pub(crate) fn new(plane: Arc<dyn Backplane>, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            connections: Quota::new(plane.clone(), Resource::Connections),
            pairings: Quota::new(plane.clone(), Resource::Pairings),
            bytes: DashMap::new(),
            limits: limits.clone(),
            plane,
            metrics,
        }
    }

    /// An account for a client that has just authenticated. Refused, and counted, where its tenant has as many connections as it
    /// may.
    pub(crate) async fn enter(&self, tenant: TenantId) -> Result<Account, Limit> {
        let limit = self.limits.tenant_connections.get().into();
        let connection = self.take(&self.connections, tenant, limit, Limit::TenantConnections).await?;
        Ok(Account { _connection: connection, allowance: self.allowance(tenant).await })
    }

    /// One more pairing of a tenant; refused, and counted, where it has as many as it may.
    pub(crate) async fn pairing(&self, tenant: TenantId) -> Result<Option<Taken>, Limit> {
        self.take(&self.pairings, tenant, self.limits.tenant_pairings.get().into(), Limit::TenantPairings).await
    }

    async fn take(&self, quota: &Quota, tenant: TenantId, limit: u64, name: Limit) -> Result<Option<Taken>, Limit> {
        match quota.take(tenant, limit).await {
            Ok(None) => {
                self.metrics.refused.inc(name);
                Err(name)
            }
            taken => Ok(taken.unwrap_or_default()),
        }
    }

    async fn allowance(&self, tenant: TenantId) -> Arc<Allowance> {
        if let Some(known) = self.bytes.get(&tenant).and_then(|known| known.upgrade()) {
            return known;
        }
        let limit = self.limits.tenant_bytes_per_minute.get().into();
        let (plane, metrics) = (self.plane.clone(), self.metrics.clone());
        let (left, asking) = Default::default();
        let new = Arc::new(Allowance { tenant, left, asking, plane, limit, metrics });
        new.refill().await;
        // Somebody else of the tenant may have been quicker.
        let mut entry = self.bytes.entry(tenant).or_default();
        if let Some(known) = entry.upgrade() {
            return known;
        }
        *entry = Arc::downgrade(&new);
        new
    }

    /// Gives back what is not needed any more, until dropped.
    pub(crate) async fn settle(&self) {
        loop {
            sleep(SETTLE).await;
            self.connections.settle().await;
            self.pairings.settle().await;
            self.bytes.retain(|_, known| known.strong_count() > 0);
        }
    }
}

impl Account {
    /// Whether a frame of so many bytes may be acted on now. If not, [`Account::wait`] waits for it.
    pub(crate) fn frame(&self, bytes: usize) -> bool {
        self.allowance.take(bytes)
    }

    /// Waits until the frame may be acted on.
    pub(crate) async fn wait(&self, bytes: usize) {
        self.allowance.metrics.refused.inc(Limit::TenantQuota);
        while !self.allowance.take(bytes) {
            sleep(AGAIN).await;
        }
    }
}

impl Allowance {
    fn part(&self) -> i64 {
        (self.limit / PARTS).max(MAX_FRAME as u64) as i64
    }

    fn take(self: &Arc<Self>, bytes: usize) -> bool {
        let bytes = bytes as i64;
        let left = self.left.fetch_sub(bytes, Relaxed) - bytes;
        if left < self.part() / 4 && !self.asking.swap(true, Relaxed) {
            let allowance = self.clone();
            tokio::spawn(async move {
                if !allowance.refill().await {
                    sleep(AGAIN).await;
                }
                allowance.asking.store(false, Relaxed);
            });
        }
        if left < 0 {
            self.left.fetch_add(bytes, Relaxed);
        }
        left >= 0
    }

    /// Whether there was something left to take.
    async fn refill(&self) -> bool {
        let part = self.part();
        let granted = self.plane.spend(self.tenant, part as u64, self.limit, WINDOW).await;
        // A backplane that is away stops nobody who is talking.
        let granted = granted.map_or(part, |granted| granted as i64);
        self.left.fetch_add(granted, Relaxed);
        granted > 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::backplane::{Sink, conformance::Heard, memory::Memory};

    const TENANT: TenantId = TenantId([1; 16]);

    fn two_relays(change: impl FnOnce(&mut Limits)) -> ([Quotas; 2], [Arc<dyn Sink>; 2]) {
        let mut limits = Limits::default();
        change(&mut limits);
        let memory = Memory::new(Duration::from_secs(60));
        let sinks: [Arc<dyn Sink>; 2] = [Arc::new(Heard::default()), Arc::new(Heard::default())];
        let quotas = |sink: &Arc<dyn Sink>| Quotas::new(memory.join(Arc::downgrade(sink)), &limits, Arc::default());
        ([quotas(&sinks[0]), quotas(&sinks[1])], sinks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_so_many_connections_and_pairings_whichever_relay_they_are_at() {
        let ([a, b], _sinks) = two_relays(|limits| {
            (limits.tenant_connections, limits.tenant_pairings) =
                (NonZeroU32::new(3).unwrap(), NonZeroU32::new(2).unwrap());
        });
        let (mut accounts, mut pairings, mut refused) = (vec![], vec![], vec![]);
        for _ in 0..3 {
            for quotas in [&a, &b] {
                quotas.enter(TENANT).await.map_or_else(|limit| refused.push(limit), |account| accounts.push(account));
                quotas.pairing(TENANT).await.map_or_else(|limit| refused.push(limit), |taken| pairings.push(taken));
            }
        }
        assert_eq!((accounts.len(), pairings.len()), (3, 2));
        assert!(refused.contains(&Limit::TenantConnections) && refused.contains(&Limit::TenantPairings));
        assert!(a.enter(TenantId([2; 16])).await.is_ok(), "another tenant is another matter");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_bytes_are_counted_together_and_come_again_with_the_next_minute() {
        const MINUTE: u32 = 64 * MAX_FRAME as u32;
        let ([a, b], _sinks) = two_relays(|limits| limits.tenant_bytes_per_minute = NonZeroU32::new(MINUTE).unwrap());
        let (at_a, at_b) = (a.enter(TENANT).await.unwrap(), b.enter(TENANT).await.unwrap());
        let mut sent = 0;
        // More time than it takes, and less than a minute.
        for _ in 0..100 {
            for account in [&at_a, &at_b] {
                sent += if account.frame(MAX_FRAME) { MAX_FRAME as u32 } else { 0 };
            }
            sleep(AGAIN).await;
        }
        assert_eq!(sent, MINUTE, "all of it, and not a byte more");
        at_a.wait(MAX_FRAME).await;
        assert_eq!(a.metrics.refused.of(Limit::TenantQuota).get(), 1);
    }
}
