//! The phone's side of a pairing: scanned -> M1 -> M2, M3 -> asked -> M5 -> outcome.

use bytes::Bytes;
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};

use super::{
    Failure,
    channel::{self, Transport},
    messages::{
        AgentHello, Approval, ConfirmMode, Context, Decision, DeviceHello, Ending, Hello, Outcome, Verification,
        reason_hash,
    },
    padding::Type,
};
use crate::{
    Code,
    ids::{ComputerId, Rid},
    keys::{ChannelKey, SignError, Signer, SigningKey},
    policy::{self, AccountKind, Wish},
    qr::{self, QrError, QrKeys, QrPayload},
    signed::{Signed, Unverified, labelled},
    statement::{AgentTerms, DeviceTerms, KeyUse, Statement},
    trust::{Certified, TrustStore},
    wire,
};

/// An enrolled phone: its certificate and the keys it uses without asking its person. The approval key is not here.
pub struct DeviceIdentity {
    /// The certificate, as it is sent.
    pub chain: Vec<Bytes>,
    /// The static key of its channels.
    pub channel: ChannelKey,
    /// Signs its relay connection and its orders.
    pub sign: SigningKey,
    statement: Statement,
    terms: DeviceTerms,
}

impl DeviceIdentity {
    /// Joins a certificate with its keys; refuses a certificate that is not about them.
    pub fn new(chain: Vec<Bytes>, channel: ChannelKey, sign: SigningKey) -> Result<Self, Code> {
        let certificate = chain.first().ok_or(Code::Certificate)?;
        let statement =
            Unverified::<Statement>::decode(certificate.clone()).map_err(|_| Code::Certificate)?.claimed().clone();
        let terms = statement.terms().map_err(|_| Code::Certificate)?;
        let ours = statement.key(KeyUse::Channel) == Some(channel.public_key())
            && statement.key(KeyUse::Sign) == Some(sign.public_key());
        if ours { Ok(Self { chain, channel, sign, statement, terms }) } else { Err(Code::Certificate) }
    }

    /// The certificate's fields.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// What the certificate says of the device and its technician.
    pub fn terms(&self) -> &DeviceTerms {
        &self.terms
    }
}

/// A QR was read.
pub struct Scan {
    payload: QrPayload,
    keys: QrKeys,
}

impl Scan {
    /// Reads a QR's text.
    pub fn from_text(text: &str) -> Result<Self, QrError> {
        let payload = QrPayload::from_text(text)?;
        let keys = payload.keys();
        Ok(Self { payload, keys })
    }

    /// The pairing's name at the relay.
    pub fn rid(&self) -> Rid {
        self.keys.rid()
    }

    /// Which relay of the tenant's list to go to.
    pub fn relay_idx(&self) -> u16 {
        self.payload.relay_idx
    }

    /// Whether it is this tenant's QR, as far as four bytes tell.
    pub fn is_of(&self, trust: &TrustStore) -> bool {
        self.payload.tenant_tag == qr::tenant_tag(trust.tenant())
    }

    /// The fields of a CLAIM frame: a fresh `n` and its tag.
    pub fn claim(&self, rng: &mut impl CryptoRng) -> ([u8; 16], [u8; 16]) {
        let mut n = [0; 16];
        rng.fill_bytes(&mut n);
        (n, self.keys.claim_tag(&n))
    }

    /// Writes M1. `app` is the app's name and version.
    pub fn start(
        self,
        app: &str,
        trust: &TrustStore,
        rng: &mut impl CryptoRng,
    ) -> Result<(AwaitAgent, Vec<u8>), Failure> {
        let hello = Hello {
            versions: vec![qr::VERSION],
            suites: vec![qr::SUITE],
            app: app.into(),
            revocation_epoch: trust.revocation_epoch(),
        };
        let (handshake, m1) = channel::write_m1(&self.payload, &self.keys, &wire::to_vec(&hello), rng)?;
        Ok((AwaitAgent { handshake }, m1))
    }
}

/// M1 is sent.
pub struct AwaitAgent {
    handshake: channel::InitiatorSent,
}

impl AwaitAgent {
    /// Reads M2, makes sure of the agent, and writes M3.
    pub fn receive(
        self,
        m2: &[u8],
        identity: &DeviceIdentity,
        trust: &TrustStore,
        now: u64,
    ) -> Result<(AwaitContext, Vec<u8>), Failure> {
        let (handshake, body, signed) = self.handshake.read_m2(m2)?;
        let hello: AgentHello = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        // What is wrong with the agent is for this phone's person; the agent, whoever it is, is told nothing.
        let agent = trust.agent(&hello.chain, now).map_err(Failure::of)?;
        let key = agent.statement().key(KeyUse::Sign).ok_or(Failure::of(Code::Certificate))?;
        key.verify(&labelled(super::agent::AUTH_LABEL, &signed), &hello.signature).map_err(|_| Failure::generic())?;
        let ours = DeviceHello { chain: identity.chain.clone(), revocation_epoch: trust.revocation_epoch() };
        let (transport, m3) = handshake.write_m3(&identity.channel, &wire::to_vec(&ours))?;
        Ok((
            AwaitContext { transport, agent, agent_chain: hello.chain, revocation_epoch: trust.revocation_epoch() },
            m3,
        ))
    }
}

/// M3 is sent.
pub struct AwaitContext {
    transport: Transport,
    agent: Certified<AgentTerms>,
    agent_chain: Vec<Bytes>,
    revocation_epoch: u64,
}

impl AwaitContext {
    /// Reads M4.
    pub fn receive(mut self, m4: &[u8]) -> Result<Asked, Failure> {
        let body = match self.transport.open_either(Type::Context, Type::Refusal, m4)? {
            Ok(body) => body,
            Err(refusal) => return Err(refused(&refusal)),
        };
        let context: Context = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        if context.machine.computer != ComputerId(self.agent.statement().subject) {
            return Err(Failure::of(Code::Context));
        }
        let context_hash = Sha256::digest(&*body).into();
        Ok(Asked { from: self, context, context_hash })
    }
}

