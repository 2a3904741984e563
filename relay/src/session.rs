//! What an authenticated client's frames do. What is refused is answered with ERR; the connection stays.
//!
//! Transport is elsewhere: a session is given frames, and answers go to its [`Peer`]'s outbox.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, MAX_FRAME, Place},
    ids::Rid,
};

use crate::{
    backplane::{Refusal, Topic},
    core::Core,
    locked,
    metrics::{Held, Limit},
    outbox::Outbox,
    peer::{Identity, Peer, Principal},
    quotas::Account,
    rates::Pass,
    websocket::Packet,
};

/// What a MESSAGE has around its bytes, at most: type, channel name, offset and lengths.
const MESSAGE_OVERHEAD: usize = 64;

/// An authenticated connection. Dropping it takes it out of everything.
pub(crate) struct Session {
    pub(crate) core: Arc<Core>,
    pub(crate) peer: Arc<Peer>,
    /// So that nobody can push others off the relay by filling their queues.
    pub(crate) pass: Pass,
    /// What its tenant has of the region.
    pub(crate) account: Account,
    _counted: Held,
}

impl Session {
    /// Registers a client and welcomes it; as an error, once the relay is going down, one that is neither.
    pub(crate) fn begin(
        core: Arc<Core>,
        identity: Identity,
        outbox: Outbox,
        pass: Pass,
        account: Account,
    ) -> Result<Self, Arc<Peer>> {
        let peer = core.welcome(identity, outbox)?;
        core.metrics.welcomed.inc();
        let _counted = core.metrics.connections.hold();
        let welcome = Frame::Welcome { connection: peer.id, server_time: core.now() };
        let mut first = vec![Packet::binary(&welcome.encode())];
        first.extend(core.ticket_for(&peer));
        peer.outbox.push(Packet::joined(&first));
        Ok(Self { core, peer, pass, account, _counted })
    }

    /// Acts on one frame, which came in these bytes.
    pub(crate) async fn handle(&self, frame: Frame, bytes: Bytes) {
        let (core, peer) = (&self.core, &self.peer);
        core.metrics.frames_in.inc();
        core.metrics.bytes_in.add(bytes.len() as u64);
        let done = match frame {
            Frame::Forward { rid, seq, ack, .. } => core
                .mailbox
                .forward(core.plane.as_ref(), peer, rid, (seq, ack), bytes)
                .await
                .map_err(|refusal| self.of(rid, refusal)),
            Frame::Publish { id, channel, bytes } => self.publish(id, &channel, bytes).await,
            // On the heap: the waiting of these is not worth a place in each idle connection.
            rare => Box::pin(self.handle_rare(rare, bytes)).await,
        };
        if let Err(denied) = done {
            core.metrics.errors.inc(denied.code);
            peer.send(&Frame::Err { code: denied.code, rid: denied.rid, id: denied.id, text: denied.text });
        }
    }

    async fn handle_rare(&self, frame: Frame, bytes: Bytes) -> Result<(), Denied> {
        let (core, peer) = (&self.core, &self.peer);
        let plane = core.plane.as_ref();
        match frame {
            Frame::ForwardAck { rid, ack } => {
                core.mailbox.ack(plane, peer, rid, ack, bytes).await.map_err(|refusal| self.of(rid, refusal))
            }
            Frame::Open { rid, ttl } => self.open(rid, ttl).await,
            Frame::Claim { rid, .. } => self.claim(rid, bytes).await,
            Frame::Resume { rid, token, last_seq } => match self.another_pairing(rid) {
                Ok(()) => {
                    let back = core.mailbox.resume(plane, peer, rid, &token, last_seq).await;
                    back.map_err(|refusal| self.of(rid, refusal))
                }
                Err(denied) => Err(denied),
            },
            Frame::Close { rid } => core.mailbox.close(plane, peer, rid).await.map_err(|refusal| self.of(rid, refusal)),
            Frame::Subscribe { channel, since } => self.subscribe(&channel, since).await,
            Frame::Unsubscribe { channel } => self.unsubscribe(&channel).await,
            Frame::Forward { .. }
            | Frame::Publish { .. }
            | Frame::Challenge { .. }
            | Frame::Auth { .. }
            | Frame::Welcome { .. }
            | Frame::Opened { .. }
            | Frame::Claimed { .. }
            | Frame::Resumed { .. }
            | Frame::Ticket { .. }
            | Frame::Return { .. }
            | Frame::Subscribed { .. }
            | Frame::Ack { .. }
            | Frame::Message { .. }
            | Frame::Err { .. }
            | Frame::Drain { .. } => Err(denied(Code::BadFrame, "this frame is not for a relay now")),
        }
    }

