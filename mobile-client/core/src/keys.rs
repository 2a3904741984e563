//! The phone's keys. Two work unattended, as in a phone's key store: the channel key and the connection's signing key. The
//! others, for approvals and for offline codes, let somebody in, and each use of them needs the person: a biometric in hardware, here
//! a PIN.

use gatepass_protocol::{
    keys::{ChannelKey, OtpKey, PublicKey, SignError, Signer, SigningKey},
    statement::{CertifiedKey, KeyUse},
    vault::{self, VaultError},
};
use p256::ecdsa::{Signature, signature::Signer as _};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// The least characters of a PIN. Argon2id makes each guess cost a fraction of a second, so that six digits hold for days
/// against a stolen file: long enough to revoke the phone.
pub const PIN_MIN: usize = 6;

/// Why a PIN is not good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPin {
    /// Too short.
    #[error("the PIN is too short: take at least {PIN_MIN} characters; letters count too")]
    Short,
    /// Guessed at once.
    #[error("that PIN would be guessed at once: take one without a repeated digit or a sequence such as 123456")]
    Obvious,
}

/// Judges a new PIN.
pub fn check_pin(pin: &str) -> Result<(), WeakPin> {
    let characters: Vec<u32> = pin.chars().map(u32::from).collect();
    if characters.len() < PIN_MIN {
        return Err(WeakPin::Short);
    }
    let steps: Vec<i64> = characters.windows(2).map(|pair| i64::from(pair[1]) - i64::from(pair[0])).collect();
    let even = steps.iter().all(|step| *step == steps[0]) && (-1..=1).contains(&steps[0]);
    if even { Err(WeakPin::Obvious) } else { Ok(()) }
}

/// An approval key in software: P-256 with deterministic nonces (RFC 6979). It says so in the phone's certificate.
pub struct ApprovalKey(p256::ecdsa::SigningKey);

impl ApprovalKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut scalar = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *scalar);
            // Zero or not below the order happens once in 2^32 draws: draw again.
            if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&*scalar) {
                return Self(key);
            }
        }
    }

    /// The key as a text that only the PIN opens.
    pub fn seal(&self, pin: &str, rng: &mut impl CryptoRng) -> Result<String, VaultError> {
        vault::seal(VAULT_NAME, pin.as_bytes(), &Zeroizing::new(self.0.to_bytes()), rng)
    }

    /// Opens the text. Takes a good part of a second, on purpose.
    pub fn open(vault: &str, pin: &str) -> Result<Self, VaultError> {
        let scalar = vault::open(vault, pin.as_bytes())?;
        p256::ecdsa::SigningKey::from_slice(&scalar).map(Self).map_err(|_| VaultError::NotAVault)
    }
}

const VAULT_NAME: &str = "approval key of a phone";
const OTP_VAULT_NAME: &str = "offline code key of a phone";

/// The key for offline codes as a text that only the PIN opens.
pub fn seal_otp(key: &OtpKey, pin: &str, rng: &mut impl CryptoRng) -> Result<String, VaultError> {
    vault::seal(OTP_VAULT_NAME, pin.as_bytes(), &*key.to_bytes(), rng)
}

/// Opens the text. Takes a good part of a second, on purpose.
pub fn open_otp(vault: &str, pin: &str) -> Result<OtpKey, VaultError> {
    let scalar = vault::open(vault, pin.as_bytes())?;
    let scalar: &[u8; 32] = scalar[..].try_into().map_err(|_| VaultError::NotAVault)?;
    OtpKey::from_bytes(scalar).map_err(|_| VaultError::NotAVault)
}

impl Signer for ApprovalKey {
    fn public_key(&self) -> PublicKey {
        let mut point = [0; 65];
        // An uncompressed point of P-256 has 65 bytes.
        point.copy_from_slice(self.0.verifying_key().to_sec1_point(false).as_bytes());
        PublicKey::P256(point)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature: Signature = self.0.try_sign(message).map_err(|error| SignError(error.to_string()))?;
        Ok(signature.normalize_s().to_bytes().into())
    }
}

/// What a certificate says of these keys.
pub fn certified(channel: &ChannelKey, sign: &SigningKey, approve: &impl Signer, otp: &OtpKey) -> Vec<CertifiedKey> {
    vec![
        CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
        CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
        CertifiedKey { key_use: KeyUse::Approve, key: approve.public_key() },
        CertifiedKey { key_use: KeyUse::Otp, key: otp.public_key() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepass_client::edge::rng;

    #[test]
    fn an_approval_is_signed_the_same_way_each_time_and_verifies() {
        let key = ApprovalKey::generate(&mut rng());
        for message in [&b"approve"[..], b"", &[7; 5000]] {
            let signature = key.sign(message).unwrap();
            assert_eq!(signature, key.sign(message).unwrap());
            key.public_key().verify(message, &signature).unwrap();
            assert!(key.public_key().verify(b"another", &signature).is_err());
        }
    }

    #[test]
    fn every_signature_has_its_low_s() {
        let key = ApprovalKey::generate(&mut rng());
        for n in 0..64_u32 {
            // `verify` refuses a high s, which half of all plain signatures have.
            key.public_key().verify(&n.to_be_bytes(), &key.sign(&n.to_be_bytes()).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_stolen_file_is_of_no_use_without_the_pin() {
        let key = ApprovalKey::generate(&mut rng());
        let vault = key.seal("814-273", &mut rng()).unwrap();
        assert_eq!(ApprovalKey::open(&vault, "814-273").unwrap().public_key(), key.public_key());
        assert_eq!(ApprovalKey::open(&vault, "814-274").err(), Some(VaultError::WrongPassword));
    }

    #[test]
    fn the_key_for_offline_codes_needs_the_pin_too() {
        let key = OtpKey::generate(&mut rng());
        let vault = seal_otp(&key, "814-273", &mut rng()).unwrap();
        assert_eq!(open_otp(&vault, "814-273").unwrap().public_key(), key.public_key());
        assert_eq!(open_otp(&vault, "814-274").err(), Some(VaultError::WrongPassword));
    }

    #[test]
    fn an_obvious_pin_is_refused_with_the_reason() {
        for (pin, verdict) in [
            ("12345", Err(WeakPin::Short)),
            ("000000", Err(WeakPin::Obvious)),
            ("123456", Err(WeakPin::Obvious)),
            ("98765432", Err(WeakPin::Obvious)),
            ("814273", Ok(())),
            ("zebra stripes", Ok(())),
        ] {
            assert_eq!(check_pin(pin), verdict, "{pin}");
        }
    }
}
