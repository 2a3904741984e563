//! How much an authenticated client, and all clients of its tenant together, may ask of this relay: so that one tenant's
//! broken script is that tenant's trouble and nobody else's.
//!
//! A [`Pass`] is given at AUTH and kept with the connection. Asking it costs a few atomic operations, one look at the clock
//! and no look-up, for it is asked for every frame. Who sends frames faster than it may is read more slowly, so that nothing is lost: a
//! subscription that was refused would be a revocation that is not heard. Only what is published is refused, for its sender
//! is told. What all connections of a tenant share exists while one of them does; how often somebody came has to be
//! remembered longer, in bounded tables.

use std::{
    cell::Cell,
    num::NonZeroU32,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use gatepass_protocol::ids::TenantId;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, direct::NotKeyed},
};
use tokio::time::sleep;

use crate::{
    admission::Buckets,
    config::Limits,
    metrics::{Limit, Metrics},
};

/// A ping counts as so many frames.
const CHAT: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// A client that has to wait is looked after again no later than this: it may be gone meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

type Tenants = DashMap<TenantId, Arc<Tenant>>;

/// A token bucket that goes by [`Moment`].
type Bucket = RateLimiter<NotKeyed, InMemoryState, Moment, NoOpMiddleware<Nanos>>;

/// The time as this thread last looked: once for all the buckets that a frame is held against.
#[derive(Debug, Clone, Copy)]
struct Moment;

thread_local! {
    static LOOKED_AT: Cell<u64> = const { Cell::new(0) };
}

impl Moment {
    /// Looks at the clock.
    fn look() -> Nanos {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        LOOKED_AT.set(u64::try_from(BEGUN.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Self.now()
    }
}

impl Clock for Moment {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        LOOKED_AT.get().into()
    }
}

/// What authenticated clients have asked for so far.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: Arc<Limits>,
    tenants_coming: Buckets<TenantId>,
    clients_coming: Buckets<[u8; 16]>,
    tenants: Arc<Tenants>,
    metrics: Arc<Metrics>,
}

/// What the connections of one tenant share.
#[derive(Debug)]
struct Tenant {
    id: TenantId,
    connections: AtomicU32,
    frames: Bucket,
    bytes: Bucket,
    publishes: Bucket,
    limits: Arc<Limits>,
    tenants: Arc<Tenants>,
    metrics: Arc<Metrics>,
}

/// One connection's right to ask for things. Dropped with the connection; small, because every idle one has it.
#[derive(Debug)]
pub(crate) struct Pass {
    tenant: Arc<Tenant>,
    frames: Bucket,
    /// Most connections never publish.
    publishes: OnceLock<Box<Bucket>>,
}

/// A frame came too soon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooSoon {
    pub(crate) limit: Limit,
    wait: Duration,
}

fn quota(per_second: NonZeroU32, burst: NonZeroU32) -> Quota {
    Quota::per_second(per_second).allow_burst(burst)
}

/// A full one. Who makes some looks at the clock first.
fn bucket(per_second: NonZeroU32, burst: NonZeroU32) -> Bucket {
    RateLimiter::direct_with_clock(quota(per_second, burst), Moment)
}

