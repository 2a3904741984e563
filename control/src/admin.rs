//! What administrators do. Each act is checked, stored and written into the audit trail in one transaction.

use std::sync::Arc;

use bytes::Bytes;

use gatepass_protocol::ids::{DeviceId, Serial, TechnicianId, TenantId};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{Kind, Purpose, Statement};
use gatepass_protocol::trust::{CaPublic, TrustStore};

use crate::api::{
    Act, ApproveDevice, CaKey, Computer, Device, InForce, Named, NewCaKey, NewStatement, NewToken, PendingDevice,
    StatementKind, Status, Technician, Tenant, TenantCreated, Ticket, TrailEntry, hex, is_unprintable,
};
use crate::problem::Refusal;
use crate::store::{self, Actor, ApprovedDevice, Db, NewTicket, Owner, Scope};
use crate::{Inner, News, enrol, rng, token};

/// The longest name of anything.
const LONGEST_NAME: usize = 64;

/// Technicians' names become part of account names: `gp-` and the name stay below the 20 characters that directories allow.
const LONGEST_TECHNICIAN: usize = 16;

impl Inner {
    pub(crate) fn let_operator_in(&self, bearer: Option<&str>) -> Result<(), Refusal> {
        self.let_in(Owner::Operator, bearer)
    }

    pub(crate) fn let_administrator_in(&self, tenant: TenantId, bearer: Option<&str>) -> Result<(), Refusal> {
        self.let_in(Owner::Tenant(tenant), bearer)
    }

    /// An unknown tenant is refused like a wrong token: who has no right learns nothing of who else is here.
    fn let_in(&self, owner: Owner, bearer: Option<&str>) -> Result<(), Refusal> {
        let hashes = self.store.read(|db| store::token_hashes(db, owner))?;
        match owner {
            _ if bearer.is_some_and(|bearer| token::is_one_of(bearer, &hashes)) => Ok(()),
            Owner::Operator => Err(Refusal::OperatorOnly),
            Owner::Tenant(_) => Err(Refusal::SignIn),
        }
    }

    pub(crate) fn tenants(&self) -> Result<Vec<Tenant>, Refusal> {
        Ok(self.store.read(store::tenants)?)
    }

    pub(crate) fn new_tenant(&self, new: &Named, now: u64) -> Result<TenantCreated, Refusal> {
        let name = good_name("the tenant's name", &new.name)?;
        let (token, hash) = token::new();
        let id = TenantId::random(&mut rng());
        self.store.write(Scope::Operator, |db| {
            store::insert_tenant(db, id, name, now)?;
            store::insert_token(db, Owner::Tenant(id), &hash, now)?;
            note(db, id, now, "tenant created", name, "")
        })?;
        self.trust.put(1, TrustStore::new(id, []));
        Ok(TenantCreated { id, token: token.to_string() })
    }

    /// A new token for a tenant's administrator, in place of one that was lost.
    pub(crate) fn new_token(&self, new: &NewToken, now: u64) -> Result<TenantCreated, Refusal> {
        let tenant = new.tenant;
        self.trust_of(tenant)?;
        let (token, hash) = token::new();
        self.store.write(Scope::Tenant(tenant), |db| {
            store::insert_token(db, Owner::Tenant(tenant), &hash, now)?;
            note(db, tenant, now, "token made by the operator", &tenant.to_string(), "")
        })?;
        Ok(TenantCreated { id: tenant, token: token.to_string() })
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

    pub(crate) fn ca_keys(&self, tenant: TenantId) -> Result<Vec<CaKey>, Refusal> {
        Ok(self.store.read(|db| store::ca_keys(db, tenant))?)
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

    pub(crate) fn technicians(&self, tenant: TenantId) -> Result<Vec<Technician>, Refusal> {
        Ok(self.store.read(|db| store::technicians(db, tenant))?)
    }

    pub(crate) fn new_technician(&self, tenant: TenantId, new: Named, now: u64) -> Result<Technician, Refusal> {
        if !is_account_name(&new.name) {
            return Err(Refusal::Fix(format!(
                "a technician's name becomes part of an account's name (gp-alex), so it has 1 to {LONGEST_TECHNICIAN} small \
                 letters a-z, digits and hyphens, and begins with a letter"
            )));
        }
        let id = TechnicianId::random(&mut rng());
        let technician = Technician { id, name: new.name, added: now };
        self.store.write(Scope::Tenant(tenant), |db| {
            store::insert_technician(db, tenant, &technician)?;
            note(db, tenant, now, "technician added", &technician.name, &id.to_string())
        })?;
        Ok(technician)
    }

    pub(crate) fn tickets(&self, tenant: TenantId) -> Result<Vec<Ticket>, Refusal> {
        Ok(self.store.read(|db| store::tickets(db, tenant))?)
    }

    pub(crate) fn pending_devices(&self, tenant: TenantId) -> Result<Vec<PendingDevice>, Refusal> {
        Ok(self.store.read(|db| store::pending(db, tenant))?)
    }

    pub(crate) fn devices(&self, tenant: TenantId) -> Result<Vec<Device>, Refusal> {
        let trust = self.trust_of(tenant)?;
        let rows = self.store.read(|db| store::devices(db, tenant))?;
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
        Ok(rows.into_iter().map(device).collect())
    }

    pub(crate) fn computers(&self, tenant: TenantId) -> Result<Vec<Computer>, Refusal> {
        let trust = self.trust_of(tenant)?;
        let mut computers = self.store.read(|db| store::computers(db, tenant))?;
        for computer in &mut computers {
            computer.revoked = trust.is_revoked(computer.id.as_bytes());
        }
        Ok(computers)
    }

    pub(crate) fn events(&self, tenant: TenantId, after: u64, limit: u64) -> Result<Vec<TrailEntry>, Refusal> {
        Ok(self.store.read(|db| store::page(db, tenant, after, limit))?)
    }

    /// Sends a waiting phone away. Its ticket's use stays counted.
    pub(crate) fn refuse_device(&self, tenant: TenantId, request: Serial, now: u64) -> Result<PendingDevice, Refusal> {
        let missing = || Refusal::Missing { what: "waiting phone", name: request.to_string() };
        self.store.write(Scope::Tenant(tenant), |db| {
            let pending = store::pending(db, tenant)?.into_iter().find(|pending| pending.request == request);
            let pending = pending.ok_or_else(missing)?;
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
                == (statement.subject, &statement.keys, &terms.device_name, terms.protection);
            if !fits {
                return Err(Refusal::Fix("the certificate is not for the phone that sent this request".to_owned()));
            }
            let technicians = store::technicians(db, tenant)?;
            let known = technicians.iter().any(|one| one.id == terms.technician && one.name == terms.technician_name);
            if !known {
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
            Kind::Device | Kind::Agent => {
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

/// Writes down in the audit trail what an administrator did.
pub(crate) fn note(
    db: &mut dyn Db,
    tenant: TenantId,
    now: u64,
    act: &str,
    to: &str,
    detail: &str,
) -> Result<(), Refusal> {
    let act = Act { at: now, act: act.to_owned(), to: to.to_owned(), detail: detail.to_owned() };
    let event = serde_json::to_vec(&act).map_err(|error| Refusal::Fix(error.to_string()))?;
    store::append(db, tenant, Actor::Control, &event, now)?;
    Ok(())
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

fn is_account_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_TECHNICIAN).contains(&name.len())
        && name.bytes().all(letters)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}
