//! Channels in Redis, as a node that follows them hears them.
//!
//! Redis numbers a channel's messages, so a node sees when one is missing. It then asks what it missed: Redis keeps the last
//! few for a while. Where they are gone, or Redis has lost the count (its epoch differs), the sink is told to fetch anew.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    ids::TenantId,
    statement::Kind,
};
use tracing::{debug, warn};

use super::{
    Shared,
    keys::{Keys, parse_topic},
    link::Arg,
    scripts::{Answer, Nonsense, Script},
};
use crate::{
    backplane::{Position, Refusal, Topic},
    locked,
};

/// A channel that nobody publishes to keeps its count for a day.
const IDLE_MS: u64 = 24 * 60 * 60 * 1_000;

/// A channel that this node follows.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Epoch and offset of the last message that was handed over.
    told: Option<(u64, u64)>,
    /// What was missed is being asked for.
    catching: bool,
    /// Something arrived meanwhile.
    again: bool,
}

/// Splits what is published: an epoch, an offset, the bytes.
fn read(payload: &Bytes) -> Option<(u64, u64, Bytes)> {
    let (epoch, rest) = payload.split_first_chunk()?;
    let (offset, bytes) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*epoch), u64::from_be_bytes(*offset), Bytes::copy_from_slice(bytes)))
}

fn numbered(payload: &[u8]) -> Result<(u64, Bytes), Nonsense> {
    let (offset, bytes) = payload.split_first_chunk().ok_or(Nonsense)?;
    Ok((u64::from_be_bytes(*offset), Bytes::copy_from_slice(bytes)))
}

fn epoch() -> Result<[u8; 8], Refusal> {
    getrandom::u64().map(u64::to_be_bytes).map_err(|_| Refusal::Unavailable)
}

impl Shared {
    pub(super) async fn follow(&self, topic: Topic, wanted: bool) -> Result<(), Refusal> {
        let (bucket, [channel, _]) = self.keys.topic(&topic);
        if !wanted {
            self.topics.remove(&topic);
            if let Some(link) = self.routes.now(bucket) {
                // Where it fails the link is dead, and its successor subscribes to what is in the map.
                let _ = link.unsubscribe(&[channel]).await;
            }
            return Ok(());
        }
        // First here: whoever makes a new link meanwhile subscribes to it too.
        self.topics.entry(topic).or_default();
        let subscribed = match self.routes.wait(bucket).await {
            Some(link) => link.subscribe(&[channel]).await.is_ok(),
            None => false,
        };
        if !subscribed {
            self.topics.remove(&topic);
            return Err(Refusal::Unavailable);
        }
        Ok(())
    }

    pub(super) async fn position(&self, topic: Topic, since: Option<(u64, u64)>) -> Result<Position, Refusal> {
        let (bucket, keys) = self.keys.topic(&topic);
        let new = epoch()?;
        let since_epoch = since.map(|(epoch, _)| epoch.to_be_bytes());
        let args = [
            Arg::Bytes(&new),
            Arg::Number(self.settings.history_messages),
            Arg::Number(IDLE_MS),
            Arg::Bytes(since_epoch.as_ref().map_or(&[], |epoch| epoch)),
            Arg::Number(since.map_or(0, |(_, offset)| offset)),
        ];
        let answer = self.call(bucket, Script::Position, &keys, &args).await?;
        let position = answer.map_err(|_| Nonsense).and_then(read_position).map_err(|Nonsense| Refusal::Unavailable)?;
        if let Some(followed) = self.followed(&topic) {
            locked(&followed).told.get_or_insert((position.epoch, position.offset));
        }
        Ok(position)
    }

    pub(super) async fn publish(&self, topic: Topic, bytes: Bytes) -> Result<u32, Refusal> {
        let (bucket, keys) = self.keys.topic(&topic);
        let new = epoch()?;
        let args = [
            keys[0].as_str().into(),
            Arg::Bytes(&bytes),
            Arg::Bytes(&new),
            Arg::Number(self.settings.history_messages),
            Arg::Number(self.settings.history_ms),
            Arg::Number(IDLE_MS),
        ];
        let answer = self.call(bucket, Script::Publish, &keys, &args).await?;
        let mut answer = answer.map_err(|_| Refusal::Unavailable)?;
        answer.number().map(|nodes| nodes as u32).map_err(|Nonsense| Refusal::Unavailable)
    }

    /// Announces a statement. Where Redis is away it is announced as soon as it is back: nothing that is in force is lost.
    pub(super) async fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> Result<(), Refusal> {
        let kind: u8 = Kind::into(bulletin.kind);
        let newest = {
            let mut known = self.announced.entry((tenant, kind)).or_insert_with(|| bulletin.clone());
            if known.epoch < bulletin.epoch {
                *known = bulletin;
            }
            known.clone()
        };
        if self.announce_now(tenant, &newest).await.is_err() {
            warn!(kind = ?newest.kind, "Redis is away: a statement is announced as soon as it is back");
            self.say_here(tenant);
        }
        Ok(())
    }

    /// What was announced at this node, to those who listen here: a revocation does not wait for Redis. No number is free for it,
    /// so it comes as what is so now, at the place where the channel is known to be; what Redis numbers later follows there.
    fn say_here(&self, tenant: TenantId) {
        let topic = Topic { tenant, channel: Channel::Tenant(tenant) };
        let Some(followed) = self.followed(&topic) else { return };
        let followed = locked(&followed);
        // Who just catches up asks Redis what is so.
        let Some((epoch, offset)) = followed.told.filter(|_| !followed.catching) else { return };
        let own = self.announced.iter().filter(|entry| entry.key().0 == tenant);
        let retained = own.map(|entry| (offset, Bytes::from(entry.value().encode()))).collect();
        if let Some(sink) = self.sink.upgrade() {
            sink.refetch(&topic, &Position { epoch, offset, retained, missed: None });
        }
    }

