//! What agents and phones ask for without an administrator's token: their ticket or their certificate is their right.
//!
//! A request that is repeated byte for byte, because the answer was lost, gets the same answer and counts once.

use std::sync::Arc;

use bytes::Bytes;

use gatepass_protocol::Code;
use gatepass_protocol::enrol::DeviceRequest;
use gatepass_protocol::event::Event;
use gatepass_protocol::ids::{ComputerId, Serial, TenantId};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{KeyUse, Purpose, Statement, TicketTerms};
use gatepass_protocol::trust::{Certified, TrustStore};

use crate::admin::{good_name, purpose_name};
use crate::api::{
    Base64, EnrolAgent, EnrolDevice, Kept, NewEvent, Shares, StatementKind, Statements, Waiting, Welcome,
};
use crate::audit::note;
use crate::problem::Refusal;
use crate::store::{self, Actor, Db, NewComputer, NewDeviceRequest, NewTicket, Scope, StoreError};
use crate::{Inner, rng};

/// An event says one thing. The bound keeps a page of the trail within what its reader takes.
const LARGEST_EVENT: usize = 8 * 1024;

impl Inner {
    /// Enrols a computer that signed its certificate with the key of its ticket.
    pub(crate) fn enrol_agent(&self, enrol: &EnrolAgent, now: u64) -> Result<Welcome, Refusal> {
        let bytes = enrol.ticket.0.clone();
        let (trust, ticket) = self.ticket(&bytes, Purpose::Agent, now)?;
        let refused = |code| Refusal::Statement { what: "computer's certificate", code };
        let certificate = enrol.certificate.0.clone();
        let agent = trust.agent(&[certificate.clone(), bytes], now).map_err(refused)?;
        let terms = agent.terms();
        let computer = NewComputer {
            id: ComputerId(agent.statement().subject),
            ticket: ticket.statement().serial,
            name: good_name("the computer's name", &terms.computer)?,
            domain: if terms.domain.is_empty() { "" } else { good_name("the domain's name", &terms.domain)? },
            os: if terms.os.is_empty() { "" } else { good_name("the system's name", &terms.os)? },
            tags: &terms.tags,
            certificate: &certificate,
            not_after: agent.statement().not_after,
        };
        let tenant = trust.tenant();
        self.store.write(Scope::Tenant(tenant), |db| {
            match store::computer_certificate(db, tenant, computer.id)? {
                Some(known) if known == *certificate => return Ok(()),
                Some(_) => return Err(Refusal::Exists { what: "computer", name: computer.id.to_string() }),
                None => {}
            }
            use_ticket(db, tenant, &ticket, now)?;
            store::insert_computer(db, tenant, &computer, now)?;
            store::set_shares(
                db,
                tenant,
                computer.id,
                &Shares { all_admins: true, all_users: true, ..Shares::default() },
            )?;
            note(db, tenant, now, "computer enrolled", &computer.id.to_string(), computer.name)
        })?;
        self.welcome(tenant, Vec::new())
    }

    /// Takes a phone's request, for an administrator to look at.
    pub(crate) fn enrol_device(&self, enrol: &EnrolDevice, now: u64) -> Result<Waiting, Refusal> {
        let bytes = enrol.ticket.0.clone();
        let (trust, ticket) = self.ticket(&bytes, Purpose::Phone, now)?;
        let refused = || Refusal::Statement { what: "phone's request", code: Code::Certificate };
        let key = ticket.statement().key(KeyUse::Sign).ok_or_else(refused)?;
        let request = Unverified::<DeviceRequest>::decode(enrol.request.0.clone()).map_err(|_| refused())?;
        let request = request.verify(&key).map_err(|_| refused())?;
        if request.body().ticket != ticket.statement().serial {
            return Err(refused());
        }
        let name = good_name("the phone's name", &request.body().device_name)?;
        let id = Serial::random(&mut rng());
        let new = NewDeviceRequest { request: id, ticket: ticket.statement().serial, name, enrol: request.bytes() };
        let tenant = trust.tenant();
        let request_id = self.store.write(Scope::Tenant(tenant), |db| {
            if let Some(known) = store::known_request(db, tenant, request.bytes())? {
                return Ok(known);
            }
            use_ticket(db, tenant, &ticket, now)?;
            store::insert_request(db, tenant, &new, now)?;
            note(db, tenant, now, "device asked to be enrolled", &id.to_string(), name)?;
            Ok::<_, Refusal>(id)
        })?;
        Ok(Waiting { request_id })
    }

