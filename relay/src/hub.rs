//! Channels: which connections of this relay listen to what, and the fan-out to them.
//!
//! A message is encoded once; each subscriber's socket gets the same bytes. A subscriber hears SUBSCRIBED with the channel's
//! place first, then what it missed since the place that it named, or else the newest statement of each kind, then everything
//! from there on, each exactly once: what arrives while it is still joining waits for its turn. Where the backplane has lost
//! something, all hear SUBSCRIBED again, and that it is not complete.
//!
//! Few subscribers are written to at once, by whoever publishes. Many are written to by a task of the channel's own, which
//! lets others work in between, and which takes all that has gathered since its last round as one write to each: the more
//! there is to do, the less each message costs.
//!
//! The backplane is told of a channel when its first subscriber comes and its last one leaves. Both can happen at once, so
//! there is one act, [`Hub::settle`]: make the backplane agree with what is so now.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use bytes::Bytes;
use dashmap::DashMap;
use gatepass_protocol::frame::{Frame, Place};
use tokio::task::yield_now;

use crate::{
    backplane::{Backplane, Position, Refusal, Topic},
    locked,
    metrics::{ChannelResume, End, Held, Metrics},
    peer::Peer,
    websocket::Packet,
};

/// Messages that may wait for a subscriber that is still joining: far more than arrive during one round trip to the
/// backplane.
const MAX_JOINING: usize = 256;
/// With more subscribers than this, the channel's own task writes.
const AT_ONCE: usize = 32;
/// Sockets that it writes to before it lets others work: a quarter of a millisecond.
const STRIDE: usize = 64;
/// Bytes that it writes to a socket at a time.
const BATCH_BYTES: usize = 16 * 1024;
/// Messages that may wait for it. Each round takes all of them, so only a machine that stands still comes here.
const MAX_PENDING: usize = 4_096;

/// In place of an offset: still joining.
const JOINING: u64 = u64::MAX - 1;
/// In place of an offset: not subscribed any more.
const GONE: u64 = u64::MAX;

/// The channels that connections of this relay listen to.
#[derive(Debug)]
pub(crate) struct Hub {
    listened: DashMap<Topic, Arc<Listened>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Listened {
    /// By rising connection number: fan-out walks one piece of memory, and one is found by halving. Who walks it holds the
    /// list as it is; who changes it meanwhile makes a new one.
    subscribers: Mutex<Arc<Vec<Arc<Subscriber>>>>,
    fan_out: Mutex<FanOut>,
    /// Whether the backplane was told; held while telling it.
    followed: tokio::sync::Mutex<bool>,
    _counted: Held,
}

#[derive(Debug, Default)]
struct FanOut {
    pending: Vec<Item>,
    /// The channel's task is at work.
    running: bool,
}

#[derive(Debug)]
struct Subscriber {
    peer: Arc<Peer>,
    /// It hears what is above this offset. Or [`JOINING`], or [`GONE`].
    after: AtomicU64,
    /// What arrived before SUBSCRIBED could be said.
    joining: Mutex<Option<Vec<Item>>>,
}

/// What subscribers are handed.
#[derive(Debug, Clone)]
struct Item {
    offset: u64,
    packet: Packet,
    /// Not the next message: the count begins anew at this place, whatever was heard before.
    anew: Option<Place>,
}

/// Items that go out in one write.
struct Batch {
    each: Vec<Item>,
    all: Packet,
}

impl Batch {
    fn of(each: Vec<Item>) -> Self {
        let all = match each.as_slice() {
            [one] => one.packet.clone(),
            several => Packet::joined(several.iter().map(|item| &item.packet)),
        };
        Self { each, all }
    }

    /// Cuts what has gathered into batches. What begins the count anew is one of its own.
    fn cut(items: Vec<Item>) -> Vec<Self> {
        let mut batches = vec![];
        let (mut each, mut bytes) = (vec![], 0);
        for item in items {
            if item.anew.is_some() && !each.is_empty() {
                batches.push(Self::of(std::mem::take(&mut each)));
            }
            bytes += item.packet.bytes().len();
            let whole = item.anew.is_some() || bytes >= BATCH_BYTES;
            each.push(item);
            if whole {
                batches.push(Self::of(std::mem::take(&mut each)));
                bytes = 0;
            }
        }
        if !each.is_empty() {
            batches.push(Self::of(each));
        }
        batches
    }

    fn offsets(&self) -> (u64, u64) {
        let offset = |item: Option<&Item>| item.map_or(0, |item| item.offset);
        (offset(self.each.first()), offset(self.each.last()))
    }

