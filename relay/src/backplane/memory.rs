//! The backplane of a region with one relay node: everything is in this process, and gone with it.
//!
//! Each pairing and each channel has a lock of its own, held while its sinks are told, so that they are told in the order
//! in which things happened. The maps' own guards are never held meanwhile. Sinks only queue, and never call back.

mod channels;
mod tenants;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use gatepass_protocol::{
    channel::Bulletin,
    frame::MAX_UNACKED,
    ids::{Rid, TenantId},
};
use tokio::time::Instant;

use super::{Backplane, BoxFuture, Event, Holder, Position, Refusal, Resource, Resumed, Side, Sink, Topic, Who};
use crate::locked;
use channels::Subject;
use tenants::Tenants;

/// How long a pairing that is over still answers "expired" rather than "unknown", which tells a person more.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What the nodes of one process share.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    resume_for: Duration,
    pairings: DashMap<Rid, Arc<Mutex<Pairing>>>,
    /// When each pairing may be forgotten, the next one on top.
    forget: Mutex<BinaryHeap<Reverse<(Instant, Rid)>>>,
    topics: DashMap<Topic, Arc<Mutex<Subject>>>,
    /// When each channel that was left may be forgotten, the next one first.
    left: Mutex<VecDeque<(Instant, Topic)>>,
    tenants: Tenants,
    nodes: AtomicU64,
    sinks: DashMap<u64, Weak<dyn Sink>>,
    secret: OnceLock<[u8; 32]>,
}

/// One node's handle.
struct Node {
    id: u64,
    sink: Weak<dyn Sink>,
    shared: Arc<Shared>,
}

struct Pairing {
    tenant: TenantId,
    expires: Instant,
    agent: End,
    device: Option<End>,
}

/// One end of a pairing.
struct End {
    holder: Holder,
    at: Weak<dyn Sink>,
    /// The highest number taken in from this end.
    sent: u32,
    /// What was taken in from it and not acknowledged by the other end, in order.
    kept: VecDeque<Kept>,
    /// A CLAIM that this end is not known to have seen.
    notice: Option<Bytes>,
    closed: bool,
}

struct Kept {
    seq: u32,
    since: Instant,
    frame: Bytes,
}

impl Memory {
    /// An empty backplane, which keeps messages for an end that is away for as long as this.
    pub fn new(resume_for: Duration) -> Self {
        Self(Arc::new(Shared {
            resume_for,
            pairings: DashMap::new(),
            forget: Mutex::default(),
            topics: DashMap::new(),
            left: Mutex::default(),
            tenants: Tenants::default(),
            nodes: AtomicU64::new(0),
            sinks: DashMap::new(),
            secret: OnceLock::new(),
        }))
    }

    /// A node's handle, which tells its sink.
    pub fn join(&self, sink: Weak<dyn Sink>) -> Arc<dyn Backplane> {
        let id = self.0.nodes.fetch_add(1, Relaxed);
        self.0.sinks.insert(id, sink.clone());
        Arc::new(Node { id, sink, shared: self.0.clone() })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.sinks.remove(&self.id);
        self.shared.tenants.left(self.id);
    }
}

impl End {
    fn new(holder: Holder, at: Weak<dyn Sink>) -> Self {
        Self { holder, at, sent: 0, kept: VecDeque::new(), notice: None, closed: false }
    }

    fn tell(&self, rid: Rid, side: Side, event: Event) {
        // A node that is gone is like a socket that is gone: the end comes back and resumes.
        if let Some(sink) = self.at.upgrade() {
            sink.pairing(rid, side, event);
        }
    }

    /// The other end has everything up to here.
    fn acked(&mut self, ack: u32) -> Result<(), Refusal> {
        if ack > self.sent {
            return Err(Refusal::AckAhead { sent: self.sent, got: ack });
        }
        while self.kept.front().is_some_and(|kept| kept.seq <= ack) {
            self.kept.pop_front();
        }
        Ok(())
    }
}

impl Pairing {
    /// This end and the one across, while both are there to talk.
    fn ends(&mut self, from: Side, now: Instant) -> Result<(&mut End, &mut End), Refusal> {
        if now >= self.expires {
            return Err(Refusal::Expired);
        }
        let device = self.device.as_mut().ok_or(Refusal::Unclaimed)?;
        Ok(match from {
            Side::Agent => (&mut self.agent, device),
            Side::Device => (device, &mut self.agent),
        })
    }
}

impl Node {
    fn find(&self, rid: Rid) -> Result<Arc<Mutex<Pairing>>, Refusal> {
        self.shared.pairings.get(&rid).map(|found| found.clone()).ok_or(Refusal::Unknown)
    }

