//! What an agent grants, and how it takes it back: the journal and the state machine of grants, without network, clock or
//! async runtime. The daemon brings a verified approval and the time; an [`gatepass_accounts::Accounts`] provider does the
//! acts; this crate decides their order, writes each down before it counts, and after a crash ends what should not be.
//!
//! ```text
//! grants     the engine: what is open, what is due          granting   approval -> enabled -> active
//! journal    the write-ahead file below it                  ending     -> closed, with a signed receipt
//! clock      two clocks that hold a grant's end             recovery   what a restart does first
//! fault      where a test makes it crash                    author     who signs receipts
//! ```
//!
//! ```no_run
//! # use gatepass_agent_core::{Grants, Wanted, clock::Now, grant::Session};
//! # use gatepass_protocol::order::EndReason;
//! # fn story(mut grants: Grants, wanted: Wanted, session: Session, now: Now) -> Result<(), Box<dyn std::error::Error>> {
//! let recovered = grants.recover(now); // before anything else: what a crash left open is closed
//! let grant = grants.grant(&wanted, now)?; // the account is there, and can log in
//! grants.session_opened(&grant.id, session, now)?;
//! for (id, reason) in grants.due(now) {
//!     let receipt = grants.end(&id, reason, now)?; // the account is closed, and was looked at
//! }
//! # let _ = recovered; Ok(()) }
//! ```

mod author;
pub mod clock;
mod ending;
pub mod fault;
pub mod grant;
mod granting;
mod grants;
pub mod journal;
mod recovery;

pub use author::Author;
pub use ending::Unfinished;
pub use granting::Wanted;
pub use grants::{Grants, NotLive, Processes, Receipt, Refused};
pub use recovery::Recovered;

/// A grant that nobody logs in with is ended after this many seconds: a login follows its approval at once, and a door
/// nobody goes through should not stand open.
pub const UNUSED_AFTER: u64 = 120;
