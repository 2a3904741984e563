//! Pairings: which ends are connected to this relay, and the way between their sockets and the backplane.
//!
//! The backplane holds a pairing; here is only who gets its events. An end joins before the backplane is asked (OPEN,
//! CLAIM, RESUME), because the answer and the first event may arrive in either order: until the answer is there, events
//! wait. A refused claim or resume therefore never disturbs the end that is rightly there.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use gatepass_protocol::{
    Code,
    frame::Frame,
    ids::{Rid, TRACES},
};
use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use crate::{
    backplane::{Backplane, Event, Holder, Refusal, Side, quota::Taken},
    locked,
    metrics::{Held, Metrics, Outcome, Resume},
    peer::Peer,
    websocket::Packet,
};

/// A step of a pairing, for its trace; nothing where nobody traces.
macro_rules! step {
    ($name:literal, $rid:expr $(, $($fields:tt)*)?) => {
        debug_span!(target: TRACES, $name, trace = %$rid.trace(), refused = tracing::field::Empty $(, $($fields)*)?)
    };
}

/// Notes on a step that it was refused.
fn noted<T>(step: &tracing::Span, done: Result<T, Refusal>) -> Result<T, Refusal> {
    done.inspect_err(|refusal| {
        step.record("refused", refusal.code().name());
    })
}

/// A resume token; the relay keeps only its hash.
type Token = [u8; 32];

/// The pairings with an end at this relay.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pairings: DashMap<Rid, Arc<Mutex<Local>>>,
    longest: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Local {
    ends: Vec<End>,
    expires: Instant,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Of the tenant's quota, where it was opened here.
    quota: Option<Taken>,
    _counted: Held,
}

#[derive(Debug)]
struct End {
    peer: Arc<Peer>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// The backplane has not answered yet; this is what happened meanwhile.
    Joining(Vec<(Side, Event)>),
    /// It is this end.
    Joined(Side),
}

/// What an end that comes back is to have: nothing yet, for one that has just come.
#[derive(Debug, Default)]
struct Replay {
    /// The number of the last message that it says it has.
    last_seq: u32,
    missed: Vec<Event>,
}

fn token() -> Result<(Token, [u8; 32]), Refusal> {
    let mut token = [0; 32];
    getrandom::fill(&mut token).map_err(|_| Refusal::Unavailable)?;
    Ok((token, hash(&token)))
}

fn hash(token: &Token) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

fn holder(peer: &Peer, token_hash: [u8; 32]) -> Holder {
    Holder { certificate: peer.identity.certificate, token_hash }
}

impl Mailbox {
    pub(crate) fn new(longest: Duration, metrics: Arc<Metrics>) -> Self {
        Self { pairings: DashMap::new(), longest, metrics }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pairings.len()
    }

    /// OPEN: a pairing waits to be claimed.
    pub(crate) async fn open(
        &self,
        plane: &dyn Backplane,
        peer: &Arc<Peer>,
        rid: Rid,
        ttl: Duration,
        quota: Option<Taken>,
    ) -> Result<(), Refusal> {
        let (token, token_hash) = token()?;
        let ttl = ttl.min(self.longest);
        self.join(rid, peer);
        let step = step!("open", rid);
        let opened =
            plane.open(rid, peer.identity.tenant, holder(peer, token_hash), ttl).instrument(step.clone()).await;
        match noted(&step, opened) {
            Ok(()) => {
                self.metrics.opened.inc();
                if let Some(local) = self.pairings.get(&rid) {
                    locked(&local).quota = quota;
                }
                self.joined(rid, peer, Side::Agent, Frame::Opened { rid, token }, Replay::default(), ttl);
                Ok(())
            }
            Err(refusal) => Err(self.refused(rid, peer, refusal)),
        }
    }

