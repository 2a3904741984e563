//! What administrators do. Each act is checked, stored and written into the audit trail in one transaction.

use std::sync::Arc;

use bytes::Bytes;

use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{Kind, Purpose, Statement};
use gatepass_protocol::trust::{CaPublic, TrustStore};

use crate::api::{
    ApproveDevice, CaKey, Computer, Device, InForce, Named, NewCaKey, NewStatement, Page, PendingDevice, Role,
    StatementKind, Status, Tenant, TenantCreated, Ticket, Token, hex, is_unprintable,
};
use crate::audit::note;
use crate::http::{Slice, missing};
use crate::problem::Refusal;
use crate::store::{self, ApprovedDevice, NewTicket, Scope, SeenBy};
use crate::{Inner, News, enrol, rng, token};

/// The longest name of anything.
const LONGEST_NAME: usize = 64;

impl Inner {
    pub(crate) fn tenants(&self, slice: &Slice) -> Result<Page<Tenant>, Refusal> {
        let tenants = self.store.read(|db| store::tenants(db, &slice.after, slice.and_one()))?;
        Ok(slice.page(tenants, |one| &one.id.0))
    }

    pub(crate) fn new_tenant(&self, new: &Named, now: u64) -> Result<TenantCreated, Refusal> {
        let name = good_name("the tenant's name", &new.name)?;
        let (secret, hash) = token::new();
        let id = TenantId::random(&mut rng());
        let token = Token {
            id: Serial::random(&mut rng()),
            name: "first administrator".to_owned(),
            role: Role::TenantAdmin,
            technician: None,
            created: now,
            expires: None,
        };
        self.store.write(Scope::Operator, |db| {
            store::insert_tenant(db, id, name, now)?;
            store::set_log_key(db, id, &SigningKey::generate(&mut rng()))?;
            store::insert_token(db, Some(id), &token, &hash)?;
            note(db, store::OPERATOR, now, "tenant created", name, &id.to_string())?;
            note(db, id, now, "tenant created", name, "")
        })?;
        self.trust.put(1, TrustStore::new(id, []));
        Ok(TenantCreated { id, token: secret.to_string() })
    }

    pub(crate) fn status(&self, tenant: TenantId, now: u64) -> Result<Status, Refusal> {
        self.store.read(|db| {
            let [technicians, devices, pending, computers, events] = store::counts(db, tenant)?;
            let missing = || Refusal::Missing { what: "tenant", name: tenant.to_string() };
            Ok(Status {
                tenant: store::tenant(db, tenant)?.ok_or_else(missing)?,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                time: now,
                ca_keys: store::ca_keys(db, tenant)?.len() as u64,
                technicians,
                devices,
                pending,
                computers,
                events,
                policy_epoch: store::newest_epoch(db, tenant, StatementKind::Policy)?,
                revocation_epoch: store::newest_epoch(db, tenant, StatementKind::Revocation)?,
                relays_epoch: store::newest_epoch(db, tenant, StatementKind::Relays)?,
            })
        })
    }

    /// There are few of them, so they are one page.
    pub(crate) fn ca_keys(&self, tenant: TenantId) -> Result<Page<CaKey>, Refusal> {
        Ok(Page { items: self.store.read(|db| store::ca_keys(db, tenant))?, next: None })
    }

    /// Trusts one more CA key.
    pub(crate) fn new_ca_key(&self, tenant: TenantId, new: NewCaKey, now: u64) -> Result<CaKey, Refusal> {
        let name = good_name("the CA key's name", &new.name)?.to_owned();
        let public = CaPublic::from_pem(&new.pem).map_err(|error| Refusal::Fix(error.to_string()))?;
        let key = CaKey { kid: public.key().kid(), name, pem: public.to_pem(), added: now };
        let (revision, trust) = self.store.write(Scope::Tenant(tenant), |db| {
            store::insert_ca_key(db, tenant, &key)?;
            store::revise(db, tenant)?;
            note(db, tenant, now, "CA key added", &hex(&key.kid.0), &key.name)?;
            Ok::<_, Refusal>(crate::trust::rebuild(db, tenant)?)
        })?;
        self.trust.put(revision, trust);
        Ok(key)
    }

    pub(crate) fn tickets(&self, tenant: TenantId, slice: &Slice) -> Result<Page<Ticket>, Refusal> {
        let tickets = self.store.read(|db| store::tickets(db, tenant, &slice.after, slice.and_one()))?;
        Ok(slice.page(tickets, |one| &one.serial.0))
    }