    /// The certificate of a phone that asked, once there is one. The request's identifier is known to that phone only.
    pub(crate) fn enrolled_device(&self, request: Serial) -> Result<Option<Welcome>, Refusal> {
        let missing = || Refusal::Missing { what: "request", name: request.to_string() };
        let asked = self.store.read(|db| store::request(db, request))?.ok_or_else(missing)?;
        asked.certificate.map(|certificate| self.welcome(asked.tenant, vec![certificate.into()])).transpose()
    }

    /// Keeps an event that an enrolled computer signed.
    pub(crate) fn new_event(&self, new: &NewEvent, program: Option<&str>, now: u64) -> Result<Kept, Refusal> {
        let refused = |code| Refusal::Statement { what: "event", code };
        if new.event.0.len() > LARGEST_EVENT {
            return Err(Refusal::TooLarge { limit: LARGEST_EVENT });
        }
        let chain: Vec<Bytes> = new.chain.iter().map(|link| link.0.clone()).collect();
        let tenant = claimed_tenant(chain.first()).ok_or(refused(Code::Certificate))?;
        let trust = self.trust.get(&tenant).ok_or(refused(Code::Certificate))?;
        // A computer that was revoked still has to say how its grants ended; its entries are marked.
        let (agent, revoked) = match trust.agent(&chain, now) {
            Ok(agent) => (agent, false),
            Err(Code::Revoked) => {
                let regardless = TrustStore::new(tenant, trust.cas().copied());
                (regardless.agent(&chain, now).map_err(refused)?, true)
            }
            Err(code) => return Err(refused(code)),
        };
        let key = agent.statement().key(KeyUse::Sign).ok_or(refused(Code::Certificate))?;
        let not_its_own =
            || Refusal::Fix("this is not an event that the computer of this certificate signed".to_owned());
        let event = Unverified::<Event>::decode(new.event.0.clone()).map_err(|_| not_its_own())?;
        let event = event.verify(&key).map_err(|_| not_its_own())?;
        let computer = ComputerId(agent.statement().subject);
        if event.body().tenant != tenant || event.body().computer != computer {
            return Err(not_its_own());
        }
        let seq = self.store.write(Scope::Tenant(tenant), |db| {
            // A certificate alone is not enough: who has a ticket can sign any number of them, but enrol only so many.
            let enrolled = store::computer_certificate(db, tenant, computer)?.ok_or(refused(Code::NotAllowed))?;
            if chain.first().is_none_or(|certificate| *certificate != enrolled) {
                return Err(refused(Code::NotAllowed));
            }
            store::heard(db, tenant, computer, program.and_then(agent_version), now)?;
            Ok::<_, Refusal>(store::append(db, tenant, Actor::Computer { computer, revoked }, event.bytes(), now)?)
        })?;
        Ok(Kept { seq })
    }

    /// The statements in force in a tenant.
    pub(crate) fn statements(&self, tenant: TenantId) -> Result<Statements, Refusal> {
        self.trust_of(tenant)?;
        Ok(self.store.read(|db| statements(db, tenant))?)
    }

    fn welcome(&self, tenant: TenantId, certificate: Vec<Base64>) -> Result<Welcome, Refusal> {
        self.store.read(|db| {
            let ca_pem = store::ca_keys(db, tenant)?.into_iter().map(|ca| ca.pem).collect();
            Ok(Welcome { tenant, ca_pem, certificate, statements: statements(db, tenant)? })
        })
    }

