//! The relays of a region, their clients, and what happens to them: all decided by the seed.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    frame::Frame,
    ids::{ComputerId, DeviceId, Rid, Serial, TenantId},
    statement::Kind,
    trust::TrustStore,
};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    client::{Client, Phase},
    dice::Dice,
    pipe::{Far, pipe},
    truth::Truth,
    weather::Weather,
};
use crate::{
    Config, Tenants,
    auth::Standing,
    backplane::{
        Backplane, Resource, Side,
        memory::Memory,
        quota::{Quota, Taken},
    },
    connection,
    core::Core,
    line::Line,
    locked,
    outbox::Outbox,
    peer::{Identity, Principal},
    session::Session,
};

const TENANT: TenantId = TenantId([1; 16]);
const NODES: usize = 3;
const AGENTS: usize = 3;
const DEVICES: usize = 4;
/// Acts of one course.
const ACTS: usize = 300;
/// Another one, whose quota is given out to the last.
const POOR: TenantId = TenantId([2; 16]);
/// Its quota, for all nodes together.
const LIMIT: u64 = 40;
/// For how long a message is kept for an end that is away.
const RESUME_FOR: Duration = Duration::from_secs(20);
/// After which everything that can be said has been.
const SETTLED: Duration = Duration::from_secs(15);
/// After which nothing is left of those who left.
const LEFT: Duration = Duration::from_secs(3);
/// Longer than a pairing lives, and than it is remembered.
const FORGOTTEN: Duration = Duration::from_secs(180);

/// One tenant, whose certificates all stand.
struct OneTenant(Arc<TrustStore>);

impl Tenants for OneTenant {
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        (*tenant == TENANT).then(|| self.0.clone())
    }
}

/// A relay.
struct Node {
    core: Arc<Core>,
    weather: Arc<Weather>,
    quota: Arc<Quota>,
    taken: Arc<Mutex<Vec<Taken>>>,
    ticks: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
    draining: Option<JoinHandle<()>>,
}

struct World {
    seed: u64,
    dice: Dice,
    truth: Arc<Truth>,
    memory: Memory,
    nodes: Vec<Option<Node>>,
    started: u64,
    clients: Vec<Arc<Client>>,
    /// Which node each client was last connected to.
    at: Vec<usize>,
    /// Connections that nobody listens on any more, and nobody has closed.
    abandoned: Vec<Arc<Far>>,
    pairings: u64,
    epoch: u64,
    tenants: Arc<OneTenant>,
    open: Arc<Semaphore>,
}

/// Plays the course of a seed. Returns what happened, in order; as an error, what was wrong and what came before it.
pub(super) async fn play(seed: u64) -> Result<Vec<(u128, String)>, String> {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut world = World::new(seed);
    for nth in 0..NODES {
        world.start(nth);
    }
    for _ in 0..ACTS {
        let pause = world.dice.up_to_ms(250);
        sleep(pause).await;
        world.act();
        // In time for whoever reads of it.
        if world.truth.is_wrong() {
            break;
        }
    }
    if !world.truth.is_wrong() {
        world.settle().await;
    }
    if !world.truth.is_wrong() {
        world.end(tasks).await;
    }
    world.truth.verdict()
}

impl World {
    fn new(seed: u64) -> Self {
        let truth = Arc::new(Truth::new());
        let identity = |n: usize| {
            let id = [n as u8 + 1; 16];
            let agent = n < AGENTS;
            let principal = if agent { Principal::Agent(ComputerId(id)) } else { Principal::Device(DeviceId(id)) };
            Identity { tenant: TENANT, principal, certificate: Serial(id), standing: Standing::default() }
        };
        Self {
            seed,
            dice: Dice::new(seed, 0),
            memory: Memory::new(RESUME_FOR),
            nodes: (0..NODES).map(|_| None).collect(),
            started: 0,
            clients: (0..AGENTS + DEVICES).map(|n| Client::new(n, identity(n), truth.clone())).collect(),
            at: vec![0; AGENTS + DEVICES],
            abandoned: vec![],
            pairings: 0,
            epoch: 0,
            tenants: Arc::new(OneTenant(Arc::new(TrustStore::new(TENANT, [])))),
            open: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            truth,
        }
    }

