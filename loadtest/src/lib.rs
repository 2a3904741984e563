//! The load tester: what a relay does under a stated load, measured so that it can be believed.
//!
//! ```text
//!  tenant    a tenant of the load test at a server: made here, or by `gatepass`
//!  fleet     its agents and phones, minted from the CA key: the relay knows the CA, nobody needs to know them
//!  profile   what the load is, out of a TOML file; limits: what must hold
//!  schedule  when things are meant to happen; agenda: all of one worker's, decided before it begins
//!  stage     a worker's simulated clients; pairing: one login between two of them
//!  worker    one process's share of all that, in orders and reports
//!  crew      starts the workers and keeps them in step; head: adds up and watches the server; results: what it came to
//!  attack    clients that mean no good, beside a load
//!  summary   the same in plain words; report: as a page; compare: two of them side by side
//!  measure   latencies from the intended moment, into histograms that add up; clock: one for all processes
//!  server    the server's memory and processor time
//! ```

mod agenda;
pub mod attack;
pub mod clock;
pub mod compare;
pub mod crew;
pub mod fleet;
mod head;
pub mod limits;
pub mod measure;
mod pairing;
pub mod profile;
pub mod report;
pub mod results;
pub mod schedule;
pub mod server;
mod stage;
pub mod summary;
mod talk;
pub mod tenant;
pub mod worker;

pub use fleet::Fleet;
pub use profile::Profile;
pub use tenant::Tenant;
