//! Statements: what a tenant's CA says about keys, rights and revocations.
//!
//! Every statement has the same fourteen fields; what only one kind says stands in `constraints`, encoded by itself
//! ([`Terms`]). So one parser, one signature check and one set of time, tenant and revocation rules serve all of them, and
//! a new kind adds no new way to be fooled. They are verified by [`crate::trust::TrustStore`].

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ids::{Serial, TechnicianId, TenantId},
    keys::{Kid, PublicKey, SignError, Signer},
    numbered::numbered,
    signed::{Body, Signed},
    wire::{self, WireError},
};

/// The version of the statement format.
pub const VERSION: u8 = 1;

numbered! {
    /// What a statement is about.
    pub enum Kind: "kind of statement" {
        /// A phone's keys belong to a technician.
        Device = 1,
        /// A computer's keys.
        Agent = 2,
        /// Whoever holds this key may enrol.
        Ticket = 3,
        /// Who may have what where, and how.
        Policy = 4,
        /// What is no longer valid.
        Revocation = 5,
        /// Where the relays are.
        Relays = 6,
        /// Whoever holds this key may add to the revocation list, and do nothing else.
        Revoker = 7,
    }
}

numbered! {
    /// What a key of a certificate is for.
    pub enum KeyUse: "use of a key" {
        /// Signs as the subject: an agent's statements, a ticket's requests, a device's relay connection and orders. Ed25519.
        Sign = 1,
        /// The static key of channels and sealed messages. X25519.
        Channel = 2,
        /// Signs approvals, behind a biometric or PIN. P-256.
        Approve = 3,
        /// Agrees on the key of offline codes ([`crate::offline`]). P-256. A certificate carries it as [`OTP_KEY`].
        Otp = 4,
    }
}

/// A key and its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifiedKey {
    /// What it is for.
    pub key_use: KeyUse,
    /// The key.
    pub key: PublicKey,
}

/// The extension of a certificate that holds its key for offline codes: 65 bytes, an uncompressed SEC1 point. An extension, because
/// who came before it refuses a use of a key that it does not know, and passes over this.
pub const OTP_KEY: u16 = 1;
/// The extension of a policy that holds [`crate::offline::OfflineTerms`].
pub const OFFLINE_CODES: u16 = 2;

/// The extension of a revocation list that holds the statement about the key that signed it ([`RevokerTerms`]), where that is no CA's.
pub const REVOKER: u16 = 3;

/// A numbered addition, which a reader may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its number.
    pub id: u16,
    /// Its value.
    pub value: Bytes,
}

/// The body of every statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`VERSION`].
    pub version: u8,
    /// What it is about.
    pub kind: Kind,
    /// Its own name, for revoking it.
    pub serial: Serial,
    /// The key that signed it: a CA's, or for an agent's certificate a ticket's.
    pub issuer: Kid,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whom it is about: a device, a computer; zero where it is about the tenant.
    #[serde(with = "serde_bytes")]
    pub subject: [u8; 16],
    /// The subject's keys.
    pub keys: Vec<CertifiedKey>,
    /// Valid from, in Unix seconds.
    pub not_before: u64,
    /// Valid up to and including, in Unix seconds.
    pub not_after: u64,
    /// Policy, revocation and relay lists: rises with each. Certificates: the revocation epoch at which they were issued.
    pub epoch: u64,
    /// Reserved for delegation; zero.
    pub usages: u32,
    /// The [`Terms`] of its kind.
    pub constraints: Bytes,
    /// Additions that a reader must know, or else refuse the statement.
    pub critical: Vec<Extension>,
    /// Additions that a reader may ignore.
    pub extensions: Vec<Extension>,
}

impl Body for Statement {
    const LABEL: &'static str = "gp1 statement";
}

/// What only one kind of statement says.
pub trait Terms: Serialize + DeserializeOwned + Clone {
    /// The kind.
    const KIND: Kind;
}

/// What every statement says, to be completed by its issuer.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its own name.
    pub serial: Serial,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whom it is about; zero where it is about the tenant.
    pub subject: [u8; 16],
    /// The subject's keys.
    pub keys: Vec<CertifiedKey>,
    /// Valid from, in Unix seconds.
    pub not_before: u64,
    /// Valid up to and including, in Unix seconds.
    pub not_after: u64,
    /// As in [`Statement::epoch`].
    pub epoch: u64,
}

impl Draft {
    /// Completes the statement with its terms and signs it.
    pub fn sign<T: Terms>(self, terms: &T, issuer: &(impl Signer + ?Sized)) -> Result<Signed<Statement>, SignError> {
        self.sign_with(terms, Vec::new(), issuer)
    }

    /// The same with extensions. A key for offline codes becomes one by itself.
    pub fn sign_with<T: Terms>(
        self,
        terms: &T,
        mut extensions: Vec<Extension>,
        issuer: &(impl Signer + ?Sized),
    ) -> Result<Signed<Statement>, SignError> {
        let Draft { serial, tenant, subject, keys, not_before, not_after, epoch } = self;
        let (otp, keys): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.key_use == KeyUse::Otp);
        extensions.extend(otp.into_iter().map(|CertifiedKey { key, .. }| {
            let (_, point): (u8, serde_bytes::ByteBuf) = key.into();
            Extension { id: OTP_KEY, value: point.into_vec().into() }
        }));
        let statement = Statement {
            version: VERSION,
            kind: T::KIND,
            serial,
            issuer: issuer.public_key().kid(),
            tenant,
            subject,
            keys,
            not_before,
            not_after,
            epoch,
            usages: 0,
            constraints: wire::to_vec(terms).into(),
            critical: Vec::new(),
            extensions,
        };
        Signed::sign(statement, issuer)
    }
}

