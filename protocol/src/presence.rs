//! Who of a tenant is connected: the messages of its `presence/` channel.
//!
//! A message says what is so now of those whom it names, and makes older messages old. So a subscriber never needs a lost
//! one: a relay that had to drop some says again who is online, one [`Span`] after the other.

use serde::{Deserialize, Serialize, de::Error as _};

use crate::{
    ids::{ComputerId, DeviceId},
    wire::{self, WireError},
};

/// Somebody who can be online. By rising [`Key`]: computers, then phones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A computer: its agent is connected.
    Computer(ComputerId),
    /// A phone.
    Device(DeviceId),
}

/// Somebody as a message names them: 1 for a computer or 2 for a phone, then the 16 bytes of the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(#[serde(with = "serde_bytes")] pub [u8; 17]);

impl Key {
    /// Before everybody.
    pub const FIRST: Key = Key([0; 17]);
    /// After everybody.
    pub const LAST: Key = Key([0xff; 17]);
}

impl From<Who> for Key {
    fn from(who: Who) -> Self {
        let (kind, id) = match who {
            Who::Computer(ComputerId(id)) => (1, id),
            Who::Device(DeviceId(id)) => (2, id),
        };
        let mut key = [kind; 17];
        key[1..].copy_from_slice(&id);
        Self(key)
    }
}

impl Who {
    fn read(key: &[u8; 17]) -> Option<Self> {
        let [kind, id @ ..] = *key;
        match kind {
            1 => Some(Who::Computer(ComputerId(id))),
            2 => Some(Who::Device(DeviceId(id))),
            _ => None,
        }
    }
}

/// A part of the list of everybody, in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// It begins behind this key.
    pub after: Key,
    /// It ends with this key.
    pub upto: Key,
}

impl Span {
    /// Whether somebody is in it.
    pub fn contains(&self, who: Who) -> bool {
        let key = Key::from(who);
        self.after < key && key <= self.upto
    }
}

/// A message of a `presence/` channel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Presence {
    /// Of these the message says everything: who is not among `online` is offline.
    pub whole: Option<Span>,
    /// These are online.
    #[serde(with = "keys")]
    pub online: Vec<Who>,
    /// These are not any more.
    #[serde(with = "keys")]
    pub offline: Vec<Who>,
}

impl Presence {
    /// How many may be named in one message, so that it fits into a frame.
    pub const MOST: usize = 400;

    /// The bytes of a MESSAGE.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// Reads a MESSAGE of a presence channel.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::from_slice(bytes)
    }
}

/// Keys one after the other, in one `bin`: a header for each would be a sixth more.
mod keys {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub(super) fn serialize<S: Serializer>(all: &[Who], serializer: S) -> Result<S::Ok, S::Error> {
        let keys: Vec<u8> = all.iter().flat_map(|who| Key::from(*who).0).collect();
        serde_bytes::serialize(&keys, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Who>, D::Error> {
        let bytes: serde_bytes::ByteBuf = serde_bytes::deserialize(deserializer)?;
        let (keys, []) = bytes.as_chunks::<17>() else { return Err(D::Error::custom("not a whole number of keys")) };
        keys.iter().map(Who::read).collect::<Option<_>>().ok_or_else(|| D::Error::custom("neither computer nor phone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, MAX_FRAME};

    const COMPUTER: Who = Who::Computer(ComputerId([0xff; 16]));
    const PHONE: Who = Who::Device(DeviceId([0; 16]));

    #[test]
    fn the_longest_message_fits_into_a_frame() {
        let span = Span { after: Key::FIRST, upto: Key::LAST };
        let message = Presence { whole: Some(span), online: vec![PHONE; Presence::MOST], offline: vec![] };
        let channel = crate::channel::Channel::Presence(crate::ids::TenantId([1; 16])).to_string();
        let frame = Frame::Message { channel, offset: u64::MAX, bytes: message.encode().into() };
        assert!(frame.encode().len() <= MAX_FRAME);
    }

    #[test]
    fn a_span_has_an_end_and_no_beginning() {
        let span = Span { after: COMPUTER.into(), upto: PHONE.into() };
        assert!(!span.contains(COMPUTER) && span.contains(PHONE), "computers come before phones");
        let all = Span { after: Key::FIRST, upto: Key::LAST };
        assert!(all.contains(COMPUTER) && all.contains(PHONE));
    }

    #[test]
    fn half_a_key_and_an_unknown_kind_are_no_message() {
        let good = Presence { whole: None, online: vec![COMPUTER], offline: vec![PHONE] }.encode();
        assert!(Presence::decode(&good).is_ok());
        // fixarray(3), nil, bin8, 17, kind ...
        assert_eq!(good[..5], [0x93, 0xc0, 0xc4, 17, 1]);
        let mut unknown = good.clone();
        unknown[4] = 3;
        assert!(Presence::decode(&unknown).is_err());
        let half = [&[0x93, 0xc0, 0xc4, 16][..], &good[4..20], &[0xc4, 0]].concat();
        assert!(Presence::decode(&half).is_err());
    }
}