    /// CLAIM: the first phone gets it. `frame` is the CLAIM itself, for the agent.
    pub(crate) async fn claim(
        &self,
        plane: &dyn Backplane,
        peer: &Arc<Peer>,
        rid: Rid,
        frame: Bytes,
    ) -> Result<(), Refusal> {
        let (token, token_hash) = token()?;
        self.join(rid, peer);
        let step = step!("claim", rid);
        let claimed = plane.claim(rid, peer.identity.tenant, holder(peer, token_hash), frame);
        match noted(&step, claimed.instrument(step.clone()).await) {
            Ok(left) => {
                self.metrics.claimed.inc();
                self.joined(rid, peer, Side::Device, Frame::Claimed { rid, token }, Replay::default(), left);
                Ok(())
            }
            Err(refusal) => Err(self.refused(rid, peer, refusal)),
        }
    }

    /// RESUME: an end is back on another connection.
    pub(crate) async fn resume(
        &self,
        plane: &dyn Backplane,
        peer: &Arc<Peer>,
        rid: Rid,
        token: &Token,
        last_seq: u32,
    ) -> Result<(), Refusal> {
        self.join(rid, peer);
        // One after the other, and none of a connection that its client has left since: what is said to the end from then on would
        // be told to neither.
        let turn = self.turn(&rid);
        let _turn = turn.lock().await;
        if self.is_elsewhere(&rid, peer) {
            self.metrics.resumes.inc(Resume::Denied);
            return Err(self.refused(rid, peer, Refusal::ResumeDenied));
        }
        let step = step!("resume", rid, last_seq);
        let back = plane.resume(rid, peer.identity.tenant, holder(peer, hash(token)), last_seq);
        match noted(&step, back.instrument(step.clone()).await) {
            Ok(back) => {
                self.metrics.resumes.inc(Resume::Resumed);
                let answer = Frame::Resumed { rid, last_seq: back.sent };
                let replay = Replay { last_seq, missed: back.missed };
                self.joined(rid, peer, back.side, answer, replay, back.left);
                Ok(())
            }
            Err(refusal) => {
                self.metrics.resumes.inc(Resume::Denied);
                Err(self.refused(rid, peer, refusal))
            }
        }
    }

    /// FWD. `frame` is the frame itself: the other end gets the same bytes.
    pub(crate) async fn forward(
        &self,
        plane: &dyn Backplane,
        peer: &Peer,
        rid: Rid,
        (seq, ack): (u32, u32),
        frame: Bytes,
    ) -> Result<(), Refusal> {
        let side = self.side(&rid, peer)?;
        let step = step!("forward", rid, from = side.name(), seq, bytes = frame.len());
        let done = noted(&step, plane.forward(rid, side, seq, ack, frame).instrument(step.clone()).await);
        self.unless_it_hears(&rid, peer, done)
    }

    /// FWDACK. `frame` is the frame itself.
    pub(crate) async fn ack(
        &self,
        plane: &dyn Backplane,
        peer: &Peer,
        rid: Rid,
        ack: u32,
        frame: Bytes,
    ) -> Result<(), Refusal> {
        let done = plane.ack(rid, self.side(&rid, peer)?, ack, frame).await;
        self.unless_it_hears(&rid, peer, done)
    }

    /// What an end is answered with. Where the pairing is over, an end that is still here is about to hear so, after all that was
    /// said to it before; an ERR would overtake that.
    fn unless_it_hears(&self, rid: &Rid, peer: &Peer, done: Result<(), Refusal>) -> Result<(), Refusal> {
        match done {
            Err(Refusal::Expired) if self.side(rid, peer).is_ok() => Ok(()),
            done => done,
        }
    }

    /// CLOSE: this end is done.
    pub(crate) async fn close(&self, plane: &dyn Backplane, peer: &Peer, rid: Rid) -> Result<(), Refusal> {
        let side = self.side(&rid, peer)?;
        self.leave(&rid, peer, Outcome::Closed);
        let step = step!("close", rid, from = side.name());
        noted(&step, plane.close(rid, side).instrument(step.clone()).await)
    }

