//! A tenant to test with: its CA, phones, computers and lists, all out of a seeded random source, so that a test, a
//! published vector and a bench see the same bytes each time. Never in a product: everything here is predictable.

use bytes::Bytes;
use p256::ecdsa::signature::Signer as _;
use rand_core::{TryCryptoRng, TryRng};
use sha2::{Digest, Sha256};

use crate::{
    enrol::Ticket,
    ids::{ComputerId, DeviceId, Serial, TechnicianId, TenantId},
    keys::{ChannelKey, OtpKey, PublicKey, SignError, Signer, SigningKey},
    offline::OfflineTerms,
    pairing::{
        agent::AgentIdentity,
        messages::{Context, MachineCard, Request, Verification},
        phone::{Chosen, DeviceIdentity},
    },
    policy::{AccountKind, Choice, Policy, Rule, Scenario},
    statement::{
        AgentTerms, CertifiedKey, DeviceTerms, Draft, Extension, KeyProtection, KeyUse, OFFLINE_CODES, Purpose,
        RevocationTerms, TicketTerms,
    },
    trust::{CaPublic, TrustStore},
};

/// The moment at which tests happen, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;
const YEAR: u64 = 365 * 86_400;

/// SHA-256 of a seed and a counter: repeatable, and good for nothing else.
#[derive(Clone)]
pub struct Rng {
    seed: [u8; 32],
    counter: u64,
    block: Vec<u8>,
}

impl Rng {
    /// The same seed gives the same bytes.
    pub fn new(seed: u64) -> Self {
        Self { seed: Sha256::digest(seed.to_be_bytes()).into(), counter: 0, block: Vec::new() }
    }
}

impl TryRng for Rng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for byte in out {
            if self.block.is_empty() {
                self.block =
                    Sha256::new().chain_update(self.seed).chain_update(self.counter.to_be_bytes()).finalize().to_vec();
                self.counter += 1;
            }
            *byte = self.block.pop().unwrap_or_default();
        }
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

/// A P-256 key in memory (RFC 6979: the same message, the same signature).
pub struct SoftKey(p256::ecdsa::SigningKey);

impl SoftKey {
    /// A key out of a seeded source.
    pub fn generate(rng: &mut Rng) -> Self {
        loop {
            let mut bytes = [0; 32];
            rand_core::Rng::fill_bytes(rng, &mut bytes);
            if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&bytes) {
                return Self(key);
            }
        }
    }
}

impl Signer for SoftKey {
    fn public_key(&self) -> PublicKey {
        let point = self.0.verifying_key().to_sec1_point(false);
        let mut key = [0; 65];
        key.copy_from_slice(point.as_bytes());
        PublicKey::P256(key)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature: p256::ecdsa::Signature = self.0.sign(message);
        Ok(signature.normalize_s().to_bytes().into())
    }
}

/// The key for offline codes of a computer or device of this tenant that has one.
pub fn otp_key(subject: &[u8; 16]) -> OtpKey {
    let mut half = [0; 8];
    half.copy_from_slice(&subject[..8]);
    // Out of a source of its own: whatever else is made in the tenant stays what it was without it.
    OtpKey::generate(&mut Rng::new(u64::from_be_bytes(half)))
}

/// A tenant with one CA.
pub struct Tenant {
    /// The source of everything in it.
    pub rng: Rng,
    /// Its name.
    pub id: TenantId,
    /// Its CA's private key.
    pub ca: SigningKey,
    /// When everything in it is signed, in Unix seconds.
    pub now: u64,
    /// Whether certificates have a key for offline codes: [`otp_key`] of their subject.
    pub offline_codes: bool,
}

/// An enrolled phone.
pub struct Phone {
    /// Its certificate and channel keys.
    pub identity: DeviceIdentity,
    /// Its approval key.
    pub approve: SoftKey,
}

impl Tenant {
    /// The tenant of a seed, at [`NOW`].
    pub fn new(seed: u64) -> Self {
        Self::at(seed, NOW)
    }

    /// The tenant of a seed, at another time: the real one, where real programs take part.
    pub fn at(seed: u64, now: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self { id: TenantId::random(&mut rng), ca: SigningKey::generate(&mut rng), rng, now, offline_codes: false }
    }

