//! Pairings: opened, claimed, forwarded, resumed and ended, at either node.

use std::time::Duration;

use gatepass_protocol::{
    frame::MAX_UNACKED,
    ids::{Rid, Serial, TenantId},
};
use tokio::time::{Instant, sleep};

use super::{Heard, PATIENCE, RESUME_FOR, Region, frame, random};
use crate::backplane::{Backplane, Event, Holder, Refusal, Resumed, Side};

/// Longer than the suite needs for one pairing.
const LONG: Duration = Duration::from_secs(30);

/// Random lives of a pairing, and the steps of each.
const WALKS: u64 = 20;
const STEPS: usize = 150;

/// One pairing's names.
struct Names {
    rid: Rid,
    agent: Holder,
    device: Holder,
}

/// One end of a random walk.
struct Walker {
    side: Side,
    holder: Holder,
    /// Where it is connected.
    node: Option<usize>,
    /// What it has read of what its node was told.
    cursor: usize,
    sent: u32,
    received: u32,
    /// What the other end may count as received.
    acked: u32,
}

impl Walker {
    fn new(side: Side, holder: &Holder) -> Self {
        Self { side, holder: holder.clone(), node: None, cursor: 0, sent: 0, received: 0, acked: 0 }
    }

    fn read(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Forward { seq, .. } = event {
                // One that was on its way when this end came back has been replayed already.
                assert!(*seq <= self.received + 1, "message {seq} came after {}", self.received);
                self.received = self.received.max(*seq);
            }
        }
    }
}

fn holder() -> Holder {
    Holder { certificate: Serial(random()), token_hash: [random(), random()].concat().try_into().expect("32 bytes") }
}

fn names() -> Names {
    Names { rid: Rid(random()), agent: holder(), device: holder() }
}

fn forward(seq: u32, text: &str) -> Event {
    Event::Forward { seq, frame: frame(text) }
}

impl Region {
    pub(super) async fn pairings(&self) {
        self.a_pairing_across_two_nodes().await;
        self.of_many_claims_one_wins().await;
        self.what_is_not_there_can_not_be_claimed().await;
        self.numbers_have_no_gap_and_no_repeat().await;
        self.only_so_many_messages_wait().await;
        self.an_end_comes_back_at_another_node().await;
        self.a_stranger_can_not_resume().await;
        self.who_was_away_too_long_is_told().await;
        self.a_pairing_expires().await;
        self.the_last_words_arrive_before_the_close().await;
        for seed in 1..=WALKS {
            self.a_random_walk_loses_nothing(seed).await;
        }
    }

    async fn open(&self, names: &Names, ttl: Duration) {
        self.a.open(names.rid, self.tenant, names.agent.clone(), ttl).await.expect("opened");
    }

    async fn claim(&self, names: &Names) -> Result<Duration, Refusal> {
        self.b.claim(names.rid, self.tenant, names.device.clone(), frame("claim")).await
    }

    /// A pairing with its agent at A and its device at B.
    async fn paired(&self) -> Names {
        let names = names();
        self.open(&names, LONG).await;
        self.claim(&names).await.expect("claimed");
        names
    }

    async fn a_pairing_across_two_nodes(&self) {
        let names = self.paired().await;
        let Names { rid, .. } = names;
        self.b.forward(rid, Side::Device, 1, 0, frame("m1")).await.expect("M1");
        self.heard_a.pairing(rid, Side::Agent, &[Event::Claim(frame("claim")), forward(1, "m1")]).await;
        self.a.forward(rid, Side::Agent, 1, 1, frame("m2")).await.expect("M2");
        self.b.ack(rid, Side::Device, 1, frame("ack")).await.expect("an ack alone");
        self.heard_b.pairing(rid, Side::Device, &[forward(1, "m2")]).await;
        let events = [Event::Claim(frame("claim")), forward(1, "m1"), Event::Ack(frame("ack"))];
        self.heard_a.pairing(rid, Side::Agent, &events).await;
    }