    /// A connection is gone. Its pairings live on in the backplane, to be resumed.
    pub(crate) fn forget(&self, peer: &Peer) {
        let pairings = std::mem::take(&mut *locked(&peer.pairings));
        for rid in pairings {
            self.leave(&rid, peer, Outcome::Left);
        }
    }

    /// Ends what has outlived its time, and says so to whoever is connected.
    pub(crate) fn expire(&self, now: Instant) {
        let over = |local: &Arc<Mutex<Local>>| locked(local).expires <= now;
        let old: Vec<Rid> =
            self.pairings.iter().filter(|entry| over(entry.value())).map(|entry| *entry.key()).collect();
        for rid in old {
            let Some((_, local)) = self.pairings.remove_if(&rid, |_, local| over(local)) else { continue };
            self.metrics.pairings_ended.inc(Outcome::Expired);
            let ends = std::mem::take(&mut locked(&local).ends);
            for end in ends {
                end.peer.leave(&rid);
                self.metrics.errors.inc(Code::Expired);
                let text = "the pairing's time is over".to_owned();
                end.peer.send(&Frame::Err { code: Code::Expired, rid: Some(rid), id: None, text });
            }
        }
    }

    /// The backplane says that something happened.
    pub(crate) fn deliver(&self, rid: Rid, to: Side, event: Event) {
        let Some(local) = self.pairings.get(&rid).map(|found| found.clone()) else { return };
        let _step = step!("deliver", rid, to = to.name(), what = event.name(), seq = number(&event)).entered();
        let mut done = None;
        for end in &mut locked(&local).ends {
            match &mut end.place {
                // Bounded by the backplane: it keeps at most 16 messages unacknowledged, and one CLAIM and one CLOSE.
                Place::Joining(waiting) if !matches!(event, Event::Ack(_)) => waiting.push((to, event.clone())),
                Place::Joining(_) => {}
                Place::Joined(side) if *side == to => {
                    tell(&end.peer, rid, &event);
                    done = matches!(event, Event::Closed).then(|| end.peer.clone());
                }
                Place::Joined(_) => {}
            }
        }
        if let Some(peer) = done {
            self.leave(&rid, &peer, Outcome::Closed);
        }
    }

    fn side(&self, rid: &Rid, peer: &Peer) -> Result<Side, Refusal> {
        let local = self.pairings.get(rid).map(|found| found.clone()).ok_or(Refusal::Unknown)?;
        let local = locked(&local);
        let own = local.ends.iter().filter(|end| end.peer.id == peer.id);
        let mut sides = own.filter_map(|end| match end.place {
            Place::Joined(side) => Some(side),
            Place::Joining(_) => None,
        });
        sides.next().ok_or(Refusal::Unknown)
    }

    /// Held by who resumes.
    fn turn(&self, rid: &Rid) -> Arc<tokio::sync::Mutex<()>> {
        self.pairings.get(rid).map(|local| locked(&local).turn.clone()).unwrap_or_default()
    }

    /// Whether a later connection of the same client is this end.
    fn is_elsewhere(&self, rid: &Rid, peer: &Peer) -> bool {
        let Some(local) = self.pairings.get(rid).map(|found| found.clone()) else { return false };
        let certificate = peer.identity.certificate;
        let later = |end: &End| end.peer.id > peer.id && matches!(end.place, Place::Joined(_));
        locked(&local).ends.iter().any(|end| later(end) && end.peer.identity.certificate == certificate)
    }

    fn join(&self, rid: Rid, peer: &Arc<Peer>) {
        let new = || {
            let _counted = self.metrics.pairings.hold();
            Arc::new(Mutex::new(Local {
                ends: Vec::new(),
                expires: Instant::now() + self.longest,
                turn: Arc::default(),
                quota: None,
                _counted,
            }))
        };
        // Under the map's guard, so that the entry is not removed as empty in between; nobody is told anything here.
        let local = self.pairings.entry(rid).or_insert_with(new);
        locked(&local).ends.push(End { peer: peer.clone(), place: Place::Joining(Vec::new()) });
    }

