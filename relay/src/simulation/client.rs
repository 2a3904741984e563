//! A client that keeps the protocol and believes nothing: it checks each frame against what may come now.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, MAX_UNACKED, Place},
    ids::Rid,
};
use tokio::time::{Instant, sleep_until};

use super::{
    pipe::Far,
    truth::{Truth, message},
};
use crate::{
    backplane::{Side, Topic},
    locked,
    peer::Identity,
};

pub(super) struct Client {
    pub(super) n: usize,
    pub(super) identity: Identity,
    truth: Arc<Truth>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    line: Option<Arc<Far>>,
    /// Which connection it is: what comes on an earlier one is not heard.
    connection: u64,
    ends: BTreeMap<Rid, End>,
    channels: BTreeMap<Channel, Listening>,
    /// Subscriptions whose answer is outstanding.
    asked: VecDeque<Channel>,
    publishes: u32,
    slow_until: Option<Instant>,
}

/// One end of a pairing.
pub(super) struct End {
    pub(super) side: Side,
    pub(super) phase: Phase,
    token: [u8; 32],
    pub(super) sent: u32,
    pub(super) received: u32,
    unacked: VecDeque<u32>,
    claim_seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// OPEN or CLAIM is under way.
    Asked,
    Running,
    /// The connection was cut.
    Cut,
    /// RESUME is under way.
    Resuming,
    /// It closed it, or was told that it is over.
    Over,
}

/// A channel that it wants to hear.
#[derive(Debug, Default)]
struct Listening {
    phase: Hearing,
    /// Up to where it has heard it.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Hearing {
    #[default]
    Wanted,
    Asked,
    /// So many of what SUBSCRIBED announced are still to come; then it is there.
    CatchingUp {
        left: u32,
        whole: bool,
        then: Place,
    },
    Live,
}

impl Listening {
    /// SUBSCRIBED: the answer, or unasked the word that something is missing.
    fn subscribed(&mut self, place: Place, complete: bool, following: u32) -> Result<(), String> {
        if self.phase != Hearing::Asked && complete || self.phase == Hearing::Wanted {
            return Err(format!("complete: {complete}, while {:?}", self.phase));
        }
        let since = self.place.filter(|_| complete);
        if let Some(since) = since
            && (since.epoch != place.epoch || place.offset.checked_sub(since.offset) != Some(following.into()))
        {
            return Err(format!("{following} follow to come from {since:?} to {place:?}"));
        }
        (self.phase, self.place) = match following {
            0 => (Hearing::Live, Some(place)),
            left => (Hearing::CatchingUp { left, whole: since.is_some(), then: place }, self.place),
        };
        Ok(())
    }

    fn message(&mut self, offset: u64) -> Result<(), String> {
        let next = self.place.map(|place| place.offset + 1);
        let to = match &mut self.phase {
            Hearing::CatchingUp { whole: true, .. } | Hearing::Live if next != Some(offset) => {
                return Err(format!("message {offset}, and {next:?} was next"));
            }
            Hearing::Live => self.place.map(|place| Place { offset, ..place }),
            Hearing::CatchingUp { left, whole, then } => {
                *left -= 1;
                let (done, whole, then) = (*left == 0, *whole, *then);
                if done {
                    self.phase = Hearing::Live;
                    Some(then)
                } else {
                    self.place.map(|place| if whole { Place { offset, ..place } } else { place })
                }
            }
            phase => return Err(format!("message {offset} while {phase:?}")),
        };
        self.place = to;
        Ok(())
    }
}

impl Client {
    pub(super) fn new(n: usize, identity: Identity, truth: Arc<Truth>) -> Arc<Self> {
        Arc::new(Self { n, identity, truth, state: Mutex::default() })
    }

    pub(super) fn is_connected(&self) -> bool {
        locked(&self.state).line.is_some()
    }

    /// It has a new connection: it takes up what it had.
    pub(super) fn connected(self: &Arc<Self>, far: Far) {
        let far = Arc::new(far);
        let connection = {
            let mut state = locked(&self.state);
            state.line = Some(far.clone());
            state.connection += 1;
            state.connection
        };
        self.take_up();
        let this = self.clone();
        tokio::spawn(async move { this.listen(far, connection).await });
    }

    /// Asks for what it wants and does not have.
    pub(super) fn take_up(&self) {
        let mut state = locked(&self.state);
        let Some(line) = state.line.clone() else { return };
        let State { ends, channels, asked, .. } = &mut *state;
        for (rid, end) in ends.iter_mut().filter(|(_, end)| end.phase == Phase::Cut) {
            end.phase = Phase::Resuming;
            send(&line, &Frame::Resume { rid: *rid, token: end.token, last_seq: end.received });
        }
        for (channel, listening) in channels.iter_mut().filter(|(_, listening)| listening.phase == Hearing::Wanted) {
            listening.phase = Hearing::Asked;
            asked.push_back(*channel);
            send(&line, &Frame::Subscribe { channel: channel.to_string(), since: listening.place });
        }
    }