fn refused(body: &[u8]) -> Failure {
    match wire::from_slice(body) {
        Ok(Outcome::Refused(code)) => Failure::of(code),
        _ => Failure::generic(),
    }
}

/// The technician is asked.
pub struct Asked {
    from: AwaitContext,
    context: Context,
    context_hash: [u8; 32],
}

/// What the technician chose.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The kind of account.
    pub kind: AccountKind,
    /// The groups.
    pub groups: Vec<String>,
    /// For how many minutes.
    pub minutes: u32,
    /// Why.
    pub reason: String,
    /// For which ticket of another system.
    pub ticket: String,
    /// How the device made sure of its person.
    pub verification: Verification,
}

/// Why nothing was approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// No choice that the context offers gives all of this.
    #[error(
        "the policy does not offer this: choose an account, groups and a time that it does, and give a reason where it asks for one"
    )]
    NotOffered,
    /// The key did not sign.
    #[error(transparent)]
    NotSigned(#[from] SignError),
    /// The channel failed.
    #[error(transparent)]
    Channel(#[from] Failure),
}

impl Asked {
    /// What is asked.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The computer, as its certificate names it.
    pub fn agent(&self) -> &Certified<AgentTerms> {
        &self.from.agent
    }

    /// The computer's certificate chain, for orders to it later.
    pub fn agent_chain(&self) -> &[Bytes] {
        &self.from.agent_chain
    }

    /// The three digits to type at the computer.
    pub fn confirm_code(&self) -> String {
        self.from.transport.confirm_code()
    }

    /// Whether this choice needs the confirm code typed at the computer; `None` where the context does not offer it.
    pub fn needs_code(&self, chosen: &Chosen) -> Option<bool> {
        policy::granted(&self.context.choices, &chosen.wish())
    }

    /// Approves, and writes M5. The signer asks its person.
    pub fn approve(
        mut self,
        chosen: &Chosen,
        identity: &DeviceIdentity,
        signer: &dyn Signer,
    ) -> Result<(AwaitOutcome, Vec<u8>), NotApproved> {
        let needs_code = self.needs_code(chosen).ok_or(NotApproved::NotOffered)?;
        let (_, account) =
            self.context.accounts.iter().find(|(kind, _)| *kind == chosen.kind).ok_or(NotApproved::NotOffered)?;
        let (context, device) = (&self.context, identity.statement());
        let max_session = chosen.minutes.saturating_mul(60);
        let approval = Approval {
            version: qr::VERSION,
            decision: 1,
            h_final: self.from.transport.h(),
            context: self.context_hash,
            tenant: device.tenant,
            agent: self.from.agent.statement().serial,
            computer: context.machine.computer,
            device: device.serial,
            technician: identity.terms().technician,
            kind: chosen.kind,
            account: account.clone(),
            groups: chosen.groups.clone(),
            ou: String::new(),
            // From the question to the end of its validity may pass before the grant begins.
            not_after: context.expires.saturating_add(u64::from(max_session)),
            max_session,
            nonce: context.nonce,
            confirm: if needs_code { ConfirmMode::AtComputer } else { ConfirmMode::Off },
            confirm_value: 0,
            revocation_epoch: self.from.revocation_epoch,
            verification: chosen.verification,
            protection: identity.terms().protection,
            reason: reason_hash(&chosen.reason, &chosen.ticket),
        };
        let signed = Signed::sign(approval, signer)?;
        let decision = Decision {
            approval: Some(signed.bytes().clone()),
            not_me: false,
            reason: chosen.reason.clone(),
            ticket: chosen.ticket.clone(),
        };
        let m5 = self.from.transport.seal(Type::Decision, &wire::to_vec(&decision))?;
        Ok((AwaitOutcome { transport: self.from.transport }, m5))
    }

    /// Denies, and writes M5. `not_me`: the technician did not ask for this.
    pub fn deny(mut self, not_me: bool) -> Result<Vec<u8>, Failure> {
        let decision = Decision { approval: None, not_me, reason: String::new(), ticket: String::new() };
        self.from.transport.seal(Type::Decision, &wire::to_vec(&decision))
    }
}

impl Chosen {
    fn wish(&self) -> Wish<'_> {
        Wish { account: self.kind, groups: &self.groups, minutes: self.minutes, reason: !self.reason.trim().is_empty() }
    }
}

/// M5 is sent.
pub struct AwaitOutcome {
    transport: Transport,
}

impl AwaitOutcome {
    /// The three digits to type at the computer.
    pub fn confirm_code(&self) -> String {
        self.transport.confirm_code()
    }

    /// Reads M6.
    pub fn receive(mut self, m6: &[u8]) -> Result<(Outcome, Open), Failure> {
        let body = self.transport.open(Type::Outcome, m6)?;
        let outcome = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        Ok((outcome, Open { transport: self.transport }))
    }
}

/// The grant is live and the channel still open.
pub struct Open {
    transport: Transport,
}

impl Open {
    /// Writes M7: end the grant.
    pub fn end(&mut self) -> Result<Vec<u8>, Failure> {
        self.transport.seal(Type::End, &wire::to_vec(&Ending { receipt: None }))
    }

    /// Reads M7: the receipt, still to be verified by [`crate::signed`] with the agent's key.
    pub fn receive(&mut self, m7: &[u8]) -> Result<Bytes, Failure> {
        let body = self.transport.open(Type::End, m7)?;
        let ending: Ending = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        ending.receipt.ok_or(Failure::generic())
    }
}
