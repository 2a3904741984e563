//! What all subjects carry: 200 bytes with a number in front.

use anyhow::{Context, bail};

/// A small message of this product: a sealed order, a revocation, the smallest padded step of a pairing.
pub(crate) const LEN: usize = 200;
const DIGITS: usize = 16;

/// The message of a number. Text, so that nobody has an easier or harder time with it.
pub(crate) fn of(number: u64) -> [u8; LEN] {
    let mut message = [b'.'; LEN];
    let mut rest = number;
    for digit in message[..DIGITS].iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
        rest >>= 4;
    }
    message
}

/// The number of a message, which must be whole.
pub(crate) fn number(bytes: &[u8]) -> anyhow::Result<u64> {
    if bytes.len() != LEN || bytes[DIGITS..] != [b'.'; LEN - DIGITS] {
        bail!(
            "a message came back changed: {} bytes, {:?}",
            bytes.len(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        );
    }
    let digits = std::str::from_utf8(&bytes[..DIGITS]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    digits.context("a message came back with another number than was sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_and_a_changed_message_is_noticed() {
        for sent in [0, 1, 0xab, u64::MAX] {
            assert_eq!(number(&of(sent)).unwrap(), sent);
        }
        let mut changed = of(7);
        changed[LEN - 1] = b'x';
        assert!(number(&changed).is_err() && number(&of(7)[1..]).is_err() && number(b"").is_err());
    }
}
