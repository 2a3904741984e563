//! What a node knows of a pairing that has an end here: enough to see that a notice is missing, to go on for a while
//! without Redis, and to bring Redis up to date afterwards.
//!
//! Redis decides while it can be reached. While it can't, a [`Mirror`] takes messages in by the same rules, hands them over
//! if the other end is here too, keeps them, and remembers that Redis does not have them (`unsynced`).

use std::collections::VecDeque;

use bytes::Bytes;
use gatepass_protocol::{frame::MAX_UNACKED, ids::TenantId};
use tokio::time::Instant;

use super::notice::{Generation, News};
use crate::backplane::{Event, Holder, Refusal, Side};

/// A pairing, as this node sees it.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) tenant: TenantId,
    pub(super) expires: Instant,
    /// Whether a device is known to have claimed it.
    pub(super) claimed: bool,
    /// Ends that are on their way here: asked for, not answered.
    pub(super) joining: u32,
    seats: [Option<Seat>; 2],
}

/// An end at this node.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Absent while Redis has not answered yet.
    pub(super) standing: Option<(Generation, Holder)>,
    /// The highest number taken in from this end.
    pub(super) sent: u32,
    /// What was taken in and is not known to be acknowledged, as notices, with when.
    pub(super) kept: VecDeque<(u32, Instant, Bytes)>,
    /// The highest number of its own that the other end acknowledged.
    pub(super) acked: u32,
    /// What this end acknowledged of the other's.
    pub(super) got: u32,
    /// The highest number of the other's that was handed over.
    pub(super) told: u32,
    /// Its last FWDACK, as a notice.
    pub(super) last_ack: Option<Bytes>,
    /// Its CLAIM, as a notice.
    pub(super) claim: Option<Bytes>,
    pub(super) claim_seen: bool,
    pub(super) closed: bool,
    pub(super) close_heard: bool,
    /// Counts what Redis does not know; 0: nothing.
    pub(super) unsynced: u64,
    pub(super) syncing: Syncing,
    /// The node that the other end is known to be at, if it is another.
    pub(super) far: Option<u64>,
    /// Up to which number its messages were handed over, and over which connection.
    pub(super) handed: (u64, u32),
    /// Whether Redis is going to be told soon.
    pub(super) due: bool,
    /// It is back, and the node that knew its count is gone: its next message says where it is.
    pub(super) first_again: bool,
}

/// Whether an end is just being looked up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Syncing {
    #[default]
    No,
    Now,
    /// And something has arrived since, so once more.
    Again,
}

/// What to do about a notice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Tell(Event),
    Nothing,
    /// Something before it is missing.
    Hole,
}

/// What Redis answered to a sync.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    pub(super) claimed: bool,
    pub(super) closed: bool,
    pub(super) claim: Option<News>,
    pub(super) ack: Option<News>,
    pub(super) missed: Vec<News>,
}

fn at(side: Side) -> usize {
    match side {
        Side::Agent => 0,
        Side::Device => 1,
    }
}

impl Seat {
    fn acked(&mut self, ack: u32) -> bool {
        let news = ack > self.acked;
        self.acked = self.acked.max(ack);
        while self.kept.front().is_some_and(|(seq, ..)| *seq <= ack) {
            self.kept.pop_front();
        }
        news
    }

    fn keep(&mut self, seq: u32, notice: Bytes) {
        if seq > self.sent {
            self.sent = seq;
            self.kept.push_back((seq, Instant::now(), notice));
        }
    }
}

impl Mirror {
    pub(super) fn new(tenant: TenantId, expires: Instant) -> Self {
        Self { tenant, expires, claimed: false, joining: 0, seats: [None, None] }
    }

    pub(super) fn seat(&self, side: Side) -> Option<&Seat> {
        self.seats[at(side)].as_ref()
    }

    pub(super) fn seat_mut(&mut self, side: Side) -> Option<&mut Seat> {
        self.seats[at(side)].as_mut()
    }

