//! The tenant's computers, as a phone knows them before it has met them: what an offline code needs, when nobody can be asked any more.
//! Each is a certificate chain, verified when it is used.

use std::collections::BTreeMap;

use bytes::Bytes;
use gatepass_client::{
    Http, Tls,
    api::{Base64, Place},
    directory,
};
use gatepass_protocol::{
    Code,
    ids::ComputerId,
    offline::ChallengeQr,
    signed::Unverified,
    statement::{AgentTerms, Statement},
    trust::{Certified, TrustStore},
};
use serde::{Deserialize, Serialize};

use crate::{
    enrol::EnrolError,
    profile::{Profile, ProfileError},
};

/// The computers that a phone knows of.
#[derive(Default, Serialize, Deserialize)]
pub struct Directory {
    #[serde(flatten)]
    place: Place,
    computers: Vec<Vec<Base64>>,
}

/// Why no computer is meant.
#[derive(Debug, thiserror::Error)]
pub enum NoComputer {
    /// None is called that.
    #[error("this phone knows no computer \"{0}\": 'gatepass-phone computers' fetches them, while it is online")]
    Unknown(String),
    /// Several are.
    #[error("several computers are called that: name one by its identity, which 'gatepass-phone computers' shows")]
    Ambiguous,
    /// Its certificate is not valid.
    #[error("the computer is not to be trusted: {0}")]
    Refused(Code),
}

impl Directory {
    /// Fetches what is new from the control plane, and forgets what is no longer valid.
    pub async fn refresh(&mut self, profile: &Profile, trust: &TrustStore, now: u64) -> Result<(), EnrolError> {
        let tls = Tls::from_pem(profile.tls_ca_pem.as_deref()).map_err(ProfileError::Tls)?;
        let http = Http::new(&profile.url, tls, profile.proxies.clone())?;
        let (chain, key) = (profile.chain()?, profile.sign_key());
        let asked = directory(&http, &chain, &key, profile.tenant, profile.device.0, self.place).await?;
        let (chains, place) = asked;
        let known = self.computers.iter().map(|chain| chain.iter().map(|link| link.0.clone()).collect());
        let mut by_computer: BTreeMap<[u8; 16], Vec<Base64>> = BTreeMap::new();
        for chain in known.chain(chains) {
            let chain: Vec<Bytes> = chain;
            match trust.agent(&chain, now) {
                Ok(agent) => {
                    by_computer.insert(agent.statement().subject, chain.into_iter().map(Base64).collect());
                }
                Err(code) => tracing::debug!(%code, "the directory names a computer that is not valid"),
            }
        }
        *self = Self { place, computers: by_computer.into_values().collect() };
        Ok(())
    }

    /// Identity and name of each. Only claimed: whoever uses one verifies it.
    pub fn names(&self) -> Vec<(ComputerId, String)> {
        let named = self.computers.iter().filter_map(|chain| claimed(chain));
        named.map(|(id, terms)| (id, terms.computer)).collect()
    }

    /// The certificate chain of a computer.
    pub fn chain(&self, id: ComputerId) -> Option<Vec<Bytes>> {
        let chain = self.computers.iter().find(|chain| claimed(chain).is_some_and(|(of, _)| of == id))?;
        Some(chain.iter().map(|link| link.0.clone()).collect())
    }

    /// The computer of a name or an identity, verified.
    pub fn find(&self, name: &str, trust: &TrustStore, now: u64) -> Result<Certified<AgentTerms>, NoComputer> {
        let full = |terms: &AgentTerms| format!("{}.{}", terms.computer, terms.domain);
        let is_meant = |id: ComputerId, terms: &AgentTerms| {
            terms.computer.eq_ignore_ascii_case(name)
                || full(terms).eq_ignore_ascii_case(name)
                || id.to_string() == name
        };
        self.the_one(is_meant, name, trust, now)
    }

    /// The computer that shows a challenge, verified.
    pub fn of(&self, qr: &ChallengeQr, trust: &TrustStore, now: u64) -> Result<Certified<AgentTerms>, NoComputer> {
        self.the_one(|id, _| qr.is_of(trust.tenant(), id), "of this QR code", trust, now)
    }

    fn the_one(
        &self,
        is_meant: impl Fn(ComputerId, &AgentTerms) -> bool,
        name: &str,
        trust: &TrustStore,
        now: u64,
    ) -> Result<Certified<AgentTerms>, NoComputer> {
        let meant = |chain: &&Vec<Base64>| claimed(chain).is_some_and(|(id, terms)| is_meant(id, &terms));
        let mut found = self.computers.iter().filter(meant);
        let chain: Vec<Bytes> = match (found.next(), found.next()) {
            (Some(chain), None) => chain.iter().map(|link| link.0.clone()).collect(),
            (None, _) => return Err(NoComputer::Unknown(name.to_owned())),
            _ => return Err(NoComputer::Ambiguous),
        };
        trust.agent(&chain, now).map_err(NoComputer::Refused)
    }
}

fn claimed(chain: &[Base64]) -> Option<(ComputerId, AgentTerms)> {
    let certificate = Unverified::<Statement>::decode(chain.first()?.0.clone()).ok()?;
    let statement = certificate.claimed();
    Some((ComputerId(statement.subject), statement.terms().ok()?))
}
