//! What the program around the connection sees: one value at a time, always the newest.

use gatepass_protocol::Code;
use tokio::time::Instant;

use crate::DialError;

/// The connection's state.
#[derive(Clone, Debug)]
pub enum State {
    /// Dialling and authenticating, for the n-th time since the last success (from 1).
    Connecting {
        /// Which try this is.
        attempt: u32,
    },
    /// Authenticated: frames flow, subscriptions and pairings are being taken up again.
    Online {
        /// `host[:port]` of the relay.
        relay: String,
        /// The relay's number for this connection, for its log and ours.
        connection: u64,
        /// The relay's clock minus ours, in seconds, as a hint that one of them is wrong.
        skew: i64,
    },
    /// Cut off; the next try begins at `until`.
    Waiting {
        /// When the next try begins.
        until: Instant,
        /// What went wrong, in a sentence for a person.
        why: Why,
    },
    /// The program let go of the connection.
    Stopped,
}

/// Why a connection ended or did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Why {
    /// Not reached, or not who it should be.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Reached, but what answers is not a relay, or not one that wants new connections now.
    #[error(
        "{relay} did not open a realtime connection (HTTP {status}): if this lasts, ask the administrator whether the address is a Gatepass relay"
    )]
    NotOpened {
        /// Who was called.
        relay: String,
        /// Its HTTP status.
        status: u16,
    },
    /// The relay refused the certificate or the proof of its key.
    #[error("{relay} refused this certificate: {} ({text})", code.message())]
    Refused {
        /// Who refused.
        relay: String,
        /// The relay's code.
        code: Code,
        /// The relay's words.
        text: String,
    },
    /// Nothing came for too long.
    #[error("{relay} has gone silent: connecting anew")]
    Silent {
        /// Which relay.
        relay: String,
    },
    /// The connection broke.
    #[error("the connection to {relay} was cut ({reason}): connecting anew")]
    Cut {
        /// Which relay.
        relay: String,
        /// What the system or the relay said.
        reason: String,
    },
    /// The relay said something that is no frame of this protocol.
    #[error("{relay} sent something that is not of this protocol ({reason}): is it a Gatepass relay of the same age?")]
    BadFrame {
        /// Which relay.
        relay: String,
        /// What is wrong.
        reason: String,
    },
    /// A nearer relay is well again.
    #[error("going from {relay} to the nearer relay {to}")]
    Returning {
        /// From which.
        relay: String,
        /// To which.
        to: String,
    },
    /// WebSockets get through again, which cost less than what was used in their place.
    #[error("WebSockets get through to {relay} again: connecting anew")]
    Unblocked {
        /// Which relay.
        relay: String,
    },
    /// The relay is going down in an orderly way.
    #[error("{relay} is being taken out of service: connecting anew")]
    Draining {
        /// Which relay.
        relay: String,
    },
}

impl Why {
    /// Whether trying soon again is pointless: somebody has to change something first.
    pub fn needs_somebody(&self) -> bool {
        match self {
            // A relay that can't at the moment is another matter.
            Self::Refused { code, .. } => *code != Code::Draining,
            Self::Dial(error) => error.needs_somebody(),
            _ => false,
        }
    }
}
