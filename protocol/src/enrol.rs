//! Enrolment: how a computer or a phone gets into a tenant with a ticket.
//!
//! A ticket is a CA-signed statement about an Ed25519 key, handed over together with that key's seed. A *computer* signs
//! its own certificate with it, so nobody has to be there: the chain is certificate, ticket, CA. A *phone* signs a request
//! with it, and an administrator, who reads the fingerprint off the phone, signs the certificate with the CA.
//!
//! The control plane counts uses and may refuse; it can't enrol anybody itself.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    ids::{DeviceId, Serial},
    keys::SigningKey,
    signed::{Body, Signed},
    statement::{CertifiedKey, KeyProtection},
    wire,
};

/// What an administrator hands over, as one line of text beginning `GPT1:`. It is a secret.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Ticket {
    /// The ticket's statement.
    #[zeroize(skip)]
    pub statement: Bytes,
    /// The seed of the key that the statement names.
    #[serde(with = "serde_bytes")]
    pub seed: [u8; 32],
    /// Where the control plane answers: `https://host[:port]`.
    #[zeroize(skip)]
    pub url: String,
    /// The certificate to expect there, where no public CA vouches for it.
    #[zeroize(skip)]
    pub tls_ca_pem: Option<String>,
    /// The tenant's CA keys, PEM. Whoever hands over the ticket vouches for them.
    #[zeroize(skip)]
    pub cas: Vec<String>,
}

/// The text is not a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a Gatepass enrolment ticket; ask your administrator for a new one")]
pub struct NotATicket;

const PREFIX: &str = "GPT1:";

impl Ticket {
    /// The line of text.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(wire::to_vec(self)))
    }

    /// Reads the line of text.
    pub fn from_text(text: &str) -> Result<Self, NotATicket> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(NotATicket)?;
        wire::from_slice(&URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NotATicket)?).map_err(|_| NotATicket)
    }

    /// The key that the ticket's statement names.
    pub fn key(&self) -> SigningKey {
        SigningKey::from_seed(&self.seed)
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Ticket({}, seed withheld)", self.url)
    }
}

/// A phone asks for its certificate. Signed by the ticket's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The ticket's serial.
    pub ticket: Serial,
    /// The device's name for life, chosen by it.
    pub device: DeviceId,
    /// Its keys: Sign, Channel, Approve.
    pub keys: Vec<CertifiedKey>,
    /// What its technician calls it.
    pub device_name: String,
    /// Where its approval key lives, by its own word.
    pub protection: KeyProtection,
    /// Its clock, in Unix seconds.
    pub time: u64,
}

impl Body for DeviceRequest {
    const LABEL: &'static str = "gp1 device-request";
}

/// What a phone shows and an administrator compares before signing: 20 hexadecimal digits of SHA-256 over the signed
/// request, in groups of four.
pub fn fingerprint(request: &Signed<DeviceRequest>) -> String {
    let digest = Sha256::digest(request.bytes());
    let groups: Vec<String> = digest[..10].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
    groups.join("-")
}
