//! The channel and sealed messages against another implementation of Noise (`snow`), in both roles.

use crate::make::{approval, handshake::Scene, noise};
use gatepass_protocol::{
    keys::ChannelKey,
    pairing::{
        messages::{AgentHello, DeviceHello},
        padding::CLASSES,
        phone,
    },
    qr::QrPayload,
    sealed,
    testing::{NOW, Rng, chosen},
    wire,
};

#[test]
fn a_phone_of_snow_pairs_with_our_agent() {
    for seed in [700, 701, 702] {
        let question = Scene::new(seed).question();
        let bytes = wire::to_vec(&question);
        let (agent, mut phone, _) = approval::channel(Scene::new(seed));
        let (_, m4) = agent.ask(question).unwrap();
        assert_eq!(noise::body(&noise::open(&mut phone, &m4)), bytes);
    }
}

#[test]
fn our_phone_pairs_with_an_agent_of_snow() {
    let scene = Scene::new(800);
    let question = scene.question();
    let Scene { trust, phone: device, agent: identity, mut rng, qr, a_q, .. } = scene;
    let scan = phone::Scan::from_text(&qr.to_text()).unwrap();
    let (phone, m1) = scan.start("oracle", &trust, &mut rng).unwrap();

    // What the agent signs is the handshake hash before M2's payload, which snow does not show: computed by the book.
    let mut snow = noise::responder(&qr, &a_q, &[0x44; 32]);
    noise::read(&mut snow, &m1);
    let h = hash_before_m2_payload(&qr, &a_q, &[0x44; 32], &m1);
    let signed = [b"gp1 agent-auth\0" as &[u8], &32u32.to_be_bytes(), &h].concat();
    let hello = AgentHello { chain: identity.chain.clone(), signature: identity.sign.sign_now(&signed) };
    let m2 = noise::write(&mut snow, &noise::pad(2, &wire::to_vec(&hello), 1536));
    let (phone, m3) = phone.receive(&m2, &device.identity, &trust, NOW).unwrap();
    let p3 = noise::read(&mut snow, &m3);
    let hello: DeviceHello = wire::from_slice(noise::body(&p3)).unwrap();
    assert_eq!(hello.chain, device.identity.chain);
    assert_eq!(snow.get_remote_static().unwrap(), device.identity.channel.public_bytes());
    let h_final = snow.get_handshake_hash().to_vec();
    let mut snow = snow.into_transport_mode().unwrap();
    let m4 = noise::seal(&mut snow, &noise::pad(4, &wire::to_vec(&question), 1536));
    let (_, m5) = phone.receive(&m4).unwrap().approve(&chosen(), &device.identity, &device.approve).ok().unwrap();
    let p5 = noise::open(&mut snow, &m5);
    let decision: gatepass_protocol::pairing::messages::Decision = wire::from_slice(noise::body(&p5)).unwrap();
    let approval = gatepass_protocol::signed::Unverified::<gatepass_protocol::pairing::messages::Approval>::decode(
        decision.approval.unwrap(),
    );
    assert_eq!(approval.unwrap().claimed().h_final[..], h_final);
}

/// Noise's own steps up to `ee`, by the book.
pub(crate) fn hash_before_m2_payload(qr: &QrPayload, a_q: &[u8; 32], e: &[u8; 32], m1: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mix =
        |h: [u8; 32], data: &[u8]| -> [u8; 32] { Sha256::new().chain_update(h).chain_update(data).finalize().into() };
    let name: [u8; 32] = Sha256::digest(noise::NAME).into();
    let a_q_public = ChannelKey::from_bytes(a_q).public_bytes();
    // MixKeyAndHash(psk): the second output of HKDF is hashed.
    let [_, second, _] = noise::hkdf3(&name, &noise::psk(qr));
    let h = mix(mix(mix(name, &noise::prologue(qr)), &a_q_public), &second);
    let h = mix(mix(h, &m1[..32]), &m1[32..]);
    mix(h, &ChannelKey::from_bytes(e).public_bytes())
}

#[test]
fn sealed_messages_are_noise_n() {
    let mut rng = Rng::new(1);
    let recipient = ChannelKey::generate(&mut rng);
    let builder =
        || snow::Builder::new("Noise_N_25519_ChaChaPoly_SHA256".parse().unwrap()).prologue(b"gp1 sealed").unwrap();
    for length in [0, 1, 700, 765, 766, 3000, 6141] {
        let message = vec![7; length];
        let ours = sealed::seal(&recipient.public_bytes(), &message, &mut rng).unwrap();
        let private = recipient.to_bytes();
        let mut snow = builder().local_private_key(&*private).unwrap().build_responder().unwrap();
        let padded = noise::read(&mut snow, &ours);
        assert!(CLASSES.contains(&padded.len()));
        assert_eq!(noise::body(&padded), message);
        let mut snow = builder().remote_public_key(&recipient.public_bytes()).unwrap().build_initiator().unwrap();
        let theirs = noise::write(&mut snow, &padded);
        assert_eq!(sealed::open(&recipient, &theirs).unwrap()[..], message);
    }
}
