use gatepass_protocol::{
    Code,
    ids::{GrantId, Serial},
    keys::ChannelKey,
    order::{EndReason, Receipt, Verified},
    pairing::{agent, phone},
    policy::{AccountKind, Question, Scenario},
    qr::QrPayload,
    signed::Signed,
    statement::KeyProtection,
    testing::{self, NOW, Phone, Rng, Tenant, chosen, context},
    trust::TrustStore,
};
use rand_core::Rng as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{hex, hexes, noise};

/// A tenant, a phone, a computer and a QR between them, with the secrets that a vector shows.
pub struct Scene {
    pub tenant: Tenant,
    pub trust: TrustStore,
    pub phone: Phone,
    pub agent: agent::AgentIdentity,
    pub rng: Rng,
    pub offer: agent::Offer,
    pub qr: QrPayload,
    pub a_q: [u8; 32],
}

/// The 32 bytes that will come next.
fn next(rng: &Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.clone().fill_bytes(&mut bytes);
    bytes
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let mut tenant = Tenant::new(seed);
        let trust = tenant.trust_with_policy();
        let (phone, agent, mut rng) = (tenant.phone(1), tenant.computer_by_ticket(), Rng::new(seed + 1000));
        let a_q = next(&rng);
        let offer = agent::Offer::new(3, tenant.id, NOW, &mut rng);
        let qr = QrPayload::from_text(&offer.text()).unwrap();
        Self { tenant, trust, phone, agent, rng, offer, qr, a_q }
    }

    pub fn question(&self) -> gatepass_protocol::pairing::messages::Context {
        let tags = ["web".to_string()];
        let question = Question {
            technician: self.phone.identity.terms().technician,
            protection: KeyProtection::Software,
            computer: self.agent.computer(),
            tags: &tags,
            scenario: Scenario::Ssh,
        };
        context(&self.agent, &self.trust, self.trust.policy().unwrap().terms().choices(&question))
    }
}

fn agree(secret: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
    *ChannelKey::from_bytes(secret).agree(public).unwrap()
}

fn public(secret: &[u8; 32]) -> [u8; 32] {
    ChannelKey::from_bytes(secret).public_bytes()
}

fn message(name: &str, from: &str, padded: &[u8], wire: &[u8]) -> Value {
    json!({
        "name": name, "from": from, "type": padded[0], "body": hex(noise::body(padded)),
        "padded_length": padded.len(), "wire": hex(wire),
    })
}

/// A whole pairing, each message by our code and by snow.
fn pairing(seed: u64, outcome: Result<(), Code>) -> Value {
    let scene = Scene::new(seed);
    let question = scene.question();
    let Scene { trust, phone: device, agent: identity, mut rng, offer, qr, a_q, .. } = scene;
    let scan = phone::Scan::from_text(&offer.text()).unwrap();
    let (n, tag) = scan.claim(&mut rng);
    let e_phone = next(&rng);
    let (phone, m1) = scan.start("vectors 1.0", &trust, &mut rng).unwrap();
    let e_agent = next(&rng);
    let (agent, m2) = offer.claim(&n, &tag, NOW).unwrap().receive(&m1, &identity, &mut rng).unwrap();
    let (phone, m3) = phone.receive(&m2, &device.identity, &trust, NOW).unwrap();
    let (agent, m4) = agent.receive(&m3, &trust, NOW).unwrap().ask(question).unwrap();
    let (phone, m5) = phone.receive(&m4).unwrap().approve(&chosen(), &device.identity, &device.approve).ok().unwrap();
    let agent::Verdict::Approved(approved) = agent.receive(&m5, &identity, &trust, NOW + 5).unwrap() else { panic!() };
    let code = phone.confirm_code();
    assert!(approved.code_is_right(&code));
    let approval = approved.approval().clone();

    let s_phone = *device.identity.channel.to_bytes();
    let (mut up, mut down) = (noise::initiator(&qr, &s_phone, &e_phone), noise::responder(&qr, &a_q, &e_agent));
    let p1 = noise::read(&mut down, &m1);
    assert_eq!(noise::write(&mut up, &p1), m1);
    let p2 = noise::read(&mut up, &m2);
    assert_eq!(noise::write(&mut down, &p2), m2);
    let p3 = noise::read(&mut down, &m3);
    assert_eq!(noise::write(&mut up, &p3), m3);
    let h = up.get_handshake_hash().to_vec();
    assert_eq!(h, down.get_handshake_hash());
    assert_eq!(h, approval.body().h_final);
    let (mut up, mut down) = (up.into_transport_mode().unwrap(), down.into_transport_mode().unwrap());
    let p4 = noise::open(&mut up, &m4);
    assert_eq!(noise::seal(&mut down, &p4), m4);
    let p5 = noise::open(&mut down, &m5);
    assert_eq!(noise::seal(&mut up, &p5), m5);

    let mut messages = vec![
        message("M1", "phone", &p1, &m1),
        message("M2", "agent", &p2, &m2),
        message("M3", "phone", &p3, &m3),
        message("M4", "agent", &p4, &m4),
        message("M5", "phone", &p5, &m5),
    ];
    match outcome {
        Ok(()) => {
            let grant = GrantId([3; 16]);
            let (mut agent, m6) = approved.granted(grant, "gp-alex".into(), NOW + 1805).unwrap();
            let (_, mut phone) = phone.receive(&m6).unwrap();
            let m7_phone = phone.end().unwrap();
            agent.receive(&m7_phone).unwrap();
            let receipt = receipt(&identity, grant, approval.bytes());
            let m7_agent = agent.receipt(receipt.bytes().clone()).unwrap();
            for (name, from, wire) in
                [("M6", "agent", &m6), ("M7 end", "phone", &m7_phone), ("M7 receipt", "agent", &m7_agent)]
            {
                let padded = if from == "agent" { noise::open(&mut up, wire) } else { noise::open(&mut down, wire) };
                messages.push(message(name, from, &padded, wire));
            }
        }
        Err(code) => {
            let m6 = approved.refuse(code).reply.unwrap();
            messages.push(message("M6", "agent", &noise::open(&mut up, &m6), &m6));
        }
    }

    let (e_phone_public, e_agent_public) = (public(&e_phone), public(&e_agent));
    let inputs = [
        noise::psk(&qr),
        e_phone_public,
        agree(&e_phone, &qr.a_q),
        e_agent_public,
        agree(&e_agent, &e_phone_public),
        agree(&s_phone, &e_agent_public),
    ];
    let (cks, [k_up, k_down, exporter]) = noise::schedule(&inputs);
    assert_eq!(testing::confirm_code(&exporter, &h.clone().try_into().unwrap()), code);
    let names = ["psk", "e of M1", "es", "e of M2", "ee", "se"];
    let schedule: Vec<_> = names
        .into_iter()
        .zip(inputs.iter().zip(&cks))
        .map(|(token, (input, ck))| json!({"token": token, "input": hex(input), "ck": hex(ck)}))
        .collect();
    json!({
        "name": if outcome.is_ok() { "granted, ended from the phone" } else { "refused after the decision" },
        "qr_text": qr.to_text(),
        "prologue": hex(noise::prologue(&qr)),
        "psk": hex(noise::psk(&qr)),
        "a_q_private": hex(a_q),
        "e_phone_private": hex(e_phone),
        "e_agent_private": hex(e_agent),
        "s_phone_private": hex(s_phone),
        "agent_sign_seed": hex(*identity.sign.seed()),
        "agent_chain": hexes(&identity.chain),
        "device_chain": hexes(&device.identity.chain),
        "schedule": schedule,
        "h": hex(&h),
        "key_phone_to_agent": hex(k_up),
        "key_agent_to_phone": hex(k_down),
        "exporter": hex(exporter),
        "confirm_code": code,
        "messages": messages,
    })
}

