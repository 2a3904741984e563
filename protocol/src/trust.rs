//! What an agent, a phone or a relay believes: a tenant's CA keys, and the newest policy, revocation and relay lists that
//! they signed.
//!
//! Everything that reaches it comes from somebody who may lie by omission, so epochs never go back: whoever has seen a
//! revocation can't be made to forget it by an older list. Several CA keys may stand side by side; each alone suffices.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    Code,
    ids::{Serial, TenantId},
    keys::{Kid, PublicKey, VerifyingKey},
    offline::OfflineTerms,
    policy::Policy,
    signed::{Signed, Unverified},
    statement::{
        AgentTerms, DeviceTerms, KeyUse, Kind, OFFLINE_CODES, Purpose, REVOKER, RelayTerms, RevocationTerms,
        RevokerTerms, Statement, Terms, TicketTerms, VERSION,
    },
};

/// Clocks of the parties may differ by this many seconds at a statement's beginning.
pub const CLOCK_SKEW: u64 = 300;

/// A CA's public key. Decoded once, for it verifies everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaPublic {
    key: PublicKey,
    issuer: Issuer,
}

/// The text is not a CA's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Gatepass CA key: expected a PEM 'PUBLIC KEY' block with an Ed25519 key")]
pub struct NotACa;

impl CaPublic {
    /// Takes an Ed25519 key.
    pub fn new(key: PublicKey) -> Result<Self, NotACa> {
        match key {
            PublicKey::Ed25519(_) => Ok(Self { key, issuer: Issuer::new(&key).map_err(|_| NotACa)? }),
            _ => Err(NotACa),
        }
    }

    /// The key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Reads a plain SubjectPublicKeyInfo PEM, as `openssl pkey -pubin` does.
    pub fn from_pem(text: &str) -> Result<Self, NotACa> {
        let body =
            text.trim().strip_prefix(PEM_BEGIN).and_then(|rest| rest.trim().strip_suffix(PEM_END)).ok_or(NotACa)?;
        let der = base64_decode(body).ok_or(NotACa)?;
        let key: [u8; 32] =
            der.get(der.len().saturating_sub(32)..).and_then(|key| key.try_into().ok()).ok_or(NotACa)?;
        let key = PublicKey::Ed25519(key);
        if key.spki() == der { Self::new(key) } else { Err(NotACa) }
    }

    /// Writes it as PEM.
    pub fn to_pem(&self) -> String {
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", base64_encode(&self.key.spki()))
    }
}

/// What signed a statement: a CA's key, or a ticket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Issuer {
    kid: Kid,
    key: VerifyingKey,
}

impl Issuer {
    fn new(key: &PublicKey) -> Result<Self, Code> {
        let PublicKey::Ed25519(bytes) = key else { return Err(Code::Certificate) };
        Ok(Self { kid: key.kid(), key: VerifyingKey::decode(bytes).map_err(|_| Code::Certificate)? })
    }
}

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

fn base64_encode(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok()
}

/// A verified statement with the terms of its kind.
#[derive(Clone, Debug)]
pub struct Certified<T> {
    signed: Signed<Statement>,
    terms: T,
}

impl<T> Certified<T> {
    /// The fields that every statement has.
    pub fn statement(&self) -> &Statement {
        self.signed.body()
    }

    /// What only this kind says.
    pub fn terms(&self) -> &T {
        &self.terms
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &Bytes {
        self.signed.bytes()
    }
}

impl Certified<Policy> {
    /// What the policy says of offline codes; `None`: there are none.
    pub fn offline(&self) -> Option<OfflineTerms> {
        OfflineTerms::decode(self.statement().extension(OFFLINE_CODES)?)
    }
}

/// Whose certificate it is.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// A phone's.
    Device(Certified<DeviceTerms>),
    /// A computer's.
    Agent(Certified<AgentTerms>),
}

impl Certificate {
    /// The fields that every statement has.
    pub fn statement(&self) -> &Statement {
        match self {
            Certificate::Device(certificate) => certificate.statement(),
            Certificate::Agent(certificate) => certificate.statement(),
        }
    }

    /// The Ed25519 key that signs as the subject.
    pub fn sign_key(&self) -> Result<PublicKey, Code> {
        self.statement().key(KeyUse::Sign).ok_or(Code::Certificate)
    }
}

