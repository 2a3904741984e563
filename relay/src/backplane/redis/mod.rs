//! The backplane of a region with several relay nodes: Redis 7 or later (or Valkey), alone, behind Sentinels, or as a cluster.
//!
//! ```text
//!  relay node A                          Redis                              relay node B
//!   Backplane: open, claim, forward --> one Lua script: checks, keeps,
//!     (link: one pipelined connection    and publishes a notice to the
//!      to each master)                   node of the other end  ---------> link -> handoff -> mirror -> Sink
//!   keeper: finds the masters, connects, subscribes, probes each second
//!   mirror: what this node knows of its pairings: sees holes, goes on without Redis, brings Redis up to date
//! ```
//!
//! - **Redis decides.** Each act is one script on keys of one slot, so it is atomic, and one round trip. Time is Redis':
//!   pairings end by their key's own expiry, and the age of a kept message is measured by the server's clock.
//! - **Nothing is lost silently.** Messages and notices are numbered; a node that sees a hole, or that was cut off, or whose
//!   queue from the socket overflowed, asks Redis for what its ends lack. See [`mirror`].
//! - **Without Redis** pairings that exist go on as far as this node reaches: a message for an end that is here is handed over,
//!   one for an end elsewhere is kept until Redis is back. Nothing new begins: it is refused as [`Refusal::Unavailable`].
//!   Statements are announced as soon as Redis is back. Nothing waits longer than the time-out.
//! - **A restart of Redis that lost everything** is an outage like any other: each node brings its ends back.

mod channels;
mod direct;
mod handoff;
mod handover;
mod keeper;
mod keys;
mod link;
mod mirror;
mod notice;
mod pairings;
mod routes;
mod scripts;
mod settings;
mod syncs;
mod tenants;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use gatepass_protocol::{
    channel::Bulletin,
    ids::{Rid, TenantId},
};
use redis::RedisError;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tracing::{error, warn};

pub use self::settings::Settings;
use self::{
    channels::Followed,
    direct::Direct,
    handoff::{Handoff, Received, handoff},
    handover::Due,
    keys::Keys,
    link::{Arg, Failure},
    mirror::Mirror,
    notice::Notice,
    routes::Routes,
    scripts::{Answer, No, Script},
};
use super::{Backplane, BoxFuture, Holder, Position, Refusal, Resource, Resumed, Side, Sink, Topic, Who};
use crate::{locked, metrics::Metrics};

/// Lookups at once after an outage.
const SYNCS: usize = 64;
/// A proof that is older says nothing.
const PROOF: Duration = Duration::from_millis(2_500);
/// Before something is tried again that Redis said not to do just now.
const PAUSE: Duration = Duration::from_millis(20);

/// A node's handle on Redis. Dropping it ends its work.
struct Node {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 3],
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Shared {
    this: Weak<Shared>,
    settings: Settings,
    keys: Keys,
    /// This node's name, new with each start; and as it is written.
    name: u64,
    node: String,
    sink: Weak<dyn Sink>,
    metrics: Arc<Metrics>,
    routes: Routes,
    handoff: Arc<Handoff>,
    /// Something is wrong with a link.
    wake: Arc<Notify>,
    pairings: DashMap<Rid, Arc<Mutex<Mirror>>>,
    topics: DashMap<Topic, Arc<Mutex<Followed>>>,
    /// The newest statement of each kind that was announced here: announced again to a Redis that may have lost it.
    announced: DashMap<(TenantId, u8), Bulletin>,
    /// Whether something of this node counts in a bucket, so that it gives signs of life there.
    signs: Vec<AtomicBool>,
    /// Its shares of tenants' quotas, with their limits.
    shares: DashMap<(TenantId, Resource), (u64, u64)>,
    /// Who is online here, with how many connections.
    here: DashMap<(TenantId, Who), u32>,
    /// Of whom Redis may not know what is so.
    unsaid: Mutex<HashSet<(TenantId, Who)>>,
    /// Tenants of which this node wants to know who is online, and who it thinks is.
    watched: DashMap<TenantId, HashSet<Who>>,
    syncs: Semaphore,
    direct: Direct,
    /// Ends of which Redis is to be told.
    due: Mutex<Due>,
    /// Where other nodes' answers to a [`Notice::Settle`] go.
    settling: Mutex<HashMap<u64, mpsc::Sender<()>>>,
    probes: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    probes_sent: AtomicU64,
    proved: Mutex<Option<Instant>>,
    /// As far as it is known here: given back to a Redis that lost it.
    secret: OnceLock<[u8; 32]>,
}

