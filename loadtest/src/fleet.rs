//! The simulated agents and phones: identities by number, minted from the tenant's CA key.
//!
//! A relay lets in whoever has a certificate of the tenant's CA, so nothing has to be enrolled: ten thousand computers exist
//! as soon as they are named. Number `n` is the same computer in each process of a load test and in each run with the same
//! seed. Its private keys come out of the CA's key and the seed (HMAC-SHA256), so that nobody who sees the seed can make them.
//!
//! ```
//! use gatepass_loadtest::Fleet;
//! use gatepass_protocol::{ids::TenantId, keys::SigningKey};
//!
//! let now = 1_800_000_000;
//! let fleet = Fleet::new(TenantId([1; 16]), SigningKey::from_seed(&[2; 32]), 7, now);
//! let agent = fleet.agent(0);
//! fleet.trust().agent(&agent.chain, now).expect("the tenant's CA signed it");
//! ```

use std::sync::Arc;

use bytes::Bytes;
use gatepass_client::{Endpoint, Proxies, Settings, Tls};
use gatepass_protocol::{
    ids::{ComputerId, Serial, TechnicianId, TenantId},
    keys::{ChannelKey, PublicKey, SignError, Signer, SigningKey},
    pairing::{agent::AgentIdentity, phone::DeviceIdentity},
    policy::{AccountKind, Choice, Policy, Rule, Scenario},
    signed::Signed,
    statement::{
        AgentTerms, CertifiedKey, DeviceTerms, Draft, KeyProtection, KeyUse, RevocationTerms, Statement, Terms,
    },
    trust::{CaPublic, TrustStore},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::{rand::SystemRandom, signature::EcdsaKeyPair};
use sha2::Sha256;

/// How long a minted certificate holds, in seconds: longer than any load test, and soon gone.
const LIFE: u64 = 7 * 86_400;
/// Certificates hold from this many seconds before the load test began, for the clocks of other machines.
const BEFORE: u64 = 3_600;
/// The tag of every simulated computer, so that a policy can leave them out.
pub const TAG: &str = "gatepass-loadtest";

/// The source of identities. Clones mint the same ones.
#[derive(Clone)]
pub struct Fleet {
    tenant: TenantId,
    ca: Arc<SigningKey>,
    seed: u64,
    now: u64,
    epoch: u64,
}

/// A simulated phone.
pub struct Phone {
    /// Its certificate, channel key and connection key.
    pub identity: DeviceIdentity,
    /// Its approval key.
    pub approve: ApprovalKey,
}

impl Fleet {
    /// The fleet of a tenant whose CA key this is. `now` is when its certificates begin, in Unix seconds: the same four
    /// arguments give the same bytes.
    pub fn new(tenant: TenantId, ca: SigningKey, seed: u64, now: u64) -> Self {
        Self { tenant, ca: Arc::new(ca), seed, now, epoch: 0 }
    }

    /// The same fleet with certificates issued at a revocation epoch: needed where the tenant's revocation list has a
    /// `min_epoch`.
    pub fn at_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The name of computer number `n`.
    pub fn computer(&self, n: u32) -> ComputerId {
        ComputerId(self.id("agent", n))
    }

    /// Computer number `n`.
    pub fn agent(&self, n: u32) -> AgentIdentity {
        let sign = SigningKey::from_seed(&self.secret("agent sign", n));
        let channel = ChannelKey::from_bytes(&self.secret("agent channel", n));
        let keys = vec![
            CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
            CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
        ];
        let terms = AgentTerms {
            computer: format!("load-{n}"),
            domain: String::new(),
            os: "Gatepass load test".into(),
            tags: vec![TAG.into()],
        };
        let certificate = self.sign(self.draft("agent", n, keys), &terms);
        AgentIdentity::new(vec![certificate], sign, channel).unwrap_or_else(|code| unreachable!("{code}"))
    }

    /// Phone number `n`, of a technician of its own.
    pub fn phone(&self, n: u32) -> Phone {
        let sign = SigningKey::from_seed(&self.secret("phone sign", n));
        let channel = ChannelKey::from_bytes(&self.secret("phone channel", n));
        let approve = ApprovalKey::new(|attempt| self.secret("phone approve", n.wrapping_add(attempt << 24)));
        let keys = vec![
            CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
            CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
            CertifiedKey { key_use: KeyUse::Approve, key: approve.public_key() },
        ];
        let terms = DeviceTerms {
            technician: TechnicianId(self.id("technician", n)),
            technician_name: format!("load-{n}"),
            device_name: format!("load test phone {n}"),
            protection: KeyProtection::Software,
        };
        let certificate = self.sign(self.draft("phone", n, keys), &terms);
        let identity =
            DeviceIdentity::new(vec![certificate], channel, sign).unwrap_or_else(|code| unreachable!("{code}"));
        Phone { identity, approve }
    }

    /// The realtime connection of computer number `n` to the first of these relays that answers.
    pub fn agent_settings(&self, n: u32, relays: Vec<Endpoint>, tls: Tls) -> Settings {
        let AgentIdentity { chain, sign, .. } = self.agent(n);
        Settings { relays, tls, proxies: Proxies::none(), chain, key: Arc::new(sign) }
    }

    /// The realtime connection of phone number `n` to the first of these relays that answers.
    pub fn phone_settings(&self, n: u32, relays: Vec<Endpoint>, tls: Tls) -> Settings {
        let DeviceIdentity { chain, sign, .. } = self.phone(n).identity;
        Settings { relays, tls, proxies: Proxies::none(), chain, key: Arc::new(sign) }
    }

    /// What agents and phones of the fleet believe: the CA key, and a policy that gives everybody everything without a
    /// confirm code, since nobody is there to type one. The server needs no such policy.
    pub fn trust(&self) -> TrustStore {
        let mut trust = TrustStore::new(self.tenant, [self.ca()]);
        let accepted = trust.accept_policy(&self.policy(1), self.now);
        accepted.unwrap_or_else(|code| unreachable!("{code}"));
        trust
    }

    /// The tenant's CA.
    pub fn ca(&self) -> CaPublic {
        CaPublic::new(self.ca.public_key()).unwrap_or_else(|error| unreachable!("{error}"))
    }

    /// The signed policy of [`Fleet::trust`], with this epoch.
    pub fn policy(&self, epoch: u64) -> Bytes {
        let choice = Choice {
            accounts: AccountKind::ALL.to_vec(),
            groups: vec!["adm".into(), "sudo".into()],
            max_minutes: 60,
            confirm: false,
            reason: false,
        };
        let rule = Rule {
            name: "load test".into(),
            technicians: vec![],
            computers: vec![],
            tags: vec![TAG.into()],
            scenarios: Scenario::ALL.to_vec(),
            choice,
        };
        let policy =
            Policy { default_minutes: 30, software_keys: true, delete_on_end: false, idle_days: 30, rules: vec![rule] };
        self.sign(self.list("policy", epoch), &policy)
    }

    /// A signed revocation list with this epoch, of these.
    pub fn revocation(&self, epoch: u64, mut revoked: Vec<Serial>) -> Bytes {
        revoked.sort();
        revoked.dedup();
        let terms = RevocationTerms { issued: self.now, next_update: self.now + LIFE, min_epoch: 0, revoked };
        self.sign(self.list("revocation", epoch), &terms)
    }

    /// The serial of a certificate that nobody has, for a revocation list that ends nobody's connection.
    pub fn nobody(&self, n: u32) -> Serial {
        Serial(self.id("nobody", n))
    }

    fn list(&self, what: &str, epoch: u64) -> Draft {
        let serial = Serial(self.id(what, epoch as u32));
        Draft { serial, subject: [0; 16], epoch, ..self.draft(what, 0, vec![]) }
    }

    fn draft(&self, what: &str, n: u32, keys: Vec<CertifiedKey>) -> Draft {
        Draft {
            serial: Serial(self.id(&format!("{what} serial"), n)),
            tenant: self.tenant,
            subject: self.id(what, n),
            keys,
            not_before: self.now.saturating_sub(BEFORE),
            not_after: self.now + LIFE,
            epoch: self.epoch,
        }
    }

    fn sign<T: Terms>(&self, draft: Draft, terms: &T) -> Bytes {
        let signed: Result<Signed<Statement>, SignError> = draft.sign(terms, &*self.ca);
        signed
            .map(|signed| signed.bytes().clone())
            .unwrap_or_else(|error| unreachable!("a key in memory signs: {error}"))
    }

    fn id(&self, what: &str, n: u32) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.secret(what, n)[..16]);
        id
    }

    fn secret(&self, what: &str, n: u32) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.ca.seed()).unwrap_or_else(|error| unreachable!("{error}"));
        mac.update(b"gatepass load test\0");
        mac.update(self.tenant.as_bytes());
        mac.update(&self.seed.to_be_bytes());
        mac.update(&n.to_be_bytes());
        mac.update(what.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// A phone's approval key in software. It signs with `ring`, which is five times faster than portable code: the tester shares
/// its machine with what it measures.
pub struct ApprovalKey {
    pair: EcdsaKeyPair,
    public: [u8; 65],
}

impl ApprovalKey {
    /// The key of the first 32 bytes that are one: all but one in 2^32 are.
    fn new(bytes: impl Fn(u32) -> [u8; 32]) -> Self {
        let key = (0..).find_map(|attempt| p256::ecdsa::SigningKey::from_slice(&bytes(attempt)).ok());
        let key = key.unwrap_or_else(|| unreachable!("almost any 32 bytes are a key"));
        let mut public = [0; 65];
        // An uncompressed point of P-256 has 65 bytes.
        public.copy_from_slice(key.verifying_key().to_sec1_point(false).as_bytes());
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.to_bytes(),
            &public,
            &SystemRandom::new(),
        );
        Self { pair: pair.unwrap_or_else(|error| unreachable!("{error}")), public }
    }
}

