//! What the relays of one region share: pairings with their mailboxes, and channels.
//!
//! A relay node holds sockets; everything that must outlive a socket, or be seen by another node, goes through this
//! trait. [`memory`] keeps it in this process, for a region of one node; [`redis`] is for several. `conformance` (feature
//! `testing`) says what every implementation has to do, and each one runs it.
//!
//! ```text
//!  agent's node                backplane                         phone's node
//!    open(rid, ttl) ---------> waits to be claimed
//!                              one compare-and-set  <----------- claim(rid)
//!    Sink: Claim     <-------- notice kept until used
//!                              kept until acked     <----------- forward(rid, seq 1, ack 0)
//!    Sink: Forward   <--------
//!    forward(seq 1, ack 1) --> drops the phone's 1, keeps this --> Sink: Forward
//!    resume(token, last) ----> moves the end to the node that asks; what it lacks comes back
//! ```
//!
//! A pairing remembers at which node each of its ends is, so an event costs one notice to one node. It remembers of a
//! resume token only the hash. It never looks into a message.
//!
//! Everything of one pairing reaches a [`Sink`] in the order in which it happened; so does everything of one channel.
//!
//! A channel's messages are numbered: its *offset* rises with each, and its *epoch* is a random number that changes when
//! the count was lost. Who knows both can ask for exactly what it missed, as long as that is still kept.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod memory;
pub mod quota;
pub mod redis;

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    ids::{Rid, Serial, TenantId},
};

pub use gatepass_protocol::presence::Who;

use crate::{
    config::{BackplaneKind, Config, ConfigError},
    metrics::Metrics,
};

/// A future behind a pointer, as a trait object's method returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The two ends of a pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who opened it.
    Agent,
    /// Who claimed it.
    Device,
}

impl Side {
    /// The word for a trace.
    pub fn name(self) -> &'static str {
        match self {
            Side::Agent => "agent",
            Side::Device => "device",
        }
    }

    /// The one across.
    pub fn other(self) -> Side {
        match self {
            Side::Agent => Side::Device,
            Side::Device => Side::Agent,
        }
    }
}

/// Who may speak for one end of a pairing: this certificate, with the token whose SHA-256 this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The certificate that opened or claimed.
    pub certificate: Serial,
    /// Of the resume token.
    pub token_hash: [u8; 32],
}

/// A channel of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub channel: Channel,
}

/// What a tenant may have only so much of at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Authenticated connections.
    Connections,
    /// Pairings that were opened and are not over.
    Pairings,
}

/// Something that happened to a pairing, for one of its ends. The frames are the bytes that the other end sent: both
/// directions have the same encoding, so nothing is encoded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A CLAIM, for the agent.
    Claim(Bytes),
    /// A FWD.
    Forward {
        /// Its number.
        seq: u32,
        /// The frame.
        frame: Bytes,
    },
    /// A FWDACK.
    Ack(Bytes),
    /// The other end closed the pairing.
    Closed,
}

impl Event {
    /// The word for a trace.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Claim(_) => "claim",
            Event::Forward { .. } => "forward",
            Event::Ack(_) => "ack",
            Event::Closed => "close",
        }
    }
}

/// What an end gets that comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Which end it is.
    pub side: Side,
    /// The highest number that arrived from it.
    pub sent: u32,
    /// What it lacks, in order.
    pub missed: Vec<Event>,
    /// How long the pairing still lives.
    pub left: Duration,
}

/// A subscriber's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Changes when the count of messages was lost.
    pub epoch: u64,
    /// The offset of the newest message so far.
    pub offset: u64,
    /// The newest statement of each kind, with its offset, by rising offset.
    pub retained: Vec<(u64, Bytes)>,
    /// Every message since the position that was asked about, by rising offset; `None` where they are not all kept any
    /// more, so that whoever listens has to fetch what it needs anew.
    pub missed: Option<Vec<(u64, Bytes)>>,
}

