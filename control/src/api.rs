//! What travels in the JSON of `/api/v1`: identifiers as hexadecimal digits, signed bytes as base64, times as Unix seconds.
//!
//! The command line uses the same types, so that both ends change together.

mod audit;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use gatepass_protocol::api::text;
pub use gatepass_protocol::api::{
    Base64, EnrolAgent, EnrolDevice, Kept, Log, NewEvent, SlotMessage, Statements, Waiting, Welcome,
};
use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TechnicianId, TenantId};
use gatepass_protocol::keys::Kid;
use gatepass_protocol::statement::Kind;

pub use self::audit::{Act, By, Outcome, TrailEntry};
pub use crate::access::Role;

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

mod optional_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(id: &Option<T>, out: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => out.collect_str(id),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

mod texts {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(ids: &[T], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(ids.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(input)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

mod kid {
    use gatepass_protocol::keys::Kid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(kid: &Kid, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&super::hex(&kid.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Kid, D::Error> {
        let text = String::deserialize(input)?;
        let digits = u64::from_str_radix(&text, 16).ok().filter(|_| text.len() == 16);
        digits.map(|digits| Kid(digits.to_be_bytes())).ok_or_else(|| D::Error::custom("not a key identifier"))
    }
}

/// The signed statements that are in force in a tenant, one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// Who may do what, where and how.
    Policy,
    /// What no longer counts.
    Revocation,
    /// Where the relays are.
    Relays,
}

impl StatementKind {
    /// All of them.
    pub const ALL: [StatementKind; 3] = [StatementKind::Policy, StatementKind::Revocation, StatementKind::Relays];

    /// The kind on the wire.
    pub fn kind(self) -> Kind {
        match self {
            StatementKind::Policy => Kind::Policy,
            StatementKind::Revocation => Kind::Revocation,
            StatementKind::Relays => Kind::Relays,
        }
    }

    /// The name in sentences, in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            StatementKind::Policy => "policy",
            StatementKind::Revocation => "revocation list",
            StatementKind::Relays => "relay list",
        }
    }
}

/// A statement that an administrator signed: a ticket, a policy, a revocation list, a relay list.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct NewStatement {
    /// The signed bytes.
    #[schemars(with = "String")]
    pub statement: Base64,
}

/// The epoch that is now in force.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct InForce {
    /// The statement's epoch.
    pub epoch: u64,
}

/// A tenant to be made.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What people call it.
    pub name: String,
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Tenant {
    /// Its identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: u64,
}

/// A new tenant with its administrator's token, which is shown this once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct TenantCreated {
    /// Its identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: TenantId,
    /// What an administrator shows to be let in.
    pub token: String,
}

/// A part of a list, in the order of its identifiers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// What is in it.
    pub items: Vec<T>,
    /// Where the next part begins (`after`); none: this was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What lets somebody in: a secret that they keep in a file, and of which the server knows the hash.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its identifier, which is no secret.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: Serial,
    /// What it is for, in words.
    pub name: String,
    /// What it lets do.
    pub role: Role,
    /// Whose it is, if it is a technician's.
    #[serde(with = "optional_text", default)]
    #[schemars(with = "Option<String>")]
    pub technician: Option<TechnicianId>,
    /// Since when.
    pub created: u64,
    /// Until when; none: until it is removed.
    pub expires: Option<u64>,
}

/// A token to be made.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for, in words.
    pub name: String,
    /// What it lets do.
    pub role: Role,
    /// Whose it is: it lets do nothing that the technician may not, and ends when their role changes.
    #[serde(with = "optional_text", default)]
    #[schemars(with = "Option<String>")]
    pub technician: Option<TechnicianId>,
    /// After how many days it ends: 1 to 366.
    pub days: u64,
}

/// A new token, which is shown this once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// What it is.
    pub token: Token,
    /// What its holder shows to be let in.
    pub secret: String,
}

/// A technician who signs in.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// Where.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub tenant: TenantId,
    /// The technician's name.
    pub name: String,
    /// The password.
    pub password: String,
    /// The six digits that the authenticator shows now.
    pub code: String,
}

/// A technician's new password.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSignIn {
    /// The password.
    pub password: String,
}

/// The secret of a technician's one-time codes, which is shown this once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SignInMade {
    /// `otpauth://totp/..`, which authenticators read.
    pub uri: String,
}

/// One of the operator's people, who can be delegated to tenants.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Person {
    /// The identifier, also as a technician.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: TechnicianId,
    /// The name in account names and on screens.
    pub name: String,
    /// The e-mail address.
    pub email: String,
    /// Since when.
    pub added: u64,
}

/// One of the operator's people to be added.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPerson {
    /// The name in account names and on screens.
    pub name: String,
    /// The e-mail address.
    pub email: String,
}

/// Makes one of the operator's people a technician of a tenant.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    /// Who.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub person: TechnicianId,
    /// As what.
    pub role: Role,
}

/// A group of technicians.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Its identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: Serial,
    /// What people call it.
    pub name: String,
    /// Who is in it.
    #[serde(with = "texts")]
    #[schemars(with = "Vec<String>")]
    pub technicians: Vec<TechnicianId>,
}

/// A group to be made, or to become this.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// What people call it.
    pub name: String,
    /// Who is in it.
    #[serde(with = "texts", default)]
    #[schemars(with = "Vec<String>")]
    pub technicians: Vec<TechnicianId>,
}

