//! What a phone remembers of its computers: where they are, what was granted there, and the receipts. A receipt is kept with
//! the certificate chain of who signed it, so that anybody can check it again later.

use bytes::Bytes;
use gatepass_client::api::Base64;
use gatepass_protocol::{
    Code,
    ids::{ComputerId, GrantId, TechnicianId},
    order::Receipt,
    pairing::phone::Asked,
    signed::{Signed, Unverified},
    statement::KeyUse,
    trust::TrustStore,
};
use serde::{Deserialize, Serialize};

use crate::profile::text;

/// The newest so many receipts are kept.
const RECEIPTS: usize = 500;

/// The phone's memory.
#[derive(Default, Serialize, Deserialize)]
pub struct Book {
    computers: Vec<Computer>,
    grants: Vec<Granted>,
    receipts: Vec<Kept>,
}

/// A computer that this phone has dealt with.
#[derive(Clone, Serialize, Deserialize)]
pub struct Computer {
    /// Its identity.
    #[serde(with = "text")]
    pub id: ComputerId,
    /// Its name, as its certificate gave it.
    pub name: String,
    /// The relay it was met at.
    pub relay: u16,
    chain: Vec<Base64>,
}

/// A grant that this phone approved and has no receipt of yet.
#[derive(Clone, Serialize, Deserialize)]
pub struct Granted {
    /// Its name.
    #[serde(with = "text")]
    pub grant: GrantId,
    /// Where.
    #[serde(with = "text")]
    pub computer: ComputerId,
    /// The account, or the asking user.
    pub account: String,
    /// Until, in Unix seconds.
    pub until: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(with = "text")]
    grant: GrantId,
    chain: Vec<Base64>,
    receipt: Base64,
}

/// Why no grant is meant by what a person typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoGrant {
    /// None begins like that.
    #[error("this phone knows no live grant of that name: 'gatepass-phone grants' lists them")]
    Unknown,
    /// Several do.
    #[error("several grants begin like that: type more of the name")]
    Ambiguous,
}

impl Computer {
    /// A computer at a relay, with the certificate chain that it showed.
    pub fn new(id: ComputerId, name: &str, relay: u16, chain: &[Bytes]) -> Self {
        Self { id, name: name.to_owned(), relay, chain: chain.iter().cloned().map(Base64).collect() }
    }

    /// The computer that asks.
    pub fn of(asked: &Asked, relay: u16) -> Self {
        let agent = asked.agent();
        Self::new(ComputerId(agent.statement().subject), &agent.terms().computer, relay, asked.agent_chain())
    }

    /// The certificate chain it showed.
    pub fn chain(&self) -> Vec<Bytes> {
        self.chain.iter().map(|certificate| certificate.0.clone()).collect()
    }
}

impl Book {
    /// The computers that this phone has dealt with.
    pub fn computers(&self) -> &[Computer] {
        &self.computers
    }

    /// The computer of an identity.
    pub fn computer(&self, id: ComputerId) -> Option<&Computer> {
        self.computers.iter().find(|computer| computer.id == id)
    }

    /// Remembers a computer, in place of what was known of it.
    pub fn met(&mut self, computer: Computer) {
        self.computers.retain(|known| known.id != computer.id);
        self.computers.push(computer);
    }

    /// Remembers a grant.
    pub fn granted(&mut self, granted: Granted) {
        self.grants.retain(|known| known.grant != granted.grant);
        self.grants.push(granted);
    }

    /// The computer says which of our grants live there: the rest is over, whether or not its receipt has come.
    pub fn only_live(&mut self, computer: ComputerId, live: &[GrantId]) {
        self.grants.retain(|known| known.computer != computer || live.contains(&known.grant));
    }

    /// The grant whose name begins like this.
    pub fn find(&self, beginning: &str) -> Result<&Granted, NoGrant> {
        let beginning = beginning.trim().to_ascii_lowercase();
        let mut found = self.grants.iter().filter(|known| known.grant.to_string().starts_with(&beginning));
        match (found.next(), found.next()) {
            (Some(grant), None) if !beginning.is_empty() => Ok(grant),
            (Some(_), Some(_)) => Err(NoGrant::Ambiguous),
            _ => Err(NoGrant::Unknown),
        }
    }

    /// Keeps a receipt that holds, and says whether it is new.
    pub fn keep(
        &mut self,
        chain: &[Bytes],
        receipt: &Bytes,
        trust: &TrustStore,
        own: TechnicianId,
    ) -> Result<bool, Code> {
        let signed = check(chain, receipt, trust)?;
        let body = signed.body();
        if body.technician != own {
            return Err(Code::Context);
        }
        self.grants.retain(|known| known.grant != body.grant);
        if self.receipts.iter().any(|kept| kept.grant == body.grant) {
            return Ok(false);
        }
        let chain = chain.iter().cloned().map(Base64).collect();
        self.receipts.push(Kept { grant: body.grant, chain, receipt: Base64(receipt.clone()) });
        self.receipts.drain(..self.receipts.len().saturating_sub(RECEIPTS));
        Ok(true)
    }

    /// The receipts, oldest first, each checked again.
    pub fn receipts(&self, trust: &TrustStore) -> Vec<(GrantId, Result<Receipt, Code>)> {
        let checked = |kept: &Kept| {
            let chain: Vec<Bytes> = kept.chain.iter().map(|certificate| certificate.0.clone()).collect();
            (kept.grant, check(&chain, &kept.receipt.0, trust).map(Signed::into_body))
        };
        self.receipts.iter().map(checked).collect()
    }
}

/// A receipt holds when the computer that it names has signed it, with a certificate that was valid at the grant's end.
fn check(chain: &[Bytes], receipt: &Bytes, trust: &TrustStore) -> Result<Signed<Receipt>, Code> {
    let unverified = Unverified::<Receipt>::decode(receipt.clone()).map_err(|_| Code::Certificate)?;
    let agent = trust.agent(chain, unverified.claimed().ended)?;
    let key = agent.statement().key(KeyUse::Sign).ok_or(Code::Certificate)?;
    let signed = unverified.verify(&key).map_err(|_| Code::Certificate)?;
    let body = signed.body();
    if body.tenant == trust.tenant() && body.computer == ComputerId(agent.statement().subject) {
        Ok(signed)
    } else {
        Err(Code::Context)
    }
}