impl Signer for ApprovalKey {
    fn public_key(&self) -> PublicKey {
        PublicKey::P256(self.public)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let failed = |error: &dyn std::fmt::Display| SignError(error.to_string());
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|error| failed(&error))?;
        let signature = p256::ecdsa::Signature::from_slice(signature.as_ref()).map_err(|error| failed(&error))?;
        Ok(signature.normalize_s().to_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn fleet(seed: u64) -> Fleet {
        Fleet::new(TenantId([1; 16]), SigningKey::from_seed(&[2; 32]), seed, NOW)
    }

    #[test]
    fn whoever_trusts_the_ca_trusts_the_whole_fleet() {
        let (fleet, trust) = (fleet(1), fleet(9).trust());
        for n in [0, 1, 19_999] {
            assert_eq!(trust.agent(&fleet.agent(n).chain, NOW).unwrap().terms().tags, [TAG]);
            trust.device(&fleet.phone(n).identity.chain, NOW).unwrap();
        }
        let stranger = Fleet::new(TenantId([1; 16]), SigningKey::from_seed(&[3; 32]), 1, NOW);
        assert!(trust.agent(&stranger.agent(0).chain, NOW).is_err());
    }

    #[test]
    fn a_seed_gives_the_same_computers_in_each_process_and_another_seed_others() {
        assert_eq!(fleet(1).agent(7).chain, fleet(1).agent(7).chain);
        assert_eq!(fleet(1).phone(7).identity.chain, fleet(1).phone(7).identity.chain);
        assert_ne!(fleet(1).agent(7).chain, fleet(2).agent(7).chain);
        assert_ne!(fleet(1).agent(7).computer(), fleet(1).agent(8).computer());
    }

    #[test]
    fn approvals_of_a_simulated_phone_verify() {
        let key = fleet(1).phone(0).approve;
        for n in 0..32_u32 {
            // Half of all plain signatures have a high s, which is refused.
            key.public_key().verify(&n.to_be_bytes(), &key.sign(&n.to_be_bytes()).unwrap()).unwrap();
        }
    }

    #[test]
    fn lists_are_of_the_tenant_and_revoke_nobody_of_the_fleet() {
        let (fleet, mut trust) = (fleet(1), fleet(1).trust());
        trust.accept_revocation(&fleet.revocation(1, (0..50).map(|n| fleet.nobody(n)).collect()), NOW).unwrap();
        trust.accept_revocation(&fleet.revocation(2, vec![fleet.nobody(1)]), NOW).unwrap();
        trust.agent(&fleet.agent(1).chain, NOW).unwrap();
    }
}