    async fn open(&self, rid: Rid, ttl: u32) -> Result<(), Denied> {
        if !matches!(self.peer.identity.principal, Principal::Agent(_)) {
            return Err(denied(Code::NotAllowed, "only agents open pairings").about(rid));
        }
        if ttl == 0 {
            return Err(denied(Code::BadFrame, "a pairing lives at least a second").about(rid));
        }
        self.another_pairing(rid)?;
        let ttl = Duration::from_secs(ttl.into());
        let taken = self.core.quotas.pairing(self.peer.identity.tenant).await.map_err(|limit| {
            denied(limit.code(), "this tenant has as many pairings as it may: try again in a minute").about(rid)
        })?;
        let opened = self.core.mailbox.open(self.core.plane.as_ref(), &self.peer, rid, ttl, taken).await;
        opened.map_err(|refusal| self.of(rid, refusal))
    }

    async fn claim(&self, rid: Rid, frame: Bytes) -> Result<(), Denied> {
        if !matches!(self.peer.identity.principal, Principal::Device(_)) {
            return Err(denied(Code::NotAllowed, "only devices claim pairings").about(rid));
        }
        self.another_pairing(rid)?;
        let claimed = self.core.mailbox.claim(self.core.plane.as_ref(), &self.peer, rid, frame).await;
        claimed.map_err(|refusal| self.of(rid, refusal))
    }

    /// Whether this connection may have one more pairing.
    fn another_pairing(&self, rid: Rid) -> Result<(), Denied> {
        let held = locked(&self.peer.pairings).len();
        if held < self.core.config.limits.pairings as usize || self.peer.has(&rid) {
            return Ok(());
        }
        self.core.metrics.refused.inc(Limit::Pairings);
        Err(denied(Code::Quota, "this connection has as many pairings as it may").about(rid))
    }

    async fn subscribe(&self, channel: &str, since: Option<Place>) -> Result<(), Denied> {
        let topic = self.topic(channel)?;
        if !self.peer.identity.may_subscribe(&topic.channel) {
            return Err(denied(Code::NotAllowed, "not a channel of this certificate"));
        }
        if let Channel::Presence(tenant) = topic.channel {
            let place = Place { epoch: 0, offset: 0 };
            self.peer.send(&Frame::Subscribed { channel: channel.to_owned(), place, complete: true, following: 0 });
            self.core.lists.subscribe(&self.core.plane, tenant, &self.peer);
            return Ok(());
        }
        let subscribed = self.core.hub.subscribe(self.core.plane.as_ref(), topic, &self.peer, since).await;
        subscribed.map_err(|refusal| denied(refusal.code(), &refusal.to_string()))
    }

    async fn unsubscribe(&self, channel: &str) -> Result<(), Denied> {
        let topic = self.topic(channel)?;
        if let Channel::Presence(tenant) = topic.channel {
            self.core.lists.unsubscribe(&tenant, &self.peer);
            return Ok(());
        }
        self.core.hub.unsubscribe(self.core.plane.as_ref(), topic, &self.peer).await;
        Ok(())
    }

    async fn publish(&self, id: u32, channel: &str, bytes: Bytes) -> Result<(), Denied> {
        let topic = self.topic(channel).map_err(|denied| denied.to(id))?;
        if !self.peer.identity.may_publish(&topic.channel) {
            return Err(denied(Code::NotAllowed, "this certificate may not publish there").to(id));
        }
        if let Err(limit) = self.pass.publish() {
            return Err(denied(limit.code(), "too many messages at once").to(id));
        }
        if bytes.len() > MAX_FRAME - MESSAGE_OVERHEAD {
            self.core.metrics.refused.inc(Limit::FrameSize);
            return Err(denied(Code::Size, "does not fit into a MESSAGE").to(id));
        }
        let published = self.core.plane.publish(topic, bytes).await;
        let delivered = published.map_err(|refusal| denied(refusal.code(), &refusal.to_string()).to(id))?;
        self.core.metrics.published.inc();
        self.peer.send(&Frame::Ack { id, delivered });
        Ok(())
    }

    fn topic(&self, channel: &str) -> Result<Topic, Denied> {
        let channel: Channel = channel.parse().map_err(|_| denied(Code::Unknown, "not a channel"))?;
        Ok(Topic { tenant: self.peer.identity.tenant, channel })
    }

    fn of(&self, rid: Rid, refusal: Refusal) -> Denied {
        if matches!(refusal, Refusal::Unacked(_)) {
            self.core.metrics.refused.inc(Limit::Unacked);
        }
        denied(refusal.code(), &refusal.to_string()).about(rid)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.forget(&self.peer);
    }
}

/// An ERR in the making.
struct Denied {
    code: Code,
    rid: Option<Rid>,
    id: Option<u32>,
    text: String,
}

fn denied(code: Code, text: &str) -> Denied {
    Denied { code, rid: None, id: None, text: text.to_owned() }
}

impl Denied {
    fn about(self, rid: Rid) -> Self {
        Self { rid: Some(rid), ..self }
    }

    fn to(self, id: u32) -> Self {
        Self { id: Some(id), ..self }
    }
}
