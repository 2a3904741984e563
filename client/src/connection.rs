//! The handle that a program holds: requests go down and are answered, everything else comes up in order.

use std::sync::Arc;

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    ids::{Rid, TRACES},
    keys::SigningKey,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, debug_span};

use crate::{Endpoint, Proxies, Regions, State, Tls, Why, driver};

/// Frames waiting for the program: past this the relay is no longer read, which slows the sender instead of filling memory.
const INCOMING: usize = 64;
/// Requests waiting for the connection: past this the asker waits.
const COMMANDS: usize = 64;

/// Who to call, as whom.
#[derive(Clone)]
pub struct Settings {
    /// The relays in order of preference; the next one is tried when one fails. Must not be empty.
    pub relays: Vec<Endpoint>,
    /// Whom to believe on the wire.
    pub tls: Tls,
    /// Through which proxy, if any.
    pub proxies: Proxies,
    /// The certificate, and the chain that ends at the tenant's CA.
    pub chain: Vec<Bytes>,
    /// The key that the certificate names for authentication.
    pub key: Arc<SigningKey>,
}

/// What comes up without having been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message on a subscribed channel: each exactly once and in order, also across a cut, unless [`Incoming::Refetch`] came
    /// before. On a `presence/` channel, whatever is so now.
    Message {
        /// The channel.
        channel: Channel,
        /// Its number on that channel.
        offset: u64,
        /// What was published.
        bytes: Bytes,
    },
    /// Messages of a subscribed channel were missed and can't be had any more: what the program builds on them it has to fetch
    /// anew. The newest statement of each kind follows by itself, where the channel is the tenant's.
    Refetch {
        /// The channel.
        channel: Channel,
    },
    /// A device has claimed a pairing that this agent opened. The tag is still to be checked.
    Claimed {
        /// Which pairing.
        rid: Rid,
        /// The claim's nonce.
        nonce: [u8; 16],
        /// The claim's proof.
        tag: [u8; 16],
    },
    /// The next message of a pairing: each exactly once, in order, also across a cut.
    Forwarded {
        /// Which pairing.
        rid: Rid,
        /// The message.
        bytes: Bytes,
    },
    /// A pairing has ended: closed by the other side (no code) or lost.
    Closed {
        /// Which pairing.
        rid: Rid,
        /// Why it was lost.
        code: Option<Code>,
    },
}

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The relay said no.
    #[error("the relay refused: {}", code.message())]
    Refused {
        /// Its code.
        code: Code,
        /// Its words.
        text: String,
    },
    /// There is no connection at the moment; nothing was sent.
    #[error("there is no connection to the relay at the moment: try again when it is back")]
    Offline,
    /// The connection was cut before the answer: it may or may not have happened.
    #[error("the connection to the relay was cut before it answered: try again")]
    Cut,
    /// The connection was stopped by its program.
    #[error("the connection to the relay has been stopped")]
    Stopped,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

pub(crate) enum Command {
    Subscribe { channel: Channel, reply: Reply<u64> },
    Unsubscribe { channel: Channel },
    Publish { channel: Channel, bytes: Bytes, reply: Reply<u32> },
    Open { rid: Rid, ttl: u32, reply: Reply<()> },
    Claim { rid: Rid, nonce: [u8; 16], tag: [u8; 16], reply: Reply<()> },
    Forward { rid: Rid, bytes: Bytes },
    Close { rid: Rid },
    Reconnect,
}

/// A realtime connection that keeps itself up. It ends when this is dropped.
pub struct Connection {
    sender: Sender,
    incoming: mpsc::Receiver<Incoming>,
}

/// The sending half, cheap to clone and hand to each task.
#[derive(Clone)]
pub struct Sender {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
}

impl Connection {
    /// Starts connecting, inside a tokio runtime: to the first relay of the settings that can be reached.
    pub fn start(settings: Settings) -> Self {
        Self::begin(settings, None)
    }

    /// Starts connecting to the nearest relay of the settings, as measured, and keeps to it: flees to the next best when it is
    /// lost, and returns when it is well again.
    pub fn start_nearest(settings: Settings, regions: Regions) -> Self {
        Self::begin(settings, Some(regions))
    }

