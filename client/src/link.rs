//! What carries frames to a relay and back: a WebSocket, or where none gets through, a stream of events and POSTs.
//!
//! A WebSocket is tried first. Where something between answers for the relay, cuts the connection right after the upgrade, or
//! swallows what follows, events are tried at once; where there is no answer at all, which is also how a relay looks that has
//! too much to do, only the next time. That the relay is reached in this way is remembered for a while, so that a blocked
//! network costs its time once; then a WebSocket is tried again in the background. A relay that says itself that it wants
//! nobody now is not asked in another way.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gatepass_protocol::frame::Frame;
use tokio::time::{Instant, sleep_until};

use crate::{
    Endpoint, Settings, Why,
    backoff::{self, jitter},
    edge,
    events::{self, Events},
    websocket::{self, Failed, WebSocket},
};

/// How long events are used before a WebSocket is tried again, give or take half: long beside what a try costs, short beside
/// how long a computer stays in one network.
const BLOCKED_FOR: Duration = Duration::from_secs(600);
/// The same where it is only a guess that they are needed.
const GUESSED_FOR: Duration = Duration::from_secs(60);

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) why: Why,
    /// The relay's own wish for when to come back: no sooner.
    pub(crate) not_before: Duration,
    /// The relay's own wish for where to go.
    pub(crate) next: Option<Box<Endpoint>>,
}

impl From<Why> for End {
    fn from(why: Why) -> Self {
        Self { why, not_before: Duration::ZERO, next: None }
    }
}

impl End {
    /// Because of an HTTP answer.
    pub(crate) fn not_opened(relay: &str, status: u16, retry_after: Option<&str>) -> Self {
        let seconds = retry_after.and_then(|value| value.parse::<u32>().ok()).unwrap_or(0);
        let not_before = Duration::from_secs(seconds.into()).min(backoff::CAP);
        Self { why: Why::NotOpened { relay: relay.to_owned(), status }, not_before, next: None }
    }

    pub(crate) fn cut(relay: &str, reason: impl ToString) -> Self {
        Why::Cut { relay: relay.to_owned(), reason: reason.to_string() }.into()
    }

    pub(crate) fn silent(relay: &str) -> Self {
        Why::Silent { relay: relay.to_owned() }.into()
    }

    pub(crate) fn bad_frame(relay: &str, reason: impl ToString) -> Self {
        Why::BadFrame { relay: relay.to_owned(), reason: reason.to_string() }.into()
    }
}

/// An open connection.
pub(crate) enum Link {
    /// Over a WebSocket.
    WebSocket(Box<WebSocket>),
    /// Over events and POSTs.
    Events(Box<Events>),
}

/// An open connection, and the relay's challenge.
pub(crate) type Opened<L> = (L, [u8; 32]);

/// To which relays no WebSocket gets through, and until when that is believed.
#[derive(Default)]
pub(crate) struct Blocked(Mutex<HashMap<String, Instant>>);

impl Link {
    /// Reaches a relay, as far as its challenge.
    pub(crate) async fn open(settings: &Settings, relay: &Endpoint, blocked: &Blocked) -> Result<Opened<Self>, End> {
        let name = relay.authority();
        if blocked.until(&name).is_none_or(|until| until <= Instant::now()) {
            let end = match websocket::open(settings, relay).await {
                Ok((socket, nonce)) => {
                    blocked.forget(Some(&name));
                    return Ok((Self::WebSocket(Box::new(socket)), nonce));
                }
                Err(Failed::Here(end)) => return Err(end),
                Err(Failed::Unanswered(end)) => {
                    blocked.remember(&name, GUESSED_FOR);
                    return Err(end);
                }
                Err(Failed::Between(end)) => end,
            };
            let (events, nonce) = match events::open(settings, relay).await {
                Ok(opened) => opened,
                // Nor is it reached in this way, so the first trouble is what there is to say.
                Err(other) => return Err(End { not_before: other.not_before.max(end.not_before), ..end }),
            };
            tracing::info!(relay = name, why = %end.why, "no WebSocket gets through: going on with events");
            blocked.remember(&name, BLOCKED_FOR);
            return Ok((Self::Events(Box::new(events)), nonce));
        }
        match events::open(settings, relay).await {
            Ok((events, nonce)) => Ok((Self::Events(Box::new(events)), nonce)),
            Err(end) => {
                // The network may be another by now. Where nothing was reached, or nobody is wanted now, nothing is known.
                if !matches!(end.why, Why::Dial(_) | Why::NotOpened { status: 429 | 503, .. }) {
                    blocked.forget(Some(&name));
                }
                Err(end)
            }
        }
    }

    /// The next frame, or nothing where the transport spoke for itself. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, End> {
        match self {
            Self::WebSocket(socket) => socket.next().await,
            Self::Events(events) => events.next().await,
        }
    }

    /// Sends these frames.
    pub(crate) async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), End> {
        match self {
            Self::WebSocket(socket) => socket.send(frames).await,
            Self::Events(events) => events.send(frames).await,
        }
    }

    /// Asks the relay for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        match self {
            Self::WebSocket(socket) => socket.ping().await,
            Self::Events(events) => events.ping().await,
        }
    }

    /// Says goodbye, once all has been sent.
    pub(crate) async fn close(&mut self) {
        match self {
            Self::WebSocket(socket) => socket.close().await,
            Self::Events(events) => events.close().await,
        }
    }
}

impl Blocked {
    fn until(&self, relay: &str) -> Option<Instant> {
        self.lock().get(relay).copied()
    }

    fn remember(&self, relay: &str, time: Duration) {
        self.lock().insert(relay.to_owned(), soon(time));
    }

    /// Nothing is believed any more of this relay, or of any.
    pub(crate) fn forget(&self, relay: Option<&str>) {
        match relay {
            Some(relay) => drop(self.lock().remove(relay)),
            None => self.lock().clear(),
        }
    }

    /// Returns when a WebSocket to this relay gets through again; never, where it is not known as blocked.
    pub(crate) async fn gone(&self, settings: &Settings, relay: &Endpoint) {
        let name = relay.authority();
        while let Some(until) = self.until(&name) {
            sleep_until(until).await;
            if websocket::open(settings, relay).await.is_ok() {
                return;
            }
            self.remember(&name, BLOCKED_FOR);
        }
        std::future::pending().await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After a time, give or take half of it.
fn soon(after: Duration) -> Instant {
    Instant::now() + after / 2 + jitter(after, u64::from_le_bytes(edge::random()))
}
