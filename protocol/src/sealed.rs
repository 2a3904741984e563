//! A sealed message: one message to the holder of a certified X25519 key, outside a pairing. An order to a computer, a
//! report to a device.
//!
//! It is `Noise_N_25519_ChaChaPoly_SHA256` with the prologue `"gp1 sealed"`: `e, es` and one payload, padded as in a
//! pairing. N hides the content and says nothing about who sent it, so what is inside is always a signed body.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::{
    keys::ChannelKey,
    noise::{SymmetricState, TAG},
    pairing::padding,
};

const NAME: &[u8] = b"Noise_N_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"gp1 sealed";

/// The message is not for this key, was changed, or is too large to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed message can't be opened with this key")]
pub struct NotSealed;

/// Seals a message of at most [`padding::MAX_BODY`] bytes to a public X25519 key.
pub fn seal(recipient: &[u8; 32], message: &[u8], rng: &mut impl CryptoRng) -> Result<Vec<u8>, NotSealed> {
    let padded = padding::pad(padding::Type::Sealed, message).map_err(|_| NotSealed)?;
    let ephemeral = ChannelKey::generate(rng);
    let mut state = SymmetricState::new(NAME, PROLOGUE);
    state.mix_hash(recipient);
    let e = ephemeral.public_bytes();
    state.mix_hash(&e);
    state.mix_key(&*ephemeral.agree(recipient).map_err(|_| NotSealed)?);
    let payload = state.encrypt_and_hash(&padded).map_err(|_| NotSealed)?;
    Ok([&e[..], &payload].concat())
}

/// Opens a message sealed to this key.
pub fn open(recipient: &ChannelKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotSealed> {
    if sealed.len() < 32 + TAG {
        return Err(NotSealed);
    }
    let (e, payload) = sealed.split_at(32);
    let e: &[u8; 32] = e.try_into().map_err(|_| NotSealed)?;
    let mut state = SymmetricState::new(NAME, PROLOGUE);
    state.mix_hash(&recipient.public_bytes());
    state.mix_hash(e);
    state.mix_key(&*recipient.agree(e).map_err(|_| NotSealed)?);
    let padded = state.decrypt_and_hash(payload).map_err(|_| NotSealed)?;
    padding::unpad(padding::Type::Sealed, &padded).map(|body| Zeroizing::new(body.to_vec())).map_err(|_| NotSealed)
}