    /// The backplane agreed: from now on this connection is that end, and whoever was it before is not.
    fn joined(&self, rid: Rid, peer: &Arc<Peer>, side: Side, answer: Frame, replay: Replay, left: Duration) {
        let Some(local) = self.pairings.get(&rid).map(|found| found.clone()) else { return };
        let mut local = locked(&local);
        let mut waited = Vec::new();
        let mut displaced = Vec::new();
        local.ends.retain_mut(|end| match &mut end.place {
            Place::Joining(waiting) if end.peer.id == peer.id => {
                waited = std::mem::take(waiting);
                false
            }
            Place::Joined(its) if *its == side => {
                displaced.push(end.peer.clone());
                false
            }
            _ => true,
        });
        for former in displaced {
            former.leave(&rid);
        }
        peer.enter(rid);
        local.expires = Instant::now() + left;
        peer.send(&answer);
        let Replay { last_seq, missed } = replay;
        let has = missed.iter().filter_map(number).max().unwrap_or(0).max(last_seq);
        let mut closed = missed.contains(&Event::Closed);
        missed.iter().for_each(|event| tell(peer, rid, event));
        for (_, event) in waited.into_iter().filter(|(to, _)| *to == side) {
            // What the answer already contained, or the end had before, is not said twice.
            let known = missed.contains(&event) || number(&event).is_some_and(|seq| seq <= has);
            if !known {
                tell(peer, rid, &event);
                closed |= event == Event::Closed;
            }
        }
        if !closed {
            local.ends.push(End { peer: peer.clone(), place: Place::Joined(side) });
            return;
        }
        drop(local);
        self.leave(&rid, peer, Outcome::Closed);
    }

    fn refused(&self, rid: Rid, peer: &Peer, refusal: Refusal) -> Refusal {
        let Some(local) = self.pairings.get(&rid).map(|found| found.clone()) else { return refusal };
        locked(&local).ends.retain(|end| end.peer.id != peer.id || matches!(end.place, Place::Joined(_)));
        self.pairings.remove_if(&rid, |_, local| locked(local).ends.is_empty());
        refusal
    }

    fn leave(&self, rid: &Rid, peer: &Peer, outcome: Outcome) {
        peer.leave(rid);
        let Some(local) = self.pairings.get(rid).map(|found| found.clone()) else { return };
        locked(&local).ends.retain(|end| end.peer.id != peer.id);
        if self.pairings.remove_if(rid, |_, local| locked(local).ends.is_empty()).is_some() {
            self.metrics.pairings_ended.inc(outcome);
        }
    }
}

fn number(event: &Event) -> Option<u32> {
    match event {
        Event::Forward { seq, .. } => Some(*seq),
        _ => None,
    }
}