    fn begin(settings: Settings, regions: Option<Regions>) -> Self {
        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (incoming_queue, incoming) = mpsc::channel(INCOMING);
        let (state_out, state) = watch::channel(State::Connecting { attempt: 1 });
        tokio::spawn(driver::run(settings, regions, command_queue, incoming_queue, state_out));
        Self { sender: Sender { commands, state }, incoming }
    }

    /// The sending half; clone it for other tasks.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What comes next; nothing more after the connection was stopped.
    pub async fn next(&mut self) -> Option<Incoming> {
        let next = self.incoming.recv().await?;
        match &next {
            Incoming::Claimed { rid, .. } => drop(debug_span!(target: TRACES, "claimed", trace = %rid.trace())),
            Incoming::Forwarded { rid, bytes } => {
                drop(debug_span!(target: TRACES, "received", trace = %rid.trace(), bytes = bytes.len()));
            }
            Incoming::Closed { rid, .. } => drop(debug_span!(target: TRACES, "closed", trace = %rid.trace())),
            Incoming::Message { .. } | Incoming::Refetch { .. } => {}
        }
        Some(next)
    }

    /// Sends what is still queued, says goodbye, and returns when all is done.
    pub async fn close(self) {
        let mut state = self.sender.state.clone();
        drop(self);
        let _ = state.wait_for(|state| matches!(state, State::Stopped)).await;
    }
}

impl Sender {
    /// The stream of states.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits for the try that is under way: online, or why not.
    pub async fn online(&self) -> Result<(), Why> {
        let mut state = self.state();
        let state = state.wait_for(|state| !matches!(state, State::Connecting { .. })).await;
        match state.as_deref() {
            Ok(State::Waiting { why, .. }) => Err(why.clone()),
            Ok(State::Online { .. } | State::Connecting { .. }) => Ok(()),
            Ok(State::Stopped) | Err(_) => {
                Err(Why::Cut { relay: String::from("the relay"), reason: String::from("stopped") })
            }
        }
    }

    /// Subscribes to a channel, now and after every cut. Answers with the channel's offset once the relay has agreed.
    pub async fn subscribe(&self, channel: Channel) -> Result<u64, RequestError> {
        self.ask(|reply| Command::Subscribe { channel, reply }).await
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&self, channel: Channel) -> Result<(), RequestError> {
        self.tell(Command::Unsubscribe { channel }).await
    }

    /// Publishes to a channel; answers with the number of connections it was handed to, 0 if nobody listens.
    pub async fn publish(&self, channel: Channel, bytes: impl Into<Bytes>) -> Result<u32, RequestError> {
        let bytes = bytes.into();
        self.ask(|reply| Command::Publish { channel, bytes, reply }).await
    }

    /// Opens a pairing (agents).
    pub async fn open(&self, rid: Rid, ttl: u32) -> Result<(), RequestError> {
        let step = debug_span!(target: TRACES, "open", trace = %rid.trace());
        self.ask(|reply| Command::Open { rid, ttl, reply }).instrument(step).await
    }

    /// Claims a pairing (devices).
    pub async fn claim(&self, rid: Rid, nonce: [u8; 16], tag: [u8; 16]) -> Result<(), RequestError> {
        let step = debug_span!(target: TRACES, "claim", trace = %rid.trace());
        self.ask(|reply| Command::Claim { rid, nonce, tag, reply }).instrument(step).await
    }

    /// Sends the next message of a pairing; it survives a cut. If it can't be delivered, [`Incoming::Closed`] says so.
    pub async fn forward(&self, rid: Rid, bytes: impl Into<Bytes>) -> Result<(), RequestError> {
        let bytes = bytes.into();
        let step = debug_span!(target: TRACES, "send", trace = %rid.trace(), bytes = bytes.len());
        self.tell(Command::Forward { rid, bytes }).instrument(step).await
    }

    /// Ends a pairing.
    pub async fn end(&self, rid: Rid) -> Result<(), RequestError> {
        self.tell(Command::Close { rid }).await
    }

    /// Drops the connection as it stands and makes a new one, after a short random wait: the machine changed its network and
    /// the old one may never notice. Subscriptions and pairings go on as after any other cut.
    pub async fn reconnect(&self) -> Result<(), RequestError> {
        self.tell(Command::Reconnect).await
    }

    async fn tell(&self, command: Command) -> Result<(), RequestError> {
        self.commands.send(command).await.map_err(|_| RequestError::Stopped)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.unwrap_or(Err(RequestError::Stopped))
    }
}