    async fn of_many_claims_one_wins(&self) {
        for _ in 0..20 {
            let names = names();
            self.open(&names, LONG).await;
            let claims = (0..8).map(|n| {
                let node = if n % 2 == 0 { self.a.clone() } else { self.b.clone() };
                let (rid, tenant) = (names.rid, self.tenant);
                tokio::spawn(async move { node.claim(rid, tenant, holder(), frame("claim")).await })
            });
            let mut won = 0;
            for claim in claims.collect::<Vec<_>>() {
                match claim.await.expect("no panic") {
                    Ok(_) => won += 1,
                    Err(refusal) => assert_eq!(refusal, Refusal::Claimed),
                }
            }
            assert_eq!(won, 1);
            self.heard_a.pairing(names.rid, Side::Agent, &[Event::Claim(frame("claim"))]).await;
        }
    }

    async fn what_is_not_there_can_not_be_claimed(&self) {
        let names = names();
        assert_eq!(self.claim(&names).await, Err(Refusal::Unknown));
        self.open(&names, LONG).await;
        let foreign = self.b.claim(names.rid, TenantId(random()), holder(), frame("claim")).await;
        assert_eq!(foreign, Err(Refusal::Unknown), "another tenant's phone");
        let again = self.b.open(names.rid, self.tenant, holder(), LONG).await;
        assert_eq!(again, Err(Refusal::Taken), "an id is opened once");
        let early = self.a.forward(names.rid, Side::Agent, 1, 0, frame("x")).await;
        assert_eq!(early, Err(Refusal::Unclaimed), "nobody is there to read it");
    }

    async fn numbers_have_no_gap_and_no_repeat(&self) {
        let names = self.paired().await;
        let Names { rid, .. } = names;
        let send = |seq, ack, text| self.b.forward(rid, Side::Device, seq, ack, frame(text));
        assert_eq!(send(2, 0, "two").await, Err(Refusal::Gap { expected: 1, got: 2 }));
        assert_eq!(send(0, 0, "zero").await, Err(Refusal::Gap { expected: 1, got: 0 }));
        assert_eq!(send(1, 0, "one").await, Ok(()));
        assert_eq!(send(1, 0, "one again, and other").await, Ok(()), "a repetition is taken for what it is");
        assert_eq!(send(2, 1, "two").await, Err(Refusal::AckAhead { sent: 0, got: 1 }));
        assert_eq!(send(2, 0, "two").await, Ok(()));
        let told = [Event::Claim(frame("claim")), forward(1, "one"), forward(2, "two")];
        self.heard_a.pairing(rid, Side::Agent, &told).await;
    }

    async fn only_so_many_messages_wait(&self) {
        let Names { rid, .. } = self.paired().await;
        let last = MAX_UNACKED as u32;
        for seq in 1..=last {
            self.b.forward(rid, Side::Device, seq, 0, frame("x")).await.expect("within the window");
        }
        let all = (1..=last).map(|seq| forward(seq, "x"));
        // Nobody acknowledges what has not arrived.
        let told: Vec<Event> = std::iter::once(Event::Claim(frame("claim"))).chain(all).collect();
        self.heard_a.pairing(rid, Side::Agent, &told).await;
        let over = self.b.forward(rid, Side::Device, last + 1, 0, frame("x")).await;
        assert_eq!(over, Err(Refusal::Unacked(MAX_UNACKED)));
        self.a.forward(rid, Side::Agent, 1, 1, frame("y")).await.expect("acknowledges one");
        self.heard_b.pairing(rid, Side::Device, &[forward(1, "y")]).await;
        assert_eq!(self.b.forward(rid, Side::Device, last + 1, 1, frame("x")).await, Ok(()));
    }

