//! What every backplane must do, as one suite that each implementation runs.
//!
//! It speaks to the backplane as two nodes do that may be two processes on two machines, so it waits for conditions and
//! assumes nothing about when a notice arrives, only in which order. It uses fresh ids each time: a shared server may
//! have a past.

mod pairings;

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    ids::{ComputerId, DeviceId, Rid, TenantId},
    statement::Kind,
};
use tokio::time::{Instant, sleep};

use super::{Backplane, Event, Position, Resource, Side, Sink, Topic, Who};
use crate::locked;

/// The time for which the backplane under test must keep messages for an end that is away.
pub const RESUME_FOR: Duration = Duration::from_millis(1_500);

/// The newest messages of a channel that the backplane under test must keep.
pub const HISTORY: u64 = 64;

/// Far longer than any notice takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// A node's sink that remembers what it was told.
#[derive(Default)]
pub struct Heard {
    pairings: Mutex<Vec<(Rid, Side, Event)>>,
    messages: Mutex<Vec<(Topic, u64, Bytes)>>,
    refetches: Mutex<Vec<Topic>>,
    presences: Mutex<Vec<(TenantId, Who, bool)>>,
    notes: Mutex<Vec<Bytes>>,
}

impl Sink for Heard {
    fn pairing(&self, rid: Rid, to: Side, event: Event) {
        locked(&self.pairings).push((rid, to, event));
    }

    fn message(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32 {
        locked(&self.messages).push((*topic, offset, bytes.clone()));
        1
    }

    fn refetch(&self, topic: &Topic, _now: &Position) {
        locked(&self.refetches).push(*topic);
    }

    fn presence(&self, tenant: &TenantId, who: Who, online: bool) {
        locked(&self.presences).push((*tenant, who, online));
    }

    fn told(&self, note: &Bytes) {
        locked(&self.notes).push(note.clone());
    }
}

impl Heard {
    fn events(&self, rid: Rid, to: Side) -> Vec<Event> {
        let all = locked(&self.pairings);
        all.iter().filter(|(of, side, _)| (*of, *side) == (rid, to)).map(|(.., event)| event.clone()).collect()
    }

    async fn pairing(&self, rid: Rid, to: Side, expected: &[Event]) {
        eventually(|| self.events(rid, to).len() >= expected.len()).await;
        assert_eq!(self.events(rid, to), expected, "what the {to:?} was told");
    }

