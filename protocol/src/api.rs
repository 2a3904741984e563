//! The JSON of `/api/v1` that agents and phones speak: enrolment, statements in force, events. Signed bytes are base64,
//! identifiers hexadecimal digits. Nothing of it is believed: what comes back is checked against the CA keys of the ticket.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{
    Code,
    ids::{Serial, TenantId},
    statement::Kind,
    trust::{Accepted, CaPublic, TrustStore},
};

/// Bytes that are base64 in JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Base64(pub Bytes);

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for Base64 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(|_| D::Error::custom("not base64"))
    }
}

/// GET `/api/v1/log/TENANT?from=SIZE`: the audit log as of now, and that it continues what was seen of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    /// A signed [`Head`](crate::log::Head).
    pub head: Base64,
    /// The Ed25519 key that signed it: the same for good, so whoever saw it once expects it.
    pub key: Base64,
    /// The [`Proof`](crate::log::Proof) that the log continues its first `from` entries; none where it has fewer.
    pub consistency: Option<Base64>,
    /// The roots of the whole trees that its first `from` entries are made of, the largest first.
    pub frontier: Option<Base64>,
}

/// POST `/api/v1/enrol/agent`: a computer enrols itself. Answered by a [`Welcome`].
#[derive(Debug, Serialize, Deserialize)]
pub struct EnrolAgent {
    /// The ticket's statement.
    pub ticket: Base64,
    /// The computer's certificate, signed by the ticket's key.
    pub certificate: Base64,
}

/// POST `/api/v1/enrol/device`: a phone asks. Answered by a [`Waiting`].
#[derive(Debug, Serialize, Deserialize)]
pub struct EnrolDevice {
    /// The ticket's statement.
    pub ticket: Base64,
    /// The request, signed by the ticket's key.
    pub request: Base64,
}

/// GET `/api/v1/enrol/device/ID` answers 202 until an administrator has signed, then 200 and a [`Welcome`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// Where to ask again.
    #[serde(with = "text")]
    pub request_id: Serial,
}

/// POST `/api/v1/enrol/slots`: a phone that shows two words opens a slot. Answered by [`SlotOpened`].
#[derive(Debug, Serialize, Deserialize)]
pub struct NewSlot {
    /// The tenant's tag, 8 hexadecimal digits: [`tenant_tag`](crate::qr::tenant_tag).
    pub tenant: String,
    /// What the phone calls itself, for an administrator who has several before them.
    pub name: String,
    /// The first message of [`crate::slot`].
    pub message: Base64,
}

/// Where the messages go: `/api/v1/enrol/slots/SLOT/messages/NUMBER`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SlotOpened {
    /// The slot.
    #[serde(with = "text")]
    pub slot: Serial,
}

/// GET: 202 until the message is there, then 200. PUT: the next message.
#[derive(Debug, Serialize, Deserialize)]
pub struct SlotMessage {
    /// The message.
    pub message: Base64,
}

/// What an enrolled computer or phone starts with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The tenant's CA keys, PEM, as the control plane has them. A newcomer believes those of its ticket.
    #[serde(default)]
    pub ca_pem: Vec<String>,
    /// The certificate chain, the own one first; for a phone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate: Vec<Base64>,
    /// The statements in force.
    #[serde(flatten)]
    pub statements: Statements,
}

/// The statements in force; none before the first one was signed. GET `/api/v1/statements/TENANT` answers with them, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Statements {
    /// The policy.
    pub policy: Option<Base64>,
    /// The revocation list.
    pub revocation: Option<Base64>,
    /// The relay list.
    pub relays: Option<Base64>,
}

impl Statements {
    /// The newest of a trust store, for keeping.
    pub fn of(trust: &TrustStore) -> Self {
        let kept = |kind| trust.kept(kind).cloned().map(Base64);
        Self { policy: kept(Kind::Policy), revocation: kept(Kind::Revocation), relays: kept(Kind::Relays) }
    }

