//! Phones and agents made of snow, which say what ours never would.

use gatepass_protocol::{
    Code,
    pairing::{
        Failure, agent,
        messages::{Approval, ConfirmMode, Context, Decision, DeviceHello, Ending, reason_hash},
        phone::{self, Asked, AwaitContext},
    },
    signed::Signed,
    testing::{NOW, Rng},
    wire,
};

use crate::make::{
    approval,
    handshake::Scene,
    noise::{self, body},
};

/// A phone that has the QR and a device's certificate, up to the agent's answer to M3.
fn phone_says(
    versions: Vec<u8>,
    suites: Vec<u8>,
    static_key: Option<[u8; 32]>,
) -> (Result<agent::Identified, Failure>, snow::TransportState) {
    let Scene { trust, phone: device, agent: identity, mut rng, offer, qr, .. } = Scene::new(750);
    let static_key = static_key.unwrap_or(*device.identity.channel.to_bytes());
    let mut phone = noise::initiator(&qr, &static_key, &[0x31; 32]);
    let hello = wire::to_vec(&(versions, suites, "impostor 1.0", 0u64));
    let m1 = noise::write(&mut phone, &noise::pad(1, &hello, 256));
    let n = [0x5a; 16];
    let claimed = offer.claim(&n, &qr.keys().claim_tag(&n), NOW).unwrap();
    let (agent, m2) = claimed.receive(&m1, &identity, &mut rng).unwrap();
    noise::read(&mut phone, &m2);
    let hello = wire::to_vec(&DeviceHello { chain: device.identity.chain.clone(), revocation_epoch: 0 });
    let m3 = noise::write(&mut phone, &noise::pad(3, &hello, 768));
    (agent.receive(&m3, &trust, NOW), phone.into_transport_mode().unwrap())
}

fn refused_with(code: Code, (answer, mut phone): (Result<agent::Identified, Failure>, snow::TransportState)) {
    let failure = answer.err().unwrap();
    assert_eq!(failure.code, Some(code));
    let reply = noise::open(&mut phone, &failure.reply.unwrap());
    assert_eq!(
        (reply[0], reply.len(), body(&reply)[1]),
        (9, 1536, code.number()),
        "told in place of M4, at its length"
    );
}

#[test]
fn a_certificate_in_other_hands_than_its_keys_is_refused() {
    assert!(phone_says(vec![1], vec![1], None).0.is_ok());
    refused_with(Code::Certificate, phone_says(vec![1], vec![1], Some([0x66; 32])));
}

#[test]
fn another_version_or_suite_is_refused_after_the_phone_has_shown_its_certificate() {
    assert!(phone_says(vec![2, 1], vec![2, 1], None).0.is_ok());
    refused_with(Code::Version, phone_says(vec![2], vec![1], None));
    refused_with(Code::Suite, phone_says(vec![1], vec![2], None));
}

/// An agent's M2 with a signature that `sign` makes of h, at a phone of ours.
fn agent_says(sign: impl FnOnce(&Scene, &[u8]) -> [u8; 64]) -> (Result<AwaitContext, Failure>, snow::HandshakeState) {
    let mut scene = Scene::new(760);
    let scan = phone::Scan::from_text(&scene.qr.to_text()).unwrap();
    let (phone, m1) = scan.start("test", &scene.trust, &mut scene.rng).unwrap();
    let mut agent = noise::responder(&scene.qr, &scene.a_q, &[0x44; 32]);
    noise::read(&mut agent, &m1);
    let h = crate::oracle::hash_before_m2_payload(&scene.qr, &scene.a_q, &[0x44; 32], &m1);
    let signature = sign(&scene, &[b"gp1 agent-auth\0" as &[u8], &32u32.to_be_bytes(), &h].concat());
    let hello = gatepass_protocol::pairing::messages::AgentHello { chain: scene.agent.chain.clone(), signature };
    let m2 = noise::write(&mut agent, &noise::pad(2, &wire::to_vec(&hello), 1536));
    let answer = phone.receive(&m2, &scene.phone.identity, &scene.trust, NOW);
    let answer = answer.map(|(phone, m3)| {
        noise::read(&mut agent, &m3);
        phone
    });
    (answer, agent)
}