    /// Starts a relay in this place.
    fn start(&mut self, nth: usize) {
        self.started += 1;
        let mut config = Config::default();
        let limits = &mut config.limits;
        for burst in [&mut limits.client_frame_burst, &mut limits.publish_burst, &mut limits.client_connect_burst] {
            *burst = std::num::NonZeroU32::MAX;
        }
        // Small, so that slow readers fill them.
        limits.queue_messages = 12;
        // Not in the course of this: when a ping comes is random.
        limits.ping_seconds = std::num::NonZeroU32::MAX;
        config.drain.spread_seconds = 1;
        let weather = OnceLock::new();
        let dice = Dice::new(self.seed, self.started);
        let join = |sink, _| {
            let joined = Weather::join(&self.memory, sink, dice, self.truth.clone());
            let _ = weather.set(joined.clone());
            joined as Arc<dyn Backplane>
        };
        let core = Core::new(config, self.tenants.clone(), join, Arc::new(|| 0));
        let ticking = core.clone();
        let ticks = tokio::spawn(async move { ticking.tick().await });
        let Some(weather) = weather.into_inner() else { unreachable!("it has joined") };
        let quota = Arc::new(Quota::new(weather.clone(), Resource::Pairings));
        let (taken, serving) = (Arc::default(), vec![]);
        self.nodes[nth] = Some(Node { core, weather, quota, taken, ticks, serving, draining: None });
        self.truth.event(&format!("relay {nth} starts"));
    }

    /// Its process is gone, from one moment to the next.
    fn crash(&mut self, nth: usize) {
        let Some(node) = self.nodes[nth].take() else { return };
        self.truth.event(&format!("relay {nth} is gone"));
        node.weather.die();
        node.ticks.abort();
        locked(&node.taken).clear();
        node.serving.iter().chain(&node.draining).for_each(JoinHandle::abort);
        for n in 0..self.clients.len() {
            if self.at[n] == nth && self.clients[n].is_connected() {
                self.clients[n].cut(true);
            }
        }
    }

    /// A client connects to a relay that lets it in: this one, or the next.
    fn connect(&mut self, n: usize, first: usize) {
        for nth in (0..NODES).map(|more| (first + more) % NODES) {
            let Some(node) = &mut self.nodes[nth] else { continue };
            let client = &self.clients[n];
            let (reader, writer, far) = pipe();
            if node.core.is_draining() {
                continue;
            }
            let outbox = Outbox::new(node.core.bounds(), node.core.metrics.clone(), writer);
            let Ok(pass) = node.core.admission.rates.enter(TENANT, client.identity.client()) else { continue };
            let Ok(permit) = self.open.clone().try_acquire_owned() else { continue };
            let (core, identity) = (node.core.clone(), client.identity.clone());
            node.serving.retain(|serving| !serving.is_finished());
            node.serving.push(tokio::spawn(async move {
                let Ok(account) = core.quotas.enter(TENANT).await else { return };
                // Where it has begun to drain meanwhile, its end of the socket is gone with this.
                let Ok(session) = Session::begin(core, identity, outbox, pass, account) else { return };
                connection::serve(session, Line::new(reader, vec![]), permit).await;
            }));
            self.truth.event(&format!("client {n} connects to relay {nth}"));
            self.at[n] = nth;
            client.connected(far);
            return;
        }
    }