    async fn an_end_comes_back_at_another_node(&self) {
        let names = self.paired().await;
        let Names { rid, .. } = names;
        let back = self.b.resume(rid, self.tenant, names.agent.clone(), 0).await.expect("resumed");
        assert_eq!((back.side, back.sent), (Side::Agent, 0));
        assert_eq!(back.missed, [Event::Claim(frame("claim"))], "kept until it is known to be seen");
        assert!(back.left > Duration::ZERO && back.left <= LONG);

        for seq in 1..=3 {
            self.b.forward(rid, Side::Device, seq, 0, frame("m")).await.expect("sent while nobody reads");
        }
        self.b.ack(rid, Side::Agent, 1, frame("ack")).await.expect("the first is there");
        let Resumed { missed, .. } = self.a.resume(rid, self.tenant, names.agent.clone(), 1).await.expect("resumed");
        assert_eq!(missed, [forward(2, "m"), forward(3, "m")], "exactly what it lacks");
        let before = [Event::Claim(frame("claim"))];
        self.heard_a.pairing(rid, Side::Agent, &before).await;
        self.b.forward(rid, Side::Device, 4, 0, frame("m4")).await.expect("and on it goes");
        self.heard_a.pairing(rid, Side::Agent, &[before[0].clone(), forward(4, "m4")]).await;

        self.a.forward(rid, Side::Agent, 1, 4, frame("r")).await.expect("sent to the device");
        let device = self.a.resume(rid, self.tenant, names.device.clone(), 0).await.expect("resumed");
        assert_eq!((device.side, device.sent, device.missed), (Side::Device, 4, vec![forward(1, "r")]));
    }

    async fn a_stranger_can_not_resume(&self) {
        let names = self.paired().await;
        let resume = |tenant, holder| self.b.resume(names.rid, tenant, holder, 0);
        let wrong_token = Holder { token_hash: [0; 32], ..names.agent.clone() };
        let wrong_certificate = Holder { certificate: names.device.certificate, ..names.agent.clone() };
        assert_eq!(resume(self.tenant, wrong_token).await, Err(Refusal::ResumeDenied));
        assert_eq!(resume(self.tenant, wrong_certificate).await, Err(Refusal::ResumeDenied));
        assert_eq!(resume(TenantId(random()), names.agent.clone()).await, Err(Refusal::Unknown));
        let liar = self.b.resume(names.rid, self.tenant, names.agent.clone(), 9).await;
        assert_eq!(liar, Err(Refusal::ResumeDenied), "has what was never sent");
        let nowhere = self.b.resume(Rid(random()), self.tenant, names.agent.clone(), 0).await;
        assert_eq!(nowhere, Err(Refusal::Unknown));
    }

    async fn who_was_away_too_long_is_told(&self) {
        let names = self.paired().await;
        self.b.forward(names.rid, Side::Device, 1, 0, frame("m1")).await.expect("M1");
        sleep(RESUME_FOR + Duration::from_millis(200)).await;
        let late = self.a.resume(names.rid, self.tenant, names.agent.clone(), 0).await;
        assert_eq!(late, Err(Refusal::ResumeDenied), "the message is no longer kept");
        let whole = self.a.resume(names.rid, self.tenant, names.agent.clone(), 1).await;
        assert_eq!(whole.expect("nothing is lacking").missed, []);
    }

    async fn a_pairing_expires(&self) {
        let ttl = Duration::from_millis(300);
        let (waiting, claimed) = (names(), names());
        self.open(&waiting, ttl).await;
        self.open(&claimed, ttl).await;
        let left = self.claim(&claimed).await.expect("claimed in time");
        assert!(left <= ttl);
        sleep(ttl + Duration::from_millis(50)).await;
        assert_eq!(self.claim(&waiting).await, Err(Refusal::Expired));
        let message = self.b.forward(claimed.rid, Side::Device, 1, 0, frame("late")).await;
        assert_eq!(message, Err(Refusal::Expired));
        let resumed = self.a.resume(claimed.rid, self.tenant, claimed.agent.clone(), 0).await;
        assert_eq!(resumed, Err(Refusal::Expired));
    }

