//! What is done, by kind, and with which defaults.

use serde::{Deserialize, Serialize};

use crate::schedule::Arrivals;

/// What is done once all are connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Nothing.
    Idle(Idle),
    /// Everybody is cut at once and comes back.
    Storm(Storm),
    /// Phones scan QRs.
    Pairings(Pairings),
    /// Messages to and fro in pairings that stay open.
    Messages(Messages),
    /// Messages to many.
    Fanout(Fanout),
    /// Revocation lists to everybody.
    Revocation(Revocation),
    /// A working day.
    Day(Day),
}

/// Connections that do nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Idle {
    /// How long, in seconds.
    pub seconds: f64,
}

/// Everybody is cut at once and comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storm {
    /// How often.
    pub rounds: u32,
    /// Seconds from one cut to the next: for coming back, and for the server to calm down.
    pub round_seconds: f64,
    /// Which part of the clients is cut, in percent.
    pub cut_percent: f64,
    /// Clients that come for the first time meanwhile, a second, and leave at once.
    pub newcomers_per_second: f64,
}

/// Phones scan QRs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pairings {
    /// How long, in seconds.
    pub seconds: f64,
    /// Seconds at the beginning that are not measured.
    pub warm_up_seconds: f64,
    /// QRs scanned a second.
    pub per_second: f64,
    /// How they are spaced.
    pub arrivals: Arrivals,
    /// Real handshakes and approvals, or only messages of their sizes.
    pub handshake: bool,
    /// Milliseconds for which a QR is on the screen before it is scanned.
    pub shown_ms: f64,
    /// Whether a QR's `relay_idx` brings the phone to the very relay of the computer, as it does where the relay list names each.
    pub phones_follow: bool,
}

/// Messages to and fro in pairings that stay open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// How long, in seconds.
    pub seconds: f64,
    /// Seconds at the beginning that are not measured.
    pub warm_up_seconds: f64,
    /// Messages a second, over all pairings.
    pub per_second: f64,
    /// How they are spaced.
    pub arrivals: Arrivals,
    /// Bytes of a message.
    pub bytes: u32,
    /// Whether a QR's `relay_idx` brings the phone to the very relay of the computer, as it does where the relay list names each.
    pub phones_follow: bool,
}

/// Messages to many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fanout {
    /// How long, in seconds.
    pub seconds: f64,
    /// Seconds at the beginning that are not measured.
    pub warm_up_seconds: f64,
    /// Messages a second, over all channels.
    pub per_second: f64,
    /// How they are spaced.
    pub arrivals: Arrivals,
    /// Channels that the agents listen to, the same number of agents to each.
    pub channels: u32,
    /// Bytes of a message.
    pub bytes: u32,
}

/// Revocation lists to everybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Revocation {
    /// How many lists.
    pub lists: u32,
    /// Seconds between two.
    pub every_seconds: f64,
    /// Entries of each list.
    pub entries: u32,
}

/// A working day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Day {
    /// Seconds for each hour of the day.
    pub seconds_per_hour: f64,
    /// Which part of the computers is switched on in each hour, in percent.
    pub online_percent: Vec<f64>,
    /// Logins in each hour, for 1,000 computers.
    pub logins_per_hour: Vec<f64>,
    /// Connections that are lost in an hour, for 100 clients online: lids closed, networks changed.
    pub reconnects_per_hour: f64,
    /// New policies over the day.
    pub policies: u32,
    /// New revocation lists over the day.
    pub revocations: u32,
    /// Real handshakes and approvals, or only messages of their sizes.
    pub handshake: bool,
}

impl Default for Idle {
    fn default() -> Self {
        Self { seconds: 60.0 }
    }
}

impl Default for Storm {
    fn default() -> Self {
        Self { rounds: 3, round_seconds: 30.0, cut_percent: 100.0, newcomers_per_second: 10.0 }
    }
}

impl Default for Pairings {
    fn default() -> Self {
        Self {
            seconds: 60.0,
            warm_up_seconds: 5.0,
            per_second: 200.0,
            arrivals: Arrivals::Poisson,
            handshake: true,
            shown_ms: 250.0,
            phones_follow: false,
        }
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            seconds: 60.0,
            warm_up_seconds: 5.0,
            per_second: 1_000.0,
            arrivals: Arrivals::Poisson,
            bytes: 800,
            phones_follow: false,
        }
    }
}

impl Default for Fanout {
    fn default() -> Self {
        Self {
            seconds: 60.0,
            warm_up_seconds: 5.0,
            per_second: 20.0,
            arrivals: Arrivals::Even,
            channels: 1,
            bytes: 200,
        }
    }
}

impl Default for Revocation {
    fn default() -> Self {
        Self { lists: 10, every_seconds: 3.0, entries: 100 }
    }
}

impl Default for Day {
    fn default() -> Self {
        let online_percent =
            [20, 20, 20, 20, 20, 25, 40, 65, 90, 100, 100, 98, 95, 98, 100, 100, 98, 90, 70, 50, 40, 30, 25, 20];
        let logins_per_hour = [2, 2, 2, 2, 2, 5, 20, 60, 120, 110, 90, 70, 40, 70, 90, 80, 70, 50, 25, 12, 8, 5, 3, 2];
        Self {
            seconds_per_hour: 10.0,
            online_percent: online_percent.map(f64::from).to_vec(),
            logins_per_hour: logins_per_hour.map(f64::from).to_vec(),
            reconnects_per_hour: 6.0,
            policies: 4,
            revocations: 6,
            handshake: true,
        }
    }
}
