//! Channels among the nodes of one process: who follows them, and what is kept for those who were away.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    ids::TenantId,
    statement::Kind,
};
use tokio::time::Instant;

use super::Node;
use crate::{
    backplane::{Position, Sink, Topic},
    locked,
};

/// Newest messages of a channel that are kept for those who were away.
const HISTORY: usize = 64;
/// For how long they are; and for how long a channel that nobody follows any more keeps its count.
const HISTORY_FOR: Duration = Duration::from_secs(60);

/// A channel.
pub(super) struct Subject {
    epoch: u64,
    offset: u64,
    followers: Vec<(u64, Weak<dyn Sink>)>,
    /// Since when nobody follows it.
    left: Option<Instant>,
    retained: BTreeMap<u8, Retained>,
    /// The newest messages, by rising offset.
    history: VecDeque<(Instant, u64, Bytes)>,
}

struct Retained {
    epoch: u64,
    offset: u64,
    bytes: Bytes,
}

impl Node {
    pub(super) fn follow_now(&self, topic: Topic, wanted: bool) {
        if wanted {
            // Locked under the map's guard, so that it can't be removed as empty in between; nobody is told anything here.
            let subject = self.shared.topics.entry(topic).or_insert_with(Subject::begin);
            let mut subject = locked(&subject);
            subject.left = None;
            if !subject.followers.iter().any(|(id, _)| *id == self.id) {
                subject.followers.push((self.id, self.sink.clone()));
            }
        } else {
            let now = Instant::now();
            let subject = self.shared.topics.get(&topic).map(|found| found.clone());
            // Nothing else is locked while a channel is: whoever forgets channels locks them.
            if subject.is_some_and(|subject| locked(&subject).leave(self.id, now)) {
                locked(&self.shared.left).push_back((now + HISTORY_FOR, topic));
            }
            self.forget_left(now);
        }
    }

    /// Each leaving pays for those of a while ago.
    pub(super) fn forget_left(&self, now: Instant) {
        let due = {
            let mut left = locked(&self.shared.left);
            let count = left.iter().take_while(|(when, _)| *when <= now).count();
            left.drain(..count).collect::<Vec<_>>()
        };
        for (_, topic) in due {
            self.shared.topics.remove_if(&topic, |_, subject| {
                let subject = locked(subject);
                subject.retained.is_empty() && subject.left.is_some_and(|since| since + HISTORY_FOR <= now)
            });
        }
    }

    pub(super) fn position_now(&self, topic: Topic, since: Option<(u64, u64)>) -> Position {
        let subject = self.shared.topics.get(&topic).map(|found| found.clone());
        let nobody = || Position { epoch: 0, offset: 0, retained: vec![], missed: since.is_none().then(Vec::new) };
        let Some(subject) = subject else { return nobody() };
        let subject = locked(&subject);
        let mut retained: Vec<_> = subject.retained.values().map(|kept| (kept.offset, kept.bytes.clone())).collect();
        retained.sort_unstable_by_key(|(offset, _)| *offset);
        let missed = since.map_or(Some(vec![]), |(epoch, offset)| subject.since(epoch, offset));
        Position { epoch: subject.epoch, offset: subject.offset, retained, missed }
    }

    pub(super) fn publish_now(&self, topic: Topic, bytes: Bytes) -> u32 {
        // A channel that nobody follows is not made by who publishes to it.
        let subject = self.shared.topics.get(&topic).map(|found| found.clone());
        subject.map_or(0, |subject| locked(&subject).publish(&topic, &bytes))
    }

    pub(super) fn announce_now(&self, tenant: TenantId, bulletin: Bulletin) {
        let topic = Topic { tenant, channel: Channel::Tenant(tenant) };
        let subject = self.shared.topics.entry(topic).or_insert_with(Subject::begin).clone();
        let mut subject = locked(&subject);
        let kind: u8 = Kind::into(bulletin.kind);
        if subject.retained.get(&kind).is_some_and(|known| known.epoch >= bulletin.epoch) {
            return;
        }
        let bytes = Bytes::from(bulletin.encode());
        let offset = subject.offset + 1;
        subject.retained.insert(kind, Retained { epoch: bulletin.epoch, offset, bytes: bytes.clone() });
        subject.publish(&topic, &bytes);
    }
}

impl Subject {
    fn begin() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            // Without randomness: a number that a returning client does not have either.
            epoch: getrandom::u64().unwrap_or(u64::MAX),
            offset: 0,
            followers: vec![],
            left: None,
            retained: BTreeMap::new(),
            history: VecDeque::new(),
        }))
    }

    /// A node does not follow it any more; whether with that nobody does.
    fn leave(&mut self, node: u64, now: Instant) -> bool {
        self.followers.retain(|(id, _)| *id != node);
        let left = self.followers.is_empty() && self.left.is_none();
        if left {
            self.left = Some(now);
        }
        left
    }

    /// Every message after this one, if they are all kept.
    fn since(&self, epoch: u64, offset: u64) -> Option<Vec<(u64, Bytes)>> {
        let lacking = self.offset.checked_sub(offset).filter(|_| epoch == self.epoch)?;
        let now = Instant::now();
        let fresh = self.history.iter().filter(|(when, ..)| now - *when <= HISTORY_FOR);
        let missed = fresh.filter(|(_, at, _)| *at > offset).map(|(_, at, bytes)| (*at, bytes.clone()));
        Some(missed.collect::<Vec<_>>()).filter(|missed| missed.len() as u64 == lacking)
    }

    fn publish(&mut self, topic: &Topic, bytes: &Bytes) -> u32 {
        self.offset += 1;
        let now = Instant::now();
        let old = |when: Instant| now - when > HISTORY_FOR;
        while self.history.len() >= HISTORY || self.history.front().is_some_and(|(when, ..)| old(*when)) {
            self.history.pop_front();
        }
        self.history.push_back((now, self.offset, bytes.clone()));
        let sinks = self.followers.iter().filter_map(|(_, sink)| sink.upgrade());
        sinks.map(|sink| sink.message(topic, self.offset, bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, backplane::conformance};

    #[test]
    fn channels_that_are_left_while_others_are_forgotten_stop_nobody() {
        let shared = Memory::new(Duration::from_secs(60)).0;
        let node = |id| Node { id, sink: Weak::<conformance::Heard>::new(), shared: shared.clone() };
        let topic = Topic { tenant: TenantId([1; 16]), channel: Channel::Tenant(TenantId([1; 16])) };
        let (done, ended) = std::sync::mpsc::channel();
        for id in 0..2 {
            let (node, done) = (node(id), done.clone());
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    node.follow_now(topic, true);
                    node.follow_now(topic, false);
                    // A minute later, as far as this goes.
                    node.forget_left(Instant::now() + HISTORY_FOR);
                }
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            assert!(ended.recv_timeout(Duration::from_secs(60)).is_ok(), "they wait for each other");
        }
    }
}