    async fn the_last_words_arrive_before_the_close(&self) {
        let names = self.paired().await;
        let Names { rid, .. } = names;
        self.a.forward(rid, Side::Agent, 1, 0, frame("result")).await.expect("sent");
        self.a.close(rid, Side::Agent).await.expect("closed");
        self.heard_b.pairing(rid, Side::Device, &[forward(1, "result"), Event::Closed]).await;
        let late = self.b.forward(rid, Side::Device, 1, 1, frame("late")).await;
        assert_eq!(late, Err(Refusal::Expired), "nobody reads it any more");
        let back = self.a.resume(rid, self.tenant, names.device.clone(), 0).await.expect("the device was away");
        assert_eq!(back.missed, [forward(1, "result"), Event::Closed]);
        self.a.close(rid, Side::Device).await.expect("it has understood");
        let gone = self.b.resume(rid, self.tenant, names.device, 1).await;
        assert!(matches!(gone, Err(Refusal::Unknown | Refusal::Expired)), "{gone:?}");

        let unclaimed = self::names();
        self.open(&unclaimed, LONG).await;
        self.a.close(unclaimed.rid, Side::Agent).await.expect("closed");
        let late = self.claim(&unclaimed).await;
        assert!(matches!(late, Err(Refusal::Unknown | Refusal::Expired)), "{late:?}");
    }

    /// Two ends send, read, acknowledge, are cut off and come back at either node, in any order: each gets every message
    /// of the other, once and in order.
    async fn a_random_walk_loses_nothing(&self, seed: u64) {
        let names = self.paired().await;
        let mut ends = [Walker::new(Side::Agent, &names.agent), Walker::new(Side::Device, &names.device)];
        // Repeatable, and good enough to shuffle steps: xorshift64.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        for _ in 0..STEPS {
            let who = dice(2) as usize;
            let (step, node) = (dice(10), dice(2) as usize);
            let others_acked = ends[1 - who].acked;
            let end = &mut ends[who];
            match (end.node, step) {
                (None, _) => self.come_back(&names, end, node).await,
                (Some(_), 0) => end.node = None,
                (Some(at), 1..=4) => self.send(&names, end, at, others_acked).await,
                (Some(at), 5..=7) => {
                    let heard = self.heard(at).events(names.rid, end.side);
                    end.read(&heard[end.cursor..]);
                    end.cursor = heard.len();
                }
                (Some(at), _) => {
                    let acked = self.node(at).ack(names.rid, end.side, end.received, frame("ack")).await;
                    assert_eq!(acked, Ok(()), "seed {seed}");
                    end.acked = end.received;
                }
            }
        }
        for end in &mut ends {
            self.come_back(&names, end, 0).await;
        }
        let [agent, device] = &ends;
        assert_eq!((agent.received, device.received), (device.sent, agent.sent), "seed {seed}");
    }

    fn node(&self, at: usize) -> &dyn Backplane {
        [&self.a, &self.b][at].as_ref()
    }

    fn heard(&self, at: usize) -> &Heard {
        [&self.heard_a, &self.heard_b][at]
    }

    async fn come_back(&self, names: &Names, end: &mut Walker, at: usize) {
        end.cursor = self.heard(at).events(names.rid, end.side).len();
        let back = self.node(at).resume(names.rid, self.tenant, end.holder.clone(), end.received).await;
        let back = back.expect("it has been away for no time");
        assert_eq!((back.side, back.sent), (end.side, end.sent), "nothing that was taken in is forgotten");
        end.acked = end.received;
        end.read(&back.missed);
        end.node = Some(at);
    }

    async fn send(&self, names: &Names, end: &mut Walker, at: usize, others_acked: u32) {
        let seq = end.sent + 1;
        let send = || self.node(at).forward(names.rid, end.side, seq, end.received, frame("m"));
        let mut sent = send().await;
        // The acknowledgement counts even where the message does not.
        end.acked = end.received;
        let full = end.sent - others_acked >= MAX_UNACKED as u32;
        // What the other end acknowledged may still be on its way to this node.
        let begun = Instant::now();
        while !full && matches!(sent, Err(Refusal::Unacked(_))) && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5)).await;
            sent = send().await;
        }
        if full {
            assert_eq!(sent, Err(Refusal::Unacked(MAX_UNACKED)));
        } else {
            assert_eq!(sent, Ok(()));
            end.sent = seq;
        }
    }
}
