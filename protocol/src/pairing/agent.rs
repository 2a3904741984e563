//! The agent's side of a pairing: offered -> claimed -> M1, M2 -> M3 -> asked -> decided -> open.
//!
//! The agent is the only judge. In [`AwaitDecision::receive`] it checks, in this order: strict decoding, the certificate
//! and its time, revocation, the signature, its own handshake hash and context, its own names, expiry, policy. What is
//! left for the caller, in this order: the confirm code, single use, the audit trail, the journal, the act.

use bytes::Bytes;
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Failure,
    channel::{self, ResponderSent, Transport},
    messages::{
        AgentHello, Approval, ConfirmMode, Context, Decision, DeviceHello, Ending, Hello, Outcome, reason_hash,
    },
    padding::Type,
};
use crate::{
    Code,
    ids::{ComputerId, Rid, TenantId},
    keys::{ChannelKey, PublicKey, Signer, SigningKey},
    policy::{self, Wish},
    qr::{self, QrKeys, QrPayload},
    signed::{Signed, Unverified, labelled},
    statement::{DeviceTerms, KeyUse, Statement},
    trust::{Certified, TrustStore},
    wire,
};

/// Separates the agent's signature in M2 from every other.
pub(super) const AUTH_LABEL: &str = "gp1 agent-auth";

/// An enrolled agent.
pub struct AgentIdentity {
    /// The certificate chain, as it is sent.
    pub chain: Vec<Bytes>,
    /// Signs its handshakes, receipts, reports and events.
    pub sign: SigningKey,
    /// Opens messages sealed to it.
    pub channel: ChannelKey,
    statement: Statement,
}

impl AgentIdentity {
    /// Joins a certificate with its keys; refuses a certificate that is not about them.
    pub fn new(chain: Vec<Bytes>, sign: SigningKey, channel: ChannelKey) -> Result<Self, Code> {
        let certificate = chain.first().ok_or(Code::Certificate)?;
        let statement =
            Unverified::<Statement>::decode(certificate.clone()).map_err(|_| Code::Certificate)?.claimed().clone();
        let ours = statement.key(KeyUse::Sign) == Some(sign.public_key())
            && statement.key(KeyUse::Channel) == Some(channel.public_key());
        if ours { Ok(Self { chain, sign, channel, statement }) } else { Err(Code::Certificate) }
    }

    /// The certificate's fields.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The computer.
    pub fn computer(&self) -> ComputerId {
        ComputerId(self.statement.subject)
    }
}

/// A QR on the screen.
pub struct Offer {
    payload: QrPayload,
    keys: QrKeys,
    a_q: ChannelKey,
    made: u64,
}

impl Offer {
    /// A fresh QR.
    pub fn new(relay_idx: u16, tenant: TenantId, now: u64, rng: &mut impl CryptoRng) -> Self {
        let a_q = ChannelKey::generate(rng);
        let payload = QrPayload::new(relay_idx, tenant, a_q.public_bytes(), rng);
        let keys = payload.keys();
        Self { payload, keys, a_q, made: now }
    }

    /// The QR's text.
    pub fn text(&self) -> String {
        self.payload.to_text()
    }

    /// The pairing's name at the relay.
    pub fn rid(&self) -> Rid {
        self.keys.rid()
    }

    /// When to show the next one, in Unix seconds.
    pub fn shown_until(&self) -> u64 {
        self.made + qr::SHOWN_FOR
    }

    /// When this one is no longer good, in Unix seconds.
    pub fn good_until(&self) -> u64 {
        self.shown_until() + qr::GRACE
    }

    /// A phone claims it. The QR is used up either way: a wrong tag means that somebody who never saw it got in between.
    pub fn claim(self, n: &[u8; 16], tag: &[u8; 16], now: u64) -> Result<Claimed, Failure> {
        let in_time = (self.made..=self.good_until()).contains(&now);
        if in_time && self.keys.claim_is_good(n, tag) { Ok(Claimed { offer: self }) } else { Err(Failure::generic()) }
    }
}

/// A phone is there.
pub struct Claimed {
    offer: Offer,
}

impl Claimed {
    /// Reads M1 and writes M2. Whatever M1 is, the QR's key is gone after it.
    pub fn receive(
        self,
        m1: &[u8],
        identity: &AgentIdentity,
        rng: &mut impl CryptoRng,
    ) -> Result<(AwaitDevice, Vec<u8>), Failure> {
        let Offer { payload, keys, a_q, .. } = self.offer;
        let (handshake, body) = channel::read_m1(&payload, &keys, &a_q, m1, rng)?;
        let hello: Hello = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        // Said only after M3, to a phone that showed its certificate.
        let unsupported = if !hello.versions.contains(&qr::VERSION) {
            Some(Code::Version)
        } else if !hello.suites.contains(&qr::SUITE) {
            Some(Code::Suite)
        } else {
            None
        };
        let signature = identity.sign.sign_now(&labelled(AUTH_LABEL, &handshake.to_sign()));
        let ours = AgentHello { chain: identity.chain.clone(), signature };
        let (handshake, m2) = handshake.write_m2(&wire::to_vec(&ours))?;
        Ok((AwaitDevice { handshake, unsupported, app: hello.app }, m2))
    }
}

