//! A pairing's messages without Redis: where both ends are at this relay, or the other end's relay can be reached directly.
//!
//! Redis is behind then: what an end of this node has said and not told Redis is counted as `unsynced`, and it is told five
//! seconds later ([`SOON`]) of what is still so, all at once; most logins need nothing of that but their beginning and their
//! end. Who comes back at another relay must know better than Redis, so before it is answered the nodes that
//! the two ends were at are asked to tell Redis what they know ([`Shared::settle`]). A node that is gone can't; then the
//! client that comes back is believed what it has and where it is in its own count, which it keeps until the other
//! end has acknowledged it. A hole is noticed by the two ends, whose messages are counted.
//!
//! A message is safe as long as one of these is: its sender's node, its sender. What a broken connection swallowed is
//! still kept by the node that sent it and unacknowledged, so it goes through Redis as soon as that notices.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use gatepass_protocol::ids::Rid;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Shared,
    direct::Outgoing,
    mirror::{Heard, Mirror},
    notice::{News, Notice},
    pairings::{Step, news},
    scripts::{Nonsense, Script},
    written,
};
use crate::{
    backplane::{Event, Refusal, Side},
    locked,
};

/// After which Redis is told what was handed over without it: late enough for a login's first messages, or a while of talk, to be
/// told at once; soon enough for who comes back to find a relay's word in Redis where the relay is gone.
const SOON: Duration = Duration::from_secs(5);
/// Between two looks at who is due.
const TICK: Duration = Duration::from_millis(100);
/// For other nodes to tell Redis what they know: longer than that takes, shorter than a client would wait.
const SETTLED_WITHIN: Duration = Duration::from_millis(500);
/// Before an end is tried again that is just being looked up.
const PAUSE: Duration = Duration::from_millis(5);
/// In place of a connection's number, which begins at 1.
const HERE: u64 = 0;

/// Ends of which Redis is to be told, by when.
pub(super) type Due = VecDeque<(Instant, Rid, Side)>;

/// How what an end says gets to the other without Redis.
pub(super) enum Way {
    /// The other is at this node too.
    Here,
    /// Over this connection to its node.
    There(Arc<Outgoing>),
}

impl Way {
    fn id(&self) -> u64 {
        match self {
            Way::Here => HERE,
            Way::There(link) => link.id,
        }
    }
}

impl Shared {
    /// The way of what this end says; `None`: through Redis.
    pub(super) fn way(&self, mirror: &Mirror, from: Side) -> Option<Way> {
        if mirror.seat(from.other()).is_some_and(|other| other.standing.is_some()) {
            return Some(Way::Here);
        }
        let far = mirror.seat(from)?.far?;
        self.link_to(far).map(Way::There)
    }

    /// Takes a message in and hands it over.
    pub(super) fn hand_over(&self, mirror: &mut Mirror, way: &Way, step: Step) -> Result<(), Refusal> {
        let Step { rid, from, seq, ack, news, notice } = step;
        if !mirror.check(from, seq, ack)? {
            mirror.record(from, None, ack);
            return Ok(());
        }
        self.metrics.backplane_handed.inc();
        mirror.record(from, seq.map(|seq| (seq, notice.clone())), ack);
        self.behind(mirror, rid, from);
        if seq.is_some() {
            self.hand_on(mirror, rid, from, way, Some(news));
            return Ok(());
        }
        if let Some(seat) = mirror.seat_mut(from) {
            seat.last_ack = Some(notice.clone());
        }
        self.pass(mirror, rid, from.other(), way, news);
        Ok(())
    }

    /// Hands on what was not handed on this way before; the newest of it may be given decoded.
    pub(super) fn hand_on(&self, mirror: &mut Mirror, rid: Rid, from: Side, way: &Way, newest: Option<News>) {
        let due = mirror.due(from, way.id());
        if let (Some(news), [_], Way::Here) = (&newest, due.as_slice(), way) {
            return self.pass(mirror, rid, from.other(), way, news.clone());
        }
        for notice in due {
            match way {
                Way::There(link) => link.send(&notice),
                Way::Here => {
                    if let Some(news) = news(&notice) {
                        self.pass(mirror, rid, from.other(), way, news);
                    }
                }
            }
        }
    }

