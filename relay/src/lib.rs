//! The relay: moves small frames between the right two, or ten thousand, sockets, with a bound on everything.
//!
//! ```text
//!  edge          accept, TLS, HTTP: /v1/ws, /v1/events, /v1/send, /health/live, /health/ready, /metrics
//!   upgrade      the one request that nearly every socket makes
//!   forwarded    whose socket it really is, behind a proxy
//!   admission    who may take up its time before it is known who they are (turns: how many at once, and who is next)
//!   rates        what an authenticated client and its tenant may ask for
//!   connection   one task a client: challenge, then frames
//!    line        reads and frames a socket (wire, websocket), or takes POSTs (post, stream)
//!    auth        certificate and proof, or a ticket of an earlier connection
//!    session     what a client's frames do
//!    peer        who it is, what it may, and its outbox: writes (as events: sse), or queues before a busy socket
//!   mailbox      pairings: open, claim, forward, resume
//!   hub          channels: subscribe, fan out
//!  backplane     what must outlive a socket or reach another node
//!  simulation    a test: all of it but edge and auth, in virtual time, on a course that a seed decides
//! ```
//!
//! It can neither read nor forge what it carries. All it knows of a tenant is public: CA keys and signed lists.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use gatepass_relay::{Config, Memory, Relay, Tenants};
//! # async fn run(tenants: Arc<dyn Tenants>, stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::default();
//! let tls = gatepass_relay::tls::prepare(&config)?;
//! let listener = tokio::net::TcpListener::bind(config.edge.listen).await?;
//! let relay = Relay::new(config, tenants, |sink, _| Memory::new(std::time::Duration::from_secs(60)).join(sink));
//! relay.serve(listener, tls, None, stop).await;
//! # Ok(()) }
//! ```

mod acceptor;
mod admission;
pub mod auth;
pub mod backplane;
pub mod config;
mod connection;
mod core;
mod edge;
mod forwarded;
mod hub;
mod line;
mod mailbox;
pub mod metrics;
pub mod outbox;
pub mod peer;
mod post;
mod presence;
mod quotas;
mod rates;
mod session;
#[cfg(test)]
mod simulation;
mod socket;
mod sse;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod ticket;
pub mod tls;
mod turns;
mod upgrade;
pub mod websocket;
mod wheel;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

pub use auth::Tenants;
pub use backplane::memory::Memory;
pub use config::{Config, ConfigError};
pub use edge::Api;
use gatepass_protocol::{channel::Bulletin, ids::TenantId};
pub use metrics::Metrics;
use tokio::net::TcpListener;

use crate::{
    backplane::{Backplane, Refusal, Sink},
    core::Core,
    tls::Tls,
};

/// Tells Unix seconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// One relay node. Clones are handles on the same one.
#[derive(Clone)]
pub struct Relay(Arc<Core>);

impl Relay {
    /// A relay for these tenants. `join` makes its handle on the backplane.
    pub fn new(
        config: Config,
        tenants: Arc<dyn Tenants>,
        join: impl FnOnce(Weak<dyn Sink>, Arc<Metrics>) -> Arc<dyn Backplane>,
    ) -> Self {
        Self::with_clock(config, tenants, join, system_clock())
    }

    /// The same, with another clock for whatever certificates say about time.
    pub fn with_clock(
        config: Config,
        tenants: Arc<dyn Tenants>,
        join: impl FnOnce(Weak<dyn Sink>, Arc<Metrics>) -> Arc<dyn Backplane>,
        clock: Clock,
    ) -> Self {
        Self(Core::new(config, tenants, join, clock))
    }

    /// Serves clients until `shutdown`, then drains: tells each when to come back, and closes them spread over
    /// `drain.spread_seconds`. Requests outside of the relay's paths go to `api`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        api: Option<Api>,
        shutdown: impl Future<Output = ()>,
    ) {
        edge::serve(self.0.clone(), listener, tls, api, true, shutdown).await;
    }

    /// Serves `api`, health and metrics behind the same limits, and no clients: for a control plane whose relays are
    /// elsewhere.
    pub async fn serve_api(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        api: Api,
        shutdown: impl Future<Output = ()>,
    ) {
        edge::serve(self.0.clone(), listener, tls, Some(api), false, shutdown).await;
    }

    /// Publishes a tenant's new policy, revocation or relay list to everybody connected, keeps it for those who come, and
    /// ends connections that it revokes. [`Tenants::trust`] must know it by then.
    pub async fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> Result<(), Refusal> {
        self.0.announce(tenant, bulletin).await?;
        self.0.recheck(&tenant);
        Ok(())
    }

    /// Whether clients are given tickets to come back with, which they are once the backplane has told the region's secret.
    pub fn issues_tickets(&self) -> bool {
        self.0.tickets().is_some()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

/// Nothing of this crate panics with a lock held, and if it did, its data would still be whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
