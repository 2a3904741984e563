//! A technician scans, decides, and both ends agree or both fail.
#![allow(clippy::unwrap_used)]

use gatepass_protocol::{
    Code,
    ids::GrantId,
    pairing::{
        Failure, agent,
        messages::{Context, Outcome},
        phone,
    },
    policy::Question,
    statement::KeyProtection,
    testing::{NOW, Phone, Rng, Tenant, chosen, context},
    trust::TrustStore,
};

struct World {
    tenant: Tenant,
    trust: TrustStore,
    phone: Phone,
    agent: agent::AgentIdentity,
    rng: Rng,
}

fn world() -> World {
    let mut tenant = Tenant::new(1);
    let trust = tenant.trust_with_policy();
    World { phone: tenant.phone(1), agent: tenant.computer_by_ticket(), rng: Rng::new(2), trust, tenant }
}

impl World {
    fn question(&self) -> Context {
        let terms = self.phone.identity.terms();
        let tags = ["web".to_string()];
        let question = Question {
            technician: terms.technician,
            protection: KeyProtection::Software,
            computer: self.agent.computer(),
            tags: &tags,
            scenario: gatepass_protocol::policy::Scenario::Ssh,
        };
        context(&self.agent, &self.trust, self.trust.policy().unwrap().terms().choices(&question))
    }

    /// M1 to M3 over a wire that may change them.
    fn identify(
        &mut self,
        mut wire: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
    ) -> Result<(agent::Identified, phone::AwaitContext), Failure> {
        let offer = agent::Offer::new(0, self.tenant.id, NOW, &mut self.rng);
        let scan = phone::Scan::from_text(&offer.text()).unwrap();
        assert_eq!(scan.rid(), offer.rid());
        assert!(scan.is_of(&self.trust));
        let (n, tag) = scan.claim(&mut self.rng);
        let (phone, m1) = scan.start("test 1.0", &self.trust, &mut self.rng)?;
        let (agent, m2) = offer.claim(&n, &tag, NOW)?.receive(&wire(1, m1), &self.agent, &mut self.rng)?;
        let (phone, m3) = phone.receive(&wire(2, m2), &self.phone.identity, &self.trust, NOW)?;
        let agent = agent.receive(&wire(3, m3), &self.trust, NOW)?;
        Ok((agent, phone))
    }

    fn decide(
        &mut self,
        mut wire: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
    ) -> Result<(Box<agent::Approved>, phone::AwaitOutcome), Failure> {
        let (agent, phone) = self.identify(&mut wire)?;
        let (agent, m4) = agent.ask(self.question())?;
        let asked = phone.receive(&wire(4, m4))?;
        assert_eq!(asked.agent().terms().computer, "web-01");
        let (phone, m5) = asked
            .approve(&chosen(), &self.phone.identity, &self.phone.approve)
            .map_err(|error| panic!("{error}"))
            .unwrap();
        match agent.receive(&wire(5, m5), &self.agent, &self.trust, NOW + 5)? {
            agent::Verdict::Approved(approved) => Ok((approved, phone)),
            agent::Verdict::Denied { .. } => panic!("nobody denied"),
        }
    }
}

fn honest(_: usize, message: Vec<u8>) -> Vec<u8> {
    message
}

#[test]
fn technician_scans_approves_types_the_code_and_both_ends_agree() {
    let mut world = world();
    let (approved, phone) = world.decide(honest).unwrap();
    assert_eq!(approved.approval().body().account, "gp-alex");
    assert_eq!(approved.reason(), "disk full");
    assert_eq!(approved.until(NOW + 5), NOW + 5 + 1800);
    assert!(approved.needs_code());
    assert!(approved.code_is_right(&format!(" {}\n", phone.confirm_code())));
    assert!(!approved.code_is_right("1000") && !approved.code_is_right(""));
    let grant = GrantId([3; 16]);
    let (mut open, m6) = approved.granted(grant, "gp-alex".into(), NOW + 1805).unwrap();
    let (outcome, mut phone) = phone.receive(&m6).unwrap();
    assert_eq!(outcome, Outcome::Granted { grant, account: "gp-alex".into(), until: NOW + 1805 });
    open.receive(&phone.end().unwrap()).unwrap();
    let receipt = open.receipt(bytes::Bytes::from_static(b"receipt")).unwrap();
    assert_eq!(phone.receive(&receipt).unwrap(), &b"receipt"[..]);
}