/// M2 is sent.
pub struct AwaitDevice {
    handshake: ResponderSent,
    unsupported: Option<Code>,
    app: String,
}

impl AwaitDevice {
    /// Reads M3 and makes sure of the device. From here on a failure is told to the phone.
    pub fn receive(self, m3: &[u8], trust: &TrustStore, now: u64) -> Result<Identified, Failure> {
        let (mut transport, body, static_key) = self.handshake.read_m3(m3)?;
        let hello: DeviceHello = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        let device = match self.unsupported {
            Some(code) => Err(code),
            None => trust.device(&hello.chain, now).and_then(|device| {
                let same = device.statement().key(KeyUse::Channel) == Some(PublicKey::X25519(static_key));
                if same { Ok(device) } else { Err(Code::Certificate) }
            }),
        };
        match device {
            Ok(device) => Ok(Identified { transport, device, app: self.app, revocation_epoch: hello.revocation_epoch }),
            Err(code) => Err(refusal(&mut transport, Type::Refusal, code)),
        }
    }
}

fn refusal(transport: &mut Transport, kind: Type, code: Code) -> Failure {
    let reply = transport.seal(kind, &wire::to_vec(&Outcome::Refused(code))).ok();
    Failure { code: Some(code), reply }
}

/// The phone has shown its certificate.
pub struct Identified {
    transport: Transport,
    device: Certified<DeviceTerms>,
    app: String,
    revocation_epoch: u64,
}

impl Identified {
    /// Whose device it is.
    pub fn device(&self) -> &Certified<DeviceTerms> {
        &self.device
    }

    /// The app and its version, by its own word.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The newest revocation list that the phone knows. If it is newer than the agent's, the agent fetches before it asks.
    pub fn revocation_epoch(&self) -> u64 {
        self.revocation_epoch
    }

    /// Refuses without asking.
    pub fn refuse(mut self, code: Code) -> Failure {
        refusal(&mut self.transport, Type::Refusal, code)
    }

    /// Asks, and writes M4. A question too large for a message, such as one with a very long command, is refused.
    pub fn ask(mut self, context: Context) -> Result<(AwaitDecision, Vec<u8>), Failure> {
        let bytes = wire::to_vec(&context);
        let context_hash = Sha256::digest(&bytes).into();
        let m4 = match self.transport.seal(Type::Context, &bytes) {
            Ok(m4) => m4,
            Err(Failure { code: Some(code), .. }) => return Err(refusal(&mut self.transport, Type::Refusal, code)),
            Err(failure) => return Err(failure),
        };
        Ok((AwaitDecision { transport: self.transport, device: self.device, context, context_hash }, m4))
    }
}

/// The technician is asked.
pub struct AwaitDecision {
    transport: Transport,
    device: Certified<DeviceTerms>,
    context: Context,
    context_hash: [u8; 32],
}

/// What the technician said.
pub enum Verdict {
    /// Yes, and it holds.
    Approved(Box<Approved>),
    /// No. `not_me`: and it was not the technician who asked.
    Denied {
        /// Worth an alert.
        not_me: bool,
    },
}

impl AwaitDecision {
    /// Reads M5 and judges it.
    pub fn receive(
        mut self,
        m5: &[u8],
        identity: &AgentIdentity,
        trust: &TrustStore,
        now: u64,
    ) -> Result<Verdict, Failure> {
        let body = self.transport.open(Type::Decision, m5)?;
        let Ok(decision) = wire::from_slice::<Decision>(&body) else {
            return Err(refusal(&mut self.transport, Type::Outcome, Code::Context));
        };
        if decision.approval.is_none() {
            return Ok(Verdict::Denied { not_me: decision.not_me });
        }
        match self.judge(&decision, identity, trust, now) {
            Ok(approval) => {
                let Decision { reason, ticket, .. } = decision;
                Ok(Verdict::Approved(Box::new(Approved {
                    transport: self.transport,
                    approval,
                    device: self.device,
                    policy_epoch: self.context.policy_epoch,
                    reason,
                    ticket,
                })))
            }
            Err(code) => Err(refusal(&mut self.transport, Type::Outcome, code)),
        }
    }

