//! The relay from inside, one room at a time and with no edge before it: so that benches measure what a room costs.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, TcpListener, TcpStream},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt;
use gatepass_protocol::{
    frame::Frame,
    ids::{DeviceId, Serial, TenantId},
    testing::NOW,
};

use super::{Tenancy, hasty};
use crate::{
    Memory,
    auth::Standing,
    core::Core,
    metrics::{Label, Limit},
    outbox::Outbox,
    peer::{Identity, Principal},
    rates,
    session::Session,
    upgrade::{Asked, ask, switching},
    wire::{WireReader, wire},
};

/// A relay to which nobody can connect; clients are put into it.
pub struct Inside(Arc<Core>);

/// A client of it that authenticated: a session, its socket, and the socket's far end.
pub struct Client {
    session: Session,
    far: TcpStream,
    _reader: WireReader,
}

/// What a connection may ask for.
pub struct Pass(rates::Pass);

/// Whose connection a client's is where it does not matter whose: a device of this number.
pub fn device(tenant: TenantId, number: u8) -> Identity {
    let principal = Principal::Device(DeviceId([number; 16]));
    Identity { tenant, principal, certificate: Serial([number; 16]), standing: Standing::default() }
}

impl Inside {
    /// A relay with these tenants, alone in its region.
    pub async fn new(tenancy: Arc<Tenancy>) -> Self {
        let mut config = hasty();
        config.limits.tenant_bytes_per_minute = NonZeroU32::MAX;
        let alone = Memory::new(std::time::Duration::from_secs(60));
        let core = Core::new(config, tenancy, |sink, _| alone.join(sink), Arc::new(|| NOW));
        core.learn_secret().await;
        Self(core)
    }

    /// Whether a socket from there is let in. It is gone at once.
    pub fn admits(&self, from: IpAddr) -> bool {
        self.0.admission.in_time(from).and_then(|()| self.0.admission.admit()).is_ok()
    }

    /// The answer to a socket's first request, where that is for a WebSocket and here as a whole.
    pub fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut unread = request;
        match ask(&mut unread, request.len()).now_or_never()? {
            Ok(Asked::WebSocket { accept, .. }) => Some(switching(&accept)),
            _ => None,
        }
    }

    /// A ticket and its secret for whoever authenticated.
    pub fn ticket(&self, identity: &Identity) -> Option<(Bytes, [u8; 32])> {
        let issued = self.0.tickets()?.issue(identity, self.0.now());
        Some((issued.ticket.into(), issued.secret))
    }

    /// Who comes back with a ticket.
    pub fn returned(&self, ticket: &[u8], relay: &str, mac: &[u8; 32], nonce: &[u8; 32]) -> Option<Identity> {
        self.0.returned(ticket, relay, mac, nonce)
    }

    /// The pass of somebody who comes; `None` where he comes too often.
    pub fn pass(&self, identity: &Identity) -> Option<Pass> {
        self.0.admission.rates.enter(identity.tenant, identity.client()).ok().map(Pass)
    }

    /// Lets a client in over a socket of this machine.
    pub async fn client(&self, identity: Identity) -> io::Result<Client> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let far = TcpStream::connect(listener.local_addr()?)?;
        let near = listener.accept()?.0;
        far.set_nonblocking(true)?;
        near.set_nonblocking(true)?;
        near.set_nodelay(true)?;
        let (reader, writer) = wire(tokio::net::TcpStream::from_std(near)?, None);
        let core = &self.0;
        let refused = |limit: Limit| io::Error::other(limit.text());
        let pass = core.admission.rates.enter(identity.tenant, identity.client()).map_err(refused)?;
        let account = core.quotas.enter(identity.tenant).await.map_err(refused)?;
        let outbox = Outbox::new(core.bounds(), core.metrics.clone(), writer);
        let session = Session::begin(core.clone(), identity, outbox, pass, account);
        let session = session.map_err(|_| io::Error::other("the relay is going down"))?;
        Ok(Client { session, far, _reader: reader })
    }

    /// How many messages of channels were handed to a socket so far.
    pub fn delivered(&self) -> u64 {
        self.0.metrics.delivered.get()
    }
}

impl Pass {
    /// Whether a frame of so many bytes may be acted on.
    pub fn frame(&self, bytes: usize) -> bool {
        self.0.frame(bytes).is_ok()
    }

    /// Whether a message may be published.
    pub fn publish(&self) -> bool {
        self.0.publish().is_ok()
    }
}

impl Client {
    /// Has the relay act on a frame that came from this client as these bytes. False where it is none, or comes too soon.
    pub async fn say(&self, bytes: Bytes) -> bool {
        let in_time = self.session.pass.frame(bytes.len()).is_ok() && self.session.account.frame(bytes.len());
        match Frame::decode(&bytes) {
            Ok(frame) if in_time => {
                self.session.handle(frame, bytes).await;
                true
            }
            _ => false,
        }
    }

    /// Takes what its socket was sent so far.
    pub fn heard(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        match self.far.read_to_end(&mut all) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(all),
            read => read.map(|_| all),
        }
    }
}