    async fn listen(&self, far: Arc<Far>, connection: u64) {
        let mut rest = vec![];
        loop {
            loop {
                let slow = locked(&self.state).slow_until.filter(|until| *until > Instant::now());
                let Some(until) = slow else { break };
                sleep_until(until).await;
            }
            let Some(bytes) = far.receive().await else { return self.gone(connection) };
            rest.extend(bytes);
            while let Some((opcode, payload)) = packet(&mut rest) {
                if locked(&self.state).connection != connection {
                    return;
                }
                match opcode {
                    2 => match Frame::decode(&payload) {
                        Ok(frame) => self.frame(frame),
                        Err(error) => self.wrong(&format!("not a frame: {error}")),
                    },
                    8 => {
                        far.cut(false);
                        return self.gone(connection);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Cuts its connection; `all`: what is on its way to the relay is lost too.
    pub(super) fn cut(&self, all: bool) {
        let line = locked(&self.state).line.clone();
        if let Some(line) = line {
            line.cut(all);
        }
        let connection = locked(&self.state).connection;
        self.gone(connection);
    }

    /// Goes away without a word: the relay goes on writing to it for a while.
    pub(super) fn abandon(&self) -> Option<Arc<Far>> {
        let (line, connection) = {
            let state = locked(&self.state);
            (state.line.clone(), state.connection)
        };
        self.gone(connection);
        line
    }

    fn gone(&self, connection: u64) {
        let mut state = locked(&self.state);
        if state.connection != connection || state.line.take().is_none() {
            return;
        }
        // Whatever still comes on it is not heard.
        state.connection += 1;
        state.asked.clear();
        for (rid, end) in &mut state.ends {
            end.phase = match end.phase {
                Phase::Asked => {
                    self.truth.note(self.n, "was cut before the answer", rid);
                    Phase::Over
                }
                Phase::Running | Phase::Cut | Phase::Resuming => Phase::Cut,
                Phase::Over => Phase::Over,
            };
        }
        for listening in state.channels.values_mut() {
            // What was to make up for a hole has not all come.
            if matches!(listening.phase, Hearing::CatchingUp { whole: false, .. }) {
                listening.place = None;
            }
            listening.phase = Hearing::Wanted;
        }
    }

    pub(super) fn slow(&self, until: Instant) {
        locked(&self.state).slow_until = Some(until);
    }

    // ---- what it asks ----

    pub(super) fn begin(&self, rid: Rid, side: Side, frame: &Frame) -> bool {
        let mut state = locked(&self.state);
        let Some(line) = state.line.clone() else { return false };
        if state.ends.contains_key(&rid) {
            return false;
        }
        let (phase, token, unacked) = (Phase::Asked, [0; 32], VecDeque::new());
        let end = End { side, phase, token, sent: 0, received: 0, unacked, claim_seen: false };
        state.ends.insert(rid, end);
        send(&line, frame);
        true
    }

    /// Says so many more messages of a pairing, as many as may be unacknowledged.
    pub(super) fn say(&self, rid: Rid, count: usize) {
        let mut state = locked(&self.state);
        let Some(line) = state.line.clone() else { return };
        let Some(end) = state.ends.get_mut(&rid).filter(|end| end.phase == Phase::Running) else { return };
        // An agent knows by the CLAIM that there is somebody to talk to.
        if end.side == Side::Agent && !end.claim_seen && end.received == 0 {
            return;
        }
        for _ in 0..count {
            if end.unacked.len() >= MAX_UNACKED {
                return;
            }
            end.sent += 1;
            end.unacked.push_back(end.sent);
            let bytes = message(rid, end.side, end.sent);
            send(&line, &Frame::Forward { rid, seq: end.sent, ack: end.received, bytes });
        }
    }

    pub(super) fn ack(&self, rid: Rid) {
        let state = locked(&self.state);
        let running = state.ends.get(&rid).filter(|end| end.phase == Phase::Running && end.received > 0);
        if let (Some(line), Some(end)) = (&state.line, running) {
            send(line, &Frame::ForwardAck { rid, ack: end.received });
        }
    }

    pub(super) fn close(&self, rid: Rid) {
        let mut state = locked(&self.state);
        let Some(line) = state.line.clone() else { return };
        let Some(end) = state.ends.get_mut(&rid).filter(|end| end.phase == Phase::Running) else { return };
        end.phase = Phase::Over;
        self.truth.closed(rid, end.side, end.sent);
        send(&line, &Frame::Close { rid });
    }

    pub(super) fn subscribe(&self, channel: Channel) {
        locked(&self.state).channels.entry(channel).or_default();
        self.take_up();
    }

    pub(super) fn unsubscribe(&self, channel: Channel) {
        let mut state = locked(&self.state);
        // Not while the answer is outstanding: a refusal names no channel.
        if state.channels.get(&channel).is_none_or(|listening| listening.phase != Hearing::Live) {
            return;
        }
        state.channels.remove(&channel);
        if let Some(line) = &state.line {
            send(line, &Frame::Unsubscribe { channel: channel.to_string() });
        }
    }

    pub(super) fn publish(&self, channel: Channel) {
        let mut state = locked(&self.state);
        state.publishes += 1;
        let (id, bytes) = (state.publishes, Bytes::from(vec![7; 1_000]));
        if let Some(line) = &state.line {
            send(line, &Frame::Publish { id, channel: channel.to_string(), bytes });
        }
    }

    // ---- what it hears ----

    fn frame(&self, frame: Frame) {
        self.truth.heard(self.n, &frame);
        match frame {
            Frame::Welcome { .. } | Frame::Ticket { .. } | Frame::Drain { .. } | Frame::Ack { .. } => {}
            Frame::Opened { rid, token } => self.begun(rid, token, Side::Agent),
            Frame::Claimed { rid, token } => {
                self.begun(rid, token, Side::Device);
                self.truth.claimed(rid, self.n);
            }
            Frame::Claim { rid, .. } => self.at(rid, "CLAIM", |end| {
                end.claim_seen = true;
                if end.side == Side::Agent { Ok(()) } else { Err("is told of a claim as a device".to_owned()) }
            }),
            Frame::Forward { rid, seq, ack, bytes } => self.at(rid, "FWD", |end| {
                end.acked(ack)?;
                if seq != end.received + 1 {
                    return Err(format!("message {seq} after {}", end.received));
                }
                if bytes != message(rid, end.side.other(), seq) {
                    return Err(format!("message {seq} is not what was sent"));
                }
                end.received = seq;
                Ok(())
            }),
            Frame::ForwardAck { rid, ack } => self.at(rid, "FWDACK", |end| end.acked(ack)),
            Frame::Resumed { rid, last_seq } => self.resumed(rid, last_seq),
            Frame::Close { rid } => {
                let state = locked(&self.state);
                // Who has closed itself does not listen any more.
                let end = state.ends.get(&rid).filter(|end| end.phase == Phase::Running);
                let last = end.map(|end| (end.side, end.received));
                drop(state);
                if let Some((side, received)) = last {
                    self.truth.heard_close(self.n, rid, side, received);
                }
                self.over(rid);
            }
            Frame::Err { rid: Some(rid), code, .. } => self.refused(rid, code),
            Frame::Err { id: Some(_), code: Code::Draining | Code::Rate, .. } => {}
            Frame::Err { rid: None, id: None, code: Code::Draining, .. } => {
                let mut state = locked(&self.state);
                let Some(channel) = state.asked.pop_front() else { return self.wrong("refused what it did not ask") };
                if let Some(listening) = state.channels.get_mut(&channel) {
                    listening.phase = Hearing::Wanted;
                }
            }
            Frame::Subscribed { channel, place, complete, following } => {
                self.listening(&channel, "SUBSCRIBED", |listening| listening.subscribed(place, complete, following));
            }
            Frame::Message { channel, offset, .. } => {
                self.listening(&channel, "MESSAGE", |listening| listening.message(offset));
            }
            other => self.wrong(&format!("a frame that does not belong here: {other:?}")),
        }
    }

    fn begun(&self, rid: Rid, token: [u8; 32], side: Side) {
        let mut state = locked(&self.state);
        match state.ends.get_mut(&rid) {
            Some(end) if end.phase == Phase::Asked && end.side == side => {
                (end.phase, end.token) = (Phase::Running, token);
                if side == Side::Agent {
                    self.truth.opened(rid);
                }
            }
            _ => self.wrong("OPENED or CLAIMED that it did not ask for"),
        }
    }

    /// Something about a pairing that runs here, and which may not come otherwise.
    fn at(&self, rid: Rid, what: &str, check: impl FnOnce(&mut End) -> Result<(), String>) {
        let mut state = locked(&self.state);
        let checked = match state.ends.get_mut(&rid) {
            // It has closed, and the relay did not know yet.
            Some(end) if end.phase == Phase::Over && self.truth.was_closed_by(rid, end.side) => Ok(()),
            Some(end) if end.phase == Phase::Running => check(end),
            Some(end) => Err(format!("{what} while {:?}", end.phase)),
            None => Err(format!("{what} of a pairing that it has no part in")),
        };
        if let Err(problem) = checked {
            self.wrong(&format!("{problem} ({rid:?})"));
        }
    }

    fn resumed(&self, rid: Rid, last_seq: u32) {
        let mut state = locked(&self.state);
        let Some(line) = state.line.clone() else { return };
        let Some(end) = state.ends.get_mut(&rid).filter(|end| end.phase == Phase::Resuming) else {
            return self.wrong("RESUMED that it did not ask for");
        };
        end.phase = Phase::Running;
        if last_seq > end.sent || end.unacked.front().is_some_and(|oldest| last_seq + 1 < *oldest) {
            self.wrong(&format!("RESUMED with {last_seq} of {} sent, unacknowledged {:?}", end.sent, end.unacked));
        }
        for seq in end.unacked.iter().filter(|seq| **seq > last_seq) {
            let bytes = message(rid, end.side, *seq);
            send(&line, &Frame::Forward { rid, seq: *seq, ack: end.received, bytes });
        }
    }

    fn refused(&self, rid: Rid, code: Code) {
        let mut state = locked(&self.state);
        match state.ends.get_mut(&rid) {
            // The backplane is away: once more, later.
            Some(end) if end.phase == Phase::Resuming && code == Code::Draining => end.phase = Phase::Cut,
            Some(end) if end.phase == Phase::Running && !matches!(code, Code::Expired | Code::Unknown) => {
                self.wrong(&format!("a message is refused with {} ({rid:?})", code.name()));
            }
            Some(_) => {
                drop(state);
                self.over(rid);
            }
            None => self.wrong("an error about a pairing that it has no part in"),
        }
    }

    fn over(&self, rid: Rid) {
        if let Some(end) = locked(&self.state).ends.get_mut(&rid) {
            end.phase = Phase::Over;
        }
    }

    /// Something about a channel, and whether it may come.
    fn listening(&self, channel: &str, what: &str, check: impl FnOnce(&mut Listening) -> Result<(), String>) {
        let Ok(channel) = channel.parse::<Channel>() else { return self.wrong("no channel") };
        let mut state = locked(&self.state);
        if what == "SUBSCRIBED" {
            state.asked.retain(|asked| *asked != channel);
        }
        // Unsubscribed just now.
        let Some(listening) = state.channels.get_mut(&channel) else { return };
        if let Err(problem) = check(listening) {
            self.wrong(&format!("{what} of {channel}: {problem}"));
        }
    }

    fn wrong(&self, what: &str) {
        self.truth.wrong(format!("client {}: {what}", self.n));
    }

    // ---- what it knows ----

    /// Its ends that are not over.
    pub(super) fn open_ends(&self) -> Vec<(Rid, Phase)> {
        let state = locked(&self.state);
        let ends = state.ends.iter().filter(|(_, end)| end.phase != Phase::Over);
        ends.map(|(rid, end)| (*rid, end.phase)).collect()
    }

    /// What it has sent and received of a pairing that runs here.
    pub(super) fn running(&self, rid: Rid) -> Option<(Side, u32, u32)> {
        let state = locked(&self.state);
        let end = state.ends.get(&rid).filter(|end| end.phase == Phase::Running)?;
        Some((end.side, end.sent, end.received))
    }

    /// The channels that it listens to, and the number of the last message that it has of each.
    pub(super) fn live(&self) -> Vec<(Topic, u64)> {
        let state = locked(&self.state);
        let live = state.channels.iter().filter(|(_, listening)| listening.phase == Hearing::Live);
        live.map(|(channel, listening)| {
            let topic = Topic { tenant: self.identity.tenant, channel: *channel };
            (topic, listening.place.map_or(0, |place| place.offset))
        })
        .collect()
    }

    /// The channels that it wants and does not listen to.
    pub(super) fn waiting(&self) -> usize {
        let state = locked(&self.state);
        state.channels.values().filter(|listening| listening.phase != Hearing::Live).count()
    }
}

impl End {
    fn acked(&mut self, ack: u32) -> Result<(), String> {
        if ack > self.sent {
            return Err(format!("{ack} acknowledged of {} sent", self.sent));
        }
        while self.unacked.front().is_some_and(|seq| *seq <= ack) {
            self.unacked.pop_front();
        }
        Ok(())
    }
}

/// As a client's WebSocket sends it: masked, by zeros.
fn send(line: &Far, frame: &Frame) {
    let payload = frame.encode();
    let mut bytes = vec![0x82];
    match u8::try_from(payload.len()) {
        Ok(len) if len < 126 => bytes.push(0x80 | len),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    line.send(&bytes);
}

/// Takes a server's packet off the front.
fn packet(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (opcode, len) = (*bytes.first()? & 0xf, *bytes.get(1)?);
    let (head, len) = match len {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        len => (2, usize::from(len)),
    };
    if bytes.len() < head + len {
        return None;
    }
    let payload = bytes[head..head + len].to_vec();
    bytes.drain(..head + len);
    Some((opcode, payload))
}
