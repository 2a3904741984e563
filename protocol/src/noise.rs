//! The Noise Protocol Framework (revision 34), as far as Gatepass needs it: the CipherState, SymmetricState and tokens of
//! `25519_ChaChaPoly_SHA256`. [`crate::pairing::channel`] builds XKpsk0 from it and [`crate::sealed`] builds N.
//!
//! Names are the specification's. One thing is added: `split` takes a third output of the same HKDF call, from which the
//! channel exports keys of its own (the confirm code). Noise's HKDF gives the same first two outputs with or without it.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, Buffer},
};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes that authenticated encryption adds.
pub(crate) const TAG: usize = 16;

/// The message was not made by who holds the keys, or not for this place in the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// A key and a counter. Without a key (only before the first token) data passes through.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct CipherState {
    key: [u8; 32],
    nonce: u64,
}

impl CipherState {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key, nonce: 0 }
    }

    pub(crate) fn encrypt(&mut self, ad: &[u8], plain: &[u8]) -> Result<Vec<u8>, Forged> {
        let mut data = Vec::with_capacity(plain.len() + TAG);
        data.extend_from_slice(plain);
        let nonce = self.next_nonce()?;
        self.cipher().encrypt_in_place(&nonce, ad, &mut data as &mut dyn Buffer).map_err(|_| Forged)?;
        Ok(data)
    }

    pub(crate) fn decrypt(&mut self, ad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
        let mut data = Zeroizing::new(sealed.to_vec());
        let nonce = self.next_nonce()?;
        self.cipher().decrypt_in_place(&nonce, ad, &mut *data as &mut dyn Buffer).map_err(|_| Forged)?;
        Ok(data)
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.key.into())
    }

    /// 32 zero bits, then the counter in little endian (section 12.3). Strictly consecutive: a gap or a repeat of the
    /// other side fails to decrypt. A failed message burns the counter too, and the caller drops the channel.
    fn next_nonce(&mut self) -> Result<chacha20poly1305::Nonce, Forged> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_le_bytes());
        // 2^64-1 is reserved.
        self.nonce = self.nonce.checked_add(1).ok_or(Forged)?;
        Ok(nonce.into())
    }
}

/// The chaining key, the handshake hash and the cipher of the moment.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct SymmetricState {
    ck: [u8; 32],
    h: [u8; 32],
    cipher: CipherState,
}

/// What a finished handshake leaves.
pub(crate) struct Split {
    /// Initiator to responder.
    pub(crate) up: CipherState,
    /// Responder to initiator.
    pub(crate) down: CipherState,
    /// The third output: exported keys.
    pub(crate) exporter: Zeroizing<[u8; 32]>,
    /// The handshake hash: names this one channel.
    pub(crate) h: [u8; 32],
}

impl SymmetricState {
    /// Begins with a protocol name and a prologue.
    pub(crate) fn new(protocol_name: &[u8], prologue: &[u8]) -> Self {
        let mut h = [0; 32];
        if protocol_name.len() <= 32 {
            h[..protocol_name.len()].copy_from_slice(protocol_name);
        } else {
            h = Sha256::digest(protocol_name).into();
        }
        // Every pattern here mixes a key before it encrypts anything, so the cipher's zero key is never used.
        let mut state = Self { ck: h, h, cipher: CipherState::new([0; 32]) };
        state.mix_hash(prologue);
        state
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.h = Sha256::new().chain_update(self.h).chain_update(data).finalize().into();
    }

    pub(crate) fn mix_key(&mut self, input: &[u8]) {
        let [ck, key, _] = hkdf(&self.ck, input);
        self.ck = *ck;
        self.cipher = CipherState::new(*key);
    }

    pub(crate) fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [ck, hash, key] = hkdf(&self.ck, input);
        self.ck = *ck;
        self.mix_hash(&*hash);
        self.cipher = CipherState::new(*key);
    }

    pub(crate) fn encrypt_and_hash(&mut self, plain: &[u8]) -> Result<Vec<u8>, Forged> {
        let sealed = self.cipher.encrypt(&self.h, plain)?;
        self.mix_hash(&sealed);
        Ok(sealed)
    }

    pub(crate) fn decrypt_and_hash(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
        let plain = self.cipher.decrypt(&self.h, sealed)?;
        self.mix_hash(sealed);
        Ok(plain)
    }

    pub(crate) fn handshake_hash(&self) -> [u8; 32] {
        self.h
    }

    pub(crate) fn split(self) -> Split {
        let [up, down, exporter] = hkdf(&self.ck, &[]);
        Split { up: CipherState::new(*up), down: CipherState::new(*down), exporter, h: self.h }
    }
}

/// Noise's HKDF with three outputs (section 4.3).
fn hkdf(ck: &[u8; 32], input: &[u8]) -> [Zeroizing<[u8; 32]>; 3] {
    let prk = Zeroizing::new(hmac(ck, &[input]));
    let first = Zeroizing::new(hmac(&prk, &[&[1]]));
    let second = Zeroizing::new(hmac(&prk, &[&*first, &[2]]));
    let third = Zeroizing::new(hmac(&prk, &[&*second, &[3]]));
    [first, second, third]
}

/// HMAC-SHA256 over several pieces.
pub(crate) fn hmac(key: &[u8; 32], pieces: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes any key") };
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().into()
}
