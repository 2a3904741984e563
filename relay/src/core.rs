//! What all connections of one relay share.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    frame::Frame,
    ids::{Rid, TenantId},
    presence::Who,
};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{
    Clock,
    admission::Admission,
    auth::Tenants,
    backplane::{Backplane, Event, Position, Refusal, Side, Sink, Topic},
    config::Config,
    hub::Hub,
    mailbox::Mailbox,
    metrics::{End, Metrics, Ticket},
    outbox::{Bounds, Outbox},
    peer::{Identity, Peer},
    presence::Lists,
    quotas::Quotas,
    stream::Streams,
    ticket::{self, Issued, Tickets},
    websocket::Packet,
    wheel::{Due, Wheel},
};

/// One relay node.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tenants: Arc<dyn Tenants>,
    pub(crate) plane: Arc<dyn Backplane>,
    pub(crate) hub: Hub,
    pub(crate) mailbox: Mailbox,
    pub(crate) lists: Lists,
    pub(crate) quotas: Quotas,
    pub(crate) admission: Admission,
    pub(crate) wheel: Wheel,
    pub(crate) streams: Arc<Streams>,
    /// Once the region's secret is known.
    tickets: OnceLock<Tickets>,
    clock: Clock,
    peers: DashMap<u64, Arc<Peer>>,
    next_peer: AtomicU64,
    draining: AtomicBool,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        tenants: Arc<dyn Tenants>,
        join: impl FnOnce(Weak<dyn Sink>, Arc<Metrics>) -> Arc<dyn Backplane>,
        clock: Clock,
    ) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        Arc::new_cyclic(|this: &Weak<Core>| {
            let plane = join(this.clone(), metrics.clone());
            Core {
                quotas: Quotas::new(plane.clone(), &config.limits, metrics.clone()),
                streams: Streams::new(plane.name(), metrics.clone()),
                plane,
                lists: Lists::default(),
                hub: Hub::new(metrics.clone()),
                mailbox: Mailbox::new(Duration::from_secs(config.pairing.ttl_seconds.into()), metrics.clone()),
                admission: Admission::new(&config.limits, metrics.clone()),
                wheel: Wheel::default(),
                tickets: OnceLock::new(),
                clock,
                peers: DashMap::new(),
                next_peer: AtomicU64::new(1),
                draining: AtomicBool::new(false),
                config,
                metrics,
                tenants,
            }
        })
    }

    /// The clock, in Unix seconds.
    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// A random number from 0 up to 1, to keep crowds out of step.
    pub(crate) fn fraction(&self) -> f64 {
        // The seed of a hash map: not to be guessed from outside, and without asking the kernel each time.
        (RandomState::new().hash_one(()) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// The bounds of a connection's queues.
    pub(crate) fn bounds(&self) -> Bounds {
        let limits = &self.config.limits;
        Bounds { bytes: limits.queue_bytes, messages: limits.queue_messages, presence: limits.presence_messages }
    }

    /// Registers an authenticated connection; as an error, once the relay is going down, one that is not registered.
    pub(crate) fn welcome(&self, identity: Identity, outbox: Outbox) -> Result<Arc<Peer>, Arc<Peer>> {
        let peer = Arc::new(Peer::new(self.next_peer.fetch_add(1, Relaxed), identity, outbox));
        self.peers.insert(peer.id, peer.clone());
        // Looked at after inserting: either the drain sees this peer, or this sees the drain.
        if self.is_draining() {
            self.peers.remove(&peer.id);
            return Err(peer);
        }
        self.plane.presence(peer.identity.tenant, peer.identity.who(), true);
        Ok(peer)
    }

    /// Learns the secret that the region's relays share. Until then there are no tickets, and no streams of events.
    pub(crate) async fn learn_secret(&self) {
        const AGAIN: Duration = Duration::from_secs(1);
        loop {
            match self.plane.secret().await {
                Ok(secret) => {
                    self.streams.learn(&secret);
                    return drop(self.tickets.set(Tickets::new(&secret)));
                }
                Err(refusal) => debug!(%refusal, "no tickets yet"),
            }
            sleep(AGAIN).await;
        }
    }

    /// What makes and takes tickets, once it is there.
    pub(crate) fn tickets(&self) -> Option<&Tickets> {
        self.tickets.get()
    }

    /// Something for a connection to come back with, where it has none of this hour.
    pub(crate) fn ticket_for(&self, peer: &Peer) -> Option<Packet> {
        let now = self.now();
        let tickets = self.tickets()?;
        if peer.ticket_of.load(Relaxed) >= ticket::period(now) {
            return None;
        }
        let Issued { ticket, secret, period } = tickets.issue(&peer.identity, now);
        peer.ticket_of.store(period, Relaxed);
        self.metrics.tickets.inc(Ticket::Issued);
        Some(Packet::binary(&Frame::Ticket { ticket: ticket.into(), secret }.encode()))
    }

    /// Who comes back with a ticket, if it is good and its certificate still is.
    pub(crate) fn returned(&self, ticket: &[u8], relay: &str, mac: &[u8; 32], nonce: &[u8; 32]) -> Option<Identity> {
        let names = &self.config.edge.names;
        let taken = self.tickets().and_then(|tickets| tickets.take(ticket, relay, mac, nonce, names, self.now()));
        let identity = taken.filter(|identity| self.still_stands(identity));
        self.metrics.tickets.inc(if identity.is_some() { Ticket::Taken } else { Ticket::Refused });
        identity
    }

    /// Pings a connection from now on, and ends it when it no longer answers or may no longer be here.
    pub(crate) fn watch(&self, peer: &Peer) {
        // It has just authenticated; a relay that runs for days must not take one that says nothing yet for one long gone.
        peer.heard.store(self.wheel.now(), Relaxed);
        // The first time after a random part, so that a crowd that came at once does not stay in step.
        let first = f64::from(self.config.limits.ping_seconds.get()) * self.fraction();
        self.wheel.after(first as u32, peer.id, Due::Beat);
    }

    /// Looks at a connection whose second has come.
    fn look_at(&self, id: u64, due: Due) {
        let Some(peer) = self.peers.get(&id).map(|found| found.clone()) else { return };
        let limits = &self.config.limits;
        match due {
            Due::Stall => {
                let Some(blocked) = peer.outbox.blocked_since() else { return };
                if blocked.elapsed() >= Duration::from_secs(limits.write_seconds.get().into()) {
                    peer.outbox.end(End::Stalled);
                } else {
                    self.wheel.after(1, id, Due::Stall);
                }
            }
            Due::Beat => {
                let quiet = self.wheel.now().saturating_sub(peer.heard.load(Relaxed));
                if quiet >= limits.idle_seconds.get() {
                    peer.outbox.end(End::Idle);
                } else if !self.still_stands(&peer.identity) {
                    peer.outbox.end(End::Revoked);
                } else if peer.outbox.push(Packet::ping()) {
                    if let Some(ticket) = self.ticket_for(&peer) {
                        peer.outbox.push(ticket);
                    }
                    self.wheel.after(limits.ping_seconds.get(), id, Due::Beat);
                }
            }
        }
    }

    /// What nobody needs any more and is still there: connections, pairings, channels.
    #[cfg(test)]
    pub(crate) fn left_behind(&self) -> [usize; 3] {
        [self.peers.len(), self.mailbox.len(), self.hub.len()]
    }

    /// Takes a connection out of everything.
    pub(crate) fn forget(self: &Arc<Self>, peer: &Peer) {
        self.peers.remove(&peer.id);
        self.mailbox.forget(peer);
        self.plane.presence(peer.identity.tenant, peer.identity.who(), false);
        self.lists.unsubscribe(&peer.identity.tenant, peer);
        let topics = self.hub.forget(peer);
        if topics.is_empty() {
            return;
        }
        let core = self.clone();
        // The end of a connection can't wait for the backplane. Without a runtime the whole process is at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for topic in topics {
                    let _ = core.hub.settle(core.plane.as_ref(), topic).await;
                }
            });
        }
    }

    /// Whether a connection's certificate is still good.
    pub(crate) fn still_stands(&self, identity: &Identity) -> bool {
        let trust = self.tenants.trust(&identity.tenant);
        trust.is_some_and(|trust| identity.standing.holds(&trust, self.now()))
    }

    /// Ends the connections of a tenant whose certificates are no longer good.
    pub(crate) fn recheck(&self, tenant: &TenantId) {
        let of_tenant = self.peers.iter().filter(|peer| peer.identity.tenant == *tenant);
        let peers: Vec<Arc<Peer>> = of_tenant.map(|peer| peer.clone()).collect();
        for peer in peers.into_iter().filter(|peer| !self.still_stands(&peer.identity)) {
            peer.outbox.end(End::Revoked);
        }
    }

    pub(crate) async fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> Result<(), Refusal> {
        self.plane.announce(tenant, bulletin).await
    }

    /// Ends pairings whose time is over and looks at connections whose second has come, until dropped.
    pub(crate) async fn tick(&self) {
        // Short beside a pairing's 90 s, and a walk over a few thousand entries at most.
        const EVERY: Duration = Duration::from_millis(250);
        loop {
            sleep(EVERY).await;
            self.mailbox.expire(Instant::now());
            self.wheel.turn().into_iter().for_each(|(id, due)| self.look_at(id, due));
        }
    }

    /// Lets nobody in any more, tells each client when to come back, and ends the connections spread over the time given.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, SeqCst);
        let spread = Duration::from_secs(self.config.drain.spread_seconds.into());
        let url = Some(self.config.drain.url.clone()).filter(|url| !url.is_empty());
        let mut peers: Vec<Arc<Peer>> = self.peers.iter().map(|peer| peer.clone()).collect();
        // In the order in which they came.
        peers.sort_unstable_by_key(|peer| peer.id);
        let count = peers.len().max(1) as u32;
        for peer in &peers {
            // Away from this relay at once; back at this one not before its successor had time to start.
            let pause = if url.is_some() { 0.0 } else { 1.0 };
            let after_ms = ((pause + self.fraction() * spread.as_secs_f64()) * 1_000.0) as u32;
            peer.send(&Frame::Drain { after_ms, url: url.clone() });
        }
        let begun = Instant::now();
        for (nth, peer) in peers.into_iter().enumerate() {
            tokio::time::sleep_until(begun + spread * nth as u32 / count).await;
            peer.outbox.end(End::Draining);
        }
    }
}

impl Sink for Core {
    fn pairing(&self, rid: Rid, to: Side, event: Event) {
        self.mailbox.deliver(rid, to, event);
    }

    fn message(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32 {
        let delivered = self.hub.deliver(topic, offset, bytes);
        // A new revocation list reaches the connected first, then ends the connections that it names.
        if let Channel::Tenant(tenant) = topic.channel {
            self.recheck(&tenant);
        }
        delivered
    }

    fn refetch(&self, topic: &Topic, now: &Position) {
        self.hub.refetch(topic, now);
        if let Channel::Tenant(tenant) = topic.channel {
            self.recheck(&tenant);
        }
    }

    fn presence(&self, tenant: &TenantId, who: Who, online: bool) {
        self.lists.note(tenant, who, online);
    }

    fn told(&self, note: &Bytes) {
        self.streams.told(&self.plane, note);
    }
}