    async fn announce_now(&self, tenant: TenantId, bulletin: &Bulletin) -> Result<(), Refusal> {
        let topic = Topic { tenant, channel: Channel::Tenant(tenant) };
        let (bucket, keys) = self.keys.topic(&topic);
        let (kind, bytes, new) = (Kind::into(bulletin.kind), bulletin.encode(), epoch()?);
        let kind: u8 = kind;
        let args = [
            keys[0].as_str().into(),
            Arg::Number(kind.into()),
            Arg::Bytes(&format!("{:020}", bulletin.epoch).into_bytes()),
            Arg::Bytes(&bytes),
            Arg::Bytes(&new),
            Arg::Number(self.settings.history_messages),
            Arg::Number(self.settings.history_ms),
        ];
        self.call(bucket, Script::Announce, &keys, &args).await?.map(drop).map_err(|_| Refusal::Unavailable)
    }

    /// A message has arrived.
    pub(super) fn message(&self, name: &str, payload: &Bytes) {
        let (Some(topic), Some((epoch, offset, bytes))) = (parse_topic(name), read(payload)) else { return };
        let Some(followed) = self.followed(&topic) else {
            // Left while a new link subscribed to it.
            return self.leave_soon(topic);
        };
        let mut followed = locked(&followed);
        if followed.catching {
            followed.again = true;
            return;
        }
        match followed.told {
            Some((known, last)) if known == epoch && offset <= last => {}
            Some((known, last)) if known != epoch || offset > last + 1 => self.catch_up_soon(topic),
            _ => {
                followed.told = Some((epoch, offset));
                if let Some(sink) = self.sink.upgrade() {
                    sink.message(&topic, offset, &bytes);
                }
            }
        }
    }

    /// What a new link at these buckets has to subscribe to.
    pub(super) fn channels(&self, of: impl Fn(usize) -> bool) -> Vec<String> {
        let topics = self.topics.iter().filter(|entry| of(Keys::topic_bucket(entry.key())));
        topics
            .map(|entry| {
                let (_, [channel, _]) = self.keys.topic(entry.key());
                channel
            })
            .collect()
    }

    /// Looks up what was missed on the channels of these buckets, and announces again what Redis may have lost.
    pub(super) fn catch_up_buckets(&self, of: impl Fn(usize) -> bool) {
        let topics = self.topics.iter().map(|entry| *entry.key());
        let topics: Vec<Topic> = topics.filter(|topic| of(Keys::topic_bucket(topic))).collect();
        topics.into_iter().for_each(|topic| self.catch_up_soon(topic));
        let own = self.announced.iter().map(|entry| (entry.key().0, entry.value().clone()));
        let tenant_bucket = |tenant| Keys::topic_bucket(&Topic { tenant, channel: Channel::Tenant(tenant) });
        let own: Vec<(TenantId, Bulletin)> = own.filter(|(tenant, _)| of(tenant_bucket(*tenant))).collect();
        for (tenant, bulletin) in own {
            let Some(shared) = self.this.upgrade() else { return };
            tokio::spawn(async move {
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                if shared.announce_now(tenant, &bulletin).await.is_err() {
                    debug!("Redis went away again before a statement was announced");
                }
            });
        }
    }

    fn catch_up_soon(&self, topic: Topic) {
        let Some(shared) = self.this.upgrade() else { return };
        tokio::spawn(async move {
            let Ok(_turn) = shared.syncs.acquire().await else { return };
            shared.catch_up(topic).await;
        });
    }

    async fn catch_up(&self, topic: Topic) {
        let Some(followed) = self.followed(&topic) else { return };
        loop {
            let since = {
                let mut followed = locked(&followed);
                if followed.catching {
                    followed.again = true;
                    return;
                }
                (followed.catching, followed.again) = (true, false);
                followed.told
            };
            let position = self.position(topic, since).await;
            let mut followed = locked(&followed);
            followed.catching = false;
            // The link is lost again: its successor looks up everything anew.
            let Ok(position) = position else { return };
            let sink = self.sink.upgrade();
            match &position.missed {
                Some(missed) => {
                    for (offset, bytes) in missed {
                        if let Some(sink) = &sink {
                            sink.message(&topic, *offset, bytes);
                        }
                    }
                }
                None => {
                    self.metrics.backplane_refetches.inc();
                    sink.iter().for_each(|sink| sink.refetch(&topic, &position));
                }
            }
            followed.told = Some((position.epoch, position.offset));
            if !followed.again {
                return;
            }
        }
    }

    fn leave_soon(&self, topic: Topic) {
        let (bucket, [channel, _]) = self.keys.topic(&topic);
        if let Some(link) = self.routes.now(bucket) {
            tokio::spawn(async move { link.unsubscribe(&[channel]).await });
        }
    }

    fn followed(&self, topic: &Topic) -> Option<Arc<Mutex<Followed>>> {
        self.topics.get(topic).map(|found| found.clone())
    }
}

fn read_position(mut answer: Answer) -> Result<Position, Nonsense> {
    let epoch = answer.bytes()?.try_into().map(u64::from_be_bytes).map_err(|_| Nonsense)?;
    let offset = answer.number()?;
    let refetch = answer.number()? == 1;
    let messages = |list: Vec<Vec<u8>>| list.iter().map(|bytes| numbered(bytes)).collect::<Result<Vec<_>, _>>();
    let mut retained = messages(answer.list()?)?;
    retained.sort_unstable_by_key(|(offset, _)| *offset);
    let missed = messages(answer.list()?)?;
    Ok(Position { epoch, offset, retained, missed: (!refetch).then_some(missed) })
}