    fn act(&mut self) {
        let n = self.dice.below(self.clients.len());
        let nth = self.dice.below(NODES);
        let client = self.clients[n].clone();
        match self.dice.below(100) {
            // Whoever is away comes back, mostly.
            0..20 => match self.clients.iter().position(|client| !client.is_connected()) {
                Some(n) => self.connect(n, nth),
                None => client.take_up(),
            },
            20..30 => self.open(),
            30..42 => self.claim(),
            42..62 => {
                for (rid, _) in client.open_ends() {
                    let count = 1 + self.dice.below(4);
                    client.say(rid, count);
                }
            }
            62..67 => client.open_ends().into_iter().for_each(|(rid, _)| client.ack(rid)),
            67..69 => {
                let open = client.open_ends();
                if let Some((rid, _)) = self.dice.one_of(&open) {
                    self.truth.note(n, "closes", rid);
                    client.close(*rid);
                }
            }
            69..76 => {
                let channels = self.channels_of(&client);
                let Some(channel) = self.dice.one_of(&channels) else { return };
                if self.dice.percent(30) {
                    return client.unsubscribe(*channel);
                }
                client.subscribe(*channel);
                // Something is said while the answer is on its way.
                match channel {
                    Channel::Tenant(_) => self.announce(nth),
                    _ if n < AGENTS => self.clients[AGENTS + self.dice.below(DEVICES)].publish(*channel),
                    _ => self.clients[self.dice.below(AGENTS)].publish(*channel),
                }
            }
            76..78 => self.use_quota(nth),
            78..82 => {
                let agent = n < AGENTS;
                let other = if agent { AGENTS + self.dice.below(DEVICES) } else { self.dice.below(AGENTS) };
                let id = [other as u8 + 1; 16];
                let channel = if agent { Channel::Device(DeviceId(id)) } else { Channel::Computer(ComputerId(id)) };
                for _ in 0..1 + self.dice.below(3) {
                    client.publish(channel);
                }
            }
            82..86 => self.announce(nth),
            86..89 => {
                self.truth.event(&format!("client {n} is cut off"));
                let all = self.dice.percent(50);
                client.cut(all);
            }
            89..90 => {
                self.truth.event(&format!("client {n} goes away without a word"));
                self.abandoned.extend(client.abandon());
            }
            90..92 => client.slow(Instant::now() + self.dice.up_to_ms(4_000)),
            92..95 => {
                let cut = self.dice.percent(50);
                if let Some(node) = &self.nodes[nth] {
                    self.truth.event(&format!("relay {nth} {} the backplane", if cut { "loses" } else { "reaches" }));
                    node.weather.cut_off(cut);
                }
            }
            95..97 => {
                self.nodes.iter().flatten().for_each(|node| node.weather.cut_off(false));
                self.truth.event("every relay reaches the backplane");
            }
            97..98 => match &self.nodes[nth] {
                Some(_) => self.crash(nth),
                None => self.start(nth),
            },
            98..99 => self.drain(nth),
            _ => {
                if let Some(gone) = self.nodes.iter().position(Option::is_none) {
                    self.start(gone);
                }
            }
        }
    }

    fn open(&mut self) {
        self.pairings += 1;
        let mut rid = [0; 16];
        rid[..8].copy_from_slice(&self.pairings.to_be_bytes());
        let (rid, agent) = (Rid(rid), self.dice.below(AGENTS));
        let ttl = 5 + self.dice.below(55) as u32;
        if self.clients[agent].begin(rid, Side::Agent, &Frame::Open { rid, ttl }) {
            self.truth.asked(rid, ttl);
            self.truth.note(agent, "opens", &rid);
        }
    }

    /// One or more devices claim the same pairing.
    fn claim(&mut self) {
        let shown = self.truth.shown();
        let Some(rid) = self.dice.one_of(&shown).copied() else { return };
        let first = self.dice.below(DEVICES);
        for nth in 0..1 + self.dice.below(3) {
            let n = AGENTS + (first + nth) % DEVICES;
            let claim = Frame::Claim { rid, n: [n as u8; 16], tag: [2; 16] };
            if self.clients[n].begin(rid, Side::Device, &claim) {
                self.truth.note(n, "claims", &rid);
            }
        }
    }

    fn announce(&mut self, nth: usize) {
        let Some(node) = &self.nodes[nth] else { return };
        self.epoch += 1;
        let kind = if self.dice.percent(50) { Kind::Revocation } else { Kind::Policy };
        let bulletin = Bulletin::new(kind, self.epoch, Bytes::from(vec![9; 200]));
        self.truth.event(&format!("relay {nth} announces {kind:?} {}", self.epoch));
        let core = node.core.clone();
        tokio::spawn(async move { core.announce(TENANT, bulletin).await });
    }

    /// Takes of what a tenant may have, or gives back, or makes the shares fit.
    fn use_quota(&mut self, nth: usize) {
        let Some(node) = &self.nodes[nth] else { return };
        let (quota, taken, weather) = (node.quota.clone(), node.taken.clone(), node.weather.clone());
        match self.dice.below(4) {
            0 => drop(tokio::spawn(async move { quota.settle().await })),
            1 => locked(&taken).truncate(1),
            _ => {
                let all: Vec<_> = self.nodes.iter().flatten().map(|node| node.taken.clone()).collect();
                let truth = self.truth.clone();
                for _ in 0..1 + self.dice.below(LIMIT as usize) {
                    let (quota, taken, all, truth) = (quota.clone(), taken.clone(), all.clone(), truth.clone());
                    let weather = weather.clone();
                    tokio::spawn(async move {
                        match quota.take(POOR, LIMIT).await {
                            Ok(Some(one)) if !weather.is_dead() => locked(&taken).push(one),
                            _ => {}
                        }
                        let used: usize = all.iter().map(|taken| locked(taken).len()).sum();
                        if used > LIMIT as usize {
                            truth.wrong(format!("{used} are in use of a quota of {LIMIT}"));
                        }
                    });
                }
            }
        }
    }

