//! Who a connection is: challenge and response with the key of a certificate.
//!
//! The relay sends a fresh nonce; the client signs it together with the name that it dialled, by the key in a certificate
//! that the tenant's CA issued, directly or through an enrolment ticket. A recorded proof is worthless for another
//! nonce, and one that was made for another relay is refused, so a relay can't pose as its clients elsewhere.
//!
//! Each signature is verified by itself. A batch of them would save a quarter, but takes by chance what no strict check takes.
//!
//! The relay learns tenants through [`Tenants`] and needs nothing secret of theirs.

use std::sync::Arc;

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    frame::RelayAuth,
    ids::{ComputerId, DeviceId, Serial, TenantId},
    signed::Unverified,
    statement::Statement,
    trust::{Certificate, TrustStore},
};

use serde::{Deserialize, Serialize};

use crate::peer::{Identity, Principal};

/// The longest name that DNS knows.
const MAX_NAME: usize = 253;

/// What the relay knows of tenants.
pub trait Tenants: Send + Sync + 'static {
    /// A tenant's CA keys and lists as they are now; `None` if there is no such tenant here. Asked for each connection,
    /// so it answers from memory.
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>>;
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The certificate says nothing here: of no tenant of this relay, expired, revoked, or not signed by a trusted key.
    #[error("the certificate is not accepted here")]
    Certificate(Code),
    /// The proof is no proof.
    #[error("the proof does not decode")]
    Proof,
    /// Signed by another key than the certificate's.
    #[error("the proof is not signed by the certificate's key")]
    Key,
    /// Made for another challenge.
    #[error("the proof answers another challenge")]
    Nonce,
    /// Made for another relay, or this relay does not know its own names.
    #[error("this relay is not called {dialled:?}; dial one of its names, or add this one to its `edge.names`")]
    Name {
        /// What the client dialled.
        dialled: String,
    },
}

impl Rejected {
    /// What the client is answered with.
    pub fn code(&self) -> Code {
        match self {
            Rejected::Certificate(code) => *code,
            Rejected::Proof => Code::BadFrame,
            Rejected::Key => Code::Certificate,
            Rejected::Nonce | Rejected::Name { .. } => Code::NotAllowed,
        }
    }
}

/// What a connection's right to be here hangs on, kept small because every idle connection has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Any of these revoked, and it ends: serials, subjects, technician, issuer's key; all written as serials are.
    ids: Box<[Serial]>,
    /// The revocation epoch of its certificate, or of the oldest in its chain.
    epoch: u64,
    not_after: u64,
}

impl Standing {
    fn of(certificate: &Certificate, chain: &[Bytes], trust: &TrustStore) -> Self {
        let mut ids = Vec::new();
        if let Certificate::Device(device) = certificate {
            ids.push(Serial(*device.terms().technician.as_bytes()));
        }
        let mut epoch = u64::MAX;
        let mut hang_on = |link: &Statement| {
            ids.extend([link.serial, Serial(link.subject)]);
            ids.extend(trust.ca(&link.issuer).map(|ca| Serial(ca.key().revocation_id())));
            epoch = epoch.min(link.epoch);
        };
        hang_on(certificate.statement());
        // The chain verified, so each link decodes.
        for issuer in chain.iter().skip(1).filter_map(|link| Unverified::<Statement>::decode(link.clone()).ok()) {
            hang_on(issuer.claimed());
        }
        Self { ids: ids.into(), epoch, not_after: certificate.statement().not_after }
    }

    /// Whether the connection may stay.
    pub fn holds(&self, trust: &TrustStore, now: u64) -> bool {
        let min_epoch = trust.revocation().map_or(0, |list| list.terms().min_epoch);
        now <= self.not_after && self.epoch >= min_epoch && !self.ids.iter().any(|id| trust.is_revoked(id.as_bytes()))
    }
}

/// Checks an AUTH. `names` are this relay's.
pub fn authenticate(
    tenants: &dyn Tenants,
    names: &[String],
    nonce: &[u8; 32],
    proof: &Bytes,
    chain: &[Bytes],
    now: u64,
) -> Result<Identity, Rejected> {
    let unknown = || Rejected::Certificate(Code::Certificate);
    let claimed = Unverified::<Statement>::decode(chain.first().ok_or_else(unknown)?.clone()).map_err(|_| unknown())?;
    let trust = tenants.trust(&claimed.claimed().tenant).ok_or_else(unknown)?;
    let certificate = trust.certificate(chain, now).map_err(Rejected::Certificate)?;
    let key = certificate.sign_key().map_err(Rejected::Certificate)?;
    let proof = Unverified::<RelayAuth>::decode(proof.clone()).map_err(|_| Rejected::Proof)?;
    let RelayAuth { nonce: answered, relay: dialled, .. } = proof.verify(&key).map_err(|_| Rejected::Key)?.into_body();
    if answered != *nonce {
        return Err(Rejected::Nonce);
    }
    if !names.iter().any(|name| name.eq_ignore_ascii_case(host(&dialled))) {
        // It goes back in an ERR: no longer than a name can be.
        return Err(Rejected::Name { dialled: dialled.chars().take(MAX_NAME).collect() });
    }
    let statement = certificate.statement();
    Ok(Identity {
        tenant: trust.tenant(),
        principal: match &certificate {
            Certificate::Agent(_) => Principal::Agent(ComputerId(statement.subject)),
            Certificate::Device(_) => Principal::Device(DeviceId(statement.subject)),
        },
        certificate: statement.serial,
        standing: Standing::of(&certificate, chain, &trust),
    })
}