/// One tenant's CA keys and newest lists.
#[derive(Clone, Debug)]
pub struct TrustStore {
    tenant: TenantId,
    cas: BTreeMap<Kid, CaPublic>,
    policy: Option<Certified<Policy>>,
    revocation: Option<Certified<RevocationTerms>>,
    relays: Option<Certified<RelayTerms>>,
}

impl TrustStore {
    /// Trusts these CA keys for this tenant.
    pub fn new(tenant: TenantId, cas: impl IntoIterator<Item = CaPublic>) -> Self {
        let cas = cas.into_iter().map(|ca| (ca.issuer.kid, ca)).collect();
        Self { tenant, cas, policy: None, revocation: None, relays: None }
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The CA keys, by rising kid.
    pub fn cas(&self) -> impl Iterator<Item = &CaPublic> {
        self.cas.values()
    }

    /// The CA key of this name.
    pub fn ca(&self, kid: &Kid) -> Option<&CaPublic> {
        self.cas.get(kid)
    }

    /// The newest policy, unless the CA key that signed it has been revoked since.
    pub fn policy(&self) -> Option<&Certified<Policy>> {
        let issuer = |policy: &&Certified<Policy>| self.cas.get(&policy.statement().issuer);
        self.policy.as_ref().filter(|policy| issuer(policy).is_some_and(|ca| !self.is_revoked(&ca.key.revocation_id())))
    }

    /// The newest list of a kind, in force or not, to be kept and given back to [`TrustStore::restore`].
    pub fn kept(&self, kind: Kind) -> Option<&Bytes> {
        match kind {
            Kind::Policy => self.policy.as_ref().map(Certified::bytes),
            Kind::Revocation => self.revocation.as_ref().map(Certified::bytes),
            Kind::Relays => self.relays.as_ref().map(Certified::bytes),
            Kind::Device | Kind::Agent | Kind::Ticket | Kind::Revoker => None,
        }
    }

    /// The newest revocation list.
    pub fn revocation(&self) -> Option<&Certified<RevocationTerms>> {
        self.revocation.as_ref()
    }

    /// The newest relay list. It outlives its CA key: a relay can't forge anything, and somebody who hears no relay hears of no
    /// newer list either.
    pub fn relays(&self) -> Option<&Certified<RelayTerms>> {
        self.relays.as_ref()
    }

    /// The epoch of the newest revocation list; 0 where there is none.
    pub fn revocation_epoch(&self) -> u64 {
        epoch(&self.revocation)
    }

    /// The epoch of the newest policy; 0 where there is none.
    pub fn policy_epoch(&self) -> u64 {
        epoch(&self.policy)
    }

    /// Whether there is a policy in force that has not expired.
    pub fn policy_is_in_time(&self, now: u64) -> bool {
        self.policy().is_some_and(|policy| in_time(policy.statement(), now).is_ok())
    }

    /// Whether the newest list revokes this serial, subject, technician, grant or key.
    pub fn is_revoked(&self, id: &[u8; 16]) -> bool {
        self.revocation.as_ref().is_some_and(|list| list.terms.revoked.binary_search(&Serial(*id)).is_ok())
    }

    /// Verifies a chain: a certificate, then its issuer's where that is not a CA.
    pub fn certificate(&self, chain: &[Bytes], now: u64) -> Result<Certificate, Code> {
        let (first, issuers) = chain.split_first().ok_or(Code::Certificate)?;
        let first = decoded(first)?;
        match first.claimed().kind {
            Kind::Device => self.device_under(first, issuers, now).map(Certificate::Device),
            Kind::Agent => self.agent_under(first, issuers, now).map(Certificate::Agent),
            _ => Err(Code::Certificate),
        }
    }

    /// Verifies a device's certificate. Only a CA may issue one.
    pub fn device(&self, chain: &[Bytes], now: u64) -> Result<Certified<DeviceTerms>, Code> {
        let (first, issuers) = chain.split_first().ok_or(Code::Certificate)?;
        self.device_under(decoded(first)?, issuers, now)
    }

    fn device_under(
        &self,
        certificate: Unverified<Statement>,
        issuers: &[Bytes],
        now: u64,
    ) -> Result<Certified<DeviceTerms>, Code> {
        if !issuers.is_empty() {
            return Err(Code::Certificate);
        }
        let ca = self.ca_of(&certificate)?;
        let device: Certified<DeviceTerms> = self.issued_at_any_time(certificate, &ca)?;
        self.device_stands(&device, now)?;
        for key_use in [KeyUse::Sign, KeyUse::Channel, KeyUse::Approve] {
            well_formed(device.statement(), key_use)?;
        }
        Ok(device)
    }

    /// Asks again what may have changed about a device's certificate since it was verified: revocation and time. Its signature
    /// can't have.
    pub fn device_stands(&self, device: &Certified<DeviceTerms>, now: u64) -> Result<(), Code> {
        let statement = device.statement();
        let ca =
            self.cas.get(&statement.issuer).filter(|_| statement.tenant == self.tenant).ok_or(Code::Certificate)?;
        // Before its time is looked at: who was revoked hears so, expired or not, and live grants end by this word.
        if self.is_revoked(&ca.key.revocation_id()) || self.is_revoked(device.terms.technician.as_bytes()) {
            return Err(Code::Revoked);
        }
        self.not_revoked(device)?;
        in_time(statement, now)
    }

    /// Verifies an agent's certificate, issued by a CA, or by a ticket's key with the ticket second in the chain.
    ///
    /// A ticket gives its computers its own tags and no others, and no longer life than it says, so that a stolen one
    /// makes no computer look more trusted than its administrator meant. It may have expired since: what it signed stays
    /// valid until the ticket is revoked.
    pub fn agent(&self, chain: &[Bytes], now: u64) -> Result<Certified<AgentTerms>, Code> {
        let (first, issuers) = chain.split_first().ok_or(Code::Certificate)?;
        self.agent_under(decoded(first)?, issuers, now)
    }

    fn agent_under(
        &self,
        certificate: Unverified<Statement>,
        issuers: &[Bytes],
        now: u64,
    ) -> Result<Certified<AgentTerms>, Code> {
        let agent: Certified<AgentTerms> = match issuers {
            [] => self.issued_by_ca(certificate, now)?,
            [ticket] => {
                let ticket = self.issued_ticket(ticket)?;
                let issuer = Issuer::new(&well_formed(ticket.statement(), KeyUse::Sign)?)?;
                let agent = self.issued::<AgentTerms>(certificate, &issuer, now)?;
                let (issued, limits) = (agent.statement(), ticket.statement());
                let inside = ticket.terms.purpose == Purpose::Agent
                    && agent.terms.tags == ticket.terms.tags
                    && (limits.not_before..=limits.not_after).contains(&issued.not_before)
                    && issued.not_after <= ticket.terms.certificates_until;
                if !inside {
                    return Err(Code::Certificate);
                }
                agent
            }
            _ => return Err(Code::Certificate),
        };
        for key_use in [KeyUse::Sign, KeyUse::Channel] {
            well_formed(agent.statement(), key_use)?;
        }
        Ok(agent)
    }

    /// Verifies a ticket that is to be used now.
    pub fn ticket(&self, bytes: &Bytes, now: u64) -> Result<Certified<TicketTerms>, Code> {
        let ticket = self.issued_ticket(bytes)?;
        in_time(ticket.statement(), now)?;
        Ok(ticket)
    }

    /// Takes a policy that is newer than what is known.
    pub fn accept_policy(&mut self, bytes: &Bytes, now: u64) -> Result<Accepted, Code> {
        let new = self.issued_by_ca(decoded(bytes)?, now)?;
        newer(&mut self.policy, new)
    }

    /// Takes a revocation list that is newer than what is known.
    pub fn accept_revocation(&mut self, bytes: &Bytes, now: u64) -> Result<Accepted, Code> {
        let (list, mut by_revoker) = (decoded(bytes)?, None);
        let new: Certified<RevocationTerms> = match self.revoker_of(&list)? {
            None => self.issued_by_ca(list, now)?,
            Some((revoker, key)) => {
                self.ca_of_issuer(&revoker.statement().issuer)?;
                self.not_revoked(&revoker)?;
                if self.is_revoked(&key.revocation_id()) {
                    return Err(Code::Revoked);
                }
                in_time(revoker.statement(), now)?;
                by_revoker = Some(revoker);
                self.issued(list, &Issuer::new(&key)?, now)?
            }
        };
        // Looked up by binary search; a list out of order would hide entries.
        if !new.terms.revoked.is_sorted_by(|a, b| a < b) {
            return Err(Code::Certificate);
        }
        if let Some(revoker) = by_revoker {
            self.only_adds(&new, &revoker)?;
        }
        newer(&mut self.revocation, new)
    }

    /// The statement about the key that signed a revocation list, where that is no CA's, and that key. A CA signed it, whether it
    /// still counts or not.
    fn revoker_of(&self, list: &Unverified<Statement>) -> Result<Option<(Certified<RevokerTerms>, PublicKey)>, Code> {
        if self.cas.contains_key(&list.claimed().issuer) {
            return Ok(None);
        }
        let revoker = decoded(list.claimed().extension(REVOKER).ok_or(Code::Certificate)?)?;
        let ca = self.cas.get(&revoker.claimed().issuer).ok_or(Code::Certificate)?;
        let revoker: Certified<RevokerTerms> = authentic(self.tenant, revoker, &ca.issuer)?;
        let key = well_formed(revoker.statement(), KeyUse::Sign)?;
        Ok(Some((revoker, key)))
    }

    /// A key that only revokes brings nothing back, touches no CA key, and leaves room for the CA's next list.
    fn only_adds(&self, new: &Certified<RevocationTerms>, revoker: &Certified<RevokerTerms>) -> Result<(), Code> {
        let listed = |id: &[u8; 16]| new.terms.revoked.binary_search(&Serial(*id)).is_ok();
        let (before, min_epoch) =
            self.revocation.as_ref().map_or((&[][..], 0), |list| (&list.terms.revoked[..], list.terms.min_epoch));
        let takes_back = before.iter().any(|id| !listed(&id.0)) || new.terms.min_epoch != min_epoch;
        let revokes_a_ca = self.cas.values().any(|ca| {
            let id = ca.key.revocation_id();
            listed(&id) && !self.is_revoked(&id)
        });
        if takes_back || revokes_a_ca || new.statement().epoch > revoker.terms.max_epoch {
            return Err(Code::NotAllowed);
        }
        Ok(())
    }

    /// Takes a relay list that is newer than what is known.
    pub fn accept_relays(&mut self, bytes: &Bytes, now: u64) -> Result<Accepted, Code> {
        let new = self.issued_by_ca(decoded(bytes)?, now)?;
        newer(&mut self.relays, new)
    }

    /// Takes a policy, revocation or relay list, whichever it is.
    pub fn accept(&mut self, bytes: &Bytes, now: u64) -> Result<(Kind, Accepted), Code> {
        let kind = decoded(bytes)?.claimed().kind;
        let accepted = match kind {
            Kind::Policy => self.accept_policy(bytes, now)?,
            Kind::Revocation => self.accept_revocation(bytes, now)?,
            Kind::Relays => self.accept_relays(bytes, now)?,
            Kind::Device | Kind::Agent | Kind::Ticket | Kind::Revoker => return Err(Code::Certificate),
        };
        Ok((kind, accepted))
    }

    /// Takes back a list that this party had accepted and kept. It may have expired, or its CA key been revoked since; it keeps
    /// older ones out all the same.
    pub fn restore(&mut self, bytes: &Bytes) -> Result<Kind, Code> {
        let claimed = decoded(bytes)?;
        let (kind, issuer) = (claimed.claimed().kind, claimed.claimed().issuer);
        let ca = match self.cas.get(&issuer) {
            None if kind == Kind::Revocation => {
                let (_, key) = self.revoker_of(&claimed)?.ok_or(Code::Certificate)?;
                Issuer::new(&key)?
            }
            known => known.ok_or(Code::Certificate)?.issuer,
        };
        match kind {
            Kind::Policy => newer(&mut self.policy, authentic(self.tenant, claimed, &ca)?),
            Kind::Revocation => newer(&mut self.revocation, authentic(self.tenant, claimed, &ca)?),
            Kind::Relays => newer(&mut self.relays, authentic(self.tenant, claimed, &ca)?),
            Kind::Device | Kind::Agent | Kind::Ticket | Kind::Revoker => Err(Code::Certificate),
        }?;
        Ok(kind)
    }

    fn issued_by_ca<T: Terms>(&self, statement: Unverified<Statement>, now: u64) -> Result<Certified<T>, Code> {
        let ca = self.ca_of(&statement)?;
        self.issued(statement, &ca, now)
    }

    /// A ticket of any age: whether it may still be used is asked elsewhere.
    fn issued_ticket(&self, bytes: &Bytes) -> Result<Certified<TicketTerms>, Code> {
        let ticket = decoded(bytes)?;
        let ca = self.ca_of(&ticket)?;
        let certified: Certified<TicketTerms> = self.issued_at_any_time(ticket, &ca)?;
        well_formed(certified.statement(), KeyUse::Sign)?;
        Ok(certified)
    }

    fn ca_of(&self, statement: &Unverified<Statement>) -> Result<Issuer, Code> {
        self.ca_of_issuer(&statement.claimed().issuer)
    }

    fn ca_of_issuer(&self, issuer: &Kid) -> Result<Issuer, Code> {
        let ca = self.cas.get(issuer).ok_or(Code::Certificate)?;
        if self.is_revoked(&ca.key.revocation_id()) { Err(Code::Revoked) } else { Ok(ca.issuer) }
    }

    fn issued<T: Terms>(
        &self,
        statement: Unverified<Statement>,
        issuer: &Issuer,
        now: u64,
    ) -> Result<Certified<T>, Code> {
        let certified = self.issued_at_any_time(statement, issuer)?;
        in_time(certified.statement(), now)?;
        Ok(certified)
    }

    fn issued_at_any_time<T: Terms>(
        &self,
        statement: Unverified<Statement>,
        issuer: &Issuer,
    ) -> Result<Certified<T>, Code> {
        let certified = authentic(self.tenant, statement, issuer)?;
        self.not_revoked(&certified)?;
        Ok(certified)
    }

    fn not_revoked<T: Terms>(&self, certified: &Certified<T>) -> Result<(), Code> {
        let statement = certified.statement();
        let expires_with_epoch = matches!(T::KIND, Kind::Device | Kind::Agent | Kind::Ticket);
        let too_old =
            expires_with_epoch && self.revocation.as_ref().is_some_and(|list| statement.epoch < list.terms.min_epoch);
        if too_old || self.is_revoked(statement.serial.as_bytes()) || self.is_revoked(&statement.subject) {
            return Err(Code::Revoked);
        }
        Ok(())
    }
}

fn decoded(bytes: &Bytes) -> Result<Unverified<Statement>, Code> {
    Unverified::decode(bytes.clone()).map_err(|_| Code::Certificate)
}

/// A statement of this tenant that this key signed, whatever its time and whoever revoked it.
fn authentic<T: Terms>(
    tenant: TenantId,
    statement: Unverified<Statement>,
    issuer: &Issuer,
) -> Result<Certified<T>, Code> {
    if statement.claimed().issuer != issuer.kid {
        return Err(Code::Certificate);
    }
    let signed = statement.verify_by(&issuer.key).map_err(|_| Code::Certificate)?;
    let statement = signed.body();
    if statement.version != VERSION
        || statement.tenant != tenant
        || !statement.critical.is_empty()
        || statement.usages != 0
    {
        return Err(Code::Certificate);
    }
    let terms = statement.terms().map_err(|_| Code::Certificate)?;
    Ok(Certified { signed, terms })
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is newer and now in force.
    New,
    /// It is the one in force.
    Known,
}

fn epoch<T>(list: &Option<Certified<T>>) -> u64 {
    list.as_ref().map_or(0, |list| list.statement().epoch)
}

/// Puts a list in force if its epoch is higher. The same epoch with other bytes is a contradiction, and refused.
fn newer<T>(current: &mut Option<Certified<T>>, new: Certified<T>) -> Result<Accepted, Code> {
    if let Some(known) = current {
        if known.bytes() == new.bytes() {
            return Ok(Accepted::Known);
        }
        if new.statement().epoch <= known.statement().epoch {
            return Err(Code::StaleEpoch);
        }
    }
    *current = Some(new);
    Ok(Accepted::New)
}

fn in_time(statement: &Statement, now: u64) -> Result<(), Code> {
    let begins = statement.not_before.saturating_sub(CLOCK_SKEW);
    if (begins..=statement.not_after).contains(&now) { Ok(()) } else { Err(Code::Certificate) }
}

/// The key of a use, of the algorithm that the use demands.
fn well_formed(statement: &Statement, key_use: KeyUse) -> Result<PublicKey, Code> {
    match (key_use, statement.key(key_use)) {
        (KeyUse::Sign, Some(key @ PublicKey::Ed25519(_)))
        | (KeyUse::Channel, Some(key @ PublicKey::X25519(_)))
        | (KeyUse::Approve | KeyUse::Otp, Some(key @ PublicKey::P256(_))) => Ok(key),
        _ => Err(Code::Certificate),
    }
}
