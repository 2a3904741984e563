//! Pairings that stay open, and the messages that go to and fro in them: what the relay spends on a message alone.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gatepass_client::{RequestError, edge};
use gatepass_protocol::ids::Rid;
use tokio::time::timeout;

use crate::{
    clock::Moment,
    stage::{Member, Stage, refusal},
};

/// Seconds that a pairing lives: as long as the relay allows.
const TTL: u32 = 90;

/// A pairing that is open.
pub(crate) struct Talk {
    rid: Rid,
    ends: [Arc<Member>; 2],
}

impl Talk {
    /// Opens and claims; `None`, and counted as failed, where that does not work.
    pub(crate) async fn open(stage: &Stage, agent: Arc<Member>, phone: Arc<Member>) -> Option<Self> {
        let rid = Rid(edge::random());
        let mut mail = agent.expect(rid);
        let both = async {
            agent.sender.open(rid, TTL).await?;
            phone.sender.claim(rid, edge::random(), edge::random()).await?;
            // An agent may not speak before it has heard of the claim.
            mail.receiver.recv().await.map(drop).ok_or(RequestError::Stopped)
        };
        match refusal(timeout(stage.patience(), both).await) {
            None => Some(Self { rid, ends: [phone.clone(), agent] }),
            Some(kind) => {
                stage.recorder.failed(&format!("talk: {kind}"));
                None
            }
        }
    }

    /// The next message, in this turn: an even one is the phone's.
    pub(crate) async fn say(&self, stage: &Stage, turn: u32, message: Bytes) {
        let (end, counts) = (&self.ends[turn as usize % 2], measured(&message).is_some());
        match timeout(stage.patience(), end.sender.forward(self.rid, message)).await {
            Ok(Ok(())) if counts => stage.recorder.count("handed over", 1),
            Ok(Ok(())) => {}
            failed => stage.recorder.failed(&format!("message: {}", refusal(failed).unwrap_or_default())),
        }
    }
}

/// A message that says when it was meant to be sent, and whether it counts.
pub(crate) fn message(bytes: u32, meant: Moment, measured: bool) -> Bytes {
    let mut message = BytesMut::zeroed(bytes as usize);
    message[..8].copy_from_slice(&meant.0.to_be_bytes());
    message[8] = u8::from(measured);
    message.freeze()
}

/// When a message was meant to be sent, if it counts.
pub(crate) fn measured(message: &[u8]) -> Option<Moment> {
    match message.split_first_chunk() {
        Some((meant, [1, ..])) => Some(Moment(u64::from_be_bytes(*meant))),
        _ => None,
    }
}
