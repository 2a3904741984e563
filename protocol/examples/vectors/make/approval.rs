use bytes::Bytes;
use gatepass_protocol::{
    Code,
    ids::Serial,
    pairing::{
        agent,
        messages::{Approval, ConfirmMode, Context, Decision, DeviceHello, Verification, reason_hash},
    },
    policy::AccountKind,
    signed::Signed,
    statement::KeyProtection,
    testing::{NOW, SoftKey},
    wire,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{handshake::Scene, hex, hexes, noise};

/// What is judged: all that one M5 says.
pub struct Draft {
    pub approval: Approval,
    reason: String,
    ticket: String,
}

impl Draft {
    /// A good approval of a question in a scene whose channel has the hash `h`.
    pub fn good(scene: &Scene, question: &Context, h: [u8; 32]) -> Self {
        let (device, agent) = (scene.phone.identity.statement(), scene.agent.statement());
        let (reason, ticket) = ("disk full".to_owned(), "OPS-17".to_owned());
        let approval = Approval {
            version: 1,
            decision: 1,
            h_final: h,
            context: Sha256::digest(wire::to_vec(question)).into(),
            tenant: device.tenant,
            agent: agent.serial,
            computer: scene.agent.computer(),
            device: device.serial,
            technician: scene.phone.identity.terms().technician,
            kind: AccountKind::Named,
            account: "gp-alex".into(),
            groups: vec!["sudo".into()],
            ou: String::new(),
            not_after: question.expires + 1800,
            max_session: 1800,
            nonce: question.nonce,
            confirm: ConfirmMode::AtComputer,
            confirm_value: 0,
            revocation_epoch: 0,
            verification: Verification::Pin,
            protection: KeyProtection::Software,
            reason: reason_hash(&reason, &ticket),
        };
        Self { approval, reason, ticket }
    }

    pub fn m5(self, key: &SoftKey) -> Vec<u8> {
        let signed = Signed::sign(self.approval, key).unwrap().bytes().clone();
        m5(Some(signed), false, self.reason, self.ticket)
    }
}

fn m5(approval: Option<Bytes>, not_me: bool, reason: String, ticket: String) -> Vec<u8> {
    wire::to_vec(&Decision { approval, not_me, reason, ticket })
}

/// The seed of the scene that all cases share.
pub const SEED: u64 = 700;

/// A pairing up to M3: the real agent, and a phone made of snow, which can say anything.
pub fn channel(scene: Scene) -> (agent::Identified, snow::TransportState, [u8; 32]) {
    let Scene { trust, phone: device, agent: identity, mut rng, offer, qr, .. } = scene;
    let mut phone = noise::initiator(&qr, &device.identity.channel.to_bytes(), &[0x31; 32]);
    let hello = wire::to_vec(&(vec![1u8], vec![1u8], "vectors 1.0", 0u64));
    let m1 = noise::write(&mut phone, &noise::pad(1, &hello, 256));
    let n = [0x5a; 16];
    let claimed = offer.claim(&n, &qr.keys().claim_tag(&n), NOW).unwrap();
    let (agent, m2) = claimed.receive(&m1, &identity, &mut rng).unwrap();
    noise::read(&mut phone, &m2);
    let hello = wire::to_vec(&DeviceHello { chain: device.identity.chain.clone(), revocation_epoch: 0 });
    let m3 = noise::write(&mut phone, &noise::pad(3, &hello, 768));
    let agent = agent.receive(&m3, &trust, NOW).unwrap();
    let h = phone.get_handshake_hash().try_into().unwrap();
    (agent, phone.into_transport_mode().unwrap(), h)
}

type Spoil = fn(&mut Draft);

/// Each thing that may not fit, and its code.
const SPOILED: &[(&str, Code, Spoil)] = &[
    ("another channel", Code::Context, |draft| draft.approval.h_final[0] ^= 1),
    ("another context", Code::Context, |draft| draft.approval.context[31] ^= 1),
    ("another nonce", Code::Context, |draft| draft.approval.nonce[0] ^= 1),
    ("version 2", Code::Context, |draft| draft.approval.version = 2),
    ("a decision that is none", Code::Context, |draft| draft.approval.decision = 2),
    ("another tenant", Code::Context, |draft| draft.approval.tenant.0[0] ^= 1),
    ("another agent", Code::Context, |draft| draft.approval.agent.0[0] ^= 1),
    ("another computer", Code::Context, |draft| draft.approval.computer.0[0] ^= 1),
    ("another device", Code::Context, |draft| draft.approval.device.0[0] ^= 1),
    ("another technician", Code::Context, |draft| draft.approval.technician.0[0] ^= 1),
    ("an account of another name", Code::Context, |draft| draft.approval.account = "root".into()),
    ("a kind of account that was not offered", Code::Context, |draft| draft.approval.kind = AccountKind::Shared),
    ("hardware where the certificate says software", Code::Context, |draft| {
        draft.approval.protection = KeyProtection::Hardware
    }),
    ("another reason than was signed", Code::Context, |draft| draft.reason.push('!')),
    ("another ticket than was signed", Code::Context, |draft| draft.ticket.clear()),
    ("over before it begins", Code::TimedOut, |draft| draft.approval.not_after = NOW),
    ("a newer revocation list than the agent's", Code::StaleEpoch, |draft| draft.approval.revocation_epoch = 1),
    ("a group that was not offered", Code::Policy, |draft| draft.approval.groups.push("root".into())),
    ("61 minutes", Code::Policy, |draft| draft.approval.max_session = 3601),
    ("no time at all", Code::Policy, |draft| draft.approval.max_session = 0),
    ("without the confirm code where it is due", Code::Policy, |draft| draft.approval.confirm = ConfirmMode::Off),
    ("a confirm code typed on the phone", Code::Policy, |draft| draft.approval.confirm = ConfirmMode::OnPhone),
];

pub fn file() -> Value {
    let mut scene = Scene::new(SEED);
    let question = scene.question();
    let (_, _, h) = channel(Scene::new(SEED));
    let device = scene.phone.identity.statement().serial;
    let newer_policy = scene.tenant.policy(2, true);
    let device_revoked = scene.tenant.revocation(1, vec![device]);
    let technician_revoked = scene.tenant.revocation(1, vec![Serial([1; 16])]);
    let unrelated = scene.tenant.revocation(1, vec![Serial([0xee; 16])]);
    let good = || Draft::good(&scene, &question, h);
    let key = &scene.phone.approve;
    let wrong_key = SoftKey::generate(&mut gatepass_protocol::testing::Rng::new(701));
    let signed = Signed::sign(good().approval, key).unwrap().bytes().clone();
    let m5_of = |bytes: Vec<u8>| m5(Some(bytes.into()), false, good().reason, good().ticket);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = signed.to_vec();
        change(&mut bytes);
        m5_of(bytes)
    };
    let case = |name: &str, m5: Vec<u8>, lists: &[&Bytes], now: u64, expect: &str| {
        let lists: Vec<_> = lists.iter().map(hex).collect();
        json!({"name": name, "m5": hex(m5), "lists": lists, "now": now, "expect": expect})
    };
    let code = |code: Code| code.name();

    let knows_list = || {
        let mut draft = good();
        draft.approval.revocation_epoch = 1;
        draft.m5(key)
    };

    let mut cases = vec![
        case("approved", good().m5(key), &[], NOW + 5, "approved"),
        case("approved at the last moment", good().m5(key), &[], question.expires, "approved"),
        case("approved, both know a newer list", knows_list(), &[&unrelated], NOW, "approved"),
        case("denied", m5(None, false, String::new(), String::new()), &[], NOW, "denied"),
        case("denied: not me", m5(None, true, String::new(), String::new()), &[], NOW, "denied_not_me"),
        case("not msgpack", vec![0xc1], &[], NOW, code(Code::Context)),
        case("a byte after it", [good().m5(key), vec![0]].concat(), &[], NOW, code(Code::Context)),
        case("an approval that does not decode", m5_of(vec![0x92, 0xc4, 0, 0xc4, 0]), &[], NOW, code(Code::Context)),
        case(
            "an approval cut by a byte",
            with(|bytes| {
                bytes.pop();
            }),
            &[],
            NOW,
            code(Code::Context),
        ),
        case("another key", good().m5(&wrong_key), &[], NOW, code(Code::Certificate)),
        case(
            "a flipped bit of the signature",
            with(|bytes| *bytes.last_mut().unwrap() ^= 1),
            &[],
            NOW,
            code(Code::Certificate),
        ),
        case(
            "the other of the two signatures, with the high s",
            with(|bytes| high_s(bytes)),
            &[],
            NOW,
            code(Code::Certificate),
        ),
        case("too late", good().m5(key), &[], question.expires + 1, code(Code::TimedOut)),
        case("the computer's clock set back", good().m5(key), &[], NOW - 301, code(Code::TimedOut)),
        case("a new policy meanwhile", good().m5(key), &[&newer_policy], NOW, code(Code::StaleEpoch)),
        case("the device revoked meanwhile", good().m5(key), &[&device_revoked], NOW, code(Code::Revoked)),
        case("the technician revoked meanwhile", good().m5(key), &[&technician_revoked], NOW, code(Code::Revoked)),
    ];
    for (name, code, spoil) in SPOILED {
        let mut draft = good();
        spoil(&mut draft);
        cases.push(case(name, draft.m5(key), &[], NOW, code.name()));
    }
    json!({
        "about": "Decisions (the body of M5) and an agent's verdict on each: a code, or approved, denied, denied_not_me. The agent has the policy below, asked with the context below, and takes `lists` before it judges at `now`.",
        "tenant": scene.tenant.id.to_string(),
        "ca_pem": [scene.tenant.ca_public().to_pem()],
        "policy": hex(scene.trust.policy().unwrap().bytes()),
        "agent_chain": hexes(&scene.agent.chain),
        "device_chain": hexes(&scene.phone.identity.chain),
        "h": hex(h),
        "context": hex(wire::to_vec(&question)),
        "cases": cases,
    })
}

/// Replaces s by n - s: valid to ECDSA, and refused.
fn high_s(bytes: &mut [u8]) {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let at = bytes.len() - 32;
    let mut borrow = 0i16;
    for place in (0..32).rev() {
        let difference = i16::from(N[place]) - i16::from(bytes[at + place]) - borrow;
        borrow = i16::from(difference < 0);
        bytes[at + place] = difference.rem_euclid(256) as u8;
    }
}
