//! What the benches share: one tenant with a phone and a computer, and a whole pairing between them in which each side's
//! own time is taken apart from the other's; and what a relay does ([`relay`]).
//!
//! `cargo bench -p gatepass-benches` runs them all in about two minutes.
#![allow(clippy::unwrap_used)]

pub mod relay;

use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepass_protocol::{
    ids::GrantId,
    pairing::{
        agent::{self, AgentIdentity, AwaitDecision, Verdict},
        messages::Context,
        phone,
    },
    policy::{Question, Scenario},
    statement::KeyProtection,
    testing::{NOW, Phone, Rng, Tenant, chosen, context},
    trust::TrustStore,
};

/// A tenant with a phone and a computer that enrolled with a ticket.
pub struct Scene {
    /// The tenant.
    pub tenant: Tenant,
    /// What phone and computer believe.
    pub trust: TrustStore,
    /// The phone.
    pub phone: Phone,
    /// The computer.
    pub agent: AgentIdentity,
    rng: Rng,
    question: Context,
}

/// What each side of one pairing spent, in time of its own.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// The agent, from M1 to M6; the QR was made before.
    pub agent: Duration,
    /// The phone, from the QR's text to M6, with its own signature.
    pub phone: Duration,
}

impl Scene {
    /// The same each time.
    pub fn new() -> Self {
        let mut tenant = Tenant::new(1);
        let trust = tenant.trust_with_policy();
        let (phone, agent) = (tenant.phone(1), tenant.computer_by_ticket());
        let question = Question {
            technician: phone.identity.terms().technician,
            protection: KeyProtection::Software,
            computer: agent.computer(),
            tags: &[],
            scenario: Scenario::Ssh,
        };
        let question = context(&agent, &trust, trust.policy().unwrap().terms().choices(&question));
        Self { tenant, trust, phone, agent, rng: Rng::new(2), question }
    }

    /// One whole pairing.
    pub fn pairing(&mut self) -> Spent {
        let (mut at_agent, mut at_phone) = (Watch::default(), Watch::default());
        let (agent, m5, phone) = self.up_to_decision(&mut at_agent, &mut at_phone);
        let m6 = at_agent.during(|| match agent.receive(&m5, &self.agent, &self.trust, NOW).unwrap() {
            Verdict::Approved(approved) => approved.granted(GrantId([3; 16]), "gp-alex".into(), NOW + 1800).unwrap().1,
            Verdict::Denied { .. } => unreachable!("it was approved"),
        });
        at_phone.during(|| phone.receive(&m6).unwrap());
        Spent { agent: at_agent.0, phone: at_phone.0 }
    }

    /// A question that waits for its answer, and the answer.
    pub fn decision(&mut self) -> (AwaitDecision, Vec<u8>) {
        let (agent, m5, _) = self.up_to_decision(&mut Watch::default(), &mut Watch::default());
        (agent, m5)
    }

    /// Judges an answer.
    pub fn judge(&self, (agent, m5): (AwaitDecision, Vec<u8>)) -> Verdict {
        agent.receive(&m5, &self.agent, &self.trust, NOW).unwrap()
    }

    fn up_to_decision(
        &mut self,
        at_agent: &mut Watch,
        at_phone: &mut Watch,
    ) -> (AwaitDecision, Vec<u8>, phone::AwaitOutcome) {
        let Self { trust, phone: device, agent: identity, rng, question, tenant } = self;
        let offer = agent::Offer::new(0, tenant.id, NOW, rng);
        let text = offer.text();
        let (n, tag, phone, m1) = at_phone.during(|| {
            let scan = phone::Scan::from_text(&text).unwrap();
            let (n, tag) = scan.claim(rng);
            let (phone, m1) = scan.start("bench 1.0", trust, rng).unwrap();
            (n, tag, phone, m1)
        });
        let (agent, m2) = at_agent.during(|| offer.claim(&n, &tag, NOW).unwrap().receive(&m1, identity, rng).unwrap());
        let (phone, m3) = at_phone.during(|| phone.receive(&m2, &device.identity, trust, NOW).unwrap());
        let (agent, m4) = at_agent.during(|| agent.receive(&m3, trust, NOW).unwrap().ask(question.clone()).unwrap());
        let (phone, m5) = at_phone.during(|| {
            let asked = phone.receive(&m4).unwrap();
            asked.approve(&chosen(), &device.identity, &device.approve).unwrap_or_else(|error| panic!("{error}"))
        });
        (agent, m5, phone)
    }

    /// A device's certificate, and an agent's with its ticket.
    pub fn chains(&self) -> (Vec<Bytes>, Vec<Bytes>) {
        (self.phone.identity.chain.clone(), self.agent.chain.clone())
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

/// The time spent in several pieces of work.
#[derive(Default)]
struct Watch(Duration);

impl Watch {
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.0 += begun.elapsed();
        result
    }
}