    fn drain(&mut self, nth: usize) {
        let Some(node) = &mut self.nodes[nth] else { return };
        if node.draining.is_some() {
            return self.crash(nth);
        }
        self.truth.event(&format!("relay {nth} drains"));
        let core = node.core.clone();
        node.draining = Some(tokio::spawn(async move { core.drain().await }));
    }

    fn channels_of(&self, client: &Client) -> [Channel; 2] {
        let own = match client.identity.principal {
            Principal::Agent(id) => Channel::Computer(id),
            Principal::Device(id) => Channel::Device(id),
        };
        [own, Channel::Tenant(TENANT)]
    }

    /// Everything works again: what is open goes on, and everybody hears what there is to hear.
    async fn settle(&mut self) {
        self.truth.event("everything works again");
        for nth in 0..NODES {
            match &self.nodes[nth] {
                Some(node) if node.draining.is_none() => node.weather.cut_off(false),
                Some(_) => {
                    self.crash(nth);
                    self.start(nth);
                }
                None => self.start(nth),
            }
        }
        self.abandoned.drain(..).for_each(|far| far.cut(false));
        let begun = Instant::now();
        while begun.elapsed() < SETTLED {
            for n in 0..self.clients.len() {
                self.clients[n].slow(Instant::now());
                if !self.clients[n].is_connected() {
                    self.connect(n, n);
                }
                self.clients[n].take_up();
            }
            sleep(Duration::from_millis(500)).await;
        }
        self.check_pairings();
        self.check_channels().await;
    }

    /// Each message of a pairing that goes on has arrived.
    fn check_pairings(&self) {
        for client in &self.clients {
            for (rid, phase) in client.open_ends() {
                if matches!(phase, Phase::Cut | Phase::Resuming) {
                    self.truth.wrong(format!("client {} could not take up {rid:?}, and was not told", client.n));
                }
                let Some((side, sent, _)) = client.running(rid) else { continue };
                let others = self.clients.iter().filter(|other| other.n != client.n);
                let across = others.filter_map(|other| other.running(rid).filter(|(its, ..)| *its == side.other()));
                for (_, _, received) in across {
                    if received != sent {
                        self.truth.wrong(format!("of {rid:?}, {side:?} said {sent} messages, and {received} arrived"));
                    }
                }
            }
        }
    }

    /// Who listens has the newest.
    async fn check_channels(&self) {
        let Some(node) = self.nodes.iter().flatten().next() else { return };
        for client in &self.clients {
            if client.waiting() > 0 {
                self.truth.wrong(format!("client {} waits for {} subscriptions", client.n, client.waiting()));
            }
            for (topic, has) in client.live() {
                let Ok(now) = node.weather.position(topic, None).await else { continue };
                if has != now.offset {
                    let said = now.offset;
                    self.truth.wrong(format!("client {} has {has} messages of {}, of {said}", client.n, topic.channel));
                }
            }
        }
    }

    /// Time passes or not, everybody leaves, and nothing is left.
    async fn end(&mut self, tasks: usize) {
        if self.dice.percent(50) {
            sleep(FORGOTTEN).await;
            for client in &self.clients {
                for (rid, phase) in client.open_ends() {
                    self.truth.wrong(format!("client {} was never told that {rid:?} is over ({phase:?})", client.n));
                }
            }
        }
        self.clients.iter().for_each(|client| client.cut(false));
        sleep(LEFT).await;
        for node in self.nodes.iter().flatten() {
            let left = node.core.left_behind();
            if left != [0; 3] {
                self.truth.wrong(format!("connections, pairings, channels left: {left:?}"));
            }
        }
        for nth in 0..NODES {
            self.crash(nth);
        }
        sleep(Duration::from_secs(1)).await;
        let left = Handle::current().metrics().num_alive_tasks() - tasks;
        if left > 0 {
            self.truth.wrong(format!("{left} tasks are left"));
        }
    }
}