/// Why the backplane does not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such pairing in this tenant, or it is no more.
    #[error("no such pairing")]
    Unknown,
    /// The id is in use.
    #[error("the pairing exists already")]
    Taken,
    /// Another device was first.
    #[error("claimed by another device")]
    Claimed,
    /// Nobody claimed it yet, so there is nobody to send to.
    #[error("not claimed yet")]
    Unclaimed,
    /// Its time is over, or one end closed it.
    #[error("the pairing is over")]
    Expired,
    /// Not the token, not the certificate, or what is lacking is no longer kept.
    #[error("can't be resumed")]
    ResumeDenied,
    /// Too many messages wait for their acknowledgement.
    #[error("{0} messages are unacknowledged")]
    Unacked(usize),
    /// A message is missing before this one.
    #[error("expected message {expected}, got {got}")]
    Gap {
        /// The next number.
        expected: u32,
        /// The number that came.
        got: u32,
    },
    /// An acknowledgement of what was never sent.
    #[error("{got} acknowledged of {sent} sent")]
    AckAhead {
        /// What the other end sent.
        sent: u32,
        /// What was acknowledged.
        got: u32,
    },
    /// The backplane can't be reached: nothing new can begin now.
    #[error("the backplane can't be reached")]
    Unavailable,
}

impl Refusal {
    /// The code that a client is answered with.
    pub fn code(self) -> Code {
        match self {
            Refusal::Unknown => Code::Unknown,
            Refusal::Taken | Refusal::Unclaimed => Code::NotAllowed,
            Refusal::Claimed => Code::Claimed,
            Refusal::Expired => Code::Expired,
            Refusal::ResumeDenied => Code::ResumeDenied,
            Refusal::Unacked(_) => Code::Rate,
            Refusal::Gap { .. } | Refusal::AckAhead { .. } => Code::BadFrame,
            Refusal::Unavailable => Code::Draining,
        }
    }
}

/// What makes a node's handle on the backplane.
pub type Join = Box<dyn FnOnce(Weak<dyn Sink>, Arc<Metrics>) -> Arc<dyn Backplane> + Send>;

/// Reads what the configuration says of the backplane, and the files that it names. What comes back has to be called inside
/// a Tokio runtime.
pub fn prepare(config: &Config) -> Result<Join, ConfigError> {
    let resume_for = Duration::from_secs(config.pairing.resume_seconds.into());
    Ok(match config.backplane.kind {
        BackplaneKind::Memory => Box::new(move |sink, _| memory::Memory::new(resume_for).join(sink)),
        _ => {
            let settings = redis::Settings::load(&config.backplane, resume_for)?;
            Box::new(move |sink, metrics| redis::join(settings, sink, metrics))
        }
    })
}

/// A relay node, as the backplane sees it. Its methods only queue and return: they never wait, and never call back into
/// the backplane.
pub trait Sink: Send + Sync {
    /// Something happened to a pairing one of whose ends is at this node.
    fn pairing(&self, rid: Rid, to: Side, event: Event);
    /// A message on a channel that this node follows. Returns how many connections took it.
    fn message(&self, topic: &Topic, offset: u64, bytes: &Bytes) -> u32;
    /// Messages of a channel that this node follows were missed, and can't be had any more: what counts is what is so now.
    fn refetch(&self, topic: &Topic, now: &Position);
    /// Somebody of a tenant that this node follows came online, or went offline. May be lost, or said twice.
    fn presence(&self, tenant: &TenantId, who: Who, online: bool);
    /// Another node says something to this one, with [`Backplane::tell`]. May be lost.
    fn told(&self, note: &Bytes);
}