impl Rates {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let tracked = limits.clients_tracked as usize;
        Self {
            tenants_coming: Buckets::new(
                quota(limits.tenant_connects_per_second, limits.tenant_connect_burst),
                tracked,
            ),
            clients_coming: Buckets::new(
                quota(limits.client_connects_per_second, limits.client_connect_burst),
                tracked,
            ),
            tenants: Arc::default(),
            limits: Arc::new(limits.clone()),
            metrics,
        }
    }

    /// A pass for a client that has just authenticated: `client` is the computer or device of its certificate. Refused, and
    /// counted, where it or its tenant comes too often or the tenant has as many connections as it may.
    pub(crate) fn enter(&self, tenant: TenantId, client: [u8; 16]) -> Result<Pass, Limit> {
        self.try_enter(tenant, client).inspect_err(|limit| self.metrics.refused.inc(*limit))
    }

    fn try_enter(&self, id: TenantId, client: [u8; 16]) -> Result<Pass, Limit> {
        // The client first: one that flaps must not use up what its tenant has.
        if !self.clients_coming.has_token(&client) {
            return Err(Limit::ClientConnects);
        }
        if !self.tenants_coming.has_token(&id) {
            return Err(Limit::TenantConnects);
        }
        Moment::look();
        let limits = &self.limits;
        let tenant = {
            let tenant = self.tenants.entry(id).or_insert_with(|| self.tenant(id));
            // Counted with the entry locked, so that the last to leave does not take it away meanwhile.
            tenant.connections.fetch_add(1, Relaxed);
            tenant.clone()
        };
        // From here on dropping it takes it out of the count again.
        let frames = bucket(limits.client_frames_per_second, limits.client_frame_burst);
        let pass = Pass { tenant, frames, publishes: OnceLock::new() };
        if pass.tenant.connections.load(Relaxed) > limits.tenant_connections.get() {
            return Err(Limit::TenantConnections);
        }
        Ok(pass)
    }

    fn tenant(&self, id: TenantId) -> Arc<Tenant> {
        let limits = self.limits.clone();
        Arc::new(Tenant {
            id,
            connections: AtomicU32::new(0),
            frames: bucket(limits.tenant_frames_per_second, limits.tenant_frame_burst),
            bytes: bucket(limits.tenant_bytes_per_second, limits.tenant_byte_burst),
            publishes: bucket(limits.tenant_publishes_per_second, limits.tenant_publish_burst),
            limits,
            tenants: self.tenants.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

impl Pass {
    /// Whether a frame of so many bytes may be acted on now. If not, it is counted, and [`Pass::wait`] says when.
    pub(crate) fn frame(&self, bytes: usize) -> Result<(), TooSoon> {
        self.check(bytes).inspect_err(|soon| self.tenant.metrics.refused.inc(soon.limit))
    }

    /// Waits until the frame may be acted on.
    pub(crate) async fn wait(&self, bytes: usize, soon: TooSoon) {
        Self::wait_until(soon, || self.check(bytes)).await;
    }

    /// Whether a ping, a pong or a part of a message may be acted on now: what WebSocket says for itself costs nearly as much
    /// as a frame, is needed now and then, and is said by nobody a hundred times a second. If not, it is counted, and
    /// [`Pass::wait_to_chat`] says when.
    pub(crate) fn chat(&self) -> Result<(), TooSoon> {
        self.check_chat().inspect_err(|soon| self.tenant.metrics.refused.inc(soon.limit))
    }

    /// Waits until it may be acted on.
    pub(crate) async fn wait_to_chat(&self, soon: TooSoon) {
        Self::wait_until(soon, || self.check_chat()).await;
    }

    async fn wait_until(mut soon: TooSoon, check: impl Fn() -> Result<(), TooSoon>) {
        loop {
            sleep(soon.wait.min(LONGEST_WAIT)).await;
            match check() {
                Ok(()) => return,
                Err(again) => soon = again,
            }
        }
    }

    fn check_chat(&self) -> Result<(), TooSoon> {
        let now = Moment::look();
        match self.frames.check_n(CHAT) {
            Ok(checked) => {
                checked.map_err(|until| TooSoon { limit: Limit::ClientFrames, wait: until.wait_time_from(now) })
            }
            // Larger than the bucket, which somebody made small.
            Err(_) => Ok(()),
        }
    }

    fn check(&self, bytes: usize) -> Result<(), TooSoon> {
        let bytes = NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let now = Moment::look();
        let soon = |limit| move |until: governor::NotUntil<_>| TooSoon { limit, wait: until.wait_time_from(now) };
        self.frames.check().map_err(soon(Limit::ClientFrames))?;
        self.tenant.frames.check().map_err(soon(Limit::TenantFrames))?;
        match self.tenant.bytes.check_n(bytes) {
            Ok(checked) => checked.map_err(soon(Limit::TenantBytes)),
            // Larger than the bucket: the configuration was checked for room for any frame.
            Err(_) => Ok(()),
        }
    }

    /// Whether one more message may be published, besides the frame that it came in. Refused ones are counted.
    pub(crate) fn publish(&self) -> Result<(), Limit> {
        Moment::look();
        let Limits { publish_per_second, publish_burst, .. } = *self.tenant.limits;
        let own = self.publishes.get_or_init(|| Box::new(bucket(publish_per_second, publish_burst)));
        let own = own.check().map_err(|_| Limit::Publishes);
        let checked = own.and_then(|()| self.tenant.publishes.check().map_err(|_| Limit::TenantPublishes));
        checked.inspect_err(|limit| self.tenant.metrics.refused.inc(*limit))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let tenant = &self.tenant;
        if tenant.connections.fetch_sub(1, Relaxed) == 1 {
            // Somebody may have come since; nobody comes while the entry is locked.
            tenant.tenants.remove_if(&tenant.id, |_, tenant| tenant.connections.load(Relaxed) == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: NonZeroU32 = NonZeroU32::MAX;
    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn rates(change: impl FnOnce(&mut Limits)) -> Rates {
        let mut limits = Limits { client_connect_burst: MANY, ..Limits::default() };
        change(&mut limits);
        Rates::new(&limits, Arc::default())
    }

    fn tenant(n: u8) -> TenantId {
        TenantId([n; 16])
    }

    #[test]
    fn a_client_that_comes_again_and_again_is_stopped_and_its_tenant_is_not() {
        let rates = rates(|limits| (limits.client_connects_per_second, limits.client_connect_burst) = (ONE, ONE));
        assert!(rates.enter(tenant(1), [1; 16]).is_ok());
        assert_eq!(rates.enter(tenant(1), [1; 16]).unwrap_err(), Limit::ClientConnects);
        assert!(rates.enter(tenant(1), [2; 16]).is_ok());
        assert_eq!(rates.metrics.refused.of(Limit::ClientConnects).get(), 1);
    }

    #[test]
    fn a_tenant_whose_clients_all_come_at_once_keeps_no_other_tenant_out() {
        let rates = rates(|limits| (limits.tenant_connects_per_second, limits.tenant_connect_burst) = (ONE, ONE));
        assert!(rates.enter(tenant(1), [1; 16]).is_ok());
        assert_eq!(rates.enter(tenant(1), [2; 16]).unwrap_err(), Limit::TenantConnects);
        assert!(rates.enter(tenant(2), [3; 16]).is_ok());
    }

    #[test]
    fn a_tenant_has_so_many_connections_and_another_when_one_has_gone() {
        let rates = rates(|limits| limits.tenant_connections = ONE);
        let first = rates.enter(tenant(1), [1; 16]).unwrap();
        assert_eq!(rates.enter(tenant(1), [2; 16]).unwrap_err(), Limit::TenantConnections);
        assert!(rates.enter(tenant(2), [3; 16]).is_ok());
        drop(first);
        assert!(rates.enter(tenant(1), [2; 16]).is_ok());
        assert!(rates.tenants.is_empty(), "nothing is kept of tenants that have left");
    }

    #[test]
    fn one_connection_and_one_tenant_each_send_so_much() {
        let rates = rates(|limits| {
            (limits.client_frames_per_second, limits.client_frame_burst) = (ONE, NonZeroU32::new(3).unwrap());
            (limits.tenant_frames_per_second, limits.tenant_frame_burst) = (ONE, NonZeroU32::new(5).unwrap());
        });
        let (a, b, other) = (
            rates.enter(tenant(1), [1; 16]).unwrap(),
            rates.enter(tenant(1), [2; 16]).unwrap(),
            rates.enter(tenant(2), [3; 16]).unwrap(),
        );
        let sent = |pass: &Pass| (0..4).map(|_| pass.frame(100).map_err(|soon| soon.limit)).collect::<Vec<_>>();
        assert_eq!(sent(&a), [Ok(()), Ok(()), Ok(()), Err(Limit::ClientFrames)]);
        assert_eq!(sent(&b), [Ok(()), Ok(()), Err(Limit::TenantFrames), Err(Limit::ClientFrames)]);
        assert_eq!(sent(&other)[..3], [Ok(()), Ok(()), Ok(())]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_too_fast_is_slowed_and_loses_nothing() {
        let rates = rates(|limits| {
            (limits.client_frames_per_second, limits.client_frame_burst) = (NonZeroU32::new(1_000).unwrap(), ONE);
        });
        let pass = rates.enter(tenant(1), [1; 16]).unwrap();
        for _ in 0..20 {
            if let Err(soon) = pass.frame(100) {
                pass.wait(100, soon).await;
            }
        }
        assert!(rates.metrics.refused.of(Limit::ClientFrames).get() >= 1);
    }

    #[test]
    fn every_idle_connection_has_one_so_it_is_small() {
        assert!(size_of::<Pass>() <= 56, "{}", size_of::<Pass>());
    }

    #[test]
    fn a_tenants_bytes_and_messages_are_bounded_too() {
        let rates = rates(|limits| {
            (limits.tenant_bytes_per_second, limits.tenant_byte_burst) = (ONE, NonZeroU32::new(8_192).unwrap());
            (limits.publish_per_second, limits.publish_burst) = (ONE, NonZeroU32::new(2).unwrap());
            (limits.tenant_publishes_per_second, limits.tenant_publish_burst) = (ONE, NonZeroU32::new(3).unwrap());
        });
        let (a, b) = (rates.enter(tenant(1), [1; 16]).unwrap(), rates.enter(tenant(1), [2; 16]).unwrap());
        let sent =
            [(&a, 8_000), (&b, 0), (&b, 8_000)].map(|(pass, bytes)| pass.frame(bytes).map_err(|soon| soon.limit));
        assert_eq!(sent, [Ok(()), Ok(()), Err(Limit::TenantBytes)]);
        let published = [&a, &a, &a, &b, &b].map(Pass::publish);
        assert_eq!(published, [Ok(()), Ok(()), Err(Limit::Publishes), Ok(()), Err(Limit::TenantPublishes)]);
    }

    #[test]
    fn somebody_with_many_certificates_fills_no_memory() {
        let rates = rates(|limits| limits.clients_tracked = 10);
        for n in 0..1_000_u32 {
            let mut client = [0; 16];
            client[..4].copy_from_slice(&n.to_be_bytes());
            let _ = rates.enter(tenant(1), client);
        }
        assert!(rates.clients_coming.len() <= 10);
    }
}