/// With whom a computer is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// All administrators of the tenant.
    pub all_admins: bool,
    /// All technicians of the tenant.
    pub all_users: bool,
    /// These technicians.
    #[serde(with = "texts")]
    #[schemars(with = "Vec<String>")]
    pub technicians: Vec<TechnicianId>,
    /// Who is in these groups.
    #[serde(with = "texts")]
    #[schemars(with = "Vec<String>")]
    pub groups: Vec<Serial>,
}

/// A tenant at a glance.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The tenant.
    pub tenant: Tenant,
    /// The server's version.
    pub version: String,
    /// The server's clock.
    pub time: u64,
    /// How many CA keys are trusted.
    pub ca_keys: u64,
    /// How many technicians there are.
    pub technicians: u64,
    /// How many phones are enrolled.
    pub devices: u64,
    /// How many phones wait for approval.
    pub pending: u64,
    /// How many computers are enrolled.
    pub computers: u64,
    /// The number of the last entry of the audit trail.
    pub events: u64,
    /// The epochs in force: 0 where nothing was signed yet.
    pub policy_epoch: u64,
    /// See `policy_epoch`.
    pub revocation_epoch: u64,
    /// See `policy_epoch`.
    pub relays_epoch: u64,
}

/// A CA key of a tenant: the public half, all that the server ever has.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CaKey {
    /// Its short name in statements.
    #[serde(with = "kid")]
    #[schemars(with = "String")]
    pub kid: Kid,
    /// What the administrator calls it.
    pub name: String,
    /// SubjectPublicKeyInfo.
    pub pem: String,
    /// Since when it is trusted.
    pub added: u64,
}

/// A CA key to be trusted.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCaKey {
    /// What the administrator calls it.
    pub name: String,
    /// SubjectPublicKeyInfo.
    pub pem: String,
}

/// A person who may approve.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Technician {
    /// The identifier in certificates and rules.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: TechnicianId,
    /// The name in account names and on screens.
    pub name: String,
    /// The e-mail address; empty where none is known.
    pub email: String,
    /// What they may do through the API. What they may do at computers, the policy says.
    pub role: Role,
    /// Whether it is one of the operator's people.
    pub delegated: bool,
    /// Since when.
    pub added: u64,
}

/// A technician to be added.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTechnician {
    /// The name in account names and on screens.
    pub name: String,
    /// The e-mail address.
    #[serde(default)]
    pub email: String,
    /// What they may do through the API.
    #[serde(default = "plain_technician")]
    pub role: Role,
}

fn plain_technician() -> Role {
    Role::Technician
}

/// What a technician becomes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TechnicianChange {
    /// The e-mail address; empty: none.
    pub email: String,
    /// What they may do through the API. A change makes their tokens worthless.
    pub role: Role,
}

/// An enrolment ticket, as the server knows it: without the secret that travels in the ticket file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Ticket {
    /// The statement's serial.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub serial: Serial,
    /// "agent" or "phone".
    pub purpose: String,
    /// The tags that its computers get.
    pub tags: Vec<String>,
    /// How often it may be used.
    pub uses: u64,
    /// How often it was.
    pub used: u64,
    /// Until when.
    pub not_after: u64,
}

/// A phone that waits for an administrator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PendingDevice {
    /// The request's identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub request: Serial,
    /// What the phone calls itself.
    pub name: String,
    /// When it asked.
    pub asked: u64,
    /// The ticket it used.
    #[schemars(with = "String")]
    pub ticket: Base64,
    /// The request as the phone signed it with the ticket's key.
    #[schemars(with = "String")]
    pub enrol: Base64,
}

/// A phone that shows two words, and waits for an administrator who types them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Slot {
    /// The slot's identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: Serial,
    /// What the phone calls itself. Nobody vouches for it.
    pub name: String,
    /// When it was opened.
    pub opened: u64,
}

/// The certificate that an administrator signed for a waiting phone.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApproveDevice {
    /// The signed certificate.
    #[schemars(with = "String")]
    pub certificate: Base64,
}

/// An enrolled phone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// The identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: DeviceId,
    /// What the phone calls itself.
    pub name: String,
    /// Whose it is.
    pub technician: String,
    /// The certificate's serial.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub serial: Serial,
    /// When it was approved.
    pub approved: u64,
    /// Until when its certificate holds.
    pub not_after: u64,
    /// Whether it stands on the revocation list.
    pub revoked: bool,
}

/// An enrolled computer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Computer {
    /// The identifier.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub id: ComputerId,
    /// What it calls itself.
    pub name: String,
    /// Its domain, empty where it has none.
    pub domain: String,
    /// Its operating system.
    pub os: String,
    /// What rules may select it by.
    pub tags: Vec<String>,
    /// When it was enrolled.
    pub enrolled: u64,
    /// Until when its certificate holds.
    pub not_after: u64,
    /// The version of its agent, by its own word; empty until it sent an event.
    #[serde(default)]
    pub agent_version: String,
    /// When its agent last sent an event.
    pub last_event: Option<u64>,
    /// Whether it stands on the revocation list.
    pub revoked: bool,
}

/// Whether a character would do something to a terminal or hide something from its reader: controls, and the marks that
/// turn the direction of writing.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