/// Joins a node to its region's Redis, in the background: until it is reached, the node is not ready.
///
/// Call it inside a Tokio runtime.
pub fn join(settings: Settings, sink: Weak<dyn Sink>, metrics: Arc<Metrics>) -> Arc<dyn Backplane> {
    let (handoff, received) = handoff(settings.queue_messages, settings.queue_bytes, metrics.clone());
    // Without randomness two nodes could share a name; the probe would tell neither, so this node is never ready.
    let (name, node) = getrandom::u64().map(|name| (name, written(name))).unwrap_or_default();
    let shared = Arc::new_cyclic(|this| Shared {
        this: this.clone(),
        keys: Keys::new(&settings.prefix),
        name,
        node,
        sink,
        metrics,
        routes: Routes::new(settings.timeout),
        handoff,
        wake: Arc::default(),
        pairings: DashMap::new(),
        topics: DashMap::new(),
        announced: DashMap::new(),
        signs: tenants::no_signs(),
        shares: DashMap::new(),
        here: DashMap::new(),
        unsaid: Mutex::default(),
        watched: DashMap::new(),
        syncs: Semaphore::new(SYNCS),
        direct: Direct::new(settings.peer_listen, &settings.peer_address),
        due: Mutex::default(),
        settling: Mutex::default(),
        probes: Mutex::default(),
        probes_sent: AtomicU64::new(0),
        proved: Mutex::default(),
        secret: OnceLock::new(),
        settings,
    });
    shared.listen();
    let tasks = [
        tokio::spawn(keeper::keep(Arc::downgrade(&shared))),
        tokio::spawn(receive(Arc::downgrade(&shared), received)),
        tokio::spawn(Shared::tell_redis(Arc::downgrade(&shared))),
    ];
    Arc::new(Node { shared, tasks })
}

fn written(name: u64) -> String {
    format!("{name:016x}")
}

/// Hands on what Redis pushes.
async fn receive(shared: Weak<Shared>, mut received: Received) {
    loop {
        let (batch, hole) = received.next().await;
        let Some(shared) = shared.upgrade() else { return };
        if batch.is_empty() {
            return;
        }
        for push in batch {
            match shared.keys.read(&push.channel) {
                Some(("n", _)) => match Notice::decode(&push.payload) {
                    Some(Notice::Pairing { rid, to, news }) => shared.notice(rid, to, news),
                    Some(Notice::Settle { rid, node, token }) => shared.asked_to_settle(rid, node, token),
                    Some(Notice::Settled(token)) => shared.settled(token),
                    Some(Notice::Probe(token)) => {
                        // Where nobody waits for it any more, it was late.
                        let _ = locked(&shared.probes).remove(&token).map(|probe| probe.send(()));
                    }
                    Some(Notice::Note(note)) => {
                        if let Some(sink) = shared.sink.upgrade() {
                            sink.told(&note);
                        }
                    }
                    None => warn!("a notice of another version was not understood"),
                },
                Some(("c", name)) => shared.message(name, &push.payload),
                Some(("v", tenant)) => shared.presence_news(tenant, &push.payload),
                _ => {}
            }
        }
        if hole {
            warn!("Redis sends faster than this relay takes: looking up what was missed");
            // First mended, then asked: what arrives from here on is heard, what came before is in the answers.
            received.mended();
            shared.sync_buckets(|_| true);
            shared.catch_up_buckets(|_| true);
            shared.ask_presence_later(|_| true);
        }
    }
}

