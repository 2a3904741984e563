//! `gp1`, the Gatepass protocol: what a phone, an agent and a relay say to each other, and how each judges what it hears.
//!
//! Bytes and a time go in; bytes and a verdict come out. There is no IO here, no clock and no random source of its own:
//! the caller hands in `now` (Unix seconds) and a [`rand_core::CryptoRng`]. So the same code runs in an agent, a phone, a
//! relay, a fuzzer and a model checker, and every test of it is repeatable.
//!
//! From the wire up:
//!
//! ```text
//! wire, ids, code      strict msgpack; 16-byte names; every way to fail, with what a person is told
//! frame, channel       what clients and a relay exchange, in the clear for the relay; sse: without a WebSocket
//! keys, signed         Ed25519, X25519, P-256; the one signed-statement mechanism
//! statement, trust     certificates, tickets, policy, revocation, relay list; what an agent or a phone believes
//! qr, noise, sealed    the QR, the end-to-end channel that it keys, and one-way sealed messages
//! pairing              the state machines of both ends, from QR to result
//! offline              codes that let a technician in while the relay is away
//! log, witness         the audit log's tree, its signed heads and what proves them; who remembers which
//! directory            whose certificates there are, so that both ends know each other before they are offline
//! presence             who of a tenant is connected
//! enrol, slot          how a computer or a phone comes in: by ticket; a phone also by two words (words, cpace)
//! vault                secrets behind a password
//! ```
//!
//! `docs/PROTOCOL.md` says the same for somebody who writes a client in another language.

pub mod api;
pub mod calendar;
pub mod channel;
pub mod code;
mod cpace;
pub mod directory;
pub mod enrol;
pub mod event;
pub mod frame;
pub mod ids;
pub mod keys;
pub mod log;
mod noise;
mod numbered;
pub mod offline;
pub mod order;
pub mod pairing;
pub mod policy;
pub mod presence;
pub mod qr;
pub mod sealed;
pub mod signed;
pub mod slot;
pub mod sse;
pub mod statement;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trust;
pub mod vault;
pub mod wire;
pub mod witness;
pub mod words;

pub use code::Code;
