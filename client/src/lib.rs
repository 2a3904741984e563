//! The connection that agents, phones and the load tester share.
//!
//! A [`Connection`] keeps itself up: it dials a relay, proves who it is with its certificate's key, and after a cut backs off
//! with full jitter, comes back, subscribes again and resumes its pairings where they were. The program around it sees a
//! stream of [`State`]s, asks through a [`Sender`] (subscribe, publish, open, claim, forward) and takes what comes with
//! [`Connection::next`].
//!
//! Where something on the way has no liking for WebSockets, the connection falls back to server-sent events and POSTs by itself.
//!
//! Where a tenant has several relays, [`Connection::start_nearest`] measures them, stays at the nearest, flees to the next and
//! comes back.
//!
//! [`Http`] is for what is asked once: enrolment, statements, audit, administration; it shares [`Tls`] with the connection.
//!
//! The relay is not trusted with anything: whatever it delivers is checked by whoever asked for it. Here is only what keeps a
//! lying relay from doing more than denying service: everything is bounded, numbered and timed.
//!
//! ```no_run
//! # async fn story(settings: gatepass_client::Settings, channel: gatepass_protocol::channel::Channel) -> Result<(), Box<dyn std::error::Error>> {
//! use gatepass_client::{Connection, Incoming};
//! let mut connection = Connection::start(settings);
//! connection.sender().online().await?;
//! connection.sender().subscribe(channel).await?;
//! while let Some(Incoming::Message { bytes, .. }) = connection.next().await {
//!     println!("{} bytes", bytes.len());
//! }
//! # Ok(()) }
//! ```

mod backoff;
mod connection;
mod dial;
mod directory;
mod driver;
pub mod edge;
mod endpoint;
mod events;
mod http;
mod link;
mod proxy;
mod regions;
mod route;
mod session;
mod slot;
mod state;
mod tls;
mod websocket;

pub use connection::{Connection, Incoming, RequestError, Sender, Settings};
pub use dial::{DialError, reach};
pub use directory::directory;
pub use endpoint::{Endpoint, EndpointError};
pub use gatepass_protocol::api;
pub use http::{Answer, Http, HttpError};
pub use hyper::Method;
pub use proxy::{Proxies, ProxyError};
pub use regions::Regions;
pub use slot::{Slot, SlotError};
pub use state::{State, Why};
pub use tls::{Tls, TlsError};
