//! The msgpack profile of everything that Gatepass encodes: structs as arrays, in field order; minimal integers;
//! at most [`MAX_DEPTH`] levels; not one byte more.
//!
//! There is exactly one encoding of each value. A decoder that accepted two would let somebody else's bytes hash
//! differently from ours while meaning the same, so [`from_slice`] encodes what it read once more and compares.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// Levels of nesting that a decoder follows: enough for every message here, and a bound on its stack.
pub const MAX_DEPTH: usize = 4;

/// Why bytes are not a value of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not msgpack, or not of the expected shape, or nested too deeply.
    #[error("the bytes do not decode to the expected shape")]
    Malformed,
    /// Decodes, but there is a shorter or other encoding of the same value, or bytes follow it.
    #[error("the bytes are not the one canonical encoding")]
    NotCanonical,
}

/// Room for most of what is encoded: what begins with less is moved again and again.
const USUAL: usize = 128;

/// Encodes a value. Every type of this crate encodes without error.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    // Writing to memory can't fail and no type of this crate has a fallible Serialize, so the error is unreachable;
    // an empty answer is refused by every decoder.
    match rmp_serde::encode::write(&mut bytes, value) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// Decodes a value from its one canonical encoding.
pub fn from_slice<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    // rmp-serde counts a level for the value itself.
    decoder.set_max_depth(MAX_DEPTH + 1);
    let value = T::deserialize(&mut decoder).map_err(|_| WireError::Malformed)?;
    let mut rest = Expected(bytes);
    match rmp_serde::encode::write(&mut rest, &value) {
        Ok(()) if rest.0.is_empty() => Ok(value),
        _ => Err(WireError::NotCanonical),
    }
}

/// Takes these bytes and no others: an encoding is compared as it is made, and kept nowhere.
struct Expected<'a>(&'a [u8]);

impl io::Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_encoding() {
        assert_eq!(from_slice::<(u8, u32)>(&[0x92, 1, 2]), Ok((1, 2)));
        assert_eq!(from_slice::<(u8, u32)>(&[0x92, 0xcc, 1, 2]), Err(WireError::NotCanonical), "a wide integer");
        assert_eq!(from_slice::<(u8, u32)>(&[0x92, 1, 2, 0]), Err(WireError::NotCanonical), "a trailing byte");
        assert_eq!(from_slice::<(u8, u32)>(&[0x92, 1]), Err(WireError::Malformed), "cut short");
        assert_eq!(from_slice::<(u8, u32)>(&[]), Err(WireError::Malformed));
    }

    #[test]
    fn four_levels_decode_and_five_do_not() {
        type Four = Vec<Vec<Vec<Vec<u8>>>>;
        type Five = Vec<Four>;
        assert!(from_slice::<Four>(&[0x91, 0x91, 0x91, 0x91, 7]).is_ok());
        assert_eq!(from_slice::<Five>(&[0x91, 0x91, 0x91, 0x91, 0x91, 7]), Err(WireError::Malformed));
    }
}
