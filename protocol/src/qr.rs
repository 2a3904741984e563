//! The QR code: 56 bytes that a logon screen shows and a phone reads, and the keys that both derive from them.
//!
//! ```text
//! version u8 = 1 | suite u8 | relay_idx u16 | tenant_tag[4] | qs[16] | A_q[32]        integers big-endian
//! "GP1:" + base45 (RFC 9285)   = 88 alphanumeric characters = QR version 4-M, 33x33
//! PRK = HKDF-SHA256-Extract(salt "gp1 qr", qs);  rid[16], psk[32], claim[32] = Expand("rid"), Expand("psk"), Expand("claim")
//! ```
//!
//! `qs` is a secret of this one login: whoever did not see the screen can't speak to the agent at all. `A_q` is a key of
//! this one login: whoever did see it (a photograph) still can't read what the agent tells another phone. There is no URL
//! inside, so no camera app opens anything; the app's own camera scans it.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{Rid, TenantId};

/// The version in the first byte.
pub const VERSION: u8 = 1;
/// The only suite so far: Noise_XKpsk0_25519_ChaChaPoly_SHA256. 2 is kept for a hybrid with ML-KEM-768.
pub const SUITE: u8 = 1;
/// Bytes of a payload.
pub const LENGTH: usize = 56;
/// How long a screen shows one QR, in seconds.
pub const SHOWN_FOR: u64 = 45;
/// How long the previous one stays good, in seconds.
pub const GRACE: u64 = 15;
/// What the text begins with.
pub const PREFIX: &str = "GP1:";

/// What a QR says.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct QrPayload {
    /// Which relay of the tenant's relay list the agent waits at.
    pub relay_idx: u16,
    /// Tells a phone of several tenants which one is asked; see [`tenant_tag`].
    pub tenant_tag: [u8; 4],
    /// The secret of this login.
    pub qs: [u8; 16],
    /// The agent's X25519 key of this login.
    pub a_q: [u8; 32],
}

/// Why a text is not a Gatepass QR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QrError {
    /// Something else's QR.
    #[error("this is not a Gatepass code: it does not begin with GP1:")]
    NotGatepass,
    /// Damaged.
    #[error("the Gatepass code is damaged; scan it again")]
    Damaged,
    /// Made by a newer Gatepass.
    #[error("the code is of version {0}, which this app does not know; update the app")]
    Version(u8),
    /// Made by a newer Gatepass.
    #[error("the code wants cipher suite {0}, which this app does not know; update the app")]
    Suite(u8),
}

/// The keys of one login.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct QrKeys {
    rid: [u8; 16],
    pub(crate) psk: [u8; 32],
    claim: [u8; 32],
}

/// The first 4 bytes of SHA-256("gp1 tenant" 00 tenant).
pub fn tenant_tag(tenant: TenantId) -> [u8; 4] {
    let digest = Sha256::new().chain_update(b"gp1 tenant\0").chain_update(tenant.as_bytes()).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

impl QrPayload {
    /// A payload with a fresh secret, for an agent's one-session key.
    pub fn new(relay_idx: u16, tenant: TenantId, a_q: [u8; 32], rng: &mut impl CryptoRng) -> Self {
        let mut qs = [0; 16];
        rng.fill_bytes(&mut qs);
        Self { relay_idx, tenant_tag: tenant_tag(tenant), qs, a_q }
    }

    /// The 56 bytes.
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1] = SUITE;
        bytes[2..4].copy_from_slice(&self.relay_idx.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.tenant_tag);
        bytes[8..24].copy_from_slice(&self.qs);
        bytes[24..].copy_from_slice(&self.a_q);
        bytes
    }

    /// Reads the 56 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, QrError> {
        let bytes: &[u8; LENGTH] = match bytes {
            [VERSION, SUITE, ..] => bytes.try_into().map_err(|_| QrError::Damaged)?,
            [VERSION, suite, ..] => return Err(QrError::Suite(*suite)),
            [version, ..] => return Err(QrError::Version(*version)),
            [] => return Err(QrError::Damaged),
        };
        let mut payload =
            Self { relay_idx: u16::from_be_bytes([bytes[2], bytes[3]]), tenant_tag: [0; 4], qs: [0; 16], a_q: [0; 32] };
        payload.tenant_tag.copy_from_slice(&bytes[4..8]);
        payload.qs.copy_from_slice(&bytes[8..24]);
        payload.a_q.copy_from_slice(&bytes[24..]);
        Ok(payload)
    }

    /// The text inside the QR.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", base45::encode(self.to_bytes()))
    }

    /// Reads the text of a QR, exactly. The blank is one of base45's characters, so none is trimmed at the end but a
    /// line's own.
    pub fn from_text(text: &str) -> Result<Self, QrError> {
        let text = text.trim_end_matches(['\r', '\n']);
        let encoded = text.strip_prefix(PREFIX).ok_or(QrError::NotGatepass)?;
        let payload = Self::from_bytes(&base45::decode(encoded).map_err(|_| QrError::Damaged)?)?;
        // base45 has one encoding of each value, but decoders differ in what else they take.
        if payload.to_text() == text { Ok(payload) } else { Err(QrError::Damaged) }
    }

    /// Derives the login's keys.
    pub fn keys(&self) -> QrKeys {
        let kdf = Hkdf::<Sha256>::new(Some(b"gp1 qr"), &self.qs);
        let mut keys = QrKeys { rid: [0; 16], psk: [0; 32], claim: [0; 32] };
        for (label, key) in
            [(b"rid" as &[u8], &mut keys.rid[..]), (b"psk", &mut keys.psk[..]), (b"claim", &mut keys.claim[..])]
        {
            // HKDF-SHA256 gives up to 8160 bytes; these are at most 32.
            if kdf.expand(label, key).is_err() {
                unreachable!("HKDF gives 32 bytes")
            }
        }
        keys
    }
}

impl QrKeys {
    /// The pairing's name at the relay.
    pub fn rid(&self) -> Rid {
        Rid(self.rid)
    }

    /// HMAC-SHA256(claim, "claim" rid n), its first 16 bytes: says to the agent that the QR was read.
    pub fn claim_tag(&self, n: &[u8; 16]) -> [u8; 16] {
        // HMAC takes a key of any length.
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(&self.claim) else { unreachable!("HMAC takes any key") };
        let full = mac.chain_update(b"claim").chain_update(self.rid).chain_update(n).finalize().into_bytes();
        let mut tag = [0; 16];
        tag.copy_from_slice(&full[..16]);
        tag
    }

    /// Checks a claim's tag in constant time.
    pub fn claim_is_good(&self, n: &[u8; 16], tag: &[u8; 16]) -> bool {
        self.claim_tag(n).ct_eq(tag).into()
    }
}

impl std::fmt::Debug for QrPayload {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "QrPayload(relay {}, secret withheld)", self.relay_idx)
    }
}