#[test]
fn whichever_bit_is_flipped_nobody_is_granted_anything() {
    for message in 1..=5 {
        let length = {
            let mut length = 0;
            world()
                .decide(|number, bytes| {
                    if number == message {
                        length = bytes.len()
                    }
                    bytes
                })
                .unwrap();
            length
        };
        // Every byte of the keys and tags, and a stride through the rest.
        let places = (0..length).filter(|at| *at < 64 || *at + 32 > length || at % 37 == 0);
        for at in places {
            let result = world().decide(|number, mut bytes| {
                if number == message {
                    bytes[at] ^= 1 << (at % 8)
                }
                bytes
            });
            let failure = result.err().unwrap_or_else(|| panic!("M{message} byte {at} was changed and granted"));
            assert_eq!(failure.code, None, "M{message} byte {at}: interference has one generic answer");
        }
    }
}

#[test]
fn cut_repeated_and_foreign_messages_are_refused() {
    for message in 1..=5 {
        for length in [0, 1, 31, 32, 47, 48, 100] {
            assert!(
                world()
                    .decide(|number, mut bytes| {
                        if number == message {
                            bytes.truncate(length)
                        }
                        bytes
                    })
                    .is_err()
            );
        }
    }
    // The agent's M4 sent back to it in place of M5, and M1 of another session in place of this one's.
    let mut m4 = Vec::new();
    assert!(
        world()
            .decide(|number, bytes| match number {
                4 => {
                    m4 = bytes.clone();
                    bytes
                }
                5 => m4.clone(),
                _ => bytes,
            })
            .is_err()
    );
    let mut other = Vec::new();
    let mut elsewhere = world();
    elsewhere.rng = Rng::new(77);
    elsewhere
        .decide(|number, bytes| {
            if number == 1 {
                other = bytes.clone()
            }
            bytes
        })
        .unwrap();
    assert!(world().decide(|number, bytes| if number == 1 { other.clone() } else { bytes }).is_err());
}

#[test]
fn a_qr_that_was_claimed_without_being_read_or_too_late_is_burnt() {
    let mut world = world();
    let offer = agent::Offer::new(0, world.tenant.id, NOW, &mut world.rng);
    assert!(offer.claim(&[0; 16], &[0; 16], NOW).is_err());
    for (when, good) in [(NOW, true), (NOW + 60, true), (NOW + 61, false), (NOW - 1, false)] {
        let offer = agent::Offer::new(0, world.tenant.id, NOW, &mut world.rng);
        let (n, tag) = phone::Scan::from_text(&offer.text()).unwrap().claim(&mut world.rng);
        assert_eq!(offer.claim(&n, &tag, when).is_ok(), good, "{when}");
    }
}

#[test]
fn a_revoked_phone_is_told_so_and_a_revoked_computer_is_seen() {
    let mut world = world();
    let device = world.phone.identity.statement().serial;
    let list = world.tenant.revocation(1, vec![device]);
    let mut agents_view = world.trust.clone();
    agents_view.accept_revocation(&list, NOW).unwrap();
    let (offer_trust, phone_trust) = (agents_view, world.trust.clone());
    let offer = agent::Offer::new(0, world.tenant.id, NOW, &mut world.rng);
    let scan = phone::Scan::from_text(&offer.text()).unwrap();
    let (n, tag) = scan.claim(&mut world.rng);
    let (phone, m1) = scan.start("test", &phone_trust, &mut world.rng).unwrap();
    let (agent, m2) = offer.claim(&n, &tag, NOW).unwrap().receive(&m1, &world.agent, &mut world.rng).unwrap();
    let (phone, m3) = phone.receive(&m2, &world.phone.identity, &phone_trust, NOW).unwrap();
    let failure = agent.receive(&m3, &offer_trust, NOW).err().unwrap();
    assert_eq!(failure.code, Some(Code::Revoked));
    assert_eq!(phone.receive(&failure.reply.unwrap()).err().unwrap().code, Some(Code::Revoked));

    let ticket = gatepass_protocol::signed::Unverified::<gatepass_protocol::statement::Statement>::decode(
        world.agent.chain[1].clone(),
    )
    .unwrap();
    let list = world.tenant.revocation(1, vec![ticket.claimed().serial]);
    world.trust.accept_revocation(&list, NOW).unwrap();
    assert_eq!(world.identify(honest).err().unwrap().code, Some(Code::Revoked));
}

