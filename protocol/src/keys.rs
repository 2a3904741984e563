//! Keys and what they do: Ed25519 signs for a CA, a ticket, an agent and a device's connection; P-256 signs approvals, as
//! phone hardware can do no other curve; X25519 agrees on channel keys, P-256 on those of offline codes.
//!
//! Secrets are wiped when dropped and never shown by `Debug`.

use ed25519_dalek::{Signer as _, Verifier as _};
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A public key with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "(u8, serde_bytes::ByteBuf)", try_from = "(u8, serde_bytes::ByteBuf)")]
pub enum PublicKey {
    /// RFC 8032.
    Ed25519([u8; 32]),
    /// RFC 7748.
    X25519([u8; 32]),
    /// An uncompressed SEC1 point.
    P256([u8; 65]),
}

/// The signature does not fit the message and the key, or the key can't sign at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct BadSignature;

/// The key could not sign: the person cancelled, the hardware refused, the PIN was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key did not sign: {0}")]
pub struct SignError(pub String);

/// Something that signs: a key in memory, or in a phone's hardware behind a biometric.
pub trait Signer {
    /// The key that verifies.
    fn public_key(&self) -> PublicKey;

    /// Signs a message. Ed25519: RFC 8032. P-256: ECDSA over SHA-256 of the message, raw `r || s` with the low `s`.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// The first 8 bytes of SHA-256 over a key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kid(#[serde(with = "serde_bytes")] pub [u8; 8]);

impl PublicKey {
    /// Checks a signature over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        match self {
            PublicKey::Ed25519(key) => VerifyingKey::decode(key)?.verify(message, signature),
            PublicKey::P256(key) => {
                // Of (r, s) and (r, n - s), both valid to ECDSA, only the low one counts: one approval, one signature.
                if signature[32..] > P256_HALF_ORDER[..] {
                    return Err(BadSignature);
                }
                ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, key)
                    .verify(message, signature)
                    .map_err(|_| BadSignature)
            }
            PublicKey::X25519(_) => Err(BadSignature),
        }
    }

    /// The DER SubjectPublicKeyInfo (RFC 8410, RFC 5480).
    pub fn spki(&self) -> Vec<u8> {
        let (prefix, key): (&[u8], &[u8]) = match self {
            PublicKey::Ed25519(key) => (&SPKI_ED25519, key),
            PublicKey::X25519(key) => (&SPKI_X25519, key),
            PublicKey::P256(key) => (&SPKI_P256, key),
        };
        [prefix, key].concat()
    }

    /// The key's short name in statements.
    pub fn kid(&self) -> Kid {
        let mut kid = [0; 8];
        kid.copy_from_slice(&Sha256::digest(self.spki())[..8]);
        Kid(kid)
    }

    /// The key's 16-byte name in a revocation list: the first half of SHA-256 over its SubjectPublicKeyInfo.
    pub fn revocation_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.spki())[..16]);
        id
    }
}

/// An Ed25519 key that verifies: a point of the curve, not of small order. Who verifies with a key often decodes it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Decodes a key (RFC 8032, section 5.1.3). One of small order is refused: it would fit every message.
    pub fn decode(key: &[u8; 32]) -> Result<Self, BadSignature> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| BadSignature)?;
        if key.is_weak() { Err(BadSignature) } else { Ok(Self(key)) }
    }

    /// Checks a signature over `message`. Strict: neither the key nor R is of small order, so that one signature fits one
    /// message and one key.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        // What `verify_strict` does, without decoding R, a tenth of its time: what is verified is that R is the one encoding of
        // the right point, and those of the eight points of small order are known.
        if has_small_order(signature) {
            return Err(BadSignature);
        }
        self.0.verify(message, &ed25519_dalek::Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

/// Whether a signature's R is the encoding of a point of small order.
fn has_small_order(signature: &[u8; 64]) -> bool {
    SMALL_ORDER.iter().any(|y| signature[..31] == y[..31] && signature[31] & 0x7f == y[31])
}

/// The y coordinates of the eight points of small order, little-endian as they are encoded; the last bit of an encoding says
/// which x: order 1, 2, 4, and twice 8.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [0; 32],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Half the order of P-256, rounded down: the largest low `s`.
const P256_HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xde, 0x73, 0x7d,
    0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];

