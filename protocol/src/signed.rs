//! The one signed-statement mechanism: `[body, signature]`, both msgpack `bin`.
//!
//! The signature covers `LABEL 00 len(body) body`, with the length as a big-endian `u32`. The label separates the uses of
//! one key from each other. What is verified is the exact bytes that were received, never an encoding made again.
//!
//! A body that was decoded but not verified is an [`Unverified`], whose fields say only what somebody claims; the only
//! way to a [`Signed`] is a key.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    keys::{BadSignature, PublicKey, SignError, Signer, VerifyingKey},
    wire,
};

/// Something that can be signed.
pub trait Body: Serialize + DeserializeOwned {
    /// Separates this use of a key from every other.
    const LABEL: &'static str;
}

/// A body whose signature was verified, or made here, with the exact bytes that carry both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<B> {
    body: B,
    bytes: Bytes,
}

/// A body that somebody claims to have signed.
#[derive(Clone, Debug)]
pub struct Unverified<B> {
    body: B,
    message: Vec<u8>,
    signature: [u8; 64],
    bytes: Bytes,
}

/// The bytes are no signed body of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signed statement of the expected kind")]
pub struct NotSigned;

#[derive(Serialize, serde::Deserialize)]
struct Envelope(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] [u8; 64]);

impl<B: Body> Signed<B> {
    /// Signs a body.
    pub fn sign(body: B, key: &(impl Signer + ?Sized)) -> Result<Self, SignError> {
        let body_bytes = wire::to_vec(&body);
        let signature = key.sign(&message::<B>(&body_bytes))?;
        Ok(Self { body, bytes: wire::to_vec(&Envelope(body_bytes, signature)).into() })
    }
}

impl<B> Signed<B> {
    /// What was signed.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// What was signed, without its signature.
    pub fn into_body(self) -> B {
        self.body
    }

    /// The exact bytes of body and signature, for sending on and for storing.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<B: Body> Unverified<B> {
    /// Reads a signed body. Nothing in it may be relied on yet, but for finding the key to verify it with.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, NotSigned> {
        let bytes = bytes.into();
        let Envelope(body_bytes, signature) = wire::from_slice(&bytes).map_err(|_| NotSigned)?;
        let body = wire::from_slice(&body_bytes).map_err(|_| NotSigned)?;
        Ok(Self { body, message: message::<B>(&body_bytes), signature, bytes })
    }

    /// What somebody claims.
    pub fn claimed(&self) -> &B {
        &self.body
    }

    /// Checks the signature.
    pub fn verify(self, key: &PublicKey) -> Result<Signed<B>, BadSignature> {
        key.verify(&self.message, &self.signature)?;
        Ok(Signed { body: self.body, bytes: self.bytes })
    }

    /// Checks the signature by a key that was decoded before.
    pub fn verify_by(self, key: &VerifyingKey) -> Result<Signed<B>, BadSignature> {
        key.verify(&self.message, &self.signature)?;
        Ok(Signed { body: self.body, bytes: self.bytes })
    }
}

/// The bytes that a signature covers.
fn message<B: Body>(body: &[u8]) -> Vec<u8> {
    labelled(B::LABEL, body)
}

/// `label 00 len(data) data`: what every signature of Gatepass covers.
pub(crate) fn labelled(label: &str, data: &[u8]) -> Vec<u8> {
    // A body is at most a few KiB; a longer one could not have been received.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [label.as_bytes(), &[0], &length.to_be_bytes(), data].concat()
}
