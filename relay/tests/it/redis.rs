//! The backplane in real Redis servers: the same suite as memory, and what happens when they go away.

#![allow(clippy::unwrap_used, reason = "all of this is tests, and clippy.toml knows only the functions marked so")]

mod direct;
mod failover;

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    frame::Frame,
    ids::{ComputerId, Rid, Serial, TenantId},
    statement::Kind,
    testing::Tenant,
};
use gatepass_relay::{
    Config, Metrics,
    backplane::{self, Backplane, Event, Holder, Position, Refusal, Resource, Side, Sink, Topic, Who, conformance},
    config,
    testing::{
        Tenancy, TestRelay,
        redis::{Cluster, Server, Watched, eventually},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::client::{Client, claim, forward, open, paired};

const TTL: Duration = Duration::from_secs(60);

/// A sink that remembers.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<(Rid, Side, Event)>>,
    messages: Mutex<Vec<(Topic, u64, Bytes)>>,
    refetched: Mutex<Vec<(Topic, Position)>>,
    presences: Mutex<Vec<(TenantId, Who, bool)>>,
}

impl Sink for Heard {
    fn pairing(&self, rid: Rid, to: Side, event: Event) {
        self.events.lock().unwrap().push((rid, to, event));
    }

    fn message(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32 {
        self.messages.lock().unwrap().push((*topic, offset, bytes.clone()));
        1
    }

    fn refetch(&self, topic: &Topic, now: &Position) {
        self.refetched.lock().unwrap().push((*topic, now.clone()));
    }

    fn presence(&self, tenant: &TenantId, who: Who, online: bool) {
        self.presences.lock().unwrap().push((*tenant, who, online));
    }

    fn told(&self, _note: &Bytes) {}
}

/// A relay node, as the backplane sees it.
struct Node {
    plane: Arc<dyn Backplane>,
    heard: Arc<Heard>,
    metrics: Arc<Metrics>,
}

fn configured(backplane: config::Backplane) -> Config {
    let mut config = Config { backplane, ..Config::default() };
    config.backplane.timeout_ms = 500.try_into().unwrap();
    config.check().unwrap();
    config
}

async fn join(config: &Config) -> Node {
    let (heard, metrics) = (Arc::new(Heard::default()), Arc::new(Metrics::default()));
    let sink: Weak<dyn Sink> = Arc::<Heard>::downgrade(&heard);
    let node = Node { plane: backplane::prepare(config).unwrap()(sink, metrics.clone()), heard, metrics };
    node.ready().await;
    node
}

/// The whole suite.
async fn conforms(backplane: config::Backplane) {
    let mut config = configured(backplane);
    config.backplane.timeout_ms = 5_000.try_into().unwrap();
    config.pairing.resume_seconds = conformance::RESUME_FOR.as_secs() as u32;
    let config = &config;
    conformance::run(async |sink| {
        let plane = backplane::prepare(config).unwrap()(sink, Arc::default());
        eventually("Redis is reached", async || plane.probe().await.ok()).await;
        plane
    })
    .await;
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn holder() -> Holder {
    Holder { certificate: Serial(random()), token_hash: [random(), random()].concat().try_into().unwrap() }
}

fn frame(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Node {
    async fn ready(&self) {
        eventually("Redis is reached", async || self.plane.probe().await.ok()).await;
    }

    async fn unready(&self) {
        eventually("it is noticed that Redis is away", async || self.plane.probe().await.err()).await;
    }

    fn numbers(&self, rid: Rid, to: Side) -> Vec<u32> {
        let events = self.heard.events.lock().unwrap();
        let of = events.iter().filter(|(of, side, _)| (*of, *side) == (rid, to));
        of.filter_map(|(.., event)| if let Event::Forward { seq, .. } = event { Some(*seq) } else { None }).collect()
    }

    async fn hears(&self, rid: Rid, to: Side, numbers: &[u32]) {
        eventually("every message arrives", async || (self.numbers(rid, to).len() >= numbers.len()).then_some(()))
            .await;
        assert_eq!(self.numbers(rid, to), numbers, "each once, in order");
    }
}

/// A pairing with its agent at one node and its device at another.
struct Paired {
    rid: Rid,
    tenant: TenantId,
    device: Holder,
}

async fn pair(agent_at: &Node, device_at: &Node) -> Paired {
    let paired = Paired { rid: Rid(random()), tenant: TenantId(random()), device: holder() };
    agent_at.plane.open(paired.rid, paired.tenant, holder(), TTL).await.unwrap();
    device_at.plane.claim(paired.rid, paired.tenant, paired.device.clone(), frame("claim")).await.unwrap();
    eventually("the agent hears of the claim", async || {
        let events = agent_at.heard.events.lock().unwrap();
        events.iter().any(|(rid, _, event)| *rid == paired.rid && matches!(event, Event::Claim(_))).then_some(())
    })
    .await;
    paired
}

async fn send(node: &Node, rid: Rid, from: Side, seq: u32, ack: u32) {
    assert_eq!(node.plane.forward(rid, from, seq, ack, frame("m")).await, Ok(()), "{from:?} sends {seq}");
}

#[tokio::test]
async fn one_redis_does_what_every_backplane_must() {
    let redis = Server::start(&[]).await;
    conforms(redis.backplane()).await;
}

#[tokio::test]
async fn a_redis_with_tls_a_password_and_few_rights_does_what_every_backplane_must() {
    let redis = Server::guarded().await;
    conforms(redis.backplane()).await;
    let mut wrong = configured(redis.backplane());
    wrong.backplane.username = "somebody".into();
    let metrics = Arc::new(Metrics::default());
    let heard: Weak<dyn Sink> = Weak::<Heard>::new();
    let plane = backplane::prepare(&wrong).unwrap()(heard, metrics.clone());
    eventually("the login is refused", async || (metrics.backplane_errors.get() > 0).then_some(())).await;
    assert_eq!(plane.probe().await, Err(Refusal::Unavailable));
}

#[tokio::test]
async fn sentinels_do_what_every_backplane_must() {
    let redis = Watched::start().await;
    conforms(redis.backplane()).await;
}

#[tokio::test]
async fn a_cluster_does_what_every_backplane_must() {
    let redis = Cluster::start(false).await;
    conforms(redis.backplane()).await;
}

#[tokio::test]
async fn a_pairing_message_costs_at_most_four_commands() {
    const ROUNDS: u32 = 500;
    let redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let Paired { rid, .. } = pair(&a, &b).await;
    let counted = async || {
        let stats: String = redis.ask(&["INFO", "commandstats"]).await.unwrap();
        let calls = stats.lines().filter_map(|line| {
            let (name, numbers) = line.split_once(":calls=")?;
            Some((name.to_owned(), numbers.split(',').next()?.parse::<u64>().ok()?))
        });
        // Not the probes of each second, which do not come with messages: TIME is theirs alone.
        calls
            .filter(|(name, _)| !["cmdstat_time", "cmdstat_info"].contains(&name.as_str()))
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    let before = counted().await;
    for n in 1..=ROUNDS {
        send(&b, rid, Side::Device, n, n - 1).await;
        send(&a, rid, Side::Agent, n, n).await;
    }
    a.hears(rid, Side::Agent, &(1..=ROUNDS).collect::<Vec<_>>()).await;
    b.hears(rid, Side::Device, &(1..=ROUNDS).collect::<Vec<_>>()).await;
    let commands = counted().await - before;
    // A script's own commands are counted too. The division drops the few of connections and probes.
    let each = commands / u64::from(2 * ROUNDS);
    assert!(each <= 4, "{commands} commands for {} messages", 2 * ROUNDS);
    assert!(a.metrics.backplane_round_trip.count() >= u64::from(ROUNDS) && a.metrics.backplane_commands.get() > 0);
}

#[tokio::test]
async fn redis_is_killed_and_starts_again_with_nothing_and_every_pairing_goes_on() {
    let mut redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let (local, apart) = (pair(&a, &a).await, pair(&a, &b).await);
    for (at, paired) in [(&a, &local), (&b, &apart)] {
        send(at, paired.rid, Side::Device, 1, 0).await;
        a.hears(paired.rid, Side::Agent, &[1]).await;
    }
    redis.kill();
    a.unready().await;

    // Both ends here: it goes on at once. One end elsewhere: it waits.
    send(&a, local.rid, Side::Agent, 1, 1).await;
    a.hears(local.rid, Side::Device, &[1]).await;
    send(&a, local.rid, Side::Device, 2, 1).await;
    a.hears(local.rid, Side::Agent, &[1, 2]).await;
    send(&a, apart.rid, Side::Agent, 1, 1).await;
    send(&a, apart.rid, Side::Agent, 2, 1).await;
    send(&b, apart.rid, Side::Device, 2, 0).await;
    let gap = a.plane.forward(local.rid, Side::Agent, 3, 1, frame("m")).await;
    assert_eq!(gap, Err(Refusal::Gap { expected: 2, got: 3 }), "by the same rules");

    // Nothing new begins.
    let rid = Rid(random());
    assert_eq!(a.plane.open(rid, local.tenant, holder(), TTL).await, Err(Refusal::Unavailable));
    let claimed = a.plane.claim(rid, local.tenant, holder(), frame("claim")).await;
    assert_eq!(claimed, Err(Refusal::Unavailable));
    let resumed = a.plane.resume(local.rid, local.tenant, local.device.clone(), 1).await;
    assert_eq!(resumed, Err(Refusal::Unavailable));
    assert!(a.metrics.backplane_deferred.get() >= 2 && a.metrics.backplane_errors.get() > 0);
    assert!(a.metrics.backplane_handed.get() >= 2, "what stays here needs no Redis");
    eventually("the last proof ages", async || (a.metrics.backplane_probe_age.get() > 0).then_some(())).await;

    redis.restart().await;
    a.hears(apart.rid, Side::Agent, &[1, 2]).await;
    b.hears(apart.rid, Side::Device, &[1, 2]).await;
    a.ready().await;
    send(&b, apart.rid, Side::Device, 3, 2).await;
    a.hears(apart.rid, Side::Agent, &[1, 2, 3]).await;
    send(&a, local.rid, Side::Agent, 2, 2).await;
    a.hears(local.rid, Side::Device, &[1, 2]).await;
    // Redis knows them again: an end comes back at another node.
    let back = b.plane.resume(local.rid, local.tenant, local.device.clone(), 1).await.unwrap();
    assert_eq!((back.sent, back.missed), (2, vec![Event::Forward { seq: 2, frame: frame("m") }]));
    let thief = b.plane.claim(apart.rid, apart.tenant, holder(), frame("claim")).await;
    assert_eq!(thief, Err(Refusal::Claimed), "and nobody else claims what was claimed");
    assert!(a.metrics.backplane_reconnects.get() > 0 && a.metrics.backplane_syncs.get() > 0);
}

#[tokio::test]
async fn a_channel_survives_a_redis_that_lost_everything() {
    let mut redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let tenant = TenantId(random());
    let topic = Topic { tenant, channel: Channel::Tenant(tenant) };
    b.plane.follow(topic, true).await.unwrap();
    let before = b.plane.position(topic, None).await.unwrap();
    a.plane.announce(tenant, Bulletin::new(Kind::Revocation, 7, frame("list 7"))).await.unwrap();
    eventually("the list arrives", async || (b.heard.messages.lock().unwrap().len() == 1).then_some(())).await;

    redis.kill();
    a.unready().await;
    b.unready().await;
    let elsewhere = Topic { tenant, channel: Channel::Computer(ComputerId(random())) };
    assert_eq!(b.plane.publish(elsewhere, frame("order")).await, Err(Refusal::Unavailable));
    assert_eq!(b.plane.follow(elsewhere, true).await, Err(Refusal::Unavailable));
    let list_8 = Bulletin::new(Kind::Revocation, 8, frame("list 8"));
    a.plane.announce(tenant, list_8.clone()).await.expect("done as soon as it can be");
    redis.restart().await;

    // The count is another, so the follower is told what is so now, or hears it after.
    let encoded = Bytes::from(list_8.encode());
    eventually("the follower has the newest list", async || {
        let heard = b.heard.messages.lock().unwrap().iter().any(|(_, _, bytes)| *bytes == encoded);
        let refetched = b.heard.refetched.lock().unwrap();
        let told = refetched.iter().any(|(_, now)| now.retained.iter().any(|(_, bytes)| *bytes == encoded));
        (heard || told).then_some(())
    })
    .await;
    eventually("the loss was told", async || (!b.heard.refetched.lock().unwrap().is_empty()).then_some(())).await;
    let after = b.plane.position(topic, Some((before.epoch, before.offset))).await.unwrap();
    assert!(after.missed.is_none() && after.epoch != before.epoch && after.offset > before.offset, "{after:?}");
    assert!(b.metrics.backplane_refetches.get() > 0);
}

#[tokio::test]
async fn a_list_reaches_those_who_are_here_while_redis_is_away_and_the_count_goes_on_after() {
    let redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let tenant = TenantId(random());
    let topic = Topic { tenant, channel: Channel::Tenant(tenant) };
    let list = |epoch| Bulletin::new(Kind::Revocation, epoch, frame("list"));
    a.plane.follow(topic, true).await.unwrap();
    let before = a.plane.position(topic, None).await.unwrap();
    redis.freeze();
    a.unready().await;
    a.plane.announce(tenant, list(7)).await.unwrap();
    let retained = vec![(before.offset, Bytes::from(list(7).encode()))];
    let expected = Position { retained, missed: None, ..before.clone() };
    assert_eq!(*a.heard.refetched.lock().unwrap(), [(topic, expected)], "at once, where the channel was");
    redis.thaw();
    a.ready().await;
    b.ready().await;
    b.plane.announce(tenant, list(8)).await.unwrap();
    eventually("the next ones are numbered from there", async || {
        let messages = a.heard.messages.lock().unwrap();
        let first = messages.first().is_none_or(|(_, offset, _)| *offset == before.offset + 1);
        assert!(first, "no hole");
        messages.iter().any(|(.., bytes)| *bytes == list(8).encode()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn shares_and_presence_survive_a_redis_that_lost_everything() {
    let mut redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let tenant = TenantId(random());
    let (stays, leaves, comes) = (random(), random(), random());
    let [stays, leaves, comes] = [stays, leaves, comes].map(|id| Who::Computer(ComputerId(id)));
    b.plane.follow_presence(tenant, true).await.unwrap();
    a.plane.presence(tenant, stays, true);
    a.plane.presence(tenant, leaves, true);
    assert_eq!(a.plane.hold(tenant, Resource::Connections, 70, 100).await, Ok(70));
    eventually("both are told", async || (b.heard.presences.lock().unwrap().len() == 2).then_some(())).await;
    redis.kill();
    a.unready().await;
    a.plane.presence(tenant, leaves, false);
    a.plane.presence(tenant, comes, true);
    assert_eq!(a.plane.hold(tenant, Resource::Connections, 80, 100).await, Err(Refusal::Unavailable));
    redis.restart().await;
    let mut expected = vec![stays, comes];
    expected.sort_unstable();
    eventually("who is online is known again", async || {
        let mut online = b.plane.online(tenant).await.ok()?;
        online.sort_unstable();
        (online == expected).then_some(())
    })
    .await;
    eventually("and so is the share", async || {
        let granted = b.plane.hold(tenant, Resource::Connections, 50, 100).await.ok()?;
        let all = a.plane.hold(tenant, Resource::Connections, 70, 100).await.ok()?;
        (granted + all <= 100).then_some(())
    })
    .await;
    let told = || b.heard.presences.lock().unwrap().contains(&(tenant, comes, true));
    eventually("the newcomer was told", async || told().then_some(())).await;
}

#[tokio::test]
async fn a_redis_that_stands_still_is_an_outage_and_then_none() {
    let redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let (a, b) = (join(&config).await, join(&config).await);
    let Paired { rid, .. } = pair(&a, &b).await;
    redis.freeze();
    a.unready().await;
    send(&a, rid, Side::Agent, 1, 0).await;
    redis.thaw();
    b.hears(rid, Side::Device, &[1]).await;
    a.ready().await;
}

#[tokio::test]
async fn more_than_the_relay_takes_is_counted_and_looked_up() {
    let redis = Server::start(&[]).await;
    let mut config = configured(redis.backplane());
    let a = join(&config).await;
    config.backplane.queue_messages = 2.try_into().unwrap();
    let b = join(&config).await;
    let topic = Topic { tenant: TenantId(random()), channel: Channel::Computer(ComputerId(random())) };
    b.plane.follow(topic, true).await.unwrap();
    let begin = b.plane.position(topic, None).await.unwrap().offset;
    let mut published = 0;
    let mut pairs = vec![];
    for _ in 0..8 {
        pairs.push(pair(&a, &b).await);
    }
    while b.metrics.backplane_overflows.get() == 0 {
        let all = (0..32).map(|_| a.plane.publish(topic, frame("m")));
        futures_util::future::join_all(all).await;
        published += 32;
        assert!(published < 100_000, "the queue of two never overflows");
    }
    for Paired { rid, .. } in &pairs {
        send(&a, *rid, Side::Agent, 1, 0).await;
        let all = (0..32).map(|_| a.plane.publish(topic, frame("m")));
        futures_util::future::join_all(all).await;
        published += 32;
        send(&a, *rid, Side::Agent, 2, 0).await;
    }
    for Paired { rid, .. } in &pairs {
        b.hears(*rid, Side::Device, &[1, 2]).await;
    }
    // Every message of the channel, in order; or, where more were missed than are kept, the word that it is so.
    eventually("the channel is up to date", async || {
        let heard = b.heard.messages.lock().unwrap().last().map(|(_, offset, _)| *offset);
        let told = b.heard.refetched.lock().unwrap().last().map(|(_, now)| now.offset);
        (heard.max(told) == Some(begin + published)).then_some(())
    })
    .await;
    let messages = b.heard.messages.lock().unwrap();
    let rising = messages.windows(2).all(|two| two[0].1 < two[1].1);
    let holes = messages.windows(2).filter(|two| two[0].1 + 1 != two[1].1).count();
    assert!(rising && holes <= b.heard.refetched.lock().unwrap().len(), "no hole is silent");
}

/// Waits for an answer of /health/ready.
async fn becomes(relay: &TestRelay, expected: &str) {
    eventually("readiness changes", async || {
        let mut stream = TcpStream::connect(relay.address()).await.ok()?;
        let head = b"GET /health/ready HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        (answer.split(' ').nth(1) == Some(expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_relay_is_ready_while_redis_is_and_says_clearly_when_it_is_not() {
    let mut redis = Server::start(&[]).await;
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.backplane = redis.backplane();
        config.backplane.timeout_ms = 500.try_into().unwrap();
    })
    .await;
    let ready = async |expected: &str| becomes(&relay, expected).await;
    ready("200").await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    redis.kill();
    ready("503").await;

    // Both are at this relay, so they go on; a new pairing is refused with a code.
    device.send(forward(1, 1, 0, "m1")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
    assert_eq!(agent.refused(open(2)).await, Code::Draining);
    redis.restart().await;
    ready("200").await;
    agent.send(forward(1, 1, 1, "m2")).await;
    assert_eq!(device.frame().await, forward(1, 1, 1, "m2"));
    agent.open(3).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_post_may_come_to_any_relay_of_a_region_with_redis() {
    let redis = Server::start(&[]).await;
    let mut tenant = Tenant::new(1);
    let start = async || {
        let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.backplane = redis.backplane()).await;
        eventually("it has the region's secret", async || relay.relay.issues_tickets().then_some(())).await;
        relay
    };
    let (one, other) = (start().await, start().await);
    crate::sse::across(&one, &other, &mut tenant).await;
}

#[tokio::test]
async fn a_phone_and_an_agent_meet_across_two_relays_and_one_relay_dies() {
    let redis = Server::start(&[]).await;
    let mut tenant = Tenant::new(1);
    let relay = async || {
        let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.backplane = redis.backplane()).await;
        becomes(&relay, "200").await;
        relay
    };
    let (first, second) = (relay().await, relay().await);
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Client::connect(&first, &computer).await;
    let mut device = Client::connect(&second, &phone).await;
    agent.open(1).await;
    let token = device.claim(1).await;
    assert_eq!(agent.frame().await, claim(1));
    device.send(forward(1, 1, 0, "m1")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
    drop(second);
    agent.send(forward(1, 1, 1, "m2")).await;
    let mut device = Client::connect(&first, &phone).await;
    let rid = Rid([1; 16]);
    device.send(Frame::Resume { rid, token, last_seq: 0 }).await;
    assert_eq!(device.frame().await, Frame::Resumed { rid, last_seq: 1 });
    assert_eq!(device.frame().await, forward(1, 1, 1, "m2"));
    device.send(forward(1, 2, 1, "m3")).await;
    assert_eq!(agent.frame().await, forward(1, 2, 1, "m3"));
    agent.send(Frame::Close { rid }).await;
    assert_eq!(device.frame().await, Frame::Close { rid });
    first.stop().await;
}