#[test]
fn an_agents_certificate_without_its_signature_over_this_handshake_is_nothing() {
    assert!(agent_says(|scene, message| scene.agent.sign.sign_now(message)).0.is_ok());
    let other_key = gatepass_protocol::keys::SigningKey::generate(&mut Rng::new(1));
    let (answer, _) = agent_says(|_, message| other_key.sign_now(message));
    assert_eq!(answer.err().unwrap(), Failure { code: None, reply: None });
    let (answer, _) = agent_says(|scene, message| scene.agent.sign.sign_now(&message[1..]));
    assert!(answer.is_err());
}

fn asks(change: impl FnOnce(&mut Context)) -> Result<Asked, Failure> {
    let (phone, agent) = agent_says(|scene, message| scene.agent.sign.sign_now(message));
    let mut question = Scene::new(760).question();
    change(&mut question);
    let mut agent = agent.into_transport_mode().unwrap();
    let m4 = noise::seal(&mut agent, &noise::pad(4, &wire::to_vec(&question), 1536));
    phone.unwrap().receive(&m4)
}

#[test]
fn a_question_about_another_computer_than_the_certificates_is_not_shown() {
    assert!(asks(|_| ()).is_ok());
    let failure = asks(|question| question.machine.computer.0[0] ^= 1).err().unwrap();
    assert_eq!(failure, Failure { code: Some(Code::Context), reply: None });
}

/// The verdict on an approval under a policy of these duties.
fn verdict(confirm: bool, reason_due: bool, change: impl FnOnce(&mut Approval), reason: &str) -> Option<Code> {
    let scene = Scene::new(770);
    let (agent, mut phone, h) = approval::channel(Scene::new(770));
    let mut question = scene.question();
    for choice in &mut question.choices {
        (choice.confirm, choice.reason) = (confirm, reason_due);
    }
    let (agent, m4) = agent.ask(question.clone()).unwrap();
    noise::open(&mut phone, &m4);
    let mut draft = approval::Draft::good(&scene, &question, h).approval;
    draft.confirm = ConfirmMode::Off;
    draft.reason = reason_hash(reason, "");
    change(&mut draft);
    let approval = Signed::sign(draft, &scene.phone.approve).unwrap().bytes().clone();
    let decision = Decision { approval: Some(approval), not_me: false, reason: reason.into(), ticket: String::new() };
    let m5 = noise::seal(&mut phone, &noise::pad(5, &wire::to_vec(&decision), 768));
    agent.receive(&m5, &scene.agent, &scene.trust, NOW).err().and_then(|failure| failure.code)
}

#[test]
fn a_code_that_is_not_due_may_be_added_but_not_turned_round() {
    assert_eq!(verdict(false, false, |_| (), ""), None);
    assert_eq!(verdict(false, false, |approval| approval.confirm = ConfirmMode::AtComputer, ""), None);
    assert_eq!(verdict(false, false, |approval| approval.confirm = ConfirmMode::OnPhone, ""), Some(Code::Policy));
    assert_eq!(verdict(true, false, |_| (), ""), Some(Code::Policy));
}

#[test]
fn a_reason_that_is_due_is_more_than_blanks() {
    assert_eq!(verdict(false, true, |_| (), "disk full"), None);
    assert_eq!(verdict(false, true, |_| (), ""), Some(Code::Policy));
    assert_eq!(verdict(false, true, |_| (), " \t\n"), Some(Code::Policy));
}

#[test]
fn a_phone_can_end_a_grant_but_not_send_a_receipt() {
    for (said, good) in [(Ending { receipt: None }, true), (Ending { receipt: Some(b"proof".to_vec().into()) }, false)]
    {
        let scene = Scene::new(780);
        let (agent, mut phone, h) = approval::channel(Scene::new(780));
        let question = scene.question();
        let (agent, m4) = agent.ask(question.clone()).unwrap();
        noise::open(&mut phone, &m4);
        let m5 = approval::Draft::good(&scene, &question, h).m5(&scene.phone.approve);
        let m5 = noise::seal(&mut phone, &noise::pad(5, &m5, 768));
        let agent::Verdict::Approved(approved) = agent.receive(&m5, &scene.agent, &scene.trust, NOW).unwrap() else {
            panic!()
        };
        let grant = gatepass_protocol::ids::GrantId([3; 16]);
        let (mut open, _) = approved.granted(grant, "gp-alex".into(), NOW + 60).unwrap();
        let m7 = noise::seal(&mut phone, &noise::pad(7, &wire::to_vec(&said), 768));
        assert_eq!(open.receive(&m7).is_ok(), good);
    }
}
