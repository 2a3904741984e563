//! Bringing an end and Redis to the same state: after an outage, a failover or an overflow, and for what was handed over without
//! Redis.

use bytes::Bytes;
use gatepass_protocol::{
    frame::MAX_UNACKED,
    ids::{Rid, TenantId},
};
use tokio::time::Instant;
use tracing::debug;

use super::{
    Shared,
    link::Arg,
    mirror::{Lacking, Mirror, Syncing},
    notice::{Generation, News, Notice},
    pairings::{REMEMBERED, credentials, millis, news, word},
    scripts::{Answer, No, Nonsense, Script},
};
use crate::{
    backplane::{Event, Holder, Refusal, Side},
    locked,
};

impl Shared {
    pub(super) fn sync_soon(&self, rid: Rid, side: Side) {
        if let Some(shared) = self.this.upgrade() {
            tokio::spawn(async move {
                // As many at once as a pipeline takes well.
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                shared.sync(rid, side).await;
            });
        }
    }

    /// Brings an end and Redis to the same state. False: not now, for it is just being done, or Redis does not answer.
    pub(super) async fn sync(&self, rid: Rid, side: Side) -> bool {
        let Ok(mirror) = self.mirror(&rid) else { return true };
        loop {
            let Some(snapshot) = Snapshot::take(&mut locked(&mirror), side) else { return false };
            let ran = self.send(rid, side, &snapshot).await;
            self.metrics.backplane_syncs.inc();
            let answered = ran.is_ok();
            let mut mirror = locked(&mirror);
            match ran {
                Ok(Ok(lacking)) => {
                    let (events, again) = mirror.synced(side, snapshot.unsynced, lacking);
                    events.into_iter().for_each(|event| self.tell(rid, side, event));
                    if snapshot.closed && mirror.seat(side).is_some_and(|seat| seat.unsynced == 0) {
                        mirror.leave(side);
                    } else if again {
                        continue;
                    }
                }
                Ok(Err(No::Moved { same_holder })) => {
                    mirror.leave(side);
                    // Its claim was lost in a failover, and another was faster.
                    if !same_holder {
                        self.tell(rid, side, Event::Closed);
                    }
                }
                Ok(Err(No::Refused(refusal))) => {
                    debug!(%refusal, "an end could not be looked up");
                    mirror.leave(side);
                    self.tell(rid, side, Event::Closed);
                }
                Err(_) => {
                    if let Some(seat) = mirror.seat_mut(side) {
                        // Once more with the next tick.
                        (seat.syncing, seat.unsynced) = (Syncing::No, seat.unsynced + 1);
                    }
                }
            }
            drop(mirror);
            self.tidy(&rid);
            return answered;
        }
    }

    async fn send(&self, rid: Rid, side: Side, snapshot: &Snapshot) -> Result<Result<Lacking, No>, Refusal> {
        let (bucket, keys) = self.keys.pairing(&rid);
        let close = Notice::Pairing { rid, to: side.other(), news: News::Closed { last: snapshot.sent } }.encode();
        let left = snapshot.expires.saturating_duration_since(Instant::now());
        let holder = credentials(&snapshot.holder);
        let mut args = vec![
            Arg::Bytes(snapshot.tenant.as_bytes()),
            word(side).into(),
            word(side.other()).into(),
            self.node.as_str().into(),
            Arg::Bytes(&snapshot.generation),
            Arg::Bytes(&holder),
            Arg::Number(millis(left)),
            Arg::Number(millis(left + REMEMBERED)),
            Arg::Number(snapshot.sent.into()),
            Arg::Number(snapshot.got.into()),
            Arg::Number(snapshot.told.into()),
            Arg::Number(snapshot.closed.into()),
            Arg::Number(snapshot.claim_seen.into()),
            Arg::Number(MAX_UNACKED as u64),
            Arg::Now,
            self.keys.notices(bucket).into(),
            Arg::Bytes(&snapshot.last_ack),
            Arg::Bytes(&snapshot.claim),
            Arg::Bytes(&close),
            Arg::Number(snapshot.acked.into()),
            Arg::Number(snapshot.kept.len() as u64),
        ];
        for (seq, since, notice) in &snapshot.kept {
            args.extend([Arg::Number((*seq).into()), Arg::Number(millis(since.elapsed())), Arg::Bytes(notice)]);
        }
        let answer = match self.call(bucket, Script::Sync, &keys, &args).await? {
            Ok(answer) => answer,
            Err(no) => return Ok(Err(no)),
        };
        read_lacking(answer).map(Ok).map_err(|Nonsense| Refusal::Unavailable)
    }
}

/// An end as it is at one moment.
struct Snapshot {
    tenant: TenantId,
    expires: Instant,
    generation: Generation,
    holder: Holder,
    sent: u32,
    acked: u32,
    got: u32,
    told: u32,
    closed: bool,
    claim_seen: bool,
    last_ack: Bytes,
    claim: Bytes,
    kept: Vec<(u32, Instant, Bytes)>,
    unsynced: u64,
}

impl Snapshot {
    /// `None` where the end is not here, or just being looked up: then it will be once more.
    fn take(mirror: &mut Mirror, side: Side) -> Option<Self> {
        let (tenant, expires) = (mirror.tenant, mirror.expires);
        let seat = mirror.seat_mut(side)?;
        let (generation, holder) = seat.standing.clone()?;
        if seat.syncing != Syncing::No {
            seat.syncing = Syncing::Again;
            return None;
        }
        seat.syncing = Syncing::Now;
        Some(Self {
            tenant,
            expires,
            generation,
            holder,
            sent: seat.sent,
            acked: seat.acked,
            got: seat.got,
            told: seat.told,
            closed: seat.closed,
            claim_seen: seat.claim_seen,
            last_ack: seat.last_ack.clone().unwrap_or_default(),
            claim: seat.claim.clone().unwrap_or_default(),
            kept: seat.kept.iter().cloned().collect(),
            unsynced: seat.unsynced,
        })
    }
}

fn read_lacking(mut answer: Answer) -> Result<Lacking, Nonsense> {
    Ok(Lacking {
        claimed: answer.number()? == 1,
        closed: answer.number()? == 1,
        claim: news(&answer.bytes()?),
        ack: news(&answer.bytes()?),
        missed: answer.list()?.iter().filter_map(|notice| news(notice)).collect(),
    })
}