    /// Its CA's public key.
    pub fn ca_public(&self) -> CaPublic {
        CaPublic::new(self.ca.public_key()).unwrap_or_else(|_| unreachable!("an Ed25519 key"))
    }

    /// Trusts its CA, with no lists yet.
    pub fn trust(&self) -> TrustStore {
        TrustStore::new(self.id, [self.ca_public()])
    }

    /// Trusts its CA, with [`Tenant::policy`] in force.
    pub fn trust_with_policy(&mut self) -> TrustStore {
        let mut trust = self.trust();
        let policy = self.policy(1, true);
        trust.accept_policy(&policy, self.now).unwrap_or_else(|code| unreachable!("{code}"));
        trust
    }

    /// A draft about a subject.
    pub fn draft(&mut self, subject: [u8; 16], keys: Vec<CertifiedKey>) -> Draft {
        let serial = Serial::random(&mut self.rng);
        Draft {
            serial,
            tenant: self.id,
            subject,
            keys,
            not_before: self.now - 3600,
            not_after: self.now + YEAR,
            epoch: 0,
        }
    }

    /// A phone of technician `alex`, whose identity is 16 bytes of `technician`.
    pub fn phone(&mut self, technician: u8) -> Phone {
        let (channel, sign, approve) = (
            ChannelKey::generate(&mut self.rng),
            SigningKey::generate(&mut self.rng),
            SoftKey::generate(&mut self.rng),
        );
        let mut keys = vec![
            CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
            CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
            CertifiedKey { key_use: KeyUse::Approve, key: approve.public_key() },
        ];
        let device = DeviceId::random(&mut self.rng);
        keys.extend(self.otp(device.as_bytes()));
        let terms = DeviceTerms {
            technician: TechnicianId([technician; 16]),
            technician_name: "alex".into(),
            device_name: "Alex's phone".into(),
            protection: KeyProtection::Software,
        };
        let certificate = signed(self.draft(*device.as_bytes(), keys).sign(&terms, &self.ca));
        let identity =
            DeviceIdentity::new(vec![certificate], channel, sign).unwrap_or_else(|code| unreachable!("{code}"));
        Phone { identity, approve }
    }

    /// A computer whose certificate the CA signed.
    pub fn computer(&mut self) -> AgentIdentity {
        let (sign, channel) = (SigningKey::generate(&mut self.rng), ChannelKey::generate(&mut self.rng));
        let (draft, terms) = self.agent_draft(&sign, &channel);
        let certificate = signed(draft.sign(&terms, &self.ca));
        AgentIdentity::new(vec![certificate], sign, channel).unwrap_or_else(|code| unreachable!("{code}"))
    }

    /// A computer that enrolled itself with a ticket.
    pub fn computer_by_ticket(&mut self) -> AgentIdentity {
        let ticket = self.ticket(Purpose::Agent, "");
        let (sign, channel) = (SigningKey::generate(&mut self.rng), ChannelKey::generate(&mut self.rng));
        let (draft, terms) = self.agent_draft(&sign, &channel);
        let certificate = signed(draft.sign(&terms, &ticket.key()));
        let chain = vec![certificate, ticket.statement.clone()];
        AgentIdentity::new(chain, sign, channel).unwrap_or_else(|code| unreachable!("{code}"))
    }

    fn agent_draft(&mut self, sign: &SigningKey, channel: &ChannelKey) -> (Draft, AgentTerms) {
        let mut keys = vec![
            CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
            CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
        ];
        let computer = ComputerId::random(&mut self.rng);
        keys.extend(self.otp(computer.as_bytes()));
        let terms = AgentTerms {
            computer: "web-01".into(),
            domain: "example.org".into(),
            os: "Debian 12".into(),
            tags: vec!["web".into()],
        };
        (self.draft(*computer.as_bytes(), keys), terms)
    }

    fn otp(&self, subject: &[u8; 16]) -> Option<CertifiedKey> {
        let certified = || CertifiedKey { key_use: KeyUse::Otp, key: otp_key(subject).public_key() };
        self.offline_codes.then(certified)
    }

