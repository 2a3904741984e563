//! What must outlive a single socket: subscriptions, pairings with their numbering, and who waits for which answer. No socket
//! and no clock here: frames and requests go in, frames for the relay and events for the program come out.
//!
//! A pairing's messages are numbered from 1 in each direction. What was sent is kept until the other side acknowledges it; after
//! a cut `RESUME` exchanges how far each side got, and the rest is sent again. So each message arrives exactly once and in
//! order, or the pairing is lost and its owner is told.
//!
//! A channel's messages are numbered by the relay. Up to where they were heard is remembered and named after a cut, so that the
//! relay sends what was missed, or says that it no longer can; then the program is told to fetch anew.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, MAX_UNACKED, Place},
    ids::Rid,
};
use tokio::time::Instant;

use crate::connection::{Command, Incoming, Reply, RequestError};

/// Without an own message that carries it, an acknowledgement is sent after this many received.
const ACK_EVERY: u32 = 8;
/// A pairing lives 90 s at the relay and at most 60 s more for a resume: what is older has been forgotten there.
const PAIRING_LIFE: Duration = Duration::from_secs(150);

/// The state behind the connection.
#[derive(Default)]
pub(crate) struct Session {
    online: bool,
    subscriptions: BTreeMap<Channel, Subscription>,
    /// Subscriptions whose answer is outstanding, in the order asked: a refusal names no channel.
    asked: VecDeque<Channel>,
    publishes: HashMap<u32, Reply<u32>>,
    last_publish: u32,
    pairings: HashMap<Rid, Pairing>,
    /// For the relay.
    pub(crate) out: VecDeque<Frame>,
    /// For the program.
    pub(crate) up: VecDeque<Incoming>,
}

#[derive(Default)]
struct Subscription {
    waiting: Vec<Reply<u64>>,
    /// Up to where it was heard without a hole. None before the relay's first answer, and until what that announced has come.
    place: Option<Place>,
    /// What an answer announced and is still to come.
    catching_up: Option<CatchingUp>,
    /// The relay has answered before: whoever is without a place now has missed something.
    begun: bool,
}

struct CatchingUp {
    left: u32,
    then: Place,
}

struct Pairing {
    phase: Phase,
    until: Instant,
    /// Both ends are there.
    claimed: bool,
    sent: u32,
    received: u32,
    told: u32,
    unacked: VecDeque<(u32, Bytes)>,
}

enum Phase {
    /// OPEN or CLAIM is under way.
    Asked(Reply<()>),
    /// Messages flow.
    Running { token: [u8; 32] },
    /// A cut; RESUME is under way or will be.
    Cut { token: [u8; 32] },
}

impl Session {
    /// The relay has let us in: take everything up again.
    pub(crate) fn connected(&mut self) {
        self.online = true;
        for (channel, subscription) in &self.subscriptions {
            self.asked.push_back(*channel);
            self.out.push_back(Frame::Subscribe { channel: channel.to_string(), since: subscription.place });
        }
        for (rid, pairing) in &self.pairings {
            if let Phase::Cut { token } = &pairing.phase {
                self.out.push_back(Frame::Resume { rid: *rid, token: *token, last_seq: pairing.received });
            }
        }
    }

    /// The socket is gone: whoever waits for an answer is told, the rest waits for the next socket.
    pub(crate) fn disconnected(&mut self) {
        self.online = false;
        self.out.clear();
        self.asked.clear();
        self.subscriptions.values_mut().for_each(|subscription| subscription.catching_up = None);
        for (_, reply) in self.publishes.drain() {
            let _ = reply.send(Err(RequestError::Cut));
        }
        let pairings = std::mem::take(&mut self.pairings);
        for (rid, mut pairing) in pairings {
            pairing.phase = match pairing.phase {
                Phase::Asked(reply) => {
                    let _ = reply.send(Err(RequestError::Cut));
                    continue;
                }
                Phase::Running { token } | Phase::Cut { token } => Phase::Cut { token },
            };
            self.pairings.insert(rid, pairing);
        }
    }

