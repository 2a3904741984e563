//! Pairings in Redis, as a node with an end of them acts on them.
//!
//! Redis decides: what it refuses is refused. Where it can't be reached, or has lost what it was told (a failover loses
//! its last moments, a restart without a disk everything), the node's own [`Mirror`] takes messages in, and [`Shared::sync`]
//! brings both to the same state as soon as it can. Nothing new begins without Redis.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dashmap::Entry;
use gatepass_protocol::{
    frame::{MAX_TTL, MAX_UNACKED},
    ids::{Rid, TenantId},
};
use tokio::time::Instant;

use super::{
    Shared,
    link::{Arg, Failure},
    mirror::{Heard, Mirror, Syncing},
    notice::{Generation, News, Notice, letter, side},
    scripts::{Answer, No, Nonsense, Script},
};
use crate::{
    backplane::{Event, Holder, Refusal, Resumed, Side},
    locked,
};

/// How long a pairing that is over still answers "expired" rather than "unknown".
pub(super) const REMEMBERED: Duration = Duration::from_secs(60);

/// An end on its way to this node.
struct Joining<'a> {
    shared: &'a Shared,
    rid: Rid,
    mirror: Arc<Mutex<Mirror>>,
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        locked(&self.mirror).joining -= 1;
        self.shared.tidy(&self.rid);
    }
}

fn generation() -> Result<Generation, Refusal> {
    let random = getrandom::u64().map_err(|_| Refusal::Unavailable)?;
    let mut text = [0; 16];
    text.copy_from_slice(format!("{random:016x}").as_bytes());
    Ok(text)
}

pub(super) fn credentials(holder: &Holder) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(holder.certificate.as_bytes());
    bytes[16..].copy_from_slice(&holder.token_hash);
    bytes
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn word(side: Side) -> &'static str {
    match letter(side) {
        'a' => "a",
        _ => "d",
    }
}

fn refused(no: No) -> Refusal {
    match no {
        No::Refused(refusal) => refusal,
        No::Moved { .. } => Refusal::Unknown,
    }
}

/// Puts in what only the caller knows.
fn complete(refusal: Refusal, seq: u32, ack: u32) -> Refusal {
    match refusal {
        Refusal::Gap { expected, .. } => Refusal::Gap { expected, got: seq },
        Refusal::AckAhead { sent, .. } => Refusal::AckAhead { sent, got: ack },
        other => other,
    }
}

/// The news of a notice, or none.
pub(super) fn news(bytes: &[u8]) -> Option<News> {
    match Notice::decode(bytes) {
        Some(Notice::Pairing { news, .. }) => Some(news),
        _ => None,
    }
}

/// A message or an acknowledgement on its way.
pub(super) struct Step {
    pub(super) rid: Rid,
    pub(super) from: Side,
    /// `None`: an acknowledgement alone.
    pub(super) seq: Option<u32>,
    pub(super) ack: u32,
    pub(super) news: News,
    pub(super) notice: Bytes,
}

