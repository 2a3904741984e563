//! Offline codes at the phone: what a computer's challenge asks for, what the policy would give, and the code for it. Nothing of it
//! needs a network.

use gatepass_protocol::{
    ids::ComputerId,
    keys::OtpKey,
    offline::{self, Challenge, CodeKey, NoKey, Offer, Question, TIME_STEP},
    policy::{self, AccountKind, Scenario, named_account},
    statement::{AgentTerms, DeviceTerms},
    trust::{Certified, TrustStore},
};
use zeroize::Zeroizing;

/// What makes the code fresh.
#[derive(Clone, Copy, Debug)]
pub enum Freshness {
    /// The computer's challenge.
    Challenge(Challenge),
    /// The time, for this scenario.
    Time(Scenario),
}

impl Freshness {
    /// What the code is for.
    pub fn scenario(self) -> Scenario {
        match self {
            Freshness::Challenge(challenge) => challenge.scenario(),
            Freshness::Time(scenario) => scenario,
        }
    }
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum NoCode {
    /// No policy, an expired one, or one without them.
    #[error("the policy that this phone knows takes no offline codes")]
    NotByPolicy,
    /// Nor codes by the time.
    #[error("the policy takes no codes by the time: type the challenge that the computer shows (--challenge)")]
    NotByTime,
    /// Not for this technician, there, in this scenario.
    #[error("the policy gives you nothing by offline code for {scenario} on {computer}, as {account}")]
    Nothing {
        /// What is asked for.
        scenario: &'static str,
        /// Where.
        computer: String,
        /// As whom.
        account: String,
    },
    /// One of the two was enrolled before there were offline codes.
    #[error("{0} was enrolled before there were offline codes: enrol it again")]
    NoKey(&'static str),
}

/// A code that could be shown.
pub struct Asked {
    computer: ComputerId,
    account: String,
    fresh: Freshness,
    offers: Vec<Offer>,
}

impl Asked {
    /// What is asked at a computer. `account`: as the computer shows it; empty: the technician's own.
    pub fn new(
        device: &Certified<DeviceTerms>,
        agent: &Certified<AgentTerms>,
        trust: &TrustStore,
        fresh: Freshness,
        account: &str,
        now: u64,
    ) -> Result<Self, NoCode> {
        let policy = trust.policy().filter(|_| trust.policy_is_in_time(now)).ok_or(NoCode::NotByPolicy)?;
        let terms = policy.offline().ok_or(NoCode::NotByPolicy)?;
        if matches!(fresh, Freshness::Time(_)) && !terms.time_codes {
            return Err(NoCode::NotByTime);
        }
        let own = named_account(&device.terms().technician_name);
        let account = if account.is_empty() { own.clone() } else { account.to_owned() };
        let kind = match fresh.scenario() {
            Scenario::Elevation => AccountKind::Own,
            _ if account == own => AccountKind::Named,
            _ => AccountKind::Shared,
        };
        let computer = ComputerId(agent.statement().subject);
        let question = policy::Question {
            technician: device.terms().technician,
            protection: device.terms().protection,
            computer,
            tags: &agent.terms().tags,
            scenario: fresh.scenario(),
        };
        let offers = offline::offers(policy.terms(), &terms, &question, kind);
        if offers.is_empty() {
            let (scenario, computer) = (fresh.scenario().name(), agent.terms().computer.clone());
            return Err(NoCode::Nothing { scenario, computer, account });
        }
        Ok(Self { computer, account, fresh, offers })
    }

    /// Where.
    pub fn computer(&self) -> ComputerId {
        self.computer
    }

    /// As whom.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// What may be given: one of these.
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The code that gives one of the offers.
    pub fn code(
        &self,
        offer: &Offer,
        key: &OtpKey,
        device: &Certified<DeviceTerms>,
        agent: &Certified<AgentTerms>,
        now: u64,
    ) -> Result<Zeroizing<String>, NoCode> {
        let key = CodeKey::of_device(key, device, agent).map_err(|NoKey| NoCode::NoKey("the computer"))?;
        let question = match self.fresh {
            Freshness::Challenge(challenge) => Question::of_challenge(offer, &self.account, challenge),
            Freshness::Time(scenario) => Question::of_time(offer, &self.account, scenario, now / TIME_STEP),
        };
        Ok(key.code(&question, offer.digits))
    }
}