impl Statement {
    /// What only this kind says.
    pub fn terms<T: Terms>(&self) -> Result<T, WireError> {
        if self.kind == T::KIND { wire::from_slice(&self.constraints) } else { Err(WireError::Malformed) }
    }

    /// The subject's key for a use. A certificate with two keys for one use has none: nobody may choose between them.
    pub fn key(&self, key_use: KeyUse) -> Option<PublicKey> {
        if key_use == KeyUse::Otp {
            let point = self.extension(OTP_KEY)?;
            return point[..].try_into().map(PublicKey::P256).ok();
        }
        let mut keys = self.keys.iter().filter(|key| key.key_use == key_use);
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key.key),
            _ => None,
        }
    }

    /// Every key that it certifies, as they were asked for: the one for offline codes last.
    pub fn certified_keys(&self) -> Vec<CertifiedKey> {
        let otp = self.key(KeyUse::Otp).map(|key| CertifiedKey { key_use: KeyUse::Otp, key });
        self.keys.iter().copied().chain(otp).collect()
    }

    /// The value of an extension that may be ignored; `None` where it is absent, or there twice.
    pub fn extension(&self, id: u16) -> Option<&Bytes> {
        let mut values = self.extensions.iter().filter(|extension| extension.id == id);
        match (values.next(), values.next()) {
            (Some(extension), None) => Some(&extension.value),
            _ => None,
        }
    }

    /// The subject's X25519 key, for messages sealed to it.
    pub fn seal_key(&self) -> Option<[u8; 32]> {
        match self.key(KeyUse::Channel) {
            Some(PublicKey::X25519(key)) => Some(key),
            _ => None,
        }
    }
}

numbered! {
    /// Where a device keeps its approval key.
    pub enum KeyProtection: "key protection" {
        /// In a file, behind a PIN.
        Software = 1,
        /// In hardware, behind a biometric.
        Hardware = 2,
    }
}

/// A device's certificate: keys Sign (Ed25519), Channel (X25519) and Approve (P-256); subject: the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTerms {
    /// Whose device it is.
    pub technician: TechnicianId,
    /// The technician's short name, as in `gp-alex`.
    pub technician_name: String,
    /// What the technician calls the device.
    pub device_name: String,
    /// Where its approval key lives.
    pub protection: KeyProtection,
}

impl Terms for DeviceTerms {
    const KIND: Kind = Kind::Device;
}

/// An agent's certificate: keys Sign (Ed25519) and Channel (X25519); subject: the computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentTerms {
    /// The host's name.
    pub computer: String,
    /// The domain that it is a member of, or empty.
    pub domain: String,
    /// The operating system, as a person would name it.
    pub os: String,
    /// What rules may name it by. An agent enrolled by ticket has the ticket's and no other.
    pub tags: Vec<String>,
}

impl Terms for AgentTerms {
    const KIND: Kind = Kind::Agent;
}

numbered! {
    /// Who may enrol with a ticket.
    pub enum Purpose: "purpose of a ticket" {
        /// Computers: the ticket's key signs their certificates.
        Agent = 1,
        /// Phones: the ticket's key signs a request, which an administrator approves.
        Phone = 2,
    }
}

/// An enrolment ticket: key Sign (Ed25519), whose seed travels with the ticket; subject: the ticket's serial again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketTerms {
    /// Who may use it.
    pub purpose: Purpose,
    /// How often; counted by the control plane.
    pub uses: u32,
    /// The tags that its computers get.
    pub tags: Vec<String>,
    /// The last moment, in Unix seconds, up to which a certificate that it signs may be valid.
    pub certificates_until: u64,
}

impl Terms for TicketTerms {
    const KIND: Kind = Kind::Ticket;
}

/// What is no longer valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationTerms {
    /// When it was issued, in Unix seconds.
    pub issued: u64,
    /// When a newer one is due, in Unix seconds.
    pub next_update: u64,
    /// Certificates issued at an epoch below this are no longer valid.
    pub min_epoch: u64,
    /// Serials, subjects (computers, devices), technicians, grants, and keys by [`PublicKey::revocation_id`]; sorted.
    pub revoked: Vec<Serial>,
}

impl Terms for RevocationTerms {
    const KIND: Kind = Kind::Revocation;
}

/// A key that only revokes: key Sign (Ed25519); subject: the serial again. For whoever is on duty at night, and is to end what is
/// stolen, but not to let anybody in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokerTerms {
    /// The highest epoch of its lists. A stolen one can't use up all numbers: the CA goes on behind it.
    pub max_epoch: u64,
}

impl Terms for RevokerTerms {
    const KIND: Kind = Kind::Revoker;
}

/// Where the relays are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTerms {
    /// By rising index.
    pub relays: Vec<RelayEntry>,
}

/// One relay region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEntry {
    /// The `relay_idx` of a QR.
    pub index: u16,
    /// `wss://host[:port]`.
    pub url: String,
}

impl Terms for RelayTerms {
    const KIND: Kind = Kind::Relays;
}
