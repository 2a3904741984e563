//! Enrolment: the phone makes its keys, signs a request with the ticket's key, and waits for an administrator who has read the
//! fingerprint off its screen. What comes back is believed only as far as the CA keys in the ticket vouch for it.

use bytes::Bytes;
use gatepass_client::{
    Http, HttpError, Method, Proxies, Tls, TlsError,
    api::{Base64, EnrolDevice, Log, Waiting, Welcome},
};
use gatepass_protocol::{
    Code,
    enrol::{DeviceRequest, NotATicket, Ticket, fingerprint},
    ids::DeviceId,
    keys::{ChannelKey, OtpKey, Signer, SigningKey},
    signed::{Signed, Unverified},
    statement::{KeyProtection, KeyUse, Purpose, Statement},
    trust::{CaPublic, TrustStore},
    vault::VaultError,
};
use rand_core::CryptoRng;

use crate::{
    keys::{self, ApprovalKey, WeakPin, check_pin},
    profile::{Beginning, Profile, ProfileError, Stage},
};

/// Why a phone is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The text is none.
    #[error(transparent)]
    NotATicket(#[from] NotATicket),
    /// It is one for computers.
    #[error("this ticket is for computers, not for phones: ask your administrator for a phone's ticket")]
    NotForPhones,
    /// Expired, revoked or signed by somebody else.
    #[error("this ticket is not valid, or not any more ({}): ask your administrator for a new one", .0.message())]
    Invalid(Code),
    /// Choose another.
    #[error(transparent)]
    Pin(#[from] WeakPin),
    /// The key could not be sealed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The control plane was not reached or refused.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The kept profile is not usable.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// What came back is not a certificate for this phone's keys.
    #[error("the certificate that came back is not for this phone ({reason}): tell your administrator")]
    WrongCertificate {
        /// What does not fit.
        reason: &'static str,
    },
}

/// A request that is ready to be sent.
pub struct Enrolment {
    profile: Profile,
    question: EnrolDevice,
}

impl Enrolment {
    /// Checks the ticket, makes the keys and signs the request.
    pub fn begin(
        ticket: &Ticket,
        device_name: &str,
        pin: &str,
        now: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, EnrolError> {
        check_pin(pin)?;
        let (tenant, serial) = checked(ticket, now)?;
        let (channel, sign, approve) =
            (ChannelKey::generate(rng), SigningKey::generate(rng), ApprovalKey::generate(rng));
        let otp = OtpKey::generate(rng);
        let device = DeviceId::random(rng);
        let request = DeviceRequest {
            ticket: serial,
            device,
            keys: keys::certified(&channel, &sign, &approve, &otp),
            device_name: device_name.to_owned(),
            protection: KeyProtection::Software,
            time: now,
        };
        let key = ticket.key();
        let Ok(request) = Signed::sign(request, &key) else { unreachable!("a key in memory signs") };
        let profile = Profile::new(Beginning {
            url: ticket.url.clone(),
            tls_ca_pem: ticket.tls_ca_pem.clone(),
            cas: ticket.cas.clone(),
            tenant,
            device,
            device_name: device_name.to_owned(),
            channel,
            sign,
            approval_public: approve.public_key(),
            approval_key: approve.seal(pin, rng)?,
            otp_public: otp.public_key(),
            otp_key: keys::seal_otp(&otp, pin, rng)?,
            stage: Stage::Waiting { request: String::new(), fingerprint: fingerprint(&request) },
        });
        let question =
            EnrolDevice { ticket: Base64(ticket.statement.clone()), request: Base64(request.bytes().clone()) };
        Ok(Self { profile, question })
    }

    /// The same request, sent through a proxy.
    pub fn through(mut self, proxies: Proxies) -> Self {
        self.profile.proxies = proxies;
        self
    }

    /// The request as it is signed.
    pub fn request(&self) -> &Bytes {
        &self.question.request.0
    }

    /// Sends it; the profile that waits comes back, to be kept.
    pub async fn send(mut self) -> Result<Profile, EnrolError> {
        let http = http(&self.profile)?;
        let waiting: Waiting = http.post_json("/api/v1/enrol/device", &self.question).await?;
        if let Stage::Waiting { request, .. } = &mut self.profile.stage {
            *request = waiting.request_id.to_string();
        }
        Ok(self.profile)
    }
}

/// Asks once whether the administrator has approved. True: the profile is enrolled and is to be kept.
pub async fn ask(profile: &mut Profile, now: u64) -> Result<bool, EnrolError> {
    let Some(request) = profile.request() else { return Ok(true) };
    let answer = http(profile)?.request(Method::GET, &format!("/api/v1/enrol/device/{request}"), None).await?;
    if answer.status == 202 {
        return Ok(false);
    }
    complete(profile, &answer.json()?, now)?;
    Ok(true)
}

/// Fetches the statements in force and keeps what is newer.
pub async fn refresh(profile: &mut Profile, trust: &mut TrustStore, now: u64) -> Result<(), EnrolError> {
    let path = format!("/api/v1/statements/{}", profile.tenant);
    let statements: gatepass_client::api::Statements = http(profile)?.get_json(&path).await?;
    for (kind, verdict) in statements.accept_into(trust, now) {
        if let Err(code) = verdict {
            tracing::warn!(?kind, %code, "the control plane gave a list that is not in order");
        }
    }
    profile.remember(trust);
    Ok(())
}

/// The audit log's head as of now, for [`Profile::witness`].
pub async fn log(profile: &Profile) -> Result<Log, EnrolError> {
    let path = format!("/api/v1/log/{}?from={}", profile.tenant, profile.log_seen());
    Ok(http(profile)?.get_json(&path).await?)
}

fn complete(profile: &mut Profile, welcome: &Welcome, now: u64) -> Result<(), EnrolError> {
    let wrong = |reason| EnrolError::WrongCertificate { reason };
    let [certificate] = &welcome.certificate[..] else { return Err(wrong("not one certificate")) };
    let mut trust = profile.trust()?;
    welcome.statements.accept_into(&mut trust, now);
    let device = trust.device(std::slice::from_ref(&certificate.0), now).map_err(EnrolError::Invalid)?;
    let statement = device.statement();
    if statement.subject != *profile.device.as_bytes() {
        return Err(wrong("another device's name"));
    }
    if !profile.has_keys_of(statement) {
        return Err(wrong("other keys"));
    }
    if device.terms().protection != KeyProtection::Software {
        return Err(wrong("it says that the key is in hardware"));
    }
    profile.stage = Stage::Enrolled { certificate: certificate.clone() };
    profile.remember(&trust);
    Ok(())
}

/// Whether a phone can be enrolled with this ticket, as far as the ticket says: for asking nothing before it is sure.
pub fn check(ticket: &Ticket, now: u64) -> Result<(), EnrolError> {
    checked(ticket, now).map(drop)
}

/// The tenant and the ticket's serial, checked with the CA keys that came with it.
fn checked(
    ticket: &Ticket,
    now: u64,
) -> Result<(gatepass_protocol::ids::TenantId, gatepass_protocol::ids::Serial), EnrolError> {
    let cas =
        ticket.cas.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<Vec<_>, _>>().map_err(|_| NotATicket)?;
    let claimed = Unverified::<Statement>::decode(ticket.statement.clone()).map_err(|_| NotATicket)?;
    let trust = TrustStore::new(claimed.claimed().tenant, cas);
    let checked = trust.ticket(&ticket.statement, now).map_err(EnrolError::Invalid)?;
    if checked.terms().purpose != Purpose::Phone {
        return Err(EnrolError::NotForPhones);
    }
    if checked.statement().key(KeyUse::Sign) != Some(ticket.key().public_key()) {
        return Err(NotATicket.into());
    }
    Ok((trust.tenant(), checked.statement().serial))
}

fn http(profile: &Profile) -> Result<Http, EnrolError> {
    Ok(Http::new(&profile.url, Tls::from_pem(profile.tls_ca_pem.as_deref())?, profile.proxies.clone())?)
}