    fn judge(
        &self,
        decision: &Decision,
        identity: &AgentIdentity,
        trust: &TrustStore,
        now: u64,
    ) -> Result<Signed<Approval>, Code> {
        let bytes = decision.approval.clone().ok_or(Code::Context)?;
        let unverified = Unverified::<Approval>::decode(bytes).map_err(|_| Code::Context)?;
        // The lists may have changed since M3.
        let device = &self.device;
        trust.device_stands(device, now)?;
        let key = device.statement().key(KeyUse::Approve).ok_or(Code::Certificate)?;
        let signed = unverified.verify(&key).map_err(|_| Code::Certificate)?;
        let approval = signed.body();
        let (context, own, theirs) = (&self.context, identity.statement(), device.statement());

        let this_channel =
            bool::from(approval.h_final.ct_eq(&self.transport.h()) & approval.context.ct_eq(&self.context_hash));
        let this_question = approval.version == qr::VERSION
            && approval.decision == 1
            && approval.nonce == context.nonce
            && context.accounts.contains(&(approval.kind, approval.account.clone()))
            && approval.reason == reason_hash(&decision.reason, &decision.ticket);
        let these_names = approval.tenant == own.tenant
            && approval.agent == own.serial
            && approval.computer == identity.computer()
            && approval.device == theirs.serial
            && approval.technician == device.terms().technician
            && approval.protection == device.terms().protection;
        if !(this_channel && this_question && these_names) {
            return Err(Code::Context);
        }
        // A clock set back since the question must not revive it.
        if now > context.expires || now + crate::trust::CLOCK_SKEW < context.time || now >= approval.not_after {
            return Err(Code::TimedOut);
        }
        // Either the phone has seen a newer revocation list, or the policy changed or expired while the technician read.
        let same_policy = context.policy_epoch == trust.policy_epoch() && trust.policy_is_in_time(now);
        if approval.revocation_epoch > trust.revocation_epoch() || !same_policy {
            return Err(Code::StaleEpoch);
        }
        let wish = Wish {
            account: approval.kind,
            groups: &approval.groups,
            minutes: approval.max_session.div_ceil(60),
            reason: !decision.reason.trim().is_empty(),
        };
        let confirm = match policy::granted(&context.choices, &wish) {
            Some(true) => ConfirmMode::AtComputer,
            Some(false) => ConfirmMode::Off,
            None => return Err(Code::Policy),
        };
        // A phone that leaves out the code where it is due does not get round it; one that adds it may.
        if confirm == ConfirmMode::AtComputer && approval.confirm != confirm || approval.confirm == ConfirmMode::OnPhone
        {
            return Err(Code::Policy);
        }
        Ok(signed)
    }
}

/// An approval that holds, but for the confirm code and single use.
pub struct Approved {
    transport: Transport,
    approval: Signed<Approval>,
    device: Certified<DeviceTerms>,
    policy_epoch: u64,
    reason: String,
    ticket: String,
}

impl Approved {
    /// What was approved, with its signature.
    pub fn approval(&self) -> &Signed<Approval> {
        &self.approval
    }

    /// By whose device.
    pub fn device(&self) -> &Certified<DeviceTerms> {
        &self.device
    }

    /// Why, in the technician's words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// For which ticket of another system.
    pub fn ticket(&self) -> &str {
        &self.ticket
    }

    /// When the grant must end if it begins now, in Unix seconds.
    pub fn until(&self, now: u64) -> u64 {
        let approval = self.approval.body();
        approval.not_after.min(now.saturating_add(u64::from(approval.max_session)))
    }

    /// Asks again what may have changed since the verdict, while the confirm code was typed: the device's standing, the
    /// policy, the time.
    pub fn still_holds(&self, trust: &TrustStore, now: u64) -> Result<(), Code> {
        trust.device_stands(&self.device, now)?;
        if now >= self.approval.body().not_after {
            return Err(Code::TimedOut);
        }
        let same_policy = self.policy_epoch == trust.policy_epoch() && trust.policy_is_in_time(now);
        if same_policy { Ok(()) } else { Err(Code::StaleEpoch) }
    }

    /// Whether the confirm code must be typed at the computer.
    pub fn needs_code(&self) -> bool {
        self.approval.body().confirm == ConfirmMode::AtComputer
    }

    /// Compares what was typed with the confirm code, in constant time; blanks around it don't count. One try.
    pub fn code_is_right(&self, typed: &str) -> bool {
        typed.trim().as_bytes().ct_eq(self.transport.confirm_code().as_bytes()).into()
    }

    /// Refuses after all.
    pub fn refuse(mut self, code: Code) -> Failure {
        refusal(&mut self.transport, Type::Outcome, code)
    }

    /// Writes M6 once the grant is active.
    pub fn granted(
        mut self,
        grant: crate::ids::GrantId,
        account: String,
        until: u64,
    ) -> Result<(Open, Vec<u8>), Failure> {
        let m6 = self.transport.seal(Type::Outcome, &wire::to_vec(&Outcome::Granted { grant, account, until }))?;
        Ok((Open { transport: self.transport }, m6))
    }
}

/// The grant is live and the channel still open.
pub struct Open {
    transport: Transport,
}

impl Open {
    /// Reads M7: the phone ends the grant.
    pub fn receive(&mut self, m7: &[u8]) -> Result<(), Failure> {
        let body = self.transport.open(Type::End, m7)?;
        let ending: Ending = wire::from_slice(&body).map_err(|_| Failure::generic())?;
        if ending.receipt.is_none() { Ok(()) } else { Err(Failure::generic()) }
    }

    /// Writes M7: the receipt.
    pub fn receipt(&mut self, receipt: Bytes) -> Result<Vec<u8>, Failure> {
        self.transport.seal(Type::End, &wire::to_vec(&Ending { receipt: Some(receipt) }))
    }
}
