//! A relay to test against: on a free port of this machine, with tenants made up for the test.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use gatepass_protocol::testing::Tenant;
//! use gatepass_relay::testing::{Tenancy, TestRelay};
//!
//! let mut tenant = Tenant::new(1);
//! let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
//! let agent = tenant.computer(); // connects to relay.url() with agent.chain and agent.sign
//! relay.stop().await;
//! # }
//! ```

pub mod inside;
pub mod redis;

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use gatepass_protocol::{
    channel::Bulletin,
    frame::RelayAuth,
    ids::TenantId,
    keys::SigningKey,
    signed::{Signed, Unverified},
    statement::Statement,
    testing::NOW,
    trust::TrustStore,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    Clock, Config, Memory, Relay, Tenants,
    backplane::{self, Join},
    config::TlsMode,
    locked, tls,
};

/// Tenants in memory.
#[derive(Debug, Default)]
pub struct Tenancy(Mutex<HashMap<TenantId, Arc<TrustStore>>>);

impl Tenancy {
    /// These tenants.
    pub fn of(trusts: impl IntoIterator<Item = TrustStore>) -> Arc<Self> {
        let trusts = trusts.into_iter().map(|trust| (trust.tenant(), Arc::new(trust)));
        Arc::new(Self(Mutex::new(trusts.collect())))
    }

    /// Puts a signed list in force.
    pub fn accept(&self, tenant: TenantId, list: &Bytes) {
        let mut all = locked(&self.0);
        let trust = all.get_mut(&tenant).unwrap_or_else(|| panic!("the test has no tenant {tenant}"));
        let accepted = Arc::make_mut(trust).accept(list, NOW);
        accepted.unwrap_or_else(|code| panic!("the test's list is not acceptable: {code}"));
    }
}

impl Tenants for Tenancy {
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        locked(&self.0).get(tenant).cloned()
    }
}

/// The answer to a CHALLENGE.
pub fn proof(key: &SigningKey, nonce: [u8; 32], relay: &str) -> Bytes {
    let body = RelayAuth { nonce, relay: relay.to_owned(), time: NOW };
    let signed = Signed::sign(body, key).unwrap_or_else(|error| panic!("a key in memory signs: {error}"));
    signed.bytes().clone()
}

/// The default configuration for clients in a hurry: thousands of a test share one address, and publish as fast as they can.
fn hasty() -> Config {
    let mut config = Config::default();
    let limits = &mut config.limits;
    for burst in [
        &mut limits.accept_burst,
        &mut limits.ip_burst,
        &mut limits.publish_burst,
        &mut limits.client_connect_burst,
        &mut limits.client_frame_burst,
        &mut limits.tenant_connect_burst,
        &mut limits.tenant_frame_burst,
        &mut limits.tenant_publish_burst,
        &mut limits.tenant_byte_burst,
    ] {
        *burst = NonZeroU32::MAX;
    }
    config
}

/// A running relay. Dropping it stops it at once; [`TestRelay::stop`] drains it first.
pub struct TestRelay {
    /// The relay.
    pub relay: Relay,
    /// Its tenants.
    pub tenancy: Arc<Tenancy>,
    address: SocketAddr,
    certificate_pem: Option<String>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    _state: tempfile::TempDir,
}

impl TestRelay {
    /// A relay without TLS, whose clock stands at the fixtures' [`NOW`].
    pub async fn start(tenancy: Arc<Tenancy>) -> Self {
        Self::with(tenancy, |_| {}).await
    }

    /// The same, with another configuration. `edge.listen` may ask for the port of a relay that was there before;
    /// `tls.mode` may be `SelfMade`.
    pub async fn with(tenancy: Arc<Tenancy>, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(tenancy, change, Arc::new(|| NOW)).await
    }

    /// The same, in one region with every other relay on this memory.
    pub async fn sharing(memory: &Memory, tenancy: Arc<Tenancy>, change: impl FnOnce(&mut Config)) -> Self {
        let memory = memory.clone();
        let join: Join = Box::new(move |sink, _| memory.join(sink));
        Self::begin(tenancy, change, Arc::new(|| NOW), Some(join)).await
    }

    /// The same as [`TestRelay::with`], with another clock: [`crate::system_clock`] where real programs connect.
    pub async fn with_clock(tenancy: Arc<Tenancy>, change: impl FnOnce(&mut Config), clock: Clock) -> Self {
        Self::begin(tenancy, change, clock, None).await
    }

    async fn begin(tenancy: Arc<Tenancy>, change: impl FnOnce(&mut Config), clock: Clock, join: Option<Join>) -> Self {
        let state = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let mut config = hasty();
        config.edge.listen.set_port(0);
        config.edge.state_dir = state.path().join("relay");
        config.tls.mode = TlsMode::Off;
        config.drain.spread_seconds = 0;
        change(&mut config);
        config.check().unwrap_or_else(|error| panic!("{error}"));
        let tls = tls::prepare(&config).unwrap_or_else(|error| panic!("{error}"));
        let certificate = tls.as_ref().and_then(|tls| tls.self_made());
        let certificate_pem = certificate.map(|path| fs::read_to_string(path).unwrap_or_default());
        let listen = config.edge.listen;
        let listener =
            TcpListener::bind(listen).await.unwrap_or_else(|error| panic!("can't listen on {listen}: {error}"));
        let address = listener.local_addr().unwrap_or(listen);
        let join = join.unwrap_or_else(|| backplane::prepare(&config).unwrap_or_else(|error| panic!("{error}")));
        let relay = Relay::with_clock(config, tenancy.clone(), join, clock);
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn({
            let relay = relay.clone();
            async move {
                let stopped = async { drop(stopped.await) };
                relay.serve(listener, tls, None, stopped).await;
            }
        });
        Self { relay, tenancy, address, certificate_pem, stop, served, _state: state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients dial, without a path: `ws://127.0.0.1:PORT`, or `wss://` with TLS.
    pub fn url(&self) -> String {
        let scheme = if self.certificate_pem.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}", self.address)
    }

    /// Its self-made certificate, where it has TLS.
    pub fn certificate_pem(&self) -> Option<&str> {
        self.certificate_pem.as_deref()
    }

    /// Puts a tenant's signed list in force and announces it to everybody connected, as the server does.
    pub async fn announce(&self, list: &Bytes) {
        let statement = Unverified::<Statement>::decode(list.clone()).unwrap_or_else(|error| panic!("{error}"));
        let statement = statement.claimed();
        self.tenancy.accept(statement.tenant, list);
        let bulletin = Bulletin::new(statement.kind, statement.epoch, list.clone());
        let announced = self.relay.announce(statement.tenant, bulletin).await;
        announced.unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// Drains it and waits until it is gone.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.served.await;
    }
}