    /// Drops what the relay has forgotten too.
    fn expire(&mut self, now: Instant) {
        let old: Vec<Rid> =
            self.pairings.iter().filter(|(_, pairing)| pairing.until <= now).map(|(rid, _)| *rid).collect();
        for rid in old {
            self.lose(rid, Code::Expired, "");
        }
    }

    /// Whether somebody is being talked with, who would be cut off by going elsewhere. A code that nobody has scanned yet is
    /// replaced by a new one.
    pub(crate) fn is_talking(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.pairings.values().any(|pairing| pairing.claimed)
    }

    /// A request of the program.
    pub(crate) fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Subscribe { channel, reply } => {
                self.subscriptions.entry(channel).or_default().waiting.push(reply);
                if self.online {
                    self.ask_for(channel);
                }
            }
            Command::Unsubscribe { channel } => {
                self.subscriptions.remove(&channel);
                if self.online {
                    self.out.push_back(Frame::Unsubscribe { channel: channel.to_string() });
                }
            }
            Command::Publish { channel, bytes, reply } => {
                if !self.online {
                    let _ = reply.send(Err(RequestError::Offline));
                    return;
                }
                self.last_publish = self.last_publish.wrapping_add(1);
                self.publishes.insert(self.last_publish, reply);
                self.out.push_back(Frame::Publish { id: self.last_publish, channel: channel.to_string(), bytes });
            }
            Command::Open { rid, ttl, reply } => self.begin(rid, reply, now, Frame::Open { rid, ttl }),
            Command::Claim { rid, nonce, tag, reply } => {
                self.begin(rid, reply, now, Frame::Claim { rid, n: nonce, tag })
            }
            Command::Forward { rid, bytes } => self.forward(rid, bytes),
            // The driver's; without a connection a new one is on its way.
            Command::Reconnect => {}
            Command::Close { rid } => {
                if self.pairings.remove(&rid).is_some() && self.online {
                    self.out.push_back(Frame::Close { rid });
                }
            }
        }
    }

    fn ask_for(&mut self, channel: Channel) {
        if let Some(subscription) = self.subscriptions.get(&channel).filter(|_| !self.asked.contains(&channel)) {
            self.asked.push_back(channel);
            self.out.push_back(Frame::Subscribe { channel: channel.to_string(), since: subscription.place });
        }
    }

    fn subscribed(&mut self, channel: Channel, place: Place, complete: bool, following: u32) {
        self.asked.retain(|asked| *asked != channel);
        let Some(subscription) = self.subscriptions.get_mut(&channel) else { return };
        for reply in std::mem::take(&mut subscription.waiting) {
            let _ = reply.send(Ok(place.offset));
        }
        if !channel.is_numbered() {
            return;
        }
        // What came while the question was on its way comes twice, so it may be more than is missing; never less.
        let fills = |heard: Place| {
            heard.epoch == place.epoch && u64::from(following) >= place.offset.saturating_sub(heard.offset)
        };
        let went_on = complete && subscription.place.is_some_and(fills);
        if !went_on && std::mem::replace(&mut subscription.begun, true) {
            self.up.push_back(Incoming::Refetch { channel });
        }
        if !went_on {
            subscription.place = None;
        }
        subscription.catching_up = Some(CatchingUp { left: following, then: place }).filter(|_| following > 0);
        if following == 0 {
            subscription.place = Some(place);
        }
    }

    fn heard(&mut self, channel: Channel, offset: u64, bytes: Bytes) {
        let Some(subscription) = self.subscriptions.get_mut(&channel) else { return };
        let news = Incoming::Message { channel, offset, bytes };
        if !channel.is_numbered() {
            return self.up.push_back(news);
        }
        let heard = subscription.place.map(|place| place.offset);
        let known = heard.is_some_and(|heard| offset <= heard);
        match &mut subscription.catching_up {
            Some(catching_up) => {
                catching_up.left -= 1;
                let then = catching_up.then;
                if let Some(place) = &mut subscription.place {
                    place.offset = place.offset.max(offset);
                }
                if catching_up.left == 0 {
                    (subscription.place, subscription.catching_up) = (Some(then), None);
                }
            }
            // A relay numbers without holes, so this is one that has lost something. Asked, it sends it or says so; what comes
            // until then it sends again.
            None if heard.is_none_or(|heard| offset > heard.saturating_add(1)) => return self.ask_for(channel),
            None => {
                if let Some(place) = &mut subscription.place {
                    place.offset = place.offset.max(offset);
                }
            }
        }
        if !known {
            self.up.push_back(news);
        }
    }

    fn begin(&mut self, rid: Rid, reply: Reply<()>, now: Instant, frame: Frame) {
        if !self.online {
            let _ = reply.send(Err(RequestError::Offline));
            return;
        }
        self.expire(now);
        let pairing = Pairing {
            phase: Phase::Asked(reply),
            until: now + PAIRING_LIFE,
            claimed: matches!(frame, Frame::Claim { .. }),
            sent: 0,
            received: 0,
            told: 0,
            unacked: VecDeque::new(),
        };
        self.pairings.insert(rid, pairing);
        self.out.push_back(frame);
    }

    fn forward(&mut self, rid: Rid, bytes: Bytes) {
        let Some(pairing) = self.pairings.get_mut(&rid) else {
            self.up.push_back(Incoming::Closed { rid, code: Some(Code::Unknown) });
            return;
        };
        if pairing.unacked.len() == MAX_UNACKED {
            self.lose(rid, Code::Quota, "");
            return;
        }
        pairing.sent += 1;
        pairing.unacked.push_back((pairing.sent, bytes.clone()));
        if matches!(pairing.phase, Phase::Running { .. }) {
            pairing.told = pairing.received;
            self.out.push_back(Frame::Forward { rid, seq: pairing.sent, ack: pairing.received, bytes });
        }
    }

    /// A frame from the relay, after authentication. An error the connection can't go on with comes back.
    pub(crate) fn frame(&mut self, frame: Frame) -> Result<(), Frame> {
        match frame {
            Frame::Opened { rid, token } | Frame::Claimed { rid, token } => self.begun(rid, token),
            Frame::Claim { rid, n, tag } => {
                if let Some(pairing) = self.pairings.get_mut(&rid) {
                    pairing.claimed = true;
                    self.up.push_back(Incoming::Claimed { rid, nonce: n, tag });
                }
            }
            Frame::Forward { rid, seq, ack, bytes } => self.forwarded(rid, seq, ack, bytes),
            Frame::ForwardAck { rid, ack } => {
                if let Some(pairing) = self.pairings.get_mut(&rid) {
                    pairing.acknowledged(ack);
                }
            }
            Frame::Resumed { rid, last_seq } => self.resumed(rid, last_seq),
            Frame::Subscribed { channel, place, complete, following } => {
                if let Ok(channel) = channel.parse() {
                    self.subscribed(channel, place, complete, following);
                }
            }
            Frame::Message { channel, offset, bytes } => {
                if let Ok(channel) = channel.parse() {
                    self.heard(channel, offset, bytes);
                }
            }
            Frame::Ack { id, delivered } => {
                if let Some(reply) = self.publishes.remove(&id) {
                    let _ = reply.send(Ok(delivered));
                }
            }
            Frame::Close { rid } => {
                if self.pairings.remove(&rid).is_some() {
                    self.up.push_back(Incoming::Closed { rid, code: None });
                }
            }
            // A relay that can't just now: the pairing may still be resumed, over another connection.
            Frame::Err { code: Code::Draining, rid: Some(rid), .. } if self.is_cut(&rid) => return Err(frame),
            Frame::Err { code, rid: Some(rid), text, .. } => self.lose(rid, code, &text),
            Frame::Err { code, rid: None, id: Some(id), text } => {
                if let Some(reply) = self.publishes.remove(&id) {
                    let _ = reply.send(Err(RequestError::Refused { code, text }));
                }
            }
            Frame::Err { code, rid: None, id: None, text } => {
                let begun = |channel: &Channel| self.subscriptions.get(channel).is_some_and(|known| known.begun);
                // A relay that can't just now is asked again, over another connection: a program that listens already must
                // not go deaf because of it.
                let again = |channel: &Channel| code == Code::Draining && begun(channel);
                let Some(channel) = self.asked.pop_front().filter(|channel| !again(channel)) else {
                    return Err(Frame::Err { code, rid: None, id: None, text });
                };
                tracing::warn!(%code, "the relay refused a subscription");
                for reply in self.subscriptions.remove(&channel).unwrap_or_default().waiting {
                    let _ = reply.send(Err(RequestError::Refused { code, text: text.clone() }));
                }
            }
            other => return Err(other),
        }
        Ok(())
    }

    fn is_cut(&self, rid: &Rid) -> bool {
        self.pairings.get(rid).is_some_and(|pairing| matches!(pairing.phase, Phase::Cut { .. }))
    }

    fn begun(&mut self, rid: Rid, token: [u8; 32]) {
        let Some(pairing) = self.pairings.get_mut(&rid) else { return };
        if let Phase::Asked(_) = pairing.phase
            && let Phase::Asked(reply) = std::mem::replace(&mut pairing.phase, Phase::Running { token })
        {
            let _ = reply.send(Ok(()));
        }
    }

    fn forwarded(&mut self, rid: Rid, seq: u32, ack: u32, bytes: Bytes) {
        let Some(pairing) = self.pairings.get_mut(&rid) else { return };
        pairing.acknowledged(ack);
        if seq <= pairing.received {
            return;
        }
        if seq != pairing.received + 1 {
            self.out.push_back(Frame::Close { rid });
            self.lose(rid, Code::BadFrame, "");
            return;
        }
        pairing.received = seq;
        if seq - pairing.told >= ACK_EVERY {
            pairing.told = seq;
            self.out.push_back(Frame::ForwardAck { rid, ack: seq });
        }
        self.up.push_back(Incoming::Forwarded { rid, bytes });
    }

    fn resumed(&mut self, rid: Rid, last_seq: u32) {
        let Some(pairing) = self.pairings.get_mut(&rid) else { return };
        let Phase::Cut { token } = &pairing.phase else { return };
        pairing.phase = Phase::Running { token: *token };
        for (seq, bytes) in pairing.unacked.iter().filter(|(seq, _)| *seq > last_seq) {
            self.out.push_back(Frame::Forward { rid, seq: *seq, ack: pairing.received, bytes: bytes.clone() });
        }
    }

    /// Ends a pairing from this side or on the relay's word, and tells whoever cares.
    fn lose(&mut self, rid: Rid, code: Code, text: &str) {
        match self.pairings.remove(&rid).map(|pairing| pairing.phase) {
            Some(Phase::Asked(reply)) => {
                let _ = reply.send(Err(RequestError::Refused { code, text: text.to_owned() }));
            }
            Some(Phase::Running { .. } | Phase::Cut { .. }) => {
                self.up.push_back(Incoming::Closed { rid, code: Some(code) })
            }
            None => {}
        }
    }
}