fn tell(peer: &Peer, rid: Rid, event: &Event) {
    match event {
        Event::Claim(frame) | Event::Forward { frame, .. } | Event::Ack(frame) => {
            peer.outbox.push(Packet::binary(frame))
        }
        Event::Closed => peer.send(&Frame::Close { rid }),
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use gatepass_protocol::ids::{ComputerId, Serial, TenantId};

    use super::*;
    use crate::{
        auth::Standing,
        backplane::{conformance::Heard, memory::Memory},
        outbox::{Bounds, Outbox},
        peer::{Identity, Principal},
        simulation::pipe::pipe,
    };

    const RID: Rid = Rid([1; 16]);
    const TENANT: TenantId = TenantId([2; 16]);
    const LIFE: Duration = Duration::from_secs(90);

    /// A connection with this number.
    fn connected(id: u64) -> (Mailbox, Arc<Peer>, impl AsyncFn(&[&[u8]])) {
        let (reader, writer, far) = pipe();
        let bounds = Bounds { bytes: 10_000, messages: 100, presence: 1 };
        let principal = Principal::Agent(ComputerId([3; 16]));
        let identity =
            Identity { tenant: TENANT, principal, certificate: Serial([4; 16]), standing: Standing::default() };
        let peer = Arc::new(Peer::new(id, identity, Outbox::new(bounds, Arc::default(), writer)));
        let hears = async move |frames: &[&[u8]]| {
            let _reader = &reader;
            let packets: Vec<Packet> = frames.iter().map(|frame| Packet::binary(frame)).collect();
            // Last of all, and nothing in between.
            assert!(far.receive().await.unwrap().ends_with(Packet::joined(&packets).bytes()));
        };
        (Mailbox::new(LIFE, Arc::default()), peer, hears)
    }

    fn forward(seq: u32) -> Event {
        Event::Forward { seq, frame: vec![seq as u8].into() }
    }

    #[tokio::test]
    async fn a_message_that_comes_late_to_an_end_that_is_back_is_not_said_twice() {
        // It had the message before the cut, or has it by the answer, or has it not.
        for (last_seq, missed, expected) in [(11, &[][..], &[][..]), (3, &[4, 5], &[4, 5]), (3, &[4], &[4, 5])] {
            let (mailbox, peer, hears) = connected(1);
            mailbox.join(RID, &peer);
            mailbox.deliver(RID, Side::Agent, forward(5));
            let replay = Replay { last_seq, missed: missed.iter().copied().map(forward).collect() };
            let answer = Frame::Resumed { rid: RID, last_seq: 0 };
            mailbox.joined(RID, &peer, Side::Agent, answer.clone(), replay, LIFE);
            let told = expected.iter().map(|seq| vec![*seq]);
            let all: Vec<Vec<u8>> = std::iter::once(answer.encode()).chain(told).collect();
            hears(&all.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_its_client_has_left_takes_nothing_from_the_one_that_it_has_now() {
        let ((mailbox, left, _), (_, now, _)) = (connected(1), connected(2));
        let memory = Memory::new(LIFE);
        let plane = memory.join(Weak::<Heard>::new());
        let (token, token_hash) = token().unwrap();
        plane.open(RID, TENANT, holder(&now, token_hash), LIFE).await.unwrap();
        let resume = async |peer| mailbox.resume(plane.as_ref(), peer, RID, &token, 0).await;
        assert_eq!(resume(&now).await, Ok(()));
        assert_eq!(resume(&left).await, Err(Refusal::ResumeDenied), "read of its socket late");
        assert!(mailbox.side(&RID, &now).is_ok());
        let next = connected(3).1;
        assert_eq!(resume(&next).await, Ok(()), "and the next one takes it over");
        assert!(mailbox.side(&RID, &now).is_err());
    }

    #[tokio::test]
    async fn what_was_said_before_the_other_end_closed_arrives_though_one_speaks_up_meanwhile() {
        let (mailbox, peer, hears) = connected(1);
        let memory = Memory::new(LIFE);
        // Nobody is told anything yet: it is on its way.
        let plane = memory.join(Weak::<Heard>::new());
        mailbox.open(plane.as_ref(), &peer, RID, LIFE, None).await.unwrap();
        let device = Holder { certificate: Serial([5; 16]), token_hash: [6; 32] };
        plane.claim(RID, TENANT, device, Bytes::new()).await.unwrap();
        plane.forward(RID, Side::Device, 1, 0, vec![1].into()).await.unwrap();
        plane.close(RID, Side::Device).await.unwrap();
        assert!(peer.outbox.push(Packet::binary(b"opened")));
        mailbox.forward(plane.as_ref(), &peer, RID, (1, 0), Bytes::new()).await.unwrap();
        mailbox.deliver(RID, Side::Agent, forward(1));
        mailbox.deliver(RID, Side::Agent, Event::Closed);
        hears(&[b"opened", &[1], &Frame::Close { rid: RID }.encode()]).await;
        let late = mailbox.forward(plane.as_ref(), &peer, RID, (1, 0), Bytes::new()).await;
        assert_eq!(late, Err(Refusal::Unknown), "and then it is over");
    }
}
