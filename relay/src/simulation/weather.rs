//! A backplane as Redis lets a relay see it, in front of the memory one: every answer and every notice takes its time, an answer may
//! come before or after the notices of the same moment, and now and then nothing gets through.
//!
//! While a node is cut off, it does as the one in front of Redis does: nothing new begins; messages, acknowledgements and closes of
//! pairings are taken in and passed on when it is back; statements too. What an act did may stand although its answer was lost. What
//! was told meanwhile comes late, and of a channel, where too much was missed, comes the word to fetch anew.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    channel::Bulletin,
    ids::{Rid, TenantId},
};
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use super::{dice::Dice, truth::Truth};
use crate::{
    backplane::{
        Backplane, BoxFuture, Event, Holder, Position, Refusal, Resource, Resumed, Side, Sink, Topic, Who,
        memory::Memory,
    },
    locked,
};

/// One way to the backplane or back, at most, in milliseconds; now and then it takes much longer.
const WAY: usize = 20;
const LONG_WAY: usize = 250;
/// After which an act that does not get through is refused.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Messages of a channel that are still kept for a node that was cut off.
const KEPT: usize = 4;

/// A node's handle.
pub(super) struct Weather {
    inner: Arc<dyn Backplane>,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

struct Shared {
    dice: Mutex<Dice>,
    reached: AtomicBool,
    /// Of the former. A watch channel wakes in a random order.
    changed: Notify,
    /// The process is gone: nothing of it gets anywhere any more.
    dead: AtomicBool,
    deferred: Mutex<BTreeMap<Rid, VecDeque<Deferred>>>,
    announcements: Mutex<Vec<(TenantId, Bulletin)>>,
    told: Mutex<VecDeque<Told>>,
    /// What an end has by a resume here, and is not told again.
    has: Mutex<BTreeMap<(Rid, bool), Has>>,
    news: Notify,
    sink: Weak<dyn Sink>,
    /// Kept alive for the inner node, which holds it weakly.
    relay: OnceLock<Arc<dyn Sink>>,
}

#[derive(Clone)]
enum Deferred {
    Forward(Side, u32, u32, Bytes),
    Ack(Side, u32, Bytes),
    Close(Side),
}

enum Told {
    Pairing(Rid, Side, Event),
    Message(Topic, u64, Bytes),
    Presence(TenantId, Who, bool),
    Note(Bytes),
}

#[derive(Debug, Default)]
struct Has {
    last: u32,
    others: Vec<Event>,
}

/// The inner node's sink: puts by what is to be told.
struct PutBy(Weak<Shared>);

impl PutBy {
    fn put(&self, told: Told) {
        if let Some(shared) = self.0.upgrade() {
            locked(&shared.told).push_back(told);
            shared.news.notify_one();
        }
    }
}

impl Sink for PutBy {
    fn pairing(&self, rid: Rid, to: Side, event: Event) {
        self.put(Told::Pairing(rid, to, event));
    }

    fn message(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32 {
        self.put(Told::Message(*topic, offset, bytes.clone()));
        1
    }

    fn refetch(&self, _: &Topic, _: &Position) {}

    fn presence(&self, tenant: &TenantId, who: Who, online: bool) {
        self.put(Told::Presence(*tenant, who, online));
    }

    fn told(&self, note: &Bytes) {
        self.put(Told::Note(note.clone()));
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Weather {
    pub(super) fn join(memory: &Memory, sink: Weak<dyn Sink>, dice: Dice, truth: Arc<Truth>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            dice: Mutex::new(dice),
            reached: AtomicBool::new(true),
            changed: Notify::new(),
            dead: AtomicBool::new(false),
            deferred: Mutex::default(),
            announcements: Mutex::default(),
            told: Mutex::default(),
            has: Mutex::default(),
            news: Notify::new(),
            sink,
            relay: OnceLock::new(),
        });
        let relay: Arc<dyn Sink> = Arc::new(PutBy(Arc::downgrade(&shared)));
        let inner = memory.join(Arc::downgrade(&relay));
        let _ = shared.relay.set(relay);
        let tasks = [
            tokio::spawn(tell(shared.clone(), inner.clone())),
            tokio::spawn(pass_on(shared.clone(), inner.clone(), truth)),
        ];
        Arc::new(Self { inner, shared, tasks })
    }

    /// Cuts the node off, or not any more.
    pub(super) fn cut_off(&self, cut: bool) {
        self.shared.reached.store(!cut, SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Whether the process is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.shared.dead.load(SeqCst)
    }

    /// The process is gone.
    pub(super) fn die(&self) {
        self.shared.dead.store(true, SeqCst);
    }

    fn get_through<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce() -> BoxFuture<'a, Result<T, Refusal>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Refusal>> {
        Box::pin(async move {
            self.shared.one_way().await;
            if !self.shared.is_reached() {
                sleep(TIMEOUT).await;
                return Err(Refusal::Unavailable);
            }
            let done = act().await;
            self.shared.one_way().await;
            if self.shared.is_reached() { done } else { Err(Refusal::Unavailable) }
        })
    }

    /// In order: not before what waits already.
    fn pass(&self, rid: Rid, step: Deferred) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.shared.one_way().await;
            if !self.shared.is_reached() || locked(&self.shared.deferred).contains_key(&rid) {
                return self.shared.defer(rid, step);
            }
            let done = step.clone().take(self.inner.as_ref(), rid).await;
            self.shared.one_way().await;
            if self.shared.is_reached() { done } else { self.shared.defer(rid, step) }
        })
    }
}