#[test]
fn a_phone_of_another_tenant_or_time_is_refused() {
    let mut world = world();
    let stranger = Tenant::new(9).phone(1);
    let phone = std::mem::replace(&mut world.phone, stranger);
    assert_eq!(world.identify(honest).err().unwrap().code, Some(Code::Certificate));
    world.phone = phone;
    let year = 365 * 86_400;
    let (offer, rng) = (agent::Offer::new(0, world.tenant.id, NOW + year + 1, &mut world.rng), &mut world.rng);
    let scan = phone::Scan::from_text(&offer.text()).unwrap();
    let (n, tag) = scan.claim(rng);
    let (phone, m1) = scan.start("test", &world.trust, rng).unwrap();
    let (_, m2) = offer.claim(&n, &tag, NOW + year + 1).unwrap().receive(&m1, &world.agent, rng).unwrap();
    let failure = phone.receive(&m2, &world.phone.identity, &world.trust, NOW + year + 1).err().unwrap();
    assert_eq!(
        failure,
        Failure { code: Some(Code::Certificate), reply: None },
        "an expired computer; and it is told nothing"
    );
}

/// Approves a question with an approval that the test spoils before it is signed, and gives the agent's code.
fn judged(spoil: impl FnOnce(&mut World, &mut phone::Chosen, &mut Context), at: u64) -> Option<Code> {
    let mut world = world();
    let (mut chosen, mut question) = (chosen(), world.question());
    spoil(&mut world, &mut chosen, &mut question);
    let (agent, phone) = world.identify(honest).unwrap();
    let (agent, m4) = agent.ask(question).unwrap();
    let (_, m5) = phone.receive(&m4).unwrap().approve(&chosen, &world.phone.identity, &world.phone.approve).ok()?;
    agent.receive(&m5, &world.agent, &world.trust, at).err().and_then(|failure| failure.code)
}

#[test]
fn each_thing_that_does_not_fit_has_its_own_code() {
    assert_eq!(judged(|_, _, _| (), NOW + 61), Some(Code::TimedOut));
    assert_eq!(judged(|_, _, _| (), NOW - 301), Some(Code::TimedOut), "a clock set back");
    let other_key = |world: &mut World, _: &mut phone::Chosen, _: &mut Context| {
        world.phone.approve = gatepass_protocol::testing::SoftKey::generate(&mut world.rng);
    };
    assert_eq!(judged(other_key, NOW), Some(Code::Certificate));
    let newer_policy = |world: &mut World, _: &mut phone::Chosen, _: &mut Context| {
        let policy = world.tenant.policy(2, false);
        world.trust.accept_policy(&policy, NOW).unwrap();
    };
    assert_eq!(judged(newer_policy, NOW), Some(Code::StaleEpoch));
}

#[test]
fn a_technician_can_only_choose_what_the_policy_offers() {
    let mut world = world();
    for (minutes, groups) in [(61, vec![]), (0, vec![]), (30, vec!["root".to_string()])] {
        let (agent, phone) = world.identify(honest).unwrap();
        let (_, m4) = agent.ask(world.question()).unwrap();
        let asked = phone.receive(&m4).unwrap();
        let wish = phone::Chosen { minutes, groups, ..chosen() };
        assert_eq!(
            asked.approve(&wish, &world.phone.identity, &world.phone.approve).err(),
            Some(phone::NotApproved::NotOffered)
        );
    }
}

#[test]
fn a_denial_is_heard_and_says_whether_it_was_me() {
    for not_me in [false, true] {
        let mut world = world();
        let (agent, phone) = world.identify(honest).unwrap();
        let (agent, m4) = agent.ask(world.question()).unwrap();
        let m5 = phone.receive(&m4).unwrap().deny(not_me).unwrap();
        let verdict = agent.receive(&m5, &world.agent, &world.trust, NOW).unwrap();
        assert!(matches!(verdict, agent::Verdict::Denied { not_me: heard } if heard == not_me));
    }
}

#[test]
fn approving_and_denying_look_alike_on_the_wire() {
    let mut lengths = Vec::new();
    for deny in [false, true] {
        let mut world = world();
        let (agent, phone) = world.identify(honest).unwrap();
        let (_, m4) = agent.ask(world.question()).unwrap();
        let asked = phone.receive(&m4).unwrap();
        let m5 = if deny {
            asked.deny(true).unwrap()
        } else {
            asked.approve(&chosen(), &world.phone.identity, &world.phone.approve).ok().unwrap().1
        };
        lengths.push(m5.len());
    }
    assert_eq!(lengths[0], lengths[1]);
}