    /// The end takes its place; what arrived for it meanwhile counts.
    pub(super) fn sit(&mut self, side: Side, standing: (Generation, Holder), sent: u32, told: u32) -> &mut Seat {
        let before = self.seats[at(side)].take();
        let told = before.as_ref().map_or(0, |seat| seat.told).max(told);
        let mut seat = match before {
            // Resumed where it was: what is kept for Redis stays.
            Some(seat) if seat.standing.is_some() => seat,
            before => Seat { claim_seen: before.is_some_and(|seat| seat.claim_seen), ..Seat::default() },
        };
        (seat.standing, seat.sent, seat.told) = (Some(standing), seat.sent.max(sent), told);
        self.seats[at(side)].insert(seat)
    }

    pub(super) fn leave(&mut self, side: Side) {
        self.seats[at(side)] = None;
    }

    /// Nobody is here, nor coming.
    pub(super) fn is_empty(&self) -> bool {
        self.joining == 0 && self.seats.iter().flatten().all(|seat| seat.standing.is_none())
    }

    /// Whether this node may go on with a message by itself, by the rules by which Redis would.
    pub(super) fn check(&self, from: Side, seq: Option<u32>, ack: u32) -> Result<bool, Refusal> {
        let seat = self.seat(from).ok_or(Refusal::Unknown)?;
        if Instant::now() >= self.expires || seq.is_some() && (seat.closed || seat.close_heard) {
            return Err(Refusal::Expired);
        }
        if !self.claimed {
            return Err(Refusal::Unclaimed);
        }
        let others = self.seat(from.other()).filter(|seat| seat.standing.is_some()).map_or(0, |other| other.sent);
        let others = others.max(seat.told);
        if ack > others {
            return Err(Refusal::AckAhead { sent: others, got: ack });
        }
        let Some(seq) = seq else { return Ok(true) };
        if seq <= seat.sent && seq > 0 {
            return Ok(false);
        }
        if seq != seat.sent + 1 && !(seat.first_again && seq > seat.sent) {
            return Err(Refusal::Gap { expected: seat.sent + 1, got: seq });
        }
        let unacked = seat.sent.saturating_sub(seat.acked) as usize;
        if unacked >= MAX_UNACKED && !seat.first_again {
            return Err(Refusal::Unacked(unacked));
        }
        Ok(true)
    }

    /// What an end said, is not acknowledged, and was not yet handed over on this way.
    pub(super) fn due(&mut self, from: Side, way: u64) -> Vec<Bytes> {
        let Some(seat) = self.seat_mut(from) else { return vec![] };
        let after = if seat.handed.0 == way { seat.handed.1 } else { 0 };
        seat.handed = (way, seat.sent);
        // Mostly the newest one alone.
        let newest_first = seat.kept.iter().rev().take_while(|(seq, ..)| *seq > after);
        let mut due: Vec<Bytes> = newest_first.map(|(.., notice)| notice.clone()).collect();
        due.reverse();
        due
    }

    /// A message that Redis has taken in, or that this node takes in for it.
    pub(super) fn record(&mut self, from: Side, message: Option<(u32, Bytes)>, ack: u32) {
        if let Some(other) = self.seat_mut(from.other()) {
            other.acked(ack);
        }
        self.claimed = true;
        let Some(seat) = self.seat_mut(from) else { return };
        seat.got = seat.got.max(ack);
        seat.claim_seen = true;
        if let Some((seq, notice)) = message {
            if std::mem::take(&mut seat.first_again) && seq > seat.sent + 1 {
                // Its client keeps what is not acknowledged.
                seat.acked = seat.acked.max(seq - 1);
            }
            seat.keep(seq, notice);
        }
    }