impl Shared {
    fn is_reached(&self) -> bool {
        self.reached.load(SeqCst) && !self.dead.load(SeqCst)
    }

    async fn one_way(&self) {
        let time = {
            let mut dice = locked(&self.dice);
            let most = if dice.percent(10) { LONG_WAY } else { WAY };
            dice.up_to_ms(most)
        };
        sleep(time).await;
    }

    fn defer(&self, rid: Rid, step: Deferred) -> Result<(), Refusal> {
        locked(&self.deferred).entry(rid).or_default().push_back(step);
        Ok(())
    }

    fn resumed(&self, rid: Rid, last_seq: u32, back: &Resumed) {
        let mut has = Has { last: last_seq, others: vec![] };
        for event in &back.missed {
            match event {
                Event::Forward { seq, .. } => has.last = *seq,
                other => has.others.push(other.clone()),
            }
        }
        locked(&self.has).insert((rid, back.side == Side::Agent), has);
    }

    /// Whether it is news to an end.
    fn is_news(&self, rid: Rid, to: Side, event: &Event) -> bool {
        let all = locked(&self.has);
        let Some(has) = all.get(&(rid, to == Side::Agent)) else { return true };
        match event {
            Event::Forward { seq, .. } => *seq > has.last,
            other => !has.others.contains(other),
        }
    }

    async fn is_back(&self) {
        while !self.is_reached() {
            self.changed.notified().await;
        }
    }
}

impl Deferred {
    async fn take(self, plane: &dyn Backplane, rid: Rid) -> Result<(), Refusal> {
        match self {
            Deferred::Forward(from, seq, ack, frame) => plane.forward(rid, from, seq, ack, frame).await,
            Deferred::Ack(from, ack, frame) => plane.ack(rid, from, ack, frame).await,
            Deferred::Close(from) => plane.close(rid, from).await,
        }
    }

    fn from(&self) -> Side {
        match self {
            Deferred::Forward(from, ..) | Deferred::Ack(from, ..) | Deferred::Close(from) => *from,
        }
    }
}

impl fmt::Display for Deferred {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deferred::Forward(from, seq, ack, _) => write!(out, "{from:?} said {seq}, has {ack}"),
            Deferred::Ack(from, ack, _) => write!(out, "{from:?} has {ack}"),
            Deferred::Close(from) => write!(out, "{from:?} closed"),
        }
    }
}

/// Tells the relay what the backplane told, in its order.
async fn tell(shared: Arc<Shared>, inner: Arc<dyn Backplane>) {
    loop {
        let Some(told) = locked(&shared.told).pop_front() else {
            shared.news.notified().await;
            continue;
        };
        shared.one_way().await;
        let was_cut_off = !shared.is_reached();
        shared.is_back().await;
        let Some(sink) = shared.sink.upgrade() else { return };
        match told {
            Told::Pairing(rid, to, event) if shared.is_news(rid, to, &event) => sink.pairing(rid, to, event),
            Told::Pairing(..) => {}
            Told::Presence(tenant, who, online) => sink.presence(&tenant, who, online),
            Told::Note(note) => sink.told(&note),
            Told::Message(topic, offset, bytes) => {
                let missed = |told: &Told| matches!(told, Told::Message(of, ..) if *of == topic);
                let too_many = was_cut_off && locked(&shared.told).iter().filter(|told| missed(told)).count() >= KEPT;
                if !too_many {
                    sink.message(&topic, offset, &bytes);
                    continue;
                }
                if let Ok(now) = inner.position(topic, None).await {
                    locked(&shared.told).retain(
                        |told| !matches!(told, Told::Message(of, offset, _) if *of == topic && *offset <= now.offset),
                    );
                    sink.refetch(&topic, &now);
                }
            }
        }
    }
}