    /// Tells an end something, or its node.
    pub(super) fn pass(&self, mirror: &mut Mirror, rid: Rid, to: Side, way: &Way, news: News) {
        match way {
            Way::There(link) => link.send(&Notice::Pairing { rid, to, news }.encode()),
            Way::Here => self.hear(mirror, rid, to, news),
        }
    }

    pub(super) fn hear(&self, mirror: &mut Mirror, rid: Rid, to: Side, news: News) {
        match mirror.hear(to, news) {
            Heard::Tell(event) => self.tell(rid, to, event),
            Heard::Nothing => {}
            Heard::Hole => self.sync_soon(rid, to),
        }
    }

    /// Redis is to be told of this end, soon.
    pub(super) fn behind(&self, mirror: &mut Mirror, rid: Rid, side: Side) {
        let Some(seat) = mirror.seat_mut(side) else { return };
        seat.unsynced += 1;
        if !std::mem::replace(&mut seat.due, true) {
            locked(&self.due).push_back((Instant::now() + SOON, rid, side));
        }
    }

    /// Tells Redis what is due, until dropped.
    pub(super) async fn tell_redis(shared: std::sync::Weak<Self>) {
        loop {
            sleep(TICK).await;
            let Some(shared) = shared.upgrade() else { return };
            let now = Instant::now();
            let due: Vec<(Rid, Side)> = {
                let mut due = locked(&shared.due);
                let many = due.partition_point(|(when, ..)| *when <= now);
                due.drain(..many).map(|(_, rid, side)| (rid, side)).collect()
            };
            for (rid, side) in due {
                let Ok(mirror) = shared.mirror(&rid) else { continue };
                let mut mirror = locked(&mirror);
                let Some(seat) = mirror.seat_mut(side) else { continue };
                seat.due = false;
                if seat.close_heard && !seat.closed {
                    // Of a pairing that the other end has closed, nobody asks any more what this end said.
                    seat.unsynced = 0;
                } else if seat.unsynced > 0 {
                    shared.sync_soon(rid, side);
                }
            }
        }
    }

    /// Another relay has said something directly, about a pairing that has an end here, or had.
    pub(super) fn heard_directly(&self, node: u64, rid: Rid, to: Side, news: News) {
        let gone = || {
            // To a GONE there is nothing to say.
            if let Some(link) = self.link_to(node).filter(|_| news != News::Gone) {
                link.send(&Notice::Pairing { rid, to: to.other(), news: News::Gone }.encode());
            }
        };
        let Ok(mirror) = self.mirror(&rid) else { return gone() };
        let mut mirror = locked(&mirror);
        let joining = mirror.joining > 0;
        let Some(seat) = mirror.seat_mut(to).filter(|seat| seat.standing.is_some()) else {
            if !joining {
                return gone();
            }
            return match news {
                News::Gone | News::Here => {}
                news => self.hear(&mut mirror, rid, to, news),
            };
        };
        match news {
            News::Gone => {
                if seat.far == Some(node) {
                    seat.far = None;
                    if seat.unsynced > 0 {
                        self.sync_soon(rid, to);
                    }
                }
            }
            News::Here => {
                seat.far = Some(node);
                // It may have come back over the same connection as before: everything again, which does no harm.
                seat.handed = (HERE, 0);
                if let Some(way) = self.way(&mirror, to) {
                    self.hand_on(&mut mirror, rid, to, &way, None);
                }
            }
            news => {
                seat.far = Some(node);
                self.hear(&mut mirror, rid, to, news);
            }
        }
    }