    pub(crate) fn pending_devices(&self, tenant: TenantId, slice: &Slice) -> Result<Page<PendingDevice>, Refusal> {
        let pending = self.store.read(|db| store::pending(db, tenant, &slice.after, slice.and_one()))?;
        Ok(slice.page(pending, |one| &one.request.0))
    }

    pub(crate) fn devices(&self, tenant: TenantId, slice: &Slice) -> Result<Page<Device>, Refusal> {
        let trust = self.trust_of(tenant)?;
        let rows = self.store.read(|db| store::devices(db, tenant, &slice.after, slice.and_one()))?;
        let device = |row: store::DeviceRow| Device {
            revoked: [row.device.as_bytes(), row.serial.as_bytes(), row.technician_id.as_bytes()]
                .into_iter()
                .any(|id| trust.is_revoked(id)),
            id: row.device,
            name: row.name,
            technician: row.technician,
            serial: row.serial,
            approved: row.approved,
            not_after: row.not_after,
        };
        Ok(slice.page(rows.into_iter().map(device).collect(), |one| &one.id.0))
    }

    pub(crate) fn computers(&self, tenant: TenantId, by: SeenBy, slice: &Slice) -> Result<Page<Computer>, Refusal> {
        let trust = self.trust_of(tenant)?;
        let mut computers = self.store.read(|db| store::computers(db, tenant, by, &slice.after, slice.and_one()))?;
        for computer in &mut computers {
            computer.revoked = trust.is_revoked(computer.id.as_bytes());
        }
        Ok(slice.page(computers, |one| &one.id.0))
    }

    pub(crate) fn computer(&self, tenant: TenantId, by: SeenBy, id: ComputerId) -> Result<Computer, Refusal> {
        let trust = self.trust_of(tenant)?;
        let computer = self.store.read(|db| store::computer(db, tenant, by, id))?;
        let mut computer = computer.ok_or_else(|| missing("computer", id))?;
        computer.revoked = trust.is_revoked(id.as_bytes());
        Ok(computer)
    }

    /// Sends a waiting phone away. Its ticket's use stays counted.
    pub(crate) fn refuse_device(&self, tenant: TenantId, request: Serial, now: u64) -> Result<PendingDevice, Refusal> {
        let missing = || Refusal::Missing { what: "waiting phone", name: request.to_string() };
        self.store.write(Scope::Tenant(tenant), |db| {
            let pending = store::pending_one(db, tenant, request)?.ok_or_else(missing)?;
            store::remove_request(db, tenant, request)?;
            note(db, tenant, now, "device refused", &request.to_string(), &pending.name)?;
            Ok(pending)
        })
    }

    /// Turns a waiting phone into a device, with the certificate that the administrator signed for it.
    pub(crate) fn approve_device(
        &self,
        tenant: TenantId,
        request: Serial,
        approve: ApproveDevice,
        now: u64,
    ) -> Result<Device, Refusal> {
        let refused = |code| Refusal::Statement { what: "device certificate", code };
        let bytes = approve.certificate.0;
        let certificate = self.trust_of(tenant)?.device(std::slice::from_ref(&bytes), now).map_err(refused)?;
        let (statement, terms) = (certificate.statement(), certificate.terms());
        let missing = || Refusal::Missing { what: "waiting phone", name: request.to_string() };
        self.store.write(Scope::Tenant(tenant), |db| {
            let asked = store::request(db, request)?.filter(|asked| asked.tenant == tenant).ok_or_else(missing)?;
            let wanted = enrol::requested(&asked.enrol)?;
            let fits = (wanted.device.0, &wanted.keys, &wanted.device_name, wanted.protection)
                == (statement.subject, &statement.certified_keys(), &terms.device_name, terms.protection);
            if !fits {
                return Err(Refusal::Fix("the certificate is not for the phone that sent this request".to_owned()));
            }
            let known = store::technician(db, tenant, terms.technician)?;
            if known.is_none_or(|known| known.name != terms.technician_name) {
                return Err(Refusal::Missing { what: "technician", name: terms.technician_name.clone() });
            }
            let device = DeviceId(statement.subject);
            let approved = ApprovedDevice {
                device,
                serial: statement.serial,
                technician: terms.technician,
                certificate: &bytes,
                not_after: statement.not_after,
            };
            if !store::approve(db, tenant, request, &approved, now)? {
                return Err(Refusal::Exists { what: "certificate for the phone", name: request.to_string() });
            }
            note(db, tenant, now, "device approved", &device.to_string(), &terms.technician_name)?;
            Ok(Device {
                id: device,
                name: terms.device_name.clone(),
                technician: terms.technician_name.clone(),
                serial: statement.serial,
                approved: now,
                not_after: statement.not_after,
                revoked: false,
            })
        })
    }