    /// Gives a trust store back what was kept of it. Says what does not belong to it.
    pub fn restore_into(&self, trust: &mut TrustStore) -> Result<(), Code> {
        let kept = [&self.revocation, &self.policy, &self.relays];
        kept.into_iter().flatten().try_for_each(|Base64(list)| trust.restore(list).map(|_| ()))
    }

    /// Hands all of them to a trust store, the revocation list first, since it may concern who signed the others. Says what
    /// was new and what was refused.
    pub fn accept_into(&self, trust: &mut TrustStore, now: u64) -> Vec<(Kind, Result<Accepted, Code>)> {
        let mut verdicts = Vec::new();
        if let Some(Base64(list)) = &self.revocation {
            verdicts.push((Kind::Revocation, trust.accept_revocation(list, now)));
        }
        if let Some(Base64(list)) = &self.policy {
            verdicts.push((Kind::Policy, trust.accept_policy(list, now)));
        }
        if let Some(Base64(list)) = &self.relays {
            verdicts.push((Kind::Relays, trust.accept_relays(list, now)));
        }
        verdicts
    }
}

/// GET `/api/v1/feed?after=CURSOR&tenant=TENANT...`: what a regional relay needs to know of its tenants, or of all. Answered at
/// once while there is something that came after the cursor, else after some seconds with nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Feed {
    /// What to ask after next. Means nothing to anybody but the control plane that gave it.
    pub cursor: String,
    /// Each tenant that has changed, as a whole.
    pub tenants: Vec<TenantTrust>,
    /// There is more that came after the cursor: ask again at once.
    pub more: bool,
}

/// All that there is to know of a tenant in order to tell its computers and phones from others. Nothing of it is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TenantTrust {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// Its CA keys, PEM.
    pub ca_pem: Vec<String>,
    /// Its newest statements.
    #[serde(flatten)]
    pub statements: Statements,
}

impl TenantTrust {
    /// What a trust store holds.
    pub fn of(trust: &TrustStore) -> Self {
        let ca_pem = trust.cas().map(CaPublic::to_pem).collect();
        Self { tenant: trust.tenant(), ca_pem, statements: Statements::of(trust) }
    }
}

/// POST `/api/v1/directory`: an agent asks for the tenant's phones, a phone for its computers. Answered by [`Directory`].
#[derive(Debug, Serialize, Deserialize)]
pub struct AskDirectory {
    /// The certificate chain of who asks.
    pub chain: Vec<Base64>,
    /// A signed [`DirectoryRequest`](crate::directory::DirectoryRequest).
    pub request: Base64,
}

/// Certificate chains, by the time at which they were enrolled. None of them is believed for being here.
#[derive(Debug, Serialize, Deserialize)]
pub struct Directory {
    /// Each with its issuer's certificate behind it where that is not a CA.
    pub chains: Vec<Vec<Base64>>,
    /// Where the list stops.
    #[serde(flatten)]
    pub place: Place,
    /// There are more behind it.
    pub more: bool,
}

/// A place in the directory, to be asked from next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The time at which the last entry was enrolled, in Unix seconds by the control plane's clock.
    pub since: u64,
    /// Its identifier.
    #[serde(with = "text")]
    pub after: Serial,
}

impl Default for Place {
    fn default() -> Self {
        Self { since: 0, after: Serial([0; 16]) }
    }
}

/// POST `/api/v1/events`: an agent's event. Answered by [`Kept`].
#[derive(Debug, Serialize, Deserialize)]
pub struct NewEvent {
    /// The agent's certificate chain.
    pub chain: Vec<Base64>,
    /// The event, signed by the agent.
    pub event: Base64,
}

/// The number under which an event is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The number in the tenant's trail.
    pub seq: u64,
}

/// Identifiers as people see them, for `#[serde(with = "text")]`.
pub mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As hexadecimal digits.
    pub fn serialize<T: Display, S: Serializer>(id: &T, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(id)
    }

    /// From hexadecimal digits.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}