    /// A notice for an end has arrived.
    pub(super) fn hear(&mut self, to: Side, news: News) -> Heard {
        let joining = self.joining > 0;
        let seat = match &mut self.seats[at(to)] {
            Some(seat) => seat,
            none if joining => none.insert(Seat::default()),
            None => return Heard::Nothing,
        };
        let missing = match news {
            // What comes before it may be in what is being looked up: the next message, or the claim.
            News::Forward { seq, .. } => {
                let unclaimed = to == Side::Agent && !seat.claim_seen && seat.syncing != Syncing::No;
                seat.standing.is_some() && (seq > seat.told + 1 || unclaimed)
            }
            News::Closed { last } => seat.standing.is_some() && last > seat.told,
            _ => false,
        };
        if missing && seat.syncing != Syncing::No {
            seat.syncing = Syncing::Again;
            return Heard::Nothing;
        }
        match news {
            News::Forward { seq, .. } if seq <= seat.told => Heard::Nothing,
            News::Forward { .. } | News::Closed { .. } if missing => Heard::Hole,
            News::Forward { seq, ack, frame } => {
                seat.told = seq;
                seat.acked(ack);
                self.claimed = true;
                Heard::Tell(Event::Forward { seq, frame })
            }
            News::Ack { ack, frame } => {
                seat.acked(ack);
                Heard::Tell(Event::Ack(frame))
            }
            News::Claim(_) if seat.claim_seen => Heard::Nothing,
            News::Claim(frame) => {
                seat.claim_seen = true;
                self.claimed = true;
                Heard::Tell(Event::Claim(frame))
            }
            News::Closed { .. } if seat.close_heard => Heard::Nothing,
            News::Closed { .. } => {
                seat.close_heard = true;
                Heard::Tell(Event::Closed)
            }
            News::Moved(generation) => {
                if seat.standing.as_ref().is_some_and(|(own, _)| *own == generation) {
                    self.leave(to);
                }
                Heard::Nothing
            }
            // Between nodes, about the way.
            News::Here | News::Gone => Heard::Nothing,
        }
    }