/// Passes on what was taken in meanwhile.
async fn pass_on(shared: Arc<Shared>, inner: Arc<dyn Backplane>, truth: Arc<Truth>) {
    loop {
        if shared.is_reached() {
            let announcements = std::mem::take(&mut *locked(&shared.announcements));
            for (tenant, bulletin) in announcements {
                let _ = inner.announce(tenant, bulletin).await;
            }
            loop {
                let next =
                    locked(&shared.deferred).iter().next().and_then(|(rid, all)| Some((*rid, all.front()?.clone())));
                let Some((rid, step)) = next else { break };
                shared.one_way().await;
                if !shared.is_reached() {
                    break;
                }
                let from = step.from();
                let what = step.to_string();
                let done = step.take(inner.as_ref(), rid).await;
                truth.event(&format!("{rid:?}: {what}, late: {done:?}"));
                let mut deferred = locked(&shared.deferred);
                if let Some(all) = deferred.get_mut(&rid) {
                    all.pop_front();
                    if all.is_empty() {
                        deferred.remove(&rid);
                    }
                }
                drop(deferred);
                // What can't be brought any more is over for whoever said it, once it has heard the rest.
                if matches!(done, Err(Refusal::Unknown | Refusal::Expired)) {
                    locked(&shared.told).push_back(Told::Pairing(rid, from, Event::Closed));
                    shared.news.notify_one();
                }
            }
        }
        shared.changed.notified().await;
    }
}

impl Backplane for Weather {
    fn open(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        self.get_through(move || self.inner.open(rid, tenant, agent, ttl))
    }

    fn claim(
        &self,
        rid: Rid,
        tenant: TenantId,
        device: Holder,
        frame: Bytes,
    ) -> BoxFuture<'_, Result<Duration, Refusal>> {
        self.get_through(move || self.inner.claim(rid, tenant, device, frame))
    }

    fn forward(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        self.pass(rid, Deferred::Forward(from, seq, ack, frame))
    }

    fn ack(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        self.pass(rid, Deferred::Ack(from, ack, frame))
    }

    fn resume(
        &self,
        rid: Rid,
        tenant: TenantId,
        holder: Holder,
        last_seq: u32,
    ) -> BoxFuture<'_, Result<Resumed, Refusal>> {
        self.get_through(move || {
            Box::pin(async move {
                let back = self.inner.resume(rid, tenant, holder, last_seq).await?;
                self.shared.resumed(rid, last_seq, &back);
                Ok(back)
            })
        })
    }

    fn close(&self, rid: Rid, from: Side) -> BoxFuture<'_, Result<(), Refusal>> {
        self.pass(rid, Deferred::Close(from))
    }

    fn follow(&self, topic: Topic, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        if !wanted {
            return self.inner.follow(topic, false);
        }
        self.get_through(move || self.inner.follow(topic, true))
    }

    fn position(&self, topic: Topic, since: Option<(u64, u64)>) -> BoxFuture<'_, Result<Position, Refusal>> {
        self.get_through(move || self.inner.position(topic, since))
    }

    fn publish(&self, topic: Topic, bytes: Bytes) -> BoxFuture<'_, Result<u32, Refusal>> {
        self.get_through(move || self.inner.publish(topic, bytes))
    }

    fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.shared.one_way().await;
            if !self.shared.is_reached() {
                locked(&self.shared.announcements).push((tenant, bulletin));
                return Ok(());
            }
            self.inner.announce(tenant, bulletin).await
        })
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], Refusal>> {
        self.get_through(|| self.inner.secret())
    }

    fn hold(
        &self,
        tenant: TenantId,
        resource: Resource,
        share: u64,
        limit: u64,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        self.get_through(move || self.inner.hold(tenant, resource, share, limit))
    }

    fn spend(
        &self,
        tenant: TenantId,
        amount: u64,
        limit: u64,
        window: Duration,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        self.get_through(move || self.inner.spend(tenant, amount, limit, window))
    }

    fn presence(&self, tenant: TenantId, who: Who, online: bool) {
        self.inner.presence(tenant, who, online);
    }

    fn online(&self, tenant: TenantId) -> BoxFuture<'_, Result<Vec<Who>, Refusal>> {
        self.get_through(move || self.inner.online(tenant))
    }

    fn follow_presence(&self, tenant: TenantId, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        self.get_through(move || self.inner.follow_presence(tenant, wanted))
    }

    fn name(&self) -> u64 {
        self.inner.name()
    }

    fn tell(&self, node: u64, note: Bytes) -> BoxFuture<'_, Result<bool, Refusal>> {
        self.get_through(move || self.inner.tell(node, note))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(std::future::ready(if self.shared.is_reached() { Ok(()) } else { Err(Refusal::Unavailable) }))
    }
}
