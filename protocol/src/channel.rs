//! Channels: the named streams of a relay. A frame names one as text, `computer/ID`, `device/ID`, `tenant/ID` or `presence/ID`.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ComputerId, DeviceId, TenantId},
    statement::Kind,
    wire::{self, WireError},
};

/// A named stream of messages. Names of two tenants never meet: a relay keys each channel by its client's tenant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// To one computer, from its tenant's devices: sealed orders.
    Computer(ComputerId),
    /// To one device, from its tenant's agents: sealed reports.
    Device(DeviceId),
    /// To everybody of a tenant, from the server only: signed statements. The newest of each kind is retained.
    Tenant(TenantId),
    /// Who of a tenant is online, from its relays: [`crate::presence::Presence`].
    Presence(TenantId),
}

impl Channel {
    /// Whether its messages are numbered, so that whoever was away learns what it missed. The others say what is so now, and
    /// say it again.
    pub fn is_numbered(&self) -> bool {
        !matches!(self, Channel::Presence(_))
    }
}

/// The text names no channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a channel: expected computer/ID, device/ID, tenant/ID or presence/ID")]
pub struct NotAChannel;

impl fmt::Display for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Computer(id) => write!(out, "computer/{id}"),
            Channel::Device(id) => write!(out, "device/{id}"),
            Channel::Tenant(id) => write!(out, "tenant/{id}"),
            Channel::Presence(id) => write!(out, "presence/{id}"),
        }
    }
}

impl FromStr for Channel {
    type Err = NotAChannel;
    fn from_str(text: &str) -> Result<Self, NotAChannel> {
        let channel = match text.split_once('/').ok_or(NotAChannel)? {
            ("computer", id) => Channel::Computer(id.parse().map_err(|_| NotAChannel)?),
            ("device", id) => Channel::Device(id.parse().map_err(|_| NotAChannel)?),
            ("tenant", id) => Channel::Tenant(id.parse().map_err(|_| NotAChannel)?),
            ("presence", id) => Channel::Presence(id.parse().map_err(|_| NotAChannel)?),
            _ => return Err(NotAChannel),
        };
        // One channel, one name: "computer/AB.." in capitals would be a second.
        if channel.to_string() == text { Ok(channel) } else { Err(NotAChannel) }
    }
}

/// A message on a tenant channel: a statement, or, where it is too large for a frame, the word that there is a newer one
/// to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bulletin {
    /// What kind of statement.
    pub kind: Kind,
    /// Its epoch.
    pub epoch: u64,
    /// The signed statement; absent when it must be fetched from the control plane.
    pub statement: Option<Bytes>,
}

impl Bulletin {
    /// The largest statement that travels in a bulletin; a larger one is fetched.
    pub const MAX_STATEMENT: usize = 7 * 1024;

    /// Announces a signed statement.
    pub fn new(kind: Kind, epoch: u64, statement: Bytes) -> Self {
        Self { kind, epoch, statement: (statement.len() <= Self::MAX_STATEMENT).then_some(statement) }
    }

    /// The bytes of a MESSAGE.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// Reads a MESSAGE of a tenant channel.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_one_name() {
        let channel = Channel::Computer(ComputerId([0xab; 16]));
        let name = channel.to_string();
        assert_eq!(name.parse(), Ok(channel));
        for wrong in
            [name.to_uppercase(), name.replace("ab", "AB"), format!("{name}/"), "pair/00".into(), String::new()]
        {
            assert_eq!(wrong.parse::<Channel>(), Err(NotAChannel), "{wrong}");
        }
    }
}