impl Shared {
    /// Runs a script, and again where that is safe, while the time-out allows it.
    async fn call(
        &self,
        bucket: usize,
        script: Script,
        keys: &[String; 2],
        args: &[Arg<'_>],
    ) -> Result<Result<Answer, No>, Refusal> {
        let until = Instant::now() + self.settings.timeout;
        loop {
            let link = self.routes.wait(bucket).await.ok_or(Refusal::Unavailable)?;
            match link.run(script, keys, args).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(self.refuses(&error)),
                Err(Failure::Lost) if !script.repeatable() => return Err(Refusal::Unavailable),
                Err(Failure::Lost | Failure::NotNow) if Instant::now() >= until => return Err(Refusal::Unavailable),
                Err(Failure::Lost | Failure::NotNow) => sleep(PAUSE).await,
            }
        }
    }

    async fn tell_node(&self, node: u64, note: Bytes) -> Result<bool, Refusal> {
        let bucket = Keys::note_bucket(&note);
        let link = self.routes.wait(bucket).await.ok_or(Refusal::Unavailable)?;
        let channel = format!("{}{}", self.keys.notices(bucket), written(node));
        let heard = link.publish(&channel, &Notice::Note(note).encode()).await;
        heard.map(|heard| heard > 0).map_err(|_| Refusal::Unavailable)
    }

    fn refuses(&self, error: &RedisError) -> Refusal {
        error!(%error, "Redis refuses a command: check its version (7 or later), the user's rights and its memory");
        Refusal::Unavailable
    }

    fn proved_now(&self) {
        *locked(&self.proved) = Some(Instant::now());
    }

    fn proof_age(&self) -> Option<Duration> {
        locked(&self.proved).map(|when| when.elapsed())
    }
}

impl Backplane for Node {
    fn open(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.open(rid, tenant, agent, ttl))
    }

    fn claim(
        &self,
        rid: Rid,
        tenant: TenantId,
        device: Holder,
        frame: Bytes,
    ) -> BoxFuture<'_, Result<Duration, Refusal>> {
        Box::pin(self.shared.claim(rid, tenant, device, frame))
    }

    fn forward(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.forward(rid, from, seq, ack, frame))
    }

    fn ack(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.ack(rid, from, ack, frame))
    }

    fn resume(
        &self,
        rid: Rid,
        tenant: TenantId,
        holder: Holder,
        last_seq: u32,
    ) -> BoxFuture<'_, Result<Resumed, Refusal>> {
        Box::pin(self.shared.resume(rid, tenant, holder, last_seq))
    }

    fn close(&self, rid: Rid, from: Side) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.close(rid, from))
    }

    fn follow(&self, topic: Topic, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.follow(topic, wanted))
    }

    fn position(&self, topic: Topic, since: Option<(u64, u64)>) -> BoxFuture<'_, Result<Position, Refusal>> {
        Box::pin(self.shared.position(topic, since))
    }

    fn publish(&self, topic: Topic, bytes: Bytes) -> BoxFuture<'_, Result<u32, Refusal>> {
        Box::pin(self.shared.publish(topic, bytes))
    }

    fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.announce(tenant, bulletin))
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], Refusal>> {
        Box::pin(self.shared.secret())
    }

    fn hold(
        &self,
        tenant: TenantId,
        resource: Resource,
        share: u64,
        limit: u64,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        Box::pin(self.shared.hold(tenant, resource, share, limit))
    }

    fn spend(
        &self,
        tenant: TenantId,
        amount: u64,
        limit: u64,
        window: Duration,
    ) -> BoxFuture<'_, Result<u64, Refusal>> {
        Box::pin(self.shared.spend(tenant, amount, limit, window))
    }

    fn presence(&self, tenant: TenantId, who: Who, online: bool) {
        self.shared.presence(tenant, who, online);
    }

    fn online(&self, tenant: TenantId) -> BoxFuture<'_, Result<Vec<Who>, Refusal>> {
        Box::pin(self.shared.online(tenant))
    }

    fn follow_presence(&self, tenant: TenantId, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.shared.follow_presence(tenant, wanted))
    }

    fn name(&self) -> u64 {
        self.shared.name
    }

    fn tell(&self, node: u64, note: Bytes) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(self.shared.tell_node(node, note))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        let fresh = self.shared.proof_age().is_some_and(|age| age < PROOF);
        Box::pin(std::future::ready(if fresh { Ok(()) } else { Err(Refusal::Unavailable) }))
    }
}