/// The name of `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(crate) fn host(dialled: &str) -> &str {
    match dialled.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => dialled.rsplit_once(':').map_or(dialled, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::testing::{NOW, Tenant};

    use super::*;
    use crate::testing::{Tenancy, proof};

    const NONCE: [u8; 32] = [7; 32];

    fn check(tenancy: &Tenancy, proof: Bytes, chain: &[Bytes]) -> Result<Identity, Rejected> {
        let names = ["relay.example", "::1"].map(str::to_owned);
        authenticate(tenancy, &names, &NONCE, &proof, chain, NOW)
    }

    #[test]
    fn the_holder_of_a_certificate_is_let_in_under_any_of_the_relays_names() {
        let mut tenant = Tenant::new(1);
        let tenancy = Tenancy::of([tenant.trust()]);
        for agent in [tenant.computer(), tenant.computer_by_ticket()] {
            for name in ["relay.example", "Relay.Example:8443", "[::1]:8443", "[::1]"] {
                let identity = check(&tenancy, proof(&agent.sign, NONCE, name), &agent.chain).unwrap();
                assert_eq!(identity.principal, Principal::Agent(agent.computer()));
                assert_eq!((identity.tenant, identity.kind()), (tenant.id, "agent"));
            }
        }
        let device = tenant.phone(1).identity;
        let identity = check(&tenancy, proof(&device.sign, NONCE, "relay.example"), &device.chain).unwrap();
        assert_eq!(identity.principal, Principal::Device(DeviceId(device.statement().subject)));
    }

    #[test]
    fn a_proof_is_good_for_one_challenge_of_one_relay_and_its_own_certificate() {
        let (mut tenant, mut stranger) = (Tenant::new(1), Tenant::new(2));
        let tenancy = Tenancy::of([tenant.trust()]);
        let (agent, other, foreign) = (tenant.computer(), tenant.computer(), stranger.computer());
        let good = || proof(&agent.sign, NONCE, "relay.example");
        let endless = check(&tenancy, proof(&agent.sign, NONCE, &"\n".repeat(5_000)), &agent.chain).unwrap_err();
        assert!(endless.to_string().len() < 1_000);
        let (unknown, elsewhere) = (Rejected::Certificate(Code::Certificate), "evil.example:443".to_owned());
        for (why, expected, proof, chain) in [
            ("a recorded proof", Rejected::Nonce, proof(&agent.sign, [8; 32], "relay.example"), agent.chain.clone()),
            (
                "made for another relay",
                Rejected::Name { dialled: elsewhere.clone() },
                proof(&agent.sign, NONCE, &elsewhere),
                agent.chain.clone(),
            ),
            ("another's certificate", Rejected::Key, good(), other.chain.clone()),
            ("no certificate", unknown.clone(), good(), vec![]),
            ("an unknown tenant", unknown.clone(), proof(&foreign.sign, NONCE, "[::1]"), foreign.chain.clone()),
            ("no proof", Rejected::Proof, Bytes::from_static(b"proof"), agent.chain.clone()),
            ("no chain", unknown, good(), vec![Bytes::from_static(b"chain")]),
        ] {
            assert_eq!(check(&tenancy, proof, &chain).unwrap_err(), expected, "{why}");
        }
    }

    #[test]
    fn a_connection_stands_until_anything_it_hangs_on_is_revoked() {
        let mut tenant = Tenant::new(1);
        let (phone, ticketed) = (tenant.phone(5).identity, tenant.computer_by_ticket());
        let ticket = Unverified::<Statement>::decode(ticketed.chain[1].clone()).unwrap().claimed().serial;
        let certificate = phone.statement().serial;
        let ca = Serial(tenant.ca_public().key().revocation_id());
        for (revoked, phone_stays, computer_stays) in [
            (Serial([9; 16]), true, true),
            (Serial(phone.statement().subject), false, true),
            (certificate, false, true),
            (Serial([5; 16]), false, true),
            (ticket, true, false),
            (ca, false, false),
        ] {
            let tenancy = Tenancy::of([tenant.trust()]);
            let standing = |proof, chain| check(&tenancy, proof, chain).unwrap().standing;
            let phone_standing = standing(proof(&phone.sign, NONCE, "[::1]:1"), &phone.chain);
            let computer_standing = standing(proof(&ticketed.sign, NONCE, "[::1]:1"), &ticketed.chain);
            let id = tenant.id;
            let trust = || tenancy.trust(&id).unwrap();
            assert!(phone_standing.holds(&trust(), NOW) && computer_standing.holds(&trust(), NOW));
            assert!(!phone_standing.holds(&trust(), u64::MAX), "its certificate ends");
            tenancy.accept(id, &tenant.revocation(1, vec![revoked]));
            let stays = [&phone_standing, &computer_standing].map(|standing| standing.holds(&trust(), NOW));
            assert_eq!(stays, [phone_stays, computer_stays], "{revoked}");
        }
    }
}
