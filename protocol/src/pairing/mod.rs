//! A pairing: one QR, one handshake, one decision.
//!
//! ```text
//! QR   computer -> phone   by eye: a fresh secret and a one-session key
//! M1   phone -> agent      psk, e, es   versions, suites, app, revocation epoch
//! M2   agent -> phone      e, ee        agent certificate, signature over the handshake hash
//! M3   phone -> agent      s, se        device certificate, revocation epoch
//! M4   agent -> phone      CONTEXT: who asks for what where, and what may be chosen      (or a refusal)
//! M5   phone -> agent      APPROVE, signed by the device's approval key, or DENY
//! M6   agent -> phone      RESULT: granted, or refused and why
//! M7   either              END, or the receipt
//! ```
//!
//! Each state is a type, consumed by its one transition ([`agent`], [`phone`]): a QR can't do two handshakes, a context
//! can't be decided twice, and a message that arrives in the wrong place has nothing to arrive at.
//!
//! What it defends against: a relay that reads, changes, repeats, reorders or mixes messages (the channel's keys come from
//! the QR, its counters are consecutive, its hash is in the approval); a photograph of the QR (its key is the agent's own,
//! and the first handshake burns it); an agent that is none (M2); a phone that is none (M3, M5).

pub mod agent;
mod channel;
pub mod messages;
pub mod padding;
pub mod phone;

#[cfg(feature = "testing")]
pub(crate) use channel::confirm_code;

use crate::Code;

/// A pairing is over, without a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why; `None` is the one generic failure: somebody interfered, or the other side is not who it must be. It is all
    /// that anybody learns before M3, and after a message that does not authenticate.
    pub code: Option<Code>,
    /// What to send to the other side before closing: the code, encrypted. Empty where nothing may be said.
    pub reply: Option<Vec<u8>>,
}

impl Failure {
    /// The one generic failure.
    pub(crate) const fn generic() -> Self {
        Failure { code: None, reply: None }
    }

    /// A failure that is known here and not told.
    pub(crate) const fn of(code: Code) -> Self {
        Failure { code: Some(code), reply: None }
    }

    /// What happened and what to do, for a person.
    pub fn message(&self) -> String {
        match self.code {
            Some(code) => code.to_string(),
            None => "The phone and the computer could not agree: somebody may have interfered. Scan the new code on the screen; \
                     if it happens again, tell your administrator."
                .to_string(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message())
    }
}

impl std::error::Error for Failure {}