    fn anew(&self) -> Option<&Item> {
        self.each.first().filter(|item| item.anew.is_some())
    }
}

impl Subscriber {
    /// Hands over a batch; whether it was taken.
    fn hand(&self, batch: &Batch) -> bool {
        let mut after = self.after.load(SeqCst);
        if after == JOINING {
            if let Some(waiting) = locked(&self.joining).as_mut() {
                if waiting.len() + batch.each.len() > MAX_JOINING {
                    self.peer.outbox.end(End::Overflow);
                    return false;
                }
                waiting.extend(batch.each.iter().cloned());
                return true;
            }
            // It has joined in between.
            after = self.after.load(SeqCst);
        }
        if let Some(anew) = batch.anew() {
            // Unless it is not subscribed any more.
            let moved = self.after.fetch_update(SeqCst, SeqCst, |after| (after != GONE).then_some(anew.offset));
            return moved.is_ok() && self.peer.outbox.push(anew.packet.clone());
        }
        let (first, last) = batch.offsets();
        if after < first {
            return self.peer.outbox.push(batch.all.clone());
        }
        let mut new = batch.each.iter().filter(|item| item.offset > after);
        last > after && new.all(|item| self.peer.outbox.push(item.packet.clone()))
    }
}

impl Listened {
    fn subscribers(&self) -> Arc<Vec<Arc<Subscriber>>> {
        locked(&self.subscribers).clone()
    }

    /// The channel's task: hands out until nothing is pending.
    async fn hand_out(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            let pending = {
                let mut fan_out = locked(&self.fan_out);
                fan_out.running = !fan_out.pending.is_empty();
                if !fan_out.running {
                    return;
                }
                std::mem::take(&mut fan_out.pending)
            };
            for batch in Batch::cut(pending) {
                let subscribers = self.subscribers();
                for some in subscribers.chunks(STRIDE) {
                    let taken = some.iter().filter(|subscriber| subscriber.hand(&batch)).count();
                    metrics.delivered.add((taken * batch.each.len()) as u64);
                    yield_now().await;
                }
            }
        }
    }
}

