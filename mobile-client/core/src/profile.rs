//! What a phone keeps: who it is, whom it believes, and the sealed approval key. One JSON text; whoever stores it keeps it
//! private, for two of the keys in it work without a PIN.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gatepass_client::{
    Endpoint, Proxies, Settings, Tls, TlsError,
    api::{Base64, Log, Statements},
};
use gatepass_protocol::{
    Code,
    ids::{DeviceId, Serial, TenantId},
    keys::{ChannelKey, PublicKey, Signer, SigningKey},
    signed::Unverified,
    statement::{DeviceTerms, KeyUse, Statement},
    trust::{CaPublic, Certified, TrustStore},
    witness::{NotTheLog, Witness, Witnessed},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use zeroize::Zeroizing;

/// An enrolled phone, or one that waits for its administrator.
#[derive(Serialize, Deserialize)]
pub struct Profile {
    format: u8,
    /// Where the control plane answers.
    pub url: String,
    /// The certificate to expect there and at the relays, where no public CA vouches for it.
    pub tls_ca_pem: Option<String>,
    /// The tenant's CA keys, PEM.
    pub cas: Vec<String>,
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// This phone.
    #[serde(with = "text")]
    pub device: DeviceId,
    /// What its technician calls it.
    pub device_name: String,
    channel_key: Secret,
    sign_key: Secret,
    /// The public half of the approval key: its SubjectPublicKeyInfo.
    approval_public: Base64,
    /// The approval key behind the PIN.
    approval_key: String,
    /// The public half of the key for offline codes; none where the phone was enrolled before there were any.
    #[serde(default)]
    otp_public: Option<Base64>,
    /// That key behind the PIN.
    #[serde(default)]
    otp_key: Option<String>,
    pub(crate) stage: Stage,
    statements: Statements,
    /// What this phone has seen of the tenant's audit log.
    #[serde(default)]
    log: Witness,
    /// Through which proxy this phone goes out: a matter of the network that it is in, so whoever loads the profile says it.
    #[serde(skip, default = "Proxies::none")]
    pub proxies: Proxies,
}

/// How far enrolment has come.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Asked, under this name; an administrator has to sign.
    Waiting { request: String, fingerprint: String },
    /// The certificate.
    Enrolled { certificate: Base64 },
}

/// Why a kept profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not one, or of a newer version.
    #[error("the phone's profile is damaged or of a newer version: restore it from a backup, or enrol again")]
    Damaged,
    /// Still waiting for the administrator.
    #[error("this phone is not enrolled yet: run 'gatepass-phone enrol' until the administrator has approved it")]
    NotEnrolled,
    /// The certificate is not valid any more.
    #[error("this phone's certificate is not valid any more ({}): {}", .0.message(), .0.todo())]
    Certificate(Code),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no relay to go to.
    #[error("no relay is known: ask your administrator to sign a relay list, then run 'gatepass-phone status'")]
    NoRelay,
}

/// What a profile begins with.
pub(crate) struct Beginning {
    pub(crate) url: String,
    pub(crate) tls_ca_pem: Option<String>,
    pub(crate) cas: Vec<String>,
    pub(crate) tenant: TenantId,
    pub(crate) device: DeviceId,
    pub(crate) device_name: String,
    pub(crate) channel: ChannelKey,
    pub(crate) sign: SigningKey,
    pub(crate) approval_public: PublicKey,
    pub(crate) approval_key: String,
    pub(crate) otp_public: PublicKey,
    pub(crate) otp_key: String,
    pub(crate) stage: Stage,
}

const FORMAT: u8 = 1;

impl Profile {
    pub(crate) fn new(beginning: Beginning) -> Self {
        Self {
            format: FORMAT,
            url: beginning.url,
            tls_ca_pem: beginning.tls_ca_pem,
            cas: beginning.cas,
            tenant: beginning.tenant,
            device: beginning.device,
            device_name: beginning.device_name,
            channel_key: Secret(beginning.channel.to_bytes()),
            sign_key: Secret(beginning.sign.seed()),
            approval_public: Base64(beginning.approval_public.spki().into()),
            approval_key: beginning.approval_key,
            otp_public: Some(Base64(beginning.otp_public.spki().into())),
            otp_key: Some(beginning.otp_key),
            stage: beginning.stage,
            statements: Statements::default(),
            log: Witness::default(),
            proxies: Proxies::none(),
        }
    }

    /// Reads what [`Profile::to_text`] wrote.
    pub fn from_text(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_str(text).map_err(|_| ProfileError::Damaged)?;
        if profile.format == FORMAT { Ok(profile) } else { Err(ProfileError::Damaged) }
    }

    /// For keeping, privately.
    pub fn to_text(&self) -> Zeroizing<String> {
        // No map with keys that are no strings, so this can't fail.
        Zeroizing::new(serde_json::to_string_pretty(self).unwrap_or_default())
    }

    /// The key of the channel and of sealed messages.
    pub fn channel_key(&self) -> ChannelKey {
        ChannelKey::from_bytes(&self.channel_key.0)
    }