/// One node's handle on what the nodes share.
pub trait Backplane: Send + Sync + 'static {
    /// Opens a pairing, whose agent is at this node.
    fn open(&self, rid: Rid, tenant: TenantId, agent: Holder, ttl: Duration) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Claims a pairing for a device at this node: of all claims, anywhere, exactly one succeeds. `frame` is kept for the
    /// agent until it is known to have it. Returns how long the pairing still lives.
    fn claim(
        &self,
        rid: Rid,
        tenant: TenantId,
        device: Holder,
        frame: Bytes,
    ) -> BoxFuture<'_, Result<Duration, Refusal>>;

    /// Takes in message `seq`, keeps it until it is acknowledged, and acknowledges the other end's up to `ack`. A number
    /// that was taken in before is a repetition after a resume: `Ok`, and sent to nobody.
    fn forward(&self, rid: Rid, from: Side, seq: u32, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Acknowledges the other end's messages up to `ack`.
    fn ack(&self, rid: Rid, from: Side, ack: u32, frame: Bytes) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Moves an end to this node. `last_seq` is what it has: this acknowledges it, and the rest comes back in the answer.
    fn resume(
        &self,
        rid: Rid,
        tenant: TenantId,
        holder: Holder,
        last_seq: u32,
    ) -> BoxFuture<'_, Result<Resumed, Refusal>>;

    /// Closes a pairing. The other end still gets what it lacks.
    fn close(&self, rid: Rid, from: Side) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Wants (or no longer wants) a channel's messages at this node.
    fn follow(&self, topic: Topic, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Where a channel is now, and what was missed `since` an epoch and offset: nothing, if not asked.
    fn position(&self, topic: Topic, since: Option<(u64, u64)>) -> BoxFuture<'_, Result<Position, Refusal>>;

    /// Sends to everybody who follows a channel. Returns to how many connections it went: where nodes are apart, at least
    /// 0 means that nobody listens.
    fn publish(&self, topic: Topic, bytes: Bytes) -> BoxFuture<'_, Result<u32, Refusal>>;

    /// Publishes a statement on its tenant's channel and keeps it as the newest of its kind. Does nothing for an epoch
    /// that is not above the one it has. A backplane that is away for a while does it when it is back.
    fn announce(&self, tenant: TenantId, bulletin: Bulletin) -> BoxFuture<'_, Result<(), Refusal>>;

    /// A secret that all nodes share, made by the first that asks: relays take each other's tickets by it.
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], Refusal>>;

    /// Sets how much of a tenant's `limit` this node has for its own clients: `share`, or less, where other nodes have the
    /// rest. Returns how much it is from now on. Ask for more than is needed just now: what is granted is given out without
    /// asking. The share of a node that crashes is free again after some seconds.
    fn hold(&self, tenant: TenantId, resource: Resource, share: u64, limit: u64)
    -> BoxFuture<'_, Result<u64, Refusal>>;

    /// Takes bytes out of what a tenant may send in each `window`: `amount`, or as many as are left of `limit`. Returns how
    /// many. What a node takes and does not use is lost, so it takes a little at a time.
    fn spend(&self, tenant: TenantId, amount: u64, limit: u64, window: Duration)
    -> BoxFuture<'_, Result<u64, Refusal>>;

    /// A connection of somebody came to this node, or left it. Each coming has its leaving. Does not wait: the others learn of
    /// it soon, or when a backplane that is away is back.
    fn presence(&self, tenant: TenantId, who: Who, online: bool);

    /// Who of a tenant is online, at any node. Whose node crashed is not, after some seconds.
    fn online(&self, tenant: TenantId) -> BoxFuture<'_, Result<Vec<Who>, Refusal>>;

    /// Wants (or no longer wants) to be told who of a tenant comes and goes.
    fn follow_presence(&self, tenant: TenantId, wanted: bool) -> BoxFuture<'_, Result<(), Refusal>>;

    /// This node's name, by which others can tell it something. New with each start.
    fn name(&self) -> u64;

    /// Tells another node something, and keeps nothing of it. False: there is no node by that name. True: it was there just
    /// now, so it probably hears it; that it did, only its own answer says.
    fn tell(&self, node: u64, note: Bytes) -> BoxFuture<'_, Result<bool, Refusal>>;

    /// Whether the backplane was lately proved to work, all the way round. Does not wait.
    fn probe(&self) -> BoxFuture<'_, Result<(), Refusal>>;
}
