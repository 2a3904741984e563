//! Clients at the real edge of a relay, over real sockets.

mod channels;
mod client;
mod edge;
mod limits;
mod listener;
mod pairings;
mod presence;
mod redis;
mod region;
mod sse;
mod sse_limits;
mod tickets;
mod tls;