fn receipt(identity: &agent::AgentIdentity, grant: GrantId, approval: &[u8]) -> Signed<Receipt> {
    let receipt = Receipt {
        tenant: identity.statement().tenant,
        computer: identity.computer(),
        grant,
        technician: gatepass_protocol::ids::TechnicianId([1; 16]),
        device: Serial([4; 16]),
        scenario: Scenario::Ssh,
        kind: AccountKind::Named,
        account: "gp-alex".into(),
        groups: vec!["sudo".into()],
        since: NOW + 5,
        ended: NOW + 600,
        reason: EndReason::Technician,
        verified: Verified { disabled: true, groups_stripped: true, password_rotated: true, sessions_ended: true },
        approval: Sha256::digest(approval).into(),
    };
    Signed::sign(receipt, &identity.sign).unwrap()
}

pub fn file() -> Value {
    let granted = pairing(200, Ok(()));
    let spoil = |message: usize, name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut wire = unhex(granted["messages"][message - 1]["wire"].as_str().unwrap());
        change(&mut wire);
        json!({"name": name, "message": format!("M{message}"), "wire": hex(wire), "expect": "generic"})
    };
    let negative = [
        spoil(1, "M1: a bit of e flipped", &|wire| wire[0] ^= 1),
        spoil(1, "M1: a bit of the tag flipped", &|wire| *wire.last_mut().unwrap() ^= 0x80),
        spoil(1, "M1: cut", &|wire| wire.truncate(31)),
        spoil(1, "M1: e is the all-zero point", &|wire| wire[..32].fill(0)),
        spoil(2, "M2: a bit of e flipped", &|wire| wire[5] ^= 4),
        spoil(2, "M2: a bit of the payload flipped", &|wire| wire[100] ^= 1),
        spoil(3, "M3: a bit of the sealed static key flipped", &|wire| wire[7] ^= 1),
        spoil(3, "M3: cut in the payload", &|wire| wire.truncate(500)),
    ];
    json!({
        "about": "Pairings, byte for byte. Negative cases stand for a message of the first case; everything before M4 fails in one generic way.",
        "protocol": noise::NAME,
        "cases": [granted.clone(), pairing(201, Err(Code::ConfirmCode))],
        "negative": negative,
    })
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn confirm() -> Value {
    let mut rng = Rng::new(300);
    let mut cases = Vec::new();
    // A code with leading zeros is among them: it is three digits all the same.
    while cases.len() < 6 {
        let (mut exporter, mut h) = ([0; 32], [0; 32]);
        rng.fill_bytes(&mut exporter);
        rng.fill_bytes(&mut h);
        let code = testing::confirm_code(&exporter, &h);
        if cases.len() < 4 || code.starts_with('0') {
            cases.push(json!({"exporter": hex(exporter), "h": hex(h), "code": code}));
        }
    }
    let typed = [(" CODE", true), ("CODE\n", true), ("CODE0", false), ("0CODE", false), ("", false)];
    let typed: Vec<_> = typed.iter().map(|(typed, right)| json!({"typed": typed, "right": right})).collect();
    json!({
        "about": "The confirm code. In `typed`, CODE stands for the right code.",
        "cases": cases,
        "typed": typed,
        "negative": [{"name": "a wrong code", "expect": Code::ConfirmCode.name()}],
    })
}