// DER up to the key's own bytes. RFC 8410 section 4 (1.3.101.112, 1.3.101.110) and RFC 5480 (ecPublicKey, prime256v1).
const SPKI_ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SPKI_X25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl From<PublicKey> for (u8, serde_bytes::ByteBuf) {
    fn from(key: PublicKey) -> Self {
        match key {
            PublicKey::Ed25519(key) => (1, serde_bytes::ByteBuf::from(key)),
            PublicKey::X25519(key) => (2, serde_bytes::ByteBuf::from(key)),
            PublicKey::P256(key) => (3, serde_bytes::ByteBuf::from(key)),
        }
    }
}

impl TryFrom<(u8, serde_bytes::ByteBuf)> for PublicKey {
    type Error = &'static str;
    fn try_from((algorithm, key): (u8, serde_bytes::ByteBuf)) -> Result<Self, &'static str> {
        const LENGTH: &str = "a key of the wrong length";
        match algorithm {
            1 => Ok(PublicKey::Ed25519(key[..].try_into().map_err(|_| LENGTH)?)),
            2 => Ok(PublicKey::X25519(key[..].try_into().map_err(|_| LENGTH)?)),
            3 => Ok(PublicKey::P256(key[..].try_into().map_err(|_| LENGTH)?)),
            _ => Err("an unknown key algorithm"),
        }
    }
}

/// An Ed25519 key: a CA's, a ticket's, an agent's, or a device's for its connection. Wiped on drop.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of a 32-byte seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for storing.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Signs; an Ed25519 key in memory never refuses.
    pub fn sign_now(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl Signer for SigningKey {
    fn public_key(&self) -> PublicKey {
        PublicKey::Ed25519(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.sign_now(message))
    }
}

/// An X25519 key: a device's or an agent's static one, or one session's. Wiped on drop. Its public half is computed once.
#[derive(Clone)]
pub struct ChannelKey {
    secret: x25519_dalek::StaticSecret,
    public: [u8; 32],
}

/// The other side sent a point of small order, so that the result would be the same for every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side's key contributes nothing")]
pub struct NotContributory;

impl ChannelKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    /// The key of 32 bytes (RFC 7748).
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = x25519_dalek::StaticSecret::from(*bytes);
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        Self { secret, public }
    }

    /// The bytes, for storing.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public half's 32 bytes.
    pub fn public_bytes(&self) -> [u8; 32] {
        self.public
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::X25519(self.public_bytes())
    }

    /// Agrees on a shared secret; refuses the all-zero one (RFC 7748 section 6.1).
    pub fn agree(&self, other: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, NotContributory> {
        let shared = self.secret.diffie_hellman(&x25519_dalek::PublicKey::from(*other));
        if shared.was_contributory() { Ok(Zeroizing::new(shared.to_bytes())) } else { Err(NotContributory) }
    }
}

/// A P-256 key that agrees on the key of offline codes. Wiped on drop.
pub struct OtpKey(p256::SecretKey);

/// The bytes are no key: not a point of the curve, or not a scalar below its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 key")]
pub struct NotP256;