impl Shared {
    pub(super) async fn open(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> Result<(), Refusal> {
        let (bucket, keys) = self.keys.pairing(&rid);
        let generation = generation()?;
        let joining = self.enter(rid, tenant);
        let args = [
            Arg::Bytes(tenant.as_bytes()),
            Arg::Number(millis(ttl)),
            Arg::Number(millis(ttl + REMEMBERED)),
            Arg::Bytes(&credentials(&agent)),
            self.node.as_str().into(),
            Arg::Bytes(&generation),
        ];
        let begun = Instant::now();
        self.call(bucket, Script::Open, &keys, &args).await?.map_err(refused)?;
        let mut mirror = locked(&joining.mirror);
        mirror.expires = begun + ttl;
        mirror.sit(Side::Agent, (generation, agent), 0, 0);
        Ok(())
    }

    pub(super) async fn claim(
        &self,
        rid: Rid,
        tenant: TenantId,
        device: Holder,
        frame: Bytes,
    ) -> Result<Duration, Refusal> {
        let (bucket, keys) = self.keys.pairing(&rid);
        let generation = generation()?;
        let joining = self.enter(rid, tenant);
        let news = News::Claim(frame);
        let notice = Notice::Pairing { rid, to: Side::Agent, news: news.clone() }.encode();
        let args = [
            Arg::Bytes(tenant.as_bytes()),
            Arg::Bytes(&credentials(&device)),
            self.node.as_str().into(),
            Arg::Bytes(&generation),
            Arg::Bytes(&notice),
            self.keys.notices(bucket).into(),
        ];
        let mut answer = self.call(bucket, Script::Claim, &keys, &args).await?.map_err(refused)?;
        let nonsense = |Nonsense| Refusal::Unavailable;
        let (left, node) =
            (Duration::from_millis(answer.number().map_err(nonsense)?), answer.bytes().map_err(nonsense)?);
        let mut mirror = locked(&joining.mirror);
        mirror.expires = Instant::now() + left;
        mirror.claimed = true;
        mirror.sit(Side::Device, (generation, device), 0, 0).claim = Some(notice);
        self.greet(&mut mirror, rid, Side::Device, &node);
        if let Some(way) = self.way(&mirror, Side::Device) {
            // What the phone says next must not come before it, and its notice goes through Redis.
            self.pass(&mut mirror, rid, Side::Agent, &way, news);
        }
        Ok(left)
    }

    pub(super) async fn forward(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> Result<(), Refusal> {
        let news = News::Forward { seq, ack, frame };
        let notice = Notice::Pairing { rid, to: from.other(), news: news.clone() }.encode();
        self.step(Step { rid, from, seq: Some(seq), ack, news, notice }).await
    }

    pub(super) async fn ack(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> Result<(), Refusal> {
        let news = News::Ack { ack, frame };
        let notice = Notice::Pairing { rid, to: from.other(), news: news.clone() }.encode();
        self.step(Step { rid, from, seq: None, ack, news, notice }).await
    }

    async fn step(&self, step: Step) -> Result<(), Refusal> {
        let mirror = self.mirror(&step.rid)?;
        let generation = {
            let mut mirror = locked(&mirror);
            let seat = mirror.seat(step.from).ok_or(Refusal::Unknown)?;
            let (generation, _) = seat.standing.as_ref().ok_or(Refusal::Unknown)?;
            let generation = *generation;
            if let Some(way) = self.way(&mirror, step.from) {
                return self.hand_over(&mut mirror, &way, step);
            }
            // In order: not before what Redis still lacks.
            if seat.unsynced > 0 || seat.first_again {
                return self.take_in(&mut mirror, step);
            }
            generation
        };
        let (bucket, keys) = self.keys.pairing(&step.rid);
        let Some(link) = self.routes.now(bucket) else { return self.take_in(&mut locked(&mirror), step) };
        let (s, o) = (word(step.from).into(), word(step.from.other()).into());
        let (ack, notice) = (Arg::Number(step.ack.into()), Arg::Bytes(&step.notice));
        let (generation, notices) = (Arg::Bytes(&generation), self.keys.notices(bucket).into());
        let ran = match step.seq {
            Some(seq) => {
                let ring = Arg::Number(MAX_UNACKED as u64);
                let args = [s, o, generation, Arg::Number(seq.into()), ack, ring, Arg::Now, notice, notices];
                link.run(Script::Forward, &keys, &args).await
            }
            None => link.run(Script::Ack, &keys, &[s, o, generation, ack, notice, notices]).await,
        };
        let mut mirror = locked(&mirror);
        match ran {
            Ok(Ok(_)) => {
                if step.seq.is_none()
                    && let Some(seat) = mirror.seat_mut(step.from)
                {
                    seat.last_ack = Some(step.notice.clone());
                }
                mirror.record(step.from, step.seq.map(|seq| (seq, step.notice)), step.ack);
                Ok(())
            }
            Ok(Err(No::Moved { .. })) => {
                mirror.leave(step.from);
                Err(Refusal::Unknown)
            }
            Ok(Err(No::Refused(Refusal::Expired))) => Err(Refusal::Expired),
            // What this node itself took in or handed over, Redis has forgotten.
            Ok(Err(No::Refused(refusal))) => match mirror.check(step.from, step.seq, step.ack) {
                Ok(_) => self.take_in(&mut mirror, step),
                Err(_) => Err(complete(refusal, step.seq.unwrap_or(0), step.ack)),
            },
            Err(Failure::Lost | Failure::NotNow) => self.take_in(&mut mirror, step),
            Err(Failure::Refused(error)) => Err(self.refuses(&error)),
        }
    }

    /// Takes a message in for Redis, and hands it over if the other end is here.
    fn take_in(&self, mirror: &mut Mirror, step: Step) -> Result<(), Refusal> {
        let Step { rid, from, seq, ack, news, notice } = step;
        if !mirror.check(from, seq, ack)? {
            return Ok(());
        }
        self.metrics.backplane_deferred.inc();
        mirror.record(from, seq.map(|seq| (seq, notice.clone())), ack);
        if let Some(seat) = mirror.seat_mut(from) {
            seat.unsynced += 1;
            seat.last_ack = if seq.is_none() { Some(notice) } else { seat.last_ack.take() };
        }
        if let Heard::Tell(event) = mirror.hear(from.other(), news) {
            self.tell(rid, from.other(), event);
        }
        if self.routes.now(self.keys.pairing(&rid).0).is_some() {
            self.sync_soon(rid, from);
        }
        Ok(())
    }

    pub(super) async fn resume(
        &self,
        rid: Rid,
        tenant: TenantId,
        holder: Holder,
        last_seq: u32,
    ) -> Result<Resumed, Refusal> {
        let (bucket, keys) = self.keys.pairing(&rid);
        let generation = generation()?;
        let joining = self.enter(rid, tenant);
        let settled = self.settle(rid).await?;
        let args = [
            Arg::Bytes(tenant.as_bytes()),
            Arg::Bytes(&credentials(&holder)),
            self.node.as_str().into(),
            Arg::Bytes(&generation),
            Arg::Number(last_seq.into()),
            Arg::Number(MAX_UNACKED as u64),
            Arg::Now,
            Arg::Number(millis(self.settings.resume_for)),
            self.keys.notices(bucket).into(),
            Arg::Bytes(rid.as_bytes()),
            Arg::Number(settled.into()),
        ];
        let answer = self.call(bucket, Script::Resume, &keys, &args).await?.map_err(refused)?;
        let back = Back::read(answer).map_err(|Nonsense| Refusal::Unavailable)?;
        let mut mirror = locked(&joining.mirror);
        mirror.expires = Instant::now() + back.left;
        mirror.claimed |= back.claimed;
        let seat = mirror.sit(back.side, (generation, holder), back.sent, back.others);
        seat.claim_seen |= last_seq > 0 || back.missed.iter().any(|event| matches!(event, Event::Claim(_)));
        seat.got = seat.got.max(last_seq);
        seat.first_again = !settled;
        seat.acked = seat.acked.max(back.acked);
        let sent = seat.sent;
        if let Some(other) = mirror.seat_mut(back.side.other()) {
            other.sent = other.sent.max(back.others);
        }
        self.greet(&mut mirror, rid, back.side, &back.others_node);
        Ok(Resumed { side: back.side, sent, missed: back.missed, left: back.left })
    }

    pub(super) async fn close(&self, rid: Rid, from: Side) -> Result<(), Refusal> {
        let mirror = self.mirror(&rid)?;
        let (bucket, keys) = self.keys.pairing(&rid);
        let (generation, last, unsynced) = {
            let mut mirror = locked(&mirror);
            let seat = mirror.seat(from).ok_or(Refusal::Unknown)?;
            let (generation, _) = seat.standing.as_ref().ok_or(Refusal::Unknown)?;
            let (generation, last, unsynced) = (*generation, seat.sent, seat.unsynced > 0);
            if !seat.close_heard && self.close_directly(&mut mirror, rid, from, last) {
                return Ok(());
            }
            (generation, last, unsynced)
        };
        let notice = Notice::Pairing { rid, to: from.other(), news: News::Closed { last } }.encode();
        let args = [
            word(from).into(),
            word(from.other()).into(),
            Arg::Bytes(&generation),
            Arg::Bytes(&notice),
            self.keys.notices(bucket).into(),
        ];
        let ran = match self.routes.now(bucket).filter(|_| !unsynced) {
            Some(link) => link.run(Script::Close, &keys, &args).await,
            None => Err(Failure::NotNow),
        };
        let mut mirror = locked(&mirror);
        let closed = match ran {
            Ok(closed) => closed.map(drop).map_err(refused),
            Err(Failure::Refused(error)) => Err(self.refuses(&error)),
            Err(Failure::Lost | Failure::NotNow) => {
                if let Some(seat) = mirror.seat_mut(from) {
                    seat.closed = true;
                    seat.unsynced += 1;
                }
                if let Heard::Tell(event) = mirror.hear(from.other(), News::Closed { last }) {
                    self.tell(rid, from.other(), event);
                }
                drop(mirror);
                if self.routes.now(bucket).is_some() {
                    self.sync_soon(rid, from);
                }
                return Ok(());
            }
        };
        mirror.leave(from);
        drop(mirror);
        self.tidy(&rid);
        closed
    }

    /// A notice has arrived for an end that is, or was, here.
    pub(super) fn notice(&self, rid: Rid, to: Side, news: News) {
        let Ok(mirror) = self.mirror(&rid) else { return };
        self.hear(&mut locked(&mirror), rid, to, news);
    }

    /// Looks every end up whose pairing is in one of these buckets: something may have been missed.
    pub(super) fn sync_buckets(&self, of: impl Fn(usize) -> bool) {
        for (rid, side) in self.seats(|rid, _| of(crate::backplane::redis::keys::Keys::pairing_bucket(rid))) {
            self.sync_soon(rid, side);
        }
    }

    /// What was handed over to another node may not have arrived there: it goes through Redis.
    pub(super) fn sync_towards(&self, node: u64) {
        for (rid, side) in self.seats(|_, seat| seat.unsynced > 0 && seat.far == Some(node)) {
            self.sync_soon(rid, side);
        }
    }

    /// Tries again what could not be done; forgets what is over.
    pub(super) fn tend_pairings(&self) {
        let now = Instant::now();
        self.pairings.retain(|_, mirror| {
            let mirror = locked(mirror);
            // As long as Redis remembers that there was one, for the same answer.
            mirror.joining > 0 || mirror.expires + REMEMBERED > now
        });
        for (rid, side) in self.seats(|_, seat| seat.unsynced > 0 && !seat.due && seat.syncing == Syncing::No) {
            self.sync_soon(rid, side);
        }
    }

    fn seats(&self, wanted: impl Fn(&Rid, &super::mirror::Seat) -> bool) -> Vec<(Rid, Side)> {
        let (mut found, now) = (vec![], Instant::now());
        for entry in &self.pairings {
            let mirror = locked(entry.value());
            if mirror.expires <= now {
                continue;
            }
            for side in [Side::Agent, Side::Device] {
                let here = mirror.seat(side).filter(|seat| seat.standing.is_some());
                if here.is_some_and(|seat| wanted(entry.key(), seat)) {
                    found.push((*entry.key(), side));
                }
            }
        }
        found
    }

    fn enter(&self, rid: Rid, tenant: TenantId) -> Joining<'_> {
        let longest = Duration::from_secs(MAX_TTL.into());
        let mirror = match self.pairings.entry(rid) {
            Entry::Occupied(known) => known.into_ref(),
            Entry::Vacant(free) => free.insert(Arc::new(Mutex::new(Mirror::new(tenant, Instant::now() + longest)))),
        };
        // Under the map's guard, so that it is not tidied away in between.
        locked(&mirror).joining += 1;
        Joining { shared: self, rid, mirror: mirror.clone() }
    }

    pub(super) fn mirror(&self, rid: &Rid) -> Result<Arc<Mutex<Mirror>>, Refusal> {
        self.pairings.get(rid).map(|found| found.clone()).ok_or(Refusal::Unknown)
    }

    pub(super) fn tidy(&self, rid: &Rid) {
        self.pairings.remove_if(rid, |_, mirror| locked(mirror).is_empty());
    }
}

/// What a resume is answered with.
struct Back {
    side: Side,
    sent: u32,
    others: u32,
    left: Duration,
    claimed: bool,
    missed: Vec<Event>,
    /// The other end's.
    others_node: Vec<u8>,
    /// Of what it sent.
    acked: u32,
}

impl Back {
    fn read(mut answer: Answer) -> Result<Self, Nonsense> {
        let side = answer.bytes()?.first().copied().and_then(side).ok_or(Nonsense)?;
        let (sent, others) = (answer.number()? as u32, answer.number()? as u32);
        let left = Duration::from_millis(answer.number()?);
        let closed = answer.number()? == 1;
        let claim = news(&answer.bytes()?);
        let claimed = answer.number()? == 1;
        let (kept, others_node, acked) = (answer.list()?, answer.bytes()?, answer.number()? as u32);
        let mut missed: Vec<Event> = claim
            .into_iter()
            .chain(kept.iter().filter_map(|notice| news(notice)))
            .filter_map(|news| match news {
                News::Claim(frame) => Some(Event::Claim(frame)),
                News::Forward { seq, frame, .. } => Some(Event::Forward { seq, frame }),
                _ => None,
            })
            .collect();
        missed.extend(closed.then_some(Event::Closed));
        Ok(Self { side, sent, others, left, claimed, missed, others_node, acked })
    }
}