impl Hub {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { listened: DashMap::new(), metrics }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.listened.len()
    }

    /// Subscribes a connection that has the right to, and that has heard the channel up to a place, if it ever did.
    pub(crate) async fn subscribe(
        &self,
        plane: &dyn Backplane,
        topic: Topic,
        peer: &Arc<Peer>,
        since: Option<Place>,
    ) -> Result<(), Refusal> {
        let subscriber = Arc::new(Subscriber {
            peer: peer.clone(),
            after: AtomicU64::new(JOINING),
            joining: Mutex::new(Some(Vec::new())),
        });
        {
            // Inserted under the map's guard, so that the channel is not removed as empty in between.
            let listened = self.listened.entry(topic).or_insert_with(|| self.listened());
            insert(Arc::make_mut(&mut *locked(&listened.subscribers)), subscriber.clone());
        }
        peer.listen(topic);
        let position = match self.settle(plane, topic).await {
            Ok(()) => plane.position(topic, since.map(|Place { epoch, offset }| (epoch, offset))).await,
            Err(refusal) => Err(refusal),
        };
        let position = match position {
            Ok(position) => position,
            Err(refusal) => {
                self.unsubscribe(plane, topic, peer).await;
                return Err(refusal);
            }
        };
        let mut joining = locked(&subscriber.joining);
        let Some(waited) = joining.take() else { return Ok(()) };
        // What would not fit into the queue of a slow reader would only cut it off, again and again.
        let fits = |missed: &&Vec<(u64, Bytes)>| peer.outbox.has_room(missed.iter().map(|(_, bytes)| bytes.len()));
        let missed = position.missed.as_ref().filter(|_| since.is_some()).filter(fits);
        if since.is_some() {
            let outcome = if missed.is_some() { ChannelResume::Complete } else { ChannelResume::Refetch };
            self.metrics.channel_resumes.inc(outcome);
        }
        let complete = since.is_none() || missed.is_some();
        peer.outbox.push(subscribed(&topic, &position, complete, missed.unwrap_or(&position.retained)));
        let mut place = Place { epoch: position.epoch, offset: position.offset };
        for item in waited {
            let known = item.offset <= place.offset;
            let news = match item.anew {
                Some(anew) => anew.epoch != place.epoch || !known,
                None => !known,
            };
            if news {
                place = item.anew.unwrap_or(Place { offset: item.offset, ..place });
                peer.outbox.push(item.packet);
            }
        }
        // From here on, messages come straight; unless it was unsubscribed meanwhile.
        let _ = subscriber.after.compare_exchange(JOINING, place.offset, SeqCst, SeqCst);
        Ok(())
    }

    /// Ends a subscription.
    pub(crate) async fn unsubscribe(&self, plane: &dyn Backplane, topic: Topic, peer: &Peer) {
        peer.ignore(&topic);
        if self.remove(&topic, peer.id) {
            // A backplane that can't be told now sends a little too much until the next one settles the channel.
            let _ = self.settle(plane, topic).await;
        }
    }

    /// Removes a connection from everything at once. Returns the channels that nobody listens to any more, to be settled.
    pub(crate) fn forget(&self, peer: &Peer) -> Vec<Topic> {
        let topics = std::mem::take(&mut *locked(&peer.topics));
        topics.into_iter().filter(|topic| self.remove(topic, peer.id)).collect()
    }

    /// Tells the backplane whether anybody here listens to a channel, if it does not know.
    pub(crate) async fn settle(&self, plane: &dyn Backplane, topic: Topic) -> Result<(), Refusal> {
        let Some(listened) = self.listened.get(&topic).map(|found| found.clone()) else { return Ok(()) };
        let mut followed = listened.followed.lock().await;
        let wanted = !locked(&listened.subscribers).is_empty();
        if wanted != *followed {
            plane.follow(topic, wanted).await?;
            *followed = wanted;
        }
        if !wanted {
            let empty = |listened: &Arc<Listened>| locked(&listened.subscribers).is_empty();
            self.listened.remove_if(&topic, |_, found| Arc::ptr_eq(found, &listened) && empty(found));
        }
        Ok(())
    }

    /// Hands a message to every subscriber here; returns to how many.
    pub(crate) fn deliver(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32 {
        let Some(listened) = self.listened.get(topic).map(|found| found.clone()) else { return 0 };
        let subscribers = listened.subscribers();
        if subscribers.is_empty() {
            return 0;
        }
        self.hand(&listened, &subscribers, Item { offset, packet: message(topic, offset, bytes), anew: None })
    }

    /// Tells every subscriber here that it has missed something, and where the channel is now.
    pub(crate) fn refetch(&self, topic: &Topic, now: &Position) {
        let Some(listened) = self.listened.get(topic).map(|found| found.clone()) else { return };
        let subscribers = listened.subscribers();
        let packet = subscribed(topic, now, false, &now.retained);
        let anew = Some(Place { epoch: now.epoch, offset: now.offset });
        self.metrics.channel_resumes.of(ChannelResume::Refetch).add(subscribers.len() as u64);
        self.hand(&listened, &subscribers, Item { offset: now.offset, packet, anew });
    }

    /// Hands on, now or as soon as its turn comes; returns to how many.
    fn hand(&self, listened: &Arc<Listened>, subscribers: &[Arc<Subscriber>], item: Item) -> u32 {
        // Held meanwhile: one message of a channel after the other.
        let mut fan_out = locked(&listened.fan_out);
        if !fan_out.running && subscribers.len() <= AT_ONCE {
            let batch = Batch::of(vec![item]);
            let taken = subscribers.iter().filter(|subscriber| subscriber.hand(&batch)).count();
            self.metrics.delivered.add(taken as u64);
            return taken as u32;
        }
        fan_out.pending.push(item);
        if fan_out.pending.len() > MAX_PENDING {
            fan_out.pending.clear();
            subscribers.iter().for_each(|subscriber| subscriber.peer.outbox.end(End::Overflow));
            return 0;
        }
        if !std::mem::replace(&mut fan_out.running, true) {
            drop(fan_out);
            tokio::spawn(listened.clone().hand_out(self.metrics.clone()));
        }
        subscribers.len() as u32
    }

    fn listened(&self) -> Arc<Listened> {
        Arc::new(Listened {
            subscribers: Mutex::default(),
            fan_out: Mutex::default(),
            followed: tokio::sync::Mutex::new(false),
            _counted: self.metrics.channels.hold(),
        })
    }

    /// True if nobody is left.
    fn remove(&self, topic: &Topic, id: u64) -> bool {
        let Some(listened) = self.listened.get(topic).map(|found| found.clone()) else { return false };
        let mut subscribers = locked(&listened.subscribers);
        if let Ok(at) = find(&subscribers, id) {
            Arc::make_mut(&mut *subscribers).remove(at).after.store(GONE, SeqCst);
        }
        subscribers.is_empty()
    }
}

fn find(subscribers: &[Arc<Subscriber>], id: u64) -> Result<usize, usize> {
    subscribers.binary_search_by_key(&id, |subscriber| subscriber.peer.id)
}

fn insert(subscribers: &mut Vec<Arc<Subscriber>>, new: Arc<Subscriber>) {
    match find(subscribers, new.peer.id) {
        // Subscribed again: it begins again.
        Ok(at) => std::mem::replace(&mut subscribers[at], new).after.store(GONE, SeqCst),
        Err(at) => subscribers.insert(at, new),
    }
}

fn message(topic: &Topic, offset: u64, bytes: &Bytes) -> Packet {
    Packet::binary(&Frame::Message { channel: topic.channel.to_string(), offset, bytes: bytes.clone() }.encode())
}

/// SUBSCRIBED, with what makes up for the past behind it.
fn subscribed(topic: &Topic, now: &Position, complete: bool, before: &[(u64, Bytes)]) -> Packet {
    let place = Place { epoch: now.epoch, offset: now.offset };
    let (channel, following) = (topic.channel.to_string(), before.len() as u32);
    let first = Packet::binary(&Frame::Subscribed { channel, place, complete, following }.encode());
    let rest: Vec<Packet> = before.iter().map(|(offset, bytes)| message(topic, *offset, bytes)).collect();
    Packet::joined(std::iter::once(&first).chain(&rest))
}