impl OtpKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut scalar = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *scalar);
            // Zero or not below the order happens once in 2^32 draws: draw again.
            if let Ok(key) = Self::from_bytes(&scalar) {
                return key;
            }
        }
    }

    /// The key of a scalar (SEC 1, section 2.3.8).
    pub fn from_bytes(scalar: &[u8; 32]) -> Result<Self, NotP256> {
        p256::SecretKey::from_slice(scalar).map(Self).map_err(|_| NotP256)
    }

    /// The scalar, for storing.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut point = [0; 65];
        // An uncompressed point of P-256 has 65 bytes.
        point.copy_from_slice(self.0.public_key().to_sec1_point(false).as_bytes());
        PublicKey::P256(point)
    }

    /// Agrees on a shared secret: the x coordinate (SP 800-56A, section 5.7.1.2). Refuses what is not a point of the curve.
    pub fn agree(&self, other: &PublicKey) -> Result<Zeroizing<[u8; 32]>, NotP256> {
        let PublicKey::P256(point) = other else { return Err(NotP256) };
        let other = p256::PublicKey::from_sec1_bytes(point).map_err(|_| NotP256)?;
        let shared = p256::ecdh::diffie_hellman(self.0.to_nonzero_scalar(), other.as_affine());
        Ok(Zeroizing::new((*shared.raw_secret_bytes()).into()))
    }
}

impl std::fmt::Debug for OtpKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "OtpKey({:?})", self.public_key().kid())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "SigningKey({:?})", self.public_key().kid())
    }
}

impl std::fmt::Debug for ChannelKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ChannelKey({:?})", self.public_key().kid())
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION};
    use proptest::prelude::*;
    use sha2::Sha512;

    use super::*;

    /// What the library means by strict.
    fn strict(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(key) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }

    fn ours(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        PublicKey::Ed25519(*key).verify(message, signature).is_ok()
    }

    /// A signature under which the secret's multiple of the base point, moved by a point of small order, is the key, and whose
    /// R is another of them beside the nonce's point: what only the looser rules of RFC 8032 take, and some of which no rule does.
    fn crooked(secret: Scalar, nonce: Scalar, shift: (usize, usize), message: &[u8]) -> ([u8; 32], [u8; 64]) {
        let key = (EdwardsPoint::mul_base(&secret) + EIGHT_TORSION[shift.0]).compress().to_bytes();
        let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[shift.1]).compress().to_bytes();
        let digest = Sha512::new().chain_update(r).chain_update(key).chain_update(message).finalize();
        let s = nonce + Scalar::from_bytes_mod_order_wide(&digest.into()) * secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(&s.to_bytes());
        (key, signature)
    }

    #[test]
    fn every_point_of_small_order_is_known() {
        let encodings = EIGHT_TORSION.map(|point| point.compress().to_bytes());
        for r in encodings {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&r);
            assert!(has_small_order(&signature));
            assert!(VerifyingKey::decode(&r).is_err());
        }
        assert!(SMALL_ORDER.iter().all(|y| encodings.iter().any(|known| known[..31] == y[..31])));
    }

    #[test]
    fn a_signature_that_only_looser_rules_take_is_not_taken() {
        let (secret, none) = (Scalar::from(77u8), Scalar::ZERO);
        let (key, signature) = crooked(secret, none, (0, 0), b"anything");
        let loose = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
        assert!(loose.verify(b"anything", &ed25519_dalek::Signature::from_bytes(&signature)).is_ok());
        assert!(!ours(&key, b"anything", &signature));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_strict_verification_takes(
            secret: [u8; 32], nonce: [u8; 32], key_moved in 0..8usize, r_moved in 0..8usize, message: Vec<u8>,
            secret_is_none in prop::bool::weighted(0.2), nonce_is_none in prop::bool::weighted(0.2),
            flipped in prop::option::weighted(0.5, 0..512usize),
        ) {
            let scalar = |bytes, none| if none { Scalar::ZERO } else { Scalar::from_bytes_mod_order(bytes) };
            let (secret, nonce) = (scalar(secret, secret_is_none), scalar(nonce, nonce_is_none));
            let (key, mut signature) = crooked(secret, nonce, (key_moved, r_moved), &message);
            if let Some(bit) = flipped {
                signature[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert_eq!(ours(&key, &message, &signature), strict(&key, &message, &signature));
        }
    }
}