    /// The key of the relay connection and of orders.
    pub fn sign_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.sign_key.0)
    }

    /// The key that approves, behind the PIN: for [`ApprovalKey::open`](crate::keys::ApprovalKey::open).
    pub fn sealed_approval_key(&self) -> &str {
        &self.approval_key
    }

    /// The key for offline codes, behind the PIN: for [`open_otp`](crate::keys::open_otp). None where the phone was enrolled before
    /// there were any.
    pub fn sealed_otp_key(&self) -> Option<&str> {
        self.otp_key.as_deref()
    }

    /// The fingerprint that an administrator compares, while one is awaited.
    pub fn fingerprint(&self) -> Option<&str> {
        match &self.stage {
            Stage::Waiting { fingerprint, .. } => Some(fingerprint),
            Stage::Enrolled { .. } => None,
        }
    }

    /// The certificate chain.
    pub fn chain(&self) -> Result<Vec<Bytes>, ProfileError> {
        match &self.stage {
            Stage::Enrolled { certificate: Base64(certificate) } => Ok(vec![certificate.clone()]),
            Stage::Waiting { .. } => Err(ProfileError::NotEnrolled),
        }
    }

    /// Whom this phone believes, with the newest lists it has seen.
    pub fn trust(&self) -> Result<TrustStore, ProfileError> {
        let cas = self.cas.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<Vec<_>, _>>();
        let mut trust = TrustStore::new(self.tenant, cas.map_err(|_| ProfileError::Damaged)?);
        self.statements.restore_into(&mut trust).map_err(|_| ProfileError::Damaged)?;
        Ok(trust)
    }

    /// Keeps the newest lists; never one that is older than what was kept.
    pub fn remember(&mut self, trust: &TrustStore) {
        let newest = Statements::of(trust);
        for (kept, new) in [
            (&mut self.statements.policy, newest.policy),
            (&mut self.statements.revocation, newest.revocation),
            (&mut self.statements.relays, newest.relays),
        ] {
            if epoch(&new) > epoch(kept) {
                *kept = new;
            }
        }
    }

    /// How many entries of the audit log this phone has seen.
    pub(crate) fn log_seen(&self) -> u64 {
        self.log.seen()
    }

    /// Keeps the newest head of the audit log, if it continues what this phone has seen.
    pub fn witness(&mut self, shown: &Log) -> Result<(), NotTheLog> {
        self.log.accept(self.tenant, shown).map(drop)
    }

    /// The heads of the audit log that this phone has seen, for comparing with what an auditor was shown.
    pub fn heads(&self) -> Vec<Witnessed> {
        self.log.heads()
    }

    /// The own certificate, checked.
    pub fn certificate(&self, trust: &TrustStore, now: u64) -> Result<Certified<DeviceTerms>, ProfileError> {
        trust.device(&self.chain()?, now).map_err(ProfileError::Certificate)
    }

    /// How to connect: to the relay that a QR names, or to any.
    pub fn settings(&self, trust: &TrustStore, relay: Option<u16>) -> Result<Settings, ProfileError> {
        let entries = trust.relays().map(|list| &list.terms().relays[..]).unwrap_or_default();
        let relays: Vec<Endpoint> = entries
            .iter()
            .filter(|entry| relay.is_none_or(|index| index == entry.index))
            .filter_map(|entry| entry.url.parse().ok())
            .collect();
        if relays.is_empty() {
            return Err(ProfileError::NoRelay);
        }
        let tls = Tls::from_pem(self.tls_ca_pem.as_deref())?;
        let (proxies, key) = (self.proxies.clone(), Arc::new(self.sign_key()));
        Ok(Settings { relays, tls, proxies, chain: self.chain()?, key })
    }

    /// Whether a statement certifies exactly the keys of this phone.
    pub(crate) fn has_keys_of(&self, statement: &Statement) -> bool {
        statement.key(KeyUse::Sign) == Some(self.sign_key().public_key())
            && statement.key(KeyUse::Channel) == Some(self.channel_key().public_key())
            && statement.key(KeyUse::Approve).is_some_and(|key| key.spki() == self.approval_public.0)
            && statement.key(KeyUse::Otp).map(|key| key.spki()) == self.otp_public.as_ref().map(|key| key.0.to_vec())
    }

    pub(crate) fn request(&self) -> Option<Serial> {
        match &self.stage {
            Stage::Waiting { request, .. } => request.parse().ok(),
            Stage::Enrolled { .. } => None,
        }
    }
}

/// The epoch of a list that was verified before it was kept.
fn epoch(list: &Option<Base64>) -> u64 {
    let statement = list.as_ref().and_then(|list| Unverified::<Statement>::decode(list.0.clone()).ok());
    statement.map_or(0, |statement| statement.claimed().epoch)
}

/// 32 secret bytes, base64 in JSON, wiped on drop.
struct Secret(Zeroizing<[u8; 32]>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&Zeroizing::new(STANDARD.encode(*self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(input)?);
        let mut secret = Zeroizing::new([0; 32]);
        match STANDARD.decode_slice(&*text, &mut *secret) {
            Ok(32) => Ok(Self(secret)),
            _ => Err(D::Error::custom("not a key")),
        }
    }
}

/// Identifiers as people see them.
pub(crate) mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<T: Display, S: Serializer>(id: &T, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(id)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}