    /// A ticket for three uses.
    pub fn ticket(&mut self, purpose: Purpose, url: &str) -> Ticket {
        let key = SigningKey::generate(&mut self.rng);
        let keys = vec![CertifiedKey { key_use: KeyUse::Sign, key: key.public_key() }];
        let mut draft = self.draft([0; 16], keys);
        draft.subject = draft.serial.0;
        let terms = TicketTerms { purpose, uses: 3, tags: vec!["web".into()], certificates_until: self.now + 2 * YEAR };
        let statement = signed(draft.sign(&terms, &self.ca));
        Ticket { statement, seed: *key.seed(), url: url.into(), tls_ca_pem: None, cas: vec![self.ca_public().to_pem()] }
    }

    /// A policy that gives everybody everything for an hour, with or without the confirm code.
    pub fn policy(&mut self, epoch: u64, confirm: bool) -> Bytes {
        self.policy_with(epoch, confirm, None)
    }

    /// The same, with offline codes.
    pub fn policy_with(&mut self, epoch: u64, confirm: bool, offline: Option<&OfflineTerms>) -> Bytes {
        let choice = Choice {
            accounts: AccountKind::ALL.to_vec(),
            groups: vec!["adm".into(), "sudo".into()],
            max_minutes: 60,
            confirm,
            reason: false,
        };
        let rule = Rule {
            name: "everybody".into(),
            technicians: vec![],
            computers: vec![],
            tags: vec![],
            scenarios: Scenario::ALL.to_vec(),
            choice,
        };
        let policy =
            Policy { default_minutes: 30, software_keys: true, delete_on_end: false, idle_days: 30, rules: vec![rule] };
        let draft = self.list(epoch);
        let extension = |terms: &OfflineTerms| Extension { id: OFFLINE_CODES, value: terms.encode().into() };
        signed(draft.sign_with(&policy, offline.map(extension).into_iter().collect(), &self.ca))
    }

    /// A revocation list of these.
    pub fn revocation(&mut self, epoch: u64, mut revoked: Vec<Serial>) -> Bytes {
        revoked.sort();
        let terms = RevocationTerms { issued: self.now, next_update: self.now + 86_400, min_epoch: 0, revoked };
        let draft = self.list(epoch);
        signed(draft.sign(&terms, &self.ca))
    }

    /// A draft about the tenant itself.
    pub fn list(&mut self, epoch: u64) -> Draft {
        Draft { epoch, ..self.draft([0; 16], vec![]) }
    }
}

/// Offline codes for everything, in the first day.
pub fn offline_terms() -> OfflineTerms {
    OfflineTerms {
        max_age_hours: 24,
        max_minutes: 20,
        scenarios: Scenario::ALL.to_vec(),
        groups: None,
        long_codes: Vec::new(),
        time_codes: false,
        while_online: false,
    }
}

/// A question by this computer under the policy in force.
pub fn context(identity: &AgentIdentity, trust: &TrustStore, choices: Vec<Choice>) -> Context {
    Context {
        machine: MachineCard {
            computer: identity.computer(),
            host: "web-01".into(),
            os: "Debian 12".into(),
            agent: "gatepass-agent 0.1".into(),
        },
        scenario: Scenario::Ssh,
        request: Request {
            service: "sshd".into(),
            user: "gp-alex".into(),
            target: "gp-alex".into(),
            from: "192.0.2.7".into(),
            tty: "ssh".into(),
            command: String::new(),
        },
        choices,
        accounts: vec![(AccountKind::Named, "gp-alex".into())],
        default_minutes: 30,
        nonce: [9; 16],
        time: NOW,
        expires: NOW + 60,
        policy_epoch: trust.policy_epoch(),
        revocation_epoch: trust.revocation_epoch(),
        audit_root: [0; 32],
    }
}

/// The named account, group sudo, half an hour.
pub fn chosen() -> Chosen {
    Chosen {
        kind: AccountKind::Named,
        groups: vec!["sudo".into()],
        minutes: 30,
        reason: "disk full".into(),
        ticket: String::new(),
        verification: Verification::Pin,
    }
}

fn signed(statement: Result<crate::signed::Signed<crate::statement::Statement>, SignError>) -> Bytes {
    statement.map(|signed| signed.bytes().clone()).unwrap_or_else(|error| unreachable!("{error}"))
}

/// The confirm code of an exporter key and a handshake hash, for the published vectors.
pub fn confirm_code(exporter: &[u8; 32], h: &[u8; 32]) -> String {
    crate::pairing::confirm_code(exporter, h)
}
