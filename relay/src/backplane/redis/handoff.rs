//! The bounded queue between the socket to Redis and the relay.
//!
//! The task that reads the socket must never wait: replies to everybody's commands come through it. When the relay can't
//! keep up, what arrives is dropped and counted, and *everything* that arrives is, until the queue is empty: so the relay
//! learns of one hole, and asks Redis for what it lacks, instead of meeting many.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// A message that Redis pushed.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) channel: String,
    pub(super) payload: Bytes,
}

/// The socket's side.
#[derive(Debug)]
pub(super) struct Handoff {
    queue: mpsc::Sender<Push>,
    bytes: AtomicUsize,
    max_bytes: usize,
    hole: AtomicBool,
    metrics: Arc<Metrics>,
}

/// The relay's side.
#[derive(Debug)]
pub(super) struct Received {
    queue: mpsc::Receiver<Push>,
    handoff: Arc<Handoff>,
}

/// Taken at a time.
const BATCH: usize = 256;

pub(super) fn handoff(messages: usize, bytes: usize, metrics: Arc<Metrics>) -> (Arc<Handoff>, Received) {
    let (sender, receiver) = mpsc::channel(messages.max(1));
    let hole = AtomicBool::new(false);
    let handoff = Arc::new(Handoff { queue: sender, bytes: AtomicUsize::new(0), max_bytes: bytes, hole, metrics });
    (handoff.clone(), Received { queue: receiver, handoff })
}

impl Handoff {
    /// Takes a message, or drops it.
    pub(super) fn offer(&self, push: Push) {
        let size = push.channel.len() + push.payload.len();
        if !self.hole.load(SeqCst) {
            if self.bytes.fetch_add(size, SeqCst) + size <= self.max_bytes && self.queue.try_send(push).is_ok() {
                return;
            }
            self.bytes.fetch_sub(size, SeqCst);
            self.hole.store(true, SeqCst);
        }
        self.metrics.backplane_overflows.inc();
    }
}

impl Received {
    /// What has arrived, in order; and whether something after it was dropped.
    pub(super) async fn next(&mut self) -> (Vec<Push>, bool) {
        let mut batch = Vec::new();
        self.queue.recv_many(&mut batch, BATCH).await;
        let size: usize = batch.iter().map(|push| push.channel.len() + push.payload.len()).sum();
        self.handoff.bytes.fetch_sub(size, SeqCst);
        let hole = self.queue.is_empty() && self.handoff.hole.load(SeqCst);
        (batch, hole)
    }

    /// From now on messages are taken again: whoever may lack something knows.
    pub(super) fn mended(&self) {
        self.handoff.hole.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(text: &'static str) -> Push {
        Push { channel: String::new(), payload: Bytes::from_static(text.as_bytes()) }
    }

    fn texts(batch: Vec<Push>) -> Vec<Bytes> {
        batch.into_iter().map(|push| push.payload).collect()
    }

    #[tokio::test]
    async fn what_overflows_is_counted_and_told_once_behind_what_came_before() {
        for (messages, bytes) in [(2, 1_000), (1_000, 6)] {
            let metrics = Arc::new(Metrics::default());
            let (handoff, mut received) = handoff(messages, bytes, metrics.clone());
            ["one", "two", "three", "four"].iter().for_each(|text| handoff.offer(push(text)));
            assert_eq!(metrics.backplane_overflows.get(), 2);
            let (batch, hole) = received.next().await;
            assert_eq!((texts(batch), hole), (vec!["one".into(), "two".into()], true));
            handoff.offer(push("five"));
            assert_eq!(metrics.backplane_overflows.get(), 3, "not before the hole is mended");
            received.mended();
            handoff.offer(push("six"));
            assert_eq!(texts(received.next().await.0), ["six"]);
            assert_eq!(handoff.bytes.load(SeqCst), 0, "every byte is given back");
        }
    }
}
