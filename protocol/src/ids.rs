//! Names on the wire: 16 random bytes each, shown to people as 32 hexadecimal digits.
//!
//! Each kind of name is a type of its own, so that a computer's can't be passed where a device's is meant.

use std::{fmt, str::FromStr};

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: expected 32 hexadecimal digits")]
pub struct NotAnId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; 16]);

        impl $name {
            /// A fresh name, unguessable and for practical purposes unique.
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }

            /// The 16 bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                show_hex(&self.0, out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_hex(text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A customer organisation: the unit of isolation, of CA keys and of policy.
    TenantId
    /// A computer with an agent.
    ComputerId
    /// A person who may approve.
    TechnicianId
    /// An enrolled phone.
    DeviceId
    /// One signed statement.
    Serial
    /// One temporary right.
    GrantId
    /// One pairing, as the relay sees it: derived from the QR's secret, and telling nothing of it.
    Rid
}

impl Rid {
    /// The id of this pairing in traces, the same for all who take part: as a trace leaves the system, a hash of the name.
    pub fn trace(&self) -> TraceName {
        let hash = Sha256::new().chain_update(b"gp1 trace").chain_update(self.0).finalize();
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        TraceName(name)
    }
}

/// The target of log spans that belong to a pairing's trace; their field `trace` is its [`Rid::trace`].
pub const TRACES: &str = "gatepass::pairing";

/// What a pairing is called in traces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceName([u8; 16]);

impl fmt::Display for TraceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_hex(&self.0, out)
    }
}

// A channel's name has one, so both are at work for each message; the general ways of formatting take twenty times as long.

fn show_hex(bytes: &[u8; 16], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]);
    }
    // Digits are text.
    out.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

fn parse_hex(text: &str) -> Result<[u8; 16], NotAnId> {
    let digits: &[u8; 32] = text.as_bytes().try_into().map_err(|_| NotAnId)?;
    let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(NotAnId);
    let mut bytes = [0; 16];
    for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_was_shown() {
        let id = ComputerId(*b"0123456789abcdef");
        assert_eq!(id.to_string(), "30313233343536373839616263646566");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "30",
            "3031323334353637383961626364656g",
            "+0313233343536373839616263646566",
            "303132333435363738396162636465660",
        ] {
            assert_eq!(wrong.parse::<ComputerId>(), Err(NotAnId), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_sixteen_bytes_on_the_wire_and_nothing_else() {
        let id = GrantId([7; 16]);
        let bytes = crate::wire::to_vec(&id);
        assert_eq!(bytes[..2], [0xc4, 16]);
        assert_eq!(crate::wire::from_slice::<GrantId>(&bytes), Ok(id));
        assert!(crate::wire::from_slice::<GrantId>(&bytes[..17]).is_err());
    }
}
