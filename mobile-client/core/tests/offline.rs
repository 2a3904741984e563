//! A phone shows what its policy gives by offline code, and says why it shows none.
#![allow(clippy::unwrap_used)]

use gatepass_mobile::offline::{Asked, Freshness, NoCode};
use gatepass_protocol::{
    offline::{Challenge, CodeKey, Digits, OfflineTerms, Question},
    pairing::agent::AgentIdentity,
    policy::{AccountKind, Scenario},
    statement::{AgentTerms, DeviceTerms},
    testing::{NOW, Phone, Tenant, offline_terms, otp_key},
    trust::{Certified, TrustStore},
};

struct Scene {
    tenant: Tenant,
    phone: Phone,
    agent: AgentIdentity,
    trust: TrustStore,
}

impl Scene {
    fn under(terms: Option<&OfflineTerms>, codes: bool) -> Self {
        let mut tenant = Tenant::new(810);
        tenant.offline_codes = codes;
        let (phone, agent) = (tenant.phone(1), tenant.computer());
        let mut trust = tenant.trust();
        let policy = tenant.policy_with(1, true, terms);
        trust.accept_policy(&policy, NOW).unwrap();
        Self { tenant, phone, agent, trust }
    }

    fn certificates(&self) -> (Certified<DeviceTerms>, Certified<AgentTerms>) {
        let device = self.trust.device(&self.phone.identity.chain, NOW).unwrap();
        (device, self.trust.agent(&self.agent.chain, NOW).unwrap())
    }

    fn challenge(&mut self, scenario: Scenario) -> Challenge {
        Challenge::new(scenario, self.agent.computer(), &mut self.tenant.rng)
    }

    fn asked(&self, fresh: Freshness, account: &str) -> Result<Asked, NoCode> {
        let (device, agent) = self.certificates();
        Asked::new(&device, &agent, &self.trust, fresh, account, NOW)
    }

    fn code(&self, asked: &Asked) -> Result<String, NoCode> {
        let (device, agent) = self.certificates();
        let own = otp_key(&device.statement().subject);
        asked.code(&asked.offers()[0], &own, &device, &agent, NOW).map(|code| code.to_string())
    }
}

#[test]
fn the_phone_shows_the_code_that_the_computer_computes() {
    let mut scene = Scene::under(Some(&offline_terms()), true);
    for (scenario, account, kind, shown) in [
        (Scenario::Ssh, "", AccountKind::Named, "gp-alex"),
        (Scenario::Ssh, "gp-1234", AccountKind::Shared, "gp-1234"),
        (Scenario::Elevation, "bob", AccountKind::Own, "bob"),
    ] {
        let challenge = scene.challenge(scenario);
        let asked = scene.asked(Freshness::Challenge(challenge), account).unwrap();
        assert_eq!((asked.account(), asked.offers()[0].kind), (shown, kind));
        let computer = scene.agent.computer();
        let key = CodeKey::of_agent(&otp_key(&computer.0), &scene.certificates().0, computer).unwrap();
        let question = Question::of_challenge(&asked.offers()[0], shown, challenge);
        assert!(key.is_right(&question, Digits::Eight, &scene.code(&asked).unwrap()));
    }
}

#[test]
fn a_phone_without_a_code_says_why() {
    let mut none = Scene::under(None, true);
    let fresh = Freshness::Challenge(none.challenge(Scenario::Ssh));
    assert!(matches!(none.asked(fresh, "").err(), Some(NoCode::NotByPolicy)));

    let scene = Scene::under(Some(&offline_terms()), true);
    assert!(matches!(scene.asked(Freshness::Time(Scenario::Ssh), "").err(), Some(NoCode::NotByTime)));

    let ssh_only = OfflineTerms { scenarios: vec![Scenario::Ssh], time_codes: true, ..offline_terms() };
    let scene = Scene::under(Some(&ssh_only), true);
    assert!(scene.asked(Freshness::Time(Scenario::Ssh), "").is_ok());
    let said = scene.asked(Freshness::Time(Scenario::Console), "").err().unwrap().to_string();
    assert!(said.contains("nothing by offline code for console on web-01, as gp-alex"), "{said}");

    let mut before = Scene::under(Some(&offline_terms()), false);
    let fresh = Freshness::Challenge(before.challenge(Scenario::Ssh));
    let asked = before.asked(fresh, "").unwrap();
    assert!(matches!(before.code(&asked).err(), Some(NoCode::NoKey("the computer"))));
}