    fn open_now(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> Result<(), Refusal> {
        use dashmap::Entry;
        let now = Instant::now();
        self.forget_old(now);
        let expires = now + ttl;
        match self.shared.pairings.entry(rid) {
            Entry::Occupied(_) => return Err(Refusal::Taken),
            Entry::Vacant(free) => free.insert(Arc::new(Mutex::new(Pairing {
                tenant,
                expires,
                agent: End::new(agent, self.sink.clone()),
                device: None,
            }))),
        };
        locked(&self.shared.forget).push(Reverse((expires + REMEMBERED, rid)));
        Ok(())
    }

    /// Each opening pays for what has passed, so no clock has to tick for it.
    fn forget_old(&self, now: Instant) {
        let due = || {
            let mut forget = locked(&self.shared.forget);
            let Reverse((_, rid)) = forget.peek().copied().filter(|Reverse((when, _))| *when <= now)?;
            forget.pop();
            Some(rid)
        };
        // Never two locks at once.
        while let Some(rid) = due() {
            // The id may have been closed and opened anew since.
            self.shared.pairings.remove_if(&rid, |_, pairing| locked(pairing).expires + REMEMBERED <= now);
        }
    }

    fn claim_now(&self, rid: Rid, tenant: TenantId, device: Holder, frame: Bytes) -> Result<Duration, Refusal> {
        let now = Instant::now();
        let pairing = self.find(rid)?;
        let mut pairing = locked(&pairing);
        if pairing.tenant != tenant {
            return Err(Refusal::Unknown);
        }
        if pairing.device.is_some() {
            return Err(Refusal::Claimed);
        }
        if now >= pairing.expires {
            return Err(Refusal::Expired);
        }
        pairing.device = Some(End::new(device, self.sink.clone()));
        pairing.agent.notice = Some(frame.clone());
        pairing.agent.tell(rid, Side::Agent, Event::Claim(frame));
        Ok(pairing.expires - now)
    }

    fn forward_now(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> Result<(), Refusal> {
        let now = Instant::now();
        let pairing = self.find(rid)?;
        let mut pairing = locked(&pairing);
        let (own, other) = pairing.ends(from, now)?;
        if own.closed || other.closed {
            return Err(Refusal::Expired);
        }
        other.acked(ack)?;
        own.notice = None;
        if seq <= own.sent && seq > 0 {
            return Ok(());
        }
        if seq != own.sent + 1 {
            return Err(Refusal::Gap { expected: own.sent + 1, got: seq });
        }
        if own.kept.len() >= MAX_UNACKED {
            return Err(Refusal::Unacked(own.kept.len()));
        }
        own.sent = seq;
        own.kept.push_back(Kept { seq, since: now, frame: frame.clone() });
        other.tell(rid, from.other(), Event::Forward { seq, frame });
        Ok(())
    }

    fn ack_now(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> Result<(), Refusal> {
        let pairing = self.find(rid)?;
        let mut pairing = locked(&pairing);
        let (own, other) = pairing.ends(from, Instant::now())?;
        other.acked(ack)?;
        own.notice = None;
        other.tell(rid, from.other(), Event::Ack(frame));
        Ok(())
    }

    fn resume_now(&self, rid: Rid, tenant: TenantId, holder: Holder, last_seq: u32) -> Result<Resumed, Refusal> {
        let now = Instant::now();
        let pairing = self.find(rid)?;
        let mut pairing = locked(&pairing);
        if pairing.tenant != tenant {
            return Err(Refusal::Unknown);
        }
        if now >= pairing.expires {
            return Err(Refusal::Expired);
        }
        let left = pairing.expires - now;
        let Pairing { agent, device, .. } = &mut *pairing;
        // Comparing hashes of random tokens leaks nothing that helps to find a token.
        let (side, own, other) = if agent.holder == holder {
            (Side::Agent, agent, device.as_mut())
        } else {
            let device = device.as_mut().filter(|device| device.holder == holder).ok_or(Refusal::ResumeDenied)?;
            (Side::Device, device, Some(agent))
        };
        // Who has a message of the device has seen its CLAIM.
        own.notice = own.notice.take().filter(|_| last_seq == 0);
        let mut missed = Vec::new();
        missed.extend(own.notice.clone().map(Event::Claim));
        match other {
            Some(other) => {
                other.acked(last_seq).map_err(|_| Refusal::ResumeDenied)?;
                let whole = last_seq + other.kept.len() as u32 == other.sent;
                let fresh = other.kept.front().is_none_or(|oldest| now - oldest.since <= self.shared.resume_for);
                if !whole || !fresh {
                    return Err(Refusal::ResumeDenied);
                }
                let kept = other.kept.iter();
                missed.extend(kept.map(|kept| Event::Forward { seq: kept.seq, frame: kept.frame.clone() }));
                missed.extend(other.closed.then_some(Event::Closed));
            }
            None if last_seq > 0 => return Err(Refusal::ResumeDenied),
            None => {}
        }
        own.at = self.sink.clone();
        Ok(Resumed { side, sent: own.sent, missed, left })
    }

    fn close_now(&self, rid: Rid, from: Side) -> Result<(), Refusal> {
        let pairing = self.find(rid)?;
        let mut guard = locked(&pairing);
        let nobody_left = match guard.ends(from, Instant::now()) {
            Ok((own, other)) => {
                own.closed = true;
                if !other.closed {
                    other.tell(rid, from.other(), Event::Closed);
                }
                other.closed
            }
            Err(Refusal::Unclaimed) => true,
            Err(refusal) => return Err(refusal),
        };
        drop(guard);
        if nobody_left {
            self.shared.pairings.remove_if(&rid, |_, found| Arc::ptr_eq(found, &pairing));
        }
        Ok(())
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Backplane for Node {
    fn open(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(self.open_now(rid, tenant, agent, ttl))
    }

    fn claim(
        &self,
        rid: Rid,
        tenant: TenantId,
        device: Holder,
        frame: Bytes,
    ) -> BoxFuture<'_, Result<Duration, Refusal>> {
        ready(self.claim_now(rid, tenant, device, frame))
    }

    fn forward(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(self.forward_now(rid, from, seq, ack, frame))
    }

    fn ack(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(self.ack_now(rid, from, ack, frame))
    }

    fn resume(
        &self,
        rid: Rid,
        tenant: TenantId,
        holder: Holder,
        last_seq: u32,
    ) -> BoxFuture<'_, Result<Resumed, Refusal>> {
        ready(self.resume_now(rid, tenant, holder, last_seq))
    }

    fn close(&self, rid: Rid, from: Side) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(self.close_now(rid, from))
    }

    fn follow(&self, topic: Topic, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        self.follow_now(topic, wanted);
        ready(Ok(()))
    }

    fn position(&self, topic: Topic, since: Option<(u64, u64)>) -> BoxFuture<'_, Result<Position, Refusal>> {
        ready(Ok(self.position_now(topic, since)))
    }

    fn publish(&self, topic: Topic, bytes: Bytes) -> BoxFuture<'_, Result<u32, Refusal>> {
        ready(Ok(self.publish_now(topic, bytes)))
    }

    fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> BoxFuture<'_, Result<(), Refusal>> {
        self.announce_now(tenant, bulletin);
        ready(Ok(()))
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], Refusal>> {
        let mut fresh = [0; 32];
        let secret = getrandom::fill(&mut fresh).map(|()| *self.shared.secret.get_or_init(|| fresh));
        ready(secret.map_err(|_| Refusal::Unavailable))
    }

    fn hold(
        &self,
        tenant: TenantId,
        resource: Resource,
        share: u64,
        limit: u64,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        ready(Ok(self.shared.tenants.hold((tenant, resource), (self.id, &self.sink), share, limit)))
    }

    fn spend(
        &self,
        tenant: TenantId,
        amount: u64,
        limit: u64,
        window: Duration,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        ready(Ok(self.shared.tenants.spend(tenant, amount, limit, window)))
    }

    fn presence(&self, tenant: TenantId, who: Who, online: bool) {
        self.shared.tenants.presence(tenant, who, (self.id, &self.sink), online);
    }

    fn online(&self, tenant: TenantId) -> BoxFuture<'_, Result<Vec<Who>, Refusal>> {
        ready(Ok(self.shared.tenants.online(tenant)))
    }

    fn follow_presence(&self, tenant: TenantId, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        self.shared.tenants.follow(tenant, (self.id, &self.sink), wanted);
        ready(Ok(()))
    }

    fn name(&self) -> u64 {
        self.id
    }

    fn tell(&self, node: u64, note: Bytes) -> BoxFuture<'_, Result<bool, Refusal>> {
        let sink = self.shared.sinks.get(&node).and_then(|sink| sink.upgrade());
        sink.iter().for_each(|sink| sink.told(&note));
        ready(Ok(sink.is_some()))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::conformance;

    #[tokio::test]
    async fn memory_does_what_every_backplane_must() {
        let memory = Memory::new(conformance::RESUME_FOR);
        conformance::run(|sink| std::future::ready(memory.join(sink))).await;
    }

    #[tokio::test]
    async fn a_pairing_nobody_ends_is_forgotten() {
        let memory = Memory::new(Duration::from_secs(60));
        let node = memory.join(Weak::<conformance::Heard>::new());
        tokio::time::pause();
        let holder = Holder { certificate: gatepass_protocol::ids::Serial([1; 16]), token_hash: [1; 32] };
        for n in 0..100 {
            node.open(Rid([n; 16]), TenantId([1; 16]), holder.clone(), Duration::from_secs(90)).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(151)).await;
        node.open(Rid([200; 16]), TenantId([1; 16]), holder, Duration::from_secs(90)).await.unwrap();
        assert_eq!(memory.0.pairings.len(), 1);
        assert_eq!(locked(&memory.0.forget).len(), 1);
    }
}