    /// Takes a ticket, or puts a policy, a revocation list or a relay list in force.
    pub(crate) fn new_statement(&self, tenant: TenantId, new: NewStatement, now: u64) -> Result<InForce, Refusal> {
        let bytes = new.statement.0;
        let claimed = Unverified::<Statement>::decode(bytes.clone());
        let claimed = claimed.map_err(|error| Refusal::Fix(error.to_string()))?;
        let kind = match claimed.claimed().kind {
            Kind::Ticket => return self.new_ticket(tenant, &bytes, now),
            Kind::Policy => StatementKind::Policy,
            Kind::Revocation => StatementKind::Revocation,
            Kind::Relays => StatementKind::Relays,
            Kind::Device | Kind::Agent | Kind::Revoker => {
                return Err(Refusal::Fix(
                    "certificates are not taken here, but policies, lists and tickets are".to_owned(),
                ));
            }
        };
        let epoch = claimed.claimed().epoch;
        let (revision, trust) = self.store.write(Scope::Tenant(tenant), |db| {
            // Not from memory: another node may have put something in force a moment ago.
            store::revise(db, tenant)?;
            let (revision, mut trust) = crate::trust::rebuild(db, tenant)?;
            store::insert_statement(db, tenant, kind, epoch, &bytes, now)?;
            trust.accept(&bytes, now).map_err(|code| Refusal::Statement { what: kind.name(), code })?;
            note(db, tenant, now, &format!("{} signed", kind.name()), &format!("epoch {epoch}"), "")?;
            Ok::<_, Refusal>((revision, trust))
        })?;
        self.trust.put(revision, trust);
        tracing::info!(kind = kind.name(), epoch, "a statement is in force");
        // Nobody listening is no error: a listener that starts later asks for everything that is in force.
        let _ = self.news.send(News { tenant, kind: kind.kind(), epoch, statement: bytes });
        Ok(InForce { epoch })
    }

    fn new_ticket(&self, tenant: TenantId, bytes: &Bytes, now: u64) -> Result<InForce, Refusal> {
        let refused = |code| Refusal::Statement { what: "ticket", code };
        let ticket = self.trust_of(tenant)?.ticket(bytes, now).map_err(refused)?;
        let (statement, terms) = (ticket.statement(), ticket.terms());
        let purpose = purpose_name(terms.purpose);
        let new = NewTicket {
            serial: statement.serial,
            purpose,
            tags: &terms.tags,
            uses: terms.uses,
            not_after: statement.not_after,
            statement: bytes,
        };
        self.store.write(Scope::Tenant(tenant), |db| {
            if !store::insert_ticket(db, tenant, &new, now)? {
                return Err(Refusal::Exists { what: "ticket", name: statement.serial.to_string() });
            }
            let times = if terms.uses == 1 { "once".to_owned() } else { format!("{} times at most", terms.uses) };
            let detail = format!("for {purpose}s, to be used {times}");
            note(db, tenant, now, "ticket added", &statement.serial.to_string(), &detail)
        })?;
        Ok(InForce { epoch: statement.epoch })
    }

    pub(crate) fn trust_of(&self, tenant: TenantId) -> Result<Arc<TrustStore>, Refusal> {
        self.trust.get(&tenant).ok_or_else(|| Refusal::Missing { what: "tenant", name: tenant.to_string() })
    }
}

pub(crate) fn purpose_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Agent => "agent",
        Purpose::Phone => "phone",
    }
}

/// A name that a person can read on a screen and that can do nothing to that screen.
pub(crate) fn good_name<'a>(what: &str, name: &'a str) -> Result<&'a str, Refusal> {
    let length = name.chars().count();
    let readable = name.trim() == name && !name.chars().any(is_unprintable);
    if (1..=LONGEST_NAME).contains(&length) && readable {
        Ok(name)
    } else {
        Err(Refusal::Fix(format!(
            "{what} has 1 to {LONGEST_NAME} characters, no control characters, and no spaces at its ends"
        )))
    }
}