    /// What Redis knew more. Returns what to tell the end, in order, and whether to ask once more.
    pub(super) fn synced(&mut self, side: Side, unsynced: u64, lacking: Lacking) -> (Vec<Event>, bool) {
        self.claimed |= lacking.claimed;
        let known_claim = self.claimed;
        let Some(seat) = self.seat_mut(side) else { return (vec![], false) };
        let again = seat.syncing == Syncing::Again;
        seat.syncing = Syncing::No;
        // Where the other end's node has yet to bring its end, there is nobody to hand on to.
        if seat.unsynced == unsynced && (lacking.claimed || !known_claim) {
            seat.unsynced = 0;
        }
        let mut events = vec![];
        let news = lacking.claim.into_iter().chain(lacking.missed);
        let mut whole = true;
        for news in news {
            match self.hear(side, news) {
                Heard::Tell(event) => events.push(event),
                Heard::Nothing => {}
                Heard::Hole => whole = false,
            }
        }
        if let Some(News::Ack { ack, frame }) = lacking.ack
            && self.seat_mut(side).is_some_and(|seat| seat.acked(ack))
        {
            events.push(Event::Ack(frame));
        }
        // A message that nobody has any more: better an end than a wait for ever.
        if lacking.closed || !whole {
            match self.hear(side, News::Closed { last: 0 }) {
                Heard::Tell(event) => events.push(event),
                Heard::Nothing | Heard::Hole => {}
            }
        }
        (events, again)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gatepass_protocol::ids::Serial;

    use super::*;

    fn standing() -> (Generation, Holder) {
        ([b'1'; 16], Holder { certificate: Serial([1; 16]), token_hash: [2; 32] })
    }

    fn both_here() -> Mirror {
        let mut mirror = Mirror::new(TenantId([1; 16]), Instant::now() + Duration::from_secs(60));
        mirror.sit(Side::Agent, standing(), 0, 0);
        mirror.sit(Side::Device, standing(), 0, 0);
        mirror.claimed = true;
        mirror
    }

    fn forward(seq: u32) -> News {
        News::Forward { seq, ack: 0, frame: Bytes::from_static(b"m") }
    }

    fn told(seq: u32) -> Heard {
        Heard::Tell(Event::Forward { seq, frame: Bytes::from_static(b"m") })
    }

    #[test]
    fn a_missing_notice_is_noticed_and_a_repeated_one_is_not_told_twice() {
        let mut mirror = both_here();
        assert_eq!(mirror.hear(Side::Agent, forward(1)), told(1));
        assert_eq!(mirror.hear(Side::Agent, forward(1)), Heard::Nothing);
        assert_eq!(mirror.hear(Side::Agent, forward(3)), Heard::Hole);
        assert_eq!(mirror.hear(Side::Agent, News::Closed { last: 2 }), Heard::Hole, "last words are missing");
        assert_eq!(mirror.hear(Side::Agent, forward(2)), told(2));
        assert_eq!(mirror.hear(Side::Agent, News::Closed { last: 2 }), Heard::Tell(Event::Closed));
    }

    #[test]
    fn while_an_end_is_looked_up_what_comes_in_order_is_told_and_the_rest_waits_for_the_next_look() {
        let mut mirror = both_here();
        mirror.seat_mut(Side::Agent).unwrap().syncing = Syncing::Now;
        assert_eq!(mirror.hear(Side::Agent, forward(1)), Heard::Nothing, "before the claim, which may be on its way");
        mirror.hear(Side::Agent, News::Claim(Bytes::new()));
        assert_eq!(mirror.hear(Side::Agent, forward(1)), told(1));
        assert_eq!(mirror.hear(Side::Agent, forward(3)), Heard::Nothing);
        let lacking = Lacking { claimed: true, missed: vec![forward(1), forward(2)], ..Lacking::default() };
        let (events, again) = mirror.synced(Side::Agent, 0, lacking);
        assert_eq!((events.len(), again), (1, true));
        assert_eq!(mirror.hear(Side::Agent, forward(3)), told(3));
    }

    #[test]
    fn over_a_new_way_goes_all_that_is_unacknowledged_and_then_only_what_is_new() {
        let mut mirror = both_here();
        let say = |mirror: &mut Mirror, seq: u8| mirror.record(Side::Agent, Some((seq.into(), vec![seq].into())), 0);
        say(&mut mirror, 1);
        assert_eq!(mirror.due(Side::Agent, 7), [[1].as_slice()]);
        say(&mut mirror, 2);
        assert_eq!(mirror.due(Side::Agent, 7), [[2].as_slice()]);
        assert_eq!(mirror.due(Side::Agent, 8), [[1].as_slice(), &[2]], "another connection");
        mirror.record(Side::Device, None, 1);
        assert_eq!(mirror.due(Side::Agent, 7), [[2].as_slice()]);
    }

    #[test]
    fn who_comes_back_after_its_relay_died_says_where_it_is_in_its_count() {
        let mut mirror = both_here();
        mirror.seat_mut(Side::Device).unwrap().first_again = true;
        assert_eq!(mirror.check(Side::Device, Some(4), 0), Ok(true));
        mirror.record(Side::Device, Some((4, Bytes::new())), 0);
        assert_eq!(mirror.check(Side::Device, Some(6), 0), Err(Refusal::Gap { expected: 5, got: 6 }), "once");
    }

    #[test]
    fn without_redis_the_same_rules_hold() {
        let mut mirror = both_here();
        let notice = Bytes::from_static(b"n");
        let (agent, device) = (Side::Agent, Side::Device);
        assert_eq!(mirror.check(device, Some(2), 0), Err(Refusal::Gap { expected: 1, got: 2 }));
        assert_eq!(mirror.check(device, Some(1), 1), Err(Refusal::AckAhead { sent: 0, got: 1 }));
        for seq in 1..=MAX_UNACKED as u32 {
            assert_eq!(mirror.check(device, Some(seq), 0), Ok(true));
            mirror.record(device, Some((seq, notice.clone())), 0);
        }
        assert_eq!(mirror.check(device, Some(17), 0), Err(Refusal::Unacked(16)));
        assert_eq!(mirror.check(device, Some(3), 0), Ok(false), "a repetition");
        mirror.record(agent, Some((1, notice)), 3);
        assert_eq!(mirror.check(device, Some(17), 1), Ok(true));
        let mut unclaimed = Mirror::new(TenantId([1; 16]), Instant::now() + Duration::from_secs(60));
        unclaimed.sit(agent, standing(), 0, 0);
        assert_eq!(unclaimed.check(agent, Some(1), 0), Err(Refusal::Unclaimed));
    }

    #[test]
    fn an_end_that_moved_away_hears_nothing_here() {
        let mut mirror = both_here();
        assert_eq!(mirror.hear(Side::Agent, News::Moved([b'0'; 16])), Heard::Nothing);
        assert!(mirror.seat(Side::Agent).is_some(), "it moved away and is back, before this was heard");
        mirror.hear(Side::Agent, News::Moved([b'1'; 16]));
        assert!(mirror.seat(Side::Agent).is_none());
        assert_eq!(mirror.hear(Side::Agent, forward(1)), Heard::Nothing);
    }
}
