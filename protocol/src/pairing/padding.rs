//! Padding: whoever sees a message's length learns its type and size class, and nothing of what it says.
//!
//! `type u8 | length u16 big-endian | body | zeros`, up to the next of [`CLASSES`] bytes, with one smallest class for each
//! type. So APPROVE and DENY are one length, and so are "granted" and "refused".

use zeroize::Zeroizing;

/// The lengths, in bytes, of padded messages.
pub const CLASSES: [usize; 5] = [256, 768, 1536, 3072, 6144];
/// The largest body.
pub const MAX_BODY: usize = CLASSES[4] - HEADER;
const HEADER: usize = 3;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// M1.
    Hello = 1,
    /// M2.
    AgentIdentity = 2,
    /// M3.
    DeviceIdentity = 3,
    /// M4.
    Context = 4,
    /// M5.
    Decision = 5,
    /// M6.
    Outcome = 6,
    /// M7.
    End = 7,
    /// Outside a pairing.
    Sealed = 8,
    /// Instead of M4 or M6: refused, and why.
    Refusal = 9,
}

/// The message is larger than the largest class, or its padding is not what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPadding;

impl Type {
    /// The smallest class of a type: the one that it usually fills. A refusal looks like what it stands in for.
    fn smallest(self) -> usize {
        match self {
            Type::Hello => 256,
            Type::AgentIdentity | Type::Context | Type::Refusal => 1536,
            Type::DeviceIdentity | Type::Decision | Type::Outcome | Type::End | Type::Sealed => 768,
        }
    }
}

/// Pads a body.
pub fn pad(kind: Type, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, BadPadding> {
    let needed = HEADER + body.len();
    let length = CLASSES.into_iter().find(|class| *class >= needed.max(kind.smallest())).ok_or(BadPadding)?;
    let body_length = u16::try_from(body.len()).map_err(|_| BadPadding)?;
    let mut padded = Zeroizing::new(vec![0; length]);
    padded[0] = kind as u8;
    padded[1..HEADER].copy_from_slice(&body_length.to_be_bytes());
    padded[HEADER..needed].copy_from_slice(body);
    Ok(padded)
}

/// Reads a padded body of the expected type. The padding must be the one that [`pad`] makes.
pub fn unpad(kind: Type, padded: &[u8]) -> Result<&[u8], BadPadding> {
    let [found, high, low, rest @ ..] = padded else { return Err(BadPadding) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if *found != kind as u8 || length > rest.len() {
        return Err(BadPadding);
    }
    let (body, zeros) = rest.split_at(length);
    let class = CLASSES.into_iter().find(|class| *class >= (HEADER + length).max(kind.smallest()));
    if class == Some(padded.len()) && zeros.iter().all(|byte| *byte == 0) { Ok(body) } else { Err(BadPadding) }
}

/// The type that a padded message claims.
pub fn peek(padded: &[u8]) -> Option<u8> {
    padded.first().copied()
}
