//! Bearer tokens: 256 random bits that the holder keeps in a file, and of which the control plane keeps the SHA-256.
//!
//! A plain hash is enough, as nobody can guess such a token; comparing takes the same time whichever one fits.

use rand_core::Rng as _;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::api::hex;
use crate::rng;

/// Shows what the string is to whoever finds it, and lets scanners for leaked secrets find it.
const PREFIX: &str = "gatepass-token-";

/// A fresh token and its hash.
pub(crate) fn new() -> (Zeroizing<String>, [u8; 32]) {
    let mut secret = Zeroizing::new([0; 32]);
    rng().fill_bytes(&mut *secret);
    let token = Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(hex(&*secret))));
    let hash = hash(&token);
    (token, hash)
}

/// What is stored of a token.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether the token is one of those whose hashes are given.
pub(crate) fn is_one_of(token: &str, hashes: &[[u8; 32]]) -> bool {
    let hash = hash(token);
    hashes.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&hash)).into()
}