    /// An end has taken its place here, and the other's node is this one, as Redis says: from now on they talk directly.
    pub(super) fn greet(&self, mirror: &mut Mirror, rid: Rid, side: Side, others_node: &[u8]) {
        if let Some(seat) = mirror.seat_mut(side) {
            let node = std::str::from_utf8(others_node).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
            seat.far = node.filter(|node| *node != self.name);
        }
        match self.way(mirror, side) {
            Some(Way::Here) => self.hand_on(mirror, rid, side.other(), &Way::Here, None),
            Some(way) => self.pass(mirror, rid, side.other(), &way, News::Here),
            None => {}
        }
    }

    /// Brings Redis up to date about a pairing whose end comes to this node: has every node that knows more tell it.
    /// False: one of them could not.
    pub(super) async fn settle(&self, rid: Rid) -> Result<bool, Refusal> {
        let until = Instant::now() + SETTLED_WITHIN;
        let here = self.settle_here(rid, until).await;
        let token = getrandom::u64().map_err(|_| Refusal::Unavailable)?;
        let (bucket, keys) = self.keys.pairing(&rid);
        let (sender, mut answers) = mpsc::channel(2);
        locked(&self.settling).insert(token, sender);
        let asking = async {
            let notice = Notice::Settle { rid, node: self.name, token }.encode();
            let args = [self.node.as_str().into(), super::link::Arg::Bytes(&notice), self.keys.notices(bucket).into()];
            let answer = self.call(bucket, Script::Settle, &keys, &args).await?;
            let mut answer = answer.map_err(|_| Refusal::Unavailable)?;
            let mut number = || answer.number().map_err(|Nonsense| Refusal::Unavailable);
            let (nodes, reached) = (number()?, number()?);
            for _ in 0..reached {
                let left = until.saturating_duration_since(Instant::now());
                if timeout(left, answers.recv()).await.is_err() {
                    return Ok(false);
                }
            }
            Ok(here && reached >= nodes)
        };
        let settled = asking.await;
        locked(&self.settling).remove(&token);
        settled
    }

    /// False: this node could not tell Redis what it knows.
    async fn settle_here(&self, rid: Rid, until: Instant) -> bool {
        for side in [Side::Agent, Side::Device] {
            let behind = || {
                let mirror = self.mirror(&rid).ok()?;
                let mirror = locked(&mirror);
                mirror.seat(side).filter(|seat| seat.standing.is_some() && seat.unsynced > 0).map(drop)
            };
            while behind().is_some() && !self.sync(rid, side).await {
                if Instant::now() >= until {
                    return false;
                }
                sleep(PAUSE).await;
            }
        }
        true
    }

    /// Another node waits for Redis to know what this one knows.
    pub(super) fn asked_to_settle(&self, rid: Rid, node: u64, token: u64) {
        let Some(shared) = self.this.upgrade() else { return };
        tokio::spawn(async move {
            if !shared.settle_here(rid, Instant::now() + SETTLED_WITHIN).await {
                return;
            }
            let (bucket, _) = shared.keys.pairing(&rid);
            let Some(link) = shared.routes.now(bucket) else { return };
            let channel = format!("{}{}", shared.keys.notices(bucket), written(node));
            let _ = link.publish(&channel, &Notice::Settled(token).encode()).await;
        });
    }

    pub(super) fn settled(&self, token: u64) {
        if let Some(waiting) = locked(&self.settling).get(&token) {
            // More answers than were asked for say nothing new.
            let _ = waiting.try_send(());
        }
    }

    /// Closes what can be told without Redis, which is told afterwards. False: there is no such way.
    pub(super) fn close_directly(&self, mirror: &mut Mirror, rid: Rid, from: Side, last: u32) -> bool {
        let Some(way) = self.way(mirror, from) else { return false };
        if let Some(seat) = mirror.seat_mut(from) {
            seat.closed = true;
            seat.unsynced += 1;
        }
        self.pass(mirror, rid, from.other(), &way, News::Closed { last });
        self.sync_soon(rid, from);
        true
    }

    pub(super) fn tell(&self, rid: Rid, to: Side, event: Event) {
        if let Some(sink) = self.sink.upgrade() {
            sink.pairing(rid, to, event);
        }
    }
}