    fn messages(&self, topic: Topic) -> Vec<(u64, Bytes)> {
        let all = locked(&self.messages);
        all.iter().filter(|(of, ..)| *of == topic).map(|(_, offset, bytes)| (*offset, bytes.clone())).collect()
    }
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Two nodes on one backplane.
struct Region {
    a: Arc<dyn Backplane>,
    b: Arc<dyn Backplane>,
    heard_a: Arc<Heard>,
    heard_b: Arc<Heard>,
    tenant: TenantId,
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // A test without randomness should fail loudly.
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

fn frame(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Runs the suite. `join` makes a handle for a node with this sink; handles of one run meet on the same backplane.
pub async fn run<J: Future<Output = Arc<dyn Backplane>>>(join: impl Fn(Weak<dyn Sink>) -> J) {
    let (heard_a, heard_b) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    let weak = |heard: &Arc<Heard>| -> Weak<dyn Sink> { Arc::<Heard>::downgrade(heard) };
    let (a, b) = (join(weak(&heard_a)).await, join(weak(&heard_b)).await);
    let region = Region { a, b, heard_a, heard_b, tenant: TenantId(random()) };

    region.a.probe().await.expect("the backplane works");
    let secret = region.a.secret().await.expect("a secret");
    assert_eq!(region.b.secret().await, Ok(secret), "the nodes of a region share their secret");
    assert_ne!(secret, [0; 32]);
    region.pairings().await;
    region.a_channel_reaches_its_followers().await;
    region.the_newest_statement_of_each_kind_stays().await;
    region.who_was_away_gets_what_it_missed_or_is_told_to_fetch().await;
    let third = async || {
        let heard = Arc::new(Heard::default());
        (join(weak(&heard)).await, heard)
    };
    region.nodes_share_what_a_tenant_may_have(third().await).await;
    region.a_tenant_sends_so_much_in_a_while().await;
    region.who_is_online_is_known_everywhere(third().await).await;
    region.a_node_tells_another_by_its_name(third().await).await;
}

impl Region {
    async fn a_channel_reaches_its_followers(&self) {
        let topic = Topic { tenant: self.tenant, channel: Channel::Computer(ComputerId(random())) };
        let elsewhere = Topic { tenant: TenantId(random()), ..topic };
        assert_eq!(self.a.publish(topic, frame("nobody")).await, Ok(0));
        self.b.follow(topic, true).await.expect("followed");
        self.b.follow(topic, true).await.expect("twice is once");
        let Position { offset, retained, .. } = self.b.position(topic, None).await.expect("position");
        assert!(retained.is_empty());
        assert_eq!(self.a.publish(elsewhere, frame("other tenant")).await, Ok(0));
        for text in ["one", "two", "three"] {
            assert!(self.a.publish(topic, frame(text)).await.expect("published") > 0);
        }
        eventually(|| self.heard_b.messages(topic).len() >= 3).await;
        let expected: Vec<_> =
            ["one", "two", "three"].map(frame).into_iter().zip(offset + 1..).map(|(m, o)| (o, m)).collect();
        assert_eq!(self.heard_b.messages(topic), expected, "once, in order, counted");
        assert!(self.heard_a.messages(topic).is_empty() && self.heard_b.messages(elsewhere).is_empty());
        self.b.follow(topic, false).await.expect("unfollowed");
        assert_eq!(self.a.publish(topic, frame("nobody")).await, Ok(0));
    }

    async fn the_newest_statement_of_each_kind_stays(&self) {
        let topic = Topic { tenant: self.tenant, channel: Channel::Tenant(self.tenant) };
        let bulletin = |kind, epoch, text| Bulletin::new(kind, epoch, frame(text));
        let announce = async |bulletin: Bulletin| {
            self.a.announce(self.tenant, bulletin).await.expect("announced");
        };
        announce(bulletin(Kind::Policy, 4, "policy 4")).await;
        announce(bulletin(Kind::Revocation, 7, "revocation 7")).await;
        announce(bulletin(Kind::Policy, 5, "policy 5")).await;
        announce(bulletin(Kind::Revocation, 6, "an old list")).await;
        let position = self.b.position(topic, None).await.expect("position");
        let retained: Vec<_> = position.retained.iter().map(|(_, bytes)| bytes.clone()).collect();
        let newest = [bulletin(Kind::Revocation, 7, "revocation 7"), bulletin(Kind::Policy, 5, "policy 5")];
        assert_eq!(retained, newest.map(|bulletin| Bytes::from(bulletin.encode())));
        assert!(position.retained.iter().all(|(offset, _)| *offset <= position.offset));

        self.b.follow(topic, true).await.expect("followed");
        announce(bulletin(Kind::Revocation, 8, "revocation 8")).await;
        announce(bulletin(Kind::Revocation, 8, "8 once more")).await;
        eventually(|| !self.heard_b.messages(topic).is_empty()).await;
        let heard = self.heard_b.messages(topic);
        let newest = Bytes::from(bulletin(Kind::Revocation, 8, "revocation 8").encode());
        assert_eq!(heard, [(position.offset + 1, newest)], "live, and only what is new");
        self.b.follow(topic, false).await.expect("unfollowed");
        let later = self.b.position(topic, None).await.expect("position");
        assert_eq!((later.offset, later.retained.len()), (position.offset + 1, 2), "kept without a subscriber");
    }

    async fn who_was_away_gets_what_it_missed_or_is_told_to_fetch(&self) {
        let topic = Topic { tenant: self.tenant, channel: Channel::Computer(ComputerId(random())) };
        self.b.follow(topic, true).await.expect("followed");
        let Position { epoch, offset, missed, .. } = self.b.position(topic, None).await.expect("position");
        assert_eq!(missed, Some(vec![]), "who asks for nothing missed nothing");
        for text in ["one", "two", "three"] {
            self.a.publish(topic, frame(text)).await.expect("published");
        }
        let since = |epoch, offset| self.b.position(topic, Some((epoch, offset)));
        let back = since(epoch, offset + 1).await.expect("position");
        assert_eq!(back.missed, Some(vec![(offset + 2, frame("two")), (offset + 3, frame("three"))]));
        assert_eq!((back.epoch, back.offset), (epoch, offset + 3));
        assert_eq!(since(epoch, offset + 3).await.expect("position").missed, Some(vec![]), "up to date");
        assert_eq!(since(epoch ^ 1, offset + 1).await.expect("position").missed, None, "another count");
        assert_eq!(since(epoch, offset + 4).await.expect("position").missed, None, "ahead of the count");

        // The last subscriber was cut off for a moment: the channel goes on meanwhile.
        self.b.follow(topic, false).await.expect("unfollowed");
        self.a.publish(topic, frame("four")).await.expect("published");
        self.b.follow(topic, true).await.expect("followed");
        let back = since(epoch, offset + 3).await.expect("position");
        assert_eq!(back.missed, Some(vec![(offset + 4, frame("four"))]));
        for _ in 0..HISTORY {
            self.a.publish(topic, frame("more")).await.expect("published");
        }
        let kept = since(epoch, offset + 4).await.expect("position").missed.expect("all kept");
        assert!(kept.iter().map(|(at, _)| *at).eq(offset + 5..offset + 5 + HISTORY), "without a hole");
        assert_eq!(since(epoch, offset + 3).await.expect("position").missed, None, "one more than are kept");
    }

    async fn nodes_share_what_a_tenant_may_have(&self, (crashing, sink): (Arc<dyn Backplane>, Arc<Heard>)) {
        const LIMIT: u64 = 100;
        let tenant = TenantId(random());
        let hold = async |node: &Arc<dyn Backplane>, share| {
            node.hold(tenant, Resource::Connections, share, LIMIT).await.expect("asked")
        };
        assert_eq!(hold(&self.a, 60).await, 60);
        assert_eq!(hold(&self.b, 60).await, 40, "what is left");
        assert_eq!(hold(&self.a, 30).await, 30, "gives some back");
        assert_eq!(hold(&self.b, 60).await, 60);
        assert_eq!(hold(&crashing, 50).await, 10);
        assert_eq!(hold(&self.a, 31).await, 30, "never more than all together");
        let other = self.a.hold(tenant, Resource::Pairings, 100, LIMIT).await;
        assert_eq!(other, Ok(100), "each resource by itself");
        // Many ask at once.
        let rivals = (0..20).map(|n| if n % 2 == 0 { self.a.clone() } else { self.b.clone() });
        let asked = rivals.map(|node| async move { node.hold(tenant, Resource::Pairings, 70, LIMIT).await });
        let granted = futures_util::future::join_all(asked).await;
        assert!(granted.iter().all(Result::is_ok), "{granted:?}");
        let (a, b) =
            (self.a.hold(tenant, Resource::Pairings, 70, LIMIT), self.b.hold(tenant, Resource::Pairings, 70, LIMIT));
        let (a, b) = futures_util::future::join(a, b).await;
        assert_eq!(a.expect("asked") + b.expect("asked"), LIMIT, "exactly all of it");
        // A node crashes: its share frees itself.
        drop((crashing, sink));
        let begun = Instant::now();
        while hold(&self.a, 40).await < 40 {
            assert!(begun.elapsed() < PATIENCE, "a dead node keeps its share");
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(hold(&self.b, 0).await, 0);
        assert_eq!(hold(&self.a, LIMIT).await, LIMIT);
    }

    async fn a_tenant_sends_so_much_in_a_while(&self) {
        let (tenant, window) = (TenantId(random()), Duration::from_secs(2));
        let spend =
            async |node: &Arc<dyn Backplane>, amount| node.spend(tenant, amount, 1_000, window).await.expect("asked");
        let begun = Instant::now();
        let granted = [spend(&self.a, 600).await, spend(&self.b, 600).await, spend(&self.a, 1).await];
        // A machine that stood still for the whole window has seen another one.
        if begun.elapsed() < window {
            assert_eq!(granted, [600, 400, 0], "one budget for all nodes");
        }
        while spend(&self.b, 500).await < 500 {
            assert!(begun.elapsed() < PATIENCE, "the window never ends");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn who_is_online_is_known_everywhere(&self, (crashing, sink): (Arc<dyn Backplane>, Arc<Heard>)) {
        let tenant = TenantId(random());
        let (computer, phone) = (Who::Computer(ComputerId(random())), Who::Device(DeviceId(random())));
        let online = async || {
            let mut online = self.b.online(tenant).await.expect("listed");
            online.sort_unstable();
            online
        };
        let becomes = async |expected: &[Who]| {
            let begun = Instant::now();
            while online().await != expected {
                assert!(begun.elapsed() < PATIENCE, "waited in vain for {expected:?}");
                sleep(Duration::from_millis(5)).await;
            }
        };
        let told = || {
            let all = locked(&self.heard_b.presences);
            all.iter().filter(|(of, ..)| *of == tenant).map(|(_, who, online)| (*who, *online)).collect::<Vec<_>>()
        };
        self.b.follow_presence(tenant, true).await.expect("followed");
        self.a.presence(tenant, computer, true);
        self.a.presence(tenant, computer, true);
        crashing.presence(tenant, phone, true);
        crashing.presence(tenant, computer, true);
        becomes(&[computer, phone]).await;
        eventually(|| told().len() >= 2).await;
        let mut first = told();
        first.sort_unstable();
        assert_eq!(first, [(computer, true), (phone, true)], "a second connection is no news");
        assert_eq!(self.b.online(TenantId(random())).await, Ok(vec![]), "each tenant by itself");
        // Both connections of the computer at A end: it is still at the third node.
        self.a.presence(tenant, computer, false);
        self.a.presence(tenant, computer, false);
        assert_eq!(online().await, [computer, phone]);
        self.a.presence(tenant, computer, true);
        // That node crashes, and its phone is gone with it; nobody has to ask.
        drop((crashing, sink));
        eventually(|| told().contains(&(phone, false))).await;
        assert_eq!(online().await, [computer]);
        self.a.presence(tenant, computer, false);
        eventually(|| told().last() == Some(&(computer, false))).await;
        assert_eq!(online().await, []);
        assert_eq!(told().len(), 4, "and nothing else was said");
        self.b.follow_presence(tenant, false).await.expect("unfollowed");
        self.a.presence(tenant, computer, true);
        becomes(&[computer]).await;
        assert_eq!(told().len(), 4);
        self.a.presence(tenant, computer, false);
    }

    async fn a_node_tells_another_by_its_name(&self, (leaving, sink): (Arc<dyn Backplane>, Arc<Heard>)) {
        assert_ne!(self.a.name(), self.b.name());
        let large = Bytes::from(vec![7; 40_000]);
        let notes = [frame("note"), large, Bytes::new()];
        for note in &notes {
            assert_eq!(self.a.tell(self.b.name(), note.clone()).await, Ok(true));
        }
        eventually(|| locked(&self.heard_b.notes).len() == notes.len()).await;
        // Each goes its own way, so they may overtake each other.
        assert!(notes.iter().all(|note| locked(&self.heard_b.notes).contains(note)));
        assert_eq!(self.a.tell(self.a.name(), frame("to itself")).await, Ok(true));
        eventually(|| *locked(&self.heard_a.notes) == [frame("to itself")]).await;
        let name = leaving.name();
        drop((leaving, sink));
        let begun = Instant::now();
        while self.a.tell(name, frame("too late")).await != Ok(false) {
            assert!(begun.elapsed() < PATIENCE, "a node that is gone still hears");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