impl Pairing {
    fn acknowledged(&mut self, ack: u32) {
        while self.unacked.front().is_some_and(|(seq, _)| *seq <= ack) {
            self.unacked.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    const RID: Rid = Rid([1; 16]);

    /// An end of a pairing, and the relay's memory of what goes to it.
    struct End {
        session: Session,
        online: bool,
        /// What the relay keeps for it until it acknowledges.
        kept: VecDeque<(u32, u32, Bytes)>,
        /// The highest number that the relay has from it.
        got: u32,
        sent: u32,
        arrived: Vec<Bytes>,
    }

    impl End {
        fn new(now: Instant) -> Self {
            let mut session = Session::default();
            session.connected();
            let (reply, _) = oneshot::channel();
            session.command(Command::Open { rid: RID, ttl: 60, reply }, now);
            session.out.clear();
            session.frame(Frame::Opened { rid: RID, token: [2; 32] }).unwrap();
            Self { session, online: true, kept: VecDeque::new(), got: 0, sent: 0, arrived: Vec::new() }
        }

        fn send(&mut self, now: Instant) {
            self.sent += 1;
            self.session
                .command(Command::Forward { rid: RID, bytes: Bytes::from(self.sent.to_be_bytes().to_vec()) }, now);
        }

        fn unacked(&self) -> usize {
            self.session.pairings[&RID].unacked.len()
        }

        fn cut(&mut self) {
            self.session.disconnected();
            self.online = false;
        }

        fn acknowledged(&mut self, ack: u32) {
            self.kept.retain(|(seq, ..)| *seq > ack);
        }

        fn take(&mut self) {
            while let Some(event) = self.session.up.pop_front() {
                let Incoming::Forwarded { bytes, .. } = event else { panic!("lost: {event:?}") };
                self.arrived.push(bytes);
            }
        }
    }

    /// Takes up to `count` frames from one end through a relay to the other; the rest is lost with the next cut.
    fn carry(from: &mut End, to: &mut End, count: usize) {
        for _ in 0..count {
            let Some(frame) = from.session.out.pop_front() else { return };
            match frame {
                Frame::Forward { seq, ack, bytes, .. } => {
                    from.acknowledged(ack);
                    if seq > from.got {
                        assert_eq!(seq, from.got + 1, "the relay sees no gap");
                        from.got = seq;
                        to.kept.push_back((seq, ack, bytes.clone()));
                    }
                    if to.online {
                        to.session.frame(Frame::Forward { rid: RID, seq, ack, bytes }).unwrap();
                    }
                }
                Frame::ForwardAck { ack, .. } => {
                    from.acknowledged(ack);
                    if to.online {
                        to.session.frame(Frame::ForwardAck { rid: RID, ack }).unwrap();
                    }
                }
                Frame::Resume { last_seq, .. } => {
                    from.acknowledged(last_seq);
                    from.online = true;
                    from.session.frame(Frame::Resumed { rid: RID, last_seq: from.got }).unwrap();
                    for (seq, ack, bytes) in from.kept.clone() {
                        from.session.frame(Frame::Forward { rid: RID, seq, ack, bytes }).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
            to.take();
            from.take();
        }
    }

    #[test]
    fn a_pairing_that_a_relay_can_not_take_up_just_now_is_not_lost() {
        let now = Instant::now();
        let mut end = End::new(now);
        let refused = |code| Frame::Err { code, rid: Some(RID), id: None, text: String::new() };
        end.cut();
        end.session.connected();
        assert!(end.session.frame(refused(Code::Draining)).is_err(), "this connection is of no use");
        end.session.disconnected();
        assert!(end.session.up.is_empty(), "nobody is told that it is over");
        end.session.connected();
        assert!(matches!(end.session.out.pop_back(), Some(Frame::Resume { .. })));
        end.session.frame(refused(Code::ResumeDenied)).unwrap();
        let lost = Incoming::Closed { rid: RID, code: Some(Code::ResumeDenied) };
        assert_eq!(end.session.up.pop_front(), Some(lost), "a plain no is one");
    }

    proptest! {
        #[test]
        fn however_often_either_end_is_cut_off_each_message_arrives_once_and_in_order(
            steps in proptest::collection::vec((0..2_usize, 0..4_u8, 1..4_usize), 1..200),
        ) {
            let now = Instant::now();
            let mut ends = [End::new(now), End::new(now)];
            for (who, what, count) in steps {
                let [a, b] = &mut ends;
                let (one, other) = if who == 0 { (a, b) } else { (b, a) };
                match what {
                    // As many unacknowledged as may be kept.
                    0 if one.unacked() < MAX_UNACKED => one.send(now),
                    1 => one.cut(),
                    2 if !one.session.online => one.session.connected(),
                    _ => carry(one, other, count),
                }
            }
            let [a, b] = &mut ends;
            for _ in 0..4 {
                for end in [&mut *a, &mut *b] {
                    if !end.session.online {
                        end.session.connected();
                    }
                }
                carry(a, b, usize::MAX);
                carry(b, a, usize::MAX);
            }
            for (from, to) in [(&*a, &*b), (&*b, &*a)] {
                let all: Vec<Bytes> = (1..=from.sent).map(|n| Bytes::from(n.to_be_bytes().to_vec())).collect();
                prop_assert_eq!(&to.arrived, &all);
            }
        }
    }
}