    /// A ticket that may be used now, as far as its signature and its time tell.
    fn ticket(
        &self,
        bytes: &Bytes,
        purpose: Purpose,
        now: u64,
    ) -> Result<(Arc<TrustStore>, Certified<TicketTerms>), Refusal> {
        let refused = |code| Refusal::Statement { what: "ticket", code };
        let tenant = claimed_tenant(Some(bytes)).ok_or(refused(Code::Certificate))?;
        let trust = self.trust.get(&tenant).ok_or(refused(Code::Certificate))?;
        let ticket = match trust.ticket(bytes, now) {
            Ok(ticket) => ticket,
            Err(Code::Certificate) if trust.ticket(bytes, claimed_end(bytes)).is_ok() => {
                return Err(Refusal::TicketExpired);
            }
            Err(code) => return Err(refused(code)),
        };
        if ticket.terms().purpose != purpose {
            let (wanted, got) = (purpose_name(purpose), purpose_name(ticket.terms().purpose));
            return Err(Refusal::Fix(format!(
                "this ticket is for {got}s; ask your administrator for one for {wanted}s"
            )));
        }
        Ok((trust, ticket))
    }
}

/// What a phone signed, for comparing it with a certificate. Its signature was checked when it came.
pub(crate) fn requested(enrol: &[u8]) -> Result<DeviceRequest, Refusal> {
    let request = Unverified::<DeviceRequest>::decode(enrol.to_vec());
    request.map(|request| request.claimed().clone()).map_err(|error| Refusal::Fix(error.to_string()))
}

/// Counts one use of a ticket. One that was signed elsewhere and never sent here becomes known by its first use.
fn use_ticket(db: &mut dyn Db, tenant: TenantId, ticket: &Certified<TicketTerms>, now: u64) -> Result<(), Refusal> {
    let (statement, terms) = (ticket.statement(), ticket.terms());
    let purpose = purpose_name(terms.purpose);
    let new = NewTicket {
        serial: statement.serial,
        purpose,
        tags: &terms.tags,
        uses: terms.uses,
        not_after: statement.not_after,
        statement: ticket.bytes(),
    };
    store::insert_ticket(db, tenant, &new, now)?;
    store::use_ticket(db, tenant, statement.serial, terms.uses)
}

fn statements(db: &mut dyn Db, tenant: TenantId) -> Result<Statements, StoreError> {
    let mut newest = |kind| store::newest(db, tenant, kind).map(|statement| statement.map(Base64::from));
    Ok(Statements {
        policy: newest(StatementKind::Policy)?,
        revocation: newest(StatementKind::Revocation)?,
        relays: newest(StatementKind::Relays)?,
    })
}

/// The version in `gatepass-agent/1.2.3`.
fn agent_version(program: &str) -> Option<&str> {
    let version = program.strip_prefix("gatepass-agent/")?.split(' ').next()?;
    let is_version = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '+');
    Some(version).filter(|version| (1..=32).contains(&version.len()) && version.chars().all(is_version))
}

fn claimed(statement: &Bytes) -> Option<Statement> {
    Unverified::<Statement>::decode(statement.clone()).ok().map(|unverified| unverified.claimed().clone())
}

pub(crate) fn claimed_tenant(statement: Option<&Bytes>) -> Option<TenantId> {
    claimed(statement?).map(|statement| statement.tenant)
}

fn claimed_end(statement: &Bytes) -> u64 {
    claimed(statement).map_or(0, |statement| statement.not_after)
}

#[cfg(test)]
pub(crate) mod tests {
    use gatepass_protocol::ids::DeviceId;
    use gatepass_protocol::keys::{ChannelKey, PublicKey, Signer as _, SigningKey};
    use gatepass_protocol::signed::Signed;
    use gatepass_protocol::statement::{CertifiedKey, KeyProtection};

    use super::*;

    /// A phone's question, with a ticket and its key.
    pub(crate) fn phone(ticket: &Signed<Statement>, key: &SigningKey) -> EnrolDevice {
        let certified = |key_use, key| CertifiedKey { key_use, key };
        let request = DeviceRequest {
            ticket: ticket.body().serial,
            device: DeviceId::random(&mut rng()),
            keys: vec![
                certified(KeyUse::Sign, SigningKey::generate(&mut rng()).public_key()),
                certified(KeyUse::Channel, ChannelKey::generate(&mut rng()).public_key()),
                certified(KeyUse::Approve, PublicKey::P256([4; 65])),
            ],
            device_name: "phone".into(),
            protection: KeyProtection::Software,
            time: crate::http::now(),
        };
        let request = Signed::sign(request, key).unwrap();
        EnrolDevice { ticket: ticket.bytes().to_vec().into(), request: request.bytes().to_vec().into() }
    }
}
